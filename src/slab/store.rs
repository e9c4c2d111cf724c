#![allow(unsafe_code)] // keeps what caches are told in the first region
//! The store: every byte the pool manages, as one heap over a list of regions with their slab
//! maps.

use core::ptr::null;

use super::{guarded::Sides, slab_map::SlabMap, table::Table, walk::Walk};
use crate::{
    checksum::{Checked, Checksum, Summed},
    error::{ConfigError, Corruption, CorruptionKind, FreeError},
    flags::PoolFlags,
    guard::{GuardPages, Guards},
    harden::Harden,
    heap::{Block, Heap, Owner, Span, Tag},
    quarantine::{Bounds, Quarantine, Waits},
    random::Random,
    region::Region,
    sync::{AtomicU32, Ordering},
    units::{Granule, MIN_GRANULE, WORD, ceil_log2, round_down, to_u32, to_usize},
};

/// Smallest and largest piece, as `log2` of bytes: 512 bytes, and what 4096 slots of the smallest
/// granule fill.
const PIECE_LOG2: core::ops::RangeInclusive<usize> = 9..=ceil_log2(4096 * MIN_GRANULE);

/// After how many blocks that were merged to make room it is time to look whether there is enough.
const SETTLED_AT_ONCE: usize = 32;

/// How many pieces a region is counted off in, unless that makes them too small or large.
const PIECES: usize = 1024;

/// One region of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RegionEntry {
    region: Region,
    /// Address of the first block's tag.
    first_tag: usize,
    map: SlabMap,
}

impl RegionEntry {
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    pub(crate) fn first_tag(&self) -> usize {
        self.first_tag
    }

    #[inline]
    pub(crate) fn map(&self) -> &SlabMap {
        &self.map
    }
}

impl Summed for RegionEntry {
    fn add_to(&self, sum: Checksum) -> Checksum {
        let Self { region, first_tag, map } = self;
        map.add_to(sum.add(region.start()).add(region.len()).add(*first_tag))
    }
}

/// What caches are told without the lock; written under it.
#[derive(Debug)]
pub(crate) struct Signals {
    /// How many slabs have gone back to the heap, modulo 2^32. Whoever has a slot of a slab that was
    /// carved later sees a new count.
    pub(crate) releases: AtomicU32,
    /// How often memory has run out while caches held some: those that see a new count give back what
    /// they hold.
    pub(crate) drains: AtomicU32,
}

impl Signals {
    pub(crate) const fn new() -> Self {
        Self { releases: AtomicU32::new(0), drains: AtomicU32::new(0) }
    }

    /// Counts one more. Not an atomic increment: the lock is held, and a Cortex-M0 has none.
    pub(crate) fn count(signal: &AtomicU32) {
        signal.store(signal.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }
}

/// A freed block of the heap that waits, and rests meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitingBlock {
    block: Block,
    size: usize,
}

impl Waits for WaitingBlock {
    fn bytes(&self) -> usize {
        self.size
    }
}

/// The heap and the regions it covers.
#[derive(Debug)]
pub(crate) struct Store {
    pub(super) heap: Heap,
    /// The first region: here, where nothing that runs over a block's end can reach it.
    first: Option<RegionEntry>,
    /// Those that were added later.
    added: Table<Checked<RegionEntry>>,
    /// In the pool's memory, where it stays while the pool lives; null without memory.
    signals: *const Signals,
    /// `log2` of the piece size, once there are maps.
    piece_log2: Option<u32>,
    /// While the pool is set up: what the heap has not lent yet is as the system gave it: zero, but for
    /// the links and the footer of the free block that it lies in.
    zeroed: bool,
    pub(crate) harden: Harden,
    /// Blocks of the heap that wait.
    waiting: Quarantine<WaitingBlock>,
    random: Random,
    /// The guards in the first region, if it has any.
    pub(super) guards: Option<Guards>,
    /// Damage that was come by, until it is reported.
    found: Option<Corruption>,
}

// SAFETY: the pointers lead into regions, which are not tied to a thread.
unsafe impl Send for Store {}

impl Store {
    /// A store without memory.
    pub(crate) const fn empty() -> Self {
        Self {
            heap: Heap::empty(),
            first: None,
            added: Table::empty(),
            signals: null(),
            piece_log2: None,
            zeroed: false,
            harden: Harden::NONE,
            waiting: Quarantine::NONE,
            random: Random::new(1),
            guards: None,
            found: None,
        }
    }

