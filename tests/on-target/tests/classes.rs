//! Size classes, local caches and typed objects, over a static region.
#![no_std]
#![no_main]

use core::{
    alloc::Layout,
    cell::Cell,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use libmempool::{
    AllocError, ClassId, ConfigError, FreeError, NoLock, ObjectPool, Pool, PoolConfig, SizeClass,
};
use libmempool_on_target::{LARGE_BOARD, Region};

const BYTES: usize = if LARGE_BOARD { 1 << 20 } else { 5 << 10 };

static FIRST: Region<BYTES> = Region::new();

/// In flash: on the stack it would take a good part of a small board's memory.
static CONFIG: PoolConfig = PoolConfig::new();

/// How often the watermark callback has run.
static LOW: AtomicUsize = AtomicUsize::new(0);

fn low(_: ClassId, _: usize) {
    LOW.store(LOW.load(Relaxed) + 1, Relaxed);
}

#[embedded_test::tests]
mod tests {
    use super::*;

    #[init]
    fn init() -> Pool<'static> {
        let pool = Pool::<NoLock>::empty();
        pool.init_with(&CONFIG, FIRST.take()).unwrap();
        pool
    }

    #[test]
    fn slots_come_from_their_class(pool: Pool<'static>) {
        let small = pool.add_size_class(SizeClass::new(16)).unwrap();
        let large = pool.add_size_class(SizeClass::new(64)).unwrap();
        assert_eq!(pool.class_of(10), Ok(small));
        assert_eq!(pool.class_of(17), Ok(large));
        assert_eq!(pool.class_of(65), Err(AllocError::UnknownClass));
        let slot = pool.alloc_fixed(large).unwrap();
        assert_eq!(slot.addr().get() % 8, 0);
        // SAFETY: the slot is live.
        assert_eq!(unsafe { pool.usable_size(slot) }, Ok(64));
        // SAFETY: the first free is refused, and the slot is not used after the second.
        unsafe {
            let wrong = pool.free_fixed(small, slot);
            assert!(
                matches!(wrong, Err(FreeError::WrongClass { actual, .. }) if actual == Some(large))
            );
            pool.free_fixed(large, slot).unwrap();
            assert!(matches!(pool.free(slot), Err(FreeError::NotLive { .. })));
        }
        pool.validate().unwrap();
        assert_eq!(pool.stats().live_objects, 0);
    }

    #[test]
    fn a_layout_finds_its_class(pool: Pool<'static>) {
        let class = pool.add_size_class(SizeClass::new(48)).unwrap();
        let slot = pool.alloc(Layout::new::<[u32; 12]>()).unwrap();
        assert_eq!(pool.class_stats(class).unwrap().live, 1);
        // SAFETY: the slot is not used any more.
        unsafe { pool.free(slot) }.unwrap();
        assert_eq!(pool.class_stats(class).unwrap().live, 0);
    }

    #[test]
    fn a_reserve_outlives_an_exhausted_heap(pool: Pool<'static>) {
        const RESERVE: usize = 8;
        let class = pool.add_size_class(SizeClass::new(32).reserve(RESERVE)).unwrap();
        while pool.alloc(Layout::new::<[u64; 8]>()).is_ok() {}
        let mut slots = [NonNull::dangling(); RESERVE];
        for slot in &mut slots {
            *slot = pool.alloc_fixed(class).unwrap();
        }
        for slot in slots {
            // SAFETY: the slot is not used any more.
            unsafe { pool.free_fixed(class, slot) }.unwrap();
        }
        pool.validate().unwrap();
    }

    #[test]
    fn a_limit_holds_and_a_watermark_reports(pool: Pool<'static>) {
        let class = SizeClass::new(32).reserve(4).limit(4).low_watermark(2, low);
        let class = pool.add_size_class(class).unwrap();
        let mut slots = [NonNull::dangling(); 4];
        for slot in &mut slots {
            *slot = pool.alloc_fixed(class).unwrap();
        }
        assert_eq!(pool.alloc_fixed(class), Err(AllocError::ClassLimit { class }));
        assert!(LOW.load(Relaxed) > 0);
        // SAFETY: the slot is not used any more.
        unsafe { pool.free_fixed(class, slots[0]) }.unwrap();
        pool.alloc_fixed(class).unwrap();
        let impossible = pool.add_size_class(SizeClass::new(64).reserve(BYTES / 64));
        assert!(matches!(impossible, Err(ConfigError::ReserveTooLarge { .. })));
        pool.validate().unwrap();
    }

    #[test]
    fn local_caches_trade_slots(pool: Pool<'static>) {
        let class = pool.add_size_class(SizeClass::new(32)).unwrap();
        let mut receive = pool.local_cache();
        let mut transmit = pool.local_cache();
        for _ in 0..50 {
            let mut burst = [NonNull::dangling(); 8];
            receive.alloc_bulk(class, &mut burst).unwrap();
            for (i, slot) in burst.iter().enumerate() {
                // SAFETY: the slot is live and 32 bytes long.
                unsafe { slot.write_bytes(i as u8, 32) };
            }
            for (i, slot) in burst.iter().enumerate() {
                // SAFETY: as above.
                assert_eq!(usize::from(unsafe { slot.add(31).read() }), i);
            }
            // SAFETY: the slots are not used any more.
            unsafe { transmit.free_bulk(class, &burst) }.unwrap();
            let slot = receive.alloc_fixed(class).unwrap();
            // SAFETY: as above; the second free is refused.
            unsafe {
                transmit.free_fixed(class, slot).unwrap();
                assert!(matches!(transmit.free_fixed(class, slot), Err(FreeError::NotLive { .. })));
            }
        }
        pool.validate().unwrap();
        drop((receive, transmit));
        let stats = pool.stats();
        assert_eq!((stats.live_objects, stats.caches), (0, 0));
        pool.validate().unwrap();
    }

    #[test]
    fn objects_are_dropped_in_place(pool: Pool<'static>) {
        struct Session<'a>(u64, &'a Cell<u32>);
        impl Drop for Session<'_> {
            fn drop(&mut self) {
                self.1.set(self.1.get() + 1);
            }
        }
        let drops = Cell::new(0);
        let sessions = ObjectPool::with_class(&pool, SizeClass::new(0).limit(2)).unwrap();
        let mut first = sessions.insert(Session(1, &drops)).unwrap();
        let second = sessions.insert(Session(2, &drops)).unwrap();
        let third = sessions.insert(Session(3, &drops)).err().unwrap();
        assert!(matches!(third.error, AllocError::ClassLimit { .. }));
        assert_eq!(drops.get(), 0, "a refused value comes back");
        first.0 += 41;
        assert_eq!((first.0, second.0), (42, 2));
        drop((first, second, third));
        assert_eq!(drops.get(), 3);
        assert_eq!(pool.class_stats(sessions.class()).unwrap().live, 0);
        pool.validate().unwrap();
    }
}
