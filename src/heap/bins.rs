#![allow(unsafe_code)] // the bins' table lies in the region
//! Bins: free blocks in two-level segregated lists, found through two levels of bitmaps.
//!
//! The two-level index is that of TLSF (Masmano, Ripoll, Crespo, Real, ECRTS 2004). Sizes are
//! counted in granules. The first row has an exact bin for each small size; each further row
//! covers one power of two, cut into as many bins as the first row has. The table is as long as
//! the largest region needs and lies in that region.

use core::{ops::Range, ptr::null_mut};

use super::block::{Block, Tag, TagCodec};
use crate::{
    error::{Corruption, CorruptionKind},
    units::{Granule, WORD, floor_log2, to_usize},
};

/// How many blocks of one list are looked at for the best fit.
const LOOK_AT_MOST: usize = 4;

/// Regions below this size have no resting blocks: the places for them would take too much.
const MIN_RESTING_REGION: usize = WORD << 14;

/// The part of the largest region that may rest: what rests is missing when memory is short, and
/// splits what would be whole.
const RESTING_SHARE: usize = 1024;

/// Rows of bins that have places for resting blocks: sizes up to 8 KiB at the smallest granule.
const RESTING_ROWS: usize = 5;

/// The table's dimensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    granule: Granule,
    row_shift: u32,
    rows: usize,
    /// The last bin.
    last: usize,
    /// Bins, from the smallest on, that have a place for a resting block.
    resting: usize,
    /// Bytes that may rest.
    resting_bytes: usize,
}

impl Shape {
    /// The table for blocks of up to `max_bytes`. Small regions get coarser rows, so that the
    /// table stays a small part of them.
    pub(crate) fn new(granule: Granule, max_bytes: usize) -> Self {
        let row_shift = match max_bytes / MIN_TABLE_SHARE {
            0..1024 => 3,
            1024..8192 => 4,
            _ => 5,
        };
        // No block is as large as the region that holds its table.
        let units = (max_bytes.saturating_sub(1) >> granule.shift()).max(1);
        let rows = (floor_log2(units) + 1).saturating_sub(to_usize(row_shift)) + 1;
        let bins = rows << row_shift;
        let resting_rows = if max_bytes < MIN_RESTING_REGION { 0 } else { rows.min(RESTING_ROWS) };
        let resting = resting_rows << row_shift;
        let resting_bytes = max_bytes / RESTING_SHARE;
        Self { granule, row_shift, rows, last: bins - 1, resting, resting_bytes }
    }

    const fn bins(self) -> usize {
        self.rows << self.row_shift
    }

    /// Bytes of table: the list heads, the places of resting blocks, then a bitmap for each row.
    pub(crate) fn table_bytes(self) -> usize {
        (self.bins() + self.resting) * size_of::<Block>() + self.rows * size_of::<u32>()
    }

    /// The bin of blocks of `size` bytes; the last one also takes all that are larger.
    #[inline]
    fn bin(self, size: usize) -> usize {
        let units = size >> self.granule.shift();
        // Rows above the first start at a power of two, whose top bit counts the row further up.
        let row = units | self.columns();
        let above = row.ilog2() - self.row_shift;
        ((to_usize(above) << self.row_shift) + (units >> above)).min(self.last)
    }

    /// The smallest size of a bin, in bytes.
    #[inline]
    fn least_size(self, bin: usize) -> usize {
        let above = (bin >> self.row_shift).saturating_sub(1);
        (bin - (above << self.row_shift)) << above << self.granule.shift()
    }

    #[inline]
    fn columns(self) -> usize {
        1 << self.row_shift
    }

    #[inline]
    const fn row_width(self) -> u32 {
        1 << self.row_shift
    }
}

/// Scale of the region sizes at which rows get finer: a region of 4 KiB on a 32-bit target.
const MIN_TABLE_SHARE: usize = WORD;

/// A free block that was found to be in its bin's list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed {
    pub(crate) block: Block,
    pub(crate) tag: Tag,
    bin: usize,
}

/// Where one block of a bin may rest.
///
/// Invariant: `at` is the bin's place in the table of the bins that made it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    bin: usize,
    at: *mut Block,
}

impl Place {
    /// The block that rests there.
    #[inline]
    pub(crate) fn block(self) -> Option<Block> {
        // SAFETY: the type's invariant; the pool's lock is held.
        let block = unsafe { self.at.read() };
        (!block.is_none()).then_some(block)
    }
}

