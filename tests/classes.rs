//! Size classes: reserves, limits, watermarks, classes added while caches exist, and as many as
//! there can be.

mod common;

use std::{cell::Cell, cmp::Reverse, ptr::NonNull};

use common::{
    Handle, LOCKS, Memory, Model, Op, Rng, Session, Setup, UsableSize, bytes, fill, free_all,
    setup::{ALIGNMENTS, CLASS_SETS},
};
use libmempool::{
    AllocError, ClassId, ConfigError, FreeError, MAX_CLASSES, NoLock, Pool, PoolBuilder, PoolFlags,
    SizeClass,
};

fn builder() -> PoolBuilder<NoLock> {
    Pool::<NoLock>::builder()
}

/// Every slot of a class that a handle can get.
fn drain(handle: &mut impl Handle, class: ClassId) -> (Vec<NonNull<u8>>, AllocError) {
    let mut slots = Vec::new();
    loop {
        match handle.alloc_fixed(class) {
            Ok(slot) => slots.push(slot),
            Err(error) => return (slots, error),
        }
    }
}

#[test]
fn a_reserve_survives_when_others_eat_all_memory() {
    for magazine in [0, 1, 16, 128] {
        let mut memory = Memory::new(1 << 20);
        let pool = builder()
            .magazine(magazine)
            .size_class(SizeClass::new(2048).reserve(100))
            .size_class(SizeClass::new(512))
            .build(memory.region())
            .unwrap();
        let (reserved, greedy) = (ClassId::new(0), ClassId::new(1));
        for round in 0..3 {
            let (eaten, _) = drain(&mut &pool, greedy);
            let blocks = fill(&mut &pool, 1 + round * 700);
            let (slots, error) = drain(&mut &pool, reserved);
            assert!(slots.len() >= 100, "{} of 100 with magazines of {magazine}", slots.len());
            let is_short = matches!(
                error,
                AllocError::OutOfMemory { needed: 2048.., .. }
                    | AllocError::Fragmented { largest_free: ..2048, .. }
            );
            assert!(is_short, "{error}");
            free_all(&mut &pool, slots.into_iter().chain(eaten).chain(blocks));
            pool.validate().unwrap();
        }
        assert_eq!(pool.stats().live_objects, 0);
    }
}

/// Slots of a reserve that were freed elsewhere count for the reserve again.
#[test]
fn a_reserve_is_whole_again_after_its_slots_were_used() {
    let mut memory = Memory::new(1 << 20);
    let pool = builder()
        .size_class(SizeClass::new(2048).reserve(64))
        .size_class(SizeClass::new(512))
        .build(memory.region())
        .unwrap();
    let (reserved, greedy) = (ClassId::new(0), ClassId::new(1));
    let (mut a, mut b) = (pool.local_cache(), pool.local_cache());
    for _ in 0..5 {
        let slots: Vec<_> = (0..64).map(|_| a.alloc_fixed(reserved).unwrap()).collect();
        free_all(&mut b, slots);
        a.flush();
        b.flush();
        let (eaten, _) = drain(&mut &pool, greedy);
        let blocks = fill(&mut &pool, 3000);
        let slots: Vec<_> =
            (0..64).map(|_| b.alloc_fixed(reserved).expect("it is reserved")).collect();
        free_all(&mut a, slots.into_iter().chain(eaten).chain(blocks));
        a.flush();
        b.flush();
    }
}

#[test]
fn reserves_that_do_not_fit_change_nothing() {
    let mut memory = Memory::new(256 << 10);
    let pool = builder().size_class(SizeClass::new(64)).build(memory.region()).unwrap();
    let before = pool.stats();
    for _ in 0..MAX_CLASSES {
        let error = pool.add_size_class(SizeClass::new(1024).reserve(1000)).unwrap_err();
        let ConfigError::ReserveTooLarge { reserve: 1000, available } = error else {
            panic!("{error}");
        };
        assert!((100..256).contains(&available), "{available}");
    }
    let mut after = pool.stats();
    // Its tables may have grown for the attempt.
    assert!(after.metadata_bytes - before.metadata_bytes < 4096);
    (after.metadata_bytes, after.free_bytes, after.free_blocks, after.largest_free) =
        (before.metadata_bytes, before.free_bytes, before.free_blocks, before.largest_free);
    assert_eq!(after, before);
    assert_eq!(pool.class_of(100), Err(AllocError::UnknownClass));
    pool.validate().unwrap();
}

