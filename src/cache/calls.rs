#![allow(unsafe_code)] // passes on what freeing and moving promises
//! Calls without a handle.
//!
//! Where blocks of the heap are all there is, they are served here. What serves classes and flags as
//! well is reached through a table, which [`Engine::add_class`] and flags put in place: a program that
//! has neither does not contain that code.

use core::{alloc::Layout, ptr::NonNull};

use super::{
    engine::Engine,
    held::Held,
    local_cache::CacheCore,
    realloc::{self, Mover},
};
use crate::{
    asan,
    error::{AllocError, FreeError, ReallocError},
};

/// What serves callers of a pool that is more than a heap.
#[derive(Debug)]
pub(crate) struct Calls {
    alloc_quick: fn(&CacheCore, Layout) -> Option<NonNull<u8>>,
    free_quick: fn(&CacheCore, NonNull<u8>) -> bool,
    alloc: fn(&mut CacheCore, &mut Engine, Layout) -> Result<NonNull<u8>, AllocError>,
    free: fn(&mut CacheCore, &mut Engine, NonNull<u8>) -> Result<(), FreeError>,
    free_sized: FreeSized,
    realloc: Realloc,
    usable_size: fn(&CacheCore, &mut Engine, NonNull<u8>) -> Result<usize, FreeError>,
}

type FreeSized =
    fn(&mut CacheCore, &mut Engine, NonNull<u8>, Layout, bool) -> Result<(), FreeError>;

type Realloc = unsafe fn(
    &mut CacheCore,
    &mut Engine,
    NonNull<u8>,
    usize,
    usize,
) -> Result<NonNull<u8>, ReallocError>;

impl Calls {
    /// Through the cache that callers without a handle share.
    pub(crate) const CACHED: Self = Self {
        alloc_quick: |cache, layout| cache.alloc_quick_layout(layout),
        free_quick: |cache, pointer| cache.free_quick(pointer.addr().get(), None),
        alloc: |cache, engine, layout| cache.alloc(layout, engine),
        free: |cache, engine, pointer| cache.free(pointer, None, engine),
        free_sized: |cache, engine, pointer, layout, where_exact| {
            cache.free_sized(pointer, layout, where_exact, engine)
        },
        realloc: |cache, engine, pointer, align, new_size| {
            // SAFETY: the caller's promise.
            unsafe { cache.realloc(pointer, align, new_size, engine) }
        },
        usable_size: |cache, engine, pointer| cache.usable_size(pointer, engine),
    };
}

/// The quick way to allocate: what is at hand. `None` says nothing; what was come by is reported by the whole
/// way.
#[inline(always)]
pub(crate) fn alloc_quick(
    cache: &CacheCore,
    engine: &mut Engine,
    layout: Layout,
) -> Option<NonNull<u8>> {
    match engine.calls {
        Some(calls) => (calls.alloc_quick)(cache, layout),
        None => engine.alloc_plain(layout),
    }
}

/// The quick way to free. `None`: it is not freed, and the whole way knows why. What else was come by the next
/// call reports that goes the whole way.
#[inline(always)]
pub(crate) fn free_quick(
    cache: &CacheCore,
    engine: &mut Engine,
    pointer: NonNull<u8>,
) -> Option<()> {
    match engine.calls {
        Some(calls) => (calls.free_quick)(cache, pointer).then_some(()),
        None => engine.free_plain(pointer).ok(),
    }
}

/// Allocates memory for a layout; see [`Pool::alloc`](crate::Pool::alloc).
pub(crate) fn alloc(
    cache: &mut CacheCore,
    engine: &mut Engine,
    layout: Layout,
) -> Result<NonNull<u8>, AllocError> {
    match engine.calls {
        Some(calls) => (calls.alloc)(cache, engine, layout),
        None => engine.alloc_uncached(layout),
    }
}

/// Frees a block or slot.
pub(crate) fn free(
    cache: &mut CacheCore,
    engine: &mut Engine,
    pointer: NonNull<u8>,
) -> Result<(), FreeError> {
    match engine.calls {
        Some(calls) => (calls.free)(cache, engine, pointer),
        None => engine.counted(|engine| engine.free_plain(pointer)),
    }
}

/// Frees a block or slot if its layout can be the one that is stated. If `where_exact`, that is looked at
/// only in pools that know their objects' sizes to the byte.
pub(crate) fn free_sized(
    cache: &mut CacheCore,
    engine: &mut Engine,
    pointer: NonNull<u8>,
    layout: Layout,
    where_exact: bool,
) -> Result<(), FreeError> {
    match engine.calls {
        Some(calls) => (calls.free_sized)(cache, engine, pointer, layout, where_exact),
        None => engine.counted(|engine| {
            if !where_exact {
                let held = engine.block_held(pointer)?;
                held.can_be_in(engine.store(), pointer.addr().get(), layout)?;
            }
            engine.free_plain(pointer)
        }),
    }
}

/// Resizes a block or slot, where it is or elsewhere.
///
/// # Safety
/// `pointer` is not used any more if this succeeds; its contents may be read.
pub(crate) unsafe fn realloc(
    cache: &mut CacheCore,
    engine: &mut Engine,
    pointer: NonNull<u8>,
    align: usize,
    new_size: usize,
) -> Result<NonNull<u8>, ReallocError> {
    match engine.calls {
        // SAFETY: the caller's promise.
        Some(calls) => unsafe { (calls.realloc)(cache, engine, pointer, align, new_size) },
        // SAFETY: as above.
        None => unsafe { realloc::realloc(&mut Plain(engine), pointer, align, new_size) },
    }
}

/// Usable bytes of a live block or slot.
pub(crate) fn usable_size(
    cache: &CacheCore,
    engine: &mut Engine,
    pointer: NonNull<u8>,
) -> Result<usize, FreeError> {
    if let Some(calls) = engine.calls {
        return (calls.usable_size)(cache, engine, pointer);
    }
    let held = engine.block_held(pointer).inspect_err(|&error| engine.note_refusal(error));
    held.map(|held| held.usable).inspect(|&usable| asan::open(pointer.as_ptr(), usable))
}

/// An engine where blocks of the heap are all there is.
struct Plain<'e>(&'e mut Engine);

impl Mover for Plain<'_> {
    fn held(&mut self, pointer: NonNull<u8>) -> Result<Held, FreeError> {
        self.0.counted(|engine| engine.block_held(pointer))
    }

    fn alloc(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        self.0.alloc_uncached(layout)
    }

    fn alloc_ready(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.0.try_alloc_plain(layout).ok()
    }

    fn resize(
        &mut self,
        pointer: NonNull<u8>,
        _: &Held,
        new_size: usize,
    ) -> Result<bool, FreeError> {
        self.0.counted(|engine| engine.resize_block(pointer, new_size)).map(|room| room.is_some())
    }

    fn slide(
        &mut self,
        pointer: NonNull<u8>,
        _: &Held,
        new: Layout,
    ) -> Result<Option<NonNull<u8>>, FreeError> {
        self.0.counted(|engine| engine.slide_block(pointer, new.size(), new.align()))
    }

    fn free(&mut self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        self.0.counted(|engine| engine.free_plain(pointer))
    }

    fn refuse(&mut self, size: usize) -> AllocError {
        self.0.shortage(size)
    }
}
