//! What threads do to a pool at once, tried by loom in every order, and with every old value that a load may
//! still see, up to two preemptions (`LOOM_MAX_PREEMPTIONS`).
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test --release --target-dir target/loom --lib --test loom -- --nocapture
//! ```
//!
//! What is modelled are the atomics of `src/sync` and the pool's lock. What only one thread writes at a time is
//! plain memory, and races of that are for Miri to find; loom sees those of slots' contents ([`Owners`]).
//! `validate` beside a cache that steps to another magazine has more orders than there is time for; `src/cache/class_cache.rs`
//! tries its first step alone.
#![cfg(loom)]

mod common;

use std::{
    cell::{OnceCell, UnsafeCell},
    sync::Arc,
};

use common::{Packet, StaticMemory};
use libmempool::{ClassId, LocalCache, Pool, PoolConfig, PoolFlags, SizeClass, explore, modelled};
use lock_api::{GuardNoSend, RawMutex};
use loom::{
    sync::{Mutex, MutexGuard, mpsc},
    thread,
};

/// A pool's lock that loom knows of.
struct LoomLock {
    mutex: OnceCell<Mutex<()>>,
    guard: UnsafeCell<Option<MutexGuard<'static, ()>>>,
}

// SAFETY: threads of a model run one at a time.
unsafe impl Sync for LoomLock {}
// SAFETY: as above.
unsafe impl Send for LoomLock {}

// SAFETY: the mutex excludes.
unsafe impl RawMutex for LoomLock {
    #[allow(clippy::declare_interior_mutable_const, reason = "as the trait has it")]
    const INIT: Self = Self { mutex: OnceCell::new(), guard: UnsafeCell::new(None) };
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        let mutex = std::ptr::from_ref(self.mutex.get_or_init(|| Mutex::new(())));
        // SAFETY: a lock that somebody has stays where it is.
        let guard = unsafe { &*mutex }.lock().expect("nobody panics with the lock");
        // SAFETY: we have the lock.
        unsafe { *self.guard.get() = Some(guard) };
    }

    fn try_lock(&self) -> bool {
        unimplemented!("nobody tries")
    }

    unsafe fn unlock(&self) {
        // SAFETY: we have the lock until the guard, out of its place by then, is dropped.
        let guard = unsafe { (*self.guard.get()).take() };
        drop(guard);
    }
}

type LoomPool = Pool<'static, LoomLock>;
type Cache = LocalCache<'static, LoomLock>;

const REGION: usize = 16 << 10;
const SIZE: usize = 64;

