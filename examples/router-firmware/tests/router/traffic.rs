//! What a router does, packet by packet.

use crate::lab::{
    BURST, LAN, Lab, WAN,
    frames::{
        self, CLIENT, Host, ROUTER_LAN, ROUTER_WAN, SERVER, UPSTREAM, arp_reply, arp_request,
        forwarded, header, icmp, packet, udp,
    },
    path,
};
use etherparse::{
    IcmpEchoHeader, Icmpv4Type, IpFragOffset, IpNumber, Ipv4Options,
    icmpv4::{DestUnreachableHeader, TimeExceededCode},
};

const PORTS: [usize; 2] = [LAN, WAN];

/// Bytes that differ, of any length.
fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn arp_and_echo_requests_are_answered_on_both_sides() {
    let mut lab = Lab::start_acquainted();
    for port in PORTS {
        let (host, router, far, _) = path(port);
        for (address, len) in [(router.ip, 0), (router.ip, 56), (far.ip, 1472), (router.ip, 33)] {
            let echo = IcmpEchoHeader { id: 7, seq: len as u16 };
            let message = icmp(Icmpv4Type::EchoRequest(echo), &data(len));
            let asked = header(host.ip, address, IpNumber::ICMP, &message);
            let reply = icmp(Icmpv4Type::EchoReply(echo), &data(len));
            let answer = header(address, host.ip, IpNumber::ICMP, &reply);
            let frame = packet(host.mac, router.mac, &asked, &message);
            let expected = packet(router.mac, host.mac, &answer, &reply);
            lab.expect(port, &frame, port, &expected);
        }
        // Who takes an address asks for it first, as nobody.
        let nobody = Host { ip: [0; 4], ..host };
        let reply = arp_reply(router, nobody);
        lab.expect(port, &arp_request(nobody, router.ip), port, &reply);
        // Padded, as a card pads what is shorter than Ethernet allows.
        let padded = [arp_request(host, router.ip), vec![0x55; 18]].concat();
        lab.expect(port, &padded, port, &arp_reply(router, host));
    }
    let counters = lab.settle();
    assert_eq!((counters.sum("answered"), counters.sum("received")), (14, 14));
    assert_eq!(lab.ask('n').len(), 2, "nobody is not a neighbour");
    lab.finish();
}

#[test]
fn packets_are_forwarded_both_ways_byte_by_byte() {
    let mut lab = Lab::start_acquainted();
    for port in PORTS {
        let (from, router, far, to) = path(port);
        let mut check = |header, payload: &[u8]| {
            let frame = packet(from.mac, router.mac, &header, payload);
            let expected = forwarded(&frame, far, to);
            lab.expect(port, &frame, 1 - port, &expected);
            let padded = [&frame[..], &[0xaa; 9]].concat();
            if padded.len() <= 1514 {
                lab.expect(port, &padded, 1 - port, &expected);
            }
        };
        for len in [0, 1, 2, 17, 64, 511, 1000, 1459, 1460] {
            let (mut header, segment) = frames::tcp(from.ip, to.ip, &data(len));
            header.dont_fragment = true;
            check(header, &segment);
            let (mut header, datagram) = udp(from.ip, to.ip, &data(len));
            header.time_to_live = 2 + (len % 254) as u8;
            header.dscp = 46.try_into().unwrap();
            header.identification = len as u16;
            check(header, &datagram);
        }
        // Other protocols, options, pings of others: it is all the same to a router.
        let mut options = header(from.ip, to.ip, IpNumber::GRE, &data(99));
        options.options = Ipv4Options::try_from(&[1, 1, 1, 0][..]).unwrap();
        options.total_len += 4;
        check(options, &data(99));
        let ping = icmp(Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 2 }), &data(56));
        check(header(from.ip, to.ip, IpNumber::ICMP, &ping), &ping);
        // Fragments, in the wrong order and overlapping.
        for (offset, len, more) in
            [(185, 1480, true), (0, 1480, true), (370, 8, false), (1, 16, true)]
        {
            let payload = data(len);
            let mut fragment = header(from.ip, to.ip, IpNumber::UDP, &payload);
            fragment.dont_fragment = false;
            fragment.fragment_offset = IpFragOffset::try_new(offset).unwrap();
            fragment.more_fragments = more;
            check(fragment, &payload);
        }
    }
    let counters = lab.settle();
    assert_eq!(counters.sum("forwarded"), counters.sum("sent") - 2, "all but two ARP replies");
    assert!(lab.ask('f').iter().any(|line| line.contains("192.168.10.11:50000 10.20.0.80:80")));
    lab.finish();
}