    /// A store over its first region, which is `zeroed` or not. `key` goes into all checksums.
    pub(crate) fn new(
        region: Region,
        zeroed: bool,
        granule: Granule,
        key: usize,
        flags: PoolFlags,
    ) -> Result<Self, ConfigError> {
        let harden = Harden::new(flags, key);
        let (heap, first_tag) = Heap::new(region, granule, key, harden)?;
        let zeroed = zeroed && !harden.poisons();
        let random = Random::new(harden.seed(region.start()));
        let mut store = Self { heap, zeroed, harden, random, ..Self::empty() };
        store.first = Some(RegionEntry { region, first_tag, map: SlabMap::empty() });
        let too_small = ConfigError::RegionTooSmall { bytes: region.len() };
        store.signals = store.new_signals().ok_or(too_small)?;
        store.waiting = store.new_quarantine().ok_or(too_small)?;
        if store.heap.largest_free() == 0 {
            return Err(too_small);
        }
        Ok(store)
    }

    fn new_signals(&mut self) -> Option<*const Signals> {
        let memory = self.heap.alloc(size_of::<Signals>(), 1, Owner::Pool).ok()??;
        let signals = memory.cast::<Signals>();
        // SAFETY: the heap gave that many bytes, aligned to two words, and nobody else has them.
        unsafe { signals.write(Signals::new()) };
        Some(signals)
    }

    /// What caches are told without the lock, once there is memory.
    #[inline]
    pub(crate) fn signals(&self) -> Option<&Signals> {
        // SAFETY: null, or where signals are while the pool lives.
        unsafe { self.signals.as_ref() }
    }

    fn new_quarantine(&mut self) -> Option<Quarantine<WaitingBlock>> {
        let bounds = self.waiting_bounds();
        if bounds.is_nothing() {
            return Some(Quarantine::NONE);
        }
        let bytes = bounds.ring_bytes::<WaitingBlock>();
        let ring = self.heap.alloc(bytes, 1, Owner::Pool).ok()??;
        // SAFETY: the heap gave that many bytes, aligned to two words, and nobody else has them.
        Some(unsafe { Quarantine::new(ring, bounds) })
    }

    /// How much may wait in one quarantine.
    pub(crate) fn waiting_bounds(&self) -> Bounds {
        match self.first_region() {
            Some(first) if self.harden.quarantines() => Bounds::of(first.region.len()),
            _ => Bounds::NOTHING,
        }
    }

    /// Has the first region guards from now on, pages of `page` bytes, if that is wanted and makes sense.
    pub(crate) fn guard_with(&mut self, pages: &'static dyn GuardPages, page: usize) {
        let Some(region) = self.first_region().map(|first| first.region) else { return };
        if !self.harden.guards() || !page.is_power_of_two() || page < self.granule().bytes() {
            return;
        }
        let bytes = Guards::map_bytes(&region, page);
        let Ok(Some(map)) = self.heap.alloc(bytes, 1, Owner::Pool) else { return };
        // SAFETY: the heap gave that many bytes, aligned to two words, and nobody else has them.
        self.guards = Some(unsafe { Guards::new(pages, page, region, map) });
    }

    /// The guards, if there can be any.
    #[inline]
    pub(crate) fn guards(&self) -> Option<&Guards> {
        self.guards.as_ref().filter(|_| cfg!(feature = "flags"))
    }

    /// The blocks that wait.
    pub(crate) fn waiting(&self) -> &Quarantine<WaitingBlock> {
        &self.waiting
    }

    /// Whether a block that rests waits.
    pub(crate) fn waits(&self, block: Block) -> bool {
        self.waiting.iter().any(|waiting| waiting.block == block)
    }

    /// Checks what waits against the tags. O(blocks that wait).
    pub(crate) fn check_waiting(&self) -> Result<(), Corruption> {
        self.waiting.iter().try_for_each(|WaitingBlock { block, size }| {
            let broken = Corruption { addr: block.addr(), kind: CorruptionKind::BlockLinks };
            let fits = self.heap.resting_tag(block).is_ok_and(|tag| tag.size() == size);
            if fits { Ok(()) } else { Err(broken) }
        })
    }

