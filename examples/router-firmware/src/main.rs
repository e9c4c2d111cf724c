//! The firmware: the router on QEMU's board `virt`, with two network cards and a serial line.
//!
//! `cargo router` in the repository's root builds and runs it; `h` on the serial line lists what it
//! can be asked, Ctrl-A X ends QEMU.
#![no_std]
#![no_main]

use core::{
    fmt::{self, Write},
    mem::MaybeUninit,
    panic::PanicInfo,
};

use libmempool::{ClassId, Pool};
use router::{
    Millis, PortId,
    config::{LAN, PORT, PORTS, REGION, REPORT_EVERY, RING, ROUTES, WAN},
    memory::{self, Buffers, Cache, Memory},
    router::Router,
};

use crate::{
    board::{
        interrupts,
        nic::{Nic, Received},
        power::{self, Exit},
        stack, timer,
        uart::{self, Uart},
    },
    console::Console,
};

mod board;
mod console;

/// Everything that is kept lies in this pool: the cards' queues, frames, tables.
static MEMORY: Memory = Pool::empty();

/// How long the processor sleeps at most.
const TICK: Millis = 250;

/// The router and what it runs on; the large parts lie in the pool.
pub struct Appliance {
    router: &'static mut Router,
    nics: [&'static mut Nic; PORTS],
    cache: Cache,
    buffers: Buffers,
    work: Work,
}

/// What moving frames has cost.
#[derive(Default)]
struct Work {
    frames: u64,
    instructions: u64,
}

/// Instructions executed since the start; QEMU counts them with `-icount` only.
fn instructions() -> u64 {
    riscv::register::minstret::read64()
}

/// Why nothing started.
enum StartError {
    Memory(memory::StartError),
    Card(virtio_drivers::Error),
}

impl<E: Into<memory::StartError>> From<E> for StartError {
    fn from(error: E) -> Self {
        Self::Memory(error.into())
    }
}

#[riscv_rt::entry]
fn main() -> ! {
    stack::paint();
    let mut console = Console::new(Uart::new());
    match start() {
        Ok(mut appliance) => appliance.run(&mut console),
        Err(error) => {
            let _ = writeln!(console, "cannot start: {error}");
            power::off(Exit::Badly)
        }
    }
}

fn start() -> Result<Appliance, StartError> {
    static mut THE_REGION: [MaybeUninit<u8>; REGION] = [MaybeUninit::uninit(); REGION];
    let region = &raw mut THE_REGION;
    // SAFETY: `main` runs once, and so does this.
    let region = unsafe { &mut *region };
    // The board has no source of randomness; one that has would use it here.
    let buffers = memory::start(&MEMORY, region, riscv::register::mcycle::read64())?;
    let mut cache = MEMORY.local_cache();
    let mut nic = |port| open(port, buffers.received[port], &mut cache);
    let nics = [nic(LAN)?, nic(WAN)?];
    let ports = [LAN, WAN].map(|port| (PORT[port], nics[port].ethernet()));
    let router = memory::place(&MEMORY, Router::new(ports, ROUTES, buffers, &MEMORY)?)?;
    Ok(Appliance { router, nics, cache, buffers, work: Work::default() })
}

/// Opens a port's network card; its frames are of `class`.
#[inline(never)] // so that the cards pass the stack one by one
fn open(port: PortId, class: ClassId, cache: &mut Cache) -> Result<&'static mut Nic, StartError> {
    let nic = Nic::new(port, class, cache).map_err(StartError::Card)?;
    Ok(memory::place(&MEMORY, nic)?)
}

impl Appliance {
    /// Everything, for ever: frames, then questions from the serial line, then time, then sleep.
    fn run(&mut self, console: &mut Console) -> ! {
        console.greet(self);
        interrupts::listen_to((0..PORTS).map(Nic::interrupt).chain([uart::INTERRUPT]));
        let mut next_tick = timer::now();
        let mut next_report = next_tick + REPORT_EVERY;
        loop {
            interrupts::acknowledge(|source| {
                if let Some(port) = (0..PORTS).find(|&port| Nic::interrupt(port) == source) {
                    self.nics[port].acknowledge();
                }
            });
            let now = timer::now();
            let worked = self.move_frames(now);
            console.answer_all(self);
            if now >= next_tick {
                self.router.tick(now);
                next_tick = now + TICK;
            }
            if now >= next_report {
                console.report(self, now);
                next_report = now + REPORT_EVERY;
            }
            if !worked && self.router.has_sent_all() {
                timer::wake_at(next_tick);
                interrupts::wait();
            }
        }
    }

    /// Takes frames from the cards to the router, and from it to the cards: a ring's worth at most,
    /// so that nothing else waits for long. Says whether there were any.
    fn move_frames(&mut self, now: Millis) -> bool {
        let start = instructions();
        let mut frames = 0;
        for port in 0..PORTS {
            for _ in 0..RING {
                self.transmit();
                if !self.may_receive() {
                    break;
                }
                match self.nics[port].receive(&mut self.cache) {
                    None => break,
                    Some(Received::Frame(frame)) => self.router.receive(port, frame, now),
                    Some(Received::NoBuffer) => self.router.refuse(port),
                }
                frames += 1;
            }
        }
        self.transmit();
        if frames > 0 {
            self.work.frames += frames;
            self.work.instructions += instructions() - start;
        }
        frames > 0
    }

    /// Frames stay in the cards' rings while others wait to be sent: a sender that is too fast
    /// is slowed down there, and costs no buffers.
    fn may_receive(&self) -> bool {
        self.router.has_sent_all() && self.nics.iter().all(|nic| nic.has_room())
    }

    fn transmit(&mut self) {
        for (port, nic) in self.nics.iter_mut().enumerate() {
            nic.reclaim(&mut self.cache);
            while nic.has_room()
                && let Some(frame) = self.router.next_to_send(port)
            {
                nic.send(frame);
            }
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => error.fmt(f),
            Self::Card(error) => write!(f, "network card: {error}"),
        }
    }
}

#[unsafe(export_name = "ExceptionHandler")]
fn exception(_: &riscv_rt::TrapFrame) -> ! {
    panic!(
        "exception {:?} at {:#x}",
        riscv::register::mcause::read().cause(),
        riscv::register::mepc::read()
    )
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = writeln!(Uart::new(), "{info}");
    power::off(Exit::Badly)
}
