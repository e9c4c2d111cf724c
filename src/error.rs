//! Errors: one type per kind of call, small, and each says what to do about it.

use core::fmt;

use crate::config::ClassId;

/// Why an allocation was refused. Nothing changed.
///
/// ```
/// use core::{alloc::Layout, mem::MaybeUninit};
/// use libmempool::{AllocError, NoLock, Pool};
///
/// let mut memory = [MaybeUninit::uninit(); 4096];
/// let pool = Pool::<NoLock>::new(&mut memory)?;
/// let packet = Layout::new::<[u8; 400]>();
/// let mut packets = Vec::new();
/// let full = loop {
///     match pool.alloc(packet) {
///         Ok(packet) => packets.push(packet),
///         Err(error) => break error,
///     }
/// };
/// assert!(matches!(full, AllocError::OutOfMemory { needed: 400, free_bytes } if free_bytes < 400));
///
/// // Every other packet goes: half of the memory is free, in pieces.
/// for &packet in packets.iter().step_by(2) {
///     // SAFETY: the packet is not used any more.
///     unsafe { pool.free(packet)? };
/// }
/// let scattered = pool.alloc(Layout::new::<[u8; 1000]>());
/// assert!(matches!(scattered, Err(AllocError::Fragmented { .. })));
///
/// // And this, no such pool could ever serve.
/// let huge = pool.alloc(Layout::new::<[u8; 5000]>());
/// assert!(matches!(huge, Err(AllocError::TooLarge { most }) if most < 4096));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum AllocError {
    /// The request was for zero bytes.
    ZeroSize,
    /// The size is larger than what the pool could ever serve, were it empty.
    TooLarge {
        /// What its largest region could hold at most, in bytes.
        most: usize,
    },
    /// There is less free memory than needed: free something, or give the pool more.
    OutOfMemory {
        /// Bytes that were needed: those that were asked for, or, for a slot of a class, those of a new
        /// slab.
        needed: usize,
        /// Bytes that all free memory of the heap would hold, were it one block: fewer than needed.
        free_bytes: usize,
    },
    /// There is enough free memory, but no free block is large enough, or lies as the alignment wants
    /// it. [`Pool::defragment`](crate::Pool::defragment) may help; size classes keep it from happening.
    Fragmented {
        /// Bytes that all free memory of the heap would hold, were it one block.
        free_bytes: usize,
        /// The largest free block, in bytes.
        largest_free: usize,
    },
    /// There is less free memory than needed, but with what is kept for the reserves of classes
    /// ([`SizeClass::reserve`](crate::SizeClass::reserve)) there would be enough: they may be too high.
    Reserved {
        /// As in [`OutOfMemory`](Self::OutOfMemory).
        needed: usize,
        /// Bytes of reserved slots that are not in use.
        reserved: usize,
    },
    /// The class has handed out as many slots as its limit allows (slots in caches included). That is as
    /// its owner wants it, and counted as [`limit_hits`](crate::PoolStats::limit_hits), not as a failure.
    ClassLimit {
        /// The class that is at its limit.
        class: ClassId,
    },
    /// No class has this number, or none is large enough for this size.
    UnknownClass,
    /// The pool has no region yet: call [`Pool::init`](crate::Pool::init) first.
    NotInitialised,
    /// The pool's own data is damaged at this address; the request was refused.
    Corrupted {
        /// Where the damage was found.
        addr: usize,
    },
}

// It is returned on quick paths.
const _: () = assert!(size_of::<AllocError>() <= 3 * size_of::<usize>());

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroSize => f.write_str("an allocation of zero bytes was asked for"),
            Self::TooLarge { most } => write!(
                f,
                "larger than the pool could ever serve: ask for {most} bytes at most, or add a larger region"
            ),
            Self::OutOfMemory { needed, free_bytes } => write!(
                f,
                "out of memory: {needed} bytes are needed, {free_bytes} are free: free some, or add a region"
            ),
            Self::Fragmented { free_bytes, largest_free } => write!(
                f,
                "fragmented: {free_bytes} bytes are free, but the largest free block has {largest_free}: \
                 defragment may help, and size classes do"
            ),
            Self::Reserved { needed, reserved } => write!(
                f,
                "out of memory but for reserves: {needed} bytes are needed, and classes keep {reserved} \
                 unused: lower their reserves, or add a region"
            ),
            Self::ClassLimit { class } => {
                write!(f, "{class} is at its limit: free one of its slots, or raise the limit")
            }
            Self::UnknownClass => {
                f.write_str("the pool has no such size class: add one of this size or larger")
            }
            Self::NotInitialised => f.write_str("the pool has no region: call init first"),
            Self::Corrupted { addr } => {
                write!(f, "pool data is corrupted at {addr:#x}: validate tells what is")
            }
        }
    }
}

