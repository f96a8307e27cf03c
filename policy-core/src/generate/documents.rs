//! Groups and what they did to resources.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use ipnet::IpNet;
use policy_api::resource::Kind;
use policy_common::abi::Direction;
use serde_json::{Map, Value, json};

use super::{
    Document, Form, Generated, Rule, Sides, Wanted,
    labels::Group,
    listed,
    nets::MOST,
    observations::{Seen, Service, Tally, Workload},
    ports,
};
use crate::{
    labels::ORCHESTRATOR_LABEL,
    names,
    peers::PeerName,
    services::{ICMP, ICMPV6, WITH_PORTS},
};

/// In front of every name, so that a policy of somebody else's is never replaced.
const PREFIX: &str = "generated-";
/// The label that a rule finds its network set by: the set's name.
const SET_LABEL: &str = "generated-set";
/// Name of the host's own.
const HOST: &str = "host";
/// Protocols that a Kubernetes policy can name.
const KUBERNETES_PROTOCOLS: [u8; 3] = [6, 17, 132];
/// Bytes of a name without the number that makes it unique: it is the value of a label, too.
const NAME: usize = 56;

/// Upstream's bounds: rules in a direction, networks and ports in a list.
const RULES: usize = 1024;
const INLINE: usize = 256;
const PORTS: usize = 50;
/// The same of a Kubernetes policy, where pairs of peer and port in a policy are bounded.
const KUBERNETES_PORTS: usize = 20;
/// Half of that bound, for each direction.
const PAIRS: usize = 50_000;

/// The other end of rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    Group(Group),
    /// Addresses, by what they were called.
    Named(PeerName),
}

impl Peer {
    /// Addresses by a name. What is called by networks of a rule, by a set that was generated before, or not
    /// at all, is no more than the world: else names would grow each time.
    pub(super) fn named(name: &PeerName) -> Peer {
        let told =
            !name.name.is_empty() && !name.name.contains('/') && !name.name.starts_with(PREFIX);
        Peer::Named(if told { name.clone() } else { PeerName::world() })
    }

    /// Whether these are the host's own addresses, which are few.
    fn is_host(&self) -> bool {
        matches!(self, Peer::Named(name) if name.namespace.is_empty() && name.name == HOST)
    }

    fn name(&self) -> String {
        match self {
            Peer::Group(group) => format!("{}/{}", group.namespace, stem(group)),
            Peer::Named(PeerName { namespace, name }) if namespace.is_empty() => name.clone(),
            Peer::Named(PeerName { namespace, name }) => format!("{namespace}/{name}"),
        }
    }
}

/// What one rule allows.
struct Part {
    protocol: u8,
    /// ICMP type and code.
    icmp: Option<(u8, u8)>,
    /// First and last; none for a protocol without.
    ports: Vec<(u16, u16)>,
    /// Of a peer that is no workload.
    nets: Vec<IpNet>,
    tally: Tally,
}

/// A rule and how many pairs of peer and port it is.
type Weighed = (usize, Rule);

/// Writes policies, one group after another.
pub(super) struct Writer<'a> {
    wanted: &'a Wanted,
    names: BTreeMap<&'a Group, String>,
    sets: Names,
    policies: Names,
    documents: Vec<Document>,
    notes: Vec<String>,
    incomplete: bool,
}

