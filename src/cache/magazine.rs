#![allow(unsafe_code)] // magazines lie in the region
//! Magazines: arrays of slots that move between caches and depots as one (Bonwick and Adams, 2001,
//! "Magazines and Vmem").

use core::{
    cell::Cell,
    ptr::{NonNull, null_mut},
};

use crate::{
    checksum::{Checksum, agree},
    error::{Corruption, CorruptionKind},
    slab::{SlotRef, StateByte},
    sync::{AtomicPtr, AtomicU32, Ordering::Relaxed},
    units::{to_u32, to_usize},
};

/// The owner changes what is atomic without the lock.
#[derive(Debug)]
#[repr(C)]
struct Header {
    /// In a cache's row the one to the left, in a depot's stack the one below.
    left: Cell<Option<Magazine>>,
    len: AtomicU32,
    capacity: u32,
    /// In a cache's row the one to the right.
    right: Cell<Option<Magazine>>,
    /// See [`Magazine::releases`].
    releases: AtomicU32,
    /// In a depot's stack a checksum of its slots.
    slots_sum: Cell<u32>,
    /// A checksum of the others.
    check: AtomicU32,
}

impl Header {
    fn sum(&self) -> u32 {
        let link = |link: &Cell<Option<Magazine>>| link.get().map_or(0, |to| to.memory().addr());
        let sum = Checksum::NONE.add(link(&self.left)).add(link(&self.right));
        let sum = sum.add_pair(self.len.load(Relaxed), self.capacity);
        sum.add_pair(self.releases.load(Relaxed), self.slots_sum.get()).sum()
    }
}

/// A pointer to a magazine.
///
/// Invariant: it points to a header with [`Arrays`] of `capacity` slots behind it, the first `len` of
/// them cached slots, in the pool's memory; one cache or one depot owns it. Whoever finds it somewhere
/// looks whether it [is intact](Self::is_intact) before relying on what it says, or changing that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Magazine(NonNull<Header>);

/// A magazine's slots: an array of where they start, and one of their state bytes, so that bursts of
/// pointers are copied and compared as they lie.
///
/// Invariant: every place of `starts` is initialised: null, or a slot's start that was once written
/// together with its state byte. The owner writes to places atomically: whoever has the lock may look
/// meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrays {
    pub(super) starts: *mut *mut u8,
    pub(super) states: *mut StateByte,
}

impl Arrays {
    /// Arrays without a place.
    pub(crate) const NONE: Self =
        Self { starts: core::ptr::dangling_mut(), states: core::ptr::dangling_mut() };

    /// The magazine that they belong to.
    ///
    /// # Safety
    /// They belong to one.
    pub(crate) unsafe fn magazine(self) -> Magazine {
        // SAFETY: the caller's promise.
        Magazine(unsafe { NonNull::new_unchecked(self.starts.cast::<Header>().sub(1)) })
    }

    /// What is written at a place, for its owner.
    ///
    /// # Safety
    /// There is such a place, and something was written there.
    #[inline(always)]
    pub(crate) unsafe fn get(self, place: usize) -> SlotRef {
        // SAFETY: the caller's promise.
        unsafe {
            SlotRef { start: self.starts.add(place).read(), state: self.states.add(place).read() }
        }
    }

    /// As [`get`](Self::get), for others.
    ///
    /// # Safety
    /// As there.
    pub(crate) unsafe fn look(self, place: usize) -> SlotRef {
        // SAFETY: the caller's promise; the owner writes atomically.
        unsafe {
            SlotRef {
                start: AtomicPtr::from_ptr(self.starts.add(place)).load(Relaxed),
                state: StateByte::load_from(self.states.add(place)),
            }
        }
    }

