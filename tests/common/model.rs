//! The model: an interval map of what is live, which panics where a pool disagrees with it.

use std::{alloc::Layout, collections::BTreeMap, ops::Range, ptr::NonNull};

use libmempool::{ClassId, MapEntry, MapKind, PageSource, Pool, PoolFlags, PoolStats};
use lock_api::RawMutex;

use super::stamp;

/// A block in the test's hands.
#[derive(Clone, Copy, Debug)]
pub struct Live {
    pub pointer: NonNull<u8>,
    pub layout: Layout,
    /// What the pool says may be used.
    pub usable: usize,
    /// The class it was asked for by, if it was.
    pub fixed: Option<ClassId>,
    stamp: u64,
    /// Where it stands in the model's `order`.
    index: usize,
}

impl Live {
    fn end(&self) -> usize {
        self.pointer.addr().get() + self.usable
    }

    /// The first `size` bytes of it, moved elsewhere.
    pub fn at(self, pointer: NonNull<u8>, size: usize) -> Self {
        let layout = Layout::from_size_align(size, 1).expect("a smaller layout");
        Self { pointer, layout, ..self }
    }

    #[track_caller]
    pub fn verify(&self) {
        stamp::verify(self.pointer, self.layout.size(), self.stamp);
    }
}

/// Everything that is live, and what the pool must have counted.
#[derive(Debug)]
pub struct Model {
    regions: Vec<Range<usize>>,
    /// What the pool was told to align everything to.
    alignment: usize,
    live: BTreeMap<usize, Live>,
    /// The addresses of what is live, in any order, to pick from.
    order: Vec<usize>,
    /// What was freed last.
    freed: Vec<NonNull<u8>>,
    stamps: u64,
    live_bytes: usize,
    /// The pool's flags.
    pub flags: PoolFlags,
    pub failures: usize,
    pub limit_hits: usize,
    pub bad_frees: usize,
}

impl Model {
    pub fn new(regions: &[Range<usize>], alignment: usize) -> Self {
        Self {
            regions: regions.to_vec(),
            alignment,
            live: BTreeMap::new(),
            order: Vec::new(),
            freed: Vec::new(),
            stamps: 0,
            live_bytes: 0,
            flags: PoolFlags::empty(),
            failures: 0,
            limit_hits: 0,
            bad_frees: 0,
        }
    }

    /// Whether the pool keeps bytes of its own behind each object.
    pub fn is_sealed(&self) -> bool {
        self.flags.contains(PoolFlags::CANARY)
    }

    /// The granule: what the pool rounds sizes to.
    pub fn granule(&self) -> usize {
        self.alignment.max(2 * size_of::<usize>())
    }

    pub fn regions(&self) -> &[Range<usize>] {
        &self.regions
    }

    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    pub fn live(&self) -> impl Iterator<Item = &Live> {
        self.live.values()
    }

    /// One of the live blocks.
    pub fn pick(&self, which: usize) -> Option<Live> {
        let addr = self.order.get(which.checked_rem(self.order.len())?)?;
        Some(self.live[addr])
    }

    /// One of the pointers that were freed last, if nothing is live there now.
    pub fn pick_freed(&self, which: usize) -> Option<NonNull<u8>> {
        let pointer = *self.freed.get(which.checked_rem(self.freed.len())?)?;
        (!self.live.contains_key(&pointer.addr().get())).then_some(pointer)
    }

    /// Whether a block starts at this address.
    pub fn is_live(&self, addr: usize) -> bool {
        self.live.contains_key(&addr)
    }

    /// Takes a block in, checks where it lies, and stamps it.
    #[track_caller]
    pub fn insert(
        &mut self,
        pointer: NonNull<u8>,
        layout: Layout,
        usable: usize,
        fixed: Option<ClassId>,
    ) {
        self.stamps += 1;
        let index = self.order.len();
        let block = Live { pointer, layout, usable, fixed, stamp: self.stamps, index };
        self.check_place(&block);
        stamp::write(pointer, layout.size(), block.stamp);
        self.live_bytes += usable;
        self.order.push(pointer.addr().get());
        self.live.insert(pointer.addr().get(), block);
    }

