//! Configurations: every lock, page source, alignment, class set and region size, and the harness
//! that runs one suite over them.

use std::ops::Range;

use libmempool::{
    MapError, NoLock, PageSource, Pages, Pool, PoolBuilder, PoolConfig, PoolFlags, SizeClass,
};
use lock_api::RawMutex;

use super::{Faults, FaultySource, Memory, StaticMemory};

/// The locks that can guard a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    None,
    ParkingLot,
    #[cfg(feature = "spin")]
    Spin,
    #[cfg(feature = "critical-section")]
    CriticalSection,
    #[cfg(feature = "std")]
    Pthread,
}

/// All of them.
pub const LOCKS: &[LockKind] = &[
    LockKind::None,
    LockKind::ParkingLot,
    #[cfg(feature = "spin")]
    LockKind::Spin,
    #[cfg(feature = "critical-section")]
    LockKind::CriticalSection,
    #[cfg(feature = "std")]
    LockKind::Pthread,
];

/// Where a pool's memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Borrowed,
    Static,
    Faulty,
    #[cfg(feature = "std")]
    Mmap {
        huge: bool,
        guards: bool,
    },
}

impl Source {
    /// Whether its pages can be guards.
    fn can_guard(self) -> bool {
        !matches!(self, Self::Borrowed | Self::Static | Self::Faulty)
    }
}

/// All of them.
pub const SOURCES: &[Source] = &[
    Source::Borrowed,
    Source::Static,
    Source::Faulty,
    #[cfg(feature = "std")]
    Source::Mmap { huge: false, guards: true },
    #[cfg(feature = "std")]
    Source::Mmap { huge: true, guards: false },
    #[cfg(feature = "std")]
    Source::Mmap { huge: false, guards: false },
    #[cfg(feature = "std")]
    Source::Mmap { huge: true, guards: true },
];

/// A set of size classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classes {
    None,
    /// The seed's.
    Four,
    Preset,
    /// Odd sizes, one coloured, one with a reserve, one with a limit.
    Odd,
}

pub const CLASS_SETS: &[Classes] = &[Classes::None, Classes::Four, Classes::Preset, Classes::Odd];

