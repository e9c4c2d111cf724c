//! The tunnel: ESP in tunnel mode (RFC 4303) with ChaCha20-Poly1305 (RFC 7634), in place.
//!
//! ```text
//! before   [Ethernet |                            IP packet                          ]
//! after    [Ethernet | IP, protocol 50 | SPI | seq | IV | IP packet | padding | tag ]
//!                                       \_ authenticated _/ \____ encrypted ___/
//! ```
//!
//! The peer of a packet is its destination: every host ends its own tunnel, and the outer header
//! repeats the inner addresses. There is one session per peer and worker, so that no two threads
//! share a counter. Sessions are objects of the pool, and so is the table that finds them.

use std::net::IpAddr;

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadInOut, Error};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use etherparse::{IpNumber, Ipv4Header, Ipv6Header};
use hashbrown::{DefaultHashBuilder, HashMap};

use crate::headers::Headers;
use crate::memory::PacketMemory;
use crate::packet::Packet;

/// Stands in for a key exchange: both ends of every tunnel would know this and the SPI.
const MASTER_KEY: [u8; 32] = *b"an example's key: never use this";

const TTL: u8 = 64;
/// The longest link header we carry over: Ethernet and three tags.
const MAX_LINK: usize = 32;

/// One direction of a tunnel to one peer.
pub struct Session {
    cipher: ChaCha20Poly1305,
    salt: [u8; 4],
    spi: u32,
    /// Packets sealed: the last sequence number. It never repeats under one key.
    sent: u32,
}

impl Session {
    /// A session with the keys that belong to `spi`.
    pub fn new(spi: u32) -> Self {
        let material = key_material(spi);
        let (key, salt) = material.split_at(32);
        let mut session = Self { cipher: cipher(key), salt: [0; 4], spi, sent: 0 };
        session.salt.copy_from_slice(salt);
        session
    }

    /// True once every sequence number has been used: time for a new session.
    fn exhausted(&self) -> bool {
        self.sent == u32::MAX
    }

    /// Replaces the IP packet by an ESP packet that contains it.
    fn seal(&mut self, packet: &mut Packet, ip: &Headers) -> Result<(), Error> {
        let mut link = [0; MAX_LINK];
        let link = link.get_mut(..ip.ip_start).ok_or(Error)?;
        link.copy_from_slice(&packet.frame()[..ip.ip_start]);
        packet.truncate(ip.ip_start + ip.ip_len); // Ethernet's own padding stays outside
        packet.trim_front(ip.ip_start);

        self.sent += 1;
        let (header, nonce) = self.header_and_nonce();
        append_trailer(packet, ip);
        let sealed = InOutBuf::from(packet.frame_mut());
        let tag = self.cipher.encrypt_inout_detached(&nonce.into(), &header[..8], sealed)?;
        packet.append(&tag);
        packet.prepend(&header);
        prepend_ip(packet, ip)?;
        packet.prepend(link);
        Ok(())
    }

    /// ESP header with the explicit IV, and the nonce: the salt, then that IV.
    fn header_and_nonce(&self) -> ([u8; 16], [u8; 12]) {
        let iv = u64::from(self.sent).to_be_bytes();
        let mut header = [0; 16];
        header[..4].copy_from_slice(&self.spi.to_be_bytes());
        header[4..8].copy_from_slice(&self.sent.to_be_bytes());
        header[8..].copy_from_slice(&iv);
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.salt);
        nonce[4..].copy_from_slice(&iv);
        (header, nonce)
    }
}

/// 32 bytes of key and 4 of salt: the master key's stream under the SPI as nonce.
fn key_material(spi: u32) -> [u8; 36] {
    let mut nonce = [0; 12];
    nonce[8..].copy_from_slice(&spi.to_be_bytes());
    let mut material = [0; 36];
    cipher(&MASTER_KEY)
        .encrypt_inout_detached(&nonce.into(), &[], InOutBuf::from(&mut material[..]))
        .expect("36 bytes are not too long");
    material
}

fn cipher(key: &[u8]) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new_from_slice(key).expect("keys have 32 bytes")
}

/// Padding to a multiple of four, its length, and what the packet inside is.
fn append_trailer(packet: &mut Packet, ip: &Headers) {
    let inner = if ip.source.address.is_ipv4() { IpNumber::IPV4 } else { IpNumber::IPV6 };
    let trailer: &[u8] = match (packet.frame().len() + 2) % 4 {
        0 => &[0],
        1 => &[1, 2, 3, 3],
        2 => &[1, 2, 2],
        _ => &[1, 1],
    };
    packet.append(trailer);
    packet.append(&[inner.0]);
}

/// The outer IP header: the inner addresses, the length of what follows.
fn prepend_ip(packet: &mut Packet, ip: &Headers) -> Result<(), Error> {
    let payload_length = u16::try_from(packet.frame().len()).map_err(|_| Error)?;
    match (ip.source.address, ip.destination.address) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let (source, destination) = (source.octets(), destination.octets());
            let mut outer = Ipv4Header::new(
                payload_length,
                TTL,
                IpNumber::ENCAPSULATING_SECURITY_PAYLOAD,
                source,
                destination,
            )
            .map_err(|_| Error)?;
            outer.header_checksum = outer.calc_header_checksum();
            packet.prepend(&outer.to_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let outer = Ipv6Header {
                payload_length,
                next_header: IpNumber::ENCAPSULATING_SECURITY_PAYLOAD,
                hop_limit: TTL,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            packet.prepend(&outer.to_bytes());
        }
        _ => return Err(Error), // no packet mixes the two
    }
    Ok(())
}

