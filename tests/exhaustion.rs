//! Exhaustion and recovery: fill to failure, free all, and the largest block is whole again and
//! every statistic back at its start.

mod common;

use std::{ops::Range, ptr::NonNull};

use common::{
    Handle, LOCKS, Rng, Setup, Suite, bytes, check_shortage,
    setup::{ALIGNMENTS, CLASS_SETS, SOURCES},
    stamp,
};
use libmempool::{PageSource, Pool, PoolFlags, PoolStats};
use lock_api::RawMutex;

/// In which order everything is freed.
#[derive(Clone, Copy, Debug)]
enum Order {
    FirstIn,
    LastIn,
    Random,
}

/// Fills a pool through one kind of handle with sizes from one range, and empties it.
struct FillAndFree {
    sizes: Range<usize>,
    order: Order,
    cached: bool,
}

impl Suite for FillAndFree {
    fn run<L: RawMutex, P: PageSource>(
        &mut self,
        pool: Pool<'_, L, P>,
        setup: &Setup,
        _: &[Range<usize>],
    ) {
        pool.defragment();
        let start = pool.stats();
        for round in 0..2 {
            if self.cached {
                self.fill_and_free(&mut pool.local_cache(), &pool, setup, round);
            } else {
                self.fill_and_free(&mut &pool, &pool, setup, round);
            }
            pool.defragment();
            pool.validate().unwrap();
            assert_recovered(&start, &pool.stats());
        }
    }
}

impl FillAndFree {
    fn fill_and_free<L: RawMutex, P: PageSource>(
        &self,
        handle: &mut impl Handle,
        pool: &Pool<'_, L, P>,
        setup: &Setup,
        seed: u64,
    ) {
        let mut rng = Rng::new(seed);
        let mut blocks = self.fill(handle, &mut rng);
        self.check_failures(handle, pool, setup);
        match self.order {
            Order::FirstIn => {}
            Order::LastIn => blocks.reverse(),
            Order::Random => rng.shuffle(&mut blocks),
        }
        // One out, one in: it works again at once, also right after failures.
        if let Some((block, size, stamp)) = blocks.pop() {
            stamp::verify(block, size, stamp);
            handle.free(block).unwrap();
            let again = handle.alloc(bytes(size)).expect("what was freed can be had again");
            handle.free(again).unwrap();
        }
        for (block, size, stamp) in blocks {
            stamp::verify(block, size, stamp);
            handle.free(block).unwrap();
        }
    }

    fn fill(&self, handle: &mut impl Handle, rng: &mut Rng) -> Vec<(NonNull<u8>, usize, u64)> {
        let mut blocks = Vec::new();
        loop {
            let size = self.sizes.start + rng.below(self.sizes.len());
            let Ok(block) = handle.alloc(bytes(size)) else { return blocks };
            let stamp = u64::try_from(blocks.len()).unwrap();
            stamp::write(block, size, stamp);
            blocks.push((block, size, stamp));
        }
    }

    /// Failures are typed, counted, and change nothing else however often they are repeated.
    fn check_failures<L: RawMutex, P: PageSource>(
        &self,
        handle: &mut impl Handle,
        pool: &Pool<'_, L, P>,
        setup: &Setup,
    ) {
        let size = self.sizes.end.max(setup.bytes / 2);
        let _ = handle.alloc(bytes(size)).expect_err("a full pool");
        let mut before = pool.stats();
        for _ in 0..10 {
            let error = handle.alloc(bytes(size)).expect_err("a full pool");
            check_shortage(error, size, &before);
            before.failures += 1;
            assert_eq!(pool.stats(), before);
        }
    }
}

/// Compares everything but what only ever counts up.
#[track_caller]
fn assert_recovered(start: &PoolStats, end: &PoolStats) {
    let mut expected = *start;
    expected.peak_bytes = end.peak_bytes;
    (expected.failures, expected.limit_hits) = (end.failures, end.limit_hits);
    assert_eq!(*end, expected);
}

#[test]
fn every_configuration_recovers() {
    let sizes = [1..64, 100..101, 1..1500, 2048..2049, 500..20_000];
    let orders = [Order::FirstIn, Order::LastIn, Order::Random];
    for turn in 0..ALIGNMENTS.len() * CLASS_SETS.len() * 3 {
        let rest = turn / ALIGNMENTS.len();
        let setup = Setup {
            lock: LOCKS[turn % LOCKS.len()],
            source: SOURCES[(turn + rest) % SOURCES.len()],
            alignment: ALIGNMENTS[turn % ALIGNMENTS.len()],
            classes: CLASS_SETS[rest % CLASS_SETS.len()],
            bytes: [64 << 10, 200_000, 1 << 20][turn % 3],
            regions: 1 + turn % 2,
            skew: turn % 64,
            magazine: [None, Some(0), Some(64)][rest % 3],
            flags: [PoolFlags::empty(), PoolFlags::POISON, PoolFlags::HARDENED][turn / 5 % 3],
        };
        let mut suite = FillAndFree {
            sizes: sizes[(turn + rest) % sizes.len()].clone(),
            order: orders[turn % orders.len()],
            cached: turn / 2 % 2 == 0,
        };
        let built = setup.run(&mut suite);
        assert!(built.is_ok() || !setup.must_build(), "{setup:?}: {built:?}");
    }
}

