//! The smallest useful image: a static pool that allocates and frees heap blocks.
#![no_std]
#![no_main]

use core::{alloc::Layout, hint::black_box, mem::MaybeUninit};

use libmempool::{CriticalSection, Pool};

#[path = "common.rs"]
mod common;

static POOL: Pool<CriticalSection> = Pool::empty();

fn image(region: &'static mut [MaybeUninit<u8>]) {
    if POOL.init(region).is_ok()
        && let Ok(block) = POOL.alloc(black_box(Layout::new::<[u8; 100]>()))
    {
        // SAFETY: the block is not used any more.
        let _ = black_box(unsafe { POOL.free(black_box(block)) });
    }
}
