//! What AddressSanitizer is told, with feature `asan`: memory that nobody has is *shut*, so that whoever
//! touches it is reported; what the pool hands out is *open*. The pool itself reads and writes in shut memory
//! by the atomics of [`sync`](crate::sync), which the sanitizer does not see, or [opens](opened) it for a while.
//!
//! Without the feature all of this does nothing.

/// Whether AddressSanitizer is told anything.
pub(crate) const ENABLED: bool = cfg!(feature = "asan");

#[cfg(feature = "asan")]
#[allow(unsafe_code)] // calls the sanitizer
mod told {
    // Of compiler-rt's `sanitizer/asan_interface.h`.
    unsafe extern "C" {
        fn __asan_poison_memory_region(start: *const u8, bytes: usize);
        fn __asan_unpoison_memory_region(start: *const u8, bytes: usize);
        fn __asan_region_is_poisoned(start: *const u8, bytes: usize) -> *const u8;
    }

    /// Nobody may touch this memory from now on.
    pub(crate) fn shut(start: *mut u8, bytes: usize) {
        // SAFETY: the sanitizer takes a note; the memory stays as it is.
        unsafe { __asan_poison_memory_region(start, bytes) };
    }

    /// Whoever has this memory may touch it from now on.
    pub(crate) fn open(start: *mut u8, bytes: usize) {
        // SAFETY: as in `shut`.
        unsafe { __asan_unpoison_memory_region(start, bytes) };
    }

    /// Whoever has the room may touch the first `size` bytes of it, and no others.
    pub(crate) fn fit(start: *mut u8, size: usize, room: usize) {
        open(start, size);
        shut(start.wrapping_add(size), room.saturating_sub(size));
    }

    /// Does something with memory that is nobody else's. If some of it was shut, all of it is after.
    pub(crate) fn opened<R>(start: *mut u8, bytes: usize, work: impl FnOnce() -> R) -> R {
        // SAFETY: as in `shut`.
        let was_shut = !unsafe { __asan_region_is_poisoned(start, bytes) }.is_null();
        if was_shut {
            open(start, bytes);
        }
        let done = work();
        if was_shut {
            shut(start, bytes);
        }
        done
    }
}

#[cfg(not(feature = "asan"))]
mod told {
    #[inline(always)]
    pub(crate) fn shut(_start: *mut u8, _bytes: usize) {}

    #[inline(always)]
    pub(crate) fn open(_start: *mut u8, _bytes: usize) {}

    #[inline(always)]
    pub(crate) fn fit(_start: *mut u8, _size: usize, _room: usize) {}

    #[inline(always)]
    pub(crate) fn opened<R>(_start: *mut u8, _bytes: usize, work: impl FnOnce() -> R) -> R {
        work()
    }
}

pub(crate) use told::{fit, open, opened, shut};
