//! Several threads: one hands its objects to another, or each works on its own.

use std::{alloc::Layout, sync::Barrier, thread};

use libmempool_bench::{
    arena::{self, Arena, Needs},
    cores,
    job::{BATCH, Job, Sizes, Work},
    pipeline,
    rng::Rng,
};

use crate::{
    Effort,
    results::{Row, median},
    turns::{HOARD, count, nanos},
};

/// Everybody, in turns: `one` measures an arena once, by the nanoseconds of an operation.
fn in_turns(
    name: &str,
    layout: Layout,
    effort: &Effort,
    one: impl Fn(&dyn Arena) -> Option<f64>,
) -> Vec<Row> {
    let objects = 2 * HOARD;
    let needs = Needs { layout, objects, bytes: objects * layout.size(), warm: true };
    let mut field: Vec<_> =
        arena::ALL.iter().map(|entry| (entry.name, (entry.make)(needs), Vec::new())).collect();
    let mut rng = Rng::new(effort.seed);
    for _ in 0..effort.runs {
        rng.shuffle(&mut field);
        for (_, arena, samples) in &mut field {
            samples.extend(arena.as_deref().and_then(&one));
        }
    }
    let row = |entry: &arena::Entry| {
        let at = field.iter().position(|&(name, ..)| name == entry.name);
        let ns = at.and_then(|at| median(field.swap_remove(at).2));
        Row { ns, ..Row::new(name, entry.name, entry.peer) }
    };
    arena::ALL.iter().map(row).collect()
}

/// One thread allocates, writes the first word and sends; another reads it and frees.
pub fn pipeline(name: &str, layout: Layout, effort: &Effort) -> Vec<Row> {
    in_turns(name, layout, effort, |arena| pipeline::run(arena, layout, effort.batches))
}

/// So many threads at once, each with its own work: the nanoseconds in which one of them gets an
/// operation done.
pub fn threads(
    name: &str,
    threads: usize,
    work: Work,
    layout: Layout,
    effort: &Effort,
) -> Vec<Row> {
    in_turns(name, layout, effort, |arena| {
        let barrier = Barrier::new(threads);
        let rates = thread::scope(|scope| {
            let alone = |nth| {
                let barrier = &barrier;
                scope.spawn(move || rate(arena, nth, barrier, work, layout, effort))
            };
            let running: Vec<_> = (0..threads).map(alone).collect();
            let joined = running.into_iter().map(|thread| thread.join().expect("it ends"));
            joined.collect::<Option<Vec<f64>>>()
        });
        rates.map(|rates| 1.0 / rates.iter().sum::<f64>())
    })
}

/// Operations that a thread does in a nanosecond.
fn rate(
    arena: &dyn Arena,
    nth: usize,
    barrier: &Barrier,
    work: Work,
    layout: Layout,
    effort: &Effort,
) -> Option<f64> {
    cores::pin(nth);
    let mut worker = arena.worker();
    let mut job = Job::new(work, Sizes::Fixed(layout), effort.seed);
    let rounds = u32::try_from(effort.batches * BATCH / work.operations()).unwrap_or(u32::MAX);
    let able = worker.run(&mut job, rounds / 8 + 1);
    barrier.wait();
    able?;
    let took = worker.run(&mut job, rounds)?.total;
    worker.finish(&mut job);
    Some(f64::from(rounds) * count(work.operations()) / nanos(took))
}
