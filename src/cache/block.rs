#![allow(unsafe_code)] // makes cache blocks in the region, and links them
//! The part of a cache that lies in the pool's memory, where others can count what it holds.

use core::{
    cell::UnsafeCell,
    ptr::{NonNull, null, null_mut},
};

use super::{class_cache::ClassCache, engine::Engine, waiting::WaitingSlot};
use crate::{
    checksum::{Checksum, agree},
    config::ClassId,
    heap::Owner,
    quarantine::{Bounds, Quarantine},
    random::Random,
    slab::{PieceKind, SizeTable},
    sync::{AtomicU32, Ordering::Relaxed},
    units::{WORD, to_u8, to_usize},
};

/// A header with one [`ClassCache`] per class behind it, and [`Waiting`] in pools with quarantine.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct CacheBlock {
    next: *mut CacheBlock,
    prev: *mut CacheBlock,
    count: usize,
    sizes: SizeTable,
    /// What waits, or null in pools without quarantine.
    waiting: *const Waiting,
    /// The complement of that: the owner looks without the lock.
    waiting_check: usize,
    /// A checksum of the others.
    check: u32,
    /// What sizes lead to that no class serves: it never holds anything. The classes follow.
    nothing: ClassCache,
}

/// What waits in a cache. Its ring follows, and a number for each class: how many of its slots wait.
#[derive(Debug)]
struct Waiting {
    quarantine: UnsafeCell<Quarantine<WaitingSlot>>,
    counts: *mut u32,
    /// A checksum of what never changes.
    check: u32,
}

/// What of a quarantine never changes.
type Fixed = (*mut WaitingSlot, Bounds);

impl Waiting {
    /// Bytes of it, for this many classes.
    const fn bytes(bounds: Bounds, classes: usize) -> usize {
        size_of::<Self>() + bounds.ring_bytes::<WaitingSlot>() + classes * size_of::<u32>()
    }

    /// Nothing that waits yet.
    ///
    /// # Safety
    /// `memory` is aligned to words, valid for `bytes(bounds, classes)` bytes, and left alone from now on.
    unsafe fn new(memory: *mut u8, bounds: Bounds, classes: usize) -> *const Self {
        const { assert!(align_of::<WaitingSlot>() <= WORD && align_of::<Self>() <= WORD) };
        let ring = memory.wrapping_add(size_of::<Self>());
        let counts = ring.wrapping_add(bounds.ring_bytes::<WaitingSlot>()).cast::<u32>();
        // SAFETY: the caller's promise: the memory's last part.
        unsafe { counts.write_bytes(0, classes) };
        // SAFETY: as above, its middle.
        let quarantine = unsafe { Quarantine::new(ring, bounds) };
        let check = Self::sum((ring.cast(), bounds), counts);
        let waiting = Self { quarantine: UnsafeCell::new(quarantine), counts, check };
        // SAFETY: as above, its start.
        unsafe { memory.cast::<Self>().write(waiting) };
        memory.cast::<Self>()
    }

    #[inline]
    fn is_intact(&self) -> bool {
        // SAFETY: what never changes is read, by whoever may be at the same time as the owner.
        let fixed = unsafe { Quarantine::fixed(self.quarantine.get()) };
        agree(self.check, Self::sum(fixed, self.counts))
    }

    fn sum((ring, bounds): Fixed, counts: *mut u32) -> u32 {
        bounds.add_to(Checksum::NONE.add_addr(ring).add_addr(counts)).sum()
    }
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
    waiting: null(),
    waiting_check: usize::MAX,
    check: 0,
    nothing: ClassCache::nothing(),
});

