#![allow(unsafe_code)] // makes cache blocks in the region, and links them
//! The part of a cache that lies in the pool's memory, where others can count what it holds.

use core::ptr::{NonNull, null_mut};

use super::{class_cache::ClassCache, engine::Engine};
use crate::{
    config::ClassId,
    heap::Owner,
    slab::{PieceKind, SizeTable},
};

/// A header with one [`ClassCache`] per class behind it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct CacheBlock {
    next: *mut CacheBlock,
    prev: *mut CacheBlock,
    count: usize,
    sizes: SizeTable,
    /// What sizes lead to that no class serves: it never holds anything. The classes follow.
    nothing: ClassCache,
}

/// The block of caches that have none.
struct NoBlock(CacheBlock);

// SAFETY: without a class and a magazine there is nothing in it that anybody writes to.
unsafe impl Sync for NoBlock {}

static NO_BLOCK: NoBlock = NoBlock(CacheBlock {
    next: null_mut(),
    prev: null_mut(),
    count: 0,
    sizes: SizeTable::empty(),
    nothing: ClassCache::nothing(),
});

/// A pointer to a cache block.
///
/// Invariant: the block is in the pool's memory while it is listed, with as many class caches behind
/// the header as it says; listing and unlisting it and following its links happen under the pool's
/// lock. Only the cache's owner does more with a class cache than read its lengths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheBlockRef(NonNull<CacheBlock>);

impl CacheBlockRef {
    /// What a cache without a block has.
    // SAFETY: a static is not at address 0.
    pub(crate) const NONE: Self =
        Self(unsafe { NonNull::new_unchecked((&raw const NO_BLOCK.0).cast_mut()) });

    /// Makes a block for all classes there are, and lists it; `None` without memory for it.
    pub(crate) fn new(engine: &mut Engine) -> Option<Self> {
        const { assert!(size_of::<CacheBlock>().is_multiple_of(align_of::<ClassCache>())) };
        let count = engine.slabs.classes().len();
        let bytes = size_of::<CacheBlock>() + count * size_of::<ClassCache>();
        let align = align_of::<CacheBlock>();
        let memory = engine.slabs.store.alloc(bytes, align, Owner::Pool).ok()??;
        let block = Self(NonNull::new(memory)?.cast());
        let mut sizes = *engine.slabs.sizes();
        if !engine.harden().is_off() {
            sizes.forget_serving();
        }
        let (next, prev, nothing) = (engine.caches, null_mut(), ClassCache::nothing());
        // SAFETY: the heap gave that many bytes, aligned as asked for.
        unsafe { block.0.write(CacheBlock { next, prev, count, sizes, nothing }) };
        for (kind, class) in (1..).zip(engine.slabs.classes().iter()) {
            // SAFETY: as above; there are `count` of them.
            unsafe { block.kind(kind).write(ClassCache::new(class)) };
        }
        if !next.is_null() {
            // SAFETY: the head is listed. No reference: the owner reads the rest.
            unsafe { (*next).prev = block.link() };
        }
        engine.caches = block.link();
        Some(block)
    }

    /// Unlists the block and gives its memory back.
    pub(crate) fn end(self, engine: &mut Engine) {
        // SAFETY: the block is listed, so it and its neighbours are valid.
        unsafe {
            let (prev, next) = ((*self.link()).prev, (*self.link()).next);
            if prev.is_null() {
                engine.caches = next;
            } else {
                (*prev).next = next;
            }
            if !next.is_null() {
                (*next).prev = prev;
            }
        }
        engine.slabs.store.free_own(self.link().cast());
    }

    /// The block at a list's head or link.
    pub(crate) fn listed(block: *mut CacheBlock) -> Option<Self> {
        NonNull::new(block).map(Self)
    }

    /// What the list's head or a link to it is.
    pub(crate) fn link(self) -> *mut CacheBlock {
        self.0.as_ptr()
    }

    /// The next one in the list.
    pub(crate) fn next(self) -> *mut CacheBlock {
        // SAFETY: the type's invariant.
        unsafe { (*self.link()).next }
    }

    /// How many classes it has.
    #[inline(always)]
    pub(crate) fn count(self) -> usize {
        // SAFETY: the type's invariant.
        unsafe { (*self.0.as_ptr()).count }
    }

    #[inline(always)]
    pub(crate) fn sizes(&self) -> &SizeTable {
        // SAFETY: the type's invariant; nobody writes to it.
        unsafe { &(*self.0.as_ptr()).sizes }
    }

    /// Where a class's cache is, by the class's kind of piece, or what holds nothing.
    ///
    /// # Safety
    /// It has such a class, or the kind is the heap's.
    #[inline(always)]
    unsafe fn kind(self, kind: u8) -> NonNull<ClassCache> {
        let nothing = core::mem::offset_of!(CacheBlock, nothing);
        // SAFETY: the caller's promise; the classes lie behind it.
        unsafe { self.0.cast::<u8>().add(nothing).cast::<ClassCache>().add(kind.into()) }
    }

    /// A class's cache by the class's kind of piece; for the heap's, one that holds nothing.
    ///
    /// # Safety
    /// It has such a class, or the kind is the heap's.
    #[inline(always)]
    pub(crate) unsafe fn of_kind(&self, PieceKind(kind): PieceKind) -> &ClassCache {
        // SAFETY: the caller's promise, and the type's invariant.
        unsafe { self.kind(kind).as_ref() }
    }

    /// What requests of a size that [`SizeTable::serving`] knows of are served from. It holds nothing if no
    /// class serves them, or the engine has to see to what it serves.
    #[inline(always)]
    pub(crate) fn serving(&self, size: usize) -> Option<&ClassCache> {
        let kind = self.sizes().serving(size)?;
        // SAFETY: the sizes are those of its classes.
        Some(unsafe { self.of_kind(kind) })
    }

    /// Its classes.
    pub(crate) fn class_caches(&self) -> &[ClassCache] {
        // SAFETY: the type's invariant. Nobody makes exclusive references to them.
        unsafe { core::slice::from_raw_parts(self.kind(0).as_ptr().add(1), self.count()) }
    }

    /// Slots of a class that this cache holds.
    pub(crate) fn cached(self, class: ClassId) -> usize {
        self.class_caches().get(class.index()).map_or(0, ClassCache::cached)
    }
}
