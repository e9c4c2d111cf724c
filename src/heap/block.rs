#![allow(unsafe_code)] // reads and writes block tags in the region
//! Block tags: the one word in front of every block, and the two links and the footer that only
//! free blocks have.
//!
//! ```text
//!        tag address                payload, aligned to the granule
//!        v                          v
//! used:  [ check | size | flags ]   [ caller's bytes ...................... ]
//! rests: [ check | size | flags ]   [ ..................................... ]
//! free:  [ check | size | flags ]   [ next ][ prev ] ............. [ size   ]
//!                                     links in the bin's list        footer
//!
//! tag word, low to high:  bit 0 USED, bit 1 PREV_FREE, bit 2 INTERNAL,
//!                         bits 3..S size in bytes (a multiple of the granule),
//!                         bits S..  keyed checksum of address and low bits
//! ```
//!
//! `S` is 48 on 64-bit targets; on 32-bit targets it is just large enough for the regions in use,
//! so that small regions have long checksums. A block that *rests* has been freed, and is neither
//! merged nor in a list: it is INTERNAL without being USED. A tag of size 0 is a *fence*: the end of
//! a region, or, with INTERNAL set, the word before a run of slabs. The footer and the `PREV_FREE` bit are
//! Knuth's boundary tags (TAOCP 2.5), the missing footer of used blocks is dlmalloc's.

use core::ops::Range;

use crate::{
    flags::POISON_WORD,
    sync::{
        Ordering::Relaxed,
        locked::{AtomicPtr, AtomicUsize},
    },
    units::WORD,
};

const USED: usize = 1;
const PREV_FREE: usize = 1 << 1;
const INTERNAL: usize = 1 << 2;
const FLAGS: usize = 7;

/// Multiplier of the checksum: the golden ratio's fraction, odd and without long runs of equal
/// bits, so that any single flipped bit of address, size or flags changes the bits that are kept.
#[expect(clippy::cast_possible_truncation, reason = "32-bit targets use the high half")]
const MULTIPLIER: usize =
    if usize::BITS == 64 { 0x9E37_79B9_7F4A_7C15_u64 as usize } else { 0x9E37_79B1 };

/// The verified contents of a block tag: its size and flags, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(usize);

impl Tag {
    /// A block handed out to a caller, behind a used block.
    #[inline]
    pub(crate) const fn used(size: usize) -> Self {
        Self(size | USED)
    }

    /// A free block, behind a used block (two free neighbours are always merged).
    #[inline]
    pub(crate) const fn free(size: usize) -> Self {
        Self(size)
    }

    /// A freed block that has not been merged yet.
    #[inline]
    pub(crate) const fn resting(size: usize) -> Self {
        Self(size | INTERNAL)
    }

    /// The tag of a caller's block once it has been freed, and is not merged yet.
    #[inline]
    pub(crate) const fn rested(self) -> Self {
        Self(self.0 & !USED | INTERNAL)
    }

    /// The tag of a block that rests once a caller has it again.
    #[inline]
    pub(crate) const fn roused(self) -> Self {
        Self(self.0 & !INTERNAL | USED)
    }

    /// The word that ends a region.
    pub(crate) const fn end_fence() -> Self {
        Self(USED)
    }

    /// The word before a run of slabs.
    pub(crate) const fn slab_fence() -> Self {
        Self(USED | INTERNAL)
    }

    /// Size of the block in bytes, tag included; 0 for a fence.
    #[inline]
    pub(crate) const fn size(self) -> usize {
        self.0 & !FLAGS
    }

    /// In its bin's list, and to be merged with what is freed beside it.
    #[inline]
    pub(crate) const fn is_free(self) -> bool {
        self.0 & (USED | INTERNAL) == 0
    }

    /// Freed, but not merged yet.
    #[inline]
    pub(crate) const fn is_resting(self) -> bool {
        self.0 & (USED | INTERNAL) == INTERNAL
    }

    /// Handed out, or a fence.
    #[inline]
    pub(crate) const fn is_used(self) -> bool {
        self.0 & USED != 0
    }

    /// The block below is free, and its size stands in the word before this tag.
    #[inline]
    pub(crate) const fn prev_is_free(self) -> bool {
        self.0 & PREV_FREE != 0
    }

    /// The pool's own table, or the fence before a run of slabs.
    #[inline]
    pub(crate) const fn is_internal(self) -> bool {
        self.0 & (USED | INTERNAL) == USED | INTERNAL
    }

