//! The memory of a C pool, which begins with the pool's handle.
#![allow(unsafe_code)] // vouches for the caller's memory

use core::ptr::NonNull;

use libmempool::{GuardPages, Mapping, MmapPages, PageError, PageSource, Pages};

use crate::handle::memory_pool;

/// Where a pool's memory comes from.
pub(crate) enum Source {
    /// The system.
    Mapped(MmapPages),
    /// The caller, who promised it to one pool (see [`Source::caller`]).
    Caller(NonNull<[u8]>),
}

impl Source {
    /// The caller's memory.
    ///
    /// # Safety
    /// It is valid for reads and writes, and nobody else's until the pages obtained from it are
    /// gone; they are obtained once.
    pub(crate) unsafe fn caller(memory: NonNull<[u8]>) -> Self {
        Self::Caller(memory)
    }
}

/// A pool's memory: place for the handle, then the region.
pub(crate) struct Memory {
    /// Unmaps when dropped; `None` if the memory is the caller's.
    mapping: Option<Mapping>,
    place: NonNull<memory_pool>,
    region: NonNull<[u8]>,
}

// SAFETY: the memory is not tied to a thread; a handle is only a place here.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Splits memory; `None` if there is no room for a handle and a byte behind it.
    fn split(memory: NonNull<[u8]>, mapping: Option<Mapping>) -> Option<Self> {
        let start = memory.cast::<u8>();
        let head = start.align_offset(align_of::<memory_pool>());
        let region = head.checked_add(size_of::<memory_pool>())?;
        let len = memory.len().checked_sub(region).filter(|&len| len > 0)?;
        // SAFETY: both lie within the memory, by the subtraction.
        let (place, region) = unsafe { (start.add(head), start.add(region)) };
        let region = NonNull::slice_from_raw_parts(region, len);
        Some(Self { mapping, place: place.cast(), region })
    }

    /// Where the handle goes: aligned, writable, and not part of the region.
    pub(crate) fn place(&self) -> NonNull<memory_pool> {
        self.place
    }
}

impl PageSource for Source {
    type Pages = Memory;

    fn obtain(&self, bytes: usize) -> Result<Memory, PageError> {
        let split = match self {
            Self::Mapped(pages) => {
                let mapping = pages.obtain(bytes)?;
                Memory::split(mapping.memory(), Some(mapping))
            }
            Self::Caller(memory) => Memory::split(*memory, None),
        };
        split.ok_or(PageError::OutOfRange)
    }
}

// SAFETY: mapped memory stays until the mapping is dropped, the caller's as `Source::caller` says;
// nothing but the handle, which is not in the region, lies in either.
unsafe impl Pages for Memory {
    fn memory(&self) -> NonNull<[u8]> {
        self.region
    }

    fn page_size(&self) -> usize {
        self.mapping.as_ref().map_or(4096, Pages::page_size)
    }

    fn is_zeroed(&self) -> bool {
        // `obtain` maps it anew.
        self.mapping.is_some()
    }

    fn guards(&self) -> Option<&'static dyn GuardPages> {
        self.mapping.as_ref().and_then(Pages::guards)
    }

    fn prefault(&self, offset: usize, len: usize) -> Result<(), PageError> {
        match &self.mapping {
            Some(mapping) => Pages::prefault(mapping, offset + self.offset(mapping), len),
            None => Ok(()),
        }
    }
}

impl Memory {
    /// Where the region starts in its mapping.
    fn offset(&self, mapping: &Mapping) -> usize {
        self.region.addr().get() - mapping.as_ptr().addr().get()
    }
}
