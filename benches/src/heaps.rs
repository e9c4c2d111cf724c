//! Contenders over one region, for one thread.

use std::{
    alloc::Layout,
    cell::Cell,
    mem::MaybeUninit,
    ptr::{NonNull, null_mut},
};

use libmempool::{NoLock, Pool};

use crate::{contender::Contender, worker::Worker};

/// A region, as the contenders take it.
pub type Memory = [MaybeUninit<u8>];

/// A contender over one region, and the loops compiled for it.
pub trait Heap: Contender + Worker {}

impl<H: Contender + Worker> Heap for H {}

/// Makes a contender over a region, if the region is large enough for it.
pub type Make = for<'m> fn(&'m mut Memory) -> Option<Box<dyn Heap + 'm>>;

/// A contender and its name.
#[derive(Clone, Copy)]
pub struct Entry {
    /// What it is called in tables.
    pub name: &'static str,
    /// Makes one.
    pub make: Make,
}

impl Entry {
    /// Whether it is somebody else's.
    pub fn peer(&self) -> bool {
        !self.name.starts_with("libmempool")
    }
}

/// Everybody, each in the configuration its documentation recommends for one large region.
pub const ALL: &[Entry] = &[
    Entry { name: "libmempool heap", make: libmempool_heap },
    Entry { name: "libmempool preset", make: libmempool_preset },
    Entry { name: "rlsf", make: rlsf },
    Entry { name: "talc", make: talc },
    Entry { name: "dlmalloc", make: dlmalloc },
    Entry { name: "linked_list_allocator", make: linked_list },
    Entry { name: "buddy_system_allocator", make: buddy },
];

impl Contender for Pool<'_, NoLock> {
    #[inline(always)]
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        Pool::alloc(self, layout).ok()
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: NonNull<u8>, _layout: Layout) {
        // SAFETY: the caller's promise.
        let freed = unsafe { Pool::free(self, block) };
        debug_assert!(freed.is_ok(), "{freed:?}");
    }

    unsafe fn realloc(
        &mut self,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promise.
        unsafe { Pool::realloc(self, block, layout, new_size) }.ok()
    }

    fn free_bytes(&self) -> Option<(usize, usize)> {
        let stats = self.stats();
        Some((stats.free_bytes, stats.largest_free))
    }
}

fn libmempool_heap(memory: &mut Memory) -> Option<Box<dyn Heap + '_>> {
    Some(Box::new(Pool::<NoLock>::new(memory).ok()?))
}

fn libmempool_preset(memory: &mut Memory) -> Option<Box<dyn Heap + '_>> {
    Some(Box::new(Pool::<NoLock>::builder().preset_classes().build(memory).ok()?))
}

/// Two-level segregated fit with rows for every power of two and 64 columns.
struct Rlsf<'m>(rlsf::Tlsf<'m, u64, u64, 52, 64>);

impl Contender for Rlsf<'_> {
    #[inline(always)]
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.0.allocate(layout)
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.deallocate(block, layout.align()) };
    }

    unsafe fn realloc(
        &mut self,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Option<NonNull<u8>> {
        let new = Layout::from_size_align(new_size, layout.align()).ok()?;
        // SAFETY: the caller's promise.
        unsafe { self.0.reallocate(block, new) }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "all makers have one type")]
fn rlsf(memory: &mut Memory) -> Option<Box<dyn Heap + '_>> {
    let mut tlsf = rlsf::Tlsf::new();
    tlsf.insert_free_block(memory);
    Some(Box::new(Rlsf(tlsf)))
}

struct Talc(talc::base::Talc<talc::source::Manual, talc::DefaultBinning>);

