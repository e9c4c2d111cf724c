#![allow(unsafe_code)] // implements an unsafe contract
//! No lock: for pools that stay on one thread.

use core::cell::Cell;

use lock_api::{GuardNoSend, RawMutex};

/// A lock for one thread: it only notices when it is taken twice. A pool with it is not `Sync`,
/// so the compiler keeps it on one thread at a time.
///
/// ```compile_fail
/// fn share<T: Sync>(_: &T) {}
/// share(&libmempool::Pool::<libmempool::NoLock>::empty());
/// ```
#[derive(Debug)]
pub struct NoLock {
    held: Cell<bool>,
}

// SAFETY: `NoLock` is not `Sync`, so all calls come from one thread at a time, and `held` lets only
// one of them hold the lock.
unsafe impl RawMutex for NoLock {
    const INIT: Self = Self { held: Cell::new(false) };

    type GuardMarker = GuardNoSend;

    /// # Panics
    /// If the lock is held: its one thread would wait for itself. The pool never does that.
    #[inline]
    fn lock(&self) {
        assert!(self.try_lock(), "a NoLock was locked twice");
    }

    #[inline]
    fn try_lock(&self) -> bool {
        !self.held.replace(true)
    }

    #[inline]
    unsafe fn unlock(&self) {
        self.held.set(false);
    }
}
