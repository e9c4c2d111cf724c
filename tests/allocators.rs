//! Pools as allocators: `GlobalAlloc`, and `allocator-api2` with the collections that speak it.

mod common;

use std::alloc::{GlobalAlloc, Layout};

use common::{layout, stamp};
use libmempool::Pool;

type StaticPool = Pool<'static, parking_lot::RawMutex>;

/// The trait's methods, safe to call for tests that keep its rules.
mod global {
    use std::ptr::NonNull;

    use super::{GlobalAlloc, Layout, StaticPool};

    pub fn alloc(pool: &StaticPool, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: no layout of these tests is empty.
        NonNull::new(unsafe { GlobalAlloc::alloc(pool, layout) })
    }

    pub fn alloc_zeroed(pool: &StaticPool, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: as in `alloc`.
        NonNull::new(unsafe { GlobalAlloc::alloc_zeroed(pool, layout) })
    }

    pub fn dealloc(pool: &StaticPool, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the block came from this pool with this layout, and is not used any more.
        unsafe { GlobalAlloc::dealloc(pool, block.as_ptr(), layout) };
    }

    pub fn realloc(
        pool: &StaticPool,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Option<NonNull<u8>> {
        // SAFETY: as in `dealloc`, if it succeeds; the new size is not zero.
        NonNull::new(unsafe { GlobalAlloc::realloc(pool, block.as_ptr(), layout, new_size) })
    }
}

#[test]
fn a_static_pool_is_a_global_allocator() {
    static POOL: StaticPool = Pool::empty();
    assert_eq!(global::alloc(&POOL, layout(200, 8)), None, "no region yet");
    POOL.init(vec![std::mem::MaybeUninit::uninit(); 256 << 10].leak()).unwrap();
    POOL.add_size_class(libmempool::SizeClass::new(64)).unwrap();
    for align in (0..13).map(|log2| 1 << log2) {
        for size in [1, 60, 64, 65, 3000] {
            let wanted = layout(size, align);
            let block = global::alloc(&POOL, wanted).unwrap();
            assert!(block.addr().get().is_multiple_of(align));
            stamp::write(block, size, 1);
            let larger = global::realloc(&POOL, block, wanted, size * 3).unwrap();
            assert!(larger.addr().get().is_multiple_of(align));
            stamp::verify(larger, size, 1);
            let smaller = global::realloc(&POOL, larger, layout(size * 3, align), 1).unwrap();
            assert!(smaller.addr().get().is_multiple_of(align));
            stamp::verify(smaller, 1, 1);
            global::dealloc(&POOL, smaller, layout(1, align));
        }
    }
    let block = global::alloc(&POOL, layout(5000, 16)).unwrap();
    stamp::write(block, 5000, 3);
    global::dealloc(&POOL, block, layout(5000, 16));
    let zeroed = global::alloc_zeroed(&POOL, layout(5000, 16)).unwrap();
    stamp::verify_filled(zeroed, 5000, 0);
    let kept = global::realloc(&POOL, zeroed, layout(5000, 16), 1 << 30);
    assert_eq!(kept, None, "too large: the old block stays");
    stamp::verify_filled(zeroed, 5000, 0);
    global::dealloc(&POOL, zeroed, layout(5000, 16));
    assert_eq!(global::alloc(&POOL, layout(1 << 30, 16)), None);
    let stats = POOL.stats();
    assert_eq!((stats.live_objects, stats.bad_frees), (0, 0));
    // What the contract forbids is refused and counted, as by any other call.
    global::dealloc(&POOL, zeroed, layout(5000, 16));
    assert_eq!(POOL.stats().bad_frees, 1);
    POOL.validate().unwrap();
}

/// As a global allocator too, a pool without classes counts what it refuses.
#[test]
fn a_pool_of_the_heap_alone_counts_what_it_refuses() {
    static POOL: StaticPool = Pool::empty();
    POOL.init(vec![std::mem::MaybeUninit::uninit(); 64 << 10].leak()).unwrap();
    let block = global::alloc(&POOL, layout(200, 8)).unwrap();
    global::dealloc(&POOL, block, layout(200, 8));
    global::dealloc(&POOL, block, layout(200, 8));
    assert_eq!(POOL.stats().bad_frees, 1);
    POOL.validate().unwrap();
}

/// A move for a larger alignment that finds no room leaves the block as it was, all of it.
#[test]
fn a_failed_realloc_to_a_larger_alignment_keeps_the_block() {
    use common::{Handle, UsableSize};
    let mut memory = common::Memory::new(8 << 10);
    let pool = Pool::<libmempool::NoLock>::new(memory.region()).unwrap();
    let block = pool.alloc(common::bytes(2000)).unwrap();
    stamp::write(block, 2000, 1);
    let usable = pool.usable(block);
    let rest = common::fill(&mut &pool, 16);
    let misaligned =
        (6..13).map(|log2| 1 << log2).filter(|align| !block.addr().get().is_multiple_of(*align));
    let mut tried = 0;
    for align in misaligned {
        let result = Handle::realloc(&mut &pool, block, layout(2000, align), 1000);
        result.expect_err("a full pool");
        assert_eq!(pool.usable(block), usable);
        stamp::verify(block, 2000, 1);
        tried += 1;
    }
    assert!(tried > 0);
    common::free_all(&mut &pool, rest);
    pool.validate().unwrap();
}

#[cfg(feature = "allocator-api2")]
mod api2 {
    use allocator_api2::{alloc::Allocator, boxed::Box, vec::Vec};
    use hashbrown::HashMap;
    use libmempool::{NoLock, Pool};

