//! Locks: any [`lock_api::RawMutex`] can guard a pool; these are the ones that need no OS.
//!
//! | lock | pool is `Sync` | for |
//! |---|---|---|
//! | [`NoLock`] | no | one thread, or one task on one core |
//! | `SpinLock` (feature `spin`) | yes | several cores without an OS |
//! | `CriticalSection` (feature `critical-section`) | yes | firmware with interrupts |
//! | `PthreadMutex` (feature `std`) | yes | Linux |

#[cfg(feature = "critical-section")]
mod critical_section;
mod no_lock;

#[cfg(feature = "critical-section")]
pub use self::critical_section::CriticalSection;
pub use no_lock::NoLock;

/// A spinning lock, from the `spin` crate.
#[cfg(feature = "spin")]
pub type SpinLock = spin::mutex::SpinMutex<()>;
