//! What the flags find: every byte written past an object's end, and every byte written to an object
//! after its free, at the latest when it is freed, handed out again, or the pool is validated; and
//! nothing in a program that does neither.

mod common;

use std::{
    collections::HashSet,
    ptr::NonNull,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use common::{Bench, Handle, Memory, UsableSize, Way, bytes, stamp};
use libmempool::{
    AllocError, ClassId, Corruption, CorruptionKind, Fault, FreeError, NoLock, Pool, PoolConfig,
    PoolFlags, SizeClass,
};

const CLASSES: PoolConfig =
    PoolConfig::new().size_classes(&[64, 100, 1024]).flags(PoolFlags::HARDENED);
const SMALL: ClassId = ClassId::new(0);

fn bench() -> Bench {
    Bench::new(CLASSES, 64 << 10)
}

/// A byte of, or near, an object.
fn byte(object: NonNull<u8>, offset: isize) -> NonNull<u8> {
    object.map_addr(|addr| addr.get().wrapping_add_signed(offset).try_into().expect("not null"))
}

/// What a wild write does: changes a byte, and returns what it was.
fn damage(at: NonNull<u8>, value: impl FnOnce(u8) -> u8) -> u8 {
    // SAFETY: in the region, which nobody else accesses meanwhile.
    unsafe {
        let was = at.read();
        at.write(value(was));
        was
    }
}

fn write_nothing(was: u8) -> u8 {
    was
}

/// Objects of all kinds: slots asked for by class and by size, blocks of the heap, and their sizes.
fn objects(handle: &mut dyn Handle) -> Vec<(NonNull<u8>, usize)> {
    let mut objects = vec![(handle.alloc_fixed(SMALL).unwrap(), 64)];
    for size in [1, 49, 56, 64, 99, 100, 1000, 1024, 300, 5000, 5008] {
        objects.push((handle.alloc(bytes(size)).unwrap(), size));
    }
    objects
}

#[test]
fn objects_are_as_long_as_they_were_asked_to_be() {
    let bench = bench();
    for (_, handle) in &mut bench.handles() {
        for (object, size) in objects(&mut **handle) {
            assert_eq!(bench.pool().usable(object), Ok(size));
            handle.free(object).unwrap();
        }
    }
}

#[test]
fn a_byte_past_the_end_is_found() {
    let bench = bench();
    let objects = objects(&mut bench.pool());
    let writes: [fn(u8) -> u8; 3] = [|_| 0, |was| was ^ 1, |was| !was];
    for &(object, size) in &objects {
        let addr = object.addr().get();
        // Each object has at least 8 bytes behind it.
        for (offset, write) in (0..8).flat_map(|offset| writes.map(|write| (offset, write))) {
            let at = byte(object, (size + offset).cast_signed());
            let was = damage(at, write);
            if damage(at, write_nothing) == was {
                assert!(offset > 0, "the first byte is not zero");
                continue;
            }
            let found = bench.pool().validate().expect_err("an overrun");
            assert_eq!(found.kind, CorruptionKind::Overrun, "{size} + {offset}: {found}");
            let near = found.addr..found.addr + 8;
            assert!(near.contains(&at.addr().get()), "{size} + {offset}: {found}");
            bench.refuses(object, SMALL, Way::UNTYPED, |error| {
                error == FreeError::Overrun { addr, at: found.addr }
            });
            damage(at, |_| was);
            bench.pool().validate().unwrap();
        }
    }
    for (object, _) in objects {
        Way::ByPointer.free(&mut bench.pool(), SMALL, object).unwrap();
    }
}

/// What skips the first bytes is found as far as the canary reaches, or the object's room.
#[test]
fn a_write_far_past_the_end_is_found() {
    let bench = bench();
    // In a slot with room for 1040.
    let object = bench.pool().alloc(bytes(800)).unwrap();
    for offset in [8, 31, 32, 63, 232, 239] {
        let at = byte(object, 800 + offset);
        let was = damage(at, |was| !was);
        assert_eq!(bench.pool().validate().unwrap_err().kind, CorruptionKind::Overrun, "{offset}");
        damage(at, |_| was);
    }
    bench.pool().validate().unwrap();
}

/// What is written before an object lies behind another one, or in a tag.
#[test]
fn a_byte_before_the_start_is_found() {
    let bench = bench();
    let slots: Vec<_> = (0..5).map(|_| bench.pool().alloc_fixed(SMALL).unwrap()).collect();
    let blocks: Vec<_> = (0..5).map(|_| bench.pool().alloc(bytes(5000)).unwrap()).collect();
    for object in slots.into_iter().chain(blocks) {
        for offset in [-1, -8] {
            let was = damage(byte(object, offset), |was| was ^ 0x10);
            bench.pool().validate().expect_err("an underrun");
            damage(byte(object, offset), |_| was);
        }
    }
    bench.pool().validate().unwrap();
}

/// Pools whose flags only fill and check have a quick way of their own: it hands nothing out that was written
/// to.
#[test]
fn a_write_after_the_free_is_found_where_flags_only_fill() {
    let flags = [PoolFlags::POISON, PoolFlags::POISON | PoolFlags::CANARY];
    for flags in flags {
        let bench = Bench::new(CLASSES.flags(flags), 64 << 10);
        let mut cache = bench.pool().local_cache();
        let slot = Handle::alloc_fixed(&mut cache, SMALL).unwrap();
        Handle::free_fixed(&mut cache, SMALL, slot).unwrap();
        damage(byte(slot, 50), |was| !was);
        let other = Handle::alloc_fixed(&mut cache, SMALL).unwrap();
        assert_ne!(other, slot, "it is set aside");
        assert_eq!(bench.pool().stats().damaged_blocks, 1);
        let grown = Handle::realloc(&mut cache, other, bytes(64), usize::MAX);
        assert!(grown.is_err(), "no room is that large");
        Handle::free_fixed(&mut cache, SMALL, other).unwrap();
    }
}

/// Between the slots of a coloured class, and behind the last slot of a slab, there is memory that is
/// nobody's.
#[test]
fn a_write_beside_the_slots_is_found_by_validate() {
    let class = SizeClass::new(1000).coloured();
    let bench = Bench::new(PoolConfig::new().size_class(class).flags(PoolFlags::POISON), 256 << 10);
    let stats = bench.pool().class_stats(SMALL).unwrap();
    let slot = bench.pool().alloc_fixed(SMALL).unwrap();
    for offset in [stats.size, stats.stride - 1] {
        let was = damage(byte(slot, offset.cast_signed()), |was| was ^ 1);
        let found = bench.pool().validate().expect_err("a write between two slots");
        assert_eq!(found.kind, CorruptionKind::FreedMemory);
        let below = found.below.expect("the slot before the gap");
        assert_eq!(below.addr, slot.addr().get());
        damage(byte(slot, offset.cast_signed()), |_| was);
    }
    let slots: Vec<_> = (0..7).map(|_| bench.pool().alloc_fixed(SMALL).unwrap()).collect();
    let last = slots.iter().chain([&slot]).max().unwrap();
    let was = damage(byte(*last, stats.stride.cast_signed()), |was| was ^ 1);
    let found = bench.pool().validate().expect_err("a write behind the last slot");
    assert_eq!(found.below.map(|below| below.addr), Some(last.addr().get()));
    damage(byte(*last, stats.stride.cast_signed()), |_| was);
    bench.pool().validate().unwrap();
}

#[test]
fn what_has_been_freed_reads_as_poison() {
    let bench = bench();
    for (_, handle) in &mut bench.handles() {
        for size in [64, 90, 800, 300, 5000] {
            let object = handle.alloc(bytes(size)).unwrap();
            stamp::write(object, size, 1);
            handle.free(object).unwrap();
            // Behind the links, and before the footer, of what has become a free block.
            stamp::verify_filled(byte(object, 16), size - 24, 0xDF);
        }
    }
}

/// A write after the free is found by the allocation that comes by it: the object is never handed
/// out again.
#[test]
fn a_write_after_the_free_is_found_when_the_object_would_be_used_again() {
    static FOUND: AtomicUsize = AtomicUsize::new(0);
    fn on_fault(fault: Fault, _: usize) {
        if let Fault::Corruption(Corruption { addr, kind: CorruptionKind::FreedMemory }) = fault {
            FOUND.store(addr, Relaxed);
        }
    }
    for size in [64, 90, 800, 300, 5000_usize] {
        for offset in [16, 17, 50, size - 9] {
            for handle in 0..bench().handles().len() {
                let bench = Bench::new(CLASSES.on_fault(on_fault, 0), 64 << 10);
                let mut handles = bench.handles();
                let handle = &mut handles[handle].1;
                let keep = handle.alloc(bytes(size)).unwrap();
                let object = handle.alloc(bytes(size)).unwrap();
                let behind = handle.alloc(bytes(size)).unwrap();
                handle.free(object).unwrap();
                let at = byte(object, offset.cast_signed());
                damage(at, |was| was ^ 4);
                let others: HashSet<_> =
                    std::iter::from_fn(|| handle.alloc(bytes(size)).ok()).collect();
                assert!(!others.contains(&object), "{size} + {offset}");
                assert!(!others.is_empty());
                assert_eq!(FOUND.swap(0, Relaxed), at.addr().get(), "{size} + {offset}");
                // It is set aside for good, and the pool is in order.
                bench.pool().validate().unwrap();
                assert_eq!(bench.pool().stats().live_objects, others.len() + 2);
                for object in others.into_iter().chain([keep, behind]) {
                    handle.free(object).unwrap();
                }
                handle.flush();
                bench.pool().validate().unwrap();
            }
        }
    }
}

/// Where no allocation comes by it, `validate` does; what has become a link or a tag is the heap's to
/// check.
#[test]
fn a_write_after_the_free_is_found_by_validate() {
    let bench = bench();
    for size in [64, 800, 300, 5000_usize] {
        let object = bench.pool().alloc(bytes(size)).unwrap();
        let _behind = bench.pool().alloc(bytes(size)).unwrap();
        Way::ByPointer.free(&mut bench.pool(), SMALL, object).unwrap();
        // So that slots are in their slabs.
        bench.pool().defragment();
        for offset in [0, 8, 16, 50, size - 1] {
            let was = damage(byte(object, offset.cast_signed()), |was| !was);
            let found = bench.pool().validate().expect_err("a write after a free");
            let kinds =
                [CorruptionKind::FreedMemory, CorruptionKind::BlockLinks, CorruptionKind::BlockTag];
            assert!(kinds.contains(&found.kind), "{size} + {offset}: {found}");
            damage(byte(object, offset.cast_signed()), |_| was);
        }
        bench.pool().validate().unwrap();
    }
}

/// A reset and what merges, splits and moves leave all free memory poisoned.
#[test]
fn free_memory_stays_poisoned() {
    let mut memory = Memory::new(64 << 10);
    let mut pool = Pool::<NoLock>::builder().config(CLASSES).build(memory.region()).unwrap();
    for round in 0..10 {
        let mut rng = common::Rng::new(round);
        let mut live = Vec::new();
        for _ in 0..500 {
            let most = if rng.below(10) == 0 { 9000 } else { 600 };
            let size = rng.below(most) + 1;
            match rng.below(5) {
                0 | 1 => live.extend(pool.alloc(bytes(size)).map(|block| (block, size))),
                2 if !live.is_empty() => {
                    let (block, size) = live.swap_remove(rng.below(live.len()));
                    stamp::write(block, size, 1);
                    Handle::free(&mut &pool, block).unwrap();
                }
                3 if !live.is_empty() => {
                    let index = rng.below(live.len());
                    let (block, old) = live[index];
                    if let Ok(moved) = Handle::realloc(&mut &pool, block, bytes(old), size) {
                        live[index] = (moved, size);
                        stamp::write(moved, size, 2);
                    }
                }
                _ => drop(pool.defragment()),
            }
            pool.validate().unwrap();
        }
        if round % 2 == 0 {
            pool.reset().unwrap();
            pool.validate().unwrap();
        } else {
            for (block, _) in live {
                Handle::free(&mut &pool, block).unwrap();
            }
        }
    }
}

/// A pool with one class, of which 256 slots are set aside.
fn pool_of_slots(memory: &mut Memory, flags: PoolFlags) -> Pool<'_, NoLock> {
    let class = SizeClass::new(64).reserve(256);
    Pool::builder().size_class(class).magazine(100).flags(flags).build(memory.region()).unwrap()
}

