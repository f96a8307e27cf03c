//! What host endpoints say to a packet that enters or leaves the host.
//!
//! In: the [`Model`] and the packet as its sender makes it. Out: the decision of the host endpoint
//! that it crosses, shown at the end of the path that is away. Which of several interfaces a packet
//! takes is the kernel's to say: if one of them would drop it, that one is shown.

use std::net::IpAddr;

use policy_api::messages::{EndDecision, StagedDecision, Verdict};
use policy_common::abi::Direction;

use crate::{
    evaluate::{self, Packet},
    host::Plane,
    identity::{self, Owner},
    model::{EndpointSpec, Model},
    names,
};

/// Where an address is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Host,
    Container,
    Away,
}

fn place(model: &Model, address: IpAddr) -> Place {
    match identity::owners(model).get(&address) {
        Some(Owner::Endpoint(..)) => Place::Container,
        Some(owner) if owner.is_host(model, address) => Place::Host,
        _ => Place::Away,
    }
}

/// The decision at one end of a path: [`Direction::Egress`] is the source's. `None`: no host endpoint
/// is crossed there.
pub(super) fn crossed(model: &Model, packet: &Packet, end: Direction) -> Option<EndDecision> {
    let (source, destination) = (place(model, packet.source), place(model, packet.destination));
    let (direction, forwarded) = match (end, source, destination) {
        (Direction::Egress, Place::Away, Place::Host) => {
            (Direction::Ingress, evaluate::published(model, packet).is_some())
        }
        (Direction::Egress, Place::Away, _) => (Direction::Ingress, true),
        (Direction::Ingress, Place::Host, Place::Away) => (Direction::Egress, false),
        (Direction::Ingress, _, Place::Away) => (Direction::Egress, true),
        _ => return None,
    };
    let interfaces = model.endpoints.values().filter(|spec| matches!(spec.plane, Plane::Local(_)));
    let mut decisions: Vec<EndDecision> =
        interfaces.filter_map(|spec| decision(model, packet, direction, spec, forwarded)).collect();
    let denies = decisions.iter().position(|it| it.verdict == Verdict::Deny).unwrap_or(0);
    (!decisions.is_empty()).then(|| decisions.swap_remove(denies))
}

fn decision(
    model: &Model,
    packet: &Packet,
    direction: Direction,
    spec: &EndpointSpec,
    forwarded: bool,
) -> Option<EndDecision> {
    let interface = &spec.interface;
    let found = evaluate::host_endpoint(model, packet, direction, interface, forwarded)?;
    let staged = evaluate::staged_at_host_endpoint(model, packet, direction, interface, forwarded);
    let what = if forwarded { "a forwarded packet" } else { "a packet of the host's own" };
    let way = match direction {
        Direction::Ingress => "comes in",
        Direction::Egress => "goes out",
    };
    let first = format!("host endpoint {} on {interface}: {what} {way}", spec.name);
    Some(EndDecision {
        direction: names::direction(direction).to_owned(),
        endpoint: Some(spec.name.clone()),
        verdict: found.verdict,
        rule: found.rule,
        walk: std::iter::once(first).chain(found.walk).collect(),
        logged: found.logged,
        staged: staged.map(|staged| StagedDecision {
            verdict: staged.verdict,
            rule: staged.rule,
            walk: staged.walk,
        }),
    })
}
