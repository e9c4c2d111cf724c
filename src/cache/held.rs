//! What callers hold.

use core::alloc::Layout;

use crate::{error::FreeError, harden::Harden, slab::Store, units::WORD};

/// What a live pointer holds.
pub(super) struct Held {
    /// Bytes that the pool has for it there.
    pub(super) room: usize,
    /// The largest object that can be there.
    pub(super) limit: usize,
    /// Usable bytes.
    pub(super) usable: usize,
    /// A slot of a class, not a heap block.
    pub(super) is_slot: bool,
}

impl Held {
    pub(super) const fn slot(room: usize, limit: usize, usable: usize) -> Self {
        Self { room, limit, usable, is_slot: true }
    }

    pub(super) const fn block(room: usize, limit: usize, usable: usize) -> Self {
        Self { room, limit, usable, is_slot: false }
    }

    /// Whether the object, at an address, can be one of this layout.
    pub(super) fn can_be(
        &self,
        harden: Harden,
        addr: usize,
        layout: Layout,
    ) -> Result<(), FreeError> {
        let (size, align) = (layout.size(), layout.align());
        let is_exact = harden.is_exact(self.room, self.usable);
        if size == 0 || size > self.usable || (is_exact && size != self.usable) {
            return Err(FreeError::WrongSize { addr, size: self.usable });
        }
        if addr & (align - 1) != 0 {
            return Err(FreeError::WrongAlign { addr, align });
        }
        Ok(())
    }

    /// The same of a block of the heap, which leaves no more than its smallest block at an object's end,
    /// but where flags have it keep the room of what has shrunk, or lie between guards.
    pub(super) fn can_be_in(
        &self,
        store: &Store,
        addr: usize,
        layout: Layout,
    ) -> Result<(), FreeError> {
        self.can_be(store.harden, addr, layout)?;
        let heap = store.heap();
        let is_cut = |need| self.room + WORD < need + heap.min_block();
        let keeps_room = !store.harden.is_off() || store.guards().is_some();
        if keeps_room || heap.block_size(layout.size()).is_some_and(is_cut) {
            return Ok(());
        }
        Err(FreeError::WrongSize { addr, size: self.usable })
    }
}
