//! Mapped memory, its owner, and what can be done to ranges of it.

#![allow(unsafe_code)] // reason: changes access to memory and its contents, and unmaps it

use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use crate::error::PageError;
use crate::guard::GuardMethod;
use crate::report::{HugeObtained, PageReport};
use crate::sys;

/// Mapped memory that someone else keeps track of: what [`Mapping::into_raw`] leaves.
///
/// A plain value; dropping it does nothing. [`Mapping::from_raw`] takes the memory back.
///
/// # Invariant
/// Of each value that is, or can still become, a [`Mapping`]:
///
/// ```text
///  base - guard      base                          base + bytes     + guard
///  | no access ...   | bytes: private, anonymous   | no access ...  |
/// ```
///
/// (I1) The span drawn above was mapped by this crate, is mapped still, and nobody but the holder
/// of this value unmaps it. `guard` is 0 or the small page.
///
/// (I2) `base` is aligned to `page_size`, `bytes` is a non-zero multiple of it, and the span's
/// length is at most `isize::MAX`.
///
/// (I3) The bytes can be read and written, except where [`Mapping::protect`] forbids it.
#[derive(Clone, Copy, Debug)]
pub struct RawMapping {
    base: NonNull<u8>,
    guard: usize,
    report: PageReport,
    /// How pages inside are made guards, if somebody has asked for that.
    guard_method: Option<GuardMethod>,
}

// SAFETY: The value is an address and numbers; what others may do with the memory is settled by
// the unsafe functions that take it. An address is valid in every thread of the process.
unsafe impl Send for RawMapping {}

// SAFETY: As above; nothing changes through a shared reference.
unsafe impl Sync for RawMapping {}

impl RawMapping {
    /// The start of the usable memory.
    #[must_use]
    pub const fn as_ptr(&self) -> NonNull<u8> {
        self.base
    }

    /// The usable bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no mapping is empty")]
    pub const fn len(&self) -> usize {
        self.report.bytes
    }

    /// What was asked for and what was obtained.
    #[must_use]
    pub const fn report(&self) -> PageReport {
        self.report
    }
}

/// What is allowed on pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Neither reading nor writing: an access raises `SIGSEGV`.
    NoAccess,
    /// Reading and writing.
    ReadWrite,
}

/// What [`Mapping::discard`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Discarded {
    /// Where the pages start that are zero now.
    pub offset: usize,
    /// Their bytes; 0 if the range held no whole page.
    pub len: usize,
    /// Their memory was given back to the system. Otherwise it was kept and overwritten.
    pub released: bool,
}

/// Mapped memory and its owner: dropping it unmaps the memory and its guard pages.
///
/// Made by [`MmapPages::map`](crate::MmapPages::map), zeroed. The value says nothing about who
/// may read or write the memory; that is for whoever uses [`as_ptr`](Self::as_ptr) to arrange.
///
/// ```
/// use libmempool_std::MmapPages;
///
/// let mapping = MmapPages::new().map(64 << 10)?;
/// // SAFETY: The first byte is inside the mapping, and nobody else uses it.
/// unsafe { mapping.as_ptr().write(7) };
/// mapping.prefault(0, mapping.len())?;
/// // SAFETY: As above. Prefaulting left it as it was.
/// assert_eq!(unsafe { mapping.as_ptr().read() }, 7);
/// # Ok::<(), libmempool_std::PageError>(())
/// ```
#[derive(Debug)]
pub struct Mapping {
    raw: RawMapping,
}

impl Mapping {
    /// Takes charge of mapped memory.
    ///
    /// # Safety
    /// I1, I2 and I3 hold for these values, and nobody else is in charge.
    pub(crate) unsafe fn new(base: NonNull<u8>, guard: usize, report: PageReport) -> Self {
        debug_assert!(report.bytes > 0 && report.bytes.is_multiple_of(report.page_size));
        debug_assert!(base.addr().get().is_multiple_of(report.page_size));
        Self { raw: RawMapping { base, guard, report, guard_method: None } }
    }

    /// Forgets the owner: the memory stays mapped until [`from_raw`](Self::from_raw) takes it
    /// back.
    #[must_use = "the memory stays mapped for ever unless it is taken back"]
    pub fn into_raw(self) -> RawMapping {
        ManuallyDrop::new(self).raw
    }

    /// Takes memory back that [`into_raw`](Self::into_raw) left.
    ///
    /// ```
    /// use libmempool_std::{Mapping, MmapPages};
    ///
    /// let raw = MmapPages::new().map(4096)?.into_raw();
    /// // SAFETY: The value comes from `into_raw` and is used here only.
    /// drop(unsafe { Mapping::from_raw(raw) });
    /// # Ok::<(), libmempool_std::PageError>(())
    /// ```
    ///
    /// # Safety
    /// `raw` comes from `into_raw`, and was not taken back before.
    #[must_use = "dropping it unmaps the memory"]
    pub const unsafe fn from_raw(raw: RawMapping) -> Self {
        Self { raw }
    }

