#![allow(unsafe_code)] // the bins' table lies in the region
//! Bins: free blocks in two-level segregated lists, found through two levels of bitmaps. The table is
//! as long as the largest region needs and lies in that region.

use core::{ops::Range, ptr::null_mut};

use super::{
    block::{Block, Tag, TagCodec},
    shape::Shape,
};
use crate::{
    error::{Corruption, CorruptionKind},
    units::{WORD, floor_log2, round_up, to_usize},
};

/// How many blocks of one list are looked at for the best fit.
const LOOK_AT_MOST: usize = 4;

/// A free block that was found to be in its bin's list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub(super) block: Block,
    pub(super) tag: Tag,
    bin: usize,
}

/// Where blocks can be: words from the first one of all regions to the last.
#[derive(Clone, Copy, Debug)]
struct Reach {
    first: usize,
    words: usize,
}

impl Reach {
    const NOTHING: Self = Self { first: 0, words: 0 };

    fn widened(self, region: Range<usize>) -> Self {
        let start = round_up(region.start, WORD).unwrap_or(region.end);
        let first = if self.words == 0 { start } else { self.first.min(start) };
        let end = region.end.max(self.first + self.words * WORD);
        Self { first, words: (end - first) / WORD }
    }

    #[inline]
    fn contains(self, addr: usize) -> bool {
        // What is not aligned turns into a huge number.
        addr.wrapping_sub(self.first).rotate_right(WORD.trailing_zeros()) < self.words
    }
}

/// The lists of free blocks.
///
/// Invariants: `heads` and `row_maps` point to `shape.bins()` and `shape.rows()` elements in the region,
/// which nobody else uses; `reach` covers every region; a bit in `row_maps` is set iff its list is not
/// empty, and one in `map` iff its row has a bit set.
#[derive(Debug)]
pub(super) struct Bins {
    shape: Shape,
    reach: Reach,
    map: usize,
    heads: *mut Block,
    row_maps: *mut usize,
}

impl Bins {
    /// Bins without a table, which hold nothing.
    pub(super) const fn empty() -> Self {
        let (heads, row_maps) = (null_mut(), null_mut());
        Self { shape: Shape::EMPTY, reach: Reach::NOTHING, map: 0, heads, row_maps }
    }

    /// Bytes of table: the lists' heads, then a bitmap for each row.
    pub(super) fn table_bytes(shape: &Shape) -> usize {
        shape.bins() * size_of::<Block>() + shape.rows() * WORD
    }

    /// Takes over `table_bytes` at `table` and makes them an empty table.
    ///
    /// # Safety
    /// `table` is aligned to words, valid for that many bytes, and left alone from now on.
    pub(super) unsafe fn new(shape: Shape, table: *mut u8) -> Self {
        let heads = table.cast::<Block>();
        let row_maps = heads.wrapping_add(shape.bins()).cast::<usize>();
        let mut bins = Self { shape, heads, row_maps, ..Self::empty() };
        for bin in 0..bins.shape.bins() {
            bins.set_head(bin, Block::NONE);
        }
        for row in 0..bins.shape.rows() {
            bins.set_row_map(row, 0);
        }
        bins
    }

