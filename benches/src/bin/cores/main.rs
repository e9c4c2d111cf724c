//! A model of many cores on one pool: what is measured on the cores that there are, and what follows
//! for more of them if only the pool's lock keeps them from one another.

mod inputs;
mod model;

use anyhow::{Context, Result};
use clap::Parser;
use libmempool_bench::cores;

use crate::{
    inputs::{Inputs, Load},
    model::{Lock, saturation, simulate},
};

/// Measures, and models 1 to 64 cores.
#[derive(Parser)]
struct Options {
    /// Bytes of an object.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Measurements of each figure, of which the median counts.
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// What a hand-over of the lock costs, beside what it costs between the two cores measured.
    #[arg(long, default_value_t = 1.0)]
    hand_over: f64,
    /// The most cores.
    #[arg(long, default_value_t = 64)]
    most: u32,
}

fn main() -> Result<()> {
    let options = Options::parse();
    cores::pin(0);
    let inputs = Inputs::measure(options.size, options.runs).context("no memory to measure in")?;
    let hand_over = inputs.hand_over * options.hand_over;
    println!("measured, objects of {} bytes, {} cores:", options.size, cores::all().len());
    println!("- the lock passes from core to core in {hand_over:.0} ns");
    for Load { name, own, exchanges, held, .. } in &inputs.loads {
        print!("- {name}: {own:.2} ns an object");
        if *exchanges > 0.0 {
            println!(", and the lock once in {:.0} objects for {held:.0} ns", 1.0 / exchanges);
        } else {
            println!(", and no lock");
        }
    }
    println!("\nmodelled: million objects a second (how much of the time the lock is taken)\n");
    print_table(&inputs.loads, hand_over, options.most);
    Ok(())
}

fn print_table(loads: &[Load], hand_over: f64, most: u32) {
    let names: Vec<_> = loads.iter().map(|load| load.name).collect();
    println!("| cores | {} |", names.join(" | "));
    println!("|--:|{}", "--:|".repeat(loads.len()));
    for cores in (0..).map(|doublings| 1 << doublings).take_while(|&cores| cores <= most) {
        let cell = |load: &Load| {
            let lock = Lock { held: load.held, hand_over };
            let outcome = simulate(cores, load.own, load.exchanges, lock);
            let rate = outcome.rate / f64::from(load.cores) * 1e3;
            format!(" {rate:.0} ({:.1} %) |", outcome.taken * 100.0)
        };
        println!("| {cores} |{}", loads.iter().map(cell).collect::<String>());
    }
    let cell = |load: &Load| {
        let lock = Lock { held: load.held, hand_over };
        saturation(load.own, load.exchanges, lock)
            .map_or(" never |".into(), |cores| format!(" {cores:.0} |"))
    };
    println!("| lock full at |{}", loads.iter().map(cell).collect::<String>());
}
