//! Numbers that are random enough to make an order hard to guess; nothing for keys.

/// A generator (Marsaglia, 2003, "Xorshift RNGs": both triples have the full period).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(usize);

impl Random {
    const SHIFTS: [u32; 3] = if usize::BITS == 64 { [13, 7, 17] } else { [13, 17, 5] };

    /// A generator that starts from a number other than 0.
    pub(crate) const fn new(seed: usize) -> Self {
        Self(if seed == 0 { 1 } else { seed })
    }

    #[inline]
    pub(crate) const fn next(&mut self) -> usize {
        self.0 ^= self.0 << Self::SHIFTS[0];
        self.0 ^= self.0 >> Self::SHIFTS[1];
        self.0 ^= self.0 << Self::SHIFTS[2];
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_seed_makes_a_generator_that_stands_still() {
        for seed in [0, 1, usize::MAX] {
            let mut random = Random::new(seed);
            assert_ne!(random.next(), random.next(), "{seed}");
        }
    }
}