    #[inline]
    pub(crate) const fn is_fence(self) -> bool {
        self.size() == 0
    }

    pub(crate) const fn is_slab_fence(self) -> bool {
        self.is_fence() && self.is_internal()
    }

    /// The same tag, with the block below free or not.
    #[inline]
    pub(crate) const fn with_prev_free(self, prev_free: bool) -> Self {
        Self(self.0 & !PREV_FREE | if prev_free { PREV_FREE } else { 0 })
    }

    /// The same tag with another size.
    #[inline]
    pub(crate) const fn with_size(self, size: usize) -> Self {
        Self(self.0 & FLAGS | size)
    }

    /// The same tag, of the pool's own block or of a caller's.
    #[inline]
    pub(crate) const fn with_internal(self, internal: bool) -> Self {
        Self(self.0 & !INTERNAL | if internal { INTERNAL } else { 0 })
    }
}

/// Encodes and verifies tags with the pool's key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TagCodec {
    key: usize,
    /// On 32-bit targets, the bits of a tag that are its checksum.
    narrow_mask: usize,
}

impl TagCodec {
    /// A codec for blocks of regions up to `max_bytes` long.
    pub(crate) const fn new(key: usize, max_bytes: usize) -> Self {
        let size_bits = max_bytes.ilog2() + 1;
        Self { key, narrow_mask: if size_bits >= 32 { 0 } else { usize::MAX << size_bits } }
    }

    /// The bits of a tag that are its checksum.
    #[inline]
    const fn check_mask(self) -> usize {
        if usize::BITS == 64 { usize::MAX << (usize::BITS / 4 * 3) } else { self.narrow_mask }
    }

    /// Whether blocks of a region this long have sizes that fit a tag.
    pub(crate) const fn can_tag(self, bytes: usize) -> bool {
        bytes & self.check_mask() == 0
    }

    #[inline]
    fn check(self, addr: usize, low: usize) -> usize {
        (low ^ addr ^ self.key).wrapping_mul(MULTIPLIER) & self.check_mask()
    }

    #[inline]
    fn encode(self, addr: usize, tag: Tag) -> usize {
        debug_assert!(tag.0 & self.check_mask() == 0);
        tag.0 | self.check(addr, tag.0)
    }

    #[inline]
    fn decode(self, addr: usize, word: usize) -> Option<Tag> {
        let low = word & !self.check_mask();
        (word & self.check_mask() == self.check(addr, low)).then_some(Tag(low))
    }
}

/// A pointer to a block's tag.
///
/// It carries the provenance of its region. Whoever makes one vouches that the tag word lies in
/// the heap's part of a region (not in a slab); that is all that reading a tag needs. The links
/// and the footer exist only once the tag has been verified to be a free block's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block(*mut usize);

impl Block {
    /// The null link that ends a bin's list.
    pub(crate) const NONE: Self = Self(core::ptr::null_mut());

    /// A block whose tag is at `tag`, in the heap's part of a region and aligned to a word.
    #[inline]
    pub(crate) fn at(tag: *mut u8) -> Self {
        debug_assert!(tag.addr().is_multiple_of(WORD));
        Self(tag.cast())
    }

    /// The block that `payload` belongs to.
    #[inline]
    pub(crate) fn of_payload(payload: *mut u8) -> Self {
        Self::at(payload.wrapping_sub(WORD))
    }

    #[inline]
    pub(crate) fn is_none(self) -> bool {
        self.0.is_null()
    }

    /// Address of the tag.
    #[inline]
    pub(crate) fn addr(self) -> usize {
        self.0.addr()
    }

    /// The tag's first byte.
    #[inline]
    pub(crate) fn start(self) -> *mut u8 {
        self.0.cast()
    }

    /// The first byte behind the tag.
    #[inline]
    pub(crate) fn payload(self) -> *mut u8 {
        self.0.wrapping_add(1).cast()
    }

    /// The block `bytes` further up.
    #[inline]
    pub(crate) fn above(self, bytes: usize) -> Self {
        Self(self.0.wrapping_byte_add(bytes))
    }

    /// The block `bytes` further down.
    #[inline]
    pub(crate) fn below(self, bytes: usize) -> Self {
        Self(self.0.wrapping_byte_sub(bytes))
    }

    /// The block at another address of the same region.
    #[inline]
    pub(crate) fn with_addr(self, addr: usize) -> Self {
        Self(self.0.with_addr(addr))
    }

