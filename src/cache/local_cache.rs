#![allow(unsafe_code)] // hands out slots and keeps its block in the region
//! A local cache: one thread's, core's or task's magazines, used without lock or atomic
//! read-modify-write.
//!
//! What it does without the engine is inlined into its callers; everything else is behind one
//! `#[cold]` call per operation.

use core::{alloc::Layout, marker::PhantomData, mem::MaybeUninit, ptr::NonNull};

use super::{
    block::CacheBlockRef,
    class_cache::{ClassCache, SlotGrid},
    engine::Engine,
    held::Held,
    realloc::{Mover, realloc},
    waiting::{WaitingSlot, check_free},
};
use crate::{
    asan,
    config::ClassId,
    error::{AllocError, BulkFreeError, Corruption, CorruptionKind, FreeError, ReallocError},
    harden::Harden,
    heap::Owner,
    random::Random,
    slab::{
        PieceEntry, PieceKind, Signals, SlabMap, SlabPlace, Slot, SlotRef, SlotState, StateByte,
    },
    sync::{
        AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
    units::{MIN_GRANULE, to_u32, to_usize},
};

/// How a cache reaches the engine: through the pool's lock, or because it is behind it already.
pub(crate) trait Backing {
    /// Runs `work` with the engine.
    fn with<R>(&mut self, work: impl FnOnce(&mut Engine) -> R) -> R;
}

impl Backing for Engine {
    #[inline]
    fn with<R>(&mut self, work: impl FnOnce(&mut Engine) -> R) -> R {
        work(self)
    }
}

/// What a cache without a block is told.
static NO_SIGNALS: Signals = Signals::new();

/// What a local cache is made of; the public handles wrap it.
///
/// Invariants: `block` is this cache's own, listed block, or none; `classes` is its count of classes,
/// `quick` the same or 0; with a block, `map` is the first region's map and `signals` leads to its signals.
#[derive(Debug)]
pub(crate) struct CacheCore {
    map: SlabMap,
    block: CacheBlockRef,
    classes: usize,
    /// Classes that are served without the engine: all of them, or none in a pool with flags.
    quick: usize,
    signals: *const Signals,
    harden: Harden,
    /// What slots are shuffled with.
    random: Random,
    /// How often memory had run out when it last gave back what it held.
    drains: u32,
    /// Used under the lock only, so that others may empty it there.
    shared: bool,
    _own: PhantomData<ClassCache>,
}

// SAFETY: a cache owns its block and magazines, which lie in regions that no thread is tied to.
unsafe impl Send for CacheCore {}

/// A live slot that a pointer was found to be.
struct Found<'c> {
    class: &'c ClassCache,
    slot: SlotRef,
}

/// A live slot that is about to be freed.
#[derive(Clone, Copy)]
struct Freed {
    class: ClassId,
    slot: SlotRef,
    /// Its bytes, with what the pool writes behind the usable ones.
    room: usize,
    /// Of the object in it.
    size: usize,
}

impl CacheCore {
    /// A cache that holds nothing, and gets its block on first use.
    pub(crate) const fn new() -> Self {
        Self::with_use(false)
    }

    /// The cache of callers who have none, used under the lock.
    pub(crate) const fn shared() -> Self {
        Self::with_use(true)
    }

    const fn with_use(shared: bool) -> Self {
        Self {
            map: SlabMap::empty(),
            block: CacheBlockRef::NONE,
            classes: 0,
            quick: 0,
            signals: &raw const NO_SIGNALS,
            harden: Harden::NONE,
            random: Random::new(1),
            drains: 0,
            shared,
            _own: PhantomData,
        }
    }

    #[inline(always)]
    fn class(&self, class: ClassId) -> Option<&ClassCache> {
        // SAFETY: the type's invariant.
        (class.index() < self.classes)
            .then(|| unsafe { self.block.of_kind(PieceKind::class(class.0)) })
    }

    /// A class that is served without the engine. (The heap's kind is a class that holds nothing.)
    #[inline(always)]
    fn quick_kind(&self, kind: PieceKind) -> Option<&ClassCache> {
        // SAFETY: the type's invariant.
        (usize::from(kind.0) <= self.quick).then(|| unsafe { self.block.of_kind(kind) })
    }

    /// A class that is served without the engine.
    #[inline(always)]
    fn quick_class(&self, class: ClassId) -> Option<&ClassCache> {
        self.quick_kind(PieceKind::class(class.0))
    }

    /// The smallest class that serves requests by size and whose slots can hold `size` bytes.
    #[inline(always)]
    fn class_of(&self, size: usize) -> Option<(ClassId, &ClassCache)> {
        let look = |id| self.class(id).map(|class| (to_usize(class.size), class.next_larger));
        let id = self.block.sizes().class_of(size, look)?;
        Some((id, self.class(id)?))
    }

    /// The class that serves a request without a class, if one does without much waste.
    #[inline(always)]
    fn class_for(&self, layout: Layout) -> Option<(ClassId, &ClassCache)> {
        let (id, class) = self.class_of(layout.size())?;
        (class.serves(layout.size()) && layout.align() <= class.align()).then_some((id, class))
    }

