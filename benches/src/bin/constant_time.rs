//! Proves that operations take constant time: counts the instructions of each, beside 100, 10 000
//! and 1 000 000 live blocks with as many holes between them, and compares.
//!
//! Instructions are counted exactly (see `libmempool_bench::steps`), so neither the machine nor
//! its load matters, and the worst case of each operation is known, not only the mean. The region
//! has the same size throughout, and nothing else differs but the number of blocks.
//!
//! Exit status: 0 if no mean grows by more than half and no worst case exceeds its bound.

use std::{alloc::Layout, ops::RangeInclusive, process::ExitCode, ptr::NonNull};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use libmempool::{ClassId, LocalCache, MmapPages, Pool, PthreadMutex, SizeClass};
use libmempool_bench::{rng::Rng, steps::Steps};

/// Counts the instructions of each operation beside more and more other blocks.
#[derive(Parser)]
struct Options {
    /// Blocks that are live meanwhile, with as many holes between them.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 10_000, 1_000_000])]
    others: Vec<usize>,
    /// How often each operation is measured.
    #[arg(long, default_value_t = 100)]
    samples: usize,
    /// Only operations whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

/// What the largest mean may be of the one beside the fewest blocks.
const MEAN_GROWTH: f64 = 1.5;

/// Instructions after which an operation has been measured often enough.
const ENOUGH: u64 = 150_000;

/// The region: a million blocks and holes fill three quarters of it.
const REGION: usize = 1 << 30;

/// Sizes of the holes. Few, so that even 100 holes make lists longer than what the heap looks at.
const HOLES: [usize; 4] = [40, 104, 200, 1016];
/// Does not fit into any hole, but belongs to the list of the largest.
const TOO_LARGE: usize = 1032;

/// Sizes up to a little above the largest hole, and sizes whose blocks never rest.
const SMALL: RangeInclusive<usize> = 16..=1400;
const LARGE: RangeInclusive<usize> = 10_000..=20_000;

/// More blocks than can rest.
const RESTING: usize = 1100;

/// Heap blocks that are allocated in a row, and slots, which have to empty magazines.
const BLOCKS: usize = 16;
const SLOTS: usize = 300;

/// More slots than a depot and a cache hold.
const DEPOT: usize = 2500;

const SLOT: usize = 64;
/// Slots that the limited class may hand out.
const LIMIT: usize = 16;

type Block = NonNull<u8>;
type MappedPool = Pool<'static, PthreadMutex, MmapPages>;

/// What the other blocks are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// Heap blocks, with holes between them and much room above.
    Heap,
    /// The same, with only the holes left.
    FullHeap,
    /// Slots of one class, every other one free.
    Slots,
    /// The same, with no room for another slab.
    FullSlots,
    /// As `FullSlots`, and as many slots again that are reserved and never used.
    Reserve,
    /// As `FullSlots`, without caches; of the slabs with free slots, one has nothing else, and it
    /// is the one that has been among them longest.
    EmptySlab,
}

const SCENES: [Scene; 6] = [
    Scene::Heap,
    Scene::FullHeap,
    Scene::Slots,
    Scene::FullSlots,
    Scene::Reserve,
    Scene::EmptySlab,
];

/// A pool with its other blocks.
struct World {
    pool: MappedPool,
    others: Vec<Block>,
    /// The class of the other slots, one at its limit, and one without a slot.
    slots: ClassId,
    limited: ClassId,
    empty: ClassId,
}

impl World {
    fn new(scene: Scene, others: usize) -> Result<Self> {
        let reserve = if scene == Scene::Reserve { 3 * others } else { 0 };
        let mut builder = Pool::<PthreadMutex>::builder();
        if scene == Scene::EmptySlab {
            builder = builder.magazine(0);
        }
        if !matches!(scene, Scene::Heap | Scene::FullHeap) {
            builder = builder
                .size_class(SizeClass::new(SLOT).reserve(reserve))
                .size_class(SizeClass::new(SLOT * 2).limit(LIMIT))
                .size_class(SizeClass::new(SLOT * 4));
        }
        let pool = builder.map(MmapPages::new(), REGION)?;
        let [slots, limited, empty] = [0, 1, 2].map(ClassId::new);
        let mut world = Self { pool, others: Vec::new(), slots, limited, empty };
        match scene {
            Scene::Heap | Scene::FullHeap => world.fill_heap(others)?,
            _ => world.fill_slots(others)?,
        }
        if !matches!(scene, Scene::Heap | Scene::Slots) {
            world.plug()?;
        }
        Ok(world)
    }

