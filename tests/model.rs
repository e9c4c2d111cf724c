//! Random operation sequences against the model, over every lock, page source, alignment, class
//! set and region size.

mod common;

use common::{
    LOCKS, Op, Setup,
    against_model::{AT_THE_END, run},
    ops::seeded,
    setup::{ALIGNMENTS, CLASS_SETS, SOURCES},
};
use libmempool::PoolFlags;
use proptest::{collection::vec, prelude::*};

const FLAGS: [PoolFlags; 4] = [
    PoolFlags::empty(),
    PoolFlags::HARDENED,
    PoolFlags::QUARANTINE,
    PoolFlags::ZERO_ON_ALLOC.union(PoolFlags::GUARD),
];

/// Flags with which not all bytes are looked at after each step, which takes its time.
const LIGHT_FLAGS: [PoolFlags; 2] =
    [PoolFlags::empty(), PoolFlags::QUARANTINE.union(PoolFlags::GUARD)];

/// Bytes of regions.
const SIZES: [usize; 6] = [1 << 10, 4 << 10, 48 << 10, 1 << 20, 16 << 20, 256 << 20];

/// Every alignment with every class set and region size; locks, page sources and the rest take
/// turns, so that all pairs come up.
#[test]
#[cfg_attr(miri, ignore = "takes hours")]
fn every_configuration_agrees_with_the_model() {
    let mut built = 0;
    for turn in 0..ALIGNMENTS.len() * CLASS_SETS.len() * SIZES.len() {
        let setup = configuration(turn);
        let check_every = if setup.bytes <= 4 << 10 { 1 } else { AT_THE_END };
        built += usize::from(run(&setup, program(turn, 200), check_every));
    }
    // Mapped regions are whole pages, so more of the smallest ones suffice where there are some.
    let expected = if cfg!(feature = "std") { 200 } else { 180 };
    assert!(built > expected, "{built} configurations were large enough");
}

/// Some of these configurations and a few operations, which is what Miri has the time for.
#[test]
fn short_programs_agree_with_the_model() {
    let of_small_pools = (0..).filter(|&turn| configuration(turn).bytes <= 48 << 10);
    let mut built = 0;
    for turn in of_small_pools.step_by(13).take(9) {
        built += usize::from(run(&configuration(turn), program(turn, 25), AT_THE_END));
    }
    assert!(built >= 6, "{built} configurations were large enough");
}

/// The configuration whose turn it is.
fn configuration(turn: usize) -> Setup {
    let (bytes, rest) = (SIZES[turn % SIZES.len()], turn / SIZES.len());
    Setup {
        lock: LOCKS[(turn + rest) % LOCKS.len()],
        source: SOURCES[(turn + rest / 3) % SOURCES.len()],
        alignment: ALIGNMENTS[rest % ALIGNMENTS.len()],
        classes: CLASS_SETS[rest / ALIGNMENTS.len() % CLASS_SETS.len()],
        bytes,
        regions: 1 + turn % 3,
        skew: turn * 7 % 64,
        magazine: [None, None, Some(0), Some(5)][rest % 4],
        flags: if bytes > 1 << 20 {
            LIGHT_FLAGS[turn / 7 % LIGHT_FLAGS.len()]
        } else {
            FLAGS[turn / 7 % FLAGS.len()]
        },
    }
}

/// The operations whose turn it is.
fn program(turn: usize, count: usize) -> impl Iterator<Item = Op> {
    seeded(u64::try_from(turn).expect("few turns"), count)
}

/// Long runs in the configurations that people use.
#[test]
#[cfg_attr(miri, ignore = "takes hours")]
fn long_runs_agree_with_the_model() {
    for (index, &lock) in LOCKS.iter().enumerate() {
        for &classes in CLASS_SETS {
            let setup = Setup {
                lock,
                classes,
                alignment: [16, 64][index % 2],
                regions: 1 + index % 2,
                ..Setup::plain(1 << 20)
            };
            assert!(run(&setup, seeded(99, 5000), AT_THE_END));
        }
    }
}

/// More cases than usual, unless `PROPTEST_CASES` says how many.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { usual.cases } else { 1000 };
    ProptestConfig { cases, failure_persistence: None, ..usual }
}

proptest! {
    #![proptest_config(config())]

    /// Small pools of every kind, checked to the last block after every step.
    #[test]
    #[cfg_attr(miri, ignore = "takes hours")]
    fn random_sequences_agree_with_the_model(
        setup in any::<[u16; 8]>().prop_map(Setup::decode),
        ops in vec(any::<[u16; 4]>().prop_map(Op::decode), 1..160),
    ) {
        run(&setup, ops.into_iter(), 1);
    }
}

/// The same operations through a thread-cached pool.
#[cfg(feature = "std")]
#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn thread_cached_pools_agree_with_the_model() {
    for &classes in CLASS_SETS {
        let setup = Setup { classes, ..Setup::plain(256 << 10) };
        assert!(common::against_model::run_thread_cached(&setup, seeded(5, 3000), AT_THE_END));
    }
}
