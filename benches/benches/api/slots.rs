//! Slots by class: through the pool, a local cache, a thread's cache; in bulk; as objects.

use std::{hint::black_box, ptr::NonNull};

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use libmempool::{
    ClassId, MmapPages, ObjectPool, Pool, Pooled, PthreadMutex, SizeClass, ThreadCachedPool,
};

type Mapped = Pool<'static, PthreadMutex, MmapPages>;

fn packets() -> (Mapped, ClassId) {
    let class = SizeClass::new(2048).reserve(8192);
    let pool = Pool::builder().size_class(class).map(MmapPages::new(), 64 << 20).expect("a pool");
    let class = pool.class_of(2048).expect("the class");
    (pool, class)
}

/// The calls that all have.
trait Slots {
    fn take(&mut self, class: ClassId) -> NonNull<u8>;
    fn give(&mut self, class: ClassId, slot: NonNull<u8>);
}

macro_rules! slots {
    ($type:ty) => {
        impl Slots for $type {
            fn take(&mut self, class: ClassId) -> NonNull<u8> {
                self.alloc_fixed(class).expect("a slot")
            }

            fn give(&mut self, class: ClassId, slot: NonNull<u8>) {
                // SAFETY: the benchmarks do not use it any more.
                unsafe { self.free_fixed(class, slot) }.expect("a live slot");
            }
        }
    };
}

type LocalCache<'p> = libmempool::LocalCache<'p, PthreadMutex>;
type ThreadCached = ThreadCachedPool<PthreadMutex, MmapPages>;

slots!(Mapped);
slots!(LocalCache<'_>);
slots!(ThreadCached);

/// Two types have these.
macro_rules! by_size {
    ($group:expr, $pool:expr) => {
        $group.bench_function("alloc_slot, free_slot", |bench| {
            bench.iter(|| {
                let slot = $pool.alloc_slot(black_box(2048)).expect("a slot");
                // SAFETY: it is not used any more.
                unsafe { $pool.free_slot(black_box(slot)) }
            });
        });
    };
}

pub fn all(criterion: &mut Criterion) {
    let (mut pool, class) = packets();
    let mut group = criterion.benchmark_group("Pool");
    pair(&mut group, class, &mut pool);
    by_size!(group, pool);
    group.finish();

    let mut group = criterion.benchmark_group("LocalCache");
    let mut cache = pool.local_cache();
    pair(&mut group, class, &mut cache);
    bulk::<8>(&mut group, class, &mut cache);
    bulk::<32>(&mut group, class, &mut cache);
    bulk::<128>(&mut group, class, &mut cache);
    refused(&mut group, class, &mut cache);
    group.bench_function("flush, alloc_fixed, free_fixed", |bench| {
        bench.iter(|| {
            cache.flush();
            let slot = cache.take(black_box(class));
            cache.give(class, black_box(slot));
        });
    });
    group.bench_function("local_cache, drop", |bench| {
        bench.iter(|| drop(black_box(pool.local_cache())));
    });
    group.finish();

    let (pool, class) = packets();
    let mut pool = ThreadCachedPool::new(pool);
    let mut group = criterion.benchmark_group("ThreadCachedPool");
    pair(&mut group, class, &mut pool);
    by_size!(group, pool);
    group.finish();

    objects(criterion);
}

fn pair(group: &mut BenchmarkGroup<'_, WallTime>, class: ClassId, slots: &mut impl Slots) {
    group.bench_function("alloc_fixed, free_fixed", |bench| {
        bench.iter(|| {
            let slot = slots.take(black_box(class));
            slots.give(class, black_box(slot));
        });
    });
}

fn bulk<const N: usize>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    class: ClassId,
    cache: &mut LocalCache<'_>,
) {
    let mut slots = [NonNull::dangling(); N];
    group.throughput(Throughput::Elements(N as u64));
    group.bench_function(format!("alloc_bulk, free_bulk {N}"), |bench| {
        bench.iter(|| {
            cache.alloc_bulk(class, &mut slots).expect("slots");
            // SAFETY: they are not used any more.
            unsafe { cache.free_bulk(class, black_box(&slots)) }
        });
    });
    group.throughput(Throughput::Elements(1));
}

fn refused(group: &mut BenchmarkGroup<'_, WallTime>, class: ClassId, cache: &mut LocalCache<'_>) {
    let slot = cache.take(class);
    cache.give(class, slot);
    group.bench_function("free_fixed, refused: twice", |bench| {
        // SAFETY: nobody uses it.
        bench.iter(|| unsafe { cache.free_fixed(class, black_box(slot)) }.expect_err("free"));
    });
    // SAFETY: the slot is larger than that.
    let inside = unsafe { slot.add(16) };
    group.bench_function("free_fixed, refused: interior", |bench| {
        // SAFETY: it is refused.
        bench.iter(|| unsafe { cache.free_fixed(class, black_box(inside)) }.expect_err("inside"));
    });
}

/// What an appliance keeps for each peer.
struct Session {
    bytes: [u64; 16],
}

fn objects(criterion: &mut Criterion) {
    let pool = Pool::<PthreadMutex>::builder().map(MmapPages::new(), 4 << 20).expect("a pool");
    let sessions = ObjectPool::with_reserve(&pool, 1000).expect("a class");
    let mut group = criterion.benchmark_group("ObjectPool");
    group.bench_function("insert, drop", |bench| {
        bench.iter(|| sessions.insert(black_box(Session { bytes: [0; 16] })).map(drop).is_ok());
    });
    group.bench_function("insert, into_inner", |bench| {
        bench.iter(|| {
            let session = sessions.insert(black_box(Session { bytes: [0; 16] }));
            session.map(Pooled::into_inner).map_or(0, |session| session.bytes[0])
        });
    });
    group.finish();
}
