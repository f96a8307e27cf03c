//! One rule as a list of conditions, each with the name of its field.
//!
//! In: a rule's document and a [`View`] of a packet. Out: the conditions that fail, all of them, so
//! that it can be told when a single one made the difference.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use policy_common::abi::Direction;
use serde_json::Value;

use super::{
    Entity, Oracle, Pod,
    documents::{any_net, selector, text},
    kubernetes, list,
    selector::Selector,
};
use crate::packets::Ask;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Allow,
    Deny,
    Pass,
    Log,
}

impl Action {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Deny => "deny",
            Action::Pass => "pass",
            Action::Log => "log",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) index: usize,
    pub(crate) action: Action,
    /// With the names of their fields.
    pub(crate) conditions: Vec<(String, Condition)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

#[derive(Debug)]
pub(crate) enum Condition {
    IpVersion(bool),
    Protocol(u8),
    NotProtocol(u8),
    /// Type, and code if there is one.
    Icmp(u8, Option<u8>),
    NotIcmp(u8, Option<u8>),
    /// The networks of a rule that excludes some: one of them must be of the packet's family.
    SameFamily(Vec<IpNet>),
    Nets(Side, Vec<IpNet>),
    NotNets(Side, Vec<IpNet>),
    /// Whoever a selector of namespaces, a namespace, a selector and the opposite of one select.
    Who(Side, Who),
    NotSelector(Side, Selector),
    Ports(Side, Vec<Port>),
    NotPorts(Side, Vec<Port>),
    KubernetesPeers(Value),
    KubernetesPorts(Value),
}

#[derive(Debug)]
pub(crate) struct Who {
    namespace: Option<String>,
    namespaces: Option<Selector>,
    own: Option<Selector>,
    not: Option<Selector>,
}

impl Who {
    /// All of it speaks of one and the same entity.
    pub(crate) fn is(&self, oracle: &Oracle, entity: &Entity<'_>) -> bool {
        let namespace = self.namespace.as_deref();
        (namespace.is_none() || namespace == entity.namespace)
            && self.namespaces.as_ref().is_none_or(|it| oracle.of_namespace(it, entity))
            && self.own.as_ref().is_none_or(|it| oracle.of_labels(it, entity))
            && !self.not.as_ref().is_some_and(|it| oracle.of_labels(it, entity))
    }
}

#[derive(Debug)]
pub(crate) enum Port {
    Range(u16, u16),
    Named(String),
}

/// A packet at an endpoint, and the address of the endpoint's own that is looked at.
pub(crate) struct View<'a> {
    pub(crate) oracle: &'a Oracle,
    /// The document that the rule stands in, if it is Kubernetes'.
    pub(crate) policy: &'a Value,
    pub(crate) pod: &'a Pod,
    pub(crate) ask: &'a Ask,
    pub(crate) own: Option<IpAddr>,
}

/// An IP protocol, by name or number.
pub(crate) fn protocol(value: &Value) -> Result<u8> {
    Ok(match value {
        Value::String(name) => match name.as_str() {
            "TCP" => 6,
            "UDP" => 17,
            "ICMP" => 1,
            "ICMPv6" => 58,
            "SCTP" => 132,
            "UDPLite" => 136,
            number => number.parse()?,
        },
        number => u8::try_from(number.as_u64().context("a protocol")?)?,
    })
}

