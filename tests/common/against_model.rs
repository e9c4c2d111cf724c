//! Operations on a pool of any configuration, compared with the model.

use std::ops::Range;

use libmempool::{PageSource, Pool};
use lock_api::RawMutex;

use super::{Model, Op, Setup, Suite, run_ops};

/// Checks everything at resets and at the end only.
pub const AT_THE_END: usize = usize::MAX;

/// Runs operations on whatever pool it is given.
struct AgainstModel<I> {
    ops: I,
    check_every: usize,
}

impl<I: Iterator<Item = Op>> Suite for AgainstModel<I> {
    fn run<L: RawMutex, P: PageSource>(
        &mut self,
        mut pool: Pool<'_, L, P>,
        setup: &Setup,
        regions: &[Range<usize>],
    ) {
        let mut model = Model::new(regions, setup.alignment);
        model.flags = setup.flags;
        run_ops(&mut pool, setup, &mut model, &mut self.ops, self.check_every);
    }
}

/// Builds the pool and runs the operations; what is too small for its configuration is refused
/// with an error, and counted.
pub fn run(setup: &Setup, ops: impl Iterator<Item = Op>, check_every: usize) -> bool {
    let built = setup.run(&mut AgainstModel { ops, check_every });
    if let Err(error) = built {
        assert!(!setup.must_build(), "{setup:?}: {error}");
    }
    built.is_ok()
}

/// The same through the pool itself, local caches, and this thread's cache of a thread-cached pool.
/// Such a pool cannot be reset.
#[cfg(feature = "std")]
pub fn run_thread_cached(setup: &Setup, ops: impl Iterator<Item = Op>, check_every: usize) -> bool {
    use libmempool::{MmapPages, PthreadMutex, ThreadCachedPool};

    use super::{Session, setup::mapped_range};

    let pool = Pool::<PthreadMutex>::builder().config(setup.config());
    let Ok(pool) = pool.map(MmapPages::new(), setup.bytes) else {
        assert!(!Setup { regions: 1, ..setup.clone() }.must_build(), "{setup:?}");
        return false;
    };
    let regions = [mapped_range(&pool)];
    let pool = ThreadCachedPool::new(pool);
    // A thread's first call, whatever it is, takes memory for its cache.
    pool.flush_thread();
    let mut model = Model::new(&regions, setup.alignment);
    model.flags = setup.flags;
    let mut session = Session::new(pool.pool(), setup, &mut model).also(pool.clone());
    session.run(&mut ops.filter(|op| !matches!(op, Op::Reset)), check_every);
    session.free_everything();
    drop(session);
    pool.flush_thread();
    pool.pool().defragment();
    let stats = pool.pool().stats();
    assert_eq!((stats.live_objects, stats.cached_objects), (0, 0), "{stats}");
    true
}