/// The lists of free blocks.
///
/// Invariants: `heads`, `resting` and `row_maps` point to `shape.bins()`, `shape.resting` and
/// `shape.rows` elements in the region, which nobody else uses; `span` holds every region; a bit in
/// `row_maps` is set iff its list is not empty, and one in `map` iff its row has a bit set.
#[derive(Debug)]
pub(crate) struct Bins {
    shape: Shape,
    span: Range<usize>,
    map: usize,
    heads: *mut Block,
    /// For each bin, the block of its size that was freed last and has not been merged yet.
    resting: *mut Block,
    row_maps: *mut u32,
    /// Bytes of the blocks that rest, each counted with the least of its bin.
    bytes_at_rest: usize,
}

impl Bins {
    /// Bins without a table, which hold nothing.
    pub(crate) const fn empty() -> Self {
        let shape = Shape {
            granule: Granule::new(1),
            row_shift: 3,
            rows: 0,
            last: 0,
            resting: 0,
            resting_bytes: 0,
        };
        Self {
            shape,
            span: 0..0,
            map: 0,
            heads: null_mut(),
            resting: null_mut(),
            row_maps: null_mut(),
            bytes_at_rest: 0,
        }
    }

    /// Takes over `shape.table_bytes()` bytes at `table` and makes them an empty table.
    ///
    /// # Safety
    /// `table` is aligned to words, valid for that many bytes, and left alone from now on.
    pub(crate) unsafe fn new(shape: Shape, table: *mut u8) -> Self {
        let heads = table.cast::<Block>();
        // SAFETY: the places lie behind the heads in the same table.
        let resting = unsafe { heads.add(shape.bins()) };
        // SAFETY: the row maps lie behind the places in the same table.
        let row_maps = unsafe { resting.add(shape.resting) }.cast::<u32>();
        for bin in 0..shape.bins() + shape.resting {
            // SAFETY: the caller's promise; `bin` is in the table.
            unsafe { heads.add(bin).write(Block::NONE) };
        }
        for row in 0..shape.rows {
            // SAFETY: the caller's promise; `row` is in the table.
            unsafe { row_maps.add(row).write(0) };
        }
        let span = Range { start: usize::MAX, end: 0 };
        Self { shape, span, map: 0, heads, resting, row_maps, bytes_at_rest: 0 }
    }

    /// Address behind the table.
    pub(crate) fn table_end(&self) -> usize {
        self.heads.addr() + self.shape.table_bytes()
    }

    /// Lets links lead into a further region.
    pub(crate) fn widen(&mut self, region: Range<usize>) {
        self.span = self.span.start.min(region.start)..self.span.end.max(region.end);
    }

    #[inline]
    fn head(&self, bin: usize) -> Block {
        debug_assert!(bin < self.shape.bins());
        // SAFETY: type invariant; bins come from `Shape::bin` of sizes that fit the region, or
        // from set bits.
        unsafe { self.heads.add(bin).read() }
    }

    #[inline]
    fn set_head(&mut self, bin: usize, block: Block) {
        debug_assert!(bin < self.shape.bins());
        // SAFETY: as in `head`; `&mut self` makes it the only access.
        unsafe { self.heads.add(bin).write(block) };
    }

    /// The place for a resting block of `size` bytes, if its bin has one.
    #[inline]
    pub(crate) fn place_of(&self, size: usize) -> Option<Place> {
        let bin = self.shape.bin(size);
        // SAFETY: type invariant.
        (bin < self.shape.resting).then(|| Place { bin, at: unsafe { self.resting.add(bin) } })
    }

    /// Whether a freed block of `size` bytes may rest before it is merged.
    #[inline]
    pub(crate) fn lets_rest(&self, size: usize) -> bool {
        self.bytes_at_rest + size <= self.shape.resting_bytes
    }

    /// Lets a freed block rest in a place; returns the one that rested there, which is to be merged
    /// now. O(1).
    #[inline]
    pub(crate) fn rest(&mut self, place: Place, block: Block) -> Option<Block> {
        let rested = place.block();
        // SAFETY: the place is one of the table's; `&mut self` makes it the only access.
        unsafe { place.at.write(block) };
        if rested.is_none() {
            self.bytes_at_rest += self.shape.least_size(place.bin);
        }
        rested
    }

    /// Ends the rest of the block in a place, where there is one. O(1).
    #[inline]
    pub(crate) fn rouse(&mut self, place: Place) {
        debug_assert!(place.block().is_some());
        // SAFETY: as in `rest`.
        unsafe { place.at.write(Block::NONE) };
        self.bytes_at_rest -= self.shape.least_size(place.bin);
    }

