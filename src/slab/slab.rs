#![allow(unsafe_code)] // reads and writes slab descriptors in the region
//! A slab: a run of pieces cut into equal slots of one class.
//!
//! ```text
//! in the region:    { slot 0 }{ slot 1 }{ slot 2 } ... { slot n-1 } rest
//! out of line:      [ descriptor ][ state 0 ][ state 1 ] ... [ state n-1 ][ state of the rest ]
//! ```
//!
//! Slots have no header. The descriptor and the state bytes are a heap block of the pool's own.
//! A state byte is read and written without the lock by whoever holds the slot; the descriptor
//! only under the lock.

use core::ptr::NonNull;

use crate::{
    asan,
    checksum::{Checksum, agree},
    error::{Corruption, CorruptionKind},
    sync::{AtomicPtr, AtomicU8, Ordering::Relaxed},
    units::{high_u32, low_half, to_u16, to_usize},
};

/// Where a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SlotState {
    /// In its slab.
    Free = 0,
    /// In a magazine, ready to be handed out.
    Cached = 0x5A,
    /// In a caller's hands.
    Live = 0xA5,
    /// Found damaged when it was about to be handed out, and not used any more.
    Damaged = 0x3C,
}

impl SlotState {
    /// The state that a byte stands for, if any does.
    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Free),
            0x5A => Some(Self::Cached),
            0xA5 => Some(Self::Live),
            0x3C => Some(Self::Damaged),
            _ => None,
        }
    }
}

/// A pointer to one slot's state byte.
///
/// Invariant: the byte belongs to a slab, which exists as long as the slot is live, cached, or the
/// pool's lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct StateByte(*mut u8);

impl StateByte {
    /// State byte `index` of a slab.
    ///
    /// # Safety
    /// `states` is the states of a slab, or of one that is gone, and `index` below the number of
    /// slots that its class had. In a slab that is gone (a stale pointer is being checked while
    /// another thread gives the slab back) the byte is memory of the pool with arbitrary contents.
    #[inline(always)]
    pub(crate) unsafe fn at(states: *mut u8, index: u32) -> Self {
        Self(states.wrapping_add(to_usize(index)))
    }

    #[inline(always)]
    pub(crate) fn load(self) -> u8 {
        // SAFETY: the type's invariant; atomic because a misused pointer may be checked while its
        // true owner writes.
        unsafe { AtomicU8::from_ptr(self.0) }.load(Relaxed)
    }

    /// Whether the slot is in somebody's hands.
    #[inline(always)]
    pub(crate) fn is_live(self) -> bool {
        self.load() == SlotState::Live as u8
    }

    #[inline(always)]
    pub(crate) fn store(self, state: SlotState) {
        // SAFETY: as in `load`.
        unsafe { AtomicU8::from_ptr(self.0) }.store(state as u8, Relaxed);
    }

    pub(crate) fn addr(self) -> usize {
        self.0.addr()
    }

    /// Reads where a state byte is, atomically.
    ///
    /// # Safety
    /// The place is valid, and written to by [`store_to`](Self::store_to) only.
    pub(crate) unsafe fn load_from(place: *mut Self) -> Self {
        // SAFETY: the caller's promise; it is a pointer.
        Self(unsafe { AtomicPtr::from_ptr(place.cast()) }.load(Relaxed))
    }

    /// Writes where the state byte is, atomically.
    ///
    /// # Safety
    /// The place is valid, and nobody else writes to it.
    #[inline(always)]
    pub(crate) unsafe fn store_to(self, place: *mut Self) {
        // SAFETY: as in `load_from`.
        unsafe { AtomicPtr::from_ptr(place.cast()) }.store(self.0, Relaxed);
    }
}

/// A slot that is not in its slab: where it starts, and its state byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotRef {
    pub(crate) start: *mut u8,
    pub(crate) state: StateByte,
}

impl SlotRef {
    /// Marks a cached slot live, for an object of `size` bytes.
    #[inline(always)]
    pub(crate) fn hand_out(self, size: usize) -> NonNull<u8> {
        asan::open(self.start, size);
        self.state.store(SlotState::Live);
        // SAFETY: slots lie in regions, and no region starts at address 0.
        unsafe { NonNull::new_unchecked(self.start) }
    }
}

