//! The second ring: the kernel programs by `BPF_PROG_TEST_RUN`, on real maps.
//!
//! Inputs: tables. Outputs: how many packets went through both of their ends; a failure where the
//! programs, the drop counters or the rule counters do not say what the table says.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result, ensure};
use policy_agent::kernel::{load::Sizes, pin::Hook};
use policy_api::messages::{EndDecision, RuleName, Verdict};
use policy_common::abi::{Direction, DropReason};

use super::{Attempt, Table, World, frames, world::Interface};
use crate::testrun::{self, Ring};

/// Small tables: most of a test's time is loading.
const SIZES: Sizes = Sizes { conntrack_v4: 4096, conntrack_v6: 4096 };
/// Source ports and identifiers, from the first of the dynamic ports (RFC 6335, 6) on: every packet
/// opens a connection.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=u16::MAX;

/// Packets, by what they were counted for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    /// The rule that decides.
    rule: u64,
    /// The list of Log rules before it.
    log: u64,
    /// The staged rule, with what is done instead.
    staged: u64,
}

/// The loaded programs, for one table after the other.
pub struct Programs {
    ring: Ring,
    interfaces: BTreeMap<String, u32>,
    ports: std::iter::Cycle<std::ops::RangeInclusive<u16>>,
}

impl Programs {
    /// Loads them.
    ///
    /// # Errors
    /// As [`Ring::new`].
    pub fn load() -> Result<Self> {
        Ok(Self {
            ring: Ring::new(SIZES)?,
            interfaces: BTreeMap::new(),
            ports: SOURCE_PORTS.cycle(),
        })
    }

    /// Runs a table.
    ///
    /// # Errors
    /// If something is not as the table says, with everything that is not.
    pub fn run(&mut self, table: &Table) -> Result<usize> {
        let mut world = World::new(table)?;
        let mut failures = Vec::new();
        let mut decided = 0;
        for step in table.phases() {
            world.enter(&step)?;
            self.ring.model = world.model(|interface| self.interface(interface))?;
            self.ring.sync()?;
            for attempt in world.attempts(&self.ring.model, &step)? {
                decided += 1;
                if let Err(error) = self.attempt(&attempt) {
                    failures.push(format!("{}: {error:#}", attempt.case));
                }
            }
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(decided)
    }

    fn interface(&mut self, interface: Interface<'_>) -> Result<u32> {
        let name = match interface {
            Interface::Endpoint(place) => format!("e{place}"),
            Interface::Uplink(name) => format!("u-{name}"),
        };
        if let Some(&index) = self.interfaces.get(&name) {
            return Ok(index);
        }
        let index = self.ring.interface(&name)?;
        self.interfaces.insert(name, index);
        Ok(index)
    }

    /// One packet: at the uplinks, at the sender's interface, at the receiver's, as far as it comes.
    fn attempt(&mut self, attempt: &Attempt) -> Result<()> {
        let path = &attempt.path;
        let next = self.ports.next().context("ports go round")?;
        let port = attempt.row.source_port.unwrap_or(next);
        let frame = frames::frame(path.source, path.destination, attempt.service, port)?;
        let [egress, ingress] = &path.ends[..] else { anyhow::bail!("not two ends: {path:?}") };
        match self.endpoint(path.source) {
            Some(index) => self.end(Hook::FromEndpoint, index, &frame, egress)?,
            None => self.uplinks(path.source, &frame, egress)?,
        }
        if egress.verdict == Verdict::Deny {
            return Ok(());
        }
        if let Some(index) = self.endpoint(path.destination) {
            self.end(Hook::ToEndpoint, index, &frame, ingress)?;
        }
        Ok(())
    }

    fn endpoint(&self, address: IpAddr) -> Option<u32> {
        let mut endpoints = self.ring.model.endpoints.values();
        endpoints.find(|it| it.addresses.contains(&address)).map(|it| it.ifindex)
    }

    /// A packet from elsewhere comes in by one of the uplinks; all of them have the same lists here.
    fn uplinks(&self, source: IpAddr, frame: &[u8], end: &EndDecision) -> Result<()> {
        if self.ring.model.host_addresses.contains(&source) {
            return Ok(());
        }
        for &index in self.ring.model.uplinks.keys() {
            let found = self.ring.judge(Hook::Uplink, index, frame)?;
            self.expect(&found, Direction::Ingress, DropReason::Untracked, end)?;
        }
        Ok(())
    }

    /// One end, with the counters of the rule that decides, of the Log rules before it, and of the
    /// staged rule: each moves by this one packet.
    fn end(&self, hook: Hook, index: u32, frame: &[u8], end: &EndDecision) -> Result<()> {
        let before = self.counted(end)?;
        let found = self.ring.judge(hook, index, frame)?;
        let direction = match hook {
            Hook::FromEndpoint => Direction::Egress,
            _ => Direction::Ingress,
        };
        self.expect(&found, direction, DropReason::Policy, end)?;
        let after = self.counted(end)?;
        let once = Counted {
            rule: 1,
            log: u64::from(!end.logged.is_empty()),
            staged: u64::from(end.staged.is_some()),
        };
        let moved = Counted {
            rule: after.rule - before.rule,
            log: after.log - before.log,
            staged: after.staged - before.staged,
        };
        ensure!(moved == once, "{direction:?}: the counters moved by {moved:?}, not {once:?}");
        Ok(())
    }

    /// What has been counted for what decides at one end.
    fn counted(&self, end: &EndDecision) -> Result<Counted> {
        let mut counted = Counted::default();
        for (id, name) in self.ring.rules() {
            if *name == end.rule {
                counted.rule += self.ring.rule_counter(id)?.packets;
            }
            if end.staged.as_ref().is_some_and(|staged| staged.rule == *name) {
                let flows = self.ring.staged_counter(id)?;
                counted.staged += match end.verdict {
                    Verdict::Allow => flows.allowed,
                    Verdict::Deny => flows.denied,
                };
            }
        }
        for (id, names) in self.ring.logs() {
            if !end.logged.is_empty() && *names == end.logged[..] {
                counted.log += self.ring.log_counter(id)?.packets;
            }
        }
        Ok(counted)
    }

    fn expect(
        &self,
        found: &testrun::Verdict,
        direction: Direction,
        reason: DropReason,
        end: &EndDecision,
    ) -> Result<()> {
        let testrun::Verdict::Drop(key) = found else {
            ensure!(end.verdict == Verdict::Allow, "{direction:?}: the program lets it pass");
            return Ok(());
        };
        let rule: Option<&RuleName> = self.ring.rule(key.rule);
        ensure!(
            end.verdict == Verdict::Deny
                && rule == Some(&end.rule)
                && key.reason == reason as u8
                && key.direction == direction as u8,
            "{direction:?}: the program drops it by {rule:?} ({key:?}), not {:?}",
            end.rule
        );
        Ok(())
    }
}
