//! What the library is to reach, each bar as a ratio of two figures of one run.

use libmempool_bench::arena::MALLOCS;
use serde::Serialize;

use crate::{
    results::{Column, Results},
    workloads::{ALIGNED, SIZES},
};

/// What no figure of a run can show.
pub const NOTES: &[&str] = &[
    "8: statistics cannot be turned off, so what they cost is not measured; the flags have tables.",
    "9: memory is what `replay` measures.",
];

/// A figure: workload, contender, column.
type Figure = (String, &'static str, Column);

/// What is asked of a figure of ours.
enum Test {
    /// The best of the others is at least so many times as much.
    Times(f64, Vec<Figure>),
    /// At most this.
    AtMost(f64),
}

struct Bar {
    number: u8,
    text: String,
    ours: Figure,
    test: Test,
}

/// A bar after a run.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub number: u8,
    pub text: String,
    pub asked: String,
    pub measured: Option<f64>,
    pub met: Option<bool>,
}

impl Outcome {
    pub fn verdict(&self) -> &'static str {
        match self.met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "not measured",
        }
    }
}

impl Bar {
    fn evaluate(&self, results: &Results) -> Outcome {
        let get =
            |(workload, contender, column): &Figure| results.get(workload, contender, *column);
        let ours = get(&self.ours);
        let (asked, measured, met) = match &self.test {
            Test::Times(asked, others) => {
                let best = others.iter().filter_map(get).min_by(f64::total_cmp);
                let ratio = ours.zip(best).map(|(ours, best)| best / ours);
                (format!("≥ {asked:.3}x"), ratio, ratio.map(|ratio| ratio >= *asked))
            }
            Test::AtMost(limit) => (format!("≤ {limit}"), ours, ours.map(|ours| ours <= *limit)),
        };
        Outcome { number: self.number, text: self.text.clone(), asked, measured, met }
    }
}

/// Judges a run.
pub fn evaluate(results: &Results) -> Vec<Outcome> {
    all().iter().map(|bar| bar.evaluate(results)).collect()
}

struct List(Vec<Bar>);

