//! Tuning: warming, returning what is idle, adding classes, and which ones to add.
#![allow(unsafe_code)] // exported symbols

use core::ffi::c_int;

use libmempool::{Advice, AdvisedClass, ClassId, SizeClass};

use crate::{
    config::slot_size,
    error::{
        Failure, memory_pool_get_last_error,
        pool_error::{POOL_ERROR_INVALID_CONFIG, POOL_ERROR_NULL_POINTER},
    },
    handle::{Kind, RED_ZONE, call, memory_pool, memory_pool_t, on_base},
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

/// `pool_advice_t`; see the header.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pool_advice {
    pub size: usize,
    pub requests: usize,
    pub bytes: usize,
    pub saved: isize,
    pub request_share: f64,
    pub byte_share: f64,
}

pub use pool_advice as pool_advice_t;

impl pool_advice {
    fn new(class: &AdvisedClass, of: &Advice) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a share is read by people")]
        let share = |part: usize, of: usize| part as f64 / of as f64;
        Self {
            size: class.size - RED_ZONE,
            requests: class.requests,
            bytes: class.bytes - class.requests * RED_ZONE,
            saved: class.saved,
            request_share: share(class.requests, of.requests),
            byte_share: share(class.bytes, of.bytes),
        }
    }
}

/// See the header.
///
/// # Safety
/// `out` has room for `n` classes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_advise(
    pool: *mut memory_pool_t,
    out: *mut pool_advice_t,
    n: usize,
) -> c_int {
    number_call(pool, |pool| {
        if out.is_null() && n > 0 {
            return Err(POOL_ERROR_NULL_POINTER.into());
        }
        let advice = on_base!(pool, pool => pool.advise(n)).ok_or(POOL_ERROR_INVALID_CONFIG)?;
        let mut count = 0;
        for class in advice.classes() {
            // SAFETY: no more than `n` of them, for which the caller has room.
            unsafe { out.add(count).write(pool_advice::new(class, &advice)) };
            count += 1;
        }
        Ok(c_int::try_from(count).unwrap_or(c_int::MAX))
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
    number_call(pool, |pool| work(pool).map(|class| class.number().into()))
}

/// Runs a call that returns a number, or the error's, negative.
fn number_call(
    pool: *mut memory_pool_t,
    work: impl FnOnce(&memory_pool) -> Result<c_int, Failure>,
) -> c_int {
    let number = call(pool, None, |pool| work(pool).map(Some));
    number.unwrap_or_else(|| -(memory_pool_get_last_error() as c_int))
}
