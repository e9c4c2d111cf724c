//! What to map, and how the address space for it is laid out.

#![allow(unsafe_code)] // reason: unmaps parts of reservations it made

use core::ptr::NonNull;

use crate::error::PageError;
use crate::guard::GuardMethod;
use crate::huge::{HugePageSize, HugePages};
use crate::mapping::Mapping;
use crate::report::{HugeObtained, PageReport};
use crate::sys;

/// Maps memory from the system: what is wanted of the pages, and [`map`](Self::map).
///
/// ```
/// use libmempool_std::{HugePageSize, HugePages, MmapPages, PageError};
///
/// let wanted = MmapPages::new().huge_pages(HugePages::Require(HugePageSize::Gib1));
/// let mapping = match wanted.map(32 << 20) {
///     Err(PageError::HugePagesUnavailable { .. }) => {
///         wanted.huge_pages(HugePages::Transparent).map(32 << 20)?
///     }
///     outcome => outcome?,
/// };
/// assert!(mapping.report().guards);
/// # Ok::<(), PageError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "nothing is mapped before `map`"]
#[expect(clippy::struct_excessive_bools, reason = "four switches that do not depend on each other")]
pub struct MmapPages {
    huge_pages: HugePages,
    prefault: bool,
    lock_memory: bool,
    guard_pages: bool,
    overcommit: bool,
    guard_method: Option<GuardMethod>,
}

impl MmapPages {
    /// Transparent huge pages between guard pages, neither prefaulted nor locked.
    pub const fn new() -> Self {
        Self {
            huge_pages: HugePages::Transparent,
            prefault: false,
            lock_memory: false,
            guard_pages: true,
            overcommit: false,
            guard_method: None,
        }
    }

    /// Which pages to use.
    pub const fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    /// Whether to populate every page at map time, so that no first use waits for the system.
    /// It costs that time at once (some 100 ns for a small page), and the memory.
    pub const fn prefault(mut self, prefault: bool) -> Self {
        self.prefault = prefault;
        self
    }

    /// Whether to lock the memory, so that it is never written to swap. It populates every page
    /// too. The system limits it (`RLIMIT_MEMLOCK`) for processes without `CAP_IPC_LOCK`.
    pub const fn lock_memory(mut self, lock_memory: bool) -> Self {
        self.lock_memory = lock_memory;
        self
    }

    /// Whether to put a small page without access right below and right above the memory, so
    /// that running off either end raises `SIGSEGV`. It costs address space only.
    pub const fn guard_pages(mut self, guard_pages: bool) -> Self {
        self.guard_pages = guard_pages;
        self
    }

    /// Whether to take address space that memory is found for only when it is touched
    /// (`MAP_NORESERVE`): for pools larger than the machine's memory that will not be filled. When
    /// memory does run out then, the system ends a process instead of refusing a mapping.
    ///
    /// ```
    /// use libmempool_std::MmapPages;
    ///
    /// let pages = MmapPages::new().overcommit(true).map(1 << 30)?;
    /// assert_eq!(pages.len(), 1 << 30);
    /// # Ok::<(), libmempool_std::PageError>(())
    /// ```
    pub const fn overcommit(mut self, overcommit: bool) -> Self {
        self.overcommit = overcommit;
        self
    }

    /// How pages inside the memory are made guards when somebody asks for that, instead of the best way
    /// that the system has.
    ///
    /// ```
    /// use libmempool_std::{GuardMethod, MmapPages};
    ///
    /// let mapping = MmapPages::new().guard_method(GuardMethod::Protection).map(1 << 20)?;
    /// assert_eq!(mapping.guard_method(), GuardMethod::Protection);
    /// # Ok::<(), libmempool_std::PageError>(())
    /// ```
    pub const fn guard_method(mut self, method: GuardMethod) -> Self {
        self.guard_method = Some(method);
        self
    }

    /// Maps at least `size` bytes, zeroed: rounded up to small pages, or to the huge page where
    /// explicit ones are obtained.
    ///
    /// # Errors
    /// * [`ZeroSize`](PageError::ZeroSize), [`TooLarge`](PageError::TooLarge): for the size.
    /// * [`HugePagesUnavailable`](PageError::HugePagesUnavailable): explicit huge pages were
    ///   [required](HugePages::Require).
    /// * [`Os`](PageError::Os): no address space or memory left, or the process's limits are
    ///   reached. Prefaulting and locking are hard requests: if one fails, so does the call.
    ///
    /// Nothing stays mapped after an error.
    ///
    /// # Complexity
    /// A fixed number of system calls, plus the time to populate `size` bytes where asked for.
    pub fn map(&self, size: usize) -> Result<Mapping, PageError> {
        if size == 0 {
            return Err(PageError::ZeroSize);
        }
        let mut mapping = self.obtain(size)?;
        mapping.note_guard_method(self.guard_method);
        if self.prefault {
            mapping.prefault_all()?;
        }
        if self.lock_memory {
            mapping.lock_all()?;
        }
        Ok(mapping)
    }

