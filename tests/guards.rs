//! Guards: running out of a slab or a large block ends the program at once; what the system refuses is done
//! without; and nothing of the pool's own ever touches a guard.
#![cfg(feature = "std")]

mod common;

use std::{
    os::unix::process::ExitStatusExt,
    process::Command,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use common::{
    Classes, Handle, Model, Setup, UsableSize,
    against_model::AT_THE_END,
    bytes, fill, free_all, layout,
    ops::{self, assert_not_live},
    run_ops,
    setup::mapped_range,
    stamp, stray,
};
use libmempool::{
    ClassId, FreeError, GuardMethod, GuardPages, HugePages, Mapping, MmapPages, NoLock, PageError,
    PageSource, Pages, Pool, PoolConfig, PoolFlags,
};

type MappedPool<P = MmapPages> = Pool<'static, NoLock, P>;

const METHODS: [GuardMethod; 2] = [GuardMethod::Advice, GuardMethod::Protection];
const GUARD: PoolFlags = PoolFlags::GUARD;
const SLOT: usize = 256;
const CLASS: ClassId = ClassId::new(0);
const CONFIG: PoolConfig = PoolConfig::new().size_classes(&[SLOT]).flags(GUARD);
const LARGE: usize = 64 << 10;
const PAGE: usize = 4096;

/// Whether this system can make guards in this way: a kernel older than 6.13 has but one.
fn is_there(method: GuardMethod) -> bool {
    let best = MmapPages::new().map(PAGE).unwrap().guard_method();
    method == GuardMethod::Protection || best == method
}

fn pages(method: GuardMethod) -> MmapPages {
    MmapPages::new().huge_pages(HugePages::Never).guard_method(method)
}

fn pool(method: GuardMethod, config: PoolConfig, bytes: usize) -> MappedPool {
    Pool::builder().config(config).map(pages(method), bytes).unwrap()
}

/// Each way that this system has, with and without the other flags.
fn each_pool(bytes: usize, mut check: impl FnMut(MappedPool)) {
    for method in METHODS.into_iter().filter(|&method| is_there(method)) {
        for flags in [GUARD, PoolFlags::HARDENED, GUARD | PoolFlags::CANARY] {
            check(pool(method, CONFIG.flags(flags), bytes));
        }
    }
}

fn write_all(objects: &[NonNull<u8>], size: usize, seed: u64) {
    for &object in objects {
        stamp::write(object, size, seed);
    }
}

fn verify_all(objects: &[NonNull<u8>], size: usize, seed: u64) {
    for &object in objects {
        stamp::verify(object, size, seed);
    }
}

/// The byte this far behind the start of an object.
fn byte(object: NonNull<u8>, offset: usize) -> *mut u8 {
    object.as_ptr().wrapping_add(offset)
}

/// Allocates, and says which byte must not be touched then.
type Deadly = fn(&MappedPool) -> *mut u8;

/// The programs that are expected to die: each allocates, and says which byte it must not touch.
const DEADLY: [(&str, Deadly); 5] = [
    ("behind a large block", |pool| {
        let object = pool.alloc(bytes(LARGE)).unwrap();
        byte(object, LARGE)
    }),
    ("behind a large block of an odd size", |pool| {
        let object = pool.alloc(bytes(LARGE + 1234)).unwrap();
        byte(object, LARGE + 1234 + 15)
    }),
    ("before a large block", |pool| {
        let object = pool.alloc(bytes(LARGE)).unwrap();
        object.as_ptr().wrapping_sub(PAGE + 16)
    }),
    ("behind a block that has grown", |pool| {
        let object = pool.alloc(bytes(1000)).unwrap();
        let grown = Handle::realloc(&mut &*pool, object, bytes(1000), 2 * LARGE).unwrap();
        byte(grown, 2 * LARGE)
    }),
    ("behind a slab", |pool| {
        let slots: Vec<_> = (0..1000).map(|_| pool.alloc_fixed(CLASS).unwrap()).collect();
        // Whatever slab it is in: within its largest size.
        let last = slots.iter().max().unwrap();
        let slab = pool
            .map()
            .find(|entry| (entry.addr..entry.addr + entry.size).contains(&last.addr().get()));
        let end = slab.map(|slab| slab.addr + slab.size).unwrap();
        last.as_ptr().with_addr(end - PAGE)
    }),
];

/// What a child does: the case that the variable names, of the way that it names. It writes to the byte
/// before the one that it must not touch first.
#[test]
fn deadly() {
    let Ok(case) = std::env::var("GUARDS_CASE") else { return };
    let (method, case) = case.split_once(' ').unwrap();
    let method = METHODS[method.parse::<usize>().unwrap()];
    let (_, place) = DEADLY[case.parse::<usize>().unwrap()];
    let pool = pool(method, CONFIG, 8 << 20);
    let deadly = place(&pool);
    println!("alive");
    // SAFETY: the mistake is the test's: the page is the pool's own, and the program ends here.
    unsafe { deadly.write_volatile(1) };
    println!("still alive");
}

#[test]
fn running_into_a_guard_ends_the_program() {
    for (number, method) in METHODS.into_iter().enumerate().filter(|&(_, way)| is_there(way)) {
        for (case, (name, _)) in DEADLY.iter().enumerate() {
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "deadly", "--nocapture"])
                .env("GUARDS_CASE", format!("{number} {case}"))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&child.stdout);
            assert!(said.contains("alive"), "{method:?}, {name}: {said}");
            assert!(!said.contains("still"), "{method:?}, {name}");
            assert_eq!(child.status.signal(), Some(libc::SIGSEGV), "{method:?}, {name}: {said}");
        }
    }
}

