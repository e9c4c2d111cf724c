//! placeholder docs
#![no_std]
#![deny(unsafe_code)]
#![cfg_attr(feature = "nightly", feature(allocator_api))]

#[cfg(any(feature = "std", test))]
extern crate std;

// The layers, in order: each uses only those above it.
mod config;
mod error;
mod flags;
mod stats;
mod units;

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
    ClassId, LeakFn, LeakReport, MAX_ALIGNMENT, MAX_CLASSES, PRESET_MAX, PoolConfig, SizeClass,
    WatermarkFn,
};
pub use error::{
    AllocError, BulkFreeError, ConfigError, Corruption, CorruptionKind, FreeError, MapError,
    PageError, ReallocError,
};
pub use flags::PoolFlags;
#[cfg(feature = "std")]
pub use libmempool_std::{
    HugeObtained, HugePageSize, HugePages, Mapping, MmapPages, PageReport, PthreadMutex,
};
#[cfg(feature = "critical-section")]
pub use lock::CriticalSection;
pub use lock::NoLock;
#[cfg(feature = "spin")]
pub use lock::SpinLock;
pub use page_source::{CallerRegion, NoPages, PageSource, Pages};
pub use pool::{InsertError, LocalCache, MapEntry, MapKind, ObjectPool, Pool, PoolBuilder, Pooled};
pub use stats::{ClassStats, PoolStats};
#[cfg(feature = "std")]
pub use std_adapter::ThreadCachedPool;
