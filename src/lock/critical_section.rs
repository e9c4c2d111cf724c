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
///
/// Locks of this kind share one section: it begins with the first that is taken and ends with the
/// last that is let go, in whatever order. Do not let a guard outlive a critical section of your
/// own around it: interrupts would come back early, and what they then find locked panics.
#[derive(Debug)]
pub struct CriticalSection {
    held: Cell<bool>,
}

/// The section that all held locks share.
struct Section {
    /// Locks that are held.
    depth: Cell<usize>,
    /// What the first of them found, to be restored after the last.
    restore: Cell<Option<RestoreState>>,
}

static SECTION: Section = Section { depth: Cell::new(0), restore: Cell::new(None) };

// SAFETY: its fields are touched between an acquire and a release only, which exclude every other
// context.
unsafe impl Sync for Section {}

// SAFETY: as for `Section`.
unsafe impl Sync for CriticalSection {}

impl Section {
    /// Takes over a section that was just acquired, for one more lock.
    fn enter(&self, acquired: RestoreState) {
        let depth = self.depth.get();
        self.depth.set(depth + 1);
        if depth == 0 {
            self.restore.set(Some(acquired));
        } else {
            // SAFETY: acquired by the caller just before, inside the section that is kept.
            unsafe { critical_section::release(acquired) };
        }
    }

    /// Lets one lock go, inside a section that was just acquired for it, and ends that.
    fn leave(&self, acquired: RestoreState) {
        let depth = self.depth.get() - 1;
        self.depth.set(depth);
        let ended = if depth == 0 { self.restore.take() } else { None };
        // SAFETY: acquired by the caller just before.
        unsafe { critical_section::release(acquired) };
        if let Some(restore) = ended {
            // SAFETY: acquired by `enter` for the first lock, and all within it has been released.
            unsafe { critical_section::release(restore) };
        }
    }
}

// SAFETY: `held` is read and written inside a critical section only, and lets one context at a
// time have the lock; a nested attempt by the same context is refused.
unsafe impl RawMutex for CriticalSection {
    const INIT: Self = Self { held: Cell::new(false) };

    type GuardMarker = GuardNoSend;

    /// # Panics
    /// If this context holds the lock already: it would wait for itself. The pool never does that.
    #[inline]
    fn lock(&self) {
        assert!(self.try_lock(), "a CriticalSection was locked twice by one context");
    }

    #[inline]
    fn try_lock(&self) -> bool {
        // SAFETY: released below, or by `Section::enter` or `leave`.
        let acquired = unsafe { critical_section::acquire() };
        if self.held.replace(true) {
            // SAFETY: acquired just above.
            unsafe { critical_section::release(acquired) };
            return false;
        }
        SECTION.enter(acquired);
        true
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: released by `Section::leave`.
        let acquired = unsafe { critical_section::acquire() };
        self.held.set(false);
        SECTION.leave(acquired);
    }
}
