//! What a pool can be told when it is set up.

use core::fmt;

use crate::{error::Fault, flags::PoolFlags};

/// Most size classes that one pool can have.
pub const MAX_CLASSES: usize = 128;

/// Most size classes that one [`PoolConfig`] can declare. Fewer on 32-bit targets, where a
/// configuration may have to fit a small stack; [`Pool::add_size_class`](crate::Pool::add_size_class)
/// adds the rest.
pub const MAX_DECLARED: usize = if usize::BITS == 64 { MAX_CLASSES } else { 16 };

/// Largest alignment that a pool can give every block.
pub const MAX_ALIGNMENT: usize = 4096;

/// Largest size of the preset class table ([`PoolConfig::preset_classes`]), in bytes.
pub const PRESET_MAX: usize = 32 << 10;

/// The number of a size class in one pool.
///
/// Numbers count up from zero in the order the classes were added. A number of another pool is
/// harmless: calls check it, and answer [`AllocError::UnknownClass`](crate::AllocError) or
/// [`FreeError::WrongClass`](crate::FreeError) where it does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ClassId(pub(crate) u8);

impl ClassId {
    /// The class with this number; which pool has it is checked when it is used.
    pub const fn new(number: u8) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The number as an index into tables.
    #[inline]
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "class {}", self.0)
    }
}

/// Called when a class has fewer slots ready than its low watermark: the class, and how many are
/// left. Never called while the pool's lock is held.
pub type WatermarkFn = fn(ClassId, usize);

/// A size class to be: the size of its objects, and what is promised about their number.
///
/// ```
/// use libmempool::SizeClass;
/// let packets = SizeClass::new(2048).reserve(10_000).limit(20_000).coloured();
/// assert_eq!(packets.size(), 2048);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SizeClass {
    pub(crate) size: usize,
    pub(crate) reserve: usize,
    pub(crate) limit: usize,
    pub(crate) coloured: bool,
    pub(crate) dedicated: bool,
    pub(crate) watermark: Option<(usize, WatermarkFn)>,
}

impl SizeClass {
    /// Objects of `size` bytes, with no reserve and no limit.
    pub const fn new(size: usize) -> Self {
        Self {
            size,
            reserve: 0,
            limit: usize::MAX,
            coloured: false,
            dedicated: false,
            watermark: None,
        }
    }

    /// The size of its objects in bytes, as it was given.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Slots that are set aside for this class when it is added, and stay its own.
    #[must_use]
    pub const fn reserve(mut self, slots: usize) -> Self {
        self.reserve = slots;
        self
    }

    /// Slots that this class may have handed out at most, those in caches included.
    #[must_use]
    pub const fn limit(mut self, slots: usize) -> Self {
        self.limit = slots;
        self
    }

    /// Spreads slots over the cache's sets: adds a cache line or two to a stride that is a
    /// multiple of a large power of two, which would put every object's head into few sets.
    #[must_use]
    pub const fn coloured(mut self) -> Self {
        self.coloured = true;
        self
    }

    /// Keeps the class to those who name it: requests by size alone ([`Pool::alloc`] and
    /// [`Pool::class_of`]) do not draw on its slots.
    ///
    /// [`Pool::alloc`]: crate::Pool::alloc
    /// [`Pool::class_of`]: crate::Pool::class_of
    #[must_use]
    pub const fn dedicated(mut self) -> Self {
        self.dedicated = true;
        self
    }

    /// Calls `callback` when the slots that the class has ready (in slabs and depot, within its
    /// limit) fall below `slots`, once each time they do. The callback may use the pool.
    #[must_use]
    pub const fn low_watermark(mut self, slots: usize, callback: WatermarkFn) -> Self {
        self.watermark = Some((slots, callback));
        self
    }
}

/// What was still live when a pool was destroyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[must_use = "a report with objects in it is a leak"]
pub struct LeakReport {
    /// Objects that were never freed.
    pub objects: usize,
    /// Their bytes.
    pub bytes: usize,
}

impl LeakReport {
    /// Whether everything had been freed.
    pub const fn is_clean(&self) -> bool {
        self.objects == 0
    }
}

impl fmt::Display for LeakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} objects ({} bytes) were never freed", self.objects, self.bytes)
    }
}

/// Called with what was still live when a pool is dropped, if anything was.
pub type LeakFn = fn(LeakReport);

/// What [`PoolConfig::on_fault`] calls: with the fault, and the context that it was given.
pub type FaultFn = fn(Fault, usize);

/// The whole configuration of a pool. [`Pool::builder`](crate::Pool::builder) fills one in call by
/// call; firmware that keeps its pool in a static passes one to
/// [`Pool::init_with`](crate::Pool::init_with).
///
/// ```
/// use libmempool::{PoolConfig, SizeClass};
/// const CONFIG: PoolConfig = PoolConfig::new().alignment(64).magazine(32);
/// let config = CONFIG.size_class(SizeClass::new(256));
/// # let _ = config;
/// ```
#[derive(Clone, Debug)]
pub struct PoolConfig {
    pub(crate) alignment: usize,
    pub(crate) flags: PoolFlags,
    pub(crate) magazine: Option<usize>,
    pub(crate) key: u64,
    pub(crate) on_leak: Option<LeakFn>,
    pub(crate) on_fault: Option<(FaultFn, usize)>,
    pub(crate) preset: bool,
    classes: [SizeClass; MAX_DECLARED],
    class_count: usize,
}

