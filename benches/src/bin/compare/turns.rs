//! Contenders on one thread: they take turns, in an order that is drawn anew for each round.

use std::{
    hint::black_box,
    mem::MaybeUninit,
    time::{Duration, Instant},
};

use libmempool_bench::{
    arena::{self, Arena, Needs},
    clock::{Clock, Latencies},
    heaps,
    job::{Job, Sizes, Work},
    ours::ROOMY,
    rng::Rng,
    worker::{Cost, Worker},
};

use crate::{
    Effort, faults,
    results::{Row, median},
    workloads::Field,
};

/// Calls that are timed one by one in a turn, about.
const TIMED: usize = 4096;

/// Contenders that have worked longer than this have no more turns than a few.
const PATIENCE: Duration = Duration::from_millis(500);
const FEW: usize = 3;

/// Blocks that caches may hold beside those that are live.
pub const HOARD: usize = 8192;

/// A row for everybody.
pub fn measure(name: &str, field: Field, work: Work, sizes: Sizes, effort: &Effort) -> Vec<Row> {
    let entries = match field {
        Field::Arenas => arena::ALL,
        Field::Flags => arena::FLAGS,
        Field::Heaps => return measure_heaps(name, work, sizes, effort),
    };
    let entries: Vec<_> =
        entries.iter().filter(|entry| !entry.fixed || matches!(sizes, Sizes::Fixed(_))).collect();
    let needs = needs(work, sizes);
    let arenas: Vec<_> = entries.iter().map(|entry| (entry.make)(needs)).collect();
    let workers = arenas.iter().map(|arena| arena.as_deref().map(Arena::worker)).collect();
    let names = entries.iter().map(|entry| Row::new(name, entry.name, entry.peer));
    take_turns(names.collect(), workers, true, &Job::new(work, sizes, effort.seed), effort)
}

fn needs(work: Work, sizes: Sizes) -> Needs {
    let layout = sizes.largest();
    let objects = work.live() + HOARD;
    Needs { layout, objects, bytes: objects * layout.size(), warm: true }
}

fn measure_heaps(name: &str, work: Work, sizes: Sizes, effort: &Effort) -> Vec<Row> {
    let bytes = (needs(work, sizes).bytes * 2).max(ROOMY);
    let mut memories: Vec<_> = heaps::ALL.iter().map(|_| region(bytes)).collect();
    let workers = memories
        .iter_mut()
        .zip(heaps::ALL)
        .map(|(memory, entry)| (entry.make)(memory).map(|heap| heap as Box<dyn Worker>))
        .collect();
    let rows = heaps::ALL.iter().map(|entry| Row::new(name, entry.name, entry.peer()));
    take_turns(rows.collect(), workers, false, &Job::new(work, sizes, effort.seed), effort)
}

/// A region whose pages are present.
pub fn region(bytes: usize) -> Vec<MaybeUninit<u8>> {
    black_box(vec![MaybeUninit::new(1); bytes])
}

struct Contestant<'a> {
    row: Row,
    worker: Box<dyn Worker + 'a>,
    job: Job,
    rounds: u32,
    /// Totals, allocations, frees.
    samples: [Vec<f64>; 3],
    latencies: Latencies,
    worst: Vec<f64>,
    faults: u64,
    spent: Duration,
}

/// `tidy`: blocks are freed at the end. A heap goes with its region; to free 100 000 blocks takes
/// some of them half a minute.
fn take_turns(
    rows: Vec<Row>,
    workers: Vec<Option<Box<dyn Worker + '_>>>,
    tidy: bool,
    job: &Job,
    effort: &Effort,
) -> Vec<Row> {
    let mut absent = Vec::new();
    let mut contestants = Vec::new();
    for (place, (row, worker)) in rows.into_iter().zip(workers).enumerate() {
        let entered = worker
            .and_then(|worker| Contestant::enter(row.clone(), worker, tidy, job.clone(), effort));
        match entered {
            Some(contestant) => contestants.push((place, contestant)),
            None => absent.push((place, row)),
        }
    }
    let mut rng = Rng::new(effort.seed);
    for _ in 0..effort.rounds {
        rng.shuffle(&mut contestants);
        for (_, contestant) in &mut contestants {
            contestant.turn();
        }
    }
    let mut rows = absent;
    rows.extend(contestants.into_iter().map(|(place, contestant)| (place, contestant.leave(tidy))));
    rows.sort_by_key(|&(place, _)| place);
    rows.into_iter().map(|(_, row)| row).collect()
}

