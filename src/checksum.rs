//! Checksums of the pool's own tables, which change on slow ways only.
//!
//! Whoever is about to rely on a table verifies it first. So links and numbers in it are the pool's own
//! as well: what they lead to exists, and is verified in turn before it is followed further. The first
//! link of each chain is in the pool's handle, which lies in none of its regions.
//!
//! Without the feature `checksums` all sums are the same number, and nothing is verified.

use crate::units::{high_u16, low_u32, to_usize};

/// A checksum while words are added to it.
///
/// Each step is a bijection of the sum so far, so that a change in one word never cancels out. The
/// rotation brings high bits, which a multiplication leaves alone, down to where it mixes them: so of two
/// flipped bits only a word's top one and a certain one of the next word cancel out.
#[derive(Clone, Copy)]
pub(crate) struct Checksum(usize);

impl Checksum {
    /// As in the checksums of block tags.
    #[expect(clippy::cast_possible_truncation, reason = "32-bit targets use the high half")]
    const MULTIPLIER: usize =
        if usize::BITS == 64 { 0x9E37_79B9_7F4A_7C15_u64 as usize } else { 0x9E37_79B1 };

    const ROTATION: u32 = usize::BITS / 2 - 3;

    /// Whether there are any.
    pub(crate) const ON: bool = cfg!(feature = "checksums");

    /// Of nothing yet. Memory full of zeros does not pass for something.
    pub(crate) const NONE: Self = Self(Self::MULTIPLIER);

    /// Adds a word.
    #[inline]
    pub(crate) fn add(self, word: usize) -> Self {
        if !Self::ON {
            return self;
        }
        Self((self.0 ^ word).wrapping_mul(Self::MULTIPLIER).rotate_left(Self::ROTATION))
    }

    /// Adds an address.
    #[inline]
    pub(crate) fn add_addr<T>(self, pointer: *const T) -> Self {
        self.add(pointer.addr())
    }

    /// Adds a number.
    #[inline]
    pub(crate) fn add_u32(self, number: u32) -> Self {
        self.add(to_usize(number))
    }

    /// Adds two numbers, in one word where it has room for them.
    #[inline]
    pub(crate) fn add_pair(self, low: u32, high: u32) -> Self {
        if usize::BITS == 64 {
            return self.add(to_usize(low) | to_usize(high).rotate_right(32));
        }
        self.add_u32(low).add_u32(high)
    }

    /// The sum.
    #[inline]
    pub(crate) fn sum(self) -> u32 {
        if !Self::ON {
            return 0;
        }
        low_u32(self.0.wrapping_mul(Self::MULTIPLIER) >> (usize::BITS - u32::BITS))
    }

    /// Half of the sum.
    #[inline]
    pub(crate) fn short(self) -> u16 {
        high_u16(self.sum())
    }
}

/// Whether a checksum is what was written.
#[inline(always)]
pub(crate) fn agree<T: Copy + PartialEq>(written: T, sum: T) -> bool {
    !Checksum::ON || written == sum
}

/// What has a checksum.
pub(crate) trait Summed {
    /// Adds everything that the pool relies on.
    fn add_to(&self, sum: Checksum) -> Checksum;
}

/// A value with its checksum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checked<T> {
    value: T,
    sum: u32,
}

impl<T: Summed> Checked<T> {
    pub(crate) fn new(value: T) -> Self {
        let sum = sum_of(&value);
        Self { value, sum }
    }

    /// The value, if it is what was written last.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        agree(self.sum, sum_of(&self.value)).then_some(&self.value)
    }

    /// Changes the value, if it is what was written last.
    #[inline]
    pub(crate) fn edit<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        if !agree(self.sum, sum_of(&self.value)) {
            return None;
        }
        let result = change(&mut self.value);
        self.sum = sum_of(&self.value);
        Some(result)
    }
}

fn sum_of(value: &impl Summed) -> u32 {
    value.add_to(Checksum::NONE).sum()
}

#[cfg(all(test, feature = "checksums"))]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes")]
    fn two_flipped_bits_are_found_but_for_one_pair() {
        let sum = |words: [usize; 3]| words.into_iter().fold(Checksum::NONE, Checksum::add).sum();
        let words = [1, 0, usize::MAX];
        let whole = sum(words);
        let bits = 3 * usize::BITS;
        let flip = |words: &mut [usize; 3], bit: u32| {
            words[(bit / usize::BITS) as usize] ^= 1 << (bit % usize::BITS);
        };
        for first in 0..bits {
            for second in first..bits {
                let mut flipped = words;
                flip(&mut flipped, first);
                if second != first {
                    flip(&mut flipped, second);
                }
                let cancels =
                    first % usize::BITS == usize::BITS - 1 && second == first + Checksum::ROTATION;
                assert_eq!(sum(flipped) == whole, cancels, "{first} {second}");
            }
        }
    }
}
