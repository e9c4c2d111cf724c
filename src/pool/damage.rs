//! What lies around damage: the block or slot just below it, whose user most likely wrote past its end.

use lock_api::RawMutex;

use super::{check::slab_at, pool::Pool};
use crate::{
    cache::Engine,
    config::ClassId,
    error::{Corruption, CorruptionKind, Damage, Neighbour, NeighbourState},
    heap::{Block, Tag},
    page_source::PageSource,
    slab::{RegionEntry, Slab, Walk, Walked},
    units::{to_u32, to_usize},
};

impl<L: RawMutex, P: PageSource> Pool<'_, L, P> {
    /// Says what lies around damage that a [`Fault`](crate::Fault) told of. O(blocks + slabs), under the
    /// lock.
    ///
    /// ```
    /// # use std::{alloc::Layout, mem::MaybeUninit};
    /// # use libmempool::{Fault, NeighbourState, NoLock, Pool, PoolFlags};
    /// # use std::sync::Mutex;
    /// # let mut memory = vec![MaybeUninit::uninit(); 64 << 10];
    /// static FOUND: Mutex<Option<Fault>> = Mutex::new(None);
    /// let pool = Pool::<NoLock>::builder()
    ///     .flags(PoolFlags::POISON)
    ///     .on_fault(|fault, _| *FOUND.lock().unwrap() = Some(fault), 0)
    ///     .build(&mut memory)?;
    /// let [name, old, _above] = [(); 3].map(|()| pool.alloc(Layout::new::<[u8; 200]>()).unwrap());
    /// // SAFETY: the write after the free is the example's mistake; it stays in the region.
    /// unsafe {
    ///     pool.free(old)?;
    ///     old.add(50).write(0);
    /// }
    /// let _other = pool.alloc(Layout::new::<[u8; 200]>())?;
    /// let Some(Fault::Corruption(found)) = *FOUND.lock().unwrap() else { panic!("it is found") };
    /// let below = pool.explain(found).below.unwrap();
    /// assert_eq!((below.addr, below.state), (name.addr().get(), NeighbourState::Live));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn explain(&self, found: Corruption) -> Damage {
        explain(&self.inner.lock().engine, found)
    }
}

/// Says what lies around damage.
pub(super) fn explain(engine: &Engine, found: Corruption) -> Damage {
    let Corruption { addr, kind } = found;
    let (mut class, mut below) = (None, None);
    if is_of_contents(kind)
        && let Some(entry) = engine.store().region_of(addr)
    {
        // What was overrun is part of its own object's room.
        let overran = kind == CorruptionKind::Overrun;
        if let Some((slab, index)) = slot_around(engine, entry, addr) {
            class = Some(ClassId(slab.class()));
            below = match index.checked_sub(u32::from(!overran)) {
                Some(index) => slot(engine, slab, index),
                None => just_below(engine, entry, slab.first().addr()),
            };
        } else {
            let (around, under) = walk_to(engine, entry, addr);
            below = if overran { around } else { under };
        }
    }
    Damage { addr, kind, class, below }
}

/// Whether damage of this kind is in or between what callers use, not in the pool's tables.
const fn is_of_contents(kind: CorruptionKind) -> bool {
    matches!(
        kind,
        CorruptionKind::BlockTag
            | CorruptionKind::BlockNeighbour
            | CorruptionKind::BlockFooter
            | CorruptionKind::BlockLinks
            | CorruptionKind::Overrun
            | CorruptionKind::FreedMemory
    )
}

/// The slab that an address lies in, and the number of the slot there: what lies behind a slot's room belongs
/// to the next, and what is left over behind the last slot counts as one.
fn slot_around(engine: &Engine, entry: &RegionEntry, addr: usize) -> Option<(Slab, u32)> {
    let piece = entry.map().piece_of(addr)?;
    let class = engine.slabs.class(ClassId(piece.kind().as_class()?))?;
    let offset = piece.offset_of(addr);
    let (slab, _) = slab_at(engine, entry, addr.checked_sub(to_usize(offset))?).ok()?;
    let (stride, room) = (class.shape.stride, to_u32(class.shape.room));
    let index = offset / stride + u32::from(offset % stride >= room);
    Some((slab, index.min(slab.slots())))
}

/// A slot of a slab.
fn slot(engine: &Engine, slab: Slab, index: u32) -> Option<Neighbour> {
    let class = ClassId(slab.class());
    let shape = engine.slabs.class(class)?.shape;
    let addr = slab.first().addr() + to_usize(index) * to_usize(shape.stride);
    let is_live = slab.state(index).is_live();
    let state = if is_live { NeighbourState::Live } else { NeighbourState::Free };
    Some(Neighbour { addr, class: Some(class), state })
}

fn block((block, tag): (Block, Tag)) -> Neighbour {
    let state = match (tag.is_used(), tag.is_internal()) {
        (false, _) => NeighbourState::Free,
        (true, false) => NeighbourState::Live,
        (true, true) => NeighbourState::Pool,
    };
    Neighbour { addr: block.payload().addr(), class: None, state }
}

/// What ends where a slab starts.
fn just_below(engine: &Engine, entry: &RegionEntry, start: usize) -> Option<Neighbour> {
    last_slot(engine, entry, start).or_else(|| walk_to(engine, entry, start).1)
}

/// The last slot of a slab that ends at an address.
fn last_slot(engine: &Engine, entry: &RegionEntry, end: usize) -> Option<Neighbour> {
    let (slab, _) = slot_around(engine, entry, end.checked_sub(1)?)?;
    slot(engine, slab, slab.slots().checked_sub(1)?)
}

/// Walks to an address in the heap's part of a region, or as far as there is no damage: the block that
/// the address is in, if it is in one, and what lies just below. O(blocks).
fn walk_to(
    engine: &Engine,
    entry: &RegionEntry,
    addr: usize,
) -> (Option<Neighbour>, Option<Neighbour>) {
    let mut below = None;
    for walked in Walk::new(engine.store(), entry).map_while(Result::ok) {
        let (start, end) = match walked {
            Walked::Block(block, tag) => (block.addr(), block.addr() + tag.size()),
            Walked::Slabs { start, end } => (start, end),
        };
        if addr < start {
            break;
        }
        let it = match walked {
            Walked::Block(at, tag) => Some(block((at, tag))),
            Walked::Slabs { end, .. } => last_slot(engine, entry, end),
        };
        if addr < end {
            return (it, below);
        }
        below = it;
    }
    (None, below)
}
