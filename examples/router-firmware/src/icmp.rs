//! What the router says about packets: echo replies, and errors.

use smoltcp::wire::{
    ETHERNET_HEADER_LEN, EthernetAddress, EthernetFrame, EthernetProtocol, IPV4_HEADER_LEN,
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv4TimeExceeded, IpProtocol, Ipv4Address,
    Ipv4Packet,
};

use crate::{frame::Frame, ipv4::Header};

/// Hops that the router's own packets may take.
const HOPS: u8 = 64;

/// Bytes of an ICMP header.
const ICMP_HEADER: usize = 8;

/// The longest packet that any host must accept, and so the longest error (RFC 1812, 4.3.2.3).
const LONGEST_ERROR: usize = 576;

/// What an error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// The packet has been under way for too long.
    Expired,
    /// Its destination cannot be reached.
    Unreachable(Icmpv4DstUnreachable),
    /// It is longer than this many bytes and must not be fragmented.
    TooBig(u16),
}

/// Whether the sender of a packet may be told about it: not in answer to an error, or to a fragment
/// that is not the first (RFC 1812, 4.3.2.7; packets for everybody do not get this far).
pub fn may_complain(frame: &Frame, header: &Header) -> bool {
    let is_error = header.protocol == IpProtocol::Icmp && !is_query(icmp_of(frame, header));
    !is_error && !header.is_later_fragment
}

/// The part of a frame behind its IP header.
fn icmp_of<'f>(frame: &'f Frame, header: &Header) -> &'f [u8] {
    frame.get(ETHERNET_HEADER_LEN + header.header_len..).unwrap_or_default()
}

/// Whether an ICMP message is one that errors may answer.
fn is_query(message: &[u8]) -> bool {
    let kind = message.first().copied().map(Icmpv4Message::from);
    matches!(
        kind,
        Some(
            Icmpv4Message::EchoReply
                | Icmpv4Message::EchoRequest
                | Icmpv4Message::Timestamp
                | Icmpv4Message::TimestampReply
        )
    )
}

/// Bytes of the frame that complains about a packet.
pub fn error_len(header: &Header) -> usize {
    ETHERNET_HEADER_LEN + IPV4_HEADER_LEN + ICMP_HEADER + quoted_len(header)
}

fn quoted_len(header: &Header) -> usize {
    header.total_len.min(LONGEST_ERROR - IPV4_HEADER_LEN - ICMP_HEADER)
}

/// Writes an error about `about` into a frame of [`error_len`] bytes. It goes back to the station
/// that the packet came from.
pub fn write_error(
    error: &mut Frame,
    about: &Frame,
    header: &Header,
    complaint: Complaint,
    us: (EthernetAddress, Ipv4Address),
) {
    let cause = EthernetFrame::new_unchecked(&about[..]);
    let mut ethernet = EthernetFrame::new_unchecked(&mut error[..]);
    ethernet.set_src_addr(us.0);
    ethernet.set_dst_addr(cause.src_addr());
    ethernet.set_ethertype(EthernetProtocol::Ipv4);

    let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    packet.set_version(4);
    packet.set_header_len(20);
    // Internetwork control, as RFC 1812 (4.3.2.5) has it.
    packet.set_dscp(48);
    packet.set_total_len(u16::try_from(error_len(header) - ETHERNET_HEADER_LEN).unwrap_or(0));
    packet.set_hop_limit(HOPS);
    packet.set_next_header(IpProtocol::Icmp);
    packet.set_src_addr(us.1);
    packet.set_dst_addr(header.source);
    packet.fill_checksum();

    let message = packet.payload_mut();
    message[ICMP_HEADER..].copy_from_slice(&cause.payload()[..quoted_len(header)]);
    let mut icmp = Icmpv4Packet::new_unchecked(message);
    match complaint {
        Complaint::Expired => {
            icmp.set_msg_type(Icmpv4Message::TimeExceeded);
            icmp.set_msg_code(Icmpv4TimeExceeded::TtlExpired.into());
        }
        Complaint::Unreachable(reason) => {
            icmp.set_msg_type(Icmpv4Message::DstUnreachable);
            icmp.set_msg_code(reason.into());
        }
        Complaint::TooBig(mtu) => {
            icmp.set_msg_type(Icmpv4Message::DstUnreachable);
            icmp.set_msg_code(Icmpv4DstUnreachable::FragRequired.into());
            // RFC 1191: where an echo has its sequence number.
            icmp.set_echo_seq_no(mtu);
        }
    }
    icmp.fill_checksum();
}

/// Whether a packet is a whole and sound echo request; `None` if its ICMP message is damaged.
pub fn is_echo_request(frame: &Frame, header: &Header) -> Option<bool> {
    let icmp = Icmpv4Packet::new_checked(icmp_of(frame, header)).ok()?;
    icmp.verify_checksum()
        .then(|| icmp.msg_type() == Icmpv4Message::EchoRequest && icmp.msg_code() == 0)
}

/// Turns an echo request round: the same buffer is the reply.
pub fn turn_round(frame: &mut Frame, header: &Header) {
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    let (source, destination) = (ethernet.src_addr(), ethernet.dst_addr());
    ethernet.set_src_addr(destination);
    ethernet.set_dst_addr(source);
    let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    packet.set_src_addr(header.destination);
    packet.set_dst_addr(header.source);
    packet.set_hop_limit(HOPS);
    packet.fill_checksum();
    let mut icmp = Icmpv4Packet::new_unchecked(packet.payload_mut());
    icmp.set_msg_type(Icmpv4Message::EchoReply);
    icmp.fill_checksum();
}