    /// Live blocks of many sizes, each with a hole behind it.
    fn fill_heap(&mut self, others: usize) -> Result<()> {
        let mut rng = Rng::new(1);
        let mut holes = Vec::new();
        for _ in 0..others {
            self.others.push(self.pool.alloc(bytes(rng.range(16, 200))?)?);
            holes.push(self.pool.alloc(bytes(HOLES[rng.below(HOLES.len())])?)?);
        }
        self.others.push(self.pool.alloc(bytes(16)?)?); // so that the last hole is one
        shuffle(&mut holes, &mut rng);
        free_all(&self.pool, holes)?;
        self.pool.defragment(); // none of them rests
        Ok(())
    }

    /// Live slots, every other one freed, behind a slab of free ones; and the limited class at its
    /// limit.
    fn fill_slots(&mut self, others: usize) -> Result<()> {
        let mut first = vec![self.pool.alloc_fixed(self.slots)?];
        let slab = self.pool.class_stats(self.slots).map_or(0, |stats| stats.slots / stats.slabs);
        for _ in 1..slab {
            first.push(self.pool.alloc_fixed(self.slots)?);
        }
        let mut holes = Vec::new();
        for _ in 0..others {
            self.others.push(self.pool.alloc_fixed(self.slots)?);
            holes.push(self.pool.alloc_fixed(self.slots)?);
        }
        shuffle(&mut holes, &mut Rng::new(1));
        free_all(&self.pool, first)?;
        free_all(&self.pool, holes)?;
        if self.pool.stats().cached_objects > 0 {
            self.pool.defragment(); // out of the magazines, into the slabs
        }
        for _ in 0..LIMIT {
            self.pool.alloc_fixed(self.limited)?; // not one more: a failure tidies up
        }
        Ok(())
    }

    /// Leaves no block that is larger than the holes.
    fn plug(&self) -> Result<()> {
        loop {
            let largest = self.pool.stats().largest_free;
            if largest < TOO_LARGE {
                return Ok(());
            }
            self.pool.alloc(bytes(largest)?)?;
        }
    }
}

/// What an operation works with and reports to.
struct Bench<'w> {
    world: &'w World,
    cache: LocalCache<'w, PthreadMutex>,
    rng: Rng,
    steps: &'w Steps,
    figures: Figures,
}

/// Instructions of one operation.
#[derive(Clone, Copy, Default)]
struct Figures {
    samples: usize,
    sum: u64,
    worst: u64,
}

impl Figures {
    #[expect(clippy::cast_precision_loss, reason = "an average for people")]
    fn mean(&self) -> f64 {
        self.sum as f64 / self.samples.max(1) as f64
    }
}

impl<'w> Bench<'w> {
    fn new(world: &'w World, steps: &'w Steps) -> Self {
        let (cache, rng) = (world.pool.local_cache(), Rng::new(2));
        Self { world, cache, rng, steps, figures: Figures::default() }
    }

    /// Runs something on pool and local cache, and counts its instructions.
    fn measure<R>(
        &mut self,
        work: impl FnOnce(&'w MappedPool, &mut LocalCache<'w, PthreadMutex>) -> R,
    ) -> R {
        let (pool, cache) = (&self.world.pool, &mut self.cache);
        let (steps, result) = self.steps.count(|| work(pool, cache));
        self.figures.samples += 1;
        self.figures.sum += steps;
        self.figures.worst = self.figures.worst.max(steps);
        result
    }

    fn other(&mut self) -> Block {
        self.world.others[self.rng.below(self.world.others.len())]
    }

    /// Some blocks, in any order.
    fn some_blocks(&mut self, sizes: RangeInclusive<usize>) -> Result<Vec<Block>> {
        let (least, most) = sizes.into_inner();
        let sizes: Vec<_> = (0..BLOCKS).map(|_| self.rng.range(least, most)).collect();
        let blocks = sizes.into_iter().map(|size| Ok(self.world.pool.alloc(bytes(size)?)?));
        let mut blocks = blocks.collect::<Result<Vec<_>>>()?;
        shuffle(&mut blocks, &mut self.rng);
        Ok(blocks)
    }

