//! The loops of all work, compiled for each contender.

use std::{
    hint::black_box,
    ptr::NonNull,
    time::{Duration, Instant},
};

use crate::{
    clock::{Latencies, Probe, Untimed},
    contender::Contender,
    job::{BURST, Block, Job, Work},
    trace::{self, Op},
};

/// What a turn took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// All of it.
    pub total: Duration,
    /// Allocating and freeing, where they are apart.
    pub parts: Option<[Duration; 2]>,
}

/// One thread's part of a workload.
pub trait Worker {
    /// Does the work so often. `None`: this contender cannot.
    fn run(&mut self, job: &mut Job, rounds: u32) -> Option<Cost>;

    /// The same, with each operation timed. `false`: this contender cannot.
    fn time_each(&mut self, job: &mut Job, rounds: u32, latencies: &mut Latencies) -> bool;

    /// Follows a piece of a trace, and times `each` operation. `false`: an allocation failed.
    fn replay(
        &mut self,
        ops: &[Op],
        blocks: &mut [Option<Block>],
        each: Option<&mut Latencies>,
    ) -> bool;

    /// Frees what the job has live.
    fn finish(&mut self, job: &mut Job);

    /// The contender, where it hands out blocks.
    fn contender(&mut self) -> Option<&mut dyn Contender>;
}

impl<C: Contender> Worker for C {
    fn run(&mut self, job: &mut Job, rounds: u32) -> Option<Cost> {
        work(self, job, rounds, &mut Untimed)
    }

    fn time_each(&mut self, job: &mut Job, rounds: u32, latencies: &mut Latencies) -> bool {
        work(self, job, rounds, latencies).is_some()
    }

    fn replay(
        &mut self,
        ops: &[Op],
        blocks: &mut [Option<Block>],
        each: Option<&mut Latencies>,
    ) -> bool {
        match each {
            Some(each) => ops.iter().all(|&op| each.time(|| trace::step(op, self, blocks))),
            None => ops.iter().all(|&op| trace::step(op, self, blocks)),
        }
    }

    fn finish(&mut self, job: &mut Job) {
        for (block, layout) in job.live.drain(..) {
            // SAFETY: it was live, and is not any more.
            unsafe { self.free(block, layout) };
        }
    }

    fn contender(&mut self) -> Option<&mut dyn Contender> {
        Some(self)
    }
}

/// Does the work with the loops that are compiled for this contender.
pub fn work<C: Contender>(
    contender: &mut C,
    job: &mut Job,
    rounds: u32,
    probe: &mut impl Probe,
) -> Option<Cost> {
    match job.work {
        Work::Burst => return Some(burst(contender, job, rounds, probe)),
        Work::Exhausted => exhaust(contender, job)?,
        Work::Replace(live) => fill(contender, job, live)?,
        Work::Pair | Work::Fifo | Work::Bulk(_) => {}
    }
    let start = Instant::now();
    match job.work {
        Work::Pair => pairs(contender, job, rounds, probe),
        Work::Fifo => fifo(contender, job, rounds, probe),
        Work::Bulk(1) => bulk::<1>(contender, job, rounds, probe),
        Work::Bulk(4) => bulk::<4>(contender, job, rounds, probe),
        Work::Bulk(8) => bulk::<8>(contender, job, rounds, probe),
        Work::Bulk(32) => bulk::<32>(contender, job, rounds, probe),
        Work::Bulk(128) => bulk::<128>(contender, job, rounds, probe),
        Work::Replace(_) => replace(contender, job, rounds, probe),
        Work::Exhausted => fail(contender, job, rounds, probe),
        Work::Burst | Work::Bulk(_) => unreachable!("done above, or not among the workloads"),
    }
    Some(Cost { total: start.elapsed(), parts: None })
}

/// Makes the compiler forget what it knows of a pointer, which stays in its register.
#[inline(always)]
fn opaque(block: NonNull<u8>) -> NonNull<u8> {
    let mut pointer = block.as_ptr();
    // SAFETY: a comment does nothing.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) pointer) };
    NonNull::new(pointer).unwrap_or(block)
}

/// Writes a block's first word, as its user would sooner or later.
#[inline(always)]
fn touch(block: NonNull<u8>) {
    // SAFETY: it was just allocated, with at least 16 bytes aligned to 16.
    unsafe { block.cast::<usize>().write(1) };
}