    fn obtain(self, size: usize) -> Result<Mapping, PageError> {
        match self.huge_pages {
            HugePages::Never => self.map_never_huge(size),
            HugePages::Transparent => self.map_transparent(size),
            HugePages::Try => match self.try_explicit(size) {
                Some(mapping) => Ok(mapping),
                None => self.map_transparent(size),
            },
            HugePages::Require(huge) => self.map_explicit(size, huge),
        }
    }

    fn map_never_huge(self, size: usize) -> Result<Mapping, PageError> {
        let mapping = self.map_small(size, sys::page_size())?;
        // A kernel that does not take this in has no transparent huge pages.
        let _ = mapping.advise_huge(false);
        Ok(mapping)
    }

    fn map_transparent(self, size: usize) -> Result<Mapping, PageError> {
        let huge = HugePageSize::Mib2.bytes();
        if size < huge {
            return self.map_small(size, sys::page_size());
        }
        let mut mapping = self.map_small(size, huge)?;
        let advised = mapping.advise_huge(true);
        mapping.note_huge(HugeObtained::Transparent { advised });
        Ok(mapping)
    }

    fn try_explicit(self, size: usize) -> Option<Mapping> {
        HugePageSize::LARGEST_FIRST
            .into_iter()
            .filter(|huge| huge.fits(size))
            .find_map(|huge| self.map_explicit(size, huge).ok())
    }

    /// Maps small pages that start at a multiple of `align`.
    fn map_small(self, size: usize, align: usize) -> Result<Mapping, PageError> {
        let page = sys::page_size();
        let layout = Layout::new(size, page, align, self.guard_size())?;
        let base = layout.reserve(self.overcommit)?;
        layout.fill_with_small_pages(base)?;
        let report = self.report(size, layout.bytes, page);
        // SAFETY: The span was reserved and its bytes made accessible just now; nobody else knows
        // of it (I1, I3). It is aligned, whole and small enough by `Layout` (I2).
        Ok(unsafe { Mapping::new(base, layout.guard, report) })
    }

    /// Maps explicit huge pages.
    fn map_explicit(self, size: usize, huge: HugePageSize) -> Result<Mapping, PageError> {
        let page = huge.bytes();
        let layout = Layout::new(size, page, page, self.guard_size())?;
        let base = layout.reserve(self.overcommit)?;
        let base = layout.fill_with_huge_pages(base, huge)?;
        let mut report = self.report(size, layout.bytes, page);
        report.huge = HugeObtained::Explicit(huge);
        // SAFETY: The guards are those of the reservation and the rest was mapped just now,
        // readable and writable; nobody else knows of either (I1, I3). It is aligned, whole and
        // small enough by `Layout` (I2).
        Ok(unsafe { Mapping::new(base, layout.guard, report) })
    }

    fn guard_size(self) -> usize {
        if self.guard_pages { sys::page_size() } else { 0 }
    }

    /// The report of a mapping with no huge pages, neither prefaulted nor locked.
    fn report(self, requested: usize, bytes: usize, page_size: usize) -> PageReport {
        PageReport {
            requested,
            huge_pages: self.huge_pages,
            bytes,
            page_size,
            huge: HugeObtained::None,
            prefaulted: false,
            locked: false,
            guards: self.guard_pages,
        }
    }
}

impl Default for MmapPages {
    fn default() -> Self {
        Self::new()
    }
}

/// Where the parts of a mapping go in a reservation that starts anywhere on a small page:
///
/// ```text
///  | head | guard | bytes: starts on a multiple of align | guard | tail |
///         |<------------------- span ------------------------->|
///  |<----------------------- reservation -------------------------->|
/// ```
///
/// Head and tail are unmapped again. All lengths are multiples of the small page, and all sums
/// are at most `isize::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    bytes: usize,
    align: usize,
    guard: usize,
}

impl Layout {
    /// `size` rounded up to `page`; the powers of two `page` and `align` are at least the small
    /// page.
    fn new(size: usize, page: usize, align: usize, guard: usize) -> Result<Self, PageError> {
        Self::checked(size, page, align, guard).ok_or(PageError::TooLarge { requested: size })
    }