#[test]
fn bad_classes_are_refused() {
    let mut memory = Memory::new(256 << 10);
    let pool = builder().build(memory.region()).unwrap();
    let bad_size = |size| (SizeClass::new(size), ConfigError::BadClassSize { size });
    let limits = ConfigError::LimitBelowReserve;
    for (class, expected) in [
        bad_size(0),
        bad_size((512 << 10) + 1),
        bad_size(usize::MAX),
        bad_size(isize::MAX.unsigned_abs()),
        (SizeClass::new(64).limit(0), limits),
        (SizeClass::new(64).reserve(2).limit(1), limits),
    ] {
        assert_eq!(pool.add_size_class(class), Err(expected));
    }
    assert_eq!(pool.classes().count(), 0);
    pool.validate().unwrap();
}

#[test]
fn a_limit_is_reached_exactly() {
    for limit in [1, 2, 3, 7, 8, 9, 63, 64, 65, 200] {
        for magazine in [None, Some(0), Some(1), Some(100)] {
            let mut memory = Memory::new(1 << 20);
            let mut builder = builder().size_class(SizeClass::new(256).limit(limit));
            if let Some(slots) = magazine {
                builder = builder.magazine(slots);
            }
            let pool = builder.build(memory.region()).unwrap();
            for _ in 0..3 {
                let mut cache = pool.local_cache();
                for handle in [&mut &pool as &mut dyn Handle, &mut cache] {
                    check_limit(&pool, handle, limit);
                    pool.defragment();
                    handle.flush();
                }
            }
        }
    }
}

fn check_limit(pool: &Pool<'_, NoLock>, mut handle: &mut dyn Handle, limit: usize) {
    let class = ClassId::new(0);
    let (slots, error) = drain(&mut handle, class);
    assert_eq!((slots.len(), error), (limit, AllocError::ClassLimit { class }));
    let stats = pool.class_stats(class).unwrap();
    assert_eq!((stats.live, stats.peak, stats.limit), (limit, limit, limit));
    // The general path is not bound by it: the heap serves what the class may not.
    let block = handle.alloc(bytes(256)).unwrap();
    handle.free(block).unwrap();
    free_all(&mut handle, slots);
}

/// With several caches the limit holds for all together, and nobody gets more.
#[test]
fn a_limit_holds_across_caches() {
    let mut memory = Memory::new(1 << 20);
    let pool = builder().size_class(SizeClass::new(256).limit(100)).build(memory.region()).unwrap();
    let class = ClassId::new(0);
    let mut caches: Vec<_> = (0..4).map(|_| pool.local_cache()).collect();
    let mut rng = Rng::new(4);
    let mut live = Vec::new();
    for _ in 0..20_000 {
        let cache = &mut caches[rng.below(4)];
        if rng.below(5) < 3 {
            match cache.alloc_fixed(class) {
                Ok(slot) => live.push(slot),
                Err(error) => assert_eq!(error, AllocError::ClassLimit { class }),
            }
        } else if !live.is_empty() {
            let slot = live.swap_remove(rng.below(live.len()));
            Handle::free(cache, slot).unwrap();
        }
        let stats = pool.class_stats(class).unwrap();
        assert_eq!(stats.live, live.len());
        assert!(stats.live + stats.cached <= 100);
    }
    caches.clear();
    let (rest, _) = drain(&mut &pool, class);
    assert_eq!(live.len() + rest.len(), 100);
}

thread_local! {
    static LOW: Cell<(usize, usize)> = const { Cell::new((0, usize::MAX)) };
}

fn note_low(class: ClassId, left: usize) {
    assert_eq!(class, ClassId::new(0));
    LOW.set((LOW.get().0 + 1, left));
}