/// A pointer to a cache block.
///
/// Invariant: the block is in the pool's memory while it is listed, with as many class caches behind
/// the header as it says; listing and unlisting it and following its links happen under the pool's
/// lock. Only the cache's owner does more with a class cache than read its lengths, and with what waits
/// than read its counts; or whoever has the lock, if the owner is not there or has nothing but the lock.
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
        let count = engine.slabs.count();
        let bounds = engine.store().waiting_bounds();
        let classes = size_of::<CacheBlock>() + count * size_of::<ClassCache>();
        let waits = !bounds.is_nothing();
        let bytes = classes + if waits { Waiting::bytes(bounds, count) } else { 0 };
        let align = align_of::<CacheBlock>();
        let memory = engine.slabs.store.alloc(bytes, align, Owner::Pool).ok()??;
        let block = Self(NonNull::new(memory)?.cast());
        let mut sizes = *engine.slabs.sizes();
        if !engine.harden().is_off() {
            sizes.forget_serving();
        }
        let (next, prev, nothing) = (engine.caches, null_mut(), ClassCache::sealed_nothing());
        let waiting = if waits {
            // SAFETY: behind the classes, in the same block, aligned to words.
            unsafe { Waiting::new(memory.wrapping_add(classes), bounds, count) }
        } else {
            null()
        };
        let (check, waiting_check) = (0, !waiting.addr());
        let header =
            CacheBlock { next, prev, count, sizes, waiting, waiting_check, check, nothing };
        // SAFETY: the heap gave that many bytes, aligned as asked for.
        unsafe { block.0.write(header) };
        for id in engine.class_ids() {
            let class = engine.slabs.class(id).map_or(ClassCache::nothing(), ClassCache::new);
            // SAFETY: as above; there are `count` of them.
            unsafe {
                block.kind(PieceKind::class(id.0).0).write(class);
            };
        }
        block.seal();
        Self::set_prev(next, block.link());
        engine.caches = block.link();
        Some(block)
    }

    /// Unlists the block and gives its memory back; not if it is damaged, or one beside it.
    pub(crate) fn end(self, engine: &mut Engine) {
        if !self.is_intact() {
            return;
        }
        // SAFETY: the block is listed.
        let (prev, next) = unsafe { ((*self.link()).prev, (*self.link()).next) };
        match Self::listed(prev) {
            None => engine.caches = next,
            Some(prev) if prev.is_intact() => {
                // SAFETY: a listed block. No reference: the owner reads the rest.
                unsafe { (*prev.link()).next = next };
                prev.seal();
            }
            Some(_) => return,
        }
        Self::set_prev(next, prev);
        engine.slabs.store.free_own(self.link().cast());
    }

    /// Sets what comes before a block, if there is one and it is intact.
    fn set_prev(block: *mut CacheBlock, prev: *mut CacheBlock) {
        if let Some(block) = Self::listed(block).filter(|block| block.is_intact()) {
            // SAFETY: a listed block. No reference: the owner reads the rest.
            unsafe { (*block.link()).prev = prev };
            block.seal();
        }
    }

    fn sum(self) -> u32 {
        let block = self.link();
        // SAFETY: the type's invariant. No reference to all of it: the owner writes to the rest.
        let (next, prev, count, waiting) =
            unsafe { ((*block).next, (*block).prev, (*block).count, (*block).waiting) };
        let sum = Checksum::NONE.add_addr(next).add_addr(prev).add(count).add_addr(waiting);
        self.sizes().add_to(sum).sum()
    }

    fn seal(self) {
        let sum = self.sum();
        // SAFETY: the type's invariant; the check is used under the lock only.
        unsafe { (*self.link()).check = sum };
    }

    /// Whether all but the classes and what waits is what was written last. The caller holds the pool's
    /// lock.
    pub(crate) fn is_intact(self) -> bool {
        // SAFETY: as in `seal`.
        agree(unsafe { (*self.link()).check }, self.sum())
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

    /// Whether it is what a cache without a block has.
    pub(crate) fn is_none(self) -> bool {
        self.link() == Self::NONE.link()
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

    /// What sizes lead to that no class serves.
    pub(crate) fn nothing(&self) -> &ClassCache {
        // SAFETY: the heap's kind.
        unsafe { self.of_kind(PieceKind::HEAP) }
    }

    /// Its classes.
    pub(crate) fn class_caches(&self) -> &[ClassCache] {
        // SAFETY: the type's invariant. Nobody makes exclusive references to them.
        unsafe { core::slice::from_raw_parts(self.kind(0).as_ptr().add(1), self.count()) }
    }

    /// Slots of a class that this cache holds, those that wait included.
    pub(crate) fn cached(self, class: ClassId) -> usize {
        let ready = self.class_caches().get(class.index()).map_or(0, ClassCache::cached);
        ready + self.waiting(class)
    }

    /// Whether this cache holds slots.
    pub(crate) fn holds_any(self) -> bool {
        let classes = self.class_caches();
        classes.iter().any(|class| class.cached() > 0)
            || (0..classes.len()).any(|n| self.waiting(ClassId(to_u8(n))) > 0)
    }

    /// Slots of a class that wait.
    pub(crate) fn waiting(self, class: ClassId) -> usize {
        self.count_of(class).map_or(0, |count| to_usize(count.load(Relaxed)))
    }

    #[inline(always)]
    fn all_waiting(&self) -> Option<&Waiting> {
        // SAFETY: the type's invariant; nobody writes to these.
        let (waiting, check) = unsafe { ((*self.link()).waiting, (*self.link()).waiting_check) };
        // SAFETY: as above, and it lives as long as the block.
        let waiting = if waiting.addr() == !check { unsafe { waiting.as_ref() } } else { None };
        waiting.filter(|_| cfg!(feature = "flags"))
    }

    /// Whether what never changes of what waits is what was written last.
    pub(crate) fn waits_intact(self) -> bool {
        self.all_waiting().is_none_or(Waiting::is_intact)
    }

    fn count_of(&self, class: ClassId) -> Option<&AtomicU32> {
        let waiting = self.all_waiting().filter(|_| class.index() < self.count())?;
        // SAFETY: there is one for each class, which are used as atomics only.
        Some(unsafe { AtomicU32::from_ptr(waiting.counts.wrapping_add(class.index())) })
    }

    /// Counts slots of a class that came to wait, or, with a negative number, that left.
    fn add_waiting(self, class: ClassId, change: i32) {
        if let Some(count) = self.count_of(class) {
            count.store(count.load(Relaxed).wrapping_add_signed(change), Relaxed);
        }
    }

    /// What waits, verified; what is damaged lets nothing in or out.
    #[inline(always)]
    fn waiting_room(&self) -> Option<WaitingRoom<'_>> {
        let waiting = self.all_waiting().filter(|waiting| waiting.is_intact())?;
        Some(WaitingRoom { block: *self, waiting })
    }

    /// Where a slot of this many bytes can wait, if it can.
    #[inline]
    pub(crate) fn waiting_for(&self, room: u32) -> Option<WaitingRoom<'_>> {
        self.waiting_room().filter(|waiting| waiting.with(|all| all.holds(to_usize(room))))
    }

    /// Takes what has to leave because too much waits, if something has.
    #[inline]
    pub(crate) fn take_surplus(self, random: &mut Random) -> Option<WaitingSlot> {
        // SAFETY: the type's invariant: nobody else does anything with it.
        let has_surplus = unsafe { (*self.all_waiting()?.quarantine.get()).has_surplus() };
        if !has_surplus {
            return None;
        }
        let left = self.waiting_room()?.with(|all| all.take_surplus(random))?;
        self.add_waiting(left.class, -1);
        Some(left)
    }

    /// Takes what has waited longest.
    pub(crate) fn take_waiting(self) -> Option<WaitingSlot> {
        let oldest = self.waiting_room()?.with(Quarantine::take_oldest)?;
        self.add_waiting(oldest.class, -1);
        Some(oldest)
    }
}

/// What waits in a cache, which was just verified.
#[derive(Clone, Copy)]
pub(crate) struct WaitingRoom<'b> {
    block: CacheBlockRef,
    waiting: &'b Waiting,
}

impl WaitingRoom<'_> {
    #[inline(always)]
    fn with<R>(self, work: impl FnOnce(&mut Quarantine<WaitingSlot>) -> R) -> R {
        // SAFETY: the block's invariant: nobody else does anything with it, and no closure in this file
        // comes back here.
        work(unsafe { &mut *self.waiting.quarantine.get() })
    }

    /// Has a slot wait that can. Returns what leaves for it, if something does.
    #[inline]
    pub(crate) fn admit(self, slot: WaitingSlot, random: &mut Random) -> Option<WaitingSlot> {
        let left = self.with(|all| all.admit(slot, random));
        if left.is_none_or(|left| left.class != slot.class) {
            self.block.add_waiting(slot.class, 1);
            if let Some(left) = left {
                self.block.add_waiting(left.class, -1);
            }
        }
        left
    }
}
