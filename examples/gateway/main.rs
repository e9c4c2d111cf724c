//! A packet gateway on a memory pool.
//!
//! A capture runs through the stages of a real appliance on several threads: receive, firewall,
//! VPN, transmit. Packet buffers, flow tables, rules and VPN sessions live in one pool, or, with
//! `--allocator system`, in the system's heap. README.md explains the program.

mod capture;
mod cli;
mod counters;
mod flow;
mod headers;
mod memory;
mod packet;
mod pipeline;
mod report;
mod rules;
mod stages;
mod vpn;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use crate::capture::{Capture, CaptureWriter};
use crate::cli::{Allocator, Cli};
use crate::memory::{PacketMemory, PoolMemory, Recorded, SystemMemory, map_pool};
use crate::pipeline::{Outcome, Output, Plan};
use crate::report::Report;
use crate::rules::Rules;

/// Runs of fewer packets end before a progress bar can be read.
const LONG_RUN: u64 = 1_000_000;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match gateway(&cli) {
        Ok(report) => conclude(&cli, &report),
        Err(problem) => {
            eprintln!("gateway: {problem}");
            ExitCode::from(2)
        }
    }
}

/// Prints the report, and says by the exit code whether all is well.
fn conclude(cli: &Cli, report: &Report) -> ExitCode {
    // A reader that has seen enough (`| head`) is no failure.
    let printed = match write!(io::stdout(), "{report}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    };
    if let (Err(error), Some(path)) = (&report.outcome.written, &cli.out) {
        eprintln!("gateway: {}: {error}", path.display());
    }
    if report.is_clean() && printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Loads the inputs and runs the gateway on the memory that the user chose.
fn gateway(cli: &Cli) -> Result<Report, String> {
    let capture = Capture::parse(read(&cli.pcap)?).map_err(|error| at(&cli.pcap, &error))?;
    let rules = read(&cli.rules)?;
    match cli.allocator {
        Allocator::Pool => {
            let pool = map_pool(cli.pool_bytes())?;
            let (outcome, rules) = run_recorded(&PoolMemory::new(&pool)?, cli, &capture, &rules)?;
            Ok(Report { outcome, leaks: pool.destroy(), rules })
        }
        Allocator::System => {
            let memory = SystemMemory::new();
            let (outcome, rules) = run_recorded(&memory, cli, &capture, &rules)?;
            Ok(Report { outcome, leaks: memory.leaks(), rules })
        }
    }
}

/// Runs the gateway, and writes a trace of what it allocates if there is a file for that.
fn run_recorded<M: PacketMemory>(
    memory: &M,
    cli: &Cli,
    capture: &Capture,
    rules: &[u8],
) -> Result<(Outcome, usize), String> {
    let Some(path) = &cli.record else { return run(memory, cli, capture, rules) };
    let file = File::create(path).map_err(|error| at(path, &error))?;
    let recorded = Recorded::new(memory);
    let outcome = run(&recorded, cli, capture, rules)?;
    let name = cli.pcap.file_name().unwrap_or_default().to_string_lossy();
    let workload = format!("{name}, run {}x, {} workers", cli.repeat, cli.workers);
    recorded.write(BufWriter::new(file), &workload).map_err(|error| at(path, &error))?;
    Ok(outcome)
}

/// Runs the gateway on `memory`; also says how many rules there were.
fn run<M: PacketMemory>(
    memory: &M,
    cli: &Cli,
    capture: &Capture,
    rules: &[u8],
) -> Result<(Outcome, usize), String> {
    let rules = Rules::parse(rules, memory.tables())
        .map_err(|error| format!("{}:{error}", cli.rules.display()))?;
    let out = cli.out.as_deref().map(create).transpose()?;
    let progress = progress(capture.len() as u64 * u64::from(cli.repeat));
    let plan = Plan { capture, repeat: cli.repeat, workers: cli.workers, progress };
    let outcome = pipeline::run(memory, &rules, &plan, out);
    plan.progress.finish_and_clear();
    Ok((outcome, rules.len()))
}

/// A bar on standard error: only for long runs, and (the library sees to it) only on terminals.
fn progress(packets: u64) -> ProgressBar {
    if packets < LONG_RUN {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "{bar:40} {percent:>3} %  {human_pos} of {human_len} packets  {eta} left",
    );
    ProgressBar::new(packets).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| at(path, &error))
}

fn create(path: &Path) -> Result<Output, String> {
    let file = File::create(path).map_err(|error| at(path, &error))?;
    let file: Box<dyn Write + Send> = Box::new(BufWriter::new(file));
    CaptureWriter::new(file).map_err(|error| at(path, &error))
}

fn at(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests;