    /// Usable bytes of the largest block that there could be if nothing else were in its region.
    /// O(regions).
    pub(crate) fn largest_when_empty(&self) -> usize {
        let granule = self.granule().bytes();
        let room = |entry: &RegionEntry| entry.region.end() - entry.first_tag - WORD;
        let most = self.entries().map(room).max().unwrap_or(0);
        round_down(most, granule).saturating_sub(WORD)
    }

    /// Ends the set-up: from now on free memory may hold anything.
    pub(crate) fn open(&mut self) {
        self.zeroed = false;
    }

    /// Adds a region. O(regions), plus its slab map.
    pub(crate) fn add_region(&mut self, region: Region) -> Result<(), ConfigError> {
        if self.first.is_none() {
            return Err(ConfigError::NotInitialised);
        }
        let first_tag = self.heap.first_tag(region.start());
        let too_small = ConfigError::RegionTooSmall { bytes: region.len() };
        let first_tag = first_tag.ok_or(too_small)?;
        let entries = (self.added.len() + 1) * size_of::<Checked<RegionEntry>>();
        let map_bytes = self
            .piece_log2
            .map_or(0, |log2| SlabMap::table_bytes(SlabMap::pieces_of(&region, log2)));
        if region.len() < entries + 4 * self.heap.min_block() + map_bytes {
            return Err(too_small);
        }
        self.heap.add_region(region, region.start())?;
        let map = match self.piece_log2 {
            Some(piece_log2) => self.new_map(&region, piece_log2)?,
            None => SlabMap::empty(),
        };
        let entry = Checked::new(RegionEntry { region, first_tag, map });
        let mut added = core::mem::replace(&mut self.added, Table::empty());
        let pushed = added.push_one(self, entry);
        self.added = added;
        pushed.map_err(|_| too_small)
    }

    /// Makes slab maps for all regions, if there are none yet. Nothing changes on failure.
    pub(crate) fn enable_slabs(&mut self) -> Result<(), ConfigError> {
        if self.piece_log2.is_some() {
            return Ok(());
        }
        let first = self.first_region().ok_or(ConfigError::NotInitialised)?.region.len();
        let granule = self.granule();
        let log2 = ceil_log2(first / PIECES + 1).clamp(*PIECE_LOG2.start(), *PIECE_LOG2.end());
        let piece_log2 = to_u32(log2.max(to_usize(granule.shift()) + 1));
        self.piece_log2 = Some(piece_log2);
        self.each_map(|store, region, _| store.new_map(region, piece_log2))
            .inspect_err(|_| self.disable_slabs())
    }

    /// Gives the slab maps back: there are no classes, and nobody knows of the maps.
    pub(crate) fn disable_slabs(&mut self) {
        let dropped = self.each_map(|store, _, map| {
            store.drop_map(map);
            Ok(SlabMap::empty())
        });
        debug_assert!(dropped.is_ok());
        self.piece_log2 = None;
        self.zeroed = false;
    }

    /// Replaces each region's map, while there are no classes. A damaged entry is left alone.
    fn each_map(
        &mut self,
        mut replace: impl FnMut(&mut Self, &Region, SlabMap) -> Result<SlabMap, ConfigError>,
    ) -> Result<(), ConfigError> {
        if let Some(RegionEntry { region, map, .. }) = self.first {
            let map = replace(self, &region, map)?;
            self.first = self.first.map(|first| RegionEntry { map, ..first });
        }
        for index in 0..self.added.len() {
            let Some(&RegionEntry { region, map, .. }) = self.added[index].get() else { continue };
            let map = replace(self, &region, map)?;
            self.added[index].edit(|entry| entry.map = map);
        }
        Ok(())
    }

    fn drop_map(&mut self, map: SlabMap) {
        let table = map.table();
        if !table.is_null() {
            self.free_own(table);
        }
    }

    fn new_map(&mut self, region: &Region, piece_log2: u32) -> Result<SlabMap, ConfigError> {
        let bytes = SlabMap::table_bytes(SlabMap::pieces_of(region, piece_log2));
        let table = self.heap.alloc(bytes, 1, Owner::Pool).ok().flatten();
        let table = table.ok_or(ConfigError::OutOfMemory)?;
        let dirty = if self.zeroed { 2 * WORD } else { bytes };
        // SAFETY: the heap gave that many bytes, aligned to words, and nobody else has them.
        Ok(unsafe { SlabMap::new(region, piece_log2, (table, dirty)) })
    }

