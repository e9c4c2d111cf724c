#![allow(unsafe_code)] // a contract about access to memory, and a map in the region
//! Guards: pages of a pool's memory that nobody can access, so that running into them shows at once.
//!
//! ```text
//! slabs:         { slots ........ rest, guard }{ slots ........ rest, guard }
//! large blocks:  [ tag | guard | size ][ tag | object .......... | guard | ]
//! ```
//!
//! A bit for each page says which ones are guards: nothing of the pool's reads them, whether the
//! system has made them inaccessible or not.

use core::{fmt, ops::Range, ptr::NonNull};

use crate::{error::PageError, region::Region, units::round_down};

/// Makes pages guards, and guards pages again.
///
/// # Safety
/// What was [installed](Self::install) and not removed may be inaccessible, nothing else is; and the
/// methods change nothing but access to these pages and their contents.
pub unsafe trait GuardPages: fmt::Debug + Sync {
    /// Makes whole pages inaccessible: whoever reads them or writes to them does not go on. Their
    /// contents become arbitrary.
    ///
    /// # Safety
    /// They are pages of the memory that this was obtained for, and nobody accesses them until they
    /// are removed.
    ///
    /// # Errors
    /// [`PageError`] if the platform cannot; they are as they were then.
    unsafe fn install(&self, pages: NonNull<[u8]>) -> Result<(), PageError>;

    /// Makes guards memory again, with arbitrary contents. Those that could not be installed too.
    ///
    /// # Safety
    /// They are pages of the memory that this was obtained for, which nobody else uses.
    ///
    /// # Errors
    /// [`PageError`] if the platform cannot; they are as they were then.
    unsafe fn remove(&self, pages: NonNull<[u8]>) -> Result<(), PageError>;
}

/// Slabs and large blocks have guards if these are at most this part of them.
const GUARD_SHARE: usize = 8;

/// The smallest block that has guards, if pages are small.
const LARGE: usize = 64 << 10;

/// Bits of a word of the map.
const BITS: usize = usize::BITS as usize;

/// The guards of a pool's mapped region.
///
/// Invariants: `bits` points to a bit for each page of `region`, in the pool's memory; the page size is a
/// power of two. Used under the pool's lock only.
#[derive(Debug)]
pub(crate) struct Guards {
    pages: &'static dyn GuardPages,
    page: usize,
    region: Region,
    bits: *mut usize,
    /// Guards there are, those that the system refused included.
    count: usize,
    /// How often the system refused to install one, or to remove one.
    pub(crate) failures: usize,
}

// SAFETY: the bits lie in the region, which is not tied to a thread.
unsafe impl Send for Guards {}

impl Guards {
    /// Bytes of the map of a region.
    pub(crate) fn map_bytes(region: &Region, page: usize) -> usize {
        Self::words(region, page) * size_of::<usize>()
    }

    fn words(region: &Region, page: usize) -> usize {
        let pages = region.end().div_ceil(page) - region.start() / page;
        pages.div_ceil(BITS)
    }

    /// No guards yet.
    ///
    /// # Safety
    /// `map` is aligned to words, valid for [`map_bytes`](Self::map_bytes), and left alone from now on.
    /// `page` is a power of two.
    pub(crate) unsafe fn new(
        pages: &'static dyn GuardPages,
        page: usize,
        region: Region,
        map: *mut u8,
    ) -> Self {
        // SAFETY: the caller's promise.
        unsafe { map.write_bytes(0, Self::map_bytes(&region, page)) };
        Self { pages, page, region, bits: map.cast(), count: 0, failures: 0 }
    }

    /// Bytes of a guard.
    pub(crate) fn page(&self) -> usize {
        self.page
    }

    /// Bytes of all guards.
    pub(crate) fn bytes(&self) -> usize {
        self.count * self.page
    }

    /// Bytes of a guard that slabs end with which may be `share` bytes long and are made of pieces of
    /// `piece` bytes; 0 if it would be too large a part of them.
    pub(crate) fn slab_guard(&self, share: usize, piece: usize) -> usize {
        let suits = share >= self.page * GUARD_SHARE && piece.is_multiple_of(self.page);
        if suits { self.page } else { 0 }
    }

    /// The smallest slab with a guard.
    pub(crate) const fn least_slab(guard: usize) -> usize {
        guard * GUARD_SHARE
    }

    /// Whether blocks for this many bytes have guards.
    pub(crate) fn is_large(&self, size: usize) -> bool {
        size >= LARGE.max(2 * self.page * GUARD_SHARE)
    }

