//! The cases.

use std::ptr::NonNull;

use super::FLAGS;
use crate::common::{
    Bench, Handle, Rng, UsableSize, Way, bytes,
    ops::{assert_not_live, is_not_live},
    stray,
};
use libmempool::{
    AllocError, ClassId, CorruptionKind, FreeError, MapKind, NoLock, Pages, Pool, PoolConfig,
    PoolFlags, ReallocError, SizeClass,
};

const CLASSES: PoolConfig = PoolConfig::new().size_classes(&[64, 200, 1024]).flags(FLAGS);
const SMALL: ClassId = ClassId::new(0);
const WORD: usize = size_of::<usize>();

fn bench() -> Bench {
    Bench::new(CLASSES, 64 << 10)
}

fn not_live(pointer: NonNull<u8>) -> impl Fn(FreeError) -> bool {
    let addr = pointer.addr().get();
    move |error| error == FreeError::NotLive { addr }
}

fn nothing_starts_at(pointer: NonNull<u8>) -> impl Fn(FreeError) -> bool {
    move |error| is_not_live(error, pointer)
}

/// A pointer into a block.
fn into(block: NonNull<u8>, offset: usize) -> NonNull<u8> {
    block.map_addr(|addr| addr.checked_add(offset).expect("inside the region"))
}

#[test]
fn double_free_of_a_slot() {
    for freed_by in 0..bench().handles().len() {
        let bench = bench();
        let mut handles = bench.handles();
        let keep = handles[freed_by].1.alloc_fixed(SMALL).unwrap();
        let slot = handles[freed_by].1.alloc_fixed(SMALL).unwrap();
        handles[freed_by].1.free_fixed(SMALL, slot).unwrap();
        bench.refuses(slot, SMALL, Way::ALL, not_live(slot));
        handles[freed_by].1.free(keep).unwrap();
    }
}

#[test]
fn double_free_of_a_slot_whose_slab_is_gone() {
    let bench = bench();
    let slot = bench.pool().alloc_fixed(SMALL).unwrap();
    Way::ByPointer.free(&mut bench.pool(), SMALL, slot).unwrap();
    bench.pool().defragment();
    bench.refuses(slot, SMALL, Way::ALL, nothing_starts_at(slot));
}

#[test]
fn double_free_of_heap_blocks_whatever_they_merged_with() {
    for order in [[0, 1, 2], [2, 1, 0], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1]] {
        let bench = bench();
        let blocks = [(); 3].map(|()| bench.pool().alloc(bytes(5000)).unwrap());
        let _above = bench.pool().alloc(bytes(5000)).unwrap();
        for (freed, index) in order.into_iter().enumerate() {
            Way::ByPointer.free(&mut bench.pool(), SMALL, blocks[index]).unwrap();
            for &index in &order[..=freed] {
                bench.refuses(blocks[index], SMALL, Way::ALL, nothing_starts_at(blocks[index]));
            }
        }
    }
}

/// No address of the region is accepted but those that were handed out.
#[test]
fn only_live_addresses_are_accepted() {
    let bench = Bench::new(CLASSES, 16 << 10);
    let mut live: Vec<_> = bench.pool().classes().map(|c| bench.pool().alloc_fixed(c)).collect();
    live.extend([100, 3000, 41].map(|size| bench.pool().alloc(bytes(size))));
    let live: Vec<_> = live.into_iter().map(|block| block.unwrap()).collect();
    let start = bench.pool().pages().map(Pages::memory).unwrap();
    let region = start.addr().get()..start.addr().get() + start.len();
    for addr in region.clone() {
        let pointer = bench.at(addr);
        if live.contains(&pointer) {
            continue;
        }
        let ways = if addr % WORD == 0 { Way::ALL } else { &Way::ALL[..1] };
        for &way in ways {
            let error = way.free(&mut bench.pool(), SMALL, pointer).unwrap_err();
            assert_not_live(error, pointer);
        }
    }
    bench.pool().validate().unwrap();
    for block in live {
        Way::ByPointer.free(&mut bench.pool(), SMALL, block).unwrap();
    }
}

