//! Instructions per operation of several allocators under the same seeded workloads, one line each:
//! workload, contender, operation, number, best, mean, 99.9th percentile and worst.
#![no_std]
#![no_main]

use core::{alloc::Layout, cell::UnsafeCell, hint::black_box};

use heapless::pool::boxed::BoxBlock;
use libmempool::{ClassId, CriticalSection, NoLock, Pool, PoolConfig, SizeClass};
use libmempool_on_target::{Region, random::Random};
use semihosting::println;

use contenders::{
    Cached, Contender, Fixed, Global, Heap, Heapless, Memory, Object, linked_list, rlsf, talc,
};
use counter::Counter;

mod contenders;
mod counter;

/// talc links the `alloc` crate, which wants one; nobody uses it.
#[global_allocator]
static UNUSED: Pool<CriticalSection> = Pool::empty();

const BYTES: usize = 32 << 10;
const TURNS: usize = 50_000;
const OBJECT: Layout = Layout::new::<[u64; 8]>();

/// Memory for everybody, one region after the other.
static MEMORY: Region<{ 20 * BYTES }> = Region::new();

/// What a workload asks for, and how many blocks are live at most.
struct Work {
    name: &'static str,
    places: usize,
    layout: fn(&mut Random) -> Layout,
}

const FIXED: Work = Work { name: "fixed", places: 128, layout: |_| OBJECT };
const MIXED: Work = Work { name: "mixed", places: 96, layout: mixed };

/// Sizes from 8 to 511 bytes, each power of two as often as the next.
fn mixed(random: &mut Random) -> Layout {
    let least = 8 << random.below(6);
    Layout::from_size_align(least + random.below(least), 8).unwrap()
}

/// How often an operation took how many instructions.
struct Histogram {
    counts: [u32; 1 << 14],
    total: u64,
    number: u32,
    best: u32,
    worst: u32,
}

impl Histogram {
    const fn new() -> Self {
        Self { counts: [0; 1 << 14], total: 0, number: 0, best: u32::MAX, worst: 0 }
    }

    fn add(&mut self, instructions: u32) {
        let last = self.counts.len() - 1;
        self.counts[last.min(instructions as usize)] += 1;
        self.total += u64::from(instructions);
        self.number += 1;
        self.best = self.best.min(instructions);
        self.worst = self.worst.max(instructions);
    }

    /// The least number of instructions that 99.9 % of the operations did not exceed.
    fn percentile_999(&self) -> usize {
        let mut left = self.number / 1000;
        let above = self.counts.iter().rposition(|&count| {
            let found = count > left;
            left = left.saturating_sub(count);
            found
        });
        above.unwrap_or(0)
    }

    fn report(&self, work: &Work, name: &str, operation: &str) {
        let mean = self.total as f64 / f64::from(self.number);
        println!(
            "cost\t{}\t{name}\t{operation}\t{}\t{}\t{mean:.1}\t{}\t{}",
            work.name,
            self.number,
            self.best,
            self.percentile_999(),
            self.worst
        );
    }
}

#[inline(never)]
fn alloc<C: Contender>(contender: &mut C, layout: Layout) -> Option<C::Block> {
    contender.alloc(layout)
}

#[inline(never)]
fn free<C: Contender>(contender: &mut C, block: C::Block, layout: Layout) {
    contender.free(block, layout);
}

/// Allocates into places and frees from them, in the same order for everybody. Nothing is warmed up
/// before.
#[inline(never)]
fn measure<C: Contender>(counter: &Counter, work: &Work, name: &str, mut contender: C) {
    // Too large for the stack.
    static HISTOGRAMS: Shared<[Histogram; 2]> = Shared::new([Histogram::new(), Histogram::new()]);
    // SAFETY: this is not called from within itself, and one context runs.
    let [allocs, frees] = unsafe { HISTOGRAMS.get() };
    (*allocs, *frees) = (Histogram::new(), Histogram::new());
    let mut random = Random::new(0x0bad_5eed);
    let mut places: [Option<(C::Block, Layout)>; 128] = [const { None }; 128];
    for _ in 0..TURNS {
        let place = &mut places[random.below(work.places)];
        if let Some((block, layout)) = place.take() {
            let ((), instructions) =
                counter.count(|| free(&mut contender, black_box(block), layout));
            frees.add(instructions);
        } else {
            let layout = black_box((work.layout)(&mut random));
            let (block, instructions) = counter.count(|| alloc(&mut contender, layout));
            allocs.add(instructions);
            *place = Some((block.expect("the region is large enough"), layout));
        }
    }
    for (block, layout) in places.into_iter().flatten() {
        contender.free(block, layout);
    }
    allocs.report(work, name, "alloc");
    frees.report(work, name, "free");
}

