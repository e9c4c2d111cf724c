//! Layer 7, the pool: composes everything below behind one lock.

#[cfg(feature = "flags")]
mod advice;
mod alloc_impls;
mod builder;
mod cached;
mod check;
mod contents;
mod damage;
mod local_cache;
mod map;
mod object;
#[expect(clippy::module_inception, reason = "the pool itself, beside what is built on it")]
mod pool;

#[cfg(feature = "flags")]
pub use advice::{Advice, AdvisedClass, MAX_ADVISED};
pub(crate) use alloc_impls::NoUnwind;
#[cfg(feature = "std")]
pub(crate) use alloc_impls::impl_global_alloc;
pub use builder::PoolBuilder;
pub use local_cache::LocalCache;
pub use map::{MapEntry, MapKind};
pub use object::{InsertError, ObjectPool, Pooled};
pub use pool::Pool;
