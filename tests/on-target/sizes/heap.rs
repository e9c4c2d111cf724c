//! The smallest useful image: a static pool that allocates and frees heap blocks.
#![no_std]
#![no_main]

use core::{alloc::Layout, mem::MaybeUninit};

use libmempool::{CriticalSection, Pool};

#[path = "common.rs"]
mod common;

static POOL: Pool<CriticalSection> = Pool::empty();

#[cortex_m_rt::entry]
fn main() -> ! {
    // `entry` makes this a static that `main` alone has.
    static mut REGION: [MaybeUninit<u8>; 4096] = [MaybeUninit::uninit(); 4096];
    if POOL.init(REGION).is_ok()
        && let Ok(block) = POOL.alloc(Layout::new::<[u8; 100]>())
    {
        // SAFETY: the block is not used any more.
        let _ = core::hint::black_box(unsafe { POOL.free(block) });
    }
    common::exit()
}
