//! Guards: single pages inside a mapping that nobody can access.

#![allow(unsafe_code)] // reason: changes access to memory and its contents

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::error::PageError;
use crate::sys;

/// How pages inside a mapping are made inaccessible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardMethod {
    /// `madvise(MADV_GUARD_INSTALL)`, of Linux 6.13 and later: the pages stay part of their mapping, so
    /// that their number is not limited.
    Advice,
    /// `mprotect(PROT_NONE)`: splits a mapping in three, of which a process may have some 65,000
    /// (`vm.max_map_count`).
    Protection,
}

impl GuardMethod {
    /// The best that the system has for memory that is locked or not. Tried once, then remembered.
    pub(crate) fn best(locked: bool) -> Self {
        // Locked pages have had guards by advice since Linux 6.15 only.
        if !locked && system_has_advice() { Self::Advice } else { Self::Protection }
    }

    /// Makes pages inaccessible: an access raises `SIGSEGV`. Their contents are lost, or kept until they
    /// are accessible again.
    ///
    /// ```
    /// use core::ptr::NonNull;
    /// use libmempool_std::MmapPages;
    ///
    /// let mapping = MmapPages::new().map(16 << 10)?;
    /// let page = NonNull::slice_from_raw_parts(mapping.as_ptr(), mapping.page_size());
    /// let method = mapping.guard_method();
    /// // SAFETY: The page is the mapping's, and nobody uses it.
    /// unsafe { method.install(page) }?;
    /// // SAFETY: As above.
    /// unsafe { method.remove(page) }?;
    /// // SAFETY: It is accessible again.
    /// unsafe { mapping.as_ptr().write(1) };
    /// # Ok::<(), libmempool_std::PageError>(())
    /// ```
    ///
    /// # Errors
    /// [`Os`](PageError::Os) if the system refuses; they are as they were then.
    ///
    /// # Complexity
    /// One system call.
    ///
    /// # Safety
    /// They are whole pages of a [`Mapping`](crate::Mapping) with this method, and nobody accesses them
    /// until they are removed.
    pub unsafe fn install(self, pages: NonNull<[u8]>) -> Result<(), PageError> {
        let start = pages.cast::<u8>().as_ptr();
        match self {
            // SAFETY: The caller's conditions.
            Self::Advice => unsafe { sys::install_guard(start, pages.len()) },
            // SAFETY: The caller's conditions.
            Self::Protection => unsafe { sys::deny_access(start, pages.len()) },
        }
    }

    /// Makes pages accessible again that were installed; those that could not be too.
    ///
    /// # Errors
    /// As [`install`](Self::install).
    ///
    /// # Complexity
    /// One system call.
    ///
    /// # Safety
    /// They are whole pages of a [`Mapping`](crate::Mapping) with this method, which nobody else uses.
    pub unsafe fn remove(self, pages: NonNull<[u8]>) -> Result<(), PageError> {
        let start = pages.cast::<u8>().as_ptr();
        match self {
            // SAFETY: The caller's conditions.
            Self::Advice => unsafe { sys::remove_guard(start, pages.len()) },
            // SAFETY: The caller's conditions.
            Self::Protection => unsafe { sys::allow_access(start, pages.len()) },
        }
    }
}

/// Whether the kernel knows guards by advice.
fn system_has_advice() -> bool {
    const UNKNOWN: u8 = 0;
    const NO: u8 = 1;
    const YES: u8 = 2;
    static KNOWN: AtomicU8 = AtomicU8::new(UNKNOWN);
    match KNOWN.load(Ordering::Relaxed) {
        UNKNOWN => {
            let has = try_advice().is_ok();
            KNOWN.store(if has { YES } else { NO }, Ordering::Relaxed);
            has
        }
        known => known == YES,
    }
}

/// Makes a page of its own a guard.
fn try_advice() -> Result<(), PageError> {
    let page = sys::page_size();
    let start = sys::reserve(page, true)?.as_ptr();
    // SAFETY: Nobody knows of the page.
    let installed = unsafe { sys::install_guard(start, page) };
    // SAFETY: As above.
    let _ = unsafe { sys::unmap(start, page) };
    installed
}
