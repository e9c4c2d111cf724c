#![allow(unsafe_code)] // makes magazines and cache blocks in the region
//! The engine: everything behind the pool's lock, and what caches exchange with it.

use core::{alloc::Layout, cmp::Ordering, ptr::NonNull};

use super::{
    block::{CacheBlock, CacheBlockRef},
    class_cache::ClassCache,
    depot::Depot,
    magazine::Magazine,
};
use crate::{
    config::{ClassId, FaultFn, SizeClass, WatermarkFn},
    error::{AllocError, ConfigError, Corruption, Fault, FreeError},
    harden::Harden,
    heap::Owner,
    slab::{RegionEntry, Signals, Slabs, Slot, SlotRef, Store, Table},
    units::{MIN_GRANULE, to_u32, to_usize},
};

/// A class fell below its watermark.
#[derive(Clone, Copy, Debug)]
struct Watermark {
    callback: WatermarkFn,
    class: ClassId,
    left: usize,
}

/// What callers learn of after the lock is let go: of each kind, the last since then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Events {
    watermark: Option<Watermark>,
    fault: Option<Fault>,
    /// Whom to tell of faults.
    on_fault: Option<FaultFn>,
}

impl Events {
    const fn new(on_fault: Option<FaultFn>) -> Self {
        Self { watermark: None, fault: None, on_fault }
    }

    /// Takes what is to be reported, if there is anything.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Self> {
        let any = self.watermark.is_some() || (self.fault.is_some() && self.on_fault.is_some());
        any.then(|| core::mem::replace(self, Self::new(self.on_fault)))
    }

    /// Calls back. Not to be done under the lock.
    #[cold]
    pub(crate) fn report(self) {
        if let Some(Watermark { callback, class, left }) = self.watermark {
            callback(class, left);
        }
        if let (Some(fault), Some(on_fault)) = (self.fault, self.on_fault) {
            on_fault(fault);
        }
    }
}

/// Everything behind the lock: heap, slabs, depots, and the list of caches.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) slabs: Slabs,
    depots: Table<Depot>,
    /// The caches that have a block here.
    pub(crate) caches: *mut CacheBlock,
    /// The one of them that is used under the lock only, by callers without a cache; or null.
    pub(crate) shared: *mut CacheBlock,
    magazine: Option<usize>,
    pub(crate) peak_bytes: usize,
    pub(crate) failures: usize,
    pub(crate) bad_frees: usize,
    /// What the caller reports once the lock is free.
    pub(crate) events: Events,
}

// SAFETY: the cache blocks lie in the regions, which are not tied to a thread.
unsafe impl Send for Engine {}

impl Engine {
    /// An engine without memory.
    pub(crate) const fn empty() -> Self {
        Self::new(Store::empty(), None, None)
    }

    pub(crate) const fn new(
        store: Store,
        magazine: Option<usize>,
        on_fault: Option<FaultFn>,
    ) -> Self {
        Self {
            slabs: Slabs::new(store),
            depots: Table::empty(),
            caches: core::ptr::null_mut(),
            shared: core::ptr::null_mut(),
            magazine,
            peak_bytes: 0,
            failures: 0,
            bad_frees: 0,
            events: Events::new(on_fault),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.slabs.store
    }

    #[inline]
    pub(crate) fn harden(&self) -> Harden {
        self.store().harden
    }

    /// What caches are told; `None` without memory.
    pub(crate) fn signals(&self) -> Option<&Signals> {
        self.store().first_region().map(RegionEntry::signals)
    }

    /// Whether blocks of the heap are all there is, without flags.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.slabs.classes().is_empty() && self.harden().is_off()
    }

    /// Notes damage that was come by.
    pub(crate) fn note_damage(&mut self, found: Corruption) {
        self.events.fault = Some(Fault::Corruption(found));
    }

    /// Counts a refusal.
    pub(crate) fn count_refusal(&mut self, error: FreeError) {
        self.bad_frees += 1;
        self.events.fault = Some(Fault::Free(error));
    }

