//! What `defmt` makes of errors, statistics and flags is what Rust's `Debug` makes of them.
#![allow(missing_docs)]

use std::fs;

use defmt_decoder::{DecodeError, Table};
use libmempool_on_target_host::{Build, run};

const IMAGES: &[&str] = &["reports"];

/// The lines that an image sends, decoded with its own table.
fn lines(target: &'static str) -> Vec<String> {
    let build = Build { target, profile: "release", features: "defmt", images: IMAGES };
    let image = build.folder().unwrap().join(IMAGES[0]);
    let table = Table::parse(&fs::read(&image).unwrap()).unwrap().expect("it has a table");
    let mut decoder = table.new_stream_decoder();
    decoder.received(&run(target, &image, 7).unwrap());
    let mut lines = Vec::new();
    loop {
        match decoder.decode() {
            Ok(frame) => lines.push(frame.display_message().to_string()),
            Err(DecodeError::UnexpectedEof) => return lines,
            Err(DecodeError::Malformed) => panic!("a damaged frame after {lines:#?}"),
        }
    }
}

fn check(target: &'static str) {
    let lines = lines(target);
    let (flags, values): (Vec<_>, Vec<_>) = lines
        .iter()
        .map(|line| line.split_once(" | ").unwrap())
        .partition(|line| line.1 == "flags");
    let flags: Vec<_> = flags.into_iter().map(|line| line.0).collect();
    assert_eq!(flags, ["PoolFlags(0b0)", "PoolFlags(0b100)", "PoolFlags(0b1111110)"]);
    for (defmt, debug) in &values {
        assert_eq!(defmt, debug);
    }
    let starts = [
        "NotInitialised",
        "RegionTooSmall { bytes: 8 }",
        "LimitBelowReserve",
        "ZeroSize",
        "TooLarge { most: ",
        "UnknownClass",
        "ClassLimit { class: ClassId(0) }",
        "PoolStats { region_bytes: 3072, ",
        "ClassStats { id: ClassId(0), size: 24, ",
        "Free(Foreign { addr: ",
        "Foreign { addr: ",
        "Free(WrongClass { addr: ",
        "WrongClass { addr: ",
        "Free(WrongClass { addr: ",
        "WrongClass { addr: ",
        "Free(NotLive { addr: ",
        "Free(NotLive { addr: ",
        "Free(NotLive { addr: ",
        "BulkFreeError { freed: 1, error: NotLive { addr: ",
        "Damage { addr: ",
        "Free(Overrun { addr: ",
        "Overrun { addr: ",
        "PoolStats { region_bytes: 3072, ",
    ];
    assert_eq!(values.len(), starts.len(), "{values:#?}");
    for ((defmt, _), start) in values.iter().zip(starts) {
        assert!(defmt.starts_with(start), "{defmt} does not start with {start}");
    }
}

#[test]
fn on_cortex_m() {
    check("thumbv7m-none-eabi");
}

#[test]
fn on_risc_v() {
    check("riscv32imac-unknown-none-elf");
}
