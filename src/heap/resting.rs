#![allow(unsafe_code)] // the table lies in the region
//! Blocks that rest: freed, and not merged with anything yet, so that the next request of just their
//! size takes one as it is (the quick lists of Weinstock and Wulf, SIGPLAN Notices 1988).
//!
//! They are listed out of line: nothing of ours is written into them, so that a write after the free
//! meets no link. Each size has a stack of *places*; a place names a block and the place below:
//!
//! ```text
//! places: [ - ][ block, below ][ block, below ] ...   below: the number of the place below it, or of the
//!                                                     next spare one; 0 for none
//! tops:   [ 0 granules ][ 1 granule ] ...             the place on top; 0 for none
//! ```
//!
//! A damaged table misleads nobody: only a block whose tag says that it rests, and is of that size, is
//! taken.

use super::{
    block::{Block, TagCodec},
    shape::RestShape,
};
use crate::{
    error::{Corruption, CorruptionKind},
    units::low_u16,
};

/// How far down its stack a block is looked for, and how many places on the next one whose turn it is.
const LOOK_AT_MOST: usize = 8;

/// The part of what is free beyond half of all memory that may rest.
const RESTING_SHARE: usize = 8;

/// A place for a block that rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    block: Block,
    /// A whole word, so that there is nothing in a table that nobody looks at.
    below: usize,
}

impl Place {
    /// What place 0 holds.
    const NOTHING: Self = Self { block: Block::NONE, below: 0 };
}

/// The number of a stack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stack(usize);

/// The stacks of blocks that rest.
///
/// Invariants: `places` points to `shape.places` elements in the region, `tops` to `shape.sizes`, which
/// nobody else uses.
#[derive(Debug)]
pub(super) struct Resting {
    shape: RestShape,
    places: *mut Place,
    tops: *mut u16,
    /// The first place that no block has.
    spare: usize,
    /// Bytes of the blocks that rest.
    bytes: usize,
    /// Bytes that may rest.
    limit: usize,
    /// The place whose block's size gives up a block next, when others have no place.
    hand: usize,
}

impl Resting {
    /// Without a table: nothing rests.
    pub(super) const fn empty() -> Self {
        use core::ptr::null_mut;
        let (places, tops) = (null_mut(), null_mut());
        Self { shape: RestShape::NONE, places, tops, spare: 0, bytes: 0, limit: 0, hand: 0 }
    }

    /// Takes over `shape.table_bytes()` bytes at `table` and makes them an empty table.
    ///
    /// # Safety
    /// `table` is aligned to words, valid for that many bytes, and left alone from now on.
    pub(super) unsafe fn new(shape: RestShape, table: *mut u8) -> Self {
        let places = table.cast::<Place>();
        let tops = places.wrapping_add(shape.places).cast::<u16>();
        let limit = shape.least_bytes;
        let mut resting = Self { shape, places, tops, limit, ..Self::empty() };
        for stack in 0..shape.sizes {
            resting.set_top(stack, 0);
        }
        for place in (1..shape.places).rev() {
            resting.set(place, Place { below: resting.spare, ..Place::NOTHING });
            resting.spare = place;
        }
        if shape.places > 0 {
            resting.set(0, Place::NOTHING);
        }
        resting
    }

    #[inline]
    fn top(&self, stack: usize) -> usize {
        debug_assert!(stack < self.shape.sizes);
        // SAFETY: type invariant.
        usize::from(unsafe { self.tops.add(stack).read() })
    }

    #[inline]
    fn set_top(&mut self, stack: usize, place: usize) {
        debug_assert!(stack < self.shape.sizes);
        // SAFETY: type invariant; `&mut self` makes it the only access.
        unsafe { self.tops.add(stack).write(low_u16(place)) };
    }

    /// Where a place is. Numbers out of range, which only damage makes, are wrapped.
    #[inline]
    fn at(&self, place: usize) -> *mut Place {
        self.places.wrapping_add(place & (self.shape.places - 1))
    }

    #[inline]
    fn get(&self, place: usize) -> Place {
        // SAFETY: type invariant: there are places, as somebody has the number of one, a power of two.
        unsafe { self.at(place).read() }
    }

