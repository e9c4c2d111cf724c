//! Flags that trade speed for stronger guarantees, pool by pool.

bitflags::bitflags! {
    /// What a pool does beyond its default checks.
    ///
    /// The default, empty, already checks every free (see [`Pool::free`](crate::Pool::free)). What
    /// these flags ask for costs a pass over the block, and one test per operation where they are
    /// not set.
    ///
    /// ```
    /// use libmempool::PoolFlags;
    /// let flags = PoolFlags::ZERO_ON_ALLOC | PoolFlags::ZERO_ON_FREE;
    /// assert!(flags.contains(PoolFlags::ZERO_ON_FREE));
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct PoolFlags: u32 {
        /// Every allocation is zeroed up to its usable size, whichever call made it, and so is what a
        /// block grows by where it is.
        const ZERO_ON_ALLOC = 1 << 0;
        /// A block's contents are zeroed when it is freed: nothing of a packet or a key stays. A
        /// block that shrinks where it is keeps its usable size until then.
        const ZERO_ON_FREE = 1 << 1;
        /// A freed block is filled with `0xDF`, so that reading it after the free shows.
        const POISON = 1 << 2;
    }
}

/// The byte that [`PoolFlags::POISON`] fills freed blocks with.
pub(crate) const POISON_BYTE: u8 = 0xDF;

#[cfg(feature = "defmt")]
impl defmt::Format for PoolFlags {
    fn format(&self, out: defmt::Formatter<'_>) {
        defmt::write!(out, "PoolFlags({=u32:#b})", self.bits());
    }
}
