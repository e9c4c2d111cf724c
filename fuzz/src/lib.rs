//! What the fuzz targets share: the tests' model, configurations and operations, decoded from bytes.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use arbitrary::{Arbitrary, Result, Unstructured};
pub use common::{Op, Setup};

/// A configuration, and what is done to a pool of it.
pub struct Input {
    /// The pool's configuration.
    pub setup: Setup,
    ops: Vec<[u16; 4]>,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> Result<Self> {
        let setup = Setup::decode(bytes.arbitrary()?);
        let ops = std::iter::from_fn(|| (!bytes.is_empty()).then(|| bytes.arbitrary().ok())?);
        let ops = ops.collect();
        Ok(Self { setup, ops })
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.setup)?;
        self.ops
            .iter()
            .try_for_each(|&op| writeln!(f, "{:?} or {:?}", Op::decode(op), Op::decode_misuse(op)))
    }
}

impl Input {
    /// Runs the operations that numbers stand for, each compared with the model. Everything is checked after each
    /// of some inputs' operations, and from time to time in the others, so that far more are run.
    pub fn run(self, decode: fn([u16; 4]) -> Op) {
        let check_every = if self.setup.bytes.is_multiple_of(16) { 1 } else { 32 };
        let count = self.ops.len();
        common::against_model::run(&self.setup, self.ops.into_iter().map(decode), check_every);
        report(count);
    }
}

/// Counts operations, and prints every ten million.
fn report(count: usize) {
    const EACH: usize = 10_000_000;
    static DONE: AtomicUsize = AtomicUsize::new(0);
    let before = DONE.fetch_add(count, Relaxed);
    if before / EACH < (before + count) / EACH {
        eprintln!("{} operations", before + count);
    }
}
