#![allow(unsafe_code)] // takes over regions, and hands out raw memory
//! The pool.

use core::{
    alloc::Layout,
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use lock_api::{Mutex, MutexGuard, RawMutex};

use super::builder::PoolBuilder;
#[cfg(feature = "std")]
use crate::cache::Events;
use crate::{
    asan,
    cache::{Backing, CacheCore, Engine, calls},
    config::{ClassId, LeakFn, LeakReport, MAX_ALIGNMENT, PoolConfig, SizeClass, preset_sizes},
    error::{AllocError, ConfigError, Corruption, FreeError, PageError, ReallocError},
    guard::Guards,
    heap::Owner,
    lock::NoLock,
    page_source::{CallerRegion, NoPages, PageSource, Pages},
    region::Region,
    slab::{MAX_CLASS_SIZE, Store},
    stats::{ClassStats, PoolStats},
    units::{Granule, fold_key, to_usize},
};

/// A memory pool over one or more regions.
///
/// `L` is the lock that guards it ([`NoLock`], or any [`lock_api::RawMutex`]), `P` the page source
/// its memory came from ([`CallerRegion`] if the caller handed it over), `'r` how long a borrowed
/// region is lent.
///
/// Allocation is safe: it returns memory that nobody else has. Freeing is `unsafe` for one reason,
/// that the caller must not use the memory any more. *Every* pointer may be passed to a free: one
/// that is not a live block of this pool is refused with a [`FreeError`], and nothing changes.
///
/// # Cost
/// Every operation is O(1) in the number of live and free blocks, failure included, except where
/// its text says otherwise. "Under the lock" is said where it is taken; callers without a
/// [`LocalCache`](crate::LocalCache) share one cache that the pool keeps behind its lock.
///
/// ```
/// use core::{alloc::Layout, mem::MaybeUninit};
/// use libmempool::{FreeError, NoLock, Pool};
///
/// let mut memory = [MaybeUninit::uninit(); 64 << 10];
/// let pool = Pool::<NoLock>::new(&mut memory)?;
/// let block = pool.alloc(Layout::new::<[u8; 1500]>())?;
/// // SAFETY: the block is 1500 bytes long, and is not used after its free.
/// unsafe {
///     block.write_bytes(0, 1500);
///     pool.free(block)?;
///     assert!(matches!(pool.free(block), Err(FreeError::NotLive { .. })));
/// }
/// assert_eq!(pool.stats().live_objects, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Pool<'r, L: RawMutex = NoLock, P: PageSource = CallerRegion> {
    pub(super) inner: Mutex<L, Guarded>,
    /// Behind `inner`, so that the memory outlives everything that lies in it.
    pages: Option<P::Pages>,
    /// Invariant in `'r`: a pool for long-lived regions must not be taken for one that could be
    /// given a shorter-lived one.
    region: PhantomData<fn(&'r ()) -> &'r ()>,
}

/// What the lock guards: the engine, and the cache of callers who have none.
#[derive(Debug)]
pub(super) struct Guarded {
    pub(super) engine: Engine,
    pub(super) shared: CacheCore,
    on_leak: Option<LeakFn>,
}

/// Reaches the engine through the pool's lock; events are reported when it is let go.
pub(super) struct Locked<'a, L: RawMutex>(pub(super) &'a Mutex<L, Guarded>);

impl<L: RawMutex> Backing for Locked<'_, L> {
    #[inline]
    fn with<R>(&mut self, work: impl FnOnce(&mut Engine) -> R) -> R {
        let mut guarded = self.0.lock();
        let result = work(&mut guarded.engine);
        finish(guarded);
        result
    }
}

/// Runs `work` on the shared cache and the engine, under the lock.
#[inline]
pub(super) fn shared<L: RawMutex, R>(
    pool: &Mutex<L, Guarded>,
    work: impl FnOnce(&mut CacheCore, &mut Engine) -> R,
) -> R {
    locked(pool.lock(), work)
}

