//! The classes and their slabs: carves slabs out of the heap, hands out and takes back slots, and
//! gives slabs back that nobody uses. The caller holds the pool's lock.

use core::ops::Range;

use super::{
    size_class::{Class, MAX_CLASS_SIZE, SizeTable, SlabCut, SlabShape},
    slab::{GROUP, Home, Slab, SlabParts, SlotRef, SlotState},
    slab_map::{PieceEntry, PieceKind},
    store::Store,
    table::Table,
    walk::{Walk, Walked},
};
use crate::{
    checksum::Checked,
    config::{ClassId, MAX_CLASSES, SizeClass},
    error::{ConfigError, Corruption, CorruptionKind, FreeError},
    heap::{Owner, Span},
    region::Region,
    units::{WORD, to_u8, to_u32, to_usize},
};

/// Slabs of one class may take up this part of the regions each, or one slot if that is more.
const SLAB_SHARE: usize = 128;

/// Empty slabs that a class keeps beyond its reserve, so that a pair of calls at the edge of a
/// slab does not carve and return it again and again.
const SPARE_SLABS: u32 = 1;

/// Groups of state bytes that one call looks through at most, so that filling a magazine from slabs
/// with few free slots each stays short.
const GROUPS_PER_TAKE: u32 = 16;

/// Whether `taken` slots will do where `want` were asked for: the rest would be part of a group of
/// `group` slots, and another cache might get the other part.
const fn is_enough(taken: usize, want: usize, group: usize) -> bool {
    2 * taken >= want && want - taken < group && taken > 0
}

/// A slot that a pointer was found to be the start of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) class: ClassId,
    pub(crate) at: SlotRef,
    pub(crate) state: u8,
    /// Its bytes, with what the pool writes behind the usable ones.
    pub(crate) room: usize,
    /// Its usable bytes.
    pub(crate) size: usize,
}

impl Slot {
    /// Whether it is the cached slot of a class that a magazine says it is.
    pub(crate) fn is_cached(&self, id: ClassId, cached: SlotRef) -> bool {
        self.class == id && self.state == SlotState::Cached as u8 && self.at.state == cached.state
    }
}

/// All classes with their slabs, over the store.
#[derive(Debug)]
pub(crate) struct Slabs {
    pub(crate) store: Store,
    classes: Table<Checked<Class>>,
    sizes: SizeTable,
    /// Usable bytes of all slots that are not in their slab.
    out_bytes: usize,
    /// Whether a class has ever had a reserve.
    has_reserves: bool,
    /// Whether a class has ever had a watermark.
    has_watermarks: bool,
}

impl Slabs {
    pub(crate) const fn new(store: Store) -> Self {
        Self {
            store,
            classes: Table::empty(),
            sizes: SizeTable::empty(),
            out_bytes: 0,
            has_reserves: false,
            has_watermarks: false,
        }
    }

    /// How many classes there are.
    pub(crate) fn count(&self) -> usize {
        self.classes.len()
    }

    /// A class, if there is such a one and its entry is intact.
    #[inline]
    pub(crate) fn class(&self, class: ClassId) -> Option<&Class> {
        self.verified(class).ok()
    }

    /// As [`class`](Self::class), and where the damage is.
    #[inline]
    pub(crate) fn verified(&self, class: ClassId) -> Result<&Class, Corruption> {
        self.classes.verified(class.index())
    }

    /// Checks the entries of all classes.
    pub(crate) fn check_entries(&self) -> Result<(), Corruption> {
        self.classes.check()
    }

    /// Changes what is counted of a class, if its entry is intact.
    pub(crate) fn edit<R>(
        &mut self,
        class: ClassId,
        change: impl FnOnce(&mut Class) -> R,
    ) -> Option<R> {
        self.classes.get_mut(class.index())?.edit(change)
    }

    /// Works with a class, if its entry is intact: on a copy, which is written back.
    fn with_class<R>(
        &mut self,
        id: ClassId,
        work: impl FnOnce(&mut Self, &mut Class) -> Result<R, Corruption>,
    ) -> Result<R, Corruption> {
        let mut class = *self.verified(id)?;
        let result = work(self, &mut class);
        if let Some(entry) = self.classes.get_mut(id.index()) {
            *entry = Checked::new(class);
        }
        result
    }