#[test]
fn slots_come_in_random_order() {
    let in_order = |flags| {
        let mut memory = Memory::new(256 << 10);
        let pool = pool_of_slots(&mut memory, flags);
        let slots: Vec<_> = (0..200).map(|_| pool.alloc_fixed(SMALL).unwrap()).collect();
        assert_eq!(slots.iter().collect::<HashSet<_>>().len(), 200);
        let distances =
            slots.windows(2).map(|pair| pair[1].addr().get().abs_diff(pair[0].addr().get()));
        distances.filter(|&distance| distance == 64).count()
    };
    assert!(in_order(PoolFlags::empty()) > 150);
    assert!(in_order(PoolFlags::RANDOM) < 50);
}

/// The slot that was freed last is not always the next one.
#[test]
fn a_freed_slot_is_not_reused_at_once() {
    let mut memory = Memory::new(256 << 10);
    let pool = pool_of_slots(&mut memory, PoolFlags::RANDOM);
    let mut at_once = 0;
    let mut last = pool.alloc_fixed(SMALL).unwrap();
    for _ in 0..200 {
        Handle::free_fixed(&mut &pool, SMALL, last).unwrap();
        let next = pool.alloc_fixed(SMALL).unwrap();
        at_once += usize::from(next == last);
        last = next;
    }
    assert!(at_once < 100, "{at_once} of 200");
}

