//! Atomics, as the slab map, states, caches and seals use them, which are shared without the pool's lock.
//!
//! With `--cfg loom` they are such that `tests/loom.rs` can try every order of what threads do, and every
//! old value that a load may still see; with feature `asan` such that AddressSanitizer does not look.

#[cfg(loom)]
mod modelled;
#[cfg(feature = "asan")]
mod unseen;

#[cfg(not(any(loom, feature = "asan")))]
pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize};
#[cfg(not(loom))]
pub(crate) use core::{
    hint::spin_loop,
    sync::atomic::{Ordering, fence},
};

#[cfg(loom)]
pub(crate) use self::modelled::{
    AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize, Ordering, fence, spin_loop,
};
#[cfg(loom)]
pub use self::modelled::{explore, modelled};
#[cfg(all(feature = "asan", not(loom)))]
pub(crate) use self::unseen::{AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize};

/// How often what does not fit is looked at again, without a lock that keeps its owner away: it might just have
/// been changed.
pub(crate) const LOOKS: usize = 100;

/// Those of memory that is used under the lock only, which are not tried in every order.
pub(crate) mod locked {
    #[cfg(feature = "asan")]
    pub(crate) use super::unseen::{AtomicPtr, AtomicUsize};
    #[cfg(not(feature = "asan"))]
    pub(crate) use core::sync::atomic::{AtomicPtr, AtomicUsize};
}
