//! Thread-cached pools: caches come and go with their threads, outlive their pool harmlessly, and
//! stay out of the way of callbacks.
#![cfg(feature = "std")]

mod common;

use std::{
    alloc::Layout,
    cell::{Cell, RefCell},
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::channel,
    },
    thread,
};

use common::{Packet, bytes, stamp, times};
use libmempool::{ClassId, FreeError, Pool, PoolConfig, SizeClass, ThreadCachedPool};

type Shared = ThreadCachedPool<Lock, Source>;

#[cfg(not(miri))]
use libmempool::{MmapPages as Source, PthreadMutex as Lock};
/// Miri knows no address space that is only reserved, and lets no pthread mutex move.
#[cfg(miri)]
use {common::FaultySource as Source, parking_lot::RawMutex as Lock};

fn source() -> Source {
    #[cfg(not(miri))]
    return Source::new().huge_pages(libmempool::HugePages::Never);
    #[cfg(miri)]
    return Source::default();
}

const CLASS: ClassId = ClassId::new(0);

fn shared(config: PoolConfig) -> Shared {
    let pool = Pool::<Lock>::builder().config(config);
    ThreadCachedPool::new(pool.map(source(), 1 << 20).unwrap())
}

fn packets() -> Shared {
    shared(PoolConfig::new().size_classes(&[512, 64]))
}

fn free(pool: &Shared, slot: Packet) -> Result<(), FreeError> {
    common::Handle::free(&mut pool.clone(), slot.0)
}

/// Requests with an alignment are served from classes whose slots have it, and else from the heap.
#[test]
fn aligned_requests_use_the_classes_that_suit_them() {
    let pool = shared(PoolConfig::new().alignment(64).size_classes(&[2048, 192]));
    let live = |class| pool.pool().class_stats(ClassId::new(class)).unwrap().live;
    for round in 0..times(300) {
        let mut blocks = Vec::new();
        for (size, align, class) in [
            (2000, 64, Some(0)),
            (2000, 32, Some(0)),
            (192, 64, Some(1)),
            (180, 128, None), // every other slot only is at a multiple of that
            (2000, 8192, None),
        ] {
            let before = class.map(live);
            let layout = Layout::from_size_align(size, align).unwrap();
            let block = pool.alloc(layout).unwrap();
            assert!(block.addr().get().is_multiple_of(align), "{round}: {size} at {align}");
            assert_eq!(class.map(live), before.map(|live| live + 1), "{round}: {size} at {align}");
            blocks.push(block);
        }
        assert_eq!((live(0), live(1)), (2, 1), "{round}");
        for block in blocks {
            free(&pool, Packet(block)).unwrap();
        }
    }
    pool.pool().validate().unwrap();
}

#[test]
fn a_thread_returns_its_cache_when_it_ends() {
    let pool = packets();
    for _ in 0..times(50) {
        let pool_there = pool.clone();
        let slot = thread::spawn(move || {
            // The first gets the cache its magazines, the second fills one.
            let slots = [(); 2].map(|()| Packet(pool_there.alloc_fixed(CLASS).unwrap()));
            assert!(pool_there.pool().stats().cached_objects > 0);
            slots
        });
        for slot in slot.join().unwrap() {
            free(&pool, slot).unwrap();
        }
    }
    pool.flush_thread();
    let stats = pool.pool().stats();
    assert_eq!((stats.live_objects, stats.caches), (0, 1), "{stats}");
    pool.pool().defragment();
    assert_eq!(pool.pool().stats().cached_objects, 0);
    pool.pool().validate().unwrap();
}

#[test]
fn threads_exchange_slots() {
    let pool = packets();
    let (to, from) = channel();
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            for stamp in 0..u64::try_from(times(20_000)).unwrap() {
                let Ok(slot) = pool.alloc(bytes(500)) else {
                    thread::yield_now();
                    continue;
                };
                stamp::write(slot, 500, stamp);
                to.send((Packet(slot), stamp)).unwrap();
            }
            drop(to);
        });
        let receiver = scope.spawn(|| {
            for (slot, stamp) in from {
                stamp::verify(slot.0, 500, stamp);
                free(&pool, slot).unwrap();
            }
        });
        // The scope alone does not wait for thread locals.
        sender.join().unwrap();
        receiver.join().unwrap();
    });
    let stats = pool.pool().stats();
    assert_eq!((stats.live_objects, stats.caches, stats.bad_frees), (0, 0, 0), "{stats}");
    pool.pool().validate().unwrap();
}

