//! The serial console: one letter asks one question. Every answer ends with a line `ok`.

use core::{
    fmt::{self, Write},
    hint::black_box,
};

use libmempool::ClassId;
use router::{
    Millis,
    config::{PORT, PORTS, WAN},
    frame::Frame,
    memory::InUse,
    router::{Outbox, Router},
    routes::Via,
};

use crate::{
    Appliance, MEMORY, Work,
    board::{
        nic::Nic,
        power::{self, Exit},
        stack,
        uart::Uart,
    },
    instructions,
};

/// What it can be asked.
const HELP: &str = "\
s  statistics: frames by fate, and the pool
b  buffers in use
m  memory: what lies in the region
v  validate the pool: walk all of it
n  neighbours
r  routes
f  flows
i  instructions per frame (of meaning with qemu -icount only)
x  forget known neighbours and flows
q  quit";

/// The names of the pool's classes, in the order in which the start adds them.
const CLASSES: [&str; 5] = ["buffers, lan", "buffers, wan", "buffers, own", "neighbours", "flows"];

/// The console on the serial line.
pub struct Console {
    line: Uart,
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.line.write_str(text)
    }
}

impl Console {
    /// The console.
    pub fn new(line: Uart) -> Self {
        Self { line }
    }

    /// Says who this is.
    pub fn greet(&mut self, appliance: &Appliance) {
        let _ = write_greeting(self, appliance);
    }

    /// One line of statistics.
    pub fn report(&mut self, appliance: &Appliance, now: Millis) {
        let _ = write_report(self, appliance, now);
    }

    /// Answers what has been typed.
    pub fn answer_all(&mut self, appliance: &mut Appliance) {
        while let Some(question) = self.line.read() {
            // Writing to the line does not fail.
            let _ = answer(self, question, appliance).and_then(|()| writeln!(self, "ok"));
        }
    }
}

fn answer(out: &mut Console, question: u8, appliance: &mut Appliance) -> fmt::Result {
    match question {
        b's' => {
            write_frames(out, appliance)?;
            writeln!(out, "{}", MEMORY.stats())
        }
        b'b' => writeln!(out, "buffers{}", InUse(&MEMORY, &appliance.buffers)),
        b'm' => write_memory(out),
        b'v' => match MEMORY.validate() {
            Ok(()) => writeln!(out, "valid"),
            Err(damage) => writeln!(out, "{damage}"),
        },
        b'n' => write_neighbours(out, appliance),
        b'r' => write_routes(out, appliance),
        b'f' => write_flows(out, appliance),
        b'i' => write_instructions(out, appliance),
        b'x' => {
            appliance.router.neighbours.forget();
            appliance.router.flows.forget();
            Ok(())
        }
        b'q' => power::off(Exit::Well),
        _ => writeln!(out, "{HELP}"),
    }
}

fn write_greeting(out: &mut Console, appliance: &Appliance) -> fmt::Result {
    writeln!(out, "router: {} ports, one region of {} bytes", PORTS, MEMORY.stats().region_bytes)?;
    for (port, nic) in PORT.iter().zip(&appliance.nics) {
        writeln!(out, "{} {} at {}", port.name, port.cidr, nic.ethernet())?;
    }
    writeln!(out, "h lists what can be asked here\nok")
}

fn write_report(out: &mut Console, appliance: &Appliance, now: Millis) -> fmt::Result {
    let counters = &appliance.router.counters;
    write!(out, "[{} s]", now / 1000)?;
    for (port, counters) in PORT.iter().zip(&counters.ports) {
        write!(out, " {}: {} received, {} sent;", port.name, counters.received, counters.sent)?;
    }
    writeln!(out, " buffers{}", InUse(&MEMORY, &appliance.buffers))
}

fn write_frames(out: &mut Console, appliance: &Appliance) -> fmt::Result {
    let counters = &appliance.router.counters;
    write!(out, "{counters}")?;
    let balance =
        if counters.is_balanced() { "every frame is accounted for" } else { "FRAMES ARE MISSING" };
    writeln!(out, "{balance}")
}

