//! Faults of what surrounds a pool: threads that panic while they have caches, callbacks that panic,
//! caches that go while others are used, page sources that cannot discard.

mod common;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::channel,
    thread,
};

use common::{
    Bench, Handle, LockSuite, Memory, Packet, Rng, bytes, fill, for_each_sync_lock, free_all,
};
use libmempool::{
    ClassId, Fault, LocalCache, NoLock, PageError, Pool, PoolConfig, PoolFlags, PoolStats,
    SizeClass,
};
use lock_api::RawMutex;

const SIZES: [usize; 3] = [64, 512, 2048];
const CLASS: ClassId = ClassId::new(0);

/// What must be the same again once everybody is gone.
fn rest(pool: &Pool<impl RawMutex>) -> (usize, usize, usize, usize, usize) {
    pool.defragment();
    pool.validate().expect("valid");
    let PoolStats { live_objects, cached_objects, free_bytes, free_blocks, caches, .. } =
        pool.stats();
    (live_objects, cached_objects, free_bytes, free_blocks, caches)
}

/// Fills a cache and its magazines, with some slots in hand.
fn use_cache(cache: &mut LocalCache<'_, impl RawMutex>, rng: &mut Rng) -> Vec<Packet> {
    let slots: Vec<_> =
        (0..200).map_while(|_| cache.alloc(bytes(*rng.pick(&SIZES))).ok()).collect();
    let (kept, freed) = slots.split_at(slots.len() / 3);
    free_all(cache, freed.iter().copied());
    kept.iter().copied().map(Packet).collect()
}

/// A thread that panics in the middle of its work gives back what its cache held; what it had in hand
/// can be freed by others.
#[test]
fn threads_that_panic_lose_no_slot() {
    struct Panics;
    impl LockSuite for Panics {
        fn run<L: RawMutex + Send + Sync + 'static>(&mut self) {
            let mut memory = Memory::new(1 << 20);
            let pool = Pool::<L>::builder().size_classes(&SIZES).build(memory.region()).unwrap();
            let start = rest(&pool);
            for seed in 0..20 {
                let (to, from) = channel();
                thread::scope(|scope| {
                    for thread in 0..3 {
                        let (to, pool) = (to.clone(), &pool);
                        let panics = scope.spawn(move || {
                            let mut cache = pool.local_cache();
                            let kept = use_cache(&mut cache, &mut Rng::new(seed * 3 + thread));
                            to.send(kept).expect("the receiver stays");
                            std::panic::resume_unwind(Box::new("as planned"));
                        });
                        panics.join().expect_err("it panics");
                    }
                });
                drop(to);
                let in_hand: Vec<_> = from.iter().flatten().collect();
                assert_eq!(pool.stats().live_objects, in_hand.len());
                free_all(&mut &pool, in_hand.into_iter().map(|packet| packet.0));
                assert_eq!(rest(&pool), start);
            }
        }
    }
    for_each_sync_lock(&mut Panics);
}

/// Caches are dropped on some threads while others use theirs at full speed.
#[test]
fn caches_go_while_others_are_used() {
    struct Come;
    impl LockSuite for Come {
        fn run<L: RawMutex + Send + Sync + 'static>(&mut self) {
            let mut memory = Memory::new(1 << 20);
            let pool = Pool::<L>::builder().size_classes(&SIZES).build(memory.region()).unwrap();
            let start = rest(&pool);
            thread::scope(|scope| {
                for seed in 0..4 {
                    let pool = &pool;
                    scope.spawn(move || {
                        let mut rng = Rng::new(seed);
                        let mut cache = pool.local_cache();
                        let mut kept = Vec::new();
                        for _ in 0..100 {
                            kept.extend(use_cache(&mut cache, &mut rng));
                            if rng.below(2) == 0 {
                                cache = pool.local_cache();
                            }
                            let freed = kept.split_off(kept.len() / 2);
                            free_all(&mut cache, freed.into_iter().map(|packet| packet.0));
                        }
                        free_all(&mut { pool }, kept.into_iter().map(|packet| packet.0));
                    });
                }
            });
            assert_eq!(rest(&pool), start);
        }
    }
    for_each_sync_lock(&mut Come);
}

/// What the test's callbacks panic with.
struct Planned;

fn panics_at_watermark(_: ClassId, _: usize) {
    std::panic::resume_unwind(Box::new(Planned));
}

fn panics_at_fault(_: Fault, _: usize) {
    std::panic::resume_unwind(Box::new(Planned));
}

/// Calls, whatever a callback makes of it; `None` if that was a panic.
fn call<R>(call: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(call))
        .inspect_err(|panic| assert!(panic.is::<Planned>(), "nothing else panics"))
        .ok()
}

