//! The heap: splits, merges, resizes in place, and lends whole spans to slabs.
//!
//! A region's heap part is a row of blocks without gaps, ended by a fence:
//!
//! ```text
//! [block][block][free block][block]........[fence]
//! ```
//!
//! Two free blocks never lie side by side. A freed block may *rest* first: merged with nothing, it waits
//! for a request of just its size, until another's rest is worth more or a request finds no block. A
//! *span* is lent to a slab without any word of ours in it, so that its slots can fill it: the word
//! before the span is a slab fence, and behind it one granule is left out, so that the next tag stands
//! right before an aligned payload again. Spans that touch need neither:
//!
//! ```text
//! [block][slab fence]{ slab }{ slab }[pad, tag][block]
//! ```
//!
//! Every operation is O(1); the caller holds the pool's lock.

use super::{
    bins::{Bins, Listed},
    block::{Block, Tag, TagCodec},
    resting::Resting,
    shape::{RestShape, Shape},
};
use crate::{
    asan,
    error::{ConfigError, Corruption, CorruptionKind, FreeError},
    harden::Harden,
    region::Region,
    units::{Granule, WORD, round_down, round_up},
};

/// What the heap counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeapCounters {
    /// Blocks in callers' hands.
    pub(crate) live_objects: usize,
    /// Their usable bytes.
    pub(crate) live_bytes: usize,
    /// Bytes of the pool's own tables, tags included.
    pub(crate) internal_bytes: usize,
    /// Bytes lent to slabs.
    pub(crate) span_bytes: usize,
    /// Bytes of free blocks and of those that rest, tags included.
    pub(crate) free_bytes: usize,
    /// Free blocks, without those that rest.
    pub(crate) free_blocks: usize,
}

/// Who a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A caller, who may free it by its pointer.
    Caller,
    /// The pool itself; callers cannot free it.
    Pool,
}

/// A span that slabs may use: `len` bytes at `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: *mut u8,
    pub(crate) len: usize,
}

/// The free blocks of all regions, and the operations on blocks.
#[derive(Debug)]
pub(crate) struct Heap {
    granule: Granule,
    /// The smallest block: a tag, two links and a footer, or a granule.
    min_block: usize,
    codec: TagCodec,
    bins: Bins,
    resting: Resting,
    /// Counters as in [`HeapCounters`]. These two are written with every call: they do not lie side by
    /// side, lest compilers read both as one vector right after they have been written singly, for which
    /// processors have to wait.
    live_bytes: usize,
    internal_bytes: usize,
    span_bytes: usize,
    live_objects: usize,
    free_blocks: usize,
    /// Bytes between the first tags and the end fences of all regions.
    total_bytes: usize,
    /// Bytes of slab fences and of what is left out behind spans; for a while it may be negative.
    fence_bytes: usize,
    /// Frees that found no place to rest in.
    crowded: u32,
    /// Freed blocks that were found damaged, and are left alone.
    damaged: usize,
    /// The last of them, until it is reported.
    found: Option<Corruption>,
    /// With poison, all free memory is filled, but for the words that tags, links and footers are or
    /// were in.
    harden: Harden,
}

/// A tag, two links and a footer.
const MIN_BLOCK: usize = 4 * WORD;

/// Whether the memory of a block that becomes free is still to be filled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fill {
    AsFlagsSay,
    IsFilled,
}

/// One in so many frees that find no place ends the rest of another block, so that sizes which are not
/// asked for any more make way for others.
const CROWDED_TURN: u32 = 4;

/// What a block that is about to be used will be cut into.
#[derive(Clone, Copy)]
struct Cut {
    /// Bytes that stay free in front.
    gap: usize,
    /// Bytes of the block, tag included.
    need: usize,
}

impl Heap {
    /// A heap without memory, which can serve nothing.
    pub(crate) const fn empty() -> Self {
        Self {
            granule: Granule::new(1),
            min_block: MIN_BLOCK,
            codec: TagCodec::new(0, usize::MAX >> 1),
            bins: Bins::empty(),
            resting: Resting::empty(),
            live_bytes: 0,
            internal_bytes: 0,
            span_bytes: 0,
            live_objects: 0,
            free_blocks: 0,
            total_bytes: 0,
            fence_bytes: 0,
            crowded: 0,
            damaged: 0,
            found: None,
            harden: Harden::NONE,
        }
    }

