//! Regions: every size and misalignment, several of them, page sources that fail, and what is
//! reported when a pool ends.

mod common;

use std::{
    cell::Cell, mem::MaybeUninit, ops::Range, ptr::NonNull, sync::atomic::Ordering::Relaxed,
};

use common::{
    Faults, FaultySource, Handle, Memory, Model, Op, Rng, Session, Setup, UsableSize, bytes, fill,
    free_all, setup::ALIGNMENTS, stamp,
};
use libmempool::{
    ConfigError, LeakReport, MapError, NoLock, PageError, PageSource, Pages, Pool, PoolConfig,
    PoolFlags, SizeClass,
};

fn range_of(region: &[MaybeUninit<u8>]) -> Range<usize> {
    let range = region.as_ptr_range();
    range.start.addr()..range.end.addr()
}

/// Only what was mapped goes back to the platform.
#[test]
fn the_callers_own_regions_are_not_discarded() {
    let mut memory = Memory::new(256 << 10);
    let pool = Pool::<NoLock>::builder().build(memory.region()).unwrap();
    assert_eq!(pool.discard_free(), Ok(0));
    let source = FaultySource::new(Faults::every(0));
    let pool = Pool::<NoLock>::builder().map(source, 256 << 10).unwrap();
    pool.add_region(Box::leak(Box::new_uninit_slice(256 << 10))).unwrap();
    let free = pool.stats().free_bytes;
    let discarded = pool.discard_free().unwrap();
    assert!(discarded > free / 3 && discarded < free * 2 / 3, "{discarded} of {free}");
}

/// Memory that its source says is zero: tables of zeros are not written.
struct Zeroed(FaultySource);

struct ZeroedPages(<FaultySource as PageSource>::Pages);

impl PageSource for Zeroed {
    type Pages = ZeroedPages;

    fn obtain(&self, bytes: usize) -> Result<ZeroedPages, PageError> {
        let pages = self.0.obtain(bytes)?;
        // SAFETY: nobody else has it yet.
        unsafe { pages.memory().cast::<u8>().write_bytes(0, pages.memory().len()) };
        Ok(ZeroedPages(pages))
    }
}

// SAFETY: those of the other source, zeroed.
unsafe impl Pages for ZeroedPages {
    fn memory(&self) -> NonNull<[u8]> {
        self.0.memory()
    }

    fn is_zeroed(&self) -> bool {
        true
    }
}

/// Whether memory was zero makes no difference to what a pool does with it.
#[test]
fn zeroed_memory_serves_as_any_other() {
    for flags in [PoolFlags::empty(), PoolFlags::POISON] {
        let source = Zeroed(FaultySource::new(Faults::every(0)));
        let builder = Pool::<NoLock>::builder().flags(flags);
        let made_with = SizeClass::new(200).reserve(50);
        let pool = builder.size_class(made_with).map(source, 1 << 20).unwrap();
        let blocks: Vec<_> = (1..40).map(|n| pool.alloc(bytes(100 * n)).unwrap()).collect();
        for &block in &blocks {
            stamp::write(block, 100, 1);
        }
        free_all(&mut &pool, blocks);
        pool.defragment();
        let class = pool.add_size_class(SizeClass::new(64)).unwrap();
        let slots: Vec<_> = (0..2000).map(|_| pool.alloc_fixed(class).unwrap()).collect();
        pool.validate().unwrap();
        free_all(&mut &pool, slots);
        pool.validate().unwrap();
    }
}

/// A region of any size at any place is a pool that works, or a typed error.
#[test]
fn regions_of_every_small_size_at_every_misalignment() {
    let mut memory = Memory::new(4096 + 64);
    let mut smallest = usize::MAX;
    for len in 0..=2048 {
        for skew in 0..64 {
            let region = &mut memory.region()[skew..skew + len];
            match Pool::<NoLock>::new(region) {
                Ok(pool) => {
                    smallest = smallest.min(len);
                    use_a_little(&pool);
                }
                Err(error) => {
                    assert_eq!(error, ConfigError::RegionTooSmall { bytes: len });
                    assert!(len < 512, "{len} bytes must be enough");
                }
            }
        }
    }
    assert!(smallest < 512);
}

