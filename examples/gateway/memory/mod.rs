//! Where the data plane's memory comes from: one trait, and the pool and the system behind it.
//!
//! `--allocator` chooses; the stages are the same code for both.

mod pool;
mod recorded;
mod system;
mod timed;

use std::ops::DerefMut;

use allocator_api2::alloc::Allocator;
use libmempool::{ClassStats, PoolStats};

pub use self::pool::{PoolMemory, map_pool};
pub use self::recorded::Recorded;
pub use self::system::SystemMemory;
pub use self::timed::{Spent, Timed};
use crate::packet::Burst;
use crate::vpn::Session;

/// Memory for everything that packets pass through.
pub trait PacketMemory: Sync {
    /// One thread's access to packet buffers.
    type Cache<'a>: PacketCache
    where
        Self: 'a;
    /// Memory for tables that grow: rules, flows, peers.
    type Tables<'a>: Allocator + Copy + Send + Sync
    where
        Self: 'a;
    /// A VPN session. Dropping it returns its memory.
    type Session<'a>: DerefMut<Target = Session> + Send
    where
        Self: 'a;

    fn cache(&self) -> Self::Cache<'_>;
    fn tables(&self) -> Self::Tables<'_>;
    /// `None` if there is no memory left.
    fn session(&self, session: Session) -> Option<Self::Session<'_>>;
    /// What is in use now, if this memory can tell.
    fn usage(&self) -> Option<Usage>;
}

/// One thread's packet buffers.
pub trait PacketCache {
    /// Fills `burst` up to `wanted` buffers, or as far as the memory lasts.
    fn fill(&mut self, burst: &mut Burst, wanted: usize);
    /// Frees every packet of `burst`.
    fn free(&mut self, burst: &mut Burst);
    /// Called before the thread sleeps: what it holds back may be wanted elsewhere.
    fn rest(&mut self);
}

/// The state of a pool at one moment.
pub struct Usage {
    pub pool: PoolStats,
    /// The size classes by name.
    pub classes: Vec<(&'static str, ClassStats)>,
}
