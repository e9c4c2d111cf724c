//! Layer 5, caches: magazines that travel whole between local caches and depots, so that nobody
//! takes a lock per object.

mod block;
pub(crate) mod calls;
mod class_cache;
mod depot;
mod engine;
mod held;
mod local_cache;
mod magazine;
mod profile;
mod realloc;
mod waiting;

pub(crate) use block::CacheBlockRef;
pub(crate) use class_cache::{ClassCache, Look};
pub(crate) use engine::Engine;
#[cfg(feature = "std")]
pub(crate) use engine::Events;
pub(crate) use local_cache::{Backing, CacheCore};
#[cfg(all(test, loom))]
pub(crate) use local_cache::{clear, prepare};
pub(crate) use magazine::Magazine;
#[cfg(feature = "flags")]
pub(crate) use profile::SizeCount;