/// A watermark's callback that panics leaves the lock free and the pool whole. The slot of the call
/// that it interrupts is lost, as its caller never got it, and nothing else; a reset brings it back.
#[test]
fn a_watermark_that_panics() {
    for cached in [false, true] {
        let mut memory = Memory::new(256 << 10);
        let class = SizeClass::new(512).limit(100).low_watermark(20, panics_at_watermark);
        let mut pool = Pool::<parking_lot::RawMutex>::builder()
            .size_class(class)
            .magazine(4)
            .build(memory.region())
            .unwrap();
        let start = rest(&pool);
        let mut cache = pool.local_cache();
        let mut panics = 0;
        for round in 0..5 {
            let mut slots = Vec::new();
            for _ in 0..120 {
                let slot = if cached {
                    call(|| cache.alloc_fixed(CLASS).ok())
                } else {
                    call(|| pool.alloc_fixed(CLASS).ok())
                };
                panics += usize::from(slot.is_none());
                slots.extend(slot.flatten());
            }
            pool.validate().unwrap();
            assert_eq!(pool.stats().live_objects, slots.len() + panics, "round {round}");
            free_all(&mut &pool, slots);
        }
        assert!(panics > 0);
        drop(cache);
        pool.reset().unwrap();
        assert_eq!(rest(&pool), start);
    }
}

/// A fault's callback that panics does so after the call has done all it does.
#[test]
fn a_fault_handler_that_panics() {
    let mut memory = Memory::new(256 << 10);
    let pool = Pool::<parking_lot::RawMutex>::builder()
        .size_classes(&SIZES)
        .flags(PoolFlags::HARDENED)
        .on_fault(panics_at_fault, 0)
        .build(memory.region())
        .unwrap();
    let start = rest(&pool);
    let mut cache = pool.local_cache();
    for round in 1..50 {
        let [slot, block] = [64, 5000].map(|size| cache.alloc(bytes(size)).unwrap());
        for freed in [slot, block] {
            Handle::free(&mut cache, freed).unwrap();
            assert!(call(|| Handle::free(&mut cache, freed)).is_none(), "the handler hears of it");
            assert!(call(|| Handle::free(&mut &pool, freed)).is_none(), "and of this");
        }
        assert_eq!(pool.stats().bad_frees, 4 * round);
        pool.validate().unwrap();
    }
    drop(cache);
    assert_eq!(rest(&pool), start);
}

/// Whether pages can be discarded or not, nothing changes but what is in them.
#[test]
fn discarding_fails_every_nth_time() {
    for every in 0..4 {
        let bench = Bench::new(PoolConfig::new().size_classes(&SIZES), 256 << 10);
        let blocks = fill(&mut bench.pool(), 3000);
        for &block in &blocks {
            common::stamp::write(block, 3000, 1);
        }
        free_all(&mut bench.pool(), blocks.iter().copied().step_by(2));
        let before = bench.pool().stats();
        bench.faults.set(every);
        let discarded = bench.pool().discard_free();
        match every {
            // A free block's tag, links and footer stay.
            0 => {
                let kept = before.free_blocks * 4 * size_of::<usize>();
                assert_eq!(discarded, Ok(before.free_bytes - kept));
            }
            _ => assert!(matches!(discarded, Err(PageError::Unavailable { .. }))),
        }
        bench.pool().validate().unwrap();
        assert_eq!(bench.pool().stats(), before);
        for &block in blocks.iter().skip(1).step_by(2) {
            common::stamp::verify(block, 3000, 1);
        }
        let again = fill(&mut bench.pool(), 3000);
        assert!(again.len() >= blocks.len() / 2);
    }
}

/// A pool without a lock survives a panic in its callback as well.
#[test]
fn a_fault_handler_that_panics_without_a_lock() {
    let mut memory = Memory::new(64 << 10);
    let pool =
        Pool::<NoLock>::builder().on_fault(panics_at_fault, 0).build(memory.region()).unwrap();
    let block = pool.alloc(bytes(100)).unwrap();
    Handle::free(&mut &pool, block).unwrap();
    assert!(call(|| Handle::free(&mut &pool, block)).is_none());
    pool.validate().unwrap();
    Handle::free(&mut &pool, pool.alloc(bytes(100)).unwrap()).unwrap();
}

/// Threads with a cache of a thread-cached pool panic: their caches end with them.
#[cfg(feature = "std")]
#[test]
fn threads_of_a_thread_cached_pool_panic() {
    use libmempool::{MmapPages, PthreadMutex, ThreadCachedPool};

    let pool = Pool::<PthreadMutex>::builder().size_classes(&SIZES);
    let mut pool = ThreadCachedPool::new(pool.map(MmapPages::new(), 1 << 20).unwrap());
    for _ in 0..50 {
        let there = pool.clone();
        let thread = thread::spawn(move || {
            let slots = fill(&mut there.clone(), 512);
            free_all(&mut there.clone(), slots);
            assert!(there.pool().stats().caches > 0);
            std::panic::resume_unwind(Box::new("as planned"));
        });
        thread.join().expect_err("it panics");
    }
    pool.flush();
    let stats = pool.pool().stats();
    assert_eq!((stats.live_objects, stats.caches), (0, 0), "{stats}");
    pool.pool().validate().unwrap();
}
