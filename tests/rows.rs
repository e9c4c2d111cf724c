//! How many magazines a local cache has: enough for what it took itself, so that its bursts need no
//! lock; two for what others took; none that somebody else needs.

mod common;

use std::{cell::Cell, collections::BTreeSet, ptr::NonNull};

use common::{Memory, bytes, free_all};
use libmempool::{ClassId, LocalCache, NoLock, Pool, SizeClass};
use lock_api::{GuardNoSend, RawMutex};

thread_local! {
    static LOCKED: Cell<usize> = const { Cell::new(0) };
}

/// How often this thread's pools were locked since.
fn times_locked() -> usize {
    LOCKED.replace(0)
}

/// A lock for one thread that counts.
struct Counting(NoLock);

// SAFETY: as `NoLock`.
unsafe impl RawMutex for Counting {
    const INIT: Self = Self(NoLock::INIT);

    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        LOCKED.set(LOCKED.get() + 1);
        self.0.lock();
    }

    fn try_lock(&self) -> bool {
        self.0.try_lock()
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.unlock() };
    }
}

type Cache<'p> = LocalCache<'p, Counting>;

const BURST: usize = 1024;
const CLASS: ClassId = ClassId::new(0);

fn with_pool(class: SizeClass, test: impl FnOnce(&Pool<'_, Counting>)) {
    let mut memory = Memory::new(16 << 20);
    let pool = Pool::<Counting>::builder().size_class(class).build(memory.region()).unwrap();
    test(&pool);
    pool.validate().unwrap();
    pool.defragment();
    let stats = pool.stats();
    assert_eq!((stats.live_objects, stats.cached_objects), (0, 0));
}

fn take(cache: &mut Cache<'_>, count: usize) -> Vec<NonNull<u8>> {
    (0..count).map(|_| cache.alloc_fixed(CLASS).unwrap()).collect()
}

/// How many slots a cache holds, which it gives back.
fn held_by(cache: &mut Cache<'_>, pool: &Pool<'_, Counting>) -> usize {
    pool.defragment();
    let before = pool.stats().cached_objects;
    cache.flush();
    pool.defragment();
    before - pool.stats().cached_objects
}

/// Allocates a burst, and frees every other slot before the rest.
fn burst(cache: &mut Cache<'_>, count: usize) -> BTreeSet<NonNull<u8>> {
    let slots = take(cache, count);
    free_all(cache, slots.iter().copied().step_by(2));
    free_all(cache, slots.iter().copied().skip(1).step_by(2));
    slots.into_iter().collect()
}

#[test]
fn bursts_need_no_lock_and_keep_their_slots() {
    with_pool(SizeClass::new(64), |pool| {
        let (mut a, mut b) = (pool.local_cache(), pool.local_cache());
        let first = [burst(&mut a, BURST), burst(&mut b, BURST)];
        assert!(first[0].is_disjoint(&first[1]));
        times_locked();
        for _ in 0..20 {
            assert_eq!([burst(&mut a, BURST), burst(&mut b, BURST)], first);
        }
        assert_eq!(times_locked(), 0);
    });
}

#[test]
fn bursts_beyond_the_row_meet_the_lock_once_per_magazine() {
    with_pool(SizeClass::new(16), |pool| {
        let mut cache = pool.local_cache();
        let slots = 20_000;
        burst(&mut cache, slots);
        for _ in 0..3 {
            times_locked();
            burst(&mut cache, slots);
            let locked = times_locked();
            assert!((1..=2 * slots / 64).contains(&locked), "{locked} times");
        }
    });
}

#[test]
fn a_cache_that_only_frees_passes_on_what_it_gets() {
    with_pool(SizeClass::new(64), |pool| {
        let (mut producer, mut consumer) = (pool.local_cache(), pool.local_cache());
        for _ in 0..50 {
            let slots = take(&mut producer, BURST);
            free_all(&mut consumer, slots);
        }
        let held = held_by(&mut consumer, pool);
        assert!(held <= 2 * 128, "{held}");
    });
}

#[test]
fn a_producer_that_turns_consumer_gives_its_row_up() {
    with_pool(SizeClass::new(64), |pool| {
        let (mut a, mut b) = (pool.local_cache(), pool.local_cache());
        burst(&mut a, 4 * BURST);
        for _ in 0..100 {
            let slots = take(&mut b, BURST);
            free_all(&mut a, slots);
        }
        let held = held_by(&mut a, pool);
        assert!(held <= 2 * 128, "{held}");
    });
}

/// A row is a part of a class's limit, so that others can have theirs.
#[test]
fn a_row_is_bounded_by_the_limit() {
    let limit = 1000;
    with_pool(SizeClass::new(64).limit(limit), |pool| {
        let mut cache = pool.local_cache();
        burst(&mut cache, limit);
        let held = held_by(&mut cache, pool);
        assert!((1..=2 * limit / 8).contains(&held), "{held}");
    });
}

#[test]
fn whoever_says_how_large_magazines_are_gets_two() {
    let mut memory = Memory::new(16 << 20);
    let pool = Pool::<Counting>::builder().size_classes(&[64]).magazine(32);
    let pool = pool.build(memory.region()).unwrap();
    let mut cache = pool.local_cache();
    for _ in 0..5 {
        burst(&mut cache, BURST);
    }
    assert!(held_by(&mut cache, &pool) <= 2 * 32);
}

/// When memory runs out elsewhere, a cache gives its row back at its next step beyond the loaded
/// magazine, although it needs no lock for that step.
#[test]
fn a_row_goes_back_when_memory_runs_out() {
    with_pool(SizeClass::new(2048), |pool| {
        let mut cache = pool.local_cache();
        burst(&mut cache, 300);
        let held = pool.stats().cached_objects;
        assert!(held >= 200, "{held}");
        let mut blocks = Vec::new();
        while let Ok(block) = pool.alloc(bytes(100_000)) {
            blocks.push(block);
        }
        let mut slots = Vec::new();
        while pool.stats().cached_objects > 20 {
            slots.push(cache.alloc_fixed(CLASS).unwrap());
            assert!(slots.len() <= 64, "it gives back what it holds after a magazine at most");
        }
        blocks.push(pool.alloc(bytes(100_000)).expect("what the cache held"));
        free_all(&mut cache, slots.into_iter().chain(blocks));
    });
}

/// What one cache takes and another frees comes back in whole magazines, however much is on its way: the
/// depot keeps the class's reserve, or its share of the region.
#[test]
fn a_depot_keeps_what_a_flow_needs() {
    for (class, flow) in [(SizeClass::new(2048).reserve(4096), 4000), (SizeClass::new(64), 10_000)]
    {
        with_pool(class, |pool| {
            let (mut a, mut b) = (pool.local_cache(), pool.local_cache());
            let mut slabs = None;
            for _ in 0..4 {
                let slots = take(&mut a, flow);
                let all = slots.iter().copied().collect::<BTreeSet<_>>();
                assert_eq!(all.len(), flow);
                free_all(&mut b, slots);
                let stats = pool.class_stats(CLASS).unwrap();
                assert!(stats.cached >= flow, "{stats:?}");
                assert_eq!(*slabs.get_or_insert(stats.slabs), stats.slabs);
            }
            times_locked();
            let slots = take(&mut a, flow);
            free_all(&mut b, slots);
            assert!(times_locked() <= flow / 4, "a magazine holds more slots than that");
        });
    }
}

/// A cache that rests keeps no slot, and its block; others find what it had, whole magazines in the depot.
#[test]
fn what_a_resting_cache_had_is_found_by_others() {
    with_pool(SizeClass::new(64), |pool| {
        let (mut a, mut b) = (pool.local_cache(), pool.local_cache());
        for count in [1, 100, 128, 200, 1000] {
            let slots = take(&mut a, count);
            free_all(&mut a, slots.iter().copied());
            a.flush();
            times_locked();
            a.flush();
            assert_eq!(times_locked(), 0, "there is nothing left to give");
            let before = pool.class_stats(CLASS).unwrap();
            // Magazines of 128 slots, of which those with fewer than 64 went to the slabs.
            assert!(before.cached + 64 >= count, "{before:?}");
            let again = take(&mut b, count);
            assert_eq!(pool.class_stats(CLASS).unwrap().slabs, before.slabs);
            free_all(&mut b, again);
            b.flush();
            assert_eq!(pool.stats().caches, 2);
        }
        drop((a, b));
        assert_eq!(pool.stats().caches, 0);
    });
}

/// A cache that rests while its owner has all of its slots keeps two empty magazines; those with few slots do
/// not go to the depot.
#[test]
fn a_resting_cache_keeps_two_empty_magazines() {
    with_pool(SizeClass::new(64), |pool| {
        let mut cache = pool.local_cache();
        let slots = take(&mut cache, 1000);
        free_all(&mut cache, slots);
        let mut slots = take(&mut cache, 1000);
        while pool.stats().cached_objects > 0 {
            slots.push(cache.alloc_fixed(CLASS).unwrap());
        }
        let metadata = pool.stats().metadata_bytes;
        cache.flush();
        times_locked();
        cache.flush();
        assert_eq!(times_locked(), 0, "there is nothing left to give");
        pool.defragment();
        let freed = metadata - pool.stats().metadata_bytes;
        assert!(freed >= 4 * 128 * 2 * size_of::<usize>(), "{freed}: most of eight magazines");
        // A burst that the loaded magazine, with few slots, has no room for is put into the next.
        let rest = slots.split_off(30);
        free_all(&mut cache, slots);
        for burst in rest.chunks(128) {
            // SAFETY: live slots of this cache's, which nobody uses any more.
            unsafe { cache.free_bulk(CLASS, burst) }.unwrap();
        }
        cache.flush();
        assert_eq!(pool.class_stats(CLASS).unwrap().live, 0);
    });
}

/// Resting again and again takes no more slots out of the slabs.
#[test]
fn a_cache_that_rests_often_needs_no_more_slots() {
    for class in
        [SizeClass::new(64), SizeClass::new(64).limit(150), SizeClass::new(2048).reserve(64)]
    {
        with_pool(class, |pool| {
            let mut cache = pool.local_cache();
            let mut most = None;
            for _ in 0..200 {
                let slots = take(&mut cache, 100);
                free_all(&mut cache, slots);
                cache.flush();
                let stats = pool.class_stats(CLASS).unwrap();
                assert_eq!(*most.get_or_insert(stats.slots), stats.slots, "{stats:?}");
            }
        });
    }
}

/// Small regions have magazines worth the name.
#[test]
fn caches_of_small_regions_seldom_need_the_lock() {
    let mut memory = Memory::new(32 << 10);
    let class = SizeClass::new(64);
    let pool = Pool::<Counting>::builder().size_class(class).build(memory.region()).unwrap();
    let mut cache = pool.local_cache();
    burst(&mut cache, 6);
    times_locked();
    for _ in 0..100 {
        burst(&mut cache, 6);
    }
    assert_eq!(times_locked(), 0);
}
