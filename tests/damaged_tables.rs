//! Damage to the pool's own tables that once hung or crashed it.

mod common;

use std::{sync::mpsc::channel, thread, time::Duration};

use common::{Bench, bytes};
use libmempool::{ClassId, CorruptionKind, FreeError, MapKind, Pages, PoolConfig, SizeClass};

/// A slot's state byte is hit while the slot is in its slab. The slab's count of free slots is then
/// one too many; its class must not ask it for a slot again and again, under the pool's lock.
#[test]
#[cfg_attr(miri, ignore = "finds the state by the region's image, which Miri does not show")]
fn a_damaged_state_of_a_free_slot_hangs_no_allocation() {
    let (done, waiting) = channel();
    thread::spawn(move || {
        let class = SizeClass::new(64).reserve(8).limit(8);
        let bench = Bench::new(PoolConfig::new().size_class(class).magazine(0), 64 << 10);
        let before = bench.image();
        bench.pool().alloc_fixed(ClassId::new(0)).unwrap();
        // States start on a word: the first slot's says live now, those of the others free.
        let image = bench.image();
        let is_states = |&at: &usize| {
            before[at..at + 8] == [0; 8] && image[at..at + 8] == [0xA5, 0, 0, 0, 0, 0, 0, 0]
        };
        let state = (0..image.len()).step_by(8).find(is_states).expect("a slab's states");
        let memory = bench.pool().pages().expect("mapped").memory();
        let last = bench.at(memory.addr().get() + state + 7);
        // SAFETY: in the region, and nobody else accesses it meanwhile.
        unsafe { last.write(1) };
        assert!(bench.pool().validate().is_err());
        let slots = (0..8).filter(|_| bench.pool().alloc_fixed(ClassId::new(0)).is_ok()).count();
        done.send(slots).expect("the test waits");
    });
    let slots = waiting.recv_timeout(Duration::from_secs(2)).expect("an answer in time");
    assert_eq!(slots, 6);
}

/// Bytes behind the bins' table that belong to nobody.
const PADDING: usize = 4;

/// All bits of the bins' table that anything reads are checked by `validate`.
#[test]
fn every_flipped_bit_of_the_bins_table_is_found() {
    let bench = Bench::new(PoolConfig::new(), 48 << 10);
    let blocks: Vec<_> = (0..6).map(|i| bench.pool().alloc(bytes(100 << i)).unwrap()).collect();
    common::free_all(&mut bench.pool(), blocks.into_iter().step_by(2));
    let start = bench.pool().pages().expect("mapped").memory().addr().get();
    let table = start..bench.pool().map().next().expect("a block").addr;
    assert!(bench.pool().map().filter(|entry| entry.kind == MapKind::Free).count() > 2);
    let mut missed = Vec::new();
    for addr in table.clone() {
        for bit in 0..8 {
            let byte = bench.at(addr);
            // SAFETY: in the region, and nobody else accesses it meanwhile.
            unsafe { byte.write(byte.read() ^ 1 << bit) };
            if bench.pool().validate().is_ok() {
                missed.push((table.end - addr, bit));
            }
            // SAFETY: as above.
            unsafe { byte.write(byte.read() ^ 1 << bit) };
        }
    }
    // The table is padded to a whole block.
    missed.retain(|&(before_end, _)| before_end > PADDING);
    assert_eq!(missed, [], "bytes before the table's end, and bits");
}

/// A tag that was right once, at the same address: its checksum is, and what it says of the block below is
/// not. Nothing merges with it.
#[test]
fn an_old_tag_is_told_by_its_neighbour() {
    let bench = Bench::new(PoolConfig::new(), 8 << 10);
    let [below, block, _above] =
        [200, 300, 50].map(|size| bench.pool().alloc(bytes(size)).unwrap());
    let tag = block.addr().get() - size_of::<usize>();
    let now = bench.word(tag);
    common::free_all(&mut bench.pool(), [below]);
    let then = bench.word(tag);
    assert_ne!(now, then, "it says whether the block below is free");
    assert_eq!(bench.pool().alloc(bytes(200)), Ok(below));
    assert_eq!(bench.word(tag), now);
    bench.damage(tag, then);
    let damage = bench.pool().validate().unwrap_err();
    assert_eq!((damage.addr, damage.kind), (tag, CorruptionKind::BlockNeighbour));
    let error = common::Handle::free(&mut bench.pool(), below).unwrap_err();
    assert_eq!(error, FreeError::Corrupted { addr: tag });
    bench.damage(tag, now);
    common::free_all(&mut bench.pool(), [below, block]);
    bench.pool().validate().unwrap();
}
