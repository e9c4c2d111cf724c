//! What a `memory_pool_t` is, and how every call on one begins and ends.
#![allow(unsafe_code)] // handles come from C

use core::{
    ffi::c_void,
    mem::ManuallyDrop,
    panic::AssertUnwindSafe,
    ptr::{NonNull, null_mut},
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
};
use std::panic::catch_unwind;

use libmempool::{NoLock, PinnedPool, Pool, PthreadMutex};
use libmempool_std::valgrind::{self, InStep, Quiet};

use crate::{
    classes::Watches,
    error::{
        Failure, pool_error,
        pool_error::{
            POOL_ERROR_DOUBLE_FREE, POOL_ERROR_FOREIGN_POINTER, POOL_ERROR_INTERNAL,
            POOL_ERROR_INVALID_HANDLE, POOL_ERROR_NOT_A_BLOCK, POOL_ERROR_NULL_POINTER,
        },
        pool_error_t, set_last_error,
    },
    memory::Source,
    reports::{self, Report},
};

/// Bytes behind each block that valgrind lets nobody touch.
pub(crate) const RED_ZONE: usize = if valgrind::ENABLED { 16 } else { 0 };

/// A pool for several threads.
pub(crate) type Shared = PinnedPool<PthreadMutex, Source>;
/// A pool for one thread.
pub(crate) type Single = Pool<'static, NoLock, Source>;

/// A pool of either kind.
pub(crate) enum Kind<S, T> {
    Shared(S),
    Single(T),
}

/// What a handle has room for.
union Either {
    shared: ManuallyDrop<Shared>,
    single: ManuallyDrop<Single>,
}

/// `memory_pool_t`: opaque to C, at the start of the pool's memory.
///
/// Invariant: with the magic number of a kind, `pool` is of that kind.
#[repr(C)]
pub struct memory_pool {
    magic: u32,
    pool: Either,
    handler: AtomicPtr<c_void>,
    user_data: AtomicPtr<c_void>,
    watches: Watches,
}

pub use memory_pool as memory_pool_t;

const SHARED: u32 = u32::from_be_bytes(*b"pool");
const SINGLE: u32 = u32::from_be_bytes(*b"Pool");

/// `memory_pool_corruption_handler_t`; see the header.
#[expect(non_camel_case_types, reason = "the name of the header")]
pub type memory_pool_corruption_handler_t = Option<
    unsafe extern "C" fn(
        pool: *mut memory_pool_t,
        error: pool_error_t,
        address: *const c_void,
        user_data: *mut c_void,
    ),
>;

/// Runs an expression on the pool of either kind; their calls have the same names.
macro_rules! on_pool {
    ($handle:expr, $pool:ident => $work:expr) => {
        match $handle.kind() {
            $crate::handle::Kind::Shared($pool) => $work,
            $crate::handle::Kind::Single($pool) => $work,
        }
    };
}

/// Runs an expression on the `Pool` within either kind.
macro_rules! on_base {
    ($handle:expr, $pool:ident => $work:expr) => {
        match $handle.kind() {
            $crate::handle::Kind::Shared(pinned) => {
                let $pool = pinned.pool();
                $work
            }
            $crate::handle::Kind::Single($pool) => $work,
        }
    };
}

pub(crate) use {on_base, on_pool};

impl memory_pool {
    /// Makes a pool's handle in the pool's own memory.
    pub(crate) fn place(kind: Kind<Shared, Single>) -> Result<NonNull<Self>, Failure> {
        let pages = match &kind {
            Kind::Shared(pinned) => pinned.pool().pages(),
            Kind::Single(pool) => pool.pages(),
        };
        let place = pages.ok_or(POOL_ERROR_INTERNAL)?.place();
        let (magic, pool) = match kind {
            Kind::Shared(shared) => (SHARED, Either { shared: ManuallyDrop::new(shared) }),
            Kind::Single(single) => (SINGLE, Either { single: ManuallyDrop::new(single) }),
        };
        let (handler, user_data) = (AtomicPtr::new(null_mut()), AtomicPtr::new(null_mut()));
        let watches = Watches::default();
        // SAFETY: the place is made for it, and the pool keeps its memory.
        unsafe { place.write(Self { magic, pool, handler, user_data, watches }) };
        Ok(place)
    }

    /// The pool of a handle.
    pub(crate) fn of<'a>(handle: *const Self) -> Result<&'a Self, pool_error> {
        if handle.is_null() {
            return Err(POOL_ERROR_NULL_POINTER);
        }
        // SAFETY: C passes what `place` made. A handle that was overwritten or destroyed is told by
        // its magic as long as its memory is there; more cannot be checked.
        unsafe {
            if !handle.is_aligned() || ![SHARED, SINGLE].contains(&(*handle).magic) {
                return Err(POOL_ERROR_INVALID_HANDLE);
            }
            Ok(&*handle)
        }
    }

    /// The pool of a handle, if it is one for several threads.
    #[inline(always)]
    pub(crate) fn shared_of<'a>(handle: *const Self) -> Option<&'a Shared> {
        if handle.is_null() {
            return None;
        }
        // SAFETY: as in `of`, for a handle at any address; with this magic number the pool is of
        // this kind.
        unsafe {
            let magic = (&raw const (*handle).magic).read_unaligned();
            (magic == SHARED).then(|| &*(*handle).pool.shared)
        }
    }

