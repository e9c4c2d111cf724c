#![allow(unsafe_code)] // owns values in raw slots
//! Typed objects: slots that hold a `T`, dropped in place when their handle goes.

use core::{
    alloc::Layout,
    fmt,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

use lock_api::{Mutex, RawMutex};

use super::pool::{Guarded, Pool, quick_or};
use crate::{
    config::{ClassId, SizeClass},
    error::{AllocError, ConfigError},
    lock::NoLock,
    page_source::PageSource,
};

/// A pool of values of one type, in a size class of its own.
///
/// [`insert`](Self::insert) moves a value into a slot and returns its owner, a [`Pooled`]: it
/// dereferences to the value, drops it and returns the slot. Handles may go to other threads if
/// `T` may.
///
/// ```
/// use std::mem::MaybeUninit;
/// use libmempool::{AllocError, NoLock, ObjectPool, Pool, SizeClass};
///
/// #[derive(Debug)]
/// struct Session { peer: [u8; 16], bytes: u64 }
///
/// let mut memory = vec![MaybeUninit::uninit(); 256 << 10];
/// let pool = Pool::<NoLock>::new(&mut memory)?;
/// let sessions = ObjectPool::with_class(&pool, SizeClass::new(0).reserve(1).limit(1))?;
///
/// let mut first = sessions.insert(Session { peer: [0; 16], bytes: 0 })?;
/// first.bytes += 1500;
/// // One is the limit: the second gets its value back, and room once the first has gone.
/// let refused = sessions.insert(Session { peer: [1; 16], bytes: 0 }).unwrap_err();
/// assert!(matches!(refused.error, AllocError::ClassLimit { .. }));
/// drop(first);
/// let second = sessions.insert(refused.value)?;
/// assert_eq!(second.peer, [1; 16]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ObjectPool<'p, T, L: RawMutex = NoLock> {
    pool: &'p Mutex<L, Guarded>,
    class: ClassId,
    values: PhantomData<fn(T) -> T>,
}

impl<'p, T, L: RawMutex> ObjectPool<'p, T, L> {
    /// Adds a class for `T` to the pool, without reserve or limit.
    ///
    /// # Errors
    /// [`ConfigError`], as [`Pool::add_size_class`].
    pub fn new<P: PageSource>(pool: &'p Pool<'_, L, P>) -> Result<Self, ConfigError> {
        Self::with_class(pool, SizeClass::new(0))
    }

    /// Adds a class for `T` with room for `reserve` values set aside.
    ///
    /// # Errors
    /// [`ConfigError`], as [`Pool::add_size_class`].
    pub fn with_reserve<P: PageSource>(
        pool: &'p Pool<'_, L, P>,
        reserve: usize,
    ) -> Result<Self, ConfigError> {
        Self::with_class(pool, SizeClass::new(0).reserve(reserve))
    }

    /// Adds a class for `T` with this reserve, limit, colouring and watermark; the size is `T`'s.
    ///
    /// # Errors
    /// [`ConfigError`], as [`Pool::add_size_class`]; [`ConfigError::BadAlignment`] if slots in
    /// this pool cannot be aligned for `T`.
    pub fn with_class<P: PageSource>(
        pool: &'p Pool<'_, L, P>,
        class: SizeClass,
    ) -> Result<Self, ConfigError> {
        let layout = Layout::new::<T>().pad_to_align();
        let mut guarded = pool.inner.lock();
        let engine = &mut guarded.engine;
        let class = engine.add_class(&SizeClass {
            size: layout.size().max(1),
            dedicated: true,
            ..class
        })?;
        let slots = engine.slabs.class(class);
        if slots.is_none_or(|entry| entry.shape.align < layout.align()) {
            engine.forget_last_class();
            return Err(ConfigError::BadAlignment { alignment: layout.align() });
        }
        drop(guarded);
        Ok(Self { pool: &pool.inner, class, values: PhantomData })
    }

