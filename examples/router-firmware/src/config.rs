//! What this router is configured as: its ports, its routes, and how much it keeps of what. The
//! memory follows from these numbers.

use smoltcp::wire::{Ipv4Address, Ipv4Cidr};

use crate::{
    Millis, PortId,
    routes::{Route, Via},
};

/// Network cards.
pub const PORTS: usize = 2;

/// The port to the local network.
pub const LAN: PortId = 0;

/// The port to the rest of the world.
pub const WAN: PortId = 1;

/// A port's name, its address and network, and the largest packet its network takes.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// For people.
    pub name: &'static str,
    /// The router's address there, and the network that is reached directly.
    pub cidr: Ipv4Cidr,
    /// The longest IP packet that may be sent.
    pub mtu: usize,
}

/// The ports.
pub const PORT: [Port; PORTS] = [
    Port { name: "lan", cidr: Ipv4Cidr::new(Ipv4Address::new(192, 168, 10, 1), 24), mtu: 1500 },
    Port { name: "wan", cidr: Ipv4Cidr::new(Ipv4Address::new(10, 20, 0, 1), 24), mtu: 1500 },
];

const fn to(a: [u8; 4], prefix: u8, via: Via) -> Route {
    Route { to: Ipv4Cidr::new(Ipv4Address::new(a[0], a[1], a[2], a[3]), prefix), via }
}

/// Static routes, besides the networks of the ports. Their order does not matter.
pub const ROUTES: &[Route] = &[
    to([0, 0, 0, 0], 0, Via::Gateway(WAN, Ipv4Address::new(10, 20, 0, 254))),
    to([172, 16, 0, 0], 12, Via::Gateway(LAN, Ipv4Address::new(192, 168, 10, 2))),
    to([172, 16, 99, 0], 24, Via::Gateway(WAN, Ipv4Address::new(10, 20, 0, 99))),
    // For benchmarks of other people's networks; nothing of it leaves this one.
    to([198, 18, 0, 0], 15, Via::Nowhere),
];

/// The static region: everything the router keeps lies in it.
pub const REGION: usize = 304 << 10;

/// Buffers for what each port receives: set aside, and not one more. A port that is flooded
/// cannot take the other one's. A ring of them is posted, up to two rings are being sent; the rest
/// may wait for neighbours.
pub const RECEIVE_BUFFERS: usize = 64;

/// Buffers for what the router says by itself: ARP requests and ICMP errors.
pub const OWN_BUFFERS: usize = 16;

/// Descriptors of a network card's queue, one buffer each.
pub const RING: usize = 16;

/// Neighbours that are known or asked for at a time.
pub const NEIGHBOURS: usize = 16;

/// Of these, neighbours that are asked for: who floods the router with packets for nobody takes no
/// more places than this from those that are there.
pub const ASKED: usize = NEIGHBOURS / 2;

/// Frames that wait for one neighbour's answer.
pub const WAITING: usize = 8;

/// Between two ARP requests for one neighbour.
pub const ARP_RETRY: Millis = 1000;

/// Requests before a neighbour counts as not there.
pub const ARP_TRIES: u8 = 3;

/// After this time a neighbour is asked for again.
pub const ARP_LIFETIME: Millis = 60_000;

/// Flows that are counted at a time.
pub const FLOWS: usize = 128;

/// A flow without a packet for this long is forgotten.
pub const FLOW_IDLE: Millis = 30_000;

/// Between two lines of statistics.
pub const REPORT_EVERY: Millis = 10_000;
