//! iptables, one rule after the other.
//!
//! Inputs: rules. Outputs: a chain `SERVER` that `FORWARD` calls for what goes to the server, after
//! known connections were let pass, as `DOCKER-USER` is written by most.
//!
//! The command is `iptables-nft`: what `iptables` is on Debian, and what Docker calls there.

use std::{fmt::Write as _, net::Ipv4Addr};

use anyhow::{Context as _, Result};

use crate::{
    bench::{
        contender::{Contender, command},
        rules::Rule,
        topology::{INSIDE, Topology},
    },
    lab::Lab,
};

/// A rule for each.
#[derive(Debug)]
pub(super) struct Linear(Lab);

impl Linear {
    pub(super) fn enforce(on: &Topology, rules: &[Rule]) -> Result<Self> {
        command(on.lab.host(), &["iptables-nft-restore"], &linear(rules)?)?;
        Ok(Self(on.lab.clone()))
    }

    fn rule(&self, what: &str, source: Ipv4Addr) -> Result<()> {
        let source = source.to_string();
        let words = ["iptables-nft", "-w", what, "SERVER", "-s", &source, "-j", "ACCEPT"];
        command(self.0.host(), &words, "").map(drop)
    }
}

impl Contender for Linear {
    fn admit(&self, source: Ipv4Addr) -> Result<()> {
        self.rule("-A", source)
    }

    fn dismiss(&self, source: Ipv4Addr) -> Result<()> {
        self.rule("-D", source)
    }

    fn dropped(&self) -> Result<u64> {
        let words = ["iptables-nft", "-w", "-L", "FORWARD", "-v", "-x", "-n"];
        let listed = command(self.0.host(), &words, "")?;
        parse_counter(&listed).with_context(|| format!("no DROP in: {listed}"))
    }
}

fn linear(rules: &[Rule]) -> Result<String> {
    let mut text = format!(
        "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:SERVER - [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o {INSIDE} -j SERVER
-A FORWARD -o {INSIDE} -j DROP
"
    );
    for rule in rules {
        match rule {
            Rule::Service { network, prefix, port } => writeln!(
                text,
                "-A SERVER -s {network}/{prefix} -p tcp -m tcp --dport {port} -j ACCEPT"
            )?,
            Rule::Source(address) => writeln!(text, "-A SERVER -s {address} -j ACCEPT")?,
        }
    }
    text.push_str("COMMIT\n");
    Ok(text)
}

/// Columns: packets, bytes, target, ...
fn parse_counter(listed: &str) -> Option<u64> {
    listed.lines().find_map(|line| {
        let mut columns = line.split_whitespace();
        let packets = columns.next()?.parse().ok()?;
        (columns.nth(1)? == "DROP").then_some(packets)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{rules::rules, topology::CLIENT};

    #[test]
    fn the_counter_is_that_of_the_drop() {
        let listed = "Chain FORWARD (policy ACCEPT 1 packets, 2 bytes)\n    pkts      bytes target     \
                      prot opt in     out     source               destination\n      34     5678 \
                      ACCEPT     0    --  *      *       0.0.0.0/0            0.0.0.0/0\n       9      \
                      810 DROP       0    --  *      br-server  0.0.0.0/0            0.0.0.0/0\n";
        assert_eq!(parse_counter(listed), Some(9));
        assert_eq!(parse_counter("Chain FORWARD (policy ACCEPT 1 packets, 2 bytes)\n"), None);
    }

    #[test]
    fn every_rule_is_written_once() {
        let text = linear(&rules(1_000, CLIENT)).unwrap();
        assert_eq!(text.matches(" --dport ").count(), 999);
        assert!(text.ends_with("-A SERVER -s 10.80.1.2 -j ACCEPT\nCOMMIT\n"));
    }
}