    /// A heap whose tables lie at the start of its first region. Returns the address of its first tag too.
    pub(crate) fn new(
        region: Region,
        granule: Granule,
        key: usize,
        harden: Harden,
    ) -> Result<(Self, usize), ConfigError> {
        let too_small = ConfigError::RegionTooSmall { bytes: region.len() };
        let shape = Shape::new(granule, region.len().max(1));
        let rest_shape = RestShape::new(granule, region.len());
        let table = round_up(region.start(), WORD).ok_or(too_small)?;
        let places = table.checked_add(Bins::table_bytes(&shape)).ok_or(too_small)?;
        let front = places.checked_add(rest_shape.table_bytes()).ok_or(too_small)?;
        if front > region.end() {
            return Err(too_small);
        }
        let min_block = granule.bytes().max(MIN_BLOCK);
        let codec = TagCodec::new(key, region.len());
        let mut heap = Self { granule, min_block, codec, harden, ..Self::empty() };
        #[allow(unsafe_code)]
        // here and below: the one place where the heap makes memory its tables
        // SAFETY: aligned above, within the region, which is ours.
        let bins = unsafe { Bins::new(shape, region.at(table)) };
        #[allow(unsafe_code)]
        // SAFETY: as above, behind the bins.
        let resting = unsafe { Resting::new(rest_shape, region.at(places)) };
        (heap.bins, heap.resting) = (bins, resting);
        heap.add_region(region, front)?;
        let first_tag = heap.first_tag(front).ok_or(too_small)?;
        Ok((heap, first_tag))
    }

    /// Makes the part of a region from `front` on one free block with a fence behind it.
    pub(crate) fn add_region(&mut self, region: Region, front: usize) -> Result<(), ConfigError> {
        let too_small = ConfigError::RegionTooSmall { bytes: region.len() };
        if !self.codec.can_tag(region.len()) {
            return Err(ConfigError::RegionTooLarge { bytes: region.len() });
        }
        let first = self.first_tag(front).ok_or(too_small)?;
        let Some(room) = region.end().checked_sub(first + WORD) else { return Err(too_small) };
        let size = round_down(room, self.granule.bytes());
        if size < self.min_block() {
            return Err(too_small);
        }
        let block = Block::at(region.at(first));
        if self.harden.poisons() {
            block.poison(1..size / WORD);
        }
        self.total_bytes += size;
        asan::shut(region.at(front), region.end() - front);
        block.above(size).set_tag(self.codec, Tag::end_fence());
        self.bins.widen(region.start()..region.end());
        self.put_free(block, size, block.above(size), Tag::end_fence());
        self.limit_rest();
        Ok(())
    }

    /// Address of the first tag at or behind `front` that has an aligned payload.
    pub(crate) fn first_tag(&self, front: usize) -> Option<usize> {
        Some(round_up(front.checked_add(WORD)?, self.granule.bytes())? - WORD)
    }

    /// The granule that sizes are rounded to.
    #[inline]
    pub(crate) fn granule(&self) -> Granule {
        self.granule
    }

    /// The codec of this heap's tags.
    pub(crate) fn codec(&self) -> TagCodec {
        self.codec
    }

    /// The smallest block.
    #[inline]
    pub(crate) fn min_block(&self) -> usize {
        self.min_block
    }

    /// What the heap counted.
    pub(crate) fn counters(&self) -> HeapCounters {
        let &Self { live_objects, live_bytes, internal_bytes, span_bytes, free_blocks, .. } = self;
        HeapCounters {
            live_objects,
            live_bytes,
            internal_bytes,
            span_bytes,
            free_bytes: self.free_bytes(),
            free_blocks,
        }
    }

    /// Bytes of free blocks and of those that rest, tags included.
    fn free_bytes(&self) -> usize {
        let &Self { live_objects, live_bytes, internal_bytes, span_bytes, .. } = self;
        let used = live_bytes + live_objects * WORD + internal_bytes + span_bytes;
        self.total_bytes.wrapping_sub(used).wrapping_sub(self.fence_bytes)
    }

    /// How much may rest depends on how much is free: to be called when less is.
    fn limit_rest(&mut self) {
        let free = self.free_bytes().saturating_sub(self.resting.bytes());
        self.resting.limit_by(free, self.total_bytes);
    }

    /// Usable bytes in callers' hands.
    #[inline]
    pub(crate) fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// Usable bytes of the largest free block.
    pub(crate) fn largest_free(&self) -> usize {
        self.bins.largest(self.codec).saturating_sub(WORD)
    }

    /// Bytes that a block needs for `size` usable ones; `None` on overflow.
    #[inline]
    pub(crate) fn block_size(&self, size: usize) -> Option<usize> {
        // Far more than there is, and far from overflow.
        if size > usize::MAX / 4 {
            return None;
        }
        let granule = self.granule.bytes();
        Some(((size + WORD + granule - 1) & !(granule - 1)).max(self.min_block()))
    }

