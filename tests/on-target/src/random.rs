//! Random numbers that are the same in every run.

/// The generator `xorshift32` (Marsaglia 2003).
pub struct Random(u32);

impl Random {
    /// Starts from a seed that is not zero.
    pub const fn new(seed: u32) -> Self {
        assert!(seed != 0, "zero would stay zero");
        Self(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        // The high bits are the better ones.
        (self.0 >> 8) as usize % bound
    }
}
