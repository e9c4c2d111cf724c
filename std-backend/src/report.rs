//! What a mapping really is, as opposed to what was asked for.

use core::fmt;

use crate::huge::{HugePageSize, HugePages};

/// What was asked for and what was obtained.
///
/// ```
/// use libmempool_std::{HugeObtained, HugePages, MmapPages};
///
/// let report = MmapPages::new().huge_pages(HugePages::Never).map(1)?.report();
/// assert_eq!(report.requested, 1);
/// assert_eq!(report.bytes, report.page_size);
/// assert_eq!(report.huge, HugeObtained::None);
/// # Ok::<(), libmempool_std::PageError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PageReport {
    /// The bytes asked for.
    pub requested: usize,
    /// The huge pages asked for.
    pub huge_pages: HugePages,
    /// The usable bytes obtained, a multiple of `page_size`.
    pub bytes: usize,
    /// The pages known to back the memory. For transparent huge pages that is the small page,
    /// since the system may use it for any part.
    pub page_size: usize,
    /// The huge pages obtained.
    pub huge: HugeObtained,
    /// Every page was populated at map time, by request or because locking does it.
    pub prefaulted: bool,
    /// The pages are locked into memory.
    pub locked: bool,
    /// A page without access lies on either side.
    pub guards: bool,
}

/// The huge pages that a mapping has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HugeObtained {
    /// None, and the system was not asked for any.
    None,
    /// Whatever the system makes of the advice to use huge pages.
    Transparent {
        /// The system took the advice. It does not where it was built without them; where the
        /// administrator has switched them off it takes the advice and ignores it.
        advised: bool,
    },
    /// Explicit huge pages of this size, all of it.
    Explicit(HugePageSize),
}

impl fmt::Display for HugeObtained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("not huge"),
            Self::Transparent { advised: true } => {
                f.write_str("advised to become transparent huge pages")
            }
            Self::Transparent { advised: false } => {
                f.write_str("transparent huge pages not supported")
            }
            Self::Explicit(size) => write!(f, "explicit huge pages of {size}"),
        }
    }
}

impl fmt::Display for PageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requested, huge_pages, bytes, page_size, huge, .. } = self;
        write!(f, "asked for {requested} B with {huge_pages}, ")?;
        write!(f, "obtained {bytes} B in {page_size} B pages, {huge}")?;
        let extras = [
            (self.prefaulted, ", prefaulted"),
            (self.locked, ", locked"),
            (self.guards, ", between guard pages"),
        ];
        extras.iter().filter(|(has, _)| *has).try_for_each(|(_, text)| f.write_str(text))
    }
}
