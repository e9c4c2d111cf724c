//! A soak test: threads at full load on a default and a hardened pool while faults are injected.
//!
//! `cargo run --release --features std --example soak -- --minutes 60`
//!
//! Workers allocate, stamp, resize and free, exchange blocks with each other, misuse pointers,
//! overrun objects and exhaust the pools; others compare pools of all kinds with the model, make the
//! page source fail, fork, and validate. In the end every block must have come back. The exit code is
//! 1 if anything was lost.

#[path = "../../tests/common/mod.rs"]
mod common;
mod faults;
mod tally;
mod target;
mod worker;

use std::{
    process::ExitCode,
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::channel,
    },
    thread::{self, ScopedJoinHandle, available_parallelism, sleep},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use libmempool::PoolFlags;

use crate::{common::Rng, tally::Tally, target::Target, worker::Worker};

/// Loads pools and injects faults.
#[derive(Parser)]
struct Cli {
    /// How long.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Seed of all random choices; another one for each run if it is left out.
    #[arg(long)]
    seed: Option<u64>,
    /// Workers; two for each processor if it is left out.
    #[arg(long)]
    workers: Option<usize>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let seed = cli.seed.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::from(since.subsec_nanos()) << 20 ^ since.as_secs()
    });
    let processors = available_parallelism().map_or(2, usize::from);
    let workers = cli.workers.unwrap_or(2 * processors).max(1);
    println!("seed {seed}, {workers} workers, {} minutes", cli.minutes);

    let targets =
        [Target::new("default", PoolFlags::empty()), Target::new("hardened", PoolFlags::HARDENED)];
    let tally = Tally::default();
    let failed = run(&targets, &tally, seed, workers, Duration::from_secs_f64(cli.minutes * 60.0));
    conclude(&targets, &tally, failed)
}

/// Runs all threads for a while. Returns how many of them panicked.
fn run(targets: &[Target], tally: &Tally, seed: u64, workers: usize, time: Duration) -> usize {
    let stop = &AtomicBool::new(false);
    let mut rng = Rng::new(seed);
    let (outboxes, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| channel()).unzip();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for inbox in inboxes {
            let worker = Worker::new(targets, tally, rng.next(), inbox, outboxes.clone());
            threads.push(scope.spawn(move || worker.run(stop)));
        }
        drop(outboxes);
        let mut model_rng = Rng::new(rng.next());
        threads.push(scope.spawn(move || {
            faults::every(Duration::ZERO, stop, || {
                faults::compare_with_model(tally, &mut model_rng);
            });
        }));
        threads.push(scope.spawn(move || {
            let pause = Duration::from_millis(20);
            faults::every(pause, stop, || faults::fail_pages(targets, tally, &mut rng));
        }));
        threads.push(scope.spawn(move || {
            faults::every(Duration::from_millis(50), stop, || faults::fork(targets, tally));
        }));
        threads.push(scope.spawn(move || {
            faults::every(Duration::from_millis(30), stop, || {
                targets.iter().for_each(Target::validate);
                tally.validated.add(targets.len());
            });
        }));
        watch(tally, time, || threads.iter().any(ScopedJoinHandle::is_finished));
        stop.store(true, Relaxed);
        threads.into_iter().filter_map(|thread| thread.join().err()).count()
    })
}

/// Shows progress until the time is over, or a thread has ended too early.
fn watch(tally: &Tally, time: Duration, ended: impl Fn() -> bool) {
    let style = ProgressStyle::with_template("{elapsed} of {msg}").expect("a valid template");
    let progress = ProgressBar::new_spinner().with_style(style);
    let start = Instant::now();
    while start.elapsed() < time && !ended() {
        sleep(Duration::from_millis(100).min(time));
        let missed = tally.missed();
        let operations = tally.operations.get();
        progress.set_message(format!("{time:?}: {operations} operations, {missed} missed"));
        progress.tick();
    }
    progress.finish_and_clear();
}

fn conclude(targets: &[Target], tally: &Tally, failed: usize) -> ExitCode {
    let discrepancies: Vec<_> = targets.iter().flat_map(Target::discrepancies).collect();
    for what in &discrepancies {
        println!("{what}");
    }
    let lost = tally.missed() + failed + discrepancies.len();
    print!("{tally}");
    println!("lost           {lost:>12}");
    if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
