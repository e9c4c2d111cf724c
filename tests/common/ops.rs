//! Random operations, and the session that applies them to a pool and its model at once.

use std::{alloc::Layout, ptr::NonNull};

use libmempool::{
    AllocError, ClassId, FreeError, PageSource, Pool, PoolFlags, PoolStats, ReallocError,
};
use lock_api::RawMutex;

use super::{
    Handle, Model, Rng, Setup, UsableSize, Way, check_shortage, invert, layout, model::Live, stamp,
    stray,
};

/// One step of a random run. Numbers are reduced to what there is when it is applied.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Alloc { via: u16, size: u16, align_log2: u16 },
    AllocZeroed { via: u16, size: u16 },
    AllocFixed { via: u16, class: u16 },
    AllocBulk { via: u16, class: u16, count: u16 },
    Free { via: u16, which: u16 },
    FreeFixed { via: u16, which: u16 },
    FreeBulk { via: u16, which: u16 },
    Realloc { via: u16, which: u16, size: u16 },
    DoubleFree { via: u16, which: u16 },
    FreeInterior { via: u16, which: u16, offset: u16 },
    FreeForeign { via: u16, offset: u16 },
    FreeWrongClass { via: u16, which: u16, class: u16 },
    FreeAnywhere { via: u16, way: u16, at: u16 },
    Overrun { via: u16, which: u16, way: u16 },
    Flush { via: u16 },
    Renew { via: u16 },
    Defragment,
    WarmUp,
    Reset,
}

impl Op {
    /// The operation that four random numbers stand for; all of them stand for one.
    pub fn decode([kind, via, a, b]: [u16; 4]) -> Self {
        match kind % 64 {
            0..14 => Self::Alloc { via, size: a, align_log2: b },
            14..16 => Self::AllocZeroed { via, size: a },
            16..26 => Self::AllocFixed { via, class: a },
            26..28 => Self::AllocBulk { via, class: a, count: b },
            28..42 => Self::Free { via, which: a },
            42..48 => Self::FreeFixed { via, which: a },
            48..50 => Self::FreeBulk { via, which: a },
            50..54 => Self::Realloc { via, which: a, size: b },
            54 => Self::Overrun { via, which: a, way: b },
            55 => Self::DoubleFree { via, which: a },
            56 => Self::FreeAnywhere { via, way: a, at: b },
            57 => Self::FreeInterior { via, which: a, offset: b },
            58 => Self::FreeForeign { via, offset: a },
            59 => Self::FreeWrongClass { via, which: a, class: b },
            60 => Self::Flush { via },
            61 => Self::Renew { via },
            62 if a % 4 == 0 => Self::WarmUp,
            62 => Self::Defragment,
            _ if a % 4 == 0 => Self::Reset,
            _ => Self::Free { via, which: a },
        }
    }

    /// As [`decode`](Self::decode), but that half of all operations are misuse.
    pub fn decode_misuse([kind, via, a, b]: [u16; 4]) -> Self {
        let kind = if kind % 2 == 0 { kind / 2 } else { 54 + kind / 2 % 6 };
        Self::decode([kind, via, a, b])
    }
}

/// Random operations, the same ones for the same seed.
pub fn seeded(seed: u64, count: usize) -> impl Iterator<Item = Op> {
    let mut rng = Rng::new(seed);
    std::iter::repeat_with(move || Op::decode(split(rng.next()))).take(count)
}

/// Four 16-bit parts of a word.
fn split(word: u64) -> [u16; 4] {
    let bytes = word.to_le_bytes();
    std::array::from_fn(|i| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]))
}

/// Large alignments are rare, as in life.
fn alignment(random: u16) -> usize {
    1 << if random.is_multiple_of(8) { random / 8 % 13 } else { random / 8 % 5 }
}

/// Local caches beside the pool itself.
const CACHES: usize = 3;

/// Applies operations to a pool and its model until everything has been freed, and checks that the
/// pool is then as it was in the beginning. Checks everything after each `check_every` steps, and at
/// each end.
pub fn run_ops<L: RawMutex, P: PageSource>(
    pool: &mut Pool<'_, L, P>,
    setup: &Setup,
    model: &mut Model,
    ops: impl IntoIterator<Item = Op>,
    check_every: usize,
) {
    pool.defragment();
    let start = pool.stats();
    let mut ops = ops.into_iter();
    while run_to_reset(pool, setup, model, &mut ops, check_every) {
        pool.reset().expect("a valid pool can be reset");
        model.clear();
        check_like_new(pool, model, &start);
    }
    check_like_new(pool, model, &start);
}

