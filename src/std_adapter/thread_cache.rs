#![allow(unsafe_code)] // keeps pointers to this thread's caches
//! Thread-cached pools: calls without a handle that find the calling thread's cache.

use core::{
    alloc::Layout,
    cell::{Cell, RefCell},
    fmt,
    ptr::{NonNull, null_mut},
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed},
        fence,
    },
};
use std::{
    boxed::Box,
    sync::{Arc, Weak},
    thread_local,
    vec::Vec,
};

use lock_api::RawMutex;

use crate::{
    cache::{Backing, CacheCore, Engine},
    config::ClassId,
    error::{AllocError, Corruption, FreeError, ReallocError},
    page_source::{CallerRegion, PageSource},
    pool::Pool,
};

/// A pool whose calls use the calling thread's own cache: the speed of a
/// [`LocalCache`](crate::LocalCache) without passing one around.
///
/// A clone is the same pool. A thread gets its cache the first time it calls; the cache returns
/// what it holds when the thread ends (joining a thread's handle waits for that; the end of
/// [`std::thread::scope`] alone does not). When the last clone goes, so does the pool, whatever caches
/// threads still have of it. Everything that has no cache in it (statistics, classes, validation)
/// is reached through [`pool`](Self::pool).
///
/// ```
/// use std::{alloc::Layout, thread};
/// use libmempool::{MmapPages, Pool, PthreadMutex, ThreadCachedPool};
///
/// let pool = Pool::<PthreadMutex>::builder().preset_classes().map(MmapPages::new(), 16 << 20)?;
/// let pool = ThreadCachedPool::new(pool);
/// thread::scope(|scope| {
///     for _ in 0..2 {
///         scope.spawn(|| {
///             let block = pool.alloc(Layout::new::<[u8; 200]>()).unwrap();
///             // SAFETY: the block is not used any more.
///             unsafe { pool.free(block).unwrap() };
///         });
///     }
/// });
/// assert_eq!(pool.pool().stats().live_objects, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ThreadCachedPool<L, P = CallerRegion>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
    /// Tells pools, and the times between resets, apart; never used twice.
    id: u64,
    pool: Arc<Pool<'static, L, P>>,
}

/// What a thread's cache gives its slots back to.
trait Owner {
    fn close(&self, cache: &mut CacheCore);
}

impl<L: RawMutex, P: PageSource> Owner for Pool<'static, L, P> {
    fn close(&self, cache: &mut CacheCore) {
        let ((), event) = self.with_engine(|engine| cache.close(engine));
        debug_assert!(event.is_none());
    }
}

/// One pool's cache in one thread.
struct Entry {
    id: u64,
    cache: CacheCore,
    owner: Weak<dyn Owner>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        // If the pool is gone, so is the memory that the cache held.
        if let Some(owner) = self.owner.upgrade() {
            owner.close(&mut self.cache);
        }
    }
}

/// All caches of one thread.
#[expect(clippy::vec_box, reason = "`CURRENT` points to an entry, which must not move")]
struct Caches(Vec<Box<Entry>>);

impl Drop for Caches {
    fn drop(&mut self) {
        CURRENT.set(NONE);
    }
}

/// The cache that was used last: its pool's id, and where it is.
type Current = (u64, *mut CacheCore);

const NONE: Current = (0, null_mut());

