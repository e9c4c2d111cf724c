//! With feature `asan`, AddressSanitizer reports whoever touches memory that the pool has not handed out, and
//! nothing else. Each program runs in a process of its own, which a report ends.

use std::{
    alloc::Layout,
    mem::MaybeUninit,
    process::{Command, Output},
    ptr::NonNull,
    slice, thread,
};

use libmempool::{ClassId, NoLock, Pool, PoolConfig, PoolFlags, SizeClass};

// SAFETY: it tells whether memory may be touched, and does not touch it.
unsafe extern "C" {
    safe fn __asan_address_is_poisoned(addr: usize) -> i32;
}

/// What tells the child which program to run.
const PROGRAM: &str = "LIBMEMPOOL_ASAN_PROGRAM";

const CLASS: ClassId = ClassId::new(0);
const SIZE: usize = 256;
/// Of what is allocated by size: less than its slot, or block, has.
const SMALL: Layout = Layout::new::<[u8; 250]>();
const LARGE: Layout = Layout::new::<[u8; 2999]>();
/// As `SMALL`, more aligned than everything is.
const ALIGNED: Layout = match Layout::from_size_align(SMALL.size(), 64) {
    Ok(layout) => layout,
    Err(_) => panic!("it is one"),
};

type TestPool<'r> = Pool<'r, NoLock>;

fn region() -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::uninit(); 1 << 20]
}

fn pool(region: &mut [MaybeUninit<u8>], flags: PoolFlags) -> TestPool<'_> {
    let config = PoolConfig::new().flags(flags).size_class(SizeClass::new(SIZE));
    let pool = Pool::empty();
    pool.init_with(&config, region).unwrap();
    pool
}

/// Touches a byte at an offset.
fn touch(pointer: NonNull<u8>, offset: usize) {
    // SAFETY: within the region, which is valid; whether it may be touched is the question.
    unsafe { pointer.add(offset).write_volatile(1) };
}

