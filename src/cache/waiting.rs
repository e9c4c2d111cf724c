#![allow(unsafe_code)] // looks at the memory of slots that nobody has
//! Slots that wait in a cache's quarantine, already what the flags make of free memory.

use crate::{
    checksum::Checksum,
    config::ClassId,
    error::{Corruption, CorruptionKind},
    harden::Harden,
    quarantine::Waits,
    slab::{SlotRef, SlotState},
    units::to_usize,
};

/// A slot that waits, marked cached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitingSlot {
    at: SlotRef,
    /// Bytes of the slot.
    room: u32,
    pub(crate) class: ClassId,
    /// A checksum of the others.
    check: u16,
}

impl Waits for WaitingSlot {
    #[inline]
    fn bytes(&self) -> usize {
        to_usize(self.room)
    }
}

impl WaitingSlot {
    pub(crate) fn new(at: SlotRef, room: u32, class: ClassId) -> Self {
        let slot = Self { at, room, class, check: 0 };
        Self { check: slot.sum(), ..slot }
    }

    fn sum(&self) -> u16 {
        let sum = Checksum::NONE.add_addr(self.at.start).add(self.at.state.addr());
        sum.add_pair(self.room, u32::from(self.class.0)).short()
    }

    /// The slot, if nobody has written to it while it waited; if somebody has, it is marked.
    #[inline]
    pub(crate) fn end(self, harden: Harden) -> Result<SlotRef, Corruption> {
        if self.check != self.sum() {
            let addr = self.at.start.addr();
            return Err(Corruption { addr, kind: CorruptionKind::Magazine });
        }
        check_free(harden, self.at, to_usize(self.room))?;
        Ok(self.at)
    }
}

/// Whether a slot that nobody has was left alone since it was freed; if not, it is marked.
#[inline]
pub(crate) fn check_free(harden: Harden, slot: SlotRef, room: usize) -> Result<(), Corruption> {
    // SAFETY: the slot is nobody's, and that long.
    let checked = unsafe { harden.check_free(slot.start, room, |_| false) };
    checked.inspect_err(|_| slot.state.store(SlotState::Damaged))
}
