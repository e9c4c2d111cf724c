//! The whole-region walker: every block and every run of slabs in address order. It serves
//! `validate`, `reset`, the heap map and the tests.

use super::{
    slab_map::SlabMap,
    store::{RegionEntry, Store},
};
use crate::{
    error::{Corruption, CorruptionKind},
    heap::{Block, Tag},
    units::WORD,
};

/// What the walker comes by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Walked {
    /// A heap block.
    Block(Block, Tag),
    /// A run of slabs, from its first byte to behind its last.
    Slabs { start: usize, end: usize },
}

/// Walks one region. It stops behind the first thing that does not fit.
pub(crate) struct Walk<'s> {
    store: &'s Store,
    map: SlabMap,
    end: usize,
    /// Where the next tag is; `None` at the end.
    next: Option<Block>,
    /// The fence at the end, once it was reached.
    last: Option<Block>,
}

impl<'s> Walk<'s> {
    pub(crate) fn new(store: &'s Store, entry: &RegionEntry) -> Self {
        let first = Block::at(entry.region().at(entry.first_tag()));
        Self::at(store, entry, Some(first))
    }

    /// Goes on at a position of another walk of the region.
    pub(crate) fn at(store: &'s Store, entry: &RegionEntry, next: Option<Block>) -> Self {
        Self { store, map: *entry.map(), end: entry.region().end(), next, last: None }
    }

    /// Where the walk has got to.
    pub(crate) fn position(&self) -> Option<Block> {
        self.next
    }

    /// The fence that ended the walk.
    pub(crate) fn end_fence(&self) -> Option<Block> {
        self.last
    }

    /// The next block in a caller's hands, and the next block behind it that is not free: where
    /// to go on after it has been freed.
    pub(crate) fn next_live(&mut self) -> Result<Option<(Block, Block)>, Corruption> {
        while let Some(walked) = self.next().transpose()? {
            let Walked::Block(block, tag) = walked else { continue };
            if !tag.is_used() || tag.is_internal() {
                continue;
            }
            let above = block.above(tag.size());
            return Ok(Some(match above.tag(self.store.heap().codec()) {
                Some(free) if free.is_free() => (block, above.above(free.size())),
                _ => (block, above),
            }));
        }
        Ok(None)
    }

    fn step(&mut self, block: Block) -> Result<Option<Walked>, Corruption> {
        let broken = Corruption { addr: block.addr(), kind: CorruptionKind::BlockTag };
        // A damaged map may have led beyond the region.
        if self.end.saturating_sub(block.addr()) < WORD {
            return Err(broken);
        }
        let tag = block.tag(self.store.heap().codec()).ok_or(broken)?;
        if tag.is_slab_fence() {
            let start = block.addr() + WORD;
            let end = self.map.run_end(start);
            if end == start || end > self.end {
                return Err(Corruption { addr: start, kind: CorruptionKind::Slab });
            }
            self.next = Some(block.with_addr(self.store.heap().tag_behind_span(end)));
            return Ok(Some(Walked::Slabs { start, end }));
        }
        if tag.is_fence() {
            self.last = Some(block);
            return Ok(None);
        }
        if tag.size() > self.end - block.addr() - WORD {
            return Err(broken);
        }
        self.next = Some(block.above(tag.size()));
        Ok(Some(Walked::Block(block, tag)))
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Walked, Corruption>;

    fn next(&mut self) -> Option<Self::Item> {
        let block = self.next.take()?;
        self.step(block).transpose()
    }
}