#[test]
fn interior_pointers() {
    let bench = bench();
    let slot = bench.pool().alloc_fixed(ClassId::new(2)).unwrap();
    let block = bench.pool().alloc(bytes(3000)).unwrap();
    for offset in [1, 7, 8, 16, 64, 512, 1000] {
        for inside in [into(slot, offset), into(block, offset)] {
            bench.refuses(inside, SMALL, Way::ALL, nothing_starts_at(inside));
        }
    }
}

#[test]
fn foreign_pointers() {
    let (bench, other) = (bench(), bench());
    let on_stack = NonNull::from(&mut [0u8; 64]).cast();
    let theirs = other.pool().alloc_fixed(SMALL).unwrap();
    let memory = bench.pool().pages().expect("mapped").memory();
    let start = memory.addr().get();
    let ends = [start - 16, start + memory.len(), 16, usize::MAX - 15];
    let ends = ends.map(stray);
    for pointer in ends.into_iter().chain([on_stack, theirs, NonNull::dangling()]) {
        let addr = pointer.addr().get();
        assert!(!bench.pool().contains(pointer.as_ptr()));
        bench.refuses(pointer, SMALL, Way::ALL, |error| error == FreeError::Foreign { addr });
    }
    other.pool().validate().unwrap();
}

#[test]
fn wrong_class() {
    let bench = bench();
    let block = bench.pool().alloc(bytes(5000)).unwrap();
    let unknown = [3, 127, 128, 254, 255].map(ClassId::new);
    let classes: Vec<_> = bench.pool().classes().chain(unknown).collect();
    for &claimed in &classes {
        let wrong = |pointer: NonNull<u8>, actual| {
            let addr = pointer.addr().get();
            bench.refuses(pointer, claimed, Way::TYPED, |error| {
                error == FreeError::WrongClass { addr, actual }
            });
        };
        wrong(block, None);
        for actual in bench.pool().classes().filter(|&actual| actual != claimed) {
            let slot = bench.pool().alloc_fixed(actual).unwrap();
            wrong(slot, Some(actual));
            Way::ByClass.free(&mut bench.pool(), actual, slot).unwrap();
        }
    }
}

#[test]
fn pointers_from_before_a_reset() {
    let mut bench = bench();
    let old: Vec<_> = {
        let mut handles = bench.handles();
        let slots = handles.iter_mut().map(|(_, handle)| handle.alloc_fixed(SMALL).unwrap());
        let mut old: Vec<_> = slots.collect();
        old.push(bench.pool().alloc(bytes(5000)).unwrap());
        old
    };
    bench.reset();
    for &pointer in &old {
        bench.refuses(pointer, SMALL, Way::ALL, nothing_starts_at(pointer));
    }
    // And once there are slabs again.
    let _fresh = bench.pool().alloc_fixed(SMALL).unwrap();
    for pointer in old {
        if bench.pool().usable(pointer).is_err() {
            bench.refuses(pointer, SMALL, Way::ALL, nothing_starts_at(pointer));
        }
    }
}

#[test]
fn a_bulk_free_stops_at_the_first_wrong_pointer() {
    let bench = bench();
    for (_, handle) in &mut bench.handles() {
        let mut slots = [NonNull::dangling(); 10];
        handle.alloc_bulk(SMALL, &mut slots).unwrap();
        let mut wrong = slots;
        wrong[6] = into(slots[6], 16);
        let error = handle.free_bulk(SMALL, &wrong).unwrap_err();
        let addr = wrong[6].addr().get();
        assert_eq!((error.freed, error.error), (6, FreeError::NotABlock { addr }));
        for (index, &slot) in slots.iter().enumerate() {
            assert_eq!(bench.pool().usable(slot).is_ok(), index >= 6);
        }
        handle.free_bulk(SMALL, &slots[6..]).unwrap();
    }
    assert_eq!(bench.pool().stats().live_objects, 0);
}

/// A block between two others, of which those beside it may be free; sizes that no class has.
fn row_of_blocks(bench: &Bench) -> [NonNull<u8>; 5] {
    [(); 5].map(|()| bench.pool().alloc(bytes(5000)).unwrap())
}

fn free(bench: &Bench, block: NonNull<u8>) -> Result<(), FreeError> {
    Way::ByPointer.free(&mut bench.pool(), SMALL, block)
}

