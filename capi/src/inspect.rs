//! Looking: statistics, validation, the corruption handler, the version.
#![allow(unsafe_code)] // exported symbols, and C's `stdout`

use core::{
    ffi::c_void,
    fmt::{self, Write},
};

use libmempool::PoolStats;

use crate::{
    error::pool_error::POOL_ERROR_NULL_POINTER,
    handle::{call, memory_pool_corruption_handler_t, memory_pool_t, on_base},
};

/// `pool_stats_t`; see the header.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct pool_stats {
    pub pool_size: usize,
    pub metadata_bytes: usize,
    pub live_bytes: usize,
    pub live_objects: usize,
    pub peak_bytes: usize,
    pub cached_bytes: usize,
    pub cached_objects: usize,
    pub free_bytes: usize,
    pub free_blocks: usize,
    pub largest_free: usize,
    pub slab_bytes: usize,
    pub num_size_classes: usize,
    pub num_caches: usize,
    pub failures: usize,
    pub refused_frees: usize,
    pub fragmentation: u32,
    pub reserved0: u32,
    pub damaged_blocks: usize,
    pub limit_hits: usize,
    pub reserved: [usize; 2],
}

pub use pool_stats as pool_stats_t;

impl From<PoolStats> for pool_stats {
    fn from(stats: PoolStats) -> Self {
        Self {
            pool_size: stats.region_bytes,
            metadata_bytes: stats.metadata_bytes,
            live_bytes: stats.live_bytes,
            live_objects: stats.live_objects,
            peak_bytes: stats.peak_bytes,
            cached_bytes: stats.cached_bytes,
            cached_objects: stats.cached_objects,
            free_bytes: stats.free_bytes,
            free_blocks: stats.free_blocks,
            largest_free: stats.largest_free,
            slab_bytes: stats.slab_bytes,
            num_size_classes: stats.classes,
            num_caches: stats.caches,
            failures: stats.failures,
            refused_frees: stats.bad_frees,
            fragmentation: stats.fragmentation_percent(),
            damaged_blocks: stats.damaged_blocks,
            limit_hits: stats.limit_hits,
            ..Self::default()
        }
    }
}

/// See the header.
///
/// # Safety
/// `stats` is null or has room for the figures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_get_stats(
    pool: *mut memory_pool_t,
    stats: *mut pool_stats_t,
) -> bool {
    call(pool, false, |pool| {
        if stats.is_null() {
            return Err(POOL_ERROR_NULL_POINTER.into());
        }
        let figures = on_base!(pool, pool => pool.stats()).into();
        // SAFETY: the caller's promise.
        unsafe { stats.write(figures) };
        Ok(true)
    })
}

unsafe extern "C" {
    static stdout: *mut libc::FILE;
}

/// C's standard output, so that what is printed keeps its place among what C prints.
struct Stdout;

impl Write for Stdout {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: C's stream, which is open unless the program closed it, and as many bytes as are
        // there.
        let written = unsafe { libc::fwrite(text.as_ptr().cast(), 1, text.len(), stdout) };
        if written == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_print_stats(pool: *mut memory_pool_t) -> bool {
    call(pool, false, |pool| {
        let mut out = Stdout;
        // What cannot be printed is not the pool's failure.
        let _ = writeln!(out, "{}", on_base!(pool, pool => pool.stats()));
        on_base!(pool, pool => {
            for class in pool.classes().filter_map(|id| pool.class_stats(id)) {
                if class.peak > 0 || class.reserve > 0 {
                    let _ = writeln!(out, "class {class}");
                }
            }
        });
        Ok(true)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_validate(pool: *mut memory_pool_t) -> bool {
    call(pool, false, |pool| {
        on_base!(pool, pool => pool.validate())?;
        Ok(true)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_contains(pool: *mut memory_pool_t, ptr: *const c_void) -> bool {
    call(pool, false, |pool| Ok(on_base!(pool, pool => pool.contains(ptr.cast()))))
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_set_corruption_handler(
    pool: *mut memory_pool_t,
    handler: memory_pool_corruption_handler_t,
    user_data: *mut c_void,
) -> bool {
    call(pool, false, |pool| {
        pool.set_handler(handler, user_data);
        Ok(true)
    })
}

/// The version's parts, which are the package's.
pub const MEMORY_POOL_VERSION_MAJOR: u32 = 0;
/// See there.
pub const MEMORY_POOL_VERSION_MINOR: u32 = 1;
/// See there.
pub const MEMORY_POOL_VERSION_PATCH: u32 = 0;

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_version() -> u32 {
    MEMORY_POOL_VERSION_MAJOR * 10_000 + MEMORY_POOL_VERSION_MINOR * 100 + MEMORY_POOL_VERSION_PATCH
}