/// One function serves two pools, which it tells apart by their contexts; it hears of refused look-ups,
/// and of damage that a failing allocation comes by.
#[test]
fn faults_come_with_their_context() {
    static HEARD: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
    fn on_fault(_: Fault, pool: usize) {
        HEARD[pool].fetch_add(1, Relaxed);
    }
    let heard = || HEARD.each_ref().map(|count| count.load(Relaxed));
    let [first, second] = [0, 1].map(|pool| Bench::new(CLASSES.on_fault(on_fault, pool), 64 << 10));
    let block = first.pool().alloc(bytes(100)).unwrap();
    let mut expected = [0, 0];
    for (_, handle) in &mut second.handles() {
        handle.free(block).unwrap_err();
        expected[1] += 1;
        assert_eq!(heard(), expected);
    }
    first.pool().usable(byte(block, 16)).unwrap_err();
    first.pool().usable(block).unwrap();
    expected[0] += 1;
    assert_eq!((heard(), first.pool().stats().bad_frees), (expected, 0));
    // The links of the free block that all others are cut from.
    let whole = first.pool().map().find(|entry| entry.size > 20_000).unwrap();
    first.damage(whole.addr + size_of::<usize>(), 4);
    let failed = first.pool().alloc(bytes(20_000)).unwrap_err();
    assert!(matches!(failed, AllocError::Corrupted { .. }), "{failed}");
    assert!(heard()[0] > expected[0]);
}

