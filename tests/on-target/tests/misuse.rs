//! Every mistake has its error, and changes nothing.
#![no_std]
#![no_main]

use core::ptr::NonNull;

use libmempool::{
    AllocError, BulkFreeError, ClassId, ConfigError, FreeError, MAX_DECLARED, NoLock, Pool,
    PoolConfig, ReallocError, SizeClass,
};
use libmempool_on_target::{LARGE_BOARD, Region, blocks::layout};

const BYTES: usize = if LARGE_BOARD { 64 << 10 } else { 3 << 10 };

static REGION: Region<BYTES> = Region::new();

/// In flash, as all of them: on the stack they would take a good part of a small board's memory.
static CONFIG: PoolConfig =
    PoolConfig::new().size_class(SizeClass::new(32)).size_class(SizeClass::new(64));
const SMALL: ClassId = ClassId::new(0);
const LARGE: ClassId = ClassId::new(1);
const NONE: ClassId = ClassId::new(9);

/// All ways to pass a pool a pointer that is wrong: each is refused with the same error, counted, and
/// leaves everything as it was.
fn refuses(pool: &Pool<'_>, pointer: NonNull<u8>, error: FreeError) {
    pool.defragment();
    let before = pool.stats();
    // SAFETY: refused, so nobody's memory is freed.
    unsafe {
        assert_eq!(pool.free(pointer), Err(error));
        assert_eq!(pool.realloc(pointer, layout(8, 4), 16), Err(ReallocError::Free(error)));
        assert_eq!(pool.usable_size(pointer), Err(error));
    }
    let after = pool.stats();
    assert!(after.bad_frees >= before.bad_frees + 2);
    assert_eq!(after.live_bytes, before.live_bytes);
    assert_eq!((after.free_bytes, after.free_blocks), (before.free_bytes, before.free_blocks));
    pool.validate().unwrap();
}

/// As [`refuses`], through every call that names a class, with a local cache and without.
fn refuses_for_class(pool: &Pool<'_>, class: ClassId, pointer: NonNull<u8>, error: FreeError) {
    let before = pool.stats();
    // SAFETY: refused, so nobody's memory is freed.
    unsafe {
        assert_eq!(pool.free_fixed(class, pointer), Err(error));
        let mut cache = pool.local_cache();
        assert_eq!(cache.free_fixed(class, pointer), Err(error));
        let bulk = cache.free_bulk(class, &[pointer]);
        assert_eq!(bulk, Err(BulkFreeError { freed: 0, error }));
    }
    let after = pool.stats();
    assert_eq!(after.bad_frees, before.bad_frees + 3);
    assert_eq!(after.live_objects, before.live_objects);
    pool.validate().unwrap();
}

/// Makes a pool elsewhere fail.
fn config_error(config: &PoolConfig) -> ConfigError {
    let pool = Pool::<NoLock>::empty();
    let error = pool.init_with(config, REGION.take()).unwrap_err();
    assert_eq!(pool.alloc(layout(8, 4)), Err(AllocError::NotInitialised), "it stays empty");
    error
}

fn pool() -> Pool<'static> {
    let pool = Pool::<NoLock>::empty();
    pool.init_with(&CONFIG, REGION.take()).unwrap();
    pool
}

fn inside(block: NonNull<u8>, offset: usize) -> NonNull<u8> {
    block.map_addr(|addr| addr.checked_add(offset).unwrap())
}

