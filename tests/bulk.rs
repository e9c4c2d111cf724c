//! Bulk calls against a set of what is live: whatever is freed together, in whatever order and with
//! whatever wrong pointer in between, exactly the pointers in front of the first wrong one are
//! freed.

mod common;

use std::{collections::BTreeMap, ptr::NonNull};

use common::{Handle, Memory, Rng, StaticMemory, ops::assert_not_live, stray};
use libmempool::{ClassId, FreeError, LocalCache, NoLock, Pool, PoolConfig, SizeClass};

type Slot = NonNull<u8>;

const SIZES: [usize; 3] = [64, 200, 2048];

/// Magazines that bursts cross often, now and then, and hardly ever; the default; none.
const MAGAZINES: [Option<usize>; 5] = [Some(5), Some(32), Some(300), None, Some(0)];

fn config(magazine: Option<usize>) -> PoolConfig {
    let config = PoolConfig::new()
        .size_class(SizeClass::new(SIZES[0]))
        .size_class(SizeClass::new(SIZES[1]))
        .size_class(SizeClass::new(SIZES[2]).coloured());
    match magazine {
        Some(slots) => config.magazine(slots),
        None => config,
    }
}

/// A pool over some regions, with what is live in it.
struct Bed<'p, 'm> {
    pool: &'p Pool<'m, NoLock>,
    caches: Vec<LocalCache<'p, NoLock>>,
    live: BTreeMap<Slot, ClassId>,
    refused: usize,
}

impl Bed<'_, '_> {
    /// In regions this small, slabs have few slots.
    fn run(magazine: Option<usize>, regions: usize, test: impl FnOnce(Bed<'_, '_>)) {
        Self::run_in(256 << 10, magazine, regions, test);
    }

    fn run_in(
        bytes: usize,
        magazine: Option<usize>,
        regions: usize,
        test: impl FnOnce(Bed<'_, '_>),
    ) {
        let mut memory = Memory::skewed(bytes, 48);
        let extras: Vec<_> = (1..regions).map(|_| StaticMemory::skewed(bytes, 16)).collect();
        let pool = Pool::<NoLock>::builder().config(config(magazine));
        let pool = pool.build(memory.region()).unwrap();
        for extra in &extras {
            // SAFETY: lent once, and the pool goes before it.
            pool.add_region(unsafe { extra.lend() }).unwrap();
        }
        let caches = (0..2).map(|_| pool.local_cache()).collect();
        test(Bed { pool: &pool, caches, live: BTreeMap::new(), refused: 0 });
        pool.validate().unwrap();
        pool.defragment();
        let stats = pool.stats();
        assert_eq!(
            (stats.live_objects, stats.cached_objects),
            (0, 0),
            "caches return all they hold"
        );
    }

    /// Allocates so many, or as many as there are.
    fn alloc(&mut self, via: usize, class: ClassId, count: usize) -> Vec<Slot> {
        let mut out = vec![NonNull::dangling(); count];
        if Handle::alloc_bulk(&mut self.caches[via], class, &mut out).is_err() {
            out.clear();
        }
        for &slot in &out {
            assert_eq!(self.live.insert(slot, class), None, "{slot:?} is handed out twice");
        }
        self.check();
        out
    }

    /// Frees these, of which those in front of the first wrong one must be accepted.
    fn free(&mut self, via: usize, class: ClassId, slots: &[Slot]) -> Option<FreeError> {
        let live = &mut self.live;
        let is_right =
            |slot: &&Slot| live.get(*slot) == Some(&class) && live.remove(*slot).is_some();
        let expected = slots.iter().take_while(is_right).count();
        let result = Handle::free_bulk(&mut self.caches[via], class, slots);
        self.refused += usize::from(expected < slots.len());
        self.check();
        match result {
            Ok(()) => {
                assert_eq!(expected, slots.len(), "a wrong pointer was accepted");
                None
            }
            Err(error) => {
                assert_eq!(error.freed, expected, "{error}");
                Some(error.error)
            }
        }
    }

    fn check(&self) {
        let stats = self.pool.stats();
        assert_eq!((stats.live_objects, stats.bad_frees), (self.live.len(), self.refused));
    }

    /// Frees everything, in the order of addresses.
    fn free_all(&mut self) {
        for class in self.pool.classes() {
            let of_class = self.live.iter().filter(|(_, live)| **live == class);
            let slots: Vec<_> = of_class.map(|(&slot, _)| slot).collect();
            assert_eq!(self.free(0, class, &slots), None);
        }
    }
}

fn shuffle<T>(values: &mut [T], rng: &mut Rng) {
    for last in (1..values.len()).rev() {
        values.swap(last, rng.below(last + 1));
    }
}

/// A pointer `bytes` behind another one.
fn behind(slot: Slot, bytes: usize) -> Slot {
    slot.map_addr(|addr| addr.checked_add(bytes).unwrap())
}

#[test]
fn a_burst_comes_back_in_the_order_in_which_it_was_freed() {
    for burst in [1, 2, 3, 8, 31, 32, 33, 64] {
        Bed::run_in(16 << 20, Some(512), 1, |mut bed| {
            let class = bed.pool.class_of(SIZES[0]).unwrap();
            // The first slot comes past the cache: the magazine would have no room for it.
            let _kept = bed.alloc(0, class, 1);
            let mut slots = bed.alloc(0, class, burst);
            let mut rng = Rng::new(7);
            for _ in 0..100 {
                shuffle(&mut slots, &mut rng);
                assert_eq!(bed.free(0, class, &slots), None);
                assert_eq!(bed.alloc(0, class, burst), slots);
            }
            bed.free_all();
        });
    }
}