/// Runs up to the next reset (`true`) or to the end, where it frees everything.
fn run_to_reset<L: RawMutex, P: PageSource>(
    pool: &Pool<'_, L, P>,
    setup: &Setup,
    model: &mut Model,
    ops: &mut impl Iterator<Item = Op>,
    check_every: usize,
) -> bool {
    let mut session = Session::new(pool, setup, model);
    let reset = session.run(ops, check_every);
    if !reset {
        session.free_everything();
    }
    reset
}

/// Nothing is live or cached, and the heap is as it was in the beginning.
#[track_caller]
fn check_like_new<L: RawMutex, P: PageSource>(
    pool: &Pool<'_, L, P>,
    model: &Model,
    start: &PoolStats,
) {
    pool.defragment();
    assert!(model.is_empty());
    model.check_all(pool);
    let end = pool.stats();
    let mut expected = *start;
    expected.peak_bytes = end.peak_bytes;
    (expected.failures, expected.limit_hits) = (end.failures, end.limit_hits);
    expected.bad_frees = end.bad_frees;
    expected.guard_failures = end.guard_failures;
    assert_eq!(end, expected);
}

/// A pool with handles, and the model of what they do.
pub struct Session<'p, 'm, 'r, L: RawMutex, P: PageSource> {
    pool: &'p Pool<'r, L, P>,
    handles: Vec<Box<dyn Handle + 'p>>,
    pub model: &'m mut Model,
    flags: PoolFlags,
}

impl<'p, 'm, 'r, L: RawMutex, P: PageSource> Session<'p, 'm, 'r, L, P> {
    /// A session through the pool itself and a few local caches.
    pub fn new(pool: &'p Pool<'r, L, P>, setup: &Setup, model: &'m mut Model) -> Self {
        let caches = (0..CACHES).map(|_| Box::new(pool.local_cache()) as Box<dyn Handle>);
        let own: Box<dyn Handle> = Box::new(pool);
        Self {
            pool,
            handles: std::iter::once(own).chain(caches).collect(),
            model,
            flags: setup.flags,
        }
    }

    /// Uses one more handle besides.
    pub fn also(mut self, handle: impl Handle + 'p) -> Self {
        self.handles.push(Box::new(handle));
        self
    }

    /// One of the handles.
    pub fn via(&mut self, via: u16) -> &mut dyn Handle {
        let index = usize::from(via) % self.handles.len();
        &mut *self.handles[index]
    }

    /// Mostly small sizes, some as large as the pool, a few impossible.
    fn size(&self, random: u16) -> usize {
        let random = usize::from(random);
        let most = self.model.regions()[0].len();
        let log2 = usize::try_from(most.ilog2()).expect("at most 64");
        match random % 61 {
            0 => 0,
            1 => isize::MAX.unsigned_abs() - 4096,
            2..6 => most / 3 * (random / 61) / 1024,
            _ => {
                let step = 1 << (random / 61 % log2.saturating_sub(4).max(1));
                step + step * (random % 97) / 97
            }
        }
    }

    fn class(&self, random: u16) -> ClassId {
        // One more than there are: unknown classes are asked for too.
        let classes = self.pool.classes().count() + 1;
        ClassId::new(u8::try_from(usize::from(random) % classes).expect("at most 128"))
    }

    /// Runs up to the next reset (`true`) or to the end. Checks everything after each `check_every`
    /// steps, and at the end.
    pub fn run(&mut self, ops: &mut impl Iterator<Item = Op>, check_every: usize) -> bool {
        for (step, op) in (1_usize..).zip(ops) {
            if matches!(op, Op::Reset) {
                return true;
            }
            self.apply(op);
            if step.is_multiple_of(check_every) {
                self.model.check_all(self.pool);
            }
        }
        self.model.check_all(self.pool);
        false
    }

    pub fn apply(&mut self, op: Op) {
        match op {
            Op::Alloc { via, size, align_log2 } => self.alloc(via, size, align_log2, false),
            Op::AllocZeroed { via, size } => self.alloc(via, size, 0, true),
            Op::AllocFixed { via, class } => self.alloc_fixed(via, self.class(class)),
            Op::AllocBulk { via, class, count } => self.alloc_bulk(via, self.class(class), count),
            Op::Free { via, which } => self.free(via, which),
            Op::FreeFixed { via, which } => self.free_fixed(via, which),
            Op::FreeBulk { via, which } => self.free_bulk(via, which),
            Op::Realloc { via, which, size } => self.realloc(via, which, size),
            Op::DoubleFree { via, which } => self.double_free(via, which),
            Op::FreeInterior { via, which, offset } => self.free_interior(via, which, offset),
            Op::FreeForeign { via, offset } => self.free_foreign(via, offset),
            Op::FreeWrongClass { via, which, class } => self.free_wrong_class(via, which, class),
            Op::FreeAnywhere { via, way, at } => self.free_anywhere(via, way, at),
            Op::Overrun { via, which, way } => self.overrun(via, which, way),
            Op::Flush { via } => self.via(via).flush(),
            Op::Renew { via } => self.renew(via),
            Op::Defragment => {
                let before = self.pool.stats().free_bytes;
                let gained = self.pool.defragment();
                assert_eq!(self.pool.stats().free_bytes, before + gained);
            }
            Op::WarmUp => self.pool.warm_up().expect("nothing stands in the way of warming up"),
            Op::Reset => unreachable!("needs the pool for itself"),
        }
    }