    /// The live slot that starts at an address, if it is one of a class that is served without the
    /// engine. `None`: something else, or in another region than the first; the slow path finds out.
    #[inline(always)]
    fn find(&self, addr: usize) -> Option<Found<'_>> {
        let piece = self.map.piece_of(addr)?;
        let class = self.quick_kind(piece.kind())?;
        self.find_in(piece, addr, class)
    }

    /// As [`find`](Self::find), in pools with flags too, and the class's number. The map's entry is verified:
    /// if it is damaged, or just being written, the engine sees to it.
    #[inline(always)]
    fn find_any(&self, addr: usize) -> Option<(ClassId, Found<'_>)> {
        let piece = self.map.piece_of(addr).filter(|piece| piece.is_intact())?;
        let id = ClassId(piece.kind().as_class()?);
        Some((id, self.find_in(piece, addr, self.class(id)?)?))
    }

    /// The live slot of a class, whose number is given too, that starts at an address.
    #[inline(always)]
    fn find_of<'c>(&self, addr: usize, id: ClassId, class: &'c ClassCache) -> Option<Found<'c>> {
        let slab = self.map.slab_at(addr, PieceKind::class(id.0))?;
        // SAFETY: the map says that it is a slab of this class.
        let slot = unsafe { self.live_in(slab, addr, class.grid()) }?;
        Some(Found { class, slot })
    }

    /// The live slot that starts at an address in a piece of a slab of the class.
    #[inline(always)]
    fn find_in<'c>(
        &self,
        piece: &PieceEntry,
        addr: usize,
        class: &'c ClassCache,
    ) -> Option<Found<'c>> {
        let slab = self.map.slab_of(piece)?;
        // SAFETY: the map says that the piece is in a slab of this class, or was when it was read.
        let slot = unsafe { self.live_in(slab, addr, class.grid()) }?;
        Some(Found { class, slot })
    }

    /// The live slot that starts at an address in a slab.
    ///
    /// # Safety
    /// The slab is, or was, of the class that this is the grid of.
    #[inline(always)]
    unsafe fn live_in(&self, slab: SlabPlace, addr: usize, grid: SlotGrid) -> Option<SlotRef> {
        let index = grid.slot_at(slab.offset_of(addr))?;
        // SAFETY: the caller's promise; the index is in range.
        let state = unsafe { StateByte::at(slab.states, index) };
        state.is_live().then(|| SlotRef { start: self.map.at(addr), state })
    }

    /// The live slot that starts at an address, if it is in the first region.
    ///
    /// # Safety
    /// There is such a slot, of this class, or the address is in another region.
    #[inline(always)]
    unsafe fn slot_at(&self, addr: usize, class: &ClassCache) -> Option<SlotRef> {
        let slab = self.map.piece_of(addr)?.slab();
        let index = class.grid().index_of(slab.offset_of(addr));
        // SAFETY: the caller's promise: the piece is in a slab of this class, and the index in range.
        let state = unsafe { StateByte::at(slab.states, index) };
        debug_assert!(state.is_live(), "{addr:#x} is not a live slot");
        Some(SlotRef { start: self.map.at(addr), state })
    }

    #[inline(always)]
    fn signals(&self) -> &Signals {
        // SAFETY: the type's invariant; region entries live as long as the pool.
        unsafe { &*self.signals }
    }

    #[inline(always)]
    fn releases(&self) -> &AtomicU32 {
        &self.signals().releases
    }

    /// Whether nobody needs what it holds. If somebody does, the way to the engine gives it back.
    fn may_keep(&self) -> bool {
        self.drains == self.signals().drains.load(Relaxed)
    }

    /// Allocates a slot of a class. O(1) without the lock; once per magazine, under the lock,
    /// O(slots of a magazine).
    #[inline(always)]
    pub(crate) fn alloc_fixed(
        &mut self,
        id: ClassId,
        engine: &mut impl Backing,
    ) -> Result<NonNull<u8>, AllocError> {
        match self.alloc_fixed_quick(id) {
            Some(slot) => Ok(slot),
            None => self.alloc_fixed_slow(id, engine),
        }
    }

    /// Allocates a slot of the smallest class that holds `size` bytes.
    #[inline(always)]
    pub(crate) fn alloc_slot(
        &mut self,
        size: usize,
        engine: &mut impl Backing,
    ) -> Result<NonNull<u8>, AllocError> {
        match self.alloc_slot_quick(size) {
            Some(slot) => Ok(slot),
            None => self.alloc_slot_slow(size, engine),
        }
    }

    /// Allocates a slot of the smallest class that holds `size` bytes if its loaded magazine has one.
    #[inline(always)]
    pub(crate) fn alloc_slot_quick(&self, size: usize) -> Option<NonNull<u8>> {
        let (id, _) = self.class_of(size)?;
        pop_live(self.quick_class(id)?, size)
    }

    /// As [`alloc_slot`](Self::alloc_slot), for what cannot be had in one step.
    #[cold]
    #[inline(never)]
    fn alloc_slot_slow(
        &mut self,
        size: usize,
        engine: &mut impl Backing,
    ) -> Result<NonNull<u8>, AllocError> {
        let class = engine.with(|engine| {
            engine.profile.count(size);
            let none = if size == 0 { AllocError::ZeroSize } else { AllocError::UnknownClass };
            engine.slabs.class_of(size).ok_or_else(|| engine.refuse(none))
        });
        self.alloc_slot_of(class?, Some(size), engine)
    }

    #[inline(never)]
    fn alloc_fixed_slow(
        &mut self,
        id: ClassId,
        engine: &mut impl Backing,
    ) -> Result<NonNull<u8>, AllocError> {
        match self.alloc_flagged(id, None) {
            Some(slot) => Ok(slot),
            None => self.alloc_fixed_whole(id, engine),
        }
    }

    /// The quick way in a pool with flags: allocates a slot of a class for an object of `size` bytes, or as large
    /// as the class has them, if the loaded magazine has one that is as it should be, or enough to choose from.
    /// `None` says nothing.
    #[inline(always)]
    fn alloc_flagged(&mut self, id: ClassId, size: Option<usize>) -> Option<NonNull<u8>> {
        if self.harden.is_off() || self.harden.profiles() {
            return None;
        }
        let random = self.harden.shuffles().then(|| self.random.next());
        let class = self.class(id)?;
        if let Some(random) = random {
            if class.has_few() {
                return None;
            }
            class.shuffle(random);
        }
        let slot = class.last()?;
        let (size, room) = (size.unwrap_or(to_usize(class.size)), to_usize(class.room));
        // SAFETY: a cached slot is nobody's, and that long.
        if !self.is_slot_of(id, class, slot) || !unsafe { self.harden.is_filled(slot.start, room) }
        {
            return None;
        }
        class.pop();
        Some(prepare(self.harden, slot, room, size))
    }

    #[inline(never)]
    fn alloc_fixed_whole(
        &mut self,
        id: ClassId,
        engine: &mut impl Backing,
    ) -> Result<NonNull<u8>, AllocError> {
        // A cache that does not know the class may not have heard that the pool counts.
        if self.harden.profiles() || self.class(id).is_none() {
            engine.with(|engine| engine.profile_class(id));
        }
        self.alloc_slot_of(id, None, engine)
    }

    /// Allocates a slot of a class for an object of `size` bytes, if not for one as large as the class
    /// has them.
    fn alloc_slot_of(
        &mut self,
        id: ClassId,
        size: Option<usize>,
        engine: &mut impl Backing,
    ) -> Result<NonNull<u8>, AllocError> {
        if let Some(slot) = self.pop_any(id, size, engine) {
            return Ok(slot);
        }
        engine.with(|engine| {
            let slot = self.ready_slot(id, size, engine).or_else(|error| {
                self.reclaim(error, engine);
                self.ready_slot(id, size, engine)
            });
            slot.inspect_err(|&error| engine.count_failure(Some(id), error))
        })
    }

    /// Allocates a slot of a class if one of the magazines has one.
    fn pop_any(
        &mut self,
        id: ClassId,
        size: Option<usize>,
        engine: &mut impl Backing,
    ) -> Option<NonNull<u8>> {
        loop {
            let random = self.harden.shuffles().then(|| self.random.next());
            let class = self.class(id)?;
            if class.is_empty() && self.may_keep() {
                class.load_left();
            }
            if random.is_some() && class.has_few() {
                let harden = engine.with(|engine| {
                    engine.top_up(id, class);
                    engine.harden()
                });
                self.harden = harden;
            }
            let class = self.class(id)?;
            if let Some(random) = random {
                class.shuffle(random);
            }
            let (size, room) = (size.unwrap_or(to_usize(class.size)), to_usize(class.room));
            let slot = class.pop()?;
            if !self.harden.is_off() && !self.is_cached(id, class, slot, engine) {
                continue;
            }
            match hand_out(self.harden, slot, room, size) {
                Ok(slot) => return Some(slot),
                Err(found) => engine.with(|engine| engine.set_aside(id, found)),
            }
        }
    }

    /// Whether what a magazine held is a cached slot of a class. If not, that is noted, and it is left alone.
    fn is_cached(
        &self,
        id: ClassId,
        class: &ClassCache,
        slot: SlotRef,
        engine: &mut impl Backing,
    ) -> bool {
        self.is_slot_of(id, class, slot) || engine.with(|engine| engine.is_cached(id, slot))
    }

    /// Whether what a magazine held is a cached slot of a class in the first region: the map and the
    /// magazine bear each other out. `false` says nothing.
    #[inline(always)]
    fn is_slot_of(&self, id: ClassId, class: &ClassCache, slot: SlotRef) -> bool {
        let addr = slot.start.addr();
        let Some(piece) = self.map.piece_of(addr) else { return false };
        let Some(index) = class.grid().slot_at(piece.offset_of(addr)) else { return false };
        if piece.kind() != PieceKind::class(id.0) {
            return false;
        }
        // SAFETY: as in `find_in`.
        let state = unsafe { StateByte::at(piece.states(), index) };
        state == slot.state && state.load() == SlotState::Cached as u8
    }

    /// Allocates a slot with the engine's help: from the depot, the slabs, or a new slab.
    fn ready_slot(
        &mut self,
        id: ClassId,
        size: Option<usize>,
        engine: &mut Engine,
    ) -> Result<NonNull<u8>, AllocError> {
        if id.index() >= engine.slabs.count() {
            let initialised = engine.store().first_region().is_some();
            return Err(if initialised {
                AllocError::UnknownClass
            } else {
                AllocError::NotInitialised
            });
        }
        self.sync(engine);
        loop {
            if let Some(class) = self.class(id)
                && (class.has_magazines() || engine.has_full(id))
                && engine.equip(id, class)
            {
                engine.refill(id, class)?;
                match self.pop_any(id, size, engine) {
                    Some(slot) => return Ok(slot),
                    // What it got was damaged.
                    None => continue,
                }
            }
            // Magazines only after there was a slot: a request that fails asks for no more memory.
            let direct = engine.take_slot(id)?;
            if let Some(class) = self.class(id) {
                engine.equip(id, class);
                // The slots beside it, before another cache gets them: their states share a line.
                engine.top_up(id, class);
            }
            let shape = engine.slabs.verified(id)?.shape;
            match hand_out(engine.harden(), direct, shape.room, size.unwrap_or(shape.size)) {
                Ok(slot) => return Ok(slot),
                Err(found) => engine.set_aside(id, found),
            }
        }
    }

    /// Allocates by layout with the engine's help: from the class that suits it, else (or if the
    /// class has no slot) from the heap.
    fn ready(&mut self, layout: Layout, engine: &mut Engine) -> Result<NonNull<u8>, AllocError> {
        // Its table of sizes is about to be used.
        self.check_block(engine);
        self.sync(engine);
        let id = self.class_for(layout).map(|(id, _)| id);
        if let Some(Ok(slot)) = id.map(|id| self.ready_slot(id, Some(layout.size()), engine)) {
            return Ok(slot);
        }
        engine.alloc_block(layout, Owner::Caller)
    }

    /// Makes available what lies idle and could help with an error: everything if memory has run
    /// out, the class's slots if it is at its limit. Other caches are asked to do the same if they
    /// hold any.
    fn reclaim(&mut self, error: AllocError, engine: &mut Engine) {
        let elsewhere = match error {
            AllocError::ClassLimit { class } => {
                engine.end_waiting(self.block);
                if let Some(cache) = self.class(class) {
                    engine.flush(class, cache);
                }
                engine.empty_depot(class);
                engine.cached(class) > 0
            }
            AllocError::OutOfMemory { .. }
            | AllocError::Fragmented { .. }
            | AllocError::Reserved { .. } => {
                self.flush(engine);
                engine.reclaim();
                engine.is_any_cached()
            }
            _ => false,
        };
        if elsewhere && let Some(signals) = engine.signals() {
            Signals::count(&signals.drains);
            self.drains = signals.drains.load(Relaxed);
        }
    }

    /// Brings the cache up to date: gives back everything if memory ran out somewhere since, and
    /// learns of classes that were added.
    #[inline]
    fn sync(&mut self, engine: &mut Engine) {
        if !self.may_keep() || self.classes != engine.slabs.count() {
            self.catch_up(engine);
        }
        self.harden = engine.harden();
    }

    /// Leaves the block and what it has alone if it is damaged.
    fn check_block(&mut self, engine: &mut Engine) {
        if !self.block.is_none() && !self.block.is_intact() {
            self.abandon(engine);
        }
    }

    #[cold]
    fn abandon(&mut self, engine: &mut Engine) {
        let addr = self.block.link().addr();
        engine.note_damage(Corruption { addr, kind: CorruptionKind::Table });
        if self.shared {
            engine.shared = core::ptr::null_mut();
        }
        *self = Self { harden: self.harden, ..Self::with_use(self.shared) };
    }

    #[cold]
    fn catch_up(&mut self, engine: &mut Engine) {
        self.check_block(engine);
        if !self.may_keep() {
            self.flush(engine);
            self.drains = self.signals().drains.load(Relaxed);
            if self.quick > 0 && !engine.harden().is_off() {
                // The pool has begun to count sizes.
                self.close(engine);
            }
        }
        if self.classes != engine.slabs.count() {
            self.renew(engine);
        }
    }

    /// Replaces the block by one for all classes there are now. Without memory for it the cache
    /// goes on with the classes it knows.
    fn renew(&mut self, engine: &mut Engine) {
        let Some(block) = CacheBlockRef::new(engine) else { return };
        self.close(engine);
        let (Some(first), Some(signals)) = (engine.store().first_region(), engine.signals()) else {
            return;
        };
        (self.signals, self.map) = (signals, *first.map());
        self.drains = self.signals().drains.load(Relaxed);
        self.block = block;
        self.classes = block.count();
        self.quick = if engine.harden().is_off() { self.classes } else { 0 };
        self.random = Random::new(engine.harden().seed(block.link().addr()));
        if self.shared {
            engine.shared = block.link();
        }
    }

    /// Gives back every cached slot, and lets others have the engine after each magazine.
    fn flush(&self, engine: &mut impl Backing) {
        self.end_waiting(engine);
        for (id, class) in self.all_classes() {
            while class.has_magazines() && engine.with(|engine| engine.flush_one(id, class)) {}
        }
    }

    /// As [`flush`](Self::flush) while the owner has nothing to do: what others take over whole they find
    /// whole, and up to two empty magazines of a class stay.
    pub(crate) fn rest(&self, engine: &mut impl Backing) {
        self.end_waiting(engine);
        for (id, class) in self.all_classes() {
            while class.has_surplus() && engine.with(|engine| engine.hand_over_one(id, class)) {}
        }
    }

    fn end_waiting(&self, engine: &mut impl Backing) {
        if self.harden.quarantines() {
            engine.with(|engine| engine.end_waiting(self.block));
        }
    }

    fn all_classes(&self) -> impl Iterator<Item = (ClassId, &ClassCache)> {
        (0..u8::MAX).map(ClassId).map_while(|id| Some((id, self.class(id)?)))
    }

    /// Gives back everything, the block included. The cache can be used again.
    pub(crate) fn close(&mut self, engine: &mut impl Backing) {
        if self.block.is_none() {
            return;
        }
        self.flush(engine);
        engine.with(|engine| {
            if self.shared {
                engine.shared = core::ptr::null_mut();
            }
            self.block.end(engine);
        });
        *self = Self { harden: self.harden, ..Self::with_use(self.shared) };
    }

    /// Allocates by layout: from a class that suits it, else (or if the class has no slot left)
    /// from the heap under the lock.
    #[inline(always)]
    pub(crate) fn alloc(
        &mut self,
        layout: Layout,
        engine: &mut impl Backing,
    ) -> Result<NonNull<u8>, AllocError> {
        match self.alloc_quick_layout(layout) {
            Some(slot) => Ok(slot),
            None => self.alloc_slow(layout, engine),
        }
    }

    /// Allocates by layout if the loaded magazine of the class that suits it has a slot.
    #[inline(always)]
    pub(crate) fn alloc_quick_layout(&self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.align() <= MIN_GRANULE {
            self.alloc_quick(layout.size())
        } else {
            let (id, _) = self.class_for(layout)?;
            pop_live(self.quick_class(id)?, layout.size())
        }
    }

    /// Allocates by size if its class is found in one step, and has a slot in the loaded magazine;
    /// aligned to the smallest granule at least.
    #[inline(always)]
    pub(crate) fn alloc_quick(&self, size: usize) -> Option<NonNull<u8>> {
        self.serving(size).and_then(|class| pop_live(class, size))
    }

    /// As [`alloc_quick`](Self::alloc_quick), for any alignment that the slots of the class have.
    #[cfg(feature = "std")]
    #[inline(always)]
    pub(crate) fn alloc_quick_aligned(&self, layout: Layout) -> Option<NonNull<u8>> {
        let class = self.serving(layout.size())?;
        if layout.align() <= class.align() { pop_live(class, layout.size()) } else { None }
    }

    /// What requests of a size are served from, if it is found in one step or two.
    #[inline(always)]
    fn serving(&self, size: usize) -> Option<&ClassCache> {
        self.block.serving(size).or_else(|| self.serving_large(size))
    }

    /// What requests of a size that the table of small ones does not know are served from, if that is one
    /// of the first two classes that come into question: all of them where classes are an eighth apart.
    #[inline(always)]
    fn serving_large(&self, size: usize) -> Option<&ClassCache> {
        let first = self.quick_kind(self.block.sizes().start_for_large(size)?)?;
        if size <= to_usize(first.size) {
            return first.serves(size).then_some(first);
        }
        self.quick_kind(PieceKind::class(first.next_larger)).filter(|next| next.serves(size))
    }

    /// Allocates a slot of a class if the loaded magazine has one.
    #[inline(always)]
    pub(crate) fn alloc_fixed_quick(&self, id: ClassId) -> Option<NonNull<u8>> {
        self.quick_class(id).and_then(|class| pop_live(class, to_usize(class.size)))
    }

    #[cold]
    #[inline(never)]
    fn alloc_slow(
        &mut self,
        layout: Layout,
        engine: &mut impl Backing,
    ) -> Result<NonNull<u8>, AllocError> {
        let knows = self.harden.profiles();
        if knows {
            engine.with(|engine| engine.profile.count(layout.size()));
        }
        let class = self.class_for(layout).map(|(id, _)| id);
        if let Some(id) = class
            && let size = Some(layout.size())
            && let Some(slot) =
                self.alloc_flagged(id, size).or_else(|| self.pop_any(id, size, engine))
        {
            return Ok(slot);
        }
        engine.with(|engine| {
            if engine.is_plain() {
                return engine.alloc_uncached(layout);
            }
            if !knows {
                // A new cache has not heard that the pool counts.
                engine.profile.count(layout.size());
            }
            let block = self.ready(layout, engine).or_else(|error| {
                self.reclaim(error, engine);
                self.ready(layout, engine)
            });
            let id = self.class_for(layout).map(|(id, _)| id);
            block.inspect_err(|&error| engine.count_failure(id, error))
        })
    }

    /// Frees a block or slot, which must be of the expected class if one is given.
    #[inline(always)]
    pub(crate) fn free(
        &mut self,
        pointer: NonNull<u8>,
        expected: Option<ClassId>,
        engine: &mut impl Backing,
    ) -> Result<(), FreeError> {
        if self.free_quick(pointer.addr().get(), expected) {
            return Ok(());
        }
        self.free_slow(pointer, expected, engine)
    }

    /// Frees the slot at an address, of the expected class if one is given, if the loaded magazine has
    /// room for it.
    #[inline(always)]
    pub(crate) fn free_quick(&self, addr: usize, expected: Option<ClassId>) -> bool {
        let Some(id) = expected else {
            return self.find(addr).is_some_and(|found| found.class.push(found.slot));
        };
        let Some(class) = self.quick_class(id) else { return false };
        class.push_popped(addr, self.releases())
            || self.find_of(addr, id, class).is_some_and(|found| class.push(found.slot))
    }

    /// Frees a slot of a class without looking whether it is one. What the engine has to see to is checked
    /// all the same.
    ///
    /// # Safety
    /// It is a live slot of this class, which nobody uses any more.
    #[inline(always)]
    pub(crate) unsafe fn free_fixed_unchecked(
        &mut self,
        id: ClassId,
        pointer: NonNull<u8>,
        engine: &mut impl Backing,
    ) {
        let addr = pointer.addr().get();
        let pushed = self.quick_class(id).is_some_and(|class| {
            class.push_popped(addr, self.releases())
                // SAFETY: the caller's promise.
                || unsafe { self.slot_at(addr, class) }.is_some_and(|slot| class.push(slot))
        });
        if !pushed {
            // A refusal is counted and reported there.
            let _ = self.free_slow(pointer, Some(id), engine);
        }
    }

    /// Frees a block or slot if its layout can be the one that is stated. If `where_exact`, that is
    /// looked at only in pools that know their objects' sizes to the byte.
    pub(crate) fn free_sized(
        &mut self,
        pointer: NonNull<u8>,
        layout: Layout,
        where_exact: bool,
        engine: &mut impl Backing,
    ) -> Result<(), FreeError> {
        let addr = pointer.addr().get();
        let matters = |harden: Harden| harden.seals() || !where_exact;
        let Some((_, Found { class, slot })) = self.find_any(addr) else {
            return engine.with(|engine| {
                engine.counted(|engine| {
                    if matters(engine.harden()) {
                        check_layout(engine, pointer, layout)?;
                    }
                    self.free_to(pointer, None, engine)
                })
            });
        };
        let (room, size) = (to_usize(class.room), to_usize(class.size));
        if matters(self.harden)
            && let Ok(usable) = check(self.harden, slot, room)
        {
            let fits = Held::slot(room, size, usable).can_be(self.harden, addr, layout);
            fits.or_else(|error| engine.with(|engine| engine.counted(|_| Err(error))))?;
        }
        self.free(pointer, None, engine)
    }

    /// Frees a slot of whatever class; blocks of the heap are refused.
    #[inline(always)]
    pub(crate) fn free_slot(
        &mut self,
        pointer: NonNull<u8>,
        engine: &mut impl Backing,
    ) -> Result<(), FreeError> {
        let addr = pointer.addr().get();
        let known = self.map.piece_of(addr).and_then(|piece| piece.kind().as_class());
        let class = match known {
            Some(class) => ClassId(class),
            None => class_at(addr, engine),
        };
        self.free(pointer, Some(class), engine)
    }

    #[inline(never)]
    fn free_slow(
        &mut self,
        pointer: NonNull<u8>,
        expected: Option<ClassId>,
        engine: &mut impl Backing,
    ) -> Result<(), FreeError> {
        if self.free_flagged(pointer.addr().get(), expected) {
            return Ok(());
        }
        self.free_whole(pointer, expected, engine)
    }

    /// The quick way in a pool with flags where nothing waits: frees the slot at an address, if the loaded magazine
    /// has room for it and nothing is amiss. `false`: nothing has changed.
    #[inline(always)]
    fn free_flagged(&self, addr: usize, expected: Option<ClassId>) -> bool {
        if self.harden.is_off() || self.harden.quarantines() {
            return false;
        }
        let Some((id, Found { class, slot })) = self.find_any(addr) else { return false };
        if class.is_full() || expected.is_some_and(|expected| expected != id) {
            return false;
        }
        let room = to_usize(class.room);
        // SAFETY: a live slot that long.
        let Some(size) = (unsafe { self.harden.intact_size(slot.start, room) }) else {
            return false;
        };
        clear(self.harden, slot, room, size);
        class.push(slot)
    }

    #[inline(never)]
    fn free_whole(
        &mut self,
        pointer: NonNull<u8>,
        expected: Option<ClassId>,
        engine: &mut impl Backing,
    ) -> Result<(), FreeError> {
        let releases = self.releases().load(Acquire);
        if let Some((id, Found { class, slot })) = self.find_any(pointer.addr().get())
            && expected.is_none_or(|expected| expected == id)
            && let room = to_usize(class.room)
            && let Ok(size) = check(self.harden, slot, room)
        {
            let freed = Freed { class: id, slot, room, size };
            if self.keep(freed, engine) {
                return Ok(());
            }
            return engine.with(|engine| {
                engine.counted(|engine| {
                    let is_same_slab = self.releases().load(Relaxed) == releases;
                    if is_same_slab && slot.state.is_live() {
                        return self.give(freed, engine);
                    }
                    // Somebody else may have freed it just now.
                    self.free_to(pointer, expected, engine)
                })
            });
        }
        engine.with(|engine| engine.counted(|engine| self.free_to(pointer, expected, engine)))
    }

    /// Has a slot wait, or puts it into a magazine that has room.
    fn keep(&mut self, freed: Freed, engine: &mut impl Backing) -> bool {
        let Freed { class: id, slot, room, size } = freed;
        let block = self.block;
        if let Some(waiting) = block.waiting_for(to_u32(room)) {
            clear(self.harden, slot, room, size);
            let left = waiting.admit(WaitingSlot::new(slot, to_u32(room), id), &mut self.random);
            self.end_quarantine(left, engine);
            return true;
        }
        let Some(class) = self.class(id) else { return false };
        if !self.has_room(class) {
            return false;
        }
        clear(self.harden, slot, room, size);
        class.push(slot)
    }

    /// Whether the loaded magazine of a class has room, or the one beside it, which is loaded then.
    fn has_room(&self, class: &ClassCache) -> bool {
        !class.is_full() || self.may_keep() && class.load_right()
    }

    /// As [`keep`](Self::keep), with the engine's help, or gives it back.
    fn give(&mut self, freed: Freed, engine: &mut Engine) -> Result<(), FreeError> {
        self.sync(engine);
        if self.keep(freed, engine) {
            return Ok(());
        }
        let Freed { class: id, slot, room, size } = freed;
        let class = self.class(id);
        if let Some(class) = class {
            engine.spill(id, class)?;
        }
        clear(engine.harden(), slot, room, size);
        if class.is_some_and(|class| class.push(slot)) {
            return Ok(());
        }
        engine.free_slot(id, slot)
    }

    /// Makes what left for something else ready again, and what has to leave because too much waits.
    #[inline]
    fn end_quarantine(&mut self, left: Option<WaitingSlot>, engine: &mut impl Backing) {
        let mut left = left.or_else(|| self.block.take_surplus(&mut self.random));
        while let Some(waited) = left {
            match waited.end(self.harden) {
                Ok(slot) if self.push_ready(waited.class, slot) => {}
                ended => engine.with(|engine| self.make_ready(waited.class, ended, engine)),
            }
            left = self.block.take_surplus(&mut self.random);
        }
    }

    /// Makes a slot that has waited ready with the engine's help, or has it set aside.
    #[cold]
    #[inline(never)]
    fn make_ready(
        &mut self,
        id: ClassId,
        waited: Result<SlotRef, Corruption>,
        engine: &mut Engine,
    ) {
        self.sync(engine);
        match waited {
            Ok(slot) => engine.make_ready(id, slot, self.class(id)),
            Err(found) => engine.set_aside(id, found),
        }
    }

    /// Makes a slot ready if one of its class's magazines has room.
    fn push_ready(&self, id: ClassId, slot: SlotRef) -> bool {
        let Some(class) = self.class(id) else { return false };
        self.has_room(class) && class.push(slot)
    }

    /// Frees with the engine's help, or finds out what is wrong with the pointer.
    fn free_to(
        &mut self,
        pointer: NonNull<u8>,
        expected: Option<ClassId>,
        engine: &mut Engine,
    ) -> Result<(), FreeError> {
        let addr = pointer.addr().get();
        let Some(slot) = live_slot(engine, addr)? else {
            if !engine.harden().is_off() || expected.is_some() {
                engine.store().measure(pointer.as_ptr())?;
            }
            if expected.is_some() {
                return Err(FreeError::WrongClass { addr, actual: None });
            }
            return engine.free_block(pointer);
        };
        if expected.is_some_and(|class| class != slot.class) {
            return Err(FreeError::WrongClass { addr, actual: Some(slot.class) });
        }
        let size = check(engine.harden(), slot.at, slot.room)?;
        self.give(Freed { class: slot.class, slot: slot.at, room: slot.room, size }, engine)
    }

    /// Allocates `out.len()` slots of a class, or none. O(`out.len()`), plus the lock once per
    /// magazine.
    #[inline]
    pub(crate) fn alloc_bulk(
        &mut self,
        id: ClassId,
        out: &mut [MaybeUninit<NonNull<u8>>],
        engine: &mut impl Backing,
    ) -> Result<(), AllocError> {
        let filled = self.quick_class(id).map_or(0, |class| class.pop_into(out));
        if filled == out.len() {
            return Ok(());
        }
        self.alloc_bulk_slow(id, out, filled, engine)
    }

    /// Goes on with a bulk of which the first `filled` have been allocated.
    #[cold]
    #[inline(never)]
    fn alloc_bulk_slow(
        &mut self,
        id: ClassId,
        out: &mut [MaybeUninit<NonNull<u8>>],
        mut filled: usize,
        engine: &mut impl Backing,
    ) -> Result<(), AllocError> {
        while filled < out.len() {
            if self.load_more(id, engine) {
                filled +=
                    self.quick_class(id).map_or(0, |class| class.pop_into(&mut out[filled..]));
                continue;
            }
            match self.alloc_fixed_slow(id, engine) {
                Ok(slot) => _ = out[filled].write(slot),
                Err(error) => {
                    for slot in &out[..filled] {
                        // SAFETY: the first `filled` have been written.
                        let freed = self.free(unsafe { slot.assume_init() }, Some(id), engine);
                        debug_assert!(freed.is_ok(), "{freed:?}");
                    }
                    return Err(error);
                }
            }
            filled += 1;
        }
        Ok(())
    }

    /// Sees to it that the loaded magazine of a class that is served without the engine has slots: from the row,
    /// the depot, or the slabs. `false` says nothing.
    fn load_more(&mut self, id: ClassId, engine: &mut impl Backing) -> bool {
        match self.quick_class(id) {
            None => return false,
            Some(class) if !class.is_empty() => return true,
            Some(class) if self.may_keep() && class.load_left() => return !class.is_empty(),
            Some(_) => {}
        }
        engine.with(|engine| {
            self.sync(engine);
            let Some(class) = self.quick_class(id) else { return false };
            let can = class.has_magazines() && engine.equip(id, class);
            can && engine.refill(id, class).is_ok() && !class.is_empty()
        })
    }

    /// Frees slots of a class from the front, up to the first that cannot be freed.
    #[inline]
    pub(crate) fn free_bulk(
        &mut self,
        id: ClassId,
        pointers: &[NonNull<u8>],
        engine: &mut impl Backing,
    ) -> Result<(), BulkFreeError> {
        self.free_bulk_by(id, pointers, engine, Self::push_from)
    }

    /// As [`free_bulk`](Self::free_bulk), without looking whether they are slots of the class. What the
    /// engine has to see to is checked all the same.
    ///
    /// # Safety
    /// They are live slots of this class, which nobody uses any more.
    #[inline]
    pub(crate) unsafe fn free_bulk_unchecked(
        &mut self,
        id: ClassId,
        pointers: &[NonNull<u8>],
        engine: &mut impl Backing,
    ) {
        // SAFETY: the caller's promise.
        let push = |this: &Self, id, next: &[_]| unsafe { this.push_unchecked(id, next) };
        let mut rest = pointers;
        // A refusal is counted and reported.
        while let Err(refused) = self.free_bulk_by(id, rest, engine, push) {
            rest = &rest[refused.freed + 1..];
        }
    }

    /// Frees a bulk; `push` moves slots from its front to the loaded magazine, and says how many.
    #[inline(always)]
    fn free_bulk_by(
        &mut self,
        id: ClassId,
        pointers: &[NonNull<u8>],
        engine: &mut impl Backing,
        push: impl Fn(&Self, ClassId, &[NonNull<u8>]) -> usize,
    ) -> Result<(), BulkFreeError> {
        let popped = match self.quick_class(id) {
            Some(class) if pointers.len() <= class.room() => {
                class.push_all_popped(pointers, self.releases())
            }
            _ => 0,
        };
        if popped == pointers.len() {
            return Ok(());
        }
        self.free_bulk_slow(id, pointers, popped, engine, push)
    }

    /// Goes on with a bulk of which the first `freed` have been freed.
    #[inline(never)]
    fn free_bulk_slow(
        &mut self,
        id: ClassId,
        pointers: &[NonNull<u8>],
        mut freed: usize,
        engine: &mut impl Backing,
        push: impl Fn(&Self, ClassId, &[NonNull<u8>]) -> usize,
    ) -> Result<(), BulkFreeError> {
        // A refusal changes nothing: no magazines for what starts with a wrong pointer.
        if let (Some(class), Some(next)) = (self.quick_class(id), pointers.get(freed))
            && self.find_of(next.addr().get(), id, class).is_some()
        {
            class.make_room_for(pointers.len() - freed);
        }
        loop {
            freed += push(self, id, &pointers[freed..]);
            let Some(&next) = pointers.get(freed) else { return Ok(()) };
            if !self.make_room(id, next.addr().get(), engine) {
                self.free_slow(next, Some(id), engine)
                    .map_err(|error| BulkFreeError { freed, error })?;
                freed += 1;
            }
        }
    }

    /// Makes room in the loaded magazine of a class that is served without the engine, if that is full and
    /// there is a live slot of the class at an address. `false` says nothing.
    fn make_room(&mut self, id: ClassId, addr: usize, engine: &mut impl Backing) -> bool {
        match self.quick_class(id) {
            Some(class) if class.is_full() && self.find_of(addr, id, class).is_some() => {
                if self.may_keep() && class.load_right() {
                    return true;
                }
            }
            _ => return false,
        }
        engine.with(|engine| {
            self.sync(engine);
            let Some(class) = self.quick_class(id) else { return false };
            if let Err(found) = engine.spill(id, class) {
                engine.note_damage(found);
            }
            !class.is_full()
        })
    }

    /// Moves live slots of a class from the front of `pointers` to the loaded magazine, while there is
    /// room and up to the first that is something else. Returns how many.
    #[inline]
    fn push_from(&self, id: ClassId, pointers: &[NonNull<u8>]) -> usize {
        let Some(class) = self.quick_class(id) else { return 0 };
        let (map, kind, grid) = (self.map, PieceKind::class(id.0), class.grid());
        let first = pointers.first().map_or(0, |first| first.addr().get());
        let together = map.slab_at(first, kind).map_or(0, |slab| {
            // As long as they are in the first one's slab, it need not be looked for. What is 4 GiB away has
            // the same offset in it.
            let start = first.wrapping_sub(to_usize(slab.offset_of(first)));
            class.push_found(pointers, |addr| {
                u32::try_from(addr.wrapping_sub(start)).ok()?;
                // SAFETY: the map says that it is a slab of this class; it stays one while its first slot
                // is held.
                unsafe { self.live_in(slab, addr, grid) }
            })
        });
        together
            + class.push_found(&pointers[together..], |addr| {
                let slab = map.slab_at(addr, kind)?;
                // SAFETY: the map says that it is a slab of this class.
                unsafe { self.live_in(slab, addr, grid) }
            })
    }

    /// As [`push_from`](Self::push_from), without looking whether they are slots of the class; up to the
    /// first that is in another region.
    ///
    /// # Safety
    /// They are live slots of this class, which nobody uses any more.
    #[inline]
    unsafe fn push_unchecked(&self, id: ClassId, pointers: &[NonNull<u8>]) -> usize {
        let Some(class) = self.quick_class(id) else { return 0 };
        // SAFETY: the caller's promise.
        class.push_found(pointers, |addr| unsafe { self.slot_at(addr, class) })
    }

    /// Allocates only from what is ready: nothing is reclaimed for it, and a failure not counted.
    fn alloc_ready(&mut self, layout: Layout, engine: &mut impl Backing) -> Option<NonNull<u8>> {
        if let Some((id, _)) = self.class_for(layout)
            && let Some(slot) = self.pop_any(id, Some(layout.size()), engine)
        {
            return Some(slot);
        }
        engine.with(|engine| self.ready(layout, engine).ok())
    }

    /// Resizes where it is, or moves. On failure the old block stays.
    ///
    /// # Safety
    /// `pointer` is not used any more if this succeeds; its contents may be read.
    pub(crate) unsafe fn realloc(
        &mut self,
        pointer: NonNull<u8>,
        align: usize,
        new_size: usize,
        engine: &mut impl Backing,
    ) -> Result<NonNull<u8>, ReallocError> {
        // SAFETY: the caller's promise.
        unsafe { realloc(&mut Through { cache: self, engine }, pointer, align, new_size) }
    }

    /// What the caller holds at a pointer, if it is live. O(1), without the lock for slots.
    fn held(&self, pointer: NonNull<u8>, engine: &mut impl Backing) -> Result<Held, FreeError> {
        match self.find(pointer.addr().get()) {
            Some(Found { class, .. }) => {
                let size = to_usize(class.size);
                Ok(Held::slot(to_usize(class.room), size, size))
            }
            None => engine.with(|engine| engine.counted(|engine| held(engine, pointer))),
        }
    }

    /// Usable bytes of a live block or slot. O(1), without the lock for slots.
    pub(crate) fn usable_size(
        &self,
        pointer: NonNull<u8>,
        engine: &mut impl Backing,
    ) -> Result<usize, FreeError> {
        match self.find(pointer.addr().get()) {
            Some(found) => Ok(to_usize(found.class.size)),
            None => engine.with(|engine| {
                let held = held(engine, pointer).inspect_err(|&error| engine.note_refusal(error));
                held.map(|held| held.usable)
            }),
        }
        .inspect(|&usable| asan::open(pointer.as_ptr(), usable))
    }

    /// Resizes where it is; `false` if that cannot be. A slot stays what it is.
    fn resize(
        &self,
        pointer: NonNull<u8>,
        held: &Held,
        new_size: usize,
        engine: &mut impl Backing,
    ) -> Result<bool, FreeError> {
        if held.is_slot && self.quick > 0 {
            let fits = new_size <= held.limit;
            if fits {
                asan::fit(pointer.as_ptr(), new_size, held.limit);
            }
            return Ok(fits);
        }
        engine.with(|engine| engine.counted(|engine| resize(engine, pointer, held, new_size)))
    }
}

