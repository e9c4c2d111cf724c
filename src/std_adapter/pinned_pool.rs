#![allow(unsafe_code)] // keeps threads' caches in the pool's memory
//! A thread-cached pool that stays where it is.

use core::{
    alloc::Layout,
    cell::Cell,
    fmt,
    marker::PhantomPinned,
    ptr::{NonNull, null_mut},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use lock_api::RawMutex;

use super::{
    registry::{Links, Member, REGISTRY, Registry},
    thread_block::{Hidden, ThreadBlock, thread_block},
};
use crate::{
    cache::{Backing, CacheCore, Engine},
    config::ClassId,
    error::{AllocError, Corruption, FreeError, ReallocError},
    page_source::{CallerRegion, PageSource},
    pool::{Pool, impl_global_alloc},
    units::MIN_GRANULE,
};

/// A pool whose calls find the calling thread's cache, at an address that does not change: what
/// [`ThreadCachedPool`](super::ThreadCachedPool) shares, for statics and for foreign callers. It
/// allocates nothing but from its own memory, so it can be the `#[global_allocator]`.
///
/// A thread gets its cache the first time it calls. The cache returns what it holds when the
/// thread ends. A process that forks finds the pool in order on both sides; what the caches of
/// other threads held is lost to the child, where those threads are not.
///
/// ```
/// use std::alloc::Layout;
/// use libmempool::{MmapPages, PinnedPool, Pool, PthreadMutex};
///
/// let pool = Pool::<PthreadMutex>::builder().preset_classes().map(MmapPages::new(), 16 << 20)?;
/// // SAFETY: it stays in this variable until it is dropped.
/// let pool = unsafe { PinnedPool::new(pool) };
/// let block = pool.alloc(Layout::new::<[u8; 200]>())?;
/// // SAFETY: the block is not used any more.
/// unsafe { pool.free(block)? };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[repr(C)]
pub struct PinnedPool<L, P = CallerRegion>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
    /// The registry's number for it; `UNREGISTERED` before the first call.
    id: AtomicU64,
    /// All threads' caches. Used under the registry's lock only.
    entries: Cell<*mut Entry>,
    /// Used under the registry's lock only.
    links: Links,
    pool: Pool<'static, L, P>,
    _pinned: PhantomPinned,
}

/// No pool's number, and in no thread's block.
const UNREGISTERED: u64 = u64::MAX;

// SAFETY: it may be dropped, and before it is registered moved, by any thread: the pool may, and
// the rest is used under the registry's lock only.
unsafe impl<L, P> Send for PinnedPool<L, P>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
}

// SAFETY: the pool is shared behind its own lock; the cells are used under the registry's lock
// only, and each cache only by the thread that it belongs to.
unsafe impl<L, P> Sync for PinnedPool<L, P>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
}

/// One thread's cache, in the pool's own memory.
struct Entry {
    next: *mut Entry,
    thread: u64,
    cache: CacheCore,
}

/// Reaches the engine through the lock. Callbacks run while the thread's caches are hidden.
struct ThreadLocked<'a, L: RawMutex, P: PageSource>(&'a Pool<'static, L, P>);

impl<L: RawMutex, P: PageSource> Backing for ThreadLocked<'_, L, P> {
    fn with<R>(&mut self, work: impl FnOnce(&mut Engine) -> R) -> R {
        let (result, event) = self.0.with_engine(work);
        if let Some(event) = event {
            let _hidden = Hidden::new();
            event.report();
        }
        result
    }
}

/// Reaches the engine through the lock, where no callback may run.
struct Unreported<'a, L: RawMutex, P: PageSource>(&'a Pool<'static, L, P>);

impl<L: RawMutex, P: PageSource> Backing for Unreported<'_, L, P> {
    fn with<R>(&mut self, work: impl FnOnce(&mut Engine) -> R) -> R {
        self.0.with_engine_unreported(work)
    }
}

