//! Where each kind of a pool's own data lies in its region.

use std::{fmt, ops::Range};

use libmempool::{MapEntry, MapKind, NoLock, Pages, Pool, SizeClass};

use crate::common::FaultySource;

pub type SmallPool = Pool<'static, NoLock, FaultySource>;

const WORD: usize = size_of::<usize>();

/// Bytes of a slab's descriptor.
const DESCRIPTOR: usize = 48;

/// Where its slots' states begin: in a line of the processor's cache.
const STATES: usize = 64;

/// A kind of the pool's own data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    BlockTag,
    FreeLinks,
    FreeFooter,
    Bins,
    Signals,
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

/// A pool with classes, and where its tables are: they are told apart by when they appear.
pub struct Mapped {
    pub pool: SmallPool,
    /// Slots of a magazine.
    magazine: usize,
    tables: Vec<(Kind, MapEntry)>,
}

impl Mapped {
    /// Adds the classes to a pool without any, whose magazines hold this many slots.
    pub fn new(pool: SmallPool, magazine: usize, classes: &[SizeClass]) -> Self {
        let mut mapped = Self { pool, magazine, tables: Vec::new() };
        let first = mapped.internal_blocks();
        // Blocks wait in pools with quarantine only.
        let kinds = &[Kind::Signals, Kind::WaitingBlocks][..first.len()];
        mapped.note(kinds, first);
        for (index, &class) in classes.iter().enumerate() {
            let before = mapped.internal_blocks();
            mapped.pool.add_size_class(class).expect("there is room");
            if index == 0 {
                let mut made = mapped.internal_blocks();
                made.retain(|entry| !before.contains(entry));
                mapped.note(&[Kind::SlabMap, Kind::ClassTable, Kind::DepotTable], made);
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

    fn byte(&self, addr: usize) -> *mut u8 {
        let memory = self.pool.pages().expect("mapped").memory();
        assert!(addr - memory.addr().get() < memory.len());
        memory.cast::<u8>().as_ptr().with_addr(addr)
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
            let slots = start + 4 * WORD;
            ranges.push((Kind::MagazineHeader, start..slots));
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
