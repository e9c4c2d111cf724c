//! Blocks that rest: freed, but not merged yet, in regions large enough to have places for them.

mod common;

use std::{alloc::Layout, cell::RefCell};

use common::{Memory, Rng, UsableSize, bytes};
use libmempool::{
    Corruption, CorruptionKind, Fault, FreeError, MapKind, NoLock, Pool, ReallocError,
};

const REGION: usize = 1 << 20;
const WORD: usize = size_of::<usize>();

/// A pool with a row of blocks of these sizes and one behind them, so that none is beside the rest
/// of the region.
fn row<const N: usize>(
    memory: &mut Memory,
    sizes: [usize; N],
) -> (Pool<'_, NoLock>, [std::ptr::NonNull<u8>; N]) {
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let blocks = sizes.map(|size| pool.alloc(bytes(size)).unwrap());
    pool.alloc(bytes(50)).unwrap();
    (pool, blocks)
}

fn free(pool: &Pool<'_, NoLock>, block: std::ptr::NonNull<u8>) -> Result<(), FreeError> {
    // SAFETY: tests do not use what they have freed.
    unsafe { pool.free(block) }
}

#[test]
fn the_next_request_of_its_size_gets_it() {
    let mut memory = Memory::new(REGION);
    let (pool, blocks) = row(&mut memory, [40, 700, 5000, 100]);
    for (block, size) in blocks.into_iter().zip([40, 700, 5000, 100]) {
        free(&pool, block).unwrap();
        assert_eq!(pool.alloc(bytes(size)), Ok(block));
        assert!(pool.usable(block).unwrap() >= size);
        pool.validate().unwrap();
    }
}

#[test]
fn it_is_not_live() {
    let mut memory = Memory::new(REGION);
    let (pool, [first, second]) = row(&mut memory, [100, 100]);
    free(&pool, first).unwrap();
    let addr = first.addr().get();
    assert_eq!(free(&pool, first), Err(FreeError::NotLive { addr }));
    assert_eq!(pool.usable(first), Err(FreeError::NotLive { addr }));
    // SAFETY: refused.
    let refused = unsafe { pool.realloc(first, bytes(100), 200) };
    assert_eq!(refused, Err(ReallocError::Free(FreeError::NotLive { addr })));
    assert_eq!(pool.map().filter(|entry| entry.kind == MapKind::Free).count(), 2);
    // Its rest ends with the next one's free, and nothing starts there any more or it is free.
    free(&pool, second).unwrap();
    assert!(matches!(
        free(&pool, first),
        Err(FreeError::NotLive { .. } | FreeError::NotABlock { .. })
    ));
    pool.validate().unwrap();
}

/// Whatever rested, a request that needs the memory gets it, and statistics see it whole.
#[test]
fn a_request_that_finds_nothing_ends_all_rest() {
    let mut memory = Memory::new(REGION);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let fresh = pool.stats();
    for seed in 1..20 {
        let mut rng = Rng::new(seed);
        let mut blocks = Vec::new();
        while let Ok(block) = pool.alloc(bytes(1 + rng.below(6000))) {
            blocks.push(block);
        }
        while !blocks.is_empty() {
            let index = rng.below(blocks.len());
            free(&pool, blocks.swap_remove(index)).unwrap();
        }
        pool.validate().unwrap();
        let whole = pool.alloc(bytes(fresh.largest_free)).unwrap();
        free(&pool, whole).unwrap();
        let stats = pool.stats();
        assert_eq!(
            (stats.free_blocks, stats.free_bytes, stats.largest_free),
            (fresh.free_blocks, fresh.free_bytes, fresh.largest_free)
        );
        assert_eq!(stats.damaged_blocks, 0);
    }
}

/// A request that finds nothing merges no more than it needs, but for a few.
#[test]
fn what_is_not_needed_goes_on_resting() {
    let mut memory = Memory::new(16 << 20);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let blocks: Vec<_> = std::iter::from_fn(|| pool.alloc(bytes(64)).ok()).collect();
    let resting = &blocks[1000..1150];
    for &block in resting {
        free(&pool, block).unwrap();
    }
    let merged = pool.alloc(bytes(500)).unwrap();
    assert!(resting.contains(&merged));
    pool.validate().unwrap();
    // Those that were freed last are merged first.
    let next = pool.alloc(bytes(64)).unwrap();
    let index = resting.iter().position(|&block| block == next).unwrap();
    assert!((100..resting.len() - 6).contains(&index), "the one freed as number {index}");
}