/// As [`shared`], but tries first what is `quick`, after which nothing is reported: so its result need not
/// wait in memory until the lock is let go.
#[inline(always)]
pub(super) fn quick_or<L: RawMutex, R, E>(
    pool: &Mutex<L, Guarded>,
    quick: impl FnOnce(&CacheCore, &mut Engine) -> Option<R>,
    whole: impl FnOnce(&mut CacheCore, &mut Engine) -> Result<R, E>,
) -> Result<R, E> {
    let mut guarded = pool.lock();
    let Guarded { engine, shared, .. } = &mut *guarded;
    match quick(shared, engine) {
        Some(done) => Ok(done),
        None => locked(guarded, whole),
    }
}

/// As [`shared`], where the lock has been taken.
#[inline(never)]
fn locked<L: RawMutex, R>(
    mut guarded: MutexGuard<'_, L, Guarded>,
    work: impl FnOnce(&mut CacheCore, &mut Engine) -> R,
) -> R {
    let Guarded { engine, shared, .. } = &mut *guarded;
    let result = work(shared, engine);
    finish(guarded);
    result
}

/// Lets the lock go, then reports what happened under it.
fn finish<L: RawMutex>(mut guarded: MutexGuard<'_, L, Guarded>) {
    let events = guarded.engine.events.take();
    drop(guarded);
    if let Some(events) = events {
        events.report();
    }
}

/// Numbers the pools of this program, so that two in the same memory have different keys.
static POOLS: AtomicUsize = AtomicUsize::new(0);

/// The key of a new pool's checksums: what the caller gave, what the system has at random, and
/// what tells pools apart.
fn pool_key(given: u64, region: &Region) -> usize {
    // Not an atomic increment: targets without compare-and-swap have none, and two pools that get
    // the same number still have different regions.
    let number = POOLS.load(Relaxed).wrapping_add(1);
    POOLS.store(number, Relaxed);
    #[cfg(feature = "std")]
    let given = given ^ libmempool_std::random_key();
    fold_key(given) ^ region.start() ^ number.rotate_right(8)
}

impl<'r, L: RawMutex, P: PageSource> Pool<'r, L, P> {
    /// A pool without a region: it serves nothing until [`init`](Self::init).
    pub const fn empty() -> Self {
        let guarded =
            Guarded { engine: Engine::empty(), shared: CacheCore::shared(), on_leak: None };
        Self { inner: Mutex::new(guarded), pages: None, region: PhantomData }
    }

    /// Gives an empty pool its region, with the default configuration.
    ///
    /// # Errors
    /// [`ConfigError`]; the region is lost to the caller for `'r` all the same.
    ///
    /// ```
    /// use std::mem::MaybeUninit;
    /// use libmempool::{NoLock, Pool};
    ///
    /// let mut memory = vec![MaybeUninit::uninit(); 4096];
    /// let pool: Pool<NoLock> = Pool::empty();
    /// # let memory = memory.leak();
    /// pool.init(memory)?;
    /// # Ok::<(), libmempool::ConfigError>(())
    /// ```
    pub fn init(&self, region: &'r mut [MaybeUninit<u8>]) -> Result<(), ConfigError> {
        // In a constant: on the stack it is a burden for small targets.
        self.init_with(const { &PoolConfig::new() }, region)
    }

    /// Gives an empty pool its region and configuration. O(reserves), under the lock.
    ///
    /// # Errors
    /// [`ConfigError`]; the pool stays empty.
    pub fn init_with(
        &self,
        config: &PoolConfig,
        region: &'r mut [MaybeUninit<u8>],
    ) -> Result<(), ConfigError> {
        // SAFETY: the exclusive borrow lasts for `'r`, and the pool cannot outlive `'r`.
        unsafe { self.take_over(config, borrowed(region), None::<&NoPages>) }
    }

    /// # Safety
    /// The memory is valid, and the pool's alone as long as the pool lives; it is that of the pages, if
    /// there are any.
    unsafe fn take_over(
        &self,
        config: &PoolConfig,
        memory: NonNull<[u8]>,
        pages: Option<&impl Pages>,
    ) -> Result<(), ConfigError> {
        let mut guarded = self.inner.lock();
        if guarded.engine.store().first_region().is_some() {
            return Err(ConfigError::AlreadyInitialised);
        }
        // SAFETY: the caller's promise.
        let region = unsafe { Region::new(memory) };
        guarded.engine = new_engine(config, region, pages).inspect_err(|_| region.open())?;
        guarded.shared = CacheCore::shared();
        guarded.on_leak = config.on_leak;
        Ok(())
    }