impl Rule {
    pub(crate) fn read(index: usize, rule: &Value, namespace: Option<&str>) -> Result<Rule> {
        let mut conditions = Vec::new();
        let mut add = |name: &str, condition| conditions.push((name.to_owned(), condition));
        if let Some(version) = rule["ipVersion"].as_u64() {
            add("ipVersion", Condition::IpVersion(version == 4));
        }
        if !rule["protocol"].is_null() {
            add("protocol", Condition::Protocol(protocol(&rule["protocol"])?));
        }
        if !rule["notProtocol"].is_null() {
            add("notProtocol", Condition::NotProtocol(protocol(&rule["notProtocol"])?));
        }
        let byte = |value: &Value| value.as_u64().map(u8::try_from).transpose();
        if let Some(kind) = byte(&rule["icmp"]["type"])? {
            add("icmp", Condition::Icmp(kind, byte(&rule["icmp"]["code"])?));
        }
        if let Some(kind) = byte(&rule["notICMP"]["type"])? {
            add("notICMP", Condition::NotIcmp(kind, byte(&rule["notICMP"]["code"])?));
        }
        for (side, field) in [(Side::Source, "source"), (Side::Destination, "destination")] {
            entity(side, field, &rule[field], namespace, &mut conditions)?;
        }
        let networks = |field: &str| {
            let sides = ["source", "destination"].into_iter();
            let texts = sides.flat_map(|side| list(&rule[side][field]));
            texts.map(|net| any_net(text(net))).collect::<Result<Vec<_>>>()
        };
        let excluded = networks("notNets")?;
        if !excluded.is_empty() {
            let all = [networks("nets")?, excluded].concat();
            conditions.push(("notNets of one family".to_owned(), Condition::SameFamily(all)));
        }
        let action = match text(&rule["action"]) {
            "Allow" => Action::Allow,
            "Deny" => Action::Deny,
            "Pass" => Action::Pass,
            "Log" => Action::Log,
            other => bail!("{other} is no action"),
        };
        Ok(Rule { index, action, conditions })
    }

    pub(crate) fn read_kubernetes(policy: &Value, direction: Direction) -> Vec<Rule> {
        let rules = kubernetes::rules(policy, direction).iter().enumerate();
        let peers = match direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        let condition = |rule: &Value, field: &str, make: fn(Value) -> Condition| {
            let given = !list(&rule[field]).is_empty();
            given.then(|| (format!("kubernetes {field}"), make(rule.clone())))
        };
        rules
            .map(|(index, rule)| Rule {
                index,
                action: Action::Allow,
                conditions: condition(rule, peers, Condition::KubernetesPeers)
                    .into_iter()
                    .chain(condition(rule, "ports", Condition::KubernetesPorts))
                    .collect(),
            })
            .collect()
    }

    /// The fields whose conditions do not hold.
    pub(crate) fn failed(&self, view: &View<'_>) -> Result<Vec<&str>> {
        let mut failed = Vec::new();
        for (name, condition) in &self.conditions {
            if !condition.holds(view)? {
                failed.push(name.as_str());
            }
        }
        Ok(failed)
    }
}

/// What a rule says about one side.
fn entity(
    side: Side,
    field: &str,
    entity: &Value,
    namespace: Option<&str>,
    conditions: &mut Vec<(String, Condition)>,
) -> Result<()> {
    let mut add = |name: &str, condition| conditions.push((format!("{field}.{name}"), condition));
    let nets = |name: &str| {
        list(&entity[name]).iter().map(|net| any_net(text(net))).collect::<Result<Vec<_>>>()
    };
    for (name, negated) in [("nets", false), ("notNets", true)] {
        let nets = nets(name)?;
        if nets.is_empty() {
            continue;
        }
        if negated {
            add(name, Condition::NotNets(side, nets));
        } else {
            add(name, Condition::Nets(side, nets));
        }
    }
    let (namespaces, own) =
        (selector(&entity["namespaceSelector"])?, selector(&entity["selector"])?);
    let not = selector(&entity["notSelector"])?;
    if namespaces.is_some() || own.is_some() || (not.is_some() && namespace.is_some()) {
        let mut name: Vec<&str> = Vec::new();
        name.extend(namespaces.is_some().then_some("namespaceSelector"));
        name.extend(own.is_some().then_some("selector"));
        name.extend(not.is_some().then_some("notSelector"));
        let namespace = namespace.filter(|_| namespaces.is_none()).map(str::to_owned);
        add(&name.join("+"), Condition::Who(side, Who { namespace, namespaces, own, not }));
    } else if let Some(not) = not {
        add("notSelector of anybody", Condition::NotSelector(side, not));
    }
    for (name, negated) in [("ports", false), ("notPorts", true)] {
        let ports = list(&entity[name]).iter().map(port).collect::<Result<Vec<_>>>()?;
        match (ports.is_empty(), negated) {
            (true, _) => {}
            (false, false) => add(name, Condition::Ports(side, ports)),
            (false, true) => add(name, Condition::NotPorts(side, ports)),
        }
    }
    Ok(())
}

