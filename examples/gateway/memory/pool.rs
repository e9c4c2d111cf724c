//! The pool: packet buffers through a local cache per thread, sessions as typed objects, tables in
//! what is left.
#![expect(unsafe_code, reason = "packet buffers are raw memory")]

use std::fmt::Display;
use std::ptr::NonNull;

use arrayvec::ArrayVec;
use libmempool::{
    ClassId, LocalCache, MmapPages, ObjectPool, Pool, Pooled, PthreadMutex, SizeClass,
};

use super::{PacketCache, PacketMemory, Usage};
use crate::packet::{BUFFER_SIZE, BURST, Burst, Packet};
use crate::vpn::Session;

/// The pool of this program.
pub type AppliancePool = Pool<'static, PthreadMutex, MmapPages>;

/// Sessions that find room however full the pool is.
const RESERVED_SESSIONS: usize = 64;

/// Maps a pool of `bytes` with a class for packet buffers.
///
/// Half of it is reserved for packets, so that traffic flows however large the tables grow; a
/// quarter is closed to them, so that new flows and peers find room however much traffic there is.
pub fn map_pool(bytes: usize) -> Result<AppliancePool, String> {
    let buffers = bytes / BUFFER_SIZE;
    let packets =
        SizeClass::new(BUFFER_SIZE).reserve(buffers / 2).limit(buffers * 3 / 4).coloured();
    let problem = |error: &dyn Display| format!("no pool of {} MiB: {error}", bytes >> 20);
    let pool = Pool::<PthreadMutex>::builder()
        .alignment(64)
        .size_class(packets)
        .map(MmapPages::new(), bytes)
        .map_err(|error| problem(&error))?;
    pool.warm_up().map_err(|error| problem(&error))?; // no page fault on the first packets
    Ok(pool)
}

/// The data plane's memory in a pool.
pub struct PoolMemory<'p> {
    pool: &'p AppliancePool,
    packets: ClassId,
    sessions: ObjectPool<'p, Session, PthreadMutex>,
}

impl<'p> PoolMemory<'p> {
    /// Sets the pool up for packets and sessions.
    pub fn new(pool: &'p AppliancePool) -> Result<Self, String> {
        let packets = pool.class_of(BUFFER_SIZE).map_err(|error| error.to_string())?;
        let sessions = ObjectPool::with_reserve(pool, RESERVED_SESSIONS)
            .map_err(|error| format!("no room for sessions: {error}"))?;
        Ok(Self { pool, packets, sessions })
    }
}

impl<'p> PacketMemory for PoolMemory<'p> {
    type Cache<'a>
        = PoolCache<'a>
    where
        Self: 'a;
    type Tables<'a>
        = &'p AppliancePool
    where
        Self: 'a;
    type Session<'a>
        = Pooled<'p, Session, PthreadMutex>
    where
        Self: 'a;

    fn cache(&self) -> PoolCache<'_> {
        PoolCache { cache: self.pool.local_cache(), packets: self.packets }
    }

    fn tables(&self) -> &'p AppliancePool {
        self.pool
    }

    fn session(&self, session: Session) -> Option<Self::Session<'_>> {
        self.sessions.insert(session).ok()
    }

    fn usage(&self) -> Option<Usage> {
        let classes = [("packet", self.packets), ("session", self.sessions.class())];
        let classes = classes.map(|(name, id)| Some((name, self.pool.class_stats(id)?)));
        Some(Usage { pool: self.pool.stats(), classes: classes.into_iter().flatten().collect() })
    }
}

/// One thread's packet buffers: no lock and no atomic operation per packet.
pub struct PoolCache<'p> {
    cache: LocalCache<'p, PthreadMutex>,
    packets: ClassId,
}

impl PacketCache for PoolCache<'_> {
    fn fill(&mut self, burst: &mut Burst, wanted: usize) {
        let missing = wanted.saturating_sub(burst.len());
        let mut buffers = [NonNull::dangling(); BURST];
        let buffers = &mut buffers[..missing];
        if self.cache.alloc_bulk(self.packets, buffers).is_ok() {
            // SAFETY: each is a fresh object of the packet class.
            burst.extend(buffers.iter().map(|&buffer| unsafe { Packet::from_raw(buffer) }));
            return;
        }
        // All or nothing was nothing: take what is left.
        while burst.len() < wanted
            && let Ok(buffer) = self.cache.alloc_fixed(self.packets)
        {
            // SAFETY: a fresh object of the packet class.
            burst.push(unsafe { Packet::from_raw(buffer) });
        }
    }

    fn free(&mut self, burst: &mut Burst) {
        let buffers: ArrayVec<_, BURST> = burst.drain(..).map(Packet::into_raw).collect();
        // SAFETY: `fill` allocated them, and the packets are gone.
        let freed = unsafe { self.cache.free_bulk(self.packets, &buffers) };
        // The pool counts a rejected pointer as a bad free, and what it kept shows as a leak.
        debug_assert!(freed.is_ok(), "every packet came from the pool");
    }

    fn rest(&mut self) {
        self.cache.flush();
    }
}
