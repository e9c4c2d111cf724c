//! System calls and page faults of a contender that has warmed up: it works alone in a child
//! process, under `strace` if there is one.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use libmempool_bench::{
    arena::{self, Entry, Needs},
    cores,
    job::{Job, Sizes, Work},
};

use crate::{
    faults,
    results::Row,
    turns::{HOARD, count},
    workloads::layout,
};

/// Bursts before the counting starts, and while it counts.
const ROUNDS: u32 = 200;

/// The call that marks where counting starts and ends: nobody else makes it.
const MARK: &str = "getppid";

/// Bytes of an object.
const SIZE: usize = 2048;

/// A row for everybody.
pub fn measure(name: &str, out: &Path) -> Vec<Row> {
    let row = |entry: &Entry| {
        let row = Row::new(name, entry.name, entry.peer);
        let Ok(faults) = child(entry, &[]) else { return row };
        Row { faults: Some(faults), syscalls: traced(entry, out).ok(), ..row }
    };
    arena::ALL.iter().map(row).collect()
}

/// Page faults of a million operations, as the child counts them.
fn child(entry: &Entry, tracer: &[&str]) -> Result<f64> {
    let this = env::current_exe()?;
    let this = this.to_str().context("the program's path is not UTF-8")?;
    let line = [tracer, &[this, "--steady", entry.name]].concat();
    let output = Command::new(line[0]).args(&line[1..]).stderr(Stdio::null()).output()?;
    let text = String::from_utf8(output.stdout)?;
    text.trim().parse().context("the child counts nothing")
}

fn traced(entry: &Entry, out: &Path) -> Result<f64> {
    let log = out.join("strace.log");
    let path = log.to_str().context("the folder's path is not UTF-8")?;
    child(entry, &["strace", "-f", "-o", path])?;
    let text = fs::read_to_string(&log)?;
    fs::remove_file(&log)?;
    let mut parts = text.split(MARK);
    let between = parts.nth(1).context("no mark")?;
    parts.next().context("no second mark")?;
    // The rest of the mark's own line and the start of the next mark's are one line break.
    Ok(count(between.lines().count().saturating_sub(2)))
}

/// What the child does.
pub fn work_alone(name: &str) {
    cores::pin(0);
    let Some(entry) = arena::ALL.iter().find(|entry| entry.name == name) else { return };
    let objects = Work::Burst.live() + HOARD;
    let needs = Needs { layout: layout(SIZE), objects, bytes: objects * SIZE, warm: true };
    let Some(arena) = (entry.make)(needs) else { return };
    let mut worker = arena.worker();
    let mut job = Job::new(Work::Burst, Sizes::Fixed(layout(SIZE)), 1);
    if worker.run(&mut job, ROUNDS).is_none() {
        return;
    }
    let before = faults();
    mark();
    worker.run(&mut job, ROUNDS);
    mark();
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    let faults = (faults() - before) as f64 * 1e6;
    println!("{}", faults / (f64::from(ROUNDS) * count(Work::Burst.operations())));
}

fn mark() {
    // SAFETY: it has no conditions.
    unsafe { libc::getppid() };
}
