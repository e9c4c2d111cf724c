//! Flows: who talks to whom, counted. A chained hash table whose entries lie in the pool.

use libmempool::ConfigError;
use smoltcp::wire::{ETHERNET_HEADER_LEN, IpProtocol, Ipv4Address};

use crate::{
    Millis,
    config::{FLOW_IDLE, FLOWS},
    frame::Frame,
    ipv4::Header,
    memory::{self, Memory, Objects, Owned},
};

/// Chains of the hash table.
const CHAINS: usize = FLOWS.next_power_of_two() / 2;

/// What the packets of a flow have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Who sends.
    pub source: Ipv4Address,
    /// Who receives.
    pub destination: Ipv4Address,
    /// By what.
    pub protocol: IpProtocol,
    /// From and to which port; zero where there is none, or a fragment does not show it.
    pub ports: (u16, u16),
}

/// One direction of a conversation.
pub struct Flow {
    /// Whose.
    pub key: Key,
    /// Packets that had a route.
    pub packets: u32,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
    last: Millis,
    next: Option<Owned<Flow>>,
}

/// The flows there are.
pub struct Flows {
    objects: Objects<Flow>,
    chains: [Option<Owned<Flow>>; CHAINS],
    /// Packets of flows that found no room in the table.
    pub uncounted: u32,
}

impl Flows {
    /// An empty table.
    ///
    /// # Errors
    /// [`ConfigError`] if it does not fit the memory.
    pub fn new(memory: &'static Memory) -> Result<Self, ConfigError> {
        let objects = memory::objects(memory, FLOWS)?;
        Ok(Self { objects, chains: [const { None }; CHAINS], uncounted: 0 })
    }

    /// Counts a packet that has a route.
    pub fn count(&mut self, frame: &Frame, header: &Header, now: Millis) {
        let key = Key::of(frame, header);
        let bytes = header.total_len as u64;
        let chain = &mut self.chains[key.hash() % CHAINS];
        if let Some(flow) = find(chain, |flow| flow.key == key) {
            flow.packets = flow.packets.saturating_add(1);
            flow.bytes += bytes;
            flow.last = now;
            return;
        }
        let next = chain.take();
        match self.objects.insert(Flow { key, packets: 1, bytes, last: now, next }) {
            Ok(flow) => *chain = Some(flow),
            Err(mut refused) => {
                *chain = refused.value.next.take();
                self.replace_oldest(refused.value);
            }
        }
    }

    /// The table is full: the flow of the same chain that has been silent longest makes room.
    fn replace_oldest(&mut self, mut new: Flow) {
        let chain = &mut self.chains[new.key.hash() % CHAINS];
        let oldest = links(chain.as_ref()).map(|flow| flow.last).min();
        match find(chain, |flow| Some(flow.last) == oldest) {
            Some(flow) => {
                new.next = flow.next.take();
                *flow = new;
            }
            None => self.uncounted = self.uncounted.saturating_add(1),
        }
    }

    /// Forgets flows that have been silent for `idle`.
    fn forget_after(&mut self, idle: Millis, now: Millis) {
        for chain in &mut self.chains {
            let mut rest = chain.take();
            while let Some(mut flow) = rest {
                rest = flow.next.take();
                if now < flow.last + idle {
                    flow.next = chain.take();
                    *chain = Some(flow);
                }
            }
        }
    }

    /// Forgets flows that have been idle too long.
    pub fn tick(&mut self, now: Millis) {
        self.forget_after(FLOW_IDLE, now);
    }

    /// Forgets all flows.
    pub fn forget(&mut self) {
        self.forget_after(0, Millis::MAX);
    }

    /// All flows.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.chains.iter().flat_map(|chain| links(chain.as_ref()))
    }
}

/// The flows of a chain.
fn links(chain: Option<&Owned<Flow>>) -> impl Iterator<Item = &Flow> {
    core::iter::successors(chain.map(|flow| &**flow), |flow| flow.next.as_deref())
}

/// The first flow of a chain that meets a condition.
fn find(chain: &mut Option<Owned<Flow>>, wanted: impl Fn(&Flow) -> bool) -> Option<&mut Flow> {
    let mut link = chain.as_deref_mut();
    while let Some(flow) = link {
        if wanted(flow) {
            return Some(flow);
        }
        link = flow.next.as_deref_mut();
    }
    None
}

impl Key {
    fn of(frame: &Frame, header: &Header) -> Self {
        let has_ports = matches!(header.protocol, IpProtocol::Tcp | IpProtocol::Udp);
        let ports = frame
            .get(ETHERNET_HEADER_LEN + header.header_len..)
            .and_then(<[u8]>::first_chunk)
            .filter(|_| has_ports && !header.is_fragment)
            .map_or((0, 0), |&[a, b, c, d]| {
                (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
            });
        let Header { source, destination, protocol, .. } = *header;
        Self { source, destination, protocol, ports }
    }

    /// Multiplicative, each part spread over the word. Not proof against an attacker who chooses
    /// addresses; the table's limit bounds how long a chain can get.
    fn hash(&self) -> usize {
        let ports = u32::from(self.ports.0) << 16 | u32::from(self.ports.1);
        let parts = [self.source.to_bits(), self.destination.to_bits(), ports];
        let mixed = parts.iter().fold(u32::from(u8::from(self.protocol)), |hash, part| {
            (hash.rotate_left(5) ^ part).wrapping_mul(0x9e37_79b9)
        });
        (mixed >> 16) as usize
    }
}