#[test]
fn the_longest_route_decides_and_gateways_forward() {
    let mut lab = Lab::start();
    let gateway = |port, ip, last| (port, Host { mac: [2, 0, 0, 0, 0x99, last], ip });
    let routes = [
        ([8, 8, 8, 8], (WAN, UPSTREAM)),
        ([172, 16, 99, 1], gateway(WAN, [10, 20, 0, 99], 99)),
        // Out by the port it came in at: the router does not mind.
        ([172, 16, 98, 1], gateway(LAN, [192, 168, 10, 2], 2)),
        ([10, 20, 0, 80], (WAN, SERVER)),
    ];
    for (destination, (port, next_hop)) in routes {
        let router = [ROUTER_LAN, ROUTER_WAN][port];
        let (header, datagram) = udp(CLIENT.ip, destination, b"which way?");
        let frame = packet(CLIENT.mac, ROUTER_LAN.mac, &header, &datagram);
        // The first waits until the next hop has said who it is, the second need not.
        lab.expect(LAN, &frame, port, &arp_request(router, next_hop.ip));
        lab.expect(port, &arp_reply(next_hop, router), port, &forwarded(&frame, router, next_hop));
        lab.expect(LAN, &frame, port, &forwarded(&frame, router, next_hop));
    }
    lab.finish();
}

#[test]
fn senders_are_told_what_is_wrong() {
    let mut lab = Lab::start_acquainted();
    let expired = Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit);
    let unreachable = Icmpv4Type::DestinationUnreachable;
    for port in PORTS {
        let (from, router, _, to) = path(port);
        let mut check = |to, hops, len, protocol, kind| {
            let (mut header, datagram) = udp(from.ip, to, &data(len));
            header.time_to_live = hops;
            header.protocol = protocol;
            let frame = packet(from.mac, router.mac, &header, &datagram);
            lab.expect(port, &frame, port, &frames::error(&frame, router, kind));
        };
        for len in [0, 8, 100, 519, 520, 521, 1472] {
            check(to.ip, 1, len, IpNumber::UDP, expired.clone());
            check(to.ip, 0, len, IpNumber::UDP, expired.clone());
            let network = unreachable(DestUnreachableHeader::Network);
            check([198, 18, 3, 4], 64, len, IpNumber::UDP, network);
        }
        check(router.ip, 64, 9, IpNumber::UDP, unreachable(DestUnreachableHeader::Port));
        check(router.ip, 1, 9, IpNumber::GRE, unreachable(DestUnreachableHeader::Protocol));
    }
    let counters = lab.settle();
    assert_eq!(counters.sum("icmp-errors"), 2 * 23);
    assert_eq!((counters.sum("expired"), counters.sum("no-route")), (28, 14));
    lab.finish();
}

#[test]
fn nobody_is_told_about_what_must_stay_unanswered() {
    let mut lab = Lab::start_acquainted();
    let mut send = |from: [u8; 4], to: [u8; 4], protocol, payload: &[u8], offset| {
        let mut header = header(from, to, protocol, payload);
        header.time_to_live = 1;
        header.dont_fragment = false;
        header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        lab.cables[LAN].send(&packet(CLIENT.mac, ROUTER_LAN.mac, &header, payload));
    };
    let error = icmp(Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit), &data(28));
    send(CLIENT.ip, SERVER.ip, IpNumber::ICMP, &error, 0);
    send(CLIENT.ip, SERVER.ip, IpNumber::UDP, &data(64), 9);
    let broadcast = [192, 168, 10, 255];
    let martians = [[0; 4], [127, 0, 0, 1], [224, 0, 0, 5], [255; 4], ROUTER_WAN.ip, broadcast];
    for source in martians {
        send(source, SERVER.ip, IpNumber::UDP, &data(64), 0);
    }
    for destination in [[127, 0, 0, 1], [239, 1, 1, 1], broadcast, [10, 20, 0, 255]] {
        send(CLIENT.ip, destination, IpNumber::UDP, &data(64), 0);
    }
    let counters = lab.settle();
    assert_eq!((counters.of("expired", LAN), counters.of("martian", LAN)), (2, 10));
    assert_eq!(counters.sum("sent"), 2, "two ARP replies");
    lab.finish();
}

