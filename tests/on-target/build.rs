//! Links every image for the board that stands for its target, `boards/<target>.x`, or for the one whose
//! memory the file in `ON_TARGET_BOARD` describes.

use std::{env, fs, path::PathBuf};

fn main() {
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let board = env::var("ON_TARGET_BOARD").unwrap_or_else(|_| format!("boards/{target}.x"));
    println!("cargo::rerun-if-env-changed=ON_TARGET_BOARD");
    println!("cargo::rerun-if-changed={board}");
    if fs::copy(&board, out.join("memory.x")).is_err() {
        println!("cargo::error=there is no board for {target}: {board} says where its memory is");
    }
    println!("cargo::rustc-link-search={}", out.display());
    println!("cargo::rustc-link-arg=-Tlink.x");
    // Sections without the page alignment of an OS's loader.
    println!("cargo::rustc-link-arg=--nmagic");
    if env::var_os("CARGO_FEATURE_DEFMT").is_some() {
        println!("cargo::rustc-link-arg-bin=reports=-Tdefmt.x");
    }
    println!("cargo::rustc-link-arg-tests=-Tembedded-test.x");
    // The attribute of embedded-test asks for it.
    println!("cargo::rustc-check-cfg=cfg(rust_analyzer)");
}
