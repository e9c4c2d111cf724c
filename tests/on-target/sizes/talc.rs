//! As `heap.rs`, with talc, which links the `alloc` crate: so it must be the global allocator.
#![no_std]
#![no_main]

use core::{
    alloc::{GlobalAlloc, Layout},
    hint::black_box,
    mem::MaybeUninit,
};

use libmempool::NoLock;
use talc::{TalcLock, source::Manual};

#[path = "common.rs"]
mod common;

/// One context uses it.
struct OneContext(TalcLock<NoLock, Manual>);

// SAFETY: there are no interrupt handlers in the image.
unsafe impl Sync for OneContext {}

// SAFETY: passes everything on.
unsafe impl GlobalAlloc for OneContext {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(block, layout) };
    }
}

#[global_allocator]
static HEAP: OneContext = OneContext(TalcLock::new(Manual));

fn image(region: &'static mut [MaybeUninit<u8>]) {
    // SAFETY: the region is the allocator's for good.
    unsafe { HEAP.0.lock().claim(region.as_mut_ptr().cast(), region.len()) };
    let layout = black_box(Layout::new::<[u8; 100]>());
    // SAFETY: the layout is not empty; the block is not used any more when it is freed.
    unsafe {
        let block = HEAP.alloc(layout);
        if !block.is_null() {
            HEAP.dealloc(black_box(block), layout);
        }
    }
}
