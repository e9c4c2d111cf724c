#![allow(unsafe_code)] // passes on the safety conditions of frees
//! The public handle of a local cache.

use core::{alloc::Layout, fmt, mem::MaybeUninit, ptr::NonNull};

use lock_api::{Mutex, RawMutex};

use super::pool::{Guarded, Locked, Pool};
use crate::{
    cache::CacheCore,
    config::ClassId,
    error::{AllocError, BulkFreeError, FreeError, ReallocError},
    lock::NoLock,
    page_source::PageSource,
};

/// One thread's, core's or task's cache of a pool: it allocates and frees slots without a lock,
/// and takes the pool's lock once per magazine.
///
/// Slots may be freed through another cache than the one they came from; whole magazines travel
/// back through the depot. A cache holds two magazines per class, and, where bursts of its own come back
/// to it, as many as the largest of them fills: up to 32, and to one more than 1/32 of the region and 1/8
/// of the class's limit hold; or at most two, of a size that you choose
/// ([`PoolConfig::magazine`](crate::PoolConfig::magazine)). It returns them when it is dropped, on
/// [`flush`](Self::flush), and, the next time it goes beyond a magazine, when memory has run out
/// anywhere.
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

    /// As [`free_fixed`](Self::free_fixed), without checking the pointer: an explicit choice, for places
    /// that the profiler names. It marks the slot free, so that other calls find later misuse. In pools
    /// with flags, and in regions that were added, it is checked all the same; a refusal is counted and
    /// reported to [`PoolConfig::on_fault`](crate::PoolConfig::on_fault). Debug builds check it and panic.
    ///
    /// # Safety
    /// The memory is a live slot of this class of this pool, and not used any more, by anybody. A second
    /// free, or a pointer to anything else, has another caller's memory handed out, or overwritten.
    ///
    /// ```
    /// use std::mem::MaybeUninit;
    /// # use libmempool::{NoLock, Pool};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// let pool = Pool::<NoLock>::builder().size_classes(&[2048]).build(&mut memory)?;
    /// let packets = pool.class_of(2048)?;
    /// let mut cache = pool.local_cache();
    /// let packet = cache.alloc_fixed(packets)?;
    /// // SAFETY: it came from this class one line above, and is not used any more.
    /// unsafe { cache.free_fixed_unchecked(packets, packet) };
    /// // SAFETY: nobody uses it; it is refused.
    /// assert!(unsafe { cache.free_fixed(packets, packet) }.is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub unsafe fn free_fixed_unchecked(&mut self, class: ClassId, pointer: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { self.core.free_fixed_unchecked(class, pointer, &mut Locked(self.pool)) };
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

    /// As [`free_bulk`](Self::free_bulk), without checking the pointers; see
    /// [`free_fixed_unchecked`](Self::free_fixed_unchecked).
    ///
    /// # Safety
    /// As there, for each of them.
    #[inline]
    pub unsafe fn free_bulk_unchecked(&mut self, class: ClassId, pointers: &[NonNull<u8>]) {
        // SAFETY: the caller's promise.
        unsafe { self.core.free_bulk_unchecked(class, pointers, &mut Locked(self.pool)) };
    }

    /// Returns all cached slots to the pool, where other caches find them: for owners that have nothing to
    /// do for a while. The cache stays usable, and keeps up to two empty magazines per class. O(cached
    /// slots), with the lock once per magazine.
    pub fn flush(&mut self) {
        self.core.rest(&mut Locked(self.pool));
    }
}

impl<L: RawMutex> Drop for LocalCache<'_, L> {
    fn drop(&mut self) {
        self.core.close(&mut Locked(self.pool));
    }
}

impl<L: RawMutex> fmt::Debug for LocalCache<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCache").finish_non_exhaustive()
    }
}
