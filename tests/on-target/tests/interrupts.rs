//! A pool behind the critical section: the main loop and an interrupt handler allocate and free,
//! whichever instruction the interrupt comes at.
#![no_std]
#![no_main]

use core::{
    cell::RefCell,
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed},
};

use critical_section::Mutex;
use libmempool::{ClassId, CriticalSection, LocalCache, Pool, PoolConfig, SizeClass};
use libmempool_on_target::{
    LARGE_BOARD, Region,
    blocks::{Stamped, layout},
    random::Random,
    timer,
};

static REGION: Region<{ if LARGE_BOARD { 64 << 10 } else { 4 << 10 } }> = Region::new();
static POOL: Pool<CriticalSection> = Pool::empty();

/// Magazines so small that local caches come to the lock often. The heap serves what is larger than
/// the class's slots.
static CONFIG: PoolConfig = PoolConfig::new().size_class(SizeClass::new(SLOT)).magazine(2);
const CLASS: ClassId = ClassId::new(0);
const SLOT: usize = 24;
const BLOCK: usize = 100;

/// Interrupts so far.
static INTERRUPTS: AtomicUsize = AtomicUsize::new(0);

/// What the handler keeps from one interrupt to the next: a slot and a block.
static KEPT: [AtomicPtr<u8>; 2] = [const { AtomicPtr::new(ptr::null_mut()) }; 2];
const SIZES: [usize; 2] = [SLOT, BLOCK];

fn count_interrupt() {
    INTERRUPTS.store(INTERRUPTS.load(Relaxed) + 1, Relaxed);
}

/// Frees a block that nobody uses any more.
fn free(block: NonNull<u8>) {
    // SAFETY: callers give it up.
    unsafe { POOL.free(block) }.unwrap();
}

fn stamped(size: usize) -> Stamped {
    let block = POOL.alloc(layout(size, 4)).unwrap();
    // SAFETY: the block is fresh.
    unsafe { Stamped::new(block, size) }
}

/// The handler: checks and frees what it kept, and allocates anew.
fn replace() {
    count_interrupt();
    for (kept, size) in KEPT.iter().zip(SIZES) {
        give_up(kept, size);
        kept.store(stamped(size).start().as_ptr(), Relaxed);
    }
}

fn give_up(kept: &AtomicPtr<u8>, size: usize) {
    if let Some(block) = NonNull::new(kept.load(Relaxed)) {
        kept.store(ptr::null_mut(), Relaxed);
        // SAFETY: `replace` filled it.
        free(unsafe { Stamped::known(block, size) }.verify());
    }
}

fn give_up_all() {
    KEPT.iter().zip(SIZES).for_each(|(kept, size)| give_up(kept, size));
}

/// Another number of ticks each time, longer than the handlers take at least.
fn some_ticks() -> u32 {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let calls = CALLS.load(Relaxed);
    CALLS.store(calls + 1, Relaxed);
    (500 + calls * 7919 % 9973) as u32
}

/// Does `work` again and again, with an interrupt one tick later each time, until it has come after
/// the work a few times. A tick is shorter than an instruction where this is emulated.
fn interrupt_everywhere(mut work: impl FnMut()) {
    let before = INTERRUPTS.load(Relaxed);
    let mut late = 0;
    for delay in 2.. {
        timer::interrupt_after(delay, replace);
        work();
        late = if timer::cancel() { late + 1 } else { 0 };
        if late == 10 {
            break;
        }
        if delay % 16 == 0 {
            POOL.validate().unwrap();
        }
    }
    let interrupts = INTERRUPTS.load(Relaxed) - before;
    assert!(interrupts > 500, "{interrupts}");
    give_up_all();
    POOL.validate().unwrap();
    assert_eq!(POOL.stats().live_objects, 0);
}

#[embedded_test::tests]
mod tests {
    use super::*;

    #[init]
    fn init() {
        POOL.init_with(&CONFIG, REGION.take()).unwrap();
    }

    #[test]
    fn within_alloc_and_free() {
        interrupt_everywhere(|| free(stamped(BLOCK).verify()));
    }

    #[test]
    fn within_realloc() {
        interrupt_everywhere(|| {
            let block = stamped(BLOCK).verify();
            let above = stamped(BLOCK);
            // SAFETY: the old pointer is not used any more.
            let moved = unsafe { POOL.realloc(block, layout(BLOCK, 4), 2 * BLOCK) }.unwrap();
            // SAFETY: as above.
            free(unsafe { POOL.realloc(moved, layout(2 * BLOCK, 4), BLOCK) }.unwrap());
            free(above.verify());
        });
    }

