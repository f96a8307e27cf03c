//! The reference evaluator: what a policy means, packet by packet.
//!
//! In: the [`Model`] and a [`Packet`]. Out: a [`Decision`] with the walk that led to it. Slow and
//! obvious on purpose, and written from the rules of the policy language, not from the compiler:
//! tests hold the two against each other, and `policyctl explain` shows the walk.
//!
//! The rules (Calico's, `felix/rules` and `felix/calc`): tiers in order; in a tier the policies
//! that select the endpoint and have a say on the direction, in order; in a policy the rules in order. The
//! first rule whose every condition holds decides; Pass leaves the tier. A tier of which a
//! policy applies ends in its default. Where no policy applies, and after a Pass out of the last
//! tier, the endpoint's default holds. Log is noted, and the next rule is asked. Staged policies
//! are not asked; what they would decide is a second walk.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use policy_api::messages::{RuleName, Verdict};
use policy_common::abi::{Direction, Family};

use crate::{
    host::{self, Plane, Published},
    identity::{self, Owner},
    labels::Labels,
    model::{DefaultAction, EndpointId, EndpointSpec, Model, NamedPort},
    names,
    policy::{Action, EntityMatch, IcmpMatch, Policy, PolicyKey, PortMatch, Rule},
    services::{ICMP, ICMPV6, WITH_PORTS},
    tiers::{self, Tier, TierAction, Walk},
};

/// A packet that opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; ICMP and ICMPv6: `type << 8 | code`; other protocols: 0.
    pub port: u16,
    /// Source port; 0 for protocols without ports.
    pub source_port: u16,
}

/// What becomes of it at one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it passes.
    pub verdict: Verdict,
    /// What decided.
    pub rule: RuleName,
    /// One line for each tier, policy and rule that was looked at.
    pub walk: Vec<String>,
    /// The Log rules that matched before the decision, in order.
    pub logged: Vec<RuleName>,
}

/// What `subject` does with a packet in one direction; `None` if it is no endpoint of the model.
pub fn evaluate(
    model: &Model,
    packet: &Packet,
    direction: Direction,
    subject: &EndpointId,
) -> Option<Decision> {
    decide(model, packet, direction, subject, Walk::Enforced)
}

/// What `subject` would do with it if every staged policy were in force; `None` if that would not
/// change which policies apply to it in this direction.
pub fn staged(
    model: &Model,
    packet: &Packet,
    direction: Direction,
    subject: &EndpointId,
) -> Option<Decision> {
    let endpoint = model.endpoints.get(subject)?;
    let keys = |walk: Walk| -> Vec<PolicyKey> {
        let tiers = tiers::of(model);
        let applying =
            tiers.iter().flat_map(|tier| applying(model, tier, endpoint, direction, walk));
        applying.map(|policy| policy.key.clone()).collect()
    };
    if keys(Walk::Enforced) == keys(Walk::Pending) {
        return None;
    }
    let decision = decide(model, packet, direction, subject, Walk::Pending)?;
    Some(Decision { logged: Vec::new(), ..decision })
}

fn decide(
    model: &Model,
    packet: &Packet,
    direction: Direction,
    subject: &EndpointId,
    past: Walk,
) -> Option<Decision> {
    let endpoint = model.endpoints.get(subject)?;
    let scene = Scene { model, packet, direction, endpoint, past };
    let mut walk = Vec::new();
    let mut logged = Vec::new();
    if model.settings.host_access
        && direction == Direction::Ingress
        && !endpoint.plane.of_host()
        && identity::owners(model)
            .get(&packet.source)
            .is_some_and(|owner| owner.is_host(model, packet.source))
    {
        walk.push(format!("{} is the host, and host access is set: allow", packet.source));
        return Some(Decision {
            verdict: Verdict::Allow,
            rule: names::host_access(),
            walk,
            logged,
        });
    }
    for tier in tiers::of(model) {
        if let Some((verdict, rule)) = scene.tier(&tier, &mut walk, &mut logged) {
            return Some(Decision { verdict, rule, walk, logged });
        }
    }
    let (verdict, rule, what) = match endpoint.plane {
        Plane::Workload => endpoint_default(model.settings.default_action, "endpoints"),
        Plane::Local(default) => endpoint_default(default, "this host endpoint"),
        Plane::Forward => (Verdict::Allow, names::forward_default(), "forwarded packets"),
        Plane::PreDnat => {
            walk.push("no preDNAT policy decided".to_owned());
            return Some(Decision {
                verdict: Verdict::Allow,
                rule: names::undecided(),
                walk,
                logged,
            });
        }
    };
    walk.push(format!("nothing decided; the default for {what} is {}", word(verdict)));
    Some(Decision { verdict, rule, walk, logged })
}