    /// Allocates `size` bytes aligned to `align`, a power of two. `None`: no block is large
    /// enough.
    pub(crate) fn alloc(
        &mut self,
        size: usize,
        align: usize,
        owner: Owner,
    ) -> Result<Option<*mut u8>, Corruption> {
        let Some(need) = self.block_size(size) else { return Ok(None) };
        match self.alloc_rested(need, align, owner) {
            None => self.alloc_free(need, align, owner),
            rested => Ok(rested),
        }
    }

    /// The first half of [`alloc`](Self::alloc): takes the last block that rests of those of `need` bytes,
    /// if it happens to be aligned.
    #[inline(always)]
    pub(crate) fn alloc_rested(
        &mut self,
        need: usize,
        align: usize,
        owner: Owner,
    ) -> Option<*mut u8> {
        let block = self.resting.last(need)?;
        let Some(tag) = self.resting_tag_of(block, need) else {
            self.drop_last(need);
            return None;
        };
        if block.payload().addr() & (align - 1) != 0 {
            return None;
        }
        self.resting.rouse_last(need);
        block.set_tag(self.codec, tag.roused().with_internal(owner == Owner::Pool));
        Some(self.hand_out(block, need, owner))
    }

    /// The second half: cuts a free block.
    pub(crate) fn alloc_free(
        &mut self,
        need: usize,
        align: usize,
        owner: Owner,
    ) -> Result<Option<*mut u8>, Corruption> {
        if align > self.granule.bytes() {
            return self.alloc_aligned(need, align, owner);
        }
        let Some(free) = self.bins.find(need, self.codec)? else { return Ok(None) };
        self.take(free, Cut { gap: 0, need }, owner).map(Some)
    }

    /// The tag of a block that rests, verified.
    #[inline]
    pub(crate) fn resting_tag(&self, block: Block) -> Result<Tag, Corruption> {
        let broken = Corruption { addr: block.addr(), kind: CorruptionKind::BlockTag };
        if !self.bins.may_be_block(block) {
            return Err(broken);
        }
        block.tag(self.codec).filter(|tag| tag.is_resting()).ok_or(broken)
    }

    /// As [`resting_tag`](Self::resting_tag), of a block of a known size.
    #[inline(always)]
    fn resting_tag_of(&self, block: Block, size: usize) -> Option<Tag> {
        if !self.bins.may_be_block(block) {
            return None;
        }
        block.tag_if(self.codec, |prev_free| Tag::resting(size).with_prev_free(prev_free))
    }

    /// Leaves the last block that rests of those of a size alone for good: its tag is damaged, or its place.
    #[cold]
    #[inline(never)]
    fn drop_last(&mut self, size: usize) {
        let Some(block) = self.resting.last(size) else { return };
        // If its tag is all right, its place is not.
        let actual = self.resting_tag(block).map_or(size, Tag::size);
        self.resting.drop_last(size, actual);
        self.damaged += 1;
        self.found = Some(Corruption { addr: block.addr(), kind: CorruptionKind::BlockTag });
    }

    /// Whether damage was come by that has not been reported.
    #[inline]
    pub(crate) fn has_found(&self) -> bool {
        self.found.is_some()
    }

    /// That damage, once.
    pub(crate) fn take_found(&mut self) -> Option<Corruption> {
        self.found.take()
    }

    fn alloc_aligned(
        &mut self,
        need: usize,
        align: usize,
        owner: Owner,
    ) -> Result<Option<*mut u8>, Corruption> {
        let min_block = self.min_block();
        // No overflow: blocks are far smaller than half of all addresses, alignments at most that.
        let enough = need + align + min_block;
        let fit = |block: Block, tag: Tag| {
            tag.size().checked_sub(need)?.checked_sub(aligning_gap(block, align, min_block)?)
        };
        let found = self.bins.find_where(need, enough, self.codec, fit)?;
        let Some(free) = found else { return Ok(None) };
        let Some(gap) = aligning_gap(free.block, align, min_block) else { return Ok(None) };
        self.take(free, Cut { gap, need }, owner).map(Some)
    }

    /// Cuts a used block out of a free one.
    ///
    /// ```text
    /// [ free block                        ]
    /// [ gap, free ][ used ][ rest, free ]
    /// ```
    #[inline(always)]
    fn take(&mut self, free: Listed, cut: Cut, owner: Owner) -> Result<*mut u8, Corruption> {
        let Listed { block, tag, .. } = free;
        let used = block.above(cut.gap);
        let room = tag.size() - cut.gap;
        let splits = room - cut.need >= self.min_block();
        let size = if splits { cut.need } else { room };
        let used_tag = Tag::used(size).with_internal(owner == Owner::Pool);
        if splits && cut.gap == 0 {
            // The usual case: what is above the block does not change.
            self.bins.replace(free, used.above(size), room - size);
            self.write_free(used.above(size), room - size);
            used.set_tag(self.codec, used_tag);
            self.forget_links(block);
        } else {
            let (above, above_tag) = self.above(block, tag)?;
            self.take_free(free);
            self.forget_links(block);
            used.set_tag(self.codec, used_tag);
            if cut.gap > 0 {
                self.put_free(block, cut.gap, used, used_tag);
            }
            self.close(used, size, room, above, above_tag);
            if !splits {
                self.forget_footer(above);
            }
        }
        let payload = self.hand_out(used, size, owner);
        self.limit_rest();
        Ok(payload)
    }

