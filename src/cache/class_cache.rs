#![allow(unsafe_code)] // the fast path: pops and pushes slots of magazines in the region
//! What one cache has of one class: the loaded magazine, the previous one, and what the fast path
//! needs to know of the class, all in one place so that no load waits for another.

use core::{
    cell::Cell,
    mem::MaybeUninit,
    ptr::NonNull,
    sync::atomic::{
        AtomicU32,
        Ordering::{Acquire, Relaxed},
    },
};

use super::magazine::{Arrays, Magazine};
use crate::{
    slab::{Class, Reciprocal, SlotRef, SlotState},
    units::{floor_log2, high_u32, low_u32, to_u8, to_u16, to_u32, to_usize},
};

/// A number below `len`, which the low 32 bits of another decide: without a division.
#[inline]
fn scale(random: usize, len: usize) -> usize {
    let wide = u64::from(low_u32(random)) * u64::from(low_u32(len));
    to_usize(high_u32(wide))
}

/// One class in one cache.
///
/// Invariants: `loaded` are the arrays of a magazine with room for `capacity` slots (or none, and
/// `capacity` is 0), the first `len` of them cached slots. What lies in the places beyond, if
/// anything, was popped there; its state byte is where it says as long as no slab has gone back to
/// the heap since `releases`. Only the cache's owner calls methods that change it, one at a time.
/// Anybody who holds the pool's lock may read the lengths, which are atomic for that reason, and
/// nothing else.
#[derive(Debug)]
#[repr(C)]
#[cfg_attr(target_pointer_width = "64", repr(align(64)))]
pub(crate) struct ClassCache {
    loaded: Cell<Arrays>,
    len: AtomicU32,
    capacity: Cell<u32>,
    reciprocal: Reciprocal,
    /// Usable bytes of a slot.
    pub(crate) size: u32,
    /// Bytes of a slot, with what the pool writes behind the usable ones.
    pub(crate) room: u32,
    /// The count of slabs that had gone back to the heap when the free places were last wiped.
    releases: Cell<u32>,
    previous: Cell<Magazine>,
    previous_len: AtomicU32,
    /// Slots of each of its slabs.
    slots_per_slab: u16,
    /// What its slots are aligned to, as `log2`.
    align_log2: u8,
    pub(crate) next_larger: u8,
}

impl ClassCache {
    /// A class that never holds a slot.
    pub(crate) const fn nothing() -> Self {
        Self {
            loaded: Cell::new(Arrays::NONE),
            len: AtomicU32::new(0),
            capacity: Cell::new(0),
            reciprocal: Reciprocal::of(1),
            slots_per_slab: 0,
            size: 0,
            room: 0,
            releases: Cell::new(0),
            previous: Cell::new(Magazine::NONE),
            previous_len: AtomicU32::new(0),
            align_log2: 0,
            next_larger: 0,
        }
    }

