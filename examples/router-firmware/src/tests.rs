//! The router without a board, where time and configuration are the test's.

use std::{boxed::Box, vec, vec::Vec};

use core::mem::MaybeUninit;
use smoltcp::wire::{
    ArpOperation, ArpRepr, ETHERNET_HEADER_LEN, EthernetAddress, EthernetFrame, EthernetProtocol,
    Icmpv4Message, Icmpv4Packet, IpProtocol, Ipv4Address, Ipv4Packet,
};

use crate::{
    PortId,
    arp::{self, ARP_FRAME},
    config::{
        ARP_LIFETIME, ARP_RETRY, ASKED, FLOW_IDLE, FLOWS, LAN, NEIGHBOURS, PORT, PORTS,
        RECEIVE_BUFFERS, REGION, ROUTES, WAITING, WAN,
    },
    counters::Cause,
    frame::Frame,
    memory::{self, Buffers, Cache, Memory},
    router::Router,
};

const CLIENT: Ipv4Address = Ipv4Address::new(192, 168, 10, 11);
const ROUTER: [EthernetAddress; PORTS] =
    [EthernetAddress([2, 0, 0, 0, 0, 1]), EthernetAddress([2, 0, 0, 0, 0, 2])];

/// A router in memory of its own.
struct Bench {
    router: Router,
    memory: &'static Memory,
    buffers: Buffers,
    cache: Cache,
}

fn host(number: u8) -> (Ipv4Address, EthernetAddress) {
    (Ipv4Address::new(10, 20, 0, number), EthernetAddress([2, 0, 0, 0, 9, number]))
}

impl Bench {
    fn new() -> Self {
        Self::with_mtu(1500)
    }

    /// A router whose second port has this MTU.
    fn with_mtu(mtu: usize) -> Self {
        let memory: &'static Memory = Box::leak(Box::new(Memory::empty()));
        // Pointers of the host are twice as large.
        let region = vec![MaybeUninit::uninit(); 2 * REGION].leak();
        let buffers = memory::start(memory, region, 0).unwrap();
        let mut ports = PORT.into_iter().zip(ROUTER).collect::<Vec<_>>();
        ports[WAN].0.mtu = mtu;
        let ports = ports.try_into().unwrap();
        let router = Router::new(ports, ROUTES, buffers, memory).unwrap();
        Self { router, memory, buffers, cache: memory.local_cache() }
    }

    fn receive(&mut self, port: PortId, bytes: &[u8], now: u64) {
        let class = self.buffers.received[port];
        let frame = Frame::for_receiving(port, class, &mut self.cache, self.memory);
        let mut frame = frame.unwrap();
        frame.set_len(bytes.len());
        frame.copy_from_slice(bytes);
        self.router.receive(port, frame, now);
        assert!(self.router.counters.is_balanced());
    }

    /// A packet from the client to `destination`, on UDP port `port`.
    fn send(&mut self, destination: Ipv4Address, port: u16, len: usize, whole: bool, now: u64) {
        let mut bytes = vec![0; ETHERNET_HEADER_LEN + len];
        let mut ethernet = EthernetFrame::new_unchecked(&mut bytes[..]);
        ethernet.set_dst_addr(ROUTER[LAN]);
        ethernet.set_src_addr(EthernetAddress([2, 0, 0, 0, 7, 7]));
        ethernet.set_ethertype(EthernetProtocol::Ipv4);
        let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
        packet.set_version(4);
        packet.set_header_len(20);
        packet.set_total_len(len as u16);
        packet.set_hop_limit(9);
        packet.set_next_header(IpProtocol::Udp);
        packet.set_dont_frag(whole);
        packet.set_src_addr(CLIENT);
        packet.set_dst_addr(destination);
        packet.fill_checksum();
        packet.payload_mut()[..2].copy_from_slice(&port.to_be_bytes());
        self.receive(LAN, &bytes, now);
    }

    /// A neighbour on the second port says who it is.
    fn introduce(&mut self, number: u8, operation: ArpOperation, now: u64) {
        let (address, ethernet) = host(number);
        let packet = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: ethernet,
            source_protocol_addr: address,
            target_hardware_addr: ROUTER[WAN],
            target_protocol_addr: PORT[WAN].cidr.address(),
        };
        let mut bytes = [0; ARP_FRAME];
        arp::emit(&mut bytes, &packet, ethernet, ROUTER[WAN]);
        self.receive(WAN, &bytes, now);
    }

    fn sent(&mut self, port: PortId) -> Vec<Vec<u8>> {
        core::iter::from_fn(|| self.router.next_to_send(port)).map(|frame| frame.to_vec()).collect()
    }

    fn dropped(&self, cause: Cause) -> u64 {
        self.router.counters.ports[LAN].dropped[cause as usize]
    }

    fn live_buffers(&self) -> usize {
        let classes = self.buffers.received.iter().chain([&self.buffers.own]);
        classes.map(|&class| self.memory.class_stats(class).unwrap().live).sum()
    }
}

#[test]
fn what_is_too_long_for_the_network_ahead_is_refused_and_its_sender_told_the_length() {
    let mut bench = Bench::with_mtu(1400);
    bench.introduce(80, ArpOperation::Request, 0);
    bench.send(host(80).0, 1, 1400, true, 0);
    bench.send(host(80).0, 1, 1401, false, 0);
    bench.send(host(80).0, 1, 1401, true, 0);
    let [error] = &bench.sent(LAN)[..] else { panic!("one of them may not be fragmented") };
    let packet = Ipv4Packet::new_checked(&error[ETHERNET_HEADER_LEN..]).unwrap();
    let icmp = Icmpv4Packet::new_checked(packet.payload()).unwrap();
    assert!(packet.verify_checksum() && icmp.verify_checksum());
    assert_eq!((icmp.msg_type(), icmp.msg_code()), (Icmpv4Message::DstUnreachable, 4));
    assert_eq!(icmp.echo_seq_no(), 1400, "the next hop's MTU");
    assert_eq!((bench.sent(WAN).len(), bench.dropped(Cause::TooBig)), (2, 2));
}