    /// Adds a further region, disjoint from the others: on-chip and external memory can be one
    /// pool. The first one should be the largest; blocks never span two. O(regions), and the
    /// region's slab map, under the lock.
    ///
    /// # Errors
    /// [`ConfigError`]; the pool is as it was.
    pub fn add_region(&self, region: &'r mut [MaybeUninit<u8>]) -> Result<(), ConfigError> {
        // SAFETY: the exclusive borrow lasts for `'r`, and the pool cannot outlive `'r`.
        let region = unsafe { Region::new(borrowed(region)) };
        self.inner.lock().engine.slabs.store.add_region(region)
    }

    /// Adds a size class while the pool is in use. O(reserve), under the lock.
    ///
    /// # Errors
    /// [`ConfigError`]; no class is added, and no memory taken.
    ///
    /// ```
    /// # use std::mem::MaybeUninit;
    /// # use libmempool::{NoLock, Pool, SizeClass};
    /// # let mut memory = vec![MaybeUninit::uninit(); 64 << 10];
    /// let pool = Pool::<NoLock>::new(&mut memory)?;
    /// let sessions = pool.add_size_class(SizeClass::new(48).reserve(100))?;
    /// let slot = pool.alloc_fixed(sessions)?;
    /// // SAFETY: the slot is not used any more.
    /// unsafe { pool.free_fixed(sessions, slot)? };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_size_class(&self, class: SizeClass) -> Result<ClassId, ConfigError> {
        self.inner.lock().engine.add_class(&class)
    }

    /// The smallest class whose slots can hold `size` bytes. O(1), under the lock; callers keep
    /// the answer.
    ///
    /// # Errors
    /// [`AllocError::UnknownClass`] if there is none.
    pub fn class_of(&self, size: usize) -> Result<ClassId, AllocError> {
        self.inner.lock().engine.slabs.class_of(size).ok_or(AllocError::UnknownClass)
    }

    /// Runs `work` on the shared cache and the engine, under the lock.
    #[inline]
    fn shared<R>(&self, work: impl FnOnce(&mut CacheCore, &mut Engine) -> R) -> R {
        shared(&self.inner, work)
    }

    /// As [`shared`](Self::shared), if what is quick does not do.
    #[inline(always)]
    fn quick_or<R, E>(
        &self,
        quick: impl FnOnce(&CacheCore, &mut Engine) -> Option<R>,
        whole: impl FnOnce(&mut CacheCore, &mut Engine) -> Result<R, E>,
    ) -> Result<R, E> {
        quick_or(&self.inner, quick, whole)
    }

    /// Allocates memory for a layout: from the size class that suits it with little waste, if
    /// there is one, else from the heap. O(1), or, when memory runs out, O(slots in the depots),
    /// once; under the lock.
    ///
    /// # Errors
    /// [`AllocError`]; the failure is counted. Before it gives up, the pool takes back what its
    /// depots and its shared cache hold, and asks local caches to do the same.
    pub fn alloc(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        self.quick_or(
            |cache, engine| calls::alloc_quick(cache, engine, layout),
            |cache, engine| calls::alloc(cache, engine, layout),
        )
    }

    /// Like [`alloc`](Self::alloc), with every byte zero. O(1) plus the bytes, which are zeroed
    /// without the lock.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    pub fn alloc_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        let block = self.alloc(layout)?;
        // SAFETY: the block is fresh and at least that long.
        unsafe { block.write_bytes(0, layout.size()) };
        Ok(block)
    }

    /// Changes a block's size; the contents up to the smaller size are kept, and so is the
    /// alignment. It stays where it is if the block above is free (or the slot is large enough);
    /// it moves if not, and if it shrinks to half or less while there is room elsewhere. Shrinking
    /// never fails. O(1), plus the bytes if it moves, under the lock.
    ///
    /// # Safety
    /// If this succeeds, `pointer` is not used any more (unless it was returned), and nobody else
    /// uses the block meanwhile.
    ///
    /// # Errors
    /// [`ReallocError`]; the block is as it was.
    pub unsafe fn realloc(
        &self,
        pointer: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ReallocError> {
        let align = layout.align();
        self.shared(|cache, engine| {
            // SAFETY: the caller's promise.
            unsafe { calls::realloc(cache, engine, pointer, align, new_size) }
        })
    }

    /// Frees a block or slot by its pointer alone. O(1), under the lock.
    ///
    /// # Safety
    /// The memory is not used any more, by anybody. Any pointer at all may be passed; the word in
    /// front of it is looked at if it lies in the heap's part of a region, so nobody should be
    /// writing there just then.
    ///
    /// # Errors
    /// [`FreeError`] if it is not a live block of this pool; nothing changes, and it is counted.
    pub unsafe fn free(&self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        self.quick_or(
            |cache, engine| calls::free_quick(cache, engine, pointer),
            |cache, engine| calls::free(cache, engine, pointer),
        )
    }

    /// Frees a block or slot whose caller states the layout that it was allocated with, or, by
    /// [`realloc`](Self::realloc), has got since: a free of the wrong object shows. In pools with
    /// [`PoolFlags::CANARY`](crate::PoolFlags::CANARY) the size must be right to the byte; else it must be
    /// one that the block or slot can have been allocated for. O(1) as [`free`](Self::free).
    ///
    /// # Safety
    /// As [`free`](Self::free).
    ///
    /// # Errors
    /// [`FreeError::WrongSize`], [`FreeError::WrongAlign`], or as [`free`](Self::free); nothing changes,
    /// and it is counted.
    ///
    /// ```
    /// # use std::{alloc::Layout, mem::MaybeUninit};
    /// # use libmempool::{FreeError, NoLock, Pool, PoolFlags};
    /// # let mut memory = vec![MaybeUninit::uninit(); 64 << 10];
    /// let pool = Pool::<NoLock>::builder().flags(PoolFlags::CANARY).build(&mut memory)?;
    /// let (header, frame) = (Layout::new::<[u8; 40]>(), Layout::new::<[u8; 1514]>());
    /// let packet = pool.alloc(frame)?;
    /// // SAFETY: the packet is not used any more.
    /// unsafe {
    ///     let refused = pool.free_sized(packet, header);
    ///     assert!(matches!(refused, Err(FreeError::WrongSize { size: 1514, .. })));
    ///     pool.free_sized(packet, frame)?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn free_sized(&self, pointer: NonNull<u8>, layout: Layout) -> Result<(), FreeError> {
        self.shared(|cache, engine| calls::free_sized(cache, engine, pointer, layout, false))
    }

    /// What an allocator's caller gives back, with its layout: looked at where sizes are known to the byte.
    ///
    /// # Safety
    /// As [`free`](Self::free).
    pub(crate) unsafe fn give_back(
        &self,
        pointer: NonNull<u8>,
        layout: Layout,
    ) -> Result<(), FreeError> {
        self.quick_or(
            |cache, engine| calls::free_quick(cache, engine, pointer),
            |cache, engine| calls::free_sized(cache, engine, pointer, layout, true),
        )
    }

    /// Allocates a slot of a class. O(1), under the lock.
    ///
    /// # Errors
    /// [`AllocError`]; the failure is counted.
    pub fn alloc_fixed(&self, class: ClassId) -> Result<NonNull<u8>, AllocError> {
        self.quick_or(
            |cache, _| cache.alloc_fixed_quick(class),
            |cache, engine| cache.alloc_fixed(class, engine),
        )
    }

    /// Frees a slot of a class. O(1), under the lock.
    ///
    /// # Safety
    /// As [`free`](Self::free).
    ///
    /// # Errors
    /// [`FreeError`] if it is not a live slot of this class; nothing changes, and it is counted.
    pub unsafe fn free_fixed(&self, class: ClassId, pointer: NonNull<u8>) -> Result<(), FreeError> {
        self.quick_or(
            |cache, _| cache.free_quick(pointer.addr().get(), Some(class)).then_some(()),
            |cache, engine| cache.free(pointer, Some(class), engine),
        )
    }

    /// Allocates a slot of the smallest class that holds `size` bytes, however much that wastes:
    /// [`class_of`](Self::class_of) and [`alloc_fixed`](Self::alloc_fixed) in one. O(1), under the
    /// lock.
    ///
    /// # Errors
    /// [`AllocError`], [`AllocError::UnknownClass`] if no class is large enough; the failure is
    /// counted.
    ///
    /// ```
    /// # use std::{alloc::Layout, mem::MaybeUninit};
    /// # use libmempool::{FreeError, NoLock, Pool};
    /// # let mut memory = vec![MaybeUninit::uninit(); 64 << 10];
    /// let pool = Pool::<NoLock>::builder().size_classes(&[64, 512]).build(&mut memory)?;
    /// let slot = pool.alloc_slot(100)?;
    /// let block = pool.alloc(Layout::new::<[u8; 100]>())?;
    /// // SAFETY: neither is used any more.
    /// unsafe {
    ///     assert_eq!(pool.usable_size(slot)?, 512);
    ///     pool.free_slot(slot)?;
    ///     assert!(matches!(pool.free_slot(block), Err(FreeError::WrongClass { .. })));
    ///     pool.free(block)?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn alloc_slot(&self, size: usize) -> Result<NonNull<u8>, AllocError> {
        self.quick_or(
            |cache, _| cache.alloc_slot_quick(size),
            |cache, engine| cache.alloc_slot(size, engine),
        )
    }

    /// Frees a slot of whatever class; a block of the heap is
    /// [`WrongClass`](FreeError::WrongClass). O(1), under the lock.
    ///
    /// # Safety
    /// As [`free`](Self::free).
    ///
    /// # Errors
    /// [`FreeError`] if it is not a live slot; nothing changes, and it is counted.
    pub unsafe fn free_slot(&self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        self.shared(|cache, engine| cache.free_slot(pointer, engine))
    }

    /// The bytes that may be used behind a live pointer: at least what was asked for. O(1), under
    /// the lock.
    ///
    /// # Safety
    /// Nobody writes to the word in front of `pointer` meanwhile: for a live block of the caller's
    /// own that is the pool's own word, which nobody may touch.
    ///
    /// # Errors
    /// [`FreeError`] if it is not a live block of this pool.
    pub unsafe fn usable_size(&self, pointer: NonNull<u8>) -> Result<usize, FreeError> {
        self.shared(|cache, engine| calls::usable_size(cache, engine, pointer))
    }

    /// Whether an address lies in one of the pool's regions, live block or not. O(regions), under
    /// the lock.
    pub fn contains(&self, pointer: *const u8) -> bool {
        self.inner.lock().engine.store().region_of(pointer.addr()).is_some()
    }

    /// Statistics. O(regions + classes x caches), under the lock.
    pub fn stats(&self) -> PoolStats {
        let mut guarded = self.inner.lock();
        guarded.engine.slabs.store.settle_all();
        stats_of(&guarded.engine)
    }

    /// One class's statistics; `None` if there is no such class. O(caches), under the lock.
    pub fn class_stats(&self, class: ClassId) -> Option<ClassStats> {
        let guarded = self.inner.lock();
        let engine = &guarded.engine;
        let entry = engine.slabs.class(class)?;
        let (live, cached) = entry.live_and_cached(engine.cached(class));
        Some(ClassStats {
            id: class,
            size: entry.shape.size,
            stride: to_usize(entry.shape.stride),
            slabs: to_usize(entry.slabs),
            slots: to_usize(entry.slots()),
            live,
            cached,
            free: to_usize(entry.free()),
            peak: to_usize(entry.peak),
            reserve: to_usize(entry.reserve),
            limit: to_usize(entry.limit),
            failures: to_usize(entry.failures),
            limit_hits: to_usize(entry.limit_hits),
        })
    }

    /// The pool's classes, in the order they were added. O(1), under the lock.
    pub fn classes(&self) -> impl Iterator<Item = ClassId> + use<L, P> {
        self.inner.lock().engine.class_ids()
    }

    /// Returns to the heap what the pool keeps ready: magazines in the depots and the shared
    /// cache, and slabs without a live slot beyond the reserves; and merges the freed blocks that rest, or
    /// wait.
    /// Returns the bytes that the heap got. O(slots that were cached), under the lock.
    pub fn defragment(&self) -> usize {
        self.shared(|cache, engine| {
            let before = engine.free_bytes();
            cache.close(engine);
            engine.reclaim();
            engine.slabs.store.settle_all();
            engine.free_bytes().saturating_sub(before)
        })
    }

    /// Has the platform back the pool's memory now, so that no first touch costs a page fault
    /// later: all mapped pages, or, in the caller's own regions, the free memory, which is
    /// touched. Memory that is poisoned has been. O(pages), in the caller's regions and in pools with
    /// guards under the lock.
    ///
    /// # Errors
    /// [`PageError`] if the page source could not; everything works as before.
    pub fn warm_up(&self) -> Result<(), PageError> {
        let mapped = self.pages.as_ref().map(Pages::memory);
        let guarded = self.inner.lock();
        let is_touched = guarded.engine.harden().poisons();
        guarded.engine.slabs.for_each_free(|region, free| {
            if !is_touched && mapped.is_none_or(|pages| pages.addr().get() != region.start()) {
                region.touch(free);
            }
        });
        let Some(pages) = &self.pages else { return Ok(()) };
        if let Some(guards) = guarded.engine.store().guards() {
            // Under the lock, so that they stay where they are.
            return guards.accessible().try_for_each(|run| pages.prefault(run.start, run.len()));
        }
        drop(guarded);
        pages.prefault(0, pages.memory().len())
    }

    /// Gives the platform back the pages behind free memory: their next use faults again. After a
    /// peak that will not come back, [`defragment`](Self::defragment) first makes the most memory
    /// free. Returns the bytes that were offered; whole pages within them were taken. Does nothing
    /// for the caller's own regions, nor in pools that poison free memory, which the platform would
    /// clear. O(blocks + slabs), under the lock.
    ///
    /// # Errors
    /// The first [`PageError`] of the page source; what came before it is given back.
    pub fn discard_free(&self) -> Result<usize, PageError> {
        let Some(pages) = &self.pages else { return Ok(0) };
        let mapped = pages.memory().addr().get();
        let guarded = self.inner.lock();
        if guarded.engine.harden().poisons() {
            return Ok(0);
        }
        let mut result = Ok(0);
        guarded.engine.slabs.for_each_free(|region, free| {
            if let Ok(offered) = result
                && region.start() == mapped
            {
                // SAFETY: the range is in the mapped region, nobody uses it, and the lock keeps it
                // so.
                let discard = || unsafe { pages.discard(free.start - mapped, free.len()) };
                let discarded = asan::opened(region.at(free.start), free.len(), discard);
                result = discarded.map(|()| offered + free.len());
            }
        });
        result
    }

    /// Frees everything at once: every block and slot, whoever had it, and all caches. Classes,
    /// reserves and regions stay. The exclusive borrow proves that no cache, handle or collection
    /// is left; raw pointers must not be used any more, and freeing one is refused. O(blocks +
    /// slots).
    ///
    /// # Errors
    /// [`Corruption`] if the pool's data is damaged; what lay before the damage is free.
    ///
    /// ```
    /// # use std::{alloc::Layout, mem::MaybeUninit};
    /// # use libmempool::{NoLock, Pool};
    /// # let mut memory = vec![MaybeUninit::uninit(); 64 << 10];
    /// let mut pool = Pool::<NoLock>::new(&mut memory)?;
    /// pool.alloc(Layout::new::<u64>())?;
    /// pool.reset()?;
    /// assert_eq!(pool.stats().live_objects, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reset(&mut self) -> Result<(), Corruption> {
        self.reset_shared()
    }

    /// [`reset`](Self::reset) for callers who know by other means that no cache is in use.
    pub(crate) fn reset_shared(&self) -> Result<(), Corruption> {
        let mut guarded = self.inner.lock();
        let Guarded { engine, shared, .. } = &mut *guarded;
        shared.close(engine);
        engine.reset()
    }

    /// Allocates memory for records that its caller keeps beside the pool's own, a binding's
    /// handles for example: they count as [`metadata_bytes`](PoolStats::metadata_bytes), not as
    /// live objects, no free of a user's takes them, and a reset leaves them. Aligned to the pool's
    /// granule, at least two words. O(1), under the lock.
    ///
    /// # Errors
    /// [`AllocError`]; nothing is reclaimed for it.
    ///
    /// ```
    /// # use std::{alloc::Layout, mem::MaybeUninit};
    /// # use libmempool::{NoLock, Pool};
    /// # let mut memory = vec![MaybeUninit::uninit(); 64 << 10];
    /// let pool = Pool::<NoLock>::new(&mut memory)?;
    /// let record = pool.alloc_metadata(Layout::new::<[u64; 4]>())?;
    /// assert_eq!(pool.stats().live_objects, 0);
    /// // SAFETY: the record is not used any more; its block is not a caller's.
    /// unsafe {
    ///     assert!(pool.free(record).is_err());
    ///     pool.free_metadata(record);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn alloc_metadata(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        self.inner.lock().engine.alloc_block(layout, Owner::Pool)
    }

    /// Frees memory of [`alloc_metadata`](Self::alloc_metadata). What is damaged stays allocated.
    /// O(1), under the lock.
    ///
    /// # Safety
    /// It came from there, and is not used any more.
    pub unsafe fn free_metadata(&self, record: NonNull<u8>) {
        self.inner.lock().engine.slabs.store.free_own(record.as_ptr());
    }

    /// The lock itself, for taking it around a fork.
    #[cfg(feature = "std")]
    pub(crate) fn raw_lock(&self) -> &L {
        // SAFETY: whoever gets it here lets go only what it has taken.
        unsafe { self.inner.raw() }
    }

    /// Runs `work` with the engine, under the lock, and returns what is to be reported after.
    #[cfg(feature = "std")]
    pub(crate) fn with_engine<R>(
        &self,
        work: impl FnOnce(&mut Engine) -> R,
    ) -> (R, Option<Events>) {
        let mut guarded = self.inner.lock();
        let result = work(&mut guarded.engine);
        (result, guarded.engine.events.take())
    }

    /// As [`with_engine`](Self::with_engine), where nothing may be reported: that is left to the next
    /// call.
    #[cfg(feature = "std")]
    pub(crate) fn with_engine_unreported<R>(&self, work: impl FnOnce(&mut Engine) -> R) -> R {
        work(&mut self.inner.lock().engine)
    }

    /// Ends the pool and says what was still live. Mapped pages go back to their source.
    pub fn destroy(mut self) -> LeakReport {
        self.inner.get_mut().on_leak = None;
        self.leaks()
    }

    fn leaks(&mut self) -> LeakReport {
        let stats = stats_of(&self.inner.get_mut().engine);
        LeakReport { objects: stats.live_objects, bytes: stats.live_bytes }
    }

    /// What the page source really gave; `None` for a caller's region.
    pub fn pages(&self) -> Option<&P::Pages> {
        self.pages.as_ref()
    }
}

