//! What the proof has met: which fields and actions decided verdicts, and which conditions alone
//! kept a rule from matching. A proof that never meets a feature proves nothing of it.

use std::{collections::BTreeMap, fmt};

use anyhow::{Result, ensure};

use crate::oracle::rule::Rule;

/// Conditions that must have held in a rule that matched, and alone have kept one from matching.
const CONDITIONS: [&str; 29] = [
    "destination.namespaceSelector",
    "destination.namespaceSelector+selector",
    "destination.nets",
    "destination.notNets",
    "destination.notPorts",
    "destination.notSelector",
    "destination.notSelector of anybody",
    "destination.ports",
    "destination.selector",
    "destination.selector+notSelector",
    "icmp",
    "ipVersion",
    "kubernetes from",
    "kubernetes ports",
    "kubernetes to",
    "notICMP",
    "notNets of one family",
    "notProtocol",
    "protocol",
    "source.namespaceSelector",
    "source.namespaceSelector+selector",
    "source.nets",
    "source.notNets",
    "source.notPorts",
    "source.notSelector",
    "source.notSelector of anybody",
    "source.ports",
    "source.selector",
    "source.selector+notSelector",
];

/// What must have had the last word, or have been passed on the way to it.
const DECISIONS: [&str; 53] = [
    "GlobalNetworkPolicy allow",
    "GlobalNetworkPolicy deny",
    "GlobalNetworkPolicy log",
    "GlobalNetworkPolicy pass",
    "KubernetesNetworkPolicy allow",
    "NetworkPolicy allow",
    "NetworkPolicy deny",
    "NetworkPolicy log",
    "NetworkPolicy pass",
    "default-action Allow",
    "default-action Deny",
    "doNotTrack deny",
    "doNotTrack failsafe",
    "doNotTrack nothing",
    "end of tier: Deny",
    "end of tier: Pass",
    "failsafe",
    "forward allow",
    "forward default",
    "forward deny",
    "forward log",
    "forward pass",
    "host-access",
    "kubernetes alone",
    "local allow",
    "local default Allow",
    "local default Deny",
    "local deny",
    "local log",
    "local pass",
    "preDNAT allow",
    "preDNAT deny",
    "preDNAT nothing",
    "preDNAT pass",
    "published port",
    "staged: NetworkPolicy allow",
    "staged: StagedGlobalNetworkPolicy allow",
    "staged: StagedGlobalNetworkPolicy deny",
    "staged: StagedGlobalNetworkPolicy pass",
    "staged: StagedKubernetesNetworkPolicy allow",
    "staged: StagedNetworkPolicy allow",
    "staged: StagedNetworkPolicy deny",
    "staged: StagedNetworkPolicy pass",
    "staged: default-action Allow",
    "staged: default-action Deny",
    "staged: end of tier: Deny",
    "staged: end of tier: Pass",
    "staged: forward allow",
    "staged: forward default",
    "staged: forward deny",
    "staged: local allow",
    "staged: local default Deny",
    "staged: local deny",
];

/// How often something was met.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    /// By field: in a rule that matched, and as the only one that did not hold.
    conditions: BTreeMap<String, [u64; 2]>,
    decisions: BTreeMap<String, u64>,
}

impl Coverage {
    /// Takes note of what had the last word on a walk, or was passed on it.
    pub(crate) fn decides(&mut self, walk: &str, what: &str) {
        *self.decisions.entry(format!("{walk}{what}")).or_default() += 1;
    }

    /// Takes note of which conditions of a rule failed.
    pub(crate) fn judged(&mut self, rule: &Rule, failed: &[&str]) {
        let mut count = |name: &str, which: usize| {
            self.conditions.entry(name.to_owned()).or_default()[which] += 1;
        };
        match failed {
            [] => rule.conditions.iter().for_each(|(name, _)| count(name, 0)),
            [only] => count(only, 1),
            _ => {}
        }
    }

    pub(crate) fn add(&mut self, other: Coverage) {
        for (name, [held, failed]) in other.conditions {
            let known = self.conditions.entry(name).or_default();
            *known = [known[0] + held, known[1] + failed];
        }
        for (name, count) in other.decisions {
            *self.decisions.entry(name).or_default() += count;
        }
    }

    /// # Errors
    /// What was not met.
    pub(crate) fn complete(&self) -> Result<()> {
        let met = |name: &&str| {
            self.conditions.get(*name).is_some_and(|[held, failed]| *held > 0 && *failed > 0)
        };
        let missing: Vec<&str> = CONDITIONS
            .into_iter()
            .filter(|name| !met(name))
            .chain(DECISIONS.into_iter().filter(|name| !self.decisions.contains_key(*name)))
            .collect();
        ensure!(missing.is_empty(), "never met: {}\n{self}", missing.join(", "));
        Ok(())
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<40} {:>9} {:>12}", "condition", "matched", "alone failed")?;
        for (name, [held, failed]) in &self.conditions {
            writeln!(f, "{name:<40} {held:>9} {failed:>12}")?;
        }
        writeln!(f, "{:<40} {:>9}", "decision", "verdicts")?;
        self.decisions.iter().try_for_each(|(name, count)| writeln!(f, "{name:<40} {count:>9}"))
    }
}