thread_local! {
    /// Without a destructor, so that reading it is one access.
    static CURRENT: Cell<Current> = const { Cell::new(NONE) };
    /// A callback runs on this thread in the middle of a cache's operation.
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
    static CACHES: RefCell<Caches> = const { RefCell::new(Caches(Vec::new())) };
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Reaches the engine through the lock. Callbacks run while the cache is hidden, so that what they
/// call does not meet it half-way through an operation.
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

/// Hides this thread's caches while it lives.
struct Hidden(Current);

impl Hidden {
    fn new() -> Self {
        IN_CALLBACK.set(true);
        Self(CURRENT.replace(NONE))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        CURRENT.set(self.0);
        IN_CALLBACK.set(false);
    }
}

impl<L, P> ThreadCachedPool<L, P>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
    /// Lets every thread have a cache of this pool.
    pub fn new(pool: Pool<'static, L, P>) -> Self {
        Self { id: NEXT_ID.fetch_add(1, Relaxed), pool: Arc::new(pool) }
    }

    /// The pool itself. Its own allocating calls take the lock.
    pub fn pool(&self) -> &Pool<'static, L, P> {
        &self.pool
    }

    /// Runs `cached` on this thread's cache, or `locked` on the pool where there is none: in a
    /// callback, or when the thread's locals are gone already.
    #[inline(always)]
    fn on_cache<R>(
        &self,
        cached: impl FnOnce(&mut CacheCore, &mut ThreadLocked<'_, L, P>) -> R,
        locked: impl FnOnce(&Pool<'static, L, P>) -> R,
    ) -> R {
        let (id, current) = CURRENT.get();
        let cache = if id == self.id { NonNull::new(current) } else { self.find_cache() };
        match cache {
            Some(mut cache) => {
                // SAFETY: the cache is in a box that this thread keeps, and nothing else reaches
                // it meanwhile: an operation that calls out hides it first (`ThreadLocked`).
                let cache = unsafe { cache.as_mut() };
                cached(cache, &mut ThreadLocked(&self.pool))
            }
            None => locked(&self.pool),
        }
    }

    #[cold]
    #[inline(never)]
    fn find_cache(&self) -> Option<NonNull<CacheCore>> {
        if IN_CALLBACK.get() {
            return None;
        }
        let cache = CACHES.try_with(|caches| {
            let mut caches = caches.try_borrow_mut().ok()?;
            let found = caches.0.iter().position(|entry| entry.id == self.id);
            let index = found.unwrap_or_else(|| {
                let this = Arc::as_ptr(&self.pool).addr();
                caches.0.retain(|entry| {
                    entry.owner.strong_count() > 0 && entry.owner.as_ptr().addr() != this
                });
                let owner: Weak<dyn Owner> = Arc::downgrade(&self.pool) as _;
                let cache = CacheCore::new();
                caches.0.push(Box::new(Entry { id: self.id, cache, owner }));
                caches.0.len() - 1
            });
            Some(NonNull::from(&mut caches.0[index].cache))
        });
        let cache = cache.ok().flatten()?;
        CURRENT.set((self.id, cache.as_ptr()));
        Some(cache)
    }

    /// As [`Pool::alloc`]. O(1) without the lock for sizes that a class serves.
    ///
    /// # Errors
    /// [`AllocError`]; the failure is counted.
    #[inline]
    pub fn alloc(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
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
        self.on_cache(
            |cache, engine| cache.free(pointer, None, engine),
            // SAFETY: the caller's promise.
            |pool| unsafe { pool.free(pointer) },
        )
    }

    /// As [`Pool::alloc_fixed`]. O(1) without the lock.
    ///
    /// # Errors
    /// [`AllocError`]; the failure is counted.
    #[inline]
    pub fn alloc_fixed(&self, class: ClassId) -> Result<NonNull<u8>, AllocError> {
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
        self.on_cache(
            |cache, engine| cache.free(pointer, Some(class), engine),
            // SAFETY: the caller's promise.
            |pool| unsafe { pool.free_fixed(class, pointer) },
        )
    }

    /// Returns what this thread's cache holds. O(cached slots), under the lock.
    pub fn flush_thread(&self) {
        self.on_cache(|cache, engine| engine.with(|engine| cache.close(engine)), |_| ());
    }

    /// As [`Pool::reset`], if this is the only clone: then no thread can be using the pool. Caches
    /// that threads still have of it are out of date from then on, and harmless. `None` if there
    /// is another clone; nothing happens then.
    ///
    /// # Errors
    /// As [`Pool::reset`].
    pub fn reset(&mut self) -> Option<Result<(), Corruption>> {
        if Arc::strong_count(&self.pool) > 1 {
            return None;
        }
        // What other threads did with clones that are gone happened before this.
        fence(Acquire);
        self.id = NEXT_ID.fetch_add(1, Relaxed);
        Some(self.pool.reset_shared())
    }
}

impl<L, P> Clone for ThreadCachedPool<L, P>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
    fn clone(&self) -> Self {
        Self { id: self.id, pool: Arc::clone(&self.pool) }
    }
}

impl<L, P> fmt::Debug for ThreadCachedPool<L, P>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadCachedPool").field("id", &self.id).finish_non_exhaustive()
    }
}
