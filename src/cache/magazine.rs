#![allow(unsafe_code)] // magazines lie in the region
//! Magazines: arrays of slot numbers that move between caches and depots as one (Bonwick and
//! Adams, 2001, "Magazines and Vmem").

use crate::units::{to_u32, to_usize};

#[derive(Debug)]
#[repr(C)]
struct Header {
    next: Magazine,
    len: u32,
    capacity: u32,
}

/// A pointer to a magazine, or none.
///
/// Invariant: it points to a header with `capacity` slot numbers behind it, the first `len` of
/// them initialised, in the pool's memory; one cache or one depot owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Magazine(*mut Header);

impl Magazine {
    pub(crate) const NONE: Self = Self(core::ptr::null_mut());

    /// Bytes of a magazine for this many slots.
    pub(crate) const fn bytes(capacity: u32) -> usize {
        size_of::<Header>() + to_usize(capacity) * size_of::<u32>()
    }

    /// Makes memory an empty magazine.
    ///
    /// # Safety
    /// `memory` is aligned to words, valid for `bytes(capacity)` bytes and left alone from now on.
    pub(crate) unsafe fn new(memory: *mut u8, capacity: u32) -> Self {
        let magazine = Self(memory.cast());
        // SAFETY: the caller's promise.
        unsafe { magazine.0.write(Header { next: Self::NONE, len: 0, capacity }) };
        for index in 0..to_usize(capacity) {
            // SAFETY: as above; `index` is within the capacity.
            unsafe { magazine.start().add(index).write(0) };
        }
        magazine
    }

    #[inline]
    pub(crate) fn is_none(self) -> bool {
        self.0.is_null()
    }

    /// Start of its memory.
    pub(crate) fn memory(self) -> *mut u8 {
        self.0.cast()
    }

    /// The first slot number.
    #[inline]
    pub(crate) fn start(self) -> *mut u32 {
        self.0.wrapping_add(1).cast()
    }

    /// The magazine whose first slot number this is.
    #[inline]
    pub(crate) fn of_start(start: *mut u32) -> Self {
        Self(start.cast::<Header>().wrapping_sub(1))
    }

    fn with<R>(self, access: impl FnOnce(&mut Header) -> R) -> R {
        // SAFETY: the type's invariant; no closure in this file touches another reference to it.
        access(unsafe { &mut *self.0 })
    }

    pub(crate) fn next(self) -> Self {
        self.with(|header| header.next)
    }

    pub(crate) fn set_next(self, next: Self) {
        self.with(|header| header.next = next);
    }

    pub(crate) fn len(self) -> usize {
        to_usize(self.with(|header| header.len))
    }

    pub(crate) fn set_len(self, len: usize) {
        self.with(|header| header.len = to_u32(len));
    }

    /// The numbers it holds.
    pub(crate) fn numbers(&self) -> &[u32] {
        // SAFETY: the type's invariant; the owner does not change it while this borrows it.
        unsafe { core::slice::from_raw_parts(self.start(), self.len()) }
    }

    /// All places for numbers.
    pub(crate) fn room(&mut self) -> &mut [u32] {
        let capacity = to_usize(self.with(|header| header.capacity));
        // SAFETY: the type's invariant; all places were initialised by `new`.
        unsafe { core::slice::from_raw_parts_mut(self.start(), capacity) }
    }
}
