//! The system's allocator, for comparison: a `malloc` and a `free` per packet.
#![expect(unsafe_code, reason = "packet buffers are raw memory")]

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use allocator_api2::alloc::Global;
use libmempool::LeakReport;

use super::{PacketCache, PacketMemory, Usage};
use crate::packet::{BUFFER_ALIGN, BUFFER_SIZE, Burst, Packet};
use crate::vpn::Session;

const BUFFER: Layout = match Layout::from_size_align(BUFFER_SIZE, BUFFER_ALIGN) {
    Ok(layout) => layout,
    Err(_) => panic!("a power of two"),
};

/// The system's memory. It counts packet buffers, so that leaks show here too.
#[derive(Default)]
pub struct SystemMemory {
    allocated: AtomicUsize,
    freed: AtomicUsize,
}

impl SystemMemory {
    pub fn new() -> Self {
        Self::default()
    }

    /// The packet buffers nobody freed.
    pub fn leaks(&self) -> LeakReport {
        let allocated = self.allocated.load(Ordering::Relaxed);
        let objects = allocated.wrapping_sub(self.freed.load(Ordering::Relaxed));
        LeakReport { objects, bytes: objects.wrapping_mul(BUFFER_SIZE) }
    }
}

impl PacketMemory for SystemMemory {
    type Cache<'a> = SystemCache<'a>;
    type Tables<'a> = Global;
    type Session<'a> = Box<Session>;

    fn cache(&self) -> SystemCache<'_> {
        SystemCache { memory: self, allocated: 0, freed: 0 }
    }

    fn tables(&self) -> Global {
        Global
    }

    fn session(&self, session: Session) -> Option<Box<Session>> {
        Some(Box::new(session))
    }

    fn usage(&self) -> Option<Usage> {
        None
    }
}

/// One thread's counts; `malloc` has its own cache.
pub struct SystemCache<'m> {
    memory: &'m SystemMemory,
    allocated: usize,
    freed: usize,
}

impl PacketCache for SystemCache<'_> {
    fn fill(&mut self, burst: &mut Burst, wanted: usize) {
        while burst.len() < wanted {
            // SAFETY: the layout's size is not zero.
            let Some(buffer) = NonNull::new(unsafe { alloc(BUFFER) }) else {
                return;
            };
            // SAFETY: just allocated, with a packet's size and alignment.
            burst.push(unsafe { Packet::from_raw(buffer) });
            self.allocated += 1;
        }
    }

    fn free(&mut self, burst: &mut Burst) {
        for packet in burst.drain(..) {
            // SAFETY: `fill` allocated it, with this layout.
            unsafe { dealloc(packet.into_raw().as_ptr(), BUFFER) };
            self.freed += 1;
        }
    }

    fn rest(&mut self) {}
}

impl Drop for SystemCache<'_> {
    fn drop(&mut self) {
        self.memory.allocated.fetch_add(self.allocated, Ordering::Relaxed);
        self.memory.freed.fetch_add(self.freed, Ordering::Relaxed);
    }
}