#[test]
fn a_block_grows_into_one_that_rests_above() {
    let mut memory = Memory::new(REGION);
    let (pool, [below, above]) = row(&mut memory, [1000, 2000]);
    free(&pool, above).unwrap();
    // SAFETY: `below` is live, and used through what this returns.
    let grown = unsafe { pool.realloc(below, bytes(1000), 2500) }.unwrap();
    assert_eq!(grown, below);
    pool.validate().unwrap();
    assert!(matches!(
        free(&pool, above),
        Err(FreeError::NotABlock { .. } | FreeError::NotLive { .. })
    ));
    free(&pool, grown).unwrap();
}

/// Freed neighbours on either side do not merge with it, and all of them become one in the end.
#[test]
fn neighbours_come_and_go_while_it_rests() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut memory = Memory::new(REGION);
        let (pool, blocks) = row(&mut memory, [300, 700, 1100]);
        let before = pool.stats();
        for index in order {
            free(&pool, blocks[index]).unwrap();
            pool.validate().unwrap();
        }
        let stats = pool.stats();
        assert_eq!(stats.free_blocks, before.free_blocks + 1, "{order:?}");
        assert_eq!(pool.alloc(bytes(2100)), Ok(blocks[0]));
    }
}

/// A damaged tag of a block that rests: `validate` names it, nobody is given the block, and the pool
/// goes on without it.
#[test]
fn damage_while_it_rests() {
    for bit in 0..usize::BITS {
        let mut memory = Memory::new(REGION);
        let (pool, [first, second, third]) = row(&mut memory, [100, 100, 100]);
        free(&pool, second).unwrap();
        let tag = second.as_ptr().wrapping_sub(WORD).cast::<usize>();
        // SAFETY: the wild write that this is about; it stays in the region.
        unsafe { tag.write(tag.read() ^ 1 << bit) };
        let damage = pool.validate().unwrap_err();
        assert_eq!((damage.addr, damage.kind), (tag.addr(), CorruptionKind::BlockTag), "bit {bit}");
        // The request that comes by it is served from elsewhere.
        let elsewhere = pool.alloc(bytes(100)).unwrap();
        assert!(elsewhere > third && pool.stats().damaged_blocks == 1);
        // What lies above it is free to go; what lies below finds the damage.
        free(&pool, third).unwrap();
        assert_eq!(free(&pool, first), Err(FreeError::Corrupted { addr: tag.addr() }));
        assert_eq!(pool.alloc(bytes(100)), Ok(third));
    }
}

/// Memory that runs out ends all rest: what is damaged by then is left alone, all else is had.
#[test]
fn damage_is_left_alone_when_all_rest_ends() {
    let mut memory = Memory::new(REGION);
    let (pool, blocks) = row(&mut memory, [100, 50, 100, 50, 100, 50]);
    let before = pool.stats();
    for block in blocks.into_iter().step_by(2) {
        free(&pool, block).unwrap();
    }
    let tag = blocks[2].as_ptr().wrapping_sub(WORD).cast::<usize>();
    // SAFETY: the wild write that this is about; it stays in the region.
    unsafe { tag.write(!tag.read()) };
    assert!(pool.alloc(bytes(before.largest_free + WORD)).is_err());
    let stats = pool.stats();
    assert_eq!((stats.damaged_blocks, stats.free_blocks), (1, before.free_blocks + 2), "{stats}");
    let damage = pool.validate().unwrap_err();
    assert_eq!((damage.addr, damage.kind), (tag.addr(), CorruptionKind::BlockTag));
    let others: Vec<_> = std::iter::from_fn(|| pool.alloc(bytes(100)).ok()).collect();
    assert!(others.contains(&blocks[0]) && others.contains(&blocks[4]));
    assert!(!others.contains(&blocks[2]) && others.len() > 9000);
}

