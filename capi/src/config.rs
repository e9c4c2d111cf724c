//! What `pool_config_t` asks for.
#![allow(unsafe_code)] // reads the caller's list of sizes

use core::{alloc::Layout, num::NonZeroUsize};

use libmempool::{HugePages, MmapPages, PoolConfig, PoolFlags, SizeClass};

use crate::{
    error::{
        Failure,
        pool_error::{
            POOL_ERROR_INVALID_CONFIG, POOL_ERROR_INVALID_SIZE, POOL_ERROR_NULL_POINTER,
            POOL_ERROR_TOO_MANY_CLASSES,
        },
    },
    handle::RED_ZONE,
};

/// Alignment where a configuration says nothing.
pub const DEFAULT_ALIGNMENT: usize = 64;
/// Bytes of the smallest heap block.
pub const MIN_BLOCK_SIZE: usize = 32;
/// Classes beside the preset table.
pub const MAX_SIZE_CLASSES: usize = 16;
/// Classes of one pool.
pub const MEMORY_POOL_MAX_CLASSES: usize = 128;

/// Zeroed when allocated.
pub const POOL_ZERO_ON_ALLOC: u32 = 0x1;
/// Zeroed when freed.
pub const POOL_ZERO_ON_FREE: u32 = 0x2;
/// Filled when freed.
pub const POOL_POISON: u32 = 0x4;
/// What is behind each block is checked.
pub const POOL_CANARY: u32 = 0x8;
/// Slots in random order.
pub const POOL_RANDOM: u32 = 0x10;
/// Freed blocks wait.
pub const POOL_QUARANTINE: u32 = 0x20;
/// Pages without access.
pub const POOL_GUARD: u32 = 0x40;
/// Sizes are counted.
pub const POOL_PROFILE: u32 = 0x80;
/// All that finds mistakes.
pub const POOL_HARDENED: u32 =
    POOL_ZERO_ON_FREE | POOL_POISON | POOL_CANARY | POOL_RANDOM | POOL_QUARANTINE | POOL_GUARD;

/// No huge pages.
pub const POOL_PAGES_SMALL: u32 = 0x1;
/// Explicit huge pages if there are any.
pub const POOL_PAGES_HUGE: u32 = 0x2;
/// Populate now.
pub const POOL_PAGES_PREFAULT: u32 = 0x4;
/// Keep in memory.
pub const POOL_PAGES_LOCK: u32 = 0x8;
/// Address space only.
pub const POOL_PAGES_OVERCOMMIT: u32 = 0x10;

const _: () = {
    assert!(MEMORY_POOL_MAX_CLASSES == libmempool::MAX_CLASSES);
    assert!(MEMORY_POOL_MAX_CLASSES - 72 >= MAX_SIZE_CLASSES, "beside the preset table");
    assert!(POOL_HARDENED == PoolFlags::HARDENED.bits(), "the same in both languages");
    assert!(MIN_BLOCK_SIZE == 4 * size_of::<usize>());
};

/// C's `bool` in memory that C wrote: any byte may be there.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyBool(u8);

impl AnyBool {
    pub(crate) fn is_true(self) -> bool {
        self.0 != 0
    }
}

/// `pool_config_t`; see the header.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pool_config {
    pub pool_size: usize,
    pub thread_safe: AnyBool,
    pub alignment: usize,
    pub enable_size_classes: AnyBool,
    pub size_class_sizes: *const usize,
    pub num_size_classes: usize,
    pub flags: u32,
    pub pages: u32,
    pub magazine_slots: usize,
    pub key: u64,
    pub reserved: [u64; 4],
}

pub use pool_config as pool_config_t;

impl pool_config {
    /// What `memory_pool_create` makes.
    pub(crate) fn simple(pool_size: usize, thread_safe: bool) -> Self {
        Self {
            pool_size,
            thread_safe: AnyBool(thread_safe.into()),
            alignment: 0,
            enable_size_classes: AnyBool(1),
            size_class_sizes: core::ptr::null(),
            num_size_classes: 0,
            flags: 0,
            pages: 0,
            magazine_slots: 0,
            key: 0,
            reserved: [0; 4],
        }
    }

