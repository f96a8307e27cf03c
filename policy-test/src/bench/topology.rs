//! Where everything is measured: a client beyond the host, a server in a container.
//!
//! Inputs: root, `ip`. Outputs: a [`Topology`], which vanishes when it is dropped.
//!
//! ```text
//! client netns  eth0 -- veth-client  br-client  HOST NETNS  br-server  veth-server -- eth0  server netns
//! 10.80.1.2-4                        10.80.1.1   (routes)   10.80.2.1                       10.80.2.2
//! ```
//!
//! The host routes between two bridges, so that nftables' and iptables' forward hook meets every
//! packet without `br_netfilter`, and Palisade meets the same packets once on the server's veth.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    thread,
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    lab::{Lab, Workload},
    netns::NetNs,
};

/// The bridge of the fenced server.
pub const INSIDE: &str = "br-server";
/// The bridge of the client.
pub const OUTSIDE: &str = "br-client";
/// What the last rule lets in.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 80, 1, 2);
/// What no rule lets in.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 80, 1, 3);
/// What the rule lets in that is added while the clock runs.
pub const NEWCOMER: Ipv4Addr = Ipv4Addr::new(10, 80, 1, 4);
/// The server.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 80, 2, 2);

/// The namespaces and what joins them.
#[derive(Debug)]
pub struct Topology {
    /// The namespace that routes is this lab's host.
    pub lab: Lab,
    /// Holds [`CLIENT`], [`STRANGER`] and [`NEWCOMER`].
    pub client: Workload,
    /// Holds [`SERVER`].
    pub server: Workload,
}

impl Topology {
    /// Makes one; nothing is enforced in it.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let outside = lab.bridge(OUTSIDE, &["10.80.1.1/24"])?;
        let inside = lab.bridge(INSIDE, &["10.80.2.1/24"])?;
        let own = [CLIENT, STRANGER, NEWCOMER].map(|address| format!("{address}/24"));
        let client = lab.workload("client", &outside, &own.each_ref().map(String::as_str))?;
        let server = lab.workload("server", &inside, &[&format!("{SERVER}/24")])?;
        for netns in [lab.host(), client.netns(), server.netns()] {
            // Only packets that were sent on purpose are to be counted.
            netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
            // Connects by the ten thousand need ports.
            netns.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
            // They come round within seconds. One that meets what is left of its last connection would
            // now and then have to ask again, a second later.
            netns.sysctl("net/ipv4/tcp_max_tw_buckets", "0")?;
            // Every kernel has it, and it sends as soon as it may: another paces by a clock.
            netns.sysctl("net/ipv4/tcp_congestion_control", "reno")?;
        }
        Ok(Self { lab, client, server })
    }
}

/// An address of the server.
#[must_use]
pub fn at(port: u16) -> SocketAddr {
    SocketAddrV4::new(SERVER, port).into()
}

/// Counters of one interface, as `/proc/net/dev` has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets that came in.
    pub received: u64,
    /// Packets that did not fit into the queue of the other end.
    pub lost: u64,
}

/// What `eth0` of a workload has counted so far.
///
/// # Errors
/// If the kernel does not tell.
pub fn traffic(netns: &NetNs) -> Result<Traffic> {
    // /proc/net is that of the process; its threads may be elsewhere.
    let text = netns.run(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
    parse_traffic(&text, "eth0").context("/proc/net/dev has no counters of eth0")
}

fn parse_traffic(text: &str, interface: &str) -> Option<Traffic> {
    let line =
        text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))?;
    let columns: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
    // Eight columns of what came in (bytes, packets, ...), then bytes, packets, errs, drop, ... of
    // what went out.
    Some(Traffic { received: *columns.get(1)?, lost: *columns.get(11)? })
}

/// Who runs where: what the client does must not compete with what the server does for a CPU.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    /// The first CPU.
    Client,
    /// The second one, if there is one.
    Server,
}

/// Binds the calling thread to its side's CPU.
///
/// # Errors
/// If the kernel refuses.
pub fn pin(side: Side) -> Result<()> {
    let cpus = thread::available_parallelism()?.get();
    let mut set = CpuSet::new();
    set.set(match side {
        Side::Client => 0,
        Side::Server => 1 % cpus,
    })?;
    sched_setaffinity(Pid::from_raw(0), &set).context("bind a thread to a CPU")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_an_interface_are_told_from_those_of_its_namesakes() {
        let text = "Inter-|   Receive                |  Transmit\n \
                    face |bytes packets errs drop fifo frame compressed multicast|bytes packets\n  \
                    eth01: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n   \
                    eth0: 100 2 0 0 0 0 0 0 300 4 0 5 0 0 0 0\n";
        assert_eq!(parse_traffic(text, "eth0"), Some(Traffic { received: 2, lost: 5 }));
        assert_eq!(parse_traffic(text, "eth1"), None);
    }
}
