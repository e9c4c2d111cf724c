//! Where every packet went. Each stage counts for itself; the sums meet at the end.

use std::ops::AddAssign;

use crate::memory::{Spent, Timed};

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// No buffer was free: the pool is too small for the load.
    NoBuffer,
    /// Longer than a buffer takes.
    TooLong,
    /// Its headers are broken.
    Malformed,
    /// There was no room for a session with its peer.
    NoSession,
    /// The output file took no more.
    NotWritten,
}

impl DropReason {
    /// Every reason, with the words for it.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::NoBuffer, "no buffer"),
        (Self::TooLong, "too long"),
        (Self::Malformed, "malformed"),
        (Self::NoSession, "no session"),
        (Self::NotWritten, "not written"),
    ];
}

/// What the stages counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub received: u64,
    pub received_bytes: u64,
    pub transmitted: u64,
    pub transmitted_bytes: u64,
    /// Of the transmitted: sealed by the VPN.
    pub sealed: u64,
    pub denied: u64,
    dropped: [u64; DropReason::ALL.len()],
    /// Entries of the tables, at the end.
    pub flows: usize,
    pub busiest_flow: u64,
    pub sessions: usize,
    /// Packets whose flow found no place in the table.
    pub uncached: u64,
    /// What packet buffers cost.
    pub allocating: Spent,
    pub freeing: Spent,
}

impl Counters {
    /// Counts a dropped packet.
    pub fn count_drop(&mut self, why: DropReason) {
        self.dropped[why as usize] += 1;
    }

    /// Takes over what a stage's cache has timed.
    pub fn cost<C>(&mut self, cache: &Timed<C>) {
        self.allocating = self.allocating.and(cache.allocating);
        self.freeing = self.freeing.and(cache.freeing);
    }

    /// Packets dropped for this reason.
    pub fn dropped(&self, why: DropReason) -> u64 {
        self.dropped[why as usize]
    }

    /// Packets dropped for any reason.
    pub fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Packets that were received and then not heard of: 0 unless the program is wrong.
    pub fn lost(&self) -> u64 {
        let known = self.transmitted + self.denied + self.dropped_in_all();
        self.received.abs_diff(known)
    }
}

impl AddAssign<&Self> for Counters {
    fn add_assign(&mut self, other: &Self) {
        self.received += other.received;
        self.received_bytes += other.received_bytes;
        self.transmitted += other.transmitted;
        self.transmitted_bytes += other.transmitted_bytes;
        self.sealed += other.sealed;
        self.denied += other.denied;
        for (sum, more) in self.dropped.iter_mut().zip(other.dropped) {
            *sum += more;
        }
        self.flows += other.flows;
        self.busiest_flow = self.busiest_flow.max(other.busiest_flow);
        self.sessions += other.sessions;
        self.uncached += other.uncached;
        self.allocating = self.allocating.and(other.allocating);
        self.freeing = self.freeing.and(other.freeing);
    }
}
