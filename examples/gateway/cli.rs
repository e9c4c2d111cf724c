//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum, value_parser};

const PCAP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/gateway/traffic.pcap");
const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/gateway/rules.txt");

/// A packet gateway on a memory pool: receive, firewall, VPN, transmit.
///
/// It runs a packet capture through the stages of a real appliance, on several threads, with all
/// memory of the data plane in one pool, and accounts for every packet at the end.
///
/// Exit status: 0 if every packet is accounted for and nothing leaked, 1 if not, 2 if an option or
/// a file is unusable.
#[derive(Debug, Parser)]
#[command(name = "gateway", version)]
pub struct Cli {
    /// Capture to run (pcap or pcapng, Ethernet)
    #[arg(long, value_name = "FILE", default_value = PCAP, hide_default_value = true)]
    pub pcap: PathBuf,

    /// Firewall rules
    #[arg(long, value_name = "FILE", default_value = RULES, hide_default_value = true)]
    pub rules: PathBuf,

    /// Write what is transmitted to this capture
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// Write a trace of everything that is allocated to this file
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Run the capture this many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..))]
    pub repeat: u32,

    /// Firewall and VPN threads, besides one each for receive and transmit
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = value_parser!(u8).range(1..=64))]
    pub workers: u8,

    /// Size of the pool in MiB [default: 8, and 4 for each worker]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=4096))]
    pub pool_mb: Option<u16>,

    /// Where packets, sessions and tables live
    #[arg(long, value_enum, default_value_t = Allocator::Pool)]
    pub allocator: Allocator,
}

/// The choices of `--allocator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Allocator {
    /// The memory pool
    Pool,
    /// malloc and free, to compare
    System,
}

impl Cli {
    /// Size of the pool in bytes.
    pub fn pool_bytes(&self) -> usize {
        let mib = self.pool_mb.unwrap_or(8 + 4 * u16::from(self.workers));
        usize::from(mib) << 20
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_options_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_argument_is_needed() {
        let cli = Cli::try_parse_from(["gateway"]).expect("defaults for all");
        assert!(cli.pcap.is_file() && cli.rules.is_file());
        assert_eq!(cli.pool_bytes(), 16 << 20);
        assert!(Cli::try_parse_from(["gateway", "--workers", "0"]).is_err());
        assert!(Cli::try_parse_from(["gateway", "--pool-mb", "0"]).is_err());
    }
}
