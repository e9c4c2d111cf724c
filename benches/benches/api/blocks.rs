//! Blocks by layout: from the heap, and by way of the preset classes and a thread's cache.

use std::{alloc::Layout, hint::black_box, mem::MaybeUninit, ptr::NonNull};

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use libmempool::{LocalCache, MmapPages, NoLock, Pool, PthreadMutex, ThreadCachedPool};

/// A layout as `malloc` has it.
pub fn layout(size: usize) -> Layout {
    aligned(size, 16)
}

fn aligned(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a layout")
}

/// The calls that all have.
trait Blocks {
    fn take(&mut self, layout: Layout) -> NonNull<u8>;
    fn resize(&mut self, block: NonNull<u8>, layout: Layout, size: usize) -> NonNull<u8>;
    fn give(&mut self, block: NonNull<u8>);
}

macro_rules! blocks {
    ($type:ty) => {
        impl Blocks for $type {
            fn take(&mut self, layout: Layout) -> NonNull<u8> {
                self.alloc(layout).expect("memory")
            }

            fn resize(&mut self, block: NonNull<u8>, layout: Layout, size: usize) -> NonNull<u8> {
                // SAFETY: the benchmarks go on with what comes back.
                unsafe { self.realloc(block, layout, size) }.expect("memory")
            }

            fn give(&mut self, block: NonNull<u8>) {
                // SAFETY: the benchmarks do not use it any more.
                unsafe { self.free(block) }.expect("a live block");
            }
        }
    };
}

type ThreadCached = ThreadCachedPool<PthreadMutex, MmapPages>;

blocks!(Pool<'_, NoLock>);
blocks!(LocalCache<'_, PthreadMutex>);
blocks!(ThreadCached);

pub fn all(criterion: &mut Criterion) {
    let mut memory = vec![MaybeUninit::uninit(); 16 << 20];
    let mut heap = Pool::<NoLock>::new(&mut memory).expect("a pool");
    let mut group = criterion.benchmark_group("heap");
    of_blocks(&mut group, &mut heap);
    of_heap(&mut group, &heap);
    group.finish();

    let preset = || {
        let builder = Pool::<PthreadMutex>::builder().preset_classes();
        builder.map(MmapPages::new(), 64 << 20).expect("a pool")
    };
    let pool = preset();
    let mut group = criterion.benchmark_group("LocalCache");
    of_blocks(&mut group, &mut pool.local_cache());
    group.finish();

    let mut pool = ThreadCachedPool::new(preset());
    let mut group = criterion.benchmark_group("ThreadCachedPool");
    of_blocks(&mut group, &mut pool);
    of_thread(&mut group, &pool);
    group.finish();
}

/// Allocate and free, of several sizes and alignments; resize.
fn of_blocks(group: &mut BenchmarkGroup<'_, WallTime>, blocks: &mut impl Blocks) {
    for size in [64, 1024, 2048, 9000] {
        pair(group, &format!("alloc, free {size}"), layout(size), blocks);
    }
    for (size, align) in [(2048, 64), (4096, 4096)] {
        pair(group, &format!("alloc, free {size}@{align}"), aligned(size, align), blocks);
    }
    for (what, large) in [("a little", 1024), ("much", 4000)] {
        group.bench_function(format!("realloc, grow and shrink {what}"), |bench| {
            let mut block = blocks.take(layout(1000));
            bench.iter(|| {
                block = blocks.resize(block, layout(1000), black_box(large));
                block = blocks.resize(block, layout(large), black_box(1000));
            });
            blocks.give(block);
        });
    }
    group.bench_function("realloc to another place", |bench| {
        bench.iter(|| {
            let block = blocks.take(layout(black_box(1000)));
            let in_the_way = blocks.take(layout(1000));
            let block = blocks.resize(block, layout(1000), black_box(1500));
            blocks.give(in_the_way);
            blocks.give(block);
        });
    });
}

fn pair(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    layout: Layout,
    blocks: &mut impl Blocks,
) {
    group.bench_function(name, |bench| {
        bench.iter(|| {
            let block = blocks.take(black_box(layout));
            blocks.give(black_box(block));
        });
    });
}

/// What the pool itself has beside them.
fn of_heap(group: &mut BenchmarkGroup<'_, WallTime>, pool: &Pool<'_, NoLock>) {
    group.bench_function("alloc_zeroed, free 2048", |bench| {
        bench.iter(|| {
            let block = pool.alloc_zeroed(black_box(layout(2048))).expect("memory");
            // SAFETY: it is not used any more.
            unsafe { pool.free(black_box(block)) }
        });
    });
    group.bench_function("alloc_metadata, free_metadata 64", |bench| {
        bench.iter(|| {
            let record = pool.alloc_metadata(black_box(layout(64))).expect("memory");
            // SAFETY: it is not used any more.
            unsafe { pool.free_metadata(black_box(record)) };
        });
    });
    group.bench_function("alloc, refused", |bench| {
        bench.iter(|| pool.alloc(black_box(layout(1 << 30))).expect_err("no memory"));
    });
    let block = pool.alloc(layout(1000)).expect("memory");
    group.bench_function("usable_size", |bench| {
        // SAFETY: the block is live.
        bench.iter(|| unsafe { pool.usable_size(black_box(block)) });
    });
    group.bench_function("contains", |bench| {
        bench.iter(|| pool.contains(black_box(block.as_ptr())));
    });
    // SAFETY: it is not used any more.
    unsafe { pool.free(block) }.expect("a live block");
    group.bench_function("free, refused: twice", |bench| {
        // SAFETY: it is not used any more.
        bench.iter(|| unsafe { pool.free(black_box(block)) }.expect_err("free already"));
    });
}

/// The calls without a handle that the others lack.
fn of_thread(group: &mut BenchmarkGroup<'_, WallTime>, pool: &ThreadCached) {
    group.bench_function("alloc_zeroed, free 2048", |bench| {
        bench.iter(|| {
            let block = pool.alloc_zeroed(black_box(layout(2048))).expect("memory");
            // SAFETY: it is not used any more.
            unsafe { pool.free(black_box(block)) }
        });
    });
    group.bench_function("alloc_quick, free_quick 64", |bench| {
        bench.iter(|| {
            let block = pool.alloc_quick(black_box(64)).expect("a slot at hand");
            // SAFETY: it is not used any more.
            unsafe { pool.free_quick(black_box(block.as_ptr())) }
        });
    });
    let block = pool.alloc(layout(1000)).expect("memory");
    group.bench_function("usable_size", |bench| {
        // SAFETY: the block is live.
        bench.iter(|| unsafe { pool.usable_size(black_box(block)) });
    });
    group.bench_function("flush_thread, alloc, free 64", |bench| {
        bench.iter(|| {
            pool.flush_thread();
            let block = pool.alloc(black_box(layout(64))).expect("memory");
            // SAFETY: it is not used any more.
            unsafe { pool.free(black_box(block)) }
        });
    });
}
