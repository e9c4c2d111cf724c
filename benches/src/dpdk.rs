//! DPDK's `rte_mempool`, behind the shim in `c/dpdk.c`; nobody where DPDK is not installed.

#[cfg(dpdk)]
mod shim;

use crate::arena::{Arena, Needs};

/// With a cache of 512, the largest there is.
pub fn cached(needs: Needs) -> Option<Box<dyn Arena>> {
    mempool(needs, 512)
}

/// Without a cache.
pub fn uncached(needs: Needs) -> Option<Box<dyn Arena>> {
    mempool(needs, 0)
}

#[cfg(not(dpdk))]
fn mempool(_: Needs, _: u32) -> Option<Box<dyn Arena>> {
    None
}

#[cfg(dpdk)]
fn mempool(needs: Needs, cache: u32) -> Option<Box<dyn Arena>> {
    Some(Box::new(shim::Mempool::new(needs.layout.size(), needs.objects, cache)?))
}
