#![allow(unsafe_code)] // vouches for the memory of a mapping
//! Mapped pages as a page source.

use core::ptr::NonNull;

use libmempool_std::{GuardMethod, Mapping, MmapPages};

use crate::{
    error::PageError,
    guard::GuardPages,
    page_source::{PageSource, Pages},
};

impl PageSource for MmapPages {
    type Pages = Mapping;

    fn obtain(&self, bytes: usize) -> Result<Mapping, PageError> {
        self.map(bytes).map_err(PageError::from)
    }
}

// SAFETY: a mapping owns its pages, which stay where they are until it is dropped.
unsafe impl Pages for Mapping {
    fn memory(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.as_ptr(), self.len())
    }

    fn page_size(&self) -> usize {
        self.page_size()
    }

    fn prefault(&self, offset: usize, len: usize) -> Result<(), PageError> {
        self.prefault(offset, len).map_err(PageError::from)
    }

    unsafe fn discard(&self, offset: usize, len: usize) -> Result<(), PageError> {
        // SAFETY: the caller's promise.
        unsafe { self.discard(offset, len) }.map(|_| ()).map_err(PageError::from)
    }

    fn guards(&self) -> Option<&'static dyn GuardPages> {
        Some(match self.guard_method() {
            GuardMethod::Advice => &GuardMethod::Advice,
            GuardMethod::Protection => &GuardMethod::Protection,
        })
    }
}

// SAFETY: the system's calls change access to the pages and their contents, and nothing else.
unsafe impl GuardPages for GuardMethod {
    unsafe fn install(&self, pages: NonNull<[u8]>) -> Result<(), PageError> {
        // SAFETY: the caller's promise.
        unsafe { GuardMethod::install(*self, pages) }.map_err(PageError::from)
    }

    unsafe fn remove(&self, pages: NonNull<[u8]>) -> Result<(), PageError> {
        // SAFETY: the caller's promise.
        unsafe { GuardMethod::remove(*self, pages) }.map_err(PageError::from)
    }
}

impl From<libmempool_std::PageError> for PageError {
    fn from(error: libmempool_std::PageError) -> Self {
        use libmempool_std::PageError as Os;
        match error {
            Os::Os { call, errno } => Self::Os { call, code: errno },
            Os::HugePagesUnavailable { size, .. } => Self::Unavailable { bytes: size.bytes() },
            Os::OutOfRange { .. } | Os::Misaligned { .. } => Self::OutOfRange,
            _ => Self::Unavailable { bytes: 0 },
        }
    }
}
