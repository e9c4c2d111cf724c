//! A thread-cached pool in a static as the program's allocator: everything in this binary, the test
//! harness included, lives in it.
#![cfg(feature = "std")]

use std::{collections::BTreeMap, mem::MaybeUninit, process::Command, sync::mpsc, thread};

use libmempool::{PinnedPool, Pool, PoolConfig, PthreadMutex};

// SAFETY: a static stays where it is, and is never dropped.
#[global_allocator]
static HEAP: PinnedPool<PthreadMutex> = unsafe { PinnedPool::new(Pool::empty()) };

/// Gives the pool its region before the first allocation asks for one.
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
#[used]
static INIT: extern "C" fn() = {
    extern "C" fn init() {
        const BYTES: usize = 64 << 20;
        static mut MEMORY: [MaybeUninit<u8>; BYTES] = [MaybeUninit::uninit(); BYTES];
        let memory = &raw mut MEMORY;
        // SAFETY: this runs once, before `main`, and nothing else names the memory.
        let region = unsafe { &mut *memory };
        let config = const { &PoolConfig::new().preset_classes() };
        HEAP.pool().init_with(config, region).expect("a region that is large enough");
    }
    init
};

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
        assert!(HEAP.pool().contains(first.cast()));
        // SAFETY: a box's pointer, back in its box.
        drop(unsafe { Box::from_raw(first) });
    }
    HEAP.pool().validate().unwrap();
    assert_eq!(HEAP.pool().stats().bad_frees, 0);
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
    HEAP.pool().validate().unwrap();
}