    #[track_caller]
    fn check_place(&self, block: &Live) {
        let (start, end) = (block.pointer.addr().get(), block.end());
        assert!(block.usable >= block.layout.size(), "too small: {block:?}");
        let is_exact = block.usable == block.layout.size();
        assert!(!self.is_sealed() || is_exact, "an object ends where it was asked to: {block:?}");
        let align = block.layout.align().max(self.alignment);
        assert!(start.is_multiple_of(align), "misaligned for {align}: {block:?}");
        let inside = |region: &Range<usize>| region.start <= start && end <= region.end;
        assert!(self.regions.iter().any(inside), "out of region: {block:?}");
        let below = self.live.range(..=start).next_back();
        let above = self.live.range(start..).next();
        assert!(below.is_none_or(|(_, other)| other.end() <= start), "{block:?} on {below:?}");
        assert!(above.is_none_or(|(&other, _)| end <= other), "{block:?} on {above:?}");
    }

    /// Lets a block go, whose contents must still be there.
    #[track_caller]
    pub fn remove(&mut self, pointer: NonNull<u8>) -> Live {
        let block = self.live.remove(&pointer.addr().get()).expect("a live block");
        self.live_bytes -= block.usable;
        self.order.swap_remove(block.index);
        if let Some(last) = self.order.get(block.index) {
            self.live.get_mut(last).expect("what can be picked is live").index = block.index;
        }
        if self.freed.len() == 8 {
            self.freed.remove(0);
        }
        self.freed.push(pointer);
        block
    }

    /// Forgets everything, as a reset does.
    pub fn clear(&mut self) {
        self.freed = self.live.values().take(8).map(|block| block.pointer).collect();
        self.live.clear();
        self.order.clear();
        (self.live_bytes, self.failures, self.limit_hits, self.bad_frees) = (0, 0, 0, 0);
    }

    /// Compares what the pool says of its bytes with how many may be used.
    #[track_caller]
    fn check_bytes(&self, bytes: usize, usable: usize) {
        let has_own = self.flags.intersects(PoolFlags::CANARY | PoolFlags::GUARD);
        assert!(bytes == usable || has_own && bytes > usable, "{bytes} {usable}");
    }

    #[track_caller]
    pub fn verify_contents(&self) {
        self.live.values().for_each(Live::verify);
    }

    /// Compares the pool's totals with the model. O(classes).
    #[track_caller]
    pub fn check_totals<L: RawMutex, P: PageSource>(&self, pool: &Pool<'_, L, P>) {
        let stats = pool.stats();
        assert_eq!(stats.live_objects, self.live.len(), "{stats}");
        self.check_bytes(stats.live_bytes, self.live_bytes);
        assert_eq!((stats.failures, stats.limit_hits), (self.failures, self.limit_hits), "{stats}");
        assert_eq!(stats.bad_frees, self.bad_frees, "{stats}");
        assert_eq!(stats.region_bytes, self.regions.iter().map(ExactSizeIterator::len).sum());
        assert!(stats.peak_bytes >= stats.live_bytes + stats.cached_bytes, "{stats}");
        assert!(stats.largest_free <= stats.free_bytes, "{stats}");
        assert_eq!(stats.classes, pool.classes().count());
        self.check_classes(pool, &stats);
    }

    #[track_caller]
    fn check_classes<L: RawMutex, P: PageSource>(&self, pool: &Pool<'_, L, P>, stats: &PoolStats) {
        let (mut cached, mut cached_bytes) = (0, 0);
        for class in pool.classes() {
            let class = pool.class_stats(class).expect("a class of the pool");
            assert_eq!(class.live + class.cached + class.free, class.slots, "{class}");
            assert!(class.live + class.cached <= class.peak && class.peak <= class.limit);
            assert!(class.slots >= class.reserve, "{class}");
            assert!(class.size <= class.stride && class.stride.is_multiple_of(self.granule()));
            cached += class.cached;
            cached_bytes += class.cached * class.size;
        }
        assert_eq!((stats.cached_objects, stats.cached_bytes), (cached, cached_bytes));
    }

