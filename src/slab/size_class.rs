//! Size classes: the shape of a class's slabs, and which class serves a size.

use core::cmp::Reverse;

use super::{
    slab::{Home, MAX_SLOTS, Slab, SlabList},
    slab_map::{PieceKind, Reciprocal},
};
use crate::{
    checksum::{Checked, Checksum, Summed},
    config::{ClassId, SizeClass, WatermarkFn},
    error::{ConfigError, Corruption},
    guard::Guards,
    units::{MIN_GRANULE, WORD, ceil_log2, floor_log2, round_up, to_u8, to_u32, to_usize},
};

/// Largest slab.
const MAX_SLAB: usize = 1 << 20;

/// Largest object of a class: two of them fill the largest slab.
pub(crate) const MAX_CLASS_SIZE: usize = MAX_SLAB / 2;

/// Slots that a slab should have at least, unless that makes it too large a part of the region.
const SLOTS_WANTED: usize = 8;

/// The largest part of a slab that may be left over behind its last slot, where there is a choice.
const WASTE_SHARE: usize = 64;

/// What adding a colour puts on a stride: two cache lines, so that neighbours which the prefetcher
/// pairs stay together.
const COLOUR: usize = 128;

/// What slabs are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlabCut {
    /// Bytes of a piece: slabs are multiples.
    pub(crate) piece: usize,
    /// Bytes that a slab should not exceed.
    pub(crate) share: usize,
    /// Bytes of the guard that slabs end with.
    pub(crate) guard: usize,
}

/// How one class cuts its slabs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlabShape {
    /// Usable bytes of a slot.
    pub(crate) size: usize,
    /// Bytes of a slot, with what the pool writes behind the usable ones.
    pub(crate) room: usize,
    /// Bytes from one slot to the next.
    pub(crate) stride: u32,
    /// Divides by the stride.
    pub(crate) reciprocal: Reciprocal,
    /// What every slot is aligned to, in bytes.
    pub(crate) align: usize,
    /// Pieces per slab.
    pub(crate) pieces: u32,
    /// Slots per slab.
    pub(crate) slots: u32,
    /// Bytes of the guard that a slab ends with.
    pub(crate) guard: usize,
}

impl SlabShape {
    /// The shape for objects as `class` describes with `overhead` bytes behind each, in such slabs.
    pub(crate) fn new(
        class: &SizeClass,
        overhead: usize,
        granule: usize,
        cut: SlabCut,
    ) -> Result<Self, ConfigError> {
        let bad = ConfigError::BadClassSize { size: class.size };
        let room = round_up(class.size + overhead, granule).ok_or(bad)?;
        let size = if overhead == 0 { room } else { class.size };
        let colour = if class.coloured { COLOUR.max(granule) } else { 0 };
        let stride = room + colour;
        let most = class.limit.min(to_usize(MAX_SLOTS));
        let (pieces, slots) = Self::best_fit(stride, most, cut);
        Ok(Self {
            size,
            room,
            stride: to_u32(stride),
            reciprocal: Reciprocal::of(to_u32(stride)),
            align: (1 << stride.trailing_zeros()).min(4096),
            pieces: to_u32(pieces),
            slots: to_u32(slots),
            guard: cut.guard,
        })
    }

    /// Pieces and slots of the smallest slab that has enough slots, `most_slots` at most, and little
    /// left over; failing that, of the one with the least left over.
    fn best_fit(stride: usize, most_slots: usize, cut: SlabCut) -> (usize, usize) {
        let SlabCut { piece, share, guard } = cut;
        let least = (stride + guard).max(Guards::least_slab(guard)).div_ceil(piece);
        let most = (share.min(MAX_SLAB) / piece).max(least);
        let room = |pieces: usize| pieces * piece - guard;
        let slots = |pieces: usize| (room(pieces) / stride).min(most_slots);
        let waste = |pieces: usize| room(pieces) - slots(pieces) * stride;
        let enough = SLOTS_WANTED.min(most_slots);
        let good = |pieces: &usize| {
            slots(*pieces) >= enough && waste(*pieces) * WASTE_SHARE <= pieces * piece
        };
        let pieces = (least..=most).find(good).unwrap_or_else(|| {
            let better = |&a: &usize, &b: &usize| (waste(a) * b).cmp(&(waste(b) * a));
            (least..=most).min_by(better).unwrap_or(least)
        });
        (pieces, slots(pieces))
    }

    fn add_to(&self, sum: Checksum) -> Checksum {
        let Self { size, room, stride, reciprocal, align, pieces, slots, guard } = self;
        let sum = reciprocal.add_to(sum.add(*size).add(*room).add(*align).add(*guard));
        sum.add_u32(*stride).add_u32(*pieces).add_u32(*slots)
    }

