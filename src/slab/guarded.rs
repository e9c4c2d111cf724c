#![allow(unsafe_code)] // has pages made inaccessible that nobody uses
//! Guards of the store: behind slabs, and on both sides of large blocks.
//!
//! ```text
//!       page       page       page               page       page
//!  [ tag | guard    | [ tag | object ...............| guard    | pad ][ tag ..
//!  front, the pool's own    the caller's block
//! ```
//!
//! An object ends where its guard begins, or as close to it as its alignment lets it. Where the front
//! block is follows from where the object's block is, so that nothing needs to be written down.

use super::store::Store;
use crate::{
    error::{Corruption, CorruptionKind},
    guard::Guards,
    heap::{Block, Owner, Tag},
    units::{WORD, round_down, round_up},
};

/// What lies on the sides of a large block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides {
    /// The pool's own block below, with the guard in it.
    pub(super) front: Block,
    /// Where the guards start.
    guards: [usize; 2],
}

impl Store {
    /// Allocates a heap block for a caller, between guards if it is large and they can be had.
    pub(crate) fn alloc_object(
        &mut self,
        size: usize,
        align: usize,
    ) -> Result<Option<*mut u8>, Corruption> {
        if !self.guards().is_some_and(|guards| guards.is_large(size)) {
            return self.alloc(size, align, Owner::Caller);
        }
        if let Some(object) = self.alloc_between(size, align)? {
            return Ok(Some(object));
        }
        let object = self.alloc(size, align, Owner::Caller)?;
        if object.is_some()
            && let Some(guards) = &mut self.guards
        {
            guards.failures += 1;
        }
        Ok(object)
    }

    /// Allocates a heap block between guards; `None` if there is no room for both.
    fn alloc_between(&mut self, size: usize, align: usize) -> Result<Option<*mut u8>, Corruption> {
        let (granule, align) = (self.granule().bytes(), align.max(self.granule().bytes()));
        let Some(page) = self.guards().map(Guards::page) else { return Ok(None) };
        let Some(bytes) = bytes_between(size, align, page) else { return Ok(None) };
        // Behind the second guard, the next tag is in front of an aligned payload.
        let Some(raw) = self.alloc(bytes + granule - WORD, page, Owner::Pool)? else {
            return Ok(None);
        };
        let object = self.place_between(raw, size, align);
        if object.is_none() {
            self.free_own(raw);
        }
        Ok(object)
    }

    /// Cuts a block of the pool's own into what a large object needs. `None`, and nothing changes: it is in
    /// a region without guards.
    ///
    /// ```text
    /// [ raw                                                ]
    /// [ rest, if any ][ front: guard ][ object     | guard ]
    /// ```
    fn place_between(&mut self, raw: *mut u8, size: usize, align: usize) -> Option<*mut u8> {
        let guards = self.guards().filter(|guards| guards.covers(raw.addr()))?;
        let region = self.region_of(raw.addr())?.region();
        let (block, tag) = self.heap.live(raw, region, Owner::Pool).ok()?;
        let behind = guards.page_before(block.addr() + tag.size());
        let object = raw.with_addr(round_down(behind - size, align));
        let before = raw.with_addr(guards.page_before(object.addr() - WORD));
        let (mut front, mut front_tag) = (block, tag);
        if before != raw {
            self.heap.split_own(block, tag, before, Owner::Pool);
            self.free_own(raw);
            front = Block::of_payload(before);
            front_tag = front.tag(self.heap.codec())?;
        }
        self.heap.split_own(front, front_tag, object, Owner::Caller);
        self.put_up(Sides { front, guards: [before.addr(), behind] });
        Some(object)
    }

    /// Bytes that a block has for its owner.
    pub(crate) fn room(&self, block: Block, tag: Tag) -> usize {
        let start = block.payload().addr();
        let guards = self.guards();
        let guard = guards.and_then(|guards| guards.behind(start, block.addr() + tag.size()));
        guard.unwrap_or(block.addr() + tag.size()) - start
    }

    /// What lies on the sides of a caller's block, if it lies between guards; the block that rests or is
    /// in use is verified.
    pub(super) fn sides(&self, block: Block, tag: Tag) -> Result<Option<Sides>, Corruption> {
        let Some(guards) = self.guards() else { return Ok(None) };
        let end = block.addr() + tag.size();
        let Some(behind) = guards.behind(block.payload().addr(), end) else { return Ok(None) };
        let before = guards.page_before(block.addr());
        let front = block.with_addr(before - WORD);
        let broken = Corruption { addr: front.addr(), kind: CorruptionKind::BlockTag };
        let size = block.addr() - front.addr();
        // The word is no guard's: it lies in front of one, and guards do not touch.
        if !guards.is_guard(before) || guards.is_guard(front.addr()) {
            return Err(broken);
        }
        match front.tag(self.heap.codec()) {
            Some(tag) if tag.is_internal() && tag.size() == size => {
                Ok(Some(Sides { front, guards: [before, behind] }))
            }
            _ => Err(broken),
        }
    }

    /// Checks the sides of a block in use, or that waits.
    pub(crate) fn check_sides(&self, block: Block, tag: Tag) -> Result<(), Corruption> {
        self.sides(block, tag).map(drop)
    }

    /// Puts up the guards at a block's sides.
    pub(super) fn put_up(&mut self, sides: Sides) {
        sides.guards.into_iter().for_each(|guard| self.set_guard(guard));
    }

    /// Takes the guards at a block's sides down; `false`, and they stay, if the system refuses.
    pub(super) fn take_down(&mut self, sides: Sides) -> bool {
        let [before, behind] = sides.guards;
        if !self.unset_guard(before) {
            return false;
        }
        let both = self.unset_guard(behind);
        if !both {
            self.set_guard(before);
        }
        both
    }

    /// Makes a page of the first region a guard: one at a slab's end, or in a block of its own.
    pub(super) fn set_guard(&mut self, start: usize) {
        if let Some(guards) = &mut self.guards {
            // SAFETY: such a page is nobody's, and nothing reads what is a guard.
            unsafe { guards.set(start) };
        }
    }

    /// Starts to count anew how often a guard was done without.
    pub(crate) fn forget_guard_failures(&mut self) {
        if let Some(guards) = &mut self.guards {
            guards.failures = 0;
        }
    }

    /// Makes a guard free memory again.
    pub(super) fn unset_guard(&mut self, start: usize) -> bool {
        let Some(guards) = &mut self.guards else { return true };
        // SAFETY: callers name guards that they have set.
        let unset = unsafe { guards.unset(start) };
        let page = guards.page();
        if unset && let Some(entry) = self.region_of(start) {
            let page_start = entry.region().at(start);
            // SAFETY: a page that is nobody's.
            unsafe { self.harden.fill_free(page_start, page, page) };
        }
        unset
    }
}

/// Bytes of two guards and what lies between them, from a page's start on.
fn bytes_between(size: usize, align: usize, page: usize) -> Option<usize> {
    // The start of a page is aligned to no more than a page.
    let slack = if align > page { align } else { 0 };
    let object = round_up(size, align.min(page))?.checked_add(slack)?;
    round_up(object.checked_add(WORD)?, page)?.checked_add(2 * page)
}
