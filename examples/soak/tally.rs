//! What a run has done so far, counted by all threads.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// A number that many threads add to.
#[derive(Debug, Default)]
pub struct Count(AtomicUsize);

impl Count {
    pub fn add(&self, more: usize) {
        self.0.fetch_add(more, Relaxed);
    }

    pub fn get(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// A kind of fault: how many were injected, and how many of them were refused or reported as they
/// should be.
#[derive(Debug, Default)]
pub struct Faults {
    pub injected: Count,
    pub detected: Count,
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Tally {
    pub operations: Count,
    /// Blocks that another thread freed than the one that allocated them.
    pub exchanged: Count,
    /// Runs that were compared with the model from start to end.
    pub modelled: Count,
    pub validated: Count,
    pub misuse: Faults,
    pub overruns: Faults,
    pub exhaustion: Faults,
    pub pages: Faults,
    pub forks: Faults,
}

impl Tally {
    fn faults(&self) -> [(&'static str, &Faults); 5] {
        [
            ("misuse", &self.misuse),
            ("overruns", &self.overruns),
            ("exhaustion", &self.exhaustion),
            ("page source", &self.pages),
            ("forks", &self.forks),
        ]
    }

    /// Injected faults that passed unnoticed.
    pub fn missed(&self) -> usize {
        let missed =
            |(_, faults): (_, &Faults)| faults.injected.get().saturating_sub(faults.detected.get());
        self.faults().into_iter().map(missed).sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "operations     {:>12}", self.operations.get())?;
        writeln!(f, "exchanged      {:>12}", self.exchanged.get())?;
        writeln!(f, "model runs     {:>12}", self.modelled.get())?;
        writeln!(f, "validations    {:>12}", self.validated.get())?;
        writeln!(f, "faults             injected     detected")?;
        for (name, faults) in self.faults() {
            let (injected, detected) = (faults.injected.get(), faults.detected.get());
            writeln!(f, "  {name:12} {injected:>12} {detected:>12}")?;
        }
        Ok(())
    }
}
