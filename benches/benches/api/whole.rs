//! What concerns a whole pool: here one with 500 live blocks, as many holes, and 500 live slots.

use std::{hint::black_box, mem::MaybeUninit};

use criterion::{BatchSize, Criterion};
use libmempool::{MmapPages, Pool, PthreadMutex, SizeClass};

use crate::blocks::layout;

const BYTES: usize = 8 << 20;

type Mapped = Pool<'static, PthreadMutex, MmapPages>;

fn in_use() -> Mapped {
    let builder = Pool::builder().size_class(SizeClass::new(2048).reserve(1000));
    let pool = builder.map(MmapPages::new(), BYTES).expect("a pool");
    let class = pool.class_of(2048).expect("the class");
    let mut holes = Vec::new();
    for _ in 0..500 {
        pool.alloc(layout(4000)).expect("memory");
        holes.push(pool.alloc(layout(4100)).expect("memory"));
        pool.alloc_fixed(class).expect("a slot");
    }
    for hole in holes {
        // SAFETY: it is not used.
        unsafe { pool.free(hole) }.expect("a live block");
    }
    pool
}

pub fn all(criterion: &mut Criterion) {
    let pool = in_use();
    let class = pool.class_of(2048).expect("the class");
    let mut group = criterion.benchmark_group("whole pool");
    group.bench_function("class_of", |bench| bench.iter(|| pool.class_of(black_box(1500))));
    group.bench_function("classes", |bench| bench.iter(|| pool.classes().count()));
    group.bench_function("stats", |bench| bench.iter(|| pool.stats()));
    group.bench_function("class_stats", |bench| bench.iter(|| pool.class_stats(black_box(class))));
    group.bench_function("validate", |bench| bench.iter(|| pool.validate()));
    group.bench_function("map", |bench| bench.iter(|| pool.map().count()));
    group.bench_function("pages", |bench| bench.iter(|| pool.pages().is_some()));
    group.bench_function("defragment, nothing to do", |bench| bench.iter(|| pool.defragment()));
    group.bench_function("warm_up, present already", |bench| bench.iter(|| pool.warm_up()));
    group.sample_size(20);
    group.bench_function("discard_free, warm_up", |bench| {
        bench.iter(|| pool.discard_free().and(pool.warm_up()));
    });
    group.bench_function("defragment", |bench| {
        bench.iter_batched_ref(in_use, |pool| pool.defragment(), BatchSize::PerIteration);
    });
    group.bench_function("reset", |bench| {
        bench.iter_batched_ref(in_use, Pool::reset, BatchSize::PerIteration);
    });
    group.bench_function("destroy", |bench| {
        bench.iter_batched(in_use, Pool::destroy, BatchSize::PerIteration);
    });
    group.bench_function("add_size_class", |bench| {
        let class = || SizeClass::new(512).reserve(100);
        bench.iter_batched_ref(
            in_use,
            |pool| pool.add_size_class(black_box(class())),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("map pages, build, destroy", |bench| {
        bench.iter(|| {
            let builder = Pool::<PthreadMutex>::builder().preset_classes();
            builder.map(MmapPages::new(), black_box(BYTES)).map(Pool::destroy)
        });
    });
    group.finish();
    regions(criterion);
}

/// Pools over the caller's memory.
fn regions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("region of 1 MiB");
    let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    group.bench_function("new, destroy", |bench| {
        bench.iter(|| Pool::<PthreadMutex>::new(black_box(&mut memory)).map(Pool::destroy));
    });
    let mut more = vec![MaybeUninit::uninit(); 1 << 20];
    group.bench_function("new, add_region, destroy", |bench| {
        bench.iter(|| {
            let pool = Pool::<PthreadMutex>::new(&mut memory).expect("a pool");
            pool.add_region(black_box(&mut more)).expect("a region");
            pool.destroy()
        });
    });
    group.finish();
}
