//! A lock that counts how often it is taken and how long it is held.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use libmempool::PthreadMutex;
use lock_api::RawMutex;

use crate::clock::{Clock, ticks};

/// Used by one thread at a time, all of these locks together.
static TAKEN: AtomicU64 = AtomicU64::new(0);
static HELD: AtomicU64 = AtomicU64::new(0);
static SINCE: AtomicU64 = AtomicU64::new(0);

/// A [`PthreadMutex`] that counts. All of them count together, so use pools of one thread only.
pub struct TimedMutex(PthreadMutex);

// SAFETY: the lock is the one inside; the counts change nothing.
unsafe impl RawMutex for TimedMutex {
    const INIT: Self = Self(PthreadMutex::INIT);

    type GuardMarker = <PthreadMutex as RawMutex>::GuardMarker;

    fn lock(&self) {
        self.0.lock();
        TAKEN.store(TAKEN.load(Relaxed) + 1, Relaxed);
        SINCE.store(ticks(), Relaxed);
    }

    fn try_lock(&self) -> bool {
        self.0.try_lock()
    }

    unsafe fn unlock(&self) {
        HELD.store(HELD.load(Relaxed) + ticks() - SINCE.load(Relaxed), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.0.unlock() };
    }
}

/// How often these locks were taken.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// How often.
    pub times: f64,
    /// Nanoseconds that they were held each time, without the clock's own.
    pub held: f64,
}

/// Does something and says what it took.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub fn watch(work: impl FnOnce()) -> Taken {
    let clock = Clock::get();
    let before = [&TAKEN, &HELD].map(|count| count.load(Relaxed));
    work();
    let times = (TAKEN.load(Relaxed) - before[0]) as f64;
    let ticks = (HELD.load(Relaxed) - before[1]) as f64 / times.max(1.0);
    Taken { times, held: (ticks - f64::from(clock.overhead)).max(0.0) * clock.tick }
}
