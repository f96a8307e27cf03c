//! What the demo needs of a runtime.
//!
//! Inputs: the cast of the table. Outputs: an agent, names and addresses, connections tried.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use crate::{agent::Agent, net::Reach, netns::NetNs};

/// The one port that each endpoint serves.
pub(super) const SERVED: [(&str, u16); 4] =
    [("web", 80), ("api", 8000), ("db", 5432), ("intruder", 4444)];

/// After so long without an answer, a connection counts as dropped. Answers on the same machine
/// take less than a millisecond; a lost SYN would be repeated within this time.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// A running application with an agent.
pub(super) trait Stage: Sync {
    /// The agent.
    fn agent(&self) -> &Agent;

    /// What the agent manages, in words.
    fn scope(&self) -> String;

    /// The name by which `policyctl` knows an endpoint of the table.
    fn name(&self, endpoint: &str) -> String;

    /// IPv4 and IPv6 address of an endpoint of the table, or of the host.
    fn addresses(&self, name: &str) -> Result<[IpAddr; 2]>;

    /// Tries TCP connections from an endpoint of the table, or from the host, all at once.
    fn connect(&self, from: &str, to: &[SocketAddr]) -> Result<Vec<Reach>>;

    /// Takes everything away, as dropping it does, and makes sure of it.
    fn end(self: Box<Self>) -> Result<()>;
}

/// Tries TCP connections from a namespace with sockets of our own.
pub(super) fn connect_from(netns: &NetNs, to: &[SocketAddr]) -> Result<Vec<Reach>> {
    thread::scope(|scope| {
        let tries: Vec<_> = to.iter().map(|&to| scope.spawn(move || connect(netns, to))).collect();
        tries
            .into_iter()
            .map(|tried| tried.join().map_err(|_| anyhow!("a connection's thread has panicked"))?)
            .collect()
    })
}

fn connect(netns: &NetNs, to: SocketAddr) -> Result<Reach> {
    match netns.tcp_connect(to, PATIENCE) {
        Ok(_) => Ok(Reach::Answered),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Ok(Reach::Refused),
            ErrorKind::TimedOut
            | ErrorKind::WouldBlock
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable => Ok(Reach::Silent),
            _ => Err(error).context(format!("connect to {to}")),
        },
    }
}