    /// Some slots, in any order.
    fn some_slots(&mut self, slots: usize) -> Result<Vec<Block>> {
        let class = self.world.slots;
        let slots = (0..slots).map(|_| Ok(self.cache.alloc_fixed(class)?));
        let mut slots = slots.collect::<Result<Vec<_>>>()?;
        shuffle(&mut slots, &mut self.rng);
        Ok(slots)
    }

    fn free(&self, block: Block) -> Result<()> {
        free_all(&self.world.pool, [block])
    }
}

/// An operation to measure.
struct Operation {
    name: &'static str,
    scene: Scene,
    /// What its worst case may be, whatever the number of blocks.
    bound: u64,
    /// Measures it at least once, and leaves the pool as it was.
    batch: fn(&mut Bench) -> Result<()>,
}

const OPERATIONS: &[Operation] = &[
    Operation { name: "alloc", scene: Scene::Heap, bound: 1000, batch: alloc },
    Operation { name: "alloc, aligned", scene: Scene::Heap, bound: 10_000, batch: alloc_aligned },
    Operation { name: "free", scene: Scene::Heap, bound: 1000, batch: free },
    Operation { name: "alloc, large", scene: Scene::Heap, bound: 1000, batch: alloc_large },
    Operation { name: "free, large", scene: Scene::Heap, bound: 1000, batch: free_large },
    Operation { name: "realloc in place", scene: Scene::Heap, bound: 1000, batch: grow_in_place },
    Operation { name: "realloc, moves up", scene: Scene::Heap, bound: 2500, batch: grow_away },
    Operation { name: "realloc, moves down", scene: Scene::Heap, bound: 2500, batch: shrink_away },
    Operation { name: "free: foreign", scene: Scene::Heap, bound: 500, batch: free_foreign },
    Operation { name: "free: double", scene: Scene::Heap, bound: 500, batch: free_twice },
    Operation { name: "free: interior", scene: Scene::Heap, bound: 500, batch: free_interior },
    // Merges the blocks that rest.
    Operation { name: "stats", scene: Scene::Heap, bound: 40_000, batch: stats },
    // As many as there can be.
    Operation {
        name: "alloc, none fits, all rest",
        scene: Scene::Heap,
        bound: 600_000,
        batch: none_fits_all_rest,
    },
    Operation { name: "alloc, none fits", scene: Scene::FullHeap, bound: 2000, batch: none_fits },
    Operation {
        name: "alloc aligned, none fits",
        scene: Scene::FullHeap,
        bound: 20_000,
        batch: none_fits_aligned,
    },
    Operation {
        name: "realloc, none fits",
        scene: Scene::FullHeap,
        bound: 5000,
        batch: cannot_grow,
    },
    Operation { name: "slot alloc, cache", scene: Scene::Slots, bound: 30_000, batch: take_slots },
    Operation { name: "slot free, cache", scene: Scene::Slots, bound: 30_000, batch: put_slots },
    Operation {
        name: "slot alloc, pool",
        scene: Scene::Slots,
        bound: 30_000,
        batch: take_shared_slots,
    },
    Operation {
        name: "slot free, pool",
        scene: Scene::Slots,
        bound: 30_000,
        batch: put_shared_slots,
    },
    Operation { name: "slot free: foreign", scene: Scene::Slots, bound: 500, batch: put_foreign },
    Operation { name: "slot free: double", scene: Scene::Slots, bound: 600, batch: put_twice },
    Operation { name: "slot free: interior", scene: Scene::Slots, bound: 500, batch: put_interior },
    Operation { name: "stats, classes", scene: Scene::Slots, bound: 5000, batch: stats },
    Operation {
        name: "slot alloc, at limit, full depot",
        scene: Scene::Slots,
        bound: 300_000,
        batch: at_limit_with_full_depot,
    },
    Operation { name: "slot alloc, at limit", scene: Scene::Slots, bound: 10_000, batch: at_limit },
    Operation {
        name: "slot alloc, no memory",
        scene: Scene::FullSlots,
        bound: 30_000,
        batch: exhausted,
    },
    Operation {
        name: "slot alloc, no memory, beside a reserve",
        scene: Scene::Reserve,
        bound: 30_000,
        batch: exhausted,
    },
    Operation {
        name: "alloc, none fits, beside a reserve",
        scene: Scene::Reserve,
        bound: 30_000,
        batch: none_fits,
    },
    Operation {
        name: "alloc, too large, beside an empty slab",
        scene: Scene::EmptySlab,
        bound: 10_000,
        batch: too_large_for_a_slab,
    },
];

