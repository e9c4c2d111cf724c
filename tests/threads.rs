//! Threads: producers and consumers, frees on other threads, caches dropped in any order, contents
//! stamped and verified, over every lock that threads can share.

mod common;

use std::{
    ptr::NonNull,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use common::{Handle, LockSuite, Memory, Packet, Rng, bytes, for_each_sync_lock, stamp, times};
use libmempool::{ClassId, LocalCache, Pool};
use lock_api::RawMutex;

const SIZES: [usize; 4] = [64, 256, 1024, 2048];

/// A block on its way: where, how long, what is in it, and of which class if it is one's slot.
struct Message {
    packet: Packet,
    size: usize,
    stamp: u64,
    class: Option<ClassId>,
}

/// How a thread reaches the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Pool,
    Cache,
}

/// Some producers and consumers on one pool.
struct Pipeline {
    producers: usize,
    consumers: usize,
    reach: Reach,
    /// Bytes of the region: small ones run dry all the time.
    bytes: usize,
    messages: usize,
}

impl LockSuite for Pipeline {
    fn run<L: RawMutex + Send + Sync + 'static>(&mut self) {
        let mut memory = Memory::new(self.bytes);
        let pool = Pool::<L>::builder().size_classes(&SIZES);
        let pool = pool.build(memory.region()).unwrap();
        let start = pool.stats();
        self.run_threads(&pool);
        let stats = pool.stats();
        assert_eq!((stats.live_objects, stats.live_bytes, stats.bad_frees), (0, 0, 0), "{stats}");
        pool.defragment();
        pool.validate().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.cached_objects, stats.caches), (0, 0));
        assert_eq!((stats.free_bytes, stats.free_blocks), (start.free_bytes, start.free_blocks));
    }
}

impl Pipeline {
    fn run_threads<L: RawMutex + Send + Sync>(&self, pool: &Pool<'_, L>) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..self.consumers).map(|_| channel()).unzip();
        thread::scope(|scope| {
            for seed in 0..self.producers {
                let senders = senders.clone();
                scope.spawn(move || self.produce(pool, &senders, seed));
            }
            drop(senders);
            for receiver in receivers {
                scope.spawn(move || self.consume(pool, &receiver));
            }
            for _ in 0..times(20) {
                pool.validate().expect("valid at any moment");
                let stats = pool.stats();
                assert!(stats.free_bytes <= stats.region_bytes);
                thread::yield_now();
            }
        });
    }

    fn produce<L: RawMutex>(&self, pool: &Pool<'_, L>, to: &[Sender<Message>], seed: usize) {
        let mut rng = Rng::new(u64::try_from(seed).unwrap());
        let mut cache = pool.local_cache();
        for _ in 0..times(self.messages) {
            let message = loop {
                let message = match self.reach {
                    Reach::Pool => allocate(&mut { pool }, &mut rng),
                    Reach::Cache => allocate(&mut cache, &mut rng),
                };
                match message {
                    Some(message) => break message,
                    // Everything is on its way: give back what lies idle, and wait.
                    None => cache.flush(),
                }
                thread::yield_now();
            };
            to[rng.below(to.len())].send(message).expect("consumers stay to the end");
        }
    }

    fn consume<L: RawMutex>(&self, pool: &Pool<'_, L>, from: &Receiver<Message>) {
        let mut cache = pool.local_cache();
        loop {
            let Ok(message) = from.try_recv().or_else(|_| {
                cache.flush(); // somebody may be waiting for what lies here
                from.recv()
            }) else {
                return;
            };
            match self.reach {
                Reach::Pool => release(&mut { pool }, &message),
                Reach::Cache => release(&mut cache, &message),
            }
        }
    }
}

fn allocate(handle: &mut impl Handle, rng: &mut Rng) -> Option<Message> {
    let stamp = rng.next();
    let (size, class) = if rng.below(3) == 0 {
        (1 + rng.below(3000), None)
    } else {
        let class = rng.below(SIZES.len());
        (SIZES[class], Some(ClassId::new(u8::try_from(class).unwrap())))
    };
    let block = match class {
        Some(class) => handle.alloc_fixed(class).ok()?,
        None => handle.alloc(bytes(size)).ok()?,
    };
    stamp::write(block, size, stamp);
    Some(Message { packet: Packet(block), size, stamp, class })
}

