//! The packet table: shapes from the RFCs, each with what the fence says of it and why.
//!
//! A row is a frame, who sends or gets it, what went before, and the verdict. It is shown to the real
//! programs and to the [`Reference`], and both must agree with the row. The bridge's guard, which
//! reads the same headers, must refuse the same faults in them.

#[path = "shapes/connections.rs"]
mod connections;
#[path = "shapes/fragments.rs"]
mod fragments;
#[path = "shapes/icmp.rs"]
mod icmp;
#[path = "shapes/ipv4.rs"]
mod ipv4;
#[path = "shapes/ipv6.rs"]
mod ipv6;
#[path = "shapes/link.rs"]
mod link;
#[path = "shapes/neighbours.rs"]
mod neighbours;
#[path = "shapes/transport.rs"]
mod transport;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use policy_agent::kernel::pin::Hook;
use policy_common::abi::{Direction, DropReason, RULE_NONE};
use policy_test::testrun::{Action, Verdict};

use crate::{
    reference::{Reference, Refusal, Subject, read},
    world::World,
};

/// What is to become of a row's frame.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// It passes, and is nobody's beginning.
    Passes,
    /// It passes, and its answers will.
    Opens,
    /// It is dropped for a reason, under a protocol and port.
    Drops(Refusal),
}

/// A step on the way to a row's frame.
#[derive(Clone)]
enum Before {
    /// A frame that passes.
    Frame(Direction, Vec<u8>),
    /// Seconds that go by.
    Age(u64),
}

/// One line of the table.
pub(crate) struct Row {
    name: String,
    subject: Subject,
    before: Vec<Before>,
    direction: Direction,
    pub(crate) frame: Vec<u8>,
    expected: Expected,
}

/// `web` sends a frame.
fn out(name: impl Into<String>, frame: Vec<u8>) -> Row {
    let (before, expected) = (Vec::new(), Expected::Passes);
    let (subject, direction) = (Subject::Web, Direction::Egress);
    Row { name: name.into(), subject, before, direction, frame, expected }
}

/// `web` gets a frame.
fn into(name: impl Into<String>, frame: Vec<u8>) -> Row {
    Row { direction: Direction::Ingress, ..out(name, frame) }
}

impl Row {
    /// It is `free` who does.
    fn free(self) -> Row {
        Row { subject: Subject::Free, ..self }
    }

    fn after_out(mut self, frame: Vec<u8>) -> Row {
        self.before.push(Before::Frame(Direction::Egress, frame));
        self
    }

    fn after_in(mut self, frame: Vec<u8>) -> Row {
        self.before.push(Before::Frame(Direction::Ingress, frame));
        self
    }

    fn after_seconds(mut self, seconds: u64) -> Row {
        self.before.push(Before::Age(seconds));
        self
    }

    fn opens(self) -> Row {
        Row { expected: Expected::Opens, ..self }
    }

    /// `port`: as policy has it.
    fn drops(self, reason: DropReason, protocol: u8, port: u16) -> Row {
        Row { expected: Expected::Drops(Refusal { reason, protocol, port }), ..self }
    }
}