fn use_a_little(pool: &Pool<'_, NoLock>) {
    let start = pool.stats();
    let block = pool.alloc(bytes(1)).expect("a pool can hold one byte");
    stamp::write(block, 1, 1);
    let more = fill(&mut { pool }, 24);
    for &block in &more {
        stamp::write(block, 24, 2);
    }
    stamp::verify(block, 1, 1);
    pool.validate().unwrap();
    free_all(&mut { pool }, more.into_iter().chain([block]));
    assert_eq!(pool.stats().largest_free, start.largest_free);
    pool.validate().unwrap();
}

/// The same with classes, alignments and a second region: all of it, or none.
#[test]
fn small_regions_with_everything_in_them() {
    let mut rng = Rng::new(12);
    let mut built = 0;
    for _ in 0..4000 {
        let (skew, bits) = (rng.below(64), rng.below(15));
        let len = rng.below(1 << bits);
        let (mut first, mut second) = (Memory::skewed(len, skew), Memory::new(len));
        let ranges = [range_of(first.region()), range_of(second.region())];
        let alignment = *rng.pick(ALIGNMENTS);
        let class = SizeClass::new(1 + rng.below(300)).reserve(rng.below(4));
        let builder = Pool::<NoLock>::builder().alignment(alignment);
        let Ok(pool) = builder.build(first.region()) else { continue };
        let region_first = rng.below(2) == 0;
        let mut regions = 1;
        if region_first {
            let _ = pool.add_size_class(class);
        }
        regions += usize::from(pool.add_region(second.region()).is_ok());
        if !region_first {
            let _ = pool.add_size_class(class);
        }
        let _ = pool.add_size_class(SizeClass::new(64));
        pool.validate().unwrap();
        built += 1;
        let setup = Setup { alignment, ..Setup::plain(len.max(1)) };
        let mut model = Model::new(&ranges[..regions], alignment);
        let mut session = Session::new(&pool, &setup, &mut model);
        for _ in 0..30 {
            let word = rng.next().to_le_bytes();
            let part = |i: usize| u16::from_le_bytes([word[2 * i], word[2 * i + 1]]);
            let op = Op::decode([part(0), part(1), part(2), part(3)]);
            if !matches!(op, Op::Reset) {
                session.apply(op);
            }
        }
        session.model.check_all(&pool);
        session.free_everything();
    }
    assert!(built > 500, "{built}");
}

#[test]
fn bad_alignments_are_refused() {
    let mut memory = Memory::new(64 << 10);
    for alignment in [0, 3, 24, 4097, 8192, usize::MAX, 1 << 63] {
        let refused = Pool::<NoLock>::builder().alignment(alignment).build(memory.region());
        assert_eq!(refused.unwrap_err(), ConfigError::BadAlignment { alignment });
    }
}

#[test]
fn a_pool_that_could_not_be_set_up_can_be_tried_again() {
    let (mut small, mut large) = (Memory::new(64), Memory::new(64 << 10));
    let (mut other, mut third) = (Memory::new(64 << 10), Memory::new(64 << 10));
    let pool: Pool<NoLock> = Pool::empty();
    let error = pool.init(small.region()).unwrap_err();
    assert_eq!(error, ConfigError::RegionTooSmall { bytes: 64 });
    let impossible = PoolConfig::new().size_class(SizeClass::new(64).reserve(1 << 20));
    pool.init_with(&impossible, other.region()).unwrap_err();
    assert_eq!(pool.stats().region_bytes, 0);
    pool.init(large.region()).unwrap();
    assert_eq!(pool.init(third.region()), Err(ConfigError::AlreadyInitialised));
    use_a_little(&pool);
}

