#![allow(unsafe_code)] // vouches that the shared pool stays in place
//! Thread-cached pools: calls without a handle that find the calling thread's cache.

use core::{fmt, ops::Deref};
use std::sync::Arc;

use lock_api::RawMutex;

use super::pinned_pool::PinnedPool;
use crate::{
    error::Corruption,
    page_source::{CallerRegion, PageSource},
    pool::Pool,
};

/// A pool whose calls use the calling thread's own cache: the speed of a
/// [`LocalCache`](crate::LocalCache) without passing one around. Its calls are those of
/// [`PinnedPool`].
///
/// A clone is the same pool. A thread gets its cache the first time it calls; the cache returns
/// what it holds when the thread ends (joining a thread's handle waits for that; the end of
/// [`std::thread::scope`] alone does not). When the last clone goes, so does the pool, whatever caches
/// threads still have of it. Everything that has no cache in it (statistics, classes, validation)
/// is reached through [`pool`](PinnedPool::pool).
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
pub struct ThreadCachedPool<L, P = CallerRegion>(Arc<PinnedPool<L, P>>)
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync;

impl<L, P> ThreadCachedPool<L, P>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
    /// Lets every thread have a cache of this pool.
    pub fn new(pool: Pool<'static, L, P>) -> Self {
        // SAFETY: nothing moves it out of the `Arc`, which drops it before its memory goes.
        Self(Arc::new(unsafe { PinnedPool::new(pool) }))
    }

    /// As [`Pool::reset`], if this is the only clone: then no thread can be using the pool. Threads
    /// keep their caches, which are empty then. `None` if there is another clone; nothing happens
    /// then.
    ///
    /// # Errors
    /// As [`Pool::reset`].
    pub fn reset(&mut self) -> Option<Result<(), Corruption>> {
        Arc::get_mut(&mut self.0).map(PinnedPool::reset)
    }
}

impl<L, P> Deref for ThreadCachedPool<L, P>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
    type Target = PinnedPool<L, P>;

    fn deref(&self) -> &PinnedPool<L, P> {
        &self.0
    }
}

impl<L, P> Clone for ThreadCachedPool<L, P>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L, P> fmt::Debug for ThreadCachedPool<L, P>
where
    L: RawMutex + Send + Sync + 'static,
    P: PageSource + 'static,
    P::Pages: Send + Sync,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ThreadCachedPool").field(&self.0).finish()
    }
}