/// A static that one context uses, one at a time.
struct Shared<T>(UnsafeCell<T>);

// SAFETY: see `get`.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// # Safety
    /// Nobody has it now.
    #[expect(clippy::mut_from_ref, reason = "callers see to it")]
    unsafe fn get(&self) -> &mut T {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.0.get() }
    }
}

static CONFIG: PoolConfig = PoolConfig::new().size_class(SizeClass::new(OBJECT.size()));
static LARGE_MAGAZINES: PoolConfig =
    PoolConfig::new().size_class(SizeClass::new(OBJECT.size())).magazine(32);
const CLASS: ClassId = ClassId::new(0);

#[cortex_m_rt::entry]
fn main() -> ! {
    let counter = Counter::start();
    let mut regions = MEMORY.take().chunks_exact_mut(BYTES);
    let mut region = || -> &'static mut Memory { regions.next().expect("a region for each") };

    for work in [&MIXED, &FIXED] {
        let pool = Pool::<NoLock>::new(region()).unwrap();
        measure(&counter, work, "libmempool heap", Heap(&pool));
        let pool = Pool::<CriticalSection>::new(region()).unwrap();
        measure(&counter, work, "libmempool heap, CriticalSection", Heap(&pool));
        measure(&counter, work, "rlsf", rlsf(region()));
        measure(&counter, work, "talc", talc(region()));
        measure(&counter, work, "linked_list_allocator", linked_list(region()));
        embedded_alloc(&counter, work, region(), region());
    }

    let pool = Pool::<NoLock>::empty();
    pool.init_with(&CONFIG, region()).unwrap();
    measure(&counter, &FIXED, "libmempool class, LocalCache", Cached(pool.local_cache(), CLASS));
    measure(&counter, &FIXED, "libmempool class", Fixed(&pool, CLASS));
    let pool = Pool::<NoLock>::empty();
    pool.init_with(&LARGE_MAGAZINES, region()).unwrap();
    let cache = Cached(pool.local_cache(), CLASS);
    measure(&counter, &FIXED, "libmempool class, LocalCache, magazines of 32", cache);
    let pool = Pool::<CriticalSection>::empty();
    pool.init_with(&CONFIG, region()).unwrap();
    let cache = Cached(pool.local_cache(), CLASS);
    measure(&counter, &FIXED, "libmempool class, LocalCache, CriticalSection", cache);
    measure(&counter, &FIXED, "libmempool class, CriticalSection", Fixed(&pool, CLASS));

    static BLOCKS: Shared<[BoxBlock<Object>; 128]> = Shared::new([const { BoxBlock::new() }; 128]);
    // SAFETY: once.
    measure(&counter, &FIXED, "heapless::pool", Heapless::new(unsafe { BLOCKS.get() }));
    semihosting::process::exit(0)
}

/// Both heaps of embedded-alloc, which are behind critical sections.
fn embedded_alloc(
    counter: &Counter,
    work: &Work,
    one: &'static mut Memory,
    two: &'static mut Memory,
) {
    let (tlsf, llff) = (embedded_alloc::TlsfHeap::empty(), embedded_alloc::LlffHeap::empty());
    // SAFETY: the memory is theirs for good.
    unsafe {
        tlsf.init(one.as_mut_ptr().expose_provenance(), one.len());
        llff.init(two.as_mut_ptr().expose_provenance(), two.len());
    }
    measure(counter, work, "embedded-alloc TLSF, CriticalSection", Global(&tlsf));
    measure(counter, work, "embedded-alloc LLFF, CriticalSection", Global(&llff));
}