/// Regions in any order of addresses and sizes, touching or not, added before and after classes.
#[test]
fn disjoint_regions_are_one_pool() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut memory = Memory::new(1 << 20);
        let mut pieces = cut(memory.region(), &mut rng);
        let ranges: Vec<_> = pieces.iter().map(|piece| range_of(piece)).collect();
        let alignment = *rng.pick(&ALIGNMENTS[..6]);
        let pool = Pool::<NoLock>::builder().alignment(alignment).build(pieces.remove(0)).unwrap();
        let class_after = rng.below(pieces.len() + 1);
        for (index, piece) in pieces.into_iter().enumerate() {
            if index == class_after {
                pool.add_size_class(SizeClass::new(200)).unwrap();
            }
            pool.add_region(piece).unwrap();
        }
        pool.add_size_class(SizeClass::new(700)).unwrap();
        check_regions(&pool, &ranges, alignment, &mut rng);
    }
}

/// Memory in a few pieces, the largest first, some of them touching.
fn cut<'m>(memory: &'m mut [MaybeUninit<u8>], rng: &mut Rng) -> Vec<&'m mut [MaybeUninit<u8>]> {
    let mut pieces = Vec::new();
    let mut rest = memory;
    for _ in 0..6 {
        let (piece, behind) = rest.split_at_mut((70 << 10) + rng.below(60 << 10));
        let gap = rng.below(2) * rng.below(5000);
        pieces.push(piece);
        rest = &mut behind[gap..];
    }
    rng.shuffle(&mut pieces);
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.len() > 100 << 10));
    pieces
}

fn check_regions(
    pool: &Pool<'_, NoLock>,
    ranges: &[Range<usize>],
    alignment: usize,
    rng: &mut Rng,
) {
    let start = pool.stats();
    let setup = Setup { alignment, ..Setup::plain(ranges[0].len()) };
    let mut model = Model::new(ranges, alignment);
    let mut session = Session::new(pool, &setup, &mut model);
    let random = |rng: &mut Rng| u16::try_from(rng.below(1 << 16)).unwrap();
    let mut unused = ranges.to_vec();
    for _ in 0..800 {
        let (via, size, align_log2) = (random(rng), random(rng), random(rng));
        session.apply(Op::Alloc { via, size, align_log2 });
        session.apply(Op::AllocFixed { via, class: size });
        session.apply(Op::Free { via: size, which: align_log2 });
        unused.retain(|range| {
            !session.model.live().any(|block| range.contains(&block.pointer.addr().get()))
        });
    }
    assert!(unused.is_empty(), "never used: {unused:?}");
    session.model.check_all(pool);
    session.free_everything();
    drop(session);
    pool.defragment();
    let end = pool.stats();
    assert_eq!((end.free_bytes, end.free_blocks), (start.free_bytes, start.free_blocks));
    assert_eq!((end.live_objects, end.cached_objects, end.slab_bytes), (0, 0, 0));
}

/// A second region that is larger than the first: what is too large for the table of bins is still
/// found and merged.
#[test]
fn a_larger_region_behind_a_small_one() {
    let (mut small, mut large) = (Memory::new(2 << 10), Memory::new(8 << 20));
    let pool = Pool::<NoLock>::new(small.region()).unwrap();
    pool.add_region(large.region()).unwrap();
    let start = pool.stats();
    assert!(start.largest_free > 7 << 20);
    for size in [start.largest_free, 4 << 20, 1 << 20, 100_000, 5000, 100] {
        let blocks = fill(&mut &pool, size);
        assert!(blocks.len() * (size + 16) + size > 7 << 20, "{} of {size}", blocks.len());
        pool.validate().unwrap();
        free_all(&mut &pool, blocks);
        assert_eq!(pool.stats().largest_free, start.largest_free);
    }
}

#[test]
fn regions_that_are_too_small_to_add_change_nothing() {
    for classes in [&[][..], &[64]] {
        let mut memory = Memory::new(64 << 10);
        let mut scraps: Vec<_> = (0..64).map(Memory::new).collect();
        let pool = Pool::<NoLock>::builder().size_classes(classes).build(memory.region()).unwrap();
        let before = pool.stats();
        for (bytes, scrap) in scraps.iter_mut().enumerate() {
            assert_eq!(pool.add_region(scrap.region()), Err(ConfigError::RegionTooSmall { bytes }));
        }
        assert_eq!(pool.stats(), before);
        pool.validate().unwrap();
    }
    let mut memory = Memory::new(64 << 10);
    let empty: Pool<NoLock> = Pool::empty();
    assert_eq!(empty.add_region(memory.region()), Err(ConfigError::NotInitialised));
}

