#![allow(unsafe_code)] // magazines lie in the region
//! Magazines: arrays of slots that move between caches and depots as one (Bonwick and Adams, 2001,
//! "Magazines and Vmem").

use core::ptr::NonNull;

use crate::{
    slab::{SlotRef, StateByte},
    units::{to_u32, to_usize},
};

#[derive(Debug)]
#[repr(C)]
struct Header {
    /// In a cache's row the one to the left, in a depot's stack the one below.
    left: Option<Magazine>,
    len: u32,
    capacity: u32,
    /// In a cache's row the one to the right.
    right: Option<Magazine>,
    /// See [`Magazine::releases`].
    releases: u32,
}

/// A pointer to a magazine.
///
/// Invariant: it points to a header with [`Arrays`] of `capacity` slots behind it, the first `len` of
/// them cached slots, in the pool's memory; one cache or one depot owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Magazine(NonNull<Header>);

/// A magazine's slots: an array of where they start, and one of their state bytes, so that bursts of
/// pointers are copied and compared as they lie.
///
/// Invariant: every place of `starts` is initialised: null, or a slot's start that was once written
/// together with its state byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrays {
    starts: *mut *mut u8,
    states: *mut StateByte,
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

    /// What is written at a place.
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

    /// The state byte of the slot that is written at a place, if it starts at this address.
    ///
    /// # Safety
    /// There is such a place.
    #[inline(always)]
    pub(crate) unsafe fn popped(self, place: usize, addr: usize) -> Option<StateByte> {
        // SAFETY: the caller's promise, and the type's invariant.
        let is = unsafe { self.starts.add(place).read() }.addr() == addr;
        // SAFETY: as above; no slot starts at address 0, so one is written there.
        is.then(|| unsafe { self.states.add(place).read() })
    }

    /// Writes a slot to a place.
    ///
    /// # Safety
    /// There is such a place.
    #[inline(always)]
    pub(crate) unsafe fn set(self, place: usize, slot: SlotRef) {
        // SAFETY: the caller's promise.
        unsafe {
            self.starts.add(place).write(slot.start);
            self.states.add(place).write(slot.state);
        }
    }

    /// Forgets what is written from place `from` to before `to`.
    ///
    /// # Safety
    /// There are such places.
    pub(crate) unsafe fn forget(self, from: usize, to: usize) {
        for place in from..to {
            // SAFETY: the caller's promise.
            unsafe { self.starts.add(place).write(core::ptr::null_mut()) };
        }
    }
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
        // SAFETY: the caller's promise.
        unsafe {
            magazine.0.write(Header { left: None, len: 0, capacity, right: None, releases: 0 });
        };
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
        let states = starts.wrapping_add(to_usize(self.with(|header| header.capacity)));
        Arrays { starts, states: states.cast() }
    }

    fn with<R>(self, access: impl FnOnce(&mut Header) -> R) -> R {
        // SAFETY: the type's invariant; no closure in this file touches another reference to it.
        access(unsafe { &mut *self.0.as_ptr() })
    }

    /// The one to the left, or below.
    pub(crate) fn left(self) -> Option<Self> {
        self.with(|header| header.left)
    }

    /// The one to the right.
    pub(crate) fn right(self) -> Option<Self> {
        self.with(|header| header.right)
    }

    /// Puts it on top of a depot's stack.
    pub(crate) fn set_below(self, below: Option<Self>) {
        self.with(|header| header.left = below);
    }

    /// Has it stand between two others, or at an end of a row.
    pub(crate) fn stand_between(self, left: Option<Self>, right: Option<Self>) {
        self.with(|header| (header.left, header.right) = (left, right));
        if let Some(left) = left {
            left.with(|header| header.right = Some(self));
        }
        if let Some(right) = right {
            right.with(|header| header.left = Some(self));
        }
    }

    /// Takes it out of its row.
    pub(crate) fn leave_row(self) {
        let (left, right) = (self.left(), self.right());
        if let Some(left) = left {
            left.with(|header| header.right = right);
        }
        if let Some(right) = right {
            right.with(|header| header.left = left);
        }
    }

    /// How many slots it has room for.
    pub(crate) fn capacity(self) -> u32 {
        self.with(|header| header.capacity)
    }

    pub(crate) fn len(self) -> usize {
        to_usize(self.with(|header| header.len))
    }

    fn set_len(self, len: usize) {
        self.with(|header| header.len = to_u32(len));
    }

    /// Notes what the cache that had it loaded knows of it: how many slots it holds, and how many slabs
    /// had gone back to the heap when its free places were last wiped.
    pub(crate) fn put_down(self, len: usize, releases: u32) {
        self.set_len(len);
        self.with(|header| header.releases = releases);
    }

    /// How many slabs had gone back to the heap when its free places were last wiped.
    pub(crate) fn releases(self) -> u32 {
        self.with(|header| header.releases)
    }

    /// Its free places hold nothing from now on.
    pub(crate) fn forget_popped(self) {
        let (len, capacity) = self.with(|header| (header.len, header.capacity));
        // SAFETY: places of this magazine.
        unsafe { self.arrays().forget(to_usize(len), to_usize(capacity)) };
    }

    /// Takes the slot that was put in last.
    pub(crate) fn pop(self) -> Option<SlotRef> {
        let last = self.len().checked_sub(1)?;
        self.set_len(last);
        // SAFETY: the type's invariant.
        Some(unsafe { self.arrays().get(last) })
    }

    /// The slots it holds.
    pub(crate) fn slots(self) -> impl Iterator<Item = SlotRef> {
        // SAFETY: the type's invariant.
        (0..self.len()).map(move |place| unsafe { self.arrays().get(place) })
    }
}
