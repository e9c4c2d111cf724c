//! Which sizes share a bin, and how large a region's tables of bins and of resting blocks are.
//!
//! Sizes are counted in granules. The first row has an exact bin for each small size; each further row
//! covers one power of two, cut into as many bins as the first row has (TLSF's two levels: Masmano,
//! Ripoll, Crespo, Real, ECRTS 2004).

use super::resting::Place;
use crate::units::{Granule, WORD, floor_log2, to_u32, to_usize};

/// Scale of the region sizes at which rows get finer: a region of 4 KiB on a 32-bit target.
const MIN_TABLE_SHARE: usize = WORD;

/// Regions below this size have no resting blocks: the places for them would take too much.
const MIN_RESTING_REGION: usize = WORD << 11;

/// Blocks of so many sizes may rest: one for this many bytes of the region, and at most 1024, so up to
/// 16 KiB at the smallest granule.
const BYTES_PER_SIZE: usize = 512;
const MAX_SIZES: usize = 1024;

/// The part of the largest region that may rest however little is free.
const LEAST_SHARE: usize = 1024;

/// In small regions the share is larger, up to this many bytes: a few blocks.
const FEW_BYTES: usize = WORD << 8;
const SMALL_SHARE: usize = 64;

/// There is a place for a resting block for this many bytes of the region, but never more of them
/// than [`MAX_PLACES`]: a request that finds nothing may have to merge all that rest.
const BYTES_PER_PLACE: usize = 8192;

/// At least this many places.
const MIN_PLACES: usize = 16;

/// Most places.
const MAX_PLACES: usize = 1024;

/// The tables' dimensions.
#[derive(Debug)]
pub(super) struct Shape {
    granule: Granule,
    row_shift: u32,
    rows: usize,
    /// The last bin.
    last: usize,
    /// Bins in a row.
    columns: usize,
    /// A bit for each of them.
    row_mask: usize,
}

impl Shape {
    /// Of a heap without memory.
    pub(super) const EMPTY: Self = Self {
        granule: Granule::new(1),
        row_shift: 3,
        rows: 0,
        last: 0,
        columns: 8,
        row_mask: 0xFF,
    };

    /// The table for blocks of up to `max_bytes`. Small regions get coarser rows, so that the
    /// table stays a small part of them.
    pub(super) fn new(granule: Granule, max_bytes: usize) -> Self {
        let row_shift = match max_bytes / MIN_TABLE_SHARE {
            0..1024 => 3,
            1024..8192 => 4,
            _ => 5,
        };
        // No block is as large as the region that holds its table.
        let units = (max_bytes.saturating_sub(1) >> granule.shift()).max(1);
        let rows = (floor_log2(units) + 1).saturating_sub(to_usize(row_shift)) + 1;
        let columns = 1 << row_shift;
        let row_mask = usize::MAX >> (usize::BITS - to_u32(columns));
        Self { granule, row_shift, rows, last: rows * columns - 1, columns, row_mask }
    }

    pub(super) const fn bins(&self) -> usize {
        self.rows * self.columns
    }

    pub(super) const fn rows(&self) -> usize {
        self.rows
    }

    /// The bin of blocks of `size` bytes; the last one also takes all that are larger.
    #[inline]
    pub(super) fn bin(&self, size: usize) -> usize {
        let units = size >> self.granule.shift();
        if units < self.columns {
            return units;
        }
        // Rows above the first start at a power of two, whose top bit counts the row further up.
        let above = units.ilog2().wrapping_sub(self.row_shift);
        let row = to_usize(above).wrapping_shl(self.row_shift);
        (row + units.wrapping_shr(above)).min(self.last)
    }

    /// Whether all blocks of a bin have one size.
    #[inline]
    pub(super) fn is_exact(&self, bin: usize) -> bool {
        bin < 2 * self.columns
    }

    #[inline]
    pub(super) fn row_of(&self, bin: usize) -> usize {
        bin >> self.row_shift
    }

    #[inline]
    pub(super) fn column_of(&self, bin: usize) -> usize {
        bin & (self.columns - 1)
    }

    #[inline]
    pub(super) fn bin_at(&self, row: usize, column: usize) -> usize {
        row << self.row_shift | column
    }

    /// A bit for each bin of a row.
    #[inline]
    pub(super) fn row_mask(&self) -> usize {
        self.row_mask
    }
}

/// How much may rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct RestShape {
    granule: Granule,
    /// How many sizes have stacks: all of fewer granules.
    pub(super) sizes: usize,
    /// Places for blocks, a power of two; the first is never used.
    pub(super) places: usize,
    /// Bytes that may rest at any rate, or twice that where blocks rest in the stead of others.
    pub(super) least_bytes: usize,
}

impl RestShape {
    /// Of a heap where nothing rests.
    pub(super) const NONE: Self =
        Self { granule: Granule::new(1), sizes: 0, places: 0, least_bytes: 0 };

    /// For a region of `bytes` bytes.
    pub(super) fn new(granule: Granule, bytes: usize) -> Self {
        if bytes < MIN_RESTING_REGION {
            return Self::NONE;
        }
        let places = (bytes / BYTES_PER_PLACE).clamp(MIN_PLACES, MAX_PLACES);
        Self {
            granule,
            sizes: (bytes / BYTES_PER_SIZE).min(MAX_SIZES).min(bytes >> granule.shift()),
            places: 1 << floor_log2(places),
            least_bytes: (bytes / LEAST_SHARE).max((bytes / SMALL_SHARE).min(FEW_BYTES)),
        }
    }

    /// The stack of blocks of `size` bytes, if it is less than `sizes`.
    #[inline]
    pub(super) fn stack(&self, size: usize) -> usize {
        size >> self.granule.shift()
    }

    /// The size of a stack's blocks.
    pub(super) fn size(&self, stack: usize) -> usize {
        stack << self.granule.shift()
    }

    /// Bytes of table; see [`Resting`](super::resting::Resting).
    pub(super) const fn table_bytes(&self) -> usize {
        self.places * size_of::<Place>() + self.sizes * size_of::<u16>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::Block;

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes")]
    fn bins_ascend_with_size_and_small_ones_are_exact() {
        let shape = Shape::new(Granule::new(16), 1 << 26);
        let (mut previous, mut least) = (0, 0);
        for units in 1..100_000usize {
            let bin = shape.bin(units * 16);
            assert!(bin == previous || bin == previous + 1, "{units}");
            assert!(units >= 64 || (bin == units && shape.is_exact(bin)));
            if bin != previous {
                assert!(shape.is_exact(previous) || (units - least) * 32 <= least, "{units}");
                (previous, least) = (bin, units);
            }
        }
        assert!(!shape.is_exact(previous));
        assert!(shape.bin(1 << 26) < shape.bins());
    }

    #[test]
    fn small_regions_have_small_tables() {
        for kib in [1usize, 4, 16, 64, 128, 1024] {
            let shape = Shape::new(Granule::new(1), kib << 10);
            let rest = RestShape::new(Granule::new(1), kib << 10);
            let bytes = shape.bins() * size_of::<Block>() + rest.table_bytes();
            assert!(bytes * 100 / (kib << 10) <= 30, "{kib} KiB pays {bytes}");
            assert!(shape.bin(kib << 10) < shape.bins());
        }
    }
}