    /// Whether an address is in this region.
    pub(crate) fn covers(&self, addr: usize) -> bool {
        self.region.contains(addr)
    }

    /// The word and bit of the page that an address of the region lies in.
    fn bit(&self, addr: usize) -> (*mut usize, usize) {
        let number = addr / self.page - self.region.start() / self.page;
        (self.bits.wrapping_add(number / BITS), 1 << (number % BITS))
    }

    /// Whether the byte at an address is in a guard.
    pub(crate) fn is_guard(&self, addr: usize) -> bool {
        if !self.region.contains(addr) {
            return false;
        }
        let (word, bit) = self.bit(addr);
        // SAFETY: the type's invariant.
        unsafe { word.read() & bit != 0 }
    }

    /// The guard that memory which ends at `end` has behind an object that starts at `start`, if it has one.
    pub(crate) fn behind(&self, start: usize, end: usize) -> Option<usize> {
        let guard = round_down(end, self.page).checked_sub(self.page)?;
        (guard >= start && self.is_guard(guard)).then_some(guard)
    }

    /// The last whole page that ends at an address or before it.
    pub(crate) fn page_before(&self, addr: usize) -> usize {
        round_down(addr, self.page) - self.page
    }

    fn pages_at(&self, start: usize) -> Option<NonNull<[u8]>> {
        let start = NonNull::new(self.region.at(start))?;
        Some(NonNull::slice_from_raw_parts(start, self.page))
    }

    /// Makes the page at an address a guard. Where the system refuses, it is one that can be run through.
    ///
    /// # Safety
    /// The page lies in the region, and is nobody's until it is taken back.
    pub(crate) unsafe fn set(&mut self, start: usize) {
        let (word, bit) = self.bit(start);
        // SAFETY: the type's invariant.
        unsafe { word.write(word.read() | bit) };
        self.count += 1;
        // SAFETY: the caller's promise.
        let installed = self.pages_at(start).map(|pages| unsafe { self.pages.install(pages) });
        self.failures += usize::from(!matches!(installed, Some(Ok(()))));
    }

    /// Makes a guard memory again; `false` if the system refuses, and it still is one.
    ///
    /// # Safety
    /// It was set here.
    pub(crate) unsafe fn unset(&mut self, start: usize) -> bool {
        // SAFETY: the caller's promise.
        let removed = self.pages_at(start).map(|pages| unsafe { self.pages.remove(pages) });
        let removed = matches!(removed, Some(Ok(())));
        if removed {
            let (word, bit) = self.bit(start);
            // SAFETY: the type's invariant.
            unsafe { word.write(word.read() & !bit) };
            self.count -= 1;
        } else {
            self.failures += 1;
        }
        removed
    }

    /// Whether the map has as many guards as were counted. O(pages).
    pub(crate) fn are_counted(&self) -> bool {
        let words =
            (0..Self::words(&self.region, self.page)).map(|index| self.bits.wrapping_add(index));
        // SAFETY: the type's invariant.
        let ones = words.map(|word| unsafe { word.read() }.count_ones());
        ones.map(crate::units::to_usize).sum::<usize>() == self.count
    }

