//! Atomics, as the slab map, states, caches and seals use them, which are shared without the pool's lock.
//!
//! With `--cfg loom` they are such that `tests/loom.rs` can try every order of what threads do, and every
//! old value that a load may still see.

#[cfg(loom)]
mod modelled;

#[cfg(not(loom))]
pub(crate) use core::{
    hint::spin_loop,
    sync::atomic::{AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize, Ordering, fence},
};

#[cfg(loom)]
pub use self::modelled::modelled;
#[cfg(loom)]
pub(crate) use self::modelled::{
    AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize, Ordering, fence, spin_loop,
};