impl<'a> Writer<'a> {
    /// `groups`: all that there are. Whichever of them are written, their names are the same.
    pub(super) fn new(
        wanted: &'a Wanted,
        groups: impl IntoIterator<Item = &'a Group>,
    ) -> Writer<'a> {
        let mut policies = Names::default();
        let named = |group: &'a Group| {
            let name = policies.unique(&group.namespace, &format!("{PREFIX}{}", stem(group)));
            (group, name)
        };
        let names = groups.into_iter().map(named).collect();
        let (sets, documents, notes) = (Names::default(), Vec::new(), Vec::new());
        Writer { wanted, names, sets, policies, documents, notes, incomplete: false }
    }

    /// Adds what was written, and what is to be known about it.
    pub(super) fn finish(self, generated: &mut Generated) {
        generated.documents.extend(self.documents);
        generated.notes.extend(self.notes);
        generated.incomplete |= self.incomplete;
    }

    /// Writes the policies of a group with what they need; more than one if there are many rules.
    pub(super) fn policies(&mut self, group: &'a Group, members: &[&Workload], sides: &Sides) {
        let Some(name) = self.names.get(group).cloned() else { return };
        let mut rules: BTreeMap<Direction, Vec<Weighed>> = BTreeMap::new();
        let mut sets: BTreeMap<(&Peer, Vec<IpNet>), String> = BTreeMap::new();
        let mut left_out = Vec::new();
        for ((way, peer), services) in sides {
            let widened: BTreeSet<u8> =
                services.values().flat_map(|seen| seen.nets.widened()).collect();
            if !widened.is_empty() {
                let lengths: Vec<String> = widened.iter().map(|it| format!("/{it}")).collect();
                self.notes.push(format!(
                    "{}/{name}: {} of `{}` has more than {MOST} addresses: {} are allowed, which \
                     is more than was seen",
                    group.namespace,
                    names::direction(*way),
                    peer.name(),
                    lengths.join(" and ")
                ));
            }
            let own = rules.entry(*way).or_default();
            for part in parts(services) {
                if self.wanted.form == Form::Kubernetes
                    && !KUBERNETES_PROTOCOLS.contains(&part.protocol)
                {
                    left_out.push(format!(
                        "{} {} `{}` ({})",
                        part.named(),
                        match way {
                            Direction::Ingress => "from",
                            Direction::Egress => "to",
                        },
                        peer.name(),
                        seen(&part.tally)
                    ));
                    continue;
                }
                let by_set = self.wanted.form == Form::Calico
                    && matches!(peer, Peer::Named(_))
                    && !peer.is_host();
                let set = by_set.then(|| {
                    let key = (peer, part.nets.clone());
                    let set = sets.entry(key).or_insert_with(|| {
                        let stem = format!("{name}-{}", sanitised(&peer.name()));
                        self.sets.unique(&group.namespace, &stem)
                    });
                    set.as_str()
                });
                own.extend(match self.wanted.form {
                    Form::Calico => calico(group, *way, peer, set, &part),
                    Form::Kubernetes => kubernetes(group, *way, peer, &part),
                });
            }
        }
        let mut new: Vec<Document> =
            sets.iter().map(|((peer, nets), set)| network_set(group, peer, nets, set)).collect();
        new.sort_by(|a, b| {
            a.head["metadata"]["name"].as_str().cmp(&b.head["metadata"]["name"].as_str())
        });
        self.documents.append(&mut new);
        if !left_out.is_empty() {
            self.incomplete = true;
            self.notes.push(format!(
                "{}/{name}: a Kubernetes policy cannot allow {}; it is left out, and will be denied",
                group.namespace,
                listed(left_out.into_iter())
            ));
        }
        self.policy_documents(group, members, name, rules);
    }

    fn policy_documents(
        &mut self,
        group: &Group,
        members: &[&Workload],
        name: String,
        mut rules: BTreeMap<Direction, Vec<Weighed>>,
    ) {
        let mut of = |way| split(rules.remove(&way).unwrap_or_default()).into_iter();
        let (mut ingress, mut egress) = (of(Direction::Ingress), of(Direction::Egress));
        let workloads = listed(members.iter().map(|it| it.name.name.clone()));
        let about = match members.len() {
            1 => format!("workload {workloads} of namespace {}", group.namespace),
            _ => format!("workloads {workloads} of namespace {}", group.namespace),
        };
        let mut next = Some(name);
        let mut rest = (ingress.next(), egress.next());
        while let Some(name) = next {
            let (some, more) = rest;
            rest = (ingress.next(), egress.next());
            let head = self.head(group, &name);
            let ways =
                [("ingress", self.wanted.ingress, some), ("egress", self.wanted.egress, more)];
            let wanted = ways.into_iter().filter(|(_, wanted, _)| *wanted);
            let rules = wanted.map(|(way, _, rules)| (way, rules.unwrap_or_default())).collect();
            self.documents.push(Document { about: about.clone(), head, rules });
            next = (rest != (None, None)).then(|| self.policies.unique(&group.namespace, &name));
        }
    }

    /// A policy without its rules.
    fn head(&self, group: &Group, name: &str) -> Value {
        let Wanted { form, staged, tier, ingress, egress, .. } = self.wanted;
        let kind = match (form, staged) {
            (Form::Calico, false) => Kind::NetworkPolicy,
            (Form::Calico, true) => Kind::StagedNetworkPolicy,
            (Form::Kubernetes, false) => Kind::KubernetesNetworkPolicy,
            (Form::Kubernetes, true) => Kind::StagedKubernetesNetworkPolicy,
        };
        let (version, kind) = kind.names();
        let types: Vec<&str> = [("Ingress", *ingress), ("Egress", *egress)]
            .into_iter()
            .filter_map(|(name, wanted)| wanted.then_some(name))
            .collect();
        let mut spec = Map::new();
        match form {
            Form::Calico => {
                spec.insert("selector".to_owned(), selector(group).into());
                spec.insert("types".to_owned(), types.into());
                if let Some(tier) = tier {
                    spec.insert("tier".to_owned(), tier.as_str().into());
                }
            }
            Form::Kubernetes => {
                spec.insert("podSelector".to_owned(), json!({ "matchLabels": group.labels }));
                spec.insert("policyTypes".to_owned(), types.into());
            }
        }
        if *staged {
            spec.insert("stagedAction".to_owned(), "Set".into());
        }
        json!({
            "apiVersion": version,
            "kind": kind,
            "metadata": { "name": name, "namespace": group.namespace },
            "spec": spec,
        })
    }
}