    /// Lets links lead into a further region.
    pub(super) fn widen(&mut self, region: Range<usize>) {
        self.reach = self.reach.widened(region);
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

    /// A row's bits; bits that stand for no bin, which only damage can set, are left out.
    #[inline]
    fn row_map(&self, row: usize) -> usize {
        self.raw_row_map(row) & self.shape.row_mask()
    }

    #[inline]
    fn raw_row_map(&self, row: usize) -> usize {
        debug_assert!(row < self.shape.rows());
        // SAFETY: type invariant; rows come from bins that are in the table.
        unsafe { self.row_maps.add(row).read() }
    }

    #[inline]
    fn set_row_map(&mut self, row: usize, map: usize) {
        debug_assert!(row < self.shape.rows());
        // SAFETY: as in `row_map`; `&mut self` makes it the only access.
        unsafe { self.row_maps.add(row).write(map) };
    }

    fn mark(&mut self, bin: usize) {
        let row = self.shape.row_of(bin);
        self.set_row_map(row, self.row_map(row) | 1 << self.shape.column_of(bin));
        self.map |= 1 << row;
    }

    fn unmark(&mut self, bin: usize) {
        let row = self.shape.row_of(bin);
        let map = self.row_map(row) & !(1 << self.shape.column_of(bin));
        self.set_row_map(row, map);
        if map == 0 {
            self.map &= !(1 << row);
        }
    }

    /// Puts a free block of `size` bytes into its bin. O(1).
    #[inline]
    pub(super) fn insert(&mut self, block: Block, size: usize) {
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
    pub(super) fn listed(&self, block: Block, tag: Tag) -> Result<Listed, Corruption> {
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

    /// Whether a link may be followed: aligned, and within what all regions span.
    #[inline]
    pub(super) fn may_be_block(&self, link: Block) -> bool {
        self.reach.contains(link.addr())
    }

    /// Puts a free block of `size` bytes in the place of another: if both belong in one bin, with
    /// its links. The usual case when a large block is cut or grown a little. O(1).
    #[inline(always)]
    pub(super) fn replace(&mut self, old: Listed, block: Block, size: usize) {
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
    pub(super) fn remove(&mut self, Listed { block, bin, .. }: Listed) {
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
        let row = self.shape.row_of(bin);
        if row >= self.shape.rows() {
            return None;
        }
        let from_bin = self.row_map(row) >> self.shape.column_of(bin);
        if from_bin != 0 {
            return Some(bin + to_usize(from_bin.trailing_zeros()));
        }
        let above = self.map & (usize::MAX << row << 1);
        if above == 0 {
            return None;
        }
        let row = to_usize(above.trailing_zeros());
        let column = to_usize(self.row_map(row).trailing_zeros());
        Some(self.shape.bin_at(row, column))
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
    pub(super) fn find(&self, size: usize, codec: TagCodec) -> Result<Option<Listed>, Corruption> {
        let own = self.shape.bin(size);
        let Some(mut bin) = self.first_from(own) else { return Ok(None) };
        // Blocks of the exact bins all fit, and all fit alike.
        if bin == own && !self.shape.is_exact(own) {
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
    pub(super) fn find_where(
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
    pub(super) fn largest(&self, codec: TagCodec) -> usize {
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
        match self.best_in(self.shape.bin_at(row, column), codec, &mut measure) {
            Ok(_) | Err(_) => largest,
        }
    }

    /// Checks every list: tags, links, bitmaps, and that each block is in the bin of its size.
    /// Returns how many blocks there are. O(free blocks).
    pub(super) fn validate(
        &self,
        codec: TagCodec,
        is_in_heap: impl Fn(usize) -> bool,
    ) -> Result<usize, Corruption> {
        let mut blocks = 0;
        for row in 0..self.shape.rows() {
            if self.raw_row_map(row) != self.row_map(row) {
                let addr = self.row_maps.wrapping_add(row).addr();
                return Err(Corruption { addr, kind: CorruptionKind::Bin });
            }
        }
        for bin in 0..self.shape.bins() {
            blocks += self.validate_bin(bin, codec, &is_in_heap)?;
        }
        Ok(blocks)
    }

    fn validate_bin(
        &self,
        bin: usize,
        codec: TagCodec,
        is_in_heap: &impl Fn(usize) -> bool,
    ) -> Result<usize, Corruption> {
        let bin_addr = self.heads.wrapping_add(bin).addr();
        let row = self.shape.row_of(bin);
        let marked = self.row_map(row) >> self.shape.column_of(bin) & 1 == 1;
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
    fn words_of_the_regions_are_within_reach_and_no_others() {
        assert!(!Reach::NOTHING.contains(0));
        let first = Reach::NOTHING.widened(1003..2000);
        let start = 1003_usize.next_multiple_of(WORD);
        for addr in 900..2100 {
            let is_word = addr % WORD == 0 && addr >= start && addr + WORD <= 2000;
            assert_eq!(first.contains(addr), is_word, "{addr}");
        }
        // What lies between two regions is within reach: only `validate` asks whose it is.
        for (reach, words) in
            [(first.widened(400..800), 400..2000), (first.widened(2400..2800), start..2800)]
        {
            assert!(reach.contains(words.start) && reach.contains(words.end - WORD));
            assert!(!reach.contains(words.start - WORD) && !reach.contains(words.end));
            assert!(!reach.contains(words.start + 1));
        }
    }
}
