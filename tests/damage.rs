//! Damage is told with what lies just below it: which block or slot, of which class, live or free.

mod common;

use std::ptr::NonNull;

use common::{Bench, Handle, bytes, fill};
use libmempool::{
    ClassId, CorruptionKind, Damage, MapEntry, MapKind, Neighbour, NeighbourState, PoolConfig,
    PoolFlags,
};

const SMALL: ClassId = ClassId::new(0);
const CLASSES: PoolConfig = PoolConfig::new().size_classes(&[100, 1024]);
const WORD: usize = size_of::<usize>();

fn bench(flags: PoolFlags) -> Bench {
    Bench::new(CLASSES.flags(flags), 64 << 10)
}

/// What `validate` says while a byte is another one.
fn with_damage(bench: &Bench, addr: usize) -> Damage {
    let byte = bench.at(addr);
    // SAFETY: in the region, which nobody else accesses meanwhile.
    unsafe { *byte.as_ptr() ^= 0x40 };
    let damage = bench.pool().validate().expect_err("damaged");
    // SAFETY: as above.
    unsafe { *byte.as_ptr() ^= 0x40 };
    bench.pool().validate().expect("as it was");
    damage
}

fn addr(block: NonNull<u8>) -> usize {
    block.addr().get()
}

fn free(bench: &Bench, block: NonNull<u8>) {
    Handle::free(&mut bench.pool(), block).expect("a live block");
}

#[track_caller]
fn is(below: Option<Neighbour>, addr: usize, class: Option<ClassId>, state: NeighbourState) {
    let below = below.expect("something is below");
    assert_eq!((below.addr, below.class, below.state), (addr, class, state), "{below}");
}

#[test]
fn an_overrun_names_the_object_itself() {
    let bench = bench(PoolFlags::CANARY);
    for (size, class) in [(90, Some(SMALL)), (1000, Some(ClassId::new(1))), (5000, None)] {
        let [_, object, _] = [(); 3].map(|()| bench.pool().alloc(bytes(size)).unwrap());
        for offset in 0..8 {
            let damage = with_damage(&bench, addr(object) + size + offset);
            assert_eq!((damage.kind, damage.class), (CorruptionKind::Overrun, class));
            is(damage.below, addr(object), class, NeighbourState::Live);
        }
    }
}

/// Every slot of a class, whichever of the slots around it are free.
#[test]
fn a_written_slot_names_the_one_below() {
    let bench = bench(PoolFlags::POISON);
    let mut slots: Vec<_> = (0..200).map(|_| bench.pool().alloc_fixed(SMALL).unwrap()).collect();
    slots.sort_unstable();
    let stride = bench.pool().class_stats(SMALL).unwrap().stride;
    let is_live = |index: usize| !index.is_multiple_of(3) && !index.is_multiple_of(4);
    for (index, &slot) in slots.iter().enumerate() {
        if !is_live(index) {
            Handle::free_fixed(&mut bench.pool(), SMALL, slot).unwrap();
        }
    }
    // The shared cache's own are not looked at.
    bench.pool().defragment();
    let mut firsts = 0;
    for index in (1..slots.len()).filter(|&index| !is_live(index)) {
        let damage = with_damage(&bench, addr(slots[index]) + index % 100);
        assert_eq!((damage.kind, damage.class), (CorruptionKind::FreedMemory, Some(SMALL)));
        if addr(slots[index - 1]) + stride == addr(slots[index]) {
            let state =
                if is_live(index - 1) { NeighbourState::Live } else { NeighbourState::Free };
            is(damage.below, addr(slots[index - 1]), Some(SMALL), state);
        } else {
            // The last slot of the slab below, or a block; not within this slab.
            firsts += 1;
            assert!(damage.below.expect("not the region's first").addr < addr(slots[index]));
        }
    }
    assert!(firsts > 0, "the first slot of a slab was among them");
}

#[test]
fn the_first_slot_of_a_slab_names_the_last_of_the_slab_below() {
    let bench = bench(PoolFlags::POISON);
    let slots: Vec<_> = (0..200).map(|_| bench.pool().alloc_fixed(SMALL).unwrap()).collect();
    let slab = |entry: MapEntry| match entry.kind {
        MapKind::Slab { class, slots, .. } => Some((entry.addr, entry.size, class, slots)),
        _ => None,
    };
    let slabs: Vec<_> = bench.pool().map().filter_map(slab).collect();
    let stride = bench.pool().class_stats(SMALL).unwrap().stride;
    let touching = slabs.windows(2).filter(|pair| pair[0].0 + pair[0].1 == pair[1].0);
    let mut count = 0;
    for pair in touching {
        let (below, this) = (pair[0], pair[1]);
        if (below.2, this.2) != (SMALL, SMALL) {
            continue;
        }
        let first = bench.at(this.0);
        if !slots.contains(&first) {
            continue;
        }
        count += 1;
        free(&bench, first);
        // Back to its slab, where `validate` looks at it.
        bench.pool().defragment();
        let damage = with_damage(&bench, this.0);
        let last = below.0 + (below.3 - 1) * stride;
        let state = if slots.contains(&bench.at(last)) {
            NeighbourState::Live
        } else {
            NeighbourState::Free
        };
        is(damage.below, last, Some(SMALL), state);
    }
    assert!(count > 0, "slabs lie side by side");
}