#[embedded_test::tests]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_pointer() {
        let pool = pool();
        let mut outside = 0u64;
        let outside = NonNull::from(&mut outside).cast::<u8>();
        let code = NonNull::new(refuses as fn(&Pool<'_>, _, _) as *mut u8).unwrap();
        for pointer in [outside, code, NonNull::dangling()] {
            let error = FreeError::Foreign { addr: pointer.addr().get() };
            refuses(&pool, pointer, error);
            refuses_for_class(&pool, SMALL, pointer, error);
        }
    }

    #[test]
    fn a_pointer_into_a_block() {
        let pool = pool();
        let block = pool.alloc(layout(100, 8)).unwrap();
        for offset in [1, 4, 8, 50] {
            let pointer = inside(block, offset);
            refuses(&pool, pointer, FreeError::NotABlock { addr: pointer.addr().get() });
        }
        // SAFETY: the block is not used any more.
        unsafe { pool.free(block) }.unwrap();
    }

    #[test]
    fn a_pointer_into_a_slot() {
        let pool = pool();
        let slot = pool.alloc_fixed(LARGE).unwrap();
        for offset in [1, 8, 63] {
            let pointer = inside(slot, offset);
            let error = FreeError::NotABlock { addr: pointer.addr().get() };
            refuses(&pool, pointer, error);
            refuses_for_class(&pool, LARGE, pointer, error);
        }
    }

    #[test]
    fn a_double_free_of_a_block() {
        let pool = pool();
        let [below, block, above] = [(); 3].map(|()| pool.alloc(layout(100, 8)).unwrap());
        let error = FreeError::NotLive { addr: block.addr().get() };
        // SAFETY: none of them is used any more.
        unsafe {
            pool.free(block).unwrap();
            refuses(&pool, block, error);
            // Whatever it is merged with.
            pool.free(above).unwrap();
            refuses(&pool, block, error);
            pool.free(below).unwrap();
        }
        refuses(&pool, block, error);
    }

    #[test]
    fn a_double_free_of_a_slot() {
        let pool = pool();
        let [slot, _neighbour] = [(); 2].map(|()| pool.alloc_fixed(SMALL).unwrap());
        let error = FreeError::NotLive { addr: slot.addr().get() };
        // SAFETY: the slot is not used any more.
        unsafe { pool.free_fixed(SMALL, slot) }.unwrap();
        refuses_for_class(&pool, SMALL, slot, error);
        refuses(&pool, slot, error);
    }

    #[test]
    fn a_slot_of_another_class() {
        let pool = pool();
        let slot = pool.alloc_fixed(LARGE).unwrap();
        let addr = slot.addr().get();
        let error = FreeError::WrongClass { addr, actual: Some(LARGE) };
        refuses_for_class(&pool, SMALL, slot, error);
        refuses_for_class(&pool, NONE, slot, error);
        let block = pool.alloc(layout(200, 8)).unwrap();
        let error = FreeError::WrongClass { addr: block.addr().get(), actual: None };
        refuses_for_class(&pool, SMALL, block, error);
        // SAFETY: refused.
        assert_eq!(unsafe { pool.free_slot(block) }, Err(error));
    }

    #[test]
    fn a_bulk_stops_at_the_wrong_one() {
        let pool = pool();
        let mut cache = pool.local_cache();
        let mut slots = [NonNull::dangling(); 4];
        cache.alloc_bulk(SMALL, &mut slots).unwrap();
        let good = slots[2];
        slots[2] = inside(good, 8);
        let addr = slots[2].addr().get();
        // SAFETY: the first two are not used any more, the third is refused.
        let error = unsafe { cache.free_bulk(SMALL, &slots) }.unwrap_err();
        assert_eq!(error, BulkFreeError { freed: 2, error: FreeError::NotABlock { addr } });
        // SAFETY: the rest are still there, and not used any more.
        unsafe { cache.free_bulk(SMALL, &[good, slots[3]]) }.unwrap();
        drop(cache);
        assert_eq!(pool.stats().live_objects, 0);
    }

    #[test]
    fn a_damaged_neighbour() {
        let pool = pool();
        let [block, above] = [(); 2].map(|()| pool.alloc(layout(100, 8)).unwrap());
        // SAFETY: the pool's own word, which must not be written: that is what this is about.
        let tag = unsafe { &mut *above.cast::<u32>().as_ptr().wrapping_sub(1) };
        *tag = !*tag;
        let found = pool.validate().unwrap_err();
        // SAFETY: refused.
        let refused = unsafe { pool.free(block) }.unwrap_err();
        assert_eq!(refused, FreeError::Corrupted { addr: found.addr });
        // SAFETY: refused too.
        let refused = unsafe { pool.free(above) }.unwrap_err();
        assert!(matches!(refused, FreeError::NotABlock { .. } | FreeError::Corrupted { .. }));
        *tag = !*tag;
        pool.validate().unwrap();
        // SAFETY: neither is used any more.
        unsafe {
            pool.free(block).unwrap();
            pool.free(above).unwrap();
        }
    }

    #[test]
    fn a_damaged_free_block() {
        let pool = pool();
        // All of the heap but one block, and behind it free memory.
        let block = pool.alloc(layout(pool.stats().largest_free / 2, 8)).unwrap();
        // SAFETY: the block is not used any more.
        unsafe { pool.free(block) }.unwrap();
        // SAFETY: a write after the free, to the links of the free block.
        let link = unsafe { &mut *block.cast::<[usize; 2]>().as_ptr() };
        let was = core::mem::replace(link, [4, 4]);
        let refused = pool.alloc(layout(100, 8)).unwrap_err();
        assert!(matches!(refused, AllocError::Corrupted { .. }), "{refused}");
        *link = was;
        pool.validate().unwrap();
    }

    #[test]
    fn impossible_requests() {
        let pool = pool();
        assert_eq!(pool.alloc(layout(0, 1)), Err(AllocError::ZeroSize));
        for size in [BYTES, isize::MAX as usize] {
            let refused = pool.alloc(layout(size, 1));
            assert!(matches!(refused, Err(AllocError::TooLarge { most: ..BYTES })));
        }
        let most = pool.alloc(layout(BYTES, 1)).unwrap_err();
        let block = pool.alloc(layout(100, 8)).unwrap();
        // SAFETY: refused.
        let refused = unsafe { pool.realloc(block, layout(100, 8), usize::MAX) };
        assert_eq!(refused, Err(ReallocError::Alloc(most)));
        assert!(pool.alloc(layout(8, 1 << 30)).is_err());
        assert_eq!(pool.alloc_fixed(NONE), Err(AllocError::UnknownClass));
        assert_eq!(pool.alloc_slot(65), Err(AllocError::UnknownClass));
        assert_eq!(pool.class_of(65), Err(AllocError::UnknownClass));
        let limited = pool.add_size_class(SizeClass::new(16).limit(1)).unwrap();
        pool.alloc_fixed(limited).unwrap();
        assert_eq!(pool.alloc_fixed(limited), Err(AllocError::ClassLimit { class: limited }));
        pool.validate().unwrap();
    }

    #[test]
    fn before_there_is_a_region() {
        let pool = Pool::<NoLock>::empty();
        let pointer = NonNull::dangling();
        assert_eq!(pool.alloc(layout(8, 4)), Err(AllocError::NotInitialised));
        // SAFETY: refused.
        unsafe {
            assert_eq!(pool.free(pointer), Err(FreeError::NotInitialised));
            let resized = pool.realloc(pointer, layout(8, 4), 16);
            assert_eq!(resized, Err(ReallocError::Free(FreeError::NotInitialised)));
        }
        assert_eq!(pool.add_size_class(SizeClass::new(8)), Err(ConfigError::NotInitialised));
        let (first, second) = REGION.take().split_at_mut(BYTES / 2);
        assert_eq!(pool.add_region(second), Err(ConfigError::NotInitialised));
        let (third, fourth) = first.split_at_mut(BYTES / 4);
        pool.init(third).unwrap();
        assert_eq!(pool.init(fourth), Err(ConfigError::AlreadyInitialised));
        pool.validate().unwrap();
    }

    #[test]
    fn a_region_that_is_too_small() {
        let (tiny, _) = REGION.take().split_at_mut(24);
        let pool = Pool::<NoLock>::empty();
        assert_eq!(pool.init(tiny), Err(ConfigError::RegionTooSmall { bytes: 24 }));
    }

    #[test]
    fn a_bad_alignment() {
        static BAD: PoolConfig = PoolConfig::new().alignment(12);
        assert_eq!(config_error(&BAD), ConfigError::BadAlignment { alignment: 12 });
    }

    #[test]
    fn an_alignment_that_is_too_large() {
        static BAD: PoolConfig = PoolConfig::new().alignment(8192);
        assert_eq!(config_error(&BAD), ConfigError::BadAlignment { alignment: 8192 });
    }

    #[test]
    fn too_many_classes() {
        static BAD: PoolConfig = PoolConfig::new().size_classes(&[8; MAX_DECLARED + 1]);
        assert_eq!(config_error(&BAD), ConfigError::TooManyClasses);
    }

    #[test]
    fn a_class_of_nothing() {
        static BAD: PoolConfig = PoolConfig::new().size_class(SizeClass::new(0));
        assert_eq!(config_error(&BAD), ConfigError::BadClassSize { size: 0 });
    }

    #[test]
    fn classes_that_do_not_fit() {
        let pool = pool();
        let refused = |class| pool.add_size_class(class).unwrap_err();
        let size = 1 << 24;
        assert_eq!(refused(SizeClass::new(size)), ConfigError::BadClassSize { size });
        let below = SizeClass::new(16).reserve(4).limit(3);
        assert_eq!(refused(below), ConfigError::LimitBelowReserve);
        assert_eq!(refused(SizeClass::new(16).limit(0)), ConfigError::LimitBelowReserve);
        let reserve = BYTES / 16;
        let error = refused(SizeClass::new(16).reserve(reserve));
        assert!(matches!(error, ConfigError::ReserveTooLarge { reserve: asked, available }
                if asked == reserve && available < reserve));
        // Without memory for a table there is no class.
        while pool.alloc(layout(8, 4)).is_ok() {}
        let error = loop {
            if let Err(error) = pool.add_size_class(SizeClass::new(8)) {
                break error;
            }
        };
        assert_eq!(error, ConfigError::OutOfMemory);
        pool.validate().unwrap();
    }
}
