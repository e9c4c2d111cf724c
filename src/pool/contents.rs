#![allow(unsafe_code)] // reads free memory, and behind live objects
//! The part of the whole-pool check that flags ask for: that nobody wrote to free memory, or past the
//! end of a live object.

use crate::{
    error::Corruption,
    harden::Harden,
    heap::{Block, Tag},
    slab::{Slab, SlabShape, SlotRef, SlotState, Store},
    sync::{LOOKS, Ordering::Acquire, fence, spin_loop},
    units::{WORD, to_usize},
};

/// Checks a heap block, whose tag is verified.
pub(super) fn check_block(store: &Store, block: Block, tag: Tag) -> Result<(), Corruption> {
    if tag.is_internal() {
        return Ok(());
    }
    let (payload, room) = (block.payload(), store.room(block, tag));
    store.check_sides(block, tag)?;
    if tag.is_used() {
        // SAFETY: a live block that long.
        return unsafe { store.harden.check_seal(payload, room) }.map(drop);
    }
    // Between the links and the footer, or, of a block that rests, all.
    let (first, last) = if tag.is_resting() { (0, room) } else { (2 * WORD, room - WORD) };
    let ours = |at| store.heap().is_old_tag(at);
    let inside = payload.wrapping_add(first);
    // SAFETY: the block is free, and the caller holds the pool's lock.
    unsafe { store.harden.check_free(inside, last - first, ours) }
}

/// Checks what is left out behind a run of slabs that ends at `end`.
pub(super) fn check_pad(store: &Store, end: *mut u8) -> Result<(), Corruption> {
    let len = store.heap().tag_behind_span(end.addr()) - end.addr();
    // SAFETY: it belongs to the heap's part of the region, and to nobody.
    unsafe { store.harden.check_free(end, len, |_| false) }
}

/// Checks a slab's free and live slots, and what lies between and behind them; the slab is `len` bytes long,
/// without its guard.
pub(super) fn check_slab(
    harden: Harden,
    slab: Slab,
    shape: &SlabShape,
    len: usize,
) -> Result<(), Corruption> {
    if harden.is_off() {
        return Ok(());
    }
    let (stride, slots) = (to_usize(shape.stride), to_usize(slab.slots()));
    let check_gap = |start: usize, end: usize| {
        // SAFETY: in the slab, and nobody's.
        unsafe { harden.check_free(slab.first().wrapping_add(start), end - start, |_| false) }
    };
    check_gap(slots * stride, len)?;
    for index in 0..slab.slots() {
        let offset = to_usize(index) * stride;
        check_gap(offset + shape.room, offset + stride)?;
        let start = slab.first().wrapping_add(offset);
        let slot = SlotRef { start, state: slab.state(index) };
        match SlotState::from_byte(slot.state.load()) {
            Some(SlotState::Free) => check_free_slot(harden, slot, shape)?,
            Some(SlotState::Live) => check_live_slot(harden, slot, shape)?,
            _ => {}
        }
    }
    Ok(())
}

/// Checks a slot that is in its slab, or in a depot.
pub(super) fn check_free_slot(
    harden: Harden,
    slot: SlotRef,
    shape: &SlabShape,
) -> Result<(), Corruption> {
    // SAFETY: nobody has the slot; the caller holds the pool's lock, which it would take.
    unsafe { harden.check_free(slot.start, shape.room, |_| false) }
}

fn check_live_slot(harden: Harden, slot: SlotRef, shape: &SlabShape) -> Result<(), Corruption> {
    let mut checked = Ok(());
    // Its owner might just have freed and allocated it anew.
    for _ in 0..LOOKS {
        checked = look_behind(harden, slot, shape.room);
        if checked.is_ok() {
            break;
        }
        spin_loop();
    }
    checked
}

/// Checks what stands behind the object in a slot that was live, unless it is not any more. Its owner may be at it.
fn look_behind(harden: Harden, slot: SlotRef, room: usize) -> Result<(), Corruption> {
    fence(Acquire);
    // SAFETY: a slot that long; what is behind the object is written atomically. (If it is another's by now, who
    // may be using it, what was read does not count: ARCHITECTURE.md has this under its reservations.)
    let checked = unsafe { harden.check_seal(slot.start, room) }.map(drop);
    fence(Acquire);
    if slot.state.is_live() { checked } else { Ok(()) }
}

#[cfg(all(test, loom))]
mod tests {
    use std::boxed::Box;

    use loom::thread;

    use super::*;
    use crate::{
        cache::{clear, prepare},
        flags::PoolFlags,
        slab::StateByte,
        sync::{explore, modelled},
    };

    const ROOM: usize = 32;
    const SIZE: usize = 16;

    /// A slot, in memory of its own.
    #[derive(Clone, Copy)]
    struct Scene(Harden, SlotRef);

    // SAFETY: threads of a model run one at a time.
    unsafe impl Send for Scene {}

    /// An object comes and goes while somebody looks behind it, in every order.
    #[test]
    fn an_object_that_comes_and_goes_is_not_taken_for_overrun() {
        explore(None, || {
            let memory = Box::into_raw(Box::new([0_usize; ROOM / WORD + 1])).cast::<u8>();
            // SAFETY: the last word.
            let state = unsafe { StateByte::at(memory.wrapping_add(ROOM), 0) };
            let slot = SlotRef { start: memory, state };
            let harden = Harden::new(PoolFlags::POISON | PoolFlags::CANARY, 7);
            clear(harden, slot, ROOM, ROOM);
            let scene = Scene(harden, slot);
            modelled(|| {
                let watcher = thread::spawn(move || {
                    let Scene(harden, slot) = { scene };
                    if slot.state.is_live() {
                        look_behind(harden, slot, ROOM).expect("nobody writes behind it");
                    }
                });
                prepare(harden, slot, ROOM, SIZE);
                clear(harden, slot, ROOM, SIZE);
                watcher.join().expect("it ends");
            });
            // SAFETY: nobody has it any more.
            drop(unsafe { Box::from_raw(memory.cast::<[usize; ROOM / WORD + 1]>()) });
        });
    }
}
