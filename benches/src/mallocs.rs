//! The C library's malloc and its replacements, called as a global allocator is.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ffi::c_void,
    ptr::NonNull,
    sync::OnceLock,
};

use libloading::Library;

use crate::{
    arena::{Arena, Needs},
    contender::Contender,
    worker::Worker,
};

/// Variables that have mallocs keep their memory instead of giving it back in between; they are
/// read before `main`.
pub const SETTINGS: &[(&str, &str)] = &[
    (
        "GLIBC_TUNABLES",
        "glibc.malloc.trim_threshold=4294967296:glibc.malloc.mmap_threshold=1073741824",
    ),
    ("MIMALLOC_PURGE_DELAY", "-1"),
    ("_RJEM_MALLOC_CONF", "dirty_decay_ms:-1,muzzy_decay_ms:-1"),
    ("TCMALLOC_RELEASE_RATE", "0"),
];

struct Global<A: 'static>(&'static A);

impl<A: GlobalAlloc + Sync> Arena for Global<A> {
    fn worker(&self) -> Box<dyn Worker + '_> {
        Box::new(Global(self.0))
    }
}

impl<A: GlobalAlloc> Contender for Global<A> {
    #[inline(always)]
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the layout is not empty.
        NonNull::new(unsafe { self.0.alloc(layout) })
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(block.as_ptr(), layout) };
    }

    unsafe fn realloc(
        &mut self,
        block: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promise.
        NonNull::new(unsafe { self.0.realloc(block.as_ptr(), layout, new_size) })
    }
}

/// The C library's.
pub fn glibc(_: Needs) -> Option<Box<dyn Arena>> {
    Some(Box::new(Global(&System)))
}

/// Crates that build C and C++: in the feature `mallocs`.
macro_rules! from_crate {
    ($name:ident, $allocator:path) => {
        #[doc = concat!("The crate `", stringify!($allocator), "`, if it is built in.")]
        pub fn $name(_: Needs) -> Option<Box<dyn Arena>> {
            #[cfg(feature = "mallocs")]
            return Some(Box::new(Global(&$allocator)));
            #[cfg(not(feature = "mallocs"))]
            None
        }
    };
}

from_crate!(mimalloc, mimalloc::MiMalloc);
from_crate!(jemalloc, tikv_jemallocator::Jemalloc);
from_crate!(snmalloc, snmalloc_rs::SnMalloc);

/// gperftools' library, loaded beside the C library's malloc instead of in its place.
struct Tcmalloc {
    malloc: unsafe extern "C" fn(usize) -> *mut c_void,
    memalign: unsafe extern "C" fn(usize, usize) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    free_sized: unsafe extern "C" fn(*mut c_void, usize),
}

/// What `malloc` aligns to.
const MALLOC_ALIGN: usize = 16;

// SAFETY: these are C's functions under names of their own; larger alignments than theirs are asked for.
unsafe impl GlobalAlloc for Tcmalloc {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        if align <= MALLOC_ALIGN {
            // SAFETY: any size will do.
            return unsafe { (self.malloc)(size) }.cast();
        }
        // SAFETY: the alignment is a power of two.
        unsafe { (self.memalign)(align, size) }.cast()
    }

    #[inline(always)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.align() <= MALLOC_ALIGN {
            // SAFETY: the caller's promise.
            return unsafe { (self.free_sized)(block.cast(), layout.size()) };
        }
        // SAFETY: the caller's promise.
        unsafe { (self.free)(block.cast()) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if layout.align() <= MALLOC_ALIGN {
            // SAFETY: the caller's promise.
            return unsafe { (self.realloc)(block.cast(), new_size) }.cast();
        }
        // SAFETY: the alignment is a power of two.
        let moved: *mut u8 = unsafe { (self.memalign)(layout.align(), new_size) }.cast();
        if !moved.is_null() {
            // SAFETY: both are at least that long, and the old one is not used any more.
            unsafe {
                moved.copy_from_nonoverlapping(block, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
        }
        moved
    }
}

/// gperftools', if the system has its library.
pub fn tcmalloc(_: Needs) -> Option<Box<dyn Arena>> {
    static FOUND: OnceLock<Option<Tcmalloc>> = OnceLock::new();
    Some(Box::new(Global(FOUND.get_or_init(load).as_ref()?)))
}

fn load() -> Option<Tcmalloc> {
    // SAFETY: initialising it does nothing to those who do not call it. It is never unloaded.
    let library = unsafe { Library::new("libtcmalloc_minimal.so.4") }.ok()?;
    let library = Box::leak(Box::new(library));
    // SAFETY: the types are those of C's functions of these names.
    unsafe {
        Some(Tcmalloc {
            malloc: *library.get(b"tc_malloc").ok()?,
            memalign: *library.get(b"tc_memalign").ok()?,
            realloc: *library.get(b"tc_realloc").ok()?,
            free: *library.get(b"tc_free").ok()?,
            free_sized: *library.get(b"tc_free_sized").ok()?,
        })
    }
}
