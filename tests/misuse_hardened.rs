//! Misuse of a pool with all flags that find mistakes: double free, free of interior, foreign, wrong-class and
//! reset pointers, and damaged block tags are typed errors that change nothing, through every path
//! into a pool.

#[path = "misuse/cases.rs"]
mod cases;
mod common;

use common::{Bench, Way, bytes};
use libmempool::{ClassId, FreeError, PoolConfig, PoolFlags};

/// The flags of the pools in all cases.
const FLAGS: PoolFlags = PoolFlags::HARDENED;

const CLASSES: PoolConfig = PoolConfig::new().size_classes(&[64, 200, 1024]).flags(FLAGS);

/// Others are allocated that would have got the freed one's place: the second free meets the one that it is
/// about, which waits.
#[test]
fn delayed_double_free() {
    for size in [64, 1000, 300] {
        for index in 0..Bench::new(CLASSES, 256 << 10).handles().len() {
            let bench = Bench::new(CLASSES, 256 << 10);
            let mut handles = bench.handles();
            let (name, handle) = &mut handles[index];
            // What frees through every handle flushes this one.
            if *name == "thread" {
                continue;
            }
            let freed = handle.alloc(bytes(size)).unwrap();
            handle.free(freed).unwrap();
            let addr = freed.addr().get();
            for _ in 0..3 {
                assert_ne!(handle.alloc(bytes(size)).unwrap(), freed, "{name}");
                let class = ClassId::new(if size == 1000 { 2 } else { 0 });
                let ways = if size == 300 { Way::UNTYPED } else { Way::ALL };
                bench.refuses(freed, class, ways, |error| error == FreeError::NotLive { addr });
            }
            bench.pool().validate().unwrap();
        }
    }
}
