//! DPDK's `rte_mempool`, behind the shim in `c/dpdk.c`; nobody where DPDK is not installed.

use crate::fixed::Peer;
#[cfg(dpdk)]
use crate::fixed::{OBJECTS, Work};

/// A pool of objects of a size.
#[cfg(not(dpdk))]
pub fn mempool(_: usize, _: &[u32]) -> Option<Box<dyn Peer>> {
    None
}

/// A pool of objects of a size, some of them in the order that `order` gives.
#[cfg(dpdk)]
pub fn mempool(size: usize, order: &[u32]) -> Option<Box<dyn Peer>> {
    use std::{
        ffi::CString,
        sync::{
            OnceLock,
            atomic::{AtomicU32, Ordering::Relaxed},
        },
    };

    static STARTED: OnceLock<bool> = OnceLock::new();
    static POOLS: AtomicU32 = AtomicU32::new(0);
    // SAFETY: once per process, on the thread that measures.
    if !*STARTED.get_or_init(|| unsafe { shim::peer_dpdk_start() } >= 0) {
        return None;
    }
    let name = CString::new(format!("peer{}", POOLS.fetch_add(1, Relaxed))).ok()?;
    let (size, count) = (u32::try_from(size).ok()?, u32::try_from(OBJECTS).ok()?);
    // SAFETY: the environment is initialised; the name is copied.
    let pool = unsafe { shim::peer_dpdk_new(name.as_ptr(), size, count) };
    if pool.is_null() {
        return None;
    }
    if let count @ 1.. = u32::try_from(order.len()).ok()? {
        // SAFETY: `order` is a permutation of `count` numbers, fewer than the pool has objects.
        unsafe { shim::peer_dpdk_shuffle(pool, order.as_ptr(), count) };
    }
    Some(Box::new(Mempool(pool)))
}

#[cfg(dpdk)]
struct Mempool(*mut shim::Mempool);

#[cfg(dpdk)]
impl Peer for Mempool {
    fn run(&mut self, work: Work, rounds: u32) {
        // SAFETY: the pool lives as long as the process, and this thread alone uses it.
        unsafe {
            match work {
                Work::Pairs => shim::peer_dpdk_pairs(self.0, rounds),
                Work::Burst => shim::peer_dpdk_burst(self.0, rounds),
                Work::Bulk(n) => shim::peer_dpdk_bulk(self.0, u32::from(n), rounds),
                Work::Fifo => shim::peer_dpdk_fifo(self.0, rounds),
            }
        }
    }
}

#[cfg(dpdk)]
mod shim {
    use std::ffi::{c_char, c_int, c_uint};

    #[repr(C)]
    pub struct Mempool([u8; 0]);

    unsafe extern "C" {
        pub fn peer_dpdk_start() -> c_int;
        pub fn peer_dpdk_new(name: *const c_char, size: c_uint, count: c_uint) -> *mut Mempool;
        pub fn peer_dpdk_pairs(pool: *mut Mempool, rounds: u32);
        pub fn peer_dpdk_burst(pool: *mut Mempool, rounds: u32);
        pub fn peer_dpdk_bulk(pool: *mut Mempool, n: c_uint, rounds: u32);
        pub fn peer_dpdk_fifo(pool: *mut Mempool, rounds: u32);
        pub fn peer_dpdk_shuffle(pool: *mut Mempool, order: *const u32, count: c_uint);
    }
}
