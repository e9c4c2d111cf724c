//! The whole-pool check: walks every region, list, slab and magazine, and compares what it finds
//! with what the pool keeps count of.

use lock_api::RawMutex;

use super::{cached::check_caches, contents, damage, pool::Pool};
use crate::{
    cache::{Engine, Magazine},
    config::ClassId,
    error::{Corruption, CorruptionKind, Damage},
    heap::{Block, HeapCounters, Tag},
    page_source::PageSource,
    slab::{Class, Home, PieceKind, RegionEntry, Slab, SlabList, SlotCounts, Walk, Walked},
    units::{WORD, to_usize},
};

impl<L: RawMutex, P: PageSource> Pool<'_, L, P> {
    /// Checks everything the pool keeps: block tags, lists, bitmaps, the slab map, descriptors,
    /// slot states, magazines in depots and caches, the tables' checksums, and all counters; in pools
    /// with the flags for it, also what stands behind live objects, and that nobody wrote to free memory
    /// but what lies in caches. Changes nothing. It may run while other threads use their caches. O(blocks +
    /// slots) for every 16 classes, under the lock, plus the bytes that flags have it look at.
    ///
    /// # Errors
    /// The first [`Damage`] that it comes by: its address, its class, and what lies just below, whose user
    /// most likely wrote past its end.
    ///
    /// ```
    /// # use std::{alloc::Layout, mem::MaybeUninit};
    /// # use libmempool::{CorruptionKind, NeighbourState, NoLock, Pool};
    /// # let mut memory = vec![MaybeUninit::uninit(); 64 << 10];
    /// let pool = Pool::<NoLock>::new(&mut memory)?;
    /// let block = pool.alloc(Layout::new::<[u8; 40]>())?;
    /// let _above = pool.alloc(Layout::new::<[u8; 40]>())?;
    /// pool.validate()?;
    /// // SAFETY: this is the overflow that the check is there for; it stays in the region.
    /// unsafe { block.add(pool.usable_size(block)?).cast::<usize>().write(0) };
    /// let damage = pool.validate().unwrap_err();
    /// assert_eq!(damage.kind, CorruptionKind::BlockTag);
    /// let culprit = damage.below.unwrap();
    /// assert_eq!((culprit.addr, culprit.state), (block.addr().get(), NeighbourState::Live));
    /// println!("{damage}"); // the block tag at .. is corrupted, probably by a write past the end of ..
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn validate(&self) -> Result<(), Damage> {
        let engine = &self.inner.lock().engine;
        validate(engine).map_err(|found| damage::explain(engine, found))
    }
}

/// What has been counted in all regions so far.
struct Counted {
    heap: HeapCounters,
    /// The first of the classes that this pass counts.
    first_class: usize,
    slabs: [SlabCount; CLASSES_PER_PASS],
}

/// Classes that one walk over the regions counts slabs of: more would want a larger stack than
/// small firmware has.
const CLASSES_PER_PASS: usize = 16;

/// What has been counted of one class.
#[derive(Clone, Copy, Default)]
struct SlabCount {
    slabs: u32,
    free: u32,
    damaged: u32,
    partial: u32,
    idle: u32,
}

pub(super) fn validate(engine: &Engine) -> Result<(), Corruption> {
    let store = engine.store();
    store.check_entries()?;
    engine.slabs.check_entries()?;
    let classes = engine.slabs.count();
    for first_class in (0..classes.max(1)).step_by(CLASSES_PER_PASS) {
        check_regions(engine, first_class)?;
    }
    let in_heap =
        |addr: usize| store.region_of(addr).is_some_and(|entry| !entry.map().is_slab(addr));
    store.check_waiting()?;
    let in_bins = store.heap().validate_bins(in_heap)?;
    if in_bins != store.heap().counters().free_blocks {
        return Err(counter(store.heap()));
    }
    if store.guards().is_some_and(|guards| !guards.are_counted()) {
        return Err(Corruption { kind: CorruptionKind::Counter, ..counter(store) });
    }
    engine.class_ids().try_for_each(|class| check_depot(engine, class))?;
    check_caches(engine)
}

