//! Flags that trade speed for stronger guarantees, pool by pool.

bitflags::bitflags! {
    /// What a pool does beyond its default checks.
    ///
    /// The default, empty, already checks every free (see [`Pool::free`](crate::Pool::free)). What
    /// these flags ask for costs a pass over the block; where none is set they cost nothing.
    ///
    /// ```
    /// use std::{alloc::Layout, mem::MaybeUninit};
    /// use libmempool::{FreeError, NoLock, Pool, PoolFlags};
    ///
    /// let mut memory = vec![MaybeUninit::uninit(); 64 << 10];
    /// let pool = Pool::<NoLock>::builder().flags(PoolFlags::HARDENED).build(&mut memory)?;
    /// let name = pool.alloc(Layout::new::<[u8; 13]>())?;
    /// // SAFETY: the mistake is the example's; it stays in the region.
    /// unsafe {
    ///     name.write_bytes(b'x', 13);
    ///     name.add(13).write(0); // the end of a string, one byte too far
    ///     assert!(matches!(pool.free(name), Err(FreeError::Overrun { .. })));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct PoolFlags: u32 {
        /// Every allocation is zeroed up to its usable size, whichever call made it, and so is what a
        /// block grows by where it is.
        const ZERO_ON_ALLOC = 1 << 0;
        /// A block's contents are zeroed when it is freed: nothing of a packet or a key stays. A
        /// block that shrinks where it is keeps its usable size until then.
        const ZERO_ON_FREE = 1 << 1;
        /// A freed block is filled with `0xDF`, so that reading it after the free shows, and looked
        /// through before it is handed out again: one that was written to meanwhile is reported and
        /// never used again. All free memory is filled when the pool is set up.
        const POISON = 1 << 2;
        /// Objects end where their caller asked for them to end, to the byte. What is behind, at least
        /// 8 bytes each, is checked when they are freed, resized, measured, and by
        /// [`Pool::validate`](crate::Pool::validate). An object that was overrun is not freed.
        const CANARY = 1 << 3;
        /// Which of the slots that a cache has ready is handed out next is random.
        const RANDOM = 1 << 4;
        /// Everything that finds mistakes or makes them harmless.
        const HARDENED = Self::POISON.bits() | Self::CANARY.bits() | Self::RANDOM.bits()
            | Self::ZERO_ON_FREE.bits();
    }
}

/// The byte that [`PoolFlags::POISON`] fills freed blocks with.
pub(crate) const POISON_BYTE: u8 = 0xDF;

/// A word of freed memory.
pub(crate) const POISON_WORD: usize = usize::from_ne_bytes([POISON_BYTE; size_of::<usize>()]);

#[cfg(feature = "defmt")]
impl defmt::Format for PoolFlags {
    fn format(&self, out: defmt::Formatter<'_>) {
        defmt::write!(out, "PoolFlags({=u32:#b})", self.bits());
    }
}