fn release(handle: &mut impl Handle, message: &Message) {
    let block = message.packet.0;
    stamp::verify(block, message.size, message.stamp);
    match message.class {
        Some(class) => handle.free_fixed(class, block).expect("a live slot"),
        None => handle.free(block).expect("a live block"),
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes; at the brink it is much the same")]
fn producers_and_consumers() {
    for (producers, consumers) in [(1, 1), (3, 1), (1, 3), (3, 3)] {
        for reach in [Reach::Cache, Reach::Pool] {
            let messages = 6000 / producers;
            let bytes = 4 << 20;
            for_each_sync_lock(&mut Pipeline { producers, consumers, reach, bytes, messages });
        }
    }
}

/// A pool that runs dry all the time: slots in other threads' caches come back, nothing is lost.
#[test]
fn producers_and_consumers_at_the_brink() {
    for bytes in [64 << 10, 200_000] {
        let (producers, consumers, reach) = (2, 2, Reach::Cache);
        for_each_sync_lock(&mut Pipeline { producers, consumers, reach, bytes, messages: 2000 });
    }
}

/// Caches are made on one thread, used on another, and dropped on a third in any order.
#[test]
fn caches_travel_and_are_dropped_in_any_order() {
    struct Travel;
    impl LockSuite for Travel {
        fn run<L: RawMutex + Send + Sync + 'static>(&mut self) {
            let mut memory = Memory::new(1 << 20);
            let pool = Pool::<L>::builder().size_classes(&SIZES);
            let pool = pool.build(memory.region()).unwrap();
            for seed in 0..times(20) {
                travel(&pool, seed);
                pool.validate().unwrap();
                let stats = pool.stats();
                assert_eq!(stats.live_objects, 0, "{stats}");
                assert!(stats.caches <= 1, "the pool's own: {stats}");
            }
        }
    }
    for_each_sync_lock(&mut Travel);
}

fn travel<L: RawMutex + Send + Sync>(pool: &Pool<'_, L>, seed: usize) {
    let mut rng = Rng::new(u64::try_from(seed).unwrap());
    let caches: Vec<_> = (0..6).map(|_| pool.local_cache()).collect();
    let used: Vec<_> = thread::scope(|scope| {
        let mut threads = Vec::new();
        for cache in caches {
            let mut rng = Rng::new(rng.next());
            threads.push(scope.spawn(move || use_and_keep(cache, &mut rng)));
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (mut caches, messages): (Vec<_>, Vec<_>) = used.into_iter().unzip();
    let mut messages: Vec<_> = messages.into_iter().flatten().collect();
    rng.shuffle(&mut messages);
    rng.shuffle(&mut caches);
    thread::scope(|scope| {
        scope.spawn(move || {
            while let Some(mut cache) = caches.pop() {
                let share = messages.len().min(40);
                messages.drain(..share).for_each(|message| release(&mut cache, &message));
            }
            for message in messages {
                release(&mut { pool }, &message);
            }
        });
    });
}

fn use_and_keep<'p, L: RawMutex>(
    mut cache: LocalCache<'p, L>,
    rng: &mut Rng,
) -> (LocalCache<'p, L>, Vec<Message>) {
    let mut kept: Vec<Message> = Vec::new();
    for _ in 0..times(300) {
        match allocate(&mut cache, rng) {
            Some(message) if kept.len() < 60 => kept.push(message),
            Some(message) => release(&mut cache, &message),
            None => {}
        }
    }
    (cache, kept)
}

/// Bulk calls on several threads, with slots that change hands.
#[test]
fn bulk_runs_change_threads() {
    struct Bulk;
    impl LockSuite for Bulk {
        fn run<L: RawMutex + Send + Sync + 'static>(&mut self) {
            let mut memory = Memory::new(2 << 20);
            let pool = Pool::<L>::builder().size_classes(&SIZES);
            let pool = pool.build(memory.region()).unwrap();
            let (to, from) = channel::<(ClassId, Vec<Packet>)>();
            thread::scope(|scope| {
                scope.spawn(|| send_bursts(&pool, to));
                scope.spawn(|| {
                    let mut cache = pool.local_cache();
                    for (class, burst) in from {
                        let burst: Vec<_> = burst.into_iter().map(|packet| packet.0).collect();
                        for &slot in &burst {
                            stamp::verify(slot, 64, address_stamp(slot));
                        }
                        Handle::free_bulk(&mut cache, class, &burst).unwrap();
                    }
                });
            });
            assert_eq!(pool.stats().live_objects, 0);
            pool.validate().unwrap();
        }
    }
    for_each_sync_lock(&mut Bulk);
}

fn address_stamp(slot: NonNull<u8>) -> u64 {
    u64::try_from(slot.addr().get()).unwrap()
}

fn send_bursts<L: RawMutex>(pool: &Pool<'_, L>, to: Sender<(ClassId, Vec<Packet>)>) {
    let mut cache = pool.local_cache();
    let mut rng = Rng::new(1);
    for _ in 0..times(600) {
        let class = ClassId::new(u8::try_from(rng.below(SIZES.len())).unwrap());
        let mut burst = vec![NonNull::dangling(); 1 + rng.below(48)];
        if Handle::alloc_bulk(&mut cache, class, &mut burst).is_err() {
            thread::yield_now();
            continue;
        }
        for &slot in &burst {
            stamp::write(slot, 64, address_stamp(slot));
        }
        to.send((class, burst.into_iter().map(Packet).collect())).unwrap();
    }
    drop(to); // ends the other side
}

/// Bursts that pass from cache to cache while somebody validates: what changes meanwhile is no damage.
struct Validated;

impl LockSuite for Validated {
    fn run<L: RawMutex + Send + Sync + 'static>(&mut self) {
        const BURSTS: usize = times(if cfg!(debug_assertions) { 500 } else { 5000 });
        let mut memory = Memory::new(32 << 10);
        let pool = Pool::<L>::builder().size_classes(&[64]).magazine(8);
        let pool = pool.build(memory.region()).unwrap();
        let class = ClassId::new(0);
        thread::scope(|scope| {
            let running = scope.spawn(|| {
                let mut caches = [pool.local_cache(), pool.local_cache()];
                let mut slots = [NonNull::dangling(); 20];
                for burst in 0..BURSTS {
                    caches[burst % 2].alloc_bulk(class, &mut slots).unwrap();
                    // SAFETY: live slots, which nobody uses any more.
                    let freed = unsafe { caches[burst / 2 % 2].free_bulk(class, &slots) };
                    assert_eq!(freed, Ok(()));
                }
            });
            while !running.is_finished() {
                pool.validate().unwrap();
            }
        });
        assert_eq!(pool.stats().live_objects, 0);
    }
}

#[test]
fn validation_beside_running_caches_finds_nothing() {
    for_each_sync_lock(&mut Validated);
}