    fn insert(&mut self, block: NonNull<u8>, wanted: Layout, fixed: Option<ClassId>) {
        let usable = self.pool.usable(block).expect("a fresh block is live");
        if self.flags.contains(PoolFlags::ZERO_ON_ALLOC) {
            stamp::verify_filled(block, usable, 0);
        }
        self.model.insert(block, wanted, usable, fixed);
    }

    fn alloc(&mut self, via: u16, size: u16, align: u16, zeroed: bool) {
        let wanted = layout(self.size(size), alignment(align));
        self.alloc_layout(via, wanted, zeroed);
    }

    /// Asks for a block of this layout.
    pub fn alloc_layout(&mut self, via: u16, wanted: Layout, zeroed: bool) {
        let handle = self.via(via);
        let result = if zeroed { handle.alloc_zeroed(wanted) } else { handle.alloc(wanted) };
        match result {
            Ok(block) => {
                if zeroed {
                    stamp::verify_filled(block, wanted.size(), 0);
                }
                self.insert(block, wanted, None);
            }
            Err(error) => self.check_refusal(error, wanted),
        }
    }

    /// A general request may fail for two reasons, and the pool must tell which honestly.
    fn check_refusal(&mut self, error: AllocError, wanted: Layout) {
        self.model.failures += 1;
        if error == AllocError::ZeroSize {
            assert_eq!(wanted.size(), 0);
            return;
        }
        let stats = self.pool.stats();
        check_shortage(error, wanted.size(), &stats);
        if let AllocError::Fragmented { largest_free, .. } = error {
            let plain = wanted.align() <= self.model.granule();
            assert!(!plain || largest_free < wanted.size(), "{error}, of {stats}");
        }
    }

    fn alloc_fixed(&mut self, via: u16, class: ClassId) {
        match self.via(via).alloc_fixed(class) {
            Ok(slot) => self.insert_slot(slot, class),
            Err(error) => self.check_class_refusal(error, class),
        }
    }

    fn insert_slot(&mut self, slot: NonNull<u8>, class: ClassId) {
        let stats = self.pool.class_stats(class).expect("it gave a slot");
        self.insert(slot, layout(stats.size, 1), Some(class));
    }

    fn check_class_refusal(&mut self, error: AllocError, class: ClassId) {
        let stats = self.pool.class_stats(class);
        let at_limit = matches!(error, AllocError::ClassLimit { .. });
        *(if at_limit { &mut self.model.limit_hits } else { &mut self.model.failures }) += 1;
        match (error, stats) {
            (AllocError::UnknownClass, None) => {}
            (AllocError::ClassLimit { class: named }, Some(stats)) => {
                assert_eq!(named, class);
                assert!(stats.live + stats.cached + usize::from(u8::MAX) >= stats.limit, "{stats}");
            }
            // What is needed is a slab. (The slots of a bulk are back since.)
            (AllocError::OutOfMemory { needed, free_bytes }, Some(stats)) => {
                assert!(needed >= stats.stride && needed > free_bytes, "{error}, of {stats}");
            }
            (AllocError::Reserved { needed, reserved }, Some(stats)) => {
                assert!(needed >= stats.stride && reserved > 0, "{error}, of {stats}");
            }
            (AllocError::Fragmented { free_bytes, largest_free }, Some(_)) => {
                assert!(largest_free <= free_bytes, "{error}");
            }
            (AllocError::TooLarge { most }, Some(_)) => {
                assert!(most < self.pool.stats().region_bytes, "{error}");
            }
            _ => panic!("{error} of {class}"),
        }
    }

    fn alloc_bulk(&mut self, via: u16, class: ClassId, count: u16) {
        let mut out = vec![NonNull::dangling(); usize::from(count % 40)];
        match self.via(via).alloc_bulk(class, &mut out) {
            Ok(()) => out.into_iter().for_each(|slot| self.insert_slot(slot, class)),
            Err(error) => self.check_class_refusal(error, class),
        }
    }

