#![allow(unsafe_code)] // the table lies in the region
//! Blocks that rest: freed, and not merged with anything yet, so that the next request of just their
//! size takes one as it is (the quick lists of Weinstock and Wulf, SIGPLAN Notices 1988).
//!
//! They are listed out of line: nothing of ours is written into them, so that a write after the free
//! meets no link. Each bin has a stack of *places*; a place names a block and the place below:
//!
//! ```text
//! blocks: [ - ][ place 1 ][ place 2 ] ...   the block that rests there
//! below:  [ - ][ place 1 ][ place 2 ] ...   the place below it, or the next spare one; 0 for none
//! tops:   [ bin 0 ][ bin 1 ] ...            the place on top; 0 for none
//! ```
//!
//! A damaged table misleads nobody: only a block whose tag says that it rests is taken.

use super::{
    block::{Block, Tag, TagCodec},
    shape::{RestShape, Shape},
};
use crate::{
    error::{Corruption, CorruptionKind},
    units::to_u16,
};

/// How far down its stack a block is looked for.
const LOOK_AT_MOST: usize = 8;

/// What place 0 holds.
const NOTHING: (Block, u16) = (Block::NONE, 0);

/// The stacks of blocks that rest.
///
/// Invariants: `blocks` and `below` point to `shape.places` elements in the region, `tops` to
/// `shape.bins`, which nobody else uses.
#[derive(Debug)]
pub(super) struct Resting {
    shape: RestShape,
    blocks: *mut Block,
    below: *mut u16,
    tops: *mut u16,
    /// The first place that no block has.
    spare: u16,
    /// Bytes of the blocks that rest.
    bytes: usize,
    /// The bin that gives up a block next, when others have no place.
    hand: usize,
}

impl Resting {
    /// Without a table: nothing rests.
    pub(super) const fn empty() -> Self {
        use core::ptr::null_mut;
        let (blocks, below, tops) = (null_mut(), null_mut(), null_mut());
        Self { shape: RestShape::NONE, blocks, below, tops, spare: 0, bytes: 0, hand: 0 }
    }

    /// Takes over `shape.table_bytes()` bytes at `table` and makes them an empty table.
    ///
    /// # Safety
    /// `table` is aligned to words, valid for that many bytes, and left alone from now on.
    pub(super) unsafe fn new(shape: RestShape, table: *mut u8) -> Self {
        let blocks = table.cast::<Block>();
        let below = blocks.wrapping_add(shape.places).cast::<u16>();
        let tops = below.wrapping_add(shape.places);
        let mut resting = Self { shape, blocks, below, tops, ..Self::empty() };
        for bin in 0..shape.bins {
            resting.set_top(bin, 0);
        }
        for place in (0..shape.places).rev() {
            resting.set_block(to_u16(place), Block::NONE);
            resting.set_below(to_u16(place), resting.spare);
            resting.spare = to_u16(place);
        }
        if shape.places > 0 {
            resting.spare = resting.get(0).1;
            resting.set_below(0, 0);
        }
        resting
    }

    #[inline]
    fn top(&self, bin: usize) -> u16 {
        debug_assert!(bin < self.shape.bins);
        // SAFETY: type invariant.
        unsafe { self.tops.add(bin).read() }
    }

    #[inline]
    fn set_top(&mut self, bin: usize, place: u16) {
        debug_assert!(bin < self.shape.bins);
        // SAFETY: type invariant; `&mut self` makes it the only access.
        unsafe { self.tops.add(bin).write(place) };
    }

    /// A place's block, and the place below. Numbers out of range, which only damage makes, are wrapped.
    #[inline]
    fn get(&self, place: u16) -> (Block, u16) {
        let index = usize::from(place) & (self.shape.places - 1);
        // SAFETY: type invariant: there are places, as somebody has the number of one, a power of two.
        unsafe { (self.blocks.add(index).read(), self.below.add(index).read()) }
    }

    #[inline]
    fn set_block(&mut self, place: u16, block: Block) {
        let index = usize::from(place) & (self.shape.places - 1);
        // SAFETY: as in `get`; `&mut self` makes it the only access.
        unsafe { self.blocks.add(index).write(block) };
    }

    #[inline]
    fn set_below(&mut self, place: u16, below: u16) {
        let index = usize::from(place) & (self.shape.places - 1);
        // SAFETY: as in `get`; `&mut self` makes it the only access.
        unsafe { self.below.add(index).write(below) };
    }

    /// The block of a bin that was laid to rest last. O(1).
    #[inline]
    pub(super) fn last(&self, bin: usize) -> Option<Block> {
        if bin >= self.shape.bins {
            return None;
        }
        let top = self.top(bin);
        (top != 0).then(|| self.get(top).0)
    }

    /// Ends the rest of that block, which is `size` bytes long. O(1).
    #[inline]
    pub(super) fn rouse_last(&mut self, bin: usize, size: usize) {
        let top = self.top(bin);
        let (_, below) = self.get(top);
        self.set_top(bin, below);
        self.vacate(top, size);
    }

    /// A block of `size` bytes leaves its place.
    #[inline]
    fn vacate(&mut self, place: u16, size: usize) {
        self.set_block(place, Block::NONE);
        self.set_below(place, self.spare);
        self.spare = place;
        self.bytes -= size;
    }

    /// Whether a block of a bin may rest.
    #[inline]
    pub(super) fn has_place(&self, bin: usize, size: usize) -> bool {
        bin < self.shape.bins && self.spare != 0 && self.bytes + size <= self.shape.bytes
    }

