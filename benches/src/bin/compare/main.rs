//! The referee: libmempool and its peers do the same seeded work, in turns, in one process.

mod bars;
mod chart;
mod first_touch;
mod fit;
mod report;
mod results;
mod steady;
mod together;
mod traces;
mod turns;
mod workloads;

use std::{
    env, fs,
    mem::zeroed,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::Result;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use libmempool_bench::{arena, clock::Clock, cores, mallocs::SETTINGS, trace};

use crate::{
    results::{Results, Row},
    workloads::{Kind, Workload},
};

/// Compares libmempool with its peers, workload by workload.
#[derive(Parser)]
#[expect(clippy::struct_excessive_bools, reason = "options of a command line")]
struct Options {
    /// Fewer workloads and turns: half a minute.
    #[arg(long)]
    quick: bool,
    /// Only workloads whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// The mallocs as they come, not told to keep their memory.
    #[arg(long)]
    untuned: bool,
    /// Exit with 1 if a bar is missed.
    #[arg(long)]
    strict: bool,
    /// Names the workloads and contenders.
    #[arg(long)]
    list: bool,
    /// Draws all work and the order of turns.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The folder for compare.csv, compare.json and compare.svg.
    #[arg(long, default_value = "target/compare")]
    out: PathBuf,
    /// The folder with *.trace files.
    #[arg(long, env = "LIBMEMPOOL_TRACES", default_value = "tests/traces")]
    traces: PathBuf,
    /// This process is the child that counts one contender's faults.
    #[arg(long, hide = true)]
    steady: Option<String>,
}

/// How much is done.
pub struct Effort {
    /// Turns of each contender.
    pub rounds: usize,
    /// What a turn takes, about.
    pub turn: Duration,
    /// Runs of several threads for each contender.
    pub runs: usize,
    /// Replays of a trace, and times that memory is used for the first time.
    pub replays: usize,
    /// Batches through a pipeline in a turn.
    pub batches: usize,
    /// Of all random choices.
    pub seed: u64,
}

impl Effort {
    fn new(options: &Options) -> Self {
        let (seed, quick) = (options.seed, options.quick);
        let turn = Duration::from_micros(if quick { 500 } else { 2000 });
        let (rounds, runs, replays) = if quick { (7, 3, 2) } else { (31, 11, 3) };
        let batches = if quick { 3000 } else { 10_000 };
        Self { rounds, turn, runs, replays, batches, seed }
    }
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if let Some(name) = &options.steady {
        steady::work_alone(name);
        return Ok(ExitCode::SUCCESS);
    }
    let chosen: Vec<_> = workloads::all()
        .into_iter()
        .filter(|load| load.quick || !options.quick)
        .filter(|load| load.name.contains(&options.only))
        .collect();
    if options.list {
        list(&chosen);
        return Ok(ExitCode::SUCCESS);
    }
    if !options.untuned {
        tune()?;
    }
    fs::create_dir_all(&options.out)?;
    cores::pin(0);
    let clock = Clock::get();
    println!(
        "{} cores; single calls are timed by a clock whose {:.0} ns are subtracted",
        cores::all().len(),
        f64::from(clock.overhead) * clock.tick
    );
    let results = run(&chosen, &options)?;
    let outcomes = bars::evaluate(&results);
    report::print_bars(&outcomes);
    report::write(&options.out, &results, &outcomes)?;
    chart::draw(&options.out.join("compare.svg"), &results)?;
    let missed = outcomes.iter().any(|outcome| outcome.met == Some(false));
    Ok(if options.strict && missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs this program anew with the mallocs' settings, which they read before `main`.
fn tune() -> Result<()> {
    if SETTINGS.iter().all(|&(name, value)| env::var(name).is_ok_and(|is| is == value)) {
        return Ok(());
    }
    let failed = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .envs(SETTINGS.iter().copied())
        .exec();
    Err(failed.into())
}

fn list(workloads: &[Workload]) {
    for load in workloads {
        println!("{}", load.name);
    }
    println!();
    for entry in arena::ALL {
        println!("{}: {}", entry.name, entry.how);
    }
}

fn run(workloads: &[Workload], options: &Options) -> Result<Results> {
    let effort = Effort::new(options);
    let bar = ProgressBar::new(u64::try_from(workloads.len())?);
    bar.set_style(ProgressStyle::with_template("{pos}/{len} {msg}")?);
    let mut results = Results::default();
    for load in workloads {
        bar.set_message(load.name.clone());
        for rows in measure(load, &effort, options)? {
            bar.suspend(|| report::print(&rows));
            results.0.extend(rows);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(results)
}

/// The rows of a workload; of each trace, where it is all traces.
fn measure(load: &Workload, effort: &Effort, options: &Options) -> Result<Vec<Vec<Row>>> {
    let name = load.name.as_str();
    let rows = match load.kind {
        Kind::Turns(field, work, sizes) => turns::measure(name, field, work, sizes, effort),
        Kind::Pipeline(layout) => together::pipeline(name, layout, effort),
        Kind::Threads(threads, work, layout) => {
            together::threads(name, threads, work, layout, effort)
        }
        Kind::FirstTouch { warm } => first_touch::measure(name, warm, effort),
        Kind::Steady => steady::measure(name, &options.out),
        Kind::Fit(layout) => fit::measure(name, layout),
        Kind::Traces => {
            let traces = trace::load_all(&options.traces)?;
            let long = traces.iter().filter(|trace| trace.ops.len() > traces::SHORT);
            return Ok(long.map(|trace| traces::measure(trace, effort)).collect());
        }
    };
    Ok(vec![rows])
}

/// Page faults of the calling thread that needed no disk.
pub fn faults() -> u64 {
    // SAFETY: a struct of numbers may be zero, and it is there to be written.
    let usage = unsafe {
        let mut usage: libc::rusage = zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage
    };
    u64::try_from(usage.ru_minflt).unwrap_or(0)
}
