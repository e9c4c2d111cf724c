#![allow(unsafe_code)] // derives pointers into memory that the caller handed over
//! A region: contiguous memory handed over by the caller, and the provenance of every pointer
//! into it.

use core::{hint::black_box, ops::Range, ptr::NonNull};

use crate::{asan, units::round_down};

/// Contiguous memory that a pool manages.
///
/// Invariants, kept by the two constructors:
/// 1. `base .. base + len` is one allocation, valid for reads and writes through `base`.
/// 2. Nobody else uses it until the pool is gone, except through pointers the pool handed out.
/// 3. `len` is at most `isize::MAX`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a region is memory, not tied to a thread; invariant 2 makes the pool its only user.
unsafe impl Send for Region {}

impl Region {
    /// Takes over memory.
    ///
    /// # Safety
    /// The memory is valid for reads and writes, and the caller leaves it alone while the pool
    /// that gets it lives.
    pub(crate) unsafe fn new(memory: NonNull<[u8]>) -> Self {
        // The contents may be uninitialised. Laundering the pointer makes the compiler assume
        // that somebody wrote them, so that reading a stale tag is reading an arbitrary value.
        let base = black_box(memory.cast::<u8>());
        let region = Self { base, len: memory.len() };
        // A pool that was forgotten may have had it.
        region.open();
        region
    }

    /// Lets AddressSanitizer know that whoever has the memory may touch all of it.
    pub(crate) fn open(&self) {
        asan::open(self.base.as_ptr(), self.len);
    }

    /// Address of the first byte.
    #[inline]
    pub(crate) fn start(&self) -> usize {
        self.base.addr().get()
    }

    /// Address behind the last byte.
    #[inline]
    pub(crate) fn end(&self) -> usize {
        self.start() + self.len
    }

    /// Length in bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether the address lies within.
    #[inline]
    pub(crate) fn contains(&self, addr: usize) -> bool {
        addr.wrapping_sub(self.start()) < self.len
    }

    /// A pointer to `addr` with this region's provenance; usable only if the region contains it.
    #[inline]
    pub(crate) fn at(&self, addr: usize) -> *mut u8 {
        self.base.as_ptr().with_addr(addr)
    }

    /// Writes a byte of each page of a range that nobody uses.
    pub(crate) fn touch(&self, range: Range<usize>) {
        /// The smallest page of any platform that faults pages in.
        const PAGE: usize = 4096;
        debug_assert!(range.start >= self.start() && range.end <= self.end());
        let mut addr = range.start;
        while addr < range.end {
            // SAFETY: the range is in the region, and free. Volatile, so that it happens.
            asan::opened(self.at(addr), 1, || unsafe { self.at(addr).write_volatile(0) });
            addr = round_down(addr, PAGE) + PAGE;
        }
    }

    /// The region's start rounded down to a multiple of `align`: the origin that slabs are counted
    /// from. It may lie before the region and is never dereferenced there.
    pub(crate) fn origin(&self, align: usize) -> *mut u8 {
        self.at(round_down(self.start(), align))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_its_bytes_and_nothing_else() {
        let mut memory = [0u8; 64];
        // SAFETY: the array outlives the region and is used through it only.
        let region = unsafe { Region::new(NonNull::from(&mut memory[..])) };
        assert!(region.contains(region.start()) && region.contains(region.end() - 1));
        assert!(!region.contains(region.end()) && !region.contains(region.start() - 1));
        assert!(!region.contains(0) && !region.contains(usize::MAX));
        assert_eq!(region.at(region.start() + 3).addr(), region.start() + 3);
    }
}
