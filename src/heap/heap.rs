//! The heap: splits, merges, resizes in place, and lends whole spans to slabs.
//!
//! A region's heap part is a row of blocks without gaps, ended by a fence:
//!
//! ```text
//! [block][block][free block][block]........[fence]
//! ```
//!
//! Two free blocks never lie side by side. A freed block *rests* first, one in each bin: merged with
//! nothing, it waits for a request of just its size. The next free of such a size ends its rest, and
//! so does a request that finds no block. A *span* is lent to a slab without any word of ours in
//! it, so that its slots can fill it: the word before the span is a slab fence, and behind it one
//! granule is left out, so that the next tag stands right before an aligned payload again. Spans
//! that touch need neither:
//!
//! ```text
//! [block][slab fence]{ slab }{ slab }[pad, tag][block]
//! ```
//!
//! Every operation is O(1); the caller holds the pool's lock.

use super::{
    bins::{Bins, Listed, Place, Shape},
    block::{Block, Tag, TagCodec},
};
use crate::{
    error::{ConfigError, Corruption, CorruptionKind, FreeError},
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
    /// Bytes of free blocks, tags included.
    pub(crate) free_bytes: usize,
    /// Free blocks.
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
    codec: TagCodec,
    bins: Bins,
    counters: HeapCounters,
    /// Freed blocks that were found damaged, and are left alone.
    damaged: usize,
    /// Free memory is poisoned, all but the words that tags, links and footers are or were in.
    poisoned: bool,
}

