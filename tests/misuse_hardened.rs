//! Misuse of a pool with all flags that find mistakes: double free, free of interior, foreign, wrong-class and
//! reset pointers, and damaged block tags are typed errors that change nothing, through every path
//! into a pool.

#[path = "misuse/cases.rs"]
mod cases;
mod common;

use libmempool::PoolFlags;

/// The flags of the pools in all cases.
const FLAGS: PoolFlags = PoolFlags::HARDENED;
