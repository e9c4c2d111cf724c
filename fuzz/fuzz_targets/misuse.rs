//! Arbitrary addresses and dead blocks freed in every way, and objects overrun: half of what is done.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libmempool_fuzz::{Input, Op};

fuzz_target!(|input: Input| input.run(Op::decode_misuse));