/// The first step alone does not do.
#[derive(Debug)]
pub(crate) struct NotAtOnce;

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
            codec: TagCodec::new(0, usize::MAX >> 1),
            bins: Bins::empty(),
            counters: HeapCounters {
                live_objects: 0,
                live_bytes: 0,
                internal_bytes: 0,
                span_bytes: 0,
                free_bytes: 0,
                free_blocks: 0,
            },
            damaged: 0,
            poisoned: false,
        }
    }

    /// A heap whose bins lie at the start of its first region.
    pub(crate) fn new(
        region: Region,
        granule: Granule,
        key: usize,
        poisoned: bool,
    ) -> Result<Self, ConfigError> {
        let too_small = ConfigError::RegionTooSmall { bytes: region.len() };
        let shape = Shape::new(granule, region.len().max(1));
        let table = round_up(region.start(), WORD).ok_or(too_small)?;
        let front = table.checked_add(shape.table_bytes()).ok_or(too_small)?;
        if front > region.end() {
            return Err(too_small);
        }
        #[allow(unsafe_code)] // the one place where the heap makes memory its table
        // SAFETY: aligned above, within the region, which is ours.
        let bins = unsafe { Bins::new(shape, region.at(table)) };
        let codec = TagCodec::new(key, region.len());
        let counters = HeapCounters::default();
        let mut heap = Self { granule, codec, bins, counters, damaged: 0, poisoned };
        heap.add_region(region, front)?;
        Ok(heap)
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
        if self.poisoned {
            block.poison(1..size / WORD);
        }
        block.above(size).set_tag(self.codec, Tag::end_fence());
        self.bins.widen(region.start()..region.end());
        self.put_free(block, size, block.above(size), Tag::end_fence());
        Ok(())
    }

    /// Address of the first block's tag in the first region, right after it was set up.
    pub(crate) fn region_start(&self, region: &Region) -> usize {
        let table = self.bins.table_end();
        debug_assert!(region.contains(table));
        self.first_tag(table).unwrap_or(table)
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

    /// The smallest block: a tag, two links and a footer.
    #[inline]
    pub(crate) fn min_block(&self) -> usize {
        self.granule.bytes().max(4 * WORD)
    }

    /// What the heap counted.
    pub(crate) fn counters(&self) -> HeapCounters {
        self.counters
    }

    /// Usable bytes of the largest free block.
    pub(crate) fn largest_free(&self) -> usize {
        self.bins.largest(self.codec).saturating_sub(WORD)
    }

    /// Bytes that a block needs for `size` usable ones; `None` on overflow.
    #[inline]
    pub(crate) fn block_size(&self, size: usize) -> Option<usize> {
        let bytes = self.granule.round_up(size.checked_add(WORD)?)?;
        let sane = bytes <= isize::MAX.unsigned_abs();
        sane.then_some(bytes.max(self.min_block()))
    }

    /// Allocates `size` bytes aligned to `align`, a power of two. `None`: no block is large
    /// enough.
    #[inline]
    pub(crate) fn alloc(
        &mut self,
        size: usize,
        align: usize,
        owner: Owner,
    ) -> Result<Option<*mut u8>, Corruption> {
        let Some(need) = self.block_size(size) else { return Ok(None) };
        if align > self.granule.bytes() {
            return self.alloc_aligned(need, align, owner);
        }
        if let Some(block) = self.take_rested(need, owner)? {
            return Ok(Some(block.payload()));
        }
        let Some(free) = self.bins.find(need, self.codec)? else { return Ok(None) };
        self.take(free, Cut { gap: 0, need }, owner).map(Some)
    }

    /// The first step of [`alloc`](Self::alloc) for a caller: a block that rests and is just large enough.
    /// `None` says nothing.
    #[inline]
    pub(crate) fn alloc_rested(&mut self, size: usize) -> Option<*mut u8> {
        let need = self.block_size(size)?;
        let place = self.bins.place_of(need)?;
        let block = place.block()?;
        let tag = self.resting_tag(block).ok().filter(|tag| tag.size() == need)?;
        self.rouse(place, block, tag, Owner::Caller);
        Some(block.payload())
    }

    /// Takes a block that rests, if one is just as large as it needs to be.
    #[inline]
    fn take_rested(&mut self, need: usize, owner: Owner) -> Result<Option<Block>, Corruption> {
        let Some(place) = self.bins.place_of(need) else { return Ok(None) };
        let Some(block) = place.block() else { return Ok(None) };
        let tag = self.resting_tag(block).inspect_err(|_| {
            self.bins.rouse(place);
            self.damaged += 1;
        })?;
        if tag.size() != need {
            return Ok(None);
        }
        self.rouse(place, block, tag, owner);
        Ok(Some(block))
    }

    /// Makes a block that rests in a place a used one.
    #[inline]
    fn rouse(&mut self, place: Place, block: Block, tag: Tag, owner: Owner) {
        self.bins.rouse(place);
        let used = Tag::used(tag.size()).with_prev_free(tag.prev_is_free());
        block.set_tag(self.codec, used.with_internal(owner == Owner::Pool));
        self.count_unfree(tag.size());
        self.count_in(tag.size(), owner);
    }

    #[inline]
    fn resting_tag(&self, block: Block) -> Result<Tag, Corruption> {
        let broken = Corruption { addr: block.addr(), kind: CorruptionKind::BlockTag };
        if !self.bins.may_be_block(block) {
            return Err(broken);
        }
        block.tag(self.codec).filter(|tag| tag.is_resting()).ok_or(broken)
    }

    fn alloc_aligned(
        &mut self,
        need: usize,
        align: usize,
        owner: Owner,
    ) -> Result<Option<*mut u8>, Corruption> {
        let min_block = self.min_block();
        let Some(enough) = need.checked_add(align).and_then(|n| n.checked_add(min_block)) else {
            return Ok(None);
        };
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
    #[inline]
    fn take(&mut self, free: Listed, cut: Cut, owner: Owner) -> Result<*mut u8, Corruption> {
        let Listed { block, tag, .. } = free;
        let (above, above_tag) = self.above(block, tag)?;
        let used = block.above(cut.gap);
        let room = tag.size() - cut.gap;
        let size = if room - cut.need >= self.min_block() { cut.need } else { room };
        let used_tag = Tag::used(size).with_internal(owner == Owner::Pool);
        used.set_tag(self.codec, used_tag);
        if cut.gap > 0 {
            self.change_free(free, block, used, used_tag);
            self.close(used, size, room, above, above_tag);
        } else if size < room {
            self.change_free(free, used.above(size), above, above_tag);
            self.forget_links(block);
        } else {
            self.take_free(free);
            above.set_tag(self.codec, above_tag.with_prev_free(false));
            self.forget_links(block);
        }
        if size == room {
            self.forget_footer(above);
        }
        self.count_in(size, owner);
        Ok(used.payload())
    }

    /// Frees the block at `payload`, which lies in the heap's part of `region`. It rests, or is merged
    /// with free neighbours. `accept` is called with its usable size once nothing can fail any more.
    /// Returns a block whose rest ends with it: the caller is to [`settle`](Self::settle) it.
    #[inline]
    pub(crate) fn free(
        &mut self,
        payload: *mut u8,
        region: &Region,
        owner: Owner,
        accept: impl FnOnce(usize),
    ) -> Result<Option<Block>, FreeError> {
        let (block, tag) = self.live(payload, region, owner)?;
        let size = tag.size();
        let place = self.bins.place_of(size).filter(|_| self.bins.lets_rest(size));
        let Some(place) = place else {
            self.merge(block, tag, region, || accept(size - WORD))?;
            self.count_out(size, owner);
            return Ok(None);
        };
        self.above(block, tag)?;
        accept(size - WORD);
        Ok(self.lay_to_rest(block, tag, place, owner))
    }

    /// The first step of [`free`](Self::free) for a caller's block: it rests, if it may. Returns what
    /// `free` does. An error says nothing, and nothing has changed.
    #[inline]
    pub(crate) fn free_to_rest(
        &mut self,
        payload: *mut u8,
        region: &Region,
    ) -> Result<Option<Block>, NotAtOnce> {
        let live = self.live(payload, region, Owner::Caller);
        let (block, tag) = live.map_err(|_| NotAtOnce)?;
        let place = self.bins.place_of(tag.size()).filter(|_| self.bins.lets_rest(tag.size()));
        let place = place.ok_or(NotAtOnce)?;
        self.above(block, tag).map_err(|_| NotAtOnce)?;
        Ok(self.lay_to_rest(block, tag, place, Owner::Caller))
    }

    #[inline]
    fn lay_to_rest(&mut self, block: Block, tag: Tag, place: Place, owner: Owner) -> Option<Block> {
        let size = tag.size();
        block.set_tag(self.codec, Tag::resting(size).with_prev_free(tag.prev_is_free()));
        self.count_out(size, owner);
        self.count_free(size);
        self.bins.rest(place, block)
    }

    /// Merges a block whose rest has ended with its free neighbours. If it is damaged, or they are, it
    /// stays as it is, for good: `validate` names it.
    pub(crate) fn settle(&mut self, block: Block, region: &Region) {
        let tag = self.resting_tag(block);
        match tag.and_then(|tag| self.merge(block, tag, region, || ()).map(|()| tag)) {
            Ok(tag) => {
                // Merging has counted it as new.
                self.count_unfree(tag.size());
            }
            Err(_) => self.damaged += 1,
        }
    }

    /// Freed blocks that were found damaged.
    pub(crate) fn damaged(&self) -> usize {
        self.damaged
    }

    /// The next block whose rest is to end, from a bin on, and where to go on; see
    /// [`Bins::rouse_next`].
    pub(crate) fn rouse_next(&mut self, from: usize) -> Option<(Block, usize)> {
        self.bins.rouse_next(from)
    }

    /// The block above a live one, if it rests; its rest ends, and the caller is to
    /// [`settle`](Self::settle) it.
    pub(crate) fn rouse_above(&mut self, payload: *mut u8, region: &Region) -> Option<Block> {
        let (block, tag) = self.live(payload, region, Owner::Caller).ok()?;
        let (above, above_tag) = self.above(block, tag).ok()?;
        let rests = above_tag.is_resting() && self.bins.rouse_block(above, above_tag.size());
        rests.then_some(above)
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

    /// Frees a used block.
    ///
    /// ```text
    /// [prev, free?][ this ][next, free?]   ->   [ free                  ]
    /// ```
    fn merge(
        &mut self,
        block: Block,
        tag: Tag,
        region: &Region,
        accept: impl FnOnce(),
    ) -> Result<(), Corruption> {
        let (above, above_tag) = self.above(block, tag)?;
        let prev = if tag.prev_is_free() { Some(self.free_below(block, region)?) } else { None };
        let (mut next, mut end) = (None, None);
        if above_tag.is_free() {
            end = Some(self.above(above, above_tag)?);
            next = Some(self.bins.listed(above, above_tag)?);
        }

        accept();
        // From here on nothing can fail. The tag is rewritten even if the block below swallows
        // it, so that a second free of this pointer finds a block that is not live.
        block.set_tag(self.codec, Tag::free(tag.size()).with_prev_free(tag.prev_is_free()));
        let (end, end_tag) = end.unwrap_or((above, above_tag));
        match (prev, next) {
            (None, None) => self.put_free(block, tag.size(), end, end_tag),
            (None, Some(next)) => self.change_free(next, block, end, end_tag),
            (Some(prev), None) => self.change_free(prev, prev.block, end, end_tag),
            (Some(prev), Some(next)) => {
                self.take_free(next);
                self.change_free(prev, prev.block, end, end_tag);
            }
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
        if self.poisoned {
            block.poison(1..3);
        }
    }

    /// Poisons the footer of what was a free block below this one.
    #[inline]
    fn forget_footer(&self, above: Block) {
        if self.poisoned {
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
        self.counters.live_bytes = self.counters.live_bytes + size - tag.size();
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
        unsafe {
            below.payload().copy_from(payload, kept);
        }
        let size = if room - need >= self.min_block() { need } else { room };
        below.set_tag(self.codec, Tag::used(size));
        self.close(below, size, room, end, end_tag);
        self.counters.live_bytes = self.counters.live_bytes + size - tag.size();
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
        self.forget_links(block);
        self.forget_footer(end);
        let fence = block.with_addr(start - WORD);
        if fence.addr() >= block.addr() {
            fence.set_tag(self.codec, Tag::slab_fence());
        }
        if fence.addr() > block.addr() {
            self.put_free(block, fence.addr() - block.addr(), fence, Tag::slab_fence());
        }
        let rest = block.with_addr(self.tag_behind_span(start + len));
        if rest.addr() < end.addr() {
            self.put_free(rest, end.addr() - rest.addr(), end, end_tag);
        } else if rest == end {
            end.set_tag(self.codec, end_tag.with_prev_free(false));
        } else if self.poisoned {
            // The fence of the slab above, which is the span's last word now.
            end.poison(0..1);
        }
        self.counters.span_bytes += len;
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
        if let Err(broken) = self.merge(block, tag, region, || ()) {
            if !below {
                fence.set_tag(self.codec, Tag::slab_fence().with_prev_free(prev_free));
            }
            return Err(broken);
        }
        self.counters.span_bytes -= span.len;
        Ok(())
    }

    /// The fence before a run of slabs, verified.
    fn slab_fence(&self, fence: Block) -> Result<Tag, Corruption> {
        match fence.tag(self.codec) {
            Some(tag) if tag.is_slab_fence() => Ok(tag),
            _ => Err(Corruption { addr: fence.addr(), kind: CorruptionKind::BlockTag }),
        }
    }

    /// Checks all bins against each other; see [`Bins::validate`].
    pub(crate) fn validate_bins(
        &self,
        is_in_heap: impl Fn(usize) -> bool,
    ) -> Result<usize, Corruption> {
        self.bins.validate(self.codec, is_in_heap)
    }

    /// Makes `[block, block + size)` a free block below `above`, whose tag is `above_tag`.
    #[inline]
    fn put_free(&mut self, block: Block, size: usize, above: Block, above_tag: Tag) {
        debug_assert_eq!(block.addr() + size, above.addr());
        block.set_tag(self.codec, Tag::free(size));
        block.set_footer(size);
        above.set_tag(self.codec, above_tag.with_prev_free(true));
        self.bins.insert(block, size);
        self.count_free(size);
    }

    /// Takes a free block out of its bin.
    #[inline]
    fn take_free(&mut self, free: Listed) {
        self.bins.remove(free);
        self.count_unfree(free.tag.size());
    }

    /// Makes `[block, above)` free in the place of `old`, a part or a whole of which it is.
    #[inline]
    fn change_free(&mut self, old: Listed, block: Block, above: Block, above_tag: Tag) {
        let size = above.addr() - block.addr();
        self.bins.replace(old, block, size);
        block.set_tag(self.codec, Tag::free(size));
        block.set_footer(size);
        above.set_tag(self.codec, above_tag.with_prev_free(true));
        self.counters.free_bytes = self.counters.free_bytes + size - old.tag.size();
    }

    #[inline]
    fn count_free(&mut self, size: usize) {
        self.counters.free_bytes += size;
        self.counters.free_blocks += 1;
    }

    #[inline]
    fn count_unfree(&mut self, size: usize) {
        self.counters.free_bytes -= size;
        self.counters.free_blocks -= 1;
    }

    #[inline]
    fn count_in(&mut self, size: usize, owner: Owner) {
        match owner {
            Owner::Caller => {
                self.counters.live_objects += 1;
                self.counters.live_bytes += size - WORD;
            }
            Owner::Pool => self.counters.internal_bytes += size,
        }
    }

    #[inline]
    fn count_out(&mut self, size: usize, owner: Owner) {
        match owner {
            Owner::Caller => {
                self.counters.live_objects -= 1;
                self.counters.live_bytes -= size - WORD;
            }
            Owner::Pool => self.counters.internal_bytes -= size,
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
