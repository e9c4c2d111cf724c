//! Freed objects wait: who frees them twice or uses them meanwhile meets them and nobody else's; and no
//! request fails for what only waits.

mod common;

use std::{
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use common::{Bench, Handle, Memory, bytes, fill, free_all, stamp};
use libmempool::{
    AllocError, ClassId, Corruption, CorruptionKind, Fault, FreeError, MapKind, NoLock, Pool,
    PoolConfig, PoolFlags, SizeClass,
};

const CONFIG: PoolConfig =
    PoolConfig::new().size_classes(&[64, 1024]).flags(PoolFlags::HARDENED).magazine(16);
const SMALL: ClassId = ClassId::new(0);

/// A slot, one for a size that is not its class's, and a block of the heap.
const SIZES: [usize; 3] = [64, 900, 300];

/// Frees that an object of 300 bytes, the largest that has as many, waits for at least.
const WAITS: usize = 8;

fn bench(flags: PoolFlags) -> Bench {
    Bench::new(CONFIG.flags(flags), 512 << 10)
}

/// Every size, through each of the handles of a fresh bench.
fn each_handle(flags: PoolFlags, check: impl Fn(&Bench, &mut dyn Handle, usize)) {
    for size in SIZES {
        for index in 0..bench(flags).handles().len() {
            let bench = bench(flags);
            let mut handles = bench.handles();
            check(&bench, &mut *handles[index].1, size);
            drop(handles);
        }
    }
}

/// How many of the objects that are allocated and freed next come before the freed one again.
fn frees_until_reuse(handle: &mut dyn Handle, size: usize) -> usize {
    let object = handle.alloc(bytes(size)).unwrap();
    handle.free(object).unwrap();
    let others = std::iter::from_fn(|| {
        let other = handle.alloc(bytes(size)).unwrap();
        handle.free(other).unwrap();
        (other != object).then_some(())
    });
    others.take(10_000).count()
}

#[test]
fn a_freed_object_waits() {
    for flags in [PoolFlags::QUARANTINE, PoolFlags::HARDENED] {
        each_handle(flags, |_, handle, size| {
            let frees = frees_until_reuse(handle, size);
            assert!(frees >= WAITS / 2, "{size}: {frees}");
            assert!(frees < 10_000, "{size}: it comes back");
        });
    }
    each_handle(PoolFlags::empty(), |_, handle, size| {
        assert_eq!(frees_until_reuse(handle, size), 0);
    });
}

/// A reset takes back what waits, in the caches that are left too.
#[test]
fn a_reset_ends_what_waits() {
    let mut memory = Memory::new(512 << 10);
    let mut pool = Pool::<NoLock>::builder().config(CONFIG).build(memory.region()).unwrap();
    let before = pool.stats().free_bytes;
    for size in SIZES {
        let objects = fill_some(&mut &pool, size, 10);
        free_each(&mut &pool, objects);
    }
    assert!(pool.stats().quarantined_objects > 10);
    pool.reset().unwrap();
    let stats = pool.stats();
    assert_eq!((stats.quarantined_objects, stats.quarantined_bytes), (0, 0));
    assert!(stats.free_bytes + stats.slab_bytes + 8192 >= before, "{before}: {stats}");
    pool.validate().unwrap();
}

/// Without a quarantine the second free would be somebody else's object's.
#[test]
fn a_delayed_double_free_hits_nobody() {
    each_handle(PoolFlags::QUARANTINE, |bench, handle, size| {
        let object = handle.alloc(bytes(size)).unwrap();
        handle.free(object).unwrap();
        let addr = object.addr().get();
        let mut others = Vec::new();
        for turn in 0..WAITS / 2 {
            let other = handle.alloc(bytes(size)).unwrap();
            stamp::write(other, size, turn as u64);
            others.push(other);
            let refused = Err(FreeError::NotLive { addr });
            assert_eq!(handle.free(object), refused);
            assert_eq!(Handle::free(&mut bench.pool(), object), refused);
        }
        for (turn, &other) in others.iter().enumerate() {
            stamp::verify(other, size, turn as u64);
        }
        free_each(handle, others);
        bench.pool().validate().unwrap();
    });
}

/// What is written to a waiting object is found when it has waited, by whoever frees next.
#[test]
fn a_use_after_free_is_found_when_the_object_has_waited() {
    static FOUND: AtomicUsize = AtomicUsize::new(0);
    fn on_fault(fault: Fault, _: usize) {
        if let Fault::Corruption(Corruption { addr, kind: CorruptionKind::FreedMemory }) = fault {
            FOUND.store(addr, Relaxed);
        }
    }
    for size in SIZES {
        for index in 0..bench(PoolFlags::HARDENED).handles().len() {
            let bench = Bench::new(CONFIG.on_fault(on_fault, 0), 512 << 10);
            let mut handles = bench.handles();
            let handle = &mut handles[index].1;
            let object = handle.alloc(bytes(size)).unwrap();
            handle.free(object).unwrap();
            let written = object.map_addr(|addr| addr.checked_add(20).unwrap());
            // SAFETY: the mistake is the test's; in the region, and nobody else uses it.
            unsafe { written.write(7) };
            let others = fill_some(&mut **handle, size, 100);
            assert_eq!(FOUND.swap(0, Relaxed), 0, "{size}: it waits");
            for _ in 0..10_000 {
                let other = handle.alloc(bytes(size)).unwrap();
                assert_ne!(other, object, "{size}: never again");
                handle.free(other).unwrap();
            }
            assert_eq!(FOUND.swap(0, Relaxed), written.addr().get(), "{size}");
            assert_eq!(bench.pool().stats().damaged_blocks, 1);
            bench.pool().validate().unwrap();
            free_each(&mut **handle, others);
            handle.flush();
            bench.pool().defragment();
            bench.pool().validate().unwrap();
            assert_eq!(bench.pool().stats().live_objects, 0);
        }
    }
}

fn free_each(handle: &mut dyn Handle, objects: impl IntoIterator<Item = NonNull<u8>>) {
    objects.into_iter().for_each(|object| handle.free(object).expect("a live object"));
}

fn fill_some(handle: &mut dyn Handle, size: usize, count: usize) -> Vec<NonNull<u8>> {
    std::iter::from_fn(|| handle.alloc(bytes(size)).ok()).take(count).collect()
}

/// Blocks of the heap that wait are looked at without anybody freeing or allocating.
#[test]
fn validate_looks_at_blocks_that_wait() {
    let bench = bench(PoolFlags::HARDENED);
    let block = bench.pool().alloc(bytes(300)).unwrap();
    Handle::free(&mut bench.pool(), block).unwrap();
    for offset in [0, 8, 100, 299] {
        let addr = block.addr().get() + offset;
        let at = bench.at(addr);
        // SAFETY: in the region, and nobody else uses it.
        let was = unsafe { at.replace(0) };
        let found = bench.pool().validate().expect_err("a write after the free");
        assert_eq!((found.addr, found.kind), (addr, CorruptionKind::FreedMemory));
        // SAFETY: as above.
        unsafe { at.write(was) };
    }
    bench.pool().validate().unwrap();
}

#[test]
fn what_waits_is_counted_and_given_back() {
    let ends: [fn(&mut Bench); 2] = [|bench| _ = bench.pool().defragment(), Bench::reset];
    for end in ends {
        let mut bench = bench(PoolFlags::HARDENED);
        let (slots, blocks) = wait(&bench);
        let stats = bench.pool().stats();
        assert_eq!(stats.quarantined_objects, 9, "{stats}");
        assert_eq!(stats.quarantined_bytes, slots + blocks);
        assert_eq!(bench.pool().class_stats(SMALL).unwrap().live, 0);
        assert!(stats.to_string().contains("in 9 objects"), "{stats}");
        end(&mut bench);
        let stats = bench.pool().stats();
        assert_eq!((stats.quarantined_objects, stats.quarantined_bytes), (0, 0), "{stats}");
        bench.pool().validate().unwrap();
    }
}

#[test]
fn a_cache_that_is_flushed_or_dropped_ends_what_waits_in_it() {
    let bench = bench(PoolFlags::HARDENED);
    for is_dropped in [false, true] {
        let mut cache = bench.pool().local_cache();
        let slots = fill_some(&mut cache, 64, 5);
        free_all(&mut cache, slots);
        assert_eq!(bench.pool().stats().quarantined_objects, 5);
        if is_dropped {
            drop(cache);
        } else {
            cache.flush();
        }
        assert_eq!(bench.pool().stats().quarantined_objects, 0);
    }
}

/// Five slots and four blocks that wait: bytes of each.
fn wait(bench: &Bench) -> (usize, usize) {
    let objects = [fill_some(&mut bench.pool(), 64, 5), fill_some(&mut bench.pool(), 300, 4)];
    free_all(&mut bench.pool(), objects.concat());
    let waits: Vec<_> =
        bench.pool().map().filter(|entry| entry.kind == MapKind::Quarantined).collect();
    assert_eq!(waits.len(), 4);
    (5 * 64, waits.iter().map(|entry| entry.size).sum())
}

/// A pool without room for anything new, but for what waits.
#[test]
fn memory_that_only_waits_is_had() {
    for size in SIZES {
        let bench = bench(PoolFlags::HARDENED);
        for (name, handle) in &mut bench.handles() {
            let objects = fill_some(&mut **handle, size, usize::MAX);
            let last = objects[objects.len() - 1];
            handle.free(last).unwrap();
            assert!(bench.pool().stats().quarantined_objects > 0, "{name}");
            assert!(handle.alloc(bytes(size)).is_ok(), "{name}: {size}");
            assert!(handle.alloc(bytes(size)).is_err(), "{name}: {size}");
            free_each(&mut **handle, objects);
            handle.flush();
            bench.pool().defragment();
        }
    }
}

/// Those that wait in another cache are had once that one takes the lock.
#[test]
fn slots_that_only_wait_do_not_count_against_a_limit() {
    let mut memory = Memory::new(256 << 10);
    let class = SizeClass::new(64).limit(20);
    let builder = Pool::<NoLock>::builder().size_class(class).flags(PoolFlags::QUARANTINE);
    let pool = builder.build(memory.region()).unwrap();
    for _ in 0..3 {
        let (mut cache, mut other) = (pool.local_cache(), pool.local_cache());
        let slots: Vec<_> = (0..20).map(|_| cache.alloc_fixed(SMALL).unwrap()).collect();
        let refused = Err(AllocError::ClassLimit { class: SMALL });
        assert_eq!(cache.alloc_fixed(SMALL), refused);
        free_all(&mut cache, slots);
        assert_eq!(other.alloc_fixed(SMALL), refused);
        let slots = [cache.alloc_fixed(SMALL).unwrap(), other.alloc_fixed(SMALL).unwrap()];
        free_all(&mut cache, slots);
    }
}

/// A block that cannot move grows into what waits above it.
#[test]
fn a_block_grows_into_what_waits_above_it() {
    let mut memory = Memory::new(64 << 10);
    let builder = Pool::<NoLock>::builder().flags(PoolFlags::HARDENED);
    let pool = builder.build(memory.region()).unwrap();
    let half = pool.stats().largest_free / 2;
    let block = pool.alloc(bytes(half)).unwrap();
    let above: Vec<_> = fill(&mut &pool, 200);
    stamp::write(block, half, 1);
    free_all(&mut &pool, above.iter().copied().take(4));
    assert!(pool.stats().quarantined_objects > 0);
    let grown = Handle::realloc(&mut &pool, block, bytes(half), half + 600).unwrap();
    assert_eq!(grown, block);
    stamp::verify(grown, half, 1);
    pool.validate().unwrap();
}