    /// The pool.
    #[inline]
    pub(crate) fn kind(&self) -> Kind<&Shared, &Single> {
        // SAFETY: the type's invariant.
        unsafe {
            match self.magic {
                SHARED => Kind::Shared(&self.pool.shared),
                _ => Kind::Single(&self.pool.single),
            }
        }
    }

    /// The pool, for a call that nobody else is beside.
    pub(crate) fn kind_mut(&mut self) -> Kind<&mut Shared, &mut Single> {
        // SAFETY: the type's invariant.
        unsafe {
            match self.magic {
                SHARED => Kind::Shared(&mut self.pool.shared),
                _ => Kind::Single(&mut self.pool.single),
            }
        }
    }

    /// Ends a pool.
    ///
    /// # Safety
    /// `place` is a pool's, and nobody uses it any more.
    pub(crate) unsafe fn destroy(place: NonNull<Self>) {
        // SAFETY: the caller's promise; each kind is moved out of the memory that it is about to
        // give back.
        unsafe {
            let handle = &mut *place.as_ptr();
            match handle.kind_mut() {
                Kind::Shared(shared) => {
                    let pool = PinnedPool::end(NonNull::from(shared));
                    handle.magic = 0;
                    drop(pool);
                }
                Kind::Single(single) => {
                    let pool = core::ptr::from_mut(single).read();
                    handle.magic = 0;
                    drop(pool);
                }
            }
        }
    }

    /// Records why a call failed. (Valgrind's suppressions know it by its name.)
    #[cold]
    #[inline(never)]
    fn failed(&self, failure: Failure) {
        set_last_error(failure.error);
        let Some(suspect) = failure.suspect else { return };
        if let POOL_ERROR_FOREIGN_POINTER | POOL_ERROR_NOT_A_BLOCK | POOL_ERROR_DOUBLE_FREE =
            failure.error
        {
            // A free of what valgrind too knows is not allocated: it says so, and from where.
            valgrind::freed(self.anchor(), suspect);
        }
    }

    /// Tells the program what a call came by, as far as it wants to hear of it.
    #[cold]
    fn tell(&self) {
        let this = core::ptr::from_ref(self).cast_mut();
        for report in reports::take() {
            match report {
                Report::Fault(failure) => self.tell_fault(this, failure),
                Report::Low(class, left) => self.watches.tell(this, class, left),
            }
        }
    }

    fn tell_fault(&self, this: *mut Self, Failure { error, suspect }: Failure) {
        let handler = self.handler.load(Relaxed);
        // SAFETY: `set_handler` stored a function of this type, or null.
        let handler = unsafe {
            core::mem::transmute::<*mut c_void, memory_pool_corruption_handler_t>(handler)
        };
        let (Some(handler), Some(suspect)) = (handler, suspect) else { return };
        let address = core::ptr::without_provenance(suspect);
        // SAFETY: whoever set the handler vouches for it; no lock is held.
        unsafe { handler(this, error, address, self.user_data.load(Relaxed)) };
    }

    /// Who is told when a class runs low.
    pub(crate) fn watches(&self) -> &Watches {
        &self.watches
    }

    pub(crate) fn set_handler(
        &self,
        handler: memory_pool_corruption_handler_t,
        user_data: *mut c_void,
    ) {
        let handler = handler.map_or(null_mut(), |handler| handler as *mut c_void);
        self.user_data.store(user_data, Relaxed);
        self.handler.store(handler, Relaxed);
    }

    /// What valgrind knows the pool by.
    pub(crate) fn anchor(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }
}

/// Runs a call on a pool: what goes wrong becomes the thread's last error and `failed`.
#[inline(always)]
pub(crate) fn call<R>(
    pool: *const memory_pool,
    failed: R,
    work: impl FnOnce(&memory_pool) -> Result<R, Failure>,
) -> R {
    match memory_pool::of(pool) {
        Ok(pool) => call_on(pool, failed, || work(pool)),
        Err(error) => {
            set_last_error(error);
            failed
        }
    }
}

/// As [`call`], on a pool that is known to be one.
#[inline(always)]
pub(crate) fn call_on<R>(
    pool: &memory_pool,
    failed: R,
    work: impl FnOnce() -> Result<R, Failure>,
) -> R {
    let result = guarded(work).unwrap_or_else(|failure| {
        pool.failed(failure);
        failed
    });
    if reports::are_there() {
        pool.tell();
    }
    result
}

/// As [`call`], where there is no pool yet.
pub(crate) fn call_without_pool<R>(failed: R, work: impl FnOnce() -> Result<R, Failure>) -> R {
    guarded(work).unwrap_or_else(|failure| {
        set_last_error(failure.error);
        failed
    })
}

/// Nothing unwinds into C: it would be a mistake of ours, or of damage that we did not foresee.
#[inline(always)]
pub(crate) fn guarded<R>(work: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    let _quiet = Quiet::new();
    let _in_step = InStep::new();
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(POOL_ERROR_INTERNAL.into()))
}
