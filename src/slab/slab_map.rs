#![allow(unsafe_code)] // reads the map, which lies in the region
//! The slab map: what is this address?
//!
//! A region is counted off in *pieces*, equal powers of two. The map has one byte per piece: 0 for
//! the heap, else a class's number plus one. Beside it stands, for each piece of a slab, where
//! that slab starts and where its slots' state bytes are. A slot's *number* is its offset in
//! granules, 32 bits wide; each region has a window of numbers of its own.
//!
//! Readers need no lock: all of it is read and written atomically, and what is said of a piece
//! cannot change while one of its slots is in somebody's hands.

use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering::Relaxed};

use crate::{
    region::Region,
    units::{Granule, low_u32, to_usize},
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

    /// The class whose slab the piece belongs to, if any.
    #[inline]
    pub(crate) const fn as_class(self) -> Option<u8> {
        self.0.checked_sub(1)
    }
}

/// Where the slab of a piece starts, and where its state bytes are.
#[derive(Debug)]
pub(crate) struct PieceEntry {
    states: AtomicPtr<u8>,
    start: AtomicU32,
}

/// Divides an offset by a class's stride, exactly, by multiplication (Lemire, Kaser, Kurz, 2019,
/// "Faster remainder by direct computation"), with 31 fractional bits.
///
/// Exact for offsets below `2^31 / stride`, which [`Reciprocal::covers`] tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reciprocal(u32);

const FRACTION: u32 = 31;

#[expect(clippy::cast_possible_truncation, reason = "31-bit quotients")]
impl Reciprocal {
    /// Of a stride in granules, at least 1.
    pub(crate) const fn of(stride: u32) -> Self {
        Self((1_u64 << FRACTION).div_ceil(stride as u64) as u32)
    }

    /// Whether division is exact for all offsets up to `offsets`.
    pub(crate) const fn covers(stride: u32, offsets: u32) -> bool {
        (stride as u64) * (offsets as u64) < 1 << FRACTION
    }

    /// The quotient; garbage for offsets that are not covered.
    #[inline]
    pub(crate) const fn divide(self, offset: u32) -> u32 {
        ((offset as u64 * self.0 as u64) >> FRACTION) as u32
    }

    /// The quotient if the offset is a multiple of the stride.
    #[inline]
    pub(crate) const fn divide_exactly(self, offset: u32) -> Option<u32> {
        let product = offset as u64 * self.0 as u64;
        if product & ((1 << FRACTION) - 1) < self.0 as u64 {
            Some((product >> FRACTION) as u32)
        } else {
            None
        }
    }
}

/// One region's map: a small value that local caches copy.
///
/// Invariants: `kinds` and `entries` point to `pieces` elements in the pool's memory, which stay
/// where they are while the pool lives; `origin` is the region's start rounded down to a piece. An
/// entry means something once its piece has been a slab's: for most of a large region it is never
/// touched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlabMap {
    origin: *mut u8,
    /// Granules from the origin to the region's end; 0 if there is no map yet.
    units: usize,
    granule_shift: u32,
    piece_shift: u32,
    /// Number of the slot that would start at the origin.
    first_number: u32,
    kinds: *const AtomicU8,
    entries: *const PieceEntry,
}

impl SlabMap {
    /// A map of nothing.
    pub(crate) const fn empty() -> Self {
        Self {
            origin: core::ptr::null_mut(),
            units: 0,
            granule_shift: 0,
            piece_shift: 0,
            first_number: 0,
            kinds: core::ptr::null(),
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
        pieces * (size_of::<PieceEntry>() + 1)
    }

    /// Makes the memory at `table` an empty map of `region`.
    ///
    /// # Safety
    /// `table` is aligned to words, valid for `table_bytes(pieces_of(region, piece_log2))` bytes,
    /// and left alone from now on.
    pub(crate) unsafe fn new(
        region: &Region,
        granule: Granule,
        piece_log2: u32,
        first_number: u32,
        table: *mut u8,
    ) -> Self {
        let pieces = Self::pieces_of(region, piece_log2);
        let entries = table.cast::<PieceEntry>();
        // SAFETY: the kinds lie behind the entries in the same table.
        let kinds = unsafe { entries.add(pieces) }.cast::<AtomicU8>();
        // SAFETY: they lie in the table (caller's promise); bytes are valid for the atomics.
        unsafe { kinds.cast::<u8>().write_bytes(PieceKind::HEAP.0, pieces) };
        Self {
            origin: region.origin(1 << piece_log2),
            units: Self::units_of(region, piece_log2, granule),
            granule_shift: granule.shift(),
            piece_shift: piece_log2 - granule.shift(),
            first_number,
            kinds,
            entries,
        }
    }

    /// The memory that the tables are in; null for a map of nothing.
    pub(crate) fn table(&self) -> *mut u8 {
        self.entries.cast_mut().cast()
    }

    /// The number of the slot at an address, if the address is a whole number of granules into
    /// this map's region. One comparison: rotating puts misaligned low bits on top.
    #[inline(always)]
    pub(crate) fn number_of(&self, addr: usize) -> Option<u32> {
        let unit = addr.wrapping_sub(self.origin.addr()).rotate_right(self.granule_shift);
        (unit < self.units).then(|| self.first_number.wrapping_add(low_u32(unit)))
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

    #[inline(always)]
    fn piece(&self, number: u32) -> usize {
        to_usize(self.unit(number) >> self.piece_shift)
    }

    /// The address of a slot.
    #[inline(always)]
    pub(crate) fn pointer(&self, number: u32) -> *mut u8 {
        self.origin.wrapping_add(to_usize(self.unit(number)) << self.granule_shift)
    }

    /// What the piece of a slot is. The number must be in this map's window.
    #[inline(always)]
    pub(crate) fn kind(&self, number: u32) -> PieceKind {
        // SAFETY: type invariant; the window has a piece for each of its numbers.
        PieceKind(unsafe { &*self.kinds.add(self.piece(number)) }.load(Relaxed))
    }

    #[inline(always)]
    fn entry(&self, number: u32) -> &PieceEntry {
        // SAFETY: as in `kind`; the entries are never moved or freed while the pool lives.
        unsafe { &*self.entries.add(self.piece(number)) }
    }

    /// The state bytes of the slab that a slot belongs to, and the slot's offset in it in granules.
    /// Garbage unless its piece is a slab's, or was.
    #[inline(always)]
    pub(crate) fn slab(&self, number: u32) -> (*mut u8, u32) {
        let entry = self.entry(number);
        let offset = self.unit(number).wrapping_sub(entry.start.load(Relaxed));
        (entry.states.load(Relaxed), offset)
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
            // SAFETY: type invariant, as in `kind`.
            unsafe { &*self.kinds.add(self.piece(number)) }.store(kind.0, Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reciprocals_divide_exactly_within_their_cover() {
        for stride in (1..300u32).chain([511, 512, 513, 4096, 20_000]) {
            let reciprocal = Reciprocal::of(stride);
            let offsets = (1u32 << 16).min((1 << 30) / stride);
            assert!(Reciprocal::covers(stride, offsets));
            for offset in 0..offsets {
                assert_eq!(reciprocal.divide(offset), offset / stride, "{offset} / {stride}");
                let exact = (offset % stride == 0).then_some(offset / stride);
                assert_eq!(reciprocal.divide_exactly(offset), exact, "{offset} / {stride}");
            }
        }
    }
}