    /// The heap, for what needs no region.
    #[inline]
    pub(crate) fn heap(&self) -> &Heap {
        &self.heap
    }

    #[inline]
    pub(crate) fn granule(&self) -> Granule {
        self.heap.granule()
    }

    /// Bytes of a piece; 0 before there are maps.
    pub(crate) fn piece_bytes(&self) -> usize {
        self.piece_log2.map_or(0, |log2| 1 << log2)
    }

    /// Bytes of all regions.
    pub(crate) fn region_bytes(&self) -> usize {
        self.entries().map(|entry| entry.region.len()).sum()
    }

    /// The region that came first.
    #[inline]
    pub(crate) fn first_region(&self) -> Option<&RegionEntry> {
        self.first.as_ref()
    }

    /// All regions, but those whose entries are damaged.
    #[inline]
    pub(crate) fn entries(&self) -> impl Iterator<Item = &RegionEntry> {
        self.first.iter().chain(self.added.iter().filter_map(Checked::get))
    }

    /// One of them. O(regions).
    pub(super) fn entry(&self, number: usize) -> Option<&RegionEntry> {
        self.entries().nth(number)
    }

    /// Checks the entries of all regions.
    pub(crate) fn check_entries(&self) -> Result<(), Corruption> {
        self.added.check()
    }

    /// The region an address lies in. O(regions).
    #[inline]
    pub(crate) fn region_of(&self, addr: usize) -> Option<&RegionEntry> {
        let first = self.first.as_ref()?;
        if first.region.contains(addr) { Some(first) } else { self.added_region_of(addr) }
    }

    /// As [`region_of`](Self::region_of), of those that were added.
    #[cold]
    #[inline(never)]
    fn added_region_of(&self, addr: usize) -> Option<&RegionEntry> {
        self.entries().skip(1).find(|entry| entry.region.contains(addr))
    }

    /// The region that a caller's pointer lies in. O(regions).
    #[inline]
    fn owner_of(&self, addr: usize) -> Result<&RegionEntry, FreeError> {
        self.region_of(addr).ok_or(match self.first_region() {
            Some(_) => FreeError::Foreign { addr },
            None => FreeError::NotInitialised,
        })
    }

    /// Allocates a heap block; see [`alloc_heap`](Self::alloc_heap). What waits is merged before it gives up;
    /// a block that was written to while it was free is set aside.
    pub(crate) fn alloc(
        &mut self,
        size: usize,
        align: usize,
        owner: Owner,
    ) -> Result<Option<*mut u8>, Corruption> {
        loop {
            let block = match self.alloc_heap(size, align, owner)? {
                None if self.end_waiting_for(size) => self.heap.alloc(size, align, owner)?,
                allocated => allocated,
            };
            match block {
                Some(block) if self.harden.poisons() && !self.is_intact(block, owner) => {}
                _ => return Ok(block),
            }
        }
    }

    /// Allocates a heap block in a pool without flags; see [`Heap::alloc`]. Blocks that rest are merged
    /// before it gives up.
    pub(crate) fn alloc_heap(
        &mut self,
        size: usize,
        align: usize,
        owner: Owner,
    ) -> Result<Option<*mut u8>, Corruption> {
        match self.heap.alloc(size, align, owner)? {
            None => self.settle_until(|store| store.heap.alloc(size, align, owner)),
            allocated => Ok(allocated),
        }
    }

    /// A caller's block of `need` bytes that has rested, if there is one just right. `None` says nothing.
    #[inline(always)]
    pub(crate) fn alloc_rested(&mut self, need: usize, align: usize) -> Option<*mut u8> {
        self.heap.alloc_rested(need, align, Owner::Caller)
    }

    /// Else one cut out of a free one, while there is nothing to report; nothing that rests is merged for it.
    /// `None` says nothing.
    #[inline]
    pub(crate) fn alloc_unrested(&mut self, need: usize, align: usize) -> Option<*mut u8> {
        if self.heap.has_found() {
            return None;
        }
        self.heap.alloc_free(need, align, Owner::Caller).ok()?
    }

