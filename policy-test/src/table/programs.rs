//! The second ring: the kernel programs by `BPF_PROG_TEST_RUN`, on real maps.
//!
//! Inputs: tables. Outputs: how many packets went through both of their ends; a failure where the
//! programs, the drop counters or the rule counters do not say what the table says.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result, ensure};
use policy_agent::kernel::{load::Sizes, pin::Hook};
use policy_api::messages::{EndDecision, RuleName, Verdict};
use policy_common::abi::{Direction, DropReason};
use policy_core::host::Plane;

use super::{
    Attempt, Table, World, frames,
    world::{Interface, hosts, is_away},
};
use crate::testrun::{self, Entry, Ring};

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
            if hosts(&self.ring.model).next().is_some() {
                self.ring.own(world.host().iter().copied())?;
            }
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
        let index = match interface {
            Interface::Endpoint(_) => self.ring.interface(&name)?,
            Interface::Uplink(_) => self.ring.outside(&name)?,
        };
        self.interfaces.insert(name, index);
        Ok(index)
    }

    /// One packet: at the uplinks, at the sender's interface, at the receiver's, as far as it comes.
    fn attempt(&mut self, attempt: &Attempt) -> Result<()> {
        let (path, service) = (&attempt.path, attempt.service);
        let next = self.ports.next().context("ports go round")?;
        let port = attempt.row.source_port.unwrap_or(next);
        let frame = frames::frame(path.source, path.destination, service, port)?;
        let [egress, ingress] = &path.ends[..] else { anyhow::bail!("not two ends: {path:?}") };
        match self.endpoint(path.source) {
            Some(index) => {
                let from = Entry::from((Hook::FromEndpoint, index));
                let frame = self.ring.addressed(from, frame.clone());
                self.end(from, &frame, service.port, egress)?;
            }
            None if is_away(&self.ring.model, path.source) => {
                self.uplinks(attempt, &frame, egress)?;
            }
            None => {}
        }
        if egress.verdict == Verdict::Deny {
            return Ok(());
        }
        match self.endpoint(path.destination) {
            Some(index) => {
                let to = Entry::from((Hook::ToEndpoint, index));
                self.end(to, &frame, service.port, ingress)
            }
            None if is_away(&self.ring.model, path.destination) => {
                self.hosts(attempt, Direction::Egress, &frame, ingress)
            }
            None => Ok(()),
        }
    }

    /// A packet crosses the host endpoints, all of which say the same here.
    fn hosts(
        &self,
        attempt: &Attempt,
        direction: Direction,
        frame: &[u8],
        end: &EndDecision,
    ) -> Result<()> {
        let hook = match direction {
            Direction::Ingress => Hook::FromUplink,
            Direction::Egress => Hook::ToUplink,
        };
        let model = &self.ring.model;
        let (forwarded, _) = attempt.crossing(model, direction);
        for host in hosts(model) {
            // On the way in, the program has to find out.
            let passed_on = forwarded && direction == Direction::Egress;
            let entry = Entry { hook, ifindex: host.ifindex, passed_on };
            self.end(entry, frame, attempt.service.port, end)?;
        }
        Ok(())
    }

    fn endpoint(&self, address: IpAddr) -> Option<u32> {
        let endpoints = self.ring.model.endpoints.values();
        let mut endpoints = endpoints.filter(|it| it.plane == Plane::Workload);
        endpoints.find(|it| it.addresses.contains(&address)).map(|it| it.ifindex)
    }

    /// A packet from elsewhere comes in by one of the uplinks; all of them have the same lists here.
    fn uplinks(&self, attempt: &Attempt, frame: &[u8], end: &EndDecision) -> Result<()> {
        // What is denied by a host endpoint has its name, and gets past the block lists.
        let blocked = end.verdict == Verdict::Deny && end.endpoint.is_none();
        let untracked = EndDecision { verdict: Verdict::Allow, ..end.clone() };
        let untracked = if blocked { end } else { &untracked };
        for &index in self.ring.model.uplinks.keys() {
            let found = self.ring.judge(Hook::Uplink, index, frame)?;
            self.expect(&found, Direction::Ingress, DropReason::Untracked, 0, untracked)?;
        }
        if blocked { Ok(()) } else { self.hosts(attempt, Direction::Ingress, frame, end) }
    }

    /// One end, with the counters of the rule that decides, of the Log rules before it, and of the
    /// staged rule: each moves by this one packet.
    fn end(&self, entry: Entry, frame: &[u8], port: u16, end: &EndDecision) -> Result<()> {
        let before = self.counted(end)?;
        let found = self.ring.judge_at(entry, frame)?;
        let direction = match entry.hook {
            Hook::FromEndpoint | Hook::ToUplink => Direction::Egress,
            _ => Direction::Ingress,
        };
        self.expect(&found, direction, DropReason::Policy, port, end)?;
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
        port: u16,
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
                && key.direction == direction as u8
                && key.port == port,
            "{direction:?}: the program drops it by {rule:?} ({key:?}), not {:?}",
            end.rule
        );
        Ok(())
    }
}
