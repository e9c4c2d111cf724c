//! As `heap.rs`, with heapless's pool: objects of one size, over the same memory.
#![no_std]
#![no_main]

use core::{
    hint::black_box,
    mem::{MaybeUninit, size_of},
};

use heapless::pool::boxed::BoxBlock;

#[path = "common.rs"]
mod common;

heapless::box_pool!(Objects: MaybeUninit<[u64; 8]>);
type Block = BoxBlock<MaybeUninit<[u64; 8]>>;

fn image(region: &'static mut [MaybeUninit<u8>]) {
    for memory in region.chunks_exact_mut(size_of::<Block>()) {
        let block = memory.as_mut_ptr().cast::<Block>();
        // SAFETY: the memory is as large and as aligned as a block, and stays one for good.
        Objects.manage(unsafe {
            block.write(BoxBlock::new());
            &mut *block
        });
    }
    if let Ok(object) = Objects.alloc(MaybeUninit::uninit()) {
        drop(black_box(object));
    }
}
