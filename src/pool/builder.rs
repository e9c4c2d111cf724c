//! Building a pool: its configuration, call by call, then its memory.

use core::{fmt, marker::PhantomData, mem::MaybeUninit};

use lock_api::RawMutex;

use super::pool::Pool;
use crate::{
    config::{FaultFn, LeakFn, PoolConfig, SizeClass},
    error::{ConfigError, MapError},
    page_source::PageSource,
};

/// A pool to be, guarded by a lock of type `L`. The calls are those of [`PoolConfig`].
///
/// ```
/// use std::mem::MaybeUninit;
/// use libmempool::{NoLock, Pool, SizeClass};
///
/// let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// let pool = Pool::<NoLock>::builder()
///     .alignment(64)
///     .size_classes(&[64, 256, 1024])
///     .size_class(SizeClass::new(2048).reserve(100))
///     .build(&mut memory)?;
/// assert!(pool.class_stats(pool.class_of(2000)?).unwrap().free >= 100);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a builder does nothing until `build` or `map`"]
pub struct PoolBuilder<L> {
    config: PoolConfig,
    lock: PhantomData<fn() -> L>,
}

// Derived, these would ask the same of the lock.
impl<L> Clone for PoolBuilder<L> {
    fn clone(&self) -> Self {
        Self { config: self.config.clone(), lock: PhantomData }
    }
}

impl<L> fmt::Debug for PoolBuilder<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder").field("config", &self.config).finish()
    }
}

impl<L: RawMutex> PoolBuilder<L> {
    pub(super) const fn new() -> Self {
        Self { config: PoolConfig::new(), lock: PhantomData }
    }

    /// Starts from a whole configuration instead.
    pub fn config(mut self, config: PoolConfig) -> Self {
        self.config = config;
        self
    }

    /// See [`PoolConfig::alignment`].
    pub fn alignment(self, bytes: usize) -> Self {
        self.map_config(|config| config.alignment(bytes))
    }

    /// See [`PoolConfig::size_class`].
    pub fn size_class(self, class: SizeClass) -> Self {
        self.map_config(|config| config.size_class(class))
    }

    /// See [`PoolConfig::size_classes`].
    pub fn size_classes(self, sizes: &[usize]) -> Self {
        self.map_config(|config| config.size_classes(sizes))
    }

    /// See [`PoolConfig::preset_classes`].
    pub fn preset_classes(self) -> Self {
        self.map_config(PoolConfig::preset_classes)
    }

    /// See [`PoolConfig::flags`].
    #[cfg(feature = "flags")]
    pub fn flags(self, flags: crate::PoolFlags) -> Self {
        self.map_config(|config| config.flags(flags))
    }

    /// See [`PoolConfig::magazine`].
    pub fn magazine(self, slots: usize) -> Self {
        self.map_config(|config| config.magazine(slots))
    }

    /// See [`PoolConfig::key`].
    pub fn key(self, key: u64) -> Self {
        self.map_config(|config| config.key(key))
    }

    /// See [`PoolConfig::on_fault`].
    pub fn on_fault(self, callback: FaultFn, context: usize) -> Self {
        self.map_config(|config| config.on_fault(callback, context))
    }

    /// See [`PoolConfig::on_leak`].
    pub fn on_leak(self, callback: LeakFn) -> Self {
        self.map_config(|config| config.on_leak(callback))
    }

    fn map_config(mut self, change: impl FnOnce(PoolConfig) -> PoolConfig) -> Self {
        self.config = change(self.config);
        self
    }

    /// A pool over the caller's memory, which it borrows. O(reserves).
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn build(self, region: &mut [MaybeUninit<u8>]) -> Result<Pool<'_, L>, ConfigError> {
        let pool = Pool::empty();
        pool.init_with(&self.config, region)?;
        Ok(pool)
    }

    /// A pool over at least `bytes` bytes that it obtains from a page source, and gives back when
    /// it is dropped. O(reserves), and what the source does.
    ///
    /// # Errors
    /// [`MapError`]; nothing stays mapped.
    #[expect(clippy::needless_pass_by_value, reason = "sources are small configurations")]
    pub fn map<P: PageSource>(
        self,
        source: P,
        bytes: usize,
    ) -> Result<Pool<'static, L, P>, MapError> {
        Ok(Pool::over(source.obtain(bytes)?, &self.config)?)
    }
}
