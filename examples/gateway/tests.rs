//! The whole program, from its options to its report.

use std::collections::HashSet;
use std::path::PathBuf;
use std::{env, process};

use super::*;
use crate::counters::{Counters, DropReason};

/// A file in the temporary directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(env::temp_dir().join(format!("gateway-test-{}-{name}", process::id())))
    }

    fn holding(name: &str, contents: &[u8]) -> Self {
        let file = Self::new(name);
        fs::write(&file.0, contents).expect("the temporary directory takes files");
        file
    }

    fn name(&self) -> &str {
        self.0.to_str().expect("a plain name")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn try_gateway(options: &[&str]) -> Result<Report, String> {
    gateway(&Cli::parse_from([&["gateway"], options].concat()))
}

fn clean_run(options: &[&str]) -> Counters {
    let report = try_gateway(options).expect("usable inputs");
    assert!(report.is_clean(), "{report}");
    report.outcome.counters
}

#[test]
fn the_shipped_capture_passes_without_a_drop() {
    for allocator in ["pool", "system"] {
        let counters = clean_run(&["--allocator", allocator]);
        assert!(counters.received > 2000 && counters.denied > 0 && counters.sealed > 0);
        assert_eq!(counters.dropped_in_all(), 0);
        assert!(counters.transmitted > counters.sealed, "ARP passes as it came");
    }
}

#[test]
fn pool_and_system_write_the_same_capture() {
    let outputs = ["pool", "system"].map(|allocator| {
        let out = Scratch::new(allocator);
        clean_run(&["--workers", "1", "--allocator", allocator, "--out", out.name()]);
        fs::read(&out.0).expect("written")
    });
    assert!(outputs[0] == outputs[1], "one worker keeps the order, so every byte is the same");
    let capture = Capture::parse(outputs[0].clone()).expect("a good file");
    assert!(capture.len() > 2000);
}

#[test]
fn the_number_of_workers_changes_nothing_but_the_order() {
    let one = clean_run(&["--workers", "1"]);
    for workers in ["2", "3", "8"] {
        let many = clean_run(&["--workers", workers]);
        assert_eq!((many.transmitted, many.denied), (one.transmitted, one.denied));
        assert_eq!((many.sealed, many.flows), (one.sealed, one.flows));
    }
}

#[test]
fn repeated_runs_add_up() {
    let once = clean_run(&[]);
    let often = clean_run(&["--repeat", "4", "--workers", "3"]);
    assert_eq!((often.received, often.transmitted), (once.received * 4, once.transmitted * 4));
    assert_eq!(often.flows, once.flows);
}

#[test]
fn a_pool_too_small_drops_and_counts() {
    let options = ["--pool-mb", "1", "--repeat", "20", "--workers", "8"];
    let report = try_gateway(&options).expect("usable inputs");
    assert!(report.is_clean(), "{report}");
    let counters = report.outcome.counters;
    assert!(counters.dropped(DropReason::NoBuffer) > 0, "the queues hold more than 1 MiB");
    assert!(counters.transmitted > 0, "transmit goes on");
}

#[test]
fn an_output_that_fails_is_reported_and_nothing_leaks() {
    let report = try_gateway(&["--out", "/dev/full"]).expect("usable inputs");
    assert!(!report.is_clean() && report.outcome.written.is_err());
    assert_eq!((report.outcome.counters.lost(), report.leaks.objects), (0, 0));
}

#[test]
fn a_recording_accounts_for_every_allocation() {
    for allocator in ["pool", "system"] {
        let trace = Scratch::new(&format!("{allocator}-trace"));
        let counters = clean_run(&["--allocator", allocator, "--record", trace.name()]);
        let text = fs::read_to_string(&trace.0).expect("written");
        assert!(text.starts_with("# name: gateway"), "{text:.80}");
        let (mut live, mut buffers) = (HashSet::new(), 0);
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            match words[0] {
                "a" => assert!(live.insert(words[1]), "{line}"),
                "r" => assert!(live.contains(words[1]), "{line}"),
                "f" => assert!(live.remove(words[1]), "{line}"),
                other => assert!(["#", "t"].contains(&other), "{line}"),
            }
            buffers += u64::from(words[0] == "a" && words[2] == "2048");
        }
        assert!(live.is_empty(), "all was freed");
        assert!(buffers >= counters.received, "a buffer for each packet");
    }
}

#[test]
fn an_empty_capture_is_a_short_run() {
    let file = Scratch::holding("empty", &capture::tests::pcap(&[]));
    assert_eq!(clean_run(&["--pcap", file.name()]).received, 0);
}

#[test]
fn odd_frames_are_dropped_by_name() {
    let long = [0; 2000];
    let cut = &headers::tests::udp_frame(53, b"hello")[..30];
    let file = Scratch::holding("odd", &capture::tests::pcap(&[&long, cut, b"", &[0; 14]]));
    let counters = clean_run(&["--pcap", file.name()]);
    assert_eq!(
        (counters.dropped(DropReason::TooLong), counters.dropped(DropReason::Malformed)),
        (1, 2)
    );
    assert_eq!(counters.transmitted, 1);
}

#[test]
fn the_report_names_what_it_counts() {
    let text = try_gateway(&[]).expect("usable inputs").to_string();
    for line in ["received", "no buffer 0", "packets/s", "VPN sessions", "  packet ", "  session "]
    {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    assert!(text.ends_with("0 bytes\nlost packets                0\n"), "{text}");
}

#[test]
fn bad_inputs_are_one_line_with_the_place() {
    let shipped = fs::read(Cli::parse_from(["gateway"]).pcap).expect("it is there");
    let truncated = Scratch::holding("truncated", &shipped[..shipped.len() / 2]);
    let error = try_gateway(&["--pcap", truncated.name()]).err().expect("it is truncated");
    let expected = format!("{}: packet ", truncated.name());
    assert!(error.starts_with(&expected) && error.contains(": truncated"), "{error}");

    let rules = Scratch::holding("rules", b"default deny\n\nallow tpc any any\n");
    let error = try_gateway(&["--rules", rules.name()]).err().expect("a bad rule");
    assert_eq!(error, format!("{}:3:7: unknown protocol 'tpc'", rules.name()));

    let missing = try_gateway(&["--pcap", "/no/such/file"]).err().expect("it is not there");
    assert!(missing.starts_with("/no/such/file: "), "{missing}");
}
