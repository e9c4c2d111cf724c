//! The firmware, tested from outside: QEMU runs it, these tests hold the far ends of its two cables
//! and of its serial line, and look at every byte that comes out.
//!
//! No verdict depends on time: a burst is smaller than what sockets hold, and whether the router is
//! done with it is read from its own counters, in which every frame must be accounted for.

mod lab;

mod instructions;
mod malformed;
mod replay;
mod traffic;