    /// Ends the rest of a block of `size` bytes, if it rests. O(1).
    pub(crate) fn rouse_block(&mut self, block: Block, size: usize) -> bool {
        let place = self.place_of(size).filter(|&place| place.block() == Some(block));
        place.inspect(|&place| self.rouse(place)).is_some()
    }

    /// Ends the rest of the first block from a bin on; returns it, and where to go on. O(bins).
    pub(crate) fn rouse_next(&mut self, from: usize) -> Option<(Block, usize)> {
        if self.bytes_at_rest == 0 {
            return None;
        }
        for bin in from..self.shape.resting {
            // SAFETY: type invariant.
            let place = Place { bin, at: unsafe { self.resting.add(bin) } };
            if let Some(block) = place.block() {
                self.rouse(place);
                return Some((block, bin + 1));
            }
        }
        None
    }

    /// A row's bits; bits that stand for no bin, which only damage can set, are left out.
    #[inline]
    fn row_map(&self, row: usize) -> u32 {
        self.raw_row_map(row) & (u32::MAX >> (u32::BITS - self.shape.row_width()))
    }

    #[inline]
    fn raw_row_map(&self, row: usize) -> u32 {
        debug_assert!(row < self.shape.rows);
        // SAFETY: type invariant; rows come from bins that are in the table.
        unsafe { self.row_maps.add(row).read() }
    }

    #[inline]
    fn set_row_map(&mut self, row: usize, map: u32) {
        debug_assert!(row < self.shape.rows);
        // SAFETY: as in `row_map`; `&mut self` makes it the only access.
        unsafe { self.row_maps.add(row).write(map) };
    }

    fn mark(&mut self, bin: usize) {
        let row = bin >> self.shape.row_shift;
        self.set_row_map(row, self.row_map(row) | 1 << (bin & (self.shape.columns() - 1)));
        self.map |= 1 << row;
    }

    fn unmark(&mut self, bin: usize) {
        let row = bin >> self.shape.row_shift;
        let map = self.row_map(row) & !(1 << (bin & (self.shape.columns() - 1)));
        self.set_row_map(row, map);
        if map == 0 {
            self.map &= !(1 << row);
        }
    }

    /// Puts a free block of `size` bytes into its bin. O(1).
    #[inline]
    pub(crate) fn insert(&mut self, block: Block, size: usize) {
        let bin = self.shape.bin(size);
        let head = self.head(bin);
        // A damaged head is not followed: what it led to is lost, for `validate` to find.
        let head = if self.may_be_block(head) { head } else { Block::NONE };
        block.set_next(head);
        block.set_prev(Block::NONE);
        if head.is_none() {
            self.mark(bin);
        } else {
            head.set_prev(block);
        }
        self.set_head(bin, block);
    }

    /// A free block with its bin, if it and its neighbours in the list agree. O(1).
    #[inline]
    pub(crate) fn listed(&self, block: Block, tag: Tag) -> Result<Listed, Corruption> {
        self.listed_in(self.shape.bin(tag.size()), block, tag)
    }

    /// As [`listed`](Self::listed), of a block that can only be in this bin.
    #[inline]
    fn listed_in(&self, bin: usize, block: Block, tag: Tag) -> Result<Listed, Corruption> {
        let (prev, next) = (block.prev(), block.next());
        let next_agrees = next.is_none() || (self.may_be_block(next) && next.prev() == block);
        let prev_agrees = if prev.is_none() {
            self.head(bin) == block
        } else {
            self.may_be_block(prev) && prev.next() == block
        };
        if next_agrees && prev_agrees {
            Ok(Listed { block, tag, bin })
        } else {
            Err(Corruption { addr: block.addr(), kind: CorruptionKind::BlockLinks })
        }
    }

    /// Whether a link may be followed: aligned, and within the span of all regions.
    #[inline]
    pub(crate) fn may_be_block(&self, link: Block) -> bool {
        link.addr().is_multiple_of(WORD) && self.span.contains(&link.addr())
    }

    /// Puts a free block of `size` bytes in the place of another: if both belong in one bin, with
    /// its links. The usual case when a large block is cut or grown a little. O(1).
    #[inline]
    pub(crate) fn replace(&mut self, old: Listed, block: Block, size: usize) {
        if self.shape.bin(size) != old.bin {
            self.remove(old);
            self.insert(block, size);
            return;
        }
        if block == old.block {
            return;
        }
        let (prev, next) = (old.block.prev(), old.block.next());
        block.set_prev(prev);
        block.set_next(next);
        if !next.is_none() {
            next.set_prev(block);
        }
        if prev.is_none() {
            self.set_head(old.bin, block);
        } else {
            prev.set_next(block);
        }
    }

