#![allow(unsafe_code)] // reads the map, which lies in the region
//! The slab map: what is this address?
//!
//! A region is counted off in *pieces*, equal powers of two. The map has an entry for each: a byte
//! that is 0 for the heap, else a class's number plus one, and beside it, for a piece of a slab,
//! where that slab starts and where its slots' state bytes are.
//!
//! Readers need no lock: all of it is read and written atomically, and what is said of a piece
//! cannot change while one of its slots is in somebody's hands.

use core::ptr::null_mut;

use crate::{
    checksum::{Checksum, agree},
    config::MAX_CLASSES,
    region::Region,
    sync::{
        AtomicPtr, AtomicU8, AtomicU16, AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
    units::{WORD, low_u32, to_u8, to_usize},
};

/// What a piece's byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PieceKind(pub(crate) u8);

impl PieceKind {
    pub(crate) const HEAP: Self = Self(0);

    /// Part of a slab of this class.
    #[inline]
    pub(crate) const fn class(number: u8) -> Self {
        const { assert!(MAX_CLASSES < u8::MAX as usize) };
        // The one number that wraps around is no class: what it stands for has no slots.
        Self(number.wrapping_add(1))
    }

    /// The class whose slab the piece belongs to, if any.
    #[inline]
    pub(crate) const fn as_class(self) -> Option<u8> {
        self.0.checked_sub(1)
    }
}

/// What a piece is, where its slab starts, and where that slab's state bytes are: all in one place,
/// because who needs one of them needs the others.
#[derive(Debug)]
pub(crate) struct PieceEntry {
    states: AtomicPtr<u8>,
    /// The low 32 bits of the address of the slab's first slot: slabs are smaller than that.
    start: AtomicU32,
    kind: AtomicU8,
    /// A checksum of the others.
    check: AtomicU16,
}

impl PieceEntry {
    /// The checksum. That of zeros is zero: they are a piece of the heap, whose entry nobody wrote.
    #[inline(always)]
    fn sum(&self) -> u16 {
        let sum = |states, start, kind| {
            Checksum::NONE.add(states).add_pair(start, u32::from(kind)).short()
        };
        let (start, kind) = (self.start.load(Relaxed), self.kind.load(Relaxed));
        sum(self.states().addr(), start, kind) ^ sum(0, 0, 0)
    }

    /// Whether it is what was written last; without the pool's lock, `false` may also mean that it is being
    /// written.
    #[inline(always)]
    pub(crate) fn is_intact(&self) -> bool {
        agree(self.check.load(Relaxed), self.sum())
    }

    /// What the piece is.
    #[inline(always)]
    pub(crate) fn kind(&self) -> PieceKind {
        PieceKind(self.kind.load(Acquire))
    }

    /// The state bytes of its slab; anything unless it is a slab's piece, or was.
    #[inline(always)]
    pub(crate) fn states(&self) -> *mut u8 {
        self.states.load(Relaxed)
    }

    /// How far into its slab an address of the piece is.
    #[inline(always)]
    pub(crate) fn offset_of(&self, addr: usize) -> u32 {
        self.slab().offset_of(addr)
    }

    /// The slab it belongs to; anything unless it is a slab's piece, or was.
    #[inline(always)]
    pub(crate) fn slab(&self) -> SlabPlace {
        SlabPlace { start: self.start.load(Relaxed), states: self.states() }
    }
}

/// Where a slab is, and where its slots' state bytes are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlabPlace {
    start: u32,
    pub(crate) states: *mut u8,
}

impl SlabPlace {
    /// How far into the slab an address is.
    #[inline(always)]
    pub(crate) fn offset_of(self, addr: usize) -> u32 {
        low_u32(addr).wrapping_sub(self.start)
    }
}

/// Divides offsets by a class's stride: a multiplication by the inverse of its odd part modulo
/// 2^32, and a rotation by its power of two (Granlund and Montgomery, 1994, "Division by invariant
/// integers using multiplication", section 9).
///
/// Multiples of the stride give their quotient. Everything else gives more than the quotient of
/// any multiple, so that one comparison tells both whether an offset is a slot's start and whether
/// that slot is one of its slab's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reciprocal {
    inverse: u32,
    shift: u8,
}

