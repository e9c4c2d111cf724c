#![allow(unsafe_code)] // hands out slots and keeps its block in the region
//! A local cache: one thread's, core's or task's magazines, used without lock or atomic
//! read-modify-write.
//!
//! What it does without the engine is inlined into its callers; everything else is behind one
//! `#[cold]` call per operation.

use core::{
    alloc::Layout,
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering::Release, fence},
};

use super::{block::CacheBlockRef, class_cache::ClassCache, engine::Engine};
use crate::{
    config::ClassId,
    error::{AllocError, BulkFreeError, Corruption, FreeError, ReallocError},
    harden::Harden,
    heap::Owner,
    slab::{
        PieceEntry, PieceKind, SizeTable, SlabMap, SlabShape, Slot, SlotRef, SlotState, StateByte,
        least_request,
    },
    units::{MIN_GRANULE, WORD, to_usize},
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

/// What a cache without a block counts.
static NO_RELEASES: AtomicU32 = AtomicU32::new(0);

/// What a local cache is made of; the public handles wrap it.
///
/// Invariants: `block` is this cache's own, listed block, or none; `quick` is its count of classes or
/// 0; with a block, `map` is the first region's map and `releases` leads to its count.
#[derive(Debug)]
pub(crate) struct CacheCore {
    map: SlabMap,
    block: CacheBlockRef,
    /// Classes that are served without the engine: all of them, or none in a pool with flags.
    quick: usize,
    releases: *const AtomicU32,
    harden: Harden,
    /// State of the generator that slots are shuffled with.
    random: usize,
    drain: u32,
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
            quick: 0,
            releases: &raw const NO_RELEASES,
            harden: Harden::NONE,
            random: 1,
            drain: 0,
            shared,
            _own: PhantomData,
        }
    }

    #[inline(always)]
    fn class(&self, class: ClassId) -> Option<&ClassCache> {
        self.block.class_caches().get(class.index())
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
        let suits =
            layout.size() >= least_request(to_usize(class.size)) && layout.align() <= class.align();
        suits.then_some((id, class))
    }

    /// The live slot that starts at an address, if it is one of a class that is served without the
    /// engine. `None`: something else, or in another region than the first; the slow path finds out.
    #[inline(always)]
    fn find(&self, addr: usize) -> Option<Found<'_>> {
        let piece = self.map.piece_of(addr)?;
        let class = self.quick_kind(piece.kind())?;
        self.find_in(piece, addr, class)
    }

    /// As [`find`](Self::find), in pools with flags too.
    fn find_any(&self, addr: usize) -> Option<Found<'_>> {
        let piece = self.map.piece_of(addr)?;
        let class = self.class(ClassId(piece.kind().as_class()?))?;
        self.find_in(piece, addr, class)
    }

    /// The live slot of a class, whose number is given too, that starts at an address.
    #[inline(always)]
    fn find_of<'c>(&self, addr: usize, id: ClassId, class: &'c ClassCache) -> Option<Found<'c>> {
        let piece = self.map.piece_of(addr)?;
        if piece.kind() != PieceKind::class(id.0) {
            return None;
        }
        self.find_in(piece, addr, class)
    }

    /// The live slot that starts at an address in a piece of a slab of the class.
    #[inline(always)]
    fn find_in<'c>(
        &self,
        piece: &PieceEntry,
        addr: usize,
        class: &'c ClassCache,
    ) -> Option<Found<'c>> {
        let index = class.slot_at(piece.offset_of(addr))?;
        // SAFETY: the map says that the piece is in a slab of this class, or was when it was read,
        // so these states are that slab's, and the index is in range.
        let state = unsafe { StateByte::at(piece.states(), index) };
        let slot = SlotRef { start: self.map.at(addr), state };
        (state.load() == SlotState::Live as u8).then_some(Found { class, slot })
    }

    #[inline(always)]
    fn releases(&self) -> &AtomicU32 {
        // SAFETY: the type's invariant; region entries live as long as the pool.
        unsafe { &*self.releases }
    }

    /// Allocates a slot of a class. O(1) without the lock; once per magazine, under the lock,
    /// O(slots of a magazine).
    #[inline(always)]
    pub(crate) fn alloc_fixed(
        &mut self,
        id: ClassId,
        engine: &mut impl Backing,
    ) -> Result<NonNull<u8>, AllocError> {
        match self.pop_quick(id) {
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
        match self.class_of(size).and_then(|(id, _)| self.pop_quick(id)) {
            Some(slot) => Ok(slot),
            None => self.alloc_slot_slow(size, engine),
        }
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

    #[cold]
    #[inline(never)]
    fn alloc_fixed_slow(
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

    /// Allocates a slot of a class if either magazine has one; the previous one becomes the loaded one
    /// when that is empty.
    fn pop_any(
        &mut self,
        id: ClassId,
        size: Option<usize>,
        engine: &mut impl Backing,
    ) -> Option<NonNull<u8>> {
        loop {
            let random = self.next_random();
            let class = self.class(id)?;
            if class.is_empty() {
                class.swap_if(|len| len > 0);
            }
            if let Some(random) = random {
                if class.has_few() {
                    engine.with(|engine| engine.top_up(id, class));
                }
                class.shuffle(random);
            }
            let (size, room) = (size.unwrap_or(to_usize(class.size)), to_usize(class.room));
            match hand_out(self.harden, class.pop()?, room, size) {
                Ok(slot) => return Some(slot),
                Err(found) => engine.with(|engine| engine.set_aside(id, found)),
            }
        }
    }

    /// A random number, if slots are to be shuffled (Marsaglia, 2003, "Xorshift RNGs": both triples have
    /// the full period).
    fn next_random(&mut self) -> Option<usize> {
        const SHIFTS: [u32; 3] = if usize::BITS == 64 { [13, 7, 17] } else { [13, 17, 5] };
        if !self.harden.shuffles() {
            return None;
        }
        self.random ^= self.random << SHIFTS[0];
        self.random ^= self.random >> SHIFTS[1];
        self.random ^= self.random << SHIFTS[2];
        Some(self.random)
    }

    /// Allocates a slot with the engine's help: from the depot, the slabs, or a new slab.
    fn ready_slot(
        &mut self,
        id: ClassId,
        size: Option<usize>,
        engine: &mut Engine,
    ) -> Result<NonNull<u8>, AllocError> {
        if id.index() >= engine.slabs.classes().len() {
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
                && class.has_magazines()
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
            let shape = engine.slabs.classes()[id.index()].shape;
            match hand_out(engine.harden(), direct, shape.room, size.unwrap_or(shape.size)) {
                Ok(slot) => return Ok(slot),
                Err(found) => engine.set_aside(id, found),
            }
        }
    }

    /// Allocates by layout with the engine's help: from the class that suits it, else (or if the
    /// class has no slot) from the heap.
    fn ready(&mut self, layout: Layout, engine: &mut Engine) -> Result<NonNull<u8>, AllocError> {
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
                if let Some(cache) = self.class(class) {
                    engine.flush(class, cache, false);
                }
                engine.empty_depot(class);
                engine.cached(class) > 0
            }
            AllocError::OutOfMemory { .. }
            | AllocError::Fragmented { .. }
            | AllocError::Reserved { .. } => {
                self.flush(engine, false);
                engine.reclaim();
                engine.class_ids().any(|class| engine.cached(class) > 0)
            }
            _ => false,
        };
        if elsewhere {
            engine.drain = engine.drain.wrapping_add(1);
            self.drain = engine.drain;
        }
    }

    /// Brings the cache up to date: gives back everything if memory ran out somewhere since, and
    /// learns of classes that were added.
    #[inline]
    fn sync(&mut self, engine: &mut Engine) {
        if self.drain != engine.drain || self.block.count() != engine.slabs.classes().len() {
            self.catch_up(engine);
        }
        if self.harden.is_off() {
            self.harden = engine.harden();
        }
    }

    #[cold]
    fn catch_up(&mut self, engine: &mut Engine) {
        if self.drain != engine.drain {
            self.flush(engine, false);
            self.drain = engine.drain;
            if self.quick > 0 && !engine.harden().is_off() {
                // The pool has begun to count sizes.
                self.close(engine);
            }
        }
        if self.block.count() != engine.slabs.classes().len() {
            self.renew(engine);
        }
    }

    /// Replaces the block by one for all classes there are now. Without memory for it the cache
    /// goes on with the classes it knows.
    fn renew(&mut self, engine: &mut Engine) {
        let Some(block) = CacheBlockRef::new(engine) else { return };
        self.close(engine);
        let Some(first) = engine.store().first_region() else { return };
        (self.releases, self.map) = (first.releases(), *first.map());
        self.block = block;
        self.quick = if engine.harden().is_off() { block.count() } else { 0 };
        self.random = engine.harden().seed(block.link().addr());
        if self.shared {
            engine.shared = block.link();
        }
    }

    /// Gives back every cached slot: whole magazines to the depots if `keep`, else to the slabs.
    pub(crate) fn flush(&self, engine: &mut Engine, keep: bool) {
        for id in engine.class_ids() {
            if let Some(class) = self.class(id) {
                engine.flush(id, class, keep);
            }
        }
    }

    /// Gives back everything, the block included. The cache can be used again.
    pub(crate) fn close(&mut self, engine: &mut Engine) {
        if self.block.count() == 0 {
            return;
        }
        if self.shared {
            engine.shared = core::ptr::null_mut();
        }
        self.flush(engine, true);
        self.block.end(engine);
        let (harden, drain) = (self.harden, self.drain);
        *self = Self { harden, drain, ..Self::with_use(self.shared) };
    }

    /// Allocates by layout: from a class that suits it, else (or if the class has no slot left)
    /// from the heap under the lock.
    #[inline(always)]
    pub(crate) fn alloc(
        &mut self,
        layout: Layout,
        engine: &mut impl Backing,
    ) -> Result<NonNull<u8>, AllocError> {
        let slot = if layout.align() <= MIN_GRANULE && layout.size() <= SizeTable::ONE_STEP_MAX {
            self.alloc_quick(layout.size())
        } else {
            self.class_for(layout).and_then(|(id, _)| self.pop_quick(id))
        };
        match slot {
            Some(slot) => Ok(slot),
            None => self.alloc_slow(layout, engine),
        }
    }

    /// Allocates by size if its class is found in one step, and has a slot in the loaded magazine;
    /// aligned to the smallest granule at least.
    #[inline(always)]
    pub(crate) fn alloc_quick(&self, size: usize) -> Option<NonNull<u8>> {
        self.block.serving(size).and_then(pop_live)
    }

    /// Allocates a slot of a class if the loaded magazine has one.
    #[inline(always)]
    fn pop_quick(&self, id: ClassId) -> Option<NonNull<u8>> {
        self.quick_class(id).and_then(pop_live)
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
            && let Some(slot) = self.pop_any(id, Some(layout.size()), engine)
        {
            return Ok(slot);
        }
        engine.with(|engine| {
            if engine.is_plain() {
                return engine.alloc_plain(layout);
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
        let Some(Found { class, slot }) = self.find_any(addr) else {
            return engine.with(|engine| {
                counted(engine, |engine| {
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
            let fits = Held::slot(room, size, usable).is_of(self.harden, addr, layout);
            fits.or_else(|error| engine.with(|engine| counted(engine, |_| Err(error))))?;
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

    #[cold]
    #[inline(never)]
    fn free_slow(
        &mut self,
        pointer: NonNull<u8>,
        expected: Option<ClassId>,
        engine: &mut impl Backing,
    ) -> Result<(), FreeError> {
        let class = expected.and_then(|id| self.class(id));
        if let Some(found) = self.find_any(pointer.addr().get())
            && (expected.is_none() || class.is_some_and(|class| core::ptr::eq(class, found.class)))
            && let room = to_usize(found.class.room)
            && let Ok(size) = check(self.harden, found.slot, room)
            && (!found.class.is_full() || found.class.swap_if_previous_has_room())
        {
            clear(self.harden, found.slot, room, size);
            found.class.push(found.slot);
            return Ok(());
        }
        engine.with(|engine| counted(engine, |engine| self.free_to(pointer, expected, engine)))
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
            return engine.slabs.store.free(pointer.as_ptr());
        };
        if expected.is_some_and(|class| class != slot.class) {
            return Err(FreeError::WrongClass { addr, actual: Some(slot.class) });
        }
        let (harden, room) =
            (engine.harden(), engine.slabs.classes()[slot.class.index()].shape.room);
        let size = check(harden, slot.at, room)?;
        self.sync(engine);
        let class = self.class(slot.class);
        if let Some(class) = class {
            engine.spill(slot.class, class)?;
        }
        clear(harden, slot.at, room, size);
        if class.is_some_and(|class| class.push(slot.at)) {
            return Ok(());
        }
        engine.free_slot(slot)
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
        while let Some(next) = out.get_mut(filled) {
            match self.alloc_fixed_slow(id, engine) {
                Ok(slot) => _ = next.write(slot),
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
            filled += self.quick_class(id).map_or(0, |class| class.pop_into(&mut out[filled..]));
        }
        Ok(())
    }

    /// Frees slots of a class from the front, up to the first that cannot be freed.
    #[inline]
    pub(crate) fn free_bulk(
        &mut self,
        id: ClassId,
        pointers: &[NonNull<u8>],
        engine: &mut impl Backing,
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
        self.free_bulk_slow(id, pointers, popped, engine)
    }

    /// Goes on with a bulk of which the first `freed` have been freed.
    #[inline(never)]
    fn free_bulk_slow(
        &mut self,
        id: ClassId,
        pointers: &[NonNull<u8>],
        mut freed: usize,
        engine: &mut impl Backing,
    ) -> Result<(), BulkFreeError> {
        // A refusal changes nothing: no magazines for what starts with a wrong pointer.
        if let (Some(class), Some(next)) = (self.quick_class(id), pointers.get(freed))
            && self.find_of(next.addr().get(), id, class).is_some()
        {
            class.make_room_for(pointers.len() - freed);
        }
        loop {
            freed += self.push_from(id, &pointers[freed..]);
            let Some(&next) = pointers.get(freed) else { return Ok(()) };
            self.free_slow(next, Some(id), engine)
                .map_err(|error| BulkFreeError { freed, error })?;
            freed += 1;
        }
    }

    /// Moves live slots of a class from the front of `pointers` to the loaded magazine, while there is
    /// room and up to the first that is something else. Returns how many.
    #[inline]
    fn push_from(&self, id: ClassId, pointers: &[NonNull<u8>]) -> usize {
        let Some(class) = self.quick_class(id) else { return 0 };
        let pushed = pointers.iter().take_while(|pointer| {
            let found = self.find_of(pointer.addr().get(), id, class);
            found.is_some_and(|found| class.push(found.slot))
        });
        pushed.count()
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
    /// A block that shrinks below half moves too if there is room elsewhere: the tight place it
    /// finds and the whole one it leaves keep the heap far less scattered than its front half
    /// would (98.7 % instead of 97.5 % of the region in use at the first failure, in the workload
    /// of `benches/src/bin/efficiency.rs`).
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
        if new_size == 0 {
            return Err(AllocError::ZeroSize.into());
        }
        let layout = Layout::from_size_align(new_size, align)
            .map_err(|_| engine.with(|engine| engine.shortage(new_size)))?;
        let held = self.held(pointer, engine)?;
        let stays_aligned = pointer.addr().get() & (align - 1) == 0;
        let moved = if stays_aligned && new_size <= held.usable / 2 {
            self.alloc_ready(layout, engine)
        } else {
            None
        };
        let moved = match moved {
            Some(moved) => moved,
            None if stays_aligned && self.resize(pointer, &held, new_size, engine)? => {
                return Ok(pointer);
            }
            None => match self.alloc(layout, engine) {
                Ok(moved) => moved,
                Err(error) => {
                    let slid = engine.with(|engine| {
                        counted(engine, |engine| slide(engine, pointer, &held, new_size, align))
                    });
                    return slid?.ok_or(error.into());
                }
            },
        };
        // SAFETY: both blocks are live, long enough, and distinct.
        unsafe { moved.copy_from_nonoverlapping(pointer, held.usable.min(new_size)) };
        if let Err(error) = self.free(pointer, None, engine) {
            let undone = self.free(moved, None, engine);
            debug_assert!(undone.is_ok(), "{undone:?}");
            return Err(error.into());
        }
        Ok(moved)
    }

    /// What the caller holds at a pointer, if it is live. O(1), without the lock for slots.
    fn held(&self, pointer: NonNull<u8>, engine: &mut impl Backing) -> Result<Held, FreeError> {
        match self.find(pointer.addr().get()) {
            Some(Found { class, .. }) => {
                let size = to_usize(class.size);
                Ok(Held::slot(to_usize(class.room), size, size))
            }
            None => engine.with(|engine| counted(engine, |engine| held(engine, pointer))),
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
            return Ok(new_size <= held.limit);
        }
        engine.with(|engine| counted(engine, |engine| resize(engine, pointer, held, new_size)))
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
    if !harden.is_off() {
        // SAFETY: the slot is nobody's, and that long.
        let checked = unsafe { harden.check_free(slot.start, room, |_| false) };
        checked.inspect_err(|_| slot.state.store(SlotState::Damaged))?;
        // SAFETY: as above.
        unsafe { harden.hand_out(slot.start, room, size) };
        // Whoever sees it live sees what stands behind it.
        fence(Release);
    }
    Ok(live(slot))
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
fn clear(harden: Harden, slot: SlotRef, room: usize, size: usize) {
    if !harden.is_off() {
        slot.state.store(SlotState::Cached);
        fence(Release);
        // SAFETY: nobody uses the slot any more.
        unsafe { harden.fill_free(slot.start, room, size) };
    }
}

/// Takes a slot out of the loaded magazine, if there is one, and marks it live.
#[inline(always)]
fn pop_live(class: &ClassCache) -> Option<NonNull<u8>> {
    class.pop().map(live)
}

/// Marks a cached slot live.
#[inline(always)]
fn live(slot: SlotRef) -> NonNull<u8> {
    slot.state.store(SlotState::Live);
    // SAFETY: slots lie in regions, and no region starts at address 0.
    unsafe { NonNull::new_unchecked(slot.start) }
}

/// What a live pointer holds.
struct Held {
    /// Bytes that the pool has for it there.
    room: usize,
    /// The largest object that can be there.
    limit: usize,
    /// Usable bytes.
    usable: usize,
    /// A slot of a class, not a heap block.
    is_slot: bool,
}

impl Held {
    const fn slot(room: usize, limit: usize, usable: usize) -> Self {
        Self { room, limit, usable, is_slot: true }
    }

    /// Whether the object, at an address, can be one of this layout.
    fn is_of(&self, harden: Harden, addr: usize, layout: Layout) -> Result<(), FreeError> {
        let (size, align) = (layout.size(), layout.align());
        let is_exact = harden.is_exact(self.room, self.usable);
        if size == 0 || size > self.usable || (is_exact && size != self.usable) {
            return Err(FreeError::WrongSize { addr, size: self.usable });
        }
        if addr & (align - 1) != 0 {
            return Err(FreeError::WrongAlign { addr, align });
        }
        Ok(())
    }
}

/// Whether the layout of the object at a pointer, which is live, can be this one.
fn check_layout(engine: &Engine, pointer: NonNull<u8>, layout: Layout) -> Result<(), FreeError> {
    let (addr, harden) = (pointer.addr().get(), engine.harden());
    let held = held(engine, pointer)?;
    held.is_of(harden, addr, layout)?;
    // The heap leaves no more than that at a block's end; with flags, what has shrunk keeps its room.
    let is_cut = |need| held.room + WORD < need + engine.store().heap().min_block();
    if held.is_slot
        || !harden.is_off()
        || engine.store().heap().block_size(layout.size()).is_some_and(is_cut)
    {
        return Ok(());
    }
    Err(FreeError::WrongSize { addr, size: held.usable })
}

/// What the caller of a realloc or look-up holds at a pointer, if it is live.
fn held(engine: &Engine, pointer: NonNull<u8>) -> Result<Held, FreeError> {
    let addr = pointer.addr().get();
    let Some(slot) = live_slot(engine, addr)? else {
        let (room, usable) = engine.store().measure(pointer.as_ptr())?;
        return Ok(Held { room, limit: room - engine.harden().overhead(), usable, is_slot: false });
    };
    let SlabShape { room, size, .. } = engine.slabs.classes()[slot.class.index()].shape;
    let usable = check(engine.harden(), slot.at, room)?;
    Ok(Held::slot(room, size, usable))
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
    Ok(true)
}

/// Grows a heap block downwards; not in a pool with flags, which would have to be kept for what it
/// leaves behind.
fn slide(
    engine: &mut Engine,
    pointer: NonNull<u8>,
    held: &Held,
    new_size: usize,
    align: usize,
) -> Result<Option<NonNull<u8>>, FreeError> {
    if held.is_slot || !engine.harden().is_off() {
        return Ok(None);
    }
    engine.slide_block(pointer, new_size, align)
}

/// Counts a refusal.
fn counted<R>(
    engine: &mut Engine,
    work: impl FnOnce(&mut Engine) -> Result<R, FreeError>,
) -> Result<R, FreeError> {
    let result = work(engine);
    if let Err(error) = result.as_ref() {
        engine.count_refusal(*error);
    }
    result
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
