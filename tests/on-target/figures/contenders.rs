//! Allocators that are measured the same way.

use core::{
    alloc::{GlobalAlloc, Layout},
    mem::MaybeUninit,
    ptr::NonNull,
};

use heapless::pool::boxed::{Box as PoolBox, BoxBlock};
use libmempool::{ClassId, LocalCache, Pool};
use lock_api::RawMutex;

/// Memory that a contender gets, by itself.
pub type Memory = [MaybeUninit<u8>];

/// An allocator.
pub trait Contender {
    type Block;

    fn alloc(&mut self, layout: Layout) -> Option<Self::Block>;

    /// Frees a block that it allocated with this layout.
    fn free(&mut self, block: Self::Block, layout: Layout);
}

/// Our pool, by size alone.
pub struct Heap<'p, L: RawMutex>(pub &'p Pool<'static, L>);

impl<L: RawMutex> Contender for Heap<'_, L> {
    type Block = NonNull<u8>;

    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.0.alloc(layout).ok()
    }

    fn free(&mut self, block: NonNull<u8>, _: Layout) {
        // SAFETY: nobody uses it any more.
        unsafe { self.0.free(block) }.unwrap();
    }
}

/// A size class of our pool, without a local cache.
pub struct Fixed<'p, L: RawMutex>(pub &'p Pool<'static, L>, pub ClassId);

impl<L: RawMutex> Contender for Fixed<'_, L> {
    type Block = NonNull<u8>;

    fn alloc(&mut self, _: Layout) -> Option<NonNull<u8>> {
        self.0.alloc_fixed(self.1).ok()
    }

    fn free(&mut self, block: NonNull<u8>, _: Layout) {
        // SAFETY: nobody uses it any more.
        unsafe { self.0.free_fixed(self.1, block) }.unwrap();
    }
}

/// A size class of our pool through a local cache.
pub struct Cached<'p, L: RawMutex>(pub LocalCache<'p, L>, pub ClassId);

impl<L: RawMutex> Contender for Cached<'_, L> {
    type Block = NonNull<u8>;

    fn alloc(&mut self, _: Layout) -> Option<NonNull<u8>> {
        self.0.alloc_fixed(self.1).ok()
    }

    fn free(&mut self, block: NonNull<u8>, _: Layout) {
        // SAFETY: nobody uses it any more.
        unsafe { self.0.free_fixed(self.1, block) }.unwrap();
    }
}

/// In the configuration of rlsf's first example.
pub type Rlsf = rlsf::Tlsf<'static, u16, u16, 12, 16>;

pub fn rlsf(memory: &'static mut Memory) -> Rlsf {
    let mut tlsf = rlsf::Tlsf::new();
    tlsf.insert_free_block(memory);
    tlsf
}

impl Contender for Rlsf {
    type Block = NonNull<u8>;

    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.allocate(layout)
    }

    fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: nobody uses it any more.
        unsafe { self.deallocate(block, layout.align()) };
    }
}

pub type Talc = talc::base::Talc<talc::source::Manual, talc::DefaultBinning>;

pub fn talc(memory: &'static mut Memory) -> Talc {
    let mut talc = talc::base::Talc::new(talc::source::Manual);
    // SAFETY: the memory is the contender's while it lives.
    unsafe { talc.claim(memory.as_mut_ptr().cast(), memory.len()) }.unwrap();
    talc
}

impl Contender for Talc {
    type Block = NonNull<u8>;

    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the layout is not empty.
        unsafe { self.allocate(layout) }
    }

    fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: nobody uses it any more.
        unsafe { self.deallocate(block.as_ptr(), layout) };
    }
}

pub fn linked_list(memory: &'static mut Memory) -> linked_list_allocator::Heap {
    linked_list_allocator::Heap::from_slice(memory)
}

impl Contender for linked_list_allocator::Heap {
    type Block = NonNull<u8>;

    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.allocate_first_fit(layout).ok()
    }

    fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: nobody uses it any more.
        unsafe { self.deallocate(block, layout) };
    }
}

/// An allocator made to be a global one: both of embedded-alloc.
pub struct Global<'a, A>(pub &'a A);

impl<A: GlobalAlloc> Contender for Global<'_, A> {
    type Block = NonNull<u8>;

    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the layout is not empty.
        NonNull::new(unsafe { self.0.alloc(layout) })
    }

    fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: nobody uses it any more.
        unsafe { self.0.dealloc(block.as_ptr(), layout) };
    }
}

/// An object of heapless's pool: nothing is written to it when it is allocated.
pub type Object = MaybeUninit<[u64; 8]>;
heapless::box_pool!(Objects: Object);

/// heapless's pool of 64-byte objects.
pub struct Heapless;

impl Heapless {
    pub fn new(blocks: &'static mut [BoxBlock<Object>]) -> Self {
        blocks.iter_mut().for_each(|block| Objects.manage(block));
        Self
    }
}

impl Contender for Heapless {
    type Block = PoolBox<Objects>;

    fn alloc(&mut self, _: Layout) -> Option<PoolBox<Objects>> {
        Objects.alloc(MaybeUninit::uninit()).ok()
    }

    fn free(&mut self, block: PoolBox<Objects>, _: Layout) {
        drop(block);
    }
}
