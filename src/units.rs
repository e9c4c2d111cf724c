//! Casts and rounding: every conversion between bytes, granules and table indices lives here.

/// Size of one machine word: the header of a heap block.
pub(crate) const WORD: usize = size_of::<usize>();

/// Smallest granule: 16 bytes on 64-bit targets, 8 on 32-bit ones (`max_align_t` of their C ABIs).
pub(crate) const MIN_GRANULE: usize = 2 * WORD;

/// Rounds `n` up to a multiple of the power of two `align`; `None` on overflow.
#[inline]
pub(crate) const fn round_up(n: usize, align: usize) -> Option<usize> {
    debug_assert!(align.is_power_of_two());
    match n.checked_add(align - 1) {
        Some(sum) => Some(sum & !(align - 1)),
        None => None,
    }
}

/// Rounds `n` down to a multiple of the power of two `align`.
#[inline]
pub(crate) const fn round_down(n: usize, align: usize) -> usize {
    debug_assert!(align.is_power_of_two());
    n & !(align - 1)
}

/// `⌊log2 n⌋` as an index; `n` must not be zero.
#[inline]
pub(crate) const fn floor_log2(n: usize) -> usize {
    debug_assert!(n != 0);
    to_usize(n.ilog2())
}

/// `⌈log2 n⌉` as an index; `n` must not be zero.
#[inline]
pub(crate) const fn ceil_log2(n: usize) -> usize {
    if n <= 1 { 0 } else { floor_log2(n - 1) + 1 }
}

/// Widens; every target has at least 32-bit pointers.
#[inline]
pub(crate) const fn to_usize(n: u32) -> usize {
    const { assert!(usize::BITS >= u32::BITS, "pointers of at least 32 bits") };
    n as usize
}

/// Narrows a count that is known to fit, saturating where a caller breaks that promise.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "checked against the maximum first")]
pub(crate) const fn to_u32(n: usize) -> u32 {
    debug_assert!(n <= u32::MAX as usize);
    if n > u32::MAX as usize { u32::MAX } else { n as u32 }
}

/// The low 32 bits of `n`, the rest dropped on purpose.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "dropping the high bits is the purpose")]
pub(crate) const fn low_u32(n: usize) -> u32 {
    n as u32
}

/// The low 16 bits of `n`, the rest dropped on purpose.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "dropping the high bits is the purpose")]
pub(crate) const fn low_u16(n: usize) -> u16 {
    n as u16
}

/// The low 32 bits of `n`.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "dropping the high bits is the purpose")]
pub(crate) const fn low_half(n: u64) -> u32 {
    n as u32
}

/// The high 32 bits of `n`.
#[inline]
pub(crate) const fn high_u32(n: u64) -> u32 {
    (n >> 32) as u32
}

/// The high 16 bits of `n`.
#[inline]
pub(crate) const fn high_u16(n: u32) -> u16 {
    (n >> 16) as u16
}

/// Narrows a value that is known to fit, saturating where a caller breaks that promise.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "checked against the maximum first")]
pub(crate) const fn to_u16(n: usize) -> u16 {
    debug_assert!(n <= u16::MAX as usize);
    if n > u16::MAX as usize { u16::MAX } else { n as u16 }
}

/// Narrows a value that is known to fit, saturating where a caller breaks that promise.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "checked against the maximum first")]
pub(crate) const fn to_u8(n: usize) -> u8 {
    debug_assert!(n <= u8::MAX as usize);
    if n > u8::MAX as usize { u8::MAX } else { n as u8 }
}

/// The low word of a key that is configured as 64 bits on every target.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "a 32-bit target folds both halves first")]
pub(crate) const fn fold_key(key: u64) -> usize {
    if usize::BITS == 64 { key as usize } else { (key ^ (key >> 32)) as usize }
}

/// A pool's granule: the unit of heap sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granule {
    shift: u32,
    bytes: usize,
}

impl Granule {
    /// The granule for blocks aligned to `alignment`, a power of two.
    pub(crate) const fn new(alignment: usize) -> Self {
        let bytes = if alignment < MIN_GRANULE { MIN_GRANULE } else { alignment };
        Self { shift: bytes.ilog2(), bytes }
    }

    /// The granule's size in bytes.
    #[inline]
    pub(crate) const fn bytes(self) -> usize {
        self.bytes
    }

    /// `log2` of the size in bytes.
    #[inline]
    pub(crate) const fn shift(self) -> u32 {
        self.shift
    }

    /// Rounds a byte count up to whole granules, in bytes; `None` on overflow.
    #[inline]
    pub(crate) const fn round_up(self, bytes: usize) -> Option<usize> {
        round_up(bytes, self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_exact_and_reports_overflow() {
        assert_eq!(round_up(0, 16), Some(0));
        assert_eq!(round_up(1, 16), Some(16));
        assert_eq!(round_up(16, 16), Some(16));
        assert_eq!(round_up(usize::MAX, 16), None);
        assert_eq!(round_down(31, 16), 16);
    }

    #[test]
    fn logarithms_bracket_their_argument() {
        for n in 1..5000usize {
            assert!(1 << floor_log2(n) <= n && n < 2 << floor_log2(n));
            assert!(n <= 1 << ceil_log2(n));
        }
    }

    #[test]
    fn granule_never_falls_below_the_minimum() {
        assert_eq!(Granule::new(1).bytes(), MIN_GRANULE);
        assert_eq!(Granule::new(64).bytes(), 64);
        assert_eq!(Granule::new(64).round_up(65), Some(128));
    }
}
