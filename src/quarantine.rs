#![allow(unsafe_code)] // keeps its ring in the region
//! The quarantine: where what was freed waits before it can be handed out again.
//!
//! ```text
//! places:  [ .. ][ oldest ][      ][      ][ newest ][ .. ]
//!                  ^ one of the older half leaves ^ the next one comes in
//! ```
//!
//! A ring of bounded length, whose contents are bounded in bytes too. What leaves is a random one of
//! the older half: the oldest takes its place. So everything waits for at least half as many frees as
//! the ring has places, unless its bytes are needed sooner, and nobody can tell for how many.

use crate::{checksum::Checksum, random::Random};

/// What can wait.
pub(crate) trait Waits: Copy {
    /// Bytes of memory that wait with it.
    fn bytes(&self) -> usize;
}

/// The part of the regions that may wait in one quarantine.
const SHARE: usize = 64;

/// The least that may wait, in bytes, whatever the share.
const LEAST_BYTES: usize = 256;

/// Places of a quarantine, at least and at most. Powers of two, as all numbers of places.
const PLACES: [usize; 2] = [4, 256];

/// Bytes that may wait for each place: more places would stay empty but for the smallest objects.
const BYTES_PER_PLACE: usize = 64;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// A power of two, or 0.
    places: usize,
    bytes: usize,
}

impl Bounds {
    /// Nothing.
    pub(crate) const NOTHING: Self = Self { places: 0, bytes: 0 };

    /// What suits a pool whose regions have this many bytes.
    pub(crate) const fn of(region_bytes: usize) -> Self {
        let share = region_bytes / SHARE;
        let bytes = if share < LEAST_BYTES { LEAST_BYTES } else { share };
        let [least, most] = PLACES;
        let mut places = least;
        while places < most && places * BYTES_PER_PLACE < bytes {
            places *= 2;
        }
        Self { places, bytes }
    }

    /// Whether nothing may wait.
    pub(crate) const fn is_nothing(self) -> bool {
        self.places == 0
    }

    /// Adds them to a checksum.
    #[inline]
    pub(crate) fn add_to(self, sum: Checksum) -> Checksum {
        sum.add(self.places).add(self.bytes)
    }

    /// Bytes of a ring for this much.
    pub(crate) const fn ring_bytes<T>(self) -> usize {
        self.places * size_of::<T>()
    }
}

/// A ring of what waits.
///
/// Invariants: `ring` points to `bounds.places` places that are this value's alone; the `len` from
/// `first` on, around the end, are initialised.
#[derive(Debug)]
pub(crate) struct Quarantine<T> {
    ring: *mut T,
    bounds: Bounds,
    first: usize,
    len: usize,
    bytes: usize,
}

impl<T: Waits> Quarantine<T> {
    /// One that nothing waits in.
    pub(crate) const NONE: Self = Self {
        ring: core::ptr::dangling_mut(),
        bounds: Bounds::NOTHING,
        first: 0,
        len: 0,
        bytes: 0,
    };

    /// An empty one.
    ///
    /// # Safety
    /// `ring` is aligned for `T`, valid for `bounds.ring_bytes::<T>()` bytes, and left alone from now on.
    pub(crate) unsafe fn new(ring: *mut u8, bounds: Bounds) -> Self {
        Self { ring: ring.cast(), bounds, ..Self::NONE }
    }

    /// What of it never changes: where its ring is, and how much may wait.
    ///
    /// # Safety
    /// There is one, to whose other parts its owner may be writing.
    #[inline]
    pub(crate) unsafe fn fixed(quarantine: *const Self) -> (*mut T, Bounds) {
        // SAFETY: the caller's promise.
        unsafe { ((*quarantine).ring, (*quarantine).bounds) }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        if cfg!(feature = "flags") { self.len } else { 0 }
    }

    /// Bytes of what waits.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether something of this many bytes can wait here at all.
    #[inline]
    pub(crate) fn holds(&self, bytes: usize) -> bool {
        bytes <= self.bounds.bytes && self.bounds.places > 0
    }

    /// The place of what came in `age` places behind the oldest.
    #[inline]
    fn place(&self, age: usize) -> *mut T {
        let index = (self.first + age) & self.bounds.places.wrapping_sub(1);
        self.ring.wrapping_add(index)
    }

    /// What came in `age` places behind the oldest.
    ///
    /// # Safety
    /// There is one.
    #[inline]
    unsafe fn get(&self, age: usize) -> T {
        // SAFETY: the type's invariant, and the caller's promise.
        unsafe { self.place(age).read() }
    }