#[inline(never)]
fn pairs(contender: &mut impl Contender, job: &Job, rounds: u32, probe: &mut impl Probe) {
    let layout = job.layout;
    for _ in 0..rounds {
        let block = probe.time(|| opaque(contender.alloc(layout).expect("memory")));
        // SAFETY: it was just allocated.
        probe.time(|| unsafe { contender.free(block, layout) });
    }
}

#[inline(never)]
fn burst(contender: &mut impl Contender, job: &Job, rounds: u32, probe: &mut impl Probe) -> Cost {
    let layout = job.layout;
    let mut table = [NonNull::dangling(); BURST];
    let mut parts = [Duration::ZERO; 2];
    for _ in 0..rounds {
        let start = Instant::now();
        for block in &mut table {
            *block = probe.time(|| contender.alloc(layout).expect("memory"));
            touch(*block);
        }
        let full = Instant::now();
        black_box(&table);
        for &index in &job.order {
            // SAFETY: the order is a permutation, so each is freed once.
            probe.time(|| unsafe { contender.free(table[index as usize], layout) });
        }
        parts[0] += full - start;
        parts[1] += full.elapsed();
    }
    Cost { total: parts[0] + parts[1], parts: Some(parts) }
}

#[inline(never)]
fn bulk<const N: usize>(
    contender: &mut impl Contender,
    job: &Job,
    rounds: u32,
    probe: &mut impl Probe,
) {
    let layout = job.layout;
    let mut table = [NonNull::dangling(); N];
    for _ in 0..rounds {
        probe.time(|| assert!(contender.alloc_bulk(layout, &mut table)));
        // SAFETY: they were just allocated.
        probe.time(|| unsafe { contender.free_bulk(layout, black_box(&table)) });
    }
}

#[inline(never)]
fn fifo(contender: &mut impl Contender, job: &Job, rounds: u32, probe: &mut impl Probe) {
    let layout = job.layout;
    let mut table = [NonNull::dangling(); BURST];
    for _ in 0..rounds {
        for run in table.as_chunks_mut::<32>().0 {
            probe.time(|| assert!(contender.alloc_bulk(layout, run)));
        }
        for run in black_box(&table).as_chunks::<32>().0 {
            // SAFETY: they were just allocated.
            probe.time(|| unsafe { contender.free_bulk(layout, run) });
        }
    }
}

/// A contender that needs longer to have all blocks live is too slow to measure.
const PATIENCE: Duration = Duration::from_secs(2);

/// Has as many live as are wanted. `None`: no memory, or no end in sight.
fn fill(contender: &mut impl Contender, job: &mut Job, live: usize) -> Option<()> {
    let start = Instant::now();
    while job.live.len() < live {
        if job.live.len() % 1024 == 1023 && start.elapsed() > PATIENCE {
            return None;
        }
        let (_, layout) = job.pick();
        let block = contender.alloc(layout)?;
        touch(block);
        job.live.push((block, layout));
    }
    Some(())
}

#[inline(never)]
fn replace(contender: &mut impl Contender, job: &mut Job, rounds: u32, probe: &mut impl Probe) {
    for _ in 0..rounds as usize * job.work.operations() {
        let (index, layout) = job.pick();
        let (old, old_layout) = job.live[index];
        // SAFETY: it is live, and gone from the table.
        probe.time(|| unsafe { contender.free(old, old_layout) });
        let block = probe.time(|| contender.alloc(layout).expect("memory"));
        touch(block);
        job.live[index] = (block, layout);
    }
}

/// Blocks after which a contender counts as without a limit.
const UNLIMITED: usize = 1 << 16;

/// Takes all there is. `None`: there is no end to it.
fn exhaust(contender: &mut impl Contender, job: &mut Job) -> Option<()> {
    while let Some(block) = contender.alloc(job.layout) {
        job.live.push((block, job.layout));
        if job.live.len() > UNLIMITED {
            return None;
        }
    }
    Some(())
}

#[inline(never)]
fn fail(contender: &mut impl Contender, job: &Job, rounds: u32, probe: &mut impl Probe) {
    for _ in 0..rounds as usize * job.work.operations() {
        let block = probe.time(|| contender.alloc(black_box(job.layout)));
        assert!(block.is_none(), "memory is not exhausted");
    }
}
