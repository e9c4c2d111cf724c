//! Allocation traces: reading them, and replaying them against a contender.

use std::{
    alloc::Layout,
    fs,
    path::{Path, PathBuf},
    ptr::NonNull,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{contender::Contender, job::Block};

/// The alignment of a request that names none: C's `malloc`.
const DEFAULT_ALIGN: usize = 16;

/// One line of a trace; ids count up from zero.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// Allocate.
    Alloc {
        /// The block's id.
        id: usize,
        /// What is asked for.
        layout: Layout,
    },
    /// Resize.
    Realloc {
        /// The block's id.
        id: usize,
        /// Bytes asked for.
        size: usize,
    },
    /// Free.
    Free {
        /// The block's id.
        id: usize,
    },
}

/// A trace in memory.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The file's name without its ending.
    pub name: String,
    /// What happened, in order, whichever thread did it.
    pub ops: Vec<Op>,
    /// Where another thread takes over, and which: the first entry is thread 0 at 0.
    pub turns: Vec<(usize, usize)>,
    /// How many ids there are.
    pub ids: usize,
    /// The most bytes that were live at once.
    pub peak: usize,
}

/// All traces of a folder, by name.
///
/// # Errors
/// If the folder or a trace cannot be read, or there is none.
pub fn load_all(folder: &Path) -> Result<Vec<Trace>> {
    let listing = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths: Vec<PathBuf> =
        listing.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "trace"));
    paths.sort();
    if paths.is_empty() {
        bail!("{}: no *.trace files", folder.display());
    }
    paths.iter().map(|path| load(path)).collect()
}

/// Reads one trace.
///
/// # Errors
/// If the file cannot be read, or a line is not an operation; the message has the line's number.
pub fn load(path: &Path) -> Result<Trace> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut trace = Trace { name, ops: Vec::new(), turns: vec![(0, 0)], ids: 0, peak: 0 };
    let mut sizes = Vec::new();
    let mut live = 0;
    for (number, line) in text.lines().enumerate() {
        let parsed = parse(line).with_context(|| format!("{}:{}", path.display(), number + 1))?;
        let op = match parsed {
            Some(Line::Op(op)) => op,
            Some(Line::Thread(thread)) => {
                trace.turns.push((trace.ops.len(), thread));
                continue;
            }
            None => continue,
        };
        let (id, size) = match op {
            Op::Alloc { id, layout } => (id, layout.size()),
            Op::Realloc { id, size } => (id, size),
            Op::Free { id } => (id, 0),
        };
        sizes.resize(sizes.len().max(id + 1), 0);
        live = live - sizes[id] + size;
        sizes[id] = size;
        trace.peak = trace.peak.max(live);
        trace.ops.push(op);
    }
    trace.ids = sizes.len();
    Ok(trace)
}

enum Line {
    Op(Op),
    Thread(usize),
}

fn parse(line: &str) -> Result<Option<Line>> {
    let mut words = line.split_ascii_whitespace();
    let Some(kind) = words.next() else { return Ok(None) };
    if kind.starts_with('#') {
        return Ok(None);
    }
    let mut number = || words.next().map(str::parse::<usize>).transpose();
    let id = number()?.context("no id")?;
    if kind == "t" {
        return Ok(Some(Line::Thread(id)));
    }
    Ok(Some(Line::Op(match kind {
        "a" | "z" => {
            let size = number()?.context("no size")?.max(1);
            let align = number()?.unwrap_or(DEFAULT_ALIGN);
            Op::Alloc { id, layout: Layout::from_size_align(size, align)? }
        }
        "r" => Op::Realloc { id, size: number()?.context("no size")?.max(1) },
        "f" => Op::Free { id },
        other => bail!("unknown operation {other:?}"),
    })))
}

/// How a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Every operation succeeded.
    Completed,
    /// An allocation failed.
    OutOfMemory,
    /// The time was up.
    TooSlow,
}

/// Replays a trace, touching the first and last byte of every block.
pub fn replay(
    trace: &Trace,
    contender: &mut (impl Contender + ?Sized),
    patience: Duration,
) -> Replay {
    let start = Instant::now();
    let mut blocks: Vec<Option<Block>> = vec![None; trace.ids];
    for (index, &op) in trace.ops.iter().enumerate() {
        if !step(op, contender, &mut blocks) {
            return Replay::OutOfMemory;
        }
        if index.is_multiple_of(1024) && start.elapsed() > patience {
            return Replay::TooSlow;
        }
    }
    Replay::Completed
}

/// Does what one line says. `false`: an allocation failed.
#[inline(always)]
pub fn step(
    op: Op,
    contender: &mut (impl Contender + ?Sized),
    blocks: &mut [Option<Block>],
) -> bool {
    match op {
        Op::Alloc { id, layout } => {
            let block = contender.alloc(layout);
            touch(block, layout.size());
            blocks[id] = block.map(|block| (block, layout));
            block.is_some()
        }
        Op::Realloc { id, size } => {
            let Some((block, layout)) = blocks[id] else { return true };
            // SAFETY: the block is live, and the trace goes on with the new one.
            let moved = unsafe { contender.realloc(block, layout, size) };
            touch(moved, size);
            let new = Layout::from_size_align(size, layout.align()).unwrap_or(layout);
            if let Some(moved) = moved {
                blocks[id] = Some((moved, new));
            }
            moved.is_some()
        }
        Op::Free { id } => {
            if let Some((block, layout)) = blocks[id].take() {
                // SAFETY: the block is live, and gone from the table.
                unsafe { contender.free(block, layout) };
            }
            true
        }
    }
}

fn touch(block: Option<NonNull<u8>>, size: usize) {
    if let Some(block) = block {
        // SAFETY: the block was just allocated with this size.
        unsafe {
            block.write(1);
            block.add(size - 1).write(1);
        }
    }
}