/// A row of blocks that touch: each one's tag is behind the one below.
#[test]
fn a_damaged_tag_names_the_block_below() {
    for below_is_live in [true, false] {
        let bench = bench(PoolFlags::empty());
        let mut blocks = [(); 6].map(|()| bench.pool().alloc(bytes(5000)).unwrap());
        blocks.sort_unstable();
        if !below_is_live {
            free(&bench, blocks[2]);
        }
        let damage = with_damage(&bench, addr(blocks[3]) - WORD);
        assert_eq!(
            (damage.kind, damage.addr, damage.class),
            (CorruptionKind::BlockTag, addr(blocks[3]) - WORD, None)
        );
        let state = if below_is_live { NeighbourState::Live } else { NeighbourState::Free };
        is(damage.below, addr(blocks[2]), None, state);
    }
}

#[test]
fn written_free_blocks_name_the_block_below() {
    let bench = bench(PoolFlags::POISON);
    let mut blocks = [(); 6].map(|()| bench.pool().alloc(bytes(5000)).unwrap());
    blocks.sort_unstable();
    free(&bench, blocks[3]);
    bench.pool().defragment();
    for offset in [16, 100, 4900] {
        let damage = with_damage(&bench, addr(blocks[3]) + offset);
        assert_eq!((damage.kind, damage.class), (CorruptionKind::FreedMemory, None));
        is(damage.below, addr(blocks[2]), None, NeighbourState::Live);
    }
}

/// What lies behind slabs names a slot; what lies behind the pool's own tables, the pool.
#[test]
fn blocks_behind_slabs_and_tables() {
    let bench = bench(PoolFlags::empty());
    let slots: Vec<_> = (0..100).map(|_| bench.pool().alloc_fixed(SMALL).unwrap()).collect();
    fill(&mut bench.pool(), 5000);
    fill(&mut bench.pool(), 40);
    let entries: Vec<_> = bench.pool().map().collect();
    let (mut behind_slabs, mut behind_tables) = (0, 0);
    for pair in entries.windows(2) {
        let (below, this) = (pair[0], pair[1]);
        if matches!(this.kind, MapKind::Slab { .. }) {
            continue;
        }
        let found = with_damage(&bench, this.addr).below;
        match below.kind {
            MapKind::Slab { class, slots: count, .. } => {
                let stride = bench.pool().class_stats(class).unwrap().stride;
                let last = below.addr + (count - 1) * stride;
                let is_live = slots.contains(&bench.at(last));
                let state = if is_live { NeighbourState::Live } else { NeighbourState::Free };
                is(found, last, Some(class), state);
                behind_slabs += 1;
            }
            MapKind::Metadata => {
                is(found, below.addr + WORD, None, NeighbourState::Pool);
                behind_tables += 1;
            }
            MapKind::Live => is(found, below.addr + WORD, None, NeighbourState::Live),
            MapKind::Free => is(found, below.addr + WORD, None, NeighbourState::Free),
            _ => panic!("{below}"),
        }
    }
    assert!(behind_slabs > 0 && behind_tables > 0);
}

#[test]
fn the_first_block_has_nothing_below() {
    let bench = bench(PoolFlags::empty());
    let first = bench.pool().map().next().unwrap();
    let damage = with_damage(&bench, first.addr);
    assert_eq!((damage.kind, damage.below), (CorruptionKind::BlockTag, None));
}

/// Whatever is damaged beside the pool's own tables, it is explained without a crash.
#[test]
fn explanations_of_random_damage() {
    let mut rng = common::Rng::new(5);
    let mut explained = 0;
    for _ in 0..2000 {
        let bench = Bench::new(CLASSES.flags(PoolFlags::HARDENED), 16 << 10);
        for size in [100, 1024, 300, 100, 40] {
            let _ = bench.pool().alloc(bytes(size));
        }
        let map: Vec<_> = bench.pool().map().collect();
        for _ in 0..3 {
            let entry = map[rng.below(map.len())];
            let len = if entry.kind == MapKind::Metadata { WORD } else { entry.size };
            let at = bench.at(entry.addr + rng.below(len));
            // SAFETY: in the region, which nobody else accesses meanwhile.
            unsafe { *at.as_ptr() ^= 1 << rng.below(8) };
        }
        let Err(damage) = bench.pool().validate() else { continue };
        assert!(damage.to_string().contains("corrupted"), "{damage}");
        explained += usize::from(damage.below.is_some());
    }
    assert!(explained > 1000, "{explained}");
}

#[test]
fn a_sentence_says_it() {
    let bench = bench(PoolFlags::HARDENED);
    let slot = bench.pool().alloc(bytes(90)).unwrap();
    let damage = with_damage(&bench, addr(slot) + 90);
    let text = format!(
        "the canary behind a live object at {:#x}, in a slab of class 0, is corrupted by a write \
         past the end of the live slot of class 0 at {slot:?}",
        damage.addr
    );
    assert_eq!(damage.to_string(), text);
    let [below, block] = [(); 2].map(|()| bench.pool().alloc(bytes(5000)).unwrap());
    let tag = addr(block.max(below)) - WORD;
    let damage = with_damage(&bench, tag);
    let below = block.min(below);
    let text = format!(
        "the block tag at {tag:#x} is corrupted, probably by a write past the end of the live \
         block at {below:?}"
    );
    assert_eq!(damage.to_string(), text);
}
