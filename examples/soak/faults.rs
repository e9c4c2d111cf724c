//! Threads that make the surroundings fail: the page source, the process, and time itself.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread::sleep,
    time::Duration,
};

use libmempool::{NoLock, Pool};

use crate::{
    common::{Faults, FaultySource, Handle, Op, Rng, Setup, against_model, bytes},
    tally::Tally,
    target::Target,
};

/// Repeats something until it is time to stop.
pub fn every(pause: Duration, stop: &AtomicBool, mut work: impl FnMut()) {
    while !stop.load(Relaxed) {
        work();
        sleep(pause);
    }
}

/// Random pools under random operations, compared with the model; half of all operations are misuse.
pub fn compare_with_model(tally: &Tally, rng: &mut Rng) {
    const OPERATIONS: usize = 300;
    let setup = Setup::decode(std::array::from_fn(|_| random_u16(rng)));
    let ops: Vec<_> = (0..OPERATIONS)
        .map(|_| Op::decode_misuse(std::array::from_fn(|_| random_u16(rng))))
        .collect();
    if against_model::run(&setup, ops.into_iter(), against_model::AT_THE_END) {
        tally.modelled.add(1);
        tally.operations.add(OPERATIONS);
    }
}

fn random_u16(rng: &mut Rng) -> u16 {
    u16::try_from(rng.below(1 << 16)).expect("16 bits")
}

/// Page sources fail: when a pool is made, and when a pool in use is warmed up or gives pages back.
pub fn fail_pages(targets: &[Target], tally: &Tally, rng: &mut Rng) {
    let source = FaultySource::new(Faults::every(2));
    for _ in 0..4 {
        let built = Pool::<NoLock>::builder().map(source.clone(), 64 << 10);
        tally.pages.detected.add(usize::from(built.is_err()));
    }
    tally.pages.injected.add(source.faults.failed());
    assert_eq!(source.out.load(Relaxed), 0, "pages that were not given back");
    for target in targets {
        let failed = target.faults.failed();
        target.faults.set(1 + rng.below(3));
        let results = [target.pool.pool().warm_up(), target.pool.pool().discard_free().map(drop)];
        target.faults.set(0);
        tally.pages.injected.add(target.faults.failed() - failed);
        tally.pages.detected.add(results.iter().filter(|result| result.is_err()).count());
    }
}

/// A child uses its copies of the pools, whatever the parent's threads were doing.
pub fn fork(targets: &[Target], tally: &Tally) {
    tally.forks.injected.add(1);
    // SAFETY: the child calls the pools, which are made to be used after a fork, and `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        // SAFETY: a child that hangs is killed, and counts as lost.
        unsafe { libc::alarm(10) };
        let code = i32::from(!use_copies(targets));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: the status is writable, and the child is waited for once.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    tally.forks.detected.add(usize::from(waited == pid && status == 0));
}

/// Neither allocates but from the pools nor panics. Whether all is well.
fn use_copies(targets: &[Target]) -> bool {
    targets.iter().all(|target| {
        let mut handle = target.pool.clone();
        let blocks: [_; 50] = std::array::from_fn(|i| handle.alloc(bytes(1 + i * 53)));
        // The parent may have been out of memory; what there is can be freed, once.
        let freed = blocks
            .iter()
            .flatten()
            .all(|&block| handle.free(block).is_ok() && handle.free(block).is_err());
        // A thread of the parent may have been at an object's seal.
        freed && (target.sealed || target.pool.pool().validate().is_ok())
    })
}