impl<'r, L: RawMutex> Pool<'r, L> {
    /// A pool over the caller's memory, with the default configuration.
    ///
    /// # Errors
    /// [`ConfigError::RegionTooSmall`], [`ConfigError::RegionTooLarge`].
    pub fn new(region: &'r mut [MaybeUninit<u8>]) -> Result<Self, ConfigError> {
        let pool = Self::empty();
        pool.init(region)?;
        Ok(pool)
    }

    /// Starts a configuration that ends in [`PoolBuilder::build`] or [`PoolBuilder::map`].
    pub const fn builder() -> PoolBuilder<L> {
        PoolBuilder::new()
    }
}

impl<L: RawMutex, P: PageSource> Pool<'static, L, P> {
    /// A pool over pages that it owns from now on.
    pub(super) fn over(pages: P::Pages, config: &PoolConfig) -> Result<Self, ConfigError> {
        let mut pool = Self::empty();
        // SAFETY: the contract of `Pages`: valid until the value is dropped, which happens after the pool's
        // end if this fails, and which the pool does last if not; used by nobody else.
        unsafe { pool.take_over(config, pages.memory(), Some(&pages))? };
        pool.pages = Some(pages);
        Ok(pool)
    }
}

impl<L: RawMutex, P: PageSource> Drop for Pool<'_, L, P> {
    fn drop(&mut self) {
        let regions = self.inner.get_mut().engine.store().entries();
        regions.for_each(|entry| entry.region().open());
        if let Some(on_leak) = self.inner.get_mut().on_leak {
            let leaks = self.leaks();
            if !leaks.is_clean() {
                on_leak(leaks);
            }
        }
    }
}