#[test]
fn a_pool_may_go_before_the_threads_that_have_caches_of_it() {
    let (send_pool, receive_pool) = channel::<Shared>();
    let (send_done, receive_done) = channel();
    let thread = thread::spawn(move || {
        for pool in receive_pool {
            pool.alloc_fixed(CLASS).unwrap();
            drop(pool);
            send_done.send(()).unwrap();
        }
        // Ends with caches of pools that are all gone.
    });
    for _ in 0..times(20) {
        let pool = packets();
        send_pool.send(pool.clone()).unwrap();
        receive_done.recv().unwrap();
        drop(pool);
    }
    drop(send_pool);
    thread.join().unwrap();
}

/// Many pools on one thread, used in turns: each finds its own cache.
#[test]
fn pools_do_not_mix_up_their_caches() {
    let mut pools: Vec<_> = (0..10).map(|_| packets()).collect();
    let mut slots = Vec::new();
    for round in 0..times(100) {
        let index = round * 7 % pools.len();
        let slot = pools[index].alloc_fixed(CLASS).unwrap();
        assert!(pools[index].pool().contains(slot.as_ptr()));
        slots.push((index, Packet(slot)));
        if round == 50 {
            // One goes, another takes its place.
            slots.retain(|&(index, _)| index != 3);
            pools[3] = packets();
        }
    }
    for (index, slot) in slots {
        let wrong = (index + 1) % pools.len();
        let addr = slot.0.addr().get();
        assert_eq!(free(&pools[wrong], slot), Err(FreeError::Foreign { addr }));
        free(&pools[index], slot).unwrap();
    }
    for pool in pools {
        assert_eq!(pool.pool().stats().live_objects, 0);
        pool.pool().validate().unwrap();
    }
}

#[test]
fn only_the_last_clone_can_reset() {
    let mut pool = packets();
    let other = pool.clone();
    let slot = Packet(pool.alloc_fixed(CLASS).unwrap());
    assert!(pool.reset().is_none());
    assert_eq!(pool.pool().stats().live_objects, 1, "nothing happened");
    drop(other);
    pool.reset().unwrap().unwrap();
    let stats = pool.pool().stats();
    assert_eq!((stats.live_objects, stats.cached_objects, stats.caches), (0, 0, 0));
    free(&pool, slot).expect_err("a pointer from before the reset");
}

/// Caches that threads still have from before a reset do no harm, in use or when they end.
#[test]
fn stale_caches_are_harmless() {
    let mut pool = packets();
    let (to_thread, in_thread) = channel::<Shared>();
    let (to_main, in_main) = channel();
    let thread = thread::spawn(move || {
        for pool in in_thread {
            let slots: Vec<_> = (0..30).map(|_| Packet(pool.alloc_fixed(CLASS).unwrap())).collect();
            slots.into_iter().skip(10).for_each(|slot| free(&pool, slot).unwrap());
            drop(pool);
            to_main.send(()).unwrap();
        }
    });
    for _ in 0..times(10) {
        pool.alloc_fixed(CLASS).unwrap();
        to_thread.send(pool.clone()).unwrap();
        in_main.recv().unwrap();
        while pool.reset().is_none() {
            thread::yield_now();
        }
        pool.pool().validate().unwrap();
        assert_eq!(pool.pool().stats().live_objects, 0);
    }
    let slot = Packet(pool.alloc_fixed(CLASS).unwrap());
    drop(to_thread);
    thread.join().unwrap();
    pool.pool().validate().unwrap();
    let stats = pool.pool().stats();
    assert_eq!((stats.live_objects, stats.bad_frees), (1, 0), "{stats}");
    free(&pool, slot).unwrap();
}