/// Runs `body` in every way on a new pool, which has to be whole and empty afterwards.
fn on_a_pool(
    config: PoolConfig,
    body: impl Fn(&'static LoomPool, ClassId) + Sync + Send + 'static,
) {
    explore(Some(2), move || {
        let memory = StaticMemory::skewed(REGION, 0);
        // SAFETY: once, and the pool is dropped before the memory.
        let region = unsafe { memory.lend() };
        let pool =
            Pool::<LoomLock>::builder().config(config.clone()).build(region).expect("a small pool");
        let pool = Box::into_raw(Box::new(pool));
        // SAFETY: it lives until the end of this closure, and `body` waits for its threads.
        let shared: &'static LoomPool = unsafe { &*pool };
        body(shared, ClassId::new(0));
        shared.validate().expect("a pool that was used correctly is valid");
        shared.defragment();
        let stats = shared.stats();
        assert_eq!((stats.live_objects, stats.cached_objects), (0, 0), "{stats}");
        // SAFETY: nobody has it any more.
        drop(unsafe { Box::from_raw(pool) });
        drop(memory);
    });
}

/// A pool with a class whose magazines hold two slots.
fn config() -> PoolConfig {
    PoolConfig::new().size_class(SizeClass::new(SIZE)).magazine(2)
}

fn alloc(cache: &mut Cache, class: ClassId) -> Packet {
    Packet(cache.alloc_fixed(class).expect("a slot"))
}

fn free(cache: &mut Cache, class: ClassId, Packet(slot): Packet) {
    // SAFETY: nobody uses it any more.
    unsafe { cache.free_fixed(class, slot) }.expect("a live slot");
}

/// Allocates a slot and frees it.
fn touch(cache: &mut Cache, class: ClassId) -> Packet {
    let slot = alloc(cache, class);
    free(cache, class, slot);
    slot
}

/// Who has slots: loom sees to it that what one thread does with one happens before what the next does.
struct Owners {
    first: usize,
    cells: Vec<loom::cell::UnsafeCell<u32>>,
}

impl Owners {
    /// Of the region's slots that lie around this one.
    fn around(Packet(slot): Packet) -> Arc<Self> {
        let first = slot.addr().get() - 32 * SIZE;
        let cells = (0..64).map(|_| loom::cell::UnsafeCell::new(0)).collect();
        #[allow(clippy::arc_with_non_send_sync, reason = "threads of a model run one at a time")]
        Arc::new(Self { first, cells })
    }

    /// Uses a slot.
    fn uses(&self, Packet(slot): Packet) {
        // SAFETY: the number is written, which is what loom is to see.
        self.cells[(slot.addr().get() - self.first) / SIZE].with_mut(|uses| unsafe { *uses += 1 });
    }
}

/// Two threads allocate and free more than their caches hold.
#[test]
fn two_threads_exchange_magazines() {
    fn work(cache: &mut Cache, class: ClassId, owners: &Owners) {
        let slots = [(); 5].map(|()| alloc(cache, class));
        for slot in slots {
            owners.uses(slot);
            free(cache, class, slot);
        }
    }
    on_a_pool(config(), |pool, class| {
        let [mut first, mut second] = [pool.local_cache(), pool.local_cache()];
        let owners = Owners::around(touch(&mut first, class));
        touch(&mut second, class);
        modelled(|| {
            let theirs = Arc::clone(&owners);
            let other = thread::spawn(move || work(&mut second, class, &theirs));
            work(&mut first, class, &owners);
            drop(first);
            other.join().expect("it ends");
        });
    });
}

/// One thread allocates, the other frees.
#[test]
fn slots_pass_from_thread_to_thread() {
    on_a_pool(config(), |pool, class| {
        let [mut from, mut to] = [pool.local_cache(), pool.local_cache()];
        let owners = Owners::around(touch(&mut from, class));
        touch(&mut to, class);
        modelled(|| {
            let (sender, receiver) = mpsc::channel();
            let theirs = Arc::clone(&owners);
            let other = thread::spawn(move || {
                for _ in 0..4 {
                    let slot = receiver.recv().expect("four come");
                    theirs.uses(slot);
                    free(&mut to, class, slot);
                }
            });
            for _ in 0..4 {
                let slot = alloc(&mut from, class);
                owners.uses(slot);
                sender.send(slot).expect("somebody waits");
            }
            drop(from);
            other.join().expect("it ends");
        });
    });
}

/// Does something while a cache allocates and frees `uses` slots, of which it has four ready.
fn while_used(config: PoolConfig, uses: usize, watch: fn(&LoomPool, ClassId)) {
    fn use_slots(cache: &mut Cache, class: ClassId, count: usize) {
        let slots: Vec<_> = (0..count).map(|_| alloc(cache, class)).collect();
        for slot in slots {
            free(cache, class, slot);
        }
    }
    on_a_pool(config, move |pool, class| {
        let mut cache = pool.local_cache();
        use_slots(&mut cache, class, 4);
        modelled(|| {
            let watcher = thread::spawn(move || watch(pool, class));
            use_slots(&mut cache, class, uses);
            watcher.join().expect("it ends");
            drop(cache);
        });
    });
}

fn is_valid(pool: &LoomPool, _: ClassId) {
    pool.validate().expect("nothing is wrong");
}

fn adds_up(pool: &LoomPool, class: ClassId) {
    let stats = pool.class_stats(class).expect("the class");
    assert_eq!(stats.live + stats.cached + stats.free, stats.slots, "{stats}");
}

/// While objects are sealed, and their memory is filled and checked, the pool is valid.
#[test]
fn whoever_looks_at_seals_meanwhile_sees_no_damage() {
    while_used(config().flags(PoolFlags::POISON | PoolFlags::CANARY), 1, is_valid);
}

/// While a cache steps from magazine to magazine, statistics add up.
#[test]
fn statistics_add_up_meanwhile() {
    while_used(config(), 3, adds_up);
}

/// What one cache holds and another one needs comes back.
#[test]
fn caches_give_back_what_others_need() {
    fn is_served(cache: &mut Cache, class: ClassId, owners: &Owners) -> bool {
        let slot = cache.alloc_fixed(class).map(Packet);
        if let Ok(slot) = slot {
            owners.uses(slot);
            free(cache, class, slot);
        }
        slot.is_ok()
    }
    let class = SizeClass::new(SIZE).limit(5);
    on_a_pool(PoolConfig::new().size_class(class).magazine(2), |pool, class| {
        let [mut first, mut second] = [pool.local_cache(), pool.local_cache()];
        let [last, slots @ ..] = [(); 5].map(|()| alloc(&mut first, class));
        let owners = Owners::around(last);
        modelled(|| {
            let theirs = Arc::clone(&owners);
            let other = thread::spawn(move || {
                is_served(&mut second, class, &theirs);
                second
            });
            for slot in slots {
                owners.uses(slot);
                free(&mut first, class, slot);
            }
            let mut second = other.join().expect("it ends");
            // Whoever is not served asks the other one, who hears of it at its next step beyond a magazine.
            let was_served = is_served(&mut second, class, &owners);
            free(&mut first, class, last);
            assert!(was_served || is_served(&mut second, class, &owners));
        });
    });
}

/// A slab goes back and another one comes while a cache that handed out slots of the first does something else; then
/// that cache gets one of the second to free.
#[test]
fn slabs_go_back_and_come_again() {
    let all = SizeClass::new(SIZE).limit(2).dedicated();
    let config = PoolConfig::new().size_class(all).size_class(SizeClass::new(2 * SIZE).dedicated());
    on_a_pool(config.magazine(2), |pool, class| {
        let beside = ClassId::new(1);
        let [mut first, mut second] = [pool.local_cache(), pool.local_cache()];
        touch(&mut first, beside);
        touch(&mut second, beside);
        let slots = [(); 2].map(|()| alloc(&mut first, class));
        modelled(|| {
            let (sender, receiver) = mpsc::channel();
            let other = thread::spawn(move || {
                for slot in slots {
                    free(&mut second, class, slot);
                }
                second.flush();
                pool.defragment();
                let again = [(); 2].map(|()| alloc(&mut second, class));
                sender.send(again[1]).expect("somebody waits");
                free(&mut second, class, again[0]);
            });
            touch(&mut first, beside);
            free(&mut first, class, receiver.recv().expect("one comes"));
            other.join().expect("it ends");
            drop(first);
        });
    });
}

/// A second free is refused, whatever happens to the slab that the slot was in, by a cache that never had the slot
/// or that popped it last.
fn refuses_a_stale_pointer(config: PoolConfig, popped: bool) {
    on_a_pool(config, move |pool, class| {
        let [mut first, mut second] = [pool.local_cache(), pool.local_cache()];
        let slots = [(); 2].map(|()| alloc(if popped { &mut first } else { &mut second }, class));
        let stale = slots[1];
        modelled(|| {
            for slot in slots {
                free(&mut second, class, slot);
            }
            if popped {
                // What waits there keeps the slab.
                first.flush();
            }
            let other = thread::spawn(move || {
                drop(second);
                pool.defragment();
            });
            // SAFETY: nobody uses it any more.
            unsafe { first.free(stale.0) }.expect_err("it was freed");
            // SAFETY: as above.
            unsafe { first.free_fixed(class, stale.0) }.expect_err("it was freed");
            other.join().expect("it ends");
            drop(first);
        });
    });
}

#[test]
fn a_stale_pointer_is_refused_while_its_slab_goes_back() {
    refuses_a_stale_pointer(config(), false);
    refuses_a_stale_pointer(config(), true);
    refuses_a_stale_pointer(config().flags(PoolFlags::POISON | PoolFlags::CANARY), true);
}

/// Caches come and go.
#[test]
fn caches_come_and_go() {
    on_a_pool(config(), |pool, class| {
        modelled(|| {
            let visit = move || {
                touch(&mut pool.local_cache(), class);
            };
            let other = thread::spawn(visit);
            visit();
            pool.validate().expect("nothing is wrong");
            other.join().expect("it ends");
        });
    });
}
