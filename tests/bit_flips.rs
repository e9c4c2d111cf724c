//! Flipped bits in a pool's own data: what `validate` finds, and what becomes of a pool that has them.
//!
//! Each case runs in a child process, which may crash or hang. `BIT_FLIPS=100000` runs that many, and
//! `-- --nocapture` shows the table of what came of them by kind of data. One case alone, here number 42:
//!
//! ```sh
//! BIT_FLIP_CASE=42 cargo test --release --test bit_flips -- --exact child --nocapture
//! ```
#[path = "bit_flips/case.rs"]
mod case;
mod common;
#[path = "bit_flips/metadata.rs"]
mod metadata;

use metadata::Kind;
use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

/// Set for children: the number of their case.
const CASE: &str = "BIT_FLIP_CASE";

/// What marks lines of children among those of the test harness.
const MARK: &str = "flip: ";

/// A case takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// Numbers of cases by kind of data and by what came of them.
type Outcomes = BTreeMap<String, BTreeMap<String, Vec<u64>>>;

#[test]
fn flipped_bits() {
    let cases =
        env::var("BIT_FLIPS").map_or(default_cases(), |cases| cases.parse().expect("a number"));
    let mut outcomes = Outcomes::new();
    for seed in 0..cases {
        run_child(seed, &mut outcomes);
    }
    print(&outcomes);
    check(&outcomes);
}

fn default_cases() -> u64 {
    if cfg!(debug_assertions) { 300 } else { 3000 }
}

/// Runs a case in a child of its own: what a damaged pool writes to is nobody else's.
fn run_child(seed: u64, outcomes: &mut Outcomes) {
    let mut child = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "child", "--nocapture", "--quiet"])
        .env(CASE, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let lines = lines_of(&mut child);
    let mut said = Vec::new();
    let ended = loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) if line == "closed" => {
                // It may end by itself, as what counts coverage has to.
                let _ = lines.recv_timeout(PATIENCE);
                break None;
            }
            Ok(line) => said.push(line),
            Err(RecvTimeoutError::Timeout) => break Some("hung"),
            Err(RecvTimeoutError::Disconnected) => break Some("crashed"),
        }
    };
    child.kill().expect("a child of ours");
    child.wait().expect("a child of ours");
    note(outcomes, seed, &said, ended);
}

/// The lines that a child says, from a thread that waits for them.
fn lines_of(child: &mut Child) -> Receiver<String> {
    let (to, lines) = channel();
    let output = BufReader::new(child.stdout.take().expect("piped"));
    thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if let Some((_, said)) = line.split_once(MARK) {
                let _ = to.send(said.to_owned());
            }
        }
    });
    lines
}

/// `said`: the kind, whether `validate` found it, and what happened then, as far as the child came.
fn note(outcomes: &mut Outcomes, seed: u64, said: &[String], ended: Option<&str>) {
    let mut said = said.iter().map(String::as_str);
    let Some(kind) = said.next() else { panic!("case {seed} before the damage: {ended:?}") };
    let found = said.next().unwrap_or("validate");
    // What the model says of it is for those who run the case alone.
    let then = said.next().and_then(|then| then.split(' ').next());
    // A cache that crashes when it is dropped has not survived.
    let then = format!("{found}, {}", ended.or(then).expect("it is said or ends"));
    outcomes.entry(kind.to_owned()).or_default().entry(then).or_default().push(seed);
}

fn print(outcomes: &Outcomes) {
    println!("data              cases   found  what came of it (and an example's number)");
    for (kind, by_outcome) in outcomes {
        let count = |outcome: fn(&str) -> bool| {
            let counted = by_outcome.iter().filter(|(then, _)| outcome(then));
            counted.map(|(_, seeds)| seeds.len()).sum::<usize>()
        };
        let (all, found) = (count(|_| true), count(|then| then.starts_with("found")));
        let then = by_outcome.iter();
        let then: Vec<_> =
            then.map(|(then, seeds)| format!("{then}: {} ({})", seeds.len(), seeds[0])).collect();
        println!("{kind:15} {all:7} {:6}%  {}", found * 100 / all, then.join("; "));
    }
}

/// Kinds all of whose bits are relied on.
const FOUND: &[Kind] = &[
    Kind::BlockTag,
    Kind::FreeLinks,
    Kind::FreeFooter,
    Kind::Bins,
    Kind::SlotState,
    #[cfg(feature = "checksums")]
    Kind::MagazineHeader,
];

/// Kinds that the quick ways read without a check.
const TRUSTED: &[Kind] = &[Kind::SlabMap, Kind::CacheBlock, Kind::MagazineSlots];

/// How often, at most, a flip in those may be followed by a crash or a wrong result, as a part of all: more
/// than is measured.
const HARM: usize = 10;

/// So many more: of few cases a larger part may be harmful, and which ones are depends on where memory lies.
const CHANCE: usize = 6;

/// What the pool promises: it finds what it is about to rely on, and is none the worse for it. What it does
/// not find changes nothing; but for what the quick ways read. Without checksums of its tables that goes for
/// the heap and for slots' states only.
#[track_caller]
fn check(outcomes: &Outcomes) {
    for (kind, by_outcome) in outcomes {
        let is_of = |kinds: &[Kind]| kinds.iter().any(|of| of.to_string() == *kind);
        if !cfg!(feature = "checksums") && !is_of(FOUND) {
            continue;
        }
        let mut harmful: Vec<u64> = Vec::new();
        for (then, seeds) in by_outcome {
            let is_found = then.starts_with("found, ");
            assert!(is_found || !is_of(FOUND), "{kind}: {then}: {seeds:?}");
            if !matches!(&**then, "found, survived" | "missed, harmless" | "missed, later") {
                harmful.extend(seeds);
            }
        }
        let all: usize = by_outcome.values().map(Vec::len).sum();
        let most = if is_of(TRUSTED) { all / HARM + CHANCE } else { 0 };
        assert!(harmful.len() <= most, "{kind}: {harmful:?} of {all}");
    }
}

/// Not a test by itself: where a case runs.
#[test]
fn child() {
    let Ok(seed) = env::var(CASE) else { return };
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    case::run(seed.parse().expect("a number"), &mut |said| {
        let mut out = std::io::stdout();
        writeln!(out, "{MARK}{said}").and_then(|()| out.flush()).expect("the parent listens");
    });
}
