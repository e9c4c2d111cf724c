//! Links the firmware for its board: `memory.x` says where its memory is.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=memory.x");
    if env::var_os("CARGO_FEATURE_BOARD").is_some() {
        let here = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        println!("cargo::rustc-link-search={here}");
        println!("cargo::rustc-link-arg-bins=-Tlink.x");
        // Sections without the page alignment of an OS's loader.
        println!("cargo::rustc-link-arg-bins=--nmagic");
    }
}
