//! Error codes, and each thread's last one.
#![allow(unsafe_code)] // exported symbols, and the thread's own word

use core::{
    cell::Cell,
    ffi::{CStr, c_char},
};

use libmempool::{
    AllocError, ConfigError, Corruption, Damage, Fault, FreeError, MapError, PageError,
    ReallocError,
};

/// `pool_error_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "the names of the header")]
pub enum pool_error {
    POOL_OK = 0,
    POOL_ERROR_NULL_POINTER = 1,
    POOL_ERROR_INVALID_HANDLE = 2,
    POOL_ERROR_INVALID_SIZE = 3,
    POOL_ERROR_INVALID_ALIGNMENT = 4,
    POOL_ERROR_INVALID_CONFIG = 5,
    POOL_ERROR_REGION_TOO_SMALL = 6,
    POOL_ERROR_REGION_TOO_LARGE = 7,
    POOL_ERROR_SYSTEM = 8,
    POOL_ERROR_OUT_OF_MEMORY = 9,
    POOL_ERROR_UNKNOWN_CLASS = 10,
    POOL_ERROR_TOO_MANY_CLASSES = 11,
    POOL_ERROR_INVALID_CLASS_SIZE = 12,
    POOL_ERROR_RESERVE_TOO_LARGE = 13,
    POOL_ERROR_CLASS_LIMIT = 14,
    POOL_ERROR_FOREIGN_POINTER = 15,
    POOL_ERROR_NOT_A_BLOCK = 16,
    POOL_ERROR_DOUBLE_FREE = 17,
    POOL_ERROR_WRONG_CLASS = 18,
    POOL_ERROR_CORRUPTED = 19,
    POOL_ERROR_INTERNAL = 20,
    POOL_ERROR_OVERRUN = 21,
    POOL_ERROR_TOO_LARGE = 22,
    POOL_ERROR_FRAGMENTED = 23,
    POOL_ERROR_RESERVED = 24,
    POOL_ERROR_WRONG_SIZE = 25,
}

pub use pool_error as pool_error_t;
use pool_error::{
    POOL_ERROR_CLASS_LIMIT, POOL_ERROR_CORRUPTED, POOL_ERROR_DOUBLE_FREE,
    POOL_ERROR_FOREIGN_POINTER, POOL_ERROR_FRAGMENTED, POOL_ERROR_INTERNAL,
    POOL_ERROR_INVALID_ALIGNMENT, POOL_ERROR_INVALID_CLASS_SIZE, POOL_ERROR_INVALID_CONFIG,
    POOL_ERROR_INVALID_HANDLE, POOL_ERROR_INVALID_SIZE, POOL_ERROR_NOT_A_BLOCK,
    POOL_ERROR_NULL_POINTER, POOL_ERROR_OUT_OF_MEMORY, POOL_ERROR_OVERRUN,
    POOL_ERROR_REGION_TOO_LARGE, POOL_ERROR_REGION_TOO_SMALL, POOL_ERROR_RESERVE_TOO_LARGE,
    POOL_ERROR_RESERVED, POOL_ERROR_SYSTEM, POOL_ERROR_TOO_LARGE, POOL_ERROR_TOO_MANY_CLASSES,
    POOL_ERROR_UNKNOWN_CLASS, POOL_ERROR_WRONG_CLASS, POOL_ERROR_WRONG_SIZE, POOL_OK,
};

/// Why a call failed, and, if it is about a pointer or damage, where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) error: pool_error,
    /// What the call, or the corruption handler, is told of.
    pub(crate) suspect: Option<usize>,
}

impl From<pool_error> for Failure {
    fn from(error: pool_error) -> Self {
        Self { error, suspect: None }
    }
}

impl From<AllocError> for Failure {
    fn from(error: AllocError) -> Self {
        match error {
            AllocError::ZeroSize => POOL_ERROR_INVALID_SIZE.into(),
            AllocError::TooLarge { .. } => POOL_ERROR_TOO_LARGE.into(),
            AllocError::Fragmented { .. } => POOL_ERROR_FRAGMENTED.into(),
            AllocError::Reserved { .. } => POOL_ERROR_RESERVED.into(),
            AllocError::OutOfMemory { .. } => POOL_ERROR_OUT_OF_MEMORY.into(),
            AllocError::ClassLimit { .. } => POOL_ERROR_CLASS_LIMIT.into(),
            AllocError::UnknownClass => POOL_ERROR_UNKNOWN_CLASS.into(),
            AllocError::Corrupted { addr } => {
                Self { error: POOL_ERROR_CORRUPTED, suspect: Some(addr) }
            }
            _ => POOL_ERROR_INTERNAL.into(),
        }
    }
}

impl From<FreeError> for Failure {
    fn from(error: FreeError) -> Self {
        let (error, addr) = match error {
            FreeError::Foreign { addr } => (POOL_ERROR_FOREIGN_POINTER, addr),
            FreeError::NotABlock { addr } => (POOL_ERROR_NOT_A_BLOCK, addr),
            FreeError::NotLive { addr } => (POOL_ERROR_DOUBLE_FREE, addr),
            FreeError::WrongClass { addr, .. } => (POOL_ERROR_WRONG_CLASS, addr),
            FreeError::WrongSize { addr, .. } | FreeError::WrongAlign { addr, .. } => {
                (POOL_ERROR_WRONG_SIZE, addr)
            }
            FreeError::Corrupted { addr } => (POOL_ERROR_CORRUPTED, addr),
            FreeError::Overrun { addr, .. } => (POOL_ERROR_OVERRUN, addr),
            _ => return POOL_ERROR_INTERNAL.into(),
        };
        Self { error, suspect: Some(addr) }
    }
}

