//! As `heap.rs`, with embedded-alloc's TLSF heap, which is behind a critical section as ours is.
#![no_std]
#![no_main]

use core::{
    alloc::{GlobalAlloc, Layout},
    hint::black_box,
    mem::MaybeUninit,
};

use embedded_alloc::TlsfHeap;

#[path = "common.rs"]
mod common;

static HEAP: TlsfHeap = TlsfHeap::empty();

fn image(region: &'static mut [MaybeUninit<u8>]) {
    let layout = black_box(Layout::new::<[u8; 100]>());
    // SAFETY: the region is the heap's for good; the layout is not empty; the block is not used any
    // more when it is freed.
    unsafe {
        HEAP.init(region.as_mut_ptr().expose_provenance(), region.len());
        let block = HEAP.alloc(layout);
        if !block.is_null() {
            HEAP.dealloc(black_box(block), layout);
        }
    }
}
