//! A packet pool: the network appliance of the C library's README.
//!
//! A receive thread allocates packets in bursts, a transmit thread frees them; neither takes a
//! lock per packet.
//!
//! `cargo run --release --features std --example packet_pool`

use std::{error::Error, ptr::NonNull, sync::mpsc, thread};

use libmempool::{MmapPages, Pool, PthreadMutex, SizeClass};

struct Packet {
    id: u32,
    length: u16,
    data: [u8; 1500],
}

const BURST: usize = 32;
const BURSTS: u32 = 10_000;

/// A burst on its way to the transmit thread, which owns its packets from then on.
struct Burst([NonNull<Packet>; BURST]);

// SAFETY: packets are plain bytes, and a burst is their only owner.
unsafe impl Send for Burst {}

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::<PthreadMutex>::builder()
        .alignment(64)
        .size_class(SizeClass::new(size_of::<Packet>()).reserve(10_000))
        .map(MmapPages::new(), 64 << 20)?;
    pool.warm_up()?;
    let packets = pool.class_of(size_of::<Packet>())?;
    let (send, receive) = mpsc::sync_channel::<Burst>(64);

    let bytes = thread::scope(|scope| {
        let transmit = scope.spawn(|| {
            let mut cache = pool.local_cache();
            let mut bytes = 0;
            for Burst(burst) in receive {
                // SAFETY: the burst is this thread's, and its packets were filled in.
                bytes += burst
                    .iter()
                    .map(|packet| usize::from(unsafe { packet.as_ref() }.length))
                    .sum::<usize>();
                // SAFETY: nobody uses the packets any more.
                unsafe { cache.free_bulk(packets, &burst.map(NonNull::cast)) }
                    .expect("our own packets");
            }
            bytes
        });
        let mut cache = pool.local_cache();
        for number in 0..BURSTS {
            let mut burst = [NonNull::dangling(); BURST];
            cache.alloc_bulk(packets, &mut burst).expect("a reserve of 10 000");
            for (id, slot) in (number * 32..).zip(burst) {
                // SAFETY: the slot is fresh, and large and aligned enough.
                unsafe { slot.cast().write(Packet { id, length: 1500, data: [0; 1500] }) };
            }
            send.send(Burst(burst.map(NonNull::cast))).expect("transmit runs until we stop");
        }
        drop(send);
        transmit.join().expect("transmit does not panic")
    });

    println!("{} packets, {bytes} bytes", BURSTS * 32);
    println!("{}", pool.class_stats(packets).expect("the class"));
    println!("leaked: {}", pool.destroy());
    // The fields that only the real appliance reads.
    let _ = |packet: Packet| (packet.id, packet.data);
    Ok(())
}