    /// The start of the usable memory, aligned to [`PageReport::page_size`] (to 2 MiB where
    /// transparent huge pages were asked for).
    #[must_use]
    pub const fn as_ptr(&self) -> NonNull<u8> {
        self.raw.base
    }

    /// The usable bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no mapping is empty")]
    pub const fn len(&self) -> usize {
        self.raw.report.bytes
    }

    /// The granularity of [`discard`](Self::discard) and [`protect`](Self::protect).
    #[must_use]
    pub const fn page_size(&self) -> usize {
        self.raw.report.page_size
    }

    /// What was asked for and what was obtained.
    #[must_use]
    pub const fn report(&self) -> PageReport {
        self.raw.report
    }

    /// How single pages of it are made guards: as was [asked for](crate::MmapPages::guard_method), or the
    /// best way that the system has for such pages.
    #[must_use]
    pub fn guard_method(&self) -> GuardMethod {
        self.raw.guard_method.unwrap_or_else(|| GuardMethod::best(self.keeps_its_pages()))
    }

    /// Notes how pages are to be made guards.
    pub(crate) fn note_guard_method(&mut self, method: Option<GuardMethod>) {
        self.raw.guard_method = method;
    }

    /// Makes every page of a range resident and writable, so that its next use does not wait for
    /// the system. Contents do not change, whoever uses them meanwhile.
    ///
    /// # Errors
    /// [`OutOfRange`](PageError::OutOfRange); [`Os`](PageError::Os) if there is no memory left, or
    /// if a page has [no access](Protection::NoAccess). Pages before the failing one may be
    /// resident then.
    ///
    /// # Complexity
    /// Linear in the pages: some 100 ns for each that was not resident, and in one system call
    /// (one for each page before Linux 5.14).
    pub fn prefault(&self, offset: usize, len: usize) -> Result<(), PageError> {
        let span = self.span(offset, len)?.pages_touched(self.page_size());
        if span.is_empty() {
            return Ok(());
        }
        match sys::populate(self.at(span.start), span.len()) {
            Err(error) if call_is_unknown(error) => self.touch_pages(span),
            outcome => outcome,
        }
    }

    /// [`prefault`](Self::prefault) for kernels that cannot populate a range.
    fn touch_pages(&self, span: Span) -> Result<(), PageError> {
        (span.start..span.end)
            .step_by(self.page_size())
            .try_for_each(|offset| sys::touch(self.at(offset).cast()))
    }

    /// Makes the whole pages inside a range zero, and gives their memory back to the system where
    /// that is possible.
    ///
    /// It is not for locked memory, which was to stay resident, nor for explicit huge pages: one
    /// that has been given back may be gone when it is touched again, and the program gets
    /// `SIGBUS`. Such pages are overwritten with zeros.
    ///
    /// ```
    /// use libmempool_std::MmapPages;
    ///
    /// let mapping = MmapPages::new().map(16 << 10)?;
    /// // SAFETY: Nobody uses the memory.
    /// let discarded = unsafe { mapping.discard(0, mapping.len()) }?;
    /// assert!(discarded.released);
    /// # Ok::<(), libmempool_std::PageError>(())
    /// ```
    ///
    /// # Errors
    /// [`OutOfRange`](PageError::OutOfRange); [`Os`](PageError::Os) if the system refuses.
    ///
    /// # Complexity
    /// One system call, linear in the resident pages.
    ///
    /// # Safety
    /// During the call nobody else accesses the whole pages inside the range, and no reference to
    /// their bytes exists. None of them has [no access](Protection::NoAccess).
    pub unsafe fn discard(&self, offset: usize, len: usize) -> Result<Discarded, PageError> {
        let span = self.span(offset, len)?.pages_inside(self.page_size());
        let released = if span.is_empty() {
            false
        } else if self.keeps_its_pages() {
            // SAFETY: Nobody else uses the pages, and they have access.
            unsafe { self.zero(span) };
            false
        } else {
            // SAFETY: Nobody else uses the pages, and they have access.
            unsafe { self.give_back(span) }?
        };
        Ok(Discarded { offset: span.start, len: span.len(), released })
    }

    fn keeps_its_pages(&self) -> bool {
        self.raw.report.locked || matches!(self.raw.report.huge, HugeObtained::Explicit(_))
    }

