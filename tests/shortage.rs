//! A failed allocation says why: each cause, met on purpose, and what a limit refuses is no failure.

mod common;

use common::{Handle, Memory, bytes, check_shortage, fill, free_all};
use libmempool::{AllocError, ClassId, NoLock, ObjectPool, Pool, PoolFlags, SizeClass};

const CLASS: ClassId = ClassId::new(0);

/// A refusal of a request for `size` bytes, which is honest.
fn refused(pool: &Pool<NoLock>, size: usize) -> AllocError {
    let error = pool.alloc(bytes(size)).expect_err("too much");
    check_shortage(error, size, &pool.stats());
    error
}

#[test]
fn a_full_pool_is_out_of_memory() {
    for flags in [PoolFlags::empty(), PoolFlags::HARDENED] {
        let mut memory = Memory::new(64 << 10);
        let pool = Pool::<NoLock>::builder().flags(flags).build(memory.region()).unwrap();
        let whole = pool.alloc(bytes(pool.stats().largest_free)).unwrap();
        for size in [1, 100, 60_000] {
            assert_eq!(
                refused(&pool, size),
                AllocError::OutOfMemory { needed: size, free_bytes: 0 }
            );
        }
        free_all(&mut &pool, [whole]);
        let free_bytes = pool.stats().largest_free;
        let one_more = AllocError::OutOfMemory { needed: free_bytes + 1, free_bytes };
        assert_eq!(refused(&pool, free_bytes + 1), one_more, "one block is no fragmentation");
    }
}

#[test]
fn holes_are_fragmentation() {
    let mut memory = Memory::new(64 << 10);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let blocks = fill(&mut &pool, 1000);
    let holes = blocks.len() / 2;
    free_all(&mut &pool, blocks.iter().copied().skip(1).step_by(2));
    let AllocError::Fragmented { free_bytes, largest_free } = refused(&pool, 10_000) else {
        panic!("enough is free");
    };
    assert!(free_bytes >= holes * 1000 && (1000..2100).contains(&largest_free));
    assert!(matches!(refused(&pool, free_bytes), AllocError::Fragmented { .. }));
    assert!(matches!(refused(&pool, free_bytes + 1), AllocError::OutOfMemory { .. }));
    free_all(&mut &pool, blocks.iter().copied().step_by(2));
    pool.alloc(bytes(10_000)).expect("it is whole again");
}

#[test]
fn an_alignment_that_no_block_meets_is_fragmentation() {
    let mut memory = Memory::new(64 << 10);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let wide = common::layout(100, 1 << 20);
    if let Err(error) = pool.alloc(wide) {
        check_shortage(error, 100, &pool.stats());
        assert!(matches!(error, AllocError::Fragmented { largest_free: 101.., .. }), "{error}");
    }
}

#[test]
fn what_reserves_keep_is_told() {
    let mut memory = Memory::new(256 << 10);
    let pool = Pool::<NoLock>::builder()
        .size_class(SizeClass::new(2048).reserve(60))
        .size_class(SizeClass::new(512))
        .build(memory.region())
        .unwrap();
    let small = ClassId::new(1);
    let mut eaten = fill(&mut &pool, 5000);
    eaten.extend(fill(&mut &pool, 100));
    eaten.extend(fill(&mut &pool, 1));
    for size in [5000, 100_000] {
        let AllocError::Reserved { needed, reserved } = refused(&pool, size) else {
            panic!("60 slots of 2048 are free");
        };
        assert_eq!((needed, reserved), (size, 60 * 2048));
    }
    let slab = pool.alloc_fixed(small).unwrap_err();
    assert!(matches!(slab, AllocError::Reserved { needed: 512.., reserved: 122_880 }), "{slab}");
    // The class itself has them, and then there is nothing left.
    let slots: Vec<_> = (0..60).map(|_| pool.alloc_fixed(CLASS).unwrap()).collect();
    assert!(matches!(refused(&pool, 5000), AllocError::OutOfMemory { .. }));
    assert!(matches!(pool.alloc_fixed(CLASS), Err(AllocError::OutOfMemory { needed: 2048.., .. })));
    free_all(&mut &pool, slots.into_iter().chain(eaten));
}

