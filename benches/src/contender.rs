//! What is compared: one thread's way to allocate and free.

use std::{alloc::Layout, ptr::NonNull};

/// One thread's handle of an allocator. Those for objects of one size ignore the layout.
pub trait Contender {
    /// Allocates.
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>>;

    /// Frees.
    ///
    /// # Safety
    /// `block` came from this contender's allocator with `layout`, and is not used any more.
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout);

    /// Resizes, in place where the contender can.
    ///
    /// # Safety
    /// As [`free`](Self::free), if this succeeds.
    unsafe fn realloc(
        &mut self,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Option<NonNull<u8>> {
        let new = Layout::from_size_align(new_size, layout.align()).ok()?;
        let moved = self.alloc(new)?;
        // SAFETY: both are live and at least that long.
        unsafe { moved.copy_from_nonoverlapping(block, layout.size().min(new_size)) };
        // SAFETY: the caller's promise.
        unsafe { self.free(block, layout) };
        Some(moved)
    }

    /// Allocates as many as `out` holds, or says `false`.
    #[inline(always)]
    fn alloc_bulk(&mut self, layout: Layout, out: &mut [NonNull<u8>]) -> bool {
        out.iter_mut().all(|out| self.alloc(layout).map(|block| *out = block).is_some())
    }

    /// Frees several.
    ///
    /// # Safety
    /// As [`free`](Self::free), for each of them.
    #[inline(always)]
    unsafe fn free_bulk(&mut self, layout: Layout, blocks: &[NonNull<u8>]) {
        for &block in blocks {
            // SAFETY: the caller's promise.
            unsafe { self.free(block, layout) };
        }
    }

    /// Free bytes and the largest free block, where the contender says.
    fn free_bytes(&self) -> Option<(usize, usize)> {
        None
    }
}
