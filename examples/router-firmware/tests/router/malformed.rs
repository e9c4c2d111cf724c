//! Frames that no honest host sends: the firmware drops or answers them, accounts for each, and is
//! afterwards what it was before. The generator is seeded: a failure repeats.

use crate::lab::{
    BURST, LAN, Lab, WAN,
    frames::{
        self, ETHERNET, Host, ROUTER_LAN, ROUTER_WAN, arp_reply, arp_request, header, icmp, packet,
        tcp, udp,
    },
    path,
};
use etherparse::{IcmpEchoHeader, Icmpv4Type, IpFragOffset, IpNumber};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

const SEED: u64 = 0x726f_7574_6572;
const FRAMES: usize = 6000;

/// Sound frames of every kind that the router knows, to be spoilt.
fn sound(port: usize) -> Vec<Vec<u8>> {
    let (from, router, far, to) = path(port);
    let data: Vec<u8> = (0..200).collect();
    let ping = icmp(Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 1 }), &data);
    let mut fragment = header(from.ip, to.ip, IpNumber::UDP, &data);
    fragment.fragment_offset = IpFragOffset::try_new(100).expect("13 bits");
    let packets = [
        udp(from.ip, to.ip, &data),
        tcp(from.ip, to.ip, &data),
        tcp(from.ip, [198, 18, 0, 1], &data),
        (header(from.ip, router.ip, IpNumber::ICMP, &ping), ping.clone()),
        (header(from.ip, far.ip, IpNumber::ICMP, &ping), ping),
        (fragment, data),
    ];
    let mut frames = vec![arp_request(from, router.ip), arp_reply(from, router)];
    frames.extend(packets.iter().map(|(ip, payload)| packet(from.mac, router.mac, ip, payload)));
    frames
}

/// One bad frame.
fn spoil(sound: &[Vec<u8>], random: &mut SmallRng) -> Vec<u8> {
    let mut frame = sound.choose(random).expect("some").clone();
    match random.random_range(0..6) {
        // Cut short, anywhere.
        0 => frame.truncate(random.random_range(1..frame.len())),
        // Some bits flipped, mostly in the headers.
        1 | 2 => {
            for _ in 0..random.random_range(1..8) {
                let span = if random.random_bool(0.8) { frame.len().min(60) } else { frame.len() };
                frame[random.random_range(0..span)] ^= 1 << random.random_range(0..8);
            }
        }
        // Headers of random bytes behind a sound Ethernet header.
        3 => {
            let end = frame.len().min(ETHERNET + 28);
            random.fill(&mut frame[ETHERNET..end]);
        }
        // A length, an address, or flags of random bytes.
        4 => {
            let at = *[2, 6, 8, 9, 12, 16].choose(random).expect("some");
            random.fill(&mut frame[ETHERNET + at..ETHERNET + at + 2]);
        }
        // Nothing but random bytes, of any length that a card passes on.
        _ => {
            frame = vec![0; random.random_range(1..=1514)];
            random.fill(&mut frame[..]);
        }
    }
    if frame.get(12..14) == Some(&[8, 0]) && random.random_bool(0.6) {
        // So that the damage is not found by that alone.
        frames::fill_checksum(&mut frame);
    }
    frame
}

/// Whether a frame that came out is this one, which was sent, one hop on; and that was sound.
fn is_forwarded(frame: &[u8], sent: &[u8]) -> bool {
    let mac = |bytes: &[u8]| Host { mac: bytes.try_into().expect("six bytes"), ip: [0; 4] };
    let hops = |frame: &[u8]| frame[ETHERNET + 8];
    // Up to the number of hops nothing changes; comparing it first saves time.
    if sent.len() < frame.len()
        || sent[ETHERNET..ETHERNET + 8] != frame[ETHERNET..ETHERNET + 8]
        || hops(sent) <= 1
    {
        return false;
    }
    let mut counted = sent.to_vec();
    frames::fill_checksum(&mut counted);
    counted == sent && frames::forwarded(sent, mac(&frame[6..12]), mac(&frame[..6])) == frame
}

/// Every packet that comes out was sent by the router itself, or to it.
fn check(received: &[Vec<Vec<u8>>; 2], sent: &[Vec<Vec<u8>>; 2]) {
    for port in [LAN, WAN] {
        for frame in received[port].iter().filter(|frame| frame[12..14] == [8, 0]) {
            let source = &frame[ETHERNET + 12..ETHERNET + 16];
            let of_router = [ROUTER_LAN.ip, ROUTER_WAN.ip].iter().any(|ip| ip == source);
            let forwarded = sent.iter().flatten().any(|sent| is_forwarded(frame, sent));
            assert!(of_router || forwarded, "at port {port}: {frame:02x?}");
        }
    }
}

#[test]
fn malformed_frames_do_no_harm() {
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut lab = Lab::start_acquainted();
    let sound = [LAN, WAN].map(sound);
    let mut sent = [vec![], vec![]];
    for number in 0..FRAMES {
        let port = number % 2;
        let frame = spoil(&sound[port], &mut random);
        lab.cables[port].send(&frame);
        sent[port].push(frame);
        if number % BURST == 0 {
            let counters = lab.settle();
            check(&lab.collect(&counters), &sent);
        }
    }
    let counters = lab.settle();
    for cause in
        ["malformed", "checksum", "not-for-us", "protocol", "bad-arp", "martian", "expired"]
    {
        assert!(counters.sum(cause) > 0, "no frame was {cause}: {FRAMES} are too few");
    }
    check(&lab.collect(&counters), &sent);
    assert!(counters.sum("forwarded") > 100, "most would be dropped at once");
    lab.introduce();
    lab.finish();
}