    /// A cache without magazines.
    pub(crate) fn new(class: &Class) -> Self {
        #[cfg(target_pointer_width = "64")]
        const {
            assert!(size_of::<Self>() == 64, "a line of the processor's cache");
        };
        Self {
            reciprocal: class.shape.reciprocal,
            slots_per_slab: to_u16(to_usize(class.shape.slots)),
            size: to_u32(class.shape.size),
            room: to_u32(class.shape.room),
            align_log2: to_u8(floor_log2(class.shape.align)),
            next_larger: class.next_larger,
            ..Self::nothing()
        }
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

    /// Slots ready in both magazines.
    pub(crate) fn cached(&self) -> usize {
        self.len() + to_usize(self.previous_len.load(Relaxed))
    }

    /// Which of its slab's slots starts at an offset, if one does.
    #[inline(always)]
    pub(crate) fn slot_at(&self, offset: u32) -> Option<u32> {
        let index = self.reciprocal.divide(offset);
        (index < u32::from(self.slots_per_slab)).then_some(index)
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
        let (loaded, len) = (self.loaded.get(), self.len());
        if len > 1 {
            let chosen = scale(random, len);
            // SAFETY: the type's invariant: both places hold slots.
            unsafe {
                let (slot, top) = (loaded.get(chosen), loaded.get(len - 1));
                loaded.set(len - 1, slot);
                loaded.set(chosen, top);
            }
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
        Some(unsafe { self.loaded.get().get(last) })
    }

    /// Pushes a slot if there is room, and marks it cached.
    #[inline(always)]
    pub(crate) fn push(&self, slot: SlotRef) -> bool {
        let len = self.len();
        if len >= self.capacity() {
            return false;
        }
        slot.state.store(SlotState::Cached);
        // SAFETY: the type's invariant, and the magazine has room.
        unsafe { self.loaded.get().set(len, slot) };
        self.set_len(len + 1);
        true
    }

    /// Takes the last slots, as many as there are, marks them live and writes them to `out` in the order
    /// in which they were pushed. Returns how many.
    #[inline(always)]
    pub(crate) fn pop_into(&self, out: &mut [MaybeUninit<NonNull<u8>>]) -> usize {
        let (loaded, len) = (self.loaded.get(), self.len());
        let left = len - len.min(out.len());
        for (place, out) in (left..len).zip(out) {
            // SAFETY: the type's invariant.
            let slot = unsafe { loaded.get(place) };
            slot.state.store(SlotState::Live);
            // SAFETY: slots lie in regions, and no region starts at address 0.
            out.write(unsafe { NonNull::new_unchecked(slot.start) });
        }
        self.set_len(left);
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
        let Some(state) = (unsafe { self.loaded.get().popped(len, addr) }) else { return false };
        let fits = self.is_up_to_date(releases) && state.load() == SlotState::Live as u8;
        if fits {
            state.store(SlotState::Cached);
            self.set_len(len + 1);
        }
        fits
    }

    /// As [`push_popped`](Self::push_popped) for slots in the order in which they were popped. Returns how
    /// many were pushed.
    #[inline(always)]
    pub(crate) fn push_all_popped(&self, slots: &[NonNull<u8>], releases: &AtomicU32) -> usize {
        let (loaded, len) = (self.loaded.get(), self.len());
        let mut pushed = 0;
        for (place, slot) in (len..self.capacity()).zip(slots) {
            // SAFETY: the magazine has this place.
            let Some(state) = (unsafe { loaded.popped(place, slot.addr().get()) }) else { break };
            if place == len && !self.is_up_to_date(releases)
                || state.load() != SlotState::Live as u8
            {
                break;
            }
            state.store(SlotState::Cached);
            pushed += 1;
        }
        self.set_len(len + pushed);
        pushed
    }

    /// Whether what was popped still tells where its state bytes are. If not, it is forgotten.
    #[inline(always)]
    fn is_up_to_date(&self, releases: &AtomicU32) -> bool {
        let now = releases.load(Acquire);
        let is = self.releases.get() == now;
        if !is {
            self.forget_popped(now);
        }
        is
    }

    #[cold]
    #[inline(never)]
    fn forget_popped(&self, releases: u32) {
        // SAFETY: the type's invariant: these are the loaded magazine's free places.
        unsafe { self.loaded.get().forget(self.len(), self.capacity()) };
        let previous = self.previous.get();
        if !previous.is_none() {
            let len = to_usize(self.previous_len.load(Relaxed));
            Magazine::of(previous.arrays(), len).forget_popped();
        }
        self.releases.set(releases);
    }

    /// Whether it has magazines.
    pub(crate) fn has_magazines(&self) -> bool {
        self.capacity.get() > 0
    }

    /// Gives it its two magazines, both empty.
    pub(crate) fn equip(&self, loaded: Magazine, previous: Magazine, capacity: u32) {
        debug_assert!(!self.has_magazines());
        previous.forget_popped();
        self.load(loaded);
        self.capacity.set(capacity);
        self.previous.set(previous);
    }

    /// Takes its magazines away. Their lengths are up to date.
    pub(crate) fn strip(&self) -> Option<(Magazine, Magazine)> {
        if !self.has_magazines() {
            return None;
        }
        let previous_len = to_usize(self.previous_len.load(Relaxed));
        let previous = Magazine::of(self.previous.get().arrays(), previous_len);
        let loaded = Magazine::of(self.loaded.get(), self.len());
        self.loaded.set(Arrays::NONE);
        self.capacity.set(0);
        self.previous.set(Magazine::NONE);
        self.set_len(0);
        self.previous_len.store(0, Relaxed);
        Some((loaded, previous))
    }

    /// Swaps loaded and previous if that helps: `wanted` tells by the previous one's length.
    #[inline]
    pub(crate) fn swap_if(&self, wanted: impl FnOnce(usize) -> bool) -> bool {
        let previous_len = self.previous_len.load(Relaxed);
        if !self.has_magazines() || !wanted(to_usize(previous_len)) {
            return false;
        }
        let loaded = Magazine::of(self.loaded.get(), self.len());
        self.loaded.set(self.previous.get().arrays());
        self.previous.set(loaded);
        self.previous_len.store(self.len.load(Relaxed), Relaxed);
        self.len.store(previous_len, Relaxed);
        true
    }

    /// Swaps loaded and previous if the previous one has room.
    pub(crate) fn swap_if_previous_has_room(&self) -> bool {
        self.swap_if(|len| len < self.capacity())
    }

    /// Swaps loaded and previous if only the previous one has room for a burst of `slots` slots: bursts
    /// stay together.
    #[inline]
    pub(crate) fn make_room_for(&self, slots: usize) {
        if slots > self.room() {
            self.swap_if(|len| len + slots <= self.capacity());
        }
    }

    /// Puts another magazine in the place of the loaded one, which is returned.
    pub(crate) fn exchange_loaded(&self, magazine: Magazine) -> Magazine {
        let loaded = Magazine::of(self.loaded.get(), self.len());
        self.load(magazine);
        loaded
    }

    fn load(&self, magazine: Magazine) {
        magazine.forget_popped();
        self.loaded.set(magazine.arrays());
        self.set_len(magazine.len());
    }
}
