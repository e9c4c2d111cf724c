//! What the model is fed with: figures of this machine, of this run.

use std::{alloc::Layout, ptr::NonNull, sync::Barrier, thread, time::Instant};

use libmempool::{ClassId, MmapPages, Pool, PoolBuilder, PthreadMutex};
use libmempool_bench::{
    arena::Needs,
    contender::Contender,
    cores,
    job::{BATCH, BURST, Job, Sizes, Work},
    ours::{self, Handle},
    pipeline,
    timed_lock::{Taken, TimedMutex, watch},
    worker::Worker,
};
use lock_api::RawMutex;

/// What a core does all the time.
#[derive(Clone, Debug)]
pub struct Load {
    pub name: &'static str,
    /// Nanoseconds of an object on one core, without those under the lock.
    pub own: f64,
    /// How often that core takes the lock for an object.
    pub exchanges: f64,
    /// Nanoseconds that it holds the lock each time.
    pub held: f64,
    /// Cores that an object passes.
    pub cores: u32,
}

impl Load {
    /// What is known of a load of which an object takes `all` nanoseconds.
    fn new(name: &'static str, cores: u32, all: f64, taken: Taken) -> Self {
        let exchanges = taken.times / f64::from(OBJECTS) / f64::from(cores);
        let own = all - exchanges * taken.held;
        Self { name, own, exchanges, held: taken.held, cores }
    }
}

/// All that is measured.
#[derive(Clone, Debug)]
pub struct Inputs {
    pub loads: Vec<Load>,
    /// Nanoseconds that the lock takes longer if another core had it last.
    pub hand_over: f64,
}

/// Objects of a measurement.
const OBJECTS: u32 = 1 << 18;

impl Inputs {
    pub fn measure(size: usize, runs: usize) -> Option<Self> {
        let layout = Layout::from_size_align(size, 16).ok()?;
        let objects = 16 * BURST;
        let needs = Needs { layout, objects, bytes: objects * size, warm: true };
        let loads = vec![
            on_one_core("pair", needs, None, Work::Pair, runs)?,
            on_one_core("burst of 1024", needs, None, Work::Burst, runs)?,
            on_one_core("burst, two magazines", needs, Some(128), Work::Burst, runs)?,
            in_pipeline(needs, runs)?,
        ];
        Some(Self { loads, hand_over: hand_over(needs, runs)? })
    }
}

fn pool<L: RawMutex>(
    needs: Needs,
    magazine: Option<usize>,
) -> Option<(Pool<'static, L, MmapPages>, ClassId)> {
    let builder = magazine.into_iter().fold(Pool::builder(), PoolBuilder::magazine);
    ours::one_class_of(needs, builder)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Medians, as an interrupt while the lock is held would count for all.
fn watch_often(runs: usize, mut work: impl FnMut()) -> Taken {
    let samples: Vec<_> = (0..runs).map(|_| watch(&mut work)).collect();
    let of = |figure: fn(&Taken) -> f64| median(samples.iter().map(figure).collect());
    Taken { times: of(|taken| taken.times), held: of(|taken| taken.held) }
}

/// Nanoseconds of each of so many things.
fn nanos_each(times: u32, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e9 / f64::from(times)
}

/// Work of one core on its own cache: timed without, then watched with a lock that counts.
fn on_one_core(
    name: &'static str,
    needs: Needs,
    magazine: Option<usize>,
    work: Work,
    runs: usize,
) -> Option<Load> {
    let each = u32::try_from(work.operations()).ok()?;
    let mut job = Job::new(work, Sizes::Fixed(needs.layout), 1);
    let (unwatched, class) = pool::<PthreadMutex>(needs, magazine)?;
    let mut handle = Handle { cache: unwatched.local_cache(), class };
    handle.run(&mut job, OBJECTS / each)?;
    let time = |_| nanos_each(OBJECTS, || _ = handle.run(&mut job, OBJECTS / each));
    let all = median((0..runs).map(time).collect());
    let (watched, class) = pool::<TimedMutex>(needs, magazine)?;
    let mut handle = Handle { cache: watched.local_cache(), class };
    handle.run(&mut job, OBJECTS / each)?;
    let taken = watch_often(runs, || _ = handle.run(&mut job, OBJECTS / each));
    Some(Load::new(name, 1, all, taken))
}

/// Objects that go from the first core to the second. How often that takes the lock, and for how long,
/// is watched on one core, as what it costs to fetch memory from the other is in the time of an object.
fn in_pipeline(needs: Needs, runs: usize) -> Option<Load> {
    let arena = ours::cached(needs)?;
    let batches = OBJECTS as usize / BATCH;
    let samples: Option<Vec<f64>> =
        (0..runs).map(|_| pipeline::run(arena.as_ref(), needs.layout, batches)).collect();
    let (watched, class) = pool::<TimedMutex>(needs, None)?;
    let mut ends = [(); 2].map(|()| Handle::<TimedMutex> { cache: watched.local_cache(), class });
    pass_on(&mut ends, needs.layout, OBJECTS);
    let taken = watch_often(runs, || pass_on(&mut ends, needs.layout, OBJECTS));
    Some(Load::new("pipeline", 2, median(samples?), taken))
}

/// One cache allocates, the other frees.
fn pass_on<L: RawMutex>(ends: &mut [Handle<'_, L>; 2], layout: Layout, objects: u32) {
    let [from, to] = ends;
    let mut batch = [NonNull::dangling(); BATCH];
    for _ in 0..objects as usize / BATCH {
        assert!(from.alloc_bulk(layout, &mut batch), "memory");
        // SAFETY: they were just allocated.
        unsafe { to.free_bulk(layout, &batch) };
    }
}

/// What it costs that the other core had the lock last: both do little else than take it, with
/// magazines of one slot, and what an exchange takes beside the time that it takes one core alone.
fn hand_over(needs: Needs, runs: usize) -> Option<f64> {
    let (pool, class) = pool::<PthreadMutex>(needs, Some(1))?;
    let measure = |threads: usize| {
        let barrier = Barrier::new(threads);
        let exchange = |nth| {
            let (pool, barrier) = (&pool, &barrier);
            move || {
                cores::pin(nth);
                let mut ends = [(); 2].map(|()| Handle { cache: pool.local_cache(), class });
                pass_on(&mut ends, needs.layout, OBJECTS / 16);
                barrier.wait();
                nanos_each(OBJECTS, || pass_on(&mut ends, needs.layout, OBJECTS))
            }
        };
        thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|nth| scope.spawn(exchange(nth))).collect();
            let each = running.into_iter().map(|thread| thread.join().expect("it ends"));
            // An object takes the lock twice.
            each.sum::<f64>() / f64::from(u32::try_from(threads).unwrap_or(1)).powi(2) / 2.0
        })
    };
    let two = median((0..runs).map(|_| measure(2)).collect());
    let one = median((0..runs).map(|_| measure(1)).collect());
    Some((two - one).max(0.0))
}
