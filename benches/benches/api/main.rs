//! Every operation of the public interface, on a pool with as much in it as a small appliance has.

mod blocks;
mod slots;
mod whole;

use criterion::{criterion_group, criterion_main};

criterion_group!(api, blocks::all, slots::all, whole::all);
criterion_main!(api);
