//! Contenders for objects of one size: what they all do, and those that are written in Rust or
//! called as a malloc.

use std::{alloc::Layout, hint::black_box, ptr::NonNull};

use libmempool::{ClassId, LocalCache, MmapPages, Pool, PthreadMutex, SizeClass, ThreadCachedPool};

/// Objects that are out at a time in a burst.
pub const BURST: u32 = 1024;

/// Objects of a pool for one size.
pub const OBJECTS: usize = 8191;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// One allocated, and freed.
    Pairs,
    /// [`BURST`] allocated one by one, then freed in the same order.
    Burst,
    /// So many allocated by one call, and freed by one call.
    Bulk(u8),
    /// [`BURST`] allocated, 32 by each call, then freed in the same order.
    Fifo,
}

impl Work {
    /// Objects that are allocated and freed per round.
    pub fn objects(self) -> u32 {
        match self {
            Self::Pairs => 1,
            Self::Burst | Self::Fifo => BURST,
            Self::Bulk(n) => n.into(),
        }
    }
}

/// A contender that is ready to work.
pub trait Peer {
    /// Does the work so many times.
    fn run(&mut self, work: Work, rounds: u32);
}

/// What allocates and frees objects of one size; the loops over it are compiled for each.
pub trait Objects {
    /// Allocates one.
    fn get(&mut self) -> NonNull<u8>;

    /// Frees one.
    ///
    /// # Safety
    /// It came from [`get`](Self::get) or [`get_bulk`](Self::get_bulk), and is not used any more.
    unsafe fn put(&mut self, object: NonNull<u8>);

    /// Allocates several.
    #[inline(always)]
    fn get_bulk(&mut self, objects: &mut [NonNull<u8>]) {
        for object in objects {
            *object = self.get();
        }
    }

    /// Frees several.
    ///
    /// # Safety
    /// As [`put`](Self::put), for each of them.
    #[inline(always)]
    unsafe fn put_bulk(&mut self, objects: &[NonNull<u8>]) {
        for &object in objects {
            // SAFETY: the caller's promise.
            unsafe { self.put(object) };
        }
    }
}

struct Looped<O>(O);

impl<O: Objects> Peer for Looped<O> {
    fn run(&mut self, work: Work, rounds: u32) {
        match work {
            Work::Pairs => pairs(&mut self.0, rounds),
            Work::Burst => burst(&mut self.0, rounds),
            Work::Bulk(1) => bulk::<1>(&mut self.0, rounds),
            Work::Bulk(4) => bulk::<4>(&mut self.0, rounds),
            Work::Bulk(8) => bulk::<8>(&mut self.0, rounds),
            Work::Bulk(32) => bulk::<32>(&mut self.0, rounds),
            Work::Bulk(128) => bulk::<128>(&mut self.0, rounds),
            Work::Bulk(n) => unimplemented!("bulks of {n}"),
            Work::Fifo => fifo(&mut self.0, rounds),
        }
    }
}

/// Makes the compiler forget what it knows of a pointer, which stays in its register.
#[inline(always)]
fn opaque(object: NonNull<u8>) -> NonNull<u8> {
    let mut pointer = object.as_ptr();
    // SAFETY: a comment does nothing.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) pointer) };
    NonNull::new(pointer).unwrap_or(object)
}

#[inline(never)]
fn pairs(objects: &mut impl Objects, rounds: u32) {
    for _ in 0..rounds {
        let object = opaque(objects.get());
        // SAFETY: it was just allocated.
        unsafe { objects.put(object) };
    }
}

#[inline(never)]
fn burst(objects: &mut impl Objects, rounds: u32) {
    let mut table = [NonNull::dangling(); BURST as usize];
    for _ in 0..rounds {
        for object in &mut table {
            *object = objects.get();
        }
        for &object in black_box(&table) {
            // SAFETY: it was just allocated.
            unsafe { objects.put(object) };
        }
    }
}

#[inline(never)]
fn bulk<const N: usize>(objects: &mut impl Objects, rounds: u32) {
    let mut table = [NonNull::dangling(); N];
    for _ in 0..rounds {
        objects.get_bulk(&mut table);
        // SAFETY: they were just allocated.
        unsafe { objects.put_bulk(black_box(&table)) };
    }
}

#[inline(never)]
fn fifo(objects: &mut impl Objects, rounds: u32) {
    let mut table = [NonNull::dangling(); BURST as usize];
    for _ in 0..rounds {
        for run in table.as_chunks_mut::<32>().0 {
            objects.get_bulk(run);
        }
        for run in black_box(&table).as_chunks::<32>().0 {
            // SAFETY: they were just allocated.
            unsafe { objects.put_bulk(run) };
        }
    }
}

/// Makes a contender of something that allocates, whose free objects are put in the order that
/// `order` gives, if that is not empty.
fn looped(mut objects: impl Objects + 'static, order: &[u32]) -> Box<dyn Peer> {
    // One stays allocated, so that nobody is measured giving back a page and taking it again.
    objects.get();
    let all: Vec<_> = order.iter().map(|_| objects.get()).collect();
    for &index in order {
        // SAFETY: `order` is a permutation, so each is freed once.
        unsafe { objects.put(all[index as usize]) };
    }
    Box::new(Looped(objects))
}