    /// Frees a caller's live block that may rest: `false` if there is no place for it, and nothing has
    /// changed.
    #[inline(always)]
    pub(crate) fn lay_to_rest(&mut self, block: Block, tag: Tag) -> Result<bool, Corruption> {
        let has_place = self.resting.has_place(tag.size());
        self.lay_to_rest_if(has_place, block, tag)
    }

    /// As [`lay_to_rest`](Self::lay_to_rest), in the stead of a block that [made way](Self::make_way).
    pub(crate) fn rest_instead(&mut self, block: Block, tag: Tag) -> Result<bool, Corruption> {
        let has_place = self.resting.has_place_instead(tag.size());
        self.lay_to_rest_if(has_place, block, tag)
    }

    #[inline(always)]
    fn lay_to_rest_if(
        &mut self,
        has_place: bool,
        block: Block,
        tag: Tag,
    ) -> Result<bool, Corruption> {
        let Some(stack) = self.resting.stack_of(tag.size()).filter(|_| has_place) else {
            return Ok(false);
        };
        self.free_to_wait(block, tag, tag.size() - WORD)?;
        self.resting.rest(stack, block, tag.size());
        Ok(true)
    }

    /// Frees a live block, which is merged with free neighbours.
    pub(crate) fn free(
        &mut self,
        block: Block,
        tag: Tag,
        region: &Region,
        owner: Owner,
    ) -> Result<(), Corruption> {
        self.merge(block, tag, region, Fill::AsFlagsSay)?;
        self.count_out(tag.size(), owner);
        Ok(())
    }

    /// Frees a caller's block, live and with this much room, that waits in nobody's bin: it rests until it
    /// is [settled](Self::settle).
    #[inline(always)]
    pub(crate) fn free_to_wait(
        &mut self,
        block: Block,
        tag: Tag,
        room: usize,
    ) -> Result<(), Corruption> {
        self.above(block, tag)?;
        self.fill_free(block, room);
        block.set_tag(self.codec, tag.rested());
        self.count_out(tag.size(), Owner::Caller);
        Ok(())
    }

    /// Keeps a block that rests for good, because it was found damaged.
    pub(crate) fn retire_resting(&mut self, block: Block) {
        self.damaged += 1;
        if let Ok(tag) = self.resting_tag(block) {
            self.count_in(tag.size(), Owner::Pool);
            block.set_tag(self.codec, tag.roused().with_internal(true));
        }
    }

    /// Cuts a block of the pool's own in two; the upper one begins with the tag in front of `payload`, and
    /// is `owner`'s. Both are blocks' sizes.
    pub(crate) fn split_own(&mut self, lower: Block, tag: Tag, payload: *mut u8, owner: Owner) {
        let upper = Block::of_payload(payload);
        let below = upper.addr() - lower.addr();
        let size = tag.size() - below;
        if owner == Owner::Caller {
            asan::shut(lower.payload(), tag.size() - WORD);
        }
        upper.set_tag(self.codec, Tag::used(size).with_internal(owner == Owner::Pool));
        lower.set_tag(self.codec, tag.with_size(below));
        self.count_out(size, Owner::Pool);
        self.count_in(size, owner);
    }

    /// Fills the room of a block that becomes free as the flags say.
    #[inline]
    fn fill_free(&self, block: Block, room: usize) {
        if !self.harden.treats_free() {
            return;
        }
        #[allow(unsafe_code)]
        // SAFETY: the block was live, has that much room, and is given up.
        unsafe {
            self.harden.fill_free(block.payload(), room, room);
        }
    }

    /// Ends the rest of a block whose turn it is, if one of `size` bytes, which found no place, can
    /// [rest in its stead](Self::rest_instead), or far too much rests; the caller is to
    /// [`settle`](Self::settle) it. Only with every so manyth call: usually merging one block is enough.
    pub(crate) fn make_way(&mut self, size: usize) -> Option<Block> {
        self.resting.stack_of(size)?;
        self.crowded = self.crowded.wrapping_add(1);
        if !self.crowded.is_multiple_of(CROWDED_TURN) {
            return None;
        }
        let old = self.resting.next_in_turn()?;
        let old_size = self.resting_tag(old).ok()?.size();
        if self.resting.should_end(old_size, size) { self.rouse(old_size) } else { None }
    }

