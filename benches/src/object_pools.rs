//! Crates that pool Rust objects.

use std::{
    alloc::Layout,
    hint::black_box,
    marker::PhantomData,
    ptr::NonNull,
    sync::Once,
    time::{Duration, Instant},
};

use heapless::pool::boxed::{Box as PoolBox, BoxBlock, BoxPool};
use lockfree_object_pool::LinearObjectPool;

use self::objects::{Heapless64, Heapless2048, Object};
use crate::{
    arena::{Arena, Needs},
    clock::{Latencies, Probe, Untimed},
    contender::Contender,
    job::{Block, Job, Work},
    trace::Op,
    worker::{Cost, Worker},
};

/// The macro makes its types public.
mod objects {
    use std::mem::MaybeUninit;

    use heapless::box_pool;

    #[repr(align(16))]
    pub struct Object<const N: usize>(MaybeUninit<[u8; N]>);

    impl<const N: usize> Object<N> {
        pub const fn new() -> Self {
            Self(MaybeUninit::uninit())
        }

        pub fn touch(&mut self) {
            // SAFETY: the object has room for a word, aligned to 16.
            unsafe { self.0.as_mut_ptr().cast::<usize>().write(1) };
        }
    }

    box_pool!(Heapless64: Object<64>);
    box_pool!(Heapless2048: Object<2048>);
}

/// Objects of each pool here.
const OBJECTS: usize = 1 << 14;

/// A pool of heapless, which is a static, called by its type.
struct Heapless<P>(PhantomData<fn() -> P>);

impl<P: BoxPool<Data = Object<N>> + 'static, const N: usize> Heapless<P> {
    /// The pool, with its objects from the first time on.
    fn arena(filled: &Once) -> Box<dyn Arena> {
        filled.call_once(|| {
            let blocks: Vec<_> = (0..OBJECTS).map(|_| BoxBlock::new()).collect();
            blocks.leak().iter_mut().for_each(P::manage);
        });
        Box::new(Self(PhantomData))
    }
}

impl<P: BoxPool<Data = Object<N>> + 'static, const N: usize> Arena for Heapless<P> {
    fn worker(&self) -> Box<dyn Worker + '_> {
        Box::new(Self(PhantomData))
    }
}

impl<P: BoxPool<Data = Object<N>>, const N: usize> Contender for Heapless<P> {
    #[inline(always)]
    fn alloc(&mut self, _: Layout) -> Option<NonNull<u8>> {
        NonNull::new(PoolBox::into_raw(P::alloc(Object::new()).ok()?).cast())
    }

    #[inline(always)]
    unsafe fn free(&mut self, block: NonNull<u8>, _: Layout) {
        // SAFETY: the caller's promise: it came from `into_raw`.
        drop(unsafe { PoolBox::<P>::from_raw(block.as_ptr().cast()) });
    }
}

/// heapless' lock-free pool.
pub fn heapless(needs: Needs) -> Option<Box<dyn Arena>> {
    static FILLED: [Once; 2] = [const { Once::new() }; 2];
    match needs.layout.size() {
        _ if needs.objects > OBJECTS => None,
        64 => Some(Heapless::<Heapless64>::arena(&FILLED[0])),
        2048 => Some(Heapless::<Heapless2048>::arena(&FILLED[1])),
        _ => None,
    }
}

/// A pool that hands out guards instead of blocks: only what keeps them where they are works.
struct Lockfree<const N: usize>(LinearObjectPool<Object<N>>);

impl<const N: usize> Lockfree<N> {
    fn arena() -> Box<dyn Arena> {
        Box::new(Self(LinearObjectPool::new(Object::new, |_| ())))
    }
}

impl<const N: usize> Arena for Lockfree<N> {
    fn worker(&self) -> Box<dyn Worker + '_> {
        Box::new(Guards(&self.0))
    }
}

struct Guards<'p, const N: usize>(&'p LinearObjectPool<Object<N>>);

impl<const N: usize> Guards<'_, N> {
    fn pairs(&self, rounds: u32, probe: &mut impl Probe) -> Cost {
        let start = Instant::now();
        for _ in 0..rounds {
            let guard = probe.time(|| black_box(self.0.pull()));
            probe.time(|| drop(guard));
        }
        Cost { total: start.elapsed(), parts: None }
    }

    fn burst(&self, job: &Job, rounds: u32, probe: &mut impl Probe) -> Cost {
        let mut table: Vec<_> = job.order.iter().map(|_| None).collect();
        let mut parts = [Duration::ZERO; 2];
        for _ in 0..rounds {
            let start = Instant::now();
            for slot in &mut table {
                let mut guard = probe.time(|| self.0.pull());
                guard.touch();
                *slot = Some(guard);
            }
            let full = Instant::now();
            for &index in &job.order {
                probe.time(|| table[index as usize] = None);
            }
            parts[0] += full - start;
            parts[1] += full.elapsed();
        }
        Cost { total: parts[0] + parts[1], parts: Some(parts) }
    }

    fn work(&self, job: &Job, rounds: u32, probe: &mut impl Probe) -> Option<Cost> {
        match job.work {
            Work::Pair => Some(self.pairs(rounds, probe)),
            Work::Burst => Some(self.burst(job, rounds, probe)),
            _ => None,
        }
    }
}

impl<const N: usize> Worker for Guards<'_, N> {
    fn run(&mut self, job: &mut Job, rounds: u32) -> Option<Cost> {
        self.work(job, rounds, &mut Untimed)
    }

    fn time_each(&mut self, job: &mut Job, rounds: u32, latencies: &mut Latencies) -> bool {
        self.work(job, rounds, latencies).is_some()
    }

    fn replay(&mut self, _: &[Op], _: &mut [Option<Block>], _: Option<&mut Latencies>) -> bool {
        false
    }

    fn finish(&mut self, _: &mut Job) {}

    fn contender(&mut self) -> Option<&mut dyn Contender> {
        None
    }
}

/// lockfree-object-pool's quickest pool.
pub fn lockfree(needs: Needs) -> Option<Box<dyn Arena>> {
    match needs.layout.size() {
        64 => Some(Lockfree::<64>::arena()),
        2048 => Some(Lockfree::<2048>::arena()),
        _ => None,
    }
}