/// The whole table.
pub(crate) fn rows() -> Vec<Row> {
    [
        link::rows(),
        ipv4::rows(),
        ipv6::rows(),
        fragments::rows(),
        transport::rows(),
        icmp::rows(),
        neighbours::rows(),
        connections::rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn every_shape_has_its_verdict_and_its_reason() -> Result<()> {
    let rows = rows();
    ensure!(rows.len() >= 300, "only {} shapes", rows.len());
    let mut world = World::new()?;
    let mut wrong = Vec::new();
    for row in &rows {
        if let Err(error) = hold(&mut world, row) {
            wrong.push(format!("{}: {error:#}", row.name));
        }
    }
    println!("{} shapes", rows.len());
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn no_two_shapes_have_one_name() {
    let mut seen = BTreeSet::new();
    let twice: Vec<_> =
        rows().into_iter().map(|row| row.name).filter(|name| !seen.insert(name.clone())).collect();
    assert_eq!(twice, [""; 0]);
}

/// Holds the programs and the reference against a row.
fn hold(world: &mut World, row: &Row) -> Result<()> {
    world.ring.forget_all()?;
    let mut reference = Reference::default();
    for step in &row.before {
        match step {
            Before::Frame(direction, frame) => {
                let verdict = world.shows(row.subject, *direction, frame)?;
                ensure!(verdict == Verdict::Pass, "what goes before was dropped: {verdict:?}");
                let said = reference.judge(row.subject, *direction, frame);
                ensure!(said.is_ok(), "the reference drops what goes before: {said:?}");
            }
            Before::Age(seconds) => {
                world.ring.age(*seconds)?;
                reference.age(*seconds);
            }
        }
    }
    let flows = |world: &World| world.ring.flows().map(|(v4, v6)| v4.len() + v6.len());
    let (was, known) = (flows(world)?, reference.flows());
    ensure!(was == known, "{was} connections, not {known}");
    let said = reference.judge(row.subject, row.direction, &row.frame);
    let verdict = world.shows(row.subject, row.direction, &row.frame)?;
    agree(&verdict, &said)?;
    let opened = flows(world)? > was;
    ensure!(opened == (reference.flows() > known), "a connection: {opened}");
    match (row.expected, said) {
        (Expected::Passes, Ok(())) => ensure!(!opened, "it opened a connection"),
        (Expected::Opens, Ok(())) => ensure!(opened, "it opened no connection"),
        (Expected::Drops(expected), Err(refusal)) => {
            ensure!(refusal == expected, "{refusal:?}, not {expected:?}");
        }
        (expected, said) => bail!("{said:?}, not {expected:?}"),
    }
    guard(world, &row.frame)
}

/// Both say the same, and a drop is counted under what the headers say.
pub(crate) fn agree(verdict: &Verdict, said: &Result<(), Refusal>) -> Result<()> {
    match (verdict, said) {
        (Verdict::Pass, Ok(())) => Ok(()),
        (Verdict::Drop(key), Err(refusal)) => {
            let reason = DropReason::from_u8(key.reason).context("a known reason")?;
            let counted = Refusal { reason, protocol: key.protocol, port: key.port };
            ensure!(counted == *refusal, "the programs say {counted:?}, the reference {refusal:?}");
            ensure!((key.rule != RULE_NONE) == (reason == DropReason::Policy), "{key:?}");
            Ok(())
        }
        (verdict, said) => bail!("the programs say {verdict:?}, the reference {said:?}"),
    }
}

/// What cannot be read passes no guard, for the same reason.
pub(crate) fn guard(world: &World, frame: &[u8]) -> Result<()> {
    let Err(fault) = read(frame).1 else { return Ok(()) };
    let verdict = world.ring.judge(Hook::FromBridge, world.stranger, frame)?;
    match verdict {
        Verdict::Drop(key) => {
            ensure!(key.reason == fault as u8, "the guard says {key:?}, the parser {fault:?}");
            Ok(())
        }
        Verdict::Pass => bail!("the guard lets {fault:?} pass"),
    }
}

/// Each row's frame, cut short at every byte: the programs do what the reference says, which never is
/// to let a header pass that is not there.
#[test]
fn every_shape_is_held_at_every_length() -> Result<()> {
    let mut world = World::new()?;
    for row in rows().iter().step_by(7) {
        for length in 0..row.frame.len().min(110) {
            let frame = &row.frame[..length];
            world.ring.forget_all()?;
            let entry = world.entry(row.subject, row.direction);
            let Some(action) = world.ring.run_at(entry, frame)? else { continue };
            let said = Reference::default().judge(row.subject, row.direction, frame);
            ensure!(
                (action == Action::Pass) == said.is_ok(),
                "{} at {length} bytes: {action:?}, but {said:?}",
                row.name
            );
        }
    }
    Ok(())
}
