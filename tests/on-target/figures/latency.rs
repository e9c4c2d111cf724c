//! How late an interrupt comes at worst within each operation of a pool behind the critical section:
//! the longest stretch with interrupts off, one line each.
//!
//! The operation is done again and again from the same state, with the timer's interrupt one instruction
//! later each time, until it has come after the operation a few times. After its interrupt the timer counts on, so that the handler sees how late it is.
#![no_std]
#![no_main]

use core::{
    hint::black_box,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use libmempool::{ClassId, CriticalSection, LocalCache, Pool, PoolConfig, SizeClass};
use libmempool_on_target::{Region, blocks::layout, timer};
use semihosting::println;

use counter::instructions;

#[expect(dead_code, reason = "only the conversion is of use here")]
mod counter;

type Locked = Pool<'static, CriticalSection>;

const BYTES: usize = 32 << 10;
static REGION: Region<BYTES> = Region::new();
static CONFIG: PoolConfig = PoolConfig::new().size_class(SizeClass::new(64));
const CLASS: ClassId = ClassId::new(0);
const SIZE: usize = 100;

/// A little less than an instruction takes.
const TICKS: u32 = 25;

/// Instructions that asking for the interrupt may take itself.
const ASKING: u32 = 40;

/// The latest interrupt so far, in ticks.
static LATEST: AtomicU32 = AtomicU32::new(0);

fn note() {
    LATEST.store(LATEST.load(Relaxed).max(timer::lateness()), Relaxed);
}

/// The most instructions by which an interrupt was late, whenever it came within the work. `prepare`
/// and `restore` put things as they were.
fn latest<T, U>(
    mut prepare: impl FnMut() -> T,
    mut work: impl FnMut(T) -> U,
    mut restore: impl FnMut(U),
) -> u32 {
    LATEST.store(0, Relaxed);
    let mut late = 0;
    for delay in (ASKING * TICKS..).step_by(TICKS as usize) {
        let state = prepare();
        timer::interrupt_after(delay, note);
        // So that nothing of the work is over when the first interrupt comes.
        cortex_m::asm::delay(4 * ASKING);
        let result = work(black_box(state));
        late = if timer::cancel() { late + 1 } else { 0 };
        restore(black_box(result));
        if late == 10 {
            break;
        }
    }
    instructions(LATEST.load(Relaxed))
}

fn allocate(pool: &Locked, size: usize) -> NonNull<u8> {
    pool.alloc(layout(size, 8)).unwrap()
}

fn free(pool: &Locked, block: NonNull<u8>) {
    // SAFETY: nobody uses it any more.
    unsafe { pool.free(block) }.unwrap();
}

fn free_fixed(pool: &Locked, slot: NonNull<u8>) {
    // SAFETY: nobody uses it any more.
    unsafe { pool.free_fixed(CLASS, slot) }.unwrap();
}

/// Makes of a pool what it is after a while: blocks of many sizes, of which every second is free, and
/// slots in use.
fn wear(pool: &Locked) {
    let mut blocks = [None; 48];
    for (i, block) in blocks.iter_mut().enumerate() {
        *block = Some(allocate(pool, 80 + i * 3));
        pool.alloc_fixed(CLASS).unwrap();
    }
    blocks.into_iter().step_by(2).flatten().for_each(|block| free(pool, block));
}

/// So many slots of a class at once, and back, all through one cache or none.
fn slots(mut alloc: impl FnMut() -> NonNull<u8>) -> [NonNull<u8>; 8] {
    [(); 8].map(|()| alloc())
}

fn cached(cache: &mut LocalCache<'_, CriticalSection>) -> NonNull<u8> {
    cache.alloc_fixed(CLASS).unwrap()
}

fn free_cached(cache: &mut LocalCache<'_, CriticalSection>, slot: NonNull<u8>) {
    // SAFETY: nobody uses it any more.
    unsafe { cache.free_fixed(CLASS, slot) }.unwrap();
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let pool = &Pool::empty();
    pool.init_with(&CONFIG, REGION.take()).unwrap();
    wear(pool);
    // What an interrupt takes to its handler when nothing is in its way.
    let least = latest(
        || 100,
        |turns| {
            for i in 0..turns {
                black_box(i);
            }
        },
        |()| (),
    );
    let report = |operation: &str, most: u32| println!("latency\t{operation}\t{}", most - least);

    let nothing = latest(|| (), |()| critical_section::with(|_| ()), |()| ());
    report("a critical section with nothing in it", nothing);
    report("alloc", latest(|| (), |()| allocate(pool, SIZE), |block| free(pool, block)));
    report(
        "alloc, nothing fits",
        latest(|| (), |()| assert!(pool.alloc(layout(BYTES, 8)).is_err()), |()| ()),
    );
    report("free", latest(|| allocate(pool, SIZE), |block| free(pool, block), |()| ()));
    report(
        "free, refused",
        latest(
            NonNull::dangling,
            // SAFETY: refused.
            |block| assert!(unsafe { pool.free(block) }.is_err()),
            |()| (),
        ),
    );
    for (name, size) in [("realloc, grows", 4 * SIZE), ("realloc, shrinks", SIZE / 4)] {
        report(
            name,
            latest(
                || allocate(pool, SIZE),
                // SAFETY: the old pointer is not used any more.
                |block| unsafe { pool.realloc(block, layout(SIZE, 8), size) }.unwrap(),
                |block| free(pool, block),
            ),
        );
    }
    report(
        "alloc_fixed, 8 times",
        latest(
            || _ = pool.defragment(),
            |()| slots(|| pool.alloc_fixed(CLASS).unwrap()),
            |slots| slots.into_iter().for_each(|slot| free(pool, slot)),
        ),
    );
    report(
        "free_fixed, 8 times",
        latest(
            || slots(|| pool.alloc_fixed(CLASS).unwrap()),
            |slots| slots.into_iter().for_each(|slot| free_fixed(pool, slot)),
            |()| _ = pool.defragment(),
        ),
    );
    let cache = &core::cell::RefCell::new(pool.local_cache());
    report(
        "LocalCache::alloc_fixed, 8 times",
        latest(
            || cache.borrow_mut().flush(),
            |()| slots(|| cached(&mut cache.borrow_mut())),
            |slots| slots.into_iter().for_each(|slot| free_cached(&mut cache.borrow_mut(), slot)),
        ),
    );
    report(
        "LocalCache::free_fixed, 8 times",
        latest(
            || slots(|| cached(&mut cache.borrow_mut())),
            |slots| slots.into_iter().for_each(|slot| free_cached(&mut cache.borrow_mut(), slot)),
            |()| cache.borrow_mut().flush(),
        ),
    );
    report(
        "LocalCache::flush",
        latest(
            || {
                let slot = cached(&mut cache.borrow_mut());
                free_cached(&mut cache.borrow_mut(), slot)
            },
            |()| cache.borrow_mut().flush(),
            |()| (),
        ),
    );
    report("stats", latest(|| (), |()| pool.stats(), |_| ()));
    report(
        "defragment",
        latest(|| free(pool, pool.alloc_fixed(CLASS).unwrap()), |()| pool.defragment(), |_| ()),
    );
    report("validate (32 KiB region)", latest(|| (), |()| pool.validate().unwrap(), |()| ()));
    semihosting::process::exit(0)
}
