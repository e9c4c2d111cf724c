//! Finds the smallest region in which each contender completes each trace, and prints the trace's
//! peak of live bytes over it: what part of a region is of use under a real program's load.

use std::{mem::MaybeUninit, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Parser;
use libmempool_bench::{
    heaps::{ALL, Entry, Memory},
    trace::{self, Replay, Trace},
};

/// Replays allocation traces in ever smaller regions.
#[derive(Parser)]
struct Options {
    /// The folder with *.trace files.
    #[arg(long, env = "LIBMEMPOOL_TRACES", default_value = "tests/traces")]
    traces: PathBuf,
    /// Regions are tried in steps of this many bytes.
    #[arg(long, default_value_t = 4096)]
    step: usize,
    /// Seconds after which a contender's replay is given up.
    #[arg(long, default_value_t = 20)]
    patience: u64,
    /// Only contenders whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let traces = trace::load_all(&options.traces)?;
    let patience = Duration::from_secs(options.patience);
    println!("smallest region that completes the trace, as bytes and as peak live bytes over it");
    for trace in &traces {
        println!("\n{}: {} operations, peak {} bytes", trace.name, trace.ops.len(), trace.peak);
        for entry in ALL.iter().filter(|entry| entry.name.contains(&options.only)) {
            report(trace, entry, options.step, patience);
        }
    }
    Ok(())
}

fn report(trace: &Trace, entry: &Entry, step: usize, patience: Duration) {
    let mut memory = vec![MaybeUninit::uninit(); trace.peak * 4 + (1 << 20)];
    match smallest(trace, entry, &mut memory, step, patience) {
        Ok(bytes) => {
            #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
            let percent = trace.peak as f64 * 100.0 / bytes as f64;
            println!(
                "{:<24} {bytes:>10} {percent:>7.2} %{}",
                entry.name,
                fragmentation(trace, entry, &mut memory[..bytes])
            );
        }
        Err(Replay::TooSlow) => {
            println!("{:<24} not measured: over {} s a replay", entry.name, patience.as_secs());
        }
        Err(_) => println!("{:<24} not measured: needs over {} bytes", entry.name, memory.len()),
    }
}

/// The smallest region, by bisection: a little more memory may make a replay fail again, so this
/// is *a* boundary, found the same way for everybody.
fn smallest(
    trace: &Trace,
    entry: &Entry,
    memory: &mut Memory,
    step: usize,
    patience: Duration,
) -> Result<usize, Replay> {
    let (mut fails, mut completes) = (trace.peak / step, memory.len() / step);
    let attempt =
        |steps: usize, memory: &mut Memory| match (entry.make)(&mut memory[..steps * step]) {
            Some(mut contender) => trace::replay(trace, contender.as_mut(), patience),
            None => Replay::OutOfMemory,
        };
    match attempt(completes, memory) {
        Replay::Completed => {}
        other => return Err(other),
    }
    while completes - fails > 1 {
        let middle = usize::midpoint(fails, completes);
        match attempt(middle, memory) {
            Replay::Completed => completes = middle,
            Replay::OutOfMemory => fails = middle,
            Replay::TooSlow => return Err(Replay::TooSlow),
        }
    }
    Ok(completes * step)
}

/// How scattered the free memory is at the trace's end, where the contender can tell.
fn fragmentation(trace: &Trace, entry: &Entry, memory: &mut Memory) -> String {
    let Some(mut contender) = (entry.make)(memory) else { return String::new() };
    trace::replay(trace, contender.as_mut(), Duration::MAX);
    match contender.free_bytes() {
        Some((free, largest)) if free > 0 => {
            format!(
                "   at the end {free} bytes free, {} % of them scattered",
                (free - largest.min(free)) * 100 / free
            )
        }
        _ => String::new(),
    }
}