    /// Counts a slot that was found damaged, and marked so.
    pub(crate) fn set_aside(&mut self, class: ClassId, found: Corruption) {
        if let Some(entry) = self.slabs.class_mut(class) {
            entry.damaged += 1;
        }
        self.note_damage(found);
    }

    pub(crate) fn depots(&self) -> &[Depot] {
        &self.depots
    }

    /// Adds a size class with its depot.
    pub(crate) fn add_class(&mut self, declared: &SizeClass) -> Result<ClassId, ConfigError> {
        let class = self.slabs.add_class(declared)?;
        let regions = self.store().region_bytes();
        let depot = Depot::new(&self.slabs.classes()[class.index()], self.magazine, regions);
        self.depots.push(&mut self.slabs.store, depot).inspect_err(|_| self.slabs.forget_last())?;
        Ok(class)
    }

    /// Takes back the class that was added last, before anybody used it.
    pub(crate) fn forget_last_class(&mut self) {
        self.depots.pop();
        self.slabs.forget_last();
    }

    /// Makes sure that the loaded magazine of a cache, which has magazines, holds a slot.
    /// O(slots per magazine).
    pub(crate) fn refill(&mut self, class: ClassId, cache: &ClassCache) -> Result<(), AllocError> {
        if let Some(full) = self.depots[class.index()].take_full() {
            cache.note_taken();
            if let Some(empty) = cache.exchange_loaded(full) {
                self.keep_empty(class, empty);
            }
            self.note_watermark(class);
            return Ok(());
        }
        match self.fill(class, cache)? {
            0 => Err(self.no_slot(class)),
            _ => Ok(()),
        }
    }

    /// Fills the loaded magazine of a cache from the slabs, as far as there is anything.
    pub(crate) fn top_up(&mut self, class: ClassId, cache: &ClassCache) {
        // What is damaged shows where slots are needed.
        let _ = self.fill(class, cache);
    }

    /// Moves slots from the slabs to the loaded magazine of a cache. Returns how many.
    fn fill(&mut self, class: ClassId, cache: &ClassCache) -> Result<usize, Corruption> {
        let taken = self.slabs.take(class, cache.room(), |slot| {
            let pushed = cache.push(slot);
            debug_assert!(pushed, "there was room");
        })?;
        if taken > 0 {
            cache.note_taken();
            self.after_take(class);
        }
        Ok(taken)
    }

    /// Makes room in the loaded magazine of a cache, if the cache has magazines: its slots go to
    /// the depot, or, if that has enough, to their slabs; or it gets another one. O(slots per magazine).
    pub(crate) fn spill(&mut self, class: ClassId, cache: &ClassCache) -> Result<(), Corruption> {
        self.equip(class, cache);
        if !cache.is_full() || !cache.has_magazines() {
            return Ok(());
        }
        let spilled = self.spill_loaded(class, cache);
        self.note_watermark(class);
        spilled
    }

    fn spill_loaded(&mut self, class: ClassId, cache: &ClassCache) -> Result<(), Corruption> {
        let wants = cache.wants_magazines(self.depots[class.index()].row());
        let Some(empty) = self.take_empty(class) else {
            return self.return_all(class, core::iter::from_fn(|| cache.pop()));
        };
        if wants == Ordering::Greater {
            cache.add(empty);
            cache.load_right();
            return Ok(());
        }
        let surplus = if wants == Ordering::Less { cache.remove_left() } else { None };
        let given = cache.exchange_loaded(empty).into_iter().chain(surplus);
        let kept = given.map(|full| {
            cache.note_given();
            self.keep(class, full)
        });
        kept.fold(Ok(()), Result::and)
    }

    /// Keeps a magazine with slots in the depot; what has no room there goes back to the slabs.
    fn keep(&mut self, class: ClassId, full: Magazine) -> Result<(), Corruption> {
        match self.depots[class.index()].put_full(full) {
            Ok(()) => Ok(()),
            Err(surplus) => self.empty_out(class, surplus),
        }
    }