fn write_memory(out: &mut Console) -> fmt::Result {
    let stats = MEMORY.stats();
    let (mut rest, mut blocks) = (stats.region_bytes, stats.live_bytes);
    writeln!(out, "{:<18}{:>8}{:>8}{:>10}", "part", "slots", "each", "bytes")?;
    for (name, class) in CLASSES.iter().zip((0..).map(ClassId::new)) {
        let Some(class) = MEMORY.class_stats(class) else { continue };
        let bytes = class.slots * class.stride;
        rest -= bytes;
        blocks -= class.live * class.size;
        writeln!(out, "{name:<18}{:>8}{:>8}{bytes:>10}", class.slots, class.stride)?;
    }
    let objects = size_of::<Router>() + PORTS * (size_of::<Nic>() + size_of::<Outbox>());
    let parts = [
        ("virtio queues", blocks - objects),
        ("router, rings, outboxes", objects),
        ("the pool's tables", stats.metadata_bytes),
        ("free", stats.free_bytes),
    ];
    for (name, bytes) in parts {
        rest -= bytes;
        writeln!(out, "{name:<34}{bytes:>10}")?;
    }
    writeln!(out, "{:<34}{rest:>10}", "bins, block tags, ends of slabs")?;
    writeln!(out, "{:<34}{:>10}", "the region", stats.region_bytes)?;
    writeln!(out, "besides: a stack of {} bytes, {} used", stack::size(), stack::used())
}

fn write_neighbours(out: &mut Console, appliance: &Appliance) -> fmt::Result {
    for neighbour in appliance.router.neighbours.iter() {
        let port = PORT[neighbour.port].name;
        writeln!(
            out,
            "{port} {} {}, {} waiting",
            neighbour.address,
            neighbour.state,
            neighbour.waiting()
        )?;
    }
    Ok(())
}

fn write_routes(out: &mut Console, appliance: &Appliance) -> fmt::Result {
    for route in appliance.router.routes.iter() {
        write!(out, "{} ", route.to)?;
        match route.via {
            Via::Direct(port) => writeln!(out, "{}", PORT[port].name)?,
            Via::Gateway(port, gateway) => writeln!(out, "{} by {gateway}", PORT[port].name)?,
            Via::Nowhere => writeln!(out, "unreachable")?,
        }
    }
    Ok(())
}

fn write_flows(out: &mut Console, appliance: &Appliance) -> fmt::Result {
    let flows = &appliance.router.flows;
    for flow in flows.iter() {
        let (source, destination) = (flow.key.source, flow.key.destination);
        let (from, to) = flow.key.ports;
        write!(out, "{} {source}:{from} {destination}:{to}", flow.key.protocol)?;
        writeln!(out, " {} packets, {} bytes", flow.packets, flow.bytes)?;
    }
    writeln!(out, "{} packets of flows beyond the table", flows.uncounted)
}

fn write_instructions(out: &mut Console, appliance: &mut Appliance) -> fmt::Result {
    let Work { frames, instructions } = appliance.work;
    let each = instructions.checked_div(frames).unwrap_or(0);
    writeln!(out, "{instructions} instructions for {frames} frames: {each} each")?;
    writeln!(out, "a buffer from the pool and back: {}", cost_of_a_buffer(appliance))
}

/// Instructions, on average.
fn cost_of_a_buffer(appliance: &mut Appliance) -> u64 {
    const ROUNDS: u64 = 1000;
    let class = appliance.buffers.received[WAN];
    let start = instructions();
    for _ in 0..ROUNDS {
        if let Ok(frame) = Frame::for_receiving(WAN, class, &mut appliance.cache, &MEMORY) {
            black_box(&frame);
            frame.recycle(&mut appliance.cache);
        }
    }
    (instructions() - start) / ROUNDS
}
