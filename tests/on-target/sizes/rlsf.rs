//! As `heap.rs`, with rlsf in the configuration of its first example.
#![no_std]
#![no_main]

use core::{alloc::Layout, cell::UnsafeCell, hint::black_box, mem::MaybeUninit};

use rlsf::Tlsf;

#[path = "common.rs"]
mod common;

static HEAP: common::Static<Tlsf<'static, u16, u16, 12, 16>> =
    common::Static(UnsafeCell::new(Tlsf::new()));

fn image(region: &'static mut [MaybeUninit<u8>]) {
    // SAFETY: once.
    let tlsf = unsafe { &mut *HEAP.0.get() };
    tlsf.insert_free_block(region);
    let layout = black_box(Layout::new::<[u8; 100]>());
    if let Some(block) = tlsf.allocate(layout) {
        // SAFETY: the block is not used any more.
        unsafe { tlsf.deallocate(black_box(block), layout.align()) };
    }
}