#[test]
fn the_watermark_callback_tells_how_many_are_left() {
    LOW.set((0, usize::MAX));
    let mut memory = Memory::new(1 << 20);
    let class = SizeClass::new(256).reserve(64).limit(64).low_watermark(10, note_low);
    let pool = builder().magazine(0).size_class(class).build(memory.region()).unwrap();
    let class = ClassId::new(0);
    let slots: Vec<_> = (0..54).map(|_| pool.alloc_fixed(class).unwrap()).collect();
    assert_eq!(LOW.get().0, 0, "ten are left");
    for _ in 0..10 {
        let _ = pool.alloc_fixed(class).unwrap();
        assert_eq!(LOW.get(), (1, 9), "once, when the mark is passed");
    }
    pool.alloc_fixed(class).unwrap_err();
    assert_eq!(LOW.get().0, 1, "a failure takes nothing");
    free_all(&mut &pool, slots);
    let _ = pool.alloc_fixed(class).unwrap();
    assert_eq!(LOW.get().0, 1, "plenty are left again");
}

/// A class without a watermark calls nobody, whatever others have.
#[test]
fn a_watermark_is_its_own_class_s() {
    LOW.set((0, usize::MAX));
    let mut memory = Memory::new(1 << 20);
    let marked = SizeClass::new(256).reserve(64).limit(64).low_watermark(10, note_low);
    let pool = builder().magazine(0).size_class(marked).size_class(SizeClass::new(64).limit(20));
    let pool = pool.build(memory.region()).unwrap();
    let (slots, _) = drain(&mut &pool, ClassId::new(1));
    assert_eq!((slots.len(), LOW.get().0), (20, 0));
    free_all(&mut &pool, slots);
    let (slots, _) = drain(&mut &pool, ClassId::new(0));
    assert_eq!((slots.len(), LOW.get()), (64, (1, 9)));
}

/// Whatever memory is left, a class can be added or nothing has changed: no table, map or slab of it stays.
#[test]
fn a_class_that_finds_no_memory_leaves_nothing_behind() {
    let (mut added, mut refused) = (0, 0);
    for left in (0..12_000).step_by(200) {
        let mut memory = [Memory::new(64 << 10), Memory::new(32 << 10)];
        let [first, second] = &mut memory;
        let pool = builder().build(first.region()).unwrap();
        pool.add_region(second.region()).unwrap();
        let kept = (left > 0).then(|| pool.alloc(bytes(left)).unwrap());
        let blocks: Vec<_> =
            [4096, 512, 48, 16].iter().flat_map(|&size| fill(&mut &pool, size)).collect();
        free_all(&mut &pool, kept);
        pool.defragment();
        for class in [SizeClass::new(64).dedicated(), SizeClass::new(64)] {
            let class = class.reserve(3);
            let before = pool.stats();
            match pool.add_size_class(class) {
                Ok(class) => {
                    added += 1;
                    assert_eq!(pool.class_stats(class).unwrap().slots.min(3), 3);
                }
                Err(error) => {
                    refused += 1;
                    let is_short = matches!(
                        error,
                        ConfigError::OutOfMemory | ConfigError::ReserveTooLarge { .. }
                    );
                    assert!(is_short, "{left}: {error}");
                    pool.defragment();
                    assert_eq!(pool.stats(), before, "{left}");
                }
            }
            pool.validate().unwrap();
        }
        free_all(&mut &pool, blocks);
        pool.validate().unwrap();
    }
    assert!(added > 10 && refused > 10, "{added} {refused}");
}

/// A callback runs without the lock: any call works in it.
#[test]
fn a_watermark_callback_may_call_the_pool() {
    static POOL: Pool<'static, parking_lot::RawMutex> = Pool::empty();
    fn call_back(class: ClassId, left: usize) {
        assert!(left < 30);
        assert!(POOL.class_stats(class).is_some());
        POOL.validate().unwrap();
        let block = POOL.alloc(bytes(3000)).unwrap();
        Handle::free(&mut &POOL, block).unwrap();
        LOW.set((LOW.get().0 + 1, left));
    }
    LOW.set((0, 0));
    let memory = vec![std::mem::MaybeUninit::uninit(); 256 << 10].leak();
    POOL.init(memory).unwrap();
    let class = SizeClass::new(64).reserve(40).limit(40).low_watermark(30, call_back);
    let class = POOL.add_size_class(class).unwrap();
    let mut cache = POOL.local_cache();
    let slots: Vec<_> = (0..40).map(|_| cache.alloc_fixed(class).unwrap()).collect();
    assert!(LOW.get().0 > 0);
    free_all(&mut cache, slots);
}