impl Part {
    /// The service in words.
    fn named(&self) -> String {
        let protocol = names::protocol(self.protocol);
        match (self.icmp, self.ports.as_slice()) {
            (Some((kind, code)), _) => format!("{protocol} type {kind} code {code}"),
            (None, []) if protocol.parse::<u8>().is_ok() => format!("protocol {protocol}"),
            (None, []) => protocol,
            (None, ports) => {
                let ports = ports.iter().map(|(first, last)| match first == last {
                    true => first.to_string(),
                    false => format!("{first}-{last}"),
                });
                format!("{protocol} {}", listed(ports))
            }
        }
    }
}

/// The rules of a pair: services of one protocol and the same addresses in one.
fn parts(services: &BTreeMap<Service, Seen>) -> Vec<Part> {
    type Key = (u8, Option<u16>, Vec<IpNet>);
    let mut parts: BTreeMap<Key, (Vec<u16>, Tally)> = BTreeMap::new();
    for (service, seen) in services {
        let Service { protocol, port } = *service;
        let icmp = [ICMP, ICMPV6].contains(&protocol).then_some(port);
        let key = (protocol, icmp, seen.nets.aggregated());
        let (ports, tally) = parts.entry(key).or_default();
        if WITH_PORTS.contains(&protocol) {
            ports.push(port);
        }
        tally.merge(seen.tally());
    }
    let part = |((protocol, icmp, nets), (ports, tally)): (Key, (Vec<u16>, Tally))| {
        let icmp = icmp.map(|word| {
            let [kind, code] = word.to_be_bytes();
            (kind, code)
        });
        Part { protocol, icmp, ports: ports::runs(ports), nets, tally }
    };
    parts.into_iter().map(part).collect()
}

/// In portions of so many; one empty portion of nothing, which means "any".
fn portions<T>(things: &[T], most: usize) -> Vec<&[T]> {
    if things.is_empty() { vec![things] } else { things.chunks(most).collect() }
}

/// The rules of one part in Calico's form; `set`: the network set that has its addresses.
fn calico(
    group: &Group,
    way: Direction,
    peer: &Peer,
    set: Option<&str>,
    part: &Part,
) -> Vec<Weighed> {
    let nets = if set.is_some() { &[][..] } else { &part.nets };
    let mut rules = Vec::new();
    for ports in portions(&part.ports, PORTS) {
        for nets in portions(nets, INLINE) {
            let mut far = Map::new();
            match (peer, set) {
                (Peer::Group(other), _) => {
                    far.insert("selector".to_owned(), selector(other).into());
                    if other.namespace != group.namespace {
                        let own = format!("projectcalico.org/name == '{}'", other.namespace);
                        far.insert("namespaceSelector".to_owned(), own.into());
                    }
                }
                // A container may give itself any label but the one that every endpoint has.
                (Peer::Named(_), Some(set)) => {
                    let own = format!("{SET_LABEL} == '{set}' && !has({ORCHESTRATOR_LABEL})");
                    far.insert("selector".to_owned(), own.into());
                }
                (Peer::Named(_), None) => {
                    far.insert("nets".to_owned(), texts(nets).into());
                }
            }
            let mut destination = Map::new();
            let mut rule = Map::new();
            rule.insert("action".to_owned(), "Allow".into());
            let protocol = names::protocol(part.protocol);
            let protocol = protocol.parse::<u8>().map_or(Value::from(protocol), Value::from);
            rule.insert("protocol".to_owned(), protocol);
            if let Some((kind, code)) = part.icmp {
                rule.insert("icmp".to_owned(), json!({ "type": kind, "code": code }));
            }
            match way {
                Direction::Ingress => _ = rule.insert("source".to_owned(), far.into()),
                Direction::Egress => destination = far,
            }
            if !ports.is_empty() {
                let ports = ports.iter().map(|(first, last)| match first == last {
                    true => Value::from(*first),
                    false => Value::from(format!("{first}:{last}")),
                });
                destination.insert("ports".to_owned(), ports.collect());
            }
            if !destination.is_empty() {
                rule.insert("destination".to_owned(), destination.into());
            }
            rules.push((1, Rule { seen: seen(&part.tally), value: rule.into() }));
        }
    }
    rules
}