fn endpoint_default(
    default: DefaultAction,
    what: &'static str,
) -> (Verdict, RuleName, &'static str) {
    let verdict = match default {
        DefaultAction::Allow => Verdict::Allow,
        DefaultAction::Deny => Verdict::Deny,
    };
    (verdict, names::endpoint_default(default), what)
}

/// What a host endpoint does with a packet on `interface`; `None` if that is none. `forwarded`: the
/// host passes it on, and on the way in its destination has still to be translated: to the port
/// that a published one stands for.
pub fn host_endpoint(
    model: &Model,
    packet: &Packet,
    direction: Direction,
    interface: &str,
    forwarded: bool,
) -> Option<Decision> {
    let safe = left_open(model, packet, direction);
    let mut walk = Vec::new();
    let mut logged = Vec::new();
    if direction == Direction::Ingress && !safe {
        let at = host::id(interface, Plane::PreDnat);
        let mut before = decide(model, packet, direction, &at, Walk::Enforced)?;
        if before.rule != names::undecided() {
            return Some(before);
        }
        walk.append(&mut before.walk);
        logged.append(&mut before.logged);
    }
    let (at, packet) = decides_last(model, packet, direction, interface, forwarded);
    let mut after = if safe && !forwarded {
        model.endpoints.get(&at)?;
        let line = format!("port {} is a failsafe port: allow", packet.port);
        let walk = vec![line];
        Decision { verdict: Verdict::Allow, rule: names::failsafe(), walk, logged: Vec::new() }
    } else {
        decide(model, &packet, direction, &at, Walk::Enforced)?
    };
    walk.append(&mut after.walk);
    logged.append(&mut after.logged);
    Some(Decision { walk, logged, ..after })
}

/// What a host endpoint would do with it if every staged policy were in force; `None` if that would
/// not change which policies decide. What a failsafe port or a `preDNAT` policy decides stays, as
/// neither can be staged.
pub fn staged_at_host_endpoint(
    model: &Model,
    packet: &Packet,
    direction: Direction,
    interface: &str,
    forwarded: bool,
) -> Option<Decision> {
    let safe = left_open(model, packet, direction);
    if safe && !forwarded {
        return None;
    }
    if direction == Direction::Ingress && !safe {
        let at = host::id(interface, Plane::PreDnat);
        let before = decide(model, packet, direction, &at, Walk::Enforced)?;
        if before.rule != names::undecided() {
            return None;
        }
    }
    let (at, packet) = decides_last(model, packet, direction, interface, forwarded);
    staged(model, &packet, direction, &at)
}

/// The part of a host endpoint that is asked after the `preDNAT` policies, and the packet as it
/// sees it.
fn decides_last(
    model: &Model,
    packet: &Packet,
    direction: Direction,
    interface: &str,
    forwarded: bool,
) -> (EndpointId, Packet) {
    if !forwarded {
        return (host::id(interface, Plane::Local(DefaultAction::Deny)), *packet);
    }
    let to = published(model, packet).filter(|_| direction == Direction::Ingress);
    let packet = Packet { port: to.unwrap_or(packet.port), ..*packet };
    (host::id(interface, Plane::Forward), packet)
}

/// Whether a packet at a host endpoint is of a failsafe port.
pub fn left_open(model: &Model, packet: &Packet, direction: Direction) -> bool {
    let remote = match direction {
        Direction::Ingress => packet.source,
        Direction::Egress => packet.destination,
    };
    let mut ports = model.failsafe.iter();
    ports.any(|port| port.matches(direction, remote, packet.protocol, packet.port))
}