    /// Compares everything: the pool's own check, totals, contents, and the heap map block by
    /// block. O(blocks + slots).
    #[track_caller]
    pub fn check_all<L: RawMutex, P: PageSource>(&self, pool: &Pool<'_, L, P>) {
        pool.validate().expect("a pool that was used correctly is valid");
        self.check_totals(pool);
        self.verify_contents();
        let entries: Vec<MapEntry> = pool.map().collect();
        self.check_tiling(&entries);
        check_sums(&entries, &pool.stats(), if self.is_sealed() { 8 } else { 0 });
        self.check_owners(pool, entries);
    }

    /// The map's entries of each region are ascending, disjoint, inside, and leave out nothing but
    /// fences, pads, and the table of bins at the very front.
    #[track_caller]
    fn check_tiling(&self, entries: &[MapEntry]) {
        let gap = 2 * self.granule() + size_of::<usize>();
        let mut entries = entries.iter().peekable();
        for (index, region) in self.regions.iter().enumerate() {
            let mut end = region.start;
            while let Some(entry) = entries.next_if(|entry| region.contains(&entry.addr)) {
                assert!(entry.addr >= end, "{entry} overlaps what ends at {end:#x}");
                let front = index == 0 && end == region.start;
                assert!(front || entry.addr - end <= gap, "hole before {entry}");
                end = entry.addr + entry.size;
            }
            assert!(end > region.start && end <= region.end && region.end - end <= gap);
        }
        assert_eq!(entries.next(), None, "entries outside all regions, or out of order");
    }

    /// Every live block is exactly one of the map's live blocks, or lies in a slab whose class
    /// counts it; and the other way round.
    #[track_caller]
    fn check_owners<L: RawMutex, P: PageSource>(
        &self,
        pool: &Pool<'_, L, P>,
        mut entries: Vec<MapEntry>,
    ) {
        entries.sort_by_key(|entry| entry.addr);
        let (mut in_heap, mut in_class) = (0, BTreeMap::<ClassId, usize>::new());
        for (&addr, block) in &self.live {
            let entry = entries[entries.partition_point(|entry| entry.addr <= addr) - 1];
            match entry.kind {
                MapKind::Live => {
                    assert_eq!(entry.addr + size_of::<usize>(), addr, "{entry}");
                    self.check_bytes(entry.size - size_of::<usize>(), block.usable);
                    assert_eq!(block.fixed, None, "{entry}");
                    in_heap += 1;
                }
                MapKind::Slab { class, .. } => {
                    assert!(block.end() <= entry.addr + entry.size, "{block:?} leaves {entry}");
                    assert!(block.fixed.is_none_or(|fixed| fixed == class), "{entry}");
                    *in_class.entry(class).or_default() += 1;
                }
                _ => panic!("{block:?} lies in {entry}"),
            }
        }
        assert_eq!(in_heap, entries.iter().filter(|entry| entry.kind == MapKind::Live).count());
        for class in pool.classes() {
            let stats = pool.class_stats(class).expect("a class of the pool");
            assert_eq!(stats.live, in_class.get(&class).copied().unwrap_or(0), "{stats}");
        }
    }
}

/// The map's entries add up to the statistics.
#[track_caller]
fn check_sums(entries: &[MapEntry], stats: &PoolStats, overhead: usize) {
    let sum = |wanted: fn(&MapKind) -> bool| {
        let of_kind = entries.iter().filter(|entry| wanted(&entry.kind));
        of_kind.map(|entry| entry.size).sum::<usize>()
    };
    assert_eq!(sum(|kind| *kind == MapKind::Free), stats.free_bytes);
    assert_eq!(sum(|kind| *kind == MapKind::Metadata), stats.metadata_bytes);
    assert_eq!(sum(|kind| matches!(kind, MapKind::Slab { .. })), stats.slab_bytes);
    let free = entries.iter().filter(|entry| entry.kind == MapKind::Free);
    assert_eq!(free.clone().count(), stats.free_blocks);
    let room = free.map(|entry| entry.size - size_of::<usize>()).max().unwrap_or(0);
    let largest = room.saturating_sub(overhead);
    assert!(stats.largest_free <= largest);
    assert!(largest == 0 || stats.largest_free > largest - largest / 4, "{stats}");
}