    #[inline]
    fn set(&mut self, place: usize, contents: Place) {
        // SAFETY: as in `get`; `&mut self` makes it the only access.
        unsafe { self.at(place).write(contents) };
    }

    /// The block of this size that was laid to rest last. O(1).
    #[inline(always)]
    pub(super) fn last(&self, size: usize) -> Option<Block> {
        let stack = self.shape.stack(size);
        if stack >= self.shape.sizes {
            return None;
        }
        let top = self.top(stack);
        (top != 0).then(|| self.get(top).block)
    }

    /// Ends the rest of that block. O(1).
    #[inline(always)]
    pub(super) fn rouse_last(&mut self, size: usize) {
        let stack = self.shape.stack(size);
        let top = self.top(stack);
        self.set_top(stack, self.get(top).below);
        self.vacate(top, size);
    }

    /// A block of `size` bytes leaves its place.
    #[inline(always)]
    fn vacate(&mut self, place: usize, size: usize) {
        self.set(place, Place { block: Block::NONE, below: self.spare });
        self.spare = place;
        self.bytes = self.bytes.wrapping_sub(size);
    }

    /// The stack of blocks of this size, if they may rest.
    #[inline(always)]
    pub(super) fn stack_of(&self, size: usize) -> Option<Stack> {
        let stack = self.shape.stack(size);
        (stack < self.shape.sizes).then_some(Stack(stack))
    }

    /// Whether there is a place for one of them.
    #[inline(always)]
    pub(super) fn has_place(&self, size: usize) -> bool {
        self.spare != 0 && self.bytes.wrapping_add(size) <= self.limit
    }

    /// Whether there is a place for one of them once another has made way. Blocks that take the place of
    /// smaller ones may have twice the bytes: else those would keep it.
    pub(super) fn has_place_instead(&self, size: usize) -> bool {
        self.spare != 0 && !self.has_too_much(size)
    }

    /// Whether the rest of a block of `old` bytes should end when one of `size` bytes finds no place: that one
    /// has a place then, or there is so much that rests that it has to become less anyway.
    pub(super) fn should_end(&self, old: usize, size: usize) -> bool {
        self.has_too_much(0) || !self.has_too_much(size.wrapping_sub(old))
    }

    fn has_too_much(&self, more: usize) -> bool {
        self.bytes.wrapping_add(more) > 2 * self.limit
    }

    /// Bytes of the blocks that rest.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets more rest while less than half of all memory is in use: what rests splits what would be whole,
    /// which matters once memory gets short. `free` bytes of `total` are free, and do not rest.
    #[inline]
    pub(super) fn limit_by(&mut self, free: usize, total: usize) {
        let beyond_half = free.saturating_sub(total / 2);
        self.limit = self.shape.least_bytes.max(beyond_half / RESTING_SHARE);
    }

    /// Lets a block rest, which has a place, on the stack of its size. O(1).
    #[inline(always)]
    pub(super) fn rest(&mut self, Stack(stack): Stack, block: Block, size: usize) {
        let place = self.spare;
        self.spare = self.get(place).below;
        self.set(place, Place { block, below: self.top(stack) });
        self.set_top(stack, place);
        self.bytes = self.bytes.wrapping_add(size);
    }

    /// Ends the rest of a block, if it rests and is among the last few of its size. O(1).
    pub(super) fn rouse_block(&mut self, block: Block, size: usize) -> bool {
        // A block that rests elsewhere may be larger than those that rest here.
        let Some(last) = self.last(size) else { return false };
        if last == block {
            self.rouse_last(size);
            return true;
        }
        let stack = self.places_from(self.top(self.shape.stack(size)));
        let is_above = |&place: &usize| self.get(self.get(place).below).block == block;
        let Some(above) = stack.take(LOOK_AT_MOST).find(is_above) else { return false };
        let Place { block: there, below: place } = self.get(above);
        self.set(above, Place { block: there, below: self.get(place).below });
        self.vacate(place, size);
        true
    }

    /// Takes the last block of the stack of `size` bytes off it; it is really `actual` bytes long. O(1).
    #[cold]
    pub(super) fn drop_last(&mut self, size: usize, actual: usize) {
        self.rouse_last(size);
        self.bytes = self.bytes.wrapping_add(size).saturating_sub(actual);
    }

    /// More blocks than can rest.
    pub(super) fn places(&self) -> usize {
        self.shape.places
    }