thread_local! {
    static CALLED: RefCell<Option<Shared>> = const { RefCell::new(None) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static IN_HAND: RefCell<Vec<Packet>> = const { RefCell::new(Vec::new()) };
}

/// Calls back into the pool that called.
fn allocate_in_callback(class: ClassId, _left: usize) {
    CALLS.set(CALLS.get() + 1);
    let pool = CALLED.with_borrow(Clone::clone).expect("set by the test");
    assert!(CALLS.get() < 10_000, "callbacks that call each other without end");
    if let Ok(slot) = pool.alloc_fixed(class) {
        IN_HAND.with_borrow_mut(|slots| slots.push(Packet(slot)));
    }
    if let Ok(block) = pool.alloc(bytes(5000)) {
        free(&pool, Packet(block)).unwrap();
    }
    pool.pool().validate().unwrap();
}

/// Frees what the test holds: what a watermark is for.
fn free_in_callback(_: ClassId, left: usize) {
    CALLS.set(CALLS.get() + 1);
    assert!(left < 20);
    let pool = CALLED.with_borrow(Clone::clone).expect("set by the test");
    for slot in IN_HAND.take() {
        free(&pool, slot).unwrap();
    }
    pool.pool().defragment(); // calls from a callback go through the pool's own cache
}

#[test]
fn a_watermark_callback_may_free() {
    let class = SizeClass::new(512).reserve(64).limit(64).low_watermark(20, free_in_callback);
    let pool = shared(PoolConfig::new().size_class(class).magazine(8));
    CALLED.set(Some(pool.clone()));
    let allocations = if cfg!(miri) { 100 } else { 1000 };
    for _ in 0..allocations {
        // Never fails: the callback makes room before the class is at its limit.
        let slot = pool.alloc_fixed(CLASS).expect("the callback made room");
        IN_HAND.with_borrow_mut(|slots| slots.push(Packet(slot)));
    }
    assert!(CALLS.get() >= allocations / 100, "{} calls", CALLS.get());
    IN_HAND.take().into_iter().for_each(|slot| free(&pool, slot).unwrap());
    pool.pool().validate().unwrap();
    assert_eq!(pool.pool().stats().live_objects, 0);
    CALLED.set(None);
}

#[test]
fn a_watermark_callback_may_allocate() {
    let class = SizeClass::new(512).reserve(64).limit(64).low_watermark(20, allocate_in_callback);
    let pool = shared(PoolConfig::new().size_class(class).magazine(4));
    CALLED.set(Some(pool.clone()));
    let slots: Vec<_> = std::iter::from_fn(|| pool.alloc_fixed(CLASS).ok()).map(Packet).collect();
    assert!(CALLS.get() > 0);
    let in_callbacks = IN_HAND.take();
    assert!(!in_callbacks.is_empty());
    // The thread's cache is out of reach in a callback, which has the pool's own.
    assert_eq!(pool.pool().stats().caches, 2);
    assert_eq!(slots.len() + in_callbacks.len(), 64);
    slots.into_iter().chain(in_callbacks).for_each(|slot| free(&pool, slot).unwrap());
    pool.pool().validate().unwrap();
    assert_eq!(pool.pool().stats().live_objects, 0);
    CALLED.set(None);
}

static LOWS: AtomicUsize = AtomicUsize::new(0);

fn count_low(_: ClassId, _: usize) {
    LOWS.fetch_add(1, Relaxed);
}

/// A thread that ends may empty a slab, which leaves its class with fewer slots than its watermark.
/// Nobody is called back on its way out, but with the next call that takes the lock.
#[test]
#[cfg_attr(miri, ignore = "takes hours")]
fn what_happens_when_a_thread_ends_is_reported_later() {
    let mut reported_late = 0;
    for mark in 60..120 {
        let class = SizeClass::new(1024).low_watermark(mark, count_low);
        let pool = shared(PoolConfig::new().size_class(class).magazine(4));
        for slots in (130..380).step_by(10) {
            let there = pool.clone();
            let thread = thread::spawn(move || {
                let slots: Vec<_> =
                    (0..slots).map(|_| Packet(there.alloc_fixed(CLASS).unwrap())).collect();
                for slot in slots {
                    free(&there, slot).unwrap();
                }
                LOWS.load(Relaxed)
            });
            let before = thread.join().unwrap();
            assert_eq!(LOWS.load(Relaxed), before, "a callback on a thread's way out");
            pool.pool()
                .alloc(bytes(5000))
                .map(|block| free(&pool, Packet(block)))
                .unwrap()
                .unwrap();
            reported_late += LOWS.load(Relaxed) - before;
        }
        pool.pool().validate().unwrap();
    }
    assert!(reported_late > 0);
}

#[test]
fn thread_locals_of_the_caller_may_use_the_pool_while_they_are_dropped() {
    struct AtExit(Shared);
    impl Drop for AtExit {
        fn drop(&mut self) {
            let slot = Packet(self.0.alloc_fixed(CLASS).expect("works without a cache too"));
            free(&self.0, slot).unwrap();
        }
    }
    thread_local!(static AT_EXIT: RefCell<Option<AtExit>> = const { RefCell::new(None) });
    let pool = packets();
    // Set before and after the pool's own thread local comes to life: dropped after and before it.
    for set_first in [true, false] {
        let there = pool.clone();
        let thread = thread::spawn(move || {
            if set_first {
                AT_EXIT.set(Some(AtExit(there.clone())));
            }
            let slot = Packet(there.alloc_fixed(CLASS).unwrap());
            free(&there, slot).unwrap();
            if !set_first {
                AT_EXIT.set(Some(AtExit(there)));
            }
        });
        thread.join().unwrap();
    }
    let stats = pool.pool().stats();
    assert_eq!(stats.live_objects, 0, "{stats}");
    assert!(stats.caches <= 1, "the pool's own: {stats}");
    pool.pool().validate().unwrap();
}

/// Slots by size, and sizes of slots and blocks, are had through the thread's cache as from the pool itself;
/// where the memory is too short for a cache, from the pool.
#[test]
fn calls_by_slot_agree_with_the_pool() {
    let pool = packets();
    let slot = pool.alloc_slot(100).unwrap();
    let block = pool.alloc(bytes(5000)).unwrap();
    // SAFETY: nobody writes to them meanwhile.
    let sizes = unsafe { [slot, block].map(|block| pool.usable_size(block)) };
    // SAFETY: as above.
    assert_eq!(sizes, unsafe { [slot, block].map(|block| pool.pool().usable_size(block)) });
    assert_eq!(sizes[0], Ok(512));
    // SAFETY: they are not used any more.
    unsafe {
        assert!(matches!(pool.free_slot(block), Err(FreeError::WrongClass { .. })));
        assert_eq!(pool.free_slot(slot), Ok(()));
        assert!(matches!(pool.free_slot(slot), Err(FreeError::NotLive { .. })));
        assert_eq!(pool.free(block), Ok(()));
        assert!(pool.usable_size(slot).is_err());
    }
    assert!(pool.alloc_slot(5000).is_err(), "no class is as large");
}

/// A thread that finds no memory for a cache uses the pool itself.
#[test]
#[cfg_attr(miri, ignore = "takes minutes")]
fn threads_without_a_cache_use_the_pool() {
    let pool = packets();
    let mut blocks = common::fill(&mut pool.pool(), 600);
    blocks.extend(common::fill(&mut pool.pool(), 16));
    let slots = common::fill(&mut pool.pool(), 512);
    let block = Packet(blocks.pop().expect("blocks"));
    let there = {
        let pool = pool.clone();
        thread::spawn(move || {
            let Packet(block) = { block };
            let mut handle = pool.clone();
            let caches = pool.pool().stats().metadata_bytes;
            // SAFETY: nobody writes to it meanwhile.
            assert!(unsafe { pool.usable_size(block) }.is_ok());
            assert!(pool.alloc(bytes(600)).is_err() && pool.alloc_fixed(CLASS).is_err());
            assert!(pool.alloc_slot(512).is_err() && pool.alloc_zeroed(bytes(600)).is_err());
            assert!(common::Handle::realloc(&mut handle, block, bytes(16), 4000).is_err());
            assert_eq!(pool.pool().stats().metadata_bytes, caches);
            common::Handle::free(&mut handle, block).unwrap();
            assert!(common::Handle::free(&mut handle, block).is_err());
        })
    };
    there.join().unwrap();
    common::free_all(&mut pool.pool(), blocks.into_iter().chain(slots));
    pool.flush_thread();
    pool.pool().defragment();
    assert_eq!(pool.pool().stats().live_objects, 0);
    pool.pool().validate().unwrap();
}

/// A pinned pool that has ended is a plain one again, with what is live. What this thread's cache held can be
/// had after a reset.
#[test]
fn a_pinned_pool_that_ends_can_be_moved() {
    let pool = Pool::<Lock>::builder().size_classes(&[512]);
    let pool = pool.map(source(), 1 << 20).unwrap();
    // SAFETY: it stays in the box until it is ended, and is then neither used nor dropped.
    let pinned = Box::leak(Box::new(unsafe { libmempool::PinnedPool::new(pool) }));
    let kept = pinned.alloc(bytes(5000)).unwrap();
    let slots = [(); 3].map(|()| pinned.alloc_fixed(CLASS).unwrap());
    stamp::write(kept, 5000, 1);
    for slot in slots {
        // SAFETY: it is not used any more.
        unsafe { pinned.free_fixed(CLASS, slot) }.unwrap();
    }
    let this = std::ptr::NonNull::from(pinned);
    // SAFETY: made by `new`, used by nobody, and its box is freed without dropping it.
    let pool = unsafe { libmempool::PinnedPool::end(this) };
    // SAFETY: from `Box::leak`; `ManuallyDrop` has the layout of what it wraps.
    drop(unsafe { Box::from_raw(this.cast::<std::mem::ManuallyDrop<Pinned>>().as_ptr()) });
    let mut moved = Box::new(pool);
    let stats = moved.stats();
    assert_eq!((stats.live_objects, stats.caches), (1, 1), "{stats}");
    assert!(stats.cached_objects >= slots.len(), "{stats}");
    stamp::verify(kept, 5000, 1);
    moved.validate().unwrap();
    common::Handle::free(&mut &*moved, kept).unwrap();
    moved.reset().unwrap();
    let stats = moved.stats();
    assert_eq!((stats.live_objects, stats.cached_objects), (0, 0), "{stats}");
    moved.validate().unwrap();
}

type Pinned = libmempool::PinnedPool<Lock, Source>;
