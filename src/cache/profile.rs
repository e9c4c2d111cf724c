#![cfg_attr(not(feature = "flags"), allow(dead_code, reason = "then nothing starts to count"))]
//! Which sizes are asked for, if a pool counts that.

use crate::{
    error::ConfigError,
    slab::{SizeTable, Store, Table},
};

/// What has been asked for of the sizes of one bucket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SizeCount {
    pub(crate) requests: usize,
    /// Bytes of all of them.
    pub(crate) bytes: usize,
    /// The largest of them.
    pub(crate) largest: usize,
}

/// Counts for each bucket of sizes that a class can have, and one for all that are larger; or nothing.
#[derive(Debug)]
pub(crate) struct Profile {
    counts: Table<SizeCount>,
    /// A pointer, so that programs without a profile need not have it.
    count: Option<fn(&mut [SizeCount], usize)>,
}

impl Profile {
    /// No counts.
    pub(crate) const fn off() -> Self {
        Self { counts: Table::empty(), count: None }
    }

    /// Counts from now on, in memory of the pool's own.
    pub(crate) fn start(&mut self, store: &mut Store) -> Result<(), ConfigError> {
        if self.count.is_none() {
            self.counts.extend(store, SizeTable::BUCKETS + 1)?;
            self.count = Some(count);
        }
        Ok(())
    }

    /// Counts a request.
    #[inline]
    pub(crate) fn count(&mut self, size: usize) {
        if let Some(count) = self.count {
            count(&mut self.counts, size);
        }
    }

    /// Forgets what has been counted.
    pub(crate) fn clear(&mut self) {
        self.counts.fill(SizeCount::default());
    }

    /// The counts, from the smallest size on; the last is of sizes that no class can have. Empty if
    /// nothing is counted.
    pub(crate) fn counts(&self) -> &[SizeCount] {
        &self.counts
    }
}

fn count(counts: &mut [SizeCount], size: usize) {
    if size == 0 {
        return;
    }
    let bucket = SizeTable::bucket(size).min(SizeTable::BUCKETS);
    let count = &mut counts[bucket];
    count.requests = count.requests.saturating_add(1);
    count.bytes = count.bytes.saturating_add(size);
    count.largest = count.largest.max(size);
}
