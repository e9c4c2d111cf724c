//! Operations on a pool of any configuration, compared with the model.

use std::ops::Range;

use libmempool::{PageSource, Pool};
use lock_api::RawMutex;

use super::{Model, Op, Setup, Suite, run_ops};

/// Runs operations on whatever pool it is given.
struct AgainstModel<I> {
    ops: I,
    every_step: bool,
}

impl<I: Iterator<Item = Op>> Suite for AgainstModel<I> {
    fn run<L: RawMutex, P: PageSource>(
        &mut self,
        mut pool: Pool<'_, L, P>,
        setup: &Setup,
        regions: &[Range<usize>],
    ) {
        let mut model = Model::new(regions, setup.alignment);
        model.flags = setup.flags;
        run_ops(&mut pool, setup, &mut model, &mut self.ops, self.every_step);
    }
}

/// Builds the pool and runs the operations; what is too small for its configuration is refused
/// with an error, and counted.
pub fn run(setup: &Setup, ops: impl Iterator<Item = Op>, every_step: bool) -> bool {
    let built = setup.run(&mut AgainstModel { ops, every_step });
    if let Err(error) = built {
        assert!(!setup.must_build(), "{setup:?}: {error}");
    }
    built.is_ok()
}