/// Makes a cached slot, or one on its way there, a live object of `size` bytes; not if it was written to
/// while it was free: then it is marked.
#[inline]
fn hand_out(
    harden: Harden,
    slot: SlotRef,
    room: usize,
    size: usize,
) -> Result<NonNull<u8>, Corruption> {
    if harden.is_off() {
        return Ok(slot.hand_out(size));
    }
    check_free(harden, slot, room)?;
    Ok(prepare(harden, slot, room, size))
}

/// Prepares a slot that nobody wrote to for an object of `size` bytes, and marks it live.
#[inline]
pub(crate) fn prepare(harden: Harden, slot: SlotRef, room: usize, size: usize) -> NonNull<u8> {
    // SAFETY: the slot is nobody's, and that long.
    unsafe { harden.hand_out(slot.start, room, size) };
    // Whoever sees it live sees what stands behind it.
    fence(Release);
    slot.hand_out(size)
}

/// The size of the object in a live slot, if nobody wrote past its end.
#[inline]
fn check(harden: Harden, slot: SlotRef, room: usize) -> Result<usize, FreeError> {
    if harden.is_off() {
        return Ok(room);
    }
    // SAFETY: a live slot that long.
    unsafe { harden.size_of(slot.start, room) }
}

/// Marks a slot that was given up cached, and makes it what the flags ask for; an object of `size` bytes
/// was in it.
#[inline]
pub(crate) fn clear(harden: Harden, slot: SlotRef, room: usize, size: usize) {
    if harden.treats_free() {
        slot.state.store(SlotState::Cached);
        fence(Release);
        // SAFETY: nobody uses the slot any more.
        unsafe { harden.fill_free(slot.start, room, size) };
    }
}