    /// Takes a free block out of its bin. O(1).
    #[inline]
    pub(crate) fn remove(&mut self, Listed { block, bin, .. }: Listed) {
        let (prev, next) = (block.prev(), block.next());
        if !next.is_none() {
            next.set_prev(prev);
        }
        if !prev.is_none() {
            prev.set_next(next);
            return;
        }
        self.set_head(bin, next);
        if next.is_none() {
            self.unmark(bin);
        }
    }

    /// The first bin from `bin` on that is not empty. O(1).
    #[inline]
    fn first_from(&self, bin: usize) -> Option<usize> {
        let row = bin >> self.shape.row_shift;
        if row >= self.shape.rows {
            return None;
        }
        let in_row = self.row_map(row) & (u32::MAX << (bin & (self.shape.columns() - 1)));
        if in_row != 0 {
            return Some((row << self.shape.row_shift) | to_usize(in_row.trailing_zeros()));
        }
        let above = self.map & (usize::MAX << row << 1);
        if above == 0 {
            return None;
        }
        let row = to_usize(above.trailing_zeros());
        let column = to_usize(self.row_map(row).trailing_zeros());
        Some((row << self.shape.row_shift) | column)
    }

    /// The block that fits best among the first few of a bin; `fit` gives what would be left over.
    fn best_in(
        &self,
        bin: usize,
        codec: TagCodec,
        fit: &mut impl FnMut(Block, Tag) -> Option<usize>,
    ) -> Result<Option<(Block, Tag)>, Corruption> {
        let mut best = None;
        let mut least = usize::MAX;
        let mut block = self.head(bin);
        for _ in 0..LOOK_AT_MOST {
            if block.is_none() {
                break;
            }
            let tag = self.free_tag(block, codec)?;
            match fit(block, tag) {
                Some(0) => return Ok(Some((block, tag))),
                Some(left_over) if left_over < least => {
                    least = left_over;
                    best = Some((block, tag));
                }
                _ => {}
            }
            block = block.next();
        }
        Ok(best)
    }

    /// Good fit: the best among the first few blocks of the request's own bin, or else the first of
    /// the next larger bin that has any. O(1), failure included.
    #[inline]
    pub(crate) fn find(&self, size: usize, codec: TagCodec) -> Result<Option<Listed>, Corruption> {
        let own = self.shape.bin(size);
        let Some(mut bin) = self.first_from(own) else { return Ok(None) };
        // Blocks of the exact bins all fit, and all fit alike.
        if bin == own && own >= 2 * self.shape.columns() {
            let mut fit = |_, tag: Tag| tag.size().checked_sub(size);
            if let Some((block, tag)) = self.best_in(own, codec, &mut fit)? {
                return self.listed_in(own, block, tag).map(Some);
            }
            let Some(larger) = self.first_from(own + 1) else { return Ok(None) };
            bin = larger;
        }
        let block = self.head(bin);
        let tag = self.free_tag(block, codec)?;
        self.listed_in(bin, block, tag).map(Some)
    }

    /// Reads the tag of a block that a list says is free.
    #[inline]
    fn free_tag(&self, block: Block, codec: TagCodec) -> Result<Tag, Corruption> {
        if !self.may_be_block(block) {
            return Err(Corruption { addr: self.heads.addr(), kind: CorruptionKind::BlockLinks });
        }
        match block.tag(codec) {
            Some(tag) if tag.is_free() => Ok(tag),
            _ => Err(Corruption { addr: block.addr(), kind: CorruptionKind::BlockTag }),
        }
    }

    /// Like [`find`](Self::find) for requests that not every block of `min` bytes can serve: looks
    /// into each bin from the one of `min` bytes up to the one of `enough`, from where on every
    /// block can. `fit` gives what would be left over. O(bins of two powers of two).
    pub(crate) fn find_where(
        &self,
        min: usize,
        enough: usize,
        codec: TagCodec,
        mut fit: impl FnMut(Block, Tag) -> Option<usize>,
    ) -> Result<Option<Listed>, Corruption> {
        let last = self.shape.bin(enough) + 1;
        let mut bin = self.shape.bin(min);
        while let Some(candidate) = self.first_from(bin) {
            if let Some((block, tag)) = self.best_in(candidate, codec, &mut fit)? {
                return self.listed_in(candidate, block, tag).map(Some);
            }
            if candidate >= last {
                break;
            }
            bin = candidate + 1;
        }
        Ok(None)
    }