/// Each failure of a page source is passed on, and nothing stays behind.
#[test]
fn a_page_source_that_fails() {
    for every in 1..4 {
        let source = FaultySource::new(Faults::every(every));
        for call in 1..20 {
            let built = Pool::<NoLock>::builder().map(source.clone(), 64 << 10);
            if call % every == 0 {
                let error = MapError::Pages(PageError::Unavailable { bytes: 64 << 10 });
                assert_eq!(built.unwrap_err(), error);
            } else {
                assert_eq!(source.out.load(Relaxed), 1);
                assert!(built.unwrap().destroy().is_clean());
            }
            assert_eq!(source.out.load(Relaxed), 0);
        }
    }
    let source = FaultySource::new(Faults::every(0));
    let config = Pool::<NoLock>::builder().size_class(SizeClass::new(64).reserve(1 << 20));
    assert!(matches!(config.map(source.clone(), 64 << 10), Err(MapError::Config(_))));
    assert_eq!(source.out.load(Relaxed), 0, "the pages were given back");
}

/// Warming up fails every other time; contents stay, and the pool works on.
#[test]
fn warming_up_changes_nothing() {
    let source = FaultySource::new(Faults::every(0));
    let mapped = Pool::<NoLock>::builder().size_classes(&[64]).map(source.clone(), 256 << 10);
    let mapped = mapped.unwrap();
    let mut memory = Memory::skewed(256 << 10, 40);
    let borrowed = Pool::<NoLock>::builder().size_classes(&[64]).build(memory.region()).unwrap();
    source.faults.set(2);
    for round in 1..10 {
        let live: Vec<_> = (1..200).map(|i| mapped.alloc(bytes(i * 3)).unwrap()).collect();
        let here: Vec<_> = (1..200).map(|i| borrowed.alloc(bytes(i * 3)).unwrap()).collect();
        for (i, (&there, &here)) in (1..).zip(live.iter().zip(&here)) {
            stamp::write(there, i * 3, round);
            stamp::write(here, i * 3, round);
        }
        free_all(&mut &borrowed, here.iter().copied().step_by(2));
        let before = (mapped.stats(), borrowed.stats());
        let warmed = mapped.warm_up();
        assert_eq!(warmed.is_err(), round % 2 == 0);
        borrowed.warm_up().unwrap();
        assert_eq!((mapped.stats(), borrowed.stats()), before);
        borrowed.validate().unwrap();
        for (i, (&there, &here)) in (1..).zip(live.iter().zip(&here)) {
            stamp::verify(there, i * 3, round);
            if i % 2 == 0 {
                stamp::verify(here, i * 3, round);
            }
        }
        free_all(&mut &mapped, live);
        free_all(&mut &borrowed, here.into_iter().skip(1).step_by(2));
    }
}

#[test]
fn defragmenting_gives_idle_slots_back_to_the_heap() {
    let mut memory = Memory::new(1 << 20);
    let pool = Pool::<NoLock>::builder().size_classes(&[64, 1000]).build(memory.region()).unwrap();
    pool.defragment();
    let start = pool.stats();
    for _ in 0..3 {
        let slots = fill(&mut &pool, 1000);
        free_all(&mut &pool, slots);
        let idle = pool.stats();
        assert!(idle.cached_objects > 0 && idle.slab_bytes > 0);
        let gained = pool.defragment();
        let end = pool.stats();
        assert_eq!(idle.free_bytes + gained, end.free_bytes);
        assert_eq!((end.slab_bytes, end.cached_objects), (0, 0));
        assert_eq!(end.largest_free, start.largest_free);
        assert_eq!(pool.defragment(), 0);
    }
}