    /// Gives a cache its first magazine, if caching is on and there is memory for it.
    pub(crate) fn equip(&mut self, class: ClassId, cache: &ClassCache) {
        if cache.has_magazines() {
            return;
        }
        let Some(magazine) = self.take_empty(class) else { return };
        cache.equip(magazine, self.depots[class.index()].capacity());
    }

    fn take_empty(&mut self, class: ClassId) -> Option<Magazine> {
        let depot = &mut self.depots[class.index()];
        let capacity = depot.capacity();
        if capacity == 0 {
            return None;
        }
        depot.take_empty().or_else(|| {
            let bytes = Magazine::bytes(capacity);
            let memory = NonNull::new(self.slabs.store.alloc(bytes, 1, Owner::Pool).ok()??)?;
            // SAFETY: the heap gave that many bytes, aligned to two words.
            Some(unsafe { Magazine::new(memory, capacity) })
        })
    }

    fn keep_empty(&mut self, class: ClassId, magazine: Magazine) {
        if let Err(surplus) = self.depots[class.index()].put_empty(magazine) {
            self.slabs.store.free_own(surplus.memory());
        }
    }

    /// Returns cached slots to their slabs.
    fn return_all(
        &mut self,
        class: ClassId,
        slots: impl Iterator<Item = SlotRef>,
    ) -> Result<(), Corruption> {
        let puts = slots.map(|slot| self.slabs.put(class, slot.start.addr()));
        // Every one of them, whatever becomes of another.
        puts.fold(Ok(()), Result::and)
    }

    /// Takes back everything a cache holds of a class. O(slots it holds).
    pub(crate) fn flush(&mut self, class: ClassId, cache: &ClassCache) {
        while self.flush_one(class, cache) {}
    }

    /// Takes back one magazine of a cache, if it has any. Its slots go to their slabs, where slots that
    /// share a line of states come together again: in the depot, what other caches freed would stay
    /// mixed up for good. O(slots of a magazine).
    pub(crate) fn flush_one(&mut self, class: ClassId, cache: &ClassCache) -> bool {
        let Some(magazine) = cache.strip().next() else { return false };
        // What is damaged is lost; `validate` finds the slot that it was.
        let _ = self.empty_out(class, magazine);
        self.note_watermark(class);
        true
    }

    fn empty_out(&mut self, class: ClassId, magazine: Magazine) -> Result<(), Corruption> {
        let returned = self.return_all(class, core::iter::from_fn(|| magazine.pop()));
        self.keep_empty(class, magazine);
        returned
    }

    /// Returns what a class's depot and the shared cache hold to the slabs, and spare magazines to
    /// the heap. O(slots in the depot).
    pub(crate) fn empty_depot(&mut self, class: ClassId) {
        if let Some(shared) = CacheBlockRef::listed(self.shared)
            && let Some(cache) = shared.class_caches().get(class.index())
        {
            self.flush(class, cache);
        }
        while let Some(full) = self.depots[class.index()].take_full() {
            // As in `flush_one`.
            let _ = self.empty_out(class, full);
        }
        self.free_spares(class);
    }

    /// Frees the empty magazines of a class's depot.
    fn free_spares(&mut self, class: ClassId) {
        while let Some(empty) = self.depots[class.index()].take_empty() {
            self.slabs.store.free_own(empty.memory());
        }
    }

    /// Returns what the depots hold to the slabs, and all slabs that are idle then to the heap.
    /// O(slots in the depots + idle slabs).
    pub(crate) fn reclaim(&mut self) {
        for class in self.class_ids() {
            self.empty_depot(class);
            self.slabs.release_idle(class);
        }
    }

    /// Takes back every block and slot, those in caches too: nobody uses a cache meanwhile, or what
    /// was allocated any more. O(blocks + slots).
    pub(crate) fn reset(&mut self) -> Result<(), Corruption> {
        self.empty_caches();
        for class in self.class_ids() {
            while let Some(full) = self.depots[class.index()].take_full() {
                self.slabs.store.free_own(full.memory());
            }
            self.free_spares(class);
        }
        self.slabs.reset()?;
        self.slabs.store.free_all()?;
        (self.peak_bytes, self.failures, self.bad_frees) = (0, 0, 0);
        Ok(())
    }

