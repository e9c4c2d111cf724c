//! A memory pool for network appliances: firewalls, VPN servers, packet gateways, and the firmware
//! of smaller boxes.
//!
//! A [`Pool`] manages memory that it is handed: a static array on a microcontroller, a gigabyte of
//! huge pages on a router. It serves three kinds of request:
//!
//! - **any size**, from a heap whose every operation takes constant time ([`Pool::alloc`],
//!   [`Pool::free`] by pointer alone, [`Pool::realloc`] in place where it can);
//! - **fixed sizes**, from [size classes](SizeClass) whose objects have no header, with a reserve
//!   that is always theirs and a limit they never pass ([`Pool::alloc_fixed`]);
//! - **bursts without a lock**, from each thread's or core's [`LocalCache`], and typed objects that
//!   return by themselves ([`ObjectPool`]).
//!
//! Every free is checked: a double free, an interior, foreign or wrong-class pointer, a damaged
//! block tag is a typed [`FreeError`] that changes nothing. Only what says `unchecked` does not check.
//!
//! # Firmware
//! ```
//! use core::{alloc::Layout, mem::MaybeUninit};
//! use libmempool::{NoLock, Pool};
//!
//! # fn take_region() -> &'static mut [MaybeUninit<u8>] { vec![MaybeUninit::uninit(); 16384].leak() }
//! let region: &'static mut [MaybeUninit<u8>] = take_region();
//! let pool = Pool::<NoLock>::new(region)?;
//! let frame = pool.alloc(Layout::new::<[u8; 1514]>())?;
//! // SAFETY: the frame is not used any more.
//! unsafe { pool.free(frame)? };
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Linux
//! ```
//! # #[cfg(feature = "std")] {
//! use libmempool::{HugePages, MmapPages, Pool, PthreadMutex, SizeClass};
//!
//! let pool = Pool::<PthreadMutex>::builder()
//!     .alignment(64)
//!     .size_class(SizeClass::new(2048).reserve(1000).limit(20_000))
//!     .map(MmapPages::new().huge_pages(HugePages::Try), 64 << 20)?;
//! let packets = pool.class_of(2048)?;
//!
//! std::thread::scope(|scope| {
//!     scope.spawn(|| {
//!         let mut cache = pool.local_cache();
//!         let packet = cache.alloc_fixed(packets).unwrap();
//!         // SAFETY: the packet is not used any more.
//!         unsafe { cache.free_fixed(packets, packet).unwrap() };
//!     });
//! });
//! assert!(pool.destroy().is_clean());
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//! | feature | adds |
//! |---|---|
//! | (none) | everything above for one thread, without `alloc` and without atomics that a Cortex-M0 lacks |
//! | `flags` (default) | what [`PoolFlags`] ask for, and profiles of sizes |
//! | `checksums` (default) | checksums of the pool's own tables, verified before they are relied on |
//! | `std` | `MmapPages`, `PthreadMutex`, `ThreadCachedPool`, `PinnedPool` (Linux) |
//! | `spin` | `SpinLock` |
//! | `critical-section` | `CriticalSection` |
//! | `allocator-api2` | `Allocator` for `&Pool`, as hashbrown and others take it |
//! | `nightly` | `core::alloc::Allocator` for `&Pool` |
//! | `defmt` | `defmt::Format` for errors, statistics and flags |
//! | `asan` | AddressSanitizer reports whoever touches memory that the pool has not handed out (x86-64, with `-Zsanitizer=address`) |
//!
//! # What it does not do
//! It does not move live blocks, does not return memory of a region to the system by itself, and
//! without [`PoolFlags`] does not catch a write after a free or past a slot's end. Two threads that free
//! one pointer at the same instant may go unnoticed. Local caches keep magazines of slots of each class:
//! count them in ([`LocalCache`]).
#![no_std]
#![deny(unsafe_code)]
#![cfg_attr(feature = "nightly", feature(allocator_api))]

#[cfg(any(feature = "std", test, loom))]
extern crate std;

// The layers, in order: each uses only those above it.
mod asan;
mod checksum;
mod config;
mod error;
mod flags;
mod stats;
mod sync;
mod units;

mod guard;
mod harden;
mod quarantine;
mod random;
mod region;

mod heap;

mod slab;

mod cache;

mod lock;
mod page_source;

mod pool;

#[cfg(feature = "std")]
mod std_adapter;

pub use config::{
    ClassId, FaultFn, LeakFn, LeakReport, MAX_ALIGNMENT, MAX_CLASSES, MAX_DECLARED, PRESET_MAX,
    PoolConfig, SizeClass, WatermarkFn,
};
pub use error::{
    AllocError, BulkFreeError, ConfigError, Corruption, CorruptionKind, Damage, Fault, FreeError,
    MapError, Neighbour, NeighbourState, PageError, ReallocError,
};
pub use flags::PoolFlags;
pub use guard::GuardPages;
#[cfg(feature = "std")]
pub use libmempool_std::{
    GuardMethod, HugeObtained, HugePageSize, HugePages, Mapping, MmapPages, PageReport,
    PthreadMutex,
};
#[cfg(feature = "critical-section")]
pub use lock::CriticalSection;
pub use lock::NoLock;
#[cfg(feature = "spin")]
pub use lock::SpinLock;
pub use page_source::{CallerRegion, NoPages, PageSource, Pages};
#[cfg(feature = "flags")]
pub use pool::{Advice, AdvisedClass, MAX_ADVISED};
pub use pool::{InsertError, LocalCache, MapEntry, MapKind, ObjectPool, Pool, PoolBuilder, Pooled};
pub use stats::{ClassStats, PoolStats};
#[cfg(feature = "std")]
pub use std_adapter::{PinnedPool, ThreadCachedPool};
#[cfg(loom)]
#[doc(hidden)]
pub use sync::{explore, modelled};