    /// Gives pages back; `false` if they were zeroed instead, because the program has locked them
    /// behind our back (`mlockall`).
    ///
    /// # Safety
    /// Nobody else uses the pages of `span`, which have access.
    unsafe fn give_back(&self, span: Span) -> Result<bool, PageError> {
        // SAFETY: By I1 the pages are ours and anonymous, and nobody uses them.
        match unsafe { sys::give_back(self.at(span.start), span.len()) } {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::EINVAL) => {
                // SAFETY: The caller's conditions.
                unsafe { self.zero(span) };
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// # Safety
    /// Nobody else uses the bytes of `span`, which have access.
    unsafe fn zero(&self, span: Span) {
        // SAFETY: A span lies inside the mapping, whose bytes are writable by I3 and the caller's
        // word, and nobody else uses these.
        unsafe { self.at(span.start).write_bytes(0, span.len()) };
    }

    /// Forbids or allows access to whole pages. An empty range is a success.
    ///
    /// ```
    /// use libmempool_std::{MmapPages, PageError, Protection};
    ///
    /// let mapping = MmapPages::new().map(16 << 10)?;
    /// let page = mapping.page_size();
    /// // SAFETY: Nobody uses the memory.
    /// unsafe { mapping.protect(0, page, Protection::NoAccess) }?;
    /// // SAFETY: As above.
    /// let error = unsafe { mapping.protect(1, page, Protection::ReadWrite) }.unwrap_err();
    /// assert_eq!(error, PageError::Misaligned { offset: 1, len: page, page_size: page });
    /// # Ok::<(), libmempool_std::PageError>(())
    /// ```
    ///
    /// # Errors
    /// [`OutOfRange`](PageError::OutOfRange); [`Misaligned`](PageError::Misaligned) unless both
    /// ends are multiples of [`page_size`](Self::page_size); [`Os`](PageError::Os) if the system
    /// refuses, as it does where the process has too many separate mappings.
    ///
    /// # Complexity
    /// One system call, linear in the resident pages.
    ///
    /// # Safety
    /// For [`NoAccess`](Protection::NoAccess): no reference to the range's bytes exists, and
    /// nobody accesses them, until [`ReadWrite`](Protection::ReadWrite) is set again.
    pub unsafe fn protect(
        &self,
        offset: usize,
        len: usize,
        protection: Protection,
    ) -> Result<(), PageError> {
        let span = self.span(offset, len)?;
        let page_size = self.page_size();
        if !span.is_whole_pages(page_size) {
            return Err(PageError::Misaligned { offset, len, page_size });
        }
        if span.is_empty() {
            return Ok(());
        }
        match protection {
            // SAFETY: By I1 the pages are ours; nobody accesses them.
            Protection::NoAccess => unsafe { sys::deny_access(self.at(offset), len) },
            // SAFETY: By I1 the pages are ours.
            Protection::ReadWrite => unsafe { sys::allow_access(self.at(offset), len) },
        }
    }

    /// Populates the whole mapping and notes it in the report.
    pub(crate) fn prefault_all(&mut self) -> Result<(), PageError> {
        self.prefault(0, self.len())?;
        self.raw.report.prefaulted = true;
        Ok(())
    }

    /// Locks the whole mapping, which populates it too, and notes it in the report.
    pub(crate) fn lock_all(&mut self) -> Result<(), PageError> {
        sys::lock(self.at(0), self.len())?;
        self.raw.report.locked = true;
        self.raw.report.prefaulted = true;
        Ok(())
    }

    /// Tells the system whether to use transparent huge pages; whether it took that in.
    pub(crate) fn advise_huge(&self, wanted: bool) -> bool {
        sys::advise_huge(self.at(0), self.len(), wanted)
    }

    /// Notes in the report which huge pages were obtained.
    pub(crate) fn note_huge(&mut self, huge: HugeObtained) {
        self.raw.report.huge = huge;
    }

    /// The range's span, if it lies inside the mapping.
    fn span(&self, offset: usize, len: usize) -> Result<Span, PageError> {
        let mapping_len = self.len();
        match offset.checked_add(len) {
            Some(end) if end <= mapping_len => Ok(Span { start: offset, end }),
            _ => Err(PageError::OutOfRange { offset, len, mapping_len }),
        }
    }

    /// The address of a byte inside the mapping (or just behind it).
    fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset <= self.len());
        self.raw.base.as_ptr().wrapping_add(offset)
    }
}

// SAFETY: The value is the right to unmap the memory and to make system calls about it, none of
// which minds in which thread it is made.
unsafe impl Send for Mapping {}

