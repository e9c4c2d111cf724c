//! Heap efficiency: how full a region is when the first request fails.
//!
//! The workload is that of talc's benchmark of this name: half the operations allocate up to 10 KB
//! (smaller sizes are likelier), one in ten frees, four in ten resize to up to 100 KB, until one
//! fails.

use std::{alloc::Layout, mem::MaybeUninit, ptr::NonNull};

use clap::Parser;
use libmempool_bench::{
    heaps::{ALL, Entry, Heap, Memory},
    rng::Rng,
};

/// Fills a region until the first failure, again and again.
#[derive(Parser)]
struct Options {
    /// How often.
    #[arg(long, default_value_t = 300)]
    rounds: u32,
    /// MiB of the region.
    #[arg(long, default_value_t = 128)]
    mib: usize,
    /// Only contenders whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

const MAX_ALLOC: usize = 10_000;
const MAX_REALLOC: usize = 100_000;

fn main() {
    let options = Options::parse();
    let mut memory = vec![MaybeUninit::uninit(); options.mib << 20];
    println!(
        "live bytes at the first failure, of {} MiB, mean of {} rounds",
        options.mib, options.rounds
    );
    for entry in ALL.iter().filter(|entry| entry.name.contains(&options.only)) {
        let fills: Vec<f64> = (0..options.rounds)
            .map(|round| fill(entry, &mut memory, u64::from(round) + 1))
            .collect();
        let (mean, error) = mean_and_error(&fills);
        println!("{:<24} {:>7.2} % ± {:.2}", entry.name, mean * 100.0, error * 100.0);
    }
}

/// One round: the part of the region that is live at the first failure.
#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn fill(entry: &Entry, memory: &mut Memory, seed: u64) -> f64 {
    let bytes = memory.len();
    let Some(mut contender) = (entry.make)(memory) else { return 0.0 };
    let mut rng = Rng::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut live = Vec::new();
    while act(contender.as_mut(), &mut live, &mut rng) {}
    live.iter().map(|(_, layout)| layout.size()).sum::<usize>() as f64 / bytes as f64
}

/// One operation; `false` if it failed.
fn act(contender: &mut dyn Heap, live: &mut Vec<(NonNull<u8>, Layout)>, rng: &mut Rng) -> bool {
    let action = rng.below(10);
    if action < 5 {
        let cap = rng.range(16, MAX_ALLOC);
        let (size, align) = (rng.range(4, cap), rng.alignment());
        let Ok(layout) = Layout::from_size_align(size, align) else { return false };
        let block = contender.alloc(layout);
        live.extend(block.map(|block| (block, layout)));
        return block.is_some();
    }
    if live.is_empty() {
        return true;
    }
    let index = rng.below(live.len());
    if action == 5 {
        let (block, layout) = live.swap_remove(index);
        // SAFETY: the block is live, and gone from the list.
        unsafe { contender.free(block, layout) };
        return true;
    }
    let ((block, layout), size) = (live[index], rng.range(1, MAX_REALLOC));
    // SAFETY: the block is live, and replaced in the list.
    let Some(moved) = (unsafe { contender.realloc(block, layout, size) }) else { return false };
    live[index] = (moved, Layout::from_size_align(size, layout.align()).unwrap_or(layout));
    true
}

#[expect(clippy::cast_precision_loss, reason = "statistics for people")]
fn mean_and_error(samples: &[f64]) -> (f64, f64) {
    let n = samples.len().max(1) as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let variance = samples.iter().map(|sample| (sample - mean).powi(2)).sum::<f64>() / n;
    (mean, (variance / n).sqrt())
}
