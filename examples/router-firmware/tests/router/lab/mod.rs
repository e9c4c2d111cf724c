//! A laboratory: the router under QEMU, and this test at the far end of both its cables.

pub mod cable;
pub mod emulator;
pub mod frames;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use cable::Cable;
use emulator::{Emulator, PATIENCE};
use frames::{CLIENT, Host, ROUTER_LAN, ROUTER_WAN, SERVER};

/// The local network's cable.
pub const LAN: usize = 0;
/// The other one.
pub const WAN: usize = 1;

/// Frames that may be under way to the router at once: what sockets and rings surely hold.
pub const BURST: usize = 32;

/// The router, and its cables.
pub struct Lab {
    router: Emulator,
    /// The cables, by port.
    pub cables: [Cable; 2],
    idle: Vec<String>,
}

/// The router's counters, by name and port.
pub struct Counters(HashMap<String, [u64; 2]>);

impl Counters {
    /// A counter of one port.
    pub fn of(&self, name: &str, port: usize) -> u64 {
        self.0.get(name).unwrap_or_else(|| panic!("no counter is called {name}"))[port]
    }

    /// A counter, of both ports together.
    pub fn sum(&self, name: &str) -> u64 {
        self.of(name, LAN) + self.of(name, WAN)
    }
}

impl Lab {
    /// Starts a router.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a router with further options for QEMU.
    pub fn start_with(options: &[&str]) -> Self {
        // One at a time: a port that is free must stay so until QEMU has taken it.
        static STARTING: Mutex<()> = Mutex::new(());
        let _guard = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let cables = [Cable::new(), Cable::new()];
        let mut router = Emulator::start([cables[LAN].ends(), cables[WAN].ends()], options);
        let idle = in_use(&mut router);
        Self { router, cables, idle }
    }

    /// Starts a router that knows the client and the server.
    pub fn start_acquainted() -> Self {
        let mut lab = Self::start();
        lab.introduce();
        lab
    }

    /// Has client and server ask for the router's address, by which it learns theirs.
    pub fn introduce(&mut self) {
        for (port, host, router) in [(LAN, CLIENT, ROUTER_LAN), (WAN, SERVER, ROUTER_WAN)] {
            self.cables[port].send(&frames::arp_request(host, router.ip));
            assert_eq!(self.cables[port].receive(), frames::arp_reply(router, host));
        }
    }

    /// Sends a frame at one port; the next frame to come out at the other must be this one.
    #[track_caller]
    pub fn expect(&mut self, from: usize, frame: &[u8], at: usize, expected: &[u8]) {
        self.cables[from].send(frame);
        let received = self.cables[at].receive();
        assert_eq!(received, expected, "of {frame:02x?}");
    }

    /// Asks the router's console.
    pub fn ask(&mut self, question: char) -> Vec<String> {
        self.router.ask(question)
    }

    /// Waits until the router has dealt with every frame that was sent to it, and returns its
    /// counters as they are then. Every frame must be accounted for.
    pub fn settle(&mut self) -> Counters {
        let start = Instant::now();
        loop {
            let counters = self.counters();
            let ports = [LAN, WAN];
            let arrived =
                ports.iter().all(|&port| counters.of("received", port) == self.cables[port].sent);
            let owed = ["forwarded", "answered", "arp-requests", "icmp-errors"];
            let owed = owed.iter().map(|name| counters.sum(name)).sum::<u64>();
            if arrived && counters.sum("sent") == owed {
                return counters;
            }
            assert!(start.elapsed() < PATIENCE, "frames were lost on the way to the router");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits as `settle` does, and until no frame waits for a neighbour any more.
    pub fn settle_held(&mut self) -> Counters {
        let start = Instant::now();
        loop {
            let counters = self.settle();
            if counters.sum("held") == 0 {
                return counters;
            }
            assert!(start.elapsed() < PATIENCE, "frames are held for ever");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Takes in every frame that the router has sent by these counters.
    pub fn collect(&mut self, counters: &Counters) -> [Vec<Vec<u8>>; 2] {
        [LAN, WAN].map(|port| {
            let cable = &mut self.cables[port];
            (cable.received..counters.of("sent", port)).map(|_| cable.receive()).collect()
        })
    }

    /// The router must be as it was at the start: all buffers back, all memory sound; and then it
    /// ends well.
    pub fn finish(mut self) {
        let counters = self.settle_held();
        self.collect(&counters);
        assert_eq!(self.ask('x'), [""; 0]);
        assert_eq!(in_use(&mut self.router), self.idle);
        assert_eq!(self.ask('v'), ["valid"]);
        self.check_stack();
        let bad_frees = "refused frees 0";
        assert!(self.ask('s').last().is_some_and(|line| line.ends_with(bad_frees)));
        self.router.quit();
    }

    /// The stack must never have been used up.
    fn check_stack(&mut self) {
        let answer = self.ask('m');
        let line = answer.last().expect("an answer");
        let numbers: Vec<u32> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [size, used] = numbers[..] else { panic!("two numbers in {line:?}") };
        assert!(used < size, "{line}");
    }

    fn counters(&mut self) -> Counters {
        let answer = self.ask('s');
        assert!(answer.iter().any(|line| line == "every frame is accounted for"), "{answer:#?}");
        let row = |line: &String| {
            let mut words = line.split_whitespace();
            let name = words.next()?.to_owned();
            let mut count = || words.next()?.parse().ok();
            Some((name, [count()?, count()?]))
        };
        Counters(answer.iter().filter_map(row).collect())
    }
}

/// What is in use of the pool: buffers by class, and the bytes and number of all blocks.
fn in_use(router: &mut Emulator) -> Vec<String> {
    let mut lines = router.ask('b');
    lines.extend(router.ask('s').into_iter().filter(|line| line.starts_with("live")));
    assert_eq!(lines.len(), 2, "{lines:#?}");
    lines
}

/// The hosts on both sides of the router, as a frame from `port` sees them: who sends, the router
/// there, the router on the other side, who receives.
pub fn path(port: usize) -> (Host, Host, Host, Host) {
    match port {
        LAN => (CLIENT, ROUTER_LAN, ROUTER_WAN, SERVER),
        _ => (SERVER, ROUTER_WAN, ROUTER_LAN, CLIENT),
    }
}