// --- The operations ------------------------------------------------------------------------------

fn alloc(bench: &mut Bench) -> Result<()> {
    alloc_some(bench, SMALL)
}

fn alloc_large(bench: &mut Bench) -> Result<()> {
    alloc_some(bench, LARGE)
}

fn alloc_some(bench: &mut Bench, sizes: RangeInclusive<usize>) -> Result<()> {
    let mut blocks = Vec::new();
    for _ in 0..BLOCKS {
        let layout = bytes(bench.rng.range(*sizes.start(), *sizes.end()))?;
        blocks.push(bench.measure(|pool, _| pool.alloc(layout))?);
    }
    free_all(&bench.world.pool, blocks)
}

fn alloc_aligned(bench: &mut Bench) -> Result<()> {
    let mut blocks = Vec::new();
    for _ in 0..BLOCKS {
        let (size, align) = (bench.rng.range(16, 1400), 64 << bench.rng.below(7));
        let layout = Layout::from_size_align(size, align)?;
        blocks.push(bench.measure(|pool, _| pool.alloc(layout))?);
    }
    free_all(&bench.world.pool, blocks)
}

fn free(bench: &mut Bench) -> Result<()> {
    free_some(bench, SMALL)
}

fn free_large(bench: &mut Bench) -> Result<()> {
    free_some(bench, LARGE)
}

fn free_some(bench: &mut Bench, sizes: RangeInclusive<usize>) -> Result<()> {
    for block in bench.some_blocks(sizes)? {
        // SAFETY: the block is live, and dropped here.
        bench.measure(|pool, _| unsafe { pool.free(block) })?;
    }
    Ok(())
}

/// Resizes a block, and says whether it stayed.
fn resize(bench: &mut Bench, from: usize, to: usize) -> Result<bool> {
    let layout = bytes(from)?;
    // Whole holes, whatever rests in them.
    bench.world.pool.defragment();
    let block = bench.world.pool.alloc(layout)?;
    // SAFETY: the block is live, and only the new one is used.
    let resized = bench.measure(|pool, _| unsafe { pool.realloc(block, layout, to) });
    bench.free(*resized.as_ref().unwrap_or(&block))?;
    Ok(resized? == block)
}

fn grow_in_place(bench: &mut Bench) -> Result<()> {
    // Too large for a small hole, and far from filling a large one.
    let size = bench.rng.range(300, 500);
    ensure!(resize(bench, size, size + 100)?, "the block moved");
    Ok(())
}

fn grow_away(bench: &mut Bench) -> Result<()> {
    ensure!(!resize(bench, HOLES[2], 2 * HOLES[2])?, "there was room behind a filled hole");
    Ok(())
}

fn shrink_away(bench: &mut Bench) -> Result<()> {
    ensure!(!resize(bench, HOLES[3], HOLES[0])?, "the block stayed");
    Ok(())
}

fn cannot_grow(bench: &mut Bench) -> Result<()> {
    ensure!(resize(bench, HOLES[2], 4 * TOO_LARGE).is_err(), "there was room");
    Ok(())
}

fn none_fits(bench: &mut Bench) -> Result<()> {
    let layout = bytes(TOO_LARGE)?;
    ensure!(bench.measure(|pool, _| pool.alloc(layout)).is_err(), "there was room");
    Ok(())
}

fn none_fits_all_rest(bench: &mut Bench) -> Result<()> {
    let blocks = (0..RESTING).map(|_| Ok(bench.world.pool.alloc(bytes(HOLES[0])?)?));
    let blocks = blocks.collect::<Result<Vec<_>>>()?;
    // What they leave does not make it large enough.
    let too_large = bytes(bench.world.pool.stats().largest_free + 2 * RESTING * HOLES[0])?;
    free_all(&bench.world.pool, blocks)?;
    ensure!(bench.measure(|pool, _| pool.alloc(too_large)).is_err(), "there was room");
    Ok(())
}