impl Contender for Talc {
    #[inline(always)]
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the layout is not empty.
        unsafe { self.0.allocate(layout) }
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.deallocate(block.as_ptr(), layout) };
    }

    unsafe fn realloc(
        &mut self,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promise.
        unsafe {
            if new_size <= layout.size() {
                self.0.shrink(block.as_ptr(), layout, new_size);
                return Some(block);
            }
            if self.0.try_grow_in_place(block.as_ptr(), layout, new_size) {
                return Some(block);
            }
        }
        let new = Layout::from_size_align(new_size, layout.align()).ok()?;
        let moved = self.alloc(new)?;
        // SAFETY: both are live and at least that long.
        unsafe { moved.copy_from_nonoverlapping(block, layout.size()) };
        // SAFETY: the caller's promise.
        unsafe { self.free(block, layout) };
        Some(moved)
    }
}

fn talc(memory: &mut Memory) -> Option<Box<dyn Heap + '_>> {
    let mut talc = talc::base::Talc::new(talc::source::Manual);
    // SAFETY: the memory is the contender's while it lives.
    unsafe { talc.claim(memory.as_mut_ptr().cast(), memory.len()) }?;
    Some(Box::new(Talc(talc)))
}

/// Gives dlmalloc the whole region as its only segment.
struct OneSegment(Cell<Option<NonNull<[u8]>>>);

// SAFETY: the segment is handed out once, and stays valid while the allocator lives.
unsafe impl dlmalloc::Allocator for OneSegment {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        match self.0.take() {
            Some(all) if all.len() >= size => (all.cast().as_ptr(), all.len(), 1),
            _ => (null_mut(), 0, 0),
        }
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        null_mut()
    }

    fn free_part(&self, _: *mut u8, _: usize, _: usize) -> bool {
        false
    }

    fn free(&self, _: *mut u8, _: usize) -> bool {
        false
    }

    fn can_release_part(&self, _: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        false
    }

    fn page_size(&self) -> usize {
        4096
    }
}

// SAFETY: a contender stays on one thread.
unsafe impl Send for OneSegment {}

struct Dlmalloc(dlmalloc::Dlmalloc<OneSegment>);

impl Contender for Dlmalloc {
    #[inline(always)]
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the layout is not empty.
        NonNull::new(unsafe { self.0.malloc(layout.size(), layout.align()) })
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.free(block.as_ptr(), layout.size(), layout.align()) };
    }

    unsafe fn realloc(
        &mut self,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Option<NonNull<u8>> {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: the caller's promise.
        NonNull::new(unsafe { self.0.realloc(block.as_ptr(), size, align, new_size) })
    }
}

#[expect(clippy::unnecessary_wraps, reason = "all makers have one type")]
fn dlmalloc(memory: &mut Memory) -> Option<Box<dyn Heap + '_>> {
    let all = NonNull::slice_from_raw_parts(NonNull::from(&mut *memory).cast(), memory.len());
    let segment = OneSegment(Cell::new(Some(all)));
    Some(Box::new(Dlmalloc(dlmalloc::Dlmalloc::new_with_allocator(segment))))
}

struct LinkedList(linked_list_allocator::Heap);

impl Contender for LinkedList {
    #[inline(always)]
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.0.allocate_first_fit(layout).ok()
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.deallocate(block, layout) };
    }
}

fn linked_list(memory: &mut Memory) -> Option<Box<dyn Heap + '_>> {
    if memory.len() < 64 {
        return None;
    }
    let mut heap = linked_list_allocator::Heap::empty();
    // SAFETY: the memory is the contender's while it lives.
    unsafe { heap.init(memory.as_mut_ptr().cast(), memory.len()) };
    Some(Box::new(LinkedList(heap)))
}

/// Powers of two up to the largest that a word has.
struct Buddy(buddy_system_allocator::Heap<48>);

impl Contender for Buddy {
    #[inline(always)]
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.0.alloc(layout).ok()
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(block, layout) };
    }
}

fn buddy(memory: &mut Memory) -> Option<Box<dyn Heap + '_>> {
    if memory.len() < 64 {
        return None;
    }
    let mut heap = buddy_system_allocator::Heap::new();
    // SAFETY: the memory is the contender's while it lives.
    unsafe { heap.init(memory.as_mut_ptr().expose_provenance(), memory.len()) };
    Some(Box::new(Buddy(heap)))
}
