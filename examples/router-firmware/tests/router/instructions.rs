//! What a packet costs. Packets per second under an emulator say nothing about any processor, but
//! with `-icount` QEMU counts the instructions that the firmware executes.

use crate::lab::{
    BURST, LAN, Lab, WAN,
    frames::{forwarded, packet, udp},
    path,
};

/// From `instructions` and `frames`, as the console answers.
fn work(lab: &mut Lab) -> (u64, u64) {
    let answer = lab.ask('i').join(" ");
    let mut numbers = answer.split_whitespace().filter_map(|word| word.parse().ok());
    let mut number = || numbers.next().unwrap_or_else(|| panic!("two numbers in {answer}"));
    (number(), number())
}

#[test]
fn instructions_per_forwarded_packet() {
    let mut lab = Lab::start_with(&["-icount", "shift=0"]);
    lab.introduce();
    println!("instructions per forwarded packet, receive to transmit complete:");
    for (len, burst) in [(18, 1), (18, BURST), (1472, 1), (1472, BURST)] {
        let (before, frames_before) = work(&mut lab);
        for _ in 0..512 / burst {
            let (from, router, far, to) = path(LAN);
            let (header, datagram) = udp(from.ip, to.ip, &vec![7; len]);
            let frame = packet(from.mac, router.mac, &header, &datagram);
            (0..burst).for_each(|_| lab.cables[LAN].send(&frame));
            for _ in 0..burst {
                assert_eq!(lab.cables[WAN].receive(), forwarded(&frame, far, to));
            }
        }
        lab.settle();
        let (after, frames) = work(&mut lab);
        let each = (after - before) / (frames - frames_before);
        println!("  {:>4} bytes, {burst:>2} at a time: {each}", len + 28);
        assert_eq!(frames - frames_before, 512);
    }
    for line in lab.ask('i').iter().skip(1) {
        println!("  {line}");
    }
    lab.finish();
}
