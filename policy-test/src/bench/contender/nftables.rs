//! nftables, as an expert would write it and as a list.
//!
//! Inputs: rules. Outputs: one table `fence` in the host's namespace.
//!
//! Both let packets of known connections pass first, by a verdict map on the connection's state,
//! and look only at what goes to the server's bridge. The expert's then costs one lookup in an interval
//! map of concatenations and one in an interval set, however many rules there are. Flowtables, which would
//! take established connections past the rules, are left out: they bypass the counters, too, and
//! many kernels come without them.

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

/// Sets and maps.
#[derive(Debug)]
pub(super) struct Sets(Lab);

/// A rule for each.
#[derive(Debug)]
pub(super) struct Linear(Lab);

impl Sets {
    pub(super) fn enforce(on: &Topology, rules: &[Rule]) -> Result<Self> {
        command(on.lab.host(), &["nft", "-f", "-"], &sets(rules)?)?;
        Ok(Self(on.lab.clone()))
    }

    fn element(&self, what: &str, source: Ipv4Addr) -> Result<()> {
        let element = format!("{{ {source} }}");
        let words = ["nft", what, "element", "ip", "fence", "sources", &element];
        command(self.0.host(), &words, "").map(drop)
    }
}

impl Contender for Sets {
    fn admit(&self, source: Ipv4Addr) -> Result<()> {
        self.element("add", source)
    }

    fn dismiss(&self, source: Ipv4Addr) -> Result<()> {
        self.element("delete", source)
    }

    fn dropped(&self) -> Result<u64> {
        counter(&self.0)
    }
}

impl Linear {
    pub(super) fn enforce(on: &Topology, rules: &[Rule]) -> Result<Self> {
        command(on.lab.host(), &["nft", "-f", "-"], &linear(rules)?)?;
        Ok(Self(on.lab.clone()))
    }
}

impl Contender for Linear {
    fn admit(&self, source: Ipv4Addr) -> Result<()> {
        let source = source.to_string();
        let words =
            ["nft", "add", "rule", "ip", "fence", "server", "ip", "saddr", &source, "accept"];
        command(self.0.host(), &words, "").map(drop)
    }

    fn dismiss(&self, source: Ipv4Addr) -> Result<()> {
        let host = self.0.host();
        let listed = command(host, &["nft", "-a", "list", "chain", "ip", "fence", "server"], "")?;
        let start = format!("ip saddr {source} accept # handle ");
        let handle = listed
            .lines()
            .find_map(|line| line.trim().strip_prefix(&start))
            .with_context(|| format!("no rule for {source} in the chain"))?;
        let words = ["nft", "delete", "rule", "ip", "fence", "server", "handle", handle];
        command(host, &words, "").map(drop)
    }

    fn dropped(&self) -> Result<u64> {
        counter(&self.0)
    }
}

fn sets(rules: &[Rule]) -> Result<String> {
    let (mut services, mut sources) = (Vec::new(), Vec::new());
    for rule in rules {
        match rule {
            Rule::Service { network, prefix, port } => {
                services.push(format!("{network}/{prefix} . tcp . {port} : accept"));
            }
            Rule::Source(address) => sources.push(address.to_string()),
        }
    }
    let elements = |all: &[String]| match all {
        [] => String::new(),
        all => format!("elements = {{ {} }}", all.join(",\n")),
    };
    let mut text = String::new();
    writeln!(
        text,
        "table ip fence {{
           counter refused {{ }}
           map services {{
             type ipv4_addr . inet_proto . inet_service : verdict; flags interval
             {}
           }}
           set sources {{
             type ipv4_addr; flags interval
             {}
           }}
           chain forward {{
             type filter hook forward priority filter; policy accept
             ct state vmap {{ established : accept, related : accept, invalid : drop }}
             oifname \"{INSIDE}\" goto server
           }}
           chain server {{
             ip saddr . meta l4proto . th dport vmap @services
             ip saddr @sources accept
             counter name refused drop
           }}
         }}",
        elements(&services),
        elements(&sources)
    )?;
    Ok(text)
}

fn linear(rules: &[Rule]) -> Result<String> {
    let mut text = String::from("table ip fence {\ncounter refused { }\nchain server {\n");
    for rule in rules {
        match rule {
            Rule::Service { network, prefix, port } => {
                writeln!(text, "ip saddr {network}/{prefix} tcp dport {port} accept")?;
            }
            Rule::Source(address) => writeln!(text, "ip saddr {address} accept")?,
        }
    }
    writeln!(
        text,
        "}}
         chain forward {{
           type filter hook forward priority filter; policy accept
           ct state vmap {{ established : accept, related : accept, invalid : drop }}
           oifname \"{INSIDE}\" jump server
           oifname \"{INSIDE}\" counter name refused drop
         }}
         }}"
    )?;
    Ok(text)
}

fn counter(lab: &Lab) -> Result<u64> {
    let listed = command(lab.host(), &["nft", "list", "counter", "ip", "fence", "refused"], "")?;
    parse_counter(&listed).with_context(|| format!("no packets in: {listed}"))
}

fn parse_counter(listed: &str) -> Option<u64> {
    listed.split_once("packets ")?.1.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{rules::rules, topology::CLIENT};

    #[test]
    fn a_counter_is_read_in_packets_not_bytes() {
        let listed = "table ip fence {\n\tcounter refused {\n\t\tpackets 12 bytes 345\n\t}\n}\n";
        assert_eq!(parse_counter(listed), Some(12));
        assert_eq!(parse_counter("table ip fence {\n}\n"), None);
    }

    #[test]
    fn every_rule_is_written_once_in_both_ways() {
        let rules = rules(1_000, CLIENT);
        let text = sets(&rules).unwrap();
        assert_eq!(text.matches(" : accept,\n").count(), 998);
        assert!(text.contains("elements = { 10.80.1.2 }"));
        let text = linear(&rules).unwrap();
        assert_eq!(text.matches(" tcp dport ").count(), 999);
        assert!(text.contains("ip saddr 10.80.1.2 accept\n}"));
    }
}