impl<'a> Contestant<'a> {
    /// Finds out how much work a turn is. `None`: this contender cannot do it.
    fn enter(
        row: Row,
        mut worker: Box<dyn Worker + 'a>,
        tidy: bool,
        mut job: Job,
        effort: &Effort,
    ) -> Option<Self> {
        let mut rounds = 1;
        // The first has everything to set up.
        let able = worker.run(&mut job, 1).is_some();
        while able && worker.run(&mut job, rounds)?.total < effort.turn / 2 {
            rounds *= 2;
        }
        if !able {
            if tidy {
                worker.finish(&mut job);
            }
            return None;
        }
        let latencies = Latencies::with_room(TIMED * 4 * effort.rounds);
        Some(Self {
            row,
            worker,
            job,
            rounds,
            samples: Default::default(),
            latencies,
            worst: Vec::new(),
            faults: 0,
            spent: Duration::ZERO,
        })
    }

    fn turn(&mut self) {
        if self.spent > PATIENCE && self.samples[0].len() >= FEW {
            return;
        }
        let before = faults();
        let cost = self.worker.run(&mut self.job, self.rounds).unwrap_or_default();
        self.faults += faults() - before;
        let operations = f64::from(self.rounds) * count(self.job.work.operations());
        let [totals, allocs, frees] = &mut self.samples;
        let Cost { total, parts } = cost;
        self.spent += total;
        totals.push(nanos(total) / operations);
        if let Some([alloc, free]) = parts {
            allocs.push(nanos(alloc) / operations);
            frees.push(nanos(free) / operations);
        }
        self.time_single_calls();
    }

    fn time_single_calls(&mut self) {
        let already = self.latencies.0.len();
        let rounds = u32::try_from(TIMED / self.job.work.operations().min(TIMED)).unwrap_or(1);
        let rounds = rounds.clamp(1, self.rounds.max(1));
        self.worker.time_each(&mut self.job, rounds, &mut self.latencies);
        let worst = self.latencies.0[already..].iter().max();
        self.worst.extend(worst.map(|&ticks| Clock::get().nanos(ticks)));
    }

    fn leave(mut self, tidy: bool) -> Row {
        if tidy {
            self.worker.finish(&mut self.job);
        }
        let done = f64::from(self.rounds)
            * count(self.job.work.operations())
            * count(self.samples[0].len());
        let [totals, allocs, frees] = self.samples;
        let faults = self.faults;
        let row = Row {
            ns: median(totals),
            alloc: median(allocs),
            free: median(frees),
            worst: median(self.worst),
            #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
            faults: Some(faults as f64 * 1e6 / done),
            ..self.row
        };
        with_tails(row, self.latencies)
    }
}

/// Adds what the slowest of the single calls took.
pub fn with_tails(row: Row, latencies: Latencies) -> Row {
    let mut ticks = latencies.0;
    ticks.sort_unstable();
    let at = |per_myriad: usize| {
        let tick = ticks.get(ticks.len() * per_myriad / 10_000)?;
        Some(Clock::get().nanos(*tick))
    };
    let slowest = ticks.last().map(|&tick| Clock::get().nanos(tick));
    Row { p999: at(9990), p9999: at(9999), slowest, ..row }
}

/// A count as a number to divide by.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub fn count(number: usize) -> f64 {
    number as f64
}

/// A duration in nanoseconds.
pub fn nanos(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// Nanoseconds since then.
pub fn since(start: Instant) -> f64 {
    nanos(start.elapsed())
}