    /// Bytes of a slab.
    pub(crate) fn slab_bytes(&self, piece: usize) -> usize {
        to_usize(self.pieces) * piece
    }

    /// Bytes of a slab before its guard.
    pub(crate) fn unguarded_bytes(&self, piece: usize) -> usize {
        self.slab_bytes(piece) - self.guard
    }
}

/// A size class in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Class {
    pub(crate) shape: SlabShape,
    /// The class as it was declared.
    pub(crate) reserve: u32,
    pub(crate) limit: u32,
    pub(crate) watermark: Option<(u32, WatermarkFn)>,
    /// Slabs that have a free slot, except idle ones.
    pub(crate) partial: SlabList,
    /// Slabs that could go back to the heap.
    pub(crate) idle: SlabList,
    /// All slabs.
    pub(crate) slabs: u32,
    /// Slots that are not in their slab: cached or live. And the most there ever were.
    pub(crate) out: u32,
    pub(crate) peak: u32,
    /// Those of them that were found damaged.
    pub(crate) damaged: u32,
    /// Requests that could not be served.
    pub(crate) failures: u32,
    /// Requests that met the limit.
    pub(crate) limit_hits: u32,
    /// The class with the next larger size, or this one.
    pub(crate) next_larger: u8,
    /// Requests by size alone are not served from it.
    pub(crate) dedicated: bool,
    /// Fewer slots are left than its watermark.
    pub(crate) low: bool,
}

impl Summed for Class {
    fn add_to(&self, sum: Checksum) -> Checksum {
        let (mark, callback) = self.watermark.unzip();
        let sum = self.idle.add_to(self.partial.add_to(self.shape.add_to(sum)));
        let sum = sum.add(callback.map_or(0, |callback| (callback as *const ()).addr()));
        let numbers = [
            self.reserve,
            self.limit,
            mark.unwrap_or(0),
            self.slabs,
            self.out,
            self.peak,
            self.damaged,
            self.failures,
            self.limit_hits,
            u32::from_le_bytes([
                self.next_larger,
                u8::from(self.dedicated),
                u8::from(self.low),
                u8::from(mark.is_some()),
            ]),
        ];
        numbers.into_iter().fold(sum, Checksum::add_u32)
    }
}

impl Class {
    pub(crate) fn new(declared: &SizeClass, shape: SlabShape, number: u8) -> Self {
        let clamp = |slots: usize| to_u32(slots.min(to_usize(u32::MAX)));
        Self {
            shape,
            reserve: clamp(declared.reserve),
            limit: clamp(declared.limit),
            watermark: declared.watermark.map(|(slots, callback)| (clamp(slots), callback)),
            partial: SlabList::EMPTY,
            idle: SlabList::EMPTY,
            slabs: 0,
            out: 0,
            peak: 0,
            damaged: 0,
            failures: 0,
            limit_hits: 0,
            dedicated: declared.dedicated,
            low: false,
            next_larger: number,
        }
    }

    /// Checks what is written to when a slab gets into one of its lists.
    pub(crate) fn check_heads(&self) -> Result<(), Corruption> {
        let heads = [&self.partial, &self.idle].into_iter().filter_map(SlabList::first);
        heads.map(Slab::verified).try_for_each(|head| head.map(drop))
    }

    /// Checks what is written to when a slab moves from one of its lists to another.
    pub(crate) fn check_links(&self, slab: Slab) -> Result<(), Corruption> {
        self.check_heads()?;
        slab.check_neighbours()
    }

    /// The list that slabs of a home are in.
    pub(crate) fn list(&mut self, home: Home) -> Option<&mut SlabList> {
        match home {
            Home::Full => None,
            Home::Partial => Some(&mut self.partial),
            Home::Idle => Some(&mut self.idle),
        }
    }

    /// Slots it has in all.
    pub(crate) fn slots(&self) -> u32 {
        self.slabs * self.shape.slots
    }

    /// How many of the slots that are out are live, and how many cached, if so many were counted in caches.
    /// That can be too many: caches were used meanwhile.
    pub(crate) fn live_and_cached(&self, counted: usize) -> (usize, usize) {
        let out = to_usize(self.out.saturating_sub(self.damaged));
        let cached = counted.min(out);
        (out - cached, cached)
    }

    /// Slots in its slabs.
    pub(crate) fn free(&self) -> u32 {
        self.slots() - self.out
    }
}

