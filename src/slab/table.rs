#![allow(unsafe_code)] // a growing array in the region
//! A growing array of plain values that lies in the pool's own heap.

use core::ptr::NonNull;

use super::store::Store;
use crate::{
    checksum::{Checked, Summed},
    error::{ConfigError, Corruption, CorruptionKind},
    heap::Owner,
    units::WORD,
};

/// Values of one kind, in the pool's memory.
///
/// Invariant: the first `len` of `capacity` elements at `start` are initialised, and belong to
/// this table alone. `T` needs no more than the heap's alignment.
#[derive(Debug)]
pub(crate) struct Table<T> {
    start: NonNull<T>,
    len: usize,
    capacity: usize,
}

// SAFETY: a table owns its values like an array does.
unsafe impl<T: Send> Send for Table<T> {}

impl<T: Copy> Table<T> {
    /// A table without memory.
    pub(crate) const fn empty() -> Self {
        const { assert!(align_of::<T>() <= 2 * WORD, "the heap aligns to two words") };
        Self { start: NonNull::dangling(), len: 0, capacity: 0 }
    }

    /// Appends a value, growing by half where needed. O(len) when it grows.
    pub(crate) fn push(&mut self, store: &mut Store, value: T) -> Result<(), ConfigError> {
        if self.len == self.capacity {
            self.grow_to(store, self.capacity + self.capacity / 2 + 4)?;
        }
        self.push_one(store, value)
    }

    /// As [`push`](Self::push), growing by no more than it has to.
    pub(crate) fn push_one(&mut self, store: &mut Store, value: T) -> Result<(), ConfigError> {
        if self.len == self.capacity {
            self.grow_to(store, self.len + 1)?;
        }
        // SAFETY: `len < capacity`, so the element is in the table's memory.
        unsafe { self.start.add(self.len).write(value) };
        self.len += 1;
        Ok(())
    }

    /// Appends `n` default values. O(n + len).
    pub(crate) fn extend(&mut self, store: &mut Store, n: usize) -> Result<(), ConfigError>
    where
        T: Default,
    {
        self.grow_to(store, self.len + n)?;
        (0..n).try_for_each(|_| self.push(store, T::default()))
    }

    /// Removes the last value.
    pub(crate) fn pop(&mut self) {
        self.len = self.len.saturating_sub(1);
    }

    /// Gives its memory back if it is empty.
    pub(crate) fn end_if_empty(&mut self, store: &mut Store) {
        if self.len == 0 && self.capacity > 0 {
            store.free_own(self.start.as_ptr().cast());
            *self = Self::empty();
        }
    }

    fn grow_to(&mut self, store: &mut Store, capacity: usize) -> Result<(), ConfigError> {
        let memory = store.alloc(capacity * size_of::<T>(), 1, Owner::Pool).ok().flatten();
        let start = memory.and_then(NonNull::new).ok_or(ConfigError::OutOfMemory)?.cast::<T>();
        // SAFETY: both hold `len` elements, and they are different blocks.
        unsafe { start.copy_from_nonoverlapping(self.start, self.len) };
        if self.capacity > 0 {
            store.free_own(self.start.as_ptr().cast());
        }
        (self.start, self.capacity) = (start, capacity);
        Ok(())
    }
}

impl<T: Summed> Table<Checked<T>> {
    /// A value, if there is such a one, and it is what was written last.
    #[inline]
    pub(crate) fn verified(&self, index: usize) -> Result<&T, Corruption> {
        let entry = self.start.as_ptr().wrapping_add(index);
        let damaged = Corruption { addr: entry.addr(), kind: CorruptionKind::Table };
        self.get(index).and_then(Checked::get).ok_or(damaged)
    }

    /// Checks all values.
    pub(crate) fn check(&self) -> Result<(), Corruption> {
        (0..self.len).try_for_each(|index| self.verified(index).map(drop))
    }
}

impl<T> core::ops::Deref for Table<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the type's invariant.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> core::ops::DerefMut for Table<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: the type's invariant; `&mut self` makes it exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}
