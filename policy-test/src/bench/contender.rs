//! Who is compared.
//!
//! Inputs: a topology, rules. Outputs: a [`Contender`] that enforces them there.

mod iptables;
mod nftables;
mod palisade;

use std::{
    io::Write as _,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use crate::{
    bench::{rules::Rule, topology::Topology},
    netns::NetNs,
};

/// Something that enforces rules in a topology: who goes to the server needs one that lets him in,
/// answers pass, all else is dropped and counted.
pub trait Contender {
    /// Adds one rule that lets in everything from `source`, with the command that a user would
    /// give.
    ///
    /// # Errors
    /// If the command fails, with what it said.
    fn admit(&self, source: Ipv4Addr) -> Result<()>;

    /// Removes that rule again.
    ///
    /// # Errors
    /// As [`Contender::admit`].
    fn dismiss(&self, source: Ipv4Addr) -> Result<()>;

    /// Packets that no rule let in, by the contender's own counter.
    ///
    /// # Errors
    /// If it cannot be read.
    fn dropped(&self) -> Result<u64>;

    /// The process that works beside the kernel, if there is one.
    fn pid(&self) -> Option<u32> {
        None
    }
}

/// The contenders, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// The host only routes: what all others are measured against.
    NoPolicy,
    /// A real agent; the server is fenced.
    Palisade,
    /// The same, and the client is a fenced container, too.
    PalisadeTwice,
    /// As somebody writes them who knows nftables.
    NftablesSets,
    /// One rule after the other.
    NftablesLinear,
    /// One rule after the other, by `iptables-nft`.
    IptablesLinear,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::NoPolicy,
        Self::Palisade,
        Self::PalisadeTwice,
        Self::NftablesSets,
        Self::NftablesLinear,
        Self::IptablesLinear,
    ];

    /// What tables and plots call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoPolicy => "no policy",
            Self::Palisade => "Palisade",
            Self::PalisadeTwice => "Palisade, both ends",
            Self::NftablesSets => "nftables, sets",
            Self::NftablesLinear => "nftables, linear",
            Self::IptablesLinear => "iptables, linear",
        }
    }

    /// Whether it is Palisade, whose tables are to be flat up to any number of rules.
    #[must_use]
    pub fn is_palisade(self) -> bool {
        matches!(self, Self::Palisade | Self::PalisadeTwice)
    }

    /// Enforces `rules`; `None` where nothing is to be enforced.
    ///
    /// # Errors
    /// If the contender does not take them, or is not installed.
    pub fn enforce(self, on: &Topology, rules: &[Rule]) -> Result<Option<Box<dyn Contender>>> {
        Ok(Some(match self {
            Self::NoPolicy => return Ok(None),
            Self::Palisade => Box::new(palisade::Palisade::enforce(on, rules, false)?),
            Self::PalisadeTwice => Box::new(palisade::Palisade::enforce(on, rules, true)?),
            Self::NftablesSets => Box::new(nftables::Sets::enforce(on, rules)?),
            Self::NftablesLinear => Box::new(nftables::Linear::enforce(on, rules)?),
            Self::IptablesLinear => Box::new(iptables::Linear::enforce(on, rules)?),
        }))
    }
}

/// Runs a command in the host's namespace and gives what it printed.
fn command(host: &NetNs, words: &[&str], input: &str) -> Result<String> {
    let [program, arguments @ ..] = words else { anyhow::bail!("no command") };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = host.spawn(&mut command).with_context(|| format!("start {program}"))?;
    child.stdin.take().context("its input is a pipe")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{}: {}: {}",
        words.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
