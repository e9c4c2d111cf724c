//! The report at the end of a run.

use std::fmt;
use std::time::Duration;

use libmempool::LeakReport;

use crate::counters::{Counters, DropReason};
use crate::memory::Usage;
use crate::pipeline::Outcome;

/// A finished run, to print.
pub struct Report {
    pub outcome: Outcome,
    pub leaks: LeakReport,
    /// Rules in force.
    pub rules: usize,
}

impl Report {
    /// True if no packet was lost and nothing leaked.
    pub fn is_clean(&self) -> bool {
        let Outcome { counters, usage, written, .. } = &self.outcome;
        counters.lost() == 0
            && self.leaks.is_clean()
            && written.is_ok()
            && usage.as_ref().is_none_or(|usage| usage.pool.bad_frees == 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = &self.outcome.counters;
        write_packets(f, counters)?;
        write_rate(f, counters, self.outcome.elapsed)?;
        let Counters { flows, busiest_flow, sessions, uncached, .. } = counters;
        writeln!(f, "\ntables")?;
        writeln!(f, "  rules        {:>14}", self.rules)?;
        writeln!(
            f,
            "  flows        {flows:>14}   busiest {busiest_flow} packets, {uncached} packets without a flow"
        )?;
        writeln!(f, "  VPN sessions {sessions:>14}")?;
        match &self.outcome.usage {
            Some(usage) => write_usage(f, usage)?,
            None => writeln!(f, "\nmemory: the system's allocator, which keeps no account")?,
        }
        let LeakReport { objects, bytes } = self.leaks;
        writeln!(f, "\nleaks          {objects:>14}   {bytes} bytes")?;
        writeln!(f, "lost packets   {:>14}", counters.lost())
    }
}

fn write_packets(f: &mut fmt::Formatter<'_>, counters: &Counters) -> fmt::Result {
    writeln!(f, "packets")?;
    writeln!(f, "  received     {:>14}", counters.received)?;
    let sealed = counters.sealed.min(counters.transmitted);
    let plain = counters.transmitted - sealed;
    writeln!(
        f,
        "  transmitted  {:>14}   {sealed} by VPN, {plain} as they came",
        counters.transmitted
    )?;
    writeln!(f, "  denied       {:>14}", counters.denied)?;
    write!(f, "  dropped      {:>14}", counters.dropped_in_all())?;
    let reasons = DropReason::ALL.map(|(why, name)| format!("{name} {}", counters.dropped(why)));
    writeln!(f, "   {}", reasons.join(", "))
}

#[expect(clippy::cast_precision_loss, reason = "rates are rounded anyway")]
fn write_rate(f: &mut fmt::Formatter<'_>, counters: &Counters, elapsed: Duration) -> fmt::Result {
    let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    let packets = |count: u64| count as f64 / seconds;
    let gigabits = |bytes: u64| bytes as f64 * 8.0 / seconds / 1e9;
    writeln!(f, "\nrate")?;
    writeln!(f, "  seconds      {seconds:>14.3}")?;
    let (received, sent) = (packets(counters.received), packets(counters.transmitted));
    writeln!(f, "  packets/s    {received:>14.0}   {sent:.0} out")?;
    let (received, sent) =
        (gigabits(counters.received_bytes), gigabits(counters.transmitted_bytes));
    writeln!(f, "  Gbit/s       {received:>14.3}   {sent:.3} out")?;
    let (allocating, freeing) = (counters.allocating.nanoseconds(), counters.freeing.nanoseconds());
    write!(f, "  buffers, ns  {:>14.1}   a packet: ", allocating + freeing)?;
    writeln!(f, "{allocating:.1} to allocate, {freeing:.1} to free")
}

fn write_usage(f: &mut fmt::Formatter<'_>, usage: &Usage) -> fmt::Result {
    let Usage { pool, classes } = usage;
    let kib = |bytes: usize| bytes.div_ceil(1024);
    writeln!(f, "\npool of {} KiB", kib(pool.region_bytes))?;
    writeln!(f, "  class     size    slots     live     peak   cached  reserve failures")?;
    for (name, class) in classes {
        write!(f, "  {name:<7} {:>6} {:>8}", class.size, class.slots)?;
        write!(f, " {:>8} {:>8} {:>8}", class.live, class.peak, class.cached)?;
        writeln!(f, " {:>8} {:>8}", class.reserve, class.failures)?;
    }
    write!(
        f,
        "  {:<24} {:>7} {:>17}",
        "all, tables included", pool.live_objects, pool.cached_objects
    )?;
    writeln!(f, " {:>17}", pool.failures)?;
    write!(f, "  {} KiB in use, {} KiB at the peak", kib(pool.live_bytes), kib(pool.peak_bytes))?;
    writeln!(f, ", {} bad frees", pool.bad_frees)
}