/// Takes a slot out of the loaded magazine, if there is one, and marks it live, for an object of `size` bytes.
#[inline(always)]
fn pop_live(class: &ClassCache, size: usize) -> Option<NonNull<u8>> {
    class.pop().map(|slot| slot.hand_out(size))
}

/// Resizes through a cache.
struct Through<'c, B> {
    cache: &'c mut CacheCore,
    engine: &'c mut B,
}

impl<B: Backing> Mover for Through<'_, B> {
    fn held(&mut self, pointer: NonNull<u8>) -> Result<Held, FreeError> {
        self.cache.held(pointer, self.engine)
    }

    fn alloc(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        self.cache.alloc(layout, self.engine)
    }

    fn alloc_ready(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.cache.alloc_ready(layout, self.engine)
    }

    fn resize(
        &mut self,
        pointer: NonNull<u8>,
        held: &Held,
        new_size: usize,
    ) -> Result<bool, FreeError> {
        self.cache.resize(pointer, held, new_size, self.engine)
    }

    fn slide(
        &mut self,
        pointer: NonNull<u8>,
        held: &Held,
        new: Layout,
    ) -> Result<Option<NonNull<u8>>, FreeError> {
        self.engine.with(|engine| engine.counted(|engine| slide(engine, pointer, held, new)))
    }

    fn free(&mut self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        self.cache.free(pointer, None, self.engine)
    }

    fn refuse(&mut self, size: usize) -> AllocError {
        self.engine.with(|engine| engine.shortage(size))
    }
}

