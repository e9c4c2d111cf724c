//! libmempool's own ways to allocate and free.

use std::{alloc::Layout, ptr::NonNull};

use libmempool::{
    ClassId, LocalCache, MmapPages, Pool, PoolBuilder, PoolFlags, PthreadMutex, SizeClass,
    ThreadCachedPool,
};
use lock_api::RawMutex;

use crate::{
    arena::{Arena, Needs},
    contender::Contender,
    worker::Worker,
};

type Mapped = Pool<'static, PthreadMutex, MmapPages>;

/// A region of so many bytes has slabs as large as they get, which share more of their maps' and
/// states' cache lines than small ones, and room for freed blocks to rest.
pub const ROOMY: usize = 64 << 20;

/// Memory beside the objects: partly filled slabs, magazines, maps.
const SLACK: usize = 16 << 20;

/// A pool with one class, all of it reserved.
fn one_class(needs: Needs, flags: PoolFlags) -> Option<(Mapped, ClassId)> {
    one_class_of(needs, Pool::builder().flags(flags))
}

/// A pool with one class, all of it reserved, and what else the builder has.
pub fn one_class_of<L: RawMutex>(
    needs: Needs,
    builder: PoolBuilder<L>,
) -> Option<(Pool<'static, L, MmapPages>, ClassId)> {
    let class = SizeClass::new(needs.layout.size()).reserve(needs.objects).limit(needs.objects);
    let bytes = needs.objects * needs.layout.size().next_multiple_of(16);
    let builder = builder.size_class(class);
    let bytes = (bytes + bytes / 32 + SLACK).max(ROOMY);
    let pool = builder.map(MmapPages::new(), bytes).ok()?;
    if needs.warm {
        pool.warm_up().ok()?;
    }
    let class = pool.class_of(needs.layout.size()).ok()?;
    Some((pool, class))
}

/// A pool for requests of all sizes.
fn preset(needs: Needs) -> Option<Mapped> {
    let bytes = (needs.bytes + needs.bytes / 2 + SLACK).max(ROOMY);
    let pool = Pool::builder().preset_classes().map(MmapPages::new(), bytes).ok()?;
    if needs.warm {
        pool.warm_up().ok()?;
    }
    Some(pool)
}

/// A local cache, used by class.
#[derive(Debug)]
pub struct Handle<'p, L: RawMutex = PthreadMutex> {
    /// The cache.
    pub cache: LocalCache<'p, L>,
    /// The class.
    pub class: ClassId,
}

impl<L: RawMutex> Contender for Handle<'_, L> {
    #[inline(always)]
    fn alloc(&mut self, _: Layout) -> Option<NonNull<u8>> {
        self.cache.alloc_fixed(self.class).ok()
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: NonNull<u8>, _: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.cache.free_fixed(self.class, block) }.expect("a live slot");
    }

    #[inline(always)]
    fn alloc_bulk(&mut self, _: Layout, out: &mut [NonNull<u8>]) -> bool {
        self.cache.alloc_bulk(self.class, out).is_ok()
    }

    #[inline(always)]
    unsafe fn free_bulk(&mut self, _: Layout, blocks: &[NonNull<u8>]) {
        // SAFETY: the caller's promise.
        unsafe { self.cache.free_bulk(self.class, blocks) }.expect("live slots");
    }
}

/// A contender behind functions that are not inlined.
struct Called<C>(C);

impl<C: Contender> Contender for Called<C> {
    #[inline(never)]
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.0.alloc(layout)
    }

    #[inline(never)]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.free(block, layout) };
    }

    #[inline(never)]
    fn alloc_bulk(&mut self, layout: Layout, out: &mut [NonNull<u8>]) -> bool {
        self.0.alloc_bulk(layout, out)
    }

    #[inline(never)]
    unsafe fn free_bulk(&mut self, layout: Layout, blocks: &[NonNull<u8>]) {
        // SAFETY: the caller's promise.
        unsafe { self.0.free_bulk(layout, blocks) };
    }
}

/// A handle whose frees are not checked.
struct Unchecked<'p>(Handle<'p>);

impl Contender for Unchecked<'_> {
    #[inline(always)]
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.0.alloc(layout)
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: NonNull<u8>, _: Layout) {
        let Handle { cache, class } = &mut self.0;
        // SAFETY: the caller's promise; there is no other class.
        unsafe { cache.free_fixed_unchecked(*class, block) };
    }

    #[inline(always)]
    fn alloc_bulk(&mut self, layout: Layout, out: &mut [NonNull<u8>]) -> bool {
        self.0.alloc_bulk(layout, out)
    }

    #[inline(always)]
    unsafe fn free_bulk(&mut self, _: Layout, blocks: &[NonNull<u8>]) {
        let Handle { cache, class } = &mut self.0;
        // SAFETY: the caller's promise; there is no other class.
        unsafe { cache.free_bulk_unchecked(*class, blocks) };
    }
}