    /// The class that was added, for [`Pool::class_stats`].
    pub fn class(&self) -> ClassId {
        self.class
    }

    /// Moves a value into the pool. O(1), under the lock.
    ///
    /// # Errors
    /// [`InsertError`] gives the value back if there is no slot for it.
    pub fn insert(&self, value: T) -> Result<Pooled<'p, T, L>, InsertError<T>> {
        let slot = quick_or(
            self.pool,
            |cache, _| cache.alloc_fixed_quick(self.class),
            |cache, engine| cache.alloc_fixed(self.class, engine),
        );
        match slot {
            Ok(slot) => {
                let slot = slot.cast::<T>();
                // SAFETY: the slot is fresh, and large and aligned enough for a `T`.
                unsafe { slot.write(value) };
                Ok(Pooled { value: slot, pool: self.pool, owned: PhantomData })
            }
            Err(error) => Err(InsertError { value, error }),
        }
    }
}

impl<T, L: RawMutex> fmt::Debug for ObjectPool<'_, T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectPool").field("class", &self.class).finish_non_exhaustive()
    }
}

/// The owner of one value in an [`ObjectPool`]. A leaked handle leaks its slot, nothing else.
///
/// Invariant: `value` is a live slot of the pool that holds a `T`, and this is its only owner.
pub struct Pooled<'p, T, L: RawMutex = NoLock> {
    value: NonNull<T>,
    pool: &'p Mutex<L, Guarded>,
    owned: PhantomData<T>,
}

// SAFETY: the handle owns its value like a `Box`; it reaches the pool through a lock that may be
// used from other threads.
unsafe impl<T: Send, L: RawMutex + Sync> Send for Pooled<'_, T, L> {}

// SAFETY: a shared handle gives shared access to the value only.
unsafe impl<T: Sync, L: RawMutex + Sync> Sync for Pooled<'_, T, L> {}

impl<T, L: RawMutex> Pooled<'_, T, L> {
    /// Takes the value out and returns the slot. O(1), under the lock.
    pub fn into_inner(handle: Self) -> T {
        let handle = ManuallyDrop::new(handle);
        // SAFETY: the type's invariant; the handle is not dropped, so the value moves out once.
        let value = unsafe { handle.value.read() };
        handle.return_slot();
        value
    }

    fn return_slot(&self) {
        let slot = self.value.cast();
        let freed = quick_or(
            self.pool,
            |cache, _| cache.free_quick(slot.addr().get(), None).then_some(()),
            |cache, engine| cache.free(slot, None, engine),
        );
        debug_assert!(freed.is_ok(), "{freed:?}");
    }
}

impl<T, L: RawMutex> Deref for Pooled<'_, T, L> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the type's invariant.
        unsafe { self.value.as_ref() }
    }
}

impl<T, L: RawMutex> DerefMut for Pooled<'_, T, L> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the type's invariant; `&mut self` makes it exclusive.
        unsafe { self.value.as_mut() }
    }
}

impl<T, L: RawMutex> Drop for Pooled<'_, T, L> {
    fn drop(&mut self) {
        /// Returns the slot even if the value's own drop panics.
        struct Return<'h, 'p, T, L: RawMutex>(&'h Pooled<'p, T, L>);
        impl<T, L: RawMutex> Drop for Return<'_, '_, T, L> {
            fn drop(&mut self) {
                self.0.return_slot();
            }
        }
        let value = self.value;
        let _return = Return(self);
        // SAFETY: the type's invariant; the slot is returned, and never looked at again, after.
        unsafe { value.drop_in_place() };
    }
}

impl<T: fmt::Debug, L: RawMutex> fmt::Debug for Pooled<'_, T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A value that found no slot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InsertError<T> {
    /// The value, back with its owner.
    pub value: T,
    /// Why.
    pub error: AllocError,
}

impl<T> fmt::Debug for InsertError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InsertError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for InsertError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> core::error::Error for InsertError<T> {}
