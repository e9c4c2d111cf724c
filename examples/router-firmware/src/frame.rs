//! A frame: an Ethernet frame in a buffer of the pool, with room in front for what the network
//! card wants to hear about it.

use core::{
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
};

use libmempool::{AllocError, ClassId};

use crate::{
    PortId,
    memory::{Cache, Memory},
};

/// Bytes in front of the frame: the header of a virtio network card.
pub const HEADROOM: usize = 12;

/// The longest frame: an Ethernet header and 1500 bytes.
pub const LONGEST: usize = 14 + 1500;

/// The longest frame of the router's own: an Ethernet header and an ICMP error.
pub const LONGEST_OWN: usize = 14 + 576;

/// The owner of one buffer. Dropping it gives the buffer back.
///
/// Invariants: `slot` is a live slot of `class` of the pool, of [`HEADROOM`] and `self.longest()`
/// initialised bytes (the region is filled when the pool starts), and this is its only owner; `len`
/// is at most `self.longest()`.
pub struct Frame {
    slot: NonNull<u8>,
    memory: &'static Memory,
    len: u16,
    class: ClassId,
    origin: Origin,
}

/// Where a frame's contents come from.
#[derive(Clone, Copy)]
enum Origin {
    /// This port.
    Port(u8),
    /// The router itself.
    Own,
}

impl Frame {
    /// A buffer to receive into, from the main loop's cache.
    ///
    /// # Errors
    /// [`AllocError`] if all of the port's buffers are in use.
    pub fn for_receiving(
        from: PortId,
        class: ClassId,
        cache: &mut Cache,
        memory: &'static Memory,
    ) -> Result<Self, AllocError> {
        let origin = Origin::Port(from as u8);
        Ok(Self { slot: cache.alloc_fixed(class)?, memory, len: 0, class, origin })
    }

    /// A frame of `len` bytes, all zero, for the router's own words.
    ///
    /// # Errors
    /// [`AllocError`] if all such buffers are in use, or none is as long.
    pub fn own(len: usize, class: ClassId, memory: &'static Memory) -> Result<Self, AllocError> {
        if len > LONGEST_OWN {
            return Err(AllocError::TooLarge { most: LONGEST_OWN });
        }
        let slot = memory.alloc_fixed(class)?;
        let mut frame = Self { slot, memory, len: 0, class, origin: Origin::Own };
        frame.buffer_mut().fill(0);
        frame.set_len(len);
        Ok(frame)
    }

    /// The port it came in at; `None` for the router's own.
    pub fn from(&self) -> Option<PortId> {
        match self.origin {
            Origin::Port(port) => Some(port.into()),
            Origin::Own => None,
        }
    }

    /// Bytes that it may have.
    fn longest(&self) -> usize {
        match self.origin {
            Origin::Port(_) => LONGEST,
            Origin::Own => LONGEST_OWN,
        }
    }

    /// Makes the frame `len` bytes long, or as long as its buffer allows.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.longest()) as u16;
    }

    /// The headroom and the frame: what a card transmits.
    pub fn with_headroom(&mut self) -> &mut [u8] {
        let len = HEADROOM + usize::from(self.len);
        &mut self.buffer_mut()[..len]
    }

    /// The whole buffer: what a card receives into.
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        let capacity = HEADROOM + self.longest();
        // SAFETY: the type's invariant; `&mut self` makes it exclusive.
        unsafe { slice::from_raw_parts_mut(self.slot.as_ptr(), capacity) }
    }

    /// Gives the buffer back by way of the main loop's cache.
    pub fn recycle(self, cache: &mut Cache) {
        let frame = core::mem::ManuallyDrop::new(self);
        // SAFETY: the type's invariant; the frame is gone.
        let freed = unsafe { cache.free_fixed(frame.class, frame.slot) };
        debug_assert!(freed.is_ok(), "{freed:?}");
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the type's invariant.
        unsafe { slice::from_raw_parts(self.slot.as_ptr().add(HEADROOM), self.len.into()) }
    }
}

impl DerefMut for Frame {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.with_headroom()[HEADROOM..]
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: the type's invariant; the frame is gone.
        let freed = unsafe { self.memory.free_fixed(self.class, self.slot) };
        debug_assert!(freed.is_ok(), "{freed:?}");
    }
}