    fn free(&mut self, via: u16, which: u16) {
        let Some(block) = self.model.pick(usize::from(which)) else { return };
        block.verify();
        if which.is_multiple_of(2) {
            self.via(via).free(block.pointer).expect("a live block can be freed");
        } else {
            self.free_sized(via, &block);
        }
        self.model.remove(block.pointer);
    }

    /// Frees a block by its size, after an attempt with one that is too large.
    fn free_sized(&mut self, via: u16, block: &Live) {
        let (pointer, size) = (block.pointer, block.layout.size());
        let large = layout(block.usable + 1, 1);
        let error = self.via(via).free_sized(pointer, large).expect_err("it is smaller");
        self.model.bad_frees += 1;
        assert_eq!(error, FreeError::WrongSize { addr: pointer.addr().get(), size: block.usable });
        let freed = self.via(via).free_sized(pointer, block.layout);
        freed.unwrap_or_else(|error| panic!("{error}: a live block of {size} bytes"));
    }

    fn free_fixed(&mut self, via: u16, which: u16) {
        let Some(block) = self.model.pick(usize::from(which)) else { return };
        let Some(class) = block.fixed else { return self.free(via, which) };
        block.verify();
        self.via(via).free_fixed(class, block.pointer).expect("a live slot can be freed");
        self.model.remove(block.pointer);
    }

    /// Frees all slots of the class of one block, the last of them twice.
    fn free_bulk(&mut self, via: u16, which: u16) {
        let picked = self.model.pick(usize::from(which));
        let Some(class) = picked.and_then(|block| block.fixed) else { return };
        let of_class = self.model.live().filter(|block| block.fixed == Some(class));
        let of_class = of_class.take(50).inspect(|block| block.verify());
        let mut slots: Vec<_> = of_class.map(|block| block.pointer).collect();
        let count = slots.len();
        slots.push(slots[count - 1]);
        let error = self.via(via).free_bulk(class, &slots).expect_err("a double free");
        assert_eq!(error.freed, count);
        assert_not_live(error.error, slots[count]);
        self.model.bad_frees += 1;
        slots[..count].iter().for_each(|&slot| _ = self.model.remove(slot));
    }

    fn realloc(&mut self, via: u16, which: u16, size: u16) {
        let new_size = self.size(size);
        self.realloc_to(via, which, new_size);
    }

    /// Asks for this many bytes in the place of one of the live blocks.
    pub fn realloc_to(&mut self, via: u16, which: u16, new_size: usize) {
        let Some(block) = self.model.pick(usize::from(which)) else { return };
        block.verify();
        let result = self.via(via).realloc(block.pointer, block.layout, new_size);
        // A move that failed is counted, even where the block could stay in the end.
        let failures = self.pool.stats().failures;
        assert!(failures - self.model.failures <= 1);
        self.model.failures = failures;
        match result {
            Ok(moved) => self.take_moved(block, moved, new_size),
            Err(ReallocError::Alloc(error)) => {
                assert!(new_size != 0 || error == AllocError::ZeroSize);
                assert!(new_size == 0 || new_size > block.layout.size(), "{error} when shrinking");
                block.verify();
                assert_eq!(self.pool.usable(block.pointer), Ok(block.usable));
            }
            Err(error) => panic!("{error}: {block:?} to {new_size}"),
        }
    }

    fn take_moved(&mut self, block: Live, moved: NonNull<u8>, new_size: usize) {
        let kept = new_size.min(block.layout.size());
        block.at(moved, kept).verify();
        if self.flags.contains(PoolFlags::ZERO_ON_ALLOC) && new_size > block.usable {
            let grown = moved.map_addr(|addr| addr.checked_add(block.usable).expect("in memory"));
            stamp::verify_filled(grown, new_size - block.usable, 0);
        }
        self.model.remove(block.pointer);
        let usable = self.pool.usable(moved).expect("a moved block is live");
        let wanted = layout(new_size, block.layout.align());
        // A slot that was asked for by class may have moved to another class, or to the heap.
        self.model.insert(moved, wanted, usable, None);
    }

    /// Frees something that must be refused, which must change nothing but the count.
    #[track_caller]
    fn misuse(&mut self, free: impl FnOnce(&mut Self) -> Result<(), FreeError>) -> FreeError {
        let mut expected = self.pool.stats();
        let error = free(self).expect_err("misuse is refused");
        self.model.bad_frees += 1;
        expected.bad_frees += 1;
        assert_eq!(self.pool.stats(), expected);
        error
    }

