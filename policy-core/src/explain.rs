//! "May this one open a connection to that one?", answered with the walk through the policies.
//!
//! In: the [`Model`] and an [`ExplainRequest`]. Out: an [`Explanation`] of both ends, for each
//! pair of addresses on which the two can meet.

use std::net::IpAddr;

use policy_api::messages::{
    EPHEMERAL_PORT, EndDecision, ExplainRequest, ExplainedPath, Explanation, RuleName,
    StagedDecision, Verdict,
};
use policy_common::abi::{Direction, Family};

use crate::{
    evaluate::{self, Packet},
    identity::{self, Owner},
    labels::Labels,
    model::{EndpointId, EndpointSpec, Model},
    names,
    policy::Policy,
    services::{ICMP, ICMPV6, WITH_PORTS},
    tiers, untracked,
};

mod hosts;

/// A question without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// The text is neither an address nor an endpoint.
    #[error(
        "`{0}` is neither an IP address nor the name of an endpoint on this host (`policyctl endpoints` lists them)"
    )]
    Unknown(String),
    /// Endpoints of several namespaces have this name.
    #[error("several endpoints are called `{name}`: write one of {}", candidates.join(", "))]
    Ambiguous {
        /// As asked.
        name: String,
        /// `namespace/name` of each.
        candidates: Vec<String>,
    },
    /// There is no address family, or none that has this protocol, in which both ends have an
    /// address.
    #[error(
        "`{source_end}` and `{destination}` have no address family in common for protocol {}",
        names::protocol(*protocol)
    )]
    NoPath {
        /// As asked.
        source_end: String,
        /// As asked.
        destination: String,
        /// As asked.
        protocol: u8,
    },
}

/// One end of a question: an address, and the endpoint that has it.
#[derive(Clone, Copy)]
struct End<'a> {
    address: IpAddr,
    endpoint: Option<(&'a EndpointId, &'a EndpointSpec)>,
}

/// Explains one question.
///
/// # Errors
///
/// [`ExplainError`] if an end cannot be found or the two have no way to meet.
pub fn explain(model: &Model, request: &ExplainRequest) -> Result<Explanation, ExplainError> {
    let sources = ends(model, &request.source)?;
    let destinations = ends(model, &request.destination)?;
    let only = match request.protocol {
        ICMP => Some(Family::V4),
        ICMPV6 => Some(Family::V6),
        _ => None,
    };
    let meet = |source: &End<'_>, destination: &End<'_>| {
        let family = identity::family(source.address);
        family == identity::family(destination.address) && only.is_none_or(|only| only == family)
    };
    let mut pairs: Vec<(End<'_>, End<'_>)> = sources
        .iter()
        .flat_map(|source| destinations.iter().map(move |destination| (*source, *destination)))
        .filter(|(source, destination)| meet(source, destination))
        .collect();
    // Two containers that share a network talk to each other over it.
    if pairs.iter().any(share_network) {
        pairs.retain(share_network);
    }
    if pairs.is_empty() {
        return Err(ExplainError::NoPath {
            source_end: request.source.clone(),
            destination: request.destination.clone(),
            protocol: request.protocol,
        });
    }
    let paths: Vec<ExplainedPath> = pairs
        .iter()
        .map(|(source, destination)| path(model, request, source, destination))
        .collect();
    let verdict = worst(paths.iter().map(|path| path.verdict));
    Ok(Explanation { verdict, paths })
}

fn share_network((source, destination): &(End<'_>, End<'_>)) -> bool {
    match (source.endpoint, destination.endpoint) {
        (Some((_, a)), Some((_, b))) => !a.network.is_empty() && a.network == b.network,
        (_, None) | (None, _) => false,
    }
}

/// The addresses that a text stands for.
fn ends<'a>(model: &'a Model, text: &str) -> Result<Vec<End<'a>>, ExplainError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let endpoint = match identity::owners(model).get(&address) {
            Some(Owner::Endpoint(id, endpoint)) => Some((*id, *endpoint)),
            Some(Owner::Host | Owner::HostEndpoint(_)) | None => None,
        };
        return Ok(vec![End { address, endpoint }]);
    }
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    let found: Vec<(&EndpointId, &EndpointSpec)> = model
        .endpoints
        .iter()
        .map(|(id, endpoint)| (id, endpoint.as_ref()))
        .filter(|(_, endpoint)| {
            !endpoint.plane.of_host()
                && endpoint.name == name
                && namespace.is_none_or(|it| it == endpoint.namespace)
        })
        .collect();
    let mut candidates: Vec<String> =
        found.iter().map(|(_, endpoint)| full_name(endpoint)).collect();
    candidates.sort_unstable();
    candidates.dedup();
    match candidates.len() {
        0 => return Err(ExplainError::Unknown(text.to_owned())),
        1 => {}
        _ => return Err(ExplainError::Ambiguous { name: text.to_owned(), candidates }),
    }
    let of_endpoint = |(id, endpoint): (&'a EndpointId, &'a EndpointSpec)| {
        let own = endpoint.addresses.iter().filter(|address| !identity::is_link_local(**address));
        own.map(move |&address| End { address, endpoint: Some((id, endpoint)) })
    };
    Ok(found.into_iter().flat_map(of_endpoint).collect())
}