/// A large object can be used to its last byte, ends at its guard, and is aligned as it was asked to be.
#[test]
fn large_objects_end_at_their_guards() {
    each_pool(16 << 20, |pool| {
        let start = pool.stats();
        for size in [LARGE, LARGE + 1, LARGE + 4095, 100_000, 300_000] {
            for align in [1, 16, 64, 512, 4096, 8192, 65_536] {
                let object = pool.alloc(layout(size, align)).unwrap();
                stamp::write(object, size, 1);
                assert!(object.addr().get().is_multiple_of(align));
                assert_eq!(pool.stats().guard_bytes, start.guard_bytes + 2 * PAGE);
                let usable = pool.usable(object).unwrap();
                assert!((size..size + align.max(16)).contains(&usable), "{size} {align} {usable}");
                stamp::verify(object, size, 1);
                pool.validate().unwrap();
                Handle::free(&mut &pool, object).unwrap();
                pool.validate().unwrap();
                pool.defragment();
            }
        }
        let end = pool.stats();
        assert_eq!((end.guard_bytes, end.guard_failures), (start.guard_bytes, 0), "{end}");
        assert_eq!((end.free_bytes, end.free_blocks), (start.free_bytes, start.free_blocks));
    });
}

/// What was a guard is memory again: a pool that was full of them is filled with small blocks.
#[test]
fn guards_go_away_again() {
    each_pool(8 << 20, |mut pool| {
        for round in 0..3 {
            let mut objects = fill(&mut &pool, LARGE);
            objects.extend((0..3000).map_while(|_| pool.alloc_fixed(CLASS).ok()));
            assert!(pool.stats().guard_bytes > 0, "{}", pool.stats());
            pool.validate().unwrap();
            if round == 1 {
                pool.reset().unwrap();
            } else {
                free_all(&mut &pool, objects);
            }
            pool.defragment();
            pool.validate().unwrap();
            assert_eq!(pool.stats().guard_bytes, 0);
            let small = fill(&mut &pool, 2000);
            write_all(&small, 2000, 5);
            verify_all(&small, 2000, 5);
            assert!(small.len() * 2100 > 7 << 20, "{} of 8 MiB", small.len());
            free_all(&mut &pool, small);
            pool.defragment();
        }
    });
}

