//! The part of the whole-pool check that looks into caches, while their owners may be using them.
//!
//! Without the lock an owner changes lengths, the places behind them, and which magazine is loaded. While
//! it steps from one magazine to another its class says that it is busy, and is passed over.

use core::iter;

use super::contents::check_free_slot;
use crate::{
    cache::{CacheBlockRef, ClassCache, Engine, Look, Magazine},
    config::ClassId,
    error::{Corruption, CorruptionKind},
    slab::SlotRef,
    sync::{LOOKS, spin_loop},
    units::to_u8,
};

/// Checks all caches. O(classes and slots in them).
pub(super) fn check_caches(engine: &Engine) -> Result<(), Corruption> {
    let mut next = CacheBlockRef::listed(engine.caches);
    while let Some(block) = next {
        if !block.is_intact() || !block.waits_intact() || !block.nothing().is_intact() {
            return Err(Corruption { addr: block.link().addr(), kind: CorruptionKind::Table });
        }
        // Nobody is at the cache that is used under the lock, so what is in its slots is checked too.
        let is_quiet = block.link() == engine.shared;
        for (number, cache) in block.class_caches().iter().enumerate() {
            let id = ClassId(to_u8(number));
            let quiet = is_quiet.then(|| engine.slabs.verified(id)).transpose()?;
            check_class(engine, id, cache, |slot| {
                quiet.map_or(Ok(()), |class| check_free_slot(engine.harden(), slot, &class.shape))
            })?;
        }
        next = CacheBlockRef::listed(block.next());
    }
    Ok(())
}

/// Checks what a cache has of a class; `check` is for each slot.
fn check_class(
    engine: &Engine,
    id: ClassId,
    cache: &ClassCache,
    check: impl Fn(SlotRef) -> Result<(), Corruption>,
) -> Result<(), Corruption> {
    let addr = core::ptr::from_ref(cache).addr();
    let damaged = Corruption { addr, kind: CorruptionKind::Table };
    let mut magazine = match cache.look() {
        Look::Busy | Look::At(None) => return Ok(()),
        Look::Damaged => return Err(damaged),
        Look::At(Some(loaded)) => loaded,
    };
    let is_intact = |magazine| fits(cache, magazine, || Magazine::is_intact(magazine));
    if !is_intact(magazine)? {
        return Ok(());
    }
    while let Some(left) = magazine.left_link() {
        magazine = left;
        if !is_intact(magazine)? {
            return Ok(());
        }
    }
    let leftmost = magazine;
    let row = || iter::successors(Some(leftmost), |magazine| magazine.right_link());
    let mut count = 0;
    for magazine in row() {
        if !is_intact(magazine)? {
            return Ok(());
        }
        count += 1;
        check_slots(engine, id, cache, magazine, &check)?;
    }
    let in_row = || row().map(|magazine| cache.len_of(magazine)).sum::<usize>();
    if !fits(cache, magazine, || in_row() == cache.cached())? || count == cache.count() {
        return Ok(());
    }
    Err(damaged)
}

/// Checks that a magazine of a cache's row holds cached slots of its class.
fn check_slots(
    engine: &Engine,
    id: ClassId,
    cache: &ClassCache,
    magazine: Magazine,
    check: impl Fn(SlotRef) -> Result<(), Corruption>,
) -> Result<(), Corruption> {
    let is_cached = |place| {
        let Some(cached) = magazine.look(place) else { return false };
        let slot = engine.slabs.slot_at(cached.start.addr());
        matches!(slot, Ok(Some(slot)) if slot.is_cached(id, cached))
    };
    let mut place = 0;
    while place < cache.len_of(magazine) {
        let go_on = fits(cache, magazine, || place >= cache.len_of(magazine) || is_cached(place));
        if !go_on? {
            return Ok(());
        }
        magazine.look(place).map_or(Ok(()), &check)?;
        place += 1;
    }
    Ok(())
}

/// Whether something that a check looks at fits; `Ok(false)`: the owner is changing it.
fn fits(
    cache: &ClassCache,
    magazine: Magazine,
    check: impl Fn() -> bool,
) -> Result<bool, Corruption> {
    for _ in 0..LOOKS {
        if check() {
            return Ok(true);
        }
        if cache.is_changing() {
            return Ok(false);
        }
        spin_loop();
    }
    Err(Corruption { addr: magazine.memory().addr(), kind: CorruptionKind::Magazine })
}