impl core::error::Error for AllocError {}

/// Why a pointer was not accepted by a free or a look-up. Nothing changed; the pool counts refused
/// frees and reallocations ([`PoolStats::bad_frees`](crate::PoolStats::bad_frees)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum FreeError {
    /// The pointer lies outside every region of the pool.
    Foreign {
        /// The pointer's address.
        addr: usize,
    },
    /// The pointer lies inside the pool, but no block or slot starts there, or the tag of the block
    /// that did has been overwritten ([`Pool::validate`](crate::Pool::validate) tells which).
    NotABlock {
        /// The pointer's address.
        addr: usize,
    },
    /// The block is not live: it was freed before (double free), or never handed out.
    NotLive {
        /// The pointer's address.
        addr: usize,
    },
    /// The slot belongs to another class than the call said (`None`: it is a heap block).
    WrongClass {
        /// The pointer's address.
        addr: usize,
        /// The class it really belongs to.
        actual: Option<ClassId>,
    },
    /// The size that the call stated cannot be that of the object
    /// ([`Pool::free_sized`](crate::Pool::free_sized)).
    WrongSize {
        /// The pointer's address.
        addr: usize,
        /// The object's size, in pools with [`PoolFlags::CANARY`](crate::PoolFlags::CANARY); else the
        /// bytes that it may use.
        size: usize,
    },
    /// The object is not aligned as the call stated.
    WrongAlign {
        /// The pointer's address.
        addr: usize,
        /// The alignment that it does not have.
        align: usize,
    },
    /// Somebody wrote behind the end of the object ([`PoolFlags::CANARY`](crate::PoolFlags::CANARY)).
    /// It stays live: what cannot be trusted is not used again.
    Overrun {
        /// The pointer's address.
        addr: usize,
        /// The first byte that was found changed.
        at: usize,
    },
    /// The tag of the block, or of a neighbour it would be merged with, is damaged.
    Corrupted {
        /// Where the damage was found.
        addr: usize,
    },
    /// The pool has no region yet, so it cannot own the pointer.
    NotInitialised,
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign { addr } => write!(f, "{addr:#x} is not memory of this pool"),
            Self::NotABlock { addr } => write!(f, "no block starts at {addr:#x}"),
            Self::NotLive { addr } => {
                write!(f, "{addr:#x} is not live: freed before (double free) or never handed out")
            }
            Self::WrongClass { addr, actual: Some(class) } => {
                write!(f, "{addr:#x} belongs to {class}, not to the class given")
            }
            Self::WrongClass { addr, actual: None } => {
                write!(f, "{addr:#x} is a heap block, not a slot of a class")
            }
            Self::WrongSize { addr, size } => {
                write!(f, "the object at {addr:#x} is not of the size given: it has {size} bytes")
            }
            Self::WrongAlign { addr, align } => {
                write!(f, "{addr:#x} is not aligned to {align}: the layout is another object's")
            }
            Self::Overrun { addr, at } => {
                write!(f, "the object at {addr:#x} was written past its end, at {at:#x}")
            }
            Self::Corrupted { addr } => write!(f, "the block tag at {addr:#x} is corrupted"),
            Self::NotInitialised => f.write_str("the pool has no region: call init first"),
        }
    }
}

impl core::error::Error for FreeError {}

/// What a pool reports to the function of [`PoolConfig::on_fault`](crate::PoolConfig::on_fault): a
/// mistake of a caller, or damage that it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Fault {
    /// A free, resize or look-up that was refused.
    Free(FreeError),
    /// Damage that an allocation or a free came by. What is damaged is not used any more.
    Corruption(Corruption),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free(error) => error.fmt(f),
            Self::Corruption(found) => found.fmt(f),
        }
    }
}

impl core::error::Error for Fault {}

/// Why a reallocation was refused. The old block is as it was, and still the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ReallocError {
    /// No memory for the new size.
    Alloc(AllocError),
    /// The old pointer is not a live block of this pool.
    Free(FreeError),
}