    /// The size of the largest blocks below `size` bytes that rest. O(sizes that may rest).
    pub(crate) fn largest_resting_below(&self, size: usize) -> Option<usize> {
        self.resting.largest_below(size)
    }

    /// Ends the rest of the last block of a size, if there is one; the caller is to
    /// [`settle`](Self::settle) it.
    pub(crate) fn rouse(&mut self, size: usize) -> Option<Block> {
        // A damaged table may have no end.
        for _ in 0..self.resting.places() {
            let block = self.resting.last(size)?;
            if self.resting_tag_of(block, size).is_some() {
                self.resting.rouse_last(size);
                return Some(block);
            }
            self.drop_last(size);
        }
        None
    }

    /// The block above a live one, if it rests; its rest ends, and the caller is to
    /// [`settle`](Self::settle) it.
    pub(crate) fn rouse_above(&mut self, payload: *mut u8, region: &Region) -> Option<Block> {
        let (block, tag) = self.live(payload, region, Owner::Caller).ok()?;
        let (above, above_tag) = self.above(block, tag).ok()?;
        if !above_tag.is_resting() {
            return None;
        }
        self.resting.rouse_block(above, above_tag.size()).then_some(above)
    }

    /// Merges a block whose rest has ended with its free neighbours. If they are damaged, it stays as it
    /// is, for good: `validate` names them.
    pub(crate) fn settle(&mut self, block: Block, region: &Region) {
        let tag = self.resting_tag(block);
        let merged = tag.and_then(|tag| self.merge(block, tag, region, Fill::IsFilled));
        if merged.is_err() {
            self.damaged += 1;
        }
    }

    /// Freed blocks that were found damaged.
    pub(crate) fn damaged(&self) -> usize {
        self.damaged
    }

    /// The live block at `payload` that belongs to `owner`.
    #[inline]
    pub(crate) fn live(
        &self,
        payload: *mut u8,
        region: &Region,
        owner: Owner,
    ) -> Result<(Block, Tag), FreeError> {
        let addr = payload.addr();
        let not_a_block = FreeError::NotABlock { addr };
        if addr & (self.granule.bytes() - 1) != 0 || addr < region.start() + WORD {
            return Err(not_a_block);
        }
        let block = Block::of_payload(payload);
        let tag = block.tag(self.codec).ok_or(not_a_block)?;
        if !tag.is_used() {
            return Err(FreeError::NotLive { addr });
        }
        if tag.is_fence() || tag.is_internal() != (owner == Owner::Pool) {
            return Err(not_a_block);
        }
        if tag.size() > region.end() - block.addr() - WORD {
            return Err(FreeError::Corrupted { addr: block.addr() });
        }
        Ok((block, tag))
    }

    /// Makes a block free.
    ///
    /// ```text
    /// [prev, free?][ this ][next, free?]   ->   [ free                  ]
    /// ```
    #[inline(never)]
    fn merge(
        &mut self,
        block: Block,
        tag: Tag,
        region: &Region,
        fill: Fill,
    ) -> Result<(), Corruption> {
        let (above, above_tag) = self.above(block, tag)?;
        let next = above_tag.is_free().then(|| self.bins.listed(above, above_tag)).transpose()?;
        let prev = tag.prev_is_free().then(|| self.free_below(block, region)).transpose()?;
        // From here on nothing can fail.
        if fill == Fill::AsFlagsSay {
            self.fill_free(block, tag.size() - WORD);
        }
        // The tag is rewritten even if the block below swallows it, so that a second free of this pointer
        // finds a block that is not live.
        block.set_tag(self.codec, Tag::free(tag.size()).with_prev_free(tag.prev_is_free()));
        let start = prev.map_or(block, |prev| prev.block);
        let end = next.map_or(above, |next| above.above(next.tag.size()));
        let size = end.addr() - start.addr();
        match (prev, next) {
            (None, None) => self.list_free(start, size),
            (None, Some(old)) | (Some(old), None) => self.bins.replace(old, start, size),
            (Some(prev), Some(next)) => {
                self.take_free(next);
                self.bins.replace(prev, start, size);
            }
        }
        self.write_free(start, size);
        if next.is_none() {
            above.set_tag(self.codec, above_tag.with_prev_free(true));
        }
        if prev.is_some() {
            self.forget_footer(block);
        }
        if let Some(next) = next {
            self.forget_links(next.block);
        }
        Ok(())
    }