    /// The pool to be.
    ///
    /// # Safety
    /// `size_class_sizes` is null or points to `num_size_classes` sizes.
    pub(crate) unsafe fn pool(&self) -> Result<PoolConfig, Failure> {
        let flags = pool_flags(self.flags).ok_or(POOL_ERROR_INVALID_CONFIG)?;
        if self.reserved != [0; 4] {
            return Err(POOL_ERROR_INVALID_CONFIG.into());
        }
        let alignment = NonZeroUsize::new(self.alignment).map_or(DEFAULT_ALIGNMENT, Into::into);
        let mut config = PoolConfig::new().alignment(alignment).flags(flags).key(self.key);
        if let Some(slots) = NonZeroUsize::new(self.magazine_slots) {
            config = config.magazine(slots.get());
        }
        if !self.enable_size_classes.is_true() {
            return Ok(config);
        }
        if self.size_class_sizes.is_null() {
            let preset = self.num_size_classes == 0;
            return preset.then(|| config.preset_classes()).ok_or(POOL_ERROR_NULL_POINTER.into());
        }
        if self.num_size_classes > MEMORY_POOL_MAX_CLASSES {
            return Err(POOL_ERROR_TOO_MANY_CLASSES.into());
        }
        for index in 0..self.num_size_classes {
            // SAFETY: the caller's promise.
            let size = unsafe { self.size_class_sizes.add(index).read() };
            config = config.size_class(SizeClass::new(slot_size(size)));
        }
        Ok(config)
    }

    /// Whether sizes are to be counted.
    pub(crate) fn profiles(&self) -> bool {
        self.flags & POOL_PROFILE != 0
    }

    /// The pages to be.
    pub(crate) fn pages(&self) -> Result<MmapPages, Failure> {
        const KNOWN: u32 = POOL_PAGES_SMALL
            | POOL_PAGES_HUGE
            | POOL_PAGES_PREFAULT
            | POOL_PAGES_LOCK
            | POOL_PAGES_OVERCOMMIT;
        let wants = |page: u32| self.pages & page != 0;
        let huge_pages = match (wants(POOL_PAGES_SMALL), wants(POOL_PAGES_HUGE)) {
            (false, false) => HugePages::Transparent,
            (true, false) => HugePages::Never,
            (false, true) => HugePages::Try,
            (true, true) => return Err(POOL_ERROR_INVALID_CONFIG.into()),
        };
        if self.pages & !KNOWN != 0 {
            return Err(POOL_ERROR_INVALID_CONFIG.into());
        }
        if self.pool_size == 0 || Layout::from_size_align(self.pool_size, 1).is_err() {
            return Err(POOL_ERROR_INVALID_SIZE.into());
        }
        let pages = MmapPages::new()
            .huge_pages(huge_pages)
            .prefault(wants(POOL_PAGES_PREFAULT))
            .lock_memory(wants(POOL_PAGES_LOCK))
            .overcommit(wants(POOL_PAGES_OVERCOMMIT));
        Ok(pages)
    }
}

fn pool_flags(bits: u32) -> Option<PoolFlags> {
    let named = [
        (POOL_ZERO_ON_ALLOC, PoolFlags::ZERO_ON_ALLOC),
        (POOL_ZERO_ON_FREE, PoolFlags::ZERO_ON_FREE),
        (POOL_POISON, PoolFlags::POISON),
        (POOL_CANARY, PoolFlags::CANARY),
        (POOL_RANDOM, PoolFlags::RANDOM),
        (POOL_QUARANTINE, PoolFlags::QUARANTINE),
        (POOL_GUARD, PoolFlags::GUARD),
        // Not a flag of the pool's: see `create_from`.
        (POOL_PROFILE, PoolFlags::empty()),
    ];
    let known = named.iter().fold(0, |known, (bit, _)| known | bit);
    let wanted = named.iter().filter(|(bit, _)| bits & bit != 0).map(|&(_, flag)| flag);
    (bits & !known == 0).then(|| wanted.collect())
}

/// The size that slots for objects of `size` bytes must have.
pub(crate) fn slot_size(size: usize) -> usize {
    // What is zero or too large stays so, for the pool to refuse.
    let red_zone = if size == 0 { 0 } else { RED_ZONE };
    size.saturating_add(red_zone)
}