impl PoolConfig {
    /// A general heap without size classes, blocks aligned like C's `malloc` does.
    pub const fn new() -> Self {
        Self {
            alignment: 1,
            flags: PoolFlags::empty(),
            magazine: None,
            key: 0,
            on_leak: None,
            on_fault: None,
            preset: false,
            classes: [SizeClass::new(0); MAX_DECLARED],
            class_count: 0,
        }
    }

    /// Every block and slot is aligned to at least this power of two (at most
    /// [`MAX_ALIGNMENT`]). It is also the unit that sizes are rounded to.
    #[must_use]
    pub const fn alignment(mut self, bytes: usize) -> Self {
        self.alignment = bytes;
        self
    }

    /// Adds a size class, one of [`MAX_DECLARED`] at most: one too many is reported when the pool
    /// is built.
    #[must_use]
    pub const fn size_class(mut self, class: SizeClass) -> Self {
        if self.class_count < MAX_DECLARED {
            self.classes[self.class_count] = class;
        }
        self.class_count += 1;
        self
    }

    /// Adds a size class without reserve or limit for each of these sizes.
    #[must_use]
    pub const fn size_classes(mut self, sizes: &[usize]) -> Self {
        let mut i = 0;
        while i < sizes.len() {
            self = self.size_class(SizeClass::new(sizes[i]));
            i += 1;
        }
        self
    }

    /// Adds the preset table: 72 sizes up to [`PRESET_MAX`], eight per doubling, so that a
    /// request is rounded up by at most 12.5 % (or to the next 16 bytes below 128). In a small
    /// region sizes that no slab of it can hold are left to the heap.
    #[must_use]
    pub const fn preset_classes(mut self) -> Self {
        self.preset = true;
        self
    }

    /// Guarantees beyond the default checks. With the crate's feature `flags` (a default).
    #[cfg(feature = "flags")]
    #[must_use]
    pub const fn flags(mut self, flags: PoolFlags) -> Self {
        self.flags = flags;
        self
    }

    /// Slots per magazine, for every class; 0 turns caching off. Left alone, the pool chooses by
    /// the size of region and class, between 2 and 128. A local cache holds at most two magazines of
    /// this size per class; of the pool's own choice more, if it needs them: see
    /// [`LocalCache`](crate::LocalCache).
    #[must_use]
    pub const fn magazine(mut self, slots: usize) -> Self {
        self.magazine = Some(slots);
        self
    }

    /// The key of the checksums in block tags. Under `std` a random one is added; firmware should
    /// pass something an attacker cannot know.
    #[must_use]
    pub const fn key(mut self, key: u64) -> Self {
        self.key = key;
        self
    }

    /// Called when the pool is dropped while blocks are still live.
    #[must_use]
    pub const fn on_leak(mut self, callback: LeakFn) -> Self {
        self.on_leak = Some(callback);
        self
    }

    /// Called for each call whose pointer was refused, and for damage that a call comes by (whether that
    /// fails or not), after the pool's lock is let go and before that call returns. It may use the pool.
    /// Of several faults under one taking of the lock it learns of the last. What `validate` finds, it
    /// tells its caller alone.
    ///
    /// `context` is passed on as it is: a number of the caller's, by which one function tells pools
    /// apart, or where their counters are.
    ///
    /// ```
    /// use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    /// use std::{alloc::Layout, mem::MaybeUninit};
    /// use libmempool::{Fault, FreeError, NoLock, Pool, PoolConfig};
    ///
    /// const PACKETS: usize = 1;
    /// static DOUBLE_FREES: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
    /// fn on_fault(fault: Fault, pool: usize) {
    ///     if matches!(fault, Fault::Free(FreeError::NotLive { .. })) {
    ///         DOUBLE_FREES[pool].fetch_add(1, Relaxed);
    ///     }
    /// }
    ///
    /// let mut memory = vec![MaybeUninit::uninit(); 64 << 10];
    /// let pool = Pool::<NoLock>::builder().on_fault(on_fault, PACKETS).build(&mut memory)?;
    /// let block = pool.alloc(Layout::new::<[u8; 100]>())?;
    /// // SAFETY: the block is not used any more; the second free is the example's mistake.
    /// unsafe {
    ///     pool.free(block)?;
    ///     assert!(pool.free(block).is_err());
    /// }
    /// assert_eq!(DOUBLE_FREES[PACKETS].load(Relaxed), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn on_fault(mut self, callback: FaultFn, context: usize) -> Self {
        self.on_fault = Some((callback, context));
        self
    }

    /// The classes that were added one by one; `None` if there were too many.
    pub(crate) fn classes(&self) -> Option<&[SizeClass]> {
        self.classes.get(..self.class_count)
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// The sizes of the preset class table, smallest first.
pub(crate) fn preset_sizes() -> impl Iterator<Item = usize> {
    let linear = (1..=8).map(|step| step * 16);
    let doublings = (0..8).flat_map(|octave| (9..=16).map(move |step| step << (octave + 4)));
    linear.chain(doublings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preset_sizes_ascend_and_round_by_an_eighth_at_most() {
        let mut previous = 0;
        for size in preset_sizes() {
            assert!(size > previous && size % 16 == 0);
            assert!(size <= 128 || (size - previous) * 8 <= previous, "{previous} -> {size}");
            previous = size;
        }
        assert_eq!(previous, PRESET_MAX);
        assert_eq!(preset_sizes().count(), 72);
    }

    #[test]
    fn too_many_classes_are_remembered() {
        let config = (0..=MAX_DECLARED)
            .fold(PoolConfig::new(), |config, _| config.size_class(SizeClass::new(64)));
        assert!(config.classes().is_none());
    }
}
