//! What start-up code and the region alone take: subtract it from the other images.
#![no_std]
#![no_main]

use core::{hint::black_box, mem::MaybeUninit};

#[path = "common.rs"]
mod common;

fn image(region: &'static mut [MaybeUninit<u8>]) {
    black_box(region);
}
