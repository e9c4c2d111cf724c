//! What became of the frames: every received one is counted under exactly one fate.

use core::fmt;

use crate::{
    PortId,
    config::{PORT, PORTS},
};

/// What became of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Sent on, to the next hop.
    Forwarded,
    /// Turned into a reply, or replied to.
    Answered,
    /// It was for the router, which has learned what it says.
    Consumed,
    /// It waits until the next hop's address is known.
    Held,
    /// Dropped.
    Dropped(Cause),
}

macro_rules! causes {
    ($($(#[$doc:meta])* $cause:ident $name:literal,)*) => {
        /// Why a frame was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Cause { $($(#[$doc])* $cause,)* }

        impl Cause {
            /// All of them, and their names.
            pub const ALL: &[(Self, &str)] = &[$((Self::$cause, $name),)*];
        }
    };
}

causes! {
    /// A header that is cut short or contradicts itself.
    Malformed "malformed",
    /// An IP or ICMP checksum is wrong.
    Checksum "checksum",
    /// The card's address is not the destination.
    NotForUs "not-for-us",
    /// Neither IPv4 nor ARP.
    Protocol "protocol",
    /// An ARP packet that no honest neighbour sends.
    BadArp "bad-arp",
    /// An address that must not appear on the way.
    Martian "martian",
    /// It has been under way for too many hops.
    Expired "expired",
    /// No route to its destination.
    NoRoute "no-route",
    /// Longer than the network ahead takes.
    TooBig "too-big",
    /// For the router itself, which offers no such service.
    NoService "no-service",
    /// The next hop does not answer.
    Unresolved "unresolved",
    /// Too many frames wait for the next hop already.
    QueueFull "queue-full",
    /// Too many neighbours are asked for already.
    NeighboursFull "neighbours-full",
    /// No buffer to receive the next one in its place.
    NoBuffer "no-buffer",
}

/// Counters of one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames that came in here.
    pub received: u64,
    /// Of these: sent on.
    pub forwarded: u64,
    /// Of these: replied to.
    pub answered: u64,
    /// Of these: learned from.
    pub consumed: u64,
    /// Of these: waiting now.
    pub held: u64,
    /// Of these: dropped, by cause.
    pub dropped: [u64; Cause::ALL.len()],
    /// Frames given to this card.
    pub sent: u64,
    /// ARP requests of ours among them.
    pub arp_requests: u64,
    /// ICMP errors of ours among them.
    pub icmp_errors: u64,
    /// Requests and errors that were not sent, for want of a buffer.
    pub unsaid: u64,
}

/// Counters of all ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By port.
    pub ports: [PortCounters; PORTS],
}

impl Counters {
    /// A frame came in.
    pub fn received(&mut self, port: PortId) {
        self.ports[port].received += 1;
    }

    /// What became of a frame that came in at `port`.
    pub fn count(&mut self, port: PortId, fate: Fate) {
        let counters = &mut self.ports[port];
        let counter = match fate {
            Fate::Forwarded => &mut counters.forwarded,
            Fate::Answered => &mut counters.answered,
            Fate::Consumed => &mut counters.consumed,
            Fate::Held => &mut counters.held,
            Fate::Dropped(cause) => &mut counters.dropped[cause as usize],
        };
        *counter += 1;
    }

    /// What became of a frame that was held.
    pub fn count_held(&mut self, port: PortId, fate: Fate) {
        self.ports[port].held -= 1;
        self.count(port, fate);
    }

    /// Whether every received frame has its fate.
    pub fn is_balanced(&self) -> bool {
        self.ports.iter().all(|port| {
            let kept = port.forwarded + port.answered + port.consumed + port.held;
            port.received == kept + port.dropped.iter().sum::<u64>()
        })
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<16}", "frames")?;
        PORT.iter().try_for_each(|port| write!(f, "{:>11}", port.name))?;
        writeln!(f)?;
        let mut row = |name: &str, counter: &dyn Fn(&PortCounters) -> u64| {
            write!(f, "{name:<16}")?;
            self.ports.iter().try_for_each(|port| write!(f, "{:>11}", counter(port)))?;
            writeln!(f)
        };
        row("received", &|port| port.received)?;
        row("forwarded", &|port| port.forwarded)?;
        row("answered", &|port| port.answered)?;
        row("consumed", &|port| port.consumed)?;
        row("held", &|port| port.held)?;
        for (cause, name) in Cause::ALL {
            row(name, &|port| port.dropped[*cause as usize])?;
        }
        row("sent", &|port| port.sent)?;
        row("arp-requests", &|port| port.arp_requests)?;
        row("icmp-errors", &|port| port.icmp_errors)?;
        row("unsaid", &|port| port.unsaid)
    }
}
