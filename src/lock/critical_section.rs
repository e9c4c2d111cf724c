#![allow(unsafe_code)] // implements an unsafe contract
//! The critical section: interrupts off, and on chips with several cores a lock besides.

use core::cell::Cell;

use critical_section::RestoreState;
use lock_api::{GuardNoSend, RawMutex};

/// A lock that holds the `critical-section` crate's critical section: main loop and interrupt
/// handlers can share a pool. Every operation that takes it is bounded; none waits inside.
///
/// ```
/// # use core::mem::MaybeUninit;
/// use libmempool::{CriticalSection, Pool};
/// static POOL: Pool<CriticalSection> = Pool::empty();
/// # let memory = vec![MaybeUninit::uninit(); 8192].leak();
/// POOL.init(memory)?;
/// # Ok::<(), libmempool::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct CriticalSection {
    /// What to restore when the lock is let go; `None` while it is free.
    restore: Cell<Option<RestoreState>>,
}

// SAFETY: `restore` is touched inside the critical section only, which excludes every other
// context.
unsafe impl Sync for CriticalSection {}

// SAFETY: inside the critical section nothing else runs that could take the lock; a nested attempt
// by the same context is refused, because `restore` says that it is held.
unsafe impl RawMutex for CriticalSection {
    const INIT: Self = Self { restore: Cell::new(None) };

    type GuardMarker = GuardNoSend;

    /// # Panics
    /// If this context holds the lock already: it would wait for itself. The pool never does that.
    #[inline]
    fn lock(&self) {
        assert!(self.try_lock(), "a CriticalSection was locked twice by one context");
    }

    #[inline]
    fn try_lock(&self) -> bool {
        // SAFETY: released below, or by `unlock`.
        let restore = unsafe { critical_section::acquire() };
        if self.restore.get().is_some() {
            // SAFETY: acquired just above, sections nest properly.
            unsafe { critical_section::release(restore) };
            return false;
        }
        self.restore.set(Some(restore));
        true
    }

    #[inline]
    unsafe fn unlock(&self) {
        if let Some(restore) = self.restore.take() {
            // SAFETY: acquired by `try_lock` in this context (guards are not `Send`).
            unsafe { critical_section::release(restore) };
        }
    }
}
