//! What `capture` is asked.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ValueEnum, ValueHint};

use super::FilterArgs;

pub(super) const EXAMPLES: &str = "\
Examples:
  policyctl capture -w drops.pcapng --count 100
  policyctl capture -w db.pcapng --what all --name shop/db --port 5432 --for 30s
  policyctl capture -w - --policy shop/db | tshark -r -

Each packet has a comment that says what became of it, and by which rule. Packets are seen where policy
decides: at the interface of a container, at its bridge, and, as the first 128 bytes, at an uplink.";

/// Which packets, how much of them, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct CaptureArgs {
    /// File to write, in pcapng, which Wireshark and tcpdump read; `-` for standard output.
    #[arg(short = 'w', long = "write", value_name = "FILE|-", value_hint = ValueHint::FilePath)]
    pub(crate) write: PathBuf,
    /// Packets that are dropped, those that policy lets pass, or both.
    #[arg(long, value_name = "WHAT", default_value = "drops")]
    pub(crate) what: CaptureWhat,
    /// Bytes of each packet, at most.
    #[arg(long, value_name = "BYTES", default_value_t = 1536)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1536))]
    pub(crate) snap: u32,
    /// Stop after so many packets.
    #[arg(short = 'c', long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Stop after so long, such as 30s or 5min.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) duration: Option<Duration>,
    /// Stop before the file has more MiB than this.
    #[arg(long, value_name = "MIB", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub(crate) max_size: u64,
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
}

/// `--what`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CaptureWhat {
    Drops,
    Passes,
    All,
}
