//! Allocators that several threads may use, and everybody in the comparison.

use std::alloc::Layout;

use libmempool::PoolFlags;

use crate::{dpdk, mallocs, object_pools, ours, worker::Worker};

/// An allocator, of which each thread gets a worker.
pub trait Arena: Sync {
    /// A worker for the calling thread.
    fn worker(&self) -> Box<dyn Worker + '_>;

    /// Whether it can be made with its memory present.
    fn warms_up(&self) -> bool {
        false
    }
}

/// What an arena is made for.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// What is asked for, or the largest of it.
    pub layout: Layout,
    /// How many may be live, those in caches included.
    pub objects: usize,
    /// Bytes of them all.
    pub bytes: usize,
    /// Whether the memory is made present beforehand, where there is a call for it.
    pub warm: bool,
}

/// Makes an arena. `None`: not on this machine, not in this build, or not for this.
pub type Make = fn(Needs) -> Option<Box<dyn Arena>>;

/// An allocator and its name.
#[derive(Clone, Copy)]
pub struct Entry {
    /// What it is called in tables.
    pub name: &'static str,
    /// Its configuration.
    pub how: &'static str,
    /// It serves objects of one size only.
    pub fixed: bool,
    /// It is somebody else's.
    pub peer: bool,
    /// Makes one.
    pub make: Make,
}

const fn fixed(name: &'static str, how: &'static str, make: Make) -> Entry {
    Entry { name, how, fixed: true, peer: false, make }
}

const fn general(name: &'static str, how: &'static str, make: Make) -> Entry {
    Entry { name, how, fixed: false, peer: false, make }
}

impl Entry {
    const fn peer(mut self) -> Self {
        self.peer = true;
        self
    }
}

/// The C library's and its replacements.
pub const MALLOCS: [&str; 5] = ["glibc", "mimalloc", "jemalloc", "snmalloc", "tcmalloc"];

/// Everybody, our own first.
pub const ALL: &[Entry] = &[
    fixed("LocalCache", "a handle, by class, inlined", ours::cached),
    fixed("LocalCache called", "the same through functions that are not inlined", ours::called),
    fixed("LocalCache unchecked", "inlined, and frees are not checked", ours::unchecked),
    general("ThreadCachedPool", "no handle, preset classes, by layout", ours::thread),
    fixed("ThreadCachedPool class", "no handle, by class", ours::thread_fixed),
    general("Pool<PthreadMutex>", "no handle, preset classes, by layout", ours::locked),
    fixed("rte_mempool", "DPDK, cache of 512, inlined in C", dpdk::cached).peer(),
    fixed("rte_mempool uncached", "DPDK, no cache, inlined in C", dpdk::uncached).peer(),
    fixed("heapless::pool", "box_pool, 64 and 2048 bytes", object_pools::heapless).peer(),
    fixed("lockfree-object-pool", "LinearObjectPool, 64 and 2048 bytes", object_pools::lockfree)
        .peer(),
    general("glibc", "malloc, nothing trimmed or mapped singly", mallocs::glibc).peer(),
    general("mimalloc", "3, nothing purged", mallocs::mimalloc).peer(),
    general("jemalloc", "5.3, no decay, sized frees", mallocs::jemalloc).peer(),
    general("snmalloc", "0.7, sized frees", mallocs::snmalloc).peer(),
    general("tcmalloc", "gperftools, nothing released, sized frees", mallocs::tcmalloc).peer(),
];

/// A local cache of a pool with each flag, beside one without.
pub const FLAGS: &[Entry] = &[
    fixed("LocalCache", "no flags", ours::cached),
    fixed("POISON", "blocks are filled when freed", ours::flagged::<{ PoolFlags::POISON.bits() }>),
    fixed(
        "ZERO_ON_FREE",
        "blocks are zeroed when freed",
        ours::flagged::<{ PoolFlags::ZERO_ON_FREE.bits() }>,
    ),
    fixed(
        "ZERO_ON_ALLOC",
        "blocks are zeroed when allocated",
        ours::flagged::<{ PoolFlags::ZERO_ON_ALLOC.bits() }>,
    ),
    fixed(
        "CANARY",
        "what is behind blocks is checked",
        ours::flagged::<{ PoolFlags::CANARY.bits() }>,
    ),
    fixed("RANDOM", "blocks come in random order", ours::flagged::<{ PoolFlags::RANDOM.bits() }>),
    fixed("QUARANTINE", "freed blocks wait", ours::flagged::<{ PoolFlags::QUARANTINE.bits() }>),
    fixed(
        "GUARD",
        "pages without access behind slabs",
        ours::flagged::<{ PoolFlags::GUARD.bits() }>,
    ),
    fixed("HARDENED", "all that finds mistakes", ours::flagged::<{ PoolFlags::HARDENED.bits() }>),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A contender that hands out too little would win.
    #[test]
    fn blocks_are_whole_and_nobody_elses() {
        let layout = Layout::new::<[usize; 8]>();
        let needs = Needs { layout, objects: 1 << 12, bytes: 1 << 18, warm: false };
        for entry in ALL.iter().chain(FLAGS) {
            let Some(arena) = (entry.make)(needs) else { continue };
            let mut worker = arena.worker();
            let Some(contender) = worker.contender() else { continue };
            let take = |number| {
                let block = contender.alloc(layout).expect("memory").cast::<[usize; 8]>();
                // SAFETY: it was just allocated for that.
                unsafe { block.write([number; 8]) };
                block
            };
            let blocks: Vec<_> = (0..1000).map(take).collect();
            for (number, &block) in blocks.iter().enumerate() {
                // SAFETY: it is live, and was written.
                let whole = unsafe { block.read() } == [number; 8];
                assert!(whole, "{}: block {number} is overwritten", entry.name);
                // SAFETY: it is not used any more.
                unsafe { contender.free(block.cast(), layout) };
            }
        }
    }
}
