//! Frees that state a layout: the right one is accepted, and one that cannot be right refused, through
//! every handle; allocators, which are told a layout, look at it in pools with canaries.

mod common;

use std::{
    alloc::{GlobalAlloc, Layout},
    ptr::NonNull,
};

use common::{Bench, Handle, Memory, bytes, layout};
use libmempool::{ClassId, FreeError, NoLock, Pool, PoolConfig, PoolFlags};

const SIZES: [usize; 12] = [1, 16, 17, 63, 64, 200, 1000, 1024, 1025, 3000, 5000, 20_000];

fn config(flags: PoolFlags) -> PoolConfig {
    PoolConfig::new().size_classes(&[64, 1024]).flags(flags)
}

/// The handle refuses the layout, and nothing changes but the count of refusals.
#[track_caller]
fn refuses(bench: &Bench, handle: &mut dyn Handle, block: NonNull<u8>, wrong: Layout) -> FreeError {
    let mut stats = bench.pool().stats();
    let image = bench.image();
    let error = handle.free_sized(block, wrong).expect_err("it has another layout");
    stats.bad_frees += 1;
    assert_eq!(bench.pool().stats(), stats);
    assert!(bench.image() == image, "{error} changed the region");
    error
}

#[test]
fn the_right_layout_is_accepted_whatever_the_flags() {
    for bits in 0..=PoolFlags::all().bits() {
        let bench = Bench::new(config(PoolFlags::from_bits_truncate(bits)), 128 << 10);
        for (name, handle) in &mut bench.handles() {
            for size in SIZES {
                for align in [1, 16, 256] {
                    let block = handle.alloc(layout(size, align)).unwrap();
                    let freed = handle.free_sized(block, layout(size, align));
                    assert_eq!(freed, Ok(()), "{name}, {size}, {align}");
                }
                let slot = handle.alloc_fixed(ClassId::new(1)).unwrap();
                handle.free_sized(slot, bytes(1024)).unwrap();
            }
        }
        bench.pool().validate().unwrap();
    }
}

#[test]
fn the_layout_after_a_realloc_is_accepted() {
    for flags in [PoolFlags::empty(), PoolFlags::POISON, PoolFlags::HARDENED] {
        let bench = Bench::new(config(flags), 256 << 10);
        for (name, handle) in &mut bench.handles() {
            for from in SIZES {
                for to in SIZES {
                    let block = handle.alloc(bytes(from)).unwrap();
                    let below = handle.alloc(bytes(100)).unwrap();
                    let moved = handle.realloc(block, bytes(from), to).unwrap();
                    let freed = handle.free_sized(moved, bytes(to));
                    assert_eq!(freed, Ok(()), "{name}, {from} to {to}");
                    handle.free(below).unwrap();
                }
            }
        }
    }
}

#[test]
fn with_canaries_every_other_size_is_refused() {
    let bench = Bench::new(config(PoolFlags::CANARY), 64 << 10);
    for (_, handle) in &mut bench.handles() {
        for size in SIZES {
            let block = handle.alloc(bytes(size)).unwrap();
            for wrong in [0, size - 1, size + 1, 2 * size, isize::MAX.unsigned_abs()] {
                let error = refuses(&bench, &mut **handle, block, layout(wrong, 1));
                assert_eq!(error, FreeError::WrongSize { addr: block.addr().get(), size });
            }
            handle.free_sized(block, bytes(size)).unwrap();
        }
    }
}

#[test]
fn without_canaries_what_cannot_be_is_refused() {
    let bench = Bench::new(config(PoolFlags::empty()), 64 << 10);
    for (_, handle) in &mut bench.handles() {
        // A slot may have been allocated for any size that it holds.
        let slot = handle.alloc(bytes(1000)).unwrap();
        for wrong in [0, 1025, 5000] {
            let error = refuses(&bench, &mut **handle, slot, layout(wrong, 1));
            assert_eq!(error, FreeError::WrongSize { addr: slot.addr().get(), size: 1024 });
        }
        handle.free_sized(slot, bytes(1)).unwrap();
        // A block's end holds no other one.
        let block = handle.alloc(bytes(5000)).unwrap();
        for wrong in [0, 1, 64, 4000, 4900, 5009, 1 << 20] {
            let error = refuses(&bench, &mut **handle, block, layout(wrong, 1));
            assert!(matches!(error, FreeError::WrongSize { size: 5000..5040, .. }), "{error}");
        }
        handle.free_sized(block, bytes(5000)).unwrap();
    }
}

