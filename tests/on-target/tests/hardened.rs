//! What the flags of a hardened pool find: writes past an object's end, and after its free.
#![no_std]
#![no_main]

use core::{
    cell::Cell,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use critical_section::Mutex;
use libmempool::{
    ClassId, CorruptionKind, Fault, FreeError, NoLock, Pool, PoolConfig, PoolFlags, SizeClass,
};
use libmempool_on_target::{
    LARGE_BOARD, Region,
    blocks::{Stamped, bytes, layout},
    random::Random,
};

static REGION: Region<{ if LARGE_BOARD { 64 << 10 } else { 4 << 10 } }> = Region::new();

static CONFIG: PoolConfig = PoolConfig::new()
    .size_class(SizeClass::new(48))
    .flags(PoolFlags::HARDENED)
    .key(0x1234_5678_9abc_def0)
    .on_fault(on_fault, 0);
const CLASS: ClassId = ClassId::new(0);

static FAULTS: AtomicUsize = AtomicUsize::new(0);
static LAST_FAULT: Mutex<Cell<Option<Fault>>> = Mutex::new(Cell::new(None));

fn on_fault(fault: Fault, _: usize) {
    FAULTS.store(FAULTS.load(Relaxed) + 1, Relaxed);
    critical_section::with(|token| LAST_FAULT.borrow(token).set(Some(fault)));
}

fn last_fault() -> Option<Fault> {
    critical_section::with(|token| LAST_FAULT.borrow(token).take())
}

/// A write that its author had no right to; returns what was there.
fn write_wrongly(object: NonNull<u8>, offset: usize, value: u8) -> u8 {
    let at = object.map_addr(|addr| addr.checked_add(offset).unwrap());
    // SAFETY: in the region, and nobody else runs.
    unsafe { at.replace(value) }
}

/// A slot by its class, and requests that a slot and the heap serve, with their sizes.
fn objects(pool: &Pool<'_>) -> [(NonNull<u8>, usize); 4] {
    let slot = pool.alloc_fixed(CLASS).unwrap();
    let [short, odd, block] = [40, 47, 201].map(|size| pool.alloc(layout(size, 4)).unwrap());
    [(slot, 48), (short, 40), (odd, 47), (block, 201)]
}

#[embedded_test::tests]
mod tests {
    use super::*;

    #[init]
    fn init() -> Pool<'static> {
        let pool = Pool::<NoLock>::empty();
        pool.init_with(&CONFIG, REGION.take()).unwrap();
        pool
    }

    #[test]
    fn an_overrun_is_found_at_the_free(pool: Pool<'static>) {
        for (object, size) in objects(&pool) {
            // SAFETY: the object is live, and this long.
            unsafe { bytes(object, size) }.fill(b'x');
            pool.validate().unwrap();
            let was = write_wrongly(object, size, 0);
            assert_eq!(pool.validate().unwrap_err().kind, CorruptionKind::Overrun);
            // SAFETY: refused.
            let refused = unsafe { pool.free(object) }.unwrap_err();
            let addr = object.addr().get();
            let FreeError::Overrun { addr: of, at } = refused else { panic!("{refused}") };
            assert!(of == addr && at >= addr + size && at < addr + size + 8, "{refused}");
            assert_eq!(last_fault(), Some(Fault::Free(refused)));
            write_wrongly(object, size, was);
            // SAFETY: the object is not used any more.
            unsafe { pool.free(object) }.unwrap();
        }
        assert_eq!((FAULTS.load(Relaxed), pool.stats().bad_frees), (4, 4));
        pool.validate().unwrap();
    }

    #[test]
    fn objects_are_as_long_as_asked_for(pool: Pool<'static>) {
        for (object, size) in objects(&pool) {
            // SAFETY: the object is live.
            assert_eq!(unsafe { pool.usable_size(object) }, Ok(size));
        }
    }

    #[test]
    fn a_write_after_the_free_is_found(pool: Pool<'static>) {
        let all = objects(&pool);
        for (object, _) in all {
            // SAFETY: the object is not used any more, but by the mistake below.
            unsafe { pool.free(object) }.unwrap();
        }
        // What caches keep is looked at when they hand it out.
        pool.defragment();
        pool.validate().unwrap();
        for (object, size) in all {
            let was = write_wrongly(object, size / 2, 0);
            let found = pool.validate().unwrap_err();
            assert_eq!(found.kind, CorruptionKind::FreedMemory);
            assert_eq!(found.addr, object.addr().get() + size / 2);
            write_wrongly(object, size / 2, was);
        }
        pool.validate().unwrap();
    }

    #[test]
    fn what_was_written_to_after_its_free_is_not_used_again(pool: Pool<'static>) {
        let slot = pool.alloc_fixed(CLASS).unwrap();
        // SAFETY: the slot is not used any more, but by the mistake below.
        unsafe { pool.free_fixed(CLASS, slot) }.unwrap();
        write_wrongly(slot, 20, 0);
        // It waits among those that are freed now, and is found when it has waited.
        let mut count = 0;
        while last_fault().is_none() && count < 2000 {
            let other = pool.alloc_fixed(CLASS).unwrap();
            assert_ne!(other, slot, "the damaged slot is handed out");
            // SAFETY: the slot is not used any more.
            unsafe { pool.free_fixed(CLASS, other) }.unwrap();
            count += 1;
        }
        assert_eq!(FAULTS.load(Relaxed), 1, "after {count}");
        assert_eq!(pool.stats().damaged_blocks, 1);
        assert_eq!(pool.stats().live_objects, 0);
    }

    #[test]
    fn a_delayed_double_free_is_refused(pool: Pool<'static>) {
        for (object, size) in objects(&pool) {
            // SAFETY: the object is not used any more; the second free is the mistake.
            unsafe { pool.free(object) }.unwrap();
            let other = pool.alloc(layout(size, 4)).unwrap();
            assert_ne!(other, object);
            // SAFETY: as above.
            let refused = unsafe { pool.free(object) };
            assert_eq!(refused, Err(FreeError::NotLive { addr: object.addr().get() }));
        }
        pool.validate().unwrap();
    }

    #[test]
    fn freed_memory_is_poisoned(pool: Pool<'static>) {
        let block = pool.alloc(layout(200, 4)).unwrap();
        // SAFETY: the block is live.
        unsafe { bytes(block, 200) }.fill(0x5a);
        // SAFETY: the block is not used any more.
        unsafe { pool.free(block) }.unwrap();
        // SAFETY: the memory is the pool's own static, and nobody else runs. Links of the free block
        // are in front of these bytes, its footer may be behind.
        let left = &unsafe { bytes(block, 200) }[16..180];
        assert!(left.iter().all(|&byte| byte == 0xdf));
    }

    /// A program without a mistake is not accused of one.
    #[test]
    fn work_without_mistakes_raises_no_fault(pool: Pool<'static>) {
        let mut random = Random::new(0xacc);
        let mut cache = pool.local_cache();
        let mut live: [Option<Stamped>; 10] = [None; 10];
        for turn in 0..1500 {
            let place = &mut live[random.below(10)];
            let size = 1 + random.below(120);
            let start = match place.take().map(Stamped::verify) {
                None => cache.alloc(layout(size, 4)).ok(),
                Some(block) if turn % 3 == 0 => {
                    // SAFETY: the block is not used any more.
                    unsafe { cache.free(block) }.map(|()| None).unwrap()
                }
                // SAFETY: the old pointer is not used any more.
                Some(block) => unsafe { cache.realloc(block, layout(1, 4), size) }.ok(),
            };
            // SAFETY: the block is live, and that long.
            *place = start.map(|block| unsafe { Stamped::new(block, size) });
        }
        for block in live.into_iter().flatten() {
            // SAFETY: the block is not used any more.
            unsafe { cache.free(block.verify()) }.unwrap();
        }
        drop(cache);
        pool.validate().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.live_objects, stats.bad_frees, stats.damaged_blocks), (0, 0, 0));
        assert_eq!(FAULTS.load(Relaxed), 0);
    }
}
