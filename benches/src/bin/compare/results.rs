//! What was measured.

use serde::Serialize;

/// One contender in one workload. `None`: not measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    pub workload: String,
    pub contender: String,
    pub peer: bool,
    /// Nanoseconds of an operation, the median of the turns.
    pub ns: Option<f64>,
    /// Of it, the allocation and the free, where they were apart.
    pub alloc: Option<f64>,
    pub free: Option<f64>,
    /// Single calls: 99.9 and 99.99 of 100 took at most this long.
    pub p999: Option<f64>,
    pub p9999: Option<f64>,
    /// The slowest call of a turn, the median of the turns.
    pub worst: Option<f64>,
    /// The slowest call of all turns.
    pub slowest: Option<f64>,
    /// Page faults of a million operations.
    pub faults: Option<f64>,
    /// System calls of the whole work.
    pub syscalls: Option<f64>,
    /// Memory beyond the blocks themselves, in per cent of them.
    pub extra: Option<f64>,
}

impl Row {
    pub fn new(workload: &str, contender: &str, peer: bool) -> Self {
        Self { workload: workload.into(), contender: contender.into(), peer, ..Self::default() }
    }
}

/// A figure of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Ns,
    Alloc,
    Free,
    P999,
    P9999,
    Worst,
    Faults,
    Syscalls,
    Extra,
}

impl Column {
    pub const ALL: [Self; 9] = [
        Self::Ns,
        Self::Alloc,
        Self::Free,
        Self::P999,
        Self::P9999,
        Self::Worst,
        Self::Faults,
        Self::Syscalls,
        Self::Extra,
    ];

    pub fn of(self, row: &Row) -> Option<f64> {
        match self {
            Self::Ns => row.ns,
            Self::Alloc => row.alloc,
            Self::Free => row.free,
            Self::P999 => row.p999,
            Self::P9999 => row.p9999,
            Self::Worst => row.worst,
            Self::Faults => row.faults,
            Self::Syscalls => row.syscalls,
            Self::Extra => row.extra,
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Ns => "ns",
            Self::Alloc => "alloc",
            Self::Free => "free",
            Self::P999 => "99.9 %",
            Self::P9999 => "99.99 %",
            Self::Worst => "worst",
            Self::Faults => "faults/M",
            Self::Syscalls => "syscalls",
            Self::Extra => "extra %",
        }
    }
}

/// All rows, in the order of measuring.
#[derive(Debug, Default, Serialize)]
pub struct Results(pub Vec<Row>);

impl Results {
    /// A figure, if it was measured.
    pub fn get(&self, workload: &str, contender: &str, column: Column) -> Option<f64> {
        let row = |row: &&Row| row.workload == workload && row.contender == contender;
        column.of(self.0.iter().find(row)?)
    }

    /// The rows of each workload.
    pub fn by_workload(&self) -> impl Iterator<Item = &[Row]> {
        self.0.chunk_by(|a, b| a.workload == b.workload)
    }
}

/// The least figure of the peers among the rows.
pub fn best_peer(rows: &[Row], column: Column) -> Option<f64> {
    rows.iter().filter(|row| row.peer).filter_map(|row| column.of(row)).min_by(f64::total_cmp)
}

/// The one in the middle.
pub fn median(mut samples: Vec<f64>) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied()
}
