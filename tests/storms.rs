//! Objects that go from thread to thread, each counted, and forks amid allocations, in numbers: `CROSS_FREES` and
//! `FORKS` say how many, beyond the few of every run.
#![cfg(all(feature = "std", not(miri)))]

mod common;

use std::{
    env,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::NonNull,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use common::{Handle, Packet, Rng, bytes, stamp};
use libmempool::{
    ClassId, HugePages, MmapPages, Pool, PoolConfig, PoolFlags, PthreadMutex, ThreadCachedPool,
};

type Shared = ThreadCachedPool<PthreadMutex, MmapPages>;

const SIZES: [usize; 3] = [64, 256, 2048];
const BATCH: usize = 32;

fn count(variable: &str, few: usize) -> usize {
    env::var(variable).map_or(few, |count| count.parse().expect("a number"))
}

fn pool(flags: PoolFlags) -> Shared {
    let config = PoolConfig::new().flags(flags).size_classes(&SIZES);
    let pages = MmapPages::new().huge_pages(HugePages::Never);
    ThreadCachedPool::new(Pool::builder().config(config).map(pages, 16 << 20).unwrap())
}

/// What is free when nothing is live any more: always the same, once the pool has been used.
#[track_caller]
fn idle_bytes(pool: &Shared) -> usize {
    pool.flush_thread();
    let pool = pool.pool();
    let stats = pool.stats();
    assert_eq!((stats.live_objects, stats.live_bytes, stats.bad_frees), (0, 0, 0), "{stats}");
    pool.defragment();
    pool.validate().unwrap();
    let stats = pool.stats();
    assert_eq!((stats.cached_objects, stats.damaged_blocks), (0, 0), "{stats}");
    stats.free_bytes
}

/// Some objects of a class, with numbers that nobody else's have.
struct Batch {
    objects: [Packet; BATCH],
    class: usize,
    first: u64,
}

impl Batch {
    /// Allocates and numbers them, in one of several ways; waits while memory is on its way.
    fn new(handle: &mut impl Handle, number: usize, first: u64) -> Self {
        let (class, mut slots) = (number % SIZES.len(), [NonNull::dangling(); BATCH]);
        while alloc(handle, class, number / 5 % 3, &mut slots).is_none() {
            handle.flush();
            thread::yield_now();
        }
        for (slot, number) in slots.iter().zip(first..) {
            stamp::write(*slot, SIZES[class], number);
        }
        Self { objects: slots.map(Packet), class, first }
    }

    /// Looks whether they are what they were, and frees them, in one of several ways.
    fn end(mut self, handle: &mut impl Handle, way: usize) {
        for (slot, number) in self.objects.iter().zip(self.first..) {
            stamp::verify(slot.0, SIZES[self.class], number);
        }
        let class = class(self.class);
        if way == 3 {
            self.objects.reverse();
        }
        let slots = self.objects.map(|object| object.0);
        match way {
            0 => handle.free_bulk(class, &slots).unwrap(),
            1 => slots.into_iter().for_each(|slot| handle.free_fixed(class, slot).unwrap()),
            _ => slots.into_iter().for_each(|slot| handle.free(slot).unwrap()),
        }
    }
}

fn class(number: usize) -> ClassId {
    ClassId::new(u8::try_from(number).unwrap())
}

/// All of a batch, or none.
fn alloc(
    handle: &mut impl Handle,
    number: usize,
    way: usize,
    slots: &mut [NonNull<u8>; BATCH],
) -> Option<()> {
    if way == 0 {
        return handle.alloc_bulk(class(number), slots).ok();
    }
    for had in 0..BATCH {
        let slot = match way {
            1 => handle.alloc_fixed(class(number)),
            _ => handle.alloc(bytes(SIZES[number])),
        };
        let Ok(slot) = slot else {
            slots[..had].iter().for_each(|&slot| handle.free(slot).unwrap());
            return None;
        };
        slots[had] = slot;
    }
    Some(())
}

/// Sends batches, of which the objects are numbered.
fn send(handle: &mut impl Handle, to: &SyncSender<Batch>, numbers: Range<u64>) {
    for (number, first) in numbers.step_by(BATCH).enumerate() {
        to.send(Batch::new(handle, number, first)).expect("the receiver stays to the end");
    }
}

/// Frees what comes, and returns how many objects that were.
fn receive(handle: &mut impl Handle, from: &Receiver<Batch>) -> usize {
    let mut way = (0..4).cycle();
    let mut next = || way.next().expect("no end");
    std::iter::from_fn(|| from.recv().ok()).map(|batch| batch.end(handle, next())).count() * BATCH
}

/// Has each of `count` objects allocated by one thread and freed by another.
fn exchange(pool: &Shared, count: usize, through_caches: bool) {
    let numbers = |sender: u64| sender << 60..(sender << 60) + u64::try_from(count / 2).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let validating = scope.spawn(|| {
            while !done.load(Relaxed) {
                pool.pool().validate().expect("valid at any moment");
                thread::sleep(Duration::from_millis(20));
            }
        });
        let pairs = [1, 2].map(|sender| {
            let (to, from) = sync_channel(8);
            let (mut sending, mut receiving) = (pool.clone(), pool.clone());
            let sender = scope.spawn(move || {
                if through_caches {
                    send(&mut sending.pool().local_cache(), &to, numbers(sender));
                } else {
                    send(&mut sending, &to, numbers(sender));
                }
            });
            let receiver = scope.spawn(move || {
                if through_caches {
                    receive(&mut receiving.pool().local_cache(), &from)
                } else {
                    receive(&mut receiving, &from)
                }
            });
            (sender, receiver)
        });
        let ended = pairs.map(|(sender, receiver)| (sender.join(), receiver.join()));
        done.store(true, Relaxed);
        validating.join().unwrap();
        for (sent, received) in ended {
            sent.unwrap();
            assert_eq!(received.unwrap(), (count / 2).next_multiple_of(BATCH));
        }
    });
}

