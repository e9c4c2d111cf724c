//! Tuning: warming, returning what is idle, and which classes to add.
#![allow(unsafe_code)] // exported symbols

use core::ffi::c_int;

use libmempool::{Advice, AdvisedClass};

use crate::{
    classes::number_call,
    error::pool_error::{POOL_ERROR_INVALID_CONFIG, POOL_ERROR_NULL_POINTER},
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