    /// Damage that was come by since it was asked for last.
    pub(crate) fn take_found(&mut self) -> Option<Corruption> {
        self.found.take().or_else(|| self.heap.take_found())
    }

    /// Whether a block that has just been allocated was left alone while it was free. If not, it is kept
    /// for good.
    #[cold]
    fn is_intact(&mut self, block: *mut u8, owner: Owner) -> bool {
        let room = self.room_of(block, owner).unwrap_or(0);
        let ours = |at| self.heap.is_old_tag(at);
        // SAFETY: the block was just allocated, and is that long.
        let checked = unsafe { self.harden.check_free(block, room, ours) };
        if let Err(found) = checked {
            self.found = Some(found);
            self.heap.retire(block, owner);
        }
        checked.is_ok()
    }

    /// The region whose heap a block at an address would be in.
    fn heap_region(&self, addr: usize) -> Result<Region, FreeError> {
        let region = self.owner_of(addr)?.region;
        // Its tag may be looked at.
        if self.guards().is_some_and(|guards| guards.is_guard(addr.wrapping_sub(WORD))) {
            return Err(FreeError::NotABlock { addr });
        }
        Ok(region)
    }

    /// Bytes that a live block has for its owner.
    pub(crate) fn room_of(&self, payload: *mut u8, owner: Owner) -> Result<usize, FreeError> {
        let region = self.heap_region(payload.addr())?;
        let (block, tag) = self.heap.live(region.at(payload.addr()), &region, owner)?;
        Ok(self.room(block, tag))
    }

