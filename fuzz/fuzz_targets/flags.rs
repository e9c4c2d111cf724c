//! Pools with one flag, some, or all that find mistakes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libmempool::PoolFlags;
use libmempool_fuzz::{Input, Op};

fuzz_target!(|input: Input| {
    let mut input = input;
    if input.setup.skew % 2 == 0 {
        input.setup.flags = PoolFlags::HARDENED;
    }
    input.run(Op::decode);
});