    /// Lets something in that can wait here. Returns what leaves for it, if its place is needed.
    #[inline]
    pub(crate) fn admit(&mut self, item: T, random: &mut Random) -> Option<T> {
        debug_assert!(self.holds(item.bytes()));
        let is_full = self.len >= self.bounds.places;
        let left = if is_full { self.take_one(random) } else { None };
        // SAFETY: the type's invariant: there is a place behind the last.
        unsafe { self.place(self.len).write(item) };
        self.len += 1;
        self.bytes = self.bytes.wrapping_add(item.bytes());
        left
    }

    /// Whether more bytes wait than may.
    #[inline]
    pub(crate) fn has_surplus(&self) -> bool {
        self.bytes > self.bounds.bytes
    }

    /// Takes what has to leave because more bytes wait than may, if something has.
    #[inline]
    pub(crate) fn take_surplus(&mut self, random: &mut Random) -> Option<T> {
        if self.has_surplus() { self.take_one(random) } else { None }
    }

    /// Takes one of the older half.
    #[inline]
    fn take_one(&mut self, random: &mut Random) -> Option<T> {
        let chosen = random.next() & (self.bounds.places / 2).wrapping_sub(1);
        if chosen == 0 || chosen * 2 > self.len {
            return self.take_oldest();
        }
        // SAFETY: `chosen` is less than `len`.
        let left = unsafe { self.get(chosen) };
        let oldest = self.take_oldest()?;
        // SAFETY: the place of what leaves, now one nearer to the oldest.
        unsafe { self.place(chosen - 1).write(oldest) };
        self.bytes = self.bytes.wrapping_add(oldest.bytes()).wrapping_sub(left.bytes());
        Some(left)
    }

    /// Takes what has waited longest.
    pub(crate) fn take_oldest(&mut self) -> Option<T> {
        if self.len() == 0 {
            return None;
        }
        // Only damage makes more of them than there are places.
        self.len = self.len.min(self.bounds.places);
        // SAFETY: there is one.
        let oldest = unsafe { self.get(0) };
        self.first = (self.first + 1) & (self.bounds.places - 1);
        self.len -= 1;
        self.bytes = self.bytes.wrapping_sub(oldest.bytes());
        Some(oldest)
    }

    /// What waits, the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = T> {
        // SAFETY: there are `len`.
        (0..self.len()).map(|age| unsafe { self.get(age) })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{vec, vec::Vec};

    use super::*;

    impl Waits for usize {
        fn bytes(&self) -> usize {
            *self % 100
        }
    }

    fn in_quarantine(region_bytes: usize, check: impl FnOnce(Quarantine<usize>, Bounds)) {
        let bounds = Bounds::of(region_bytes);
        let mut memory = vec![0_usize; bounds.places];
        // SAFETY: the vector has that many places, and outlives the quarantine.
        check(unsafe { Quarantine::new(memory.as_mut_ptr().cast(), bounds) }, bounds);
    }

    #[test]
    fn everything_waits_for_half_the_places_at_least_and_leaves_once() {
        in_quarantine(1 << 20, |mut quarantine, bounds| {
            let mut random = Random::new(7);
            let (mut left, mut in_order) = (Vec::new(), 0);
            for number in 0..5000_usize {
                // Each weighs one byte.
                let item = number * 100 + 1;
                if let Some(out) = quarantine.admit(item, &mut random) {
                    let waited = number - out / 100;
                    assert!(waited >= bounds.places / 2, "{waited}");
                    in_order += usize::from(waited == bounds.places);
                    left.push(out);
                }
                assert_eq!(quarantine.bytes(), quarantine.len());
            }
            assert!(in_order < left.len() / 10, "{in_order} left when their turn had come");
            left.extend(std::iter::from_fn(|| quarantine.take_oldest()));
            left.sort_unstable();
            assert!(left.into_iter().eq((0..5000).map(|number| number * 100 + 1)));
        });
    }

    #[test]
    fn bytes_are_bounded_too() {
        in_quarantine(4 << 10, |mut quarantine, bounds| {
            let mut random = Random::new(7);
            for item in 1..3000_usize {
                assert!(quarantine.holds(item.bytes()));
                quarantine.admit(item, &mut random);
                while quarantine.take_surplus(&mut random).is_some() {}
                assert_eq!(quarantine.iter().last(), Some(item));
                let sum: usize = quarantine.iter().map(|item| item.bytes()).sum();
                assert_eq!(quarantine.bytes(), sum);
                assert!(sum <= bounds.bytes && quarantine.len() <= bounds.places);
            }
        });
    }

    #[test]
    fn nothing_waits_where_there_is_no_place() {
        assert!(!Quarantine::<usize>::NONE.holds(0));
        assert_eq!(Bounds::of(0).places, 4);
        assert_eq!(Bounds::of(1 << 30).places, 256);
        assert!((10..40).all(|log2| Bounds::of(1 << log2).places.is_power_of_two()));
    }
}