    /// The smallest class that serves requests by size and whose slots can hold `size` bytes. O(1).
    pub(crate) fn class_of(&self, size: usize) -> Option<ClassId> {
        let look = |id| self.class(id).map(|class| (class.shape.size, class.next_larger));
        self.sizes.class_of(size, look)
    }

    pub(crate) fn sizes(&self) -> &SizeTable {
        &self.sizes
    }

    /// Usable bytes of all slots that are live or cached.
    pub(crate) fn out_bytes(&self) -> usize {
        self.out_bytes
    }

    /// Whether a class has ever had a watermark.
    pub(crate) fn has_watermarks(&self) -> bool {
        self.has_watermarks
    }

    /// Bytes of the slots that reserves keep while nobody uses them. O(classes).
    pub(crate) fn unused_reserves(&self) -> usize {
        if !self.has_reserves {
            return 0;
        }
        let unused = |class: &Class| class.reserve.saturating_sub(class.out);
        let bytes = |class: &Class| to_usize(unused(class)) * to_usize(class.shape.stride);
        self.classes.iter().filter_map(Checked::get).map(bytes).sum()
    }

    /// Adds a class and carves the slabs of its reserve; on failure no class, slab or map is left. O(reserve).
    pub(crate) fn add_class(&mut self, declared: &SizeClass) -> Result<ClassId, ConfigError> {
        if self.store.first_region().is_none() {
            return Err(ConfigError::NotInitialised);
        }
        if self.classes.len() == MAX_CLASSES {
            return Err(ConfigError::TooManyClasses);
        }
        if declared.limit < declared.reserve || declared.limit == 0 {
            return Err(ConfigError::LimitBelowReserve);
        }
        if declared.size == 0 || declared.size > MAX_CLASS_SIZE {
            return Err(ConfigError::BadClassSize { size: declared.size });
        }
        self.store.enable_slabs()?;
        self.has_reserves |= declared.reserve > 0;
        self.has_watermarks |= declared.watermark.is_some();
        let class = self.push_class(declared).inspect_err(|_| self.tidy())?;
        self.carve_reserve(class).inspect_err(|_| self.forget_last())?;
        if !declared.dedicated {
            self.sizes.add(&mut self.classes, class.index());
        }
        Ok(class)
    }

    fn push_class(&mut self, declared: &SizeClass) -> Result<ClassId, ConfigError> {
        let (granule, piece) = (self.store.granule().bytes(), self.store.piece_bytes());
        let share = self.store.region_bytes() / SLAB_SHARE;
        let overhead = self.store.harden.overhead();
        let guard = self.store.guards().map_or(0, |guards| guards.slab_guard(share, piece));
        let shape = SlabShape::new(declared, overhead, granule, SlabCut { piece, share, guard })?;
        let class = ClassId(to_u8(self.classes.len()));
        self.classes.push(&mut self.store, Checked::new(Class::new(declared, shape, class.0)))?;
        Ok(class)
    }

    /// Gives back what only classes need, if there are none.
    fn tidy(&mut self) {
        self.classes.end_if_empty(&mut self.store);
        if self.classes.is_empty() {
            self.store.disable_slabs();
        }
    }

    /// Takes back the class that was added last, before anybody used it.
    pub(crate) fn forget_last(&mut self) {
        let Some(last) = self.classes.len().checked_sub(1) else { return };
        // All of its slabs are of the reserve, and none of their slots was ever taken.
        let released = self.with_class(ClassId(to_u8(last)), |slabs, class| {
            while let Some(slab) = class.partial.first() {
                slabs.release(class, slab)?;
            }
            Ok(())
        });
        self.classes.pop();
        self.sizes = SizeTable::empty();
        for number in 0..last {
            if self.classes[number].get().is_some_and(|class| !class.dedicated) {
                self.sizes.add(&mut self.classes[..=number], number);
            }
        }
        // A slab whose guard cannot be removed keeps the maps that know of it.
        if released.is_ok() {
            self.tidy();
        }
    }

