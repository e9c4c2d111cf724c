//! The operating system's side of `libmempool`, for Linux: memory from `mmap`, a mutex from
//! pthreads, a random key, and what a thread has of its own.
//!
//! * [`MmapPages`] maps memory and [`Mapping`] owns it: huge pages, guard pages, prefaulting and
//!   locking on the way in; [`prefault`](Mapping::prefault), [`discard`](Mapping::discard) and
//!   [`protect`](Mapping::protect) on ranges of it later. [`PageReport`] tells what was really
//!   obtained, which is often less than what was asked for.
//! * [`PthreadMutex`] is a [`lock_api::RawMutex`].
//! * [`random_key`] is 64 unpredictable bits.
//! * [`zeroed_thread_local!`] is a thread-local that is as fast in a shared library as elsewhere,
//!   [`ThreadExit`] and [`at_fork`] call back when a thread ends and when the process forks.
//! * [`valgrind`] tells memcheck about a pool's blocks, with the feature of that name.
//!
//! **Nothing here allocates.** The crate is `no_std` and does without `alloc`, so a pool that is
//! the program's global allocator can rest on it. That includes the error path: the system's
//! message for an error is fetched into a buffer on the stack.
//!
//! ```
//! use libmempool_std::{HugePages, MmapPages, PageError};
//!
//! // More than an address space holds: a typed error, and nothing stays behind.
//! let refused = MmapPages::new().map(usize::MAX).unwrap_err();
//! assert_eq!(refused, PageError::TooLarge { requested: usize::MAX });
//!
//! // So ask for less; whether the pages are huge, the report tells.
//! let mapping = MmapPages::new().huge_pages(HugePages::Try).map(4 << 20)?;
//! assert!(mapping.len() >= 4 << 20);
//! println!("{}", mapping.report());
//! # Ok::<(), PageError>(())
//! ```
//!
//! # Targets
//!
//! Linux with glibc or musl. Other systems are refused at compile time, because what the crate
//! promises rests on Linux: a mutex that may be moved while unlocked, discarded pages that read
//! as zero, explicit huge pages.
//!
//! # Map of the source
//!
//! Each file may use only those above it: `error`, `huge`, `report` are plain values; `sys` wraps
//! each system call once; `guard` makes pages inaccessible; `mapping` owns mapped memory; `mmap` decides what to map; `mutex`,
//! `random`, `thread` and `valgrind` stand alone. `unsafe` is allowed in `sys`, `guard`, `mapping`, `mmap`,
//! `mutex`, `thread` and `valgrind`.

#![no_std]
#![deny(missing_docs, unsafe_code, unsafe_op_in_unsafe_fn)]
#![warn(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

#[cfg(not(all(target_os = "linux", any(target_env = "gnu", target_env = "musl"))))]
compile_error!("libmempool-std supports Linux with glibc or musl only");

mod error;
mod guard;
mod huge;
mod mapping;
mod mmap;
mod mutex;
mod random;
mod report;
mod sys;
mod thread;
pub mod valgrind;

pub use error::PageError;
pub use guard::GuardMethod;
pub use huge::{HugePageSize, HugePages};
pub use mapping::{Discarded, Mapping, Protection, RawMapping};
pub use mmap::MmapPages;
pub use mutex::PthreadMutex;
pub use random::random_key;
pub use report::{HugeObtained, PageReport};
pub use sys::page_size;
pub use thread::{ThreadExit, at_fork};

/// The README's example compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExample;