/// Most slots that a slab can have: the bits of `free_groups` times the slots of a group.
pub(crate) const MAX_SLOTS: u32 = 64 * GROUP;

/// Slots that one bit of `free_groups` stands for.
pub(crate) const GROUP: u32 = 64;

#[repr(C)]
#[derive(Debug)]
struct Descriptor {
    next: Slab,
    prev: Slab,
    /// Bit `g` is set if one of the slots `64 g .. 64 g + 63` is free.
    free_groups: u64,
    /// The first slot.
    first: *mut u8,
    pieces: u32,
    slots: u16,
    free: u16,
    class: u8,
    /// Part of its class's reserve: it is never given back.
    reserved: bool,
    /// A checksum of the others.
    check: u16,
}

impl Descriptor {
    #[inline]
    fn sum(&self) -> u16 {
        let (groups, high) = (low_half(self.free_groups), high_u32(self.free_groups));
        let sum = Checksum::NONE.add_addr(self.next.0).add_addr(self.prev.0).add_addr(self.first);
        let slots = u32::from(self.slots) << 16 | u32::from(self.free);
        let sum = sum.add_pair(groups, high).add_pair(self.pieces, slots);
        sum.add_u32(u32::from(self.class) << 1 | u32::from(self.reserved)).short()
    }
}

/// A line of the processor's cache, where there is one.
const LINE: usize = if usize::BITS == 64 { 64 } else { align_of::<Descriptor>() };

/// Bytes between the start of a descriptor and its states: each group's lie in a line of their own, so
/// that caches which take whole groups do not write to one another's.
const HEADER: usize = size_of::<Descriptor>().next_multiple_of(LINE);

/// A pointer to a slab's descriptor, or none.
///
/// Invariant: it points to a descriptor with its states behind it, in the pool's memory, and is
/// used under the pool's lock only. Whoever finds it somewhere looks whether it [is
/// intact](Self::is_intact) before relying on what it says, or changing that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slab(*mut Descriptor);

/// Which of its class's lists a slab is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// None: no slot is free.
    Full,
    /// Some slots are free, or all of them, but it belongs to the reserve.
    Partial,
    /// All slots are free, and it may go back to the heap.
    Idle,
}

/// A list of slabs of one class, doubly linked through their descriptors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlabList {
    first: Slab,
    len: u32,
}

impl SlabList {
    pub(crate) const EMPTY: Self = Self { first: Slab::NONE, len: 0 };

    /// The slab that was pushed last.
    pub(crate) fn first(&self) -> Option<Slab> {
        (!self.first.is_none()).then_some(self.first)
    }

    /// Adds it to a checksum.
    pub(crate) fn add_to(&self, sum: Checksum) -> Checksum {
        sum.add_addr(self.first.0).add_u32(self.len)
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Its slabs, up to the first that is damaged.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Slab> + use<> {
        let intact = |slab: Slab| (!slab.is_none() && slab.is_intact()).then_some(slab);
        core::iter::successors(intact(self.first), move |slab| intact(slab.next()))
    }

    pub(crate) fn push(&mut self, slab: Slab) {
        slab.set_prev(Slab::NONE);
        slab.set_next(self.first);
        if !self.first.is_none() {
            self.first.set_prev(slab);
        }
        self.first = slab;
        self.len += 1;
    }

    pub(crate) fn remove(&mut self, slab: Slab) {
        let (prev, next) = (slab.prev(), slab.next());
        if !next.is_none() {
            next.set_prev(prev);
        }
        if prev.is_none() {
            self.first = next;
        } else {
            prev.set_next(next);
        }
        slab.edit(|slab| (slab.next, slab.prev) = (Slab::NONE, Slab::NONE));
        self.len -= 1;
    }
}

/// What a new slab is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlabParts {
    pub(crate) first: *mut u8,
    pub(crate) pieces: u32,
    pub(crate) slots: u32,
    pub(crate) class: u8,
    pub(crate) reserved: bool,
}

impl Slab {
    pub(crate) const NONE: Self = Self(core::ptr::null_mut());

    /// Bytes of a descriptor with the states of `slots` slots and of the rest behind them.
    pub(crate) const fn descriptor_bytes(slots: u32) -> usize {
        HEADER + to_usize(slots) + 1
    }

    /// What a descriptor is aligned to.
    pub(crate) const ALIGN: usize = LINE;

