//! Depots: a class's stacks of full and empty magazines, behind the pool's lock.

use super::{class_cache::PAIR, magazine::Magazine};
use crate::{
    checksum::{Checksum, Summed},
    error::Corruption,
    slab::{Class, SlotRef},
    units::{to_u8, to_u32, to_usize},
};

/// Bytes of objects that a magazine should hold at most, about.
const MAGAZINE_BYTES: usize = 128 << 10;

/// Slots that a magazine holds, unless the class or the region is too small for it.
const MAGAZINE_SLOTS: usize = 128;

/// Objects that network drivers pass on at once: larger magazines hold whole bursts, so that those stay
/// together on their way from core to core.
const BURST: usize = 32;

/// The part of the regions that one magazine's objects may make up, about.
const REGION_SHARE: usize = 512;

/// The same for a magazine of few slots, as in small regions.
const FEW_SHARE: usize = 64;
const FEW_SLOTS: usize = 8;

/// Magazines of either kind that a depot keeps at least; what comes beyond goes back to the slabs and the
/// heap.
const MAGAZINES: usize = 16;

/// The part of the regions that the objects in them may make up, where that is more.
const DEPOT_SHARE: usize = 16;

/// Magazines that a cache may have of one class, if it needs them.
const ROW: usize = 32;

/// The part of the regions that the objects in them may make up.
const ROW_SHARE: usize = 32;

/// One class's magazines that no cache has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Depot {
    /// Slots per magazine; 0 turns caching off.
    capacity: u32,
    /// Magazines that a cache may have.
    row: u8,
    /// Full ones that it keeps, and empty ones.
    most: u32,
    full: Stack,
    empty: Stack,
    /// Slots in the full magazines.
    cached: usize,
}

#[derive(Clone, Copy, Debug)]
struct Stack {
    top: Option<Magazine>,
    count: u32,
}

impl Stack {
    const EMPTY: Self = Self { top: None, count: 0 };

    fn push(&mut self, magazine: Magazine) {
        magazine.lay_on(self.top);
        self.top = Some(magazine);
        self.count += 1;
    }

    /// Where the top one is damaged, it stays, and what is below it.
    fn pop(&mut self) -> Result<Option<Magazine>, Corruption> {
        let Some(magazine) = self.top else { return Ok(None) };
        self.top = magazine.verified()?.left_link();
        self.count -= 1;
        Ok(Some(magazine))
    }
}

impl Summed for Depot {
    fn add_to(&self, sum: Checksum) -> Checksum {
        let Self { capacity, row, most, full, empty, cached } = self;
        let sum = sum.add_pair(*capacity, u32::from(*row)).add_pair(full.count, empty.count);
        let top = |stack: &Stack| stack.top.map_or(0, |top| top.memory().addr());
        sum.add(top(full)).add(top(empty)).add(*cached).add_u32(*most)
    }
}

impl Depot {
    /// A depot whose magazines hold `slots` slots, or what suits the class and the regions.
    pub(crate) fn new(class: &Class, slots: Option<usize>, region_bytes: usize) -> Self {
        let size = class.shape.size;
        let by_limit = (to_usize(class.limit) / 8).max(1);
        let share = |part: usize| region_bytes / part / (size + size_of::<SlotRef>());
        let suited = share(REGION_SHARE).max(share(FEW_SHARE).min(FEW_SLOTS));
        let suited = suited.clamp(2, MAGAZINE_SLOTS);
        let suited = in_bursts(suited.min((MAGAZINE_BYTES / size).max(8)));
        let capacity = slots.unwrap_or(suited.min(by_limit)).min(MAX_CAPACITY);
        let row = match slots {
            // Whoever says how large they are says how much a cache holds.
            Some(_) => 0,
            None => (region_bytes / ROW_SHARE / size).min(by_limit) / capacity + 1,
        };
        // What is reserved for the class serves nobody else.
        let kept = to_usize(class.reserve).max(region_bytes / DEPOT_SHARE / size);
        let most = (kept / capacity.max(1)).max(MAGAZINES);
        Self {
            capacity: to_u32(capacity),
            row: to_u8(row.min(ROW)).max(PAIR),
            most: to_u32(most),
            full: Stack::EMPTY,
            empty: Stack::EMPTY,
            cached: 0,
        }
    }

    /// Slots per magazine.
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Magazines that a cache may have.
    pub(crate) fn row(&self) -> u8 {
        self.row
    }

    /// Slots in the full magazines.
    pub(crate) fn cached(&self) -> usize {
        self.cached
    }

    /// Keeps a magazine that holds slots; gives it back if there are enough.
    pub(crate) fn put_full(&mut self, magazine: Magazine) -> Result<(), Magazine> {
        if self.full.count >= self.most {
            return Err(magazine);
        }
        self.cached += magazine.len();
        self.full.push(magazine);
        Ok(())
    }

    /// A magazine with slots.
    pub(crate) fn take_full(&mut self) -> Result<Option<Magazine>, Corruption> {
        let full = self.full.pop()?;
        self.cached -= full.map_or(0, Magazine::len);
        Ok(full)
    }

    /// Keeps an empty magazine; gives it back if there are enough.
    pub(crate) fn put_empty(&mut self, magazine: Magazine) -> Result<(), Magazine> {
        debug_assert_eq!(magazine.len(), 0);
        if self.empty.count >= self.most {
            return Err(magazine);
        }
        self.empty.push(magazine);
        Ok(())
    }

    /// A magazine without slots.
    pub(crate) fn take_empty(&mut self) -> Result<Option<Magazine>, Corruption> {
        self.empty.pop()
    }

    /// Calls `check` with each of its magazines that are intact, for validation; it fails at the first that
    /// is not.
    pub(crate) fn try_for_each(
        &self,
        mut check: impl FnMut(Magazine) -> Result<(), Corruption>,
    ) -> Result<(), Corruption> {
        for stack in [self.full, self.empty] {
            let mut next = stack.top;
            while let Some(magazine) = next {
                check(magazine.verified()?)?;
                next = magazine.left_link();
            }
        }
        Ok(())
    }
}

/// About so many slots, in whole bursts if it is not much less than one.
fn in_bursts(slots: usize) -> usize {
    let bursts = (slots + BURST / 4) / BURST;
    if bursts == 0 { slots } else { bursts * BURST }
}

/// Most slots of a magazine, whatever the configuration asks for.
const MAX_CAPACITY: usize = 4096;