    /// Poisons the links of what is not a free block of its own any more.
    #[inline]
    fn forget_links(&self, block: Block) {
        if self.harden.poisons() {
            block.poison(1..3);
        }
    }

    /// Poisons the footer of what was a free block below this one.
    #[inline]
    fn forget_footer(&self, above: Block) {
        if self.harden.poisons() {
            above.below(WORD).poison(0..1);
        }
    }

    /// Whether a word of free memory is a tag that a free block left there.
    pub(crate) fn is_old_tag(&self, at: *mut u8) -> bool {
        Block::at(at).tag(self.codec).is_some_and(|tag| !tag.is_used())
    }

    /// Keeps a used block for good, because it was found damaged.
    pub(crate) fn retire(&mut self, payload: *mut u8, owner: Owner) {
        self.damaged += 1;
        let block = Block::of_payload(payload);
        if let Some(tag) = block.tag(self.codec)
            && owner == Owner::Caller
        {
            self.count_out(tag.size(), Owner::Caller);
            self.count_in(tag.size(), Owner::Pool);
            block.set_tag(self.codec, tag.with_internal(true));
            asan::shut(payload, tag.size() - WORD);
        }
    }

    /// The block above, verified.
    #[inline]
    fn above(&self, block: Block, tag: Tag) -> Result<(Block, Tag), Corruption> {
        let above = block.above(tag.size());
        match above.tag(self.codec) {
            Some(above_tag) if above_tag.prev_is_free() == tag.is_free() => Ok((above, above_tag)),
            _ => Err(Corruption { addr: above.addr(), kind: CorruptionKind::BlockTag }),
        }
    }

    /// The free block below one whose tag says there is one, verified.
    #[inline]
    fn free_below(&self, block: Block, region: &Region) -> Result<Listed, Corruption> {
        let size = block.footer_below();
        let broken = |kind| Corruption { addr: block.addr() - WORD, kind };
        if size > block.addr() - region.start() || size & (self.granule.bytes() - 1) != 0 {
            return Err(broken(CorruptionKind::BlockFooter));
        }
        let below = block.below(size);
        match below.tag(self.codec) {
            Some(tag) if tag.is_free() && tag.size() == size => self.bins.listed(below, tag),
            _ => Err(broken(CorruptionKind::BlockNeighbour)),
        }
    }

    /// Resizes a live block where it is. Returns its new usable size, or `None` if the block above
    /// is not free or not large enough. O(1).
    pub(crate) fn resize(
        &mut self,
        payload: *mut u8,
        region: &Region,
        new_size: usize,
    ) -> Result<Option<usize>, FreeError> {
        let (block, tag) = self.live(payload, region, Owner::Caller)?;
        let Some(need) = self.block_size(new_size) else { return Ok(None) };
        let (above, above_tag) = self.above(block, tag)?;
        let room = tag.size() + if above_tag.is_free() { above_tag.size() } else { 0 };
        if need > room {
            return Ok(None);
        }
        if need == tag.size() || (room == tag.size() && room - need < self.min_block()) {
            return Ok(Some(tag.size() - WORD));
        }
        let (end, end_tag) = self.absorb(above, above_tag)?;
        let size = if room - need >= self.min_block() { need } else { room };
        block.set_tag(self.codec, tag.with_size(size));
        self.close(block, size, room, end, end_tag);
        self.live_bytes = self.live_bytes + size - tag.size();
        self.limit_rest();
        Ok(Some(size - WORD))
    }

    /// Grows a live block downwards, into the free block below and, if need be, the one above, and
    /// moves its contents to the new start, which is returned. `None` if they are not free, not
    /// large enough together, or the new start is not aligned. O(1), plus the bytes.
    ///
    /// ```text
    /// [prev, free][ this ][next, free?]   ->   [ this, moved          ][rest, free]
    /// ```
    pub(crate) fn slide(
        &mut self,
        payload: *mut u8,
        region: &Region,
        new_size: usize,
        align: usize,
    ) -> Result<Option<*mut u8>, FreeError> {
        let (block, tag) = self.live(payload, region, Owner::Caller)?;
        let Some(need) = self.block_size(new_size) else { return Ok(None) };
        if !tag.prev_is_free() {
            return Ok(None);
        }
        let free = self.free_below(block, region)?;
        let below = free.block;
        let (above, above_tag) = self.above(block, tag)?;
        let room =
            free.tag.size() + tag.size() + if above_tag.is_free() { above_tag.size() } else { 0 };
        if need > room || below.payload().addr() & (align - 1) != 0 {
            return Ok(None);
        }
        let (end, end_tag) = self.absorb(above, above_tag)?;
        self.take_free(free);
        // Nobody may free the old start: its tag might survive the move.
        block.set_tag(self.codec, Tag::free(tag.size()));
        let kept = (tag.size() - WORD).min(new_size);
        #[allow(unsafe_code)] // the one move of a caller's bytes
        // SAFETY: both lie in the block that is being made, which has room for `need` bytes.
        asan::opened(below.payload(), room - WORD, || unsafe {
            below.payload().copy_from(payload, kept);
        });
        let size = if room - need >= self.min_block() { need } else { room };
        below.set_tag(self.codec, Tag::used(size));
        self.close(below, size, room, end, end_tag);
        self.live_bytes = self.live_bytes + size - tag.size();
        self.limit_rest();
        Ok(Some(below.payload()))
    }