fn full_name(endpoint: &EndpointSpec) -> String {
    format!("{}/{}", endpoint.namespace, endpoint.name)
}

fn path(
    model: &Model,
    request: &ExplainRequest,
    source: &End<'_>,
    destination: &End<'_>,
) -> ExplainedPath {
    let packet = Packet {
        source: source.address,
        destination: destination.address,
        protocol: request.protocol,
        port: request.port,
        source_port: if WITH_PORTS.contains(&request.protocol) {
            request.source_port.unwrap_or(EPHEMERAL_PORT)
        } else {
            0
        },
    };
    let ends = vec![
        end(model, &packet, Direction::Egress, source),
        end(model, &packet, Direction::Ingress, destination),
    ];
    ExplainedPath {
        source: source.address,
        destination: destination.address,
        verdict: worst(ends.iter().map(|end| end.verdict)),
        ends,
    }
}

fn worst(mut verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    if verdicts.any(|verdict| verdict == Verdict::Deny) { Verdict::Deny } else { Verdict::Allow }
}

fn end(model: &Model, packet: &Packet, direction: Direction, end: &End<'_>) -> EndDecision {
    let way = names::direction(direction).to_owned();
    let decided = end.endpoint.and_then(|(id, endpoint)| {
        let decision = evaluate::evaluate(model, packet, direction, id)?;
        Some((endpoint, decision, evaluate::staged(model, packet, direction, id)))
    });
    if let Some((endpoint, decision, staged)) = decided {
        return EndDecision {
            direction: way,
            endpoint: Some(full_name(endpoint)),
            verdict: decision.verdict,
            rule: decision.rule,
            walk: decision.walk,
            logged: decision.logged,
            staged: staged.map(|staged| StagedDecision {
                verdict: staged.verdict,
                rule: staged.rule,
                walk: staged.walk,
            }),
        };
    }
    let local = model.host_addresses.contains(&end.address);
    if direction == Direction::Egress
        && !local
        && let Some((uplink, policy, rule)) = blocked(model, packet)
    {
        let line = format!(
            "uplink {uplink}: untracked {} denies {} ({})",
            policy.key, packet.source, rule.rule
        );
        return EndDecision {
            direction: way,
            endpoint: None,
            verdict: Verdict::Deny,
            rule,
            walk: vec![line],
            logged: Vec::new(),
            staged: None,
        };
    }
    let limits = if direction == Direction::Egress && !local { limits(model) } else { Vec::new() };
    if let Some(mut decision) = hosts::crossed(model, packet, direction) {
        decision.walk.splice(..0, limits);
        return decision;
    }
    let what = if local { "the host itself" } else { "no endpoint of this host" };
    EndDecision {
        direction: way,
        endpoint: None,
        verdict: Verdict::Allow,
        rule: RuleName::default(),
        walk: limits
            .into_iter()
            .chain([format!("{} is {what}: nothing is enforced there", end.address)])
            .collect(),
        logged: Vec::new(),
        staged: None,
    }
}

/// What the uplinks say of a source that begins flows faster than it may.
fn limits(model: &Model) -> Vec<String> {
    let noting = model.uplinks.iter().filter(|(it, _)| model.noting_uplinks.contains(it));
    let limited = noting.filter_map(|(&ifindex, labels)| {
        let (policy, limit) = untracked::limit(model, labels)?;
        Some(format!(
            "uplink {}: untracked {} lets each source begin {limit}",
            uplink_name(ifindex, labels),
            policy.key
        ))
    });
    limited.collect()
}

fn uplink_name(ifindex: u32, labels: &Labels) -> String {
    labels.get(identity::INTERFACE_LABEL).map_or_else(|| format!("#{ifindex}"), str::to_owned)
}

/// The first untracked rule of any uplink that denies the source of a packet.
fn blocked<'a>(model: &'a Model, packet: &Packet) -> Option<(String, &'a Policy, RuleName)> {
    let source = packet.source;
    let policies = tiers::untracked(model);
    let sets: Vec<_> = model
        .network_sets
        .values()
        .filter(|set| set.nets.iter().any(|net| net.contains(&source)))
        .map(|set| identity::network_set_labels(model, set))
        .collect();
    for (&ifindex, labels) in &model.uplinks {
        if evaluate::left_unblocked(model, packet, ifindex) {
            continue;
        }
        let uplink = uplink_name(ifindex, labels);
        for policy in policies.iter().filter(|policy| policy.subject.matches(labels)) {
            for rule in policy.rules(Direction::Ingress).unwrap_or_default() {
                let side = &rule.source;
                let family = rule.family.is_none_or(|only| only == identity::family(source));
                let nets =
                    side.nets.is_empty() || side.nets.iter().any(|net| net.contains(&source));
                let selected = side
                    .selector
                    .as_ref()
                    .is_none_or(|selector| sets.iter().any(|labels| selector.matches(labels)));
                let anyone = side.selector.is_none() && side.nets.is_empty();
                if family && nets && selected && !anyone {
                    let name = names::of_rule(policy, Direction::Ingress, rule);
                    return Some((uplink, policy, name));
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
