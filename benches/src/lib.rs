//! What the measuring programs in `src/bin` share: contenders over one region, traces, and a
//! seeded random source.

pub mod contender;
pub mod rng;
pub mod trace;
