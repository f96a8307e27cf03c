//! What a policy set means, a second time: straight from the documents, by the words of
//! `docs/policy.md` and of upstream, with nothing of `policy-core` but the names of rules.
//!
//! In: the documents of a [`PolicySet`] and an [`Ask`]. Out: an [`Answer`], and which conditions of
//! the rules that were asked held or failed.
//!
//! The reference evaluator shares validation, selectors, the order of policies and who an address
//! is with the compiler. A mistake in one of those is the same on both sides; here it is not.
//!
//! Upstream: calico `felix/calc/policy_sorter.go` (order), `felix/rules/policy.go`
//! (`FilterRuleToIPVersion`), `libcalico-go/lib/backend/syncersv1/updateprocessors/rules.go` (scope
//! of selectors), `felix/calc/rule_scanner.go` (selector with notSelector).

pub(crate) mod kubernetes;
pub(crate) mod rule;
pub(crate) mod selector;

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use policy_api::messages::RuleName;
use policy_common::abi::Direction;
use serde_json::Value;

use self::{
    rule::{Action, Condition, Rule, Side, View},
    selector::Selector,
};
use crate::{coverage::Coverage, packets::Ask, set::PolicySet};

/// A document's list, absent and `null` being empty.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A document's text, absent and `null` being empty.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A WorkloadEndpoint.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) interface: String,
    pub(crate) addresses: Vec<IpAddr>,
    labels: BTreeMap<String, String>,
    /// Name, protocol, port.
    ports: Vec<(String, u8, u16)>,
}

impl Pod {
    /// One of its own labels, those that every endpoint has included.
    pub(crate) fn own(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }
}

/// Somebody whose labels selectors see.
pub(crate) struct Entity<'a> {
    pub(crate) namespace: Option<&'a str>,
    pub(crate) labels: &'a BTreeMap<String, String>,
}

#[derive(Debug)]
struct NetworkSet {
    namespace: Option<String>,
    labels: BTreeMap<String, String>,
    nets: Vec<IpNet>,
}

#[derive(Debug)]
struct Policy {
    name: RuleName,
    order: f64,
    /// `name/namespace/kind`.
    tie: String,
    untracked: bool,
    staged: Option<Staged>,
    /// Where its document stands in the set.
    document: usize,
    subject: Subject,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

/// What a staged policy would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Staged {
    Set,
    Delete,
}

/// What is looked at: what is in force, or what would be with every staged policy in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    Enforced,
    Pending,
}

#[derive(Debug)]
enum Subject {
    Calico { namespace: Option<String>, namespaces: Option<Selector>, own: Option<Selector> },
    Kubernetes(Value),
}

impl Policy {
    fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

#[derive(Debug)]
struct Tier {
    name: String,
    order: f64,
    passes: bool,
}

/// Whether a packet passes at one end, and what says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) allow: bool,
    pub(crate) rule: RuleName,
    /// Log rules that matched on the way.
    pub(crate) logged: Vec<RuleName>,
}

/// Documents that have been read.
#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) pods: Vec<Pod>,
    host: Vec<IpAddr>,
    host_labels: BTreeMap<String, String>,
    host_access: bool,
    default_allow: bool,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    sets: Vec<NetworkSet>,
    tiers: Vec<Tier>,
    policies: Vec<Policy>,
    /// Kubernetes' own policies, if no other decides anything.
    pub(crate) only_kubernetes: Option<Vec<Value>>,
}

fn labels(document: &Value) -> BTreeMap<String, String> {
    let labels = document["metadata"]["labels"].as_object().into_iter().flatten();
    labels.map(|(key, value)| (key.clone(), text(value).to_owned())).collect()
}

fn namespace(document: &Value) -> String {
    match text(&document["metadata"]["namespace"]) {
        "" => "default".to_owned(),
        namespace => namespace.to_owned(),
    }
}

