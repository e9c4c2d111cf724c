//! The router: what happens to a frame, from the port it came in at to the one it leaves by.

use heapless::Deque;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, ETHERNET_HEADER_LEN, EthernetAddress, EthernetFrame,
    EthernetProtocol, Icmpv4DstUnreachable, IpProtocol, Ipv4Address,
};

use crate::{
    Millis, PortId,
    arp::{self, ARP_FRAME, Due, Neighbours, Way},
    config::{OWN_BUFFERS, PORTS, Port, RECEIVE_BUFFERS},
    counters::{Cause, Counters, Fate},
    flow::Flows,
    frame::Frame,
    icmp::{self, Complaint},
    ipv4::{self, Header},
    memory::{self, Buffers, Memory, StartError},
    routes::{Route, Routes},
};

/// All frames that there are buffers for: an outbox for so many is never full.
const FRAMES: usize = PORTS * RECEIVE_BUFFERS + OWN_BUFFERS;

/// Frames that wait to be sent at a port.
pub type Outbox = Deque<Frame, FRAMES>;

/// One of the router's ports.
struct Interface {
    port: Port,
    ethernet: EthernetAddress,
    /// The addresses that stand for all of its network.
    everybody: [Ipv4Address; 2],
    outbox: &'static mut Outbox,
}

/// The router's tables, and the frames that wait to be sent.
pub struct Router {
    interfaces: [Interface; PORTS],
    /// Where packets go.
    pub routes: Routes,
    /// Who is next to the router.
    pub neighbours: Neighbours,
    /// Who talks to whom through it.
    pub flows: Flows,
    /// What became of the frames.
    pub counters: Counters,
    memory: &'static Memory,
    buffers: Buffers,
}

impl Router {
    /// A router with these ports, whose cards have these Ethernet addresses.
    ///
    /// # Errors
    /// [`StartError`] if its tables do not fit the memory.
    pub fn new(
        ports: [(Port, EthernetAddress); PORTS],
        routes: &[Route],
        buffers: Buffers,
        memory: &'static Memory,
    ) -> Result<Self, StartError> {
        let interface = |(port, ethernet): (Port, _)| {
            let network = port.cidr.network().address();
            let everybody = [network, port.cidr.broadcast().unwrap_or(network)];
            let outbox = memory::place(memory, Outbox::new())?;
            Ok::<_, StartError>(Interface { port, ethernet, everybody, outbox })
        };
        let [lan, wan] = ports;
        Ok(Self {
            routes: Routes::new(&ports.map(|(port, _)| port), routes),
            interfaces: [interface(lan)?, interface(wan)?],
            neighbours: Neighbours::new(memory)?,
            flows: Flows::new(memory)?,
            counters: Counters::default(),
            memory,
            buffers,
        })
    }

    /// A frame has come in at a port.
    pub fn receive(&mut self, port: PortId, frame: Frame, now: Millis) {
        self.counters.received(port);
        let fate = self.handle(port, frame, now).unwrap_or_else(Fate::Dropped);
        self.counters.count(port, fate);
    }

    /// A frame has come in that had to be dropped at once: there is no buffer to receive the next.
    pub fn refuse(&mut self, port: PortId) {
        self.counters.received(port);
        self.counters.count(port, Fate::Dropped(Cause::NoBuffer));
    }

    /// The next frame to send at a port.
    pub fn next_to_send(&mut self, port: PortId) -> Option<Frame> {
        let frame = self.interfaces[port].outbox.pop_front()?;
        self.counters.ports[port].sent += 1;
        Some(frame)
    }

    /// Whether nothing waits to be sent.
    pub fn has_sent_all(&self) -> bool {
        self.interfaces.iter().all(|interface| interface.outbox.is_empty())
    }

    /// Lets time pass: asks again for neighbours, gives up on some, forgets flows.
    pub fn tick(&mut self, now: Millis) {
        while let Some(due) = self.neighbours.due(now) {
            match due {
                Due::Ask(port, address) => self.ask(port, address),
                Due::GiveUp(mut neighbour) => {
                    while let Some(frame) = neighbour.next_waiting() {
                        self.give_up(frame);
                    }
                }
            }
        }
        self.flows.tick(now);
    }

