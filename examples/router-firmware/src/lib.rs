//! An IPv4 router that keeps everything in one static region: the part that knows packets, and
//! nothing of any board. `main.rs` puts it on one.
//!
//! A frame comes in by [`Router::receive`](router::Router::receive) and meets one fate
//! ([`counters::Fate`]): it is forwarded, answered, consumed, held until its next hop is known, or
//! dropped for a cause. What is to be sent waits in the router's outboxes. Read `router` first.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod arp;
pub mod config;
pub mod counters;
pub mod flow;
pub mod frame;
pub mod icmp;
pub mod ipv4;
pub mod memory;
pub mod router;
pub mod routes;

#[cfg(test)]
mod tests;

/// Milliseconds since the board started.
pub type Millis = u64;

/// Which of the router's ports: an index into everything that there is one of per port.
pub type PortId = usize;