    use super::common::{Memory, Rng, layout, stamp};

    type TestPool<'r> = Pool<'r, NoLock>;

    fn with_pools(test: impl Fn(&TestPool<'_>)) {
        for classes in [&[][..], &[16, 64, 256, 1024]] {
            for bytes in [96 << 10, 1 << 20] {
                let mut memory = Memory::new(bytes);
                let pool = Pool::<NoLock>::builder().size_classes(classes);
                let pool = pool.build(memory.region()).unwrap();
                test(&pool);
                let stats = pool.stats();
                assert_eq!((stats.live_objects, stats.bad_frees), (0, 0), "{stats}");
                pool.validate().unwrap();
            }
        }
    }

    #[test]
    fn a_vector_grows_and_shrinks() {
        with_pools(|pool| {
            let mut vector = Vec::new_in(pool);
            for i in 0..3000u32 {
                vector.push(i);
            }
            assert!(pool.contains(vector.as_ptr().cast()));
            assert!(vector.iter().copied().eq(0..3000));
            for len in [1000, 999, 10, 1, 0] {
                vector.truncate(len);
                vector.shrink_to_fit();
                assert!(vector.iter().copied().eq(0..u32::try_from(len).unwrap()));
            }
            vector.extend_from_slice(&[5; 100]);
            assert_eq!(*vector, [5; 100]);
        });
    }

    #[test]
    fn a_vector_that_finds_no_room_stays_as_it_is() {
        with_pools(|pool| {
            let mut vector: Vec<u64, _> = Vec::new_in(pool);
            while vector.try_reserve(1).is_ok() {
                vector.push(u64::try_from(vector.len()).unwrap());
            }
            assert!(vector.len() > 1000);
            assert!(vector.iter().copied().eq(0..u64::try_from(vector.len()).unwrap()));
        });
    }

    #[test]
    fn boxes_and_nested_collections() {
        with_pools(|pool| {
            let mut vectors: Vec<Vec<Box<u64, _>, _>, _> = Vec::new_in(pool);
            for i in 0..20 {
                let mut inner = Vec::new_in(pool);
                inner.extend((0..i).map(|j| Box::new_in(i * 100 + j, pool)));
                vectors.push(inner);
            }
            for (i, inner) in (0..).zip(&vectors) {
                assert!(inner.iter().map(|boxed| **boxed).eq(i * 100..i * 100 + i));
            }
        });
    }

    #[test]
    fn a_hash_map_in_the_pool() {
        with_pools(|pool| {
            let mut map = HashMap::new_in(pool);
            let mut rng = Rng::new(1);
            for i in 0..1000u32 {
                map.insert(i, [i; 4]);
                if i % 3 == 0 {
                    map.remove(&u32::try_from(rng.below(1000)).unwrap());
                }
            }
            assert!(map.iter().all(|(&key, &value)| value == [key; 4]));
            map.retain(|key, _| key % 10 == 0);
            map.shrink_to_fit();
            assert!(map.len() <= 100 && map.keys().all(|key| key % 10 == 0));
        });
    }

    #[test]
    fn nothing_needs_no_memory() {
        with_pools(|pool| {
            for align in [1, 64, 4096] {
                let nothing = Allocator::allocate(&pool, layout(0, align)).unwrap();
                assert_eq!(nothing.len(), 0);
                assert!(nothing.cast::<u8>().addr().get().is_multiple_of(align));
                assert_eq!(pool.stats().live_objects, 0);
                let grown = raw::grow_zeroed(pool, nothing.cast(), (0, align), (100, align));
                stamp::verify_filled(grown.cast(), 100, 0);
                assert_eq!(pool.stats().live_objects, 1);
                let shrunk = raw::shrink(pool, grown.cast(), (100, align), (0, align));
                assert_eq!((shrunk.len(), pool.stats().live_objects), (0, 0));
                let again = raw::shrink(pool, shrunk.cast(), (0, align), (0, align));
                assert_eq!((again.len(), pool.stats().live_objects), (0, 0));
                raw::deallocate(pool, shrunk.cast(), (0, align));
            }
            let mut units: Vec<(), _> = Vec::new_in(pool);
            units.resize(1000, ());
        });
    }

    #[test]
    fn growing_and_shrinking_to_another_alignment() {
        with_pools(|pool| {
            for (old, new) in [(8, 4096), (8, 64), (4096, 8), (64, 512)] {
                let block = Allocator::allocate(&pool, layout(300, old)).unwrap().cast();
                stamp::write(block, 300, 9);
                let grown = raw::grow(pool, block, (300, old), (5000, new)).cast::<u8>();
                assert!(grown.addr().get().is_multiple_of(new));
                stamp::verify(grown, 300, 9);
                let shrunk = raw::shrink(pool, grown, (5000, new), (200, old * 2)).cast::<u8>();
                assert!(shrunk.addr().get().is_multiple_of(old * 2));
                stamp::verify(shrunk, 200, 9);
                raw::deallocate(pool, shrunk, (200, old * 2));
            }
        });
    }

    #[test]
    fn grown_memory_can_be_had_zeroed() {
        with_pools(|pool| {
            // Leave something behind that must not shine through.
            let dirty = Allocator::allocate(&pool, layout(8000, 8)).unwrap().cast();
            stamp::write(dirty, 8000, 1);
            raw::deallocate(pool, dirty, (8000, 8));
            for (from, to) in [(10, 20), (10, 60), (60, 70), (100, 5000), (5000, 8000)] {
                let block = Allocator::allocate(&pool, layout(from, 8)).unwrap().cast();
                stamp::write(block, from, 2);
                let grown = raw::grow_zeroed(pool, block, (from, 8), (to, 8)).cast::<u8>();
                stamp::verify(grown, from, 2);
                let fresh = grown.map_addr(|addr| addr.checked_add(from).unwrap());
                stamp::verify_filled(fresh, to - from, 0);
                raw::deallocate(pool, grown, (to, 8));
            }
        });
    }

    #[test]
    fn new_memory_can_be_had_zeroed() {
        with_pools(|pool| {
            for (size, align) in [(0, 64), (1, 1), (64, 8), (3000, 256)] {
                let dirty = Allocator::allocate(&pool, layout(size.max(1), align)).unwrap();
                stamp::write(dirty.cast(), size, 1);
                raw::deallocate(pool, dirty.cast(), (size.max(1), align));
                let zeroed = Allocator::allocate_zeroed(&pool, layout(size, align)).unwrap();
                assert!(zeroed.len() >= size);
                assert!(zeroed.addr().get().is_multiple_of(align));
                stamp::verify_filled(zeroed.cast(), size, 0);
                raw::deallocate(pool, zeroed.cast(), (size, align));
            }
            assert!(Allocator::allocate_zeroed(&pool, layout(1 << 30, 8)).is_err());
        });
    }

    /// The trait's unsafe methods, safe to call for tests that keep its rules; layouts are size
    /// and alignment.
    mod raw {
        use std::ptr::NonNull;

        use super::{Allocator, TestPool, layout};

        type Block = NonNull<[u8]>;

        pub fn grow(
            pool: &TestPool<'_>,
            block: NonNull<u8>,
            old: (usize, usize),
            new: (usize, usize),
        ) -> Block {
            let (old, new) = (layout(old.0, old.1), layout(new.0, new.1));
            // SAFETY: the block was allocated with `old`, and the test goes on with what it gets.
            unsafe { Allocator::grow(&pool, block, old, new) }.unwrap()
        }

        pub fn grow_zeroed(
            pool: &TestPool<'_>,
            block: NonNull<u8>,
            old: (usize, usize),
            new: (usize, usize),
        ) -> Block {
            let (old, new) = (layout(old.0, old.1), layout(new.0, new.1));
            // SAFETY: as in `grow`.
            unsafe { Allocator::grow_zeroed(&pool, block, old, new) }.unwrap()
        }

        pub fn shrink(
            pool: &TestPool<'_>,
            block: NonNull<u8>,
            old: (usize, usize),
            new: (usize, usize),
        ) -> Block {
            let (old, new) = (layout(old.0, old.1), layout(new.0, new.1));
            // SAFETY: as in `grow`.
            unsafe { Allocator::shrink(&pool, block, old, new) }.unwrap()
        }

        pub fn deallocate(pool: &TestPool<'_>, block: NonNull<u8>, old: (usize, usize)) {
            // SAFETY: the block was allocated with `old`, and is not used any more.
            unsafe { Allocator::deallocate(&pool, block, layout(old.0, old.1)) };
        }
    }
}