/// A damaged table of what rests: nothing that it says is believed but for blocks whose tags say the same.
#[test]
fn a_damaged_table_of_what_rests_misleads_nobody() {
    for wrong in [0, 1, WORD, usize::MAX / 2, usize::MAX] {
        let mut memory = Memory::new(REGION);
        let table = memory.region().as_mut_ptr().cast::<usize>();
        let (pool, [first, second]) = row(&mut memory, [100, 300]);
        free(&pool, first).unwrap();
        let tag = first.addr().get() - WORD;
        let words = pool.map().next().expect("a block").addr - table.addr();
        // SAFETY: words of the pool's own, which nobody writes to meanwhile.
        let is_place = |&index: &usize| unsafe { table.wrapping_add(index).read() } == tag;
        let place = (0..words / WORD).find(is_place).expect("the place of the block that rests");
        // SAFETY: the wild write that this is about; it stays in the region.
        unsafe { table.wrapping_add(place).write(wrong) };
        pool.validate().unwrap_err();
        let block = pool.alloc(bytes(100)).unwrap();
        assert_ne!(block, first, "nobody knows that it rests");
        assert_eq!(pool.stats().damaged_blocks, 1);
        // SAFETY: the block is live, and that long.
        unsafe { block.write_bytes(1, 100) };
        free(&pool, block).unwrap();
        assert_eq!(pool.alloc(bytes(100)), Ok(block));
        free(&pool, second).unwrap();
        assert!(pool.alloc(bytes(REGION / 2)).is_ok());
    }
}

