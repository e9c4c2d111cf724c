//! Looking: statistics, validation, the corruption handler, the version.
#![allow(unsafe_code)] // exported symbols, and C's `stdout`

use core::{
    ffi::{c_char, c_int, c_void},
    fmt::{self, Write},
    ptr::without_provenance,
};

use libmempool::{ClassId, Damage, NeighbourState, PoolStats};

use crate::{
    error::pool_error::POOL_ERROR_NULL_POINTER,
    handle::{call, memory_pool_corruption_handler_t, memory_pool_t, on_base},
    reports,
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
    pub quarantined_bytes: usize,
    pub quarantined_objects: usize,
    pub guard_bytes: usize,
    pub guard_failures: usize,
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
            quarantined_bytes: stats.quarantined_bytes,
            quarantined_objects: stats.quarantined_objects,
            guard_bytes: stats.guard_bytes,
            guard_failures: stats.guard_failures,
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
        on_base!(pool, pool => pool.validate()).map_err(reports::noted)?;
        Ok(true)
    })
}

/// Bytes of `pool_damage_t.text`, its end included.
pub const POOL_DAMAGE_TEXT: usize = 256;

/// `pool_damage_t`; see the header.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pool_damage {
    pub address: *const c_void,
    pub class_id: c_int,
    pub below_class_id: c_int,
    pub below: *const c_void,
    pub below_is_live: bool,
    pub text: [c_char; POOL_DAMAGE_TEXT],
}

pub use pool_damage as pool_damage_t;

impl From<Damage> for pool_damage {
    fn from(damage: Damage) -> Self {
        let id = |class: Option<ClassId>| class.map_or(-1, |class| class.number().into());
        let below = damage.below;
        let mut text = Text { bytes: [0; POOL_DAMAGE_TEXT], len: 0 };
        // What does not fit is left out.
        let _ = write!(text, "{damage}");
        Self {
            address: without_provenance(damage.addr),
            class_id: id(damage.class),
            below_class_id: id(below.and_then(|below| below.class)),
            below: without_provenance(below.map_or(0, |below| below.addr)),
            below_is_live: below.is_some_and(|below| below.state == NeighbourState::Live),
            text: text.bytes.map(|byte| c_char::from_ne_bytes([byte])),
        }
    }
}

/// A C string that is being written: what follows `len` is zero.
struct Text {
    bytes: [u8; POOL_DAMAGE_TEXT],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.len() - 1 - self.len;
        let fits = text.len().min(room);
        self.bytes[self.len..][..fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        if fits == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// See the header.
///
/// # Safety
/// `damage` is null or has room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_find_damage(
    pool: *mut memory_pool_t,
    damage: *mut pool_damage_t,
) -> bool {
    call(pool, false, |pool| {
        if damage.is_null() {
            return Err(POOL_ERROR_NULL_POINTER.into());
        }
        let Err(found) = on_base!(pool, pool => pool.validate()) else { return Ok(false) };
        reports::noted(found);
        // SAFETY: the caller's promise.
        unsafe { damage.write(found.into()) };
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
