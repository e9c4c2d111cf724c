//! Several threads: one hands its objects to another, or each works on its own.

use std::{
    alloc::Layout,
    hint::spin_loop,
    ptr::NonNull,
    sync::Barrier,
    thread::{self, yield_now},
    time::Instant,
};

use libmempool_bench::{
    arena::{self, Arena, Needs},
    cores,
    job::{BATCH, Job, Sizes, Work},
    rng::Rng,
};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::{
    Effort,
    results::{Row, median},
    turns::{HOARD, count, nanos, since},
};

/// Objects on their way to the other core.
struct Batch([NonNull<u8>; BATCH]);

// SAFETY: who sends objects does not use them any more.
unsafe impl Send for Batch {}

/// Batches that the ring between the two cores holds.
const RING: usize = 32;

/// Batches before the clock starts.
const WARM: usize = 1000;

/// Tries before a thread lets others run.
const PATIENCE: u32 = 10_000;

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
    let batches = effort.batches;
    in_turns(name, layout, effort, |arena| {
        let (sender, receiver) = RingBuffer::new(RING);
        thread::scope(|scope| {
            let consumer = scope.spawn(|| consume(arena, layout, receiver, batches));
            let able = produce(arena, layout, sender, batches);
            let took = consumer.join().expect("the consumer ends");
            able.then_some(took?)
        })
    })
}

fn produce(arena: &dyn Arena, layout: Layout, mut sender: Producer<Batch>, batches: usize) -> bool {
    let mut worker = arena.worker();
    let Some(contender) = worker.contender() else { return false };
    for _ in 0..WARM + batches {
        let mut batch = [NonNull::dangling(); BATCH];
        patiently(|| contender.alloc_bulk(layout, &mut batch).then_some(()));
        for object in batch {
            // SAFETY: it was just allocated, with room for a word.
            unsafe { object.cast::<usize>().write(1) };
        }
        let mut waiting = Some(Batch(batch));
        patiently(|| {
            let refused = sender.push(waiting.take()?).err();
            waiting = refused.map(|rtrb::PushError::Full(batch)| batch);
            waiting.is_none().then_some(())
        });
    }
    true
}

/// Nanoseconds of an object, from core to core.
fn consume(
    arena: &dyn Arena,
    layout: Layout,
    mut receiver: Consumer<Batch>,
    batches: usize,
) -> Option<f64> {
    cores::pin(1);
    let mut worker = arena.worker();
    let contender = worker.contender()?;
    let mut start = Instant::now();
    let mut sum = 0;
    for number in 0..WARM + batches {
        if number == WARM {
            start = Instant::now();
        }
        let Batch(batch) = patiently(|| receiver.pop().ok());
        for object in batch {
            // SAFETY: it is live, and the producer wrote the word.
            sum += unsafe { object.cast::<usize>().read() };
        }
        // SAFETY: nobody uses them any more.
        unsafe { contender.free_bulk(layout, &batch) };
    }
    assert_eq!(sum, (WARM + batches) * BATCH, "objects arrive as they were sent");
    Some(since(start) / count(batches * BATCH))
}

/// Tries until something comes of it.
fn patiently<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let mut tries = 0;
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        tries += 1;
        if tries % PATIENCE == 0 { yield_now() } else { spin_loop() }
    }
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