/// Whether the layout of the object at a pointer, which is live, can be this one.
fn check_layout(engine: &Engine, pointer: NonNull<u8>, layout: Layout) -> Result<(), FreeError> {
    let (addr, held) = (pointer.addr().get(), held(engine, pointer)?);
    if held.is_slot {
        return held.can_be(engine.harden(), addr, layout);
    }
    held.can_be_in(engine.store(), addr, layout)
}

/// What the caller of a realloc or look-up holds at a pointer, if it is live.
fn held(engine: &Engine, pointer: NonNull<u8>) -> Result<Held, FreeError> {
    let addr = pointer.addr().get();
    let Some(slot) = live_slot(engine, addr)? else {
        return engine.block_held(pointer);
    };
    let usable = check(engine.harden(), slot.at, slot.room)?;
    Ok(Held::slot(slot.room, slot.size, usable))
}

/// The class that an address belongs to, or a number that no class has.
#[cold]
fn class_at(addr: usize, engine: &mut impl Backing) -> ClassId {
    let slot = engine.with(|engine| match engine.store().first_region() {
        Some(_) => engine.slabs.slot_at(addr).ok().flatten(),
        None => None,
    });
    slot.map_or(ClassId(u8::MAX), |slot| slot.class)
}

/// Resizes a block where it is; `false` if that cannot be. In a pool with flags one that shrinks keeps
/// its room, so that no part of it leaves the caller's hands without what the flags ask for.
fn resize(
    engine: &mut Engine,
    pointer: NonNull<u8>,
    held: &Held,
    new_size: usize,
) -> Result<bool, FreeError> {
    let harden = engine.harden();
    let room = if new_size <= held.limit && (held.is_slot || !harden.is_off()) {
        held.room
    } else if held.is_slot {
        return Ok(false);
    } else {
        let Some(need) = new_size.checked_add(harden.overhead()) else { return Ok(false) };
        let Some(room) = engine.resize_block(pointer, need)? else { return Ok(false) };
        room
    };
    // SAFETY: the block is the caller's, who waits, and has that much room.
    unsafe { harden.resize(pointer.as_ptr(), room, held.usable, new_size) };
    asan::fit(pointer.as_ptr(), new_size, room);
    Ok(true)
}

