//! What start-up code alone takes: subtract it from the other images.
#![no_std]
#![no_main]

#[path = "common.rs"]
mod common;

#[cortex_m_rt::entry]
fn main() -> ! {
    common::exit()
}
