//! Local caches.
#![allow(unsafe_code)] // exported symbols; frees what C gives up

use core::{
    alloc::Layout,
    ffi::{c_int, c_void},
    mem::MaybeUninit,
    ptr::{NonNull, null_mut},
};

use libmempool::{ClassId, LocalCache, NoLock, PthreadMutex};
use libmempool_std::valgrind::{self, Quiet};

use crate::{
    alloc::layout,
    error::{
        Failure,
        pool_error::{
            self, POOL_ERROR_INVALID_HANDLE, POOL_ERROR_INVALID_SIZE, POOL_ERROR_NULL_POINTER,
            POOL_ERROR_UNKNOWN_CLASS,
        },
        set_last_error,
    },
    handle::{Kind, RED_ZONE, call, call_on, memory_pool, memory_pool_t, on_base},
};

/// A cache of a pool of either kind.
enum Cache {
    Shared(LocalCache<'static, PthreadMutex>),
    Single(LocalCache<'static, NoLock>),
}

/// `memory_pool_local_t`: opaque to C, in the pool's own memory.
#[expect(non_camel_case_types, reason = "the name of the header")]
pub struct memory_pool_local {
    /// `MAGIC` while it is one.
    magic: u64,
    pool: &'static memory_pool,
    cache: Cache,
}

pub use memory_pool_local as memory_pool_local_t;

const MAGIC: u64 = u64::from_be_bytes(*b"mpcache\x01");

/// Runs an expression on the cache of either kind.
macro_rules! on_cache {
    ($cache:expr, $name:ident => $work:expr) => {
        match $cache {
            Cache::Shared($name) => $work,
            Cache::Single($name) => $work,
        }
    };
}

impl memory_pool_local {
    /// The pool and the cache of a handle.
    #[inline(always)]
    fn of<'a>(local: *mut Self) -> Result<(&'static memory_pool, &'a mut Cache), pool_error> {
        if local.is_null() {
            return Err(POOL_ERROR_NULL_POINTER);
        }
        let _quiet = Quiet::new();
        // SAFETY: C passes what `create` made, to one call at a time. A handle that was destroyed
        // or overwritten is told by its magic as long as its memory is there.
        unsafe {
            if !local.is_aligned() || (&raw const (*local).magic).read() != MAGIC {
                return Err(POOL_ERROR_INVALID_HANDLE);
            }
            let local = &mut *local;
            Ok((local.pool, &mut local.cache))
        }
    }

    fn create(pool: &'static memory_pool) -> Result<*mut Self, Failure> {
        const { assert!(align_of::<memory_pool_local>() <= 2 * size_of::<usize>()) };
        let layout = Layout::new::<Self>();
        let memory = on_base!(pool, pool => pool.alloc_metadata(layout))?.cast::<Self>();
        let cache = match pool.kind() {
            Kind::Shared(pinned) => Cache::Shared(pinned.pool().local_cache()),
            Kind::Single(pool) => Cache::Single(pool.local_cache()),
        };
        // SAFETY: fresh memory of the right size, aligned to two words.
        unsafe { memory.write(Self { magic: MAGIC, pool, cache }) };
        Ok(memory.as_ptr())
    }
}

/// Runs a call on a local cache: what goes wrong becomes the thread's last error and `failed`.
#[inline(always)]
fn local_call<R>(
    local: *mut memory_pool_local,
    failed: R,
    work: impl FnOnce(&'static memory_pool, &mut Cache) -> Result<R, Failure>,
) -> R {
    match memory_pool_local::of(local) {
        Ok((pool, cache)) => call_on(pool, failed, || work(pool, cache)),
        Err(error) => {
            set_last_error(error);
            failed
        }
    }
}

#[inline(always)]
fn class_of(class_id: c_int) -> Result<ClassId, Failure> {
    let number = u8::try_from(class_id).map_err(|_| POOL_ERROR_UNKNOWN_CLASS)?;
    Ok(ClassId::new(number))
}

/// Where an array of `n` pointers is, which no memory can hold above a bound.
fn array(objs: *mut *mut c_void, n: usize) -> Result<NonNull<*mut c_void>, Failure> {
    Layout::array::<*mut c_void>(n).map_err(|_| POOL_ERROR_INVALID_SIZE)?;
    Ok(NonNull::new(objs).ok_or(POOL_ERROR_NULL_POINTER)?)
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_local_create(pool: *mut memory_pool_t) -> *mut memory_pool_local_t {
    call(pool, null_mut(), |_| {
        let pool = memory_pool::of(pool)?;
        memory_pool_local::create(pool)
    })
}

/// See the header.
///
/// # Safety
/// The cache is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_local_destroy(local: *mut memory_pool_local_t) {
    let Some(place) = NonNull::new(local) else { return };
    local_call(local, (), |pool, _| {
        // SAFETY: a live cache (`local_call`) that the caller gives up; `create` allocated it.
        unsafe {
            (*place.as_ptr()).magic = 0;
            drop((&raw const (*place.as_ptr()).cache).read());
            on_base!(pool, pool => pool.free_metadata(place.cast()));
        }
        Ok(())
    });
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_local_alloc(
    local: *mut memory_pool_local_t,
    size: usize,
) -> *mut c_void {
    local_call(local, null_mut(), |pool, cache| {
        let layout = layout(size, 1)?;
        let block = on_cache!(cache, cache => cache.alloc(layout))?;
        Ok(pool.handed_out(block, size, 0))
    })
}

/// See the header.
///
/// # Safety
/// The block is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_local_free(
    local: *mut memory_pool_local_t,
    ptr: *mut c_void,
) -> bool {
    local_call(local, false, |pool, cache| {
        let Some(block) = NonNull::new(ptr.cast::<u8>()) else { return Ok(true) };
        // SAFETY: the caller gives the block up.
        unsafe { on_cache!(cache, cache => cache.free(block)) }?;
        Ok(pool.taken_back(block))
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn memory_pool_local_alloc_fixed(
    local: *mut memory_pool_local_t,
    class_id: c_int,
) -> *mut c_void {
    local_call(local, null_mut(), |pool, cache| {
        let class = class_of(class_id)?;
        let slot = on_cache!(cache, cache => cache.alloc_fixed(class))?;
        Ok(pool.slot_handed_out(slot, class))
    })
}

/// See the header.
///
/// # Safety
/// The slot is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_local_free_fixed(
    local: *mut memory_pool_local_t,
    class_id: c_int,
    ptr: *mut c_void,
) -> bool {
    local_call(local, false, |pool, cache| {
        let Some(slot) = NonNull::new(ptr.cast::<u8>()) else { return Ok(true) };
        let class = class_of(class_id)?;
        // SAFETY: the caller gives the slot up.
        unsafe { on_cache!(cache, cache => cache.free_fixed(class, slot)) }?;
        Ok(pool.taken_back(slot))
    })
}

/// See the header.
///
/// # Safety
/// `objs` has room for `n` pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_local_alloc_bulk(
    local: *mut memory_pool_local_t,
    class_id: c_int,
    objs: *mut *mut c_void,
    n: usize,
) -> usize {
    local_call(local, 0, |pool, cache| {
        let class = class_of(class_id)?;
        if n == 0 {
            return Ok(0);
        }
        let objs = array(objs, n)?;
        let objs = objs.cast::<MaybeUninit<NonNull<u8>>>();
        // SAFETY: the caller's promise.
        let objs = unsafe { NonNull::slice_from_raw_parts(objs, n).as_mut() };
        on_cache!(cache, cache => cache.alloc_bulk_uninit(class, objs))?;
        if valgrind::ENABLED {
            for slot in &*objs {
                // SAFETY: all of them have been written.
                pool.slot_handed_out(unsafe { slot.assume_init() }, class);
            }
        }
        Ok(n)
    })
}

/// See the header.
///
/// # Safety
/// `objs` points to `n` pointers; the slots that are freed are not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memory_pool_local_free_bulk(
    local: *mut memory_pool_local_t,
    class_id: c_int,
    objs: *const *mut c_void,
    n: usize,
) -> usize {
    let mut freed = 0;
    local_call(local, false, |pool, cache| {
        let class = class_of(class_id)?;
        if n == 0 {
            return Ok(true);
        }
        let objs = array(objs.cast_mut(), n)?;
        // SAFETY: the caller's promise; null is a value of this type.
        let objs = unsafe {
            NonNull::slice_from_raw_parts(objs.cast::<Option<NonNull<u8>>>(), n).as_ref()
        };
        let whole = objs.iter().position(Option::is_none).unwrap_or(n);
        // SAFETY: the first `whole` of them are not null.
        let slots =
            unsafe { core::slice::from_raw_parts(objs.as_ptr().cast::<NonNull<u8>>(), whole) };
        // SAFETY: the caller gives the slots up.
        let result = unsafe { on_cache!(cache, cache => cache.free_bulk(class, slots)) };
        freed = result.map_or_else(|refused| refused.freed, |()| whole);
        if valgrind::ENABLED {
            for &slot in &slots[..freed] {
                pool.taken_back(slot);
            }
        }
        result.map_err(|refused| refused.error)?;
        if whole < n { Err(POOL_ERROR_NULL_POINTER.into()) } else { Ok(true) }
    });
    freed
}

impl memory_pool {
    /// A slot on its way to C.
    #[inline(always)]
    fn slot_handed_out(&self, slot: NonNull<u8>, class: ClassId) -> *mut c_void {
        let size = if valgrind::ENABLED {
            on_base!(self, pool => pool.class_stats(class)).map_or(0, |class| class.size - RED_ZONE)
        } else {
            0
        };
        self.handed_out(slot, size, 0)
    }
}
