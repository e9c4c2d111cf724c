//! What can go wrong with pages.

use core::fmt;

use crate::huge::HugePageSize;
use crate::sys;

/// Why memory could not be mapped, or a range of it not be handled.
///
/// A call that fails changes nothing, except where its documentation says otherwise.
///
/// ```
/// use libmempool_std::{MmapPages, PageError};
///
/// assert_eq!(MmapPages::new().map(0).unwrap_err(), PageError::ZeroSize);
///
/// let mapping = MmapPages::new().map(4096)?;
/// let outside = mapping.prefault(mapping.len(), 1).unwrap_err();
/// assert!(outside.to_string().contains("outside the mapping"));
/// # Ok::<(), PageError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PageError {
    /// A mapping of no bytes was asked for.
    ZeroSize,
    /// The size, rounded up to pages and with its guard pages, is more than half the address
    /// space.
    TooLarge {
        /// The bytes asked for.
        requested: usize,
    },
    /// The range does not lie inside the mapping.
    OutOfRange {
        /// Where the range starts.
        offset: usize,
        /// The range's bytes.
        len: usize,
        /// The mapping's bytes.
        mapping_len: usize,
    },
    /// The range does not start and end on page boundaries.
    Misaligned {
        /// Where the range starts.
        offset: usize,
        /// The range's bytes.
        len: usize,
        /// What both must be multiples of.
        page_size: usize,
    },
    /// Huge pages were required, and the system gave none of that size.
    HugePagesUnavailable {
        /// The size that was required.
        size: HugePageSize,
        /// The system's reason: `ENOMEM` where too few are reserved, `EINVAL` where the machine
        /// has no pages of that size.
        errno: i32,
    },
    /// A system call failed.
    Os {
        /// The call, as the manual writes it, e.g. `mlock` or `madvise(MADV_DONTNEED)`.
        call: &'static str,
        /// The system's error number.
        errno: i32,
    },
}

impl PageError {
    /// The system's error number, where the system was the cause.
    ///
    /// ```
    /// # use libmempool_std::PageError;
    /// assert_eq!(PageError::Os { call: "mlock", errno: 12 }.errno(), Some(12));
    /// assert_eq!(PageError::ZeroSize.errno(), None);
    /// ```
    #[must_use]
    pub const fn errno(&self) -> Option<i32> {
        match *self {
            Self::HugePagesUnavailable { errno, .. } | Self::Os { errno, .. } => Some(errno),
            _ => None,
        }
    }
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ZeroSize => f.write_str("a mapping cannot be empty: ask for at least one byte"),
            Self::TooLarge { requested } => {
                write!(f, "{requested} B do not fit into the address space")
            }
            Self::OutOfRange { offset, len, mapping_len } => {
                write!(f, "{len} B at offset {offset} reach outside the mapping of {mapping_len} B")
            }
            Self::Misaligned { offset, len, page_size } => write!(
                f,
                "{len} B at offset {offset} are not whole pages: both must be multiples of \
                 {page_size}"
            ),
            Self::HugePagesUnavailable { size, errno } => write!(
                f,
                "no {size} huge pages to be had ({}): reserve some in \
                 /sys/kernel/mm/hugepages, or do not require them",
                OsMessage(errno)
            ),
            Self::Os { call, errno } => write!(f, "{call} failed: {}", OsMessage(errno)),
        }
    }
}

impl core::error::Error for PageError {}

/// Displays the system's message for an error number.
struct OsMessage(i32);

impl fmt::Display for OsMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; 128];
        f.write_str(sys::error_message(self.0, &mut buffer))?;
        write!(f, " (os error {})", self.0)
    }
}