    /// Merges blocks that rest, the largest first, until an attempt at something succeeds.
    /// O(sizes that may rest + blocks that rest).
    #[cold]
    fn settle_until<R>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<Option<R>, Corruption>,
    ) -> Result<Option<R>, Corruption> {
        let (mut settled, mut larger) = (0usize, usize::MAX);
        while let Some(size) = self.heap.largest_resting_below(larger) {
            larger = size;
            while let Some(block) = self.heap.rouse(size) {
                self.settle(block);
                settled += 1;
                if settled.is_multiple_of(SETTLED_AT_ONCE)
                    && let Some(found) = attempt(self)?
                {
                    return Ok(Some(found));
                }
            }
        }
        if settled == 0 { Ok(None) } else { attempt(self) }
    }

    /// Merges every block that rests. O(sizes that may rest + blocks that rest).
    pub(crate) fn settle_all(&mut self) {
        let settled = self.settle_until(|_| Ok(None::<()>));
        debug_assert!(settled.is_ok());
    }

    /// Ends all waiting if a request for `size` bytes could be served at all; `false` if nothing waits.
    /// O(blocks that wait).
    fn end_waiting_for(&mut self, size: usize) -> bool {
        let waited = self.waiting.len() > 0 && size <= self.region_bytes();
        if waited {
            self.end_waiting();
        }
        waited
    }

    /// Merges every block that waits. O(blocks that wait).
    pub(crate) fn end_waiting(&mut self) {
        while let Some(waited) = self.waiting.take_oldest() {
            self.end_wait(waited);
        }
    }

    /// Merges a block that has waited, unless it was written to: then it is kept for good.
    fn end_wait(&mut self, WaitingBlock { block, .. }: WaitingBlock) {
        if let Err(found) = self.try_end_wait(block) {
            self.found = Some(found);
            self.heap.retire_resting(block);
        }
    }

    fn try_end_wait(&mut self, block: Block) -> Result<(), Corruption> {
        let tag = self.heap.resting_tag(block)?;
        // SAFETY: a block that rests is nobody's, and that long.
        unsafe { self.harden.check_free(block.payload(), self.room(block, tag), |_| false) }?;
        match self.sides(block, tag)? {
            None => self.settle(block),
            Some(sides) if self.take_down(sides) => {
                self.settle(block);
                self.free_own(sides.front.payload());
            }
            // Its guards cannot be removed.
            Some(_) => self.heap.retire_resting(block),
        }
        Ok(())
    }

    /// Merges a block whose rest has ended.
    fn settle(&mut self, block: Block) {
        if let Some(region) = self.region_of(block.addr()).map(|entry| entry.region) {
            self.heap.settle(block, &region);
        }
    }

    /// Frees a caller's heap block. Slots are not heap blocks: the caller has looked at the map.
    pub(crate) fn free(&mut self, payload: *mut u8) -> Result<(), FreeError> {
        let addr = payload.addr();
        let region = self.heap_region(addr)?;
        let payload = region.at(addr);
        if !self.harden.quarantines() {
            return self.free_now(payload, &region);
        }
        let (block, tag) = self.heap.live(payload, &region, Owner::Caller)?;
        if !self.waiting.holds(tag.size()) {
            return self.free_now(payload, &region);
        }
        // What stands in the way of a later end shows now.
        self.sides(block, tag)?;
        let room = self.room(block, tag);
        self.heap.free_to_wait(block, tag, room)?;
        let freed = WaitingBlock { block, size: tag.size() };
        if let Some(waited) = self.waiting.admit(freed, &mut self.random) {
            self.end_wait(waited);
        }
        while let Some(waited) = self.waiting.take_surplus(&mut self.random) {
            self.end_wait(waited);
        }
        Ok(())
    }

    /// Frees a caller's heap block in a pool without flags.
    #[inline(always)]
    pub(crate) fn free_plain(&mut self, payload: *mut u8) -> Result<(), FreeError> {
        let region = self.owner_of(payload.addr())?.region;
        self.free_in(region.at(payload.addr()), &region, Owner::Caller)
    }

    /// Frees a caller's heap block that does not wait.
    fn free_now(&mut self, payload: *mut u8, region: &Region) -> Result<(), FreeError> {
        if self.guards().is_some() {
            let (block, tag) = self.heap.live(payload, region, Owner::Caller)?;
            if let Some(sides) = self.sides(block, tag)? {
                return self.free_between(payload, region, sides);
            }
        }
        self.free_in(payload, region, Owner::Caller)
    }

    /// Frees a caller's heap block that lies between guards.
    fn free_between(
        &mut self,
        payload: *mut u8,
        region: &Region,
        sides: Sides,
    ) -> Result<(), FreeError> {
        if !self.take_down(sides) {
            self.heap.retire(payload, Owner::Caller);
            return Ok(());
        }
        self.free_in(payload, region, Owner::Caller).inspect_err(|_| self.put_up(sides))?;
        self.free_own(sides.front.payload());
        Ok(())
    }

    #[inline(always)]
    fn free_in(
        &mut self,
        payload: *mut u8,
        region: &Region,
        owner: Owner,
    ) -> Result<(), FreeError> {
        let (block, tag) = self.heap.live(payload, region, owner)?;
        // The pool's own blocks are seldom asked for again.
        if owner == Owner::Caller && self.heap.lay_to_rest(block, tag)? {
            return Ok(());
        }
        self.free_crowded(block, tag, region, owner)
    }

    /// Frees a live block that found no place to rest in.
    #[inline(never)]
    fn free_crowded(
        &mut self,
        block: Block,
        mut tag: Tag,
        region: &Region,
        owner: Owner,
    ) -> Result<(), FreeError> {
        if owner == Owner::Caller
            && let Some(roused) = self.heap.make_way(tag.size())
        {
            self.settle(roused);
            // If that was below, the tag says so now.
            tag = self.heap.live(block.payload(), region, owner)?.1;
            if self.heap.rest_instead(block, tag)? {
                return Ok(());
            }
        }
        Ok(self.heap.free(block, tag, region, owner)?)
    }

    /// Frees a block of the pool's own. If its tag is damaged it stays as it is, for `validate` to
    /// find.
    pub(crate) fn free_own(&mut self, payload: *mut u8) {
        let Some(region) = self.region_of(payload.addr()).map(|entry| entry.region) else { return };
        let _ = self.free_in(payload, &region, Owner::Pool);
    }

    /// Resizes a heap block in place; see [`Heap::resize`].
    pub(crate) fn resize(
        &mut self,
        payload: *mut u8,
        new_size: usize,
    ) -> Result<Option<usize>, FreeError> {
        let addr = payload.addr();
        let region = self.heap_region(addr)?;
        if let Some(guards) = self.guards() {
            let (block, tag) = self.heap.live(region.at(addr), &region, Owner::Caller)?;
            let room = self.room(block, tag);
            let is_between = room < tag.size() - WORD;
            if is_between && new_size <= room {
                return Ok(Some(room));
            }
            // Only a new block gets guards, or takes them along.
            if is_between || (new_size > room && guards.is_large(new_size)) {
                return Ok(None);
            }
        }
        if let Some(roused) = self.heap.rouse_above(region.at(addr), &region) {
            self.settle(roused);
        }
        self.heap.resize(region.at(addr), &region, new_size)
    }

    /// Grows a heap block downwards; see [`Heap::slide`].
    pub(crate) fn slide(
        &mut self,
        payload: *mut u8,
        new_size: usize,
        align: usize,
    ) -> Result<Option<*mut u8>, FreeError> {
        let addr = payload.addr();
        let region = self.heap_region(addr)?;
        if self.guards().is_some() {
            // The block below may be a guard's, or what it leaves behind one.
            return Ok(None);
        }
        self.heap.slide(region.at(addr), &region, new_size, align)
    }

    /// The room of a live heap block, and the size of the object in it: all of the room, but in a pool
    /// with canaries.
    pub(crate) fn measure(&self, payload: *mut u8) -> Result<(usize, usize), FreeError> {
        let room = self.room_of(payload, Owner::Caller)?;
        // SAFETY: a live block of that size.
        Ok((room, unsafe { self.harden.size_of(payload, room) }?))
    }

    /// Frees every caller's block. O(blocks).
    pub(crate) fn free_all(&mut self) -> Result<(), Corruption> {
        for number in 0.. {
            let Some(&entry) = self.entry(number) else { break };
            let mut walk = Walk::new(self, &entry).position();
            while let Some((live, behind)) = Walk::at(self, &entry, walk).next_live()? {
                let freed = self.free_now(live.payload(), &entry.region);
                let broken = Corruption { addr: live.addr(), kind: CorruptionKind::BlockTag };
                freed.map_err(|_| broken)?;
                walk = Some(behind);
            }
        }
        Ok(())
    }

    /// Lends a span for a slab, aligned to `align` (a multiple of the piece size).
    pub(crate) fn take_span(
        &mut self,
        len: usize,
        align: usize,
    ) -> Result<Option<Span>, Corruption> {
        let attempt = |store: &mut Self| store.try_take_span(len, align);
        let taken = match attempt(self)? {
            None => self.settle_until(attempt)?,
            taken => taken,
        };
        match taken {
            None if self.end_waiting_for(len) => attempt(self),
            taken => Ok(taken),
        }
    }

    fn try_take_span(&mut self, len: usize, align: usize) -> Result<Option<Span>, Corruption> {
        let Self { heap, first, added, .. } = self;
        heap.take_span(len, align, |addr| {
            let mut entries = first.iter().chain(added.iter().filter_map(Checked::get));
            let entry = entries.find(|entry| entry.region.contains(addr));
            entry.is_some_and(|entry| entry.map.is_slab(addr))
        })
    }

    /// Fills a span that was taken for a slab as its free slots are to be.
    pub(crate) fn refill_span(&mut self, span: Span) {
        if !self.harden.poisons() {
            return;
        }
        let ours = |at| self.heap.is_old_tag(at);
        // SAFETY: nobody uses the span yet.
        if let Err(found) = unsafe { self.harden.check_free(span.start, span.len, ours) } {
            self.found = Some(found);
        }
        self.fill_span(span);
    }

    /// Fills a slab none of whose slots anybody uses.
    pub(crate) fn fill_span(&self, span: Span) {
        // SAFETY: the span is valid; nobody uses it (caller).
        unsafe { self.harden.fill_free(span.start, span.len, span.len) };
    }

    /// Takes back a span, whose pieces the map calls heap again.
    pub(crate) fn put_span(&mut self, span: Span) -> Result<(), Corruption> {
        let start = span.start.addr();
        let lost = Corruption { addr: start, kind: CorruptionKind::Slab };
        let entry = self.region_of(start).ok_or(lost)?;
        let (region, map) = (entry.region, entry.map);
        let below = map.is_slab(start - 1);
        let above = map.is_slab(start + span.len);
        if let Some(signals) = self.signals() {
            Signals::count(&signals.releases);
        }
        self.heap.put_span(span, below, above, &region)
    }
}