/// Whether a block list leaves a packet alone that comes in on an uplink: it is of a failsafe port of
/// the host endpoint there, or an answer from one.
pub fn left_unblocked(model: &Model, packet: &Packet, uplink: u32) -> bool {
    let answer = Packet {
        source: packet.destination,
        destination: packet.source,
        port: packet.source_port,
        source_port: packet.port,
        ..*packet
    };
    let is_host_endpoint =
        |spec: &EndpointSpec| matches!(spec.plane, Plane::Local(_)) && spec.ifindex == uplink;
    model.endpoints.values().any(|spec| is_host_endpoint(spec))
        && (left_open(model, packet, Direction::Ingress)
            || left_open(model, &answer, Direction::Egress))
}

/// The port that a packet to a published one of the host goes to.
pub fn published(model: &Model, packet: &Packet) -> Option<u16> {
    let any = match packet.destination {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let at = |address: IpAddr| {
        let port = Published { address, protocol: packet.protocol, port: packet.port };
        model.published.get(&port).copied()
    };
    let host = model.host_addresses.contains(&packet.destination);
    host.then(|| at(packet.destination).or_else(|| at(any))).flatten()
}

/// The policies that apply to an endpoint in one direction, in order, as `tier/namespace/name`
/// (a global policy as `tier/name`). Staged policies do not apply.
pub fn applied(model: &Model, subject: &EndpointId, direction: Direction) -> Vec<String> {
    let Some(endpoint) = model.endpoints.get(subject) else { return Vec::new() };
    let tiers = tiers::of(model);
    // A host endpoint's planes are one to people.
    let planes = |plane: Plane| match plane {
        Plane::Local(_) => vec![Plane::PreDnat, plane],
        other => vec![other],
    };
    let of_plane = |plane: Plane| {
        let part = EndpointSpec { plane, ..endpoint.as_ref().clone() };
        tiers
            .iter()
            .flat_map(|tier| applying(model, tier, &part, direction, Walk::Enforced))
            .collect::<Vec<_>>()
    };
    let policies = planes(endpoint.plane).into_iter().flat_map(of_plane);
    policies
        .map(|policy| match (&policy.tier, &policy.key) {
            (tier, PolicyKey { name, namespace, .. }) if namespace.is_empty() => {
                format!("{tier}/{name}")
            }
            (tier, PolicyKey { name, namespace, .. }) => format!("{tier}/{namespace}/{name}"),
        })
        .collect()
}

fn applying<'a>(
    model: &'a Model,
    tier: &Tier,
    endpoint: &EndpointSpec,
    direction: Direction,
    walk: Walk,
) -> Vec<&'a Policy> {
    let labels = identity::endpoint_labels(model, endpoint);
    tiers::policies(model, tier, walk)
        .into_iter()
        .map(AsRef::as_ref)
        .filter(|policy| endpoint.plane.admits(policy))
        .filter(|policy| policy.rules(direction).is_some() && policy.subject.matches(&labels))
        .collect()
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
}

/// One packet at one endpoint.
struct Scene<'a> {
    model: &'a Model,
    packet: &'a Packet,
    direction: Direction,
    endpoint: &'a EndpointSpec,
    past: Walk,
}

/// A condition that does not hold, in words.
type Mismatch = String;