    #[test]
    fn within_slots() {
        interrupt_everywhere(|| {
            let slots = [(); 3].map(|()| POOL.alloc_fixed(CLASS).unwrap());
            for slot in slots {
                // SAFETY: the slot is not used any more.
                unsafe { POOL.free_fixed(CLASS, slot) }.unwrap();
            }
        });
    }

    #[test]
    fn within_a_local_cache() {
        let mut cache = POOL.local_cache();
        interrupt_everywhere(|| {
            let mut burst = [NonNull::dangling(); 5];
            cache.alloc_bulk(CLASS, &mut burst).unwrap();
            // SAFETY: the slots are not used any more.
            unsafe { cache.free_bulk(CLASS, &burst) }.unwrap();
        });
    }

    #[test]
    fn within_reclaiming_all_caches() {
        interrupt_everywhere(|| {
            let mut cache = POOL.local_cache();
            let slot = cache.alloc_fixed(CLASS).unwrap();
            // SAFETY: the slot is not used any more.
            unsafe { cache.free_fixed(CLASS, slot) }.unwrap();
            drop(cache);
            POOL.defragment();
        });
    }

    /// Both sides allocate and free at random, the handler after random times.
    #[test]
    fn at_random() {
        fn again() {
            replace();
            timer::interrupt_after(some_ticks(), again);
        }
        const TURNS: usize = 20_000;
        let mut random = Random::new(0x5eed);
        let mut blocks: [Option<Stamped>; 12] = [None; 12];
        timer::interrupt_after(1000, again);
        for _ in 0..TURNS {
            let place = &mut blocks[random.below(12)];
            *place = match place.take() {
                Some(block) => {
                    free(block.verify());
                    None
                }
                None => Some(stamped(1 + random.below(150))),
            };
        }
        timer::cancel();
        let interrupts = INTERRUPTS.load(Relaxed);
        assert!(interrupts > TURNS / 100, "{interrupts}");
        blocks.into_iter().flatten().for_each(|block| free(block.verify()));
        give_up_all();
        POOL.validate().unwrap();
        assert_eq!((POOL.stats().live_objects, POOL.stats().bad_frees), (0, 0));
    }

    /// The handler receives: packets out of a cache of its own. The main loop transmits: they go back
    /// through another one.
    #[test]
    fn packets_from_the_handler_to_the_main_loop() {
        type Cache = LocalCache<'static, CriticalSection>;
        static RECEIVE: Mutex<RefCell<Option<Cache>>> = Mutex::new(RefCell::new(None));
        /// Packets that wait for the main loop.
        static QUEUE: [AtomicPtr<u8>; 4] = [const { AtomicPtr::new(ptr::null_mut()) }; 4];

        fn receive() {
            let number = INTERRUPTS.load(Relaxed);
            let place = &QUEUE[number % 4];
            if place.load(Relaxed).is_null() {
                critical_section::with(|token| {
                    let mut cache = RECEIVE.borrow_ref_mut(token);
                    let packet = cache.as_mut().unwrap().alloc_fixed(CLASS).unwrap();
                    // SAFETY: the slot is fresh, and large enough.
                    unsafe { packet.cast().write(number) };
                    place.store(packet.as_ptr(), Relaxed);
                });
                count_interrupt();
            }
            timer::interrupt_after(some_ticks(), receive);
        }

        critical_section::with(|token| RECEIVE.replace(token, Some(POOL.local_cache())));
        let mut transmit = POOL.local_cache();
        timer::interrupt_after(100, receive);
        for number in 0..5000 {
            let place = &QUEUE[number % 4];
            let packet = loop {
                if let Some(packet) = NonNull::new(place.load(Relaxed)) {
                    break packet;
                }
            };
            // SAFETY: written by the handler, which has forgotten it.
            assert_eq!(unsafe { packet.cast::<usize>().read() }, number);
            place.store(ptr::null_mut(), Relaxed);
            // SAFETY: the slot is not used any more.
            unsafe { transmit.free_fixed(CLASS, packet) }.unwrap();
        }
        timer::cancel();
        for place in &QUEUE {
            NonNull::new(place.load(Relaxed)).into_iter().for_each(free);
        }
        critical_section::with(|token| RECEIVE.replace(token, None));
        drop(transmit);
        POOL.defragment();
        POOL.validate().unwrap();
        assert_eq!((POOL.stats().live_objects, POOL.stats().cached_objects), (0, 0));
    }
}