    /// Takes the block above out of its bin if it is free; returns what is above then.
    fn absorb(&mut self, above: Block, above_tag: Tag) -> Result<(Block, Tag), Corruption> {
        if !above_tag.is_free() {
            return Ok((above, above_tag));
        }
        let end = self.above(above, above_tag)?;
        let free = self.bins.listed(above, above_tag)?;
        self.take_free(free);
        Ok(end)
    }

    /// Makes what a used block of `size` bytes leaves of its room up to `end` a free block.
    #[inline]
    fn close(&mut self, block: Block, size: usize, room: usize, end: Block, end_tag: Tag) {
        if size < room {
            self.put_free(block.above(size), room - size, end, end_tag);
        } else {
            end.set_tag(self.codec, end_tag.with_prev_free(false));
        }
    }

    /// Lends a span of `len` bytes at a multiple of `align`, both multiples of the piece size, if
    /// a free block holds one. `is_slab` says whether the byte at an address belongs to a slab.
    /// O(bins of two powers of two).
    pub(crate) fn take_span(
        &mut self,
        len: usize,
        align: usize,
        is_slab: impl Fn(usize) -> bool,
    ) -> Result<Option<Span>, Corruption> {
        let place = |block: Block, tag: Tag| self.place_span(block, tag, len, align, &is_slab);
        let (min, enough) = (len - self.granule.bytes(), len + align + 2 * self.min_block());
        let fit = |block, tag: Tag| place(block, tag).map(|_| tag.size() - min);
        let found = self.bins.find_where(min, enough, self.codec, fit)?;
        let Some(free) = found else { return Ok(None) };
        let Listed { block, tag, .. } = free;
        let Some(start) = place(block, tag) else { return Ok(None) };
        let (end, end_tag) = self.above(block, tag)?;

        self.take_free(free);
        let mut left_free = 0;
        self.forget_links(block);
        self.forget_footer(end);
        let fence = block.with_addr(start - WORD);
        if fence.addr() >= block.addr() {
            fence.set_tag(self.codec, Tag::slab_fence());
        }
        if fence.addr() > block.addr() {
            left_free += fence.addr() - block.addr();
            self.put_free(block, fence.addr() - block.addr(), fence, Tag::slab_fence());
        }
        let rest = block.with_addr(self.tag_behind_span(start + len));
        if rest.addr() < end.addr() {
            left_free += end.addr() - rest.addr();
            self.put_free(rest, end.addr() - rest.addr(), end, end_tag);
        } else if rest == end {
            end.set_tag(self.codec, end_tag.with_prev_free(false));
        } else if self.harden.poisons() {
            // The fence of the slab above, which is the span's last word now.
            end.poison(0..1);
        }
        self.span_bytes += len;
        self.fence_bytes =
            self.fence_bytes.wrapping_add(tag.size()).wrapping_sub(len).wrapping_sub(left_free);
        self.limit_rest();
        Ok(Some(Span { start: block.with_addr(start).payload().wrapping_sub(WORD), len }))
    }

    /// Address of the first tag behind a span that ends at `end`.
    #[inline]
    pub(crate) fn tag_behind_span(&self, end: usize) -> usize {
        end + self.granule.bytes() - WORD
    }

    /// Where in a free block a span would start so that what is left on either side is nothing or
    /// a block.
    fn place_span(
        &self,
        block: Block,
        tag: Tag,
        len: usize,
        align: usize,
        is_slab: &impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let (first, end) = (block.addr(), block.addr() + tag.size());
        // Right behind a slab the pad before the block's tag can be used too.
        let pad = first + WORD - self.granule.bytes();
        let start = if pad & (align - 1) == 0 && is_slab(pad - 1) {
            pad
        } else {
            let start = round_up(first + WORD, align)?;
            let gap = start - WORD - first;
            if gap > 0 && gap < self.min_block() { start.checked_add(align)? } else { start }
        };
        // Right before a slab its fence can be used too.
        let stop = start.checked_add(len)?;
        let behind = self.tag_behind_span(stop);
        let touches_slab = end + WORD == stop && is_slab(stop);
        let rest = end.checked_sub(behind);
        let fits = rest.is_some_and(|rest| rest == 0 || rest >= self.min_block());
        (touches_slab || fits).then_some(start)
    }

