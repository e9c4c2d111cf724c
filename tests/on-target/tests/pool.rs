//! A pool without a lock over a static region: blocks, resizing, damage. This image has no
//! `alloc` crate: it would not link, for want of a global allocator.
#![no_std]
#![no_main]

use core::{mem::MaybeUninit, ptr::NonNull};

use libmempool::{AllocError, ConfigError, CorruptionKind, NoLock, Pool, ReallocError};
use libmempool_on_target::{
    LARGE_BOARD, Region,
    blocks::{self, layout},
};

const BYTES: usize = if LARGE_BOARD { 1 << 20 } else { 4 << 10 };

static FIRST: Region<BYTES> = Region::new();
static SECOND: Region<2048> = Region::new();

/// Frees a block of a test that expects this to work.
fn free(pool: &Pool<'_>, block: NonNull<u8>) {
    // SAFETY: callers do not use the block any more.
    unsafe { pool.free(block) }.unwrap();
}

/// The bytes of a live block.
fn bytes<'a>(block: NonNull<u8>, len: usize) -> &'a mut [u8] {
    // SAFETY: callers pass a live block of that length, and hold one slice of it at a time.
    unsafe { blocks::bytes(block, len) }
}

#[embedded_test::tests]
mod tests {
    use super::*;

    #[init]
    fn init() -> Pool<'static> {
        Pool::<NoLock>::new(FIRST.take()).unwrap()
    }

    #[test]
    fn blocks_are_aligned_disjoint_and_all_come_back(pool: Pool<'static>) {
        let empty = pool.stats();
        let mut blocks = [NonNull::<u8>::dangling(); 12];
        for (i, block) in blocks.iter_mut().enumerate() {
            let (size, align) = (i * 7 + 1, 1 << (i % 8));
            *block = pool.alloc(layout(size, align)).unwrap();
            assert_eq!(block.addr().get() % align, 0);
            assert!(pool.contains(block.as_ptr()));
            // SAFETY: the block is live.
            assert!(unsafe { pool.usable_size(*block) }.unwrap() >= size);
            bytes(*block, size).fill(i as u8);
        }
        for (i, block) in blocks.iter().enumerate() {
            assert!(bytes(*block, i * 7 + 1).iter().all(|&byte| usize::from(byte) == i));
        }
        pool.validate().unwrap();
        assert_eq!(pool.stats().live_objects, blocks.len());
        // First the even ones, so that frees meet live neighbours, then free ones.
        blocks.iter().step_by(2).for_each(|&block| free(&pool, block));
        blocks.iter().skip(1).step_by(2).for_each(|&block| free(&pool, block));
        pool.validate().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.live_objects, stats.free_blocks), (0, 1));
        assert_eq!(stats.largest_free, empty.largest_free);
    }

    #[test]
    fn zeroed_memory_is_zero(pool: Pool<'static>) {
        let used = pool.alloc(layout(64, 8)).unwrap();
        bytes(used, 64).fill(0xff);
        free(&pool, used);
        let block = pool.alloc_zeroed(layout(64, 8)).unwrap();
        assert!(bytes(block, 64).iter().all(|&byte| byte == 0));
    }

    #[test]
    fn realloc_keeps_the_contents(pool: Pool<'static>) {
        let block = pool.alloc(layout(24, 8)).unwrap();
        bytes(block, 24).fill(7);
        // SAFETY: the old pointer is not used any more.
        let grown = unsafe { pool.realloc(block, layout(24, 8), 200) }.unwrap();
        assert_eq!(grown, block, "there is room above");
        let above = pool.alloc(layout(8, 8)).unwrap();
        // SAFETY: as above.
        let moved = unsafe { pool.realloc(grown, layout(200, 8), 400) }.unwrap();
        assert_ne!(moved, grown, "there is no room above");
        // SAFETY: as above.
        let shrunk = unsafe { pool.realloc(moved, layout(400, 8), 16) }.unwrap();
        assert!(bytes(shrunk, 16).iter().all(|&byte| byte == 7));
        // SAFETY: refused, so the block stays.
        let refused = unsafe { pool.realloc(shrunk, layout(16, 8), 2 * BYTES) };
        assert!(matches!(refused, Err(ReallocError::Alloc(AllocError::TooLarge { .. }))));
        free(&pool, shrunk);
        free(&pool, above);
        pool.validate().unwrap();
        assert_eq!(pool.stats().live_objects, 0);
    }

    #[test]
    fn impossible_requests_are_refused(pool: Pool<'static>) {
        assert_eq!(pool.alloc(layout(0, 1)), Err(AllocError::ZeroSize));
        let most = pool.alloc(layout(isize::MAX as usize, 1));
        assert!(matches!(most, Err(AllocError::TooLarge { .. })));
        assert!(pool.alloc(layout(8, 1 << 30)).is_err());
        pool.validate().unwrap();
    }

    #[test]
    fn validate_finds_a_damaged_tag(pool: Pool<'static>) {
        let block = pool.alloc(layout(32, 8)).unwrap();
        let tag = block.cast::<u32>().as_ptr().wrapping_sub(1);
        // SAFETY: the word below a block is the pool's, and nobody else runs; that it must not be
        // written is what this is about.
        unsafe { tag.write(!tag.read()) };
        assert_eq!(pool.validate().unwrap_err().kind, CorruptionKind::BlockTag);
        // SAFETY: refused.
        assert!(unsafe { pool.free(block) }.is_err());
    }

    #[test]
    fn reset_frees_everything(mut pool: Pool<'static>) {
        let empty = pool.stats().largest_free;
        for size in 1..20 {
            pool.alloc(layout(size, 1)).unwrap();
        }
        pool.reset().unwrap();
        assert_eq!(pool.stats().live_objects, 0);
        assert_eq!(pool.stats().largest_free, empty);
        pool.validate().unwrap();
    }

    #[test]
    fn a_region_that_is_too_small_is_refused(pool: Pool<'static>) {
        drop(pool);
        let mut memory = [MaybeUninit::uninit(); 32];
        let refused = Pool::<NoLock>::new(&mut memory).err();
        assert_eq!(refused, Some(ConfigError::RegionTooSmall { bytes: 32 }));
    }

    #[test]
    fn small_regions_work_or_are_refused(pool: Pool<'static>) {
        drop(pool);
        let memory = SECOND.take();
        for len in 0..memory.len() {
            let Ok(pool) = Pool::<NoLock>::new(&mut memory[..len]) else { continue };
            let least = pool.alloc(layout(1, 1)).unwrap();
            free(&pool, least);
            pool.validate().unwrap();
        }
    }
}