/// The rules of one part in Kubernetes' form.
fn kubernetes(group: &Group, way: Direction, peer: &Peer, part: &Part) -> Vec<Weighed> {
    let peers: Vec<Value> = match peer {
        Peer::Group(other) => {
            let mut far = Map::new();
            far.insert("podSelector".to_owned(), json!({ "matchLabels": other.labels }));
            if other.namespace != group.namespace {
                let name = json!({ "kubernetes.io/metadata.name": other.namespace });
                far.insert("namespaceSelector".to_owned(), json!({ "matchLabels": name }));
            }
            vec![far.into()]
        }
        Peer::Named(_) => {
            texts(&part.nets).into_iter().map(|net| json!({ "ipBlock": { "cidr": net } })).collect()
        }
    };
    let list = match way {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let port = |(first, last): &(u16, u16)| {
        let protocol = names::protocol(part.protocol);
        match first == last {
            true => json!({ "protocol": protocol, "port": first }),
            false => json!({ "protocol": protocol, "port": first, "endPort": last }),
        }
    };
    let rule = |ports: &[(u16, u16)]| {
        let rule = json!({ list: peers, "ports": ports.iter().map(port).collect::<Vec<_>>() });
        (peers.len() * ports.len(), Rule { seen: seen(&part.tally), value: rule })
    };
    portions(&part.ports, KUBERNETES_PORTS).into_iter().map(rule).collect()
}

fn network_set(group: &Group, peer: &Peer, nets: &[IpNet], name: &str) -> Document {
    let (version, kind) = Kind::NetworkSet.names();
    let head = json!({
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": group.namespace,
            "labels": { SET_LABEL: name },
        },
        "spec": { "nets": texts(nets) },
    });
    let about = format!("addresses of {} that {} was seen with", peer.name(), stem(group));
    Document { about, head, rules: Vec::new() }
}

/// Lists of rules that a policy has room for.
fn split(rules: Vec<Weighed>) -> Vec<Vec<Rule>> {
    let mut lists: Vec<Vec<Rule>> = Vec::new();
    let mut weight = 0;
    for (pairs, rule) in rules {
        weight += pairs;
        match lists.last_mut() {
            Some(list) if list.len() < RULES && weight <= PAIRS => list.push(rule),
            _ => {
                weight = pairs;
                lists.push(vec![rule]);
            }
        }
    }
    lists
}

fn texts(nets: &[IpNet]) -> Vec<String> {
    nets.iter().map(IpNet::to_string).collect()
}

/// The selector of a group in Calico's words. No value has a quote in it.
pub(super) fn selector(group: &Group) -> String {
    let labels = group.labels.iter().map(|(key, value)| format!("{key} == '{value}'"));
    labels.collect::<Vec<_>>().join(" && ")
}

/// The name of a group among people: the values of its labels.
fn stem(group: &Group) -> String {
    let values: Vec<&str> = group.labels.values().map(String::as_str).collect();
    sanitised(&values.join("-"))
}

/// What a name may consist of.
fn sanitised(text: &str) -> String {
    let mut name = String::new();
    for char in text.chars() {
        match char.to_ascii_lowercase() {
            char if char.is_ascii_alphanumeric() => name.push(char),
            _ if name.ends_with('-') || name.is_empty() => {}
            _ => name.push('-'),
        }
    }
    let name = name.trim_end_matches('-');
    if name.is_empty() { "unnamed".to_owned() } else { name.to_owned() }
}

/// Names that are given away, by namespace.
#[derive(Default)]
struct Names {
    used: BTreeSet<(String, String)>,
    /// The last number that a name got, so that thousands of one name are not tried one by one.
    last: BTreeMap<(String, String), u32>,
}

impl Names {
    /// The name, with a number behind it if there is one of that name in the namespace already.
    fn unique(&mut self, namespace: &str, name: &str) -> String {
        let cut: String = name.chars().take(NAME).collect();
        let cut = cut.trim_end_matches('-').to_owned();
        let last = self.last.entry((namespace.to_owned(), cut.clone())).or_default();
        loop {
            *last += 1;
            let name = if *last == 1 { cut.clone() } else { format!("{cut}-{last}") };
            if self.used.insert((namespace.to_owned(), name.clone())) {
                return name;
            }
        }
    }
}

/// How often and when, as a comment says it.
fn seen(tally: &Tally) -> String {
    let denied = match tally.denied {
        0 => String::new(),
        denied if denied == tally.seen => "; all denied".to_owned(),
        denied => format!("; {denied} of them denied"),
    };
    match (tally.first, tally.last) {
        (Some(first), Some(last)) if tally.seen > 1 => {
            let (first, last) = (time(first), time(last));
            format!("seen {} times, first {first}, last {last}{denied}", tally.seen)
        }
        (Some(first), _) => format!("seen once, {}{denied}", time(first)),
        _ => format!("seen {} times{denied}", tally.seen),
    }
}

/// A time in UTC, to the second.
pub(super) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string().replace('T', " ").replace('Z', "")
}