impl List {
    /// In one workload and column, against the best of some peers.
    fn times(
        &mut self,
        number: u8,
        workload: &str,
        contender: &'static str,
        column: Column,
        asked: f64,
        peers: &[&'static str],
    ) {
        let others = peers.iter().map(|peer| (workload.into(), *peer, column)).collect();
        let part = if column == Column::Ns { "" } else { column.title() };
        let against = if peers == MALLOCS { "best malloc".into() } else { peers.join(", ") };
        let text = format!("{workload} {part}: {contender} before {against}").replace(" :", ":");
        let ours = (workload.into(), contender, column);
        self.0.push(Bar { number, text, ours, test: Test::Times(asked, others) });
    }

    /// One workload against another.
    fn beside(
        &mut self,
        number: u8,
        ours: (&str, &'static str),
        asked: f64,
        other: (&str, &'static str),
    ) {
        let text = format!("{}, {}, beside {}, {}", ours.0, ours.1, other.0, other.1);
        let figure = |(workload, contender): (&str, _)| (workload.into(), contender, Column::Ns);
        let test = Test::Times(asked, vec![figure(other)]);
        self.0.push(Bar { number, text, ours: figure(ours), test });
    }

    fn at_most(
        &mut self,
        number: u8,
        workload: &str,
        contender: &'static str,
        column: Column,
        limit: f64,
    ) {
        let text = format!("{workload}: {contender}, {}", column.title());
        let ours = (workload.into(), contender, column);
        self.0.push(Bar { number, text, ours, test: Test::AtMost(limit) });
    }
}

const CACHE: &str = "LocalCache";
const CALLED: &str = "LocalCache called";
const UNCHECKED: &str = "LocalCache unchecked";
const THREAD: &str = "ThreadCachedPool";
const THREAD_CLASS: &str = "ThreadCachedPool class";
const DPDK: &str = "rte_mempool";
const HEAP: &str = "libmempool heap";

/// What the default checks may cost, beside none.
const CHECKS_COST: f64 = 1.35;

/// All of them.
fn all() -> Vec<Bar> {
    let mut list = List(Vec::new());
    handles(&mut list);
    pipeline(&mut list);
    general(&mut list);
    heap(&mut list);
    for work in ["pair", "burst"] {
        let (two, one) = (format!("threads 2 {work} 64 B"), format!("threads 1 {work} 64 B"));
        list.beside(6, (&two, CACHE), 1.95, (&one, CACHE));
    }
    steady(&mut list);
    for size in [64, 2048] {
        for work in ["pair", "burst", "replace", "bulk 32"] {
            let name = format!("{work} {size} B");
            list.beside(8, (&name, CACHE), 1.0 / CHECKS_COST, (&name, UNCHECKED));
        }
    }
    list.0
}

fn handles(list: &mut List) {
    for size in [64, 2048] {
        let pair = format!("pair {size} B");
        list.times(1, &pair, CACHE, Column::Ns, 4.0, &[DPDK]);
        list.times(1, &pair, CACHE, Column::Ns, 2.5, &MALLOCS);
        list.times(1, &pair, CACHE, Column::Ns, 6.0, &["glibc"]);
        list.times(1, &pair, CALLED, Column::Ns, 1.5, &[DPDK]);
        list.times(2, &format!("bulk 32 {size} B"), CACHE, Column::Ns, 1.5, &[DPDK]);
    }
}

fn pipeline(list: &mut List) {
    let (small, large) = ("pipeline 64 B", "pipeline 2048 B");
    list.times(3, large, CACHE, Column::Ns, 2.0, &[DPDK]);
    list.times(3, large, CACHE, Column::Ns, 5.0, &MALLOCS);
    list.times(3, small, CACHE, Column::Ns, 1.0, &[DPDK]);
    list.times(3, small, CACHE, Column::Ns, 1.0, &["snmalloc"]);
    list.times(3, small, CACHE, Column::Ns, 4.0, &["mimalloc", "glibc"]);
}

/// Ratios to glibc as the seed states them.
const SEED_ALLOC: [(usize, f64); 3] = [(64, 3.0), (1024, 2.9), (4096, 2.7)];
const SEED_FREE: f64 = 3.2;
const SEED_FIXED: f64 = 5.6;

fn general(list: &mut List) {
    for size in SIZES {
        for work in ["burst", "pair"] {
            let name = format!("{work} {size} B");
            list.times(4, &name, THREAD, Column::Ns, 1.0, &MALLOCS);
        }
    }
    list.times(4, "mixed 16..1024", THREAD, Column::Ns, 1.0, &MALLOCS);
    list.times(4, "mixed 1K..16K", THREAD, Column::Ns, 2.0, &MALLOCS);
    for (size, asked) in SEED_ALLOC {
        let name = format!("burst {size} B");
        list.times(4, &name, THREAD, Column::Alloc, asked, &["glibc"]);
        list.times(4, &name, THREAD, Column::Free, SEED_FREE, &["glibc"]);
        list.times(4, &name, THREAD_CLASS, Column::Ns, SEED_FIXED, &["glibc"]);
    }
}

fn heap(list: &mut List) {
    let mut names = Vec::new();
    for size in SIZES {
        names.extend(["pair", "burst", "replace"].map(|work| format!("heap {work} {size} B")));
    }
    names.extend([64, 256].map(|size| format!("heap replace {size} B, 100k live")));
    let mixed = ["16..1024", "16..1024, 100k live", "1K..16K"];
    names.extend(mixed.map(|sizes| format!("heap mixed {sizes}")));
    for name in names {
        list.times(5, &name, HEAP, Column::Ns, 1.0, &["rlsf", "talc"]);
    }
    for (size, align) in ALIGNED {
        for work in ["pair", "burst"] {
            let (aligned, plain) =
                (format!("heap {work} {size}@{align}"), format!("heap {work} {size} B"));
            list.beside(5, (&aligned, HEAP), 0.95, (&plain, HEAP));
        }
        list.at_most(5, &format!("heap fit {size}@{align}"), HEAP, Column::Extra, 1.0);
    }
}

fn steady(list: &mut List) {
    for contender in [CACHE, THREAD] {
        list.at_most(7, "steady burst 2048 B", contender, Column::Syscalls, 0.0);
        list.at_most(7, "steady burst 2048 B", contender, Column::Faults, 0.0);
    }
    for (workload, contender) in
        [("burst 2048 B", CACHE), ("replace 2048 B", CACHE), ("mixed 16..1024", THREAD)]
    {
        let peers: Vec<_> = MALLOCS.into_iter().chain([DPDK]).collect();
        list.times(7, workload, contender, Column::Worst, 1.0, &peers);
    }
}

#[cfg(test)]
mod tests {
    use libmempool_bench::{arena, heaps};

    use super::*;
    use crate::workloads;

    /// A bar whose names are mistyped would only ever be "not measured".
    #[test]
    fn bars_name_what_there_is() {
        let workloads: Vec<_> = workloads::all().into_iter().map(|load| load.name).collect();
        let names = arena::ALL.iter().map(|entry| entry.name);
        let names: Vec<_> = names.chain(heaps::ALL.iter().map(|entry| entry.name)).collect();
        for bar in all() {
            let others = match bar.test {
                Test::Times(_, others) => others,
                Test::AtMost(_) => Vec::new(),
            };
            for (workload, contender, _) in others.into_iter().chain([bar.ours]) {
                assert!(workloads.contains(&workload), "no workload {workload}");
                assert!(names.contains(&contender), "no contender {contender}");
            }
        }
    }
}
