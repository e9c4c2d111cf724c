#![allow(unsafe_code)] // the fast path: pops and pushes slots of magazines in the region
//! What one cache has of one class: the loaded magazine, the others, and what the fast path needs to
//! know of the class, all in one place so that no load waits for another.
//!
//! ```text
//! slots:   [ full ][ full ][ loaded ][ empty ][ empty ]
//!           next to be allocated  <-    ->  next to be freed to
//! ```

use core::{cell::Cell, cmp::Ordering, mem::MaybeUninit, ptr::NonNull};

use super::magazine::{Arrays, Magazine};
use crate::{
    asan,
    checksum::Checksum,
    slab::{Class, Reciprocal, SlotRef, SlotState, StateByte, least_request},
    sync::{
        AtomicPtr, AtomicU32, LOOKS,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
    units::{floor_log2, high_u32, low_u32, to_u8, to_u16, to_u32, to_usize},
};

/// Magazines that a cache should have at least: when one is full or empty, there is another.
pub(super) const PAIR: u8 = 2;

/// A number below `len`, which the low 32 bits of another decide: without a division.
#[inline]
fn scale(random: usize, len: usize) -> usize {
    let wide = u64::from(low_u32(random)) * u64::from(low_u32(len));
    to_usize(high_u32(wide))
}

/// What somebody sees who looks at a class in a cache while its owner may be at it.
pub(crate) enum Look {
    /// It is about to change.
    Busy,
    Damaged,
    /// It has this magazine loaded, or none.
    At(Option<Magazine>),
}

/// How the slabs of a class are cut into slots.
#[derive(Clone, Copy)]
pub(crate) struct SlotGrid {
    reciprocal: Reciprocal,
    slots: u32,
}

impl SlotGrid {
    /// Which of a slab's slots starts at an offset, if one does.
    #[inline(always)]
    pub(crate) fn slot_at(self, offset: u32) -> Option<u32> {
        let index = self.index_of(offset);
        (index < self.slots).then_some(index)
    }

    /// Which of a slab's slots starts at an offset; anything if none does.
    #[inline(always)]
    pub(crate) fn index_of(self, offset: u32) -> u32 {
        self.reciprocal.divide(offset)
    }
}

/// One class in one cache.
///
/// Invariants: `loaded` are the arrays of a magazine with room for `capacity` slots (or none, and
/// `capacity` is 0), the first `len` of them cached slots, at any moment. What lies in the places beyond, if
/// anything, was popped there; its state byte is where it says as long as no slab has gone back to
/// the heap since `releases`. The loaded magazine stands in a row of `count`: those to its left hold
/// slots, `others` in all, those to its right none; their lengths and `releases` are in their headers.
/// Only the cache's owner calls methods that change it, one at a time.
/// Anybody who holds the pool's lock may read all of it: what changes without the lock is atomic, and what
/// changes together does so while `check` says [`BUSY`](ClassCache::BUSY).
#[derive(Debug)]
#[repr(C)]
#[cfg_attr(target_pointer_width = "64", repr(align(64)))]
pub(crate) struct ClassCache {
    starts: AtomicPtr<*mut u8>,
    states: AtomicPtr<StateByte>,
    len: AtomicU32,
    capacity: Cell<u32>,
    reciprocal: Reciprocal,
    /// Usable bytes of a slot.
    pub(crate) size: u32,
    /// Bytes of a slot, with what the pool writes behind the usable ones.
    pub(crate) room: u32,
    /// The smallest request by size that it serves; what holds nothing serves none.
    least: u32,
    /// The count of slabs that had gone back to the heap when the free places were last wiped.
    releases: AtomicU32,
    /// Slots in the other magazines.
    others: AtomicU32,
    /// Magazines it has.
    count: Cell<u8>,
    /// Magazines that it has taken and not given back, while one counts.
    taken: Cell<u8>,
    /// Slots of each of its slabs.
    slots_per_slab: u16,
    /// What its slots are aligned to, as `log2`.
    align_log2: u8,
    /// The number of the next larger class, or its own; no class's in what holds nothing.
    pub(crate) next_larger: u8,
    /// A checksum of all but the lengths.
    check: AtomicU32,
}

impl ClassCache {
    /// A class that never holds a slot.
    pub(crate) const fn nothing() -> Self {
        Self {
            starts: AtomicPtr::new(Arrays::NONE.starts),
            states: AtomicPtr::new(Arrays::NONE.states),
            len: AtomicU32::new(0),
            capacity: Cell::new(0),
            reciprocal: Reciprocal::of(1),
            slots_per_slab: 0,
            size: 0,
            room: 0,
            least: u32::MAX,
            releases: AtomicU32::new(0),
            others: AtomicU32::new(0),
            count: Cell::new(0),
            taken: Cell::new(0),
            align_log2: 0,
            next_larger: u8::MAX,
            check: AtomicU32::new(0),
        }
    }

    /// As [`nothing`](Self::nothing), with its checksum.
    pub(crate) fn sealed_nothing() -> Self {
        let nothing = Self::nothing();
        nothing.seal();
        nothing
    }

    /// A cache without magazines.
    pub(crate) fn new(class: &Class) -> Self {
        #[cfg(target_pointer_width = "64")]
        const {
            assert!(size_of::<Self>() == 64, "a line of the processor's cache");
        };
        let new = Self {
            reciprocal: class.shape.reciprocal,
            slots_per_slab: to_u16(to_usize(class.shape.slots)),
            size: to_u32(class.shape.size),
            room: to_u32(class.shape.room),
            least: to_u32(least_request(class.shape.size)),
            align_log2: to_u8(floor_log2(class.shape.align)),
            next_larger: class.next_larger,
            ..Self::nothing()
        };
        new.seal();
        new
    }

    /// The loaded arrays, for the owner, who alone writes them. (Atomic loads would be instructions of
    /// their own.)
    #[inline(always)]
    fn loaded(&self) -> Arrays {
        // SAFETY: nobody writes meanwhile.
        unsafe { Arrays { starts: *self.starts.as_ptr(), states: *self.states.as_ptr() } }
    }

    /// As [`loaded`](Self::loaded).
    #[inline(always)]
    fn releases(&self) -> u32 {
        // SAFETY: nobody writes meanwhile.
        unsafe { *self.releases.as_ptr() }
    }

    fn set_loaded(&self, Arrays { starts, states }: Arrays) {
        self.starts.store(starts, Relaxed);
        self.states.store(states, Relaxed);
    }

    /// Never [`BUSY`](Self::BUSY).
    fn sum(&self) -> u32 {
        let (starts, states) = (self.starts.load(Relaxed), self.states.load(Relaxed));
        let sum = self.reciprocal.add_to(Checksum::NONE.add_addr(starts).add_addr(states));
        let sum = sum.add_pair(self.capacity.get(), self.releases.load(Relaxed));
        let sum = sum.add_pair(self.size, self.room);
        let bytes = [self.count.get(), self.taken.get(), self.align_log2, self.next_larger];
        let sum = sum.add_pair(self.least, u32::from_le_bytes(bytes));
        sum.add_u32(u32::from(self.slots_per_slab)).sum() | 1
    }

    /// What stands for the checksum while the owner is about to change what it is of.
    const BUSY: u32 = 0;

    /// Whoever looks from now on until it is sealed passes over it.
    fn be_busy(&self) {
        self.check.store(Self::BUSY, Relaxed);
        fence(Release);
    }

    fn seal(&self) {
        self.check.store(self.sum(), Release);
    }

    /// Whether all but the lengths is what was written last.
    pub(crate) fn is_intact(&self) -> bool {
        self.check.load(Relaxed) == self.sum() && self.len() <= self.capacity()
    }

    /// Looks at it while its owner may be at it. The caller holds the pool's lock.
    pub(crate) fn look(&self) -> Look {
        // If its owner steps away and back meanwhile, the old checksum is there again, and does not fit.
        // There is nothing to wait for: a change that goes on says so.
        let mut looks = (0..LOOKS).map(|_| self.look_once());
        looks.find(|look| !matches!(look, Look::Damaged)).unwrap_or(Look::Damaged)
    }

    /// Whether its owner is about to change it, or was while this looked.
    pub(crate) fn is_changing(&self) -> bool {
        matches!(self.look_once(), Look::Busy)
    }

    fn look_once(&self) -> Look {
        let check = self.check.load(Acquire);
        let is_sum = check == self.sum();
        let starts = self.starts.load(Relaxed);
        fence(Acquire);
        if check == Self::BUSY || check != self.check.load(Relaxed) {
            return Look::Busy;
        }
        if !is_sum || self.len() > self.capacity() {
            return Look::Damaged;
        }
        let arrays = Arrays { starts, ..Arrays::NONE };
        // SAFETY: the type's invariant: they are a magazine's.
        Look::At(self.has_magazines().then(|| unsafe { arrays.magazine() }))
    }

    /// How many slots one of its magazines holds, as far as others can see.
    pub(crate) fn len_of(&self, magazine: Magazine) -> usize {
        let is_loaded = self.starts.load(Acquire) == magazine.arrays().starts;
        let len = if is_loaded { self.len() } else { magazine.len() };
        len.min(to_usize(magazine.capacity()))
    }

    /// Magazines it has.
    pub(crate) fn count(&self) -> usize {
        self.count.get().into()
    }

    /// Whether it can be relied on, the loaded magazine's header included. If not, it has no magazines from
    /// now on, nor ever gets one: those that it had, and what is in them, are left alone. That goes for one
    /// whose owner was lost in the middle of a change too, as in the child of a fork.
    pub(crate) fn can_go_on(&self) -> bool {
        let can = self.is_intact() && self.magazine().is_none_or(Magazine::is_intact);
        if !can {
            self.abandon();
        }
        can
    }

    /// The loaded magazine, whose header is not up to date. It is intact itself.
    pub(crate) fn magazine(&self) -> Option<Magazine> {
        // SAFETY: the type's invariant: they are a magazine's.
        self.has_magazines().then(|| unsafe { self.loaded().magazine() })
    }

    #[cold]
    fn abandon(&self) {
        let is_lost = self.check.load(Relaxed) == Self::BUSY;
        self.hold_nothing();
        self.others.store(0, Relaxed);
        self.check.store(if is_lost { Self::BUSY } else { !self.sum() }, Relaxed);
    }

    /// Has no magazines from now on.
    fn hold_nothing(&self) {
        self.capacity.set(0);
        self.set_len(0);
        self.set_loaded(Arrays::NONE);
        self.count.set(0);
    }

    /// Whether it serves requests by size for so many bytes, if no smaller class does.
    #[inline(always)]
    pub(crate) fn serves(&self, size: usize) -> bool {
        size >= to_usize(self.least) && size <= to_usize(self.size)
    }

    /// What its slots are aligned to.
    pub(crate) fn align(&self) -> usize {
        1 << self.align_log2
    }

    #[inline(always)]
    fn len(&self) -> usize {
        to_usize(self.len.load(Relaxed))
    }

    #[inline(always)]
    fn set_len(&self, len: usize) {
        self.len.store(low_u32(len), Relaxed);
    }

    #[inline(always)]
    fn capacity(&self) -> usize {
        to_usize(self.capacity.get())
    }

    /// Slots ready in its magazines.
    pub(crate) fn cached(&self) -> usize {
        self.len() + to_usize(self.others.load(Relaxed))
    }

    /// How its slabs are cut.
    #[inline(always)]
    pub(crate) fn grid(&self) -> SlotGrid {
        SlotGrid { reciprocal: self.reciprocal, slots: self.slots_per_slab.into() }
    }

    /// Whether the loaded magazine is empty.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the loaded magazine is full.
    #[inline(always)]
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.capacity()
    }

    /// Whether the loaded magazine holds too few slots for a random choice.
    #[inline(always)]
    pub(crate) fn has_few(&self) -> bool {
        self.len() < self.capacity() / 2
    }

    /// Brings one of the loaded magazine's slots to its top; which one, `random` decides.
    #[inline]
    pub(crate) fn shuffle(&self, random: usize) {
        let (loaded, len) = (self.loaded(), self.len());
        if len > 1 {
            let chosen = scale(random, len);
            // Who looks meanwhile is not to see half a slot.
            self.set_len(chosen);
            fence(Release);
            // SAFETY: the type's invariant: both places hold slots.
            unsafe {
                let (slot, top) = (loaded.get(chosen), loaded.get(len - 1));
                loaded.set(len - 1, slot);
                loaded.set(chosen, top);
            }
            self.len.store(low_u32(len), Release);
        }
    }

    /// How many slots the loaded magazine has room for.
    #[inline(always)]
    pub(crate) fn room(&self) -> usize {
        self.capacity().saturating_sub(self.len())
    }

    /// Pops the slot that was pushed last.
    #[inline(always)]
    pub(crate) fn pop(&self) -> Option<SlotRef> {
        let last = self.len().checked_sub(1)?;
        self.set_len(last);
        // SAFETY: the type's invariant, and `last` is one less than the count of slots.
        Some(unsafe { self.loaded().get(last) })
    }

    /// The slot that was pushed last.
    #[inline(always)]
    pub(crate) fn last(&self) -> Option<SlotRef> {
        let last = self.len().checked_sub(1)?;
        // SAFETY: as in `pop`.
        Some(unsafe { self.loaded().get(last) })
    }

    /// Marks a slot that is about to be pushed cached.
    #[inline(always)]
    fn take_back(&self, slot: SlotRef) {
        asan::shut(slot.start, to_usize(self.room));
        slot.state.store(SlotState::Cached);
    }

    /// Pushes a slot if there is room, and marks it cached.
    #[inline(always)]
    pub(crate) fn push(&self, slot: SlotRef) -> bool {
        let len = self.len();
        if len >= self.capacity() {
            return false;
        }
        self.take_back(slot);
        // SAFETY: the type's invariant, and the magazine has room.
        unsafe { self.loaded().set(len, slot) };
        self.set_len(len + 1);
        true
    }

    /// Pushes the slots that `find` finds at addresses, while there is room and up to the first that it does
    /// not find. Returns how many.
    #[inline(always)]
    pub(crate) fn push_found(
        &self,
        pointers: &[NonNull<u8>],
        mut find: impl FnMut(usize) -> Option<SlotRef>,
    ) -> usize {
        let (loaded, len) = (self.loaded(), self.len());
        let mut pushed = 0;
        for (place, pointer) in (len..self.capacity()).zip(pointers) {
            let Some(slot) = find(pointer.addr().get()) else { break };
            self.take_back(slot);
            // SAFETY: the type's invariant, and the magazine has this place.
            unsafe { loaded.set(place, slot) };
            pushed += 1;
        }
        self.set_len(len + pushed);
        pushed
    }

    /// Takes the last slots, as many as there are, marks them live and writes them to `out` in the order
    /// in which they were pushed. Returns how many.
    #[inline(always)]
    pub(crate) fn pop_into(&self, out: &mut [MaybeUninit<NonNull<u8>>]) -> usize {
        let (loaded, len) = (self.loaded(), self.len());
        let left = len - len.min(out.len());
        self.set_len(left);
        for (place, out) in (left..len).zip(out) {
            // SAFETY: the type's invariant.
            let slot = unsafe { loaded.get(place) };
            out.write(slot.hand_out(to_usize(self.size)));
        }
        len - left
    }

    /// Pushes the slot at an address if it is the one that was popped last, and live: that needs no look
    /// at the slab map, and nothing is written but its state byte. `releases` is the count of slabs that
    /// have gone back to the heap.
    #[inline(always)]
    pub(crate) fn push_popped(&self, addr: usize, releases: &AtomicU32) -> bool {
        let len = self.len();
        if len >= self.capacity() {
            return false;
        }
        // SAFETY: the magazine has this place.
        let Some(slot) = (unsafe { self.loaded().popped(len, addr) }) else { return false };
        let fits = self.is_up_to_date(releases) && slot.state.is_live();
        if fits {
            self.take_back(slot);
            self.set_len(len + 1);
        }
        fits
    }

    /// As [`push_popped`](Self::push_popped) for slots in the order in which they were popped. Returns how
    /// many were pushed.
    #[inline(always)]
    pub(crate) fn push_all_popped(&self, pointers: &[NonNull<u8>], releases: &AtomicU32) -> usize {
        let (loaded, len) = (self.loaded(), self.len());
        let mut pushed = 0;
        for (place, pointer) in (len..self.capacity()).zip(pointers) {
            // SAFETY: the magazine has this place.
            let popped = unsafe { loaded.popped(place, pointer.addr().get()) };
            let Some(slot) = popped else { break };
            if place == len && !self.is_up_to_date(releases) {
                return 0;
            }
            if !slot.state.is_live() {
                break;
            }
            self.take_back(slot);
            pushed += 1;
        }
        self.set_len(len + pushed);
        pushed
    }

    /// Whether what was popped still tells where its state bytes are. If not, it is forgotten.
    #[inline(always)]
    fn is_up_to_date(&self, releases: &AtomicU32) -> bool {
        let now = releases.load(Acquire);
        let is = self.releases() == now;
        if !is {
            self.forget_popped(now);
        }
        is
    }

    #[cold]
    #[inline(never)]
    fn forget_popped(&self, releases: u32) {
        if !self.can_go_on() {
            return;
        }
        self.be_busy();
        // SAFETY: the type's invariant: these are the loaded magazine's free places.
        unsafe { self.loaded().forget(self.len(), self.capacity()) };
        self.releases.store(releases, Relaxed);
        self.seal();
    }

    /// Whether it has magazines.
    pub(crate) fn has_magazines(&self) -> bool {
        self.capacity.get() > 0
    }

    /// Does something with the row, given the loaded magazine, whose header is up to date; not if there is
    /// none, or it is damaged.
    fn step<R>(&self, work: impl FnOnce(Magazine) -> Option<R>) -> Option<R> {
        if self.can_go_on() { self.go_on(work) } else { None }
    }

    /// As [`step`](Self::step), where it was just found that it [can go on](Self::can_go_on).
    fn go_on<R>(&self, work: impl FnOnce(Magazine) -> Option<R>) -> Option<R> {
        let loaded = self.magazine()?;
        self.be_busy();
        loaded.put_down(self.len(), self.releases());
        let done = work(loaded);
        self.seal();
        done
    }

    /// Loads a magazine.
    fn load(&self, magazine: Magazine) {
        if magazine.releases() != self.releases() {
            magazine.forget_popped();
        }
        // In this order: who looks finds slots in all of the places that the length says.
        self.set_len(0);
        self.set_loaded(magazine.arrays());
        self.len.store(to_u32(magazine.len()), Release);
    }

    fn add_to_others(&self, slots: usize) {
        self.others.store(self.others.load(Relaxed).wrapping_add(low_u32(slots)), Relaxed);
    }

    fn take_from_others(&self, slots: usize) {
        self.others.store(self.others.load(Relaxed).wrapping_sub(low_u32(slots)), Relaxed);
    }

    /// Loads the magazine to the left, which has slots, if there is one. The loaded one is empty.
    pub(crate) fn load_left(&self) -> bool {
        debug_assert!(self.is_empty());
        self.others.load(Relaxed) > 0
            && self.load_beside(Magazine::left, |left| self.take_from_others(left.len()))
    }

    /// Loads the magazine to the right, which is empty, if there is one. The loaded one has slots.
    pub(crate) fn load_right(&self) -> bool {
        self.load_beside(Magazine::right, |_| self.add_to_others(self.len()))
    }

    /// Loads a magazine beside the loaded one, if there is one; `count` counts what that changes. Else nothing
    /// is written.
    fn load_beside(
        &self,
        beside: impl FnOnce(Magazine) -> Option<Magazine>,
        count: impl FnOnce(Magazine),
    ) -> bool {
        let loaded = self.can_go_on().then(|| self.magazine()).flatten();
        let Some(next) = loaded.and_then(beside) else { return false };
        let load = |_| {
            count(next);
            self.load(next);
            Some(())
        };
        self.go_on(load).is_some()
    }

    /// Loads the magazine to the right if there is room for a part of a burst of `slots` slots only in this
    /// one: bursts stay together.
    #[inline]
    pub(crate) fn make_room_for(&self, slots: usize) {
        if !self.is_full() && slots > self.room() && slots <= self.capacity() {
            self.load_right();
        }
    }

    /// Gives it its first magazine, an empty one.
    pub(crate) fn equip(&self, magazine: Magazine) {
        debug_assert!(!self.has_magazines() && self.is_intact() && magazine.len() == 0);
        magazine.stand_between(None, None);
        self.capacity.set(magazine.capacity());
        self.count.set(1);
        self.taken.set(0);
        self.load(magazine);
        self.seal();
    }

    /// Puts a magazine with slots, which is taken from the depot, in the place of the loaded one, which
    /// is returned. It was just found that it [can go on](Self::can_go_on).
    pub(crate) fn exchange_for_full(&self, full: Magazine) -> Option<Magazine> {
        self.exchange_loaded(full, u8::saturating_add)
    }

    /// Puts an empty magazine in the place of the loaded one, which is returned and given away. It was just
    /// found that it [can go on](Self::can_go_on).
    pub(crate) fn exchange_for_empty(&self, empty: Magazine) -> Option<Magazine> {
        self.exchange_loaded(empty, u8::saturating_sub)
    }

    fn exchange_loaded(&self, magazine: Magazine, count: fn(u8, u8) -> u8) -> Option<Magazine> {
        self.go_on(|loaded| {
            self.taken.set(count(self.taken.get(), 1));
            magazine.stand_between(loaded.left(), loaded.right());
            self.load(magazine);
            Some(loaded)
        })
    }

    /// Adds an empty magazine to the right of the loaded one.
    pub(crate) fn add(&self, magazine: Magazine) {
        self.step(|loaded| {
            magazine.stand_between(Some(loaded), loaded.right());
            self.count.set(self.count.get().wrapping_add(1));
            Some(())
        });
    }

    /// Takes away the magazine to the left.
    pub(crate) fn remove_left(&self) -> Option<Magazine> {
        self.step(|loaded| {
            let left = loaded.left()?;
            self.take_from_others(left.len());
            Some(self.removed(left))
        })
    }

    /// Takes away a magazine with many slots: the one to the left, or the loaded one if it is at least half
    /// full.
    pub(crate) fn remove_full(&self) -> Option<Magazine> {
        if self.others.load(Relaxed) > 0
            && let Some(left) = self.remove_left()
        {
            return Some(left);
        }
        let is_many = !self.has_few() && !self.is_empty();
        is_many.then(|| self.remove_loaded()).flatten()
    }

    /// Takes away the loaded magazine; there is none to its left.
    fn remove_loaded(&self) -> Option<Magazine> {
        self.step(|loaded| {
            match loaded.right() {
                Some(right) => {
                    self.removed(loaded);
                    self.load(right);
                }
                None => self.hold_nothing(),
            }
            Some(loaded)
        })
    }

    /// Whether it has slots, or magazines that it may do without.
    pub(crate) fn has_surplus(&self) -> bool {
        self.cached() > 0 || self.count.get() > PAIR
    }

    /// Takes away an empty magazine that it may do without.
    pub(crate) fn remove_surplus(&self) -> Option<Magazine> {
        if self.count.get() > PAIR { self.remove_right() } else { None }
    }

    /// Takes away the magazine to the right.
    fn remove_right(&self) -> Option<Magazine> {
        self.step(|loaded| Some(self.removed(loaded.right()?)))
    }

    fn removed(&self, magazine: Magazine) -> Magazine {
        magazine.leave_row();
        self.count.set(self.count.get().wrapping_sub(1));
        magazine
    }

    /// Takes all magazines away, one by one. Their lengths are up to date.
    pub(crate) fn strip(&self) -> impl Iterator<Item = Magazine> {
        let others = core::iter::from_fn(|| self.remove_left().or_else(|| self.remove_right()));
        others.chain(core::iter::once_with(|| self.remove_loaded()).flatten())
    }

    fn edit(&self, change: impl FnOnce()) {
        if self.can_go_on() {
            change();
            self.seal();
        }
    }

    /// Notes that it takes a magazine full of slots from the slabs.
    pub(crate) fn note_taken(&self) {
        self.edit(|| self.taken.set(self.taken.get().saturating_add(1)));
    }

    /// Notes that it gives away one that is not loaded.
    pub(crate) fn note_given(&self) {
        self.edit(|| self.taken.set(self.taken.get().saturating_sub(1)));
    }

    /// Whether it should have more magazines than it has, or fewer, if it may have `most`: what it took
    /// itself and comes back it will want again; what others took is wanted elsewhere.
    pub(crate) fn wants_magazines(&self, most: u8) -> Ordering {
        self.taken.get().min(most).max(PAIR).cmp(&self.count.get())
    }
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use super::*;

    const CAPACITY: u32 = 2;

    /// A class in a cache, and what its magazines and slots are made of.
    struct Scene {
        cache: ClassCache,
        magazines: [Magazine; 2],
        _memory: Vec<Vec<usize>>,
    }

    impl Scene {
        /// With a full magazine loaded, and an empty one to its right.
        fn new() -> Self {
            let words = Magazine::bytes(CAPACITY) / size_of::<usize>();
            let mut memory = vec![vec![0; words], vec![0; words], vec![0; 3]];
            let places = memory.iter_mut().map(Vec::as_mut_ptr).collect::<Vec<_>>();
            let magazines = [places[0], places[1]].map(|place| {
                let place = NonNull::new(place).expect("memory").cast();
                // SAFETY: that long, and nobody else's.
                unsafe { Magazine::new(place, CAPACITY) }
            });
            let slots = [0, 1].map(|index| {
                let start = places[2].wrapping_add(1 + to_usize(index)).cast();
                // SAFETY: a byte of the first word.
                SlotRef { start, state: unsafe { StateByte::at(places[2].cast(), index) } }
            });
            let cache = ClassCache::sealed_nothing();
            cache.equip(magazines[0]);
            cache.add(magazines[1]);
            assert!(slots.into_iter().all(|slot| cache.push(slot)));
            Self { cache, magazines, _memory: memory }
        }

        fn pop(&self) -> SlotRef {
            let slot = self.cache.pop().expect("there is one");
            slot.state.store(SlotState::Live);
            slot
        }

        /// Frees a slot if the place where it was popped still tells its state byte, when so many slabs have gone
        /// back.
        fn push_popped(&self, slot: SlotRef, releases: u32) -> bool {
            self.cache.push_popped(slot.start.addr(), &AtomicU32::new(releases))
        }
    }

    #[test]
    fn what_was_popped_is_known_until_a_slab_goes_back() {
        let scene = Scene::new();
        assert!(scene.push_popped(scene.pop(), 0));
        let slot = scene.pop();
        assert!(!scene.push_popped(slot, 1), "its state byte may be elsewhere");
        assert!(!scene.push_popped(slot, 1), "and was forgotten");
        assert!(slot.state.is_live());
    }

    #[test]
    fn a_magazine_that_was_put_down_before_a_slab_went_back_is_wiped() {
        let scene = Scene::new();
        let slot = scene.pop();
        assert!(scene.cache.load_right());
        assert_eq!(scene.cache.magazine(), Some(scene.magazines[1]));
        assert!(scene.cache.push(slot));
        assert!(!scene.push_popped(scene.pop(), 1), "a slab went back");
        assert!(scene.cache.load_left());
        assert!(!scene.push_popped(slot, 1), "before it, this was popped here");
    }

    #[cfg(loom)]
    mod modelled {
        use std::boxed::Box;

        use loom::thread;

        use super::*;
        use crate::sync::{explore, modelled};

        // SAFETY: threads of a model run one at a time.
        unsafe impl Sync for Scene {}

        /// Runs what an owner does beside somebody who looks, in every order up to three preemptions.
        fn beside(owner: fn(&ClassCache), watch: fn(&Scene)) {
            explore(Some(3), move || {
                let scene = Box::into_raw(Box::new(Scene::new()));
                // SAFETY: it lives until the end of this closure, which waits for its threads.
                let shared: &'static Scene = unsafe { &*scene };
                modelled(|| {
                    let watcher = thread::spawn(move || watch(shared));
                    owner(&shared.cache);
                    watcher.join().expect("it ends");
                });
                // SAFETY: nobody has it any more.
                drop(unsafe { Box::from_raw(scene) });
            });
        }

        /// Sees the magazine that is loaded, or was, or that something changes.
        fn look(Scene { cache, magazines, .. }: &Scene) {
            match cache.look() {
                Look::Busy => {}
                Look::Damaged => panic!("nothing is damaged"),
                Look::At(found) => assert!(magazines.map(Some).contains(&found)),
            }
        }

        #[test]
        fn a_class_that_steps_along_its_row_is_not_taken_for_damaged() {
            let there_and_back = |cache: &ClassCache| {
                assert!(cache.load_right());
                assert!(cache.load_left());
            };
            beside(there_and_back, look);
        }
    }
}
