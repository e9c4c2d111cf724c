//! Pools without flags: operations and misuse as the tests mix them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libmempool::PoolFlags;
use libmempool_fuzz::{Input, Op};

fuzz_target!(|input: Input| {
    let mut input = input;
    input.setup.flags = PoolFlags::empty();
    input.run(Op::decode);
});