/// The memory behind an exclusive borrow.
fn borrowed(region: &mut [MaybeUninit<u8>]) -> NonNull<[u8]> {
    let len = region.len();
    NonNull::slice_from_raw_parts(NonNull::from(region).cast(), len)
}

fn new_engine(
    config: &PoolConfig,
    region: Region,
    pages: Option<&impl Pages>,
) -> Result<Engine, ConfigError> {
    let alignment = config.alignment;
    if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
        return Err(ConfigError::BadAlignment { alignment });
    }
    let classes = config.classes().ok_or(ConfigError::TooManyClasses)?;
    let granule = Granule::new(alignment);
    let key = pool_key(config.key, &region);
    let zeroed = pages.is_some_and(Pages::is_zeroed);
    let mut store = Store::new(region, zeroed, granule, key, config.flags)?;
    if let Some(pages) = pages
        && let Some(guards) = pages.guards()
    {
        store.guard_with(guards, pages.page_size());
    }
    let mut engine = Engine::new(store, config.magazine, config.on_fault);
    if !config.flags.is_empty() {
        engine.serve_all();
    }
    for class in classes {
        engine.add_class(class)?;
    }
    if config.preset {
        add_preset(&mut engine)?;
    }
    engine.slabs.store.open();
    Ok(engine)
}

