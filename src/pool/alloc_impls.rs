#![allow(unsafe_code)] // implements the allocator contracts
//! Pools as allocators: `GlobalAlloc`, `allocator-api2`, and the nightly `Allocator`.
//!
//! Their contracts have no room for errors of a free: a refused free is counted
//! ([`PoolStats::bad_frees`](crate::PoolStats::bad_frees)), told to
//! [`PoolConfig::on_fault`](crate::PoolConfig::on_fault), and changes nothing. Their callers state each
//! block's layout: in pools with [`PoolFlags::CANARY`](crate::PoolFlags::CANARY) it must be right.

#[cfg(any(feature = "allocator-api2", feature = "nightly"))]
use core::{alloc::Layout, ptr::NonNull};

use lock_api::RawMutex;

use super::pool::Pool;
use crate::page_source::PageSource;

/// Ends the program if it is dropped by unwinding: a global allocator must not unwind, but a
/// watermark's callback may panic.
pub(crate) struct NoUnwind;

impl NoUnwind {
    pub(crate) fn guard<R>(work: impl FnOnce() -> R) -> R {
        let guard = Self;
        let result = work();
        core::mem::forget(guard);
        result
    }
}

impl Drop for NoUnwind {
    fn drop(&mut self) {
        panic!("a panic must not leave a global allocator");
    }
}

/// `GlobalAlloc` for a type with a pool's methods.
macro_rules! impl_global_alloc {
    (impl[$($generics:tt)*] $type:ty where { $($bounds:tt)* }) => {
        const _: () = {
            use core::{
                alloc::{GlobalAlloc, Layout},
                ptr::{NonNull, null_mut},
            };

            use $crate::pool::NoUnwind;

            // SAFETY: blocks are live, disjoint and aligned until they are freed; nothing unwinds.
            unsafe impl<$($generics)*> GlobalAlloc for $type
            where
                $($bounds)*
            {
                unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
                    NoUnwind::guard(|| self.alloc(layout).map_or(null_mut(), NonNull::as_ptr))
                }

                unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
                    let zeroed = || self.alloc_zeroed(layout);
                    NoUnwind::guard(|| zeroed().map_or(null_mut(), NonNull::as_ptr))
                }

                unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
                    let Some(pointer) = NonNull::new(pointer) else { return };
                    NoUnwind::guard(|| {
                        // SAFETY: the caller of `dealloc` gives the block up. A refusal has been
                        // counted.
                        let _ = unsafe { self.give_back(pointer, layout) };
                    });
                }

                unsafe fn realloc(
                    &self,
                    pointer: *mut u8,
                    layout: Layout,
                    new_size: usize,
                ) -> *mut u8 {
                    let Some(pointer) = NonNull::new(pointer) else { return null_mut() };
                    NoUnwind::guard(|| {
                        // SAFETY: the caller of `realloc` gives the block up if this succeeds.
                        let moved = unsafe { self.realloc(pointer, layout, new_size) };
                        moved.map_or(null_mut(), NonNull::as_ptr)
                    })
                }
            }
        };
    };
}

impl_global_alloc! {
    impl[L: RawMutex, P: PageSource] Pool<'_, L, P> where { Self: Sync }
}

#[cfg(feature = "std")]
pub(crate) use impl_global_alloc;

/// The methods of an `Allocator` trait, over a shared pool: both traits have the same.
#[cfg(any(feature = "allocator-api2", feature = "nightly"))]
macro_rules! impl_allocator {
    ($($path:tt)*) => {
        // SAFETY: blocks are live, disjoint and aligned until they are freed or the pool is gone,
        // which the shared borrow excludes; copies of the borrow are the same pool.
        unsafe impl<L: RawMutex, P: PageSource> $($path)*::Allocator for &Pool<'_, L, P> {
            fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, $($path)*::AllocError> {
                let start = match layout.size() {
                    0 => dangling(layout),
                    _ => self.alloc(layout).map_err(|_| $($path)*::AllocError)?,
                };
                Ok(NonNull::slice_from_raw_parts(start, layout.size()))
            }

            fn allocate_zeroed(
                &self,
                layout: Layout,
            ) -> Result<NonNull<[u8]>, $($path)*::AllocError> {
                let start = match layout.size() {
                    0 => dangling(layout),
                    _ => self.alloc_zeroed(layout).map_err(|_| $($path)*::AllocError)?,
                };
                Ok(NonNull::slice_from_raw_parts(start, layout.size()))
            }

            unsafe fn deallocate(&self, pointer: NonNull<u8>, layout: Layout) {
                if layout.size() != 0 {
                    // SAFETY: the caller gives the block up. A refusal has been counted.
                    let _ = unsafe { self.give_back(pointer, layout) };
                }
            }

            unsafe fn grow(
                &self,
                pointer: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, $($path)*::AllocError> {
                // SAFETY: the caller's promise.
                unsafe { resize(self, pointer, old, new) }.ok_or($($path)*::AllocError)
            }

            unsafe fn grow_zeroed(
                &self,
                pointer: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, $($path)*::AllocError> {
                // SAFETY: the caller's promise.
                let grown = unsafe { resize(self, pointer, old, new) };
                let grown = grown.ok_or($($path)*::AllocError)?;
                let fresh = grown.cast::<u8>().as_ptr().wrapping_add(old.size());
                // SAFETY: the block is `new.size()` bytes long, and nobody else has it.
                unsafe { fresh.write_bytes(0, new.size() - old.size()) };
                Ok(grown)
            }

            unsafe fn shrink(
                &self,
                pointer: NonNull<u8>,
                old: Layout,
                new: Layout,
            ) -> Result<NonNull<[u8]>, $($path)*::AllocError> {
                // SAFETY: the caller's promise.
                unsafe { resize(self, pointer, old, new) }.ok_or($($path)*::AllocError)
            }
        }
    };
}

#[cfg(feature = "allocator-api2")]
impl_allocator!(allocator_api2::alloc);

#[cfg(feature = "nightly")]
impl_allocator!(core::alloc);

/// What an allocator answers to a request for nothing.
#[cfg(any(feature = "allocator-api2", feature = "nightly"))]
fn dangling(layout: Layout) -> NonNull<u8> {
    NonNull::new(core::ptr::without_provenance_mut(layout.align())).unwrap_or(NonNull::dangling())
}

/// Grows or shrinks a block of an allocator, which may be of size 0 before or after.
///
/// # Safety
/// `pointer` was allocated with `old` and is given up if this succeeds.
#[cfg(any(feature = "allocator-api2", feature = "nightly"))]
unsafe fn resize<L: RawMutex, P: PageSource>(
    pool: &Pool<'_, L, P>,
    pointer: NonNull<u8>,
    old: Layout,
    new: Layout,
) -> Option<NonNull<[u8]>> {
    let start = match (old.size(), new.size()) {
        (_, 0) => {
            if old.size() != 0 {
                // SAFETY: the caller's promise. A refusal has been counted.
                let _ = unsafe { pool.give_back(pointer, old) };
            }
            dangling(new)
        }
        (0, _) => pool.alloc(new).ok()?,
        // SAFETY: the caller's promise; `new`'s alignment is the one to keep from now on.
        _ => unsafe { pool.realloc(pointer, new, new.size()) }.ok()?,
    };
    Some(NonNull::slice_from_raw_parts(start, new.size()))
}