fn selector(value: &Value) -> Result<Option<Selector>> {
    Some(text(value)).filter(|text| !text.is_empty()).map(Selector::read).transpose()
}

impl Oracle {
    pub(crate) fn read(set: &PolicySet) -> Result<Oracle> {
        let tier = |(name, order, passes): (&str, f64, bool)| Tier {
            name: name.to_owned(),
            order,
            passes,
        };
        let built_in = [
            ("kube-admin", 1_000.0, true),
            ("default", 1_000_000.0, false),
            ("kube-baseline", 10_000_000.0, true),
        ];
        let mut oracle = Oracle {
            pods: Vec::new(),
            host: set.host.clone(),
            host_labels: BTreeMap::from([("palisade.io/host".to_owned(), String::new())]),
            host_access: set.host_access,
            default_allow: set.default_action == "Allow",
            namespaces: BTreeMap::new(),
            sets: Vec::new(),
            tiers: built_in.map(tier).into(),
            policies: Vec::new(),
            only_kubernetes: None,
        };
        for (at, document) in set.resources.iter().enumerate() {
            oracle.take(at, document).with_context(|| document.to_string())?;
        }
        oracle.tiers.sort_by(|a, b| a.order.total_cmp(&b.order).then(a.name.cmp(&b.name)));
        oracle.policies.sort_by(|a, b| a.order.total_cmp(&b.order).then(a.tie.cmp(&b.tie)));
        let kubernetes = |policy: &Policy| match &policy.subject {
            Subject::Kubernetes(document) => Some(document.clone()),
            Subject::Calico { .. } => None,
        };
        let enforced = oracle.policies.iter().filter(|policy| policy.staged.is_none());
        let all: Option<Vec<Value>> = enforced.map(kubernetes).collect();
        oracle.only_kubernetes = all.filter(|_| oracle.default_allow && !oracle.host_access);
        Ok(oracle)
    }

    fn take(&mut self, at: usize, document: &Value) -> Result<()> {
        let (metadata, spec) = (&document["metadata"], &document["spec"]);
        let name = text(&metadata["name"]).to_owned();
        match (text(&document["apiVersion"]), text(&document["kind"])) {
            ("v1", "Namespace") => {
                self.namespaces.insert(name, labels(document));
            }
            (_, "Tier") => {
                self.tiers.retain(|tier| tier.name != name);
                self.tiers.push(Tier {
                    name,
                    order: spec["order"].as_f64().unwrap_or(1_000_000.0),
                    passes: text(&spec["defaultAction"]) == "Pass",
                });
            }
            (_, kind @ ("NetworkSet" | "GlobalNetworkSet")) => {
                let nets = list(&spec["nets"]).iter().map(|net| any_net(text(net)));
                self.sets.push(NetworkSet {
                    namespace: (kind == "NetworkSet").then(|| namespace(document)),
                    labels: labels(document),
                    nets: nets.collect::<Result<_>>()?,
                });
            }
            (_, "WorkloadEndpoint") => self.pods.push(pod(document, &name)?),
            ("networking.k8s.io/v1", "NetworkPolicy") | (_, "StagedKubernetesNetworkPolicy") => {
                let word = if staged(document).is_some() { "Staged" } else { "" };
                let kind = format!("{word}KubernetesNetworkPolicy");
                let rules = |direction| {
                    kubernetes::isolates(document, direction)
                        .then(|| Rule::read_kubernetes(document, direction))
                };
                self.policies.push(Policy {
                    name: rule_name("default", &namespace(document), &kind, &name),
                    order: 1_000.0,
                    tie: format!("{name}/{}/KubernetesNetworkPolicy", namespace(document)),
                    untracked: false,
                    staged: staged(document),
                    document: at,
                    subject: Subject::Kubernetes(document.clone()),
                    ingress: rules(Direction::Ingress),
                    egress: rules(Direction::Egress),
                });
            }
            (_, kind) if kind.ends_with("NetworkPolicy") => {
                let policy = calico(at, document, kind, &name)?;
                self.policies.push(policy);
            }
            (version, kind) => bail!("{version} {kind} is nothing that the oracle knows"),
        }
        Ok(())
    }

