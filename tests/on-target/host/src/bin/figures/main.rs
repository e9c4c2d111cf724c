//! The figures of `tests/on-target/README.md`, measured now: `cargo figures` in the repository's root.

use anyhow::Result;
use libmempool_on_target_host::Build;

mod bars;
mod costs;
mod latency;
mod sizes;
mod table;

const TARGET: &str = "thumbv7m-none-eabi";

/// Images as firmware that is in a hurry is built.
const FAST: Build =
    Build { target: TARGET, profile: "fast", features: "figures", images: &["costs", "latency"] };

/// Nanoseconds per instruction, as an exponent: what `figures/counter.rs` counts on.
const ICOUNT_SHIFT: u32 = 10;

fn main() -> Result<()> {
    costs::print()?;
    latency::print()?;
    sizes::print()
}
