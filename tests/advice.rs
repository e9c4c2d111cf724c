//! Advice: what is counted, and that the classes suggested are the best there are.

mod common;

use std::ptr::NonNull;

use common::{Bench, Handle, Memory, Rng, bytes, layout};
use libmempool::{
    Advice, ClassId, ConfigError, MAX_ADVISED, NoLock, Pool, PoolConfig, PoolFlags, SizeClass,
};

/// A pool that counts.
fn profiled(flags: PoolFlags, bytes: usize) -> Bench {
    let bench = Bench::new(PoolConfig::new().size_classes(&[64, 2048]).flags(flags), bytes);
    bench.pool().start_profile().unwrap();
    bench
}

/// Asks for a block and gives it back.
fn ask(handle: &mut dyn Handle, size: usize) {
    let block = handle.alloc(bytes(size)).unwrap();
    handle.free(block).unwrap();
}

fn sizes(advice: &Advice) -> Vec<usize> {
    advice.classes().iter().map(|class| class.size).collect()
}

#[test]
fn without_being_asked_nothing_is_counted() {
    let bench = Bench::new(PoolConfig::new().size_classes(&[64]), 64 << 10);
    let plain = bench.pool().stats().metadata_bytes;
    ask(&mut bench.pool(), 50);
    assert_eq!(bench.pool().advise(4), None);
    let counts = profiled(PoolFlags::empty(), 64 << 10);
    assert!(counts.pool().stats().metadata_bytes > plain + 2000, "the table is the pool's own");
    let advice = counts.pool().advise(4).unwrap();
    assert_eq!((advice.requests, advice.classes().len()), (0, 0));
}

/// A request for nothing is refused, and says nothing about sizes.
#[test]
fn a_request_for_nothing_is_not_counted() {
    let bench = profiled(PoolFlags::empty(), 256 << 10);
    for (_, handle) in &mut bench.handles() {
        handle.alloc(bytes(0)).unwrap_err();
    }
    let advice = bench.pool().advise(4).unwrap();
    assert!(advice.classes().iter().all(|class| class.size > 0));
}

/// Each request is counted once, through whichever handle, whoever serves it.
#[test]
fn every_request_is_counted_once() {
    for flags in [PoolFlags::empty(), PoolFlags::HARDENED] {
        let mut bench = profiled(flags, 256 << 10);
        let fixed = bench.pool().add_size_class(SizeClass::new(300).dedicated()).unwrap();
        let (mut requests, mut asked) = (0, 0);
        // What comes from here on counts: making handles has asked for slots.
        let before = {
            let handles = bench.handles();
            let advice = bench.pool().advise(1).unwrap();
            drop(handles);
            (advice.requests, advice.bytes)
        };
        for (_, handle) in &mut bench.handles() {
            for size in [1, 50, 64, 100, 2000, 5000] {
                for _ in 0..10 {
                    ask(&mut **handle, size);
                    (requests, asked) = (requests + 1, asked + size);
                }
            }
            for _ in 0..10 {
                let slot = handle.alloc_fixed(ClassId::new(0)).unwrap();
                handle.free(slot).unwrap();
                // A dedicated class serves nobody else: no advice for it.
                let slot = handle.alloc_fixed(fixed).unwrap();
                handle.free(slot).unwrap();
                (requests, asked) = (requests + 1, asked + 64);
            }
            handle.alloc(bytes(1 << 30)).unwrap_err();
            (requests, asked) = (requests + 1, asked + (1 << 30));
        }
        let advice = bench.pool().advise(4).unwrap();
        // `handles` asks for a slot of each class, twice by now.
        let made = (2 * before.0, 2 * before.1);
        assert_eq!((advice.requests, advice.bytes), (requests + made.0, asked + made.1));
        bench.reset();
        assert_eq!(bench.pool().advise(4).unwrap().requests, 0, "a reset forgets");
    }
}

