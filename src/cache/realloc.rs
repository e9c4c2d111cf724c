#![allow(unsafe_code)] // moves callers' bytes
//! Resizing a block or slot, where it is or elsewhere.

use core::{alloc::Layout, ptr::NonNull};

use crate::error::{AllocError, FreeError, ReallocError};

/// What a live pointer holds.
pub(super) struct Held {
    /// Bytes that the pool has for it there.
    pub(super) room: usize,
    /// The largest object that can be there.
    pub(super) limit: usize,
    /// Usable bytes.
    pub(super) usable: usize,
    /// A slot of a class, not a heap block.
    pub(super) is_slot: bool,
}

impl Held {
    pub(super) const fn slot(room: usize, limit: usize, usable: usize) -> Self {
        Self { room, limit, usable, is_slot: true }
    }

    pub(super) const fn block(room: usize, limit: usize, usable: usize) -> Self {
        Self { room, limit, usable, is_slot: false }
    }
}

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
    let new = Layout::from_size_align(new_size, align).map_err(|_| AllocError::TooLarge)?;
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
    // SAFETY: both blocks are live, long enough, and distinct.
    unsafe { moved.copy_from_nonoverlapping(pointer, held.usable.min(new_size)) };
    if let Err(error) = mover.free(pointer) {
        let undone = mover.free(moved);
        debug_assert!(undone.is_ok(), "{undone:?}");
        return Err(error.into());
    }
    Ok(moved)
}
