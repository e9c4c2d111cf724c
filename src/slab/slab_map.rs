#![allow(unsafe_code)] // reads the map, which lies in the region
//! The slab map: what is this address?
//!
//! A region is counted off in *pieces*, equal powers of two. The map has an entry for each: a byte
//! that is 0 for the heap, else a class's number plus one, and beside it, for a piece of a slab,
//! where that slab starts and where its slots' state bytes are. A slot's *number* is its offset in
//! granules, 32 bits wide; each region has a window of numbers of its own.
//!
//! Readers need no lock: all of it is read and written atomically, and what is said of a piece
//! cannot change while one of its slots is in somebody's hands.

use core::{
    ptr::null_mut,
    sync::atomic::{
        AtomicPtr, AtomicU8, AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use crate::{
    config::{ClassId, MAX_CLASSES},
    region::Region,
    units::{Granule, WORD, low_u32, to_u8, to_usize},
};

/// What a piece's byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PieceKind(pub(crate) u8);

impl PieceKind {
    pub(crate) const HEAP: Self = Self(0);

    /// Part of a slab of this class.
    #[inline]
    pub(crate) const fn class(number: u8) -> Self {
        // The one number that wraps around is no class, and nobody asks further.
        Self(number.wrapping_add(1))
    }

    /// The class whose slab the piece belongs to, or a number that no class has.
    #[inline(always)]
    pub(crate) const fn class_or_none(self) -> ClassId {
        const { assert!(MAX_CLASSES < u8::MAX as usize) };
        ClassId(self.0.wrapping_sub(1))
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
    start: AtomicU32,
    kind: AtomicU8,
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
    /// Of a stride in granules, at least 1.
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
/// Invariants: `entries` points to an element for each piece in the pool's memory, which stay where
/// they are while the pool lives; `origin` is the region's start rounded down to a piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlabMap {
    origin: *mut u8,
    /// Granules from the origin to the region's end; 0 if there is no map yet.
    units: usize,
    granule_shift: u32,
    piece_shift: u32,
    /// Number of the slot that would start at the origin.
    first_number: u32,
    entries: *const PieceEntry,
}

impl SlabMap {
    /// A map of nothing.
    pub(crate) const fn empty() -> Self {
        Self {
            origin: null_mut(),
            units: 0,
            granule_shift: 0,
            piece_shift: 0,
            first_number: 0,
            entries: core::ptr::null(),
        }
    }

    /// How many pieces of `1 << piece_log2` bytes it takes to cover a region.
    pub(crate) fn pieces_of(region: &Region, piece_log2: u32) -> usize {
        region.end().div_ceil(1 << piece_log2) - (region.start() >> piece_log2)
    }

    /// How many granules there are from a region's origin to its end: its window of slot numbers.
    pub(crate) fn units_of(region: &Region, piece_log2: u32, granule: Granule) -> usize {
        let origin = (region.start() >> piece_log2) << piece_log2;
        (region.end() - origin) >> granule.shift()
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
        granule: Granule,
        piece_log2: u32,
        first_number: u32,
        (table, zeroed_from): (*mut u8, usize),
    ) -> Self {
        const { assert!(PieceKind::HEAP.0 == 0) };
        let bytes = Self::table_bytes(Self::pieces_of(region, piece_log2));
        // SAFETY: within the table (caller's promise).
        unsafe { table.write_bytes(0, zeroed_from.min(bytes)) };
        // SAFETY: as above; a table has at least one entry, which is more than a word.
        unsafe { table.add(bytes - WORD).write_bytes(0, WORD) };
        let entries = table.cast::<PieceEntry>();
        Self {
            origin: region.origin(1 << piece_log2),
            units: Self::units_of(region, piece_log2, granule),
            granule_shift: granule.shift(),
            piece_shift: piece_log2 - granule.shift(),
            first_number,
            entries,
        }
    }

    /// The memory that the tables are in; null for a map of nothing.
    pub(crate) fn table(&self) -> *mut u8 {
        self.entries.cast_mut().cast()
    }

    /// The number of the slot at an address, if the address is a whole number of granules into
    /// this map's region.
    #[inline(always)]
    pub(crate) fn number_of(&self, addr: usize) -> Option<u32> {
        self.unit_of(addr).map(|unit| self.first_number.wrapping_add(unit))
    }

    /// Whether its window begins at 0, as the first region's does: a slot's number is its unit then.
    pub(crate) fn is_first(&self) -> bool {
        self.first_number == 0
    }

    /// Which granule of this map's region an address is the start of. One comparison: rotating puts
    /// misaligned low bits on top.
    #[inline(always)]
    pub(crate) fn unit_of(&self, addr: usize) -> Option<u32> {
        let unit = addr.wrapping_sub(self.origin.addr()).rotate_right(self.granule_shift);
        (unit < self.units).then(|| low_u32(unit))
    }

    /// Whether there is such a unit.
    #[inline(always)]
    pub(crate) fn is_unit(&self, number: u32) -> bool {
        to_usize(number) < self.units
    }

    /// The address of a unit.
    #[inline(always)]
    pub(crate) fn address(&self, unit: u32) -> *mut u8 {
        self.origin.wrapping_add(to_usize(unit) << self.granule_shift)
    }

    #[inline(always)]
    fn entry_of(&self, unit: u32) -> &PieceEntry {
        debug_assert!(self.is_unit(unit));
        // SAFETY: type invariant; each unit of the map has a piece.
        unsafe { &*self.entries.add(to_usize(unit >> self.piece_shift)) }
    }

    /// What the piece of a unit is.
    #[inline(always)]
    pub(crate) fn kind_at(&self, unit: u32) -> PieceKind {
        PieceKind(self.entry_of(unit).kind.load(Acquire))
    }

    /// The state bytes of the slab that a unit belongs to, and its offset there in granules. Garbage
    /// unless its piece is a slab's, or was.
    #[inline(always)]
    pub(crate) fn slab_at(&self, unit: u32) -> (*mut u8, u32) {
        let entry = self.entry_of(unit);
        (entry.states.load(Relaxed), unit.wrapping_sub(entry.start.load(Relaxed)))
    }

    /// Whether a slot number is in this map's window.
    #[inline(always)]
    pub(crate) fn has(&self, number: u32) -> bool {
        to_usize(number.wrapping_sub(self.first_number)) < self.units
    }

    #[inline(always)]
    fn unit(&self, number: u32) -> u32 {
        debug_assert!(self.has(number));
        number.wrapping_sub(self.first_number)
    }

    /// The address of a slot.
    #[inline(always)]
    pub(crate) fn pointer(&self, number: u32) -> *mut u8 {
        self.address(self.unit(number))
    }

    /// What the piece of a slot is. The number must be in this map's window.
    #[inline(always)]
    pub(crate) fn kind(&self, number: u32) -> PieceKind {
        self.kind_at(self.unit(number))
    }

    #[inline(always)]
    fn entry(&self, number: u32) -> &PieceEntry {
        self.entry_of(self.unit(number))
    }

    /// The state bytes of the slab that a slot belongs to, and the slot's offset in it in granules.
    #[inline(always)]
    pub(crate) fn slab(&self, number: u32) -> (*mut u8, u32) {
        self.slab_at(self.unit(number))
    }

    /// Looks up units one after the other.
    pub(crate) fn scan(&self) -> Scan<'_> {
        Scan { map: self, piece: u32::MAX, kind: PieceKind::HEAP, start: 0, states: null_mut() }
    }

    /// Records a slab of `pieces` pieces whose first slot has this number. The caller holds the
    /// pool's lock.
    pub(crate) fn set_slab(&self, number: u32, pieces: u32, kind: PieceKind, states: *mut u8) {
        let start = self.unit(number);
        for number in self.piece_run(number, pieces) {
            let entry = self.entry(number);
            entry.states.store(states, Relaxed);
            entry.start.store(start, Relaxed);
        }
        self.set_kind(number, pieces, kind);
    }

    /// Records what pieces are. Where their last slab's states were is kept: somebody who checks a
    /// stale pointer without the lock may be about to look there. The caller holds the lock.
    pub(crate) fn set_kind(&self, number: u32, pieces: u32, kind: PieceKind) {
        for number in self.piece_run(number, pieces) {
            self.entry(number).kind.store(kind.0, Release);
        }
    }

    fn piece_run(&self, number: u32, pieces: u32) -> impl Iterator<Item = u32> + use<> {
        let shift = self.piece_shift;
        (0..pieces).map(move |piece| number.wrapping_add(piece << shift))
    }

    /// For each piece, the number of the slot that would start there.
    pub(crate) fn piece_numbers(&self) -> impl Iterator<Item = u32> + use<> {
        let first = self.first_number;
        let units = (0..self.units).step_by(1 << self.piece_shift);
        units.map(move |unit| first.wrapping_add(low_u32(unit)))
    }

    /// Whether the byte at an address belongs to a slab.
    #[inline]
    pub(crate) fn is_slab(&self, addr: usize) -> bool {
        let granule = 1 << self.granule_shift;
        self.number_of(crate::units::round_down(addr, granule))
            .is_some_and(|number| self.kind(number) != PieceKind::HEAP)
    }

    /// Behind the run of slabs that starts at `start`, a multiple of the piece size.
    pub(crate) fn run_end(&self, start: usize) -> usize {
        let mut end = start;
        while self.is_slab(end) {
            end += 1 << (self.piece_shift + self.granule_shift);
        }
        end
    }
}

/// A map that is asked about many units: of those that lie in one piece it looks up the first.
pub(crate) struct Scan<'m> {
    map: &'m SlabMap,
    /// The piece that was looked up last.
    piece: u32,
    kind: PieceKind,
    start: u32,
    states: *mut u8,
}

impl Scan<'_> {
    /// What the piece of a unit is, the state bytes of its slab, and its offset there in granules.
    #[inline(always)]
    pub(crate) fn slab_at(&mut self, unit: u32) -> (PieceKind, *mut u8, u32) {
        let piece = unit >> self.map.piece_shift;
        if piece != self.piece {
            let entry = self.map.entry_of(unit);
            self.piece = piece;
            self.kind = PieceKind(entry.kind.load(Acquire));
            self.start = entry.start.load(Relaxed);
            self.states = entry.states.load(Relaxed);
        }
        (self.kind, self.states, unit.wrapping_sub(self.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
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