/// Checks every region, and the counters of the heap and of some classes.
fn check_regions(engine: &Engine, first_class: usize) -> Result<(), Corruption> {
    let mut counted = Counted {
        heap: HeapCounters::default(),
        first_class,
        slabs: [SlabCount::default(); CLASSES_PER_PASS],
    };
    for entry in engine.store().entries() {
        check_region(engine, entry, &mut counted)?;
    }
    if counted.heap != engine.store().heap().counters() {
        return Err(counter(engine.store().heap()));
    }
    let classes = engine.class_ids().skip(first_class);
    classes.zip(&counted.slabs).try_for_each(|(class, count)| check_class(engine, class, count))
}

/// A counter of `owner` is wrong.
fn counter<T>(owner: &T) -> Corruption {
    Corruption { addr: core::ptr::from_ref(owner).addr(), kind: CorruptionKind::Counter }
}

fn check_region(
    engine: &Engine,
    entry: &RegionEntry,
    counted: &mut Counted,
) -> Result<(), Corruption> {
    if let Some((addr, _)) = entry.map().all().find(|(_, piece)| !piece.is_intact()) {
        return Err(Corruption { addr, kind: CorruptionKind::Slab });
    }
    let codec = engine.store().heap().codec();
    let mut walk = Walk::new(engine.store(), entry);
    let mut below_is_free = false;
    while let Some(walked) = walk.next().transpose()? {
        below_is_free = match walked {
            Walked::Block(block, tag) => {
                check_block(block, tag, below_is_free)?;
                contents::check_block(engine.store(), block, tag)?;
                count_block(tag, &mut counted.heap);
                tag.is_free()
            }
            Walked::Slabs { start, end } => {
                let fence = Block::at(entry.region().at(start - WORD));
                check_prev_free(fence, fence.tag(codec), below_is_free)?;
                counted.heap.span_bytes += end - start;
                check_slabs(engine, entry, start, end, counted)?;
                contents::check_pad(engine.store(), entry.region().at(end))?;
                false
            }
        };
    }
    let Some(fence) = walk.end_fence() else { return Ok(()) };
    check_prev_free(fence, fence.tag(codec), below_is_free)
}

fn check_block(block: Block, tag: Tag, below_is_free: bool) -> Result<(), Corruption> {
    check_prev_free(block, Some(tag), below_is_free)?;
    if tag.is_free() && below_is_free {
        return Err(Corruption { addr: block.addr(), kind: CorruptionKind::BlockNeighbour });
    }
    if tag.is_free() && block.above(tag.size()).footer_below() != tag.size() {
        let addr = block.addr() + tag.size() - WORD;
        return Err(Corruption { addr, kind: CorruptionKind::BlockFooter });
    }
    Ok(())
}

fn check_prev_free(block: Block, tag: Option<Tag>, is_free: bool) -> Result<(), Corruption> {
    match tag {
        Some(tag) if tag.prev_is_free() == is_free => Ok(()),
        _ => Err(Corruption { addr: block.addr(), kind: CorruptionKind::BlockNeighbour }),
    }
}

fn count_block(tag: Tag, counters: &mut HeapCounters) {
    match (tag.is_used(), tag.is_internal()) {
        (false, _) => {
            counters.free_bytes += tag.size();
            counters.free_blocks += usize::from(tag.is_free());
        }
        (true, true) => counters.internal_bytes += tag.size(),
        (true, false) => {
            counters.live_objects += 1;
            counters.live_bytes += tag.size() - WORD;
        }
    }
}

/// Checks the slabs of one run, which fill it without gaps.
fn check_slabs(
    engine: &Engine,
    entry: &RegionEntry,
    start: usize,
    end: usize,
    counted: &mut Counted,
) -> Result<(), Corruption> {
    let piece = engine.store().piece_bytes();
    let mut at = start;
    while at < end {
        let (slab, slots) = slab_at(engine, entry, at)?;
        check_slots(engine, slab)?;
        at += to_usize(slab.pieces()) * piece;
        let class = usize::from(slab.class()).wrapping_sub(counted.first_class);
        if let Some(count) = counted.slabs.get_mut(class) {
            count.slabs += 1;
            count.free += slab.free();
            count.damaged += slots.damaged;
            count.partial += u32::from(slab.home() == Home::Partial);
            count.idle += u32::from(slab.home() == Home::Idle);
        }
    }
    if at == end { Ok(()) } else { Err(Corruption { addr: end, kind: CorruptionKind::Slab }) }
}