/// How a handle is called.
#[derive(Clone, Copy)]
enum Calls {
    Inlined,
    Called,
    Unchecked,
}

/// A pool whose threads have handles.
struct Handles {
    pool: Mapped,
    class: ClassId,
    calls: Calls,
}

impl Arena for Handles {
    fn worker(&self) -> Box<dyn Worker + '_> {
        let handle = Handle { cache: self.pool.local_cache(), class: self.class };
        match self.calls {
            Calls::Inlined => Box::new(handle),
            Calls::Called => Box::new(Called(handle)),
            Calls::Unchecked => Box::new(Unchecked(handle)),
        }
    }

    fn warms_up(&self) -> bool {
        true
    }
}

fn handles(needs: Needs, flags: PoolFlags, calls: Calls) -> Option<Box<dyn Arena>> {
    let (pool, class) = one_class(needs, flags)?;
    Some(Box::new(Handles { pool, class, calls }))
}

/// By handle and class, inlined.
pub fn cached(needs: Needs) -> Option<Box<dyn Arena>> {
    handles(needs, PoolFlags::empty(), Calls::Inlined)
}

/// By handle and class, through functions.
pub fn called(needs: Needs) -> Option<Box<dyn Arena>> {
    handles(needs, PoolFlags::empty(), Calls::Called)
}

/// By handle and class, inlined, without checks.
pub fn unchecked(needs: Needs) -> Option<Box<dyn Arena>> {
    handles(needs, PoolFlags::empty(), Calls::Unchecked)
}

/// By handle and class, in a pool with these bits' flags.
pub fn flagged<const BITS: u32>(needs: Needs) -> Option<Box<dyn Arena>> {
    handles(needs, PoolFlags::from_bits_truncate(BITS), Calls::Inlined)
}

/// A pool that is called itself. Layout and pointer alone are what a global allocator gets.
struct Shared<P>(P);

impl Arena for Shared<ThreadCachedPool<PthreadMutex, MmapPages>> {
    fn worker(&self) -> Box<dyn Worker + '_> {
        Box::new(ByLayout(&self.0))
    }

    fn warms_up(&self) -> bool {
        true
    }
}

impl Arena for Shared<Mapped> {
    fn worker(&self) -> Box<dyn Worker + '_> {
        Box::new(ByLayout(&self.0))
    }

    fn warms_up(&self) -> bool {
        true
    }
}

struct ByLayout<'p, P>(&'p P);

/// The two pools have the same calls by layout.
macro_rules! by_layout {
    ($pool:ty) => {
        impl Contender for ByLayout<'_, $pool> {
            #[inline(always)]
            fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
                self.0.alloc(layout).ok()
            }

            #[inline(always)]
            unsafe fn free(&mut self, block: NonNull<u8>, _: Layout) {
                // SAFETY: the caller's promise.
                unsafe { self.0.free(block) }.expect("a live block");
            }

            unsafe fn realloc(
                &mut self,
                block: NonNull<u8>,
                layout: Layout,
                new_size: usize,
            ) -> Option<NonNull<u8>> {
                // SAFETY: the caller's promise.
                unsafe { self.0.realloc(block, layout, new_size) }.ok()
            }
        }
    };
}

by_layout!(ThreadCachedPool<PthreadMutex, MmapPages>);
by_layout!(Mapped);

/// By layout, each thread's cache found by the call.
pub fn thread(needs: Needs) -> Option<Box<dyn Arena>> {
    Some(Box::new(Shared(ThreadCachedPool::new(preset(needs)?))))
}

/// By layout, under the lock.
pub fn locked(needs: Needs) -> Option<Box<dyn Arena>> {
    Some(Box::new(Shared(preset(needs)?)))
}

/// A pool that is called by class, each thread's cache found by the call.
struct ThreadClass(ThreadCachedPool<PthreadMutex, MmapPages>, ClassId);

impl Arena for ThreadClass {
    fn worker(&self) -> Box<dyn Worker + '_> {
        Box::new(ByClass(&self.0, self.1))
    }

    fn warms_up(&self) -> bool {
        true
    }
}

struct ByClass<'p>(&'p ThreadCachedPool<PthreadMutex, MmapPages>, ClassId);

impl Contender for ByClass<'_> {
    #[inline(always)]
    fn alloc(&mut self, _: Layout) -> Option<NonNull<u8>> {
        self.0.alloc_fixed(self.1).ok()
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: NonNull<u8>, _: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.free_fixed(self.1, block) }.expect("a live slot");
    }
}

/// By class, each thread's cache found by the call.
pub fn thread_fixed(needs: Needs) -> Option<Box<dyn Arena>> {
    let (pool, class) = one_class(needs, PoolFlags::empty())?;
    Some(Box::new(ThreadClass(ThreadCachedPool::new(pool), class)))
}
