//! What the memory costs: a stopwatch around another cache's calls, one reading per burst.

use std::time::{Duration, Instant};

use super::PacketCache;
use crate::packet::Burst;

/// Time spent on a number of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    pub packets: u64,
    pub time: Duration,
}

impl Spent {
    /// Adds what has happened since `start`.
    fn add(&mut self, packets: usize, start: Instant) {
        self.packets += packets as u64;
        self.time += start.elapsed();
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self { packets: self.packets + other.packets, time: self.time + other.time }
    }

    /// Nanoseconds per packet.
    #[expect(clippy::cast_precision_loss, reason = "averages are rounded anyway")]
    pub fn nanoseconds(self) -> f64 {
        self.time.as_nanos() as f64 / self.packets.max(1) as f64
    }
}

/// A cache that keeps the time.
pub struct Timed<C> {
    cache: C,
    pub allocating: Spent,
    pub freeing: Spent,
}

impl<C> Timed<C> {
    pub fn new(cache: C) -> Self {
        Self { cache, allocating: Spent::default(), freeing: Spent::default() }
    }
}

impl<C: PacketCache> PacketCache for Timed<C> {
    fn fill(&mut self, burst: &mut Burst, wanted: usize) {
        let (start, before) = (Instant::now(), burst.len());
        self.cache.fill(burst, wanted);
        if burst.len() == wanted {
            self.allocating.add(burst.len() - before, start); // failing has its own price
        }
    }

    fn free(&mut self, burst: &mut Burst) {
        let (start, packets) = (Instant::now(), burst.len());
        self.cache.free(burst);
        self.freeing.add(packets, start);
    }

    fn rest(&mut self) {
        let start = Instant::now();
        self.cache.rest();
        self.freeing.add(0, start); // what was put off by freeing
    }
}