struct Handle {
    cache: LocalCache<'static, PthreadMutex>,
    class: ClassId,
}

impl Objects for Handle {
    #[inline(always)]
    fn get(&mut self) -> NonNull<u8> {
        self.cache.alloc_fixed(self.class).expect("a slot")
    }

    #[inline(always)]
    unsafe fn put(&mut self, object: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { self.cache.free_fixed(self.class, object) }.expect("a live slot");
    }

    #[inline(always)]
    fn get_bulk(&mut self, objects: &mut [NonNull<u8>]) {
        self.cache.alloc_bulk(self.class, objects).expect("slots");
    }

    #[inline(always)]
    unsafe fn put_bulk(&mut self, objects: &[NonNull<u8>]) {
        // SAFETY: the caller's promise.
        unsafe { self.cache.free_bulk(self.class, objects) }.expect("live slots");
    }
}

struct Thread {
    pool: ThreadCachedPool<PthreadMutex, MmapPages>,
    layout: Layout,
}

impl Objects for Thread {
    #[inline(always)]
    fn get(&mut self) -> NonNull<u8> {
        self.pool.alloc(self.layout).expect("a block")
    }

    #[inline(always)]
    unsafe fn put(&mut self, object: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { self.pool.free(object) }.expect("a live block");
    }
}

/// As many slots as an `rte_mempool` has objects.
fn handle(size: usize, order: &[u32]) -> Option<Box<dyn Peer>> {
    let class = SizeClass::new(size).reserve(OBJECTS);
    let pool = Pool::builder().size_class(class).map(MmapPages::new(), 64 << 20).ok()?;
    let pool = Box::leak(Box::new(pool));
    let handle = Handle { cache: pool.local_cache(), class: pool.class_of(size).ok()? };
    Some(looped(handle, order))
}

/// Calls by layout, as the global allocator would make them.
fn thread(size: usize, order: &[u32]) -> Option<Box<dyn Peer>> {
    let pool = Pool::builder().preset_classes().map(MmapPages::new(), 64 << 20).ok()?;
    let layout = Layout::from_size_align(size, 16).ok()?;
    Some(looped(Thread { pool: ThreadCachedPool::new(pool), layout }, order))
}

struct Malloc(usize);

impl Objects for Malloc {
    #[inline(always)]
    fn get(&mut self) -> NonNull<u8> {
        // SAFETY: any size will do.
        NonNull::new(unsafe { libc::malloc(self.0) }).expect("memory").cast()
    }

    #[inline(always)]
    unsafe fn put(&mut self, object: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { libc::free(object.as_ptr().cast()) };
    }
}

#[expect(clippy::unnecessary_wraps, reason = "all makers have one type")]
fn malloc(size: usize, order: &[u32]) -> Option<Box<dyn Peer>> {
    Some(looped(Malloc(size), order))
}

#[cfg(feature = "mallocs")]
mod mallocs {
    use std::alloc::GlobalAlloc;

    use super::{Layout, NonNull, Objects, Peer, looped};

    /// An allocator crate, called with the layout as the global allocator would be.
    struct Global<A> {
        allocator: A,
        layout: Layout,
    }

    impl<A: GlobalAlloc + 'static> Objects for Global<A> {
        #[inline(always)]
        fn get(&mut self) -> NonNull<u8> {
            // SAFETY: the layout is not empty.
            NonNull::new(unsafe { self.allocator.alloc(self.layout) }).expect("memory")
        }

        #[inline(always)]
        unsafe fn put(&mut self, object: NonNull<u8>) {
            // SAFETY: the caller's promise.
            unsafe { self.allocator.dealloc(object.as_ptr(), self.layout) };
        }
    }

    fn global<A: GlobalAlloc + 'static>(
        allocator: A,
        size: usize,
        order: &[u32],
    ) -> Option<Box<dyn Peer>> {
        let layout = Layout::from_size_align(size, 16).ok()?;
        Some(looped(Global { allocator, layout }, order))
    }

    pub fn mimalloc(size: usize, order: &[u32]) -> Option<Box<dyn Peer>> {
        global(mimalloc::MiMalloc, size, order)
    }

    pub fn jemalloc(size: usize, order: &[u32]) -> Option<Box<dyn Peer>> {
        global(tikv_jemallocator::Jemalloc, size, order)
    }

    pub fn snmalloc(size: usize, order: &[u32]) -> Option<Box<dyn Peer>> {
        global(snmalloc_rs::SnMalloc, size, order)
    }
}

/// Makes a contender for objects of a size. If `order` is not empty it is a permutation, and that
/// many free objects are put in its order first. `None`: not on this machine.
pub type Make = fn(size: usize, order: &[u32]) -> Option<Box<dyn Peer>>;

/// Everybody, our own first.
pub const ALL: &[(&str, Make)] = &[
    ("LocalCache", handle),
    ("ThreadCachedPool", thread),
    ("rte_mempool", crate::dpdk::mempool),
    ("malloc", malloc),
    #[cfg(feature = "mallocs")]
    ("mimalloc", mallocs::mimalloc),
    #[cfg(feature = "mallocs")]
    ("jemalloc", mallocs::jemalloc),
    #[cfg(feature = "mallocs")]
    ("snmalloc", mallocs::snmalloc),
];