/// The preset table, as far as slabs of its sizes make sense in these regions.
fn add_preset(engine: &mut Engine) -> Result<(), ConfigError> {
    let largest = (engine.store().region_bytes() / PRESET_SHARE).min(MAX_CLASS_SIZE);
    let mut previous = 0;
    for size in preset_sizes().take_while(|&size| size <= largest) {
        let rounded = engine.store().granule().round_up(size).unwrap_or(size);
        if rounded != previous {
            engine.add_class(&SizeClass::new(size))?;
        }
        previous = rounded;
    }
    Ok(())
}

/// A preset class's objects are at most this part of the regions.
const PRESET_SHARE: usize = 1024;

fn stats_of(engine: &Engine) -> PoolStats {
    let heap = engine.store().heap();
    let counters = heap.counters();
    let (waiting, guards) = (engine.store().waiting(), engine.store().guards());
    let mut stats = PoolStats {
        region_bytes: engine.store().region_bytes(),
        metadata_bytes: counters.internal_bytes,
        live_bytes: counters.live_bytes,
        live_objects: counters.live_objects,
        peak_bytes: engine.peak_bytes,
        quarantined_bytes: waiting.bytes(),
        quarantined_objects: waiting.len(),
        guard_bytes: guards.map_or(0, Guards::bytes),
        guard_failures: guards.map_or(0, |guards| guards.failures),
        free_bytes: engine.free_bytes(),
        free_blocks: counters.free_blocks,
        largest_free: engine.largest_free(),
        slab_bytes: counters.span_bytes,
        classes: engine.slabs.count(),
        caches: engine.cache_blocks().count(),
        failures: engine.failures,
        bad_frees: engine.bad_frees,
        damaged_blocks: heap.damaged(),
        ..PoolStats::default()
    };
    let caches = engine.first_cache_blocks(stats.caches);
    for class in engine.class_ids() {
        let Some(entry) = engine.slabs.class(class) else { continue };
        let size = entry.shape.size;
        let counted = engine.cached_in(class, caches.clone());
        let (live, cached) = entry.live_and_cached(counted);
        stats.live_objects += live;
        stats.live_bytes += live * size;
        stats.cached_objects += cached;
        stats.cached_bytes += cached * size;
        let waiting = caches.clone().map(|block| block.waiting(class)).sum::<usize>();
        // What is damaged may say anything.
        stats.quarantined_objects = stats.quarantined_objects.saturating_add(waiting);
        let waiting_bytes = waiting.saturating_mul(size);
        stats.quarantined_bytes = stats.quarantined_bytes.saturating_add(waiting_bytes);
        stats.damaged_blocks += to_usize(entry.damaged);
        stats.limit_hits += to_usize(entry.limit_hits);
    }
    stats
}
