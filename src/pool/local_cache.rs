#![allow(unsafe_code)] // passes on the safety conditions of frees
//! The public handle of a local cache.

use core::{alloc::Layout, fmt, mem::MaybeUninit, ptr::NonNull};

use lock_api::{Mutex, RawMutex};

use super::pool::{Guarded, Locked, Pool};
use crate::{
    cache::{Backing, CacheCore},
    config::ClassId,
    error::{AllocError, BulkFreeError, FreeError, ReallocError},
    lock::NoLock,
    page_source::PageSource,
};

/// One thread's, core's or task's cache of a pool: it allocates and frees slots without a lock,
/// and takes the pool's lock once per magazine.
///
/// Slots may be freed through another cache than the one they came from; whole magazines travel
/// back through the depot. A cache holds at most two magazines per class
/// ([`PoolConfig::magazine`](crate::PoolConfig::magazine)); it returns them when it is dropped, on
/// [`flush`](Self::flush), and, the next time it takes the lock, when memory has run out anywhere.
///
/// ```
/// use std::{mem::MaybeUninit, ptr::NonNull};
/// use libmempool::{NoLock, Pool, SizeClass};
///
/// let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// let pool = Pool::<NoLock>::builder().size_class(SizeClass::new(2048)).build(&mut memory)?;
/// let packets = pool.class_of(2048)?;
///
/// let mut cache = pool.local_cache();
/// let mut burst = [NonNull::dangling(); 32];
/// cache.alloc_bulk(packets, &mut burst)?;
/// // SAFETY: the packets are not used any more.
/// unsafe { cache.free_bulk(packets, &burst)? };
/// drop(cache);
/// assert_eq!(pool.stats().live_objects, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LocalCache<'p, L: RawMutex = NoLock> {
    core: CacheCore,
    pool: &'p Mutex<L, Guarded>,
}

impl<L: RawMutex, P: PageSource> Pool<'_, L, P> {
    /// A local cache for the caller's own use. O(1), no lock; it gets its table on first use.
    pub fn local_cache(&self) -> LocalCache<'_, L> {
        LocalCache { core: CacheCore::new(), pool: &self.inner }
    }
}