/// The last that can be done for a heap block for which there is no other place: grows it downwards; or, in
/// a pool with flags, where what it would leave behind had to be kept, upwards, into what has waited there
/// until memory ran out.
fn slide(
    engine: &mut Engine,
    pointer: NonNull<u8>,
    held: &Held,
    new: Layout,
) -> Result<Option<NonNull<u8>>, FreeError> {
    if held.is_slot {
        return Ok(None);
    }
    if !engine.harden().is_off() {
        let is_aligned = pointer.addr().get() & (new.align() - 1) == 0;
        let grown = is_aligned && resize(engine, pointer, held, new.size())?;
        return Ok(grown.then_some(pointer));
    }
    engine.slide_block(pointer, new.size(), new.align())
}

/// The live slot at an address; `Ok(None)` if the address is in the heap's part of a region.
fn live_slot(engine: &Engine, addr: usize) -> Result<Option<Slot>, FreeError> {
    if engine.store().first_region().is_none() {
        return Err(FreeError::NotInitialised);
    }
    let slot = engine.slabs.slot_at(addr)?;
    match slot.map(|slot| SlotState::from_byte(slot.state)) {
        None | Some(Some(SlotState::Live)) => Ok(slot),
        Some(Some(SlotState::Free | SlotState::Cached | SlotState::Damaged)) => {
            Err(FreeError::NotLive { addr })
        }
        Some(None) => Err(FreeError::Corrupted { addr }),
    }
}
