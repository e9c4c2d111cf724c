//! The shim's functions, and a mempool made of them.

use std::{
    alloc::Layout,
    ffi::{CString, c_char, c_int, c_uint, c_void},
    ptr::NonNull,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    arena::Arena,
    clock::{Latencies, Untimed},
    contender::Contender,
    cores,
    job::{Block, Job, Work},
    trace::Op,
    worker::{Cost, Worker, work},
};

/// DPDK's struct, which is its own affair.
#[repr(C)]
struct Raw([u8; 0]);

unsafe extern "C" {
    fn peer_dpdk_start(core: *mut c_char) -> c_int;
    fn peer_dpdk_enter() -> c_int;
    fn peer_dpdk_leave(pool: *mut Raw);
    fn peer_dpdk_new(name: *const c_char, size: c_uint, count: c_uint, cache: c_uint) -> *mut Raw;
    fn peer_dpdk_end(pool: *mut Raw);
    fn peer_dpdk_get(pool: *mut Raw) -> *mut c_void;
    fn peer_dpdk_put(pool: *mut Raw, object: *mut c_void);
    fn peer_dpdk_get_bulk(pool: *mut Raw, objects: *mut NonNull<u8>, n: c_uint) -> c_int;
    fn peer_dpdk_put_bulk(pool: *mut Raw, objects: *const NonNull<u8>, n: c_uint);
    fn peer_dpdk_pairs(pool: *mut Raw, rounds: u32);
    fn peer_dpdk_bulk(pool: *mut Raw, n: c_uint, rounds: u32);
    fn peer_dpdk_burst_get(pool: *mut Raw);
    fn peer_dpdk_burst_put(pool: *mut Raw, order: *const u32);
    fn peer_dpdk_fifo(pool: *mut Raw, rounds: u32);
}

/// As C counts; nothing here is ever more.
fn count(objects: usize) -> c_uint {
    c_uint::try_from(objects).unwrap_or(c_uint::MAX)
}

/// A pool of objects of one size.
pub struct Mempool(NonNull<Raw>);

// SAFETY: a mempool is made to be shared by threads.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// Makes one, once DPDK's environment has started, on the thread and core that measure.
    pub fn new(size: usize, objects: usize, cache: u32) -> Option<Self> {
        static STARTED: OnceLock<bool> = OnceLock::new();
        static POOLS: AtomicU32 = AtomicU32::new(0);
        if !STARTED.get_or_init(|| {
            let core = CString::new(cores::first().to_string()).unwrap_or_default();
            // SAFETY: once per process, and the argument outlives it.
            unsafe { peer_dpdk_start(core.into_raw()) >= 0 }
        }) {
            return None;
        }
        let name = CString::new(format!("peer{}", POOLS.fetch_add(1, Relaxed))).ok()?;
        // SAFETY: the environment is initialised; the name is copied.
        NonNull::new(unsafe { peer_dpdk_new(name.as_ptr(), count(size), count(objects), cache) })
            .map(Self)
    }
}

impl Drop for Mempool {
    fn drop(&mut self) {
        // SAFETY: workers borrow the pool, so there is none.
        unsafe { peer_dpdk_end(self.0.as_ptr()) };
    }
}

impl Arena for Mempool {
    fn worker(&self) -> Box<dyn Worker + '_> {
        // SAFETY: the environment is initialised.
        let entered = unsafe { peer_dpdk_enter() };
        assert!(entered == 0, "DPDK refuses the thread");
        Box::new(InC(Thread(self)))
    }
}

/// One thread's use of a mempool.
struct Thread<'p>(&'p Mempool);

impl Thread<'_> {
    fn raw(&self) -> *mut Raw {
        self.0.0.as_ptr()
    }
}

impl Drop for Thread<'_> {
    fn drop(&mut self) {
        // SAFETY: the thread has entered.
        unsafe { peer_dpdk_leave(self.raw()) };
    }
}

impl Contender for Thread<'_> {
    fn alloc(&mut self, _: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the pool is alive.
        NonNull::new(unsafe { peer_dpdk_get(self.raw()) }.cast())
    }

    unsafe fn free(&mut self, block: NonNull<u8>, _: Layout) {
        // SAFETY: the caller's promise.
        unsafe { peer_dpdk_put(self.raw(), block.as_ptr().cast()) };
    }

    fn alloc_bulk(&mut self, _: Layout, out: &mut [NonNull<u8>]) -> bool {
        // SAFETY: the slice has room for as many as it is long.
        unsafe { peer_dpdk_get_bulk(self.raw(), out.as_mut_ptr(), count(out.len())) == 0 }
    }

    unsafe fn free_bulk(&mut self, _: Layout, blocks: &[NonNull<u8>]) {
        // SAFETY: the caller's promise; as above.
        unsafe { peer_dpdk_put_bulk(self.raw(), blocks.as_ptr(), count(blocks.len())) };
    }
}

/// Where there is a loop in C it is used; else Rust's loops call the functions.
struct InC<'p>(Thread<'p>);

impl InC<'_> {
    fn burst(&self, job: &Job, rounds: u32) -> Cost {
        let mut parts = [Duration::ZERO; 2];
        for _ in 0..rounds {
            let start = Instant::now();
            // SAFETY: the pool is alive.
            unsafe { peer_dpdk_burst_get(self.0.raw()) };
            let full = Instant::now();
            // SAFETY: the order is a permutation of what has just been allocated.
            unsafe { peer_dpdk_burst_put(self.0.raw(), job.order.as_ptr()) };
            parts[0] += full - start;
            parts[1] += full.elapsed();
        }
        Cost { total: parts[0] + parts[1], parts: Some(parts) }
    }
}

impl Worker for InC<'_> {
    fn run(&mut self, job: &mut Job, rounds: u32) -> Option<Cost> {
        let raw = self.0.raw();
        let start = Instant::now();
        // SAFETY: the pool is alive, and only this thread uses the shim's table.
        unsafe {
            match job.work {
                Work::Burst => return Some(self.burst(job, rounds)),
                Work::Pair => peer_dpdk_pairs(raw, rounds),
                Work::Bulk(n) => peer_dpdk_bulk(raw, count(n), rounds),
                Work::Fifo => peer_dpdk_fifo(raw, rounds),
                Work::Replace(_) | Work::Exhausted => {
                    return work(&mut self.0, job, rounds, &mut Untimed);
                }
            }
        }
        Some(Cost { total: start.elapsed(), parts: None })
    }

    fn time_each(&mut self, job: &mut Job, rounds: u32, latencies: &mut Latencies) -> bool {
        work(&mut self.0, job, rounds, latencies).is_some()
    }

    fn replay(
        &mut self,
        ops: &[Op],
        blocks: &mut [Option<Block>],
        each: Option<&mut Latencies>,
    ) -> bool {
        Worker::replay(&mut self.0, ops, blocks, each)
    }

    fn finish(&mut self, job: &mut Job) {
        Worker::finish(&mut self.0, job);
    }

    fn contender(&mut self) -> Option<&mut dyn Contender> {
        Some(&mut self.0)
    }
}
