//! What each stage does with a packet.

use std::io;
use std::iter::zip;
use std::mem;
use std::sync::mpsc::{Receiver, SendError, SyncSender, TryRecvError};
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::counters::{Counters, DropReason};
use crate::flow::FlowTable;
use crate::headers::Headers;
use crate::memory::{PacketCache, PacketMemory, Timed};
use crate::packet::{BURST, Burst, MAX_FRAME, Packet};
use crate::pipeline::{Output, Plan};
use crate::rules::{Action, Rules};
use crate::vpn::Tunnels;

/// The next burst to work on; `None` once the stage before has ended.
fn next_burst(queue: &Receiver<Burst>, cache: &mut impl PacketCache) -> Option<Burst> {
    match queue.try_recv() {
        Ok(burst) => Some(burst),
        Err(TryRecvError::Disconnected) => None,
        Err(TryRecvError::Empty) => {
            cache.rest();
            queue.recv().ok()
        }
    }
}

/// Passes a burst on. If the next stage has died, its packets will be missing from the sums.
fn send(queue: &SyncSender<Burst>, burst: Burst, cache: &mut impl PacketCache) {
    if burst.is_empty() {
        return;
    }
    if let Err(SendError(mut burst)) = queue.send(burst) {
        cache.free(&mut burst);
    }
}

/// Receive: a buffer for every frame, and a worker for every flow.
pub struct Receive<C> {
    cache: Timed<C>,
    queues: Vec<SyncSender<Burst>>,
    /// What goes to each worker after this burst.
    pending: Vec<Burst>,
    /// Empty buffers.
    buffers: Burst,
    counters: Counters,
}

impl<C: PacketCache> Receive<C> {
    pub fn new(cache: C, queues: Vec<SyncSender<Burst>>) -> Self {
        let pending = queues.iter().map(|_| Burst::new()).collect();
        let cache = Timed::new(cache);
        Self { cache, queues, pending, buffers: Burst::new(), counters: Counters::default() }
    }

    /// Receives the whole capture as often as planned, then closes the workers' queues.
    pub fn run(mut self, plan: &Plan<'_>) -> Counters {
        for _ in 0..plan.repeat {
            let mut frames = plan.capture.frames();
            loop {
                let burst: ArrayVec<_, BURST> = frames.by_ref().take(BURST).collect();
                if burst.is_empty() {
                    break;
                }
                self.burst(&burst);
                plan.progress.inc(burst.len() as u64);
            }
        }
        self.cache.free(&mut self.buffers);
        self.counters.cost(&self.cache);
        self.counters
    }

    fn burst(&mut self, frames: &[(&[u8], Duration)]) {
        self.cache.fill(&mut self.buffers, frames.len());
        for &(frame, timestamp) in frames {
            self.counters.received += 1;
            self.counters.received_bytes += frame.len() as u64;
            if let Err(why) = self.frame(frame, timestamp) {
                self.counters.count_drop(why);
            }
        }
        for (queue, pending) in zip(&self.queues, &mut self.pending) {
            send(queue, mem::take(pending), &mut self.cache);
        }
    }

    fn frame(&mut self, frame: &[u8], timestamp: Duration) -> Result<(), DropReason> {
        if frame.len() > MAX_FRAME {
            return Err(DropReason::TooLong);
        }
        let headers = Headers::parse(frame).map_err(|_| DropReason::Malformed)?;
        let mut packet = self.buffers.pop().ok_or(DropReason::NoBuffer)?;
        packet.receive(frame, timestamp);
        packet.set_headers(headers);
        let worker = headers.map_or(0, |headers| headers.flow().worker(self.pending.len()));
        self.pending[worker].push(packet);
        Ok(())
    }
}

/// Firewall and VPN, for the flows of one worker.
pub struct Worker<'m, M: PacketMemory> {
    memory: &'m M,
    flows: FlowTable<M::Tables<'m>>,
    tunnels: Tunnels<'m, M>,
    counters: Counters,
}

impl<'m, M: PacketMemory> Worker<'m, M> {
    pub fn new(memory: &'m M, index: u8) -> Self {
        let first_spi = (u32::from(index) + 1) << 24;
        Self {
            memory,
            flows: FlowTable::new(memory.tables()),
            tunnels: Tunnels::new(memory, first_spi),
            counters: Counters::default(),
        }
    }

    /// Works until receive has ended; gives its tables back for the report.
    pub fn run(
        mut self,
        rules: &Rules<M::Tables<'m>>,
        input: &Receiver<Burst>,
        output: &SyncSender<Burst>,
    ) -> Self {
        let mut cache = Timed::new(self.memory.cache());
        while let Some(burst) = next_burst(input, &mut cache) {
            let (mut passed, mut discarded) = (Burst::new(), Burst::new());
            for mut packet in burst {
                let target =
                    if self.pass(&mut packet, rules) { &mut passed } else { &mut discarded };
                target.push(packet);
            }
            if !discarded.is_empty() {
                cache.free(&mut discarded);
            }
            send(output, passed, &mut cache);
        }
        self.counters.cost(&cache);
        self
    }

    /// Everything this worker counted, and the size of its tables.
    pub fn totals(&self) -> Counters {
        let mut totals = self.counters.clone();
        totals.flows = self.flows.len();
        totals.busiest_flow = self.flows.busiest();
        totals.uncached = self.flows.uncached();
        totals.sessions = self.tunnels.len();
        totals
    }

    /// Firewall, then VPN. False if the packet ends here; then it has been counted.
    fn pass(&mut self, packet: &mut Packet, rules: &Rules<M::Tables<'m>>) -> bool {
        let Some(headers) = packet.headers() else {
            return true; // ARP and the like: neither firewall nor VPN has a say
        };
        if self.flows.decide(&headers, rules) == Action::Deny {
            self.counters.denied += 1;
            return false;
        }
        if self.tunnels.seal(packet, &headers).is_err() {
            self.counters.count_drop(DropReason::NoSession);
            return false;
        }
        self.counters.sealed += 1;
        true
    }
}

/// Transmit: out to the file, and the buffers back to where they came from.
pub struct Transmit<C> {
    cache: Timed<C>,
    out: Option<Output>,
    written: io::Result<()>,
    counters: Counters,
}

impl<C: PacketCache> Transmit<C> {
    pub fn new(cache: C, out: Option<Output>) -> Self {
        let cache = Timed::new(cache);
        Self { cache, out, written: Ok(()), counters: Counters::default() }
    }

    /// Transmits until the last worker has ended. An output that fails does not stop the rest.
    pub fn run(mut self, input: &Receiver<Burst>) -> (Counters, io::Result<()>) {
        while let Some(mut burst) = next_burst(input, &mut self.cache) {
            for packet in &burst {
                self.transmit(packet);
            }
            self.cache.free(&mut burst);
        }
        if let Some(out) = self.out.take() {
            self.written = self.written.and(out.finish());
        }
        self.counters.cost(&self.cache);
        (self.counters, self.written)
    }

    fn transmit(&mut self, packet: &Packet) {
        let frame = packet.frame();
        if let Some(out) = &mut self.out
            && self.written.is_ok()
        {
            self.written = out.write(frame, packet.timestamp());
        }
        if self.written.is_ok() {
            self.counters.transmitted += 1;
            self.counters.transmitted_bytes += frame.len() as u64;
        } else {
            self.counters.count_drop(DropReason::NotWritten);
        }
    }
}
