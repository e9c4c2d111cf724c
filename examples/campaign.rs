//! A campaign: random operations by the hundred million, each compared with the tests' model.
//!
//! `cargo run --release --features std,spin,critical-section --example campaign -- --operations 1000000000`
//!
//! Every lock, and a thread-cached pool, with every class set and every set of flags takes its turn; memory,
//! sizes and alignments are random. Each operation's result is compared with the model's, contents are
//! stamped and looked at, a tenth of the operations is misuse that must be refused, and the pool is walked
//! whole at intervals. The first disagreement ends the campaign, and names the round to repeat.

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    thread::panicking,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use common::{
    LOCKS, LockKind, Op, Rng, Setup, against_model, ops,
    setup::{ALIGNMENTS, CLASS_SETS, SOURCES},
};
use indicatif::{ProgressBar, ProgressStyle};
use libmempool::PoolFlags;

/// Operations of one pool's life.
const ROUND: usize = 20_000;
/// After how many of them everything is compared.
const CHECK_EVERY: usize = 2_000;

/// None, each one, and all.
const FLAGS: [PoolFlags; 10] = [
    PoolFlags::empty(),
    PoolFlags::HARDENED,
    PoolFlags::POISON,
    PoolFlags::CANARY,
    PoolFlags::RANDOM,
    PoolFlags::QUARANTINE,
    PoolFlags::GUARD,
    PoolFlags::ZERO_ON_FREE,
    PoolFlags::ZERO_ON_ALLOC,
    PoolFlags::all(),
];

/// Compares random operations with the model.
#[derive(Parser)]
struct Cli {
    /// How many.
    #[arg(long, default_value_t = 10_000_000)]
    operations: usize,
    /// The longest it may take.
    #[arg(long)]
    minutes: Option<f64>,
    /// Seed of all random choices; another one for each run if it is left out.
    #[arg(long)]
    seed: Option<u64>,
    /// The round to start with: what a failure names.
    #[arg(long, default_value_t = 0)]
    round: usize,
}

/// One pool's life.
struct Round {
    number: usize,
    seed: u64,
    setup: Setup,
    /// Through a thread-cached pool, whatever the lock.
    thread_cached: bool,
}

impl Round {
    /// The configuration whose turn it is.
    fn new(seed: u64, number: usize) -> Self {
        let offset = u64::try_from(number).expect("64-bit numbers");
        let mut rng = Rng::new(Rng::new(seed ^ offset).next());
        let lock = LOCKS.get(number % (LOCKS.len() + 1));
        let turn = number / (LOCKS.len() + 1);
        let setup = Setup {
            lock: *lock.unwrap_or(&LockKind::Pthread),
            source: *rng.pick(SOURCES),
            alignment: *rng.pick(ALIGNMENTS),
            classes: CLASS_SETS[turn % CLASS_SETS.len()],
            bytes: 4096 << rng.below(9),
            regions: 1 + rng.below(3),
            skew: rng.below(64),
            magazine: [None, Some(rng.below(20))][rng.below(2)],
            flags: FLAGS[turn / CLASS_SETS.len() % FLAGS.len()],
        };
        Self { number, seed: rng.next(), setup, thread_cached: lock.is_none() }
    }

    /// How many operations were compared: none where the memory is too small for the configuration.
    fn run(&self) -> usize {
        // A reset in 4000 operations, so that pools become full.
        let mut rng = Rng::new(self.seed);
        let ops = ops::seeded(self.seed, ROUND)
            .filter(|op| !matches!(op, Op::Reset) || rng.below(16) == 0);
        let mut count = 0;
        let ops = ops.inspect(|_| count += 1);
        let ran = if self.thread_cached {
            against_model::run_thread_cached(&self.setup, ops, CHECK_EVERY)
        } else {
            against_model::run(&self.setup, ops, CHECK_EVERY)
        };
        if ran { count } else { 0 }
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        if panicking() {
            eprintln!("in round {} (--round): {:?}", self.number, self.setup);
        }
    }
}

fn main() {
    let cli = Cli::parse();
    let seed = cli.seed.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::from(since.subsec_nanos()) << 20 ^ since.as_secs()
    });
    println!("seed {seed}, from round {}", cli.round);
    let style = "{elapsed} {wide_bar} {human_pos} of {human_len}, {per_sec}, {eta} left";
    let style = ProgressStyle::with_template(style).expect("a valid template");
    let total = u64::try_from(cli.operations).expect("64-bit numbers");
    let progress = ProgressBar::new(total).with_style(style);

    let most = cli.minutes.map_or(Duration::MAX, |minutes| Duration::from_secs_f64(minutes * 60.0));
    let start = Instant::now();
    let (mut operations, mut rounds, mut built) = (0, 0, 0);
    while operations < cli.operations && start.elapsed() < most {
        let compared = Round::new(seed, cli.round + rounds).run();
        rounds += 1;
        built += usize::from(compared > 0);
        operations += compared;
        progress.set_position(u64::try_from(operations).expect("64-bit numbers"));
    }
    progress.finish_and_clear();
    println!(
        "{operations} operations on {built} pools agreed with the model, in {:.0} s; \
         {} configurations did not fit their memory",
        start.elapsed().as_secs_f64(),
        rounds - built
    );
}