    /// The endpoint behind an interface.
    pub(crate) fn pod(&self, interface: &str) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.interface == interface)
    }

    pub(crate) fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.addresses.contains(&address))
    }

    /// A label of a namespace; every one has two with its own name.
    pub(crate) fn namespace_label<'a>(&'a self, name: &'a str, key: &str) -> Option<&'a str> {
        match key {
            "kubernetes.io/metadata.name" | "projectcalico.org/name" => Some(name),
            _ => self.namespaces.get(name)?.get(key).map(String::as_str),
        }
    }

    /// The named ports of a packet's source or destination, as name, protocol and port. The endpoint's
    /// own hold whichever of its addresses is meant.
    pub(crate) fn named_ports<'a>(
        &'a self,
        ask: &Ask,
        side: Side,
    ) -> impl Iterator<Item = (&'a str, u8, u16)> {
        let own = (side == Side::Destination) == (ask.direction == Direction::Ingress);
        let pod = match (own, side) {
            (true, _) => self.pod(&ask.interface),
            (false, Side::Source) => self.pod_at(ask.source),
            (false, Side::Destination) => self.pod_at(ask.destination),
        };
        let ports = pod.into_iter().flat_map(|pod| &pod.ports);
        ports.map(|(name, protocol, port)| (name.as_str(), *protocol, *port))
    }

    /// Everybody that an address is: an endpoint or the host, and every network set around it.
    pub(crate) fn entities(&self, address: IpAddr) -> Vec<Entity<'_>> {
        let mut found: Vec<Entity<'_>> = Vec::new();
        if let Some(pod) = self.pod_at(address) {
            found.push(Entity { namespace: Some(&pod.namespace), labels: &pod.labels });
        } else if self.host.contains(&address) {
            found.push(Entity { namespace: None, labels: &self.host_labels });
        }
        let around = self.sets.iter().filter(|set| set.nets.iter().any(|it| it.contains(&address)));
        found.extend(
            around.map(|set| Entity { namespace: set.namespace.as_deref(), labels: &set.labels }),
        );
        found
    }

    /// What becomes of the first packet of a connection at the endpoint that it was seen at.
    pub(crate) fn answer(&self, ask: &Ask, seen: &mut Coverage) -> Result<Answer> {
        self.walk(ask, Walk::Enforced, seen)
    }

    /// What would become of it with every staged policy in force; nothing is said if other policies
    /// would not apply.
    pub(crate) fn staged(&self, ask: &Ask, seen: &mut Coverage) -> Result<Option<Answer>> {
        let pod = self.pod(&ask.interface).context("an endpoint is asked")?;
        let applying = |walk| -> Vec<&RuleName> {
            let tiers = self.tiers.iter().flat_map(|tier| self.applying(tier, pod, ask, walk));
            tiers.map(|(policy, _)| &policy.name).collect()
        };
        if applying(Walk::Enforced) == applying(Walk::Pending) {
            return Ok(None);
        }
        Ok(Some(Answer { logged: Vec::new(), ..self.walk(ask, Walk::Pending, seen)? }))
    }

    fn walk(&self, ask: &Ask, walk: Walk, seen: &mut Coverage) -> Result<Answer> {
        let pod = self.pod(&ask.interface).context("an endpoint is asked")?;
        let whole = |rule: &str, allow: bool, logged: Vec<RuleName>| Answer {
            allow,
            rule: RuleName {
                rule: rule.to_owned(),
                action: if allow { "allow" } else { "deny" }.to_owned(),
                ..RuleName::default()
            },
            logged,
        };
        let from_host = self.host.contains(&ask.source) && self.pod_at(ask.source).is_none();
        if self.host_access && ask.direction == Direction::Ingress && from_host {
            seen.decides(walk.word(), "host-access");
            return Ok(whole("host-access", true, Vec::new()));
        }
        let mut logged = Vec::new();
        for tier in &self.tiers {
            if let Some((allow, rule)) = self.tier(tier, pod, ask, walk, &mut logged, seen)? {
                return Ok(Answer { allow, rule, logged });
            }
        }
        let default = if self.default_allow { "Allow" } else { "Deny" };
        seen.decides(walk.word(), &format!("default-action {default}"));
        Ok(whole("endpoint-default", self.default_allow, logged))
    }

    /// The policies of a tier that select an endpoint and have a say on a direction.
    fn applying<'a>(
        &'a self,
        tier: &'a Tier,
        pod: &'a Pod,
        ask: &'a Ask,
        walk: Walk,
    ) -> impl Iterator<Item = (&'a Policy, &'a [Rule])> {
        let its = self.policies.iter().filter(|policy| policy.name.tier == tier.name);
        let part = its.filter(move |policy| self.is_part_of(policy, walk));
        part.filter(|policy| self.selects(policy, pod))
            .filter_map(|policy| Some((policy, policy.rules(ask.direction)?)))
    }

    /// A staged policy takes the place of the one of its name, or takes it away.
    fn is_part_of(&self, policy: &Policy, walk: Walk) -> bool {
        match (walk, policy.staged) {
            (Walk::Enforced, staged) => staged.is_none(),
            (Walk::Pending, Some(staged)) => staged == Staged::Set,
            (Walk::Pending, None) => {
                !self.policies.iter().any(|it| it.staged.is_some() && it.tie == policy.tie)
            }
        }
    }

    fn tier(
        &self,
        tier: &Tier,
        pod: &Pod,
        ask: &Ask,
        walk: Walk,
        logged: &mut Vec<RuleName>,
        seen: &mut Coverage,
    ) -> Result<Option<(bool, RuleName)>> {
        let mut applies = false;
        for (policy, rules) in self.applying(tier, pod, ask, walk) {
            applies = true;
            for rule in rules {
                if !self.matches(rule, &policy.subject, pod, ask, seen)? {
                    continue;
                }
                let said = format!("{} {}", policy.name.kind, rule.action.word());
                seen.decides(walk.word(), &said);
                let direction = match ask.direction {
                    Direction::Ingress => "ingress",
                    Direction::Egress => "egress",
                };
                let name = RuleName {
                    rule: format!("{direction}[{}]", rule.index),
                    action: rule.action.word().to_owned(),
                    ..policy.name.clone()
                };
                match rule.action {
                    Action::Log => logged.push(name),
                    Action::Pass => return Ok(None),
                    Action::Allow => return Ok(Some((true, name))),
                    Action::Deny => return Ok(Some((false, name))),
                }
            }
        }
        if applies {
            let said = if tier.passes { "end of tier: Pass" } else { "end of tier: Deny" };
            seen.decides(walk.word(), said);
        }
        let name = RuleName {
            tier: tier.name.clone(),
            rule: "tier-default".to_owned(),
            action: "deny".to_owned(),
            ..RuleName::default()
        };
        Ok((applies && !tier.passes).then_some((false, name)))
    }

    /// Policies by the place of their document, each with the endpoints that it selects.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = (usize, Vec<&Pod>)> {
        self.policies.iter().map(|policy| {
            let selected = self.pods.iter().filter(|pod| self.selects(policy, pod));
            (policy.document, selected.collect())
        })
    }

    /// The rule that blocks a source at an uplink, before connections are tracked.
    pub(crate) fn blocks(&self, ask: &Ask, seen: &mut Coverage) -> Option<RuleName> {
        let mut labels = self.host_labels.clone();
        labels.insert("palisade.io/interface".to_owned(), ask.interface.clone());
        let uplink = Entity { namespace: None, labels: &labels };
        for tier in &self.tiers {
            for policy in self.policies.iter().filter(|it| it.name.tier == tier.name) {
                let Subject::Calico { own, .. } = &policy.subject else { continue };
                let selected = own.as_ref().is_none_or(|own| self.of_labels(own, &uplink));
                let rules = policy.ingress.iter().flatten();
                let mut rules = rules.filter(|_| policy.untracked && selected);
                if let Some(rule) = rules.find(|rule| self.is_source(rule, ask.source)) {
                    seen.decides("", "doNotTrack deny");
                    return Some(RuleName {
                        rule: format!("ingress[{}]", rule.index),
                        action: "deny".to_owned(),
                        ..policy.name.clone()
                    });
                }
            }
        }
        seen.decides("", "doNotTrack nothing");
        None
    }

    /// A block list speaks of networks, and of network sets by their labels.
    fn is_source(&self, rule: &Rule, source: IpAddr) -> bool {
        let contains = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&source));
        rule.conditions.iter().all(|(_, condition)| match condition {
            Condition::Nets(_, nets) => contains(nets),
            Condition::Who(_, who) => {
                self.sets.iter().filter(|set| contains(&set.nets)).any(|set| {
                    let namespace = set.namespace.as_deref();
                    who.is(self, &Entity { namespace, labels: &set.labels })
                })
            }
            _ => false,
        })
    }

    fn selects(&self, policy: &Policy, pod: &Pod) -> bool {
        !policy.untracked
            && match &policy.subject {
                Subject::Kubernetes(document) => kubernetes::selects(document, pod),
                Subject::Calico { namespace, namespaces, own } => {
                    let entity = Entity { namespace: Some(&pod.namespace), labels: &pod.labels };
                    namespace.as_ref().is_none_or(|namespace| *namespace == pod.namespace)
                        && namespaces.as_ref().is_none_or(|it| self.of_namespace(it, &entity))
                        && own.as_ref().is_none_or(|it| self.of_labels(it, &entity))
                }
            }
    }

    /// Whether a selector of namespaces selects the one that somebody is in.
    pub(crate) fn of_namespace(&self, selector: &Selector, entity: &Entity<'_>) -> bool {
        let label = |key: &str| self.namespace_label(entity.namespace?, key);
        selector.holds(entity.namespace.is_some(), &label)
    }

    /// Whether a selector selects somebody; labels of the namespace go by `pcns.`.
    pub(crate) fn of_labels(&self, selector: &Selector, entity: &Entity<'_>) -> bool {
        let label = |key: &str| match (key, key.strip_prefix("pcns.")) {
            ("projectcalico.org/namespace", _) => entity.namespace,
            (_, Some(key)) => self.namespace_label(entity.namespace?, key),
            (_, None) => entity.labels.get(key).map(String::as_str),
        };
        selector.holds(true, &label)
    }

    /// Whether every condition of a rule holds. The endpoint has one decision for all its addresses
    /// of a family: if a rule holds for some of them only, a Deny or Log is met and anything else is not.
    fn matches(
        &self,
        rule: &Rule,
        subject: &Subject,
        pod: &Pod,
        ask: &Ask,
        seen: &mut Coverage,
    ) -> Result<bool> {
        let policy = match subject {
            Subject::Kubernetes(document) => document,
            Subject::Calico { .. } => &Value::Null,
        };
        let is_v4 = ask.source.is_ipv4();
        let own = pod.addresses.iter().filter(|address| address.is_ipv4() == is_v4);
        let mut own: Vec<Option<IpAddr>> = own.copied().map(Some).collect();
        if own.is_empty() {
            own.push(None);
        }
        let mut held = 0;
        for own in &own {
            let failed = rule.failed(&View { oracle: self, policy, pod, ask, own: *own })?;
            held += usize::from(failed.is_empty());
            seen.judged(rule, &failed);
        }
        Ok(match rule.action {
            Action::Deny | Action::Log => held > 0,
            Action::Allow | Action::Pass => held == own.len(),
        })
    }
}