// SAFETY: Through `&self` only system calls are made, which threads may make at once, and `zero`,
// whose caller has seen to it that nobody else uses the bytes. Access to the memory by
// `as_ptr` is for its user to justify.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        let RawMapping { base, guard, report, .. } = self.raw;
        let start = base.as_ptr().wrapping_sub(guard);
        // SAFETY: By I1 the span is ours, and whoever uses the memory keeps its owner.
        // If the system refuses (unmapping can split a mapping in two, and their number is
        // limited), the memory stays mapped, which is a leak and nothing worse.
        let _ = unsafe { sys::unmap(start, guard + report.bytes + guard) };
    }
}

/// Whether the kernel does not know the call, or this use of it.
fn call_is_unknown(error: PageError) -> bool {
    matches!(error.errno(), Some(libc::EINVAL | libc::ENOSYS))
}

/// A range of offsets inside a mapping; empty if `start >= end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: usize,
    end: usize,
}

impl Span {
    fn is_empty(self) -> bool {
        self.start >= self.end
    }

    fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }

    fn is_whole_pages(self, page_size: usize) -> bool {
        self.start.is_multiple_of(page_size) && self.end.is_multiple_of(page_size)
    }

    /// The pages that the span has a byte in. They lie inside the mapping, whose length is a
    /// multiple of the page.
    fn pages_touched(self, page_size: usize) -> Self {
        if self.is_empty() {
            return self;
        }
        Self { start: round_down(self.start, page_size), end: self.end.next_multiple_of(page_size) }
    }

    /// The pages that lie inside the span.
    fn pages_inside(self, page_size: usize) -> Self {
        let start = self.start.next_multiple_of(page_size);
        Self { start, end: round_down(self.end, page_size).max(start) }
    }
}

fn round_down(offset: usize, page_size: usize) -> usize {
    offset - offset % page_size
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::thread;

    use super::{Mapping, Span};
    use crate::{HugePages, MmapPages, PageError, Protection};

    fn span(start: usize, end: usize) -> Span {
        Span { start, end }
    }

    #[test]
    fn spans_round_outward_to_warm_and_inward_to_discard() {
        assert_eq!(span(4095, 4097).pages_touched(4096), span(0, 8192));
        assert_eq!(span(4096, 8192).pages_touched(4096), span(4096, 8192));
        assert!(span(5, 5).pages_touched(4096).is_empty());
        assert_eq!(span(1, 8193).pages_inside(4096), span(4096, 8192));
        assert_eq!(span(0, 8192).pages_inside(4096), span(0, 8192));
        assert!(span(1, 4097).pages_inside(4096).is_empty());
        assert!(span(1, 2).pages_inside(4096).is_empty());
    }

    fn small_pages(count: usize) -> Mapping {
        MmapPages::new().huge_pages(HugePages::Never).map(count * crate::page_size()).unwrap()
    }

    fn whole(mapping: &Mapping) -> Span {
        span(0, mapping.len())
    }

    /// The mapping's pages that memory of their own backs. (The zero page that reads share does
    /// not count as "Anonymous".)
    fn own_pages(mapping: &Mapping) -> usize {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let start = std::format!("{:08x}-", mapping.as_ptr().addr());
        let entry = smaps.split_once(start.as_str()).expect("mapping in smaps").1;
        let field = entry.split_once("\nAnonymous:").unwrap().1;
        let kib: usize = field.split_whitespace().next().unwrap().parse().unwrap();
        kib * 1024 / crate::page_size()
    }

    #[test]
    fn touching_makes_every_page_our_own() {
        let mapping = small_pages(16);
        assert_eq!(own_pages(&mapping), 0);
        mapping.touch_pages(whole(&mapping)).unwrap();
        assert_eq!(own_pages(&mapping), 16);
    }

    #[test]
    fn touching_changes_nothing_that_others_write_meanwhile() {
        const ROUNDS: u32 = 10_000;
        let mapping = small_pages(1);
        thread::scope(|scope| {
            let mapping = &mapping;
            scope.spawn(move || {
                let word = mapping.as_ptr().cast::<u32>();
                for round in 0..ROUNDS {
                    // SAFETY: The mapping's first word, which this thread alone uses.
                    unsafe { word.write_volatile(round) };
                    // SAFETY: As above.
                    assert_eq!(unsafe { word.read_volatile() }, round);
                }
            });
            for _ in 0..ROUNDS {
                mapping.touch_pages(whole(mapping)).unwrap();
            }
        });
    }

    #[test]
    fn touching_a_page_without_access_is_an_error_not_a_signal() {
        let mapping = small_pages(2);
        let page = mapping.page_size();
        // SAFETY: Nobody uses the memory.
        unsafe { mapping.protect(page, page, Protection::NoAccess) }.unwrap();
        let error = mapping.touch_pages(whole(&mapping)).unwrap_err();
        assert_eq!(error, PageError::Os { call: "futex", errno: libc::EFAULT });
    }
}
