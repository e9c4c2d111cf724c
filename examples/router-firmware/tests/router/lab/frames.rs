//! Frames as hosts send them, and as a router must send them on. Built with another library than
//! the router's.

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, Icmpv4Header, Icmpv4Type,
    IpNumber, Ipv4Header, TcpHeader, UdpHeader,
};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// A station on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its IP address.
    pub ip: [u8; 4],
}

/// The router's card in the local network.
pub const ROUTER_LAN: Host = Host { mac: [2, 0, 0, 0, 0x10, 1], ip: [192, 168, 10, 1] };
/// The router's card to the rest of the world.
pub const ROUTER_WAN: Host = Host { mac: [2, 0, 0, 0, 0x20, 1], ip: [10, 20, 0, 1] };
/// A host in the local network.
pub const CLIENT: Host = Host { mac: [2, 0, 0, 0, 0x10, 11], ip: [192, 168, 10, 11] };
/// A host on the other side.
pub const SERVER: Host = Host { mac: [2, 0, 0, 0, 0x20, 80], ip: [10, 20, 0, 80] };
/// The router that the default route leads to.
pub const UPSTREAM: Host = Host { mac: [2, 0, 0, 0, 0x20, 254], ip: [10, 20, 0, 254] };

const BROADCAST: [u8; 6] = [0xff; 6];

/// An Ethernet frame.
pub fn ethernet(from: [u8; 6], to: [u8; 6], ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header { source: from, destination: to, ether_type };
    [&header.to_bytes()[..], payload].concat()
}

/// An IPv4 header for a payload: 64 hops, and a checksum.
pub fn header(from: [u8; 4], to: [u8; 4], protocol: IpNumber, payload: &[u8]) -> Ipv4Header {
    let len = payload.len().try_into().expect("a packet's length");
    let mut header = Ipv4Header::new(len, 64, protocol, from, to).expect("a packet's length");
    header.identification = 0x4d50;
    header
}

/// A frame with an IPv4 packet; the checksum is filled in.
pub fn packet(from: [u8; 6], to: [u8; 6], header: &Ipv4Header, payload: &[u8]) -> Vec<u8> {
    let mut header = header.clone();
    header.header_checksum = header.calc_header_checksum();
    ethernet(from, to, EtherType::IPV4, &[&header.to_bytes()[..], payload].concat())
}

/// A UDP datagram from one address to another.
pub fn udp(from: [u8; 4], to: [u8; 4], data: &[u8]) -> (Ipv4Header, Vec<u8>) {
    let udp =
        UdpHeader::with_ipv4_checksum(40_000, 53, &header(from, to, IpNumber::UDP, &[]), data);
    let datagram = [&udp.expect("short").to_bytes()[..], data].concat();
    (header(from, to, IpNumber::UDP, &datagram), datagram)
}

/// A TCP segment from one address to another.
pub fn tcp(from: [u8; 4], to: [u8; 4], data: &[u8]) -> (Ipv4Header, Vec<u8>) {
    let mut tcp = TcpHeader::new(50_000, 80, 0x0102_0304, 4096);
    tcp.psh = true;
    tcp.ack = true;
    let ip = header(from, to, IpNumber::TCP, &[]);
    tcp.checksum = tcp.calc_checksum_ipv4(&ip, data).expect("short");
    let segment = [&tcp.to_bytes()[..], data].concat();
    (header(from, to, IpNumber::TCP, &segment), segment)
}

/// An ICMP message.
pub fn icmp(kind: Icmpv4Type, data: &[u8]) -> Vec<u8> {
    [&Icmpv4Header::with_checksum(kind, data).to_bytes()[..], data].concat()
}

/// The frame that a router must make of this one: addresses of the next link, one hop less, a
/// checksum that was counted anew, no padding, and not one other bit changed.
pub fn forwarded(frame: &[u8], router: Host, next_hop: Host) -> Vec<u8> {
    let total_len = u16::from_be_bytes([frame[ETHERNET + 2], frame[ETHERNET + 3]]);
    let mut frame = frame[..ETHERNET + usize::from(total_len)].to_vec();
    frame[..6].copy_from_slice(&next_hop.mac);
    frame[6..12].copy_from_slice(&router.mac);
    frame[ETHERNET + 8] -= 1;
    fill_checksum(&mut frame);
    frame
}

/// Counts the checksum of a frame's IPv4 header, if there is all of it.
pub fn fill_checksum(frame: &mut [u8]) {
    let Some(&first) = frame.get(ETHERNET) else { return };
    let len = 4 * usize::from(first & 0xf);
    let Some(header) = frame.get_mut(ETHERNET..ETHERNET + len.max(20)) else { return };
    header[10..12].fill(0);
    let words = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// The ICMP error that a router must send about this frame.
pub fn error(about: &[u8], router: Host, kind: Icmpv4Type) -> Vec<u8> {
    let (cause, _) = Ipv4Header::from_slice(&about[ETHERNET..]).expect("an IPv4 packet");
    let quoted = usize::from(cause.total_len).min(576 - 20 - 8);
    let message = icmp(kind, &about[ETHERNET..ETHERNET + quoted]);
    let mut header = header(router.ip, cause.source, IpNumber::ICMP, &message);
    header.dscp = 48.try_into().expect("six bits");
    header.identification = 0;
    header.dont_fragment = false;
    let back = about[6..12].try_into().expect("six bytes");
    packet(router.mac, back, &header, &message)
}

/// "Who has `target`? Tell `from`."
pub fn arp_request(from: Host, target: [u8; 4]) -> Vec<u8> {
    arp(ArpOperation::REQUEST, from, BROADCAST, Host { mac: [0; 6], ip: target })
}

/// "`from` is here."
pub fn arp_reply(from: Host, to: Host) -> Vec<u8> {
    arp(ArpOperation::REPLY, from, to.mac, to)
}

fn arp(operation: ArpOperation, from: Host, to: [u8; 6], target: Host) -> Vec<u8> {
    let (mac, ip) = (&from.mac, &from.ip);
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        mac,
        ip,
        &target.mac,
        &target.ip,
    );
    ethernet(from.mac, to, EtherType::ARP, &packet.expect("fixed lengths").to_bytes())
}
