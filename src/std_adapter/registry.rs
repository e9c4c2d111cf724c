#![allow(unsafe_code)] // links pools that stay where they are
//! The registry: all thread-cached pools of the process, so that a thread that ends gives its
//! caches back to each, and that a fork finds none of them half-way through an operation.
//!
//! Its lock comes before every pool's. Nothing here allocates, but the system may, on behalf of a
//! call that is made here: a thread's caches are hidden then.

use core::{cell::Cell, ffi::c_void, ptr::NonNull};

use libmempool_std::{PthreadMutex, ThreadExit, at_fork, valgrind::Quiet};
use lock_api::{Mutex, MutexGuard};

use super::thread_block::{ThreadBlock, thread_block};

/// A pool, as the registry sees it.
///
/// # Safety
/// While a member is registered it stays where it is, and unregisters before it goes.
pub(super) unsafe trait Member {
    /// Where the registry keeps its links.
    fn links(&self) -> &Links;

    /// Gives back what the cache of a thread holds, and the cache itself.
    fn close_cache_of(&self, thread: u64);

    /// Forgets the caches of all threads but this one, which were copied half-way through whatever
    /// their owners did: nobody touches them any more.
    fn forget_caches_but_of(&self, thread: u64);

    /// Takes the pool's lock.
    fn lock(&self);

    /// Lets the pool's lock go.
    ///
    /// # Safety
    /// This thread has taken it with [`lock`](Self::lock).
    unsafe fn unlock(&self);
}

type Link = Option<NonNull<dyn Member>>;

/// A member's neighbours. Used under the registry's lock only.
pub(super) struct Links {
    next: Cell<Link>,
    prev: Cell<Link>,
}

impl Links {
    pub(super) const fn new() -> Self {
        Self { next: Cell::new(None), prev: Cell::new(None) }
    }
}

/// Invariant: every member in the list is registered (see [`Member`]).
pub(super) struct Registry {
    first: Link,
    pools: u64,
    threads: u64,
    forks_handled: bool,
}

// SAFETY: members are reached under the lock only, by calls that any thread may make.
unsafe impl Send for Registry {}

pub(super) static REGISTRY: Mutex<PthreadMutex, Registry> =
    Mutex::new(Registry { first: None, pools: 0, threads: 0, forks_handled: false });

static THREAD_EXIT: ThreadExit = ThreadExit::new(thread_ended);

impl Registry {
    /// Adds a pool, and returns its number: from 1, and never used again.
    ///
    /// # Safety
    /// `member` is not registered, and keeps the contract of [`Member`] from now on.
    pub(super) unsafe fn add(&mut self, member: NonNull<dyn Member>) -> u64 {
        self.handle_forks();
        if let Some(first) = self.first {
            // SAFETY: the type's invariant.
            unsafe { first.as_ref() }.links().prev.set(Some(member));
        }
        // SAFETY: the caller's promise.
        unsafe { member.as_ref() }.links().next.set(self.first);
        self.first = Some(member);
        self.pools += 1;
        self.pools
    }

    /// Sees to it that forks find no pool half-way through an operation.
    fn handle_forks(&mut self) {
        if !self.forks_handled {
            // SAFETY: the handlers take and let go locks, and change what those guard. If there is no
            // memory for them, a fork at a bad moment finds a pool locked.
            let registered = unsafe { at_fork(before_fork, after_fork, after_fork_in_child) };
            self.forks_handled = registered.is_ok();
        }
    }

    /// Takes a registered pool out of the list.
    pub(super) fn remove(&mut self, member: &dyn Member) {
        let (prev, next) = (member.links().prev.take(), member.links().next.take());
        match prev {
            // SAFETY: the type's invariant.
            Some(prev) => unsafe { prev.as_ref() }.links().next.set(next),
            None => self.first = next,
        }
        if let Some(next) = next {
            // SAFETY: the type's invariant.
            unsafe { next.as_ref() }.links().prev.set(prev);
        }
    }

    /// The calling thread's number. Its caches will be closed when it ends; `None` if the system
    /// refuses to see to that.
    pub(super) fn number_of(&mut self, block: &ThreadBlock) -> Option<u64> {
        if block.number() == 0 {
            THREAD_EXIT.arm().ok()?;
            self.threads += 1;
            block.set_number(self.threads);
        }
        Some(block.number())
    }

    fn members(&self) -> impl Iterator<Item = &dyn Member> {
        // SAFETY: the type's invariant; the list does not change while it is borrowed.
        let first = self.first.map(|first| unsafe { first.as_ref() });
        core::iter::successors(first, |member| {
            // SAFETY: as above.
            member.links().next.get().map(|next| unsafe { next.as_ref() })
        })
    }
}

/// When the program or library is loaded: the handlers that a program registers later run before ours
/// take the locks and after they have let them go, so they may use pools. (Under Miri nothing forks.)
#[used]
#[cfg(not(miri))]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = {
    extern "C" fn handle_forks() {
        REGISTRY.lock().handle_forks();
    }
    handle_forks
};

unsafe extern "C" fn thread_ended(_: *mut c_void) {
    let _quiet = Quiet::new();
    let block = thread_block();
    block.end();
    REGISTRY.lock().members().for_each(|member| member.close_cache_of(block.number()));
}

unsafe extern "C" fn before_fork() {
    let registry = REGISTRY.lock();
    registry.members().for_each(Member::lock);
    core::mem::forget(registry);
}

unsafe extern "C" fn after_fork() {
    unlock_all(&held_since_before_fork());
}

unsafe extern "C" fn after_fork_in_child() {
    let _quiet = Quiet::new();
    let registry = held_since_before_fork();
    let thread = thread_block().number();
    registry.members().for_each(|member| member.forget_caches_but_of(thread));
    unlock_all(&registry);
}

/// The registry, for the handlers that run after a fork.
fn held_since_before_fork() -> MutexGuard<'static, PthreadMutex, Registry> {
    // SAFETY: this thread has had the lock since `before_fork`, in the child too, where it is the
    // only one.
    unsafe { REGISTRY.make_guard_unchecked() }
}

/// Lets all pools' locks go; the registry's follows with its guard.
fn unlock_all(registry: &Registry) {
    for member in registry.members() {
        // SAFETY: this thread took it in `before_fork`, and nobody joined or left in between.
        unsafe { member.unlock() };
    }
}