impl Scene<'_> {
    fn tier(
        &self,
        tier: &Tier,
        walk: &mut Vec<String>,
        logged: &mut Vec<RuleName>,
    ) -> Option<(Verdict, RuleName)> {
        let way = names::direction(self.direction);
        let policies = applying(self.model, tier, self.endpoint, self.direction, self.past);
        if policies.is_empty() {
            walk.push(format!(
                "tier {}: no policy applies to {way} of {}/{}",
                tier.name, self.endpoint.namespace, self.endpoint.name
            ));
            return None;
        }
        for policy in &policies {
            walk.push(format!("tier {}: {} applies", tier.name, policy.key));
            for rule in policy.rules(self.direction).unwrap_or_default() {
                let name = names::of_rule(policy, self.direction, rule);
                if let Err(mismatch) = self.rule(rule) {
                    walk.push(format!("  {} {}: no match, {mismatch}", name.rule, name.action));
                    continue;
                }
                if rule.action == Action::Log {
                    walk.push(format!("  {} log: match, noted, and on", name.rule));
                    logged.push(name);
                    continue;
                }
                walk.push(format!("  {} {}: match", name.rule, name.action));
                return match rule.action {
                    Action::Allow => Some((Verdict::Allow, name)),
                    Action::Deny => Some((Verdict::Deny, name)),
                    Action::Pass | Action::Log => {
                        walk.push(format!("tier {}: the rest is skipped", tier.name));
                        None
                    }
                };
            }
        }
        let keys: Vec<String> = policies.iter().map(|policy| policy.key.to_string()).collect();
        let end = match self.endpoint.plane {
            // Other policies are still to come.
            Plane::PreDnat => TierAction::Pass,
            _ => tier.end,
        };
        match end {
            TierAction::Pass => {
                walk.push(format!("end of tier {}: pass, no rule matched", tier.name));
                None
            }
            TierAction::Deny => {
                walk.push(format!(
                    "end of tier {}: deny, because no rule matched of the policies that apply \
                     ({})",
                    tier.name,
                    keys.join(", ")
                ));
                Some((Verdict::Deny, names::tier_default(&tier.name)))
            }
        }
    }

    fn rule(&self, rule: &Rule) -> Result<(), Mismatch> {
        self.protocol(rule)?;
        let (own, peer) = match self.direction {
            Direction::Ingress => (&rule.destination, &rule.source),
            Direction::Egress => (&rule.source, &rule.destination),
        };
        self.peer(peer)?;
        self.own(own, rule.action)?;
        self.source_ports(&rule.source)?;
        self.destination_ports(&rule.destination)
    }

    fn family(&self) -> Family {
        identity::family(self.packet.destination)
    }

    fn protocol(&self, rule: &Rule) -> Result<(), Mismatch> {
        let found = self.packet.protocol;
        if let Some(family) = rule.family
            && family != self.family()
        {
            return Err("the rule is about the other IP version".to_owned());
        }
        if let Some(wanted) = rule.protocol.is {
            let family = self.family();
            if (wanted == ICMP && family == Family::V6)
                || (wanted == ICMPV6 && family == Family::V4)
            {
                let wanted = names::protocol(wanted);
                return Err(format!("{wanted} belongs to the other IP version"));
            }
            if wanted != found {
                let [found, wanted] = [found, wanted].map(names::protocol);
                return Err(format!("the protocol is {found}, not {wanted}"));
            }
        }
        if rule.protocol.is_not == Some(found) {
            return Err(format!("the protocol is {}", names::protocol(found)));
        }
        let icmp = |wanted: IcmpMatch| {
            let number = if self.family() == Family::V4 { ICMP } else { ICMPV6 };
            let [kind, code] = self.packet.port.to_be_bytes();
            found == number && wanted.kind == kind && wanted.code.is_none_or(|it| it == code)
        };
        if rule.icmp.is_some_and(|wanted| !icmp(wanted)) {
            return Err("the ICMP type or code is another".to_owned());
        }
        if rule.not_icmp.is_some_and(icmp) {
            return Err("the ICMP type and code are excluded".to_owned());
        }
        Ok(())
    }

    /// The other side.
    fn peer(&self, side: &EntityMatch) -> Result<(), Mismatch> {
        let address = match self.direction {
            Direction::Ingress => self.packet.source,
            Direction::Egress => self.packet.destination,
        };
        let owners = identity::owners(self.model);
        let labels = owners.get(&address).map(|owner| owner.labels(self.model, address));
        self.side(side, Some(address), labels)
    }

    /// The endpoint's own side. It has one table for all its addresses of a family, so if the
    /// conditions hold for some of them only, a Deny or Log is met and anything else is not.
    fn own(&self, side: &EntityMatch, action: Action) -> Result<(), Mismatch> {
        let labels = identity::endpoint_labels(self.model, self.endpoint);
        let family = self.family();
        let counted = |address: &&IpAddr| {
            identity::family(**address) == family && !identity::is_link_local(**address)
        };
        let own = self.endpoint.addresses.iter().filter(counted);
        let mut answers: Vec<_> =
            own.map(|address| self.side(side, Some(*address), Some(labels.clone()))).collect();
        if answers.is_empty() {
            answers.push(self.side(side, None, Some(labels)));
        }
        let met = match action {
            Action::Deny | Action::Log => answers.iter().any(Result::is_ok),
            Action::Allow | Action::Pass => answers.iter().all(Result::is_ok),
        };
        if met { Ok(()) } else { answers.into_iter().find(Result::is_err).unwrap_or(Ok(())) }
    }

    /// Who is on one side; `labels` are those of the endpoint or host there.
    fn side(
        &self,
        side: &EntityMatch,
        address: Option<IpAddr>,
        labels: Option<Labels>,
    ) -> Result<(), Mismatch> {
        let shown = address.map_or_else(|| "the endpoint".to_owned(), |it| it.to_string());
        let contains =
            |nets: &[IpNet]| address.is_some_and(|it| nets.iter().any(|net| net.contains(&it)));
        // `/0` is every address of the family, also of an endpoint whose address is not known.
        let everything = |nets: &[IpNet]| {
            nets.iter()
                .any(|net| net.prefix_len() == 0 && identity::family(net.addr()) == self.family())
        };
        let sets = self.model.network_sets.values().filter(|set| contains(&set.nets));
        let entities: Vec<Labels> = labels
            .into_iter()
            .chain(sets.map(|set| identity::network_set_labels(self.model, set)))
            .collect();
        match (&side.selector, &side.not_selector) {
            (Some(selector), not) => {
                let selected = |labels: &&Labels| {
                    selector.matches(labels) && not.as_ref().is_none_or(|not| !not.matches(labels))
                };
                if !entities.iter().any(|labels| selected(&labels)) {
                    return Err(match not {
                        Some(not) => {
                            format!("{shown} is not selected by `{selector}` and not `{not}`")
                        }
                        None => format!("{shown} is not selected by `{selector}`"),
                    });
                }
            }
            (None, Some(not)) => {
                if entities.iter().any(|labels| not.matches(labels)) {
                    return Err(format!("{shown} is excluded by `{not}`"));
                }
            }
            (None, None) => {}
        }
        if !side.nets.is_empty() && !contains(&side.nets) && !everything(&side.nets) {
            return Err(format!("{shown} is in none of the rule's nets"));
        }
        if contains(&side.not_nets) || everything(&side.not_nets) {
            return Err(format!("{shown} is in the rule's notNets"));
        }
        Ok(())
    }

    fn source_ports(&self, side: &EntityMatch) -> Result<(), Mismatch> {
        let named = match self.direction {
            Direction::Ingress => self.ports_at(self.packet.source),
            Direction::Egress => &self.endpoint.ports,
        };
        self.ports("source port", self.packet.source_port, side, named)
    }

    fn destination_ports(&self, side: &EntityMatch) -> Result<(), Mismatch> {
        let named = match self.direction {
            Direction::Ingress => &self.endpoint.ports,
            Direction::Egress => self.ports_at(self.packet.destination),
        };
        self.ports("port", self.packet.port, side, named)
    }

    /// The named ports of whoever has an address.
    fn ports_at(&self, address: IpAddr) -> &[NamedPort] {
        match identity::owners(self.model).get(&address) {
            Some(Owner::Endpoint(_, endpoint)) => &endpoint.ports,
            Some(Owner::HostEndpoint(endpoint)) => &endpoint.ports,
            Some(Owner::Host) | None => &[],
        }
    }

    fn ports(
        &self,
        what: &str,
        port: u16,
        side: &EntityMatch,
        named: &[NamedPort],
    ) -> Result<(), Mismatch> {
        let protocol = self.packet.protocol;
        let is = |wanted: &PortMatch| match wanted {
            PortMatch::Range(first, last) => {
                WITH_PORTS.contains(&protocol) && (*first..=*last).contains(&port)
            }
            PortMatch::Named(name) => named
                .iter()
                .any(|it| it.name == *name && it.protocol == protocol && it.port == port),
        };
        if !side.ports.is_empty() && !side.ports.iter().any(is) {
            return Err(format!("{what} {port} is none of the rule's"));
        }
        if side.not_ports.iter().any(is) {
            return Err(format!("{what} {port} is excluded"));
        }
        Ok(())
    }
}