    fn checked(size: usize, page: usize, align: usize, guard: usize) -> Option<Self> {
        let bytes = size.checked_next_multiple_of(page)?;
        let reservation = bytes.checked_add(2 * guard)?.checked_add(align)?;
        isize::try_from(reservation).ok()?;
        Some(Self { bytes, align, guard })
    }

    fn span(self) -> usize {
        self.guard + self.bytes + self.guard
    }

    /// Enough for the span, wherever on a small page the reservation starts.
    fn reservation(self) -> usize {
        self.span() + self.align - sys::page_size()
    }

    /// Reserves the span, all of it without access; returns where its bytes start.
    fn reserve(self, overcommit: bool) -> Result<NonNull<u8>, PageError> {
        let start = sys::reserve(self.reservation(), overcommit)?.as_ptr();
        let base = start.map_addr(|address| (address + self.guard).next_multiple_of(self.align));
        let head = base.addr() - self.guard - start.addr();
        let tail = self.reservation() - head - self.span();
        // Where the system refuses to give up head or tail, address space is lost and no more.
        // SAFETY: The head is the reservation's, which nobody else knows of.
        let _ = unsafe { sys::unmap(start, head) };
        // SAFETY: So is the tail.
        let _ = unsafe { sys::unmap(self.end_of_bytes(base).wrapping_add(self.guard), tail) };
        NonNull::new(base).ok_or(PageError::Os { call: "mmap", errno: libc::EFAULT })
    }

    /// Makes the reserved bytes at `base` accessible; unmaps the whole span on failure.
    fn fill_with_small_pages(self, base: NonNull<u8>) -> Result<(), PageError> {
        // SAFETY: The bytes are the reservation's, which nobody else knows of.
        unsafe { sys::allow_access(base.as_ptr(), self.bytes) }
            .inspect_err(|_| self.unmap_span(base.as_ptr()))
    }

    /// Replaces the reserved bytes at `base` by huge pages; unmaps the whole span on failure.
    ///
    /// The bytes are unmapped first, and are nobody's until huge pages are there. If another
    /// thread maps something into the gap, the call fails and leaves that alone.
    fn fill_with_huge_pages(
        self,
        base: NonNull<u8>,
        huge: HugePageSize,
    ) -> Result<NonNull<u8>, PageError> {
        let start = base.as_ptr();
        // SAFETY: The bytes are the reservation's, which nobody else knows of.
        unsafe { sys::unmap(start, self.bytes) }.inspect_err(|_| self.unmap_span(start))?;
        sys::map_huge(base, self.bytes, huge).map_err(|error| {
            self.unmap_guards(start);
            unavailable(huge, error)
        })
    }

    /// Unmaps a span that is reserved as a whole.
    fn unmap_span(self, base: *mut u8) {
        // SAFETY: The span is the reservation's, which nobody else knows of.
        let _ = unsafe { sys::unmap(base.wrapping_sub(self.guard), self.span()) };
    }

    /// Unmaps the guards of a span whose bytes are unmapped.
    fn unmap_guards(self, base: *mut u8) {
        // SAFETY: The lower guard is the reservation's, which nobody else knows of.
        let _ = unsafe { sys::unmap(base.wrapping_sub(self.guard), self.guard) };
        // SAFETY: So is the upper guard.
        let _ = unsafe { sys::unmap(self.end_of_bytes(base), self.guard) };
    }

    fn end_of_bytes(self, base: *mut u8) -> *mut u8 {
        base.wrapping_add(self.bytes)
    }
}

fn unavailable(size: HugePageSize, error: PageError) -> PageError {
    match error.errno() {
        Some(errno) => PageError::HugePagesUnavailable { size, errno },
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::Layout;
    use crate::{PageError, page_size};

    #[test]
    fn layouts_round_up_and_refuse_what_overflows() {
        let page = page_size();
        let layout = Layout::new(page + 1, page, page, page).unwrap();
        assert_eq!((layout.bytes, layout.span()), (2 * page, 4 * page));
        assert_eq!(layout.reservation(), 4 * page);
        for requested in [usize::MAX, usize::MAX - page, isize::MAX.cast_unsigned()] {
            let error = Layout::new(requested, page, page, page).unwrap_err();
            assert_eq!(error, PageError::TooLarge { requested });
        }
    }

    #[test]
    fn a_layout_aligned_to_more_than_a_page_has_room_to_move() {
        let (page, huge) = (page_size(), 2 << 20);
        let layout = Layout::new(huge, page, huge, page).unwrap();
        assert_eq!(layout.reservation(), 2 * huge + page);
    }
}