    /// Writes the descriptor of a slab whose slots are all free.
    ///
    /// # Safety
    /// `memory` is aligned to words, valid for `descriptor_bytes(parts.slots)` bytes and left
    /// alone until the slab is given up.
    pub(crate) unsafe fn new(memory: *mut u8, parts: SlabParts) -> Self {
        debug_assert!(parts.slots >= 1 && parts.slots <= MAX_SLOTS);
        let groups = parts.slots.div_ceil(GROUP);
        let slots = to_u16(to_usize(parts.slots));
        let descriptor = Descriptor {
            next: Self::NONE,
            prev: Self::NONE,
            free_groups: u64::MAX >> (64 - groups),
            first: parts.first,
            pieces: parts.pieces,
            slots,
            free: slots,
            class: parts.class,
            reserved: parts.reserved,
            check: 0,
        };
        let descriptor = Descriptor { check: descriptor.sum(), ..descriptor };
        let slab = Self(memory.cast());
        // SAFETY: the caller's promise; words are aligned enough for a descriptor on every target
        // whose `u64` is (the heap aligns to two words).
        unsafe { slab.0.write(descriptor) };
        // SAFETY: the states lie behind the descriptor in the same memory.
        unsafe { slab.states().write_bytes(SlotState::Free as u8, to_usize(parts.slots) + 1) };
        slab
    }

    /// The slab whose states these are.
    #[inline]
    pub(crate) fn of_states(states: *mut u8) -> Self {
        Self(states.wrapping_sub(HEADER).cast())
    }

    #[inline]
    pub(crate) fn is_none(self) -> bool {
        self.0.is_null()
    }

    /// Start of the descriptor's memory.
    pub(crate) fn memory(self) -> *mut u8 {
        self.0.cast()
    }

    /// The first state byte.
    #[inline]
    pub(crate) fn states(self) -> *mut u8 {
        self.0.cast::<u8>().wrapping_add(HEADER)
    }

    #[inline]
    fn with<R>(self, access: impl FnOnce(&Descriptor) -> R) -> R {
        // SAFETY: the type's invariant: valid, and nobody writes because the lock is held and no
        // closure in this file calls back into this slab.
        access(unsafe { &*self.0 })
    }

    #[inline]
    fn edit(self, change: impl FnOnce(&mut Descriptor)) {
        // SAFETY: as in `with`.
        let descriptor = unsafe { &mut *self.0 };
        change(descriptor);
        descriptor.check = descriptor.sum();
    }

    /// Whether the descriptor is what was written last.
    #[inline]
    pub(crate) fn is_intact(self) -> bool {
        self.with(|slab| agree(slab.check, slab.sum()))
    }

    /// The slab, if it is intact.
    #[inline]
    pub(crate) fn verified(self) -> Result<Self, Corruption> {
        let damaged = Corruption { addr: self.memory().addr(), kind: CorruptionKind::Slab };
        if self.is_intact() { Ok(self) } else { Err(damaged) }
    }

    /// Checks what is written to when it leaves its list.
    pub(crate) fn check_neighbours(self) -> Result<(), Corruption> {
        let neighbours = [self.next(), self.prev()].into_iter().filter(|slab| !slab.is_none());
        neighbours.map(Self::verified).try_for_each(|neighbour| neighbour.map(drop))
    }

    #[inline]
    pub(crate) fn next(self) -> Self {
        self.with(|slab| slab.next)
    }

    pub(crate) fn prev(self) -> Self {
        self.with(|slab| slab.prev)
    }

    pub(crate) fn set_next(self, next: Self) {
        self.edit(|slab| slab.next = next);
    }

    pub(crate) fn set_prev(self, prev: Self) {
        self.edit(|slab| slab.prev = prev);
    }

    /// The first slot.
    pub(crate) fn first(self) -> *mut u8 {
        self.with(|slab| slab.first)
    }

    /// How many pieces it covers.
    pub(crate) fn pieces(self) -> u32 {
        self.with(|slab| slab.pieces)
    }

    /// Its class's number.
    pub(crate) fn class(self) -> u8 {
        self.with(|slab| slab.class)
    }

    /// Whether it is part of its class's reserve.
    pub(crate) fn is_reserved(self) -> bool {
        self.with(|slab| slab.reserved)
    }

