//! Recorded programs: each operation by its own thread, in the order of the recording.
//!
//! The threads take turns, so that everybody does exactly the same, and nobody's waiting is
//! counted; what threads cost each other shows elsewhere.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use libmempool_bench::{
    arena::{self, Arena, Needs},
    clock::Latencies,
    cores,
    job::Block,
    rng::Rng,
    trace::Trace,
    worker::Worker,
};

use crate::{
    Effort,
    results::{Row, median},
    turns::{count, nanos, with_tails},
    workloads::layout,
};

/// What passes from thread to thread.
struct Token {
    blocks: Vec<Option<Block>>,
    /// What the turns took.
    took: Duration,
    /// What each operation took, if that is wanted; it slows the whole.
    each: Option<Latencies>,
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
    let mut figures = vec![(Vec::new(), Latencies::default()); entries.len()];
    let mut rng = Rng::new(effort.seed);
    for round in 0..=effort.replays {
        rng.shuffle(&mut order);
        for &index in &order {
            let arena = (entries[index].make)(needs);
            let replayed =
                arena.as_deref().and_then(|arena| replay(arena, trace, round == effort.replays));
            let Some(Token { took, each, .. }) = replayed else { continue };
            match each {
                Some(each) => figures[index].1 = each,
                None => figures[index].0.push(nanos(took) / count(trace.ops.len())),
            }
        }
    }
    let row = |(entry, (means, each)): (&&arena::Entry, _)| {
        let row = Row::new(&format!("trace {}", trace.name), entry.name, entry.peer);
        with_tails(Row { ns: median(means), ..row }, each)
    };
    entries.iter().zip(figures).map(row).collect()
}

/// Follows a trace, timing its turns or `each` operation. `None`: an allocation failed.
fn replay(arena: &dyn Arena, trace: &Trace, each: bool) -> Option<Token> {
    let threads = trace.turns.iter().map(|&(_, thread)| thread + 1).max()?;
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| channel()).unzip();
    let (done, result) = channel();
    let each = each.then(|| Latencies::with_room(trace.ops.len()));
    let blocks = vec![None; trace.ids];
    let token = Token { blocks, took: Duration::ZERO, each, turn: 0, completed: true };
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
    token.completed.then_some(token)
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
        let start = Instant::now();
        token.completed &= worker.replay(ops, &mut token.blocks, token.each.as_mut());
        token.took += start.elapsed();
        token.turn += 1;
        match next {
            Some(&(_, thread)) if token.completed => _ = senders[thread].send(Some(token)),
            _ => {
                free_all(worker, &mut token);
                _ = done.send(token);
                for sender in senders {
                    _ = sender.send(None);
                }
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