impl fmt::Display for ReallocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alloc(error) => error.fmt(f),
            Self::Free(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ReallocError {}

impl From<AllocError> for ReallocError {
    fn from(error: AllocError) -> Self {
        Self::Alloc(error)
    }
}

impl From<FreeError> for ReallocError {
    fn from(error: FreeError) -> Self {
        Self::Free(error)
    }
}

/// A bulk free met a pointer it could not accept and stopped there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct BulkFreeError {
    /// How many pointers, from the front, were freed; the rest are as they were.
    pub freed: usize,
    /// What is wrong with the pointer at index `freed`.
    pub error: FreeError,
}

impl fmt::Display for BulkFreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopped after {} frees: {}", self.freed, self.error)
    }
}

impl core::error::Error for BulkFreeError {}

/// Why a pool, a region or a size class could not be set up. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ConfigError {
    /// The region cannot hold the pool's tables and one block.
    RegionTooSmall {
        /// Bytes that were handed over.
        bytes: usize,
    },
    /// The region is larger than a block tag can say.
    RegionTooLarge {
        /// Bytes that were handed over.
        bytes: usize,
    },
    /// The alignment is zero, not a power of two, or above
    /// [`MAX_ALIGNMENT`](crate::MAX_ALIGNMENT).
    BadAlignment {
        /// The alignment that was asked for.
        alignment: usize,
    },
    /// A class size is zero, or above what a slab can hold in this pool.
    BadClassSize {
        /// The size that was asked for.
        size: usize,
    },
    /// The pool has [`MAX_CLASSES`](crate::MAX_CLASSES) classes already.
    TooManyClasses,
    /// The limit is lower than the reserve, or is zero.
    LimitBelowReserve,
    /// There is not enough free memory for the tables that this needs.
    OutOfMemory,
    /// There is not enough free memory for the reserve.
    ReserveTooLarge {
        /// Slots that were asked for.
        reserve: usize,
        /// Slots that there was room for.
        available: usize,
    },
    /// The pool has a region already.
    AlreadyInitialised,
    /// The pool has no region yet.
    NotInitialised,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RegionTooSmall { bytes } => {
                write!(f, "a region of {bytes} bytes cannot hold a pool")
            }
            Self::RegionTooLarge { bytes } => {
                write!(f, "a region of {bytes} bytes is larger than block tags can say")
            }
            Self::BadAlignment { alignment } => {
                write!(f, "alignment {alignment} is not a supported power of two")
            }
            Self::BadClassSize { size } => write!(f, "no class can have slots of {size} bytes"),
            Self::TooManyClasses => f.write_str("the pool has as many classes as it can have"),
            Self::LimitBelowReserve => {
                f.write_str("the class's limit is zero or below its reserve")
            }
            Self::OutOfMemory => f.write_str("no room for the pool's own tables"),
            Self::ReserveTooLarge { reserve, available } => {
                write!(f, "no room for a reserve of {reserve} slots: {available} would fit")
            }
            Self::AlreadyInitialised => f.write_str("the pool has a region already"),
            Self::NotInitialised => f.write_str("the pool has no region: call init first"),
        }
    }
}

impl core::error::Error for ConfigError {}

/// Why a page source could not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum PageError {
    /// The source has no pages of this size, or has run out.
    Unavailable {
        /// Bytes that were asked for.
        bytes: usize,
    },
    /// The range does not lie within the pages.
    OutOfRange,
    /// The source cannot do this at all.
    Unsupported,
    /// The operating system refused.
    Os {
        /// The system call that failed.
        call: &'static str,
        /// Its error number.
        code: i32,
    },
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable { bytes } => write!(f, "no pages for {bytes} bytes"),
            Self::OutOfRange => f.write_str("the range lies outside the pages"),
            Self::Unsupported => f.write_str("the page source cannot do this"),
            Self::Os { call, code } => write!(f, "{call} failed with error {code}"),
        }
    }
}

impl core::error::Error for PageError {}

/// Why a pool could not be mapped: no pages, or pages that do not suit the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum MapError {
    /// The page source failed.
    Pages(PageError),
    /// The configuration does not fit the pages; they were given back.
    Config(ConfigError),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pages(error) => error.fmt(f),
            Self::Config(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for MapError {}

impl From<PageError> for MapError {
    fn from(error: PageError) -> Self {
        Self::Pages(error)
    }
}

impl From<ConfigError> for MapError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

/// What was found to be damaged first, and where. [`Pool::explain`](crate::Pool::explain) says what lies
/// around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Corruption {
    /// The address of the damaged word or byte.
    pub addr: usize,
    /// What is damaged.
    pub kind: CorruptionKind,
}