    #[inline]
    fn load(self, index: usize) -> usize {
        // SAFETY: the word lies in the heap's part of a region (type invariant), which is valid
        // and aligned to words. Atomic, because a foreign pointer that is being looked at may be
        // in the middle of memory that its owner writes to.
        unsafe { AtomicUsize::from_ptr(self.0.wrapping_add(index)) }.load(Relaxed)
    }

    #[inline]
    fn store(self, index: usize, word: usize) {
        // SAFETY: as in `load`.
        unsafe { AtomicUsize::from_ptr(self.0.wrapping_add(index)) }.store(word, Relaxed);
    }

    /// Reads and verifies the tag; `None` if its checksum does not match.
    #[inline]
    pub(crate) fn tag(self, codec: TagCodec) -> Option<Tag> {
        codec.decode(self.addr(), self.load(0))
    }

    /// Reads the tag, and verifies that it is the one that is expected, given whether the block below is
    /// free.
    #[inline]
    pub(crate) fn tag_if(self, codec: TagCodec, expected: impl FnOnce(bool) -> Tag) -> Option<Tag> {
        let word = self.load(0);
        let tag = expected(Tag(word).prev_is_free());
        (codec.encode(self.addr(), tag) == word).then_some(tag)
    }

    /// Writes the tag.
    #[inline]
    pub(crate) fn set_tag(self, codec: TagCodec, tag: Tag) {
        self.store(0, codec.encode(self.addr(), tag));
    }

    /// The word before the tag: the size of the free block below, where there is one.
    #[inline]
    pub(crate) fn footer_below(self) -> usize {
        self.below(WORD).load(0)
    }

    /// Writes a free block's size into its last word.
    #[inline]
    pub(crate) fn set_footer(self, size: usize) {
        self.above(size - WORD).store(0, size);
    }

    /// Fills words with poison.
    pub(crate) fn poison(self, words: Range<usize>) {
        for index in words {
            self.store(index, POISON_WORD);
        }
    }

    /// The next free block of the bin.
    #[inline]
    pub(crate) fn next(self) -> Self {
        self.link(1)
    }

    /// The previous free block of the bin.
    #[inline]
    pub(crate) fn prev(self) -> Self {
        self.link(2)
    }

    #[inline]
    pub(crate) fn set_next(self, next: Self) {
        self.set_link(1, next);
    }

    #[inline]
    pub(crate) fn set_prev(self, prev: Self) {
        self.set_link(2, prev);
    }

    #[inline]
    fn link(self, index: usize) -> Self {
        // SAFETY: the word is in the region (type invariant; a free block has at least four
        // words), aligned, and written only under the pool's lock, which the heap's caller holds.
        Self(unsafe { AtomicPtr::from_ptr(self.0.wrapping_add(index).cast()) }.load(Relaxed))
    }

    #[inline]
    fn set_link(self, index: usize, to: Self) {
        // SAFETY: as in `link`.
        unsafe { AtomicPtr::from_ptr(self.0.wrapping_add(index).cast()) }.store(to.0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODEC: TagCodec = TagCodec::new(0x1234_5678, 1 << 20);

    fn samples() -> impl Iterator<Item = Tag> {
        [Tag::used(64), Tag::free(4096), Tag::end_fence(), Tag::slab_fence()]
            .into_iter()
            .flat_map(|tag| [tag, tag.with_prev_free(true)])
    }

    #[test]
    fn tags_survive_encoding() {
        for tag in samples() {
            assert_eq!(CODEC.decode(0x1_0008, CODEC.encode(0x1_0008, tag)), Some(tag));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes")]
    fn every_single_flipped_bit_is_found() {
        for tag in samples() {
            for addr in (0x1_0008..0x1_4008).step_by(16) {
                let word = CODEC.encode(addr, tag);
                for bit in 0..usize::BITS {
                    assert_eq!(CODEC.decode(addr, word ^ (1 << bit)), None, "bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_tag_is_valid_at_its_own_address_only() {
        let word = CODEC.encode(0x1_0008, Tag::used(64));
        let accepted = (0x1_0018..0x2_0008).step_by(16);
        let accepted = accepted.filter(|&addr| CODEC.decode(addr, word).is_some()).count();
        assert!(accepted <= 1, "{accepted} of 4096 other addresses accepted a 16-bit checksum");
    }
}