#[test]
fn a_packet_mix_gets_its_classes() {
    for flags in [PoolFlags::empty(), PoolFlags::CANARY] {
        let bench = profiled(flags, 256 << 10);
        for turn in 0..12_000 {
            let size = [40, 576, 40, 40, 576, 40, 1514, 40, 576, 40, 40, 576][turn % 12];
            ask(&mut bench.pool(), size);
        }
        // One in ten thousand is not worth a class.
        ask(&mut bench.pool(), 9000);
        let advice = bench.pool().advise(8).unwrap();
        // Without canaries an object may as well use all that it takes.
        let expected: [usize; 3] = if flags.is_empty() { [48, 576, 1520] } else { [40, 576, 1514] };
        assert_eq!(sizes(&advice), expected);
        let requests: Vec<_> = advice.classes().iter().map(|class| class.requests).collect();
        assert_eq!((requests, advice.left_to_heap()), (vec![7000, 4000, 1000], 1));
        let asked: Vec<_> = advice.classes().iter().map(|class| class.bytes).collect();
        assert_eq!(asked, [7000 * 40, 4000 * 576, 1000 * 1514]);
        // 40 bytes took slots of 64, 1514 a slot of 2048 or, with a seal beside it, the heap.
        assert!(advice.classes()[0].saved >= 7000 * 16, "{advice}");
        assert!(advice.advised_bytes < advice.present_bytes && advice.advised_bytes > advice.bytes);
        let saved: isize = advice.classes().iter().map(|class| class.saved).sum();
        assert_eq!(saved.unsigned_abs(), advice.present_bytes - advice.advised_bytes);
        assert!(
            advice.to_string().contains("class of     576 bytes:  33 % of the requests"),
            "{advice}"
        );
        assert_eq!(bench.pool().advise(8).unwrap(), advice, "the same again");
    }
}

/// Caches that are in use when it starts count from their next slow call on.
#[test]
fn a_profile_may_start_late() {
    for flags in [PoolFlags::empty(), PoolFlags::POISON, PoolFlags::CANARY, PoolFlags::RANDOM] {
        let config = PoolConfig::new().size_classes(&[64]).magazine(8).flags(flags);
        let bench = Bench::new(config, 64 << 10);
        for (name, handle) in &mut bench.handles() {
            ask(&mut **handle, 64);
            bench.pool().start_profile().unwrap();
            let before = bench.pool().advise(1).unwrap().requests;
            let slots: Vec<_> = (0..40).map(|_| handle.alloc(bytes(64)).unwrap()).collect();
            let counted = bench.pool().advise(1).unwrap().requests - before;
            assert!((24..=40).contains(&counted), "{flags:?}, {name}: {counted}");
            for slot in slots {
                handle.free(slot).unwrap();
            }
            bench.pool().validate().unwrap();
        }
    }
}

/// A cache hears of the profile in the middle of a bulk, and goes on.
#[test]
fn a_profile_may_start_between_two_bulks() {
    let class = ClassId::new(0);
    for frees_first in [false, true] {
        let mut memory = Memory::new(256 << 10);
        let builder = Pool::<NoLock>::builder().size_classes(&[64]).magazine(8);
        let pool = builder.build(memory.region()).unwrap();
        let mut cache = pool.local_cache();
        let mut slots = [NonNull::dangling(); 60];
        cache.alloc_bulk(class, &mut slots).unwrap();
        pool.start_profile().unwrap();
        let mut more = [NonNull::dangling(); 60];
        if !frees_first {
            cache.alloc_bulk(class, &mut more).unwrap();
        }
        // SAFETY: live slots, which nobody uses any more.
        unsafe { cache.free_bulk(class, &slots) }.unwrap();
        if frees_first {
            cache.alloc_bulk(class, &mut more).unwrap();
        }
        // SAFETY: as above.
        unsafe { cache.free_bulk(class, &more) }.unwrap();
        assert!(pool.advise(1).unwrap().requests > 0);
        assert_eq!(pool.stats().live_objects, 0);
        pool.validate().unwrap();
    }
}