    /// How many slots it has.
    pub(crate) fn slots(self) -> u32 {
        u32::from(self.with(|slab| slab.slots))
    }

    /// How many of them are free.
    #[inline]
    pub(crate) fn free(self) -> u32 {
        u32::from(self.with(|slab| slab.free))
    }

    /// Whether no slot is free.
    #[inline]
    pub(crate) fn is_full(self) -> bool {
        self.free() == 0
    }

    /// The list it belongs in.
    pub(crate) fn home(self) -> Home {
        if self.is_full() {
            Home::Full
        } else if self.is_empty() && !self.is_reserved() {
            Home::Idle
        } else {
            Home::Partial
        }
    }

    /// Whether all slots are free.
    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.free() == self.slots()
    }

    /// The state byte of slot `index`; index `slots()` is the rest behind the last slot.
    #[inline]
    pub(crate) fn state(self, index: u32) -> StateByte {
        debug_assert!(index <= self.slots());
        // SAFETY: the type's invariant, and the index is in range.
        unsafe { StateByte::at(self.states(), index) }
    }

    /// Takes up to `want` free slots of one group, marks them cached and passes them to `out`. Returns
    /// how many: at least one if there is one. O(slots of a group).
    pub(crate) fn take(self, stride: u32, want: usize, out: &mut impl FnMut(SlotRef)) -> usize {
        let groups = self.with(|slab| slab.free_groups);
        if groups == 0 {
            return 0;
        }
        let taken = self.take_from_group(groups.trailing_zeros(), stride, want, out);
        self.edit(|slab| slab.free -= to_u16(taken));
        taken
    }

    fn take_from_group(
        self,
        group: u32,
        stride: u32,
        want: usize,
        out: &mut impl FnMut(SlotRef),
    ) -> usize {
        let (first, end) = (group * GROUP, ((group + 1) * GROUP).min(self.slots()));
        let mut taken = 0;
        for index in first..end {
            let byte = self.state(index);
            if byte.load() != SlotState::Free as u8 {
                continue;
            }
            if taken == want {
                return taken;
            }
            byte.store(SlotState::Cached);
            let start = self.first().wrapping_add(to_usize(index) * to_usize(stride));
            out(SlotRef { start, state: byte });
            taken += 1;
        }
        self.edit(|slab| slab.free_groups &= !(1 << group));
        taken
    }

    /// Takes a slot back.
    #[inline]
    pub(crate) fn put(self, index: u32) {
        debug_assert!(index < self.slots());
        self.state(index).store(SlotState::Free);
        self.edit(|slab| {
            slab.free_groups |= 1 << (index / GROUP);
            slab.free += 1;
        });
    }

    /// Takes all slots back.
    pub(crate) fn free_all(self) {
        (0..self.slots()).for_each(|index| self.state(index).store(SlotState::Free));
        let slots = self.slots();
        self.edit(|slab| {
            slab.free_groups = u64::MAX >> (64 - slots.div_ceil(GROUP));
            slab.free = slab.slots;
        });
    }

    /// Whether bit and counter agree with the state bytes: returns the number of live and cached
    /// slots, or the address of what does not fit. O(slots).
    pub(crate) fn count(self) -> Result<SlotCounts, usize> {
        let mut counts = SlotCounts::default();
        for index in 0..self.slots() {
            match SlotState::from_byte(self.state(index).load()) {
                Some(SlotState::Live) => counts.live += 1,
                Some(SlotState::Cached) => counts.cached += 1,
                Some(SlotState::Free)
                    if self.with(|slab| slab.free_groups) >> (index / GROUP) & 1 == 0 =>
                {
                    return Err(self.memory().addr());
                }
                Some(SlotState::Free) => counts.free += 1,
                Some(SlotState::Damaged) => counts.damaged += 1,
                None => return Err(self.state(index).addr()),
            }
        }
        if counts.free == self.free() { Ok(counts) } else { Err(self.memory().addr()) }
    }
}

/// How many slots of a slab are in which state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SlotCounts {
    pub(crate) live: u32,
    pub(crate) cached: u32,
    pub(crate) free: u32,
    pub(crate) damaged: u32,
}

const _: () = assert!(HEADER.is_multiple_of(align_of::<usize>()), "states start on a word");
