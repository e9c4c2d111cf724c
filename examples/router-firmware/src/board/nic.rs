//! A network card: a virtio device whose rings hold frames of the pool.

use core::ptr::NonNull;

use libmempool::ClassId;
use router::{
    PortId,
    config::RING,
    frame::{Frame, HEADROOM},
    memory::Cache,
};
use smoltcp::wire::EthernetAddress;
use virtio_drivers::{
    Error,
    device::net::VirtIONetRaw,
    transport::{DeviceType, Transport, mmio::MmioTransport},
};

use super::dma::PoolDma;
use crate::MEMORY;

/// The board's sockets for virtio devices are this far apart, from this address on.
const SOCKETS: usize = 0x1000_1000;
const SOCKET: usize = 0x1000;

/// A network card and the frames that it has in hand, by descriptor.
pub struct Nic {
    device: VirtIONetRaw<PoolDma, MmioTransport<'static>, RING>,
    port: PortId,
    class: ClassId,
    receiving: [Option<Frame>; RING],
    sending: [Option<Frame>; RING],
}

/// What a card has received.
pub enum Received {
    /// A frame.
    Frame(Frame),
    /// A frame that was dropped, for want of a buffer to take its place.
    NoBuffer,
}

impl Nic {
    /// The card in the socket of this number, its ring filled with buffers of `class`.
    ///
    /// # Errors
    /// [`Error`] if there is none, or the memory does not suffice.
    pub fn new(port: PortId, class: ClassId, cache: &mut Cache) -> Result<Self, Error> {
        let socket = core::ptr::with_exposed_provenance_mut(SOCKETS + port * SOCKET);
        let header = NonNull::new(socket).ok_or(Error::InvalidParam)?;
        // SAFETY: every socket is such a region, whether a device is in it or not, and each is
        // opened once.
        let transport = unsafe { MmioTransport::new(header, SOCKET) };
        let transport = transport.map_err(|_| Error::InvalidParam)?;
        if transport.device_type() != DeviceType::Network {
            return Err(Error::Unsupported);
        }
        let device = VirtIONetRaw::new(transport)?;
        // An old-style device has a shorter header than frames have room for.
        if device.fill_buffer_header(&mut [0; HEADROOM])? != HEADROOM {
            return Err(Error::Unsupported);
        }
        let (receiving, sending) = ([const { None }; RING], [const { None }; RING]);
        let mut nic = Self { device, port, class, receiving, sending };
        for _ in 0..RING {
            let frame = nic.new_frame(cache).ok_or(Error::DmaError)?;
            nic.post(frame);
        }
        Ok(nic)
    }

    /// The interrupt of the socket that a port's card is in.
    pub fn interrupt(port: PortId) -> u32 {
        1 + port as u32
    }

    /// The card's address.
    pub fn ethernet(&self) -> EthernetAddress {
        EthernetAddress(self.device.mac_address())
    }

    /// Has the device withdraw its interrupt.
    pub fn acknowledge(&mut self) {
        self.device.ack_interrupt();
    }

    /// The next frame that has come in. The ring stays full: a frame leaves it only if another
    /// buffer takes its place.
    pub fn receive(&mut self, cache: &mut Cache) -> Option<Received> {
        let token = self.device.poll_receive()?;
        let mut frame = self.receiving.get_mut(usize::from(token))?.take()?;
        // SAFETY: the buffer that was posted under this token.
        let received = unsafe { self.device.receive_complete(token, frame.buffer_mut()) };
        frame.set_len(received.map_or(0, |(_, len)| len));
        let (received, next) = match self.new_frame(cache) {
            Some(next) => (Received::Frame(frame), next),
            None => (Received::NoBuffer, frame),
        };
        self.post(next);
        Some(received)
    }

    /// Whether the ring has room for a frame to send.
    pub fn has_room(&self) -> bool {
        self.device.can_send()
    }

    /// Sends a frame; the ring has room.
    pub fn send(&mut self, mut frame: Frame) {
        let buffer = frame.with_headroom();
        let begun = self.device.fill_buffer_header(buffer).and_then(|_| {
            // SAFETY: the frame is kept in `sending`, where nobody touches it, until it is complete.
            unsafe { self.device.transmit_begin(buffer) }
        });
        debug_assert!(begun.is_ok(), "{begun:?}");
        if let Ok(token) = begun {
            self.sending[usize::from(token)] = Some(frame);
        }
    }

    /// Gives back the buffers of frames that have been sent.
    pub fn reclaim(&mut self, cache: &mut Cache) {
        while let Some(token) = self.device.poll_transmit() {
            let Some(sent) = self.sending.get_mut(usize::from(token)) else { return };
            let Some(mut frame) = sent.take() else { return };
            // SAFETY: the buffer that was sent under this token.
            let sent = unsafe { self.device.transmit_complete(token, frame.with_headroom()) };
            debug_assert!(sent.is_ok(), "{sent:?}");
            frame.recycle(cache);
        }
    }

    fn new_frame(&self, cache: &mut Cache) -> Option<Frame> {
        Frame::for_receiving(self.port, self.class, cache, &MEMORY).ok()
    }

    /// Hands a buffer to the device. There is room: at most `RING` are posted at a time.
    fn post(&mut self, mut frame: Frame) {
        // SAFETY: the frame is kept in `receiving`, where nobody touches it, until it is complete.
        let begun = unsafe { self.device.receive_begin(frame.buffer_mut()) };
        debug_assert!(begun.is_ok(), "{begun:?}");
        if let Ok(token) = begun {
            self.receiving[usize::from(token)] = Some(frame);
        }
    }
}