/// Warming up, discarding, the map, and any pointer at all: nothing of it touches a guard.
#[test]
fn nothing_of_the_pool_touches_guards() {
    each_pool(8 << 20, |pool| {
        let slots: Vec<_> = (0..3000).map(|_| pool.alloc_fixed(CLASS).unwrap()).collect();
        let blocks = fill(&mut &pool, LARGE + 100);
        let kept: Vec<_> = blocks.iter().copied().step_by(2).collect();
        write_all(&kept, LARGE + 100, 3);
        free_all(&mut &pool, blocks.into_iter().skip(1).step_by(2));
        free_all(&mut &pool, slots);
        for _ in 0..2 {
            pool.warm_up().unwrap();
            pool.discard_free().unwrap();
            pool.validate().unwrap();
            assert!(pool.map().count() > 100);
        }
        let mut refused = 0;
        for addr in mapped_range(&pool).step_by(16) {
            let pointer = stray(addr);
            if !kept.contains(&pointer) {
                assert_not_live(Handle::free(&mut &pool, pointer).unwrap_err(), pointer);
                refused += 1;
            }
        }
        assert_eq!(pool.stats().bad_frees, refused);
        verify_all(&kept, LARGE + 100, 3);
        free_all(&mut &pool, kept);
        pool.defragment();
        pool.validate().unwrap();
    });
}

/// A child process has its parent's guards, and may go on with them.
#[test]
fn guards_survive_a_fork() {
    each_pool(8 << 20, |pool| {
        let objects = fill(&mut &pool, LARGE);
        // SAFETY: the child calls nothing but the pool, which no other thread has, and `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            free_all(&mut &pool, objects);
            pool.defragment();
            let is_well = pool.validate().is_ok() && pool.stats().guard_bytes == 0;
            let again = fill(&mut &pool, 2 * LARGE).len();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!is_well || again < 40)) };
        }
        let mut status = 0;
        // SAFETY: `status` is writable.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child is well");
        write_all(&objects, LARGE, 9);
        pool.validate().unwrap();
        free_all(&mut &pool, objects);
        assert_eq!(pool.stats().live_objects, 0);
    });
}

/// Random operations on large pools, compared with the model.
#[test]
fn pools_with_guards_agree_with_the_model() {
    for (turn, method) in METHODS.into_iter().cycle().take(16).enumerate() {
        if !is_there(method) {
            continue;
        }
        let setup = Setup {
            classes: [Classes::None, Classes::Four, Classes::Odd][turn % 3],
            alignment: [8, 64, 4096][turn / 2 % 3],
            flags: [GUARD, PoolFlags::HARDENED][turn / 4 % 2],
            ..Setup::plain(6 << 20)
        };
        let mut pool = pool(method, setup.config(), setup.bytes);
        agree_with_the_model(&mut pool, &setup, turn);
    }
}

fn agree_with_the_model<P: PageSource>(pool: &mut MappedPool<P>, setup: &Setup, seed: usize) {
    let mut model = Model::new(&[mapped_range(pool)], setup.alignment);
    model.flags = setup.flags;
    run_ops(pool, setup, &mut model, ops::seeded(seed as u64, 400), AT_THE_END);
    assert_eq!(pool.stats().damaged_blocks, 0);
}

