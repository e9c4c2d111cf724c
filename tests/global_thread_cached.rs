//! A thread-cached pool in a static as the program's allocator: everything in this binary, the test
//! harness included, lives in it.
#![cfg(feature = "std")]

use std::{
    cell::UnsafeCell,
    collections::BTreeMap,
    mem::MaybeUninit,
    process::Command,
    sync::{Once, mpsc},
    thread,
};

use libmempool::{PinnedPool, Pool, PoolConfig, PthreadMutex};

const BYTES: usize = 64 << 20;

#[repr(align(4096))]
struct Region(UnsafeCell<[MaybeUninit<u8>; BYTES]>);

// SAFETY: handed over once, by `heap`.
unsafe impl Sync for Region {}

static REGION: Region = Region(UnsafeCell::new([MaybeUninit::uninit(); BYTES]));

struct Heap(PinnedPool<PthreadMutex>);

// SAFETY: a static stays where it is, and is never dropped.
#[global_allocator]
static HEAP: Heap = Heap(unsafe { PinnedPool::new(Pool::empty()) });

impl Heap {
    /// The pool, with its region: the first allocation of the program sets it up.
    fn pool(&self) -> &PinnedPool<PthreadMutex> {
        static SET_UP: Once = Once::new();
        SET_UP.call_once(|| {
            // SAFETY: once, and nobody else knows the region.
            let region = unsafe { &mut *REGION.0.get() };
            let config = const { &PoolConfig::new().preset_classes() };
            self.0.pool().init_with(config, region).expect("a region that is large enough");
        });
        &self.0
    }
}

// SAFETY: passes everything on to the pool.
unsafe impl std::alloc::GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { std::alloc::GlobalAlloc::alloc(self.pool(), layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: the caller's promise.
        unsafe { std::alloc::GlobalAlloc::dealloc(self.pool(), pointer, layout) };
    }
}

#[test]
fn collections_of_many_threads_live_in_it() {
    let threads: Vec<_> = (0..8_u64)
        .map(|seed| {
            thread::spawn(move || {
                let map: BTreeMap<u64, String> =
                    (0..2000).map(|i| (i * 7919 % 2003, format!("{seed}:{i}"))).collect();
                map
            })
        })
        .collect();
    for (seed, thread) in threads.into_iter().enumerate() {
        let map = thread.join().unwrap();
        assert_eq!(map.len(), 2000);
        assert!(map.values().all(|value| value.starts_with(&format!("{seed}:"))));
        let first = Box::into_raw(map.into_values().next().unwrap().into_boxed_str());
        assert!(HEAP.pool().pool().contains(first.cast()));
        // SAFETY: a box's pointer, back in its box.
        drop(unsafe { Box::from_raw(first) });
    }
    HEAP.pool().pool().validate().unwrap();
    assert_eq!(HEAP.pool().pool().stats().bad_frees, 0);
}

/// What one thread allocates another frees, while a third starts processes.
#[test]
fn threads_exchange_boxes_while_the_process_forks() {
    let (to, from) = mpsc::sync_channel::<Box<[u8; 300]>>(64);
    let sender =
        thread::spawn(move || (0..50_000).for_each(|_| to.send(Box::new([7; 300])).unwrap()));
    let receiver = thread::spawn(move || from.iter().filter(|bytes| bytes[299] == 7).count());
    for _ in 0..20 {
        assert!(Command::new("true").status().unwrap().success());
    }
    sender.join().unwrap();
    assert_eq!(receiver.join().unwrap(), 50_000);
    HEAP.pool().pool().validate().unwrap();
}
