//! Memory for regions, and a page source that fails on purpose.

use std::{
    mem::MaybeUninit,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
};

use libmempool::{PageError, PageSource, Pages};

/// What memory is aligned to before it is skewed.
const ALIGN: usize = 4096;

/// What discarded pages read as.
const GARBAGE: u8 = 0xA5;

/// Memory whose start lies `skew` bytes behind a multiple of 4096.
pub struct Memory {
    bytes: Box<[MaybeUninit<u8>]>,
    skew: usize,
    len: usize,
}

impl Memory {
    pub fn new(len: usize) -> Self {
        Self::skewed(len, 0)
    }

    pub fn skewed(len: usize, skew: usize) -> Self {
        Self { bytes: Box::new_uninit_slice(len + skew + ALIGN), skew, len }
    }

    /// The memory, as a pool takes it.
    pub fn region(&mut self) -> &mut [MaybeUninit<u8>] {
        let start = self.bytes.as_ptr().addr();
        let front = start.next_multiple_of(ALIGN) - start + self.skew;
        &mut self.bytes[front..front + self.len]
    }
}

/// Inverts a byte that is nobody's. `AddressSanitizer` does not see it where it would mind, and it is atomic, because
/// `ThreadSanitizer` does not know all of the locks that keep others away.
///
/// # Safety
/// It is valid.
pub unsafe fn invert(byte: NonNull<u8>) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(feature = "asan")]
        core::arch::asm!("lock not byte ptr [{}]", in(reg) byte.as_ptr());
        #[cfg(not(feature = "asan"))]
        AtomicU8::from_ptr(byte.as_ptr()).fetch_xor(u8::MAX, Relaxed);
    }
}

/// Memory for a `'static` region, freed when this is dropped.
pub struct StaticMemory(*mut Memory);

impl StaticMemory {
    pub fn skewed(len: usize, skew: usize) -> Self {
        Self(Box::into_raw(Box::new(Memory::skewed(len, skew))))
    }

    /// The region.
    ///
    /// # Safety
    /// Called once, and the pool that gets it is gone before `self` is dropped.
    pub unsafe fn lend(&self) -> &'static mut [MaybeUninit<u8>] {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.0 }.region()
    }
}

impl Drop for StaticMemory {
    fn drop(&mut self) {
        // SAFETY: made from a box in `skewed`; nobody uses the region any more (see `lend`).
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// Which calls of a [`FaultySource`] fail: every `n`th, or none if `n` is 0.
#[derive(Debug, Default)]
pub struct Faults {
    every: AtomicUsize,
    calls: AtomicUsize,
    failed: AtomicUsize,
}

impl Faults {
    pub fn every(n: usize) -> Arc<Self> {
        let faults = Self::default();
        faults.set(n);
        Arc::new(faults)
    }

    /// From now on every `n`th call fails.
    pub fn set(&self, n: usize) {
        self.every.store(n, Relaxed);
        self.calls.store(0, Relaxed);
    }

    /// How many calls have failed.
    pub fn failed(&self) -> usize {
        self.failed.load(Relaxed)
    }

    fn call(&self, bytes: usize) -> Result<(), PageError> {
        let call = self.calls.fetch_add(1, Relaxed) + 1;
        match self.every.load(Relaxed) {
            n if n > 0 && call.is_multiple_of(n) => {
                self.failed.fetch_add(1, Relaxed);
                Err(PageError::Unavailable { bytes })
            }
            _ => Ok(()),
        }
    }
}

/// A page source over the system's allocator that fails when its [`Faults`] say so, and counts
/// the pages that are out. Its memory starts out zero.
#[derive(Clone, Debug, Default)]
pub struct FaultySource {
    pub faults: Arc<Faults>,
    pub out: Arc<AtomicUsize>,
}

impl FaultySource {
    pub fn new(faults: Arc<Faults>) -> Self {
        Self { faults, out: Arc::default() }
    }
}

impl PageSource for FaultySource {
    type Pages = FaultyPages;

    fn obtain(&self, bytes: usize) -> Result<FaultyPages, PageError> {
        self.faults.call(bytes)?;
        self.out.fetch_add(1, Relaxed);
        let mut memory = vec![0; bytes + ALIGN];
        let front = memory.as_ptr().addr().next_multiple_of(ALIGN) - memory.as_ptr().addr();
        let region = NonNull::from(&mut memory[front..front + bytes]);
        Ok(FaultyPages { region, _memory: memory, source: self.clone() })
    }
}

/// The pages of a [`FaultySource`].
#[derive(Debug)]
pub struct FaultyPages {
    region: NonNull<[u8]>,
    _memory: Vec<u8>,
    source: FaultySource,
}

// SAFETY: the pages own their memory, which is not tied to a thread.
unsafe impl Send for FaultyPages {}
// SAFETY: as above; nothing changes through a shared reference but atomics.
unsafe impl Sync for FaultyPages {}

// SAFETY: the vector is left alone, so its memory stays where it is until it is dropped.
unsafe impl Pages for FaultyPages {
    fn memory(&self) -> NonNull<[u8]> {
        self.region
    }

    fn prefault(&self, _offset: usize, len: usize) -> Result<(), PageError> {
        self.source.faults.call(len)
    }

    unsafe fn discard(&self, offset: usize, len: usize) -> Result<(), PageError> {
        self.source.faults.call(len)?;
        // SAFETY: the range lies in the region, and nobody uses it (the caller's promise).
        unsafe { self.region.cast::<u8>().add(offset).write_bytes(GARBAGE, len) };
        Ok(())
    }
}

impl Drop for FaultyPages {
    fn drop(&mut self) {
        self.source.out.fetch_sub(1, Relaxed);
    }
}
