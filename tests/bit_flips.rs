//! Flipped bits in a pool's own data: what `validate` finds, and what becomes of a pool that has them.
//!
//! Each case runs in a child process, which may crash or hang. `BIT_FLIPS=100000` runs that many, and
//! `-- --nocapture` shows the table of what came of them by kind of data. One case alone, here number 42:
//!
//! ```sh
//! BIT_FLIP_CASES="42 43" cargo test --release --test bit_flips -- --exact child --nocapture
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

/// Set for children: the first case, and the one behind the last.
const CASES: &str = "BIT_FLIP_CASES";

/// What marks lines of children among those of the test harness.
const MARK: &str = "flip: ";

/// A case takes a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);

/// Numbers of cases by kind of data and by what came of them.
type Outcomes = BTreeMap<String, BTreeMap<String, Vec<u64>>>;

#[test]
fn flipped_bits() {
    let cases =
        env::var("BIT_FLIPS").map_or(default_cases(), |cases| cases.parse().expect("a number"));
    let mut outcomes = Outcomes::new();
    let mut next = 0;
    while next < cases {
        next = run_child(next, cases, &mut outcomes);
    }
    print(&outcomes);
    check(&outcomes);
}

fn default_cases() -> u64 {
    if cfg!(debug_assertions) { 100 } else { 3000 }
}

/// Runs cases in a child until it ends; returns the next case.
fn run_child(first: u64, end: u64, outcomes: &mut Outcomes) -> u64 {
    let mut child = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "child", "--nocapture", "--quiet"])
        .env(CASES, format!("{first} {end}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let lines = lines_of(&mut child);
    let mut case = Vec::new();
    let mut seed = first;
    let how = loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) if line == "closed" => {
                note(outcomes, seed, &case, None);
                case.clear();
                seed += 1;
            }
            Ok(line) => case.push(line),
            Err(RecvTimeoutError::Timeout) => break "hung",
            Err(RecvTimeoutError::Disconnected) => break "crashed",
        }
    };
    child.kill().expect("a child of ours");
    child.wait().expect("a child of ours");
    if seed < end {
        note(outcomes, seed, &case, Some(how));
        seed += 1;
    }
    seed
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
    let said: Vec<_> = said.iter().map(String::as_str).chain(ended).collect();
    let [kind, ref rest @ ..] = said[..] else { panic!("case {seed} failed before the damage") };
    let then = match rest {
        // What the model says of it is for those who run the case alone.
        [found, then, ..] => format!("{found}, {}", then.split(' ').next().unwrap_or(then)),
        _ => format!("validate {}", rest.concat()),
    };
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

/// What the pool promises: these it finds before it relies on them, and is none the worse for it.
#[track_caller]
fn check(outcomes: &Outcomes) {
    for kind in [Kind::BlockTag, Kind::FreeLinks, Kind::FreeFooter] {
        for (then, seeds) in outcomes.get(&kind.to_string()).into_iter().flatten() {
            assert_eq!(then, "found, survived", "{kind}: {seeds:?}");
        }
    }
    for (then, seeds) in outcomes.get(&Kind::SlotState.to_string()).into_iter().flatten() {
        assert!(then.starts_with("found"), "{then}: {seeds:?}");
    }
}

/// Not a test by itself: where the cases run.
#[test]
fn child() {
    let Ok(range) = env::var(CASES) else { return };
    let (first, end) = range.split_once(' ').expect("two numbers");
    std::panic::set_hook(Box::new(|_| {}));
    for seed in first.parse().expect("a number")..end.parse().expect("a number") {
        case::run(seed, &mut |said| {
            let mut out = std::io::stdout();
            writeln!(out, "{MARK}{said}").and_then(|()| out.flush()).expect("the parent listens");
        });
    }
}