fn is_damage(error: FreeError) -> bool {
    matches!(error, FreeError::Corrupted { .. } | FreeError::NotABlock { .. })
}

#[test]
fn a_damaged_tag_of_the_block_itself() {
    let bench = bench();
    let block = row_of_blocks(&bench)[2];
    let tag = block.addr().get() - WORD;
    let good = bench.word(tag);
    for bit in 0..64 {
        bench.damage(tag, good ^ 1 << bit);
        bench.refuses(block, SMALL, Way::UNTYPED, is_damage);
    }
    bench.damage(tag, good);
    free(&bench, block).unwrap();
    bench.pool().validate().unwrap();
}

/// The overflow that happens: the bytes behind a block are overwritten.
#[test]
fn a_damaged_tag_of_the_block_above() {
    let flags = [FLAGS, PoolFlags::POISON, PoolFlags::ZERO_ON_FREE];
    for (above_is_free, flags) in [false, true].into_iter().flat_map(|a| flags.map(|f| (a, f))) {
        let bench = Bench::new(CLASSES.flags(flags), 64 << 10);
        let blocks = row_of_blocks(&bench);
        if above_is_free {
            free(&bench, blocks[3]).unwrap();
        }
        let tag = blocks[3].addr().get() - WORD;
        let good = bench.word(tag);
        for bit in [0, 1, 2, 5, 30, 47, 48, 63] {
            bench.damage(tag, good ^ 1 << bit);
            bench.refuses(blocks[2], SMALL, &[Way::ByPointer, Way::ByRealloc], |error| {
                matches!(error, FreeError::Corrupted { .. })
            });
            assert_eq!(bench.pool().validate().unwrap_err().addr, tag);
        }
        bench.damage(tag, good);
        free(&bench, blocks[2]).unwrap();
        bench.pool().validate().unwrap();
    }
}

/// The write after free that happens: links, footer or tag of a free block are overwritten. What
/// would merge with it is refused; requests that come by it are refused, or served elsewhere.
#[test]
fn a_damaged_free_block() {
    const GARBAGE: [u64; 6] = [0, 1, u64::MAX, 0x4141_4141_4141_4141, 8, 1 << 46];
    let room = if FLAGS.contains(PoolFlags::CANARY) { 5008 } else { 5000 };
    let footer = (room + WORD).next_multiple_of(16) - WORD;
    for offset in [0, WORD, 2 * WORD, footer] {
        for garbage in GARBAGE {
            check_damaged_free_block(offset, garbage);
        }
    }
}