/// A way to have memory and give it back.
struct Way {
    name: &'static str,
    layout: Layout,
    alloc: fn(&TestPool<'_>) -> NonNull<u8>,
    free: fn(&TestPool<'_>, NonNull<u8>),
}

static WAYS: [Way; 6] = [
    Way {
        name: "slot",
        layout: Layout::new::<[u8; SIZE]>(),
        alloc: |pool| pool.alloc_fixed(CLASS).unwrap(),
        // SAFETY: not used as memory any more, but for the test's sake.
        free: |pool, slot| unsafe { pool.free_fixed(CLASS, slot) }.unwrap(),
    },
    Way {
        name: "slot by size",
        layout: SMALL,
        alloc: |pool| pool.alloc(SMALL).unwrap(),
        // SAFETY: as above.
        free: |pool, slot| unsafe { pool.free(slot) }.unwrap(),
    },
    Way {
        name: "block",
        layout: LARGE,
        alloc: |pool| pool.alloc(LARGE).unwrap(),
        // SAFETY: as above.
        free: |pool, block| unsafe { pool.free(block) }.unwrap(),
    },
    Way {
        name: "bulk of a new cache",
        layout: Layout::new::<[u8; SIZE]>(),
        alloc: |pool| {
            let mut slot = [NonNull::dangling()];
            pool.local_cache().alloc_bulk(CLASS, &mut slot).unwrap();
            slot[0]
        },
        // SAFETY: as above.
        free: |pool, slot| unsafe { pool.local_cache().free_bulk(CLASS, &[slot]) }.unwrap(),
    },
    Way {
        name: "slot of at least a size",
        layout: SMALL,
        alloc: |pool| pool.alloc_slot(SMALL.size()).unwrap(),
        // SAFETY: as above.
        free: |pool, slot| unsafe { pool.free_slot(slot) }.unwrap(),
    },
    Way {
        name: "aligned slot",
        layout: ALIGNED,
        alloc: |pool| pool.alloc(ALIGNED).unwrap(),
        // SAFETY: as above.
        free: |pool, slot| unsafe { pool.free(slot) }.unwrap(),
    },
];

const FLAGS: [(&str, PoolFlags); 4] = [
    ("no flags", PoolFlags::empty()),
    ("poison", PoolFlags::POISON),
    ("quarantine", PoolFlags::QUARANTINE),
    ("hardened", PoolFlags::HARDENED),
];

/// A mistake: what is done with a block, and whether it is one.
struct Deed {
    name: &'static str,
    is_reported: bool,
    /// What makes a difference to it.
    ways: &'static [Way],
    run: fn(&mut TestPool<'_>, &Way),
}

/// Has bulks come and go in one cache, in their order or against it, and does something with a slot of the last.
fn bulks(pool: &TestPool<'_>, reverse: bool, then: fn(NonNull<u8>)) {
    let (mut cache, mut slots) = (pool.local_cache(), [NonNull::dangling(); 8]);
    for _ in 0..10 {
        cache.alloc_bulk(CLASS, &mut slots).unwrap();
        for slot in slots {
            touch(slot, 0);
            touch(slot, SIZE - 1);
        }
        if reverse {
            slots.reverse();
        }
        // SAFETY: not used as memory any more, but for the test's sake.
        unsafe { cache.free_bulk(CLASS, &slots) }.unwrap();
    }
    then(slots[4]);
}

static DEEDS: [Deed; 13] = [
    Deed {
        name: "correct use",
        is_reported: false,
        ways: &WAYS,
        run: |pool, way| {
            for _ in 0..1000 {
                let blocks = [(way.alloc)(pool), (way.alloc)(pool), (way.alloc)(pool)];
                for block in blocks {
                    touch(block, 0);
                    touch(block, way.layout.size() - 1);
                }
                for block in blocks {
                    (way.free)(pool, block);
                }
            }
            pool.validate().unwrap();
            pool.defragment();
            pool.validate().unwrap();
        },
    },
    Deed {
        name: "refused frees",
        is_reported: false,
        ways: &WAYS,
        run: |pool, way| {
            let (kept, freed) = ((way.alloc)(pool), (way.alloc)(pool));
            (way.free)(pool, freed);
            for offset in [0, 8, 16, 40, SIZE] {
                let wrong = freed.map_addr(|addr| addr.saturating_add(offset));
                if wrong != kept {
                    // SAFETY: nothing that anybody uses.
                    unsafe { pool.free(wrong) }.unwrap_err();
                }
            }
            (way.free)(pool, kept);
        },
    },
    Deed {
        name: "use after the free",
        is_reported: true,
        ways: &WAYS,
        run: |pool, way| {
            let block = (way.alloc)(pool);
            (way.free)(pool, block);
            touch(block, 100);
        },
    },
    Deed {
        name: "use after a reset",
        is_reported: true,
        ways: &WAYS,
        run: |pool, way| {
            let block = (way.alloc)(pool);
            pool.reset().unwrap();
            touch(block, 100);
        },
    },
    Deed {
        name: "resizing",
        is_reported: false,
        ways: &WAYS,
        run: |pool, way| {
            let mut block = (way.alloc)(pool);
            for size in [way.layout.size() + 1, 5000, 4990, 100, 90, 200, 9000, 3000] {
                // SAFETY: live, and not used under its old address any more.
                block = unsafe { pool.realloc(block, way.layout, size) }.unwrap();
                touch(block, 0);
                touch(block, size - 1);
            }
            // SAFETY: not used any more.
            unsafe { pool.free(block) }.unwrap();
            pool.validate().unwrap();
        },
    },
    Deed {
        name: "use of all that there is",
        is_reported: false,
        ways: &WAYS,
        run: |pool, way| {
            let block = (way.alloc)(pool);
            // SAFETY: live.
            let usable = unsafe { pool.usable_size(block) }.unwrap();
            touch(block, usable - 1);
            (way.free)(pool, block);
        },
    },
    Deed {
        name: "a byte behind the end",
        is_reported: true,
        ways: &WAYS,
        run: |pool, way| touch((way.alloc)(pool), way.layout.size()),
    },
    Deed {
        name: "a byte behind the new end",
        is_reported: true,
        ways: &WAYS,
        run: |pool, way| {
            let size = way.layout.size() - 10;
            // SAFETY: live, and not used under its old address any more.
            let block = unsafe { pool.realloc((way.alloc)(pool), way.layout, size) }.unwrap();
            touch(block, size);
        },
    },
    Deed {
        name: "write far behind a block",
        is_reported: true,
        ways: &WAYS,
        run: |pool, way| {
            let block = (way.alloc)(pool);
            touch(block, 1 << 17);
        },
    },
    Deed {
        name: "use after another's free merged it",
        is_reported: true,
        ways: &WAYS,
        run: |pool, way| {
            let blocks = [(); 8].map(|()| (way.alloc)(pool));
            for block in blocks {
                (way.free)(pool, block);
            }
            pool.defragment();
            touch(blocks[4], 0);
        },
    },
    Deed {
        name: "bulks",
        is_reported: false,
        ways: slice::from_ref(&WAYS[0]),
        run: |pool, _| {
            bulks(pool, false, |_| ());
            bulks(pool, true, |_| ());
        },
    },
    Deed {
        name: "use after the free of a bulk in its order",
        is_reported: true,
        ways: slice::from_ref(&WAYS[0]),
        run: |pool, _| bulks(pool, false, |slot| touch(slot, 0)),
    },
    Deed {
        name: "use after the free of a bulk against its order",
        is_reported: true,
        ways: slice::from_ref(&WAYS[0]),
        run: |pool, _| bulks(pool, true, |slot| touch(slot, 0)),
    },
];

/// All programs, by number.
fn programs() -> impl Iterator<Item = (String, &'static Deed, &'static Way, PoolFlags)> {
    DEEDS.iter().flat_map(|deed| {
        deed.ways.iter().flat_map(move |way| {
            FLAGS.map(|(flags_name, flags)| {
                (format!("{}, {}, {flags_name}", deed.name, way.name), deed, way, flags)
            })
        })
    })
}

#[test]
fn program() {
    let Some(number) = std::env::var_os(PROGRAM) else { return };
    let number: usize = number.to_str().unwrap().parse().unwrap();
    let (_, deed, way, flags) = programs().nth(number).unwrap();
    let (mut region, mut used) = (region(), Vec::new());
    let mut pool = pool(&mut region, flags);
    // What comes after goes the quick ways, where it has one.
    used.resize_with(10, || (way.alloc)(&pool));
    for block in used {
        (way.free)(&pool, block);
    }
    (deed.run)(&mut pool, way);
}

fn run(number: usize) -> Output {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "program"]).env(PROGRAM, number.to_string()).output().unwrap()
}

#[test]
fn mistakes_are_reported_and_nothing_else() {
    const THREADS: usize = 2;
    thread::scope(|scope| {
        for first in 0..THREADS {
            scope.spawn(move || {
                for (number, (name, deed, ..)) in
                    programs().enumerate().skip(first).step_by(THREADS)
                {
                    let ended = run(number);
                    let text = String::from_utf8_lossy(&ended.stderr);
                    assert_eq!(ended.status.success(), !deed.is_reported, "{name}: {text}");
                    assert_eq!(
                        text.contains("use-after-poison"),
                        deed.is_reported,
                        "{name}: {text}"
                    );
                }
            });
        }
    });
}

#[test]
fn memory_that_a_pool_gave_back_is_its_owners() {
    let mut region = region();
    let write = |region: &mut [MaybeUninit<u8>]| region.fill(MaybeUninit::new(1));
    {
        let pool = pool(&mut region, PoolFlags::empty());
        pool.alloc(SMALL).unwrap();
    }
    write(&mut region);
    std::mem::forget(pool(&mut region, PoolFlags::empty()));
    // A pool that is made of it anew, and ends.
    drop(pool(&mut region, PoolFlags::HARDENED));
    write(&mut region);
    let refused = PoolConfig::new().size_class(SizeClass::new(SIZE).reserve(1 << 20));
    TestPool::empty().init_with(&refused, &mut region).unwrap_err();
    write(&mut region);
}

#[test]
fn what_lies_at_the_edges_of_regions_is_shut() {
    let (mut first, mut second) = (region(), region());
    let ends = [&first, &second].map(|region| region.as_ptr_range().end.addr());
    let pool = pool(&mut first, PoolFlags::empty());
    pool.add_region(&mut second).unwrap();
    for end in ends {
        assert_ne!(__asan_address_is_poisoned(end - 1), 0);
    }
    drop(pool);
    for end in ends {
        assert_eq!(__asan_address_is_poisoned(end - 1), 0);
    }
}