#[test]
fn a_neighbour_that_does_not_answer_is_unreachable() {
    let mut lab = Lab::start_acquainted();
    let missing = [10, 20, 0, 66];
    let frames: Vec<_> = (0..12)
        .map(|n| {
            let (header, datagram) = udp(CLIENT.ip, missing, &data(n));
            packet(CLIENT.mac, ROUTER_LAN.mac, &header, &datagram)
        })
        .collect();
    for frame in &frames {
        lab.cables[LAN].send(frame);
    }
    let counters = lab.settle_held();
    // Eight wait, in vain; their sender hears of it, in order. The rest found the queue full.
    assert_eq!((counters.of("queue-full", LAN), counters.of("unresolved", LAN)), (4, 8));
    let [lan, wan] = lab.collect(&counters);
    let kind = || Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host);
    let errors = frames[..8].iter().map(|frame| frames::error(frame, ROUTER_LAN, kind()));
    assert_eq!(lan, errors.collect::<Vec<_>>());
    assert_eq!(wan, vec![arp_request(ROUTER_WAN, missing); 3]);
    lab.finish();
}

/// Rings count what they have carried in 16 bits.
#[test]
fn more_frames_than_a_ring_can_count_pass() {
    let mut lab = Lab::start_acquainted();
    let (from, router, far, to) = path(LAN);
    let (header, datagram) = udp(from.ip, to.ip, b"one of many");
    let frame = packet(from.mac, router.mac, &header, &datagram);
    let expected = forwarded(&frame, far, to);
    for _ in 0..70_000 / BURST {
        (0..BURST).for_each(|_| lab.cables[LAN].send(&frame));
        for _ in 0..BURST {
            assert_eq!(lab.cables[WAN].receive(), expected);
        }
    }
    assert!(lab.settle().of("forwarded", LAN) > u64::from(u16::MAX));
    lab.finish();
}

/// More frames than there are buffers, for neighbours that do not answer yet: the router drops, and
/// counts, and holds what it can. Then they answer.
#[test]
fn a_flood_is_counted_to_the_last_frame_and_leaves_no_trace() {
    let mut lab = Lab::start_acquainted();
    let strangers: Vec<_> =
        (100..120).map(|n| Host { mac: [2, 0, 0, 0, 0x20, n], ip: [10, 20, 0, n] }).collect();
    let mut flood = Vec::new();
    let counters = loop {
        // Frames that tell where they are for, and when they were sent.
        for stranger in strangers.iter().cycle().take(BURST) {
            let number = (flood.len() as u32).to_be_bytes();
            let (header, datagram) =
                udp(CLIENT.ip, stranger.ip, &[&number, &data(1200)[..]].concat());
            let frame = packet(CLIENT.mac, ROUTER_LAN.mac, &header, &datagram);
            lab.cables[LAN].send(&frame);
            flood.push((frame, stranger));
        }
        let counters = lab.settle();
        if flood.len() >= 20 * BURST && counters.of("no-buffer", LAN) > 0 {
            break counters;
        }
    };
    assert!(counters.of("neighbours-full", LAN) > 0, "there are more strangers than places");
    assert_eq!(lab.ask('v'), ["valid"]);
    // While the local network's buffers are all taken, the other side's are not.
    let (answer, datagram) = udp(SERVER.ip, CLIENT.ip, b"still there?");
    let frame = packet(SERVER.mac, ROUTER_WAN.mac, &answer, &datagram);
    lab.cables[WAN].send(&frame);
    // The strangers answer: what was held for them comes.
    for &stranger in &strangers {
        lab.cables[WAN].send(&arp_reply(stranger, ROUTER_WAN));
    }
    let counters = lab.settle_held();
    let [lan, wan] = lab.collect(&counters);
    assert!(lan.contains(&forwarded(&frame, ROUTER_LAN, CLIENT)));

    // Each frame that came out is one of the flood, unharmed, and came out once.
    let mut awaited = flood.clone();
    let mut arrived = 0;
    for frame in wan.iter().filter(|frame| frame[12..14] == [8, 0]) {
        let position =
            awaited.iter().position(|(sent, to)| *frame == forwarded(sent, ROUTER_WAN, **to));
        awaited.swap_remove(position.expect("a frame of the flood"));
        arrived += 1;
    }
    // What is missing is what the router says it dropped, by cause.
    let causes = ["no-buffer", "queue-full", "neighbours-full", "unresolved"];
    let dropped = causes.iter().map(|cause| counters.of(cause, LAN)).sum::<u64>();
    println!("flood: {} sent, {arrived} arrived, {dropped} dropped:", flood.len());
    for cause in causes {
        println!("  {cause} {}", counters.of(cause, LAN));
    }
    assert_eq!(arrived, counters.of("forwarded", LAN));
    assert_eq!(flood.len() as u64, arrived + dropped);

    // Traffic flows again.
    lab.introduce();
    for port in PORTS.repeat(100) {
        let (from, router, far, to) = path(port);
        let (header, datagram) = udp(from.ip, to.ip, b"again");
        let frame = packet(from.mac, router.mac, &header, &datagram);
        lab.expect(port, &frame, 1 - port, &forwarded(&frame, far, to));
    }
    lab.finish();
}
