//! What the integration tests share: memory to build pools in, configurations to build them with,
//! handles to drive them through, and the model that every operation is compared with.
#![allow(dead_code, reason = "each test crate uses its own part of this module")]
#![allow(unused_imports, reason = "as above")]

pub mod against_model;
pub mod bench;
pub mod handle;
pub mod memory;
pub mod model;
pub mod ops;
pub mod rng;
pub mod setup;
pub mod stamp;

pub use bench::{Bench, Way};
pub use handle::{Handle, UsableSize};
pub use memory::{Faults, FaultySource, Memory, StaticMemory, invert};
pub use model::Model;
pub use ops::{Op, Session, run_ops};
pub use rng::Rng;
pub use setup::{Classes, LOCKS, LockKind, LockSuite, Setup, Source, Suite, for_each_sync_lock};

use std::{alloc::Layout, mem::MaybeUninit, ptr::NonNull};

use libmempool::{AllocError, Pool, PoolStats};
use lock_api::RawMutex;

/// How often a test repeats something: `n` times, or one in 200 of them under Miri, to which what takes a
/// microsecond is a tenth of a second.
pub const fn times(n: usize) -> usize {
    if cfg!(miri) { n.div_ceil(200) } else { n }
}

/// A layout; sizes and alignments in tests are valid ones.
pub fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a valid layout")
}

/// Bytes aligned to one.
pub fn bytes(size: usize) -> Layout {
    layout(size, 1)
}

/// Whether a pool says honestly why it had no room for `wanted` bytes; `stats` are those of then.
#[track_caller]
pub fn check_shortage(error: AllocError, wanted: usize, stats: &PoolStats) {
    // A tag, and at most a canary's seal.
    let is_free = |bytes: usize| {
        let lacks = stats.free_bytes - bytes;
        lacks == 0 && bytes == 0 || (size_of::<usize>()..=size_of::<usize>() + 8).contains(&lacks)
    };
    let is_honest = match error {
        AllocError::TooLarge { most } => most < wanted && most < stats.region_bytes,
        AllocError::OutOfMemory { needed, free_bytes } => {
            needed == wanted && free_bytes < needed && is_free(free_bytes)
        }
        AllocError::Fragmented { free_bytes, largest_free } => {
            wanted <= free_bytes && is_free(free_bytes) && largest_free == stats.largest_free
        }
        AllocError::Reserved { needed, reserved } => {
            needed == wanted
                && stats.free_bytes + reserved >= needed
                && reserved <= stats.slab_bytes
        }
        _ => false,
    };
    assert!(is_honest, "{error:?} for {wanted} bytes of {stats:?}");
}

/// Allocates slots of a size through a handle until it refuses.
pub fn fill(handle: &mut impl Handle, size: usize) -> Vec<NonNull<u8>> {
    std::iter::from_fn(|| handle.alloc(bytes(size)).ok()).collect()
}

/// Frees all of these through a handle.
pub fn free_all(handle: &mut impl Handle, pointers: impl IntoIterator<Item = NonNull<u8>>) {
    for pointer in pointers {
        handle.free(pointer).expect("a live block can be freed");
    }
}

/// A pointer to an address that nobody gave out.
pub fn stray(addr: usize) -> NonNull<u8> {
    NonNull::new(std::ptr::without_provenance_mut(addr)).expect("not the null address")
}

/// A pointer that may go to another thread: packets do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet(pub NonNull<u8>);

// SAFETY: whoever holds the packet is the only one who touches its memory.
unsafe impl Send for Packet {}