thread_local! {
    static FAULTS: RefCell<Vec<Fault>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn damage_while_it_rests_is_reported_once() {
    let mut memory = Memory::new(REGION);
    let note = |fault, _| FAULTS.with_borrow_mut(|faults| faults.push(fault));
    let pool = Pool::<NoLock>::builder().on_fault(note, 0).build(memory.region()).unwrap();
    let block = pool.alloc(bytes(100)).unwrap();
    let (_other, _behind) = (pool.alloc(bytes(100)).unwrap(), pool.alloc(bytes(50)).unwrap());
    free(&pool, block).unwrap();
    let tag = block.as_ptr().wrapping_sub(WORD).cast::<usize>();
    // SAFETY: the wild write that this is about; it stays in the region.
    unsafe { tag.write(0x4141_4141) };
    assert!(pool.alloc(bytes(100)).is_ok() && pool.alloc(bytes(100)).is_ok());
    let found = Corruption { addr: tag.addr(), kind: CorruptionKind::BlockTag };
    assert_eq!(FAULTS.take(), [Fault::Corruption(found)]);
    assert_eq!(pool.stats().damaged_blocks, 1);
}

/// The last one freed is the first one taken, of each size, and nothing moves meanwhile.
#[test]
fn several_of_a_size_rest() {
    let mut memory = Memory::new(REGION);
    let (pool, blocks) = row(&mut memory, [96, 200, 96, 96, 200, 96]);
    let free_blocks = pool.map().filter(|entry| entry.kind == MapKind::Free).count();
    for block in blocks {
        free(&pool, block).unwrap();
        pool.validate().unwrap();
    }
    for index in [5, 3, 2, 0] {
        assert_eq!(pool.alloc(bytes(96)), Ok(blocks[index]));
    }
    for index in [4, 1] {
        assert_eq!(pool.alloc(bytes(200)), Ok(blocks[index]));
    }
    assert_eq!(pool.map().filter(|entry| entry.kind == MapKind::Free).count(), free_blocks);
    pool.validate().unwrap();
}

/// An aligned request takes one that is aligned.
#[test]
fn aligned_blocks_rest() {
    let mut memory = Memory::new(REGION);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let layout = Layout::from_size_align(2000, 256).unwrap();
    let aligned = pool.alloc(layout).unwrap();
    let others: Vec<_> = (0..20).map(|_| pool.alloc(bytes(2000)).unwrap()).collect();
    let unaligned = others.into_iter().find(|block| !block.addr().get().is_multiple_of(256));
    free(&pool, aligned).unwrap();
    assert_eq!(pool.alloc(layout), Ok(aligned));
    free(&pool, aligned).unwrap();
    free(&pool, unaligned.unwrap()).unwrap();
    assert!(pool.alloc(layout).unwrap().addr().get().is_multiple_of(256));
    pool.validate().unwrap();
}

/// What rests stays a small part of the region, and sizes that are not asked for any more make way.
#[test]
fn rest_is_bounded_and_old_sizes_make_way() {
    let mut memory = Memory::new(REGION);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let resting = |size: usize| {
        // What rests is not merged with its neighbours.
        let free = pool.map().filter(|entry| entry.kind == MapKind::Free);
        free.filter(|entry| (size..size + 48).contains(&entry.size)).count()
    };
    let alloc_all = |size| (0..500).map(|_| pool.alloc(bytes(size)).unwrap()).collect::<Vec<_>>();
    for block in alloc_all(64) {
        free(&pool, block).unwrap();
    }
    pool.validate().unwrap();
    let old = resting(64);
    assert!(old >= 8 && old * 80 <= REGION / 16, "{old} blocks of 64 bytes rest");
    for _ in 0..40 {
        for block in alloc_all(160) {
            free(&pool, block).unwrap();
        }
    }
    pool.validate().unwrap();
    assert!(resting(160) > 0 && resting(64) < old, "{} and {}", resting(160), resting(64));
}

/// What rested while memory was plenty makes way once it is not.
#[test]
fn what_rests_becomes_less_as_memory_gets_short() {
    let mut memory = Memory::new(16 << 20);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let resting = |size: usize| {
        let free = pool.map().filter(|entry| entry.kind == MapKind::Free);
        free.filter(|entry| (size..size + 48).contains(&entry.size)).count()
    };
    let alloc_all =
        |size, count| -> Vec<_> { (0..count).map(|_| pool.alloc(bytes(size)).unwrap()).collect() };
    for block in alloc_all(8000, 200) {
        free(&pool, block).unwrap();
    }
    let before = resting(8000);
    assert!(before > 80, "{before}");
    let _live = alloc_all(100_000, 90);
    for _ in 0..12 {
        for block in alloc_all(64, 500) {
            free(&pool, block).unwrap();
        }
    }
    pool.validate().unwrap();
    let (old, new) = (resting(8000), resting(64));
    assert!(old <= 4 && new > 100, "{old} of {before} blocks of 8000 bytes, and {new} of 64");
}

/// A table of which nothing is left: nobody waits for its end, and the pool goes on without what rested.
#[test]
fn a_table_full_of_rubbish_has_an_end() {
    let mut memory = Memory::new(REGION);
    let table = memory.region().as_mut_ptr().cast::<usize>();
    let (pool, [first, _]) = row(&mut memory, [100, 300]);
    free(&pool, first).unwrap();
    let tag = first.addr().get() - WORD;
    let words = (pool.map().next().expect("a block").addr - table.addr()) / WORD;
    // SAFETY: words of the pool's own, which nobody writes to meanwhile.
    let is_place = |&index: &usize| unsafe { table.wrapping_add(index).read() } == tag;
    let place = (0..words).find(is_place).expect("the place of the block that rests");
    for index in place..words {
        // SAFETY: the wild writes that this is about; they stay in the region.
        unsafe { table.wrapping_add(index).cast::<u8>().write_bytes(0x41, WORD) };
    }
    assert!(pool.stats().damaged_blocks > 0);
    assert!(pool.alloc(bytes(2 * REGION)).is_err());
    for size in (16..9000).step_by(100) {
        let block = pool.alloc(bytes(size)).unwrap();
        free(&pool, block).unwrap();
    }
    assert!(pool.validate().is_err());
    assert!(pool.alloc(bytes(REGION / 2)).is_ok());
}

/// A write after the free meets nothing of the pool's: there are no links in a block that rests.
#[test]
fn writes_into_it_do_no_harm() {
    let mut memory = Memory::new(REGION);
    let (pool, [first, second]) = row(&mut memory, [500, 500]);
    free(&pool, first).unwrap();
    // SAFETY: the write after free that this is about; it stays in the block.
    unsafe { first.write_bytes(0x41, 500) };
    pool.validate().unwrap();
    free(&pool, second).unwrap();
    pool.validate().unwrap();
    assert!(pool.alloc(bytes(1000)).is_ok());
}
