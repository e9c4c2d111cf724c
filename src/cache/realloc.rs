#![allow(unsafe_code)] // moves callers' bytes
//! Resizing a block or slot, where it is or elsewhere.

use core::{alloc::Layout, ptr::NonNull};

use super::held::Held;
use crate::{
    asan,
    error::{AllocError, FreeError, ReallocError},
};

/// The steps that resizing is made of.
pub(super) trait Mover {
    /// What the caller holds at a pointer, if it is live.
    fn held(&mut self, pointer: NonNull<u8>) -> Result<Held, FreeError>;

    /// Allocates; a failure is counted.
    fn alloc(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError>;

    /// Allocates only from what is ready: nothing is reclaimed for it, and a failure not counted.
    fn alloc_ready(&mut self, layout: Layout) -> Option<NonNull<u8>>;

    /// Resizes where it is; `false` if that cannot be. A slot stays what it is.
    fn resize(
        &mut self,
        pointer: NonNull<u8>,
        held: &Held,
        new_size: usize,
    ) -> Result<bool, FreeError>;

    /// Grows a heap block downwards, contents and all; `None` if that cannot be.
    fn slide(
        &mut self,
        pointer: NonNull<u8>,
        held: &Held,
        new: Layout,
    ) -> Result<Option<NonNull<u8>>, FreeError>;

    fn free(&mut self, pointer: NonNull<u8>) -> Result<(), FreeError>;

    /// Why a request for a size that no layout can have is refused.
    fn refuse(&mut self, size: usize) -> AllocError;
}

/// Resizes where it is, or moves. On failure the old block stays.
///
/// A block that shrinks below half moves too if there is room elsewhere: the tight place it
/// finds and the whole one it leaves keep the heap far less scattered than its front half
/// would (98.7 % instead of 97.5 % of the region in use at the first failure, in the workload
/// of `benches/src/bin/efficiency.rs`).
///
/// # Safety
/// `pointer` is not used any more if this succeeds; its contents may be read.
pub(super) unsafe fn realloc(
    mover: &mut impl Mover,
    pointer: NonNull<u8>,
    align: usize,
    new_size: usize,
) -> Result<NonNull<u8>, ReallocError> {
    if new_size == 0 {
        return Err(AllocError::ZeroSize.into());
    }
    let new = Layout::from_size_align(new_size, align).map_err(|_| mover.refuse(new_size))?;
    let held = mover.held(pointer)?;
    let stays_aligned = pointer.addr().get() & (align - 1) == 0;
    let moved =
        if stays_aligned && new_size <= held.usable / 2 { mover.alloc_ready(new) } else { None };
    let moved = match moved {
        Some(moved) => moved,
        None if stays_aligned && mover.resize(pointer, &held, new_size)? => return Ok(pointer),
        None => match mover.alloc(new) {
            Ok(moved) => moved,
            Err(error) => return mover.slide(pointer, &held, new)?.ok_or(error.into()),
        },
    };
    asan::open(pointer.as_ptr(), held.usable);
    // SAFETY: both blocks are live, long enough, and distinct.
    unsafe { moved.copy_from_nonoverlapping(pointer, held.usable.min(new_size)) };
    if let Err(error) = mover.free(pointer) {
        let undone = mover.free(moved);
        debug_assert!(undone.is_ok(), "{undone:?}");
        return Err(error.into());
    }
    Ok(moved)
}