#[test]
fn caches_learn_of_classes_that_are_added() {
    let mut memory = Memory::new(4 << 20);
    let pool = builder().size_class(SizeClass::new(100)).build(memory.region()).unwrap();
    let mut caches: Vec<_> = (0..3).map(|_| pool.local_cache()).collect();
    let mut live = Vec::new();
    let mut rng = Rng::new(6);
    for number in 1..40u8 {
        for cache in &mut caches {
            live.extend((0..5).map(|_| {
                let class = ClassId::new(u8::try_from(rng.below(usize::from(number))).unwrap());
                (class, cache.alloc_fixed(class).unwrap())
            }));
        }
        let added = pool.add_size_class(SizeClass::new(100 + usize::from(number) * 16)).unwrap();
        assert_eq!(added, ClassId::new(number));
        for cache in &mut caches {
            // Allocated before, freed after; and the new class at once.
            let (class, slot) = live.swap_remove(rng.below(live.len()));
            Handle::free_fixed(cache, class, slot).unwrap();
            live.push((added, cache.alloc_fixed(added).unwrap()));
        }
        pool.validate().unwrap();
        assert_eq!(pool.stats().live_objects, live.len());
    }
    for (class, slot) in live {
        Handle::free_fixed(&mut caches[rng.below(3)], class, slot).unwrap();
    }
    drop(caches);
    pool.defragment();
    let stats = pool.stats();
    assert_eq!((stats.live_objects, stats.cached_objects, stats.slab_bytes), (0, 0, 0), "{stats}");
}

#[test]
fn as_many_classes_as_there_can_be() {
    let mut memory = Memory::new(16 << 20);
    let pool = builder().build(memory.region()).unwrap();
    let mut cache = pool.local_cache();
    let mut slots = Vec::new();
    for number in 0..MAX_CLASSES {
        // In no order, so that links between sizes are put in everywhere.
        let size = 16 + (number * 53 % MAX_CLASSES) * 40;
        let class = pool.add_size_class(SizeClass::new(size)).unwrap();
        assert_eq!(usize::from(class.number()), number);
        slots.push((class, cache.alloc_fixed(class).unwrap(), size));
    }
    let refused = pool.add_size_class(SizeClass::new(99));
    assert_eq!(refused, Err(ConfigError::TooManyClasses));
    for &(class, slot, size) in &slots {
        assert!(pool.usable(slot).unwrap() >= size);
        assert_eq!(pool.class_of(size), Ok(class));
    }
    pool.validate().unwrap();
    for (class, slot, _) in slots {
        let other = ClassId::new((class.number() + 1) % 128);
        let addr = slot.addr().get();
        let refused = Handle::free_fixed(&mut cache, other, slot);
        assert_eq!(refused, Err(FreeError::WrongClass { addr, actual: Some(class) }));
        Handle::free_fixed(&mut cache, class, slot).unwrap();
    }
    let too_many = (0..=MAX_CLASSES).fold(builder(), |b, _| b.size_class(SizeClass::new(64)));
    let mut memory = Memory::new(1 << 20);
    assert_eq!(too_many.build(memory.region()).unwrap_err(), ConfigError::TooManyClasses);
}

/// `class_of` names the smallest class that is large enough, whatever was added in what order.
#[test]
fn class_of_is_the_smallest_that_fits() {
    let mut rng = Rng::new(8);
    for _ in 0..30 {
        let mut memory = Memory::new(8 << 20);
        let pool = builder().build(memory.region()).unwrap();
        for _ in 0..=rng.below(20) {
            pool.add_size_class(SizeClass::new(1 + rng.below(6000))).unwrap();
        }
        let sizes: Vec<_> = pool.classes().map(|c| pool.class_stats(c).unwrap().size).collect();
        for size in 1..6100 {
            let best = sizes.iter().filter(|&&class| class >= size).min();
            let found = pool.class_of(size).map(|c| pool.class_stats(c).unwrap().size);
            assert_eq!(found.as_ref().ok(), best, "{size} among {sizes:?}");
        }
        assert_eq!(pool.class_of(0), Err(AllocError::UnknownClass));
    }
}

