#![allow(unsafe_code)] // makes magazines and cache blocks in the region
//! The engine: everything behind the pool's lock, and what caches exchange with it.

use core::{alloc::Layout, cmp::Ordering, iter, ptr::NonNull};

use super::{
    block::{CacheBlock, CacheBlockRef},
    calls::Calls,
    class_cache::ClassCache,
    depot::Depot,
    held::Held,
    magazine::Magazine,
    profile::Profile,
};
use crate::{
    asan,
    checksum::Checked,
    config::{ClassId, FaultFn, SizeClass, WatermarkFn},
    error::{AllocError, ConfigError, Corruption, CorruptionKind, Fault, FreeError},
    harden::Harden,
    heap::Owner,
    slab::{Class, Signals, Slabs, SlotRef, Store, Table},
    units::{WORD, to_u32, to_usize},
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
    on_fault: Option<(FaultFn, usize)>,
}

impl Events {
    const fn new(on_fault: Option<(FaultFn, usize)>) -> Self {
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
        if let (Some(fault), Some((on_fault, context))) = (self.fault, self.on_fault) {
            on_fault(fault, context);
        }
    }
}

/// Everything behind the lock: heap, slabs, depots, and the list of caches.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) slabs: Slabs,
    depots: Table<Checked<Depot>>,
    /// The caches that have a block here.
    pub(crate) caches: *mut CacheBlock,
    /// The one of them that is used under the lock only, by callers without a cache; or null.
    pub(crate) shared: *mut CacheBlock,
    magazine: Option<usize>,
    /// What serves callers without a handle; none in a pool without classes and flags.
    pub(super) calls: Option<&'static Calls>,
    /// Whether something may have come to depots or slabs since all was reclaimed: a request that fails
    /// again and again does not look for what is not there.
    reclaimable: bool,
    pub(crate) peak_bytes: usize,
    pub(crate) failures: usize,
    pub(crate) bad_frees: usize,
    pub(crate) profile: Profile,
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
        on_fault: Option<(FaultFn, usize)>,
    ) -> Self {
        Self {
            slabs: Slabs::new(store),
            depots: Table::empty(),
            caches: core::ptr::null_mut(),
            shared: core::ptr::null_mut(),
            magazine,
            calls: None,
            reclaimable: true,
            peak_bytes: 0,
            failures: 0,
            bad_frees: 0,
            profile: Profile::off(),
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
        self.store().signals()
    }

    /// Whether blocks of the heap are all there is, without flags.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.calls.is_none()
    }

    /// Notes damage that was come by.
    pub(crate) fn note_damage(&mut self, found: Corruption) {
        self.events.fault = Some(Fault::Corruption(found));
    }

    /// Notes damage that the store came by, or that was why it failed.
    fn note_found(&mut self, failure: Option<Corruption>) {
        if let Some(found) = self.slabs.store.take_found().or(failure) {
            self.note_damage(found);
        }
    }

    /// Notes a pointer that was refused.
    pub(crate) fn note_refusal(&mut self, error: FreeError) {
        self.events.fault = Some(Fault::Free(error));
    }

    /// Counts a refusal.
    pub(crate) fn count_refusal(&mut self, error: FreeError) {
        self.bad_frees += 1;
        self.note_refusal(error);
    }

    /// Does something that may be refused, and counts that.
    pub(crate) fn counted<R>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<R, FreeError>,
    ) -> Result<R, FreeError> {
        let result = work(self);
        if let Err(error) = result.as_ref() {
            self.count_refusal(*error);
        }
        result
    }

    /// Counts a slot that was found damaged, and marked so.
    pub(crate) fn set_aside(&mut self, class: ClassId, found: Corruption) {
        self.slabs.edit(class, |entry| entry.damaged += 1);
        self.note_damage(found);
    }

    /// A class's depot, if its entry is intact.
    pub(crate) fn depot(&self, class: ClassId) -> Result<&Depot, Corruption> {
        self.depots.verified(class.index())
    }

    /// Does something with a class's depot, if its entry is intact; damage is noted.
    fn with_depot<R>(
        &mut self,
        class: ClassId,
        work: impl FnOnce(&mut Depot) -> Result<R, Corruption>,
    ) -> Option<R> {
        let entry = self.depots.get_mut(class.index())?;
        let addr = core::ptr::from_ref(entry).addr();
        let damaged = Corruption { addr, kind: CorruptionKind::Table };
        let done = entry.edit(work).unwrap_or(Err(damaged));
        done.inspect_err(|&found| self.note_damage(found)).ok()
    }

    /// Whether a class's depot has a magazine with slots.
    pub(crate) fn has_full(&self, class: ClassId) -> bool {
        self.depot(class).is_ok_and(|depot| depot.cached() > 0)
    }

    fn take_full(&mut self, class: ClassId) -> Option<Magazine> {
        self.with_depot(class, Depot::take_full).flatten()
    }

    fn take_spare(&mut self, class: ClassId) -> Option<Magazine> {
        self.with_depot(class, Depot::take_empty).flatten()
    }

    /// From now on callers without a handle are served with classes and flags.
    pub(crate) fn serve_all(&mut self) {
        self.calls = Some(&Calls::CACHED);
    }

    /// Adds a size class with its depot.
    pub(crate) fn add_class(&mut self, declared: &SizeClass) -> Result<ClassId, ConfigError> {
        let class = self.slabs.add_class(declared)?;
        let regions = self.store().region_bytes();
        let entry = self.slabs.class(class).ok_or(ConfigError::OutOfMemory)?;
        let depot = Checked::new(Depot::new(entry, self.magazine, regions));
        self.depots.push(&mut self.slabs.store, depot).inspect_err(|_| self.slabs.forget_last())?;
        self.serve_all();
        Ok(class)
    }

    /// Takes back the class that was added last, before anybody used it.
    pub(crate) fn forget_last_class(&mut self) {
        self.depots.pop();
        self.depots.end_if_empty(&mut self.slabs.store);
        self.slabs.forget_last();
    }

    /// Makes sure that the loaded magazine of a cache, which has magazines, holds a slot.
    /// O(slots per magazine).
    pub(crate) fn refill(&mut self, class: ClassId, cache: &ClassCache) -> Result<(), AllocError> {
        if self.exchange_for_full(class, cache) {
            self.note_watermark(class);
            return Ok(());
        }
        match self.fill(class, cache)? {
            0 => Err(self.no_slot(class)),
            _ => Ok(()),
        }
    }

    /// Gives a cache a full magazine from the depot, if that has one, for its loaded one.
    fn exchange_for_full(&mut self, class: ClassId, cache: &ClassCache) -> bool {
        let exchange = |depot: &mut Depot| {
            let full = depot.take_full()?;
            let empty = full.map(|full| cache.exchange_for_full(full));
            Ok(empty.map(|empty| empty.and_then(|empty| depot.put_empty(empty).err())))
        };
        let Some(surplus) = self.with_depot(class, exchange).flatten() else { return false };
        if let Some(magazine) = surplus {
            self.slabs.store.free_own(magazine.memory());
        }
        true
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
        });
        match taken {
            Ok(0) => {}
            Ok(_) => {
                cache.note_taken();
                self.after_take(class);
            }
            Err(found) => self.note_damage(found),
        }
        taken
    }

    /// Makes room in the loaded magazine of a cache, if the cache has magazines: its slots go to
    /// the depot, or, if that has enough, to their slabs; or it gets another one. O(slots per magazine).
    pub(crate) fn spill(&mut self, class: ClassId, cache: &ClassCache) -> Result<(), Corruption> {
        if !self.equip(class, cache) || !cache.is_full() {
            return Ok(());
        }
        let spilled = self.spill_loaded(class, cache);
        self.note_watermark(class);
        spilled
    }

    fn spill_loaded(&mut self, class: ClassId, cache: &ClassCache) -> Result<(), Corruption> {
        let Some((empty, row)) = self.take_empty(class) else {
            return self.return_all(class, iter::from_fn(|| cache.pop()));
        };
        let wants = cache.wants_magazines(row);
        if wants == Ordering::Greater {
            cache.add(empty);
            cache.load_right();
            return Ok(());
        }
        let surplus = if wants == Ordering::Less { cache.remove_left() } else { None };
        if surplus.is_some() {
            cache.note_given();
        }
        let given = cache.exchange_for_empty(empty).into_iter().chain(surplus);
        given.map(|full| self.keep(class, full)).fold(Ok(()), Result::and)
    }

    /// Keeps a magazine with slots in the depot; what has no room there goes back to the slabs.
    fn keep(&mut self, class: ClassId, full: Magazine) -> Result<(), Corruption> {
        self.reclaimable = true;
        match self.with_depot(class, |depot| Ok(depot.put_full(full))) {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) | None => self.empty_out(class, full),
        }
    }

    /// Gives a cache its first magazine, if caching is on and there is memory for it. Returns whether it
    /// has magazines; damage is noted.
    pub(crate) fn equip(&mut self, class: ClassId, cache: &ClassCache) -> bool {
        if !cache.can_go_on() {
            let addr = core::ptr::from_ref(cache).addr();
            self.note_damage(Corruption { addr, kind: CorruptionKind::Table });
        } else if !cache.has_magazines()
            && let Some((magazine, _)) = self.take_empty(class)
        {
            cache.equip(magazine);
        }
        cache.has_magazines()
    }

    /// An empty magazine, if caching is on and there is memory for it; and how many a cache may have.
    fn take_empty(&mut self, class: ClassId) -> Option<(Magazine, u8)> {
        let take = |depot: &mut Depot| Ok((depot.take_empty(), depot.capacity(), depot.row()));
        let (spare, capacity, row) = self.with_depot(class, take)?;
        let spare = spare.unwrap_or_else(|found| {
            self.note_damage(found);
            None
        });
        let magazine = spare.or_else(|| self.new_magazine(capacity))?;
        Some((magazine, row))
    }

    fn new_magazine(&mut self, capacity: u32) -> Option<Magazine> {
        if capacity == 0 {
            return None;
        }
        let bytes = Magazine::bytes(capacity);
        let memory = NonNull::new(self.slabs.store.alloc(bytes, 1, Owner::Pool).ok()??)?;
        // SAFETY: the heap gave that many bytes, aligned to two words.
        Some(unsafe { Magazine::new(memory, capacity) })
    }

    fn keep_empty(&mut self, class: ClassId, magazine: Magazine) {
        self.reclaimable = true;
        let kept = self.with_depot(class, |depot| Ok(depot.put_empty(magazine)));
        if !matches!(kept, Some(Ok(()))) {
            self.slabs.store.free_own(magazine.memory());
        }
    }

    /// Returns cached slots to their slabs.
    fn return_all(
        &mut self,
        class: ClassId,
        slots: impl Iterator<Item = SlotRef>,
    ) -> Result<(), Corruption> {
        self.reclaimable = true;
        self.slabs.put(class, slots.map(|slot| slot.start.addr()))
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
        self.take_back(class, |engine| engine.empty_out(class, magazine));
        true
    }

    /// Takes back the slots of one magazine of a cache whose owner rests, if it has any: if they are many,
    /// in the magazine, which other caches find in the depot. Or an empty magazine that it may do without.
    /// Returns whether it did. O(slots of a magazine).
    pub(crate) fn hand_over_one(&mut self, class: ClassId, cache: &ClassCache) -> bool {
        if let Some(magazine) = cache.remove_full() {
            cache.note_given();
            let place = if magazine.has_few() { Self::empty_out } else { Self::keep };
            self.take_back(class, |engine| place(engine, class, magazine));
            return true;
        }
        if !cache.is_empty() {
            let slots = iter::from_fn(|| cache.pop());
            self.take_back(class, |engine| engine.return_all(class, slots));
            // They stay where the class is damaged.
            return cache.is_empty();
        }
        let Some(empty) = cache.remove_surplus() else { return false };
        self.keep_empty(class, empty);
        true
    }

    fn take_back(
        &mut self,
        class: ClassId,
        take: impl FnOnce(&mut Self) -> Result<(), Corruption>,
    ) {
        // What is damaged is lost; `validate` finds the slot that it was.
        let _ = take(self);
        self.note_watermark(class);
    }

    fn empty_out(&mut self, class: ClassId, magazine: Magazine) -> Result<(), Corruption> {
        let returned = self.return_all(class, magazine.drain());
        self.keep_empty(class, magazine);
        returned
    }

    /// Ends the waiting of all slots in a cache: they go back to their slabs. O(slots that wait).
    pub(crate) fn end_waiting(&mut self, cache: CacheBlockRef) {
        while let Some(waited) = cache.take_waiting() {
            match waited.end(self.harden()) {
                Ok(slot) => self.put_back(waited.class, slot),
                Err(found) => self.set_aside(waited.class, found),
            }
        }
    }

    /// Returns a slot to its slab for which no cache has room.
    fn put_back(&mut self, class: ClassId, slot: SlotRef) {
        match self.return_all(class, iter::once(slot)) {
            Ok(()) => self.note_watermark(class),
            Err(found) => self.note_damage(found),
        }
    }

    /// Makes a slot that has waited ready again: in a cache that has the class, if it has magazines.
    pub(crate) fn make_ready(&mut self, class: ClassId, slot: SlotRef, cache: Option<&ClassCache>) {
        if let Some(cache) = cache {
            if let Err(found) = self.spill(class, cache) {
                self.note_damage(found);
            }
            if cache.push(slot) {
                return;
            }
        }
        self.put_back(class, slot);
    }

    /// The block of the shared cache, if it has one that is intact.
    fn shared_block(&self) -> Option<CacheBlockRef> {
        CacheBlockRef::listed(self.shared).filter(|block| block.is_intact())
    }

    /// Returns what a class's depot and the shared cache hold to the slabs, and spare magazines to
    /// the heap. O(slots in the depot).
    pub(crate) fn empty_depot(&mut self, class: ClassId) {
        if let Some(shared) = self.shared_block() {
            self.end_waiting(shared);
            if let Some(cache) = shared.class_caches().get(class.index()) {
                self.flush(class, cache);
            }
        }
        while let Some(full) = self.take_full(class) {
            // As in `flush_one`.
            let _ = self.empty_out(class, full);
        }
        self.free_spares(class);
    }

    /// Frees the empty magazines of a class's depot.
    fn free_spares(&mut self, class: ClassId) {
        while let Some(empty) = self.take_spare(class) {
            self.slabs.store.free_own(empty.memory());
        }
    }

    /// Returns what the depots hold to the slabs, all slabs that are idle then to the heap, and what waits
    /// to where it came from. O(slots in the depots + idle slabs + blocks that wait).
    pub(crate) fn reclaim(&mut self) {
        if !self.reclaimable && !self.shared_block().is_some_and(CacheBlockRef::holds_any) {
            return;
        }
        for class in self.class_ids() {
            self.empty_depot(class);
            if let Err(found) = self.slabs.release_idle(class) {
                self.note_damage(found);
            }
        }
        self.slabs.store.end_waiting();
        self.note_found(None);
        // Blocks wait anew with every free.
        self.reclaimable = self.harden().quarantines();
    }

    /// Takes back every block and slot, those in caches too: nobody uses a cache meanwhile, or what
    /// was allocated any more. O(blocks + slots).
    pub(crate) fn reset(&mut self) -> Result<(), Corruption> {
        self.empty_caches();
        for class in self.class_ids() {
            while let Some(full) = self.take_full(class) {
                self.slabs.store.free_own(full.memory());
            }
            self.free_spares(class);
        }
        self.slabs.reset()?;
        self.slabs.store.end_waiting();
        self.slabs.store.free_all()?;
        (self.peak_bytes, self.failures, self.bad_frees) = (0, 0, 0);
        self.slabs.store.forget_guard_failures();
        self.profile.clear();
        Ok(())
    }

    /// Takes the magazines of all caches and what is in them; the slots are taken back elsewhere. A
    /// cache that somebody still has is like a new one then.
    fn empty_caches(&mut self) {
        let mut next = self.cache_blocks().next();
        while let Some(block) = next {
            // The slots are taken back where they are.
            while block.take_waiting().is_some() {}
            for class in block.class_caches() {
                for magazine in class.strip() {
                    self.slabs.store.free_own(magazine.memory());
                }
            }
            next = CacheBlockRef::listed(block.next()).filter(|block| block.is_intact());
        }
    }

    /// Whether this is a cached slot of a class. If not, that is noted.
    #[cold]
    pub(crate) fn is_cached(&mut self, id: ClassId, cached: SlotRef) -> bool {
        let addr = cached.start.addr();
        let is = matches!(self.slabs.slot_at(addr), Ok(Some(slot)) if slot.is_cached(id, cached));
        if !is {
            self.note_damage(Corruption { addr, kind: CorruptionKind::Magazine });
        }
        is
    }

    /// Takes one slot past the caches.
    pub(crate) fn take_slot(&mut self, class: ClassId) -> Result<SlotRef, AllocError> {
        let mut slot = None;
        let taken = self.slabs.take(class, 1, |taken| slot = Some(taken));
        taken.inspect_err(|&found| self.note_damage(found))?;
        let Some(slot) = slot else { return Err(self.no_slot(class)) };
        self.after_take(class);
        Ok(slot)
    }

    /// Frees a slot past the caches; the caller has found it live.
    pub(crate) fn free_slot(&mut self, class: ClassId, slot: SlotRef) -> Result<(), FreeError> {
        self.return_all(class, iter::once(slot))?;
        self.note_watermark(class);
        Ok(())
    }

    /// Starts to count the sizes that are asked for. Caches learn of it when they next come here.
    #[cfg(feature = "flags")]
    pub(crate) fn start_profile(&mut self) -> Result<(), ConfigError> {
        let store = &mut self.slabs.store;
        self.profile.start(store)?;
        store.harden = store.harden.profiling();
        self.serve_all();
        if let Some(signals) = self.signals() {
            Signals::count(&signals.drains);
        }
        Ok(())
    }

    /// Counts a request for a slot of a class, if requests by size may come to it.
    pub(crate) fn profile_class(&mut self, class: ClassId) {
        if let Some(entry) = self.slabs.class(class).filter(|entry| !entry.dedicated) {
            self.profile.count(entry.shape.size);
        }
    }

    /// Why a class has no slot.
    fn no_slot(&mut self, class: ClassId) -> AllocError {
        let entry = match self.slabs.verified(class) {
            Ok(entry) => entry,
            Err(damaged) => return damaged.into(),
        };
        if entry.out >= entry.limit {
            return AllocError::ClassLimit { class };
        }
        self.shortage(entry.shape.slab_bytes(self.store().piece_bytes()))
    }

    /// Why there is no room for `needed` bytes, in pools with canaries beside those. O(classes +
    /// regions).
    #[cold]
    pub(crate) fn shortage(&self, needed: usize) -> AllocError {
        if self.store().first_region().is_none() {
            return AllocError::NotInitialised;
        }
        let overhead = self.harden().overhead();
        let most = self.store().largest_when_empty().saturating_sub(overhead);
        let free_bytes = self.store().heap().counters().free_bytes;
        let free_bytes = free_bytes.saturating_sub(WORD + overhead);
        let reserved = self.slabs.unused_reserves();
        if needed > most {
            AllocError::TooLarge { most }
        } else if needed <= free_bytes {
            AllocError::Fragmented { free_bytes, largest_free: self.largest_free() }
        } else if needed <= free_bytes + reserved {
            AllocError::Reserved { needed, reserved }
        } else {
            AllocError::OutOfMemory { needed, free_bytes }
        }
    }

    /// Counts a failed request that no class is to blame for.
    pub(crate) fn refuse(&mut self, error: AllocError) -> AllocError {
        self.count_failure(None, error);
        error
    }

    /// Counts a request of a class, if it was for one, that was refused. What a limit refuses is no failure.
    pub(crate) fn count_failure(&mut self, class: Option<ClassId>, error: AllocError) {
        if let AllocError::ClassLimit { class } = error {
            let count = |entry: &mut Class| entry.limit_hits = entry.limit_hits.saturating_add(1);
            self.slabs.edit(class, count);
            return;
        }
        self.failures += 1;
        if let Some(class) = class {
            let count = |entry: &mut Class| entry.failures = entry.failures.saturating_add(1);
            self.slabs.edit(class, count);
        }
    }

    /// The quick way to allocate in a pool that [is plain](Self::is_plain). `None` says nothing.
    #[inline(always)]
    pub(crate) fn alloc_plain(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() == 0 {
            return None;
        }
        let need = self.store().heap().block_size(layout.size())?;
        let block = match self.slabs.store.alloc_rested(need, layout.align()) {
            Some(block) => {
                self.note_peak();
                NonNull::new(block)
            }
            None => self.alloc_unrested(need, layout.align()),
        };
        block.inspect(|block| asan::open(block.as_ptr(), layout.size()))
    }

    #[inline(never)]
    fn alloc_unrested(&mut self, need: usize, align: usize) -> Option<NonNull<u8>> {
        let block = self.slabs.store.alloc_unrested(need, align)?;
        self.note_peak();
        NonNull::new(block)
    }

    /// The whole way in such a pool.
    pub(crate) fn alloc_uncached(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        let allocated = self.try_alloc_plain(layout);
        allocated.inspect_err(|&error| self.count_failure(None, error))
    }

    /// As [`alloc_uncached`](Self::alloc_uncached); a failure is not counted.
    pub(super) fn try_alloc_plain(&mut self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        let size = layout.size();
        if size == 0 {
            return Err(AllocError::ZeroSize);
        }
        let allocated = self.slabs.store.alloc_heap(size, layout.align(), Owner::Caller);
        self.note_found(allocated.err());
        let block = allocated?.and_then(NonNull::new).ok_or_else(|| self.shortage(size))?;
        self.note_peak();
        asan::open(block.as_ptr(), size);
        Ok(block)
    }

    /// Frees in such a pool.
    #[inline(always)]
    pub(crate) fn free_plain(&mut self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        self.slabs.store.free_plain(pointer.as_ptr())
    }

    /// What the caller holds at a pointer to a heap block, if it is live.
    pub(super) fn block_held(&self, pointer: NonNull<u8>) -> Result<Held, FreeError> {
        let (room, usable) = self.store().measure(pointer.as_ptr())?;
        Ok(Held::block(room, room - self.harden().overhead(), usable))
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
        let room = size.checked_add(harden.overhead()).ok_or_else(|| self.shortage(size))?;
        let allocated = match owner {
            Owner::Caller => self.slabs.store.alloc_object(room, align),
            Owner::Pool => self.slabs.store.alloc(room, align, owner),
        };
        self.note_found(allocated.err());
        if let Some(payload) = allocated? {
            self.note_peak();
            if !harden.is_off() {
                let room = self.store().room_of(payload, owner).unwrap_or(room);
                // SAFETY: the block was just allocated, with that much room.
                unsafe { harden.hand_out(payload, room, size) };
            }
            asan::open(payload, size);
            return NonNull::new(payload).ok_or(AllocError::NotInitialised);
        }
        Err(self.shortage(size))
    }

    /// Frees a caller's heap block, which waits first in pools with quarantine.
    pub(crate) fn free_block(&mut self, pointer: NonNull<u8>) -> Result<(), FreeError> {
        let freed = self.slabs.store.free(pointer.as_ptr());
        self.note_found(None);
        freed
    }

    /// Resizes a heap block where it is; `None` if that cannot be.
    pub(crate) fn resize_block(
        &mut self,
        pointer: NonNull<u8>,
        new_size: usize,
    ) -> Result<Option<usize>, FreeError> {
        let resized = self.slabs.store.resize(pointer.as_ptr(), new_size)?;
        resized.inspect(|&room| asan::fit(pointer.as_ptr(), new_size, room));
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
        Ok(slid.and_then(NonNull::new).inspect(|block| asan::open(block.as_ptr(), new_size)))
    }

    /// The largest object that the heap has a free block for; see [`Heap::largest_free`].
    pub(crate) fn largest_free(&self) -> usize {
        self.store().heap().largest_free().saturating_sub(self.harden().overhead())
    }

    /// Bytes that callers and caches have.
    pub(crate) fn bytes_out(&self) -> usize {
        self.store().heap().live_bytes() + self.slabs.out_bytes()
    }

    #[inline]
    fn note_peak(&mut self) {
        self.peak_bytes = self.peak_bytes.max(self.bytes_out());
    }

    /// After slots left their slabs: the peak, and the class's watermark.
    fn after_take(&mut self, class: ClassId) {
        self.reclaimable = true;
        self.note_peak();
        self.note_watermark(class);
    }

    /// Notices when the slots that a class has ready fall below its watermark, or rise above it.
    fn note_watermark(&mut self, class: ClassId) {
        if !self.slabs.has_watermarks() {
            return;
        }
        let Some(entry) = self.slabs.class(class) else { return };
        let &Class { watermark: Some((mark, callback)), low, .. } = entry else { return };
        let in_slabs = entry.free().min(entry.limit.saturating_sub(entry.out));
        let left = in_slabs + to_u32(self.depot(class).map_or(0, Depot::cached));
        let is_low = left < mark;
        if is_low != low {
            self.slabs.edit(class, |entry| entry.low = is_low);
        }
        if is_low && !low {
            self.events.watermark = Some(Watermark { callback, class, left: to_usize(left) });
        }
    }

    /// Cached slots of a class: in the depot and in all caches.
    pub(crate) fn cached(&self, class: ClassId) -> usize {
        self.cached_in(class, self.cache_blocks())
    }

    /// Cached slots of a class: in the depot and in these caches.
    pub(crate) fn cached_in(
        &self,
        class: ClassId,
        caches: impl Iterator<Item = CacheBlockRef>,
    ) -> usize {
        let in_caches: usize = caches.map(|block| block.cached(class)).sum();
        self.depot(class).map_or(0, Depot::cached) + in_caches
    }

    /// Whether a cache or a depot holds slots, just after all has been reclaimed.
    pub(crate) fn is_any_cached(&self) -> bool {
        self.cache_blocks().any(CacheBlockRef::holds_any)
            || (self.reclaimable && self.class_ids().any(|class| self.has_full(class)))
    }

    /// Bytes of free heap blocks that do not wait.
    pub(crate) fn free_bytes(&self) -> usize {
        self.store().heap().counters().free_bytes.saturating_sub(self.store().waiting().bytes())
    }

    /// The caches that have a block, up to the first that is damaged.
    pub(crate) fn cache_blocks(&self) -> impl Iterator<Item = CacheBlockRef> {
        let intact = |block| CacheBlockRef::listed(block).filter(|block| block.is_intact());
        iter::successors(intact(self.caches), move |block| intact(block.next()))
    }

    /// The first caches that have a block, which were found intact since the lock was taken.
    pub(crate) fn first_cache_blocks(
        &self,
        count: usize,
    ) -> impl Iterator<Item = CacheBlockRef> + Clone {
        let first = CacheBlockRef::listed(self.caches);
        iter::successors(first, |block| CacheBlockRef::listed(block.next())).take(count)
    }

    /// All classes' numbers.
    pub(crate) fn class_ids(&self) -> impl Iterator<Item = ClassId> + use<> {
        (0..to_u32(self.slabs.count())).map(|n| ClassId(crate::units::to_u8(to_usize(n))))
    }
}
