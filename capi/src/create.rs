//! Making and ending pools.
#![allow(unsafe_code)] // exported symbols; takes over the caller's memory

use core::{
    ffi::c_void,
    ptr::{NonNull, null_mut},
};

use libmempool::{Pages, PinnedPool, Pool};
use libmempool_std::valgrind;

use crate::{
    config::{pool_config, pool_config_t},
    error::{
        Failure,
        pool_error::{POOL_ERROR_INVALID_SIZE, POOL_ERROR_NULL_POINTER},
    },
    handle::{Kind, call, call_without_pool, guarded, memory_pool, memory_pool_t, on_base},
    memory::Source,
    reports,
};

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_create(size: usize, thread_safe: bool) -> *mut memory_pool_t {
    let config = pool_config::simple(size, thread_safe);
    // SAFETY: it has no list of sizes.
    call_without_pool(null_mut(), || unsafe { create_mapped(&config) })
}

/// See the header.
///
/// # Safety
/// The header's conditions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_create_with_config(
    config: *const pool_config_t,
) -> *mut memory_pool_t {
    call_without_pool(null_mut(), || {
        // SAFETY: the caller's promise.
        let config = unsafe { config.as_ref() }.ok_or(POOL_ERROR_NULL_POINTER)?;
        // SAFETY: as above.
        unsafe { create_mapped(config) }
    })
}

/// See the header.
///
/// # Safety
/// The header's conditions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_create_in(
    region: *mut c_void,
    size: usize,
    config: *const pool_config_t,
) -> *mut memory_pool_t {
    call_without_pool(null_mut(), || {
        let region = NonNull::new(region.cast::<u8>()).ok_or(POOL_ERROR_NULL_POINTER)?;
        if size > isize::MAX.unsigned_abs() || region.addr().get().checked_add(size).is_none() {
            return Err(POOL_ERROR_INVALID_SIZE.into());
        }
        let simple = pool_config::simple(size, false);
        // SAFETY: the caller's promise.
        let config = unsafe { config.as_ref() }.unwrap_or(&simple);
        let region = NonNull::slice_from_raw_parts(region, size);
        // SAFETY: the caller's promise; the source is used once.
        unsafe { create_from(Source::caller(region), size, config) }
    })
}

/// # Safety
/// As [`pool_config::pool`].
unsafe fn create_mapped(config: &pool_config) -> Result<*mut memory_pool_t, Failure> {
    let pages = config.pages()?;
    // SAFETY: the caller's promise.
    unsafe { create_from(Source::Mapped(pages), config.pool_size, config) }
}

/// # Safety
/// As [`pool_config::pool`].
unsafe fn create_from(
    source: Source,
    bytes: usize,
    config: &pool_config,
) -> Result<*mut memory_pool_t, Failure> {
    // SAFETY: the caller's promise.
    let pool_config = unsafe { config.pool() }?.on_fault(reports::note_fault, 0);
    let kind = if config.thread_safe.is_true() {
        let pool = Pool::builder().config(pool_config).map(source, bytes)?;
        // SAFETY: `place` puts it where it stays until `destroy` ends it.
        Kind::Shared(unsafe { PinnedPool::new(pool) })
    } else {
        Kind::Single(Pool::builder().config(pool_config).map(source, bytes)?)
    };
    if config.profiles() {
        match &kind {
            Kind::Shared(pinned) => pinned.pool().start_profile(),
            Kind::Single(pool) => pool.start_profile(),
        }?;
    }
    let place = memory_pool::place(kind)?;
    let pool = memory_pool::of(place.as_ptr())?;
    valgrind::pool_created(pool.anchor(), region_of(pool));
    Ok(place.as_ptr())
}

/// The addresses of a pool's region.
fn region_of(pool: &memory_pool) -> core::ops::Range<usize> {
    let memory = on_base!(pool, pool => pool.pages()).map(Pages::memory);
    memory.map_or(0..0, |memory| memory.addr().get()..memory.addr().get() + memory.len())
}

/// See the header.
///
/// # Safety
/// The header's conditions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_destroy(pool: *mut memory_pool_t) {
    let Some(place) = NonNull::new(pool) else { return };
    call(pool, (), |handle| {
        valgrind::pool_destroyed(handle.anchor(), region_of(handle));
        Ok(())
    });
    call_without_pool((), || {
        memory_pool::of(pool)?;
        // SAFETY: the caller's promise.
        unsafe { memory_pool::destroy(place) };
        Ok(())
    });
}

/// See the header.
///
/// # Safety
/// The header's conditions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_reset(pool: *mut memory_pool_t) -> bool {
    let is_pool = call(pool, false, |handle| {
        valgrind::pool_destroyed(handle.anchor(), region_of(handle));
        valgrind::pool_created(handle.anchor(), region_of(handle));
        Ok(true)
    });
    if !is_pool {
        return false;
    }
    let reset = guarded(|| {
        // SAFETY: a pool's handle, and the caller's promise: nobody is in another call on it.
        match unsafe { &mut *pool }.kind_mut() {
            Kind::Shared(pinned) => pinned.reset(),
            Kind::Single(pool) => pool.reset(),
        }
        .map_err(reports::noted)?;
        Ok(true)
    });
    call(pool, false, |_| reset)
}