impl From<ReallocError> for Failure {
    fn from(error: ReallocError) -> Self {
        match error {
            ReallocError::Alloc(error) => error.into(),
            ReallocError::Free(error) => error.into(),
            _ => POOL_ERROR_INTERNAL.into(),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let error = match error {
            ConfigError::RegionTooSmall { .. } => POOL_ERROR_REGION_TOO_SMALL,
            ConfigError::RegionTooLarge { .. } => POOL_ERROR_REGION_TOO_LARGE,
            ConfigError::BadAlignment { .. } => POOL_ERROR_INVALID_ALIGNMENT,
            ConfigError::BadClassSize { .. } => POOL_ERROR_INVALID_CLASS_SIZE,
            ConfigError::TooManyClasses => POOL_ERROR_TOO_MANY_CLASSES,
            ConfigError::ReserveTooLarge { .. } => POOL_ERROR_RESERVE_TOO_LARGE,
            ConfigError::LimitBelowReserve => POOL_ERROR_INVALID_CONFIG,
            ConfigError::OutOfMemory => POOL_ERROR_OUT_OF_MEMORY,
            _ => POOL_ERROR_INTERNAL,
        };
        error.into()
    }
}

impl From<MapError> for Failure {
    fn from(error: MapError) -> Self {
        match error {
            MapError::Config(error) => error.into(),
            MapError::Pages(error) => error.into(),
            _ => POOL_ERROR_INTERNAL.into(),
        }
    }
}

impl From<PageError> for Failure {
    fn from(error: PageError) -> Self {
        match error {
            // Memory that the handle alone fills.
            PageError::OutOfRange => POOL_ERROR_REGION_TOO_SMALL.into(),
            _ => POOL_ERROR_SYSTEM.into(),
        }
    }
}

impl From<Corruption> for Failure {
    fn from(damage: Corruption) -> Self {
        Self { error: POOL_ERROR_CORRUPTED, suspect: Some(damage.addr) }
    }
}

impl From<Damage> for Failure {
    fn from(damage: Damage) -> Self {
        Self { error: POOL_ERROR_CORRUPTED, suspect: Some(damage.addr) }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Free(error) => error.into(),
            Fault::Corruption(damage) => damage.into(),
            _ => POOL_ERROR_INTERNAL.into(),
        }
    }
}

libmempool_std::zeroed_thread_local! {
    // SAFETY: `POOL_OK` is zero; the name, with this version in it, is used here only.
    unsafe fn last_error() -> Cell<pool_error>, "libmempool_capi_0_1_last_error"
}

/// Makes an error the thread's last one.
#[cold]
pub(crate) fn set_last_error(error: pool_error) {
    // SAFETY: the word lives as long as the thread.
    unsafe { last_error().as_ref() }.set(error);
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_get_last_error() -> pool_error_t {
    // SAFETY: the word lives as long as the thread.
    unsafe { last_error().as_ref() }.get()
}

/// `pool_error_t` as an argument: any number may come from C.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct AnyError(u32);

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_error_string(error: AnyError) -> *const c_char {
    MESSAGES
        .iter()
        .find(|(code, _)| *code as u32 == error.0)
        .map_or(c"unknown error", |&(_, text)| text)
        .as_ptr()
}

const MESSAGES: &[(pool_error, &CStr)] = &[
    (POOL_OK, c"no error"),
    (POOL_ERROR_NULL_POINTER, c"a required pointer is NULL"),
    (POOL_ERROR_INVALID_HANDLE, c"not a live pool or local cache: destroyed, or overwritten"),
    (POOL_ERROR_INVALID_SIZE, c"a size of zero, or larger than there are addresses"),
    (POOL_ERROR_INVALID_ALIGNMENT, c"the alignment is not a supported power of two"),
    (
        POOL_ERROR_INVALID_CONFIG,
        c"the configuration has an unknown flag or a value without meaning",
    ),
    (POOL_ERROR_REGION_TOO_SMALL, c"the region cannot hold a pool"),
    (POOL_ERROR_REGION_TOO_LARGE, c"the region is larger than block tags can say"),
    (POOL_ERROR_SYSTEM, c"the system refused memory"),
    (POOL_ERROR_OUT_OF_MEMORY, c"out of memory: less is free than is needed"),
    (POOL_ERROR_UNKNOWN_CLASS, c"the pool has no such size class"),
    (POOL_ERROR_TOO_MANY_CLASSES, c"the pool has as many size classes as it can have"),
    (POOL_ERROR_INVALID_CLASS_SIZE, c"no size class can have slots of this size"),
    (POOL_ERROR_RESERVE_TOO_LARGE, c"no room for as many slots as the size class was to have"),
    (POOL_ERROR_CLASS_LIMIT, c"the size class is at its limit"),
    (POOL_ERROR_FOREIGN_POINTER, c"the pointer is not memory of this pool"),
    (POOL_ERROR_NOT_A_BLOCK, c"no block starts at the pointer"),
    (POOL_ERROR_DOUBLE_FREE, c"the block is not live: freed before, or never handed out"),
    (POOL_ERROR_WRONG_CLASS, c"the block does not belong to the size class"),
    (POOL_ERROR_CORRUPTED, c"the pool's own data is corrupted"),
    (POOL_ERROR_INTERNAL, c"internal error of the library"),
    (POOL_ERROR_OVERRUN, c"somebody wrote past the end of the block"),
    (POOL_ERROR_TOO_LARGE, c"the size is larger than the pool could serve if it were empty"),
    (
        POOL_ERROR_FRAGMENTED,
        c"fragmented: enough memory is free, but no free block is large enough",
    ),
    (POOL_ERROR_RESERVED, c"out of memory, but for what classes keep in reserve"),
    (POOL_ERROR_WRONG_SIZE, c"the block is not of the size given"),
];
