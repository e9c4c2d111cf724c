//! Neighbours: who has which Ethernet address, and the frames that wait to hear it.

use core::fmt;

use heapless::{Deque, Vec};
use libmempool::ConfigError;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, ETHERNET_HEADER_LEN, EthernetAddress, EthernetFrame,
    EthernetProtocol, Ipv4Address,
};

use crate::{
    Millis, PortId,
    config::{ARP_LIFETIME, ARP_RETRY, ARP_TRIES, ASKED, NEIGHBOURS, WAITING},
    counters::Cause,
    frame::Frame,
    memory::{self, Memory, Objects, Owned},
};

/// Frames that wait for a neighbour.
pub type Waiting = Deque<Frame, WAITING>;

/// Bytes of a frame with an ARP packet.
pub const ARP_FRAME: usize = ETHERNET_HEADER_LEN + 28;

/// A host, or another router, on one of the networks.
pub struct Neighbour {
    /// Where.
    pub port: PortId,
    /// Its address.
    pub address: Ipv4Address,
    /// What is known of it.
    pub state: State,
    /// When it last said so, or was last asked.
    since: Millis,
    waiting: Waiting,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing yet; it was asked this often.
    Asked(u8),
    /// Its Ethernet address.
    Known(EthernetAddress),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(times) => write!(f, "asked {times} times"),
            Self::Known(ethernet) => ethernet.fmt(f),
        }
    }
}

/// What to do with a frame for a neighbour.
pub enum Way {
    /// Send it there.
    Known(EthernetAddress, Frame),
    /// Nothing: it waits.
    Held,
    /// It waits; ask for the neighbour.
    HeldAsk,
    /// Drop it.
    Refused(Cause),
}

/// What time brought about.
pub enum Due {
    /// Ask for this neighbour again.
    Ask(PortId, Ipv4Address),
    /// It does not answer, and is forgotten; what waits for it waits in vain.
    GiveUp(Owned<Neighbour>),
}

/// The neighbours there are, each in a slot of the pool.
pub struct Neighbours {
    objects: Objects<Neighbour>,
    all: Vec<Owned<Neighbour>, NEIGHBOURS>,
}

impl Neighbours {
    /// An empty table.
    ///
    /// # Errors
    /// [`ConfigError`] if it does not fit the memory.
    pub fn new(memory: &'static Memory) -> Result<Self, ConfigError> {
        Ok(Self { objects: memory::objects(memory, NEIGHBOURS)?, all: Vec::new() })
    }

    /// The way of a frame to a neighbour.
    pub fn way(&mut self, port: PortId, address: Ipv4Address, frame: Frame, now: Millis) -> Way {
        if let Some(neighbour) = self.find(port, address) {
            return match neighbour.state {
                State::Known(ethernet) => Way::Known(ethernet, frame),
                State::Asked(_) => match neighbour.waiting.push_back(frame) {
                    Ok(()) => Way::Held,
                    Err(_) => Way::Refused(Cause::QueueFull),
                },
            };
        }
        if self.iter().filter(|neighbour| !neighbour.is_known()).count() >= ASKED {
            return Way::Refused(Cause::NeighboursFull);
        }
        let state = State::Asked(1);
        let mut neighbour = Neighbour { port, address, state, since: now, waiting: Deque::new() };
        let pushed = neighbour.waiting.push_back(frame);
        debug_assert!(pushed.is_ok(), "a new queue is empty");
        if self.add(neighbour) { Way::HeldAsk } else { Way::Refused(Cause::NeighboursFull) }
    }

    /// A neighbour has said what its address is. Who is not in the table is added if `new` says so.
    /// Returns the frames that waited for this.
    pub fn learn(
        &mut self,
        port: PortId,
        address: Ipv4Address,
        ethernet: EthernetAddress,
        new: bool,
        now: Millis,
    ) -> Waiting {
        let state = State::Known(ethernet);
        if let Some(neighbour) = self.find(port, address) {
            neighbour.state = state;
            neighbour.since = now;
            return core::mem::take(&mut neighbour.waiting);
        }
        if new {
            self.add(Neighbour { port, address, state, since: now, waiting: Deque::new() });
        }
        Deque::new()
    }

    /// One thing that is due, until nothing is.
    pub fn due(&mut self, now: Millis) -> Option<Due> {
        self.all.iter().position(|neighbour| neighbour.is_silent(now)).map(|gone| {
            let neighbour = &mut self.all[gone];
            match neighbour.state {
                State::Asked(times) if times < ARP_TRIES => {
                    neighbour.state = State::Asked(times + 1);
                    neighbour.since = now;
                    Due::Ask(neighbour.port, neighbour.address)
                }
                _ => Due::GiveUp(self.all.swap_remove(gone)),
            }
        })
    }

    /// Forgets those that are known; those that are asked for stay.
    pub fn forget(&mut self) {
        self.all.retain(|neighbour| matches!(neighbour.state, State::Asked(_)));
    }

    /// All neighbours.
    pub fn iter(&self) -> impl Iterator<Item = &Neighbour> {
        self.all.iter().map(|neighbour| &**neighbour)
    }

    fn find(&mut self, port: PortId, address: Ipv4Address) -> Option<&mut Neighbour> {
        self.all
            .iter_mut()
            .map(|neighbour| &mut **neighbour)
            .find(|neighbour| neighbour.address == address && neighbour.port == port)
    }

    /// Adds a neighbour, if need be in place of the known one that has been silent longest. False if
    /// there is no such place.
    fn add(&mut self, neighbour: Neighbour) -> bool {
        if self.all.is_full() {
            let known = self.all.iter().enumerate().filter(|(_, one)| one.is_known());
            let Some((oldest, _)) = known.min_by_key(|(_, one)| one.since) else { return false };
            self.all.swap_remove(oldest);
        }
        let owned = self.objects.insert(neighbour);
        owned.is_ok_and(|owned| self.all.push(owned).is_ok())
    }
}

impl Neighbour {
    fn is_known(&self) -> bool {
        matches!(self.state, State::Known(_))
    }

    /// Whether it has not been heard of for too long.
    fn is_silent(&self, now: Millis) -> bool {
        let patience = if self.is_known() { ARP_LIFETIME } else { ARP_RETRY };
        now >= self.since + patience
    }

    /// How many frames wait for it.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The next frame that waits for it.
    pub fn next_waiting(&mut self) -> Option<Frame> {
        self.waiting.pop_front()
    }
}

/// Writes an ARP packet into a frame of [`ARP_FRAME`] bytes.
pub fn emit(frame: &mut [u8], packet: &ArpRepr, from: EthernetAddress, to: EthernetAddress) {
    let mut ethernet = EthernetFrame::new_unchecked(frame);
    ethernet.set_src_addr(from);
    ethernet.set_dst_addr(to);
    ethernet.set_ethertype(EthernetProtocol::Arp);
    packet.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
}

/// "Who has `target`? Tell `address`."
pub fn request(ethernet: EthernetAddress, address: Ipv4Address, target: Ipv4Address) -> ArpRepr {
    ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: ethernet,
        source_protocol_addr: address,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    }
}
