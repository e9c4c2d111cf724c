//! The firmware under QEMU: builds it, runs it, talks to its console.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

/// No machine is as slow as this; only a fault takes so long.
pub const PATIENCE: Duration = Duration::from_mins(1);

const TARGET: &str = "riscv32imac-unknown-none-elf";

/// The firmware's file: `ROUTER_FIRMWARE`, or else what cargo builds here, in the test's profile.
fn firmware() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| env::var_os("ROUTER_FIRMWARE").map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a folder in target/");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--features", "board", "--target", TARGET, "--manifest-path"]);
    cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    cargo.arg("--target-dir").arg(target_dir);
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    if profile == "release" {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "the firmware does not build: is the target {TARGET} installed?");
    target_dir.join(TARGET).join(profile).join("router-firmware")
}

/// The running firmware.
pub struct Emulator {
    qemu: Child,
    keyboard: ChildStdin,
    screen: Receiver<String>,
}

impl Emulator {
    /// Starts it, with these ends of its cables and further options for QEMU.
    pub fn start(cables: [(&UdpSocket, u16); 2], options: &[&str]) -> Self {
        let ports = cables.map(|(peer, local)| {
            format!("{local} {}", peer.local_addr().expect("a bound socket").port())
        });
        let mut qemu = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/qemu"))
            .arg(firmware())
            .args(options)
            .env("ROUTER_PORTS", ports.join(" "))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu starts");
        let keyboard = qemu.stdin.take().expect("piped");
        let lines = BufReader::new(qemu.stdout.take().expect("piped")).lines();
        let (send, screen) = channel();
        thread::spawn(move || {
            lines.map_while(Result::ok).try_for_each(|line| send.send(line)).ok();
        });
        let mut emulator = Self { qemu, keyboard, screen };
        emulator.answer();
        emulator
    }

    /// Asks the console a question, and returns the lines of its answer.
    pub fn ask(&mut self, question: char) -> Vec<String> {
        write!(self.keyboard, "{question}").expect("qemu runs");
        self.keyboard.flush().expect("qemu runs");
        self.answer()
    }

    fn answer(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.screen.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("the router is silent after {lines:#?}"));
            assert!(!line.contains("panicked"), "{line}: {:?}", self.screen.recv());
            match line.trim_end() {
                "ok" => return lines,
                report if report.starts_with('[') => {}
                line => lines.push(line.to_owned()),
            }
        }
    }

    /// Switches the router off, which ends QEMU well.
    pub fn quit(mut self) {
        write!(self.keyboard, "q").expect("qemu runs");
        assert!(self.qemu.wait().expect("qemu ends").success());
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}
