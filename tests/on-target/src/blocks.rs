//! Blocks of a pool, as tests keep them.

use core::{alloc::Layout, ptr::NonNull, slice};

/// A layout, from numbers that tests know to be good.
pub fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// The bytes of a live block.
///
/// # Safety
/// The block is live and so long, and its owner holds one slice of it at a time.
pub unsafe fn bytes<'a>(block: NonNull<u8>, len: usize) -> &'a mut [u8] {
    // SAFETY: the caller's promise. What was never written has been through the pool, which
    // launders its region.
    unsafe { slice::from_raw_parts_mut(block.as_ptr(), len) }
}

/// A block filled with a pattern of its own, so that somebody else's writes show.
#[derive(Clone, Copy)]
pub struct Stamped {
    start: NonNull<u8>,
    len: usize,
}

impl Stamped {
    /// Fills a block.
    ///
    /// # Safety
    /// The block is live, so long, and its owner's alone until [`verify`](Self::verify) returns it.
    pub unsafe fn new(start: NonNull<u8>, len: usize) -> Self {
        let stamped = Self { start, len };
        stamped.slice().fill(stamped.stamp());
        stamped
    }

    /// A block that was filled before, and forgotten but for its address and length.
    ///
    /// # Safety
    /// As for [`new`](Self::new).
    pub unsafe fn known(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len }
    }

    fn slice(&self) -> &'static mut [u8] {
        // SAFETY: promised to `new`; callers hold one slice at a time.
        unsafe { bytes(self.start, self.len) }
    }

    fn stamp(&self) -> u8 {
        (self.start.addr().get() >> 3 ^ self.len) as u8
    }

    /// Where it is.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The block again, for its free.
    ///
    /// # Panics
    /// If it is not as it was filled.
    pub fn verify(self) -> NonNull<u8> {
        let damaged = self.slice().iter().position(|&byte| byte != self.stamp());
        assert_eq!(damaged, None, "somebody wrote to the block at {:?}", self.start);
        self.start
    }
}

/// Blocks chained through their first words: as many as there are, without a table for them.
pub struct Chain {
    last: Option<NonNull<u8>>,
    len: usize,
}

impl Chain {
    /// All blocks that there are.
    ///
    /// # Safety
    /// What `alloc` returns is live, the caller's alone, and at least an aligned word long.
    pub unsafe fn exhaust<E>(mut alloc: impl FnMut() -> Result<NonNull<u8>, E>) -> (Self, E) {
        let mut chain = Self { last: None, len: 0 };
        loop {
            match alloc() {
                Ok(block) => {
                    // SAFETY: the caller's promise.
                    unsafe { block.cast().write(chain.last) };
                    chain = Self { last: Some(block), len: chain.len + 1 };
                }
                Err(error) => return (chain, error),
            }
        }
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "no test asks")]
    pub fn len(&self) -> usize {
        self.len
    }
}

/// Gives them back, the last one first.
impl Iterator for Chain {
    type Item = NonNull<u8>;

    fn next(&mut self) -> Option<NonNull<u8>> {
        let block = self.last?;
        // SAFETY: written by `exhaust`, and the block's owner leaves it alone.
        self.last = unsafe { block.cast().read() };
        self.len -= 1;
        Some(block)
    }
}
