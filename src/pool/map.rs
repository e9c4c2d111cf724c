//! The heap map: every block and slab of a pool, in address order, for people and plots.

use core::fmt;

use lock_api::{MutexGuard, RawMutex};

use super::pool::{Guarded, Pool};
use crate::{
    config::ClassId,
    heap::{Block, Tag},
    page_source::PageSource,
    slab::{RegionEntry, Slab, Store, Walk, Walked},
    units::to_usize,
};

/// One piece of a pool's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct MapEntry {
    /// Where it starts: a block's tag, or a slab's first slot.
    pub addr: usize,
    /// Its bytes, tag included.
    pub size: usize,
    /// What it is.
    pub kind: MapKind,
}

/// What a [`MapEntry`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum MapKind {
    /// A free heap block.
    Free,
    /// A heap block that has been freed and waits ([`PoolFlags::QUARANTINE`](crate::PoolFlags)).
    Quarantined,
    /// A heap block in a caller's hands.
    Live,
    /// The pool's own table.
    Metadata,
    /// A slab.
    Slab {
        /// Its class.
        class: ClassId,
        /// Its slots.
        slots: usize,
        /// Those of them that are in the slab, neither live nor cached.
        free: usize,
    },
}

impl fmt::Display for MapEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#014x} {:>10} ", self.addr, self.size)?;
        match self.kind {
            MapKind::Free => f.write_str("free"),
            MapKind::Quarantined => f.write_str("freed, waits"),
            MapKind::Live => f.write_str("live"),
            MapKind::Metadata => f.write_str("metadata"),
            MapKind::Slab { class, slots, free } => {
                write!(f, "slab of {class}, {free} of {slots} slots free")
            }
        }
    }
}

impl<L: RawMutex, P: PageSource> Pool<'_, L, P> {
    /// Iterates over everything in the pool's regions. It holds the pool's lock until it is
    /// dropped: calling the pool meanwhile deadlocks (or panics, with
    /// [`NoLock`](crate::NoLock)). Ends early at damaged data, which
    /// [`validate`](Self::validate) names. O(blocks + slabs).
    ///
    /// ```
    /// # use std::{alloc::Layout, mem::MaybeUninit};
    /// use libmempool::{MapKind, NoLock, Pool};
    /// # let mut memory = vec![MaybeUninit::uninit(); 64 << 10];
    /// let pool = Pool::<NoLock>::new(&mut memory)?;
    /// pool.alloc(Layout::new::<[u8; 100]>())?;
    /// assert_eq!(pool.map().filter(|entry| entry.kind == MapKind::Live).count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn map(&self) -> impl Iterator<Item = MapEntry> {
        Map { guarded: self.inner.lock(), region: 0, position: Position::RegionStart }
    }
}

/// The iterator. It keeps positions instead of a [`Walk`], which would borrow from the guard that
/// stands beside it.
struct Map<'p, L: RawMutex> {
    guarded: MutexGuard<'p, L, Guarded>,
    /// Which of the regions.
    region: usize,
    position: Position,
}

/// Where in its region a [`Map`] is.
#[derive(Clone, Copy)]
enum Position {
    RegionStart,
    At(Option<Block>),
    /// In a run of slabs: the next one's start, the run's end, and the block behind it.
    Slabs(usize, usize, Option<Block>),
}

impl<L: RawMutex> Iterator for Map<'_, L> {
    type Item = MapEntry;

    fn next(&mut self) -> Option<MapEntry> {
        let store = self.guarded.engine.store();
        loop {
            let entry = store.entries().nth(self.region)?;
            let mut walk = match self.position {
                Position::RegionStart => Walk::new(store, entry),
                Position::At(block) => Walk::at(store, entry, block),
                Position::Slabs(start, end, behind) => {
                    let found = slab_entry(store, entry, start)?;
                    let next = start + found.size;
                    self.position = if next < end {
                        Position::Slabs(next, end, behind)
                    } else {
                        Position::At(behind)
                    };
                    return Some(found);
                }
            };
            match walk.next() {
                Some(Ok(Walked::Block(block, tag))) => {
                    self.position = Position::At(walk.position());
                    return Some(block_entry(store, block, tag));
                }
                Some(Ok(Walked::Slabs { start, end })) => {
                    self.position = Position::Slabs(start, end, walk.position());
                }
                Some(Err(_)) => {
                    self.region = usize::MAX;
                    return None;
                }
                None => {
                    self.region += 1;
                    self.position = Position::RegionStart;
                }
            }
        }
    }
}

fn block_entry(store: &Store, block: Block, tag: Tag) -> MapEntry {
    let kind = match (tag.is_used(), tag.is_internal()) {
        (false, _) if tag.is_resting() && store.waits(block) => MapKind::Quarantined,
        (false, _) => MapKind::Free,
        (true, true) => MapKind::Metadata,
        (true, false) => MapKind::Live,
    };
    MapEntry { addr: block.addr(), size: tag.size(), kind }
}

fn slab_entry(store: &Store, entry: &RegionEntry, start: usize) -> Option<MapEntry> {
    let piece = entry.map().piece_of(start).filter(|piece| piece.is_intact())?;
    let class = ClassId(piece.kind().as_class()?);
    let slab = Slab::of_states(piece.states()).verified().ok()?;
    let (slots, free) = (to_usize(slab.slots()), to_usize(slab.free()));
    let size = to_usize(slab.pieces()) * store.piece_bytes();
    Some(MapEntry { addr: start, size, kind: MapKind::Slab { class, slots, free } })
}
