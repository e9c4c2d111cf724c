//! The packet buffer: one object of fixed size, as a network driver lays it out.
//!
//! ```text
//! |<---------------------- BUFFER_SIZE ----------------------->|
//! [ Control | HEADROOM | frame, up to MAX_FRAME     | TAILROOM ]
//! ```
//!
//! The tunnel puts its headers into the headroom and its tag into the tailroom, so the frame never
//! moves and never needs a second buffer.
#![expect(unsafe_code, reason = "a packet reads and writes a raw buffer it owns")]

use std::ptr::{self, NonNull};
use std::slice;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::headers::Headers;

/// Size of every packet buffer.
pub const BUFFER_SIZE: usize = 2048;
/// Alignment that a packet buffer needs.
pub const BUFFER_ALIGN: usize = align_of::<Control>();
/// Room before a received frame.
const HEADROOM: usize = 64;
/// Room after the longest received frame.
const TAILROOM: usize = 32;
/// The longest frame that a buffer takes.
pub const MAX_FRAME: usize = BUFFER_SIZE - size_of::<Control>() - HEADROOM - TAILROOM;

/// Packets move between stages in bursts of up to this many.
pub const BURST: usize = 32;
/// Up to [`BURST`] packets, owned.
pub type Burst = ArrayVec<Packet, BURST>;

const _: () = assert!(MAX_FRAME >= 1518, "a full Ethernet frame fits");

/// Head of a buffer: what the stages know of the packet.
struct Control {
    timestamp: Duration,
    headers: Option<Headers>,
    /// Offset of the frame in the buffer, and its length.
    start: usize,
    len: usize,
}

/// An owned packet buffer.
///
/// Invariants:
/// 1. It points to `BUFFER_SIZE` bytes, aligned to `BUFFER_ALIGN`, that nobody else uses.
/// 2. The `Control` at its head is initialised, and so are the bytes of the frame it describes,
///    which lies behind the control block and inside the buffer.
///
/// There is no `Drop`: where a buffer came from is known to the stage that holds it, which returns
/// whole bursts (`PacketCache::free_burst`). A packet that is forgotten is a leak, and the report
/// at the end of the run says so.
#[derive(Debug)]
#[repr(transparent)]
pub struct Packet(NonNull<u8>);

// SAFETY: a packet is the only user of its buffer (invariant 1), whatever thread it is on.
unsafe impl Send for Packet {}

impl Packet {
    /// Takes a buffer over, holding an empty frame.
    ///
    /// # Safety
    /// Invariant 1 holds for `buffer` until [`Packet::into_raw`].
    pub unsafe fn from_raw(buffer: NonNull<u8>) -> Self {
        let start = size_of::<Control>() + HEADROOM;
        let control = Control { timestamp: Duration::ZERO, headers: None, start, len: 0 };
        // SAFETY: the caller vouches for size, alignment and exclusive use.
        unsafe { buffer.cast::<Control>().write(control) };
        Self(buffer)
    }

    /// Gives the buffer up, to be freed.
    pub fn into_raw(self) -> NonNull<u8> {
        self.0
    }

    /// Where the buffer lies.
    pub fn address(&self) -> usize {
        self.0.addr().get()
    }

    /// Copies a received frame of up to [`MAX_FRAME`] bytes in.
    pub fn receive(&mut self, frame: &[u8], timestamp: Duration) {
        let start = size_of::<Control>() + HEADROOM;
        *self.control_mut() = Control { timestamp, headers: None, start, len: 0 };
        self.append(frame);
    }

    /// The frame.
    pub fn frame(&self) -> &[u8] {
        let (start, len) = (self.control().start, self.control().len);
        // SAFETY: the frame lies in the buffer (invariant 2).
        let frame = unsafe { self.0.add(start) };
        // SAFETY: it is initialised (invariant 2) and borrowed as `self` is (invariant 1).
        unsafe { slice::from_raw_parts(frame.as_ptr(), len) }
    }

    /// The frame, to change in place.
    pub fn frame_mut(&mut self) -> &mut [u8] {
        let (start, len) = (self.control().start, self.control().len);
        // SAFETY: the frame lies in the buffer (invariant 2).
        let frame = unsafe { self.0.add(start) };
        // SAFETY: it is initialised (invariant 2) and borrowed as `self` is (invariant 1).
        unsafe { slice::from_raw_parts_mut(frame.as_ptr(), len) }
    }

