#![allow(unsafe_code)] // the fast path: pops and pushes slots of magazines in the region
//! What one cache has of one class: the loaded magazine, the previous one, and what the fast path
//! needs to know of the class, all in one place so that no load waits for another.

use core::{
    cell::Cell,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use super::magazine::Magazine;
use crate::{
    slab::{Class, Reciprocal},
    units::{low_u32, to_u32, to_usize},
};

/// One class in one cache.
///
/// Invariants: `slots` is the start of a magazine with room for `capacity` numbers (or dangling,
/// and `capacity` 0), the first `len` of them initialised. Only the cache's owner calls methods
/// that change it, one at a time. Anybody who holds the pool's lock may read the lengths, which
/// are atomic for that reason, and nothing else.
#[derive(Debug)]
#[repr(C)]
#[cfg_attr(target_pointer_width = "64", repr(align(64)))]
pub(crate) struct ClassCache {
    slots: Cell<*mut u32>,
    len: AtomicU32,
    capacity: Cell<u32>,
    pub(crate) reciprocal: Reciprocal,
    /// Slots of each of its slabs.
    pub(crate) slots_per_slab: u32,
    /// Usable bytes of a slot.
    pub(crate) size: u32,
    /// The smallest request that a call without a class brings here.
    pub(crate) min_size: u32,
    /// What its slots are aligned to.
    pub(crate) align: u32,
    pub(crate) next_larger: u8,
    previous_len: AtomicU32,
    previous: Cell<Magazine>,
}

impl ClassCache {
    /// A cache without magazines.
    pub(crate) fn new(class: &Class) -> Self {
        let size = class.shape.size;
        Self {
            slots: Cell::new(NonNull::dangling().as_ptr()),
            len: AtomicU32::new(0),
            capacity: Cell::new(0),
            reciprocal: class.shape.reciprocal,
            slots_per_slab: class.shape.slots,
            size: to_u32(size),
            min_size: to_u32(class.least_request()),
            align: to_u32(class.shape.align),
            next_larger: class.next_larger,
            previous_len: AtomicU32::new(0),
            previous: Cell::new(Magazine::NONE),
        }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        to_usize(self.len.load(Relaxed))
    }

    /// Slots ready in both magazines.
    pub(crate) fn cached(&self) -> usize {
        self.len() + to_usize(self.previous_len.load(Relaxed))
    }

    /// The slot that was pushed last, if there is one and it `suits`: then it is popped.
    #[inline(always)]
    pub(crate) fn pop_if(&self, suits: impl FnOnce(u32) -> bool) -> Option<u32> {
        let len = self.len().checked_sub(1)?;
        // SAFETY: the type's invariant, and `len` is one less than the initialised count.
        let number = unsafe { self.slots.get().add(len).read() };
        if !suits(number) {
            return None;
        }
        self.len.store(low_u32(len), Relaxed);
        Some(number)
    }

    /// Whether the loaded magazine is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pops the slot that was pushed last.
    #[inline(always)]
    pub(crate) fn pop(&self) -> Option<u32> {
        self.pop_if(|_| true)
    }

    /// Whether the loaded magazine is full.
    #[inline(always)]
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= to_usize(self.capacity.get())
    }

    /// Pushes a slot if there is room, after `mark` has marked it.
    #[inline(always)]
    pub(crate) fn push(&self, number: u32, mark: impl FnOnce()) -> bool {
        let len = self.len();
        if len >= to_usize(self.capacity.get()) {
            return false;
        }
        mark();
        // SAFETY: the type's invariant, and the magazine has room.
        unsafe { self.slots.get().add(len).write(number) };
        self.len.store(low_u32(len + 1), Relaxed);
        true
    }

    /// The free places of the loaded magazine. What is written there counts once it is
    /// [kept](Self::keep).
    pub(crate) fn room(&self) -> &[Cell<u32>] {
        let room = to_usize(self.capacity.get()).saturating_sub(self.len());
        let start = self.slots.get().wrapping_add(self.len()).cast::<Cell<u32>>();
        // SAFETY: the type's invariant; all places of a magazine are initialised, and only the owner
        // touches them.
        unsafe { core::slice::from_raw_parts(start, room) }
    }

    /// Pushes the slots that were written to the first `count` places of the room.
    pub(crate) fn keep(&self, count: usize) {
        debug_assert!(count <= self.room().len());
        self.len.store(to_u32(self.len() + count), Relaxed);
    }

    /// Takes the last `n` slots or fewer.
    #[inline]
    ///
    /// # Safety
    /// Nothing is pushed while the slice is in use.
    pub(crate) unsafe fn pop_run(&self, n: usize) -> &[u32] {
        let len = self.len();
        let left = len.saturating_sub(n);
        self.len.store(to_u32(left), Relaxed);
        // SAFETY: the type's invariant, and the caller does not push over them.
        unsafe { core::slice::from_raw_parts(self.slots.get().add(left), len - left) }
    }

    /// Whether it has magazines.
    pub(crate) fn has_magazines(&self) -> bool {
        self.capacity.get() > 0
    }

    /// Gives it its two magazines, both empty.
    pub(crate) fn equip(&self, loaded: Magazine, previous: Magazine, capacity: u32) {
        debug_assert!(!self.has_magazines());
        self.slots.set(loaded.start());
        self.capacity.set(capacity);
        self.previous.set(previous);
    }

    /// Takes its magazines away. Their lengths are up to date.
    pub(crate) fn strip(&self) -> Option<(Magazine, Magazine)> {
        if !self.has_magazines() {
            return None;
        }
        let previous = self.previous.get();
        previous.set_len(to_usize(self.previous_len.load(Relaxed)));
        let loaded = self.exchange_loaded(previous);
        self.slots.set(NonNull::dangling().as_ptr());
        self.capacity.set(0);
        self.previous.set(Magazine::NONE);
        self.len.store(0, Relaxed);
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
        let (loaded, loaded_len) = (Magazine::of_start(self.slots.get()), self.len.load(Relaxed));
        self.slots.set(self.previous.get().start());
        self.len.store(previous_len, Relaxed);
        self.previous.set(loaded);
        self.previous_len.store(loaded_len, Relaxed);
        true
    }

    /// Swaps loaded and previous if the previous one has room.
    pub(crate) fn swap_if_previous_has_room(&self) -> bool {
        self.swap_if(|len| len < to_usize(self.capacity.get()))
    }

    /// Swaps loaded and previous if only the previous one has room for a burst of `slots` slots: bursts
    /// stay together.
    #[inline]
    pub(crate) fn make_room_for(&self, slots: usize) {
        if slots > self.room().len() {
            self.swap_if(|len| len + slots <= to_usize(self.capacity.get()));
        }
    }

    /// Puts another magazine in the place of the loaded one, which is returned.
    pub(crate) fn exchange_loaded(&self, magazine: Magazine) -> Magazine {
        let loaded = Magazine::of_start(self.slots.get());
        loaded.set_len(self.len());
        self.slots.set(magazine.start());
        self.len.store(to_u32(magazine.len()), Relaxed);
        loaded
    }

    /// Lets `fill` write into the loaded magazine's free places; it returns how many it wrote.
    pub(crate) fn fill_loaded<E>(
        &self,
        fill: impl FnOnce(&mut [u32]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let len = self.len();
        let mut loaded = Magazine::of_start(self.slots.get());
        let filled = fill(&mut loaded.room()[len..])?;
        self.len.store(to_u32(len + filled), Relaxed);
        Ok(filled)
    }
}