/// The part of a pool that [`Corruption`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
// A whole word: as a byte it would make the compiler pass results of the heap in pieces.
#[repr(usize)]
pub enum CorruptionKind {
    /// A heap block's tag does not match its checksum, or its size leads outside the region.
    BlockTag,
    /// A block says its predecessor is free, or used, and it is not.
    BlockNeighbour,
    /// A free block's size at its end differs from its tag.
    BlockFooter,
    /// A free block's list links do not agree with its neighbours in the list.
    BlockLinks,
    /// A bin's bitmap bit or list head disagrees with the free blocks there are.
    Bin,
    /// The slab map, a slab's descriptor and its class disagree.
    Slab,
    /// A slot's state byte has a value that is no state.
    SlotState,
    /// A magazine holds something that is no cached slot of its class.
    Magazine,
    /// One of the pool's own tables, of regions, classes, depots or in a cache, does not match its
    /// checksum.
    Table,
    /// A counter disagrees with what was counted.
    Counter,
    /// Somebody wrote behind the end of a live object.
    Overrun,
    /// Somebody wrote to memory that had been freed.
    FreedMemory,
}

impl fmt::Display for CorruptionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BlockTag => "block tag",
            Self::BlockNeighbour => "neighbour flag of the block",
            Self::BlockFooter => "footer of the free block",
            Self::BlockLinks => "list links of the free block",
            Self::Bin => "bin",
            Self::Slab => "slab descriptor",
            Self::SlotState => "slot state",
            Self::Magazine => "magazine",
            Self::Table => "table",
            Self::Counter => "counter",
            Self::Overrun => "canary behind a live object",
            Self::FreedMemory => "freed memory",
        })
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} at {:#x} is corrupted", self.kind, self.addr)
    }
}

impl core::error::Error for Corruption {}

/// What [`Pool::validate`](crate::Pool::validate) found to be damaged first, where, and what lies around
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Damage {
    /// The address of the damaged word or byte.
    pub addr: usize,
    /// What is damaged.
    pub kind: CorruptionKind,
    /// The class whose slot it is in; `None`: it is in the heap, or in a table of the pool.
    pub class: Option<ClassId>,
    /// The block or slot that the damage lies behind, and that was most likely written past its end: of an
    /// overrun the object itself, else the one just below. `None`: there is none, or none was found.
    pub below: Option<Neighbour>,
}

/// A block or slot beside damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Neighbour {
    /// Where it starts, as it was handed out.
    pub addr: usize,
    /// Its class; `None`: it is a block of the heap.
    pub class: Option<ClassId>,
    /// Who has it.
    pub state: NeighbourState,
}

/// Who has a [`Neighbour`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum NeighbourState {
    /// A caller.
    Live,
    /// Nobody: somebody may have used it after its free.
    Free,
    /// The pool, for its own tables.
    Pool,
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            NeighbourState::Live => "the live ",
            NeighbourState::Free => "the free ",
            NeighbourState::Pool => "the pool's own ",
        })?;
        match self.class {
            Some(class) => write!(f, "slot of {class} at {:#x}", self.addr),
            None => write!(f, "block at {:#x}", self.addr),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} at {:#x}", self.kind, self.addr)?;
        if let Some(class) = self.class {
            write!(f, ", in a slab of {class},")?;
        }
        f.write_str(" is corrupted")?;
        match (self.kind, self.below) {
            (_, None) => Ok(()),
            (CorruptionKind::Overrun, Some(below)) => {
                write!(f, " by a write past the end of {below}")
            }
            (CorruptionKind::FreedMemory, Some(below)) => {
                write!(f, " by a use after its free, or a write past the end of {below}")
            }
            (_, Some(below)) => write!(f, ", probably by a write past the end of {below}"),
        }
    }
}

impl core::error::Error for Damage {}

impl From<Corruption> for AllocError {
    fn from(found: Corruption) -> Self {
        Self::Corrupted { addr: found.addr }
    }
}

impl From<Corruption> for FreeError {
    fn from(found: Corruption) -> Self {
        Self::Corrupted { addr: found.addr }
    }
}