    /// Size of the largest free block, in bytes: exact unless the topmost bin holds more than a
    /// few blocks, and then low by less than the width of a bin. O(1).
    pub(crate) fn largest(&self, codec: TagCodec) -> usize {
        if self.map == 0 {
            return 0;
        }
        let row = floor_log2(self.map);
        let column = to_usize(self.row_map(row).ilog2());
        let mut largest = 0;
        let mut measure = |_, tag: Tag| {
            largest = largest.max(tag.size());
            Some(1)
        };
        match self.best_in((row << self.shape.row_shift) | column, codec, &mut measure) {
            Ok(_) | Err(_) => largest,
        }
    }

    /// Checks every list: tags, links, bitmaps, and that each block is in the bin of its size.
    /// Returns how many blocks there are. O(free blocks).
    pub(crate) fn validate(
        &self,
        codec: TagCodec,
        is_in_heap: impl Fn(usize) -> bool,
    ) -> Result<usize, Corruption> {
        let mut blocks = 0;
        for row in 0..self.shape.rows {
            if self.raw_row_map(row) != self.row_map(row) {
                let addr = self.row_maps.wrapping_add(row).addr();
                return Err(Corruption { addr, kind: CorruptionKind::Bin });
            }
        }
        for bin in 0..self.shape.bins() {
            blocks += self.validate_bin(bin, codec, &is_in_heap)?;
        }
        let (resting, bytes) = self.validate_resting(codec, is_in_heap)?;
        if bytes != self.bytes_at_rest {
            return Err(Corruption { addr: self.resting.addr(), kind: CorruptionKind::Counter });
        }
        Ok(blocks + resting)
    }

    fn validate_resting(
        &self,
        codec: TagCodec,
        is_in_heap: impl Fn(usize) -> bool,
    ) -> Result<(usize, usize), Corruption> {
        let (mut resting, mut bytes) = (0, 0);
        for bin in 0..self.shape.resting {
            // SAFETY: type invariant.
            let (place, block) = unsafe { (self.resting.add(bin), self.resting.add(bin).read()) };
            if block.is_none() {
                continue;
            }
            if !self.may_be_block(block) || !is_in_heap(block.addr()) {
                return Err(Corruption { addr: place.addr(), kind: CorruptionKind::BlockLinks });
            }
            match block.tag(codec) {
                Some(tag) if tag.is_resting() && self.shape.bin(tag.size()) == bin => {
                    resting += 1;
                    bytes += self.shape.least_size(bin);
                }
                _ => return Err(Corruption { addr: block.addr(), kind: CorruptionKind::BlockTag }),
            }
        }
        Ok((resting, bytes))
    }

    fn validate_bin(
        &self,
        bin: usize,
        codec: TagCodec,
        is_in_heap: &impl Fn(usize) -> bool,
    ) -> Result<usize, Corruption> {
        let bin_addr = self.heads.wrapping_add(bin).addr();
        let row = bin >> self.shape.row_shift;
        let marked = self.row_map(row) >> (bin & (self.shape.columns() - 1)) & 1 == 1;
        let row_marked = self.map >> row & 1 == 1;
        if marked == self.head(bin).is_none() || row_marked != (self.row_map(row) != 0) {
            return Err(Corruption { addr: bin_addr, kind: CorruptionKind::Bin });
        }
        let (mut blocks, mut prev, mut block) = (0, Block::NONE, self.head(bin));
        while !block.is_none() {
            let broken = Corruption { addr: block.addr(), kind: CorruptionKind::BlockLinks };
            if !self.may_be_block(block) || !is_in_heap(block.addr()) {
                return Err(Corruption { addr: bin_addr, ..broken });
            }
            let tag = self.free_tag(block, codec)?;
            if block.prev() != prev || self.shape.bin(tag.size()) != bin {
                return Err(broken);
            }
            (prev, block) = (block, block.next());
            blocks += 1;
        }
        Ok(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_ascend_with_size_and_small_ones_are_exact() {
        let shape = Shape::new(Granule::new(16), 1 << 26);
        let mut previous = 0;
        for units in 1..100_000usize {
            let bin = shape.bin(units * 16);
            assert!(bin == previous || bin == previous + 1, "{units}");
            assert!(units >= 32 || bin == units);
            assert!(bin == previous || shape.least_size(bin) == units * 16);
            previous = bin;
        }
        assert!(shape.bin(1 << 26) < shape.bins());
    }

    #[test]
    fn small_regions_have_small_tables() {
        for kib in [1usize, 4, 16, 64, 1024] {
            let shape = Shape::new(Granule::new(1), kib << 10);
            let share = shape.table_bytes() * 100 / (kib << 10);
            assert!(share <= 30, "{kib} KiB pays {share} %");
            assert!(shape.bin(kib << 10) < shape.bins());
        }
    }
}