/// The sessions of one worker, by peer.
pub struct Tunnels<'m, M: PacketMemory> {
    memory: &'m M,
    peers: HashMap<IpAddr, M::Session<'m>, DefaultHashBuilder, M::Tables<'m>>,
    next_spi: u32,
}

/// The pool has no room for a session with a new peer.
#[derive(Debug)]
pub struct NoSession;

impl<'m, M: PacketMemory> Tunnels<'m, M> {
    /// No sessions yet; those to come have the SPIs from `first_spi` on.
    pub fn new(memory: &'m M, first_spi: u32) -> Self {
        Self { memory, peers: HashMap::new_in(memory.tables()), next_spi: first_spi }
    }

    /// Seals a packet for the host it goes to.
    pub fn seal(&mut self, packet: &mut Packet, ip: &Headers) -> Result<(), NoSession> {
        let peer = ip.destination.address;
        if self.peers.get(&peer).is_none_or(|session| session.exhausted()) {
            self.open(peer)?;
        }
        let session = self.peers.get_mut(&peer).ok_or(NoSession)?;
        session.seal(packet, ip).map_err(|_| NoSession)
    }

    /// How many peers have a session.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    fn open(&mut self, peer: IpAddr) -> Result<(), NoSession> {
        self.peers.try_reserve(1).map_err(|_| NoSession)?;
        let session = self.memory.session(Session::new(self.next_spi)).ok_or(NoSession)?;
        self.next_spi += 1;
        self.peers.insert(peer, session);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::tests::{udp_frame, udp6_frame};
    use crate::memory::SystemMemory;
    use crate::packet::tests::Storage;

    /// The receiving end: checks an ESP packet and gives back the IP packet inside.
    fn open(frame: &[u8]) -> (u32, u32, Vec<u8>) {
        let headers = Headers::parse(frame).expect("well formed").expect("IP");
        assert_eq!(headers.protocol, IpNumber::ENCAPSULATING_SECURITY_PAYLOAD);
        let outer = if headers.source.address.is_ipv4() { 20 } else { 40 };
        let esp = &frame[headers.ip_start + outer..];
        assert_eq!(headers.ip_start + headers.ip_len, frame.len(), "the outer length is right");

        let word = |at: usize| u32::from_be_bytes(esp[at..at + 4].try_into().expect("4 bytes"));
        let (spi, sequence) = (word(0), word(4));
        let session = Session::new(spi);
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&session.salt);
        nonce[4..].copy_from_slice(&esp[8..16]);
        let (sealed, tag) = esp[16..].split_at(esp.len() - 32);
        let mut inner = sealed.to_vec();
        let tag = tag.try_into().expect("16 bytes");
        session
            .cipher
            .decrypt_inout_detached(&nonce.into(), &esp[..8], InOutBuf::from(&mut inner[..]), tag)
            .expect("authentic");
        let padding = usize::from(inner[inner.len() - 2]);
        assert_eq!(inner.len() % 4, 0);
        inner.truncate(inner.len() - 2 - padding);
        (spi, sequence, inner)
    }

    fn seal(tunnels: &mut Tunnels<'_, SystemMemory>, frame: &[u8]) -> Vec<u8> {
        let mut storage = Storage::new();
        let mut packet = storage.packet(frame);
        let ip = Headers::parse(frame).expect("well formed").expect("IP");
        tunnels.seal(&mut packet, &ip).expect("room for a session");
        packet.frame().to_vec()
    }

    #[test]
    fn the_peer_can_open_what_we_seal() {
        let memory = SystemMemory::new();
        let mut tunnels = Tunnels::new(&memory, 0x100);
        for length in 0..64 {
            for frame in [udp_frame(53, &vec![7; length]), udp6_frame(53, &vec![7; length])] {
                let sealed = seal(&mut tunnels, &frame);
                assert_eq!(sealed[..14], frame[..14], "the Ethernet header stays");
                assert_eq!(open(&sealed).2, frame[14..]);
            }
        }
        assert_eq!(tunnels.len(), 2);
    }

    #[test]
    fn ethernet_padding_stays_out_of_the_tunnel() {
        let memory = SystemMemory::new();
        let mut padded = udp_frame(53, b"?");
        let real_length = padded.len();
        padded.resize(60, 0);
        let sealed = seal(&mut Tunnels::new(&memory, 0x100), &padded);
        assert_eq!(open(&sealed).2, padded[14..real_length]);
    }

    #[test]
    fn sequence_numbers_count_per_session() {
        let memory = SystemMemory::new();
        let mut tunnels = Tunnels::new(&memory, 0x100);
        let (v4, v6) = (udp_frame(53, b"?"), udp6_frame(53, b"?"));
        let seen = [&v4, &v4, &v6, &v4].map(|frame| {
            let (spi, sequence, _) = open(&seal(&mut tunnels, frame));
            (spi, sequence)
        });
        assert_eq!(seen, [(0x100, 1), (0x100, 2), (0x101, 1), (0x100, 3)]);
    }

    #[test]
    fn an_exhausted_session_is_replaced() {
        let memory = SystemMemory::new();
        let mut tunnels = Tunnels::new(&memory, 0x100);
        let frame = udp_frame(53, b"?");
        seal(&mut tunnels, &frame);
        let peer = tunnels.peers.values_mut().next().expect("one session");
        peer.sent = u32::MAX - 1;
        assert_eq!(open(&seal(&mut tunnels, &frame)).1, u32::MAX);
        let (spi, sequence, _) = open(&seal(&mut tunnels, &frame));
        assert_eq!((spi, sequence), (0x101, 1));
    }
}