#[test]
fn objects_freed_by_other_threads_are_all_there_again() {
    let count = count("CROSS_FREES", 100_000);
    for (flags, share) in [(PoolFlags::empty(), 9), (PoolFlags::HARDENED, 1)] {
        let pool = pool(flags);
        exchange(&pool, 1000, false);
        let idle = idle_bytes(&pool);
        for through_caches in [false, true] {
            exchange(&pool, count / 20 * share, through_caches);
            assert_eq!(idle_bytes(&pool), idle);
        }
    }
}

/// Blocks that a thread has, each with a number in it.
#[derive(Default)]
struct Blocks(Vec<(Packet, usize, u64)>);

impl Blocks {
    /// Allocates a block, or frees one.
    fn step(&mut self, pool: &mut Shared, rng: &mut Rng) {
        if self.0.len() < 100 && rng.below(2) == 0 {
            let (size, number) = (16 + rng.below(3000), rng.next());
            if let Ok(block) = Handle::alloc(pool, bytes(size)) {
                stamp::write(block, size, number);
                self.0.push((Packet(block), size, number));
            }
        } else if !self.0.is_empty() {
            self.free(rng.below(self.0.len()), pool);
        }
    }

    fn free(&mut self, index: usize, pool: &mut Shared) {
        let (block, size, number) = self.0.swap_remove(index);
        stamp::verify(block.0, size, number);
        Handle::free(pool, block.0).unwrap();
    }

    fn end(mut self, pool: &mut Shared) {
        while !self.0.is_empty() {
            self.free(0, pool);
        }
    }
}

/// What a child does with its copy of the pool, and what was this thread's.
fn be_a_child(pool: &mut Shared, blocks: Blocks, rng: &mut Rng) {
    // SAFETY: a child that waits for what nobody will do ends.
    unsafe { libc::alarm(60) };
    let mut own = Blocks::default();
    (0..300).for_each(|_| own.step(pool, rng));
    own.end(pool);
    blocks.end(pool);
    pool.pool().validate().unwrap();
}

/// Forks; the child ends, with success if it could go on using the pool.
fn fork(pool: &mut Shared, blocks: &mut Blocks, rng: &mut Rng) -> bool {
    // SAFETY: the child uses the pool, which is made to be used after a fork, and ends without a word.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        let blocks = std::mem::take(blocks);
        let went_on = catch_unwind(AssertUnwindSafe(|| be_a_child(pool, blocks, rng)));
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(went_on.is_err())) };
    }
    let mut status = -1;
    // SAFETY: a child of this process, which nobody else waits for.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
    ended == child && status == 0
}

/// Forks time and again while other threads allocate and free.
fn storm(pool: &Shared, forks: usize) {
    let (done, steps) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let threads = [1, 2, 3].map(|seed| {
            let mut pool = pool.clone();
            let (done, steps) = (&done, &steps);
            scope.spawn(move || {
                let (mut blocks, mut rng) = (Blocks::default(), Rng::new(seed));
                while !done.load(Relaxed) {
                    blocks.step(&mut pool, &mut rng);
                    steps.fetch_add(1, Relaxed);
                }
                blocks.end(&mut pool);
            })
        });
        let mut pool = pool.clone();
        let forking = scope.spawn(move || {
            let (mut blocks, mut rng) = (Blocks::default(), Rng::new(9));
            let mut try_fork = || {
                (0..50).for_each(|_| blocks.step(&mut pool, &mut rng));
                fork(&mut pool, &mut blocks, &mut rng)
            };
            let went_on = (0..forks).filter(|_| try_fork()).count();
            blocks.end(&mut pool);
            went_on
        });
        // One by one: the end of a scope does not wait for threads to give back what they have cached.
        let went_on = forking.join();
        done.store(true, Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(went_on.unwrap(), forks, "children that went on");
    });
    assert!(steps.into_inner() > forks, "threads went on meanwhile");
}

#[test]
fn parent_and_child_go_on_after_a_fork_amid_allocations() {
    let forks = count("FORKS", 60);
    for flags in [PoolFlags::empty(), PoolFlags::HARDENED] {
        let pool = pool(flags);
        storm(&pool, 1);
        let idle = idle_bytes(&pool);
        storm(&pool, forks / 2);
        assert_eq!(idle_bytes(&pool), idle);
    }
}
