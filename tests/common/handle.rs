//! One face for everything that allocates: the pool itself, local caches, thread-cached pools.
//!
//! The methods are safe to call in tests, which own every block that they free; a test that
//! passes wrong pointers does so to see them refused.

use std::{alloc::Layout, ptr::NonNull};

use libmempool::{
    AllocError, BulkFreeError, ClassId, FreeError, LocalCache, PageSource, Pool, ReallocError,
};
use lock_api::RawMutex;

/// Something that allocates and frees.
pub trait Handle {
    fn alloc(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError>;
    fn alloc_zeroed(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError>;
    fn realloc(
        &mut self,
        pointer: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ReallocError>;
    fn free(&mut self, pointer: NonNull<u8>) -> Result<(), FreeError>;
    fn free_sized(&mut self, pointer: NonNull<u8>, layout: Layout) -> Result<(), FreeError>;
    fn alloc_fixed(&mut self, class: ClassId) -> Result<NonNull<u8>, AllocError>;
    fn free_fixed(&mut self, class: ClassId, pointer: NonNull<u8>) -> Result<(), FreeError>;

    fn alloc_bulk(&mut self, class: ClassId, out: &mut [NonNull<u8>]) -> Result<(), AllocError> {
        for filled in 0..out.len() {
            match self.alloc_fixed(class) {
                Ok(slot) => out[filled] = slot,
                Err(error) => {
                    out[..filled].iter().for_each(|&slot| self.free_fixed(class, slot).unwrap());
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn free_bulk(&mut self, class: ClassId, pointers: &[NonNull<u8>]) -> Result<(), BulkFreeError> {
        for (freed, &pointer) in pointers.iter().enumerate() {
            self.free_fixed(class, pointer).map_err(|error| BulkFreeError { freed, error })?;
        }
        Ok(())
    }

    /// Gives back what it keeps ready, if it keeps anything of its own.
    fn flush(&mut self) {}
}

/// A pool's answer to how large a block is.
pub trait UsableSize {
    fn usable(&self, pointer: NonNull<u8>) -> Result<usize, FreeError>;
}

impl<L: RawMutex, P: PageSource> UsableSize for Pool<'_, L, P> {
    fn usable(&self, pointer: NonNull<u8>) -> Result<usize, FreeError> {
        // SAFETY: nobody writes to a test's blocks while it asks.
        unsafe { self.usable_size(pointer) }
    }
}

impl Handle for &mut dyn Handle {
    fn alloc(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        (**self).alloc(layout)
    }

    fn alloc_zeroed(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        (**self).alloc_zeroed(layout)
    }

    fn realloc(
        &mut self,
        pointer: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ReallocError> {
        (**self).realloc(pointer, layout, new_size)
    }

    fn free(&mut self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        (**self).free(pointer)
    }

    fn free_sized(&mut self, pointer: NonNull<u8>, layout: Layout) -> Result<(), FreeError> {
        (**self).free_sized(pointer, layout)
    }

    fn alloc_fixed(&mut self, class: ClassId) -> Result<NonNull<u8>, AllocError> {
        (**self).alloc_fixed(class)
    }

    fn free_fixed(&mut self, class: ClassId, pointer: NonNull<u8>) -> Result<(), FreeError> {
        (**self).free_fixed(class, pointer)
    }
}

impl<L: RawMutex, P: PageSource> Handle for &Pool<'_, L, P> {
    fn alloc(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        Pool::alloc(self, layout)
    }

    fn alloc_zeroed(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        Pool::alloc_zeroed(self, layout)
    }

    fn realloc(
        &mut self,
        pointer: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ReallocError> {
        // SAFETY: the test owns the block, and uses what is returned from now on.
        unsafe { Pool::realloc(self, pointer, layout, new_size) }
    }

    fn free(&mut self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        // SAFETY: the test does not use the block any more, if it is one.
        unsafe { Pool::free(self, pointer) }
    }

    fn free_sized(&mut self, pointer: NonNull<u8>, layout: Layout) -> Result<(), FreeError> {
        // SAFETY: as in `free`.
        unsafe { Pool::free_sized(self, pointer, layout) }
    }

    fn alloc_fixed(&mut self, class: ClassId) -> Result<NonNull<u8>, AllocError> {
        Pool::alloc_fixed(self, class)
    }

    fn free_fixed(&mut self, class: ClassId, pointer: NonNull<u8>) -> Result<(), FreeError> {
        // SAFETY: as in `free`.
        unsafe { Pool::free_fixed(self, class, pointer) }
    }
}

impl<L: RawMutex> Handle for LocalCache<'_, L> {
    fn alloc(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        LocalCache::alloc(self, layout)
    }

    fn alloc_zeroed(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        let block = LocalCache::alloc(self, layout)?;
        // SAFETY: the block is fresh and that long.
        unsafe { block.write_bytes(0, layout.size()) };
        Ok(block)
    }

    fn realloc(
        &mut self,
        pointer: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ReallocError> {
        // SAFETY: the test owns the block, and uses what is returned from now on.
        unsafe { LocalCache::realloc(self, pointer, layout, new_size) }
    }

    fn free(&mut self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        // SAFETY: the test does not use the block any more, if it is one.
        unsafe { LocalCache::free(self, pointer) }
    }

    fn free_sized(&mut self, pointer: NonNull<u8>, layout: Layout) -> Result<(), FreeError> {
        // SAFETY: as in `free`.
        unsafe { LocalCache::free_sized(self, pointer, layout) }
    }

    fn alloc_fixed(&mut self, class: ClassId) -> Result<NonNull<u8>, AllocError> {
        LocalCache::alloc_fixed(self, class)
    }

    fn free_fixed(&mut self, class: ClassId, pointer: NonNull<u8>) -> Result<(), FreeError> {
        // SAFETY: as in `free`.
        unsafe { LocalCache::free_fixed(self, class, pointer) }
    }

    fn alloc_bulk(&mut self, class: ClassId, out: &mut [NonNull<u8>]) -> Result<(), AllocError> {
        LocalCache::alloc_bulk(self, class, out)
    }

    fn free_bulk(&mut self, class: ClassId, pointers: &[NonNull<u8>]) -> Result<(), BulkFreeError> {
        // SAFETY: as in `free`.
        unsafe { LocalCache::free_bulk(self, class, pointers) }
    }

    fn flush(&mut self) {
        LocalCache::flush(self);
    }
}

#[cfg(feature = "std")]
impl<L, P> Handle for libmempool::ThreadCachedPool<L, P>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
    fn alloc(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        libmempool::PinnedPool::alloc(self, layout)
    }

    fn alloc_zeroed(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        libmempool::PinnedPool::alloc_zeroed(self, layout)
    }

    fn realloc(
        &mut self,
        pointer: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ReallocError> {
        // SAFETY: the test owns the block, and uses what is returned from now on.
        unsafe { libmempool::PinnedPool::realloc(self, pointer, layout, new_size) }
    }

    fn free(&mut self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        // SAFETY: the test does not use the block any more, if it is one.
        unsafe { libmempool::PinnedPool::free(self, pointer) }
    }

    fn free_sized(&mut self, pointer: NonNull<u8>, layout: Layout) -> Result<(), FreeError> {
        // SAFETY: as in `free`.
        unsafe { libmempool::PinnedPool::free_sized(self, pointer, layout) }
    }

    fn alloc_fixed(&mut self, class: ClassId) -> Result<NonNull<u8>, AllocError> {
        libmempool::PinnedPool::alloc_fixed(self, class)
    }

    fn free_fixed(&mut self, class: ClassId, pointer: NonNull<u8>) -> Result<(), FreeError> {
        // SAFETY: as in `free`.
        unsafe { libmempool::PinnedPool::free_fixed(self, class, pointer) }
    }

    fn flush(&mut self) {
        self.flush_thread();
    }
}
