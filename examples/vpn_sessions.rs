//! VPN sessions: typed objects that drop their contents and return their slot by themselves.
//!
//! `cargo run --release --features std --example vpn_sessions`

use std::{collections::HashMap, error::Error, net::Ipv4Addr, time::Instant};

use libmempool::{MmapPages, ObjectPool, Pool, PthreadMutex, SizeClass};

struct Session {
    id: u32,
    created: Instant,
    bytes_transferred: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::<PthreadMutex>::builder().map(MmapPages::new(), 32 << 20)?;
    let class = SizeClass::new(size_of::<Session>()).reserve(50_000).limit(50_000);
    let sessions = ObjectPool::with_class(&pool, class)?;

    let mut by_peer = HashMap::new();
    for id in 0..60_000 {
        let session = Session { id, created: Instant::now(), bytes_transferred: 0 };
        match sessions.insert(session) {
            Ok(session) => by_peer.insert(Ipv4Addr::from_bits(0x0A00_0000 + id), session),
            Err(refused) => {
                println!("session {} refused: {refused}", refused.value.id);
                break;
            }
        };
    }
    let peer = Ipv4Addr::new(10, 0, 0, 7);
    if let Some(session) = by_peer.get_mut(&peer) {
        session.bytes_transferred += 1400;
        println!("{peer}: {} bytes in {:?}", session.bytes_transferred, session.created.elapsed());
    }
    // A peer that leaves makes room for the next one.
    by_peer.remove(&peer);
    let session = Session { id: 60_000, created: Instant::now(), bytes_transferred: 0 };
    by_peer.insert(peer, sessions.insert(session)?);

    println!("{} sessions", by_peer.len());
    println!("{}", pool.class_stats(sessions.class()).expect("the class"));
    drop(by_peer);
    println!("live after the last one left: {}", pool.stats().live_objects);
    Ok(())
}