thread_local!(static LEAKED: Cell<Option<LeakReport>> = const { Cell::new(None) });

#[test]
fn what_is_live_at_the_end_is_reported() {
    fn build(memory: &mut [MaybeUninit<u8>]) -> Pool<'_, NoLock> {
        let note = |report| LEAKED.set(Some(report));
        Pool::<NoLock>::builder().size_classes(&[64]).on_leak(note).build(memory).unwrap()
    }
    let mut memory = Memory::new(64 << 10);
    let pool = build(memory.region());
    let block = pool.alloc(bytes(5000)).unwrap();
    let mut cache = pool.local_cache();
    let slot = cache.alloc(bytes(64)).unwrap();
    drop(cache);
    let expected = (2, pool.usable(block).unwrap() + 64);
    drop(pool);
    let report = LEAKED.take().expect("the callback was called");
    assert_eq!((report.objects, report.bytes), expected);
    assert!(!report.is_clean());
    let _ = slot;

    let pool = build(memory.region());
    let block = pool.alloc(bytes(5000)).unwrap();
    let report = pool.destroy();
    assert_eq!(report.objects, 1);
    assert_eq!(LEAKED.take(), None, "who destroys gets the report, not the callback");
    let _ = block;

    let pool = build(memory.region());
    let slots = fill(&mut &pool, 64);
    free_all(&mut &pool, slots);
    drop(pool);
    assert_eq!(LEAKED.take(), None, "what caches keep is no leak");
}

/// A cache that was leaked keeps its slots, and does no other harm.
#[test]
fn a_forgotten_cache_leaks_what_it_holds() {
    let mut memory = Memory::new(256 << 10);
    let mut pool = Pool::<NoLock>::builder().size_classes(&[64]).build(memory.region()).unwrap();
    let mut cache = pool.local_cache();
    let slot = cache.alloc(bytes(64)).unwrap();
    Handle::free(&mut cache, slot).unwrap();
    std::mem::forget(cache);
    pool.defragment();
    let stats = pool.stats();
    assert!(stats.cached_objects > 0 && stats.caches == 1 && stats.live_objects == 0, "{stats}");
    pool.validate().unwrap();
    pool.reset().unwrap();
    // Its table stays, empty: for all the pool knows, somebody still has the cache.
    assert_eq!((pool.stats().cached_objects, pool.stats().caches), (0, 1));
    pool.validate().unwrap();
}

#[test]
fn flags_do_what_they_say() {
    let all = PoolFlags::all();
    for flags in (0..=all.bits()).map(PoolFlags::from_bits_truncate) {
        let mut memory = Memory::new(256 << 10);
        let pool = Pool::<NoLock>::builder().size_classes(&[64, 1024]).flags(flags);
        let pool = pool.build(memory.region()).unwrap();
        let mut cache = pool.local_cache();
        for size in [64, 1000, 5000] {
            check_flags(&pool, &mut &pool, size, flags);
            check_flags(&pool, &mut cache, size, flags);
        }
        pool.validate().unwrap();
    }
}

fn check_flags(pool: &Pool<'_, NoLock>, handle: &mut impl Handle, size: usize, flags: PoolFlags) {
    for stamp in 0..5 {
        let block = handle.alloc(bytes(size)).unwrap();
        if flags.contains(PoolFlags::ZERO_ON_ALLOC) {
            stamp::verify_filled(block, size, 0);
        }
        stamp::write(block, size, stamp);
        let usable = pool.usable(block).unwrap();
        handle.free(block).unwrap();
        // Behind the links of a free block, and before its footer.
        let middle = block.map_addr(|addr| addr.checked_add(16).unwrap());
        let len = usable.min(size) - 32;
        if flags.contains(PoolFlags::POISON) {
            stamp::verify_filled(middle, len, 0xDF);
        } else if flags.contains(PoolFlags::ZERO_ON_FREE) {
            stamp::verify_filled(middle, len, 0);
        }
    }
}

#[cfg(feature = "std")]
mod mapped {
    use libmempool::{HugePages, MmapPages, PageSource, Pages, PthreadMutex};