#[test]
fn a_silent_neighbour_is_asked_three_times_and_given_up() {
    let mut bench = Bench::new();
    (0..=WAITING).for_each(|_| bench.send(host(66).0, 1, 100, true, 0));
    assert_eq!((bench.sent(WAN).len(), bench.dropped(Cause::QueueFull)), (1, 1));
    for now in [ARP_RETRY - 1, ARP_RETRY, ARP_RETRY + 1, 2 * ARP_RETRY] {
        bench.router.tick(now);
    }
    assert_eq!((bench.sent(WAN).len(), bench.sent(LAN).len()), (2, 0));
    bench.router.tick(3 * ARP_RETRY);
    assert_eq!((bench.sent(WAN).len(), bench.sent(LAN).len()), (0, WAITING));
    assert_eq!(bench.dropped(Cause::Unresolved), WAITING as u64);
    assert!(bench.router.counters.is_balanced());
    assert_eq!((bench.router.neighbours.iter().count(), bench.live_buffers()), (0, 0));
}

#[test]
fn a_known_neighbour_is_asked_for_again_after_its_time() {
    let mut bench = Bench::new();
    bench.introduce(80, ArpOperation::Request, 0);
    bench.router.tick(ARP_LIFETIME - 1);
    bench.send(host(80).0, 1, 100, true, ARP_LIFETIME - 1);
    assert_eq!(bench.router.counters.ports[LAN].forwarded, 1);
    bench.router.tick(ARP_LIFETIME);
    bench.send(host(80).0, 1, 100, true, ARP_LIFETIME);
    assert_eq!(bench.router.counters.ports[LAN].held, 1);
    bench.introduce(80, ArpOperation::Reply, ARP_LIFETIME + 1);
    assert_eq!(bench.router.counters.ports[LAN].forwarded, 2);
}

#[test]
fn packets_for_strangers_leave_known_neighbours_their_places() {
    let mut bench = Bench::new();
    for number in 0..NEIGHBOURS as u8 {
        bench.introduce(100 + number, ArpOperation::Request, number.into());
    }
    for number in 0..NEIGHBOURS as u8 {
        bench.send(host(200 + number).0, 1, 100, true, 100);
    }
    assert_eq!(bench.dropped(Cause::NeighboursFull), (NEIGHBOURS - ASKED) as u64);
    // Those that were heard last are still there.
    for number in ASKED..NEIGHBOURS {
        bench.send(host(100 + number as u8).0, 1, 100, true, 100);
    }
    assert_eq!(bench.router.counters.ports[LAN].forwarded, (NEIGHBOURS - ASKED) as u64);
}

#[test]
fn who_only_overhears_an_answer_does_not_learn_it() {
    let mut bench = Bench::new();
    bench.introduce(80, ArpOperation::Reply, 0);
    assert_eq!(bench.router.neighbours.iter().count(), 0);
    let forged = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: host(6).1,
        source_protocol_addr: PORT[WAN].cidr.address(),
        target_hardware_addr: ROUTER[WAN],
        target_protocol_addr: PORT[WAN].cidr.address(),
    };
    let mut bytes = [0; ARP_FRAME];
    arp::emit(&mut bytes, &forged, host(6).1, ROUTER[WAN]);
    bench.receive(WAN, &bytes, 0);
    assert_eq!(bench.router.counters.ports[WAN].dropped[Cause::BadArp as usize], 1);
}

#[test]
fn flows_are_counted_forgotten_and_make_room() {
    let mut bench = Bench::new();
    bench.introduce(80, ArpOperation::Request, 0);
    let count = |bench: &mut Bench, first: u16, now| {
        for port in first..first + FLOWS as u16 {
            bench.send(host(80).0, port, 100, true, now);
            bench.sent(WAN);
        }
    };
    (0..3).for_each(|now| count(&mut bench, 0, now));
    assert_eq!(bench.router.flows.iter().count(), FLOWS);
    assert!(bench.router.flows.iter().all(|flow| (flow.packets, flow.bytes) == (3, 300)));
    // More flows than there is room for: the oldest go.
    count(&mut bench, 1000, 9);
    assert_eq!(bench.router.flows.iter().count(), FLOWS);
    let new = bench.router.flows.iter().filter(|flow| flow.key.ports.0 >= 1000).count();
    assert!(new > FLOWS / 2, "{new}");
    bench.router.flows.tick(2 + FLOW_IDLE);
    assert_eq!(bench.router.flows.iter().count(), new);
    bench.router.flows.forget();
    assert_eq!(bench.router.flows.iter().count(), 0);
    bench.memory.validate().unwrap();
}

#[test]
fn a_port_that_has_no_buffers_left_takes_none_of_the_others() {
    let mut bench = Bench::new();
    let class = bench.buffers.received[LAN];
    let all: Vec<_> = core::iter::from_fn(|| {
        Frame::for_receiving(LAN, class, &mut bench.cache, bench.memory).ok()
    })
    .collect();
    assert_eq!(all.len(), RECEIVE_BUFFERS);
    bench.introduce(80, ArpOperation::Request, 0);
    assert_eq!(bench.sent(WAN).len(), 1);
    drop(all);
    bench.send(host(80).0, 1, 100, true, 0);
    assert_eq!(bench.sent(WAN).len(), 1);
    assert_eq!(bench.live_buffers(), 0);
}
