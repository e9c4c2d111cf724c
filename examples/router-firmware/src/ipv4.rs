//! What a router looks at in an IPv4 header, and the one thing that it changes.

use smoltcp::wire::{
    ETHERNET_HEADER_LEN, EthernetAddress, EthernetFrame, IpProtocol, Ipv4Address, Ipv4Packet,
};

use crate::{counters::Cause, frame::Frame};

/// A header that was found sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who sent the packet.
    pub source: Ipv4Address,
    /// Whom it is for.
    pub destination: Ipv4Address,
    /// What it carries.
    pub protocol: IpProtocol,
    /// Hops it may still take.
    pub hops: u8,
    /// Bytes of the header.
    pub header_len: usize,
    /// Bytes of the packet.
    pub total_len: usize,
    /// Whether it must not be fragmented.
    pub dont_fragment: bool,
    /// Whether it is a part of a packet.
    pub is_fragment: bool,
    /// Whether it is a part other than the first.
    pub is_later_fragment: bool,
}

/// Reads the header of a frame's packet, and cuts off the padding that Ethernet may have added.
///
/// # Errors
/// The cause to drop the frame for.
pub fn parse(frame: &mut Frame) -> Result<Header, Cause> {
    let packet = frame.get(ETHERNET_HEADER_LEN..).ok_or(Cause::Malformed)?;
    let packet = Ipv4Packet::new_checked(packet).map_err(|_| Cause::Malformed)?;
    if packet.version() != 4 {
        return Err(Cause::Malformed);
    }
    if !packet.verify_checksum() {
        return Err(Cause::Checksum);
    }
    let header = Header {
        source: packet.src_addr(),
        destination: packet.dst_addr(),
        protocol: packet.next_header(),
        hops: packet.hop_limit(),
        header_len: packet.header_len().into(),
        total_len: packet.total_len().into(),
        dont_fragment: packet.dont_frag(),
        is_fragment: packet.more_frags() || packet.frag_offset() != 0,
        is_later_fragment: packet.frag_offset() != 0,
    };
    frame.set_len(ETHERNET_HEADER_LEN + header.total_len);
    if is_martian(header.source) || is_martian(header.destination) {
        return Err(Cause::Martian);
    }
    Ok(header)
}

/// Whether an address belongs on no link between two hosts.
fn is_martian(address: Ipv4Address) -> bool {
    let reserved = address.octets()[0] >= 240;
    let this_network = address.octets()[0] == 0;
    this_network || reserved || address.is_loopback() || address.is_multicast()
}

/// One hop less, and the checksum that goes with it, updated as RFC 1624 (equation 3) says: only
/// one word of the header has changed.
fn take_hop(packet: &mut Ipv4Packet<&mut [u8]>) {
    let hops = packet.hop_limit();
    let word = |hops: u8| u16::from_be_bytes([hops, packet.next_header().into()]);
    let (before, after) = (word(hops), word(hops.saturating_sub(1)));
    let checksum = update_checksum(packet.checksum(), before, after);
    packet.set_hop_limit(hops.saturating_sub(1));
    packet.set_checksum(checksum);
}

/// An internet checksum after one word of the data has changed.
pub fn update_checksum(checksum: u16, before: u16, after: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!before) + u32::from(after);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from(sum).unwrap_or(0)
}

/// Makes a received frame one to be sent on; `parse` has found it sound.
pub fn rewrite(frame: &mut Frame, from: EthernetAddress, to: EthernetAddress) {
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    ethernet.set_src_addr(from);
    ethernet.set_dst_addr(to);
    take_hop(&mut Ipv4Packet::new_unchecked(ethernet.payload_mut()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_updated_checksum_is_the_one_that_counting_anew_gives() {
        for first in 0..=u16::MAX {
            let mut header = [0x45, 0, 0x12, 0x34, 0, 0, 0, 0, 9, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            header[12..14].copy_from_slice(&first.to_be_bytes());
            let mut packet = Ipv4Packet::new_unchecked(&mut header[..]);
            packet.fill_checksum();
            take_hop(&mut packet);
            let updated = packet.checksum();
            packet.fill_checksum();
            assert_eq!((packet.hop_limit(), packet.checksum()), (8, updated), "{first}");
        }
    }
}