fn too_large_for_a_slab(bench: &mut Bench) -> Result<()> {
    let layout = bytes(REGION / 2)?;
    ensure!(bench.measure(|pool, _| pool.alloc(layout)).is_err(), "there was room");
    Ok(())
}

fn none_fits_aligned(bench: &mut Bench) -> Result<()> {
    let layout = Layout::from_size_align(HOLES[3], 4096)?;
    if let Ok(block) = bench.measure(|pool, _| pool.alloc(layout)) {
        bench.free(block)?; // a hole that happens to lie right
    }
    Ok(())
}

/// Frees through the pool what must be refused.
fn refuse(bench: &mut Bench, block: Block) -> Result<()> {
    // SAFETY: any pointer may be passed; nobody uses this one.
    let freed = bench.measure(|pool, _| unsafe { pool.free(block) });
    ensure!(freed.is_err(), "freed what was no block");
    Ok(())
}

fn free_foreign(bench: &mut Bench) -> Result<()> {
    let local = 0_u64;
    refuse(bench, NonNull::from(&local).cast())
}

fn free_twice(bench: &mut Bench) -> Result<()> {
    for block in bench.some_blocks(SMALL)? {
        bench.free(block)?;
        refuse(bench, block)?;
    }
    Ok(())
}

fn free_interior(bench: &mut Bench) -> Result<()> {
    let inside = bench.other().map_addr(|addr| addr.saturating_add(16));
    refuse(bench, inside)
}

fn stats(bench: &mut Bench) -> Result<()> {
    let stats = bench.measure(|pool, _| pool.stats());
    ensure!(stats.live_objects >= bench.world.others.len(), "others are missing");
    Ok(())
}

fn take_slots(bench: &mut Bench) -> Result<()> {
    let class = bench.world.slots;
    let mut slots = Vec::new();
    for _ in 0..SLOTS {
        slots.push(bench.measure(|_, cache| cache.alloc_fixed(class))?);
    }
    for slot in slots {
        // SAFETY: the slot is live, and dropped here.
        unsafe { bench.cache.free_fixed(class, slot)? };
    }
    Ok(())
}

fn put_slots(bench: &mut Bench) -> Result<()> {
    let class = bench.world.slots;
    for slot in bench.some_slots(SLOTS)? {
        // SAFETY: the slot is live, and dropped here.
        bench.measure(|_, cache| unsafe { cache.free_fixed(class, slot) })?;
    }
    Ok(())
}

fn take_shared_slots(bench: &mut Bench) -> Result<()> {
    let class = bench.world.slots;
    let mut slots = Vec::new();
    for _ in 0..SLOTS {
        slots.push(bench.measure(|pool, _| pool.alloc_fixed(class))?);
    }
    free_all(&bench.world.pool, slots)
}

fn put_shared_slots(bench: &mut Bench) -> Result<()> {
    let class = bench.world.slots;
    for slot in bench.some_slots(SLOTS)? {
        // SAFETY: the slot is live, and dropped here.
        bench.measure(|pool, _| unsafe { pool.free_fixed(class, slot) })?;
    }
    Ok(())
}

/// Frees through the local cache what must be refused.
fn refuse_slot(bench: &mut Bench, slot: Block) -> Result<()> {
    let class = bench.world.slots;
    // SAFETY: any pointer may be passed; nobody uses this one.
    let freed = bench.measure(|_, cache| unsafe { cache.free_fixed(class, slot) });
    ensure!(freed.is_err(), "freed what was no slot");
    Ok(())
}

fn put_foreign(bench: &mut Bench) -> Result<()> {
    let local = 0_u64;
    refuse_slot(bench, NonNull::from(&local).cast())
}

fn put_twice(bench: &mut Bench) -> Result<()> {
    let class = bench.world.slots;
    for slot in bench.some_slots(BLOCKS)? {
        // SAFETY: the slot is live, and dropped here.
        unsafe { bench.cache.free_fixed(class, slot)? };
        refuse_slot(bench, slot)?;
    }
    Ok(())
}

fn put_interior(bench: &mut Bench) -> Result<()> {
    let inside = bench.other().map_addr(|addr| addr.saturating_add(16));
    refuse_slot(bench, inside)
}