impl Reciprocal {
    /// Adds it to a checksum.
    pub(crate) fn add_to(self, sum: Checksum) -> Checksum {
        sum.add_pair(self.inverse, u32::from(self.shift))
    }

    /// Of a stride in bytes, at least 1.
    pub(crate) const fn of(stride: u32) -> Self {
        let shift = stride.trailing_zeros();
        let odd = stride >> shift;
        // Each step doubles the number of low bits that are right; three of them are at first.
        let mut inverse = odd;
        let mut bits = 3;
        while bits < u32::BITS {
            inverse = inverse.wrapping_mul(2_u32.wrapping_sub(odd.wrapping_mul(inverse)));
            bits *= 2;
        }
        Self { inverse, shift: to_u8(to_usize(shift)) }
    }

    /// The quotient of a multiple of the stride; more than `u32::MAX / stride` for other offsets.
    #[inline(always)]
    pub(crate) fn divide(self, offset: u32) -> u32 {
        offset.wrapping_mul(self.inverse).rotate_right(self.shift.into())
    }
}

/// One region's map: a small value that local caches copy.
///
/// Invariants: `entries` points to an element for each piece in the pool's memory, which stay where they are
/// while there are classes; `origin` is the region's start rounded down to a piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlabMap {
    origin: *mut u8,
    /// Bytes of all pieces; 0 if there is no map yet.
    bytes: usize,
    /// `log2` of the bytes of a piece.
    piece_shift: u32,
    entries: *const PieceEntry,
}

impl SlabMap {
    /// A map of nothing.
    pub(crate) const fn empty() -> Self {
        Self { origin: null_mut(), bytes: 0, piece_shift: 0, entries: core::ptr::null() }
    }

    /// How many pieces of `1 << piece_log2` bytes it takes to cover a region.
    pub(crate) fn pieces_of(region: &Region, piece_log2: u32) -> usize {
        region.end().div_ceil(1 << piece_log2) - (region.start() >> piece_log2)
    }

    /// Bytes of the tables for this many pieces.
    pub(crate) const fn table_bytes(pieces: usize) -> usize {
        pieces * size_of::<PieceEntry>()
    }

    /// Makes the memory at `table`, of which everything from `zeroed_from` on but the last word is zero,
    /// an empty map of `region`. An entry of zeros is one of the heap, and stays untouched.
    ///
    /// # Safety
    /// `table` is aligned to words, valid for `table_bytes(pieces_of(region, piece_log2))` bytes,
    /// and left alone from now on.
    pub(crate) unsafe fn new(
        region: &Region,
        piece_log2: u32,
        (table, zeroed_from): (*mut u8, usize),
    ) -> Self {
        const { assert!(PieceKind::HEAP.0 == 0) };
        let pieces = Self::pieces_of(region, piece_log2);
        let table_bytes = Self::table_bytes(pieces);
        // SAFETY: within the table (caller's promise).
        unsafe { table.write_bytes(0, zeroed_from.min(table_bytes)) };
        // SAFETY: as above; a table has at least one entry, which is more than a word.
        unsafe { table.add(table_bytes - WORD).write_bytes(0, WORD) };
        Self {
            origin: region.origin(1 << piece_log2),
            bytes: pieces << piece_log2,
            piece_shift: piece_log2,
            entries: table.cast::<PieceEntry>(),
        }
    }

    /// Adds it to a checksum.
    pub(crate) fn add_to(&self, sum: Checksum) -> Checksum {
        let sum = sum.add_addr(self.origin).add(self.bytes);
        sum.add_u32(self.piece_shift).add_addr(self.entries)
    }

    /// The memory that the tables are in; null for a map of nothing.
    pub(crate) fn table(&self) -> *mut u8 {
        self.entries.cast_mut().cast()
    }

    /// Whether an address lies in one of its pieces.
    #[inline(always)]
    pub(crate) fn covers(&self, addr: usize) -> bool {
        addr.wrapping_sub(self.origin.addr()) < self.bytes
    }