    /// Puts bytes before the frame.
    ///
    /// # Panics
    /// If the headroom is used up: the longest tunnel header fits by construction.
    pub fn prepend(&mut self, bytes: &[u8]) {
        let room = self.control().start - size_of::<Control>();
        assert!(bytes.len() <= room, "headroom exhausted");
        let start = self.control().start - bytes.len();
        self.write(start, bytes);
        let control = self.control_mut();
        control.start = start;
        control.len += bytes.len();
    }

    /// Puts bytes after the frame.
    ///
    /// # Panics
    /// If the buffer is full: `MAX_FRAME` bounds what is received, the tailroom fits the tunnel's.
    pub fn append(&mut self, bytes: &[u8]) {
        let end = self.control().start + self.control().len;
        assert!(bytes.len() <= BUFFER_SIZE - end, "buffer full");
        self.write(end, bytes);
        self.control_mut().len += bytes.len();
    }

    /// Drops the first `count` bytes of the frame.
    pub fn trim_front(&mut self, count: usize) {
        let control = self.control_mut();
        let count = count.min(control.len);
        control.start += count;
        control.len -= count;
    }

    /// Drops all but the first `len` bytes of the frame.
    pub fn truncate(&mut self, len: usize) {
        let control = self.control_mut();
        control.len = control.len.min(len);
    }

    /// When the frame was captured.
    pub fn timestamp(&self) -> Duration {
        self.control().timestamp
    }

    /// The IP headers of the received frame, if it is IP.
    pub fn headers(&self) -> Option<Headers> {
        self.control().headers
    }

    /// Notes what [`Headers::parse`] found.
    pub fn set_headers(&mut self, headers: Option<Headers>) {
        self.control_mut().headers = headers;
    }

    /// Copies `bytes` to `offset`; the callers have checked that they fit behind the control block.
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        debug_assert!(offset >= size_of::<Control>() && offset + bytes.len() <= BUFFER_SIZE);
        // SAFETY: the offset lies in the buffer.
        let target = unsafe { self.0.add(offset) };
        // SAFETY: the range lies in the buffer, which is ours alone (invariant 1).
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), target.as_ptr(), bytes.len()) };
    }

    fn control(&self) -> &Control {
        // SAFETY: initialised (invariant 2), borrowed as `self` is (invariant 1).
        unsafe { self.0.cast::<Control>().as_ref() }
    }

    fn control_mut(&mut self) -> &mut Control {
        // SAFETY: initialised (invariant 2), borrowed as `self` is (invariant 1).
        unsafe { self.0.cast::<Control>().as_mut() }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Memory for a packet of a test.
    #[repr(align(64))]
    pub struct Storage([u8; BUFFER_SIZE]);

    impl Storage {
        pub fn new() -> Box<Self> {
            Box::new(Self([0; BUFFER_SIZE]))
        }

        /// A packet that holds `frame`. One at a time.
        pub fn packet(&mut self, frame: &[u8]) -> Packet {
            // SAFETY: 2048 aligned bytes, and tests use the storage through one packet only.
            let mut packet = unsafe { Packet::from_raw(NonNull::from(&mut self.0).cast()) };
            packet.receive(frame, Duration::from_secs(7));
            packet
        }
    }

    #[test]
    fn a_frame_grows_at_both_ends_and_shrinks() {
        let mut storage = Storage::new();
        let mut packet = storage.packet(b"frame");
        packet.prepend(b"a ");
        packet.append(b" z");
        assert_eq!(packet.frame(), b"a frame z");
        packet.trim_front(2);
        packet.truncate(5);
        assert_eq!(packet.frame(), b"frame");
        packet.frame_mut()[0] = b'F';
        assert_eq!(packet.frame(), b"Frame");
        assert_eq!(packet.timestamp(), Duration::from_secs(7));
    }

    #[test]
    fn the_longest_frame_leaves_room_for_the_tunnel() {
        let mut storage = Storage::new();
        let mut packet = storage.packet(&[1; MAX_FRAME]);
        packet.prepend(&[2; HEADROOM]);
        packet.append(&[3; TAILROOM]);
        assert_eq!(packet.frame().len(), HEADROOM + MAX_FRAME + TAILROOM);
    }

    #[test]
    #[should_panic(expected = "buffer full")]
    fn nothing_is_written_beyond_the_buffer() {
        let mut storage = Storage::new();
        storage.packet(&[1; MAX_FRAME]).append(&[0; TAILROOM + 1]);
    }
}
