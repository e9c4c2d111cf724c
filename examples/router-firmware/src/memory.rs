//! The router's memory: one pool over one static region, and who has which part of it.

use core::{alloc::Layout, fmt, mem::MaybeUninit};

use libmempool::{
    AllocError, ClassId, ConfigError, CriticalSection, LocalCache, ObjectPool, Pool, PoolConfig,
    Pooled, SizeClass,
};

use crate::{
    config::{OWN_BUFFERS, PORT, PORTS, RECEIVE_BUFFERS},
    frame,
};

/// The pool. It is static, so that frames and the cards' queues can lie in it.
pub type Memory = Pool<'static, CriticalSection>;

/// The main loop's cache of buffers: no lock per frame.
pub type Cache = LocalCache<'static, CriticalSection>;

/// The owner of a `T` in the pool.
pub type Owned<T> = Pooled<'static, T, CriticalSection>;

/// Where values of one type lie.
pub type Objects<T> = ObjectPool<'static, T, CriticalSection>;

/// The region is too small for what is to lie in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// A class does not fit.
    Config(ConfigError),
    /// A table does not fit.
    Alloc(AllocError),
}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<AllocError> for StartError {
    fn from(error: AllocError) -> Self {
        Self::Alloc(error)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Alloc(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StartError {}

/// The classes of buffers.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// For what each port receives.
    pub received: [ClassId; PORTS],
    /// For what the router says by itself.
    pub own: ClassId,
}

/// Hands the region to the pool and sets the buffers aside. `key` goes into the checksums of the
/// pool's block tags: something that a writer of stray bytes does not know.
///
/// # Errors
/// [`ConfigError`] if they do not fit, or the pool has a region already.
pub fn start(
    memory: &'static Memory,
    region: &'static mut [MaybeUninit<u8>],
    key: u64,
) -> Result<Buffers, ConfigError> {
    // Frames show their whole slot as bytes, so each byte has a value from the start.
    region.fill(MaybeUninit::new(0));
    // Small magazines: a few dozen buffers should not lie in caches for the most part.
    memory.init_with(&PoolConfig::new().magazine(4).key(key), region)?;
    let class = |frame: usize, count: usize| {
        let size = frame::HEADROOM + frame;
        memory.add_size_class(SizeClass::new(size).reserve(count).limit(count).dedicated())
    };
    let mut received = [ClassId::new(0); PORTS];
    for id in &mut received {
        *id = class(frame::LONGEST, RECEIVE_BUFFERS)?;
    }
    Ok(Buffers { received, own: class(frame::LONGEST_OWN, OWN_BUFFERS)? })
}

/// A class for exactly `count` values of a type.
///
/// # Errors
/// [`ConfigError`] if they do not fit.
pub fn objects<T>(memory: &'static Memory, count: usize) -> Result<Objects<T>, ConfigError> {
    ObjectPool::with_class(memory, SizeClass::new(0).reserve(count).limit(count))
}

/// Moves a value into a block of its own, for good. Large ones are best placed one by one: on their
/// way here they lie on the stack.
///
/// # Errors
/// [`AllocError`] if it does not fit.
#[expect(clippy::mut_from_ref, reason = "a fresh block each time")]
pub fn place<T>(memory: &'static Memory, value: T) -> Result<&'static mut T, AllocError> {
    let block = memory.alloc(Layout::new::<T>())?.cast::<T>();
    // SAFETY: the block is fresh, suits a `T`, is never freed, and this is its only reference.
    unsafe {
        block.write(value);
        Ok(&mut *block.as_ptr())
    }
}

/// Buffers in use, by class, in few words.
pub struct InUse<'a>(pub &'a Memory, pub &'a Buffers);

impl fmt::Display for InUse<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = PORT.iter().map(|port| port.name).chain(["own"]);
        let classes = self.1.received.iter().chain([&self.1.own]);
        for (name, stats) in names.zip(classes.filter_map(|&class| self.0.class_stats(class))) {
            write!(f, " {name} {}/{}", stats.live, stats.limit)?;
        }
        Ok(())
    }
}