/// What the sizes of all classes are multiples of, and the width of the first buckets: all sizes of
/// one of these have the same class.
const LINEAR_STEP: usize = MIN_GRANULE;
/// The largest size in them.
const LINEAR_MAX: usize = 64 * LINEAR_STEP;
const LINEAR_BUCKETS: usize = LINEAR_MAX / LINEAR_STEP + 1;
/// Larger ones have this many buckets (as `log2`) per power of two.
const COLUMN_SHIFT: usize = 3;
const BUCKETS: usize =
    LINEAR_BUCKETS + ((ceil_log2(MAX_CLASS_SIZE) - ceil_log2(LINEAR_MAX)) << COLUMN_SHIFT);

/// For each bucket of sizes, the smallest class that can hold the bucket's smallest size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SizeTable {
    classes: [PieceKind; BUCKETS],
    /// The same for the first buckets, unless the class would waste too much.
    serving: [PieceKind; LINEAR_BUCKETS],
}

/// A request without a class goes to the heap if the class would waste more than this part of it.
const REQUEST_WASTE_SHARE: usize = 4;

/// The smallest request without a class that a class of this size serves: less would waste too much.
pub(crate) fn least_request(class_size: usize) -> usize {
    if class_size <= 64 { 1 } else { class_size - class_size / REQUEST_WASTE_SHARE }
}

impl SizeTable {
    pub(crate) const fn empty() -> Self {
        Self { classes: [PieceKind::HEAP; BUCKETS], serving: [PieceKind::HEAP; LINEAR_BUCKETS] }
    }

    /// Adds it to a checksum.
    pub(crate) fn add_to(&self, sum: Checksum) -> Checksum {
        [&self.classes[..], &self.serving].into_iter().fold(sum, |sum, kinds| {
            // By words: this is read with every slow call.
            let (words, rest) = kinds.as_chunks::<WORD>();
            let word = |kinds: &[PieceKind]| {
                kinds.iter().rev().fold(0, |word, kind| word << 8 | usize::from(kind.0))
            };
            words.iter().fold(sum, |sum, kinds| sum.add(word(kinds))).add(word(rest))
        })
    }

    /// How many buckets there are.
    pub(crate) const BUCKETS: usize = BUCKETS;

    /// The bucket that a size falls into; of one that no class can have, a number beyond.
    #[inline(always)]
    pub(crate) fn bucket(size: usize) -> usize {
        if size <= LINEAR_MAX {
            return size.div_ceil(LINEAR_STEP);
        }
        Self::large_bucket(size)
    }

    #[inline(always)]
    fn large_bucket(size: usize) -> usize {
        /// Before the first bucket: the rows of smaller sizes, and the top bit of each column.
        const BEFORE: usize = (floor_log2(LINEAR_MAX) + 1) << COLUMN_SHIFT;
        let log = floor_log2(size - 1);
        let column = (size - 1) >> (log - COLUMN_SHIFT);
        LINEAR_BUCKETS + (log << COLUMN_SHIFT) + column - BEFORE
    }

    /// The smallest size that falls into a bucket.
    fn smallest_of(bucket: usize) -> usize {
        if bucket < LINEAR_BUCKETS {
            return (bucket * LINEAR_STEP).saturating_sub(LINEAR_STEP - 1);
        }
        let index = bucket - LINEAR_BUCKETS;
        let log = floor_log2(LINEAR_MAX) + (index >> COLUMN_SHIFT);
        let column = index & ((1 << COLUMN_SHIFT) - 1);
        (1 << log) + (column << (log - COLUMN_SHIFT)) + 1
    }

    /// The largest size that [`serving`](Self::serving) knows of.
    const SERVING_MAX: usize = LINEAR_MAX;

    /// Where a request of `size` bytes is served from; `None`: the size is larger than 1 KiB, or a
    /// quarter of that on 32-bit targets.
    #[inline(always)]
    pub(crate) fn serving(&self, size: usize) -> Option<PieceKind> {
        if size > Self::SERVING_MAX {
            return None;
        }
        // Not `div_ceil`, whose care for overflow costs four instructions.
        Some(self.serving[(size + (LINEAR_STEP - 1)) >> LINEAR_STEP.ilog2()])
    }

    /// Has [`serving`](Self::serving) send every request to the heap.
    pub(crate) fn forget_serving(&mut self) {
        self.serving = [PieceKind::HEAP; LINEAR_BUCKETS];
    }

    /// The smallest class that can hold `size` bytes; `look` tells a class's size and which one is the
    /// next larger. O(1): classes of one bucket.
    #[inline(always)]
    pub(crate) fn class_of(
        &self,
        size: usize,
        look: impl Fn(ClassId) -> Option<(usize, u8)>,
    ) -> Option<ClassId> {
        let mut id = self.start_for(size)?;
        loop {
            let (holds, next_larger) = look(id)?;
            if size <= holds {
                return Some(id);
            }
            if next_larger == id.0 {
                return None;
            }
            id = ClassId(next_larger);
        }
    }

