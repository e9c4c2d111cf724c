//! What the firewall and the tunnel need to know of a frame, read once, at receive.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use etherparse::{IpNumber, NetSlice, SlicedPacket, TransportSlice};

/// One end of a conversation. Protocols without ports have port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
}

/// The 5-tuple of an IP packet, and where the packet lies in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    pub source: Endpoint,
    pub destination: Endpoint,
    pub protocol: IpNumber,
    /// Part of a fragmented packet: only the first part has ports, so we read none of them.
    pub fragment: bool,
    /// Offset of the IP header in the frame.
    pub ip_start: usize,
    /// Length of the IP packet. Ethernet pads short frames: the frame may be longer.
    pub ip_len: usize,
}

/// The frame's headers contradict its length or each other.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

impl Headers {
    /// Reads the headers of an Ethernet frame; `None` if it carries no IP (ARP, for one).
    pub fn parse(frame: &[u8]) -> Result<Option<Self>, Malformed> {
        let sliced = SlicedPacket::from_ethernet(frame).map_err(|_| Malformed)?;
        let ports = ports(sliced.transport.as_ref());
        let (header, ip_len, addresses, protocol) = match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header();
                let addresses: [IpAddr; 2] =
                    [header.source_addr().into(), header.destination_addr().into()];
                let ip_len = usize::from(header.total_len());
                (header.slice().as_ptr(), ip_len, addresses, ip.payload_ip_number())
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header();
                let addresses: [IpAddr; 2] =
                    [header.source_addr().into(), header.destination_addr().into()];
                let ip_len = header.slice().len() + usize::from(header.payload_length());
                (header.slice().as_ptr(), ip_len, addresses, ip.payload().ip_number)
            }
            Some(NetSlice::Arp(_)) | None => return Ok(None),
        };
        Ok(Some(Self {
            source: Endpoint { address: addresses[0], port: ports.0 },
            destination: Endpoint { address: addresses[1], port: ports.1 },
            protocol,
            fragment: sliced.is_ip_payload_fragmented(),
            ip_start: header.addr() - frame.as_ptr().addr(),
            ip_len,
        }))
    }

    /// The key both directions of this packet's flow share.
    pub fn flow(&self) -> FlowKey {
        FlowKey {
            low: self.source.min(self.destination),
            high: self.source.max(self.destination),
            protocol: self.protocol,
        }
    }
}

/// A 5-tuple without a direction: the lower endpoint comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    low: Endpoint,
    high: Endpoint,
    protocol: IpNumber,
}

impl FlowKey {
    /// Which of `workers` owns this flow; the same for both directions and in every run.
    pub fn worker(&self, workers: usize) -> usize {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        usize::try_from(hasher.finish() % workers as u64).unwrap_or(0)
    }
}

/// Source and destination port, 0 where the protocol has none.
fn ports(transport: Option<&TransportSlice<'_>>) -> (u16, u16) {
    match transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        _ => (0, 0),
    }
}

#[cfg(test)]
pub mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    /// A UDP frame from 192.168.10.11:1024 to 10.20.0.80, for this module's and others' tests.
    pub fn udp_frame(port: u16, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([192, 168, 10, 11], [10, 20, 0, 80], 64)
            .udp(1024, port);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).expect("writing to memory works");
        frame
    }

    /// The same over IPv6.
    pub fn udp6_frame(port: u16, payload: &[u8]) -> Vec<u8> {
        let source = [0xfd, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11];
        let destination = [0xfd, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80];
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv6(source, destination, 64)
            .udp(1024, port);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).expect("writing to memory works");
        frame
    }

    #[test]
    fn a_frame_gives_its_five_tuple_and_place() {
        let mut frame = udp_frame(53, b"hello");
        let real_length = frame.len();
        frame.resize(60, 0); // Ethernet padding
        let headers = Headers::parse(&frame).expect("well formed").expect("IP");
        assert_eq!(headers.source.address.to_string(), "192.168.10.11");
        assert_eq!((headers.source.port, headers.destination.port), (1024, 53));
        assert_eq!(headers.protocol, IpNumber::UDP);
        assert_eq!((headers.ip_start, headers.ip_start + headers.ip_len), (14, real_length));
    }

    #[test]
    fn both_directions_share_flow_and_worker() {
        let there = Headers::parse(&udp6_frame(53, b"?")).expect("well formed").expect("IP");
        let back = Headers { source: there.destination, destination: there.source, ..there };
        assert_eq!(there.flow(), back.flow());
        assert_eq!(there.flow().worker(7), back.flow().worker(7));
    }

    #[test]
    fn a_cut_packet_is_malformed_and_arp_is_not_ip() {
        let frame = udp_frame(53, b"hello");
        assert_eq!(Headers::parse(&frame[..frame.len() - 1]), Err(Malformed));
        assert_eq!(Headers::parse(&frame[..9]), Err(Malformed));
        let mut arp = vec![0_u8; 14];
        arp[12..].copy_from_slice(&[0x88, 0xb5]); // an experimental EtherType
        assert_eq!(Headers::parse(&arp), Ok(None));
    }
}