impl Walk {
    /// In front of what is counted of it.
    fn word(self) -> &'static str {
        match self {
            Walk::Enforced => "",
            Walk::Pending => "staged: ",
        }
    }
}

/// What a staged policy would do; nothing, if the document is of another kind.
fn staged(document: &Value) -> Option<Staged> {
    let staged = text(&document["kind"]).starts_with("Staged");
    let delete = document["spec"]["stagedAction"] == "Delete";
    staged.then_some(if delete { Staged::Delete } else { Staged::Set })
}

fn rule_name(tier: &str, namespace: &str, kind: &str, policy: &str) -> RuleName {
    RuleName {
        tier: tier.to_owned(),
        namespace: namespace.to_owned(),
        kind: kind.to_owned(),
        policy: policy.to_owned(),
        ..RuleName::default()
    }
}

fn calico(at: usize, document: &Value, kind: &str, name: &str) -> Result<Policy> {
    let spec = &document["spec"];
    let enforced = kind.trim_start_matches("Staged");
    let namespace = match enforced {
        "NetworkPolicy" => Some(namespace(document)),
        "GlobalNetworkPolicy" => None,
        _ => bail!("{kind} is nothing that the oracle knows"),
    };
    let types = list(&spec["types"]);
    let some = |field: &str| !list(&spec[field]).is_empty();
    let has_say = |word: &str, default: bool| match types {
        [] => default,
        types => types.iter().any(|it| it == word),
    };
    let rules = |field: &str| {
        let rules = list(&spec[field]).iter().enumerate();
        rules
            .map(|(index, rule)| Rule::read(index, rule, namespace.as_deref()))
            .collect::<Result<Vec<_>>>()
    };
    let tier = Some(text(&spec["tier"])).filter(|tier| !tier.is_empty()).unwrap_or("default");
    let shown = namespace.clone().unwrap_or_default();
    Ok(Policy {
        name: rule_name(tier, &shown, kind, name),
        order: spec["order"].as_f64().unwrap_or(f64::INFINITY),
        tie: format!("{name}/{shown}/{enforced}"),
        staged: staged(document),
        untracked: spec["doNotTrack"] == Value::Bool(true),
        document: at,
        ingress: has_say("Ingress", some("ingress") || !some("egress"))
            .then(|| rules("ingress"))
            .transpose()?,
        egress: has_say("Egress", some("egress")).then(|| rules("egress")).transpose()?,
        subject: Subject::Calico {
            namespaces: selector(&spec["namespaceSelector"])?,
            own: selector(&spec["selector"])?,
            namespace,
        },
    })
}

fn pod(document: &Value, name: &str) -> Result<Pod> {
    let (spec, namespace) = (&document["spec"], namespace(document));
    let mut labels = labels(document);
    for (key, value) in [
        ("projectcalico.org/namespace", namespace.as_str()),
        ("projectcalico.org/orchestrator", "static"),
        ("palisade.io/name", name),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    let ports = list(&spec["ports"]).iter().map(|port| {
        let number = port["port"].as_u64().context("a port is a number")?;
        Ok((
            text(&port["name"]).to_owned(),
            rule::protocol(&port["protocol"])?,
            u16::try_from(number)?,
        ))
    });
    let addresses = list(&spec["ipNetworks"]).iter().map(|net| Ok(any_net(text(net))?.addr()));
    Ok(Pod {
        interface: text(&spec["interfaceName"]).to_owned(),
        addresses: addresses.collect::<Result<_>>()?,
        ports: ports.collect::<Result<_>>()?,
        namespace,
        labels,
    })
}

/// A network, or an address as a network of one.
pub(crate) fn any_net(text: &str) -> Result<IpNet> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(IpNet::from(address)),
        Err(_) => {
            Ok(text.parse::<IpNet>().with_context(|| format!("{text} is no network"))?.trunc())
        }
    }
}
