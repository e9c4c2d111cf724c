//! Where a block goes that is resized: in a full pool downwards into the free block below, if that start is
//! aligned; to a tight place if it shrinks below half.

mod common;

use std::ptr::NonNull;

use common::{Handle, Memory, fill, layout, stamp};
use libmempool::{NoLock, Pool};

const ALIGN: usize = 32;

/// Fills a pool with blocks of `size` bytes, frees one below an aligned one, which then asks for `new_size`.
/// Calls `check` with the lower block, the upper one, and what came of it.
fn grow_in_a_full_pool(
    size: usize,
    new_size: usize,
    check: impl FnOnce(&Pool<'_, NoLock>, [NonNull<u8>; 2], Option<NonNull<u8>>),
) {
    let mut memory = Memory::new(8 << 10);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    // From here on, blocks of 96 bytes are aligned.
    let mut first = pool.alloc(layout(1, ALIGN)).unwrap();
    while !first.addr().get().is_multiple_of(2 * ALIGN) {
        first = pool.alloc(layout(24, 1)).unwrap();
    }
    let mut blocks = fill(&mut &pool, size);
    blocks.extend(fill(&mut &pool, 1));
    blocks.sort_unstable();
    let is_aligned = |block: NonNull<u8>| block.addr().get().is_multiple_of(ALIGN);
    let pair = blocks.windows(2).skip(4).find(|pair| is_aligned(pair[1]));
    let &[below, block] = pair.unwrap() else { unreachable!("pairs") };
    stamp::write(block, size, 1);
    Handle::free(&mut &pool, below).unwrap();
    let grown = Handle::realloc(&mut &pool, block, layout(size, ALIGN), new_size);
    if let Ok(grown) = grown {
        stamp::verify(grown, size, 1);
        stamp::write(grown, new_size, 2);
    } else {
        stamp::verify(block, size, 1);
    }
    pool.validate().unwrap();
    check(&pool, [below, block], grown.ok());
}

#[test]
fn a_block_grows_downwards_if_that_is_aligned() {
    // Blocks of 96 bytes, tags included: all are aligned, or none.
    for new_size in [89, 100, 165, 184] {
        grow_in_a_full_pool(88, new_size, |pool, [below, block], grown| {
            assert_eq!(grown, Some(below), "{new_size}");
            assert!(Handle::free(&mut &*pool, block).is_err(), "it has moved");
            Handle::free(&mut &*pool, below).unwrap();
            pool.validate().unwrap();
        });
    }
}

#[test]
fn a_block_stays_if_the_start_below_is_not_aligned_or_the_room_too_small() {
    // Blocks of 80 bytes: every other one is aligned.
    for (size, new_size) in [(72, 140), (88, 185)] {
        grow_in_a_full_pool(size, new_size, |pool, [_, block], grown| {
            assert_eq!(grown, None, "{size} to {new_size}");
            Handle::free(&mut &*pool, block).unwrap();
            pool.validate().unwrap();
        });
    }
}

#[test]
fn a_block_that_shrinks_below_half_moves_to_a_tight_place() {
    let mut memory = Memory::new(8 << 10);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let [tight, _, large, _] = [100, 16, 2000, 16].map(|size| pool.alloc(layout(size, 1)).unwrap());
    stamp::write(large, 2000, 1);
    Handle::free(&mut &pool, tight).unwrap();
    let half = Handle::realloc(&mut &pool, large, layout(2000, 1), 1100).unwrap();
    assert_eq!(half, large, "more than half stays");
    let shrunk = Handle::realloc(&mut &pool, half, layout(1100, 1), 100).unwrap();
    assert_eq!(shrunk, tight);
    stamp::verify(shrunk, 100, 1);
    assert!(Handle::free(&mut &pool, large).is_err(), "it has moved");
    pool.validate().unwrap();
}