    use super::*;

    const GIB: usize = 1 << 30;

    fn source() -> MmapPages {
        MmapPages::new().huge_pages(HugePages::Never)
    }

    /// More than 32 bits can count granules of, in one region.
    #[test]
    fn one_region_of_80_gib() {
        let source = source().overcommit(true);
        let built = Pool::<PthreadMutex>::builder().size_classes(&[2048]).map(source, 80 * GIB);
        match built {
            Ok(pool) => check_far_ends(&pool, 80 * GIB),
            Err(error) => eprintln!("not tested: this system maps no 80 GiB at once: {error}"),
        }
    }

    /// The same in several regions.
    #[test]
    fn regions_of_80_gib_together() {
        let obtained: Result<Vec<_>, _> = (0..10).map(|_| source().obtain(8 * GIB)).collect();
        let maps = match obtained {
            Ok(maps) => maps,
            Err(error) => return eprintln!("not tested: this system maps no 80 GiB: {error}"),
        };
        let builder = Pool::<PthreadMutex>::builder().size_classes(&[2048]);
        let pool = builder.build(lend(&maps[0])).unwrap();
        maps[1..].iter().for_each(|map| pool.add_region(lend(map)).unwrap());
        check_far_ends(&pool, 80 * GIB);
    }

    #[expect(clippy::mut_from_ref, reason = "a mapping is its owner's to lend")]
    fn lend(map: &impl Pages) -> &mut [MaybeUninit<u8>] {
        let memory = map.memory();
        // SAFETY: pages are valid while `map` is, and one pool after the other uses them.
        unsafe { std::slice::from_raw_parts_mut(memory.as_ptr().cast(), memory.len()) }
    }

    /// Blocks and slots at both ends of the pool.
    fn check_far_ends<P: PageSource>(pool: &Pool<'_, PthreadMutex, P>, bytes_in_all: usize) {
        assert_eq!(pool.stats().region_bytes, bytes_in_all);
        let mut handle = pool;
        let mut large = fill(&mut handle, GIB);
        large.extend(fill(&mut handle, GIB / 4));
        assert!(large.len() >= 70, "{}", large.len());
        let class = pool.class_of(2048).unwrap();
        let mut cache = pool.local_cache();
        let mut slots = Vec::new();
        for (index, &block) in large.iter().enumerate() {
            // Where one large block was, slots come to lie.
            Handle::free(&mut handle, block).unwrap();
            for _ in 0..3 {
                let slot = cache.alloc_fixed(class).unwrap();
                stamp::write(slot, 2048, 1);
                slots.push(slot);
            }
            let _ = handle.alloc(common::layout(GIB / 8 * (1 + index % 7), 4096));
            cache.flush();
        }
        for &slot in &slots {
            stamp::verify(slot, 2048, 1);
        }
        free_all(&mut cache, slots);
        pool.validate().unwrap();
    }

    #[test]
    fn what_was_mapped_is_reported() {
        for huge in [HugePages::Never, HugePages::Try] {
            for guards in [false, true] {
                let source = MmapPages::new().huge_pages(huge).guard_pages(guards);
                let pool = Pool::<PthreadMutex>::builder().map(source, 5 << 20).unwrap();
                let pages = pool.pages().expect("a mapped pool");
                assert_eq!(pages.report().guards, guards);
                assert!(pages.memory().len() >= 5 << 20);
                assert_eq!(pool.stats().region_bytes, pages.memory().len());
                pool.warm_up().unwrap();
                let blocks = fill(&mut &pool, 100_000);
                for &block in &blocks {
                    stamp::write(block, 100_000, 1);
                }
                for &block in &blocks {
                    stamp::verify(block, 100_000, 1);
                }
            }
        }
        let nothing = Pool::<PthreadMutex>::builder().map(source(), 0);
        assert!(matches!(nothing, Err(MapError::Pages(_))));
        let too_much = Pool::<PthreadMutex>::builder().map(source(), usize::MAX);
        assert!(matches!(too_much, Err(MapError::Pages(_))));
    }
}