fn at_limit(bench: &mut Bench) -> Result<()> {
    let class = bench.world.limited;
    ensure!(bench.measure(|_, cache| cache.alloc_fixed(class)).is_err(), "below the limit");
    Ok(())
}

fn at_limit_with_full_depot(bench: &mut Bench) -> Result<()> {
    for slot in bench.some_slots(DEPOT)? {
        // SAFETY: the slot is live, and dropped here.
        unsafe { bench.cache.free_fixed(bench.world.slots, slot)? };
    }
    at_limit(bench)
}

fn exhausted(bench: &mut Bench) -> Result<()> {
    let class = bench.world.empty;
    ensure!(bench.measure(|_, cache| cache.alloc_fixed(class)).is_err(), "there was room");
    Ok(())
}

// --- Running them --------------------------------------------------------------------------------

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let steps = Steps::new()?;
    println!("instructions per operation, beside this many live blocks with as many holes\n");
    println!("{}", heading(&options.others));
    let mut failures = 0;
    for scene in SCENES {
        let wanted = |operation: &&Operation| {
            operation.scene == scene && operation.name.contains(&options.only)
        };
        let operations: Vec<_> = OPERATIONS.iter().filter(wanted).collect();
        let table = measure_scene(scene, &operations, &options, &steps)?;
        for (operation, figures) in operations.iter().zip(table) {
            let verdict = judge(&figures, operation.bound);
            failures += usize::from(verdict.is_some());
            println!("{}", line(operation, &figures, verdict.unwrap_or_default()));
        }
    }
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// For each operation, the figures beside each number of other blocks.
fn measure_scene(
    scene: Scene,
    operations: &[&Operation],
    options: &Options,
    steps: &Steps,
) -> Result<Vec<Vec<Figures>>> {
    let mut table = vec![Vec::new(); operations.len()];
    for &others in options.others.iter().filter(|_| !operations.is_empty()) {
        let world = World::new(scene, others)?;
        for (operation, figures) in operations.iter().zip(&mut table) {
            let mut bench = Bench::new(&world, steps);
            while bench.figures.samples < options.samples && bench.figures.sum < ENOUGH {
                (operation.batch)(&mut bench).with_context(|| operation.name)?;
            }
            figures.push(bench.figures);
        }
    }
    Ok(table)
}

/// How much more the last is than the first.
fn growth(figures: &[Figures], of: impl Fn(&Figures) -> f64) -> f64 {
    match figures {
        [first, .., last] => of(last) / of(first),
        _ => 1.0,
    }
}

/// What is wrong with the figures, if anything is.
fn judge(figures: &[Figures], bound: u64) -> Option<&'static str> {
    if growth(figures, Figures::mean) > MEAN_GROWTH {
        return Some("  the mean grows");
    }
    figures.iter().any(|figures| figures.worst > bound).then_some("  above its bound")
}

fn heading(others: &[usize]) -> String {
    let columns: Vec<_> = others.iter().map(|others| format!("{others:>18}")).collect();
    let names = "      mean   worst".repeat(others.len());
    let columns = columns.concat();
    format!("{:<40}{columns}   growth of\n{:<40}{names}  mean  worst  bound", "", "operation")
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn line(operation: &Operation, figures: &[Figures], verdict: &str) -> String {
    let columns: Vec<_> = figures
        .iter()
        .map(|figures| format!("{:>10.1}{:>8}", figures.mean(), figures.worst))
        .collect();
    let (mean, worst) = (growth(figures, Figures::mean), growth(figures, |f| f.worst as f64));
    let (Operation { name, bound, .. }, columns) = (operation, columns.concat());
    format!("{name:<40}{columns}{mean:>6.2}{worst:>7.2}{bound:>7}{verdict}")
}

// --- Helpers -------------------------------------------------------------------------------------

fn bytes(size: usize) -> Result<Layout> {
    Ok(Layout::from_size_align(size, 1)?)
}

fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, rng.below(last + 1));
    }
}

fn free_all(pool: &MappedPool, blocks: impl IntoIterator<Item = Block>) -> Result<()> {
    for block in blocks {
        // SAFETY: the caller gives them up.
        unsafe { pool.free(block)? };
    }
    Ok(())
}
