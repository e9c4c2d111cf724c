//! Where each kind of a pool's own data lies in its region.

use std::{fmt, mem::MaybeUninit, ops::Range, ptr::NonNull};

use libmempool::{MapEntry, MapKind, NoLock, Pages, Pool, SizeClass};

use crate::common::FaultySource;

pub type SmallPool = Pool<'static, NoLock, FaultySource>;

const WORD: usize = size_of::<usize>();

/// Whether an address lies in a region.
pub fn contains(region: NonNull<[u8]>, addr: usize) -> bool {
    addr.wrapping_sub(region.addr().get()) < region.len()
}

/// Bytes of a slab's descriptor.
const DESCRIPTOR: usize = 48;

/// Where its slots' states begin: in a line of the processor's cache.
const STATES: usize = 64;

/// Bytes of a magazine's header, the last of which only pad it.
const HEADER: usize = 5 * WORD;
const PADDING: usize = size_of::<u32>();

/// A kind of the pool's own data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    BlockTag,
    FreeLinks,
    FreeFooter,
    Bins,
    Signals,
    RegionTable,
    WaitingBlocks,
    SlabMap,
    ClassTable,
    DepotTable,
    SlabDescriptor,
    SlotState,
    CacheBlock,
    MagazineHeader,
    MagazineSlots,
}

impl Kind {
    /// All kinds.
    pub const ALL: &'static [Self] = &[
        Self::BlockTag,
        Self::FreeLinks,
        Self::FreeFooter,
        Self::Bins,
        Self::Signals,
        Self::RegionTable,
        Self::WaitingBlocks,
        Self::SlabMap,
        Self::ClassTable,
        Self::DepotTable,
        Self::SlabDescriptor,
        Self::SlotState,
        Self::CacheBlock,
        Self::MagazineHeader,
        Self::MagazineSlots,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Bytes of the region that is added to the first: too few for a slab of any class.
const ADDED: usize = 4 << 10;

/// A pool with classes and two regions, and where its tables are: they are told apart by when they appear.
pub struct Mapped {
    pub pool: SmallPool,
    /// Slots of a magazine.
    magazine: usize,
    /// The added region.
    added: NonNull<[u8]>,
    tables: Vec<(Kind, MapEntry)>,
}

impl Mapped {
    /// Adds the classes to a pool without any, whose magazines hold this many slots.
    pub fn new(pool: SmallPool, magazine: usize, classes: &[SizeClass]) -> Self {
        let added: &'static mut [MaybeUninit<u8>] = Box::leak(Box::new_uninit_slice(ADDED));
        let memory = NonNull::slice_from_raw_parts(NonNull::from(&mut *added).cast(), ADDED);
        let mut mapped = Self { pool, magazine, added: memory, tables: Vec::new() };
        let first = mapped.internal_blocks();
        // Blocks wait in pools with quarantine only.
        let kinds = &[Kind::Signals, Kind::WaitingBlocks][..first.len()];
        mapped.note(kinds, first.clone());
        mapped.pool.add_region(added).expect("it is large enough");
        let mut made = mapped.internal_blocks();
        made.retain(|entry| !first.contains(entry));
        mapped.note(&[Kind::RegionTable], made);
        for (index, &class) in classes.iter().enumerate() {
            let before = mapped.internal_blocks();
            mapped.pool.add_size_class(class).expect("there is room");
            if index == 0 {
                let mut made = mapped.internal_blocks();
                made.retain(|entry| !before.contains(entry));
                let maps = [Kind::SlabMap, Kind::SlabMap];
                let tables = [Kind::ClassTable, Kind::DepotTable];
                mapped.note(&[maps, tables].concat(), made);
            }
        }
        mapped
    }

    fn note(&mut self, kinds: &[Kind], blocks: Vec<MapEntry>) {
        assert_eq!(kinds.len(), blocks.len(), "{blocks:?}");
        self.tables.extend(kinds.iter().copied().zip(blocks));
    }

    fn internal_blocks(&self) -> Vec<MapEntry> {
        self.pool.map().filter(|entry| entry.kind == MapKind::Metadata).collect()
    }

    fn start(&self) -> usize {
        self.pool.pages().expect("mapped").memory().addr().get()
    }

    /// The memory of its regions.
    pub fn regions(&self) -> [NonNull<[u8]>; 2] {
        [self.pool.pages().expect("mapped").memory(), self.added]
    }

    fn byte(&self, addr: usize) -> *mut u8 {
        let region = self.regions().into_iter().find(|&region| contains(region, addr));
        region.expect("in a region").cast::<u8>().as_ptr().with_addr(addr)
    }

    /// Flips a bit.
    pub fn flip(&self, addr: usize, bit: usize) {
        let byte = self.byte(addr);
        // SAFETY: in the region, and nobody else accesses it meanwhile.
        unsafe { byte.write(byte.read() ^ 1 << bit) };
    }

    fn word(&self, addr: usize) -> usize {
        // SAFETY: as in `flip`; blocks are aligned to words.
        unsafe { self.byte(addr).cast::<usize>().read() }
    }

    /// Everything that the pool may rely on, by kind. Only what pads a block is left out.
    pub fn ranges(&self) -> Vec<(Kind, Range<usize>)> {
        // What rests is free, and has no links.
        let _ = self.pool.stats();
        let entries: Vec<_> = self.pool.map().collect();
        let slab_at = |addr| {
            entries.iter().find_map(|entry| match entry.kind {
                MapKind::Slab { slots, .. } if entry.addr == addr => Some(slots),
                _ => None,
            })
        };
        let mut ranges = vec![(Kind::Bins, self.start()..entries[0].addr)];
        for entry in &entries {
            let (start, end) = (entry.addr + WORD, entry.addr + entry.size);
            match entry.kind {
                MapKind::Slab { .. } => continue,
                MapKind::Free => {
                    ranges.push((Kind::FreeLinks, start..start + 2 * WORD));
                    ranges.push((Kind::FreeFooter, end - WORD..end));
                }
                MapKind::Metadata => self.table_ranges(entry, slab_at, &mut ranges),
                _ => {}
            }
            ranges.push((Kind::BlockTag, entry.addr..start));
        }
        ranges
    }

    fn table_ranges(
        &self,
        entry: &MapEntry,
        slab_at: impl Fn(usize) -> Option<usize>,
        ranges: &mut Vec<(Kind, Range<usize>)>,
    ) {
        let (start, end) = (entry.addr + WORD, entry.addr + entry.size);
        if let Some((kind, _)) = self.tables.iter().find(|(_, table)| table == entry) {
            ranges.push((*kind, start..end));
        } else if self.word(start + WORD) >> 32 == self.magazine {
            let slots = start + HEADER;
            ranges.push((Kind::MagazineHeader, start..slots - PADDING));
            ranges.push((Kind::MagazineSlots, slots..slots + self.magazine * 2 * WORD));
        } else if let Some(slots) = slab_at(self.word(start + 3 * WORD)) {
            let states = start + STATES;
            ranges.push((Kind::SlabDescriptor, start..start + DESCRIPTOR));
            ranges.push((Kind::SlotState, states..states + slots));
        } else {
            ranges.push((Kind::CacheBlock, start..end));
        }
    }
}