    /// Takes the magazines of all caches and what is in them; the slots are taken back elsewhere. A
    /// cache that somebody still has is like a new one then.
    fn empty_caches(&mut self) {
        let mut next = CacheBlockRef::listed(self.caches);
        while let Some(block) = next {
            for class in block.class_caches() {
                for magazine in class.strip() {
                    self.slabs.store.free_own(magazine.memory());
                }
            }
            next = CacheBlockRef::listed(block.next());
        }
    }

    /// Takes one slot past the caches.
    pub(crate) fn take_slot(&mut self, class: ClassId) -> Result<SlotRef, AllocError> {
        let mut taken = None;
        self.slabs.take(class, 1, |slot| taken = Some(slot))?;
        let Some(slot) = taken else { return Err(self.no_slot(class)) };
        self.after_take(class);
        Ok(slot)
    }

    /// Frees a slot past the caches; the caller has found it live.
    pub(crate) fn free_slot(&mut self, slot: Slot) -> Result<(), FreeError> {
        self.slabs.put(slot.class, slot.at.start.addr())?;
        self.note_watermark(slot.class);
        Ok(())
    }

    /// Why a class has no slot.
    fn no_slot(&mut self, class: ClassId) -> AllocError {
        let entry = &self.slabs.classes()[class.index()];
        if entry.out >= entry.limit {
            return AllocError::ClassLimit { class };
        }
        AllocError::OutOfMemory { requested: entry.shape.size, largest_free: self.largest_free() }
    }

    /// Counts a failed request that no class is to blame for.
    pub(crate) fn refuse(&mut self, error: AllocError) -> AllocError {
        self.count_failure(None);
        error
    }

    /// Counts a failed request of a class.
    pub(crate) fn count_failure(&mut self, class: Option<ClassId>) {
        self.failures += 1;
        if let Some(entry) = class.and_then(|class| self.slabs.class_mut(class)) {
            entry.failures = entry.failures.saturating_add(1);
        }
    }

    /// Allocates in a pool that [is plain](Self::is_plain), where nothing is kept ready that could be
    /// reclaimed.
    #[inline]
    pub(crate) fn alloc_plain(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        let allocated = self.alloc_block(layout, Owner::Caller);
        allocated.inspect_err(|_| self.count_failure(None))
    }

    /// The first step of [`alloc_plain`](Self::alloc_plain), some eighty instructions long: a block of
    /// just this size that rests. `None` says nothing.
    #[inline]
    pub(crate) fn alloc_rested(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() == 0 || layout.align() > MIN_GRANULE {
            return None;
        }
        let block = NonNull::new(self.slabs.store.alloc_rested(layout.size())?);
        self.note_peak();
        block
    }

    /// The first step of [`free_plain`](Self::free_plain), some hundred instructions long. `false` says
    /// nothing.
    #[inline]
    pub(crate) fn free_to_rest(&mut self, pointer: NonNull<u8>) -> bool {
        self.slabs.store.free_to_rest(pointer.as_ptr())
    }

    /// Frees in a pool that [is plain](Self::is_plain).
    #[inline]
    pub(crate) fn free_plain(&mut self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        let freed = match self.store().first_region() {
            Some(_) => self.slabs.store.free(pointer.as_ptr()),
            None => Err(FreeError::NotInitialised),
        };
        freed.inspect_err(|&error| self.count_refusal(error))
    }

