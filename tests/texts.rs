//! What errors, statistics and damage say when they are printed: where, what, and what to do.

mod common;

use std::fmt::{Debug, Display};

use common::{Memory, bytes};
use libmempool::{
    AllocError, BulkFreeError, ClassId, ConfigError, Corruption, CorruptionKind, Fault, FreeError,
    LeakReport, MapError, NoLock, ObjectPool, PageError, Pool, PoolConfig, PoolFlags, ReallocError,
    SizeClass,
};

const CLASS: ClassId = ClassId::new(3);
const ADDR: usize = 0xBEE0;

#[track_caller]
fn says(what: impl Display, parts: &[&str]) {
    let text = what.to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text:?} lacks one of {parts:?}");
}

#[test]
fn refused_frees_say_where_and_why() {
    let addr = ADDR;
    for (error, parts) in [
        (FreeError::Foreign { addr }, ["0xbee0", "not memory of this pool"]),
        (FreeError::NotABlock { addr }, ["0xbee0", "no block starts"]),
        (FreeError::NotLive { addr }, ["0xbee0", "double free"]),
        (FreeError::WrongClass { addr, actual: Some(CLASS) }, ["0xbee0", "class 3"]),
        (FreeError::WrongClass { addr, actual: None }, ["0xbee0", "heap block"]),
        (FreeError::WrongSize { addr, size: 99 }, ["0xbee0", "99 bytes"]),
        (FreeError::WrongAlign { addr, align: 64 }, ["0xbee0", "aligned to 64"]),
        (FreeError::Overrun { addr, at: 0xBEEF }, ["0xbee0", "0xbeef"]),
        (FreeError::Corrupted { addr }, ["0xbee0", "corrupted"]),
        (FreeError::NotInitialised, ["no region", "init"]),
    ] {
        says(error, &parts);
        says(Fault::Free(error), &parts);
        says(ReallocError::Free(error), &parts);
        says(BulkFreeError { freed: 7, error }, &["7 frees", parts[0], parts[1]]);
    }
    let full = AllocError::OutOfMemory { needed: 8, free_bytes: 3 };
    says(ReallocError::Alloc(full), &["8 bytes", "3 are free"]);
}

#[test]
fn pools_that_cannot_be_made_say_why() {
    for (error, part) in [
        (ConfigError::RegionTooSmall { bytes: 77 }, "77 bytes cannot hold"),
        (ConfigError::RegionTooLarge { bytes: 77 }, "77 bytes is larger"),
        (ConfigError::BadAlignment { alignment: 3 }, "alignment 3"),
        (ConfigError::BadClassSize { size: 0 }, "0 bytes"),
        (ConfigError::TooManyClasses, "as many classes"),
        (ConfigError::LimitBelowReserve, "below its reserve"),
        (ConfigError::OutOfMemory, "own tables"),
        (ConfigError::ReserveTooLarge { reserve: 9, available: 4 }, "9 slots: 4 would fit"),
        (ConfigError::AlreadyInitialised, "a region already"),
        (ConfigError::NotInitialised, "call init first"),
    ] {
        says(error, &[part]);
        says(MapError::from(error), &[part]);
    }
    for (error, part) in [
        (PageError::Unavailable { bytes: 5 }, "5 bytes"),
        (PageError::OutOfRange, "outside"),
        (PageError::Unsupported, "cannot"),
        (PageError::Os { call: "mmap", code: 12 }, "mmap failed with error 12"),
    ] {
        says(error, &[part]);
        says(MapError::from(error), &[part]);
    }
}

#[test]
fn damage_says_what_and_where() {
    for (kind, name) in [
        (CorruptionKind::BlockTag, "block tag"),
        (CorruptionKind::BlockNeighbour, "neighbour"),
        (CorruptionKind::BlockFooter, "footer"),
        (CorruptionKind::BlockLinks, "links"),
        (CorruptionKind::Bin, "bin"),
        (CorruptionKind::Slab, "slab descriptor"),
        (CorruptionKind::SlotState, "slot state"),
        (CorruptionKind::Magazine, "magazine"),
        (CorruptionKind::Counter, "counter"),
        (CorruptionKind::Overrun, "canary"),
        (CorruptionKind::FreedMemory, "freed memory"),
    ] {
        let found = Corruption { addr: ADDR, kind };
        says(found, &[name, "0xbee0", "corrupted"]);
        says(Fault::Corruption(found), &[name, "0xbee0"]);
        assert_eq!(FreeError::from(found), FreeError::Corrupted { addr: ADDR });
        assert_eq!(AllocError::from(found), AllocError::Corrupted { addr: ADDR });
    }
}

/// A pool with every kind of entry in its map.
#[test]
fn maps_and_statistics_name_what_there_is() {
    let config = PoolConfig::new().size_classes(&[100]).flags(PoolFlags::QUARANTINE);
    let mut memory = Memory::new(256 << 10);
    let pool = Pool::<NoLock>::builder().config(config).build(memory.region()).unwrap();
    let class = pool.class_of(100).unwrap();
    pool.alloc_fixed(class).unwrap();
    let blocks: Vec<_> = (0..3).map(|_| pool.alloc(bytes(900)).unwrap()).collect();
    common::free_all(&mut &pool, blocks.into_iter().take(1));

    let map: Vec<_> = pool.map().map(|entry| entry.to_string()).collect();
    for part in ["free", "freed, waits", "live", "metadata", "slab of class 0"] {
        assert!(map.iter().any(|line| line.contains(part)), "{part}: {map:#?}");
    }
    let first = pool.map().next().unwrap();
    says(first, &[&format!("{:#x}", first.addr)[2..], &first.size.to_string()]);

    let stats = pool.stats();
    let lines = ["regions", "live", "peak", "cached", "waiting", "slabs", "tables", "failures"];
    says(stats, &lines);
    says(stats, &[&format!("{} bytes in 3 objects", stats.live_bytes), "912 bytes in 1 objects"]);
    let mut guarded = stats;
    guarded.guard_failures = 3;
    says(guarded, &["guards", "0 bytes, 3 failures"]);
    guarded.guard_bytes = 8192;
    says(guarded, &["8192 bytes, 3 failures"]);
    let of_class = pool.class_stats(class).unwrap();
    says(of_class, &["112 B", "1 live", "0 failures"]);
    says(LeakReport { objects: 2, bytes: 30 }, &["2 objects", "30 bytes"]);
}

/// Whatever can be in a struct that derives `Debug` has one, with no demands on what it holds.
#[test]
fn everything_can_be_debugged() {
    #[track_caller]
    fn debugs(what: impl Debug, part: &str) {
        let text = format!("{what:?}");
        assert!(text.contains(part), "{text}");
    }
    struct NoDebug;

    let mut memory = Memory::new(64 << 10);
    let builder = Pool::<NoLock>::builder().key(7).size_class(SizeClass::new(64));
    debugs(&builder, "PoolBuilder");
    let pool = builder.build(memory.region()).unwrap();
    debugs(pool.local_cache(), "LocalCache");
    let objects = ObjectPool::<NoDebug, _>::new(&pool).unwrap();
    debugs(&objects, "ObjectPool");
    let numbers = ObjectPool::<u64, _>::new(&pool).unwrap();
    debugs(numbers.insert(1234).unwrap(), "1234");
    let kept: Vec<_> = std::iter::from_fn(|| objects.insert(NoDebug).ok()).collect();
    let refused = objects.insert(NoDebug).err().expect("nothing is left");
    debugs(&refused, "InsertError");
    assert_eq!(refused.to_string(), refused.error.to_string());
    drop(kept);
    assert_eq!(SizeClass::new(640).size(), 640);
}
