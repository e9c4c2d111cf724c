//! The stages and their threads.
//!
//! ```text
//!            bounded queues, one per worker          one bounded queue
//! receive ──► worker 0: firewall ► VPN ──────┬─────► transmit
//!  (this  ──► worker 1: firewall ► VPN ──────┤       (frees what it sent)
//!  thread)    (frees what is denied)         ┘
//! ```
//!
//! Packets travel in bursts. A full queue stops the stage before it, and no stage waits for a later
//! stage's memory: receive drops a packet rather than wait for a buffer. So nothing can deadlock,
//! and packets are only dropped for want of memory if the pool is smaller than the queues.

use std::io::{self, Write};
use std::sync::mpsc::sync_channel;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::capture::{Capture, CaptureWriter};
use crate::counters::Counters;
use crate::memory::{PacketMemory, Usage};
use crate::rules::Rules;
use crate::stages::{Receive, Transmit, Worker};

/// Bursts that may wait for a worker.
const WORKER_QUEUE: usize = 32;
/// Bursts that may wait for transmission.
const TRANSMIT_QUEUE: usize = 64;

/// What to run.
pub struct Plan<'a> {
    pub capture: &'a Capture,
    pub repeat: u32,
    pub workers: u8,
    pub progress: ProgressBar,
}

/// What came of it.
pub struct Outcome {
    pub counters: Counters,
    pub elapsed: Duration,
    /// The memory when all packets were through and the tables still stood.
    pub usage: Option<Usage>,
    /// The first error of the output file.
    pub written: io::Result<()>,
}

/// A capture file to write to, from any thread.
pub type Output = CaptureWriter<Box<dyn Write + Send>>;

/// Runs the capture through all stages. `out` takes a capture of what is transmitted.
pub fn run<'m, M: PacketMemory>(
    memory: &'m M,
    rules: &Rules<M::Tables<'m>>,
    plan: &Plan<'_>,
    out: Option<Output>,
) -> Outcome {
    let started = Instant::now();
    thread::scope(|scope| {
        let (transmit_queue, to_transmit) = sync_channel(TRANSMIT_QUEUE);
        let (queues, workers): (Vec<_>, Vec<_>) = (0..plan.workers)
            .map(|index| {
                let (queue, input) = sync_channel(WORKER_QUEUE);
                let output = transmit_queue.clone();
                let work = move || Worker::new(memory, index).run(rules, &input, &output);
                (queue, scope.spawn(work))
            })
            .unzip();
        drop(transmit_queue); // the workers have copies: the last one to end closes the queue
        let transmit = scope.spawn(move || Transmit::new(memory.cache(), out).run(&to_transmit));

        let mut counters = Receive::new(memory.cache(), queues).run(plan);
        let workers: Vec<_> = workers.into_iter().map(join).collect();
        let (transmitted, written) = join(transmit);
        let elapsed = started.elapsed();
        counters += &transmitted;
        for worker in &workers {
            counters += &worker.totals();
        }
        Outcome { counters, elapsed, usage: memory.usage(), written }
    })
}

/// A stage's result. A stage that panicked takes the program with it.
fn join<T>(stage: ScopedJoinHandle<'_, T>) -> T {
    stage.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
