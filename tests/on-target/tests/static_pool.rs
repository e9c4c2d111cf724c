//! A pool in a `static`, behind the critical section, that gets its region at start-up.
#![no_std]
#![no_main]

use core::{alloc::Layout, ptr::NonNull};

use libmempool::{
    AllocError, ConfigError, CriticalSection, FreeError, Pool, PoolConfig, SizeClass,
};
use libmempool_on_target::Region;

static REGION: Region<4096> = Region::new();
static POOL: Pool<CriticalSection> = Pool::empty();

/// In flash: on the stack it would take a good part of a small board's memory.
static CONFIG: PoolConfig =
    PoolConfig::new().alignment(16).key(0x1234_5678_9abc_def0).size_class(SizeClass::new(64));

#[embedded_test::tests]
mod tests {
    use super::*;

    #[test]
    fn an_empty_pool_refuses_everything() {
        assert_eq!(POOL.alloc(Layout::new::<u32>()), Err(AllocError::NotInitialised));
        // SAFETY: refused.
        let freed = unsafe { POOL.free(NonNull::dangling()) };
        assert_eq!(freed, Err(FreeError::NotInitialised));
        assert_eq!(POOL.add_region(REGION.take()), Err(ConfigError::NotInitialised));
        assert_eq!(POOL.stats().region_bytes, 0);
        POOL.validate().unwrap();
    }

    #[test]
    fn init_hands_the_region_over_once() {
        let (first, second) = REGION.take().split_at_mut(3072);
        POOL.init(first).unwrap();
        assert_eq!(POOL.init(second), Err(ConfigError::AlreadyInitialised));
        let block = POOL.alloc(Layout::new::<[u8; 100]>()).unwrap();
        // SAFETY: the block is not used any more.
        unsafe { POOL.free(block) }.unwrap();
        POOL.validate().unwrap();
    }

    #[test]
    fn init_with_a_static_configuration() {
        POOL.init_with(&CONFIG, REGION.take()).unwrap();
        let class = POOL.class_of(64).unwrap();
        let mut cache = POOL.local_cache();
        let slot = cache.alloc_fixed(class).unwrap();
        let block = cache.alloc(Layout::new::<[u8; 7]>()).unwrap();
        assert_eq!((slot.addr().get() % 16, block.addr().get() % 16), (0, 0));
        // SAFETY: neither is used any more.
        unsafe {
            cache.free(slot).unwrap();
            cache.free(block).unwrap();
        }
        drop(cache);
        POOL.validate().unwrap();
        assert_eq!(POOL.stats().live_objects, 0);
    }

    #[test]
    fn the_lock_is_let_go_after_an_error() {
        POOL.init(REGION.take()).unwrap();
        assert!(POOL.alloc(Layout::new::<[u8; 8192]>()).is_err());
        // Would panic if this context held the pool's lock.
        critical_section::with(|_| POOL.alloc(Layout::new::<u64>()).unwrap());
    }
}
