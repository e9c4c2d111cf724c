//! A small pool with every way into it: the pool itself, local caches, this thread's cache.

use std::{ptr::NonNull, sync::Arc};

use libmempool::{ClassId, FreeError, Pages, Pool, PoolConfig, PoolStats, ReallocError};

use super::{Faults, FaultySource, Handle, bytes};

/// A pool whose memory can be looked at from outside.
pub type BenchPool = Pool<'static, parking_lot::RawMutex, FaultySource>;

/// The pool, under whatever can share it.
pub struct Bench {
    #[cfg(feature = "std")]
    shared: libmempool::ThreadCachedPool<parking_lot::RawMutex, FaultySource>,
    #[cfg(not(feature = "std"))]
    shared: BenchPool,
    /// What its page source makes fail.
    pub faults: Arc<Faults>,
}

impl Bench {
    pub fn new(config: PoolConfig, bytes: usize) -> Self {
        let faults = Faults::every(0);
        let source = FaultySource::new(faults.clone());
        let pool = Pool::builder().config(config).map(source, bytes).expect("enough memory");
        #[cfg(feature = "std")]
        let pool = libmempool::ThreadCachedPool::new(pool);
        Self { shared: pool, faults }
    }

    pub fn pool(&self) -> &BenchPool {
        #[cfg(feature = "std")]
        return self.shared.pool();
        #[cfg(not(feature = "std"))]
        return &self.shared;
    }

    pub fn reset(&mut self) {
        #[cfg(feature = "std")]
        self.shared.reset().expect("the only clone").expect("a valid pool");
        #[cfg(not(feature = "std"))]
        self.shared.reset().expect("a valid pool");
    }

    /// Every kind of handle: the pool, a cache that was never used, one that is in use, and the
    /// thread's.
    pub fn handles(&self) -> Vec<(&'static str, Box<dyn Handle + '_>)> {
        let mut used = self.pool().local_cache();
        for class in self.pool().classes() {
            // In a damaged pool there may be no room.
            if let Ok(slot) = used.alloc_fixed(class) {
                Handle::free_fixed(&mut used, class, slot).expect("a live slot");
            }
        }
        // A thread's first call gets it an entry in the pool's memory, whatever it is for.
        #[cfg(feature = "std")]
        self.shared.flush_thread();
        vec![
            ("pool", Box::new(self.pool())),
            ("fresh cache", Box::new(self.pool().local_cache())),
            ("used cache", Box::new(used)),
            #[cfg(feature = "std")]
            ("thread", Box::new(self.shared.clone())),
        ]
    }

    /// Every byte of the region, the pool's own tables included. Nothing under Miri: tables have padding, which
    /// it does not let anybody read.
    pub fn image(&self) -> Vec<u8> {
        if cfg!(miri) {
            return Vec::new();
        }
        let memory = self.pool().pages().expect("mapped").memory();
        // SAFETY: the memory was initialised, and nobody writes to it meanwhile.
        unsafe { memory.as_ref() }.to_vec()
    }

    /// The address of a byte of the region.
    pub fn at(&self, addr: usize) -> NonNull<u8> {
        let memory = self.pool().pages().expect("mapped").memory().cast::<u8>();
        memory.map_addr(|_| addr.try_into().expect("not null"))
    }

    /// Damages a word of the region: what a wild write does.
    pub fn damage(&self, addr: usize, word: u64) {
        // SAFETY: in the region, and nobody else accesses it meanwhile.
        unsafe { self.at(addr).cast::<u64>().write_unaligned(word) };
    }

    /// A word of the region.
    pub fn word(&self, addr: usize) -> u64 {
        // SAFETY: as in `damage`.
        unsafe { self.at(addr).cast::<u64>().read_unaligned() }
    }

    /// Tries to free a pointer through every handle in these ways: each must refuse it with an
    /// error that is expected, and change nothing but the count of refusals.
    #[track_caller]
    pub fn refuses(
        &self,
        pointer: NonNull<u8>,
        class: ClassId,
        ways: &[Way],
        expected: impl Fn(FreeError) -> bool,
    ) {
        let mut handles = self.handles();
        for (name, handle) in &mut handles {
            for way in ways {
                let mut stats = self.pool().stats();
                let image = self.image();
                let error = way.free(&mut **handle, class, pointer);
                let error = error.expect_err("misuse is refused");
                assert!(expected(error), "{name}, {way:?}: {error}");
                stats.bad_frees += 1;
                assert_eq!(self.pool().stats(), stats, "{name}, {way:?}");
                assert!(self.image() == image, "{name}, {way:?} changed the region");
            }
        }
    }
}

/// A way to give a block back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ByPointer,
    /// Stating a size, which is right for no object that is larger than 16 bytes.
    BySize,
    ByClass,
    InBulk,
    ByRealloc,
}

impl Way {
    pub const ALL: &'static [Self] =
        &[Self::ByPointer, Self::BySize, Self::ByClass, Self::InBulk, Self::ByRealloc];
    /// Those that name the class.
    pub const TYPED: &'static [Self] = &[Self::ByClass, Self::InBulk];
    pub const UNTYPED: &'static [Self] = &[Self::ByPointer, Self::BySize, Self::ByRealloc];

    pub fn free(
        self,
        handle: &mut dyn Handle,
        class: ClassId,
        pointer: NonNull<u8>,
    ) -> Result<(), FreeError> {
        match self {
            Self::ByPointer => handle.free(pointer),
            Self::BySize => handle.free_sized(pointer, bytes(1)),
            Self::ByClass => handle.free_fixed(class, pointer),
            Self::InBulk => handle.free_bulk(class, &[pointer]).map_err(|error| error.error),
            Self::ByRealloc => match handle.realloc(pointer, bytes(1), 6000) {
                Ok(_) => Ok(()),
                Err(ReallocError::Free(error)) => Err(error),
                Err(error) => panic!("{error}"),
            },
        }
    }
}
