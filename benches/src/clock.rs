//! The processor's time stamp, for single operations.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Ticks until now, once everything before is done.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
pub fn ticks() -> u64 {
    use core::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: every x86-64 has both.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// Ticks until now: nanoseconds.
#[inline(always)]
#[cfg(not(target_arch = "x86_64"))]
pub fn ticks() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// What a tick is worth, and what reading the clock costs.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Nanoseconds of a tick.
    pub tick: f64,
    /// Ticks between two readings with nothing between them.
    pub overhead: u32,
}

impl Clock {
    /// Found out once.
    pub fn get() -> Self {
        static CLOCK: OnceLock<Clock> = OnceLock::new();
        *CLOCK.get_or_init(Self::calibrate)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    fn calibrate() -> Self {
        let (start, first) = (Instant::now(), ticks());
        while start.elapsed() < Duration::from_millis(20) {}
        let tick = start.elapsed().as_nanos() as f64 / (ticks() - first) as f64;
        let mut empty = Latencies::with_room(10_000);
        for _ in 0..10_000 {
            empty.time(|| ());
        }
        empty.0.sort_unstable();
        Self { tick, overhead: empty.0[empty.0.len() / 2] }
    }

    /// Nanoseconds that an operation took which was timed at so many ticks.
    pub fn nanos(self, ticks: u32) -> f64 {
        f64::from(ticks.saturating_sub(self.overhead)) * self.tick
    }
}

/// Sees each operation of a loop.
pub trait Probe {
    /// Has one done.
    fn time<R>(&mut self, operation: impl FnOnce() -> R) -> R;
}

/// Times nothing, and costs nothing.
#[derive(Clone, Copy, Debug)]
pub struct Untimed;

impl Probe for Untimed {
    #[inline(always)]
    fn time<R>(&mut self, operation: impl FnOnce() -> R) -> R {
        operation()
    }
}

/// Ticks of each operation, the clock's overhead included.
#[derive(Clone, Debug, Default)]
pub struct Latencies(pub Vec<u32>);

impl Latencies {
    /// Room for so many, touched, so that timing them allocates nothing.
    pub fn with_room(operations: usize) -> Self {
        let mut ticks = vec![1; operations];
        ticks.clear();
        Self(ticks)
    }
}

impl Probe for Latencies {
    #[inline(always)]
    fn time<R>(&mut self, operation: impl FnOnce() -> R) -> R {
        let start = ticks();
        let result = operation();
        let took = ticks() - start;
        self.0.push(u32::try_from(took).unwrap_or(u32::MAX));
        result
    }
}
