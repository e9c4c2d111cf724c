//! What the measuring programs in `src/bin` share: contenders, the loops that they all run, traces,
//! a seeded random source, a clock and an instruction counter.

pub mod arena;
pub mod clock;
pub mod contender;
pub mod cores;
pub mod dpdk;
pub mod heaps;
pub mod job;
pub mod mallocs;
pub mod object_pools;
pub mod ours;
pub mod pipeline;
pub mod rng;
pub mod steps;
pub mod timed_lock;
pub mod trace;
pub mod worker;