/// Mapped pages of which some cannot be made guards, or cannot be made memory again.
struct Refusing(&'static RefusingGuards);

struct RefusingPages(Mapping, &'static RefusingGuards);

#[derive(Debug)]
struct RefusingGuards {
    installations: Refusals,
    removals: Refusals,
}

impl RefusingGuards {
    const fn new() -> Self {
        Self { installations: Refusals::new(), removals: Refusals::new() }
    }
}

/// Which calls are refused: every so manieth, or none.
#[derive(Debug)]
struct Refusals {
    every: AtomicUsize,
    calls: AtomicUsize,
}

impl Refusals {
    const fn new() -> Self {
        Self { every: AtomicUsize::new(0), calls: AtomicUsize::new(0) }
    }

    fn set(&self, every: usize) {
        self.every.store(every, Relaxed);
    }

    fn check(&self) -> Result<(), PageError> {
        let every = self.every.load(Relaxed);
        if every > 0 && self.calls.fetch_add(1, Relaxed).is_multiple_of(every) {
            return Err(PageError::Os { call: "mprotect", code: libc::ENOMEM });
        }
        Ok(())
    }
}

impl PageSource for Refusing {
    type Pages = RefusingPages;

    fn obtain(&self, bytes: usize) -> Result<RefusingPages, PageError> {
        let mapping = pages(GuardMethod::Protection).obtain(bytes)?;
        Ok(RefusingPages(mapping, self.0))
    }
}

// SAFETY: those of a mapping.
unsafe impl Pages for RefusingPages {
    fn memory(&self) -> NonNull<[u8]> {
        self.0.memory()
    }

    fn guards(&self) -> Option<&'static dyn GuardPages> {
        Some(self.1)
    }

    fn prefault(&self, offset: usize, len: usize) -> Result<(), PageError> {
        Pages::prefault(&self.0, offset, len)
    }
}

// SAFETY: a page that is refused is left alone; all else is the system's.
unsafe impl GuardPages for RefusingGuards {
    unsafe fn install(&self, guard: NonNull<[u8]>) -> Result<(), PageError> {
        self.installations.check()?;
        // SAFETY: the caller's promise.
        unsafe { GuardPages::install(&GuardMethod::Protection, guard) }
    }

    unsafe fn remove(&self, guard: NonNull<[u8]>) -> Result<(), PageError> {
        self.removals.check()?;
        // SAFETY: the caller's promise.
        unsafe { GuardPages::remove(&GuardMethod::Protection, guard) }
    }
}

/// Whatever is refused, every operation does what it does with guards, and every page comes back.
#[test]
fn guards_that_are_refused_are_done_without() {
    static GUARDS: RefusingGuards = RefusingGuards::new();
    for every in [1, 2, 3, 0] {
        GUARDS.installations.set(every);
        for flags in [GUARD, PoolFlags::HARDENED] {
            let setup = Setup { flags, classes: Classes::Four, ..Setup::plain(6 << 20) };
            let builder = Pool::<NoLock>::builder().config(setup.config());
            let mut pool = builder.map(Refusing(&GUARDS), setup.bytes).unwrap();
            let largest = pool.stats().largest_free;
            let objects = fill(&mut &pool, LARGE);
            assert_eq!(pool.stats().guard_failures > 0, every > 0, "{}", pool.stats());
            write_all(&objects, LARGE, 2);
            pool.validate().unwrap();
            pool.warm_up().unwrap();
            verify_all(&objects, LARGE, 2);
            free_all(&mut &pool, objects);
            pool.defragment();
            assert_eq!(pool.stats().largest_free, largest);
            agree_with_the_model(&mut pool, &setup, every);
        }
    }
}

/// A page that cannot be made memory again stays a guard: its block or slab is never used again, what lies
/// beside it is, and the pool stays valid.
#[test]
fn guards_that_cannot_be_removed_stay() {
    static GUARDS: RefusingGuards = RefusingGuards::new();
    for flags in [GUARD, PoolFlags::HARDENED] {
        for every in 1..4 {
            let builder = Pool::<NoLock>::builder().config(CONFIG.flags(flags));
            let mut pool = builder.map(Refusing(&GUARDS), 8 << 20).unwrap();
            let objects: Vec<_> = (0..50).map(|_| pool.alloc(bytes(LARGE)).unwrap()).collect();
            let slots: Vec<_> = (0..2000).map(|_| pool.alloc_fixed(CLASS).unwrap()).collect();
            write_all(&objects, LARGE, 3);
            write_all(&slots, SLOT, 4);
            let start = pool.stats();
            GUARDS.removals.set(every);
            free_all(&mut &pool, objects.iter().copied().step_by(2));
            free_all(&mut &pool, slots);
            pool.defragment();
            GUARDS.removals.set(0);
            pool.validate().unwrap();
            let stats = pool.stats();
            assert!(stats.guard_failures > 0 && stats.guard_bytes > 0, "{stats}");
            assert!(stats.guard_failures <= start.live_objects);
            // What stayed is nobody's, and freed once.
            let again = fill(&mut &pool, 5000);
            write_all(&again, 5000, 5);
            pool.validate().unwrap();
            verify_all(&again, 5000, 5);
            for &object in objects.iter().step_by(2) {
                assert!(Handle::free(&mut &pool, object).is_err() || again.contains(&object));
            }
            let kept: Vec<_> = objects.iter().copied().skip(1).step_by(2).collect();
            verify_all(&kept, LARGE, 3);
            pool.validate().unwrap();
            GUARDS.removals.set(0);
            pool.reset().unwrap();
            pool.validate().unwrap();
        }
    }
}

/// The word in front of a large block's guards is checked before anything relies on it.
#[test]
fn a_damaged_front_of_a_large_block_is_found() {
    each_pool(8 << 20, |pool| {
        let object = pool.alloc(bytes(LARGE)).unwrap();
        let tag = object.addr().get() - size_of::<usize>();
        let below = pool.map().map(|entry| entry.addr).take_while(|&addr| addr < tag);
        let front = stray(below.last().expect("a block with a guard in it"));
        let word = pool.pages().unwrap().memory().cast::<u64>().map_addr(|_| front.addr());
        // SAFETY: in the region, before the guard, and nobody else accesses it meanwhile.
        unsafe { word.write(word.read() ^ 1 << 40) };
        pool.validate().unwrap_err();
        let error = Handle::free(&mut &pool, object).unwrap_err();
        assert_eq!(error, FreeError::Corrupted { addr: front.addr().get() });
        // SAFETY: as above.
        unsafe { word.write(word.read() ^ 1 << 40) };
        Handle::free(&mut &pool, object).unwrap();
        pool.validate().unwrap();
    });
}

/// The whole pool can be had in one block, which has no room for guards.
#[test]
fn guards_take_no_room_that_is_needed() {
    each_pool(4 << 20, |pool| {
        // The first call gets its cache a block in the pool.
        let small = pool.alloc(bytes(100)).unwrap();
        Handle::free(&mut &pool, small).unwrap();
        let largest = pool.stats().largest_free;
        let object = pool.alloc(bytes(largest)).unwrap();
        stamp::write(object, largest, 8);
        let stats = pool.stats();
        assert_eq!((stats.guard_bytes, stats.guard_failures), (0, 1), "{stats}");
        Handle::free(&mut &pool, object).unwrap();
        assert!(pool.stats().largest_free >= largest);
    });
}

/// Pages whose size is what they say.
#[derive(Debug)]
struct Sized(Mapping, usize);

// SAFETY: those of a mapping.
unsafe impl Pages for Sized {
    fn memory(&self) -> NonNull<[u8]> {
        self.0.memory()
    }

    fn page_size(&self) -> usize {
        self.1
    }

    fn guards(&self) -> Option<&'static dyn GuardPages> {
        Pages::guards(&self.0)
    }
}