impl<L: RawMutex> LocalCache<'_, L> {
    /// Allocates a slot of a class. O(1) without the lock; once per magazine O(its slots) under
    /// the lock, and O(slots in the depots) when memory has run out.
    ///
    /// # Errors
    /// [`AllocError`]; the failure is counted.
    #[inline]
    pub fn alloc_fixed(&mut self, class: ClassId) -> Result<NonNull<u8>, AllocError> {
        self.core.alloc_fixed(class, &mut Locked(self.pool))
    }

    /// Frees a slot of a class, wherever it was allocated. O(1) without the lock; once per
    /// magazine O(its slots) under the lock.
    ///
    /// # Safety
    /// The memory is not used any more, by anybody. Nothing else is required: any pointer at all
    /// may be passed.
    ///
    /// # Errors
    /// [`FreeError`] if it is not a live slot of this class; nothing changes, and it is counted.
    #[inline]
    pub unsafe fn free_fixed(
        &mut self,
        class: ClassId,
        pointer: NonNull<u8>,
    ) -> Result<(), FreeError> {
        self.core.free(pointer, Some(class), &mut Locked(self.pool))
    }

    /// Allocates memory for a layout: from the class that suits it with little waste, without the
    /// lock, else from the heap under the lock. O(1) as [`alloc_fixed`](Self::alloc_fixed).
    ///
    /// # Errors
    /// [`AllocError`]; the failure is counted.
    #[inline]
    pub fn alloc(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        self.core.alloc(layout, &mut Locked(self.pool))
    }

    /// Frees a block or slot by its pointer alone: slots without the lock (in the first region),
    /// heap blocks under it.
    /// O(1) as [`free_fixed`](Self::free_fixed).
    ///
    /// # Safety
    /// As [`free_fixed`](Self::free_fixed).
    ///
    /// # Errors
    /// [`FreeError`] if it is not a live block of this pool; nothing changes, and it is counted.
    #[inline]
    pub unsafe fn free(&mut self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        self.core.free(pointer, None, &mut Locked(self.pool))
    }

    /// As [`Pool::free_sized`]: slots without the lock (in the first region), heap blocks under it.
    ///
    /// # Safety
    /// As [`free_fixed`](Self::free_fixed).
    ///
    /// # Errors
    /// As [`Pool::free_sized`].
    pub unsafe fn free_sized(
        &mut self,
        pointer: NonNull<u8>,
        layout: Layout,
    ) -> Result<(), FreeError> {
        self.core.free_sized(pointer, layout, false, &mut Locked(self.pool))
    }

    /// As [`Pool::realloc`], by way of this cache.
    ///
    /// # Safety
    /// As [`Pool::realloc`].
    ///
    /// # Errors
    /// [`ReallocError`]; the block is as it was.
    pub unsafe fn realloc(
        &mut self,
        pointer: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ReallocError> {
        // SAFETY: the caller's promise.
        unsafe { self.core.realloc(pointer, layout.align(), new_size, &mut Locked(self.pool)) }
    }

    /// Fills `out` with slots of a class, or allocates none. O(`out.len()`), with the lock once
    /// per magazine.
    ///
    /// # Errors
    /// [`AllocError`] if there are not enough; what `out` holds then is not to be used.
    #[inline]
    pub fn alloc_bulk(
        &mut self,
        class: ClassId,
        out: &mut [NonNull<u8>],
    ) -> Result<(), AllocError> {
        let out = core::ptr::from_mut(out) as *mut [MaybeUninit<NonNull<u8>>];
        // SAFETY: the same memory; only pointers are written to it.
        self.alloc_bulk_uninit(class, unsafe { &mut *out })
    }

    /// As [`alloc_bulk`](Self::alloc_bulk), into memory that holds nothing yet. All of it has been written
    /// if this succeeds.
    ///
    /// # Errors
    /// As [`alloc_bulk`](Self::alloc_bulk).
    ///
    /// ```
    /// use std::mem::MaybeUninit;
    /// # use libmempool::{NoLock, Pool};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// let pool = Pool::<NoLock>::builder().size_classes(&[2048]).build(&mut memory)?;
    /// let mut burst = [MaybeUninit::uninit(); 32];
    /// pool.local_cache().alloc_bulk_uninit(pool.class_of(2048)?, &mut burst)?;
    /// // SAFETY: it succeeded, so all of them have been written.
    /// let burst = burst.map(|packet| unsafe { packet.assume_init() });
    /// assert!(burst.iter().all(|packet| pool.contains(packet.as_ptr())));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn alloc_bulk_uninit(
        &mut self,
        class: ClassId,
        out: &mut [MaybeUninit<NonNull<u8>>],
    ) -> Result<(), AllocError> {
        self.core.alloc_bulk(class, out, &mut Locked(self.pool))
    }

    /// Frees slots of a class, from the front up to the first that is refused.
    /// O(`pointers.len()`), with the lock once per magazine.
    ///
    /// # Safety
    /// The memory of those that are freed is not used any more, by anybody.
    ///
    /// # Errors
    /// [`BulkFreeError`] says how many were freed; the rest are as they were.
    #[inline]
    pub unsafe fn free_bulk(
        &mut self,
        class: ClassId,
        pointers: &[NonNull<u8>],
    ) -> Result<(), BulkFreeError> {
        self.core.free_bulk(class, pointers, &mut Locked(self.pool))
    }

    /// Returns all cached slots to the pool; the cache stays usable. O(cached slots), under the
    /// lock.
    pub fn flush(&mut self) {
        let core = &mut self.core;
        Locked(self.pool).with(|engine| core.close(engine));
    }
}

impl<L: RawMutex> Drop for LocalCache<'_, L> {
    fn drop(&mut self) {
        self.flush();
    }
}

impl<L: RawMutex> fmt::Debug for LocalCache<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCache").finish_non_exhaustive()
    }
}
