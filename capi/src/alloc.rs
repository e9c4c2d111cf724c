//! Allocating and freeing.
#![allow(unsafe_code)] // exported symbols; frees what C gives up

use core::{
    alloc::Layout,
    ffi::c_void,
    ptr::{NonNull, null_mut},
};

use libmempool_std::valgrind;

use crate::{
    config::slot_size,
    error::{
        Failure,
        pool_error::{POOL_ERROR_INVALID_ALIGNMENT, POOL_ERROR_INVALID_SIZE},
    },
    handle::{RED_ZONE, call, memory_pool, memory_pool_t, on_pool},
};

/// The layout of a request for `size` bytes.
#[inline(always)]
pub(crate) fn layout(size: usize, align: usize) -> Result<Layout, Failure> {
    if !align.is_power_of_two() {
        return Err(POOL_ERROR_INVALID_ALIGNMENT.into());
    }
    Ok(Layout::from_size_align(slot_size(size), align).map_err(|_| POOL_ERROR_INVALID_SIZE)?)
}

impl memory_pool {
    #[inline(always)]
    fn alloc(&self, size: usize, align: usize) -> Result<*mut c_void, Failure> {
        let layout = layout(size, align)?;
        let block = on_pool!(self, pool => pool.alloc(layout))?;
        Ok(self.handed_out(block, size, 0))
    }

    /// A block on its way to C, `defined` bytes of it with contents.
    #[inline(always)]
    pub(crate) fn handed_out(
        &self,
        block: NonNull<u8>,
        size: usize,
        defined: usize,
    ) -> *mut c_void {
        valgrind::allocated(self.anchor(), block.addr().get(), size, defined);
        block.as_ptr().cast()
    }

    /// A block that C gave back.
    #[inline(always)]
    pub(crate) fn taken_back(&self, block: NonNull<u8>) -> bool {
        valgrind::freed(self.anchor(), block.addr().get());
        true
    }
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_alloc(pool: *mut memory_pool_t, size: usize) -> *mut c_void {
    if !valgrind::ENABLED
        && let Some(shared) = memory_pool::shared_of(pool)
        && let Some(slot) = shared.alloc_quick(size)
    {
        return slot.as_ptr().cast();
    }
    alloc_slow(pool, size)
}

/// Not to unwind, like what it ends.
#[cold]
#[inline(never)]
extern "C" fn alloc_slow(pool: *mut memory_pool_t, size: usize) -> *mut c_void {
    call(pool, null_mut(), |pool| pool.alloc(size, 1))
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_alloc_aligned(
    pool: *mut memory_pool_t,
    size: usize,
    alignment: usize,
) -> *mut c_void {
    call(pool, null_mut(), |pool| pool.alloc(size, alignment))
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_calloc(
    pool: *mut memory_pool_t,
    count: usize,
    size: usize,
) -> *mut c_void {
    call(pool, null_mut(), |pool| {
        let size = count.checked_mul(size).ok_or(POOL_ERROR_INVALID_SIZE)?;
        let layout = layout(size, 1)?;
        let block = on_pool!(pool, pool => pool.alloc_zeroed(layout))?;
        Ok(pool.handed_out(block, size, size))
    })
}

/// See the header.
///
/// # Safety
/// The block is not used any more if this succeeds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_realloc(
    pool: *mut memory_pool_t,
    ptr: *mut c_void,
    new_size: usize,
) -> *mut c_void {
    let Some(block) = NonNull::new(ptr.cast::<u8>()) else {
        return memory_pool_alloc(pool, new_size);
    };
    call(pool, null_mut(), |pool| {
        if new_size == 0 {
            // SAFETY: the caller gives the block up.
            unsafe { on_pool!(pool, pool => pool.free(block)) }?;
            pool.taken_back(block);
            return Ok(null_mut());
        }
        let layout = layout(new_size, 1)?;
        // SAFETY: the caller gives the block up if this succeeds.
        let moved = unsafe { on_pool!(pool, pool => pool.realloc(block, layout, layout.size())) }?;
        let (from, to) = (block.addr().get(), moved.addr().get());
        valgrind::moved(pool.anchor(), from, to, new_size, new_size);
        Ok(moved.as_ptr().cast())
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_alloc_fixed(pool: *mut memory_pool_t, size: usize) -> *mut c_void {
    call(pool, null_mut(), |pool| {
        let wanted = slot_size(size);
        let slot = on_pool!(pool, pool => pool.alloc_slot(wanted))?;
        Ok(pool.handed_out(slot, size, 0))
    })
}

/// See the header.
///
/// # Safety
/// The block is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_free(pool: *mut memory_pool_t, ptr: *mut c_void) -> bool {
    if !valgrind::ENABLED
        && let Some(shared) = memory_pool::shared_of(pool)
        // SAFETY: the caller gives the block up.
        && unsafe { shared.free_quick(ptr.cast()) }
    {
        return true;
    }
    free_slow(pool, ptr)
}

/// Not to unwind, like what it ends.
#[cold]
#[inline(never)]
extern "C" fn free_slow(pool: *mut memory_pool_t, ptr: *mut c_void) -> bool {
    call(pool, false, |pool| {
        let Some(block) = NonNull::new(ptr.cast::<u8>()) else { return Ok(true) };
        // SAFETY: the caller of `memory_pool_free` gives the block up.
        unsafe { on_pool!(pool, pool => pool.free(block)) }?;
        Ok(pool.taken_back(block))
    })
}

/// See the header.
///
/// # Safety
/// The block is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_free_sized(
    pool: *mut memory_pool_t,
    ptr: *mut c_void,
    size: usize,
) -> bool {
    call(pool, false, |pool| {
        let Some(block) = NonNull::new(ptr.cast::<u8>()) else { return Ok(true) };
        let layout = layout(size, 1)?;
        // SAFETY: the caller gives the block up.
        unsafe { on_pool!(pool, pool => pool.free_sized(block, layout)) }?;
        Ok(pool.taken_back(block))
    })
}

/// See the header.
///
/// # Safety
/// The slot is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_free_fixed(
    pool: *mut memory_pool_t,
    ptr: *mut c_void,
) -> bool {
    call(pool, false, |pool| {
        let Some(slot) = NonNull::new(ptr.cast::<u8>()) else { return Ok(true) };
        // SAFETY: the caller gives the slot up.
        unsafe { on_pool!(pool, pool => pool.free_slot(slot)) }?;
        Ok(pool.taken_back(slot))
    })
}

/// See the header.
///
/// # Safety
/// Nobody writes in front of the block meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_usable_size(
    pool: *mut memory_pool_t,
    ptr: *const c_void,
) -> usize {
    call(pool, 0, |pool| {
        let Some(block) = NonNull::new(ptr.cast_mut().cast::<u8>()) else { return Ok(0) };
        // SAFETY: the caller's promise.
        let usable = unsafe { on_pool!(pool, pool => pool.usable_size(block)) }?;
        valgrind::measured(pool.anchor(), block.addr().get(), usable - RED_ZONE);
        Ok(usable - RED_ZONE)
    })
}
