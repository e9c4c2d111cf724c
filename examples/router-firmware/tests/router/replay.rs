//! A recorded capture through the firmware: the one of the gateway example, in whose network the
//! router stands where the recording machine stood.

use std::fs;

use crate::lab::{
    LAN, Lab, WAN,
    frames::{ETHERNET, Host, ROUTER_LAN, ROUTER_WAN, arp_reply, arp_request, forwarded},
};
use etherparse::Ipv4HeaderSlice;
use pcap_parser::{LegacyPcapReader, PcapBlockOwned, PcapError, traits::PcapReaderIterator};

const CAPTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/traffic.pcap");

/// The frames of the capture.
fn capture() -> Vec<Vec<u8>> {
    let file = fs::File::open(CAPTURE).expect("the gateway example's capture");
    let mut reader = LegacyPcapReader::new(1 << 16, file).expect("a capture");
    let mut frames = Vec::new();
    loop {
        match reader.next() {
            Ok((len, block)) => {
                if let PcapBlockOwned::Legacy(record) = block {
                    frames.push(record.data.to_vec());
                }
                reader.consume(len);
            }
            Err(PcapError::Incomplete(_)) => reader.refill().expect("a readable file"),
            Err(PcapError::Eof) => return frames,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The port that a host is at, and its Ethernet address in this test.
fn host(ip: [u8; 4]) -> (usize, Host) {
    let port = if ip[..3] == [192, 168, 10] { LAN } else { WAN };
    (port, Host { mac: [2, 0x66, ip[0], ip[1], ip[2], ip[3]], ip })
}

#[test]
fn recorded_traffic_passes_byte_by_byte() {
    let mut lab = Lab::start();
    let mut met = Vec::new();
    let (mut packets, mut others) = (0, 0);
    for mut frame in capture() {
        let addresses = Ipv4HeaderSlice::from_slice(&frame[ETHERNET..])
            .map(|ip| (ip.source(), ip.destination()));
        let (source, destination) = match (&frame[12..14], addresses) {
            ([8, 0], Ok(addresses)) => addresses,
            // ARP is this test's own affair.
            ([8, 6], _) => continue,
            // IPv6, which the router drops.
            _ => {
                lab.cables[LAN].send(&frame);
                others += 1;
                continue;
            }
        };
        let (from, source) = host(source);
        let (to, next_hop) = host(destination);
        let routers = [ROUTER_LAN, ROUTER_WAN];
        frame[..6].copy_from_slice(&routers[from].mac);
        frame[6..12].copy_from_slice(&source.mac);
        let expected = forwarded(&frame, routers[to], next_hop);
        if met.contains(&destination) {
            lab.expect(from, &frame, to, &expected);
        } else {
            met.push(destination);
            lab.expect(from, &frame, to, &arp_request(routers[to], destination));
            lab.expect(to, &arp_reply(next_hop, routers[to]), to, &expected);
        }
        packets += 1;
    }
    let counters = lab.settle();
    assert_eq!((packets, others), (2801, 79));
    assert_eq!((counters.sum("forwarded"), counters.sum("protocol")), (packets, others));
    println!("{packets} packets to {} hosts:", met.len());
    "smf".chars().flat_map(|question| lab.ask(question)).for_each(|line| println!("{line}"));
    lab.finish();
}
