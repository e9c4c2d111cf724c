//! Typed objects: every value is dropped exactly once, wherever and however its handle goes.

mod common;

use std::{
    cell::Cell,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use common::{Memory, times};
use libmempool::{
    AllocError, ClassId, ConfigError, MAX_CLASSES, NoLock, ObjectPool, Pool, Pooled, SizeClass,
};

/// Counts its drops.
#[derive(Debug)]
struct Counted {
    value: u64,
    drops: Rc<Cell<usize>>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.set(self.drops.get() + 1);
    }
}

fn counted(value: u64) -> (Counted, Rc<Cell<usize>>) {
    let drops = Rc::new(Cell::new(0));
    (Counted { value, drops: Rc::clone(&drops) }, drops)
}

fn live<P: libmempool::PageSource, L: lock_api::RawMutex>(
    pool: &Pool<'_, L, P>,
    class: ClassId,
) -> usize {
    pool.class_stats(class).unwrap().live
}

#[test]
fn a_value_lives_in_the_pool_and_is_dropped_once() {
    let mut memory = Memory::new(64 << 10);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let objects = ObjectPool::new(&pool).unwrap();
    let (value, drops) = counted(7);
    let mut handle = objects.insert(value).unwrap();
    assert!(pool.contains(std::ptr::from_ref(&*handle).cast()));
    handle.value += 1;
    assert_eq!((handle.value, drops.get(), live(&pool, objects.class())), (8, 0, 1));
    drop(handle);
    assert_eq!((drops.get(), live(&pool, objects.class())), (1, 0));
}

#[test]
fn into_inner_moves_the_value_out_and_returns_the_slot() {
    let mut memory = Memory::new(64 << 10);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let objects = ObjectPool::new(&pool).unwrap();
    let (value, drops) = counted(7);
    let value = Pooled::into_inner(objects.insert(value).unwrap());
    assert_eq!((value.value, drops.get(), live(&pool, objects.class())), (7, 0, 0));
    drop(value);
    assert_eq!(drops.get(), 1);
}

#[test]
#[cfg_attr(miri, ignore = "leaks on purpose")]
fn a_forgotten_handle_leaks_its_slot_and_nothing_else() {
    let mut memory = Memory::new(64 << 10);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let objects = ObjectPool::with_class(&pool, SizeClass::new(0).limit(3)).unwrap();
    let (value, drops) = counted(1);
    mem::forget(objects.insert(value).unwrap());
    assert_eq!((drops.get(), live(&pool, objects.class())), (0, 1));
    let rest: Vec<_> = (0..2).map(|i| objects.insert(counted(i).0).unwrap()).collect();
    objects.insert(counted(9).0).expect_err("the limit, of which one is leaked");
    drop(rest);
    assert_eq!(live(&pool, objects.class()), 1);
    pool.validate().unwrap();
    let leaks = pool.destroy();
    assert_eq!((leaks.objects, leaks.is_clean()), (1, false));
}

#[test]
fn a_panicking_drop_returns_the_slot_all_the_same() {
    struct Bomb(Rc<Cell<usize>>);
    impl Drop for Bomb {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
            panic!("a drop that panics");
        }
    }
    let mut memory = Memory::new(64 << 10);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let objects = ObjectPool::with_class(&pool, SizeClass::new(0).limit(1)).unwrap();
    let drops = Rc::new(Cell::new(0));
    for round in 1..=3 {
        let handle = objects.insert(Bomb(Rc::clone(&drops)));
        let handle = handle.unwrap_or_else(|_| panic!("the slot is back"));
        catch_unwind(AssertUnwindSafe(|| drop(handle))).expect_err("it panics");
        assert_eq!((drops.get(), live(&pool, objects.class())), (round, 0));
    }
    pool.validate().unwrap();
}

#[test]
fn a_refused_value_comes_back() {
    let mut memory = Memory::new(64 << 10);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let objects = ObjectPool::with_class(&pool, SizeClass::new(0).limit(2)).unwrap();
    let held: Vec<_> = (0..2).map(|i| objects.insert(counted(i).0).unwrap()).collect();
    let (value, drops) = counted(5);
    let refused = objects.insert(value).unwrap_err();
    let class = objects.class();
    assert_eq!(refused.error, AllocError::ClassLimit { class });
    assert_eq!((refused.value.value, drops.get()), (5, 0));
    drop(refused);
    assert_eq!(drops.get(), 1);
    drop(held);
}

#[test]
fn values_of_no_size_and_of_large_alignment() {
    #[derive(Debug)]
    #[repr(align(512))]
    struct Wide(u8);
    let mut memory = Memory::skewed(256 << 10, 24);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let nothings = ObjectPool::new(&pool).unwrap();
    let wides = ObjectPool::new(&pool).unwrap();
    let mut handles = (Vec::new(), Vec::new());
    for i in 0..50 {
        handles.0.push(nothings.insert(()).unwrap());
        handles.1.push(wides.insert(Wide(i)).unwrap());
    }
    for (i, wide) in handles.1.iter().enumerate() {
        assert_eq!(usize::from(wide.0), i);
        assert!(std::ptr::from_ref(&**wide).is_aligned());
    }
    let mut places: Vec<_> = handles.0.iter().map(|unit| std::ptr::from_ref(&**unit)).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 50, "each has a slot of its own");
}

/// An object pool that cannot be made leaves no class behind.
#[test]
fn alignments_that_slots_cannot_have_are_refused() {
    #[repr(align(256))]
    struct Wide;
    #[repr(align(8192))]
    struct TooWide;
    let mut memory = Memory::new(1 << 20);
    let pool = Pool::<NoLock>::new(memory.region()).unwrap();
    let before = pool.stats();
    for _ in 0..=MAX_CLASSES {
        let refused = ObjectPool::<TooWide>::new(&pool).unwrap_err();
        assert_eq!(refused, ConfigError::BadAlignment { alignment: 8192 });
        let refused = ObjectPool::<Wide>::with_class(&pool, SizeClass::new(0).coloured());
        assert_eq!(refused.unwrap_err(), ConfigError::BadAlignment { alignment: 256 });
    }
    assert_eq!(pool.classes().count(), 0);
    assert_eq!(pool.stats().slab_bytes, before.slab_bytes);
    pool.validate().unwrap();
}

#[test]
fn handles_go_to_other_threads() {
    struct Shared(Arc<AtomicUsize>, [usize; 20]);
    impl Drop for Shared {
        fn drop(&mut self) {
            assert!(self.1.iter().all(|&word| word == self.1[0]));
            self.0.fetch_add(1, Relaxed);
        }
    }
    let mut memory = Memory::new(1 << 20);
    let pool = Pool::<parking_lot::RawMutex>::new(memory.region()).unwrap();
    let objects = ObjectPool::with_reserve(&pool, 100).unwrap();
    let drops = Arc::new(AtomicUsize::new(0));
    thread::scope(|scope| {
        for thread in 0..4 {
            let (objects, drops) = (&objects, Arc::clone(&drops));
            scope.spawn(move || {
                for i in 0..times(500) {
                    let value = Shared(Arc::clone(&drops), [thread * 1000 + i; 20]);
                    let handle = objects.insert(value).unwrap_or_else(|_| panic!("room for all"));
                    if i % 2 == 0 {
                        scope.spawn(move || drop(handle));
                    }
                }
            });
        }
    });
    assert_eq!((drops.load(Relaxed), live(&pool, objects.class())), (4 * times(500), 0));
    pool.validate().unwrap();
}
