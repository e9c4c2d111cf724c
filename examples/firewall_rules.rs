//! A firewall's rules: a single-threaded pool without a lock, and a growing table inside it.
//!
//! `cargo run --release --features std --example firewall_rules`

use std::{error::Error, net::Ipv4Addr};

use allocator_api2::vec::Vec;
use libmempool::{MmapPages, NoLock, Pool};

#[derive(Clone, Copy, PartialEq)]
enum Action {
    Accept,
    Drop,
}

struct Rule {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    port: u16,
    action: Action,
}

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::<NoLock>::builder().map(MmapPages::new(), 16 << 20)?;

    // The table grows where it is while the memory behind it is free.
    let mut rules = Vec::new_in(&pool);
    for n in 0..100_000_u32 {
        rules.push(Rule {
            source: Ipv4Addr::from_bits(0x0A00_0000 + n),
            destination: Ipv4Addr::new(192, 0, 2, 1),
            port: 443,
            action: if n % 10 == 0 { Action::Drop } else { Action::Accept },
        });
    }
    let (from, to) = (Ipv4Addr::new(10, 0, 0, 10), Ipv4Addr::new(192, 0, 2, 1));
    let verdict = rules
        .iter()
        .find(|rule| rule.source == from && rule.destination == to && rule.port == 443)
        .map_or("no rule", |rule| if rule.action == Action::Drop { "drop" } else { "accept" });
    println!("{from} -> {to}:443: {verdict}");

    println!("{}", pool.stats());
    pool.validate()?;
    Ok(())
}
