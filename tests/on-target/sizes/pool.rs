//! An image that uses most of the crate: classes, caches, objects, resizing, checks, statistics.
#![no_std]
#![no_main]

use core::{alloc::Layout, hint::black_box, mem::MaybeUninit, ptr::NonNull};

use libmempool::{CriticalSection, ObjectPool, Pool, PoolConfig, SizeClass};

#[path = "common.rs"]
mod common;

static POOL: Pool<CriticalSection> = Pool::empty();
static CONFIG: PoolConfig = PoolConfig::new().size_class(SizeClass::new(64).reserve(4).limit(16));

fn image(region: &'static mut [MaybeUninit<u8>]) {
    let (first, second) = region.split_at_mut(common::BYTES * 2 / 3);
    black_box(run(first, second));
}

fn run(
    region: &'static mut [MaybeUninit<u8>],
    second: &'static mut [MaybeUninit<u8>],
) -> Option<usize> {
    POOL.init_with(&CONFIG, region).ok()?;
    POOL.add_region(second).ok()?;
    let sessions = ObjectPool::with_reserve(&POOL, 2).ok()?;
    let session = sessions.insert([1u32; 8]).ok()?;
    let layout = Layout::new::<[u8; 100]>();
    let block = POOL.alloc_zeroed(layout).ok()?;
    // SAFETY: the old pointer is not used any more.
    let block = unsafe { POOL.realloc(block, layout, 200) }.ok()?;
    let class = POOL.class_of(64).ok()?;
    let mut cache = POOL.local_cache();
    let mut burst = [NonNull::dangling(); 4];
    cache.alloc_bulk(class, &mut burst).ok()?;
    // SAFETY: neither the slots nor the block are used any more.
    unsafe {
        cache.free_bulk(class, &burst).ok()?;
        cache.free(block).ok()?;
    }
    drop((session, cache));
    POOL.validate().ok()?;
    Some(POOL.defragment() + POOL.stats().live_bytes)
}