    /// The size of the largest blocks below `size` bytes that rest. O(sizes).
    pub(super) fn largest_below(&self, size: usize) -> Option<usize> {
        if self.bytes == 0 {
            return None;
        }
        let below = 0..self.shape.stack(size).min(self.shape.sizes);
        below.rev().find(|&stack| self.top(stack) != 0).map(|stack| self.shape.size(stack))
    }

    /// The block whose turn it is to make its size give up one, if one is near; another one with each call.
    /// O(1).
    pub(super) fn next_in_turn(&mut self) -> Option<Block> {
        let turn = |ahead: usize| (self.hand + ahead) & (self.shape.places - 1);
        let is_taken = |&place: &usize| !self.get(place).block.is_none();
        let next = (1..=LOOK_AT_MOST).map(turn).find(is_taken);
        self.hand = next.unwrap_or(turn(LOOK_AT_MOST));
        next.map(|place| self.get(place).block)
    }

    /// A place and those below it.
    fn places_from(&self, top: usize) -> impl Iterator<Item = usize> {
        let some = |place: usize| (place != 0).then_some(place);
        let below = move |&place: &usize| some(self.get(place).below);
        core::iter::successors(some(top), below).take(self.shape.places)
    }

    /// Checks all stacks: that blocks are ones that rest, and of their stack's size, and that each place
    /// is in one stack, or spare and empty. O(sizes + places).
    pub(super) fn validate(
        &self,
        codec: TagCodec,
        may_be_block: impl Fn(Block) -> bool,
    ) -> Result<(), Corruption> {
        let broken = Corruption { addr: self.tops.addr(), kind: CorruptionKind::Bin };
        let is_place = |place: &usize| *place < self.shape.places;
        let (mut bytes, mut found) = (0, 0);
        for stack in 0..self.shape.sizes {
            for place in self.places_from(self.top(stack)) {
                if !is_place(&place) {
                    return Err(broken);
                }
                bytes += self.check_place(place, stack, codec, &may_be_block)?;
                found += 1;
            }
        }
        for place in self.places_from(self.spare) {
            if !is_place(&place) || !self.get(place).block.is_none() {
                return Err(broken);
            }
            found += 1;
        }
        if self.shape.places > 0
            && (found != self.shape.places - 1 || self.get(0) != Place::NOTHING)
        {
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
        place: usize,
        stack: usize,
        codec: TagCodec,
        may_be_block: &impl Fn(Block) -> bool,
    ) -> Result<usize, Corruption> {
        let block = self.get(place).block;
        if !may_be_block(block) {
            return Err(Corruption {
                addr: self.at(place).addr(),
                kind: CorruptionKind::BlockLinks,
            });
        }
        match block.tag(codec) {
            Some(tag) if tag.is_resting() && self.shape.stack(tag.size()) == stack => {
                Ok(tag.size())
            }
            _ => Err(Corruption { addr: block.addr(), kind: CorruptionKind::BlockTag }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_bytes_may_rest_in_the_stead_of_others() {
        let resting = Resting { limit: 100, bytes: 150, spare: 1, ..Resting::empty() };
        assert!(resting.should_end(50, 100) && !resting.should_end(50, 101));
        assert!(resting.should_end(10, 60) && !resting.should_end(10, 61));
        assert!(resting.has_place_instead(50) && !resting.has_place_instead(51));
    }

    #[test]
    fn without_a_spare_place_nothing_rests() {
        let resting = Resting { limit: 100, ..Resting::empty() };
        assert!(!resting.has_place(16) && !resting.has_place_instead(16));
    }

    #[test]
    fn bytes_that_do_not_add_up_are_found() {
        let validate = |bytes| {
            let resting = Resting { bytes, ..Resting::empty() };
            resting.validate(TagCodec::new(0, 1 << 20), |_| true)
        };
        assert_eq!(validate(0), Ok(()));
        assert_eq!(validate(8).map_err(|found| found.kind), Err(CorruptionKind::Counter));
    }

    #[test]
    fn what_is_far_too_much_becomes_less() {
        let resting = Resting { limit: 100, bytes: 1000, spare: 1, ..Resting::empty() };
        assert!(resting.should_end(10, 60) && !resting.has_place_instead(60));
    }
}
