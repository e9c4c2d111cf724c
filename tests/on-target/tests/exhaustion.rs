//! Memory runs out, in every way there is, and comes back.
#![no_std]
#![no_main]

use core::ptr::NonNull;

use libmempool::{AllocError, NoLock, Pool, ReallocError, SizeClass};
use libmempool_on_target::{
    LARGE_BOARD, Region,
    blocks::{Chain, Stamped, layout},
};

const BYTES: usize = if LARGE_BOARD { 128 << 10 } else { 5 << 10 };

static REGION: Region<BYTES> = Region::new();

/// Gives blocks back that nobody uses any more.
fn free_all(pool: &Pool<'_>, blocks: Chain) {
    for block in blocks {
        // SAFETY: callers gave it up.
        unsafe { pool.free(block) }.unwrap();
    }
}

#[embedded_test::tests]
mod tests {
    use super::*;

    #[init]
    fn init() -> Pool<'static> {
        Pool::<NoLock>::new(REGION.take()).unwrap()
    }

    #[test]
    fn the_heap_serves_as_much_again(pool: Pool<'static>) {
        let empty = pool.stats();
        let mut counts = [0; 4];
        for count in &mut counts {
            // SAFETY: the blocks are fresh, and 48 bytes long.
            let (blocks, error) = unsafe { Chain::exhaust(|| pool.alloc(layout(48, 8))) };
            *count = blocks.len();
            assert!(
                matches!(error, AllocError::OutOfMemory { needed: 48, free_bytes: ..48 }),
                "{error}"
            );
            pool.validate().unwrap();
            free_all(&pool, blocks);
            pool.validate().unwrap();
        }
        assert!(counts[0] * 56 > BYTES * 8 / 10, "{counts:?}");
        assert!(counts.iter().all(|&count| count == counts[0]), "{counts:?}");
        let stats = pool.stats();
        assert_eq!(stats.failures, counts.len());
        assert_eq!((stats.live_objects, stats.free_bytes), (0, empty.free_bytes));
        assert_eq!((stats.free_blocks, stats.largest_free), (1, empty.largest_free));
    }

    #[test]
    fn one_free_is_enough_for_one_more(pool: Pool<'static>) {
        // SAFETY: the blocks are fresh, and 200 bytes long.
        let (mut blocks, _) = unsafe { Chain::exhaust(|| pool.alloc(layout(200, 8))) };
        for mut block in blocks.by_ref().take(6) {
            for _ in 0..10 {
                // SAFETY: the block is not used any more.
                unsafe { pool.free(block) }.unwrap();
                block = pool.alloc(layout(200, 8)).unwrap();
            }
            // SAFETY: as above.
            unsafe { pool.free(block) }.unwrap();
        }
        free_all(&pool, blocks);
        pool.validate().unwrap();
    }

    #[test]
    fn a_refused_realloc_leaves_the_block(pool: Pool<'static>) {
        let block = pool.alloc(layout(64, 8)).unwrap();
        // SAFETY: the block is fresh, and 64 bytes long.
        let stamped = unsafe { Stamped::new(block, 64) };
        // SAFETY: the blocks are fresh, and 40 bytes long.
        let (blocks, _) = unsafe { Chain::exhaust(|| pool.alloc(layout(40, 8))) };
        // SAFETY: refused, so the block stays.
        let refused = unsafe { pool.realloc(block, layout(64, 8), 400) };
        assert!(matches!(
            refused,
            Err(ReallocError::Alloc(AllocError::OutOfMemory { needed: 400, .. }))
        ));
        assert_eq!(stamped.verify(), block);
        free_all(&pool, blocks);
        // SAFETY: the old pointer is not used any more.
        let grown = unsafe { pool.realloc(block, layout(64, 8), 400) }.unwrap();
        // SAFETY: the block is not used any more.
        unsafe { pool.free(grown) }.unwrap();
        pool.validate().unwrap();
        assert_eq!(pool.stats().live_objects, 0);
    }

    #[test]
    fn what_a_class_took_the_heap_gets_back(pool: Pool<'static>) {
        let class = pool.add_size_class(SizeClass::new(32)).unwrap();
        let empty = pool.stats().largest_free;
        for _ in 0..3 {
            // SAFETY: the slots are fresh, and 32 bytes long.
            let (slots, error) = unsafe { Chain::exhaust(|| pool.alloc_fixed(class)) };
            let is_short =
                matches!(error, AllocError::OutOfMemory { .. } | AllocError::Fragmented { .. });
            assert!(is_short, "{error}");
            assert!(slots.len() * 32 > BYTES * 2 / 5, "{}", slots.len());
            assert!(pool.alloc(layout(BYTES / 2, 8)).is_err());
            pool.validate().unwrap();
            free_all(&pool, slots);
            // Idle slabs are taken back for it.
            let large = pool.alloc(layout(BYTES / 2, 8)).unwrap();
            // SAFETY: the block is not used any more.
            unsafe { pool.free(large) }.unwrap();
            pool.validate().unwrap();
        }
        pool.defragment();
        // The shared cache's tables stay.
        assert!(pool.stats().largest_free > empty * 8 / 10);
        assert_eq!(pool.stats().live_objects, 0);
    }

    #[test]
    fn a_limit_ends_with_a_free(pool: Pool<'static>) {
        let class = pool.add_size_class(SizeClass::new(32).limit(5)).unwrap();
        for _ in 0..3 {
            // SAFETY: the slots are fresh, and 32 bytes long.
            let (slots, error) = unsafe { Chain::exhaust(|| pool.alloc_fixed(class)) };
            assert_eq!((slots.len(), error), (5, AllocError::ClassLimit { class }));
            free_all(&pool, slots);
        }
        let stats = pool.class_stats(class).unwrap();
        assert_eq!((stats.limit_hits, stats.failures), (3, 0));
        pool.validate().unwrap();
    }

    #[test]
    fn a_local_cache_gives_everything_back(pool: Pool<'static>) {
        let class = pool.add_size_class(SizeClass::new(64)).unwrap();
        let mut cache = pool.local_cache();
        // SAFETY: the slots are fresh, and 64 bytes long.
        let (slots, _) = unsafe { Chain::exhaust(|| cache.alloc_fixed(class)) };
        assert!(slots.len() * 64 > BYTES * 2 / 5, "{}", slots.len());
        for slot in slots {
            // SAFETY: the slot is not used any more.
            unsafe { cache.free_fixed(class, slot) }.unwrap();
        }
        drop(cache);
        pool.defragment();
        pool.validate().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.live_objects, stats.cached_objects), (0, 0));
    }

    #[test]
    fn what_one_cache_hoards_reaches_another(pool: Pool<'static>) {
        let class = pool.add_size_class(SizeClass::new(32).limit(4)).unwrap();
        let (mut hoard, mut other) = (pool.local_cache(), pool.local_cache());
        let mut burst = [NonNull::dangling(); 4];
        hoard.alloc_bulk(class, &mut burst).unwrap();
        // SAFETY: the slots are not used any more.
        unsafe { hoard.free_bulk(class, &burst) }.unwrap();
        assert!(pool.class_stats(class).unwrap().cached > 0);
        let refused = other.alloc_bulk(class, &mut burst);
        assert_eq!(
            refused,
            Err(AllocError::ClassLimit { class }),
            "the hoard has some of the four"
        );
        // The pool has asked for them: they come with the hoard's next way to the lock.
        let block = hoard.alloc(layout(300, 8)).unwrap();
        other.alloc_bulk(class, &mut burst).unwrap();
        // SAFETY: the block is not used any more.
        unsafe { hoard.free(block) }.unwrap();
        // SAFETY: the slots are not used any more.
        unsafe { other.free_bulk(class, &burst) }.unwrap();
        drop((hoard, other));
        pool.validate().unwrap();
        assert_eq!(pool.stats().live_objects, 0);
    }
}
