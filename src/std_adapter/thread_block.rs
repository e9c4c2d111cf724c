#![allow(unsafe_code)] // reads the thread's own block
//! What a thread remembers of thread-cached pools: which of its caches belongs to which pool.

use core::{
    cell::Cell,
    ptr::{NonNull, null_mut},
};

use crate::cache::CacheCore;

/// A pool's number, and this thread's cache of it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Known {
    pool: u64,
    cache: *mut CacheCore,
}

const NOTHING: Known = Known { pool: 0, cache: null_mut() };

/// Pools whose caches a thread finds without asking the registry, if their numbers differ modulo
/// this.
const REMEMBERED: usize = 8;

/// A thread's block. A new thread's is all zero: pools are numbered from 1.
#[repr(C)]
pub(super) struct ThreadBlock {
    /// The cache that was used last.
    current: Cell<Known>,
    remembered: [Cell<Known>; REMEMBERED],
    /// The thread's number; 0 before it has a cache.
    number: Cell<u64>,
    /// See [`Hidden`].
    hidden: Cell<bool>,
    /// The thread is ending, and its caches are gone.
    ended: Cell<bool>,
}

libmempool_std::zeroed_thread_local! {
    // SAFETY: zero is a valid block (see there); the name, with this version in it, is used here
    // only.
    unsafe fn block() -> ThreadBlock, "libmempool_0_1_thread_block"
}

/// The calling thread's block.
#[inline(always)]
pub(super) fn thread_block<'a>() -> &'a ThreadBlock {
    // SAFETY: it is there as long as the thread, which the reference cannot leave, as it is not
    // `Send`; the functions of this module's users end before their thread does.
    unsafe { block().as_ref() }
}

impl ThreadBlock {
    /// The thread's cache of a pool, if that pool was the last one used.
    #[inline(always)]
    pub(super) fn current(&self, pool: u64) -> Option<NonNull<CacheCore>> {
        debug_assert_ne!(pool, NOTHING.pool);
        let known = self.current.get();
        // SAFETY: only `NOTHING`, whose number no pool has, is without a cache.
        (known.pool == pool).then(|| unsafe { NonNull::new_unchecked(known.cache) })
    }

    /// The thread's cache of a pool used before, which becomes the current one.
    pub(super) fn recall(&self, pool: u64) -> Option<NonNull<CacheCore>> {
        let known = self.place(pool).get();
        if known.pool != pool {
            return None;
        }
        self.current.set(known);
        NonNull::new(known.cache)
    }

    /// Makes a cache the current one, and remembers it.
    pub(super) fn remember(&self, pool: u64, cache: NonNull<CacheCore>) {
        let known = Known { pool, cache: cache.as_ptr() };
        self.place(pool).set(known);
        self.current.set(known);
    }

    fn place(&self, pool: u64) -> &Cell<Known> {
        const { assert!(REMEMBERED.is_power_of_two()) };
        let low_bits = pool.to_le_bytes()[0];
        &self.remembered[usize::from(low_bits) % REMEMBERED]
    }

    /// Whether the thread may use caches now.
    pub(super) fn may_cache(&self) -> bool {
        !self.hidden.get() && !self.ended.get()
    }

    /// The thread's number, or 0.
    pub(super) fn number(&self) -> u64 {
        self.number.get()
    }

    pub(super) fn set_number(&self, number: u64) {
        self.number.set(number);
    }

    /// Forgets all caches, for good.
    pub(super) fn end(&self) {
        self.ended.set(true);
        self.current.set(NOTHING);
        self.remembered.iter().for_each(|place| place.set(NOTHING));
    }
}

/// Hides this thread's caches while it lives: what a callback calls must not meet a cache half-way
/// through an operation, and what the system allocates on behalf of the registry must not wait for
/// the registry.
pub(super) struct Hidden {
    current: Known,
}

impl Hidden {
    pub(super) fn new() -> Self {
        let block = thread_block();
        block.hidden.set(true);
        Self { current: block.current.replace(NOTHING) }
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let block = thread_block();
        block.current.set(self.current);
        block.hidden.set(false);
    }
}