    /// Takes back a span. `below` and `above` say whether slabs touch it there.
    pub(crate) fn put_span(
        &mut self,
        span: Span,
        below: bool,
        above: bool,
        region: &Region,
    ) -> Result<(), Corruption> {
        let (start, stop) = (span.start.addr(), span.start.addr() + span.len);
        let fence = Block::at(span.start.wrapping_sub(WORD));
        let block = if below { fence.with_addr(self.tag_behind_span(start)) } else { fence };
        let prev_free = !below && self.slab_fence(fence)?.prev_is_free();
        let end = if above {
            let fence = fence.with_addr(stop - WORD);
            fence.set_tag(self.codec, Tag::slab_fence());
            fence
        } else {
            fence.with_addr(self.tag_behind_span(stop))
        };
        let size = end.addr() - block.addr();
        let tag = Tag::used(size).with_prev_free(prev_free);
        block.set_tag(self.codec, tag);
        self.merge(block, tag, region, Fill::IsFilled).inspect_err(|_| {
            if !below {
                fence.set_tag(self.codec, Tag::slab_fence().with_prev_free(prev_free));
            }
        })?;
        self.span_bytes -= span.len;
        self.fence_bytes = self.fence_bytes.wrapping_add(span.len).wrapping_sub(size);
        Ok(())
    }

    /// The fence before a run of slabs, verified.
    fn slab_fence(&self, fence: Block) -> Result<Tag, Corruption> {
        match fence.tag(self.codec) {
            Some(tag) if tag.is_slab_fence() => Ok(tag),
            _ => Err(Corruption { addr: fence.addr(), kind: CorruptionKind::BlockTag }),
        }
    }

    /// Checks all bins against each other, and what rests; see [`Bins::validate`].
    pub(crate) fn validate_bins(
        &self,
        is_in_heap: impl Fn(usize) -> bool,
    ) -> Result<usize, Corruption> {
        let may_be_block = |block: Block| self.bins.may_be_block(block) && is_in_heap(block.addr());
        self.resting.validate(self.codec, may_be_block)?;
        self.bins.validate(self.codec, &is_in_heap)
    }

    /// Makes `[block, block + size)` a free block below `above`, whose tag is `above_tag`.
    #[inline]
    fn put_free(&mut self, block: Block, size: usize, above: Block, above_tag: Tag) {
        debug_assert_eq!(block.addr() + size, above.addr());
        self.list_free(block, size);
        self.write_free(block, size);
        above.set_tag(self.codec, above_tag.with_prev_free(true));
    }

    /// Writes a free block's tag and footer.
    #[inline]
    fn write_free(&self, block: Block, size: usize) {
        asan::shut(block.start(), size);
        block.set_tag(self.codec, Tag::free(size));
        block.set_footer(size);
    }

    /// Puts a free block into its bin.
    #[inline]
    fn list_free(&mut self, block: Block, size: usize) {
        self.bins.insert(block, size);
        self.free_blocks += 1;
    }

    /// Takes a free block out of its bin.
    #[inline]
    fn take_free(&mut self, free: Listed) {
        self.bins.remove(free);
        self.free_blocks -= 1;
    }

    /// Counts a block of `size` bytes in, and returns what its owner gets. How much of it a caller may touch
    /// is the engine's matter.
    #[inline]
    fn hand_out(&mut self, block: Block, size: usize, owner: Owner) -> *mut u8 {
        self.count_in(size, owner);
        if owner == Owner::Pool {
            asan::open(block.payload(), size - WORD);
        }
        block.payload()
    }

    #[inline]
    fn count_in(&mut self, size: usize, owner: Owner) {
        match owner {
            Owner::Caller => {
                self.live_objects += 1;
                self.live_bytes += size - WORD;
            }
            Owner::Pool => self.internal_bytes += size,
        }
    }

    #[inline]
    fn count_out(&mut self, size: usize, owner: Owner) {
        match owner {
            Owner::Caller => {
                self.live_objects -= 1;
                self.live_bytes -= size - WORD;
            }
            Owner::Pool => self.internal_bytes -= size,
        }
    }
}

/// Bytes to leave free in front of a block's payload so that it gets aligned: none, or a block.
#[inline]
fn aligning_gap(block: Block, align: usize, min_block: usize) -> Option<usize> {
    let payload = block.payload().addr();
    let gap = round_up(payload, align)? - payload;
    if gap == 0 || gap >= min_block { Some(gap) } else { gap.checked_add(align.max(min_block)) }
}