#[test]
fn a_profile_needs_memory() {
    let pool = Pool::<NoLock>::empty();
    assert_eq!(pool.start_profile(), Err(ConfigError::NotInitialised));
    let mut memory = Memory::new(2048);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let before = pool.stats();
    assert_eq!(pool.start_profile(), Err(ConfigError::OutOfMemory));
    assert_eq!((pool.stats(), pool.advise(1)), (before, None));
}

/// With fewer classes than sizes, they share.
#[test]
fn no_more_classes_than_are_wanted() {
    let bench = profiled(PoolFlags::empty(), 1 << 20);
    for size in (32..2000).step_by(48) {
        ask(&mut bench.pool(), size);
    }
    let mut taken = usize::MAX;
    for most in 0..=MAX_ADVISED + 3 {
        let advice = bench.pool().advise(most).unwrap();
        assert!(advice.classes().len() <= most.min(MAX_ADVISED));
        assert!(advice.classes().is_sorted_by_key(|class| class.size));
        let weight = weight_of(&bench, &sizes(&advice));
        assert!(weight <= taken, "more classes are never worse");
        taken = weight;
    }
}

const GRANULE: usize = 2 * size_of::<usize>();
const WORD: usize = size_of::<usize>();

fn heap_block(size: usize) -> usize {
    (size + WORD).next_multiple_of(GRANULE).max(4 * WORD)
}

/// What requests of `asked` sizes weigh with these classes, as the documentation has it.
fn weight(asked: &[usize], classes: &[usize]) -> usize {
    let price = asked.iter().map(|&size| heavy(size)).sum::<usize>() / 256;
    let one = |&size: &usize| {
        let class = classes.iter().copied().filter(|&class| class >= size).min();
        let suits = |class: &usize| *class <= 64 || size >= class - class / 4;
        class.filter(suits).unwrap_or_else(|| heavy(size))
    };
    asked.iter().map(one).sum::<usize>() + classes.len() * price
}

fn heavy(size: usize) -> usize {
    heap_block(size) + heap_block(size) / 4
}

fn weight_of(_: &Bench, classes: &[usize]) -> usize {
    weight(&(32..2000).step_by(48).collect::<Vec<_>>(), classes)
}

/// No other choice of as many classes weighs less: compared with all there are.
#[test]
fn the_choice_is_the_best() {
    let mut rng = Rng::new(3);
    for round in 0..60 {
        let mut memory = Memory::new(1 << 20);
        let pool = Pool::<NoLock>::new(memory.region()).unwrap();
        pool.start_profile().unwrap();
        // Sizes that are a granule each, so that each is a bucket.
        let distinct: Vec<_> = (0..9)
            .map(|_| (1 + rng.below(60)) * GRANULE)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        let mut asked = Vec::new();
        for &size in &distinct {
            for _ in 0..=rng.below(40) {
                ask(&mut &pool, size);
                asked.push(size);
            }
        }
        for most in 0..4 {
            let advice = pool.advise(most).unwrap();
            let subsets =
                (0..1_usize << distinct.len()).filter(|set| set.count_ones() as usize <= most);
            let best = subsets
                .map(|set| {
                    let of_set = |&(index, _): &(usize, &usize)| set >> index & 1 == 1;
                    let classes: Vec<_> =
                        distinct.iter().enumerate().filter(of_set).map(|(_, &size)| size).collect();
                    weight(&asked, &classes)
                })
                .min()
                .unwrap();
            // Prices and penalties are rounded for all requests of a size at once.
            let slack = 2 * (distinct.len() + most);
            let advised = weight(&asked, &sizes(&advice));
            assert!(advised <= best + slack, "round {round}: {advised} {best}: {advice}");
        }
    }
}

/// Alignments are not sizes, and what a realloc moves to is asked for.
#[test]
fn reallocs_count_where_they_move() {
    let bench = profiled(PoolFlags::empty(), 64 << 10);
    let block = bench.pool().alloc(layout(100, 16)).unwrap();
    let _above = bench.pool().alloc(layout(100, 16)).unwrap();
    Handle::realloc(&mut bench.pool(), block, layout(100, 16), 500).unwrap();
    let advice = bench.pool().advise(1).unwrap();
    assert_eq!((advice.requests, advice.bytes), (3, 700));
}
