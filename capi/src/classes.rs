//! Adding size classes, and telling when one runs low.
#![allow(unsafe_code)] // exported symbols; keeps what to call in the pool's memory

use core::{
    alloc::Layout,
    ffi::{c_int, c_void},
    ptr::NonNull,
    sync::atomic::{AtomicPtr, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed},
};

use libmempool::{ClassId, SizeClass};
use libmempool_std::valgrind::Quiet;

use crate::{
    config::{AnyBool, slot_size},
    error::{
        Failure, memory_pool_get_last_error,
        pool_error::{POOL_ERROR_INVALID_CONFIG, POOL_ERROR_NULL_POINTER},
    },
    handle::{call, memory_pool, memory_pool_t, on_base},
    reports,
};

/// `memory_pool_low_watermark_t`; see the header.
#[expect(non_camel_case_types, reason = "the name of the header")]
pub type memory_pool_low_watermark_t = Option<
    unsafe extern "C" fn(
        pool: *mut memory_pool_t,
        class_id: c_int,
        left: usize,
        user_data: *mut c_void,
    ),
>;

/// `pool_class_config_t`; see the header.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pool_class_config {
    pub size: usize,
    pub reserve: usize,
    pub limit: usize,
    pub coloured: AnyBool,
    pub dedicated: AnyBool,
    pub low_watermark: usize,
    pub on_low: memory_pool_low_watermark_t,
    pub user_data: *mut c_void,
    pub reserved: [u64; 4],
}

pub use pool_class_config as pool_class_config_t;

impl pool_class_config {
    /// The class to be.
    fn class(&self) -> Result<SizeClass, Failure> {
        let watches = self.low_watermark > 0;
        if self.reserved != [0; 4] || watches != self.on_low.is_some() {
            return Err(POOL_ERROR_INVALID_CONFIG.into());
        }
        let mut class = SizeClass::new(slot_size(self.size)).reserve(self.reserve);
        if self.limit > 0 {
            class = class.limit(self.limit);
        }
        if self.coloured.is_true() {
            class = class.coloured();
        }
        if self.dedicated.is_true() {
            class = class.dedicated();
        }
        if watches {
            class = class.low_watermark(self.low_watermark, reports::note_low);
        }
        Ok(class)
    }
}

/// Whom to call when a class runs low: a list in the pool's own memory, which only grows.
#[derive(Clone, Copy)]
struct Watch {
    class: ClassId,
    on_low: memory_pool_low_watermark_t,
    user_data: *mut c_void,
    next: *mut Watch,
}

/// The list's head.
///
/// Invariant: null, or a watch of this pool's, as is each one's `next`.
#[derive(Debug, Default)]
pub(crate) struct Watches(AtomicPtr<c_void>);

impl Watches {
    fn push(&self, watch: NonNull<Watch>) {
        let mut first = self.0.load(Relaxed);
        loop {
            // SAFETY: nobody else sees the watch before it is in the list.
            unsafe { (*watch.as_ptr()).next = first.cast() };
            let pushed = self.0.compare_exchange(first, watch.as_ptr().cast(), AcqRel, Relaxed);
            let Err(other) = pushed else { return };
            first = other;
        }
    }

    /// Calls whoever watches a class.
    pub(crate) fn tell(&self, pool: *mut memory_pool_t, class: ClassId, left: usize) {
        let mut watch = self.0.load(Acquire).cast::<Watch>();
        while let Some(Watch { class: of, on_low, user_data, next }) = Self::read(watch) {
            if of == class
                && let Some(on_low) = on_low
            {
                // SAFETY: whoever added the class vouches for it; no lock is held.
                unsafe { on_low(pool, class.number().into(), left, user_data) };
            }
            watch = next;
        }
    }

    /// A watch of the list, which lies in the pool's own memory; `None` at the list's end.
    fn read(watch: *const Watch) -> Option<Watch> {
        let _quiet = Quiet::new();
        // SAFETY: the type's invariant; a watch in the list does not change.
        unsafe { watch.as_ref() }.copied()
    }
}

impl memory_pool {
    fn add_class(&self, config: &pool_class_config) -> Result<ClassId, Failure> {
        const { assert!(align_of::<Watch>() <= 2 * size_of::<usize>()) };
        let class = config.class()?;
        if config.on_low.is_none() {
            return Ok(on_base!(self, pool => pool.add_size_class(class))?);
        }
        // Before the class: if there is no memory for both, nothing has changed.
        let layout = Layout::new::<Watch>();
        let place = on_base!(self, pool => pool.alloc_metadata(layout))?;
        let class = on_base!(self, pool => pool.add_size_class(class)).inspect_err(|_| {
            // SAFETY: it is from there, and nobody uses it.
            unsafe { on_base!(self, pool => pool.free_metadata(place)) };
        })?;
        let (on_low, user_data) = (config.on_low, config.user_data);
        let watch = place.cast::<Watch>();
        // SAFETY: fresh memory of the right size, aligned to two words.
        unsafe { watch.write(Watch { class, on_low, user_data, next: core::ptr::null_mut() }) };
        self.watches().push(watch);
        Ok(class)
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
///
/// # Safety
/// `config` is null or points to one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_add_size_class_with(
    pool: *mut memory_pool_t,
    config: *const pool_class_config_t,
) -> c_int {
    class_call(pool, |pool| {
        // SAFETY: the caller's promise.
        let config = unsafe { config.as_ref() }.ok_or(POOL_ERROR_NULL_POINTER)?;
        pool.add_class(config)
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
pub(crate) fn number_call(
    pool: *mut memory_pool_t,
    work: impl FnOnce(&memory_pool) -> Result<c_int, Failure>,
) -> c_int {
    let number = call(pool, None, |pool| work(pool).map(Some));
    number.unwrap_or_else(|| -(memory_pool_get_last_error() as c_int))
}
