//! Tuning: warming, returning what is idle, adding classes.
#![allow(unsafe_code)] // exported symbols

use core::ffi::c_int;

use libmempool::{ClassId, SizeClass};

use crate::{
    config::slot_size,
    error::{Failure, memory_pool_get_last_error},
    handle::{Kind, call, memory_pool, memory_pool_t, on_base},
};

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_warmup(pool: *mut memory_pool_t) -> bool {
    call(pool, false, |pool| {
        on_base!(pool, pool => pool.warm_up())?;
        Ok(true)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_flush_thread(pool: *mut memory_pool_t) -> bool {
    call(pool, false, |pool| {
        pool.flush_thread();
        Ok(true)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_defragment(pool: *mut memory_pool_t) -> usize {
    call(pool, 0, |pool| {
        let before = pool.free_bytes();
        pool.flush_thread();
        on_base!(pool, pool => pool.defragment());
        Ok(pool.free_bytes().saturating_sub(before))
    })
}

impl memory_pool {
    fn flush_thread(&self) {
        if let Kind::Shared(pinned) = self.kind() {
            pinned.flush_thread();
        }
    }

    fn free_bytes(&self) -> usize {
        on_base!(self, pool => pool.stats()).free_bytes
    }
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_add_size_class(
    pool: *mut memory_pool_t,
    size: usize,
    count: usize,
) -> c_int {
    class_call(pool, |pool| {
        let class = SizeClass::new(slot_size(size)).reserve(count);
        Ok(on_base!(pool, pool => pool.add_size_class(class))?)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_class_of(pool: *mut memory_pool_t, size: usize) -> c_int {
    class_call(pool, |pool| {
        let size = slot_size(size);
        Ok(on_base!(pool, pool => pool.class_of(size))?)
    })
}

/// Runs a call that finds a class: its number, or the error's, negative.
fn class_call(
    pool: *mut memory_pool_t,
    work: impl FnOnce(&memory_pool) -> Result<ClassId, Failure>,
) -> c_int {
    let class = call(pool, None, |pool| work(pool).map(Some));
    class.map_or_else(|| -(memory_pool_get_last_error() as c_int), |class| class.number().into())
}
