//! The list of workloads.

use std::alloc::Layout;

use libmempool_bench::job::{Sizes, Work};

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Allocators that threads share.
    Arenas,
    /// The price of our flags.
    Flags,
    /// Allocators over one region for one thread.
    Heaps,
}

/// What is measured, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Contenders take turns on one thread.
    Turns(Field, Work, Sizes),
    /// One thread allocates, another frees.
    Pipeline(Layout),
    /// So many threads at once, each on its own.
    Threads(usize, Work, Layout),
    /// Memory that has not been used yet.
    FirstTouch { warm: bool },
    /// System calls and page faults once everything is warm.
    Steady,
    /// How many blocks fit into a region.
    Fit(Layout),
    /// All recorded traces.
    Traces,
}

#[derive(Clone, Debug)]
pub struct Workload {
    pub name: String,
    pub kind: Kind,
    /// Part of a quick run.
    pub quick: bool,
}

/// Object sizes; those of a quick run are 64 and 2048.
pub const SIZES: [usize; 7] = [64, 256, 1024, 1500, 2048, 4096, 9000];

/// Aligned requests: size and alignment.
pub const ALIGNED: [(usize, usize); 2] = [(2048, 64), (4096, 4096)];

/// Objects per call.
pub const BULKS: [usize; 5] = [1, 4, 8, 32, 128];

const SMALL: Sizes = Sizes::Mixed(16, 1024);
const LARGE: Sizes = Sizes::Mixed(1 << 10, 16 << 10);

/// A layout as `malloc` has it.
pub fn layout(size: usize) -> Layout {
    aligned(size, 16)
}

fn aligned(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a layout")
}

/// All of them, in the order of measuring: fresh memory first.
pub fn all() -> Vec<Workload> {
    let mut list = List(Vec::new());
    list.add(true, "first touch 2048 B", Kind::FirstTouch { warm: false });
    list.add(true, "first touch 2048 B, warmed up", Kind::FirstTouch { warm: true });
    list.turns_of(Field::Arenas, "");
    list.bulks();
    list.together();
    list.add(true, "flags pair 64 B", fixed(Field::Flags, Work::Pair, 64));
    list.add(true, "flags pair 2048 B", fixed(Field::Flags, Work::Pair, 2048));
    list.turns_of(Field::Heaps, "heap ");
    list.aligned();
    list.add(true, "steady burst 2048 B", Kind::Steady);
    list.add(true, "traces", Kind::Traces);
    list.0
}

fn fixed(field: Field, work: Work, size: usize) -> Kind {
    Kind::Turns(field, work, Sizes::Fixed(layout(size)))
}

struct List(Vec<Workload>);

impl List {
    fn add(&mut self, quick: bool, name: impl Into<String>, kind: Kind) {
        self.0.push(Workload { name: name.into(), kind, quick });
    }

    fn turns_of(&mut self, field: Field, prefix: &str) {
        for size in SIZES {
            let quick = matches!(size, 64 | 2048);
            for (name, work) in [
                ("pair", Work::Pair),
                ("burst", Work::Burst),
                ("replace", Work::Replace(1024)),
                ("exhausted", Work::Exhausted),
            ] {
                if work == Work::Exhausted && size != 2048 {
                    continue;
                }
                self.add(quick, format!("{prefix}{name} {size} B"), fixed(field, work, size));
            }
            if size <= 256 {
                let name = format!("{prefix}replace {size} B, 100k live");
                self.add(false, name, fixed(field, Work::Replace(100_000), size));
            }
        }
        for (quick, name, live, sizes) in [
            (true, "mixed 16..1024", 1024, SMALL),
            (false, "mixed 16..1024, 100k live", 100_000, SMALL),
            (true, "mixed 1K..16K", 1024, LARGE),
        ] {
            let kind = Kind::Turns(field, Work::Replace(live), sizes);
            self.add(quick, format!("{prefix}{name}"), kind);
        }
    }

    fn bulks(&mut self) {
        for size in [64, 2048] {
            for n in BULKS {
                let kind = fixed(Field::Arenas, Work::Bulk(n), size);
                self.add(n == 32, format!("bulk {n} {size} B"), kind);
            }
            let kind = fixed(Field::Arenas, Work::Fifo, size);
            self.add(false, format!("bulk 32, 1024 out {size} B"), kind);
        }
    }

    fn together(&mut self) {
        for size in [64, 2048] {
            self.add(true, format!("pipeline {size} B"), Kind::Pipeline(layout(size)));
        }
        for (name, work) in [("pair", Work::Pair), ("burst", Work::Burst)] {
            for threads in [1, 2] {
                let kind = Kind::Threads(threads, work, layout(64));
                self.add(true, format!("threads {threads} {name} 64 B"), kind);
            }
        }
    }

    fn aligned(&mut self) {
        for (size, align) in ALIGNED {
            for (name, work) in [("pair", Work::Pair), ("burst", Work::Burst)] {
                let sizes = Sizes::Fixed(aligned(size, align));
                let name = format!("heap {name} {size}@{align}");
                self.add(true, name, Kind::Turns(Field::Heaps, work, sizes));
            }
            self.add(true, format!("heap fit {size} B"), Kind::Fit(layout(size)));
            self.add(true, format!("heap fit {size}@{align}"), Kind::Fit(aligned(size, align)));
        }
    }
}