    /// The piece that an address lies in, if it is one of this map's.
    #[inline(always)]
    pub(crate) fn piece_of(&self, addr: usize) -> Option<&PieceEntry> {
        let piece = addr.wrapping_sub(self.origin.addr()) >> self.piece_shift;
        // SAFETY: the type's invariant.
        self.covers(addr).then(|| unsafe { &*self.entries.add(piece) })
    }

    /// The slab that a piece belongs to; a damaged entry does not lead out of the region. (States in another
    /// one are the engine's matter.)
    #[inline(always)]
    pub(crate) fn slab_of(&self, piece: &PieceEntry) -> Option<SlabPlace> {
        let slab = piece.slab();
        (!Checksum::ON || self.covers(slab.states.addr())).then_some(slab)
    }

    /// The slab that an address lies in, if the map says that it is one of this kind.
    #[inline(always)]
    pub(crate) fn slab_at(&self, addr: usize, kind: PieceKind) -> Option<SlabPlace> {
        let piece = self.piece_of(addr).filter(|piece| piece.kind() == kind)?;
        self.slab_of(piece)
    }

    /// A pointer to an address of the region.
    #[inline(always)]
    pub(crate) fn at(&self, addr: usize) -> *mut u8 {
        self.origin.with_addr(addr)
    }

    /// Records a slab of `pieces` pieces. The caller holds the pool's lock.
    pub(crate) fn set_slab(&self, start: usize, pieces: u32, kind: PieceKind, states: *mut u8) {
        for piece in self.run(start, pieces) {
            piece.states.store(states, Relaxed);
            piece.start.store(low_u32(start), Relaxed);
        }
        self.set_kind(start, pieces, kind);
    }

    /// Records what pieces are. Where their last slab's states were is kept: somebody who checks a
    /// stale pointer without the lock may be about to look there. The caller holds the lock.
    pub(crate) fn set_kind(&self, start: usize, pieces: u32, kind: PieceKind) {
        for piece in self.run(start, pieces) {
            piece.kind.store(kind.0, Release);
            piece.check.store(piece.sum(), Relaxed);
        }
    }

    /// The pieces from an address on, as far as there are any.
    pub(crate) fn run(&self, start: usize, pieces: u32) -> impl Iterator<Item = &PieceEntry> {
        let addrs = (0..to_usize(pieces)).map(move |piece| start + (piece << self.piece_shift));
        addrs.map_while(|addr| self.piece_of(addr))
    }

    /// All pieces, with their addresses.
    pub(crate) fn all(&self) -> impl Iterator<Item = (usize, &PieceEntry)> {
        let pieces = self.bytes >> self.piece_shift;
        let addrs = (0..pieces).map(|piece| self.origin.addr() + (piece << self.piece_shift));
        addrs.filter_map(|addr| Some((addr, self.piece_of(addr)?)))
    }

    /// Whether the byte at an address belongs to a slab.
    #[inline]
    pub(crate) fn is_slab(&self, addr: usize) -> bool {
        self.piece_of(addr).is_some_and(|piece| piece.kind() != PieceKind::HEAP)
    }

    /// Behind the run of slabs that starts at `start`, a multiple of the piece size.
    pub(crate) fn run_end(&self, start: usize) -> usize {
        let mut end = start;
        while self.is_slab(end) {
            end += 1 << self.piece_shift;
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes")]
    fn reciprocals_divide_multiples_and_nothing_else() {
        for stride in (1..300u32).chain([511, 512, 513, 4096, 20_000, 32_768]) {
            let reciprocal = Reciprocal::of(stride);
            for offset in (0..1 << 16).chain(u32::MAX - (1 << 10)..=u32::MAX) {
                let quotient = reciprocal.divide(offset);
                if offset % stride == 0 {
                    assert_eq!(quotient, offset / stride, "{offset} / {stride}");
                } else {
                    assert!(quotient > u32::MAX / stride, "{offset} / {stride}");
                }
            }
        }
    }
}