fn check_damaged_free_block(offset: usize, garbage: u64) {
    let bench = bench();
    let blocks = row_of_blocks(&bench);
    let _low = bench.pool().alloc(bytes(5000)).unwrap();
    free(&bench, blocks[1]).unwrap();
    free(&bench, blocks[3]).unwrap();
    let addr = blocks[1].addr().get() - WORD + offset;
    let good = bench.word(addr);
    // One word in 65,536 passes for a tag; with one bit flipped none does.
    let garbage = if offset == 0 { good ^ 1 << (garbage % 64) } else { garbage };
    if good == garbage {
        return;
    }
    bench.damage(addr, garbage);
    let damage = bench.pool().validate().unwrap_err();
    assert_ne!(damage.kind, CorruptionKind::Counter, "{damage}");
    // Both neighbours would merge with it. (The one below writes the footer anew, and heals it.)
    let refused = free(&bench, blocks[2]).expect_err("what would merge with a damaged block");
    assert!(matches!(refused, FreeError::Corrupted { .. }), "{refused}");
    if let Err(refused) = free(&bench, blocks[0]) {
        assert!(matches!(refused, FreeError::Corrupted { .. }), "{refused}");
    }
    // The first one nearly fits, so that the whole list is looked at.
    for size in [4980, 4900, 2000, 100] {
        match bench.pool().alloc(bytes(size)) {
            Ok(_) | Err(AllocError::Corrupted { .. } | AllocError::OutOfMemory { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// One flipped bit in any block tag is found by `validate`, at the tag.
#[test]
fn every_flipped_bit_of_every_tag_is_found() {
    let bench = Bench::new(CLASSES, 16 << 10);
    let blocks: Vec<_> = (1..12).map(|i| bench.pool().alloc(bytes(i * 40)).unwrap()).collect();
    blocks.into_iter().step_by(3).for_each(|block| free(&bench, block).unwrap());
    let is_block = |kind| !matches!(kind, MapKind::Slab { .. });
    let tags: Vec<_> = bench.pool().map().filter(|entry| is_block(entry.kind)).collect();
    assert!(tags.len() > 10);
    for tag in tags {
        let good = bench.word(tag.addr);
        for bit in 0..64 {
            bench.damage(tag.addr, good ^ 1 << bit);
            let found = bench.pool().validate().expect_err("a flipped bit");
            assert_eq!((found.addr, found.kind), (tag.addr, CorruptionKind::BlockTag));
        }
        bench.damage(tag.addr, good);
    }
    bench.pool().validate().unwrap();
}

/// Random damage in and between blocks: whatever is called after it returns, and `validate` does
/// not pass where a tag was hit.
#[test]
fn calls_survive_random_damage() {
    let mut rng = Rng::new(3);
    for round in 0..200 {
        let bench = Bench::new(PoolConfig::new().flags(FLAGS), 16 << 10);
        let blocks: Vec<_> =
            (0..40).map(|_| bench.pool().alloc(bytes(rng.below(300) + 1)).unwrap()).collect();
        blocks.iter().skip(round % 2).step_by(2).for_each(|&block| free(&bench, block).unwrap());
        let first = blocks[0].addr().get() - WORD;
        let damaged = first + rng.below(4000) / WORD * WORD;
        let is_tag = bench.pool().map().any(|entry| entry.addr == damaged);
        let flipped = bench.word(damaged) ^ 1 << rng.below(64);
        bench.damage(damaged, if is_tag { flipped } else { rng.next() });
        assert!(!is_tag || bench.pool().validate().is_err());
        for block in blocks {
            let _ = free(&bench, block);
            let _ = bench.pool().alloc(bytes(rng.below(600) + 1));
        }
    }
}

#[test]
fn a_realloc_that_cannot_free_the_old_block_leaks_nothing() {
    let bench = bench();
    let blocks = row_of_blocks(&bench);
    bench.damage(blocks[3].addr().get() - WORD, 0);
    // With flags a block that shrinks keeps its room, and needs no neighbour.
    let sizes = if FLAGS.is_empty() { &[100, 4000, 5001, 9000][..] } else { &[5010, 9000] };
    for &new_size in sizes {
        let before = bench.pool().stats();
        let result = Handle::realloc(&mut bench.pool(), blocks[2], bytes(5000), new_size);
        assert!(matches!(result, Err(ReallocError::Free(FreeError::Corrupted { .. }))));
        let after = bench.pool().stats();
        assert_eq!(
            (after.live_objects, after.live_bytes),
            (before.live_objects, before.live_bytes)
        );
    }
}

#[test]
fn calls_on_a_pool_without_a_region() {
    let pool: Pool<NoLock> = Pool::empty();
    let dangling = NonNull::dangling();
    for size in [1, 100, 1500, 1 << 20, isize::MAX.unsigned_abs() - 4096] {
        assert_eq!(pool.alloc(bytes(size)), Err(AllocError::NotInitialised), "{size}");
        assert_eq!(pool.local_cache().alloc(bytes(size)), Err(AllocError::NotInitialised));
    }
    assert_eq!(pool.alloc_fixed(SMALL), Err(AllocError::NotInitialised));
    for &way in Way::ALL {
        assert_eq!(way.free(&mut &pool, SMALL, dangling), Err(FreeError::NotInitialised));
    }
    assert_eq!(pool.usable(dangling), Err(FreeError::NotInitialised));
    assert!(!pool.contains(dangling.as_ptr()));
    assert_eq!(pool.defragment(), 0);
    assert_eq!(pool.map().count(), 0);
    pool.validate().unwrap();
    pool.warm_up().unwrap();
    let error = pool.add_size_class(SizeClass::new(64)).unwrap_err();
    assert_eq!(error, libmempool::ConfigError::NotInitialised);
    assert_eq!(pool.stats().region_bytes, 0);
    let mut pool = pool;
    pool.reset().unwrap();
    assert!(pool.destroy().is_clean());
}