#[test]
fn what_can_never_be_served_is_too_large() {
    let mut memory = Memory::new(128 << 10);
    let (first, second) = memory.region().split_at_mut(96 << 10);
    let pool = Pool::<NoLock>::new(first).unwrap();
    let AllocError::TooLarge { most } = refused(&pool, usize::MAX >> 1) else { panic!("it is") };
    pool.add_region(second).unwrap();
    // Two regions never serve what one of them cannot.
    for size in [most + 1, 96 << 10, 127 << 10, 1 << 30] {
        assert_eq!(refused(&pool, size), AllocError::TooLarge { most });
    }
    assert!(!matches!(refused(&pool, most), AllocError::TooLarge { .. }));
    let block = pool.alloc(bytes(100)).unwrap();
    let grown = Handle::realloc(&mut &pool, block, bytes(100), usize::MAX);
    assert_eq!(grown, Err(AllocError::TooLarge { most }.into()));
    free_all(&mut &pool, [block]);
}

#[test]
fn an_empty_pool_says_that_it_is_not_initialised() {
    let pool = Pool::<NoLock>::empty();
    let error = pool.alloc(bytes(1 << 40)).unwrap_err();
    assert_eq!(error, AllocError::NotInitialised);
}

#[test]
fn a_limit_that_is_met_is_no_failure() {
    let mut memory = Memory::new(64 << 10);
    let mut pool = Pool::<NoLock>::builder()
        .size_class(SizeClass::new(64).limit(4))
        .build(memory.region())
        .unwrap();
    let mut cache = pool.local_cache();
    let slots: Vec<_> = (0..4).map(|_| cache.alloc_fixed(CLASS).unwrap()).collect();
    let at_limit = AllocError::ClassLimit { class: CLASS };
    assert_eq!(cache.alloc_fixed(CLASS), Err(at_limit));
    assert_eq!(pool.alloc_fixed(CLASS), Err(at_limit));
    assert_eq!(pool.alloc_slot(50), Err(at_limit));
    assert_eq!(cache.alloc_bulk(CLASS, &mut [std::ptr::NonNull::dangling(); 2]), Err(at_limit));
    let of_class = pool.class_stats(CLASS).unwrap();
    assert_eq!((of_class.limit_hits, of_class.failures), (4, 0));
    assert_eq!((pool.stats().limit_hits, pool.stats().failures), (4, 0));
    // By size alone the heap serves what the class does not; what it cannot is a failure.
    free_all(&mut &pool, [pool.alloc(bytes(64)).unwrap()]);
    pool.alloc_slot(100).unwrap_err();
    assert_eq!((pool.stats().limit_hits, pool.stats().failures), (4, 1));
    free_all(&mut cache, slots);
    drop(cache);
    pool.reset().unwrap();
    assert_eq!((pool.stats().limit_hits, pool.stats().failures), (0, 0));
}

#[test]
fn a_full_table_of_objects_is_no_failure() {
    let mut memory = Memory::new(64 << 10);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let sessions = ObjectPool::with_class(&pool, SizeClass::new(0).limit(2)).unwrap();
    let held = [1_u64, 2].map(|session| sessions.insert(session).unwrap());
    for session in 3..10 {
        assert_eq!(sessions.insert(session).unwrap_err().value, session);
    }
    assert_eq!((pool.stats().limit_hits, pool.stats().failures), (7, 0));
    drop(held);
}

#[test]
fn each_text_says_what_to_do() {
    let texts = [
        (AllocError::OutOfMemory { needed: 9, free_bytes: 5 }, ["9 bytes", "free some"]),
        (AllocError::Fragmented { free_bytes: 9, largest_free: 5 }, ["9 bytes", "defragment"]),
        (AllocError::Reserved { needed: 9, reserved: 5 }, ["keep 5", "lower their reserves"]),
        (AllocError::TooLarge { most: 9 }, ["9 bytes at most", "larger region"]),
        (AllocError::ClassLimit { class: CLASS }, ["class 0", "raise the limit"]),
    ];
    for (error, parts) in texts {
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
}