    /// The slot that is written at a place, if it starts at this address.
    ///
    /// # Safety
    /// There is such a place.
    #[inline(always)]
    pub(crate) unsafe fn popped(self, place: usize, addr: usize) -> Option<SlotRef> {
        // SAFETY: the caller's promise, and the type's invariant.
        let is = unsafe { self.starts.add(place).read() }.addr() == addr;
        // SAFETY: as above; no slot starts at address 0, so one is written there.
        is.then(|| unsafe { self.get(place) })
    }

    /// Writes a slot to a place.
    ///
    /// # Safety
    /// There is such a place.
    #[inline(always)]
    pub(crate) unsafe fn set(self, place: usize, slot: SlotRef) {
        // SAFETY: the caller's promise.
        unsafe {
            store(self.starts.add(place), slot.start);
            slot.state.store_to(self.states.add(place));
        }
    }

    /// Forgets what is written from place `from` to before `to`.
    ///
    /// # Safety
    /// There are such places.
    pub(crate) unsafe fn forget(self, from: usize, to: usize) {
        for place in from..to {
            // SAFETY: the caller's promise.
            unsafe { store(self.starts.add(place), null_mut()) };
        }
    }
}

/// Writes to a place.
///
/// # Safety
/// There is such a place.
#[inline(always)]
unsafe fn store(place: *mut *mut u8, start: *mut u8) {
    // SAFETY: the caller's promise; only the owner reads it otherwise than as an atomic.
    unsafe { AtomicPtr::from_ptr(place) }.store(start, Relaxed);
}

impl Magazine {
    /// Bytes of a magazine for this many slots.
    pub(crate) const fn bytes(capacity: u32) -> usize {
        const { assert!(size_of::<Header>().is_multiple_of(align_of::<*mut u8>())) };
        size_of::<Header>() + to_usize(capacity) * size_of::<SlotRef>()
    }

    /// Makes memory an empty magazine.
    ///
    /// # Safety
    /// `memory` is aligned to words, valid for `bytes(capacity)` bytes and left alone from now on.
    pub(crate) unsafe fn new(memory: NonNull<u8>, capacity: u32) -> Self {
        let magazine = Self(memory.cast());
        let header = Header {
            left: Cell::new(None),
            len: AtomicU32::new(0),
            capacity,
            right: Cell::new(None),
            releases: AtomicU32::new(0),
            slots_sum: Cell::new(0),
            check: AtomicU32::new(0),
        };
        // SAFETY: the caller's promise.
        unsafe { magazine.0.write(header) };
        magazine.seal();
        // SAFETY: as above; these are all of its places.
        unsafe { magazine.arrays().forget(0, to_usize(capacity)) };
        magazine
    }

    /// Start of its memory.
    pub(crate) fn memory(self) -> *mut u8 {
        self.0.as_ptr().cast()
    }

    /// Its slots' places.
    #[inline]
    pub(crate) fn arrays(self) -> Arrays {
        let starts = self.0.as_ptr().wrapping_add(1).cast::<*mut u8>();
        let states = starts.wrapping_add(to_usize(self.capacity()));
        Arrays { starts, states: states.cast() }
    }

    fn header(&self) -> &Header {
        // SAFETY: the type's invariant.
        unsafe { self.0.as_ref() }
    }

    fn seal(self) {
        let header = self.header();
        header.check.store(header.sum(), Relaxed);
    }

    /// Whether the header is what was written last.
    #[inline]
    pub(crate) fn is_intact(self) -> bool {
        let header = self.header();
        agree(header.check.load(Relaxed), header.sum()) && self.len() <= to_usize(self.capacity())
    }

    fn intact(link: &Cell<Option<Self>>) -> Option<Self> {
        link.get().filter(|magazine| magazine.is_intact())
    }

    /// The one to the left, if it is intact.
    pub(crate) fn left(self) -> Option<Self> {
        Self::intact(&self.header().left)
    }

    /// The one to the right, if it is intact.
    pub(crate) fn right(self) -> Option<Self> {
        Self::intact(&self.header().right)
    }

    /// The one to the right, intact or not.
    pub(crate) fn right_link(self) -> Option<Self> {
        self.header().right.get()
    }