#[test]
fn an_alignment_that_cannot_be_is_refused() {
    for flags in [PoolFlags::empty(), PoolFlags::CANARY] {
        let bench = Bench::new(config(flags), 64 << 10);
        for (_, handle) in &mut bench.handles() {
            for size in [60, 3000] {
                let block = handle.alloc(bytes(size)).unwrap();
                let addr = block.addr().get();
                let align = 2 << addr.trailing_zeros();
                let error = refuses(&bench, &mut **handle, block, layout(size, align));
                assert_eq!(error, FreeError::WrongAlign { addr, align });
                handle.free_sized(block, layout(size, align / 2)).unwrap();
            }
        }
    }
}

/// A block of more slack than a seal can say: sizes up to its own are taken.
#[test]
fn a_huge_block_that_has_shrunk() {
    let mut memory = Memory::new(80 << 20);
    let pool = Pool::<NoLock>::builder().flags(PoolFlags::CANARY).build(memory.region()).unwrap();
    let block = pool.alloc(bytes(70 << 20)).unwrap();
    let moved = Handle::realloc(&mut &pool, block, bytes(70 << 20), 36 << 20).unwrap();
    assert_eq!(moved, block, "there is no room elsewhere");
    assert!(Handle::free_sized(&mut &pool, block, bytes(71 << 20)).is_err());
    Handle::free_sized(&mut &pool, block, bytes(36 << 20)).unwrap();
}

#[test]
fn an_overrun_is_told_as_one() {
    let bench = Bench::new(config(PoolFlags::CANARY), 64 << 10);
    for (_, handle) in &mut bench.handles() {
        for size in [60, 3000] {
            let block = handle.alloc(bytes(size)).unwrap();
            let addr = block.addr().get();
            // SAFETY: the byte is the pool's canary, and nobody else accesses it.
            unsafe { *block.add(size).as_mut() ^= 1 };
            let error = handle.free_sized(block, bytes(size)).unwrap_err();
            assert_eq!(error, FreeError::Overrun { addr, at: addr + size });
            // SAFETY: as above.
            unsafe { *block.add(size).as_mut() ^= 1 };
            handle.free_sized(block, bytes(size)).unwrap();
        }
    }
}

/// `GlobalAlloc::dealloc` with a layout that is not the block's.
fn dealloc_wrongly(flags: PoolFlags) -> usize {
    let memory = vec![std::mem::MaybeUninit::uninit(); 64 << 10].leak();
    let pool: Pool<'static, parking_lot::RawMutex> = Pool::empty();
    pool.init_with(&config(flags), memory).unwrap();
    for size in [60, 1000, 3000] {
        let block = pool.alloc(bytes(size)).unwrap();
        // SAFETY: refused, or the block is not used any more.
        unsafe { GlobalAlloc::dealloc(&pool, block.as_ptr(), bytes(size - 10)) };
    }
    pool.validate().unwrap();
    let stats = pool.stats();
    assert_eq!(stats.live_objects, stats.bad_frees);
    stats.bad_frees
}

#[test]
fn global_allocators_look_at_the_layout_with_canaries() {
    assert_eq!(dealloc_wrongly(PoolFlags::empty()), 0);
    assert_eq!(dealloc_wrongly(PoolFlags::POISON), 0);
    assert_eq!(dealloc_wrongly(PoolFlags::CANARY), 3);
    assert_eq!(dealloc_wrongly(PoolFlags::HARDENED), 3);
}

#[cfg(feature = "std")]
#[test]
fn pinned_pools_look_at_the_layout_with_canaries() {
    use std::thread;

    use common::Packet;
    use libmempool::{MmapPages, PinnedPool, PthreadMutex};

    for (flags, refused) in [(PoolFlags::empty(), 0), (PoolFlags::HARDENED, 9)] {
        let pool = Pool::<PthreadMutex>::builder().config(config(flags));
        let pool = pool.map(MmapPages::new(), 1 << 20).unwrap();
        // SAFETY: it stays where it is until it is dropped.
        let pool = unsafe { PinnedPool::new(pool) };
        let alloc = |size| (Packet(pool.alloc(bytes(size)).unwrap()), size);
        let (theirs, ours) =
            ([60, 1000, 3000].map(alloc), [60, 1000, 3000, 70, 900, 4000].map(alloc));
        let wrongly = |(block, size): (Packet, usize)| {
            // SAFETY: refused, or the block is not used any more.
            unsafe { GlobalAlloc::dealloc(&pool, block.0.as_ptr(), bytes(size - 10)) };
        };
        // The first call of a thread, whose cache is new.
        thread::scope(|scope| scope.spawn(move || theirs.map(wrongly)).join().unwrap());
        ours.into_iter().for_each(wrongly);
        assert_eq!(pool.pool().stats().bad_frees, refused);
    }
}
