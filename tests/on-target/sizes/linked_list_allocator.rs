//! As `heap.rs`, with linked_list_allocator.
#![no_std]
#![no_main]

use core::{alloc::Layout, cell::UnsafeCell, hint::black_box, mem::MaybeUninit};

use linked_list_allocator::Heap;

#[path = "common.rs"]
mod common;

static HEAP: common::Static<Heap> = common::Static(UnsafeCell::new(Heap::empty()));

fn image(region: &'static mut [MaybeUninit<u8>]) {
    // SAFETY: once.
    let heap = unsafe { &mut *HEAP.0.get() };
    heap.init_from_slice(region);
    let layout = black_box(Layout::new::<[u8; 100]>());
    if let Ok(block) = heap.allocate_first_fit(layout) {
        // SAFETY: the block is not used any more.
        unsafe { heap.deallocate(black_box(block), layout) };
    }
}
