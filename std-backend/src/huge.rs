//! Which huge pages to ask for.

use core::fmt;

/// Which pages a mapping is to be made of. The default is [`Transparent`](Self::Transparent).
///
/// Huge pages save address translation: one entry of the processor's table covers 2 MiB instead
/// of 4 KiB. They cost memory where a mapping is used sparsely.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HugePages {
    /// Small pages only, even where the system makes transparent huge pages of everything.
    Never,
    /// Start on a 2 MiB boundary and advise the system to use huge pages (`MADV_HUGEPAGE`). It
    /// may do so for each 2 MiB as they are first touched, or later, or not at all. Mappings of
    /// less than 2 MiB are left alone.
    #[default]
    Transparent,
    /// Explicit huge pages, which the administrator has reserved: of 1 GiB, else of 2 MiB, each
    /// size only where rounding up to it adds at most an eighth to the request. Where there are
    /// none, as [`Transparent`](Self::Transparent).
    Try,
    /// Explicit huge pages of this size, or
    /// [`HugePagesUnavailable`](crate::PageError::HugePagesUnavailable). The mapping's size is
    /// rounded up to them, whatever that adds.
    Require(HugePageSize),
}

impl fmt::Display for HugePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("small pages only"),
            Self::Transparent => f.write_str("transparent huge pages"),
            Self::Try => f.write_str("huge pages if any"),
            Self::Require(size) => write!(f, "{size} pages"),
        }
    }
}

/// The size of an explicit huge page.
///
/// ```
/// use libmempool_std::HugePageSize;
///
/// assert_eq!(HugePageSize::Mib2.bytes(), 2 << 20);
/// assert_eq!(HugePageSize::Gib1.to_string(), "1 GiB");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum HugePageSize {
    /// 2 MiB: can be reserved at run time, while memory is not too fragmented.
    Mib2,
    /// 1 GiB: in practice reserved on the kernel's command line.
    Gib1,
}

impl HugePageSize {
    /// All sizes, the largest first: the order of [`HugePages::Try`].
    pub(crate) const LARGEST_FIRST: [Self; 2] = [Self::Gib1, Self::Mib2];

    /// The base-2 logarithm of the page's bytes, which is how the system names the size.
    pub(crate) const fn log2(self) -> u32 {
        match self {
            Self::Mib2 => 21,
            Self::Gib1 => 30,
        }
    }

    /// The page's bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        1 << self.log2()
    }

    /// Whether rounding `size` up to these pages adds at most an eighth of it.
    pub(crate) const fn fits(self, size: usize) -> bool {
        match size.checked_next_multiple_of(self.bytes()) {
            Some(rounded) => rounded - size <= size / 8,
            None => false,
        }
    }
}

impl fmt::Display for HugePageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mib2 => "2 MiB",
            Self::Gib1 => "1 GiB",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::HugePageSize::{Gib1, Mib2};

    const MIB: usize = 1 << 20;

    #[test]
    fn a_size_fits_where_rounding_adds_at_most_an_eighth() {
        assert!(Mib2.fits(2 * MIB));
        assert!(Mib2.fits(64 * MIB - 1));
        assert!(Mib2.fits(2 * MIB - 128 * 1024));
        assert!(!Mib2.fits(3 * MIB));
        assert!(!Mib2.fits(4096));
        assert!(Gib1.fits(1024 * MIB));
        assert!(!Gib1.fits(1025 * MIB));
        assert!(!Gib1.fits(usize::MAX));
    }
}