    /// Whether a block may rest when one of `old` bytes does not. Blocks that take the place of smaller
    /// ones may have twice the bytes: else those would keep it.
    pub(super) fn has_place_instead(&self, old: usize, size: usize) -> bool {
        self.bytes - old + size <= 2 * self.shape.bytes
    }

    /// Lets a block rest, which has a place. O(1).
    #[inline]
    pub(super) fn rest(&mut self, bin: usize, block: Block, size: usize) {
        let place = self.spare;
        let (_, spare) = self.get(place);
        self.set_block(place, block);
        self.set_below(place, self.top(bin));
        self.set_top(bin, place);
        self.spare = spare;
        self.bytes += size;
    }

    /// Ends the rest of a block of a bin, if it rests and is among the last few. O(1).
    pub(super) fn rouse_block(&mut self, bin: usize, block: Block, size: usize) -> bool {
        // A block that rests elsewhere may be larger than those that rest here.
        let Some(last) = self.last(bin) else { return false };
        if last == block {
            self.rouse_last(bin, size);
            return true;
        }
        let is_above = |&place: &u16| self.get(self.get(place).1).0 == block;
        let Some(above) = self.places(bin).take(LOOK_AT_MOST).find(is_above) else { return false };
        let (_, place) = self.get(above);
        self.set_below(above, self.get(place).1);
        self.vacate(place, size);
        true
    }

    /// Takes the last block of a bin, which was found damaged, off its stack. O(blocks that rest).
    #[cold]
    pub(super) fn drop_last(
        &mut self,
        bin: usize,
        codec: TagCodec,
        may_be_block: impl Fn(Block) -> bool,
    ) {
        self.rouse_last(bin, 0);
        let blocks = (0..self.shape.bins).flat_map(|bin| self.in_bin(bin));
        let tags = blocks.filter(|&block| may_be_block(block)).filter_map(|block| block.tag(codec));
        self.bytes = tags.map(Tag::size).sum();
    }

    /// Bins that have stacks.
    pub(super) fn bins(&self) -> usize {
        self.shape.bins
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The bin that is to give up its last block next: another one with each call. O(1).
    pub(super) fn next_hand(&mut self) -> usize {
        self.hand = if self.hand + 1 < self.shape.bins { self.hand + 1 } else { 0 };
        self.hand
    }

    /// The places of a bin, from the top on.
    fn places(&self, bin: usize) -> impl Iterator<Item = u16> {
        self.places_from(self.top(bin))
    }

    /// A place and those below it.
    fn places_from(&self, top: u16) -> impl Iterator<Item = u16> {
        let some = |place: u16| (place != 0).then_some(place);
        let below = move |&place: &u16| some(self.get(place).1);
        core::iter::successors(some(top), below).take(self.shape.places)
    }

    /// The blocks of a bin that rest, the last one first.
    fn in_bin(&self, bin: usize) -> impl Iterator<Item = Block> {
        self.places(bin).map(|place| self.get(place).0)
    }

    /// Checks all stacks: that blocks are ones that rest, and in the bin of their size, and that each
    /// place is in one stack, or spare and empty. O(places).
    pub(super) fn validate(
        &self,
        bins: Shape,
        codec: TagCodec,
        may_be_block: impl Fn(Block) -> bool,
    ) -> Result<(), Corruption> {
        let broken = Corruption { addr: self.tops.addr(), kind: CorruptionKind::Bin };
        let is_place = |place: &u16| usize::from(*place) < self.shape.places;
        let (mut bytes, mut found) = (0, 0);
        for bin in 0..self.shape.bins {
            for place in self.places(bin) {
                if !is_place(&place) {
                    return Err(broken);
                }
                bytes += self.check_place(place, bin, bins, codec, &may_be_block)?;
                found += 1;
            }
        }
        for place in self.places_from(self.spare) {
            if !is_place(&place) || !self.get(place).0.is_none() {
                return Err(broken);
            }
            found += 1;
        }
        if self.shape.places > 0 && (found != self.shape.places - 1 || self.get(0) != NOTHING) {
            return Err(broken);
        }
        if bytes == self.bytes {
            return Ok(());
        }
        Err(Corruption { kind: CorruptionKind::Counter, ..broken })
    }

    /// Checks the block in a place, and says how large it is.
    fn check_place(
        &self,
        place: u16,
        bin: usize,
        bins: Shape,
        codec: TagCodec,
        may_be_block: &impl Fn(Block) -> bool,
    ) -> Result<usize, Corruption> {
        let block = self.get(place).0;
        if !may_be_block(block) {
            let addr = self.blocks.wrapping_add(usize::from(place)).addr();
            return Err(Corruption { addr, kind: CorruptionKind::BlockLinks });
        }
        match block.tag(codec) {
            Some(tag) if tag.is_resting() && bins.bin(tag.size()) == bin => Ok(tag.size()),
            _ => Err(Corruption { addr: block.addr(), kind: CorruptionKind::BlockTag }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_bytes_may_rest_in_the_stead_of_others() {
        let shape = RestShape { bytes: 100, ..RestShape::NONE };
        let resting = Resting { shape, bytes: 150, ..Resting::empty() };
        assert!(resting.has_place_instead(50, 100) && !resting.has_place_instead(50, 101));
        assert!(resting.has_place_instead(10, 60) && !resting.has_place_instead(10, 61));
    }
}