pub const ALIGNMENTS: &[usize] = &[8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/// One configuration.
#[derive(Clone, Debug)]
pub struct Setup {
    pub lock: LockKind,
    pub source: Source,
    pub alignment: usize,
    pub classes: Classes,
    /// Bytes of the first region.
    pub bytes: usize,
    /// How many regions in all.
    pub regions: usize,
    /// Bytes that regions start behind a multiple of 4096.
    pub skew: usize,
    pub magazine: Option<usize>,
    pub flags: PoolFlags,
}

impl Setup {
    /// A plain pool in memory of the caller's.
    pub fn plain(bytes: usize) -> Self {
        Self {
            lock: LockKind::None,
            source: Source::Borrowed,
            alignment: 8,
            classes: Classes::None,
            bytes,
            regions: 1,
            skew: 0,
            magazine: None,
            flags: PoolFlags::empty(),
        }
    }

    /// The small pool that eight random numbers stand for; all of them stand for one.
    pub fn decode(
        [bytes, skew, memory, classes, alignment, magazine, flags, lock]: [u16; 8],
    ) -> Self {
        let pick = |random: u16, choices: usize| usize::from(random) % choices;
        let source = SOURCES[pick(memory / 3, SOURCES.len())];
        let flags = PoolFlags::from_bits_truncate(flags.into());
        // Only large blocks have guards, in mapped memory.
        let scale = if flags.contains(PoolFlags::GUARD) && source.can_guard() { 8 } else { 1 };
        Self {
            lock: LOCKS[pick(lock, LOCKS.len())],
            source,
            alignment: ALIGNMENTS[pick(alignment, ALIGNMENTS.len())],
            classes: CLASS_SETS[pick(classes, CLASS_SETS.len())],
            bytes: usize::from(bytes).max(1) * scale,
            regions: 1 + pick(memory, 3),
            skew: pick(skew, 64),
            magazine: pick(magazine, 21).checked_sub(1),
            flags,
        }
    }

    pub fn config(&self) -> PoolConfig {
        let config = PoolConfig::new().alignment(self.alignment).flags(self.flags);
        let config = match self.magazine {
            Some(slots) => config.magazine(slots),
            None => config,
        };
        match self.classes {
            Classes::None => config,
            Classes::Four => config.size_classes(&[64, 256, 1024, 4096]),
            Classes::Preset => config.preset_classes(),
            Classes::Odd => config
                .size_class(SizeClass::new(40).reserve(10))
                .size_class(SizeClass::new(200).limit(12))
                .size_class(SizeClass::new(512).coloured())
                .size_class(SizeClass::new(33)),
        }
    }

    /// Builds the pool and runs a suite on it.
    pub fn run(&self, suite: &mut impl Suite) -> Result<(), MapError> {
        match self.lock {
            LockKind::None => self.run_locked::<NoLock>(suite),
            LockKind::ParkingLot => self.run_locked::<parking_lot::RawMutex>(suite),
            #[cfg(feature = "spin")]
            LockKind::Spin => self.run_locked::<libmempool::SpinLock>(suite),
            #[cfg(feature = "critical-section")]
            LockKind::CriticalSection => self.run_locked::<libmempool::CriticalSection>(suite),
            #[cfg(feature = "std")]
            LockKind::Pthread => self.run_locked::<libmempool::PthreadMutex>(suite),
        }
    }

    fn run_locked<L: RawMutex>(&self, suite: &mut impl Suite) -> Result<(), MapError> {
        let extra = |index| StaticMemory::skewed(self.bytes / (index + 1), self.skew * index % 64);
        let extras: Vec<_> = (1..self.regions).map(extra).collect();
        match self.source {
            Source::Borrowed => {
                let mut memory = Memory::skewed(self.bytes, self.skew);
                let region = memory.region();
                let range = range_of(region);
                let pool = Self::builder::<L>(self.config()).build(region)?;
                self.run_on(pool, range, &extras, suite)
            }
            Source::Static => {
                let memory = StaticMemory::skewed(self.bytes, self.skew);
                let pool: Pool<'static, L> = Pool::empty();
                // SAFETY: lent once, and the pool goes in `run_on`.
                let region = unsafe { memory.lend() };
                let range = range_of(region);
                pool.init_with(&self.config(), region)?;
                self.run_on(pool, range, &extras, suite)
            }
            Source::Faulty => {
                let source = FaultySource::new(Faults::every(0));
                let pool = self.map::<L, _>(source)?;
                let range = mapped_range(&pool);
                self.run_on(pool, range, &extras, suite)
            }
            #[cfg(feature = "std")]
            Source::Mmap { huge, guards } => {
                use libmempool::{HugePages, MmapPages};
                let huge = if huge { HugePages::Try } else { HugePages::Never };
                let source = MmapPages::new().huge_pages(huge).guard_pages(guards);
                let pool = self.map::<L, _>(source)?;
                let range = mapped_range(&pool);
                self.run_on(pool, range, &extras, suite)
            }
        }
    }

    fn builder<L: RawMutex>(config: PoolConfig) -> PoolBuilder<L> {
        Pool::<L>::builder().config(config)
    }

    fn map<L: RawMutex, P: PageSource>(&self, source: P) -> Result<Pool<'static, L, P>, MapError> {
        Self::builder::<L>(self.config()).map(source, self.bytes)
    }

    fn run_on<L: RawMutex, P: PageSource>(
        &self,
        pool: Pool<'_, L, P>,
        first: Range<usize>,
        extras: &[StaticMemory],
        suite: &mut impl Suite,
    ) -> Result<(), MapError> {
        let mut regions = vec![first];
        for memory in extras {
            // SAFETY: lent once, and the pool goes in this function.
            let region = unsafe { memory.lend() };
            regions.push(range_of(region));
            pool.add_region(region)?;
        }
        suite.run(pool, self, &regions);
        Ok(())
    }

    /// Whether a region of this size must be enough for the configuration: generous, so that what
    /// fails above it is a fault.
    pub fn must_build(&self) -> bool {
        let granule = self.alignment.max(16);
        let smallest_region = self.bytes / self.regions;
        smallest_region >= 256 * granule.max(32) + (8 << 10)
    }
}

fn range_of<T>(region: &[T]) -> Range<usize> {
    let range = region.as_ptr_range();
    range.start.addr()..range.end.addr()
}

/// The addresses of a pool's mapped pages.
pub fn mapped_range<L: RawMutex, P: PageSource>(pool: &Pool<'_, L, P>) -> Range<usize> {
    let memory = pool.pages().expect("a mapped pool").memory();
    let start = memory.addr().get();
    start..start + memory.len()
}

/// What runs on a pool of any type, whose regions have these addresses.
pub trait Suite {
    fn run<L: RawMutex, P: PageSource>(
        &mut self,
        pool: Pool<'_, L, P>,
        setup: &Setup,
        regions: &[Range<usize>],
    );
}

/// What runs with any lock that threads can share.
pub trait LockSuite {
    fn run<L: RawMutex + Send + Sync + 'static>(&mut self);
}

/// Runs a suite with every lock that threads can share.
pub fn for_each_sync_lock(suite: &mut impl LockSuite) {
    suite.run::<parking_lot::RawMutex>();
    #[cfg(feature = "spin")]
    suite.run::<libmempool::SpinLock>();
    #[cfg(feature = "critical-section")]
    suite.run::<libmempool::CriticalSection>();
    #[cfg(feature = "std")]
    suite.run::<libmempool::PthreadMutex>();
}