    fn handle(&mut self, port: PortId, frame: Frame, now: Millis) -> Result<Fate, Cause> {
        let ethernet = EthernetFrame::new_checked(&frame[..]).map_err(|_| Cause::Malformed)?;
        let for_us = ethernet.dst_addr() == self.interfaces[port].ethernet;
        match ethernet.ethertype() {
            EthernetProtocol::Arp if for_us || ethernet.dst_addr().is_broadcast() => {
                self.handle_arp(port, frame, now)
            }
            EthernetProtocol::Ipv4 if for_us => self.handle_ipv4(port, frame, now),
            EthernetProtocol::Arp | EthernetProtocol::Ipv4 => Err(Cause::NotForUs),
            _ => Err(Cause::Protocol),
        }
    }

    fn handle_arp(&mut self, port: PortId, mut frame: Frame, now: Millis) -> Result<Fate, Cause> {
        let packet = ArpPacket::new_checked(&frame[ETHERNET_HEADER_LEN..]);
        let packet = packet.and_then(|packet| ArpRepr::parse(&packet));
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: ethernet,
            source_protocol_addr: address,
            target_protocol_addr: target,
            ..
        } = packet.map_err(|_| Cause::Malformed)?
        else {
            return Err(Cause::Malformed);
        };
        let &Interface { port: Port { cidr, .. }, ethernet: ours, .. } = &self.interfaces[port];
        let for_us = target == cidr.address();
        let asks_us = for_us && operation == ArpOperation::Request;
        // Before a host takes an address it asks for it, as nobody yet (RFC 5227).
        let probes_us = asks_us && address.is_unspecified();
        let honest = cidr.contains_addr(&address) && address != cidr.address();
        if !(honest || probes_us) || !ethernet.is_unicast() {
            return Err(Cause::BadArp);
        }
        if !probes_us {
            for waiting in self.neighbours.learn(port, address, ethernet, asks_us, now) {
                self.forward_held(port, waiting, ethernet);
            }
        }
        match operation {
            ArpOperation::Request if !for_us => Err(Cause::NotForUs),
            ArpOperation::Request => {
                let reply = ArpRepr::EthernetIpv4 {
                    operation: ArpOperation::Reply,
                    source_hardware_addr: ours,
                    source_protocol_addr: target,
                    target_hardware_addr: ethernet,
                    target_protocol_addr: address,
                };
                frame.set_len(ARP_FRAME);
                arp::emit(&mut frame, &reply, ours, ethernet);
                self.send(port, frame);
                Ok(Fate::Answered)
            }
            ArpOperation::Reply => Ok(Fate::Consumed),
            ArpOperation::Unknown(_) => Err(Cause::BadArp),
        }
    }

    fn handle_ipv4(&mut self, port: PortId, mut frame: Frame, now: Millis) -> Result<Fate, Cause> {
        let header = ipv4::parse(&mut frame)?;
        let broadcast = self.is_broadcast(header.source) || self.is_broadcast(header.destination);
        if self.is_ours(header.source) || broadcast {
            return Err(Cause::Martian);
        }
        if self.is_ours(header.destination) {
            return self.handle_local(port, frame, &header);
        }
        if header.hops <= 1 {
            self.complain(port, &frame, &header, Complaint::Expired);
            return Err(Cause::Expired);
        }
        let Some((to, next_hop)) = self.routes.next_hop(header.destination) else {
            let unreachable = Complaint::Unreachable(Icmpv4DstUnreachable::NetUnreachable);
            self.complain(port, &frame, &header, unreachable);
            return Err(Cause::NoRoute);
        };
        self.check_size(port, to, &frame, &header)?;
        self.flows.count(&frame, &header, now);
        match self.neighbours.way(to, next_hop, frame, now) {
            Way::Known(ethernet, frame) => {
                self.forward(to, frame, ethernet);
                Ok(Fate::Forwarded)
            }
            Way::Held => Ok(Fate::Held),
            Way::HeldAsk => {
                self.ask(to, next_hop);
                Ok(Fate::Held)
            }
            Way::Refused(cause) => Err(cause),
        }
    }

    /// A packet for one of the router's own addresses: it answers pings, and offers nothing else.
    fn handle_local(
        &mut self,
        port: PortId,
        mut frame: Frame,
        header: &Header,
    ) -> Result<Fate, Cause> {
        if header.is_fragment {
            return Err(Cause::NoService);
        }
        if header.protocol == IpProtocol::Icmp {
            return match icmp::is_echo_request(&frame, header) {
                Some(true) => {
                    icmp::turn_round(&mut frame, header);
                    self.send(port, frame);
                    Ok(Fate::Answered)
                }
                Some(false) => Err(Cause::NoService),
                None => Err(Cause::Checksum),
            };
        }
        let what = match header.protocol {
            IpProtocol::Tcp | IpProtocol::Udp => Icmpv4DstUnreachable::PortUnreachable,
            _ => Icmpv4DstUnreachable::ProtoUnreachable,
        };
        self.complain(port, &frame, header, Complaint::Unreachable(what));
        Err(Cause::NoService)
    }

    /// Refuses what is too long for the network ahead. Packets are not fragmented here.
    fn check_size(
        &mut self,
        port: PortId,
        to: PortId,
        frame: &Frame,
        header: &Header,
    ) -> Result<(), Cause> {
        let mtu = self.interfaces[to].port.mtu;
        if header.total_len <= mtu {
            return Ok(());
        }
        if header.dont_fragment {
            let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
            self.complain(port, frame, header, Complaint::TooBig(mtu));
        }
        Err(Cause::TooBig)
    }

    fn is_ours(&self, address: Ipv4Address) -> bool {
        self.interfaces.iter().any(|interface| interface.port.cidr.address() == address)
    }

    /// Whether an address stands for all of a network next to the router.
    fn is_broadcast(&self, address: Ipv4Address) -> bool {
        self.interfaces.iter().any(|interface| interface.everybody.contains(&address))
    }

    fn forward(&mut self, to: PortId, mut frame: Frame, ethernet: EthernetAddress) {
        ipv4::rewrite(&mut frame, self.interfaces[to].ethernet, ethernet);
        self.send(to, frame);
    }

    /// A frame's next hop is known at last.
    fn forward_held(&mut self, to: PortId, frame: Frame, ethernet: EthernetAddress) {
        if let Some(from) = frame.from() {
            self.counters.count_held(from, Fate::Forwarded);
        }
        self.forward(to, frame, ethernet);
    }

    /// A frame has waited in vain.
    fn give_up(&mut self, mut frame: Frame) {
        let Some(from) = frame.from() else { return };
        self.counters.count_held(from, Fate::Dropped(Cause::Unresolved));
        if let Ok(header) = ipv4::parse(&mut frame) {
            let unreachable = Complaint::Unreachable(Icmpv4DstUnreachable::HostUnreachable);
            self.complain(from, &frame, &header, unreachable);
        }
    }

    /// Asks who has an address.
    fn ask(&mut self, port: PortId, address: Ipv4Address) {
        let &Interface { port: Port { cidr, .. }, ethernet, .. } = &self.interfaces[port];
        let Ok(mut frame) = Frame::own(ARP_FRAME, self.buffers.own, self.memory) else {
            self.counters.ports[port].unsaid += 1;
            return;
        };
        let request = arp::request(ethernet, cidr.address(), address);
        arp::emit(&mut frame, &request, ethernet, EthernetAddress::BROADCAST);
        self.counters.ports[port].arp_requests += 1;
        self.send(port, frame);
    }

    /// Tells the sender of a packet what is wrong with it, if one may.
    fn complain(&mut self, port: PortId, about: &Frame, header: &Header, complaint: Complaint) {
        if !icmp::may_complain(about, header) {
            return;
        }
        let len = icmp::error_len(header);
        let Ok(mut error) = Frame::own(len, self.buffers.own, self.memory) else {
            self.counters.ports[port].unsaid += 1;
            return;
        };
        let &Interface { port: Port { cidr, .. }, ethernet, .. } = &self.interfaces[port];
        icmp::write_error(&mut error, about, header, complaint, (ethernet, cidr.address()));
        self.counters.ports[port].icmp_errors += 1;
        self.send(port, error);
    }

    fn send(&mut self, port: PortId, frame: Frame) {
        let kept = self.interfaces[port].outbox.push_back(frame);
        debug_assert!(kept.is_ok(), "an outbox has room for every buffer there is");
    }
}
