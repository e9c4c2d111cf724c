#![allow(unsafe_code)] // a contract about memory that the pool relies on
//! Page sources: the contract for whoever supplies a pool's memory, and the one that needs no
//! platform.
//!
//! To port the pool to a platform with pages of its own, implement two traits: [`PageSource`],
//! which obtains [`Pages`], and [`Pages`] itself, of which only [`Pages::memory`] is required.
//! Dropping the pages releases them.

use core::ptr::NonNull;

use crate::{error::PageError, guard::GuardPages};

/// Supplies memory for pools.
///
/// ```
/// use std::ptr::NonNull;
/// use libmempool::{NoLock, PageError, PageSource, Pages, Pool};
///
/// struct Leaked(NonNull<[u8]>);
/// // SAFETY: leaked memory stays valid, and only this value knows of it.
/// unsafe impl Pages for Leaked {
///     fn memory(&self) -> NonNull<[u8]> {
///         self.0
///     }
/// }
///
/// struct LeakedSource;
/// impl PageSource for LeakedSource {
///     type Pages = Leaked;
///     fn obtain(&self, bytes: usize) -> Result<Leaked, PageError> {
///         Ok(Leaked(NonNull::from(vec![0; bytes].leak())))
///     }
/// }
///
/// let pool = Pool::<NoLock>::builder().map(LeakedSource, 1 << 16)?;
/// assert!(pool.stats().region_bytes >= 1 << 16);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait PageSource {
    /// What it supplies.
    type Pages: Pages;

    /// Obtains at least `bytes` bytes.
    ///
    /// # Errors
    /// [`PageError`] if there are none; nothing is kept then.
    fn obtain(&self, bytes: usize) -> Result<Self::Pages, PageError>;
}

/// Memory from a page source, released when dropped. Offsets count from its start.
///
/// # Safety
/// [`memory`](Self::memory) returns the same memory every time: one allocation, valid for reads
/// and writes until the value is dropped (moving the value does not move it), which nothing else
/// uses. The other methods change its contents only as they say, and
/// [`is_zeroed`](Self::is_zeroed) is true only of memory that is.
pub unsafe trait Pages {
    /// All of it.
    fn memory(&self) -> NonNull<[u8]>;

    /// The size of the pages that back it, in bytes: what it really got, not what it asked for.
    fn page_size(&self) -> usize {
        4096
    }

    /// Whether all of it was zero when it was obtained and nobody has written to it since: tables of
    /// zeros need not be written then, nor their pages touched.
    fn is_zeroed(&self) -> bool {
        false
    }

    /// Has the platform back this range with memory now, contents unchanged. May be called while
    /// the memory is in use.
    ///
    /// # Errors
    /// [`PageError`] if the platform cannot; nothing is lost then.
    fn prefault(&self, offset: usize, len: usize) -> Result<(), PageError> {
        let _ = (offset, len);
        Ok(())
    }

    /// Tells the platform that this range's contents are not needed any more; they become
    /// arbitrary.
    ///
    /// # Safety
    /// Nobody uses the range's contents.
    ///
    /// # Errors
    /// [`PageError`] if the platform cannot; the contents stay then.
    unsafe fn discard(&self, offset: usize, len: usize) -> Result<(), PageError> {
        let _ = (offset, len);
        Ok(())
    }

    /// What makes single pages of it inaccessible, for [`PoolFlags::GUARD`](crate::PoolFlags::GUARD),
    /// where the platform can.
    fn guards(&self) -> Option<&'static dyn GuardPages> {
        None
    }
}

/// The caller's own region: a pool that maps nothing. It cannot obtain pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallerRegion;

impl PageSource for CallerRegion {
    type Pages = NoPages;

    fn obtain(&self, _bytes: usize) -> Result<NoPages, PageError> {
        Err(PageError::Unsupported)
    }
}

/// The pages of a pool that maps nothing: there are none.
#[derive(Clone, Copy, Debug)]
pub enum NoPages {}

// SAFETY: there is no value of this type.
unsafe impl Pages for NoPages {
    fn memory(&self) -> NonNull<[u8]> {
        match *self {}
    }
}
