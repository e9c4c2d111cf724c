//! The pools that all threads share.

use std::sync::{Arc, Mutex, PoisonError};

use libmempool::{Pool, PoolConfig, PoolFlags, PoolStats, PthreadMutex, ThreadCachedPool};

use crate::{
    common::{Faults, FaultySource},
    tally::Count,
};

/// The sizes of the classes.
pub const SIZES: [usize; 4] = [64, 256, 1024, 2048];

/// Small enough to run dry.
const BYTES: usize = 8 << 20;

pub type Shared = ThreadCachedPool<PthreadMutex, FaultySource>;

/// A pool under test.
pub struct Target {
    pub name: &'static str,
    pub pool: Shared,
    /// What its page source makes fail.
    pub faults: Arc<Faults>,
    /// Overruns are found.
    pub sealed: bool,
    /// Held while an object is overrun, or the pool must be without one that is.
    pub overrun: Mutex<()>,
    /// Frees that had to be refused.
    pub misuse: Count,
    start: PoolStats,
}

impl Target {
    pub fn new(name: &'static str, flags: PoolFlags) -> Self {
        let faults = Faults::every(0);
        let config = PoolConfig::new().size_classes(&SIZES).flags(flags);
        let pool = Pool::builder().config(config).map(FaultySource::new(faults.clone()), BYTES);
        let pool = ThreadCachedPool::new(pool.expect("enough memory"));
        let start = rest(&pool);
        let sealed = flags.contains(PoolFlags::CANARY);
        Self {
            name,
            pool,
            faults,
            sealed,
            overrun: Mutex::new(()),
            misuse: Count::default(),
            start,
        }
    }

    /// Walks the whole pool, whoever uses it.
    pub fn validate(&self) {
        let _no_overrun = self.overrun.lock().unwrap_or_else(PoisonError::into_inner);
        let valid = self.pool.pool().validate();
        assert_eq!(valid, Ok(()), "{} pool", self.name);
    }

    /// What is not as it was in the beginning, now that everything is freed and all threads are gone.
    pub fn discrepancies(&self) -> Vec<String> {
        let end = rest(&self.pool);
        let start = &self.start;
        let valid = self.pool.pool().validate();
        let pairs = [
            ("live objects", end.live_objects, 0),
            ("cached objects", end.cached_objects, 0),
            ("caches", end.caches, start.caches),
            ("free bytes", end.free_bytes, start.free_bytes),
            ("free blocks", end.free_blocks, start.free_blocks),
            ("refused frees", end.bad_frees, self.misuse.get()),
        ];
        let differ = pairs.into_iter().filter(|(_, is, should)| is != should);
        let differ = differ.map(|(what, is, should)| format!("{what}: {is} instead of {should}"));
        let damage = valid.err().map(|damage| damage.to_string());
        differ.chain(damage).map(|what| format!("{} pool: {what}", self.name)).collect()
    }
}

/// Statistics with nothing in caches.
fn rest(pool: &Shared) -> PoolStats {
    pool.flush_thread();
    pool.pool().defragment();
    pool.pool().stats()
}
