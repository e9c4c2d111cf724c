//! Memory that nobody has used yet: an allocation and the first write to it.

use std::time::Instant;

use libmempool_bench::{
    arena::{self, Arena, Needs},
    contender::Contender,
    job::Block,
    rng::Rng,
};

use crate::{
    Effort, faults,
    results::{Row, median},
    turns::{HOARD, count, since},
    workloads::layout,
};

/// Objects that are allocated and kept.
const OBJECTS: usize = 4096;

/// Bytes of an object.
const SIZE: usize = 2048;

/// A row for everybody. Warm are pools after `warm_up`, and others after they did the same before.
pub fn measure(name: &str, warm: bool, effort: &Effort) -> Vec<Row> {
    let objects = OBJECTS + HOARD;
    let needs = Needs { layout: layout(SIZE), objects, bytes: objects * SIZE, warm };
    let mut order: Vec<_> = (0..arena::ALL.len()).collect();
    let mut rng = Rng::new(effort.seed);
    let mut samples = vec![(Vec::new(), Vec::new()); arena::ALL.len()];
    let mut kept = Vec::new();
    for _ in 0..effort.replays {
        rng.shuffle(&mut order);
        for &index in &order {
            let Some(arena) = (arena::ALL[index].make)(needs) else { continue };
            let mut blocks = Vec::with_capacity(OBJECTS);
            if let Some((ns, faults)) = once(&*arena, warm, &mut blocks) {
                samples[index].0.push(ns);
                samples[index].1.push(faults);
            }
            kept.push((arena, blocks));
        }
    }
    for (arena, blocks) in kept {
        free(&*arena, blocks);
    }
    let row = |(entry, (ns, faults)): (&arena::Entry, (Vec<f64>, Vec<f64>))| Row {
        ns: median(ns),
        faults: median(faults),
        ..Row::new(name, entry.name, entry.peer)
    };
    arena::ALL.iter().zip(samples).map(row).collect()
}

/// Nanoseconds of an object, and page faults of a million. The blocks stay.
fn once(arena: &dyn Arena, warm: bool, blocks: &mut Vec<Block>) -> Option<(f64, f64)> {
    let mut worker = arena.worker();
    let contender = worker.contender()?;
    if warm && !arena.warms_up() {
        take(contender, blocks)?;
        give_back(contender, blocks);
    }
    let before = faults();
    let start = Instant::now();
    take(contender, blocks)?;
    let took = since(start) / count(OBJECTS);
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    let faults = (faults() - before) as f64 * 1e6 / count(OBJECTS);
    Some((took, faults))
}

fn take(contender: &mut dyn Contender, blocks: &mut Vec<Block>) -> Option<()> {
    while blocks.len() < OBJECTS {
        let object = contender.alloc(layout(SIZE))?;
        // SAFETY: it was just allocated, with room for a word.
        unsafe { object.cast::<usize>().write(1) };
        blocks.push((object, layout(SIZE)));
    }
    Some(())
}

fn give_back(contender: &mut dyn Contender, blocks: &mut Vec<Block>) {
    for (block, layout) in blocks.drain(..) {
        // SAFETY: it is live, and gone from the list.
        unsafe { contender.free(block, layout) };
    }
}

fn free(arena: &dyn Arena, mut blocks: Vec<Block>) {
    if let Some(contender) = arena.worker().contender() {
        give_back(contender, &mut blocks);
    }
}