    fn carve_reserve(&mut self, id: ClassId) -> Result<(), ConfigError> {
        let carved = self.with_class(id, |slabs, class| {
            while class.slots() < class.reserve && slabs.grow(id, class, true)? {}
            Ok(*class)
        });
        match carved {
            Ok(class) if class.slots() >= class.reserve => Ok(()),
            _ => {
                let (reserve, available) =
                    self.class(id).map_or((0, 0), |class| (class.reserve, class.slots()));
                let (reserve, available) = (to_usize(reserve), to_usize(available));
                Err(ConfigError::ReserveTooLarge { reserve, available })
            }
        }
    }

    /// Takes up to `want` slots out of the class's slabs, marks them cached and passes them to `out`,
    /// until the class is at its limit, memory has run out, enough state bytes have been looked at, or
    /// half of them are there and the next ones would break a group. Returns how many: at least one if
    /// there is one. O(1), plus carving a slab.
    pub(crate) fn take(
        &mut self,
        id: ClassId,
        want: usize,
        mut out: impl FnMut(SlotRef),
    ) -> Result<usize, Corruption> {
        self.with_class(id, |slabs, class| {
            let mut taken = 0;
            let result = slabs.take_of(id, class, want, |slot| {
                taken += 1;
                out(slot);
            });
            class.out += to_u32(taken);
            class.peak = class.peak.max(class.out);
            slabs.out_bytes += taken * class.shape.size;
            if taken > 0 { Ok(taken) } else { result.map(|()| 0) }
        })
    }

    fn take_of(
        &mut self,
        id: ClassId,
        class: &mut Class,
        want: usize,
        mut out: impl FnMut(SlotRef),
    ) -> Result<(), Corruption> {
        let shape = class.shape;
        let want = want.min(to_usize(class.limit.saturating_sub(class.out)));
        let (mut taken, mut groups) = (0, GROUPS_PER_TAKE);
        let group = to_usize(shape.slots.min(GROUP));
        while taken < want && groups > 0 && !is_enough(taken, want, group) {
            let Some(slab) = class.partial.first().or_else(|| class.idle.first()) else {
                if self.grow(id, class, false)? {
                    continue;
                }
                break;
            };
            let take = || slab.take(shape.stride, want - taken, &mut out);
            taken += relist(class, slab.verified()?, take)?;
            groups -= 1;
        }
        Ok(())
    }

    /// Takes slots back that were taken out of slabs of this class; a slab that this leaves empty goes
    /// back to the heap if the class has another one. Every one of them, whatever becomes of another.
    /// O(1) for each.
    pub(crate) fn put(
        &mut self,
        id: ClassId,
        slots: impl Iterator<Item = usize>,
    ) -> Result<(), Corruption> {
        self.with_class(id, |slabs, class| {
            let puts = slots.map(|addr| slabs.put_one(id, class, addr));
            puts.fold(Ok(()), Result::and)
        })
    }

    fn put_one(&mut self, id: ClassId, class: &mut Class, addr: usize) -> Result<(), Corruption> {
        let lost = Corruption { addr, kind: CorruptionKind::Magazine };
        let piece = self.piece_of(addr).filter(|piece| piece.is_intact()).ok_or(lost)?;
        let index = class.shape.reciprocal.divide(piece.offset_of(addr));
        if piece.kind() != PieceKind::class(id.0) || index >= class.shape.slots {
            return Err(lost);
        }
        let slab = Slab::of_states(piece.states()).verified()?;
        if slab.state(index).load() == SlotState::Free as u8 {
            return Err(lost);
        }
        if slab.is_full() || slab.free() + 1 == slab.slots() {
            relist(class, slab, || slab.put(index))?;
        } else {
            slab.put(index);
        }
        self.out_bytes -= class.shape.size;
        class.out -= 1;
        if slab.home() == Home::Idle && class.idle.len() > SPARE_SLABS {
            // If the heap is too damaged to take the slab, it stays the class's.
            let _ = self.release(class, slab);
        }
        Ok(())
    }

