//! A pool of several regions, as boards with several memories have them.
#![no_std]
#![no_main]

use core::{mem::MaybeUninit, ops::Range, ptr::NonNull};

use libmempool::{ConfigError, NoLock, Pool, SizeClass};
use libmempool_on_target::{
    LARGE_BOARD, Region,
    blocks::{Chain, Stamped, layout},
    random::Random,
};

const BYTES: usize = if LARGE_BOARD { 256 << 10 } else { 3 << 10 };

static FIRST: Region<BYTES> = Region::new();
static SECOND: Region<1024> = Region::new();
static THIRD: Region<1024> = Region::new();

/// Which addresses a region has.
fn addresses(region: &[MaybeUninit<u8>]) -> Range<usize> {
    let range = region.as_ptr_range();
    range.start.addr()..range.end.addr()
}

/// A pool of three regions, none of which begins or ends at a granule but the first, and their addresses.
fn three(pool: &Pool<'static>, first: Range<usize>) -> [Range<usize>; 3] {
    let (second, third) = (&mut SECOND.take()[3..1021], &mut THIRD.take()[1..]);
    let all = [first, addresses(second), addresses(third)];
    pool.add_region(second).unwrap();
    pool.add_region(third).unwrap();
    all
}

#[embedded_test::tests]
mod tests {
    use super::*;

    #[init]
    fn init() -> (Pool<'static>, Range<usize>) {
        let first = FIRST.take();
        let range = addresses(first);
        (Pool::<NoLock>::new(first).unwrap(), range)
    }

    #[test]
    fn blocks_come_from_all_and_span_none((pool, first): (Pool<'static>, Range<usize>)) {
        let regions = three(&pool, first);
        assert_eq!(pool.stats().region_bytes, BYTES + 1018 + 1023);
        let free = (pool.stats().free_bytes, pool.stats().free_blocks);
        assert_eq!(free.1, 3);
        // SAFETY: the blocks are fresh, and 40 bytes long.
        let (blocks, _) = unsafe { Chain::exhaust(|| pool.alloc(layout(40, 8))) };
        pool.validate().unwrap();
        let mut counts = [0; 3];
        for block in blocks {
            let start = block.addr().get();
            let home = regions.iter().position(|region| region.contains(&start)).unwrap();
            assert!(start + 40 <= regions[home].end, "the block leaves its region");
            counts[home] += 1;
            // SAFETY: the block is not used any more.
            unsafe { pool.free(block) }.unwrap();
        }
        assert!(counts.iter().all(|&count| count >= 18), "{counts:?}");
        pool.validate().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.live_objects, (stats.free_bytes, stats.free_blocks)), (0, free));
    }

    #[test]
    fn the_second_serves_when_the_first_is_full((pool, first): (Pool<'static>, Range<usize>)) {
        let regions = three(&pool, first);
        let most = pool.alloc(layout(pool.stats().largest_free - 64, 8)).unwrap();
        let small = pool.alloc(layout(700, 8)).unwrap();
        assert!(regions[0].contains(&most.addr().get()));
        assert!(!regions[0].contains(&small.addr().get()));
        // SAFETY: neither is used any more.
        unsafe {
            pool.free(most).unwrap();
            pool.free(small).unwrap();
        }
        pool.validate().unwrap();
        assert_eq!(pool.stats().live_objects, 0);
    }

    #[test]
    fn slots_go_back_where_they_came_from((pool, first): (Pool<'static>, Range<usize>)) {
        let class = pool.add_size_class(SizeClass::new(64)).unwrap();
        let regions = three(&pool, first);
        // SAFETY: the slots are fresh, and 64 bytes long.
        let (slots, _) = unsafe { Chain::exhaust(|| pool.alloc_fixed(class)) };
        pool.validate().unwrap();
        let mut outside = 0;
        for slot in slots {
            outside += usize::from(!regions[0].contains(&slot.addr().get()));
            // SAFETY: the slot is not used any more.
            unsafe { pool.free(slot) }.unwrap();
        }
        assert!(outside > 0);
        pool.defragment();
        pool.validate().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.live_objects, stats.cached_objects, stats.slab_bytes), (0, 0, 0));
    }

    #[test]
    fn objects_are_resized_across_them((pool, first): (Pool<'static>, Range<usize>)) {
        three(&pool, first);
        let mut random = Random::new(7);
        let mut blocks: [Option<Stamped>; 16] = [None; 16];
        for turn in 0..2000 {
            let place = &mut blocks[random.below(16)];
            let (old, size) = (place.take(), 1 + random.below(200));
            let start = match old.map(Stamped::verify) {
                None => pool.alloc(layout(size, 4)).ok(),
                // SAFETY: the block is not used any more.
                Some(block) if turn % 3 == 0 => unsafe { pool.free(block) }.map(|()| None).unwrap(),
                // SAFETY: the old pointer is not used any more.
                Some(block) => unsafe { pool.realloc(block, layout(1, 4), size) }.ok(),
            };
            // SAFETY: the block is live, and that long.
            *place = start.map(|block| unsafe { Stamped::new(block, size) });
        }
        assert_eq!(pool.stats().failures, 0, "they were large enough");
        for block in blocks.into_iter().flatten() {
            // SAFETY: the block is not used any more.
            unsafe { pool.free(block.verify()) }.unwrap();
        }
        pool.validate().unwrap();
        assert_eq!((pool.stats().live_objects, pool.stats().free_blocks), (0, 3));
    }

    #[test]
    fn one_that_is_too_small_changes_nothing((pool, _): (Pool<'static>, Range<usize>)) {
        let before = pool.stats();
        let tiny = &mut SECOND.take()[..16];
        assert_eq!(pool.add_region(tiny), Err(ConfigError::RegionTooSmall { bytes: 16 }));
        assert_eq!(pool.stats(), before);
        pool.validate().unwrap();
    }

    #[test]
    fn a_reset_keeps_them((mut pool, first): (Pool<'static>, Range<usize>)) {
        three(&pool, first);
        let before = pool.stats();
        // SAFETY: the blocks are fresh, and 100 bytes long.
        let (blocks, _) = unsafe { Chain::exhaust(|| pool.alloc(layout(100, 8))) };
        assert!(blocks.len() > 20);
        pool.reset().unwrap();
        pool.validate().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.free_bytes, stats.free_blocks), (before.free_bytes, 3));
        assert_eq!(stats.region_bytes, before.region_bytes);
    }

    #[test]
    fn contains_knows_all((pool, first): (Pool<'static>, Range<usize>)) {
        let regions = three(&pool, first);
        for region in &regions {
            for (addr, inside) in [(region.start, true), (region.end - 1, true)] {
                assert_eq!(pool.contains(core::ptr::without_provenance(addr)), inside);
            }
        }
        let mut outside = 0u32;
        assert!(!pool.contains(NonNull::from(&mut outside).as_ptr().cast()));
    }
}