/// Pointers with a wrong one at each position.
#[test]
fn rows_are_interrupted_at_every_position() {
    for magazine in MAGAZINES {
        for regions in [1, 3] {
            Bed::run(magazine, regions, |mut bed| {
                let classes: Vec<_> = bed.pool.classes().collect();
                let class = classes[0];
                let other = bed.alloc(1, classes[1], 1)[0];
                let foreign = stray(0x1234_5670);
                for wrong in 0..6 {
                    for position in 0..40 {
                        let mut slots = bed.alloc(0, class, 40);
                        let right = slots[position];
                        slots[position] = match wrong {
                            0 => other,
                            1 => foreign,
                            2 => behind(right, 16),
                            3 => behind(right, 1),
                            4 => slots[position.saturating_sub(1)],
                            _ => {
                                assert_eq!(bed.free(1, class, &[right]), None);
                                right
                            }
                        };
                        let wrong_at = if wrong == 4 { position.max(1) } else { position };
                        match bed.free(0, class, &slots) {
                            // The first one in the place of itself is not wrong.
                            None => assert!(wrong == 4 && position == 0),
                            Some(FreeError::WrongClass { addr, actual }) => {
                                assert_eq!((wrong, actual), (0, Some(classes[1])));
                                assert_eq!(addr, other.addr().get());
                            }
                            Some(FreeError::Foreign { addr }) => {
                                assert_eq!((wrong, addr), (1, foreign.addr().get()));
                            }
                            Some(error) => {
                                assert!(wrong >= 2);
                                assert_not_live(error, slots[wrong_at]);
                            }
                        }
                        slots[position] = right;
                        let left = slots.iter().filter(|slot| bed.live.contains_key(*slot));
                        let left: Vec<_> = left.copied().collect();
                        assert_eq!(bed.free(1, class, &left), None);
                    }
                }
                bed.free_all();
            });
        }
    }
}

/// Bursts of any length, freed whole or in parts, in order, backwards, shuffled, or twice.
#[test]
fn any_burst_in_any_order() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let magazine = MAGAZINES[rng.below(MAGAZINES.len())];
        Bed::run(magazine, 1 + rng.below(3), |mut bed| {
            let classes: Vec<_> = bed.pool.classes().collect();
            let mut held: Vec<(ClassId, Vec<Slot>)> = Vec::new();
            for _ in 0..150 {
                let (via, class) = (rng.below(2), classes[rng.below(3)]);
                let most = [4, 40, 300][rng.below(3)];
                let count = rng.below(most);
                held.push((class, bed.alloc(via, class, count)));
                if rng.below(3) == 0 {
                    bed.pool.validate().unwrap();
                }
                while held.len() > rng.below(20) {
                    let (class, mut slots) = held.swap_remove(rng.below(held.len()));
                    match rng.below(4) {
                        0 => shuffle(&mut slots, &mut rng),
                        1 => slots.reverse(),
                        2 if slots.len() > 1 => {
                            let rest = slots.split_off(rng.below(slots.len()));
                            held.push((class, rest));
                        }
                        _ => {}
                    }
                    let via = rng.below(2);
                    let twice = slots.get(rng.below(slots.len() + 1)).copied();
                    slots.extend(twice);
                    let error = bed.free(via, class, &slots);
                    assert_eq!(error.is_some(), twice.is_some());
                }
            }
            bed.free_all();
        });
    }
}

/// What one thread allocates another frees; single calls and bulks mix.
#[test]
fn single_calls_and_bulks_mix() {
    for magazine in MAGAZINES {
        Bed::run(magazine, 2, |mut bed| {
            let mut rng = Rng::new(7);
            let class = bed.pool.class_of(SIZES[0]).unwrap();
            for _ in 0..2000 {
                let count = rng.below(20);
                let mut slots = bed.alloc(rng.below(2), class, count);
                if rng.below(2) == 0 {
                    slots.reverse();
                }
                let singles = rng.below(count + 1);
                let via = rng.below(2);
                for &slot in &slots[..singles] {
                    // By its pointer alone or by its class too.
                    let cache = &mut bed.caches[via];
                    let freed = match rng.below(2) {
                        0 => Handle::free(cache, slot),
                        _ => Handle::free_fixed(cache, class, slot),
                    };
                    freed.unwrap();
                    bed.live.remove(&slot);
                }
                let keep = rng.below(8).min(count - singles);
                assert_eq!(bed.free(via, class, &slots[singles + keep..]), None);
                if bed.live.len() > 500 {
                    bed.free_all();
                }
            }
            bed.free_all();
        });
    }
}

/// What lies a multiple of 4 GiB away from a slot is none, although it is as far into some slab.
#[cfg(target_pointer_width = "64")]
#[test]
fn a_pointer_4_gib_away_is_refused() {
    Bed::run(None, 1, |mut bed| {
        let class = ClassId::new(0);
        for via in [0, 1] {
            let slots = bed.alloc(via, class, 3);
            for away in [1_usize << 32, 3 << 32, 1 << 40] {
                let far = slots[2].map_addr(|addr| addr.saturating_add(away));
                let error = bed.free(0, class, &[slots[0], far, slots[1]]);
                assert!(matches!(error, Some(FreeError::Foreign { .. })), "{error:?}");
                assert_eq!(bed.alloc(0, class, 1), [slots[0]], "what was freed before it");
            }
        }
        bed.free_all();
    });
}
