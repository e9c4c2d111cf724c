//! A pool without a lock over a static region: blocks, exhaustion, misuse, further regions. This
//! image has no `alloc` crate: it would not link, for want of a global allocator.
#![no_std]
#![no_main]

use core::{alloc::Layout, mem::MaybeUninit, ptr::NonNull, slice};

use libmempool::{
    AllocError, ConfigError, CorruptionKind, FreeError, NoLock, Pool, PoolConfig, PoolFlags,
    ReallocError,
};
use libmempool_on_target::{LARGE_BOARD, Region};

const BYTES: usize = if LARGE_BOARD { 1 << 20 } else { 4 << 10 };

static FIRST: Region<BYTES> = Region::new();
static SECOND: Region<2048> = Region::new();

/// In flash: on the stack it would take a good part of a small board's memory.
static POISONED: PoolConfig = PoolConfig::new().flags(PoolFlags::POISON);

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// Frees a block of a test that expects this to work.
fn free(pool: &Pool<'_>, block: NonNull<u8>) {
    // SAFETY: callers do not use the block any more.
    unsafe { pool.free(block) }.unwrap();
}

/// The bytes of a live block.
fn bytes<'a>(block: NonNull<u8>, len: usize) -> &'a mut [u8] {
    // SAFETY: callers pass a live block of that length, and hold one slice of it at a time.
    unsafe { slice::from_raw_parts_mut(block.as_ptr(), len) }
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
        assert!(matches!(refused, Err(ReallocError::Alloc(AllocError::OutOfMemory { .. }))));
        free(&pool, shrunk);
        free(&pool, above);
        pool.validate().unwrap();
        assert_eq!(pool.stats().live_objects, 0);
    }

    #[test]
    fn exhaustion_is_an_error_and_ends_with_a_free(pool: Pool<'static>) {
        const SIZE: usize = BYTES / 16;
        let mut blocks = [None; 16];
        let mut count = 0;
        let error = loop {
            match pool.alloc(layout(SIZE, 8)) {
                Ok(block) => blocks[count] = Some(block),
                Err(error) => break error,
            }
            count += 1;
        };
        assert!(matches!(error, AllocError::OutOfMemory { requested: SIZE, .. }));
        assert!(count >= 8, "{count}");
        assert_eq!(pool.stats().failures, 1);
        free(&pool, blocks[count / 2].take().unwrap());
        blocks[count / 2] = Some(pool.alloc(layout(SIZE, 8)).unwrap());
        blocks.iter().flatten().for_each(|&block| free(&pool, block));
        pool.validate().unwrap();
        assert_eq!(pool.stats().free_blocks, 1);
    }

    #[test]
    fn impossible_requests_are_refused(pool: Pool<'static>) {
        assert_eq!(pool.alloc(layout(0, 1)), Err(AllocError::ZeroSize));
        let most = pool.alloc(layout(isize::MAX as usize, 1));
        assert!(matches!(most, Err(AllocError::TooLarge | AllocError::OutOfMemory { .. })));
        assert!(pool.alloc(layout(8, 1 << 30)).is_err());
        pool.validate().unwrap();
    }

    #[test]
    fn misuse_is_refused_and_changes_nothing(pool: Pool<'static>) {
        let block = pool.alloc(layout(100, 8)).unwrap();
        let mut outside = 0u32;
        let foreign = NonNull::from(&mut outside).cast::<u8>();
        let inside = NonNull::new(block.as_ptr().wrapping_add(8)).unwrap();
        let odd = NonNull::new(block.as_ptr().wrapping_add(1)).unwrap();
        // SAFETY: none of these is a live block, so none is freed.
        unsafe {
            assert!(matches!(pool.free(foreign), Err(FreeError::Foreign { .. })));
            assert!(pool.free(inside).is_err());
            assert!(matches!(pool.free(odd), Err(FreeError::NotABlock { .. })));
        }
        free(&pool, block);
        // SAFETY: the block was freed already.
        let twice = unsafe { pool.free(block) };
        assert_eq!(twice, Err(FreeError::NotLive { addr: block.addr().get() }));
        assert_eq!(pool.stats().bad_frees, 4);
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
    fn a_second_region_serves_when_the_first_is_full(pool: Pool<'static>) {
        pool.add_region(SECOND.take()).unwrap();
        assert_eq!(pool.stats().region_bytes, BYTES + 2048);
        let first = pool.alloc(layout(pool.stats().largest_free - 64, 8)).unwrap();
        let second = pool.alloc(layout(1024, 8)).unwrap();
        assert!(first.addr().get().abs_diff(second.addr().get()) >= 1024);
        bytes(second, 1024).fill(1);
        free(&pool, first);
        free(&pool, second);
        pool.validate().unwrap();
        assert_eq!(pool.stats().live_objects, 0);
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

    #[test]
    fn freed_memory_is_poisoned(pool: Pool<'static>) {
        drop(pool);
        let pool = Pool::<NoLock>::empty();
        pool.init_with(&POISONED, SECOND.take()).unwrap();
        let block = pool.alloc(layout(100, 8)).unwrap();
        bytes(block, 100).fill(0);
        free(&pool, block);
        pool.validate().unwrap();
        // SAFETY: the memory is the pool's own static, and nobody else runs; links of the free
        // block are in front of this byte.
        assert_eq!(unsafe { block.add(50).read() }, 0xdf);
    }
}