struct SizedSource(usize);

impl PageSource for SizedSource {
    type Pages = Sized;

    fn obtain(&self, bytes: usize) -> Result<Sized, PageError> {
        Ok(Sized(pages(GuardMethod::Protection).obtain(bytes)?, self.0))
    }
}

/// Pages that cannot be, or are smaller than the granule, are no guards.
#[test]
fn odd_pages_are_no_guards() {
    for (page, is_page) in [(0, false), (3000, false), (64, false), (PAGE, true)] {
        let builder = Pool::<NoLock>::builder().config(CONFIG.alignment(128));
        let pool = builder.map(SizedSource(page), 8 << 20).unwrap();
        let objects = fill(&mut &pool, LARGE);
        assert_eq!(pool.stats().guard_bytes > 0, is_page, "{page}");
        free_all(&mut &pool, objects);
        pool.validate().unwrap();
    }
}

/// Where there can be no guards, the flag does nothing.
#[test]
fn memory_of_the_callers_has_no_guards() {
    let mut memory = common::Memory::new(8 << 20);
    let pool = Pool::<NoLock>::builder().config(CONFIG).build(memory.region()).unwrap();
    let objects = fill(&mut &pool, LARGE);
    assert_eq!((pool.stats().guard_bytes, pool.stats().guard_failures), (0, 0));
    free_all(&mut &pool, objects);
}