/// Slots of every size a class can have are disjoint, aligned, and all found by their pointers.
/// Of two classes of one size, requests by size come to the later one, through every handle.
#[test]
fn the_later_of_equal_classes_serves_their_size() {
    let mut memory = Memory::new(1 << 20);
    // A smaller one before, between and after them: each has to lead on to the right one.
    let sizes = [1296, 2048, 1408, 2048, 1536];
    let pool = builder().alignment(16).size_classes(&sizes).build(memory.region()).unwrap();
    let later = ClassId::new(3);
    for size in [1537, 1700, 2048] {
        assert_eq!(pool.class_of(size), Ok(later));
        for handle in &mut [&mut &pool as &mut dyn Handle, &mut pool.local_cache()] {
            let slot = handle.alloc(bytes(size)).unwrap();
            assert_eq!(handle.free_fixed(ClassId::new(1), slot).map_err(|_| ()), Err(()));
            handle.free_fixed(later, slot).unwrap();
        }
    }
    for (size, class) in [(1297, 2), (1409, 4)] {
        assert_eq!(pool.class_of(size), Ok(ClassId::new(class)));
    }
}

/// A request by layout is served by the smallest class that holds it and is not dedicated, if a quarter
/// of its slots is wasted at most; by the heap if not. That holds at the first time, when the cache asks
/// the engine, and later, when it is in a hurry; with flags it never is.
#[test]
fn requests_are_served_by_the_smallest_class_that_wastes_little() {
    let mut rng = Rng::new(11);
    for round in 0..24 {
        let mut memory = Memory::new(8 << 20);
        let flags = if round % 4 == 3 { PoolFlags::HARDENED } else { PoolFlags::empty() };
        let pool = builder().flags(flags).build(memory.region()).unwrap();
        for number in 0..=rng.below(30) {
            // Some close to one another, so that the table of sizes does not tell them apart.
            let size =
                if rng.below(2) == 0 { 1 + rng.below(40_000) } else { 1440 + rng.below(100) };
            let class = SizeClass::new(size);
            let class = if number % 7 == 6 { class.dedicated() } else { class };
            pool.add_size_class(class).unwrap();
        }
        let classes: Vec<_> = pool.classes().map(|id| pool.class_stats(id).unwrap()).collect();
        let general = classes.iter().filter(|class| class.id.number() % 7 != 6);
        let general: Vec<_> = general.map(|class| (class.id, class.size)).collect();
        let serving = |size: usize| {
            let fits = general.iter().filter(|(_, holds)| *holds >= size);
            let (id, holds) = fits.min_by_key(|(id, holds)| (*holds, Reverse(*id)))?;
            (*holds <= 64 || size >= holds - holds / 4).then_some(*id)
        };
        let mut cache = pool.local_cache();
        let close = classes.iter().flat_map(|class| class.size.saturating_sub(3)..class.size + 3);
        let sizes = close.chain((0..500).map(|_| rng.below(42_000))).filter(|&size| size > 0);
        for size in sizes {
            for _ in 0..2 {
                let block = cache.alloc(bytes(size)).unwrap();
                if let Some(id) = serving(size) {
                    Handle::free_fixed(&mut cache, id, block).unwrap();
                    continue;
                }
                // SAFETY: it is refused, as a block of the heap is no slot.
                let refused = unsafe { pool.free_slot(block) };
                assert!(matches!(refused, Err(FreeError::WrongClass { actual: None, .. })));
                Handle::free(&mut cache, block).unwrap();
            }
        }
    }
}