    fn double_free(&mut self, via: u16, which: u16) {
        let Some(pointer) = self.model.pick_freed(usize::from(which)) else { return };
        let error = self.misuse(|session| session.via(via).free(pointer));
        assert_not_live(error, pointer);
    }

    fn free_interior(&mut self, via: u16, which: u16, offset: u16) {
        let Some(block) = self.model.pick(usize::from(which)) else { return };
        let offset = usize::from(offset) % block.usable;
        let interior = block.pointer.map_addr(|addr| addr.checked_add(offset).expect("in memory"));
        if offset == 0 {
            return;
        }
        let error = self.misuse(|session| session.via(via).free(interior));
        assert_not_live(error, interior);
    }

    fn free_foreign(&mut self, via: u16, offset: u16) {
        let region = &self.model.regions()[usize::from(offset) % self.model.regions().len()];
        let near = if offset.is_multiple_of(2) { region.start - 16 } else { region.end };
        if self.pool.contains(std::ptr::without_provenance(near)) {
            return; // regions may touch
        }
        let pointer = stray(near);
        let error = self.misuse(|session| session.via(via).free(pointer));
        assert_eq!(error, FreeError::Foreign { addr: near });
    }

    fn free_wrong_class(&mut self, via: u16, which: u16, class: u16) {
        let Some(block) = self.model.pick(usize::from(which)) else { return };
        let class = self.class(class);
        let actual = block.fixed;
        if actual == Some(class) || actual.is_none() && self.pool.class_stats(class).is_some() {
            return; // not wrong, or unknown to the model
        }
        let error = self.misuse(|session| session.via(via).free_fixed(class, block.pointer));
        assert!(matches!(error, FreeError::WrongClass { .. }), "{error}");
    }

    /// Frees an address in or beside a region, in any way, whatever lies there.
    fn free_anywhere(&mut self, via: u16, way: u16, at: u16) {
        let [way, class] = way.to_le_bytes();
        let regions = self.model.regions();
        let region = &regions[usize::from(class) % regions.len()];
        let offset = (usize::from(at) * (region.len() + 64)) >> 16;
        let addr = region.start - 32 + offset;
        if self.model.is_live(addr) {
            return;
        }
        let class = self.class(class.into());
        let way = Way::ALL[usize::from(way) % Way::ALL.len()];
        self.misuse(|session| way.free(session.via(via), class, stray(addr)));
    }

    /// Writes a byte past an object's end. No free and no check of the pool may let that pass, until
    /// the byte is what it was.
    fn overrun(&mut self, via: u16, which: u16, way: u16) {
        let Some(block) = self.model.pick(usize::from(which)) else { return };
        if !self.model.is_sealed() {
            return;
        }
        let class = block.fixed.unwrap_or_else(|| self.class(0));
        let ways = if block.fixed.is_some() { Way::ALL } else { &Way::ALL[..1] };
        let way = ways[usize::from(way) % ways.len()];
        // SAFETY: a canary or a seal stands behind the object.
        let end = unsafe { block.pointer.add(block.usable) };
        // SAFETY: as above.
        unsafe { invert(end) };
        self.pool.validate().expect_err("an overrun");
        let error = self.misuse(|session| way.free(session.via(via), class, block.pointer));
        assert!(matches!(error, FreeError::Overrun { .. }), "{error}");
        // SAFETY: as above.
        unsafe { invert(end) };
    }

    /// Drops a local cache and makes a new one.
    fn renew(&mut self, via: u16) {
        let index = 1 + usize::from(via) % CACHES;
        self.handles[index] = Box::new(self.pool.local_cache());
    }

    pub fn free_everything(&mut self) {
        for via in 0.. {
            let Some(_) = self.model.pick(0) else { break };
            self.free(via, via);
        }
        self.model.check_totals(self.pool);
    }
}

/// What is said of a pointer where nothing starts, or no more: the block there was freed, merged
/// with another, or somebody's data is there now. (One word of data in 65,536 passes for a tag,
/// and then for a damaged one.)
#[track_caller]
pub fn assert_not_live(error: FreeError, pointer: NonNull<u8>) {
    assert!(is_not_live(error, pointer), "{error}");
}

/// See [`assert_not_live`].
pub fn is_not_live(error: FreeError, pointer: NonNull<u8>) -> bool {
    let at = pointer.addr().get();
    match error {
        FreeError::NotLive { addr } | FreeError::NotABlock { addr } => addr == at,
        FreeError::Corrupted { addr } => addr == at - size_of::<usize>(),
        _ => false,
    }
}
