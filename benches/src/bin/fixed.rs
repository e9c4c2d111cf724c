//! Objects of one size, one thread: nanoseconds per object to allocate and free it.
//!
//! The contenders take turns within each round, and the tables show medians over the rounds, so
//! that a busy machine disturbs all of them alike.

use std::time::{Duration, Instant};

use clap::Parser;
use libmempool_bench::{
    fixed::{ALL, BURST, Peer, Work},
    rng::Rng,
};

/// Measures everybody at objects of one size.
#[derive(Parser)]
struct Options {
    /// How often each contender has its turn.
    #[arg(long, default_value_t = 51)]
    rounds: usize,
    /// Milliseconds that a turn takes, about.
    #[arg(long, default_value_t = 2)]
    millis: u64,
    /// Only contenders whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Only work whose description contains this.
    #[arg(long, default_value = "")]
    work: String,
    /// Bytes of an object.
    #[arg(long, default_values_t = [64, 2048])]
    size: Vec<usize>,
}

/// Each kind of work, and whether the free objects are in random order before it.
const WORK: &[(&str, Work, bool)] = &[
    ("one, freed at once", Work::Pairs, false),
    ("1024 one by one, freed in order", Work::Burst, false),
    ("1 per call", Work::Bulk(1), false),
    ("4 per call", Work::Bulk(4), false),
    ("8 per call", Work::Bulk(8), false),
    ("32 per call", Work::Bulk(32), false),
    ("128 per call", Work::Bulk(128), false),
    ("1024, 32 per call, freed in order", Work::Fifo, false),
    ("8 per call, shuffled", Work::Bulk(8), true),
    ("32 per call, shuffled", Work::Bulk(32), true),
    ("1024, 32 per call, shuffled", Work::Fifo, true),
];

fn main() {
    let options = Options::parse();
    let mut rng = Rng::new(1);
    let mut order: Vec<u32> = (0..2 * BURST).collect();
    (1..order.len()).rev().for_each(|last| order.swap(last, rng.below(last + 1)));
    let names: Vec<_> = ALL.iter().filter(|(name, _)| name.contains(&options.only)).collect();
    for &size in &options.size {
        println!(
            "\nns per object of {size} bytes, allocated and freed (median of {})\n",
            options.rounds
        );
        let heads: Vec<_> = names.iter().map(|(name, _)| format!(" {name} |")).collect();
        println!("| |{} best peer / LocalCache |", heads.concat());
        println!("|---|{}", "--:|".repeat(names.len() + 1));
        let kinds = WORK.iter().filter(|(name, ..)| name.contains(&options.work));
        for &(name, work, shuffled) in kinds {
            let order = if shuffled { &order[..] } else { &[] };
            let mut peers: Vec<_> = names.iter().map(|(_, make)| make(size, order)).collect();
            let medians = measure(&mut peers, work, &options);
            print_row(name, &medians);
        }
    }
}

/// Nanoseconds per object, the median of each.
fn measure(peers: &mut [Option<Box<dyn Peer>>], work: Work, options: &Options) -> Vec<Option<f64>> {
    let turn = Duration::from_millis(options.millis);
    let mut samples = vec![Vec::new(); peers.len()];
    let mut rounds = vec![1; peers.len()];
    for round in 0..=options.rounds {
        for (index, peer) in peers.iter_mut().enumerate() {
            let Some(peer) = peer else { continue };
            let start = Instant::now();
            peer.run(work, rounds[index]);
            let mut took = start.elapsed();
            if round == 0 {
                // The first turn finds out how often to work in the others.
                while took < turn / 2 {
                    rounds[index] *= 2;
                    let start = Instant::now();
                    peer.run(work, rounds[index]);
                    took = start.elapsed();
                }
                continue;
            }
            let objects = rounds[index] * work.objects();
            samples[index].push(took.as_secs_f64() * 1e9 / f64::from(objects));
        }
    }
    samples.into_iter().map(median).collect()
}

fn median(mut samples: Vec<f64>) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied()
}

/// Ours come first in the table: `LocalCache`, then `ThreadCachedPool`.
fn print_row(name: &str, medians: &[Option<f64>]) {
    let cells = medians.iter().map(|median| match median {
        Some(ns) => format!(" {ns:.2} |"),
        None => " not measured |".into(),
    });
    let best = medians.iter().skip(2).flatten().copied().min_by(f64::total_cmp);
    let ratio = match (best, medians.first()) {
        (Some(best), Some(Some(ours))) => format!(" {:.2} |", best / ours),
        _ => " |".into(),
    };
    println!("| {name} |{}{ratio}", cells.collect::<String>());
}