    /// The parts of the region between guards, as offsets.
    pub(crate) fn accessible(&self) -> impl Iterator<Item = Range<usize>> {
        let (start, end) = (self.region.start(), self.region.end());
        let next_page = move |addr: usize| (round_down(addr, self.page) + self.page).min(end);
        let run = move |from: usize, guards: bool| {
            core::iter::successors(Some(from), |&addr| Some(next_page(addr)))
                .find(|&addr| addr >= end || self.is_guard(addr) != guards)
                .unwrap_or(end)
        };
        let mut at = start;
        core::iter::from_fn(move || {
            let from = run(at, true);
            at = run(from, false);
            (from < end).then(|| from - start..at - start)
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{vec, vec::Vec};

    use super::*;

    const PAGE: usize = 256;

    /// Guards that nothing stands behind.
    #[derive(Debug)]
    struct Paper;

    // SAFETY: all pages stay accessible.
    unsafe impl GuardPages for Paper {
        unsafe fn install(&self, _: NonNull<[u8]>) -> Result<(), PageError> {
            Ok(())
        }

        unsafe fn remove(&self, _: NonNull<[u8]>) -> Result<(), PageError> {
            Ok(())
        }
    }

    /// Checks a region of some 200 pages that starts `skew` bytes behind one.
    fn with_guards(skew: usize, check: impl FnOnce(Guards, usize)) {
        let mut memory = vec![0_u8; 202 * PAGE];
        let start = memory.as_ptr().addr();
        let page = start.next_multiple_of(PAGE);
        let part = &mut memory[page - start + skew..][..200 * PAGE + 10];
        // SAFETY: the vector outlives it, and is used for nothing else.
        let region = unsafe { Region::new(NonNull::from(part)) };
        let mut map = vec![!0_usize; Guards::map_bytes(&region, PAGE) / size_of::<usize>()];
        // SAFETY: the map is that long, and outlives the guards.
        check(unsafe { Guards::new(&Paper, PAGE, region, map.as_mut_ptr().cast()) }, page);
    }

    #[test]
    fn guards_are_where_they_were_set() {
        with_guards(16, |mut guards, first| {
            let at = |number: usize| first + number * PAGE;
            let set = [1, 2, 63, 64, 130, 199];
            for number in set {
                // SAFETY: a page of the region, which nobody uses.
                unsafe { guards.set(at(number)) };
            }
            assert_eq!((guards.bytes(), guards.failures), (set.len() * PAGE, 0));
            assert!(guards.are_counted());
            for number in 0..201 {
                let is_set = set.contains(&number);
                assert_eq!(guards.is_guard(at(number) + 20), is_set, "{number}");
                assert_eq!(guards.is_guard(at(number) + PAGE - 1), is_set && number < 200);
            }
            assert!(!guards.is_guard(first) && !guards.is_guard(at(202)));
            // SAFETY: it was set above.
            assert!(unsafe { guards.unset(at(64)) });
            assert!(!guards.is_guard(at(64)) && guards.is_guard(at(63)));
            assert_eq!(guards.bytes(), (set.len() - 1) * PAGE);
            assert!(guards.are_counted());
            guards.count += 1;
            assert!(!guards.are_counted());
        });
    }

    #[test]
    fn what_is_accessible_leaves_out_the_guards() {
        with_guards(16, |mut guards, first| {
            let len = guards.region.len();
            assert!(guards.accessible().eq(std::iter::once(0..len)));
            for number in [3, 4, 10, 199] {
                // SAFETY: a page of the region, which nobody uses.
                unsafe { guards.set(first + number * PAGE) };
            }
            let offset = |number: usize| number * PAGE - 16;
            let parts: Vec<_> = guards.accessible().collect();
            let ends = [(0, offset(3)), (offset(5), offset(10)), (offset(11), offset(199))];
            let ends = ends.into_iter().chain([(offset(200), len)]);
            assert!(parts.into_iter().eq(ends.map(|(from, to)| from..to)));
        });
    }

    #[test]
    fn an_objects_guard_is_the_last_whole_page_behind_it() {
        with_guards(0, |mut guards, first| {
            // SAFETY: a page of the region, which nobody uses.
            unsafe { guards.set(first + 5 * PAGE) };
            let guard = first + 5 * PAGE;
            for tail in [0, 1, PAGE - 1] {
                let end = guard + PAGE + tail;
                assert_eq!(guards.behind(first + 10, end), Some(guard), "{tail}");
                assert_eq!(guards.behind(guard, end), Some(guard));
                assert_eq!(guards.behind(guard + 1, end), None, "it starts behind the guard");
            }
            assert_eq!(guards.behind(first, guard + PAGE - 1), None);
            assert_eq!(guards.behind(first, guard + 2 * PAGE), None);
            assert_eq!(guards.page_before(guard), guard - PAGE);
            assert_eq!(guards.page_before(guard + 1), guard - PAGE);
            assert_eq!(guards.page_before(guard - 1), guard - 2 * PAGE);
        });
    }

    #[test]
    fn only_what_is_large_has_guards() {
        with_guards(0, |guards, _| {
            assert!(guards.is_large(64 << 10) && !guards.is_large((64 << 10) - 1));
            assert_eq!(guards.slab_guard(8 * PAGE, PAGE), PAGE);
            assert_eq!(guards.slab_guard(8 * PAGE - 1, PAGE), 0);
            assert_eq!(guards.slab_guard(8 * PAGE, PAGE / 2), 0);
            assert_eq!(Guards::least_slab(PAGE), 8 * PAGE);
            let huge = Guards { page: 2 << 20, ..guards };
            assert!(huge.is_large(32 << 20) && !huge.is_large((32 << 20) - 1));
        });
    }
}