/// The function that hears of faults is not called under the lock: it may use the pool.
#[test]
fn faults_are_reported_when_the_lock_is_free() {
    static POOL: Pool<parking_lot::RawMutex> = Pool::empty();
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    fn on_fault(fault: Fault, _: usize) {
        assert!(!fault.to_string().is_empty());
        SEEN.fetch_add(POOL.stats().bad_frees, Relaxed);
    }
    let memory = vec![std::mem::MaybeUninit::uninit(); 64 << 10].leak();
    POOL.init_with(&CLASSES.on_fault(on_fault, 0), memory).unwrap();
    let mut cache = POOL.local_cache();
    let block = POOL.alloc(bytes(5000)).unwrap();
    let slot = cache.alloc_fixed(SMALL).unwrap();
    for (count, &wrong) in [byte(block, 16), byte(slot, 16), byte(slot, 1)].iter().enumerate() {
        let refused = if count == 0 {
            Handle::free(&mut &POOL, wrong)
        } else {
            Handle::free_fixed(&mut cache, SMALL, wrong)
        };
        refused.unwrap_err();
        assert_eq!(SEEN.swap(0, Relaxed), count + 1);
    }
}

/// Threads that use their objects to the last byte, while another validates throughout.
#[test]
fn nothing_is_found_in_correct_programs() {
    const ROUNDS: usize = 20_000;
    let mut memory = Memory::new(1 << 20);
    let builder = Pool::<parking_lot::RawMutex>::builder().config(CLASSES);
    let pool = builder.build(memory.region()).unwrap();
    let barrier = Barrier::new(3);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (pool, barrier) = (&pool, &barrier);
            scope.spawn(move || {
                let mut rng = common::Rng::new(thread);
                let mut cache = pool.local_cache();
                let mut live = Vec::new();
                barrier.wait();
                for _ in 0..ROUNDS {
                    let size = rng.below(110) + 1;
                    let object = Handle::alloc(&mut cache, bytes(size)).unwrap();
                    stamp::write(object, size, 3);
                    live.push((object, size));
                    if live.len() > 20 {
                        let (object, size) = live.swap_remove(rng.below(live.len()));
                        stamp::verify(object, size, 3);
                        Handle::free(&mut cache, object).unwrap();
                    }
                }
                for (object, _) in live {
                    Handle::free(&mut cache, object).unwrap();
                }
            });
        }
        barrier.wait();
        for _ in 0..200 {
            pool.validate().unwrap();
        }
    });
    pool.validate().unwrap();
    assert_eq!(pool.stats().live_objects, 0);
}
