//! What the measuring programs in `src/bin` share: contenders over one region, traces, a
//! seeded random source, and an instruction counter.

pub mod contender;
pub mod dpdk;
pub mod fixed;
pub mod rng;
pub mod steps;
pub mod trace;