fn port(value: &Value) -> Result<Port> {
    if let Some(number) = value.as_u64() {
        let number = u16::try_from(number)?;
        return Ok(Port::Range(number, number));
    }
    let text = text(value);
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    Ok(match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) => Port::Range(first, last),
        _ => Port::Named(text.to_owned()),
    })
}

impl Condition {
    fn holds(&self, view: &View<'_>) -> Result<bool> {
        let ask = view.ask;
        let is_v4 = ask.source.is_ipv4();
        let is_icmp = |kind: u8, code: Option<u8>| {
            let [found, its_code] = ask.port.to_be_bytes();
            ask.protocol == if is_v4 { 1 } else { 58 }
                && found == kind
                && code.is_none_or(|code| code == its_code)
        };
        Ok(match self {
            Condition::IpVersion(four) => is_v4 == *four,
            // ICMP is a protocol of IPv4 and ICMPv6 one of IPv6.
            Condition::Protocol(number) => {
                let other_family = if is_v4 { 58 } else { 1 };
                ask.protocol == *number && *number != other_family
            }
            Condition::NotProtocol(number) => ask.protocol != *number,
            Condition::Icmp(kind, code) => is_icmp(*kind, *code),
            Condition::NotIcmp(kind, code) => !is_icmp(*kind, *code),
            Condition::SameFamily(nets) => nets.iter().any(|net| net.addr().is_ipv4() == is_v4),
            Condition::Nets(side, nets) => view.is_in(*side, nets),
            Condition::NotNets(side, nets) => !view.is_in(*side, nets),
            Condition::Who(side, who) => view.anybody(*side, &|entity| who.is(view.oracle, entity)),
            Condition::NotSelector(side, not) => {
                !view.anybody(*side, &|entity| view.oracle.of_labels(not, entity))
            }
            Condition::Ports(side, ports) => view.has_port(*side, ports),
            Condition::NotPorts(side, ports) => !view.has_port(*side, ports),
            Condition::KubernetesPeers(rule) => {
                kubernetes::peers(view.oracle, view.policy, rule, ask)?
            }
            Condition::KubernetesPorts(rule) => kubernetes::ports(view.oracle, rule, ask)?,
        })
    }
}

impl View<'_> {
    fn is_own(&self, side: Side) -> bool {
        (side == Side::Destination) == (self.ask.direction == Direction::Ingress)
    }

    /// The address of a side; that of the endpoint itself may not be known.
    fn address(&self, side: Side) -> Option<IpAddr> {
        match (self.is_own(side), side) {
            (true, _) => self.own,
            (false, Side::Source) => Some(self.ask.source),
            (false, Side::Destination) => Some(self.ask.destination),
        }
    }

    fn is_in(&self, side: Side, nets: &[IpNet]) -> bool {
        match self.address(side) {
            Some(address) => nets.iter().any(|net| net.contains(&address)),
            // `/0` is every address of the family.
            None => nets.iter().any(|net| {
                net.prefix_len() == 0 && net.addr().is_ipv4() == self.ask.source.is_ipv4()
            }),
        }
    }

    /// Whether something holds for anybody that a side is.
    fn anybody(&self, side: Side, test: &dyn Fn(&Entity<'_>) -> bool) -> bool {
        let pod = self.pod;
        let own = || test(&Entity { namespace: pod.namespace.as_deref(), labels: &pod.labels });
        match self.address(side) {
            // A host endpoint is itself, whoever else claims its address.
            Some(address) if self.is_own(side) && pod.is_host() => {
                own() || self.oracle.sets_around(address).any(|it| test(&it))
            }
            Some(address) => self.oracle.entities(address).iter().any(test),
            None => own(),
        }
    }

    fn has_port(&self, side: Side, ports: &[Port]) -> bool {
        let ask = self.ask;
        let number = match side {
            Side::Source => ask.source_port,
            Side::Destination => ask.port,
        };
        let names: Vec<_> = self.oracle.named_ports(ask, side).collect();
        ports.iter().any(|port| match port {
            Port::Range(first, last) => {
                matches!(ask.protocol, 6 | 17 | 132) && (*first..=*last).contains(&number)
            }
            Port::Named(name) => names.contains(&(name.as_str(), ask.protocol, number)),
        })
    }
}