/// Every size alone, so that fill and free meet every bin and class boundary.
#[test]
fn every_size_recovers() {
    for classes in CLASS_SETS {
        for size in (1..600).chain([1000, 1023, 1024, 1025, 4095, 4096, 4097, 9000]) {
            let setup = Setup { classes: *classes, ..Setup::plain(32 << 10) };
            let mut suite =
                FillAndFree { sizes: size..size + 1, order: Order::Random, cached: size % 2 == 0 };
            setup.run(&mut suite).unwrap();
        }
    }
}

/// One block that takes everything, again and again.
#[test]
fn the_largest_block_can_be_had_whole() {
    struct Whole;
    impl Suite for Whole {
        fn run<L: RawMutex, P: PageSource>(
            &mut self,
            pool: Pool<'_, L, P>,
            _: &Setup,
            _: &[Range<usize>],
        ) {
            let start = pool.stats();
            for _ in 0..3 {
                let all = pool.alloc(bytes(start.largest_free)).expect("the largest block");
                assert!(pool.alloc(bytes(start.largest_free)).is_err());
                // SAFETY: the block is not used.
                unsafe { pool.free(all) }.unwrap();
                assert_eq!(pool.stats().largest_free, start.largest_free);
                assert!(pool.alloc(bytes(start.largest_free + 1)).is_err());
            }
            pool.validate().unwrap();
        }
    }
    for &bytes in &[2 << 10, 100_000, 1 << 20, 256 << 20] {
        for &alignment in ALIGNMENTS.iter().filter(|&&alignment| alignment * 16 <= bytes) {
            let setup = Setup { alignment, ..Setup::plain(bytes) };
            setup.run(&mut Whole).unwrap();
        }
    }
}

/// Classes filled to failure through caches: no slot is lost, whichever cache it ended up in.
#[test]
fn classes_filled_through_several_caches_recover() {
    struct ThroughCaches;
    impl Suite for ThroughCaches {
        fn run<L: RawMutex, P: PageSource>(
            &mut self,
            pool: Pool<'_, L, P>,
            _: &Setup,
            _: &[Range<usize>],
        ) {
            pool.defragment();
            let start = pool.stats();
            let mut rng = Rng::new(11);
            let mut caches: Vec<_> = (0..4).map(|_| pool.local_cache()).collect();
            for class in pool.classes() {
                let mut slots = Vec::new();
                // The others give back what they hoard when they are asked a second time.
                let mut failures = 0;
                while failures < 8 {
                    match caches[failures % 4].alloc_fixed(class) {
                        Ok(slot) => slots.push(slot),
                        Err(_) => failures += 1,
                    }
                }
                assert!(!slots.is_empty());
                rng.shuffle(&mut slots);
                for slot in slots {
                    Handle::free_fixed(&mut caches[rng.below(4)], class, slot).unwrap();
                }
                pool.validate().unwrap();
            }
            rng.shuffle(&mut caches);
            drop(caches);
            pool.defragment();
            assert_recovered(&start, &pool.stats());
        }
    }
    for &lock in LOCKS {
        for &classes in CLASS_SETS {
            let setup = Setup { lock, classes, ..Setup::plain(1 << 20) };
            setup.run(&mut ThroughCaches).unwrap();
        }
    }
}

/// What one cache hoards is given back, on its next slow call, to others that find no memory.
#[test]
fn exhaustion_drains_other_caches() {
    let mut memory = common::Memory::new(1 << 20);
    let pool = Pool::<parking_lot::RawMutex>::builder().size_classes(&[1024]);
    let pool = pool.magazine(100).build(memory.region()).unwrap();
    let large = pool.class_of(1024).unwrap();
    let mut hoarder = pool.local_cache();
    // The first gets the cache its magazines, and fills one.
    let slots = [(); 2].map(|()| hoarder.alloc_fixed(large).unwrap());
    let hoarded = pool.class_stats(large).unwrap().cached;
    assert!((80..=100).contains(&hoarded), "{hoarded}");

    let spare = pool.alloc(bytes(100_000)).unwrap();
    let blocks = common::fill(&mut &pool, 1024);
    assert_eq!(pool.class_stats(large).unwrap().cached, hoarded, "nobody took them away yet");
    Handle::free(&mut &pool, spare).unwrap();
    let block = hoarder.alloc(bytes(50_000)).expect("room"); // its next slow call
    assert_eq!(pool.class_stats(large).unwrap().cached, 0);
    let more = common::fill(&mut &pool, 1024);
    assert!(more.len() >= hoarded - 1, "{} of {hoarded} came back", more.len());
    common::free_all(&mut hoarder, slots);
    common::free_all(&mut &pool, blocks.into_iter().chain(more).chain([block]));
}