    /// The one to the left, intact or not, or below in a depot's stack.
    pub(crate) fn left_link(self) -> Option<Self> {
        self.header().left.get()
    }

    /// Puts it on top of a depot's stack.
    pub(crate) fn lay_on(self, below: Option<Self>) {
        self.header().right.set(None);
        self.header().slots_sum.set(self.sum_of_slots());
        self.set_left(below);
    }

    fn sum_of_slots(self) -> u32 {
        let (mut starts, mut states) = (0, 0);
        for slot in self.slots() {
            starts ^= slot.start.addr();
            states ^= slot.state.addr();
        }
        Checksum::NONE.add(starts).add(states).sum()
    }

    /// A magazine of a depot, if it is intact, its slots included.
    pub(crate) fn verified(self) -> Result<Self, Corruption> {
        let is_intact =
            self.is_intact() && agree(self.header().slots_sum.get(), self.sum_of_slots());
        let damaged = Corruption { addr: self.memory().addr(), kind: CorruptionKind::Magazine };
        if is_intact { Ok(self) } else { Err(damaged) }
    }

    fn set_left(self, left: Option<Self>) {
        self.header().left.set(left);
        self.seal();
    }

    fn set_right(self, right: Option<Self>) {
        self.header().right.set(right);
        self.seal();
    }

    /// Has it stand between two others, or at an end of a row.
    pub(crate) fn stand_between(self, left: Option<Self>, right: Option<Self>) {
        self.header().left.set(left);
        self.set_right(right);
        if let Some(left) = left {
            left.set_right(Some(self));
        }
        if let Some(right) = right {
            right.set_left(Some(self));
        }
    }

    /// Takes it out of its row.
    pub(crate) fn leave_row(self) {
        let (left, right) = (self.left(), self.right());
        if let Some(left) = left {
            left.set_right(right);
        }
        if let Some(right) = right {
            right.set_left(left);
        }
    }

    /// How many slots it has room for.
    pub(crate) fn capacity(self) -> u32 {
        self.header().capacity
    }

    pub(crate) fn len(self) -> usize {
        to_usize(self.header().len.load(Relaxed))
    }

    /// Whether it is less than half full.
    pub(crate) fn has_few(self) -> bool {
        self.len() < to_usize(self.capacity()) / 2
    }

    /// Notes what the cache that had it loaded knows of it: how many slots it holds, and how many slabs
    /// had gone back to the heap when its free places were last wiped.
    pub(crate) fn put_down(self, len: usize, releases: u32) {
        self.header().len.store(to_u32(len), Relaxed);
        self.header().releases.store(releases, Relaxed);
        self.seal();
    }

    /// How many slabs had gone back to the heap when its free places were last wiped.
    pub(crate) fn releases(self) -> u32 {
        self.header().releases.load(Relaxed)
    }

    /// Its free places hold nothing from now on.
    pub(crate) fn forget_popped(self) {
        // SAFETY: places of this magazine.
        unsafe { self.arrays().forget(self.len(), to_usize(self.capacity())) };
    }

    /// Takes all of its slots, the last first.
    pub(crate) fn drain(self) -> impl Iterator<Item = SlotRef> {
        let len = self.len();
        self.put_down(0, self.releases());
        // SAFETY: the type's invariant.
        (0..len).rev().map(move |place| unsafe { self.arrays().get(place) })
    }

    /// What stands at a place, if there is such a place. The owner may be at it.
    pub(crate) fn look(self, place: usize) -> Option<SlotRef> {
        // SAFETY: the type's invariant.
        (place < to_usize(self.capacity())).then(|| unsafe { self.arrays().look(place) })
    }

    /// The slots it holds.
    pub(crate) fn slots(self) -> impl Iterator<Item = SlotRef> {
        // SAFETY: the type's invariant.
        (0..self.len()).map(move |place| unsafe { self.arrays().get(place) })
    }
}
