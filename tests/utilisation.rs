//! How much of a region callers get: full pools, and pools that ran for long.

mod common;

use std::ptr::NonNull;

use common::{Handle, Memory, Rng, bytes, fill, stamp};
use libmempool::{ClassId, NoLock, Pool, PoolBuilder, PoolStats};

const REGION: usize = 64 << 20;

/// Steps of the long runs: what is promised in release builds, less where that takes too long.
const STEPS: usize = if cfg!(debug_assertions) { 2_000_000 } else { 10_000_000 };

fn percent(part: usize, whole: usize) -> f64 {
    let as_float = |n| f64::from(u32::try_from(n).expect("less than 4 GiB"));
    as_float(part) * 100.0 / as_float(whole)
}

fn builder() -> PoolBuilder<NoLock> {
    Pool::<NoLock>::builder()
}

#[test]
fn one_class_fills_99_percent_of_a_region() {
    for alignment in [16, 64] {
        let mut memory = Memory::new(REGION);
        let pool = builder().alignment(alignment).size_classes(&[2048]).build(memory.region());
        let pool = pool.unwrap();
        let mut cache = pool.local_cache();
        let live = std::iter::from_fn(|| cache.alloc_fixed(ClassId::new(0)).ok()).count() * 2048;
        let filled = percent(live, REGION);
        assert!(filled >= 99.0, "{filled:.2} % at alignment {alignment}, {}", pool.stats());
    }
}

/// The seed's classes, in equal numbers, in equal bytes, and one after the other.
#[test]
fn four_classes_fill_97_percent_of_a_region() {
    const SIZES: [usize; 4] = [64, 256, 1024, 4096];
    let equal_numbers = |rng: &mut Rng| rng.below(4);
    let equal_bytes = |rng: &mut Rng| match rng.below(85) {
        0 => 3,
        1..5 => 2,
        5..21 => 1,
        _ => 0,
    };
    let mixes: [fn(&mut Rng) -> usize; 6] =
        [equal_numbers, equal_bytes, |_| 0, |_| 1, |_| 2, |_| 3];
    for (index, mix) in mixes.into_iter().enumerate() {
        let mut memory = Memory::new(REGION);
        let pool = builder().size_classes(&SIZES).build(memory.region()).unwrap();
        let mut cache = pool.local_cache();
        let mut rng = Rng::new(1);
        let class = |index| ClassId::new(u8::try_from(index).unwrap());
        let mut live = 0;
        while cache.alloc_fixed(class(mix(&mut rng))).is_ok() {}
        for index in (0..4).rev() {
            while cache.alloc_fixed(class(index)).is_ok() {}
        }
        for (index, size) in SIZES.into_iter().enumerate() {
            live += pool.class_stats(class(index)).unwrap().live * size;
        }
        let filled = percent(live, REGION);
        assert!(filled >= 97.0, "mix {index}: {filled:.2} %, {}", pool.stats());
    }
}

/// Blocks of random sizes, replaced at random.
struct Mix {
    sizes: &'static [usize],
    /// Sizes between the given ones, or exactly those.
    between: bool,
}

impl Mix {
    fn size(&self, rng: &mut Rng) -> usize {
        let index = rng.below(self.sizes.len());
        match self.sizes.get(index + 1) {
            Some(next) if self.between => self.sizes[index] + rng.below(next - self.sizes[index]),
            _ => self.sizes[index],
        }
    }

    /// Every size that comes up, ascending, rounded as any pool rounds.
    fn all_sizes(&self) -> Vec<usize> {
        match (self.between, self.sizes) {
            (true, &[first, .., last]) => (first..=last).step_by(16).collect(),
            _ => self.sizes.to_vec(),
        }
    }

    /// Fills to 80 %, replaces at random, and then finds out how much of what is free is usable.
    fn run(&self, pool: &Pool<'_, NoLock>) {
        let mut rng = Rng::new(2);
        let mut live: Vec<(NonNull<u8>, usize)> = Vec::new();
        let mut live_bytes = 0;
        let full = pool.stats().region_bytes / 10 * 8;
        for step in 0..STEPS {
            let grow = if live_bytes < full { rng.below(100) < 90 } else { rng.below(100) < 10 };
            if grow || live.is_empty() {
                let size = self.size(&mut rng);
                let block = pool.alloc(bytes(size)).expect("20 % are free");
                stamp::write(block, size.min(32), u64::try_from(size).unwrap());
                live.push((block, size));
                live_bytes += size;
            } else {
                let (block, size) = live.swap_remove(rng.below(live.len()));
                stamp::verify(block, size.min(32), u64::try_from(size).unwrap());
                Handle::free(&mut { pool }, block).unwrap();
                live_bytes -= size;
            }
            assert!(step < STEPS / 2 || live_bytes > full / 10 * 9, "it stays at 80 %");
        }
        self.check_free_bytes(pool, &mut rng);
        pool.validate().unwrap();
    }

    fn check_free_bytes(&self, pool: &Pool<'_, NoLock>, rng: &mut Rng) {
        pool.defragment();
        let before = pool.stats();
        let free = free_bytes(pool, &before);
        // Requests of the mix first, then what is left for each of its sizes, largest first.
        while pool.alloc(bytes(self.size(rng))).is_ok() {}
        for size in self.all_sizes().into_iter().rev() {
            fill(&mut { pool }, size);
        }
        let after = pool.stats();
        let used = after.live_bytes - before.live_bytes;
        let tables = after.metadata_bytes - before.metadata_bytes;
        let usable = percent(used, free);
        assert!(usable >= 95.0, "{usable:.2} % of {free}, {tables} in tables\n{before}\n{after}");
    }
}

/// What is free: in the heap, and in slabs.
fn free_bytes(pool: &Pool<'_, NoLock>, stats: &PoolStats) -> usize {
    let in_slabs = pool.classes().map(|class| pool.class_stats(class).unwrap());
    stats.free_bytes + in_slabs.map(|class| class.free * class.stride).sum::<usize>()
}

#[test]
fn long_runs_of_packets_leave_free_bytes_usable() {
    let mix = Mix { sizes: &[64, 256, 1024, 4096], between: false };
    for classes in [&[][..], mix.sizes] {
        let mut memory = Memory::new(REGION);
        let pool = builder().size_classes(classes).build(memory.region()).unwrap();
        mix.run(&pool);
    }
}

#[test]
fn long_runs_of_random_sizes_leave_free_bytes_usable() {
    let mix = Mix { sizes: &[16, 64, 256, 1024, 4096], between: true };
    for preset in [false, true] {
        let mut memory = Memory::new(REGION);
        let builder = if preset { builder().preset_classes() } else { builder() };
        mix.run(&builder.build(memory.region()).unwrap());
    }
}