impl<L, P> PinnedPool<L, P>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
    /// Lets every thread have a cache of this pool.
    ///
    /// # Safety
    /// From its first use on it is not moved, and its memory is not used for anything else before
    /// it has been dropped: as a static, in a box, or as [`Pin`](core::pin::Pin) has it.
    pub const unsafe fn new(pool: Pool<'static, L, P>) -> Self {
        Self {
            id: AtomicU64::new(UNREGISTERED),
            entries: Cell::new(null_mut()),
            links: Links::new(),
            pool,
            _pinned: PhantomPinned,
        }
    }

    /// Ends it, so that the pool can be moved. What threads' caches held stays counted as cached, until a
    /// reset, unless they were [flushed](Self::flush_thread) before.
    ///
    /// # Safety
    /// `this` is one that [`new`](Self::new) made, nobody uses it, and it is not used afterwards,
    /// nor dropped.
    pub unsafe fn end(this: NonNull<Self>) -> Pool<'static, L, P> {
        // SAFETY: the caller's promise.
        unsafe { this.as_ref() }.unregister();
        // SAFETY: as above; the pool is read out once.
        unsafe { (&raw const (*this.as_ptr()).pool).read() }
    }

    fn unregister(&self) {
        if self.id.load(Relaxed) != UNREGISTERED {
            REGISTRY.lock().remove(self);
        }
    }

    /// The pool itself. Its own allocating calls take the lock.
    pub fn pool(&self) -> &Pool<'static, L, P> {
        &self.pool
    }

    /// Runs `cached` on this thread's cache, or `locked` on the pool where there is none: in a
    /// callback, at the thread's end, or without memory for a cache.
    #[inline(always)]
    fn on_cache<R>(
        &self,
        cached: impl FnOnce(&mut CacheCore, &mut ThreadLocked<'_, L, P>) -> R,
        locked: impl FnOnce(&Pool<'static, L, P>) -> R,
    ) -> R {
        let current = thread_block().current(self.id.load(Relaxed));
        match current.or_else(|| self.find_cache()) {
            Some(mut cache) => {
                // SAFETY: the cache lies in the pool's memory until this thread ends, and nothing
                // else reaches it meanwhile: an operation that calls out hides it first
                // (`ThreadLocked`), and a reset excludes other calls.
                let cache = unsafe { cache.as_mut() };
                cached(cache, &mut ThreadLocked(&self.pool))
            }
            None => locked(&self.pool),
        }
    }

    /// This thread's cache, if this is the pool that it used last. What is done with it calls nothing that
    /// could want it too.
    #[inline(always)]
    fn current(&self) -> Option<&CacheCore> {
        let cache = thread_block().current(self.id.load(Relaxed))?;
        // SAFETY: as in `on_cache`.
        Some(unsafe { cache.as_ref() })
    }

    #[cold]
    #[inline(never)]
    fn find_cache(&self) -> Option<NonNull<CacheCore>> {
        let block = thread_block();
        if !block.may_cache() {
            return None;
        }
        if let Some(cache) = block.recall(self.id.load(Relaxed)) {
            return Some(cache);
        }
        let hidden = Hidden::new();
        let (id, cache) = self.enter(block)?;
        drop(hidden);
        block.remember(id, cache);
        Some(cache)
    }

    /// Finds or makes the calling thread's cache: the pool's number, and the cache.
    fn enter(&self, block: &ThreadBlock) -> Option<(u64, NonNull<CacheCore>)> {
        let mut registry = REGISTRY.lock();
        let thread = registry.number_of(block)?;
        let entry = self.entry_of(thread).or_else(|| self.new_entry(thread))?;
        // SAFETY: entries in the list are whole.
        let cache = NonNull::new(unsafe { &raw mut (*entry).cache })?;
        Some((self.registered(&mut registry), cache))
    }

    /// The pool's number.
    fn registered(&self, registry: &mut Registry) -> u64 {
        let id = self.id.load(Relaxed);
        if id != UNREGISTERED {
            return id;
        }
        // SAFETY: it is not registered; it stays where it is (`new`), and `drop` unregisters it.
        let id = unsafe { registry.add(NonNull::from(self as &dyn Member)) };
        self.id.store(id, Relaxed);
        id
    }

    /// The entry of a thread. O(threads), under the registry's lock.
    fn entry_of(&self, thread: u64) -> Option<*mut Entry> {
        // SAFETY: entries in the list are whole, and stay while the registry's lock is held.
        self.entries().find(|&entry| unsafe { (*entry).thread } == thread)
    }

    fn entries(&self) -> impl Iterator<Item = *mut Entry> + use<L, P> {
        let present = |entry: *mut Entry| (!entry.is_null()).then_some(entry);
        // SAFETY: as in `entry_of`.
        core::iter::successors(present(self.entries.get()), move |&entry| unsafe {
            present((*entry).next)
        })
    }

    /// Makes a thread an entry; `None` without memory. Under the registry's lock.
    fn new_entry(&self, thread: u64) -> Option<*mut Entry> {
        let memory = self.pool.alloc_metadata(Layout::new::<Entry>()).ok()?.cast::<Entry>();
        let entry = Entry { next: self.entries.get(), thread, cache: CacheCore::new() };
        // SAFETY: the memory is fresh and made for an entry.
        unsafe { memory.write(entry) };
        self.entries.set(memory.as_ptr());
        Some(memory.as_ptr())
    }

    /// As [`Pool::alloc`]. O(1) without the lock for sizes that a class serves.
    ///
    /// # Errors
    /// [`AllocError`]; the failure is counted.
    #[inline]
    pub fn alloc(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if layout.align() <= MIN_GRANULE
            && let Some(slot) = self.alloc_quick(layout.size())
        {
            return Ok(slot);
        }
        self.alloc_aligned(layout)
    }

    /// Allocates for any alignment.
    #[inline(never)]
    fn alloc_aligned(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if layout.align() > MIN_GRANULE
            && let Some(slot) = self.current().and_then(|cache| cache.alloc_quick_aligned(layout))
        {
            return Ok(slot);
        }
        self.alloc_slow(layout)
    }

    /// The first step of [`alloc`](Self::alloc) alone, some thirty to fifty instructions long: a slot of
    /// `size` bytes, aligned to two words, if this thread's cache has one at hand. `None` says nothing:
    /// `alloc` tries everything.
    #[inline(always)]
    pub fn alloc_quick(&self, size: usize) -> Option<NonNull<u8>> {
        self.current()?.alloc_quick(size)
    }

    #[cold]
    #[inline(never)]
    fn alloc_slow(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        self.on_cache(|cache, engine| cache.alloc(layout, engine), |pool| pool.alloc(layout))
    }

    /// As [`Pool::alloc_zeroed`].
    ///
    /// # Errors
    /// [`AllocError`]; the failure is counted.
    pub fn alloc_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        let block = self.alloc(layout)?;
        // SAFETY: the block is fresh and at least that long.
        unsafe { block.write_bytes(0, layout.size()) };
        Ok(block)
    }

    /// As [`Pool::realloc`].
    ///
    /// # Safety
    /// As [`Pool::realloc`].
    ///
    /// # Errors
    /// [`ReallocError`]; the block is as it was.
    pub unsafe fn realloc(
        &self,
        pointer: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ReallocError> {
        self.on_cache(
            // SAFETY: the caller's promise.
            |cache, engine| unsafe { cache.realloc(pointer, layout.align(), new_size, engine) },
            // SAFETY: the caller's promise.
            |pool| unsafe { pool.realloc(pointer, layout, new_size) },
        )
    }

    /// As [`Pool::free`]. O(1) without the lock for slots.
    ///
    /// # Safety
    /// As [`Pool::free`].
    ///
    /// # Errors
    /// [`FreeError`] if it is not a live block of this pool; nothing changes, and it is counted.
    #[inline]
    pub unsafe fn free(&self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        // SAFETY: the caller's promise.
        if unsafe { self.free_quick(pointer.as_ptr()) } {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.free_slow(pointer) }
    }

    /// The first step of [`free`](Self::free) alone, some fifty instructions long: `true` if the pointer
    /// was a live slot and this thread's cache had room for it at hand. `false` says nothing, and
    /// nothing has changed: `free` tries everything, and knows the error.
    ///
    /// # Safety
    /// As [`Pool::free`].
    #[inline(always)]
    pub unsafe fn free_quick(&self, pointer: *mut u8) -> bool {
        self.current().is_some_and(|cache| cache.free_quick(pointer.addr(), None))
    }

    /// # Safety
    /// As [`Pool::free`].
    #[cold]
    #[inline(never)]
    unsafe fn free_slow(&self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        self.on_cache(
            |cache, engine| cache.free(pointer, None, engine),
            // SAFETY: the caller's promise.
            |pool| unsafe { pool.free(pointer) },
        )
    }

    /// As [`Pool::free_sized`]. O(1) without the lock for slots.
    ///
    /// # Safety
    /// As [`Pool::free`].
    ///
    /// # Errors
    /// As [`Pool::free_sized`].
    pub unsafe fn free_sized(&self, pointer: NonNull<u8>, layout: Layout) -> Result<(), FreeError> {
        self.on_cache(
            |cache, engine| cache.free_sized(pointer, layout, false, engine),
            // SAFETY: the caller's promise.
            |pool| unsafe { pool.free_sized(pointer, layout) },
        )
    }

    /// As [`Pool::give_back`].
    ///
    /// # Safety
    /// As [`Pool::free`].
    pub(crate) unsafe fn give_back(
        &self,
        pointer: NonNull<u8>,
        layout: Layout,
    ) -> Result<(), FreeError> {
        // SAFETY: the caller's promise.
        if unsafe { self.free_quick(pointer.as_ptr()) } {
            return Ok(());
        }
        self.on_cache(
            |cache, engine| cache.free_sized(pointer, layout, true, engine),
            // SAFETY: the caller's promise.
            |pool| unsafe { pool.give_back(pointer, layout) },
        )
    }

    /// As [`Pool::usable_size`]. O(1) without the lock for slots.
    ///
    /// # Safety
    /// As [`Pool::usable_size`].
    ///
    /// # Errors
    /// [`FreeError`] if it is not a live block of this pool.
    pub unsafe fn usable_size(&self, pointer: NonNull<u8>) -> Result<usize, FreeError> {
        self.on_cache(
            |cache, engine| cache.usable_size(pointer, engine),
            // SAFETY: the caller's promise.
            |pool| unsafe { pool.usable_size(pointer) },
        )
    }

    /// As [`Pool::alloc_fixed`]. O(1) without the lock.
    ///
    /// # Errors
    /// [`AllocError`]; the failure is counted.
    #[inline]
    pub fn alloc_fixed(&self, class: ClassId) -> Result<NonNull<u8>, AllocError> {
        if let Some(slot) = self.current().and_then(|cache| cache.alloc_fixed_quick(class)) {
            return Ok(slot);
        }
        self.alloc_fixed_slow(class)
    }

    #[cold]
    #[inline(never)]
    fn alloc_fixed_slow(&self, class: ClassId) -> Result<NonNull<u8>, AllocError> {
        self.on_cache(
            |cache, engine| cache.alloc_fixed(class, engine),
            |pool| pool.alloc_fixed(class),
        )
    }

    /// As [`Pool::free_fixed`]. O(1) without the lock.
    ///
    /// # Safety
    /// As [`Pool::free`].
    ///
    /// # Errors
    /// [`FreeError`] if it is not a live slot of this class; nothing changes, and it is counted.
    #[inline]
    pub unsafe fn free_fixed(&self, class: ClassId, pointer: NonNull<u8>) -> Result<(), FreeError> {
        let addr = pointer.addr().get();
        if self.current().is_some_and(|cache| cache.free_quick(addr, Some(class))) {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.free_fixed_slow(class, pointer) }
    }

    /// # Safety
    /// As [`Pool::free`].
    #[cold]
    #[inline(never)]
    unsafe fn free_fixed_slow(
        &self,
        class: ClassId,
        pointer: NonNull<u8>,
    ) -> Result<(), FreeError> {
        self.on_cache(
            |cache, engine| cache.free(pointer, Some(class), engine),
            // SAFETY: the caller's promise.
            |pool| unsafe { pool.free_fixed(class, pointer) },
        )
    }

    /// As [`Pool::alloc_slot`]. O(1) without the lock.
    ///
    /// # Errors
    /// [`AllocError`]; the failure is counted.
    #[inline]
    pub fn alloc_slot(&self, size: usize) -> Result<NonNull<u8>, AllocError> {
        self.on_cache(|cache, engine| cache.alloc_slot(size, engine), |pool| pool.alloc_slot(size))
    }

    /// As [`Pool::free_slot`]. O(1) without the lock.
    ///
    /// # Safety
    /// As [`Pool::free`].
    ///
    /// # Errors
    /// [`FreeError`] if it is not a live slot; nothing changes, and it is counted.
    #[inline]
    pub unsafe fn free_slot(&self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        self.on_cache(
            |cache, engine| cache.free_slot(pointer, engine),
            // SAFETY: the caller's promise.
            |pool| unsafe { pool.free_slot(pointer) },
        )
    }

    /// Returns all slots of this thread's cache to the pool, where other caches find them: for threads that
    /// have nothing to do for a while. O(cached slots), under the lock.
    pub fn flush_thread(&self) {
        self.on_cache(|cache, engine| cache.rest(engine), |_| ());
    }

    /// As [`Pool::reset`]. Threads keep their caches, which are empty then. O(blocks + slots +
    /// threads).
    ///
    /// # Errors
    /// As [`Pool::reset`].
    pub fn reset(&mut self) -> Result<(), Corruption> {
        self.reset_shared()
    }

    /// [`reset`](Self::reset) for callers who know by other means that no other call is under way.
    pub(super) fn reset_shared(&self) -> Result<(), Corruption> {
        let registry = REGISTRY.lock();
        self.entries().for_each(|entry| self.close(entry));
        drop(registry);
        self.pool.reset_shared()
    }

    /// Gives back what an entry's cache holds. Its thread is not using it. Under the registry's lock,
    /// where no callback may run.
    fn close(&self, entry: *mut Entry) {
        // SAFETY: entries in the list are whole, and nobody is using this one's cache.
        let cache = unsafe { &mut (*entry).cache };
        cache.close(&mut Unreported(&self.pool));
    }
}

impl_global_alloc! {
    impl[L, P] PinnedPool<L, P> where {
        L: RawMutex + Send + Sync + 'static,
        P: PageSource + 'static,
        P::Pages: Send + Sync,
    }
}

// SAFETY: `new` has its caller keep it in place, and `drop` unregisters it.
unsafe impl<L, P> Member for PinnedPool<L, P>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
    fn links(&self) -> &Links {
        &self.links
    }

    fn close_cache_of(&self, thread: u64) {
        let Some(entry) = self.entry_of(thread) else { return };
        self.close(entry);
        // SAFETY: entries in the list are whole.
        let next = unsafe { (*entry).next };
        // SAFETY: as above; the registry's lock is held, so nobody else looks at the links.
        match self.entries().find(|&other| unsafe { (*other).next } == entry) {
            // SAFETY: as above.
            Some(previous) => unsafe { (*previous).next = next },
            None => self.entries.set(next),
        }
        if let Some(memory) = NonNull::new(entry.cast()) {
            // SAFETY: `new_entry` allocated it, and it is in no list any more.
            unsafe { self.pool.free_metadata(memory) };
        }
    }

    fn forget_caches_but_of(&self, thread: u64) {
        let mine = self.entry_of(thread).unwrap_or(null_mut());
        if !mine.is_null() {
            // SAFETY: entries in the list are whole.
            unsafe { (*mine).next = null_mut() };
        }
        self.entries.set(mine);
    }

    fn lock(&self) {
        self.pool.raw_lock().lock();
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.pool.raw_lock().unlock() };
    }
}

impl<L, P> Drop for PinnedPool<L, P>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
    fn drop(&mut self) {
        self.unregister();
    }
}

impl<L, P> fmt::Debug for PinnedPool<L, P>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedPool").field("id", &self.id).finish_non_exhaustive()
    }
}
