//! Frees that check nothing do the same as those that do, for pointers that are right.

mod common;

use std::{collections::BTreeSet, ptr::NonNull};

use common::{Memory, Rng, StaticMemory};
use libmempool::{ClassId, FreeError, NoLock, Pool, PoolFlags, SizeClass};

const CLASS: ClassId = ClassId::new(0);

/// Two caches take and give slots in every way, until some are out; then all come back.
fn use_pool(pool: &Pool<'_, NoLock>, rng: &mut Rng) {
    let mut caches = [pool.local_cache(), pool.local_cache()];
    let mut live: Vec<NonNull<u8>> = Vec::new();
    for _ in 0..400 {
        let cache = &mut caches[rng.below(2)];
        let mut burst = vec![NonNull::dangling(); 1 + rng.below(100)];
        if cache.alloc_bulk(CLASS, &mut burst).is_ok() {
            live.extend(burst);
        }
        let distinct: BTreeSet<_> = live.iter().collect();
        assert_eq!(distinct.len(), live.len(), "a slot is handed out twice");
        assert_eq!(pool.stats().live_objects, live.len());
        let cache = &mut caches[rng.below(2)];
        let gone = live.split_off(live.len() - rng.below(live.len() + 1));
        // SAFETY: they are live, and gone from the list.
        unsafe {
            match rng.below(4) {
                0 => cache.free_bulk(CLASS, &gone).unwrap(),
                1 => cache.free_bulk_unchecked(CLASS, &gone),
                2 => gone.iter().for_each(|&slot| cache.free_fixed(CLASS, slot).unwrap()),
                _ => gone.iter().rev().for_each(|&slot| cache.free_fixed_unchecked(CLASS, slot)),
            }
        }
        if let Some(&slot) = gone.first() {
            // SAFETY: it is refused.
            let again = unsafe { cache.free_fixed(CLASS, slot) };
            // Its slab may be gone.
            let refused =
                matches!(again, Err(FreeError::NotLive { .. } | FreeError::NotABlock { .. }));
            assert!(refused, "{again:?}");
        }
        if rng.below(50) == 0 {
            pool.validate().unwrap();
        }
    }
    // SAFETY: they are live, and not used any more.
    unsafe { caches[0].free_bulk_unchecked(CLASS, &live) };
}

fn check(flags: PoolFlags, regions: usize) {
    let mut rng = Rng::new(5);
    let mut memory = Memory::new(128 << 10);
    let extras: Vec<_> = (1..regions).map(|_| StaticMemory::skewed(128 << 10, 16)).collect();
    let pool = Pool::<NoLock>::builder().flags(flags).size_class(SizeClass::new(200));
    let pool = pool.build(memory.region()).unwrap();
    for extra in &extras {
        // SAFETY: lent once, and the pool goes before it.
        pool.add_region(unsafe { extra.lend() }).unwrap();
    }
    for _ in 0..5 {
        use_pool(&pool, &mut rng);
        pool.validate().unwrap();
        assert_eq!(pool.stats().live_objects, 0);
    }
}

#[test]
fn unchecked_frees_leave_the_pool_as_checked_ones_do() {
    check(PoolFlags::empty(), 1);
}

#[test]
fn in_further_regions_they_are_checked() {
    check(PoolFlags::empty(), 3);
}

#[test]
fn with_flags_they_are_checked() {
    check(PoolFlags::HARDENED, 1);
}

/// With flags a refusal is counted, and the rest of a bulk is freed all the same.
#[test]
fn with_flags_a_refusal_is_counted() {
    let mut memory = Memory::new(128 << 10);
    let pool = Pool::<NoLock>::builder().flags(PoolFlags::POISON).size_classes(&[200]);
    let pool = pool.build(memory.region()).unwrap();
    let mut cache = pool.local_cache();
    let mut slots = [NonNull::dangling(); 5];
    cache.alloc_bulk(CLASS, &mut slots).unwrap();
    // SAFETY: none of them is used any more; in this pool wrong ones are refused.
    unsafe {
        cache.free_fixed_unchecked(CLASS, slots[2]);
        cache.free_bulk_unchecked(CLASS, &slots);
    }
    assert_eq!((pool.stats().live_objects, pool.stats().bad_frees), (0, 1));
}
