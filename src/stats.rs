//! Statistics: what a pool counts, as plain values that print themselves.

use core::fmt;

use crate::config::ClassId;

/// A pool's statistics at one moment; sizes are bytes.
///
/// Collected in O(regions + classes x caches), under the lock. While other threads use caches,
/// `cached_*` and `live_*` are a snapshot that may be off by the operations under way, and by a magazine
/// that a cache steps over just then; their sum is right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct PoolStats {
    /// All regions.
    pub region_bytes: usize,
    /// The pool's own blocks: slab maps, descriptors, magazines, caches. The bins' table, in front
    /// of the first region's first block, is not one of them.
    pub metadata_bytes: usize,
    /// Usable bytes of the blocks and slots in callers' hands.
    pub live_bytes: usize,
    /// Their number.
    pub live_objects: usize,
    /// The most bytes there ever were in callers' hands and caches together.
    pub peak_bytes: usize,
    /// Usable bytes of the slots that caches and depots keep ready, or that wait.
    pub cached_bytes: usize,
    /// Their number.
    pub cached_objects: usize,
    /// Bytes of freed objects that wait ([`PoolFlags::QUARANTINE`](crate::PoolFlags::QUARANTINE)): of
    /// slots, which are cached ones too, and of heap blocks, which are neither live nor free.
    pub quarantined_bytes: usize,
    /// Their number.
    pub quarantined_objects: usize,
    /// Bytes of guards ([`PoolFlags::GUARD`](crate::PoolFlags::GUARD)).
    pub guard_bytes: usize,
    /// How often a guard was done without, because the system refused or there was no room, or could not be
    /// made memory again.
    pub guard_failures: usize,
    /// Bytes of free heap blocks, not counting free slots of slabs.
    pub free_bytes: usize,
    /// Free heap blocks.
    pub free_blocks: usize,
    /// Usable bytes of the largest free heap block; low by less than 1/8 if many compete.
    pub largest_free: usize,
    /// Bytes of slabs.
    pub slab_bytes: usize,
    /// Size classes.
    pub classes: usize,
    /// Caches that hold or held slots and are still there.
    pub caches: usize,
    /// Requests that could not be served, but for those that met a class's limit.
    pub failures: usize,
    /// Requests that met the limit of the class that they named: as its owner wants it.
    pub limit_hits: usize,
    /// Frees that were refused.
    pub bad_frees: usize,
    /// Freed blocks and slots that were found damaged later, and are left alone.
    pub damaged_blocks: usize,
}

impl PoolStats {
    /// The part of the heap's free bytes that is not in the largest free block, in percent.
    pub fn fragmentation_percent(&self) -> u32 {
        let scattered = self.free_bytes.saturating_sub(self.largest_free + size_of::<usize>());
        match self.free_bytes {
            0 => 0,
            free => {
                let percent = u128::try_from(scattered).unwrap_or(0) * 100
                    / u128::try_from(free).unwrap_or(1);
                u32::try_from(percent).unwrap_or(100)
            }
        }
    }
}

impl fmt::Display for PoolStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "regions   {:>14} bytes", self.region_bytes)?;
        writeln!(f, "live      {:>14} bytes in {} objects", self.live_bytes, self.live_objects)?;
        writeln!(f, "peak      {:>14} bytes", self.peak_bytes)?;
        writeln!(
            f,
            "cached    {:>14} bytes in {} objects, {} caches",
            self.cached_bytes, self.cached_objects, self.caches
        )?;
        if self.quarantined_objects > 0 {
            let (bytes, objects) = (self.quarantined_bytes, self.quarantined_objects);
            writeln!(f, "waiting   {bytes:>14} bytes in {objects} objects")?;
        }
        if self.guard_bytes > 0 || self.guard_failures > 0 {
            let (bytes, failures) = (self.guard_bytes, self.guard_failures);
            writeln!(f, "guards    {bytes:>14} bytes, {failures} failures")?;
        }
        writeln!(f, "slabs     {:>14} bytes for {} classes", self.slab_bytes, self.classes)?;
        writeln!(
            f,
            "free heap {:>14} bytes in {} blocks, largest {}, fragmentation {} %",
            self.free_bytes,
            self.free_blocks,
            self.largest_free,
            self.fragmentation_percent()
        )?;
        writeln!(f, "tables    {:>14} bytes", self.metadata_bytes)?;
        write!(
            f,
            "failures  {:>14}, limits met {}, refused frees {}",
            self.failures, self.limit_hits, self.bad_frees
        )
    }
}

/// One size class's statistics at one moment; counts are slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct ClassStats {
    /// The class.
    pub id: ClassId,
    /// Usable bytes of a slot.
    pub size: usize,
    /// Bytes from one slot to the next.
    pub stride: usize,
    /// Slabs it has now.
    pub slabs: usize,
    /// Slots of those slabs.
    pub slots: usize,
    /// Slots in callers' hands.
    pub live: usize,
    /// Slots that caches and the depot keep ready, or that wait.
    pub cached: usize,
    /// Slots in their slabs.
    pub free: usize,
    /// The most slots that were live or cached at once.
    pub peak: usize,
    /// Slots set aside for it.
    pub reserve: usize,
    /// Slots it may have out at most.
    pub limit: usize,
    /// Requests that could not be served, but for those that met the limit.
    pub failures: usize,
    /// Requests that met the limit: as the class's owner wants it.
    pub limit_hits: usize,
}

impl fmt::Display for ClassStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>3} {:>7} B: {:>8} live, {:>7} cached, {:>8} free, {:>8} peak, {} failures",
            self.id.number(),
            self.size,
            self.live,
            self.cached,
            self.free,
            self.peak,
            self.failures
        )
    }
}