fn check_slots(engine: &Engine, slab: Slab) -> Result<(), Corruption> {
    let Some(class) = engine.slabs.class(ClassId(slab.class())) else { return Ok(()) };
    let len = class.shape.unguarded_bytes(engine.store().piece_bytes());
    contents::check_slab(engine.harden(), slab, &class.shape, len)
}

/// The slab that starts at an address, if map, descriptor, class and states agree, and what the
/// states say.
pub(super) fn slab_at(
    engine: &Engine,
    entry: &RegionEntry,
    addr: usize,
) -> Result<(Slab, SlotCounts), Corruption> {
    let broken = Corruption { addr, kind: CorruptionKind::Slab };
    let map = entry.map();
    let piece = map.piece_of(addr).ok_or(broken)?;
    let number = piece.kind().as_class().ok_or(broken)?;
    let class: &Class = engine.slabs.class(ClassId(number)).ok_or(broken)?;
    let states = piece.states();
    if piece.offset_of(addr) != 0 || !piece.is_intact() {
        return Err(broken);
    }
    let slab = Slab::of_states(states).verified()?;
    let shape = &class.shape;
    let fits = slab.class() == number
        && slab.first().addr() == addr
        && slab.pieces() == shape.pieces
        && slab.slots() == shape.slots;
    if !fits {
        return Err(Corruption { addr: slab.memory().addr(), ..broken });
    }
    let mut same = 0;
    for piece in map.run(addr, shape.pieces) {
        let is_slabs = piece.kind() == PieceKind::class(number) && piece.states() == states;
        same += u32::from(is_slabs && piece.offset_of(addr) == 0);
    }
    if same != shape.pieces {
        return Err(broken);
    }
    let state = |addr| Corruption { addr, kind: CorruptionKind::SlotState };
    Ok((slab, slab.count().map_err(state)?))
}

/// Compares a class's counters and list with what was counted.
fn check_class(engine: &Engine, id: ClassId, counted: &SlabCount) -> Result<(), Corruption> {
    let Some(class) = engine.slabs.class(id) else { return Err(counter(engine)) };
    let agree = class.slabs == counted.slabs
        && class.partial.len() == counted.partial
        && class.idle.len() == counted.idle
        && class.out <= class.slots()
        && class.damaged == counted.damaged
        && class.free() == counted.free;
    if !agree {
        return Err(counter(class));
    }
    check_list(id, &class.partial, Home::Partial)?;
    check_list(id, &class.idle, Home::Idle)
}

/// Checks that a list holds as many slabs as it says, all of one home.
fn check_list(id: ClassId, list: &SlabList, home: Home) -> Result<(), Corruption> {
    let (mut listed, mut prev, mut next) = (0, Slab::NONE, list.first());
    while let Some(slab) = next {
        let addr = slab.verified()?.memory().addr();
        let broken = Corruption { addr, kind: CorruptionKind::Slab };
        if listed == list.len() {
            return Err(broken);
        }
        if slab.class() != id.number() || slab.home() != home || slab.prev() != prev {
            return Err(broken);
        }
        listed += 1;
        (prev, next) = (slab, (!slab.next().is_none()).then_some(slab.next()));
    }
    if listed == list.len() { Ok(()) } else { Err(counter(list)) }
}

/// Checks that what a depot holds are cached slots of its class.
fn check_depot(engine: &Engine, id: ClassId) -> Result<(), Corruption> {
    let depot = engine.depot(id)?;
    let mut cached = 0;
    depot.try_for_each(|magazine| {
        cached += magazine.len();
        check_magazine(engine, id, magazine)
    })?;
    if cached == depot.cached() { Ok(()) } else { Err(counter(depot)) }
}

fn check_magazine(engine: &Engine, id: ClassId, magazine: Magazine) -> Result<(), Corruption> {
    let broken = Corruption { addr: magazine.memory().addr(), kind: CorruptionKind::Magazine };
    for cached in magazine.slots() {
        match engine.slabs.slot_at(cached.start.addr()) {
            Ok(Some(slot)) if slot.is_cached(id, cached) => {
                let shape = &engine.slabs.verified(id)?.shape;
                contents::check_free_slot(engine.harden(), cached, shape)?;
            }
            _ => return Err(broken),
        }
    }
    Ok(())
}