    #[inline]
    fn piece_of(&self, addr: usize) -> Option<&PieceEntry> {
        self.store.region_of(addr)?.map().piece_of(addr)
    }

    /// The slot that starts at an address, if the address is in a slab; its state is not judged.
    /// `Ok(None)`: the heap's part of a region.
    pub(crate) fn slot_at(&self, addr: usize) -> Result<Option<Slot>, FreeError> {
        let map = self.store.region_of(addr).ok_or(FreeError::Foreign { addr })?.map();
        let Some(piece) = map.piece_of(addr) else { return Ok(None) };
        if !piece.is_intact() {
            return Err(FreeError::Corrupted { addr });
        }
        let Some(class) = piece.kind().as_class().map(ClassId) else { return Ok(None) };
        let shape = &self.class(class).ok_or(FreeError::Corrupted { addr })?.shape;
        let index = shape.reciprocal.divide(piece.offset_of(addr));
        if index >= shape.slots {
            return Err(FreeError::NotABlock { addr });
        }
        let byte = Slab::of_states(piece.states()).state(index);
        let at = SlotRef { start: map.at(addr), state: byte };
        let (room, size) = (shape.room, shape.size);
        Ok(Some(Slot { class, at, state: byte.load(), room, size }))
    }

    /// Carves one more slab, for the reserve or not. `false`: no room.
    fn grow(&mut self, id: ClassId, class: &mut Class, reserved: bool) -> Result<bool, Corruption> {
        let shape = class.shape;
        class.check_heads()?;
        let piece = self.store.piece_bytes();
        // The span first: where memory has run out, that is what fails, and a search saved.
        let span = self.store.take_span(shape.slab_bytes(piece), piece.max(shape.align))?;
        let Some(span) = span else { return Ok(false) };
        let bytes = Slab::descriptor_bytes(shape.slots);
        let memory = self.store.alloc(bytes, Slab::ALIGN, Owner::Pool);
        let Ok(Some(memory)) = memory else {
            self.store.put_span(span)?;
            return memory.map(|_| false);
        };
        self.store.refill_span(span);
        let lost = Corruption { addr: span.start.addr(), kind: CorruptionKind::Slab };
        let map = *self.store.region_of(span.start.addr()).ok_or(lost)?.map();
        let SlabShape { pieces, slots, .. } = shape;
        let parts = SlabParts { first: span.start, pieces, slots, class: id.0, reserved };
        #[allow(unsafe_code)] // the memory was just allocated for this
        // SAFETY: the heap gave `descriptor_bytes(slots)` bytes, aligned as asked for.
        let slab = unsafe { Slab::new(memory, parts) };
        map.set_slab(span.start.addr(), pieces, PieceKind::class(id.0), slab.states());
        if let Some(guard) = self.guard_of(&shape, span.start.addr()) {
            self.store.set_guard(guard);
        }
        class.slabs += 1;
        if let Some(list) = class.list(slab.home()) {
            list.push(slab);
        }
        Ok(true)
    }

    /// Where the guard of a slab is that starts at an address. Guards are in the first region only.
    fn guard_of(&self, shape: &SlabShape, start: usize) -> Option<usize> {
        let has = shape.guard > 0 && self.store.guards().is_some_and(|guards| guards.covers(start));
        has.then(|| start + shape.unguarded_bytes(self.store.piece_bytes()))
    }

    /// Gives an empty slab back to the heap; not if its guard cannot be taken down.
    fn release(&mut self, class: &mut Class, slab: Slab) -> Result<(), Corruption> {
        let lost = Corruption { addr: slab.memory().addr(), kind: CorruptionKind::Slab };
        slab.verified()?.check_neighbours()?;
        debug_assert!(slab.is_empty());
        let (start, pieces, kind) = (slab.first(), slab.pieces(), PieceKind::class(slab.class()));
        let map = *self.store.region_of(start.addr()).ok_or(lost)?.map();
        let len = to_usize(pieces) * self.store.piece_bytes();
        let guard = self.guard_of(&class.shape, start.addr());
        if guard.is_some_and(|guard| !self.store.unset_guard(guard)) {
            return Err(lost);
        }
        map.set_kind(start.addr(), pieces, PieceKind::HEAP);
        if let Err(broken) = self.store.put_span(Span { start, len }) {
            map.set_slab(start.addr(), pieces, kind, slab.states());
            if let Some(guard) = guard {
                self.store.set_guard(guard);
            }
            return Err(broken);
        }
        class.slabs -= 1;
        if let Some(list) = class.list(slab.home()) {
            list.remove(slab);
        }
        self.store.free_own(slab.memory());
        Ok(())
    }