/// Slots by size: of the smallest class that holds it, however much that wastes.
#[test]
fn slots_by_size() {
    let mut memory = Memory::new(1 << 20);
    let pool = builder()
        .size_classes(&[64, 4096])
        .size_class(SizeClass::new(512).dedicated())
        .build(memory.region())
        .unwrap();
    let block = pool.alloc(bytes(500)).unwrap();
    let failures = pool.stats().failures;
    for (size, usable) in [(1, 64), (64, 64), (65, 4096), (512, 4096), (4096, 4096)] {
        let slot = pool.alloc_slot(size).unwrap();
        assert_eq!(pool.usable(slot), Ok(usable), "{size}");
        // SAFETY: neither is used any more.
        unsafe {
            assert!(matches!(
                pool.free_slot(block),
                Err(FreeError::WrongClass { actual: None, .. })
            ));
            pool.free_slot(slot).unwrap();
            assert!(matches!(pool.free_slot(slot), Err(FreeError::NotLive { .. })));
        }
    }
    assert_eq!(pool.stats().failures, failures);
    assert_eq!(pool.alloc_slot(4097), Err(AllocError::UnknownClass));
    assert_eq!(pool.alloc_slot(0), Err(AllocError::ZeroSize));
    assert_eq!(pool.stats().failures, failures + 2);
    assert_eq!((pool.stats().live_objects, pool.stats().bad_frees), (1, 10));
    pool.validate().unwrap();
}

#[test]
fn classes_of_every_size() {
    let sizes = (1..300).step_by(7).chain([1500, 1536, 2048, 4096, 9000, 65_000, 512 << 10]);
    for size in sizes {
        for coloured in [false, true] {
            for &alignment in ALIGNMENTS {
                check_class_size(size, coloured, alignment);
            }
        }
    }
}

fn check_class_size(size: usize, coloured: bool, alignment: usize) {
    let mut memory = Memory::new(4 << 20);
    let region = memory.region();
    let range = region.as_ptr_range();
    let range = range.start.addr()..range.end.addr();
    let class = SizeClass::new(size);
    let class = if coloured { class.coloured() } else { class };
    let built = builder().alignment(alignment).size_class(class).build(region);
    let pool = built.unwrap_or_else(|error| panic!("{size}, {alignment}: {error}"));
    let setup = Setup { alignment, ..Setup::plain(4 << 20) };
    let mut model = Model::new(&[range], alignment);
    let mut session = Session::new(&pool, &setup, &mut model);
    for i in 0..70u16 {
        session.apply(Op::AllocFixed { via: i, class: 0 });
        if i % 3 == 0 {
            session.apply(Op::FreeFixed { via: i / 2, which: i });
        }
    }
    session.model.check_all(&pool);
    session.free_everything();
}

/// The preset table is there in pools of every size, and wastes what it says at most.
#[test]
fn preset_classes_round_up_by_an_eighth() {
    let mut memory = Memory::new(64 << 20);
    let pool = builder().preset_classes().build(memory.region()).unwrap();
    assert_eq!(pool.classes().count(), 72);
    for size in 1..=libmempool::PRESET_MAX {
        let class = pool.class_stats(pool.class_of(size).unwrap()).unwrap();
        assert!(class.size - size <= (size / 8).max(15), "{size} in {}", class.size);
    }
    for kib in [2, 4, 8, 16, 32, 64, 100, 1000, 10_000] {
        let mut memory = Memory::new(kib << 10);
        let built = builder().preset_classes().build(memory.region());
        let pool = built.unwrap_or_else(|error| panic!("{kib} KiB: {error}"));
        let block = pool.alloc(bytes(100)).unwrap();
        Handle::free(&mut &pool, block).unwrap();
        pool.validate().unwrap();
    }
}

/// Every lock and class set starts out with what it was told, and nothing live.
#[test]
fn fresh_pools_have_empty_statistics() {
    use std::ops::Range;
    struct Fresh;
    impl common::Suite for Fresh {
        fn run<L: lock_api::RawMutex, P: libmempool::PageSource>(
            &mut self,
            pool: Pool<'_, L, P>,
            _: &Setup,
            regions: &[Range<usize>],
        ) {
            let stats = pool.stats();
            assert_eq!(stats.region_bytes, regions.iter().map(ExactSizeIterator::len).sum());
            assert_eq!((stats.live_objects, stats.live_bytes, stats.peak_bytes), (0, 0, 0));
            assert_eq!((stats.failures, stats.bad_frees, stats.caches), (0, 0, 0));
            assert_eq!(stats.fragmentation_percent(), 0);
            assert!(pool.destroy().is_clean());
        }
    }
    for &lock in LOCKS {
        for &classes in CLASS_SETS {
            Setup { lock, classes, ..Setup::plain(256 << 10) }.run(&mut Fresh).unwrap();
        }
    }
}