    /// A class to start from for a size: it may be too small by part of a bucket, and then the
    /// next larger one is to be looked at.
    #[inline(always)]
    fn start_for(&self, size: usize) -> Option<ClassId> {
        self.classes.get(Self::bucket(size))?.as_class().map(ClassId)
    }

    /// As [`start_for`](Self::start_for), as a kind of piece, for sizes that [`serving`](Self::serving)
    /// does not know of.
    #[inline(always)]
    pub(crate) fn start_for_large(&self, size: usize) -> Option<PieceKind> {
        self.classes.get(Self::large_bucket(size)).copied()
    }

    /// Lets the class `number` of `classes` serve the sizes for which it is the smallest; of two
    /// equal ones the later serves: whoever added it wants its slots used. O(buckets).
    pub(crate) fn add(&mut self, classes: &mut [Checked<Class>], number: usize) {
        let size_of = |number: usize| Some(classes.get(number)?.get()?.shape.size);
        let Some(size) = size_of(number) else { return };
        let least = least_request(size);
        for bucket in 1..=Self::bucket(size) {
            let best = &mut self.classes[bucket];
            let current = best.as_class().and_then(|class| size_of(class.into()));
            if current.is_some_and(|current| size > current) {
                continue;
            }
            *best = PieceKind::class(to_u8(number));
            if let Some(serving) = self.serving.get_mut(bucket) {
                let suits = Self::smallest_of(bucket) >= least;
                *serving = if suits { *best } else { PieceKind::HEAP };
            }
        }
        link_by_size(classes, number);
    }
}

/// Sets which class is the next larger one, for a new class and for the one below it. Of equal ones
/// the last counts, which is the one that requests by size come to.
fn link_by_size(classes: &mut [Checked<Class>], number: usize) {
    let general = |number: usize| {
        let class = classes.get(number)?.get().filter(|class| !class.dedicated)?;
        Some((class.shape.size, number))
    };
    let Some((size, _)) = general(number) else { return };
    let others = (0..number).filter_map(general);
    let below = others.clone().filter(|other| other.0 < size).max();
    let above = others.filter(|other| other.0 > size).min_by_key(|&(size, i)| (size, Reverse(i)));
    let link = |class: &mut Checked<Class>, to| class.edit(|class| class.next_larger = to_u8(to));
    link(&mut classes[number], above.map_or(number, |(_, above)| above));
    if let Some((_, below)) = below {
        link(&mut classes[below], number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(piece: usize, share: usize) -> SlabCut {
        SlabCut { piece, share, guard: 0 }
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes")]
    fn buckets_ascend_and_know_their_smallest_size() {
        let mut previous = 0;
        for size in 1..=MAX_CLASS_SIZE {
            let bucket = SizeTable::bucket(size);
            assert!(bucket < BUCKETS, "{size}");
            if bucket != previous {
                assert_eq!(bucket, previous + 1);
                assert_eq!(SizeTable::smallest_of(bucket), size);
                previous = bucket;
            }
        }
        assert_eq!(previous, BUCKETS - 1);
    }

    #[test]
    fn a_class_that_is_not_there_serves_nothing() {
        let mut table = SizeTable::empty();
        table.add(&mut [], 0);
        link_by_size(&mut [], 0);
        assert!(table.classes.iter().all(|&kind| kind == PieceKind::HEAP));
    }

    #[test]
    fn slabs_waste_little_and_stay_within_their_share() {
        for size in (16..=9000).step_by(8) {
            let shape = SlabShape::new(&SizeClass::new(size), 0, 16, cut(65536, 1 << 20)).unwrap();
            let bytes = shape.slab_bytes(65536);
            let used = to_usize(shape.slots) * to_usize(shape.stride);
            assert!((bytes - used) * 64 <= bytes, "{size}: {used} of {bytes}");
            assert!(shape.slots <= MAX_SLOTS && bytes <= MAX_SLAB);
        }
    }

    #[test]
    fn slabs_have_no_more_slots_than_the_limit() {
        for (size, limit, bytes) in [(12_000, 1, 12_288), (1500, 16, 24_064), (64, 3, 512)] {
            let class = SizeClass::new(size).limit(limit);
            let shape = SlabShape::new(&class, 0, 16, cut(512, 64 << 10)).unwrap();
            assert_eq!(to_usize(shape.slots), limit);
            assert_eq!(shape.slab_bytes(512), bytes);
        }
    }

    #[test]
    fn coloured_slots_do_not_repeat_in_the_cache_sets() {
        let shape =
            SlabShape::new(&SizeClass::new(2048).coloured(), 0, 16, cut(65536, 1 << 20)).unwrap();
        assert_eq!(shape.stride, 2176);
        assert_eq!(shape.size, 2048);
    }
}