    /// Allocates a heap block.
    #[inline]
    pub(crate) fn alloc_block(
        &mut self,
        layout: Layout,
        owner: Owner,
    ) -> Result<NonNull<u8>, AllocError> {
        if layout.size() == 0 {
            return Err(AllocError::ZeroSize);
        }
        let (size, align) = (layout.size(), layout.align());
        let harden = if owner == Owner::Caller { self.harden() } else { Harden::NONE };
        let room = size.checked_add(harden.overhead()).ok_or(AllocError::TooLarge)?;
        let allocated = self.slabs.store.alloc(room, align, owner);
        if let Some(found) = self.slabs.store.found.take() {
            self.note_damage(found);
        }
        if let Some(payload) = allocated? {
            self.note_peak();
            if !harden.is_off() {
                let room = self.store().room_of(payload, owner).unwrap_or(room);
                // SAFETY: the block was just allocated, with that much room.
                unsafe { harden.hand_out(payload, room, size) };
            }
            return NonNull::new(payload).ok_or(AllocError::NotInitialised);
        }
        if self.store().first_region().is_none() {
            return Err(AllocError::NotInitialised);
        }
        let largest_free = self.largest_free();
        Err(AllocError::OutOfMemory { requested: size, largest_free })
    }

    /// Resizes a heap block where it is; `None` if that cannot be.
    pub(crate) fn resize_block(
        &mut self,
        pointer: NonNull<u8>,
        new_size: usize,
    ) -> Result<Option<usize>, FreeError> {
        let resized = self.slabs.store.resize(pointer.as_ptr(), new_size)?;
        self.note_peak();
        Ok(resized)
    }

    /// Grows a heap block downwards, contents and all; `None` if that cannot be.
    pub(crate) fn slide_block(
        &mut self,
        pointer: NonNull<u8>,
        new_size: usize,
        align: usize,
    ) -> Result<Option<NonNull<u8>>, FreeError> {
        let slid = self.slabs.store.slide(pointer.as_ptr(), new_size, align)?;
        self.note_peak();
        Ok(slid.and_then(NonNull::new))
    }

    /// The largest object that the heap has a free block for; see [`Heap::largest_free`].
    pub(crate) fn largest_free(&self) -> usize {
        self.store().heap().largest_free().saturating_sub(self.harden().overhead())
    }

    /// Bytes that callers and caches have.
    pub(crate) fn bytes_out(&self) -> usize {
        self.store().heap().counters().live_bytes + self.slabs.out_bytes()
    }

    fn note_peak(&mut self) {
        self.peak_bytes = self.peak_bytes.max(self.bytes_out());
    }

    /// After slots left their slabs: the peak, and the class's watermark.
    fn after_take(&mut self, class: ClassId) {
        self.note_peak();
        self.note_watermark(class);
    }

    /// Notices when the slots that a class has ready fall below its watermark, or rise above it.
    fn note_watermark(&mut self, class: ClassId) {
        let cached = to_u32(self.depots[class.index()].cached());
        let Some(entry) = self.slabs.class_mut(class) else { return };
        let Some((mark, callback)) = entry.watermark else { return };
        let left = entry.free().min(entry.limit.saturating_sub(entry.out)) + cached;
        let was_low = core::mem::replace(&mut entry.low, left < mark);
        if entry.low && !was_low {
            self.events.watermark = Some(Watermark { callback, class, left: to_usize(left) });
        }
    }

    /// Cached slots of a class: in the depot and in all caches.
    pub(crate) fn cached(&self, class: ClassId) -> usize {
        let in_caches: usize = self.cache_blocks().map(|block| block.cached(class)).sum();
        self.depots[class.index()].cached() + in_caches
    }

    /// The caches that have a block.
    pub(crate) fn cache_blocks(&self) -> impl Iterator<Item = CacheBlockRef> {
        let first = CacheBlockRef::listed(self.caches);
        core::iter::successors(first, |block| CacheBlockRef::listed(block.next()))
    }

    /// Live slots of a class.
    pub(crate) fn live(&self, class: ClassId) -> usize {
        let entry = &self.slabs.classes()[class.index()];
        to_usize(entry.out - entry.damaged).saturating_sub(self.cached(class))
    }

    /// All classes' numbers.
    pub(crate) fn class_ids(&self) -> impl Iterator<Item = ClassId> + use<> {
        (0..to_u32(self.slabs.classes().len())).map(|n| ClassId(crate::units::to_u8(to_usize(n))))
    }
}
