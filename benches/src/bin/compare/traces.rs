//! Recorded programs: each operation by its own thread, in the order of the recording.
//!
//! The threads take turns, so that everybody does exactly the same, and nobody's waiting is
//! counted; what threads cost each other shows elsewhere.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use libmempool_bench::{
    arena::{self, Arena, Needs},
    clock::{Clock, Latencies},
    cores,
    job::Block,
    rng::Rng,
    trace::Trace,
    worker::Worker,
};

use crate::{
    Effort,
    results::{Row, median},
    turns::{count, with_tails},
    workloads::layout,
};

/// What passes from thread to thread.
struct Token {
    blocks: Vec<Option<Block>>,
    each: Latencies,
    turn: usize,
    completed: bool,
}

// SAFETY: the blocks are used only by the thread that holds the token.
unsafe impl Send for Token {}

/// Operations of which a trace has to have more to be worth timing.
pub const SHORT: usize = 1000;

/// A row for everybody who serves all sizes.
pub fn measure(trace: &Trace, effort: &Effort) -> Vec<Row> {
    let bytes = trace.peak * 4 + (16 << 20);
    let needs = Needs { layout: layout(trace.peak), objects: trace.ids, bytes, warm: true };
    let entries: Vec<_> = arena::ALL.iter().filter(|entry| !entry.fixed).collect();
    let mut order: Vec<_> = (0..entries.len()).collect();
    let mut figures = vec![(Vec::new(), Vec::new(), Latencies::default()); entries.len()];
    let mut rng = Rng::new(effort.seed);
    for _ in 0..effort.rounds / 10 + 1 {
        rng.shuffle(&mut order);
        for &index in &order {
            let arena = (entries[index].make)(needs);
            let Some(each) = arena.as_deref().and_then(|arena| replay(arena, trace)) else {
                continue;
            };
            let (means, worst, all) = &mut figures[index];
            means.push(mean(&each));
            worst.extend(each.0.iter().max().map(|&ticks| Clock::get().nanos(ticks)));
            all.0.extend(each.0);
        }
    }
    let row = |(entry, (means, worst, all)): (&&arena::Entry, _)| {
        let row = Row::new(&format!("trace {}", trace.name), entry.name, entry.peer);
        with_tails(Row { ns: median(means), worst: median(worst), ..row }, all)
    };
    entries.iter().zip(figures).map(row).collect()
}

fn mean(each: &Latencies) -> f64 {
    let clock = Clock::get();
    each.0.iter().map(|&ticks| clock.nanos(ticks)).sum::<f64>() / count(each.0.len())
}

/// The time of each operation. `None`: an allocation failed.
fn replay(arena: &dyn Arena, trace: &Trace) -> Option<Latencies> {
    let threads = trace.turns.iter().map(|&(_, thread)| thread + 1).max()?;
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| channel()).unzip();
    let (done, result) = channel();
    let mut each = Latencies::default();
    each.make_room(trace.ops.len());
    let token = Token { blocks: vec![None; trace.ids], each, turn: 0, completed: true };
    senders[trace.turns[0].1].send(Some(token)).ok()?;
    thread::scope(|scope| {
        for (nth, receiver) in receivers.into_iter().enumerate() {
            let (senders, done) = (senders.clone(), done.clone());
            scope.spawn(move || {
                cores::pin(nth);
                follow(&mut *arena.worker(), trace, &receiver, &senders, &done);
            });
        }
    });
    let token: Token = result.recv().ok()?;
    token.completed.then_some(token.each)
}

/// One thread's turns. `None` instead of a token: the trace has ended.
fn follow(
    worker: &mut dyn Worker,
    trace: &Trace,
    receiver: &Receiver<Option<Token>>,
    senders: &[Sender<Option<Token>>],
    done: &Sender<Token>,
) {
    while let Ok(Some(mut token)) = receiver.recv() {
        let (start, _) = trace.turns[token.turn];
        let next = trace.turns.get(token.turn + 1);
        let ops = &trace.ops[start..next.map_or(trace.ops.len(), |&(end, _)| end)];
        token.completed &= worker.replay(ops, &mut token.blocks, &mut token.each);
        token.turn += 1;
        match next {
            Some(&(_, thread)) if token.completed => _ = senders[thread].send(Some(token)),
            _ => {
                free_all(worker, &mut token);
                _ = done.send(token);
                senders.iter().for_each(|sender| _ = sender.send(None));
            }
        }
    }
}

fn free_all(worker: &mut dyn Worker, token: &mut Token) {
    let Some(contender) = worker.contender() else { return };
    for (block, layout) in token.blocks.drain(..).flatten() {
        // SAFETY: it is live, and gone from the table.
        unsafe { contender.free(block, layout) };
    }
}