    /// Gives the class's idle slabs back to the heap. O(idle slabs).
    pub(crate) fn release_idle(&mut self, id: ClassId) -> Result<(), Corruption> {
        self.with_class(id, |slabs, class| {
            while let Some(slab) = class.idle.first() {
                slabs.release(class, slab)?;
            }
            Ok(())
        })
    }

    /// Visits all memory that nobody uses and nothing of ours lies in: the insides of free heap
    /// blocks, and slabs without a live or cached slot. O(blocks + slabs).
    pub(crate) fn for_each_free(&self, mut visit: impl FnMut(&Region, Range<usize>)) {
        for entry in self.store.entries() {
            for walked in Walk::new(&self.store, entry).flatten() {
                if let Walked::Block(block, tag) = walked
                    && !tag.is_used()
                {
                    // Between the links and the footer.
                    let (start, end) = (block.addr() + 3 * WORD, block.addr() + tag.size() - WORD);
                    visit(entry.region(), start..end);
                }
            }
        }
        for class in self.classes.iter().filter_map(Checked::get) {
            let bytes = class.shape.unguarded_bytes(self.store.piece_bytes());
            let listed = class.partial.iter().chain(class.idle.iter());
            for slab in listed.filter(|slab| slab.is_empty()) {
                let start = slab.first().addr();
                if let Some(entry) = self.store.region_of(start) {
                    visit(entry.region(), start..start + bytes);
                }
            }
        }
    }

    /// Takes every slot back, whoever has it, and gives all slabs back to the heap but those that
    /// the reserves need: carved anew, they might not find room. O(regions + slabs + slots).
    pub(crate) fn reset(&mut self) -> Result<(), Corruption> {
        for number in 0.. {
            let Some(&entry) = self.store.entry(number) else { break };
            for (addr, piece) in entry.map().all() {
                if !piece.is_intact() {
                    return Err(Corruption { addr, kind: CorruptionKind::Slab });
                }
                let Some(class) = piece.kind().as_class() else { continue };
                if piece.offset_of(addr) == 0 {
                    let slab = Slab::of_states(piece.states()).verified()?;
                    self.with_class(ClassId(class), |slabs, class| slabs.reset_slab(class, slab))?;
                }
            }
        }
        for index in 0..self.classes.len() {
            let id = ClassId(to_u8(index));
            self.edit(id, |class| {
                (class.peak, class.damaged) = (0, 0);
                (class.failures, class.limit_hits) = (0, 0);
            });
            self.release_idle(id)?;
        }
        Ok(())
    }

    fn reset_slab(&mut self, class: &mut Class, slab: Slab) -> Result<(), Corruption> {
        let taken = slab.slots() - slab.free();
        relist(class, slab, || slab.free_all())?;
        class.out -= taken;
        self.out_bytes -= to_usize(taken) * class.shape.size;
        let len = class.shape.unguarded_bytes(self.store.piece_bytes());
        self.store.fill_span(Span { start: slab.first(), len });
        Ok(())
    }
}

/// Lets `change` change a slab that is intact, and keeps it in the list of its class that it belongs in.
/// Nothing changes if one of those that it stands beside is damaged.
fn relist<R>(class: &mut Class, slab: Slab, change: impl FnOnce() -> R) -> Result<R, Corruption> {
    class.check_links(slab)?;
    let before = slab.home();
    let result = change();
    let after = slab.home();
    if before != after {
        if let Some(list) = class.list(before) {
            list.remove(slab);
        }
        if let Some(list) = class.list(after) {
            list.push(slab);
        }
    }
    Ok(result)
}
