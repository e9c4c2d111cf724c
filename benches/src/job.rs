//! Seeded work for one contender, and its blocks between turns.

use std::{alloc::Layout, ptr::NonNull};

use crate::rng::Rng;

/// Objects that are out at a time in a burst.
pub const BURST: usize = 1024;

/// Objects that go to another core in one batch.
pub const BATCH: usize = 32;

/// A block and what was asked for.
pub type Block = (NonNull<u8>, Layout);

/// What is done, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// One block allocated, and freed.
    Pair,
    /// [`BURST`] allocated one by one, then freed in random order.
    Burst,
    /// So many allocated by one call, and freed by one call.
    Bulk(usize),
    /// [`BURST`] allocated, 32 by each call, then freed in the same order.
    Fifo,
    /// A random one of so many live blocks freed, and another allocated in its place.
    Replace(usize),
    /// A request that fails, as all memory is taken.
    Exhausted,
}

impl Work {
    /// Operations of one round; an operation is a block allocated and freed, or a failure.
    pub fn operations(self) -> usize {
        match self {
            Self::Pair => 1,
            Self::Exhausted | Self::Replace(_) => 32,
            Self::Burst | Self::Fifo => BURST,
            Self::Bulk(n) => n,
        }
    }

    /// Blocks that are live at a time.
    pub fn live(self) -> usize {
        match self {
            Self::Replace(live) => live,
            other => other.operations(),
        }
    }
}

/// The sizes that work asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// Always the same.
    Fixed(Layout),
    /// Between these, evenly.
    Mixed(usize, usize),
}

impl Sizes {
    /// The only one, or the largest.
    pub fn largest(self) -> Layout {
        match self {
            Self::Fixed(layout) => layout,
            Self::Mixed(_, high) => layout_of(high),
        }
    }

    fn draw(self, rng: &mut Rng) -> Layout {
        match self {
            Self::Fixed(layout) => layout,
            Self::Mixed(low, high) => layout_of(rng.range(low, high + 1)),
        }
    }
}

/// As C's `malloc` aligns it.
fn layout_of(size: usize) -> Layout {
    Layout::from_size_align(size, 16).unwrap_or(Layout::new::<u128>())
}

/// Work for one contender. Everybody's is the same for the same seed.
#[derive(Clone, Debug)]
pub struct Job {
    /// What is done.
    pub work: Work,
    /// What a request asks for where all are equal.
    pub layout: Layout,
    /// A permutation of a burst.
    pub order: Vec<u32>,
    /// What is live between turns.
    pub live: Vec<Block>,
    /// Which live block is replaced, and by what; a power of two of them.
    picks: Vec<(u32, Layout)>,
    next: usize,
}

impl Job {
    /// Draws the work.
    pub fn new(work: Work, sizes: Sizes, seed: u64) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut order: Vec<u32> = (0..).take(BURST).collect();
        rng.shuffle(&mut order);
        let live = if let Work::Replace(live) = work { live } else { 1 };
        let pick = |_| (u32::try_from(rng.below(live)).unwrap_or(0), sizes.draw(&mut rng));
        let picks = (0..(live * 4).next_power_of_two().max(1 << 14)).map(pick).collect();
        Self { work, layout: sizes.largest(), order, live: Vec::new(), picks, next: 0 }
    }

    /// The next replacement.
    #[inline(always)]
    pub fn pick(&mut self) -> (usize, Layout) {
        let (index, layout) = self.picks[self.next & (self.picks.len() - 1)];
        self.next += 1;
        (index as usize, layout)
    }
}
