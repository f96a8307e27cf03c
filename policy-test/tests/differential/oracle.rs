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

mod documents;
pub(crate) mod kubernetes;
pub(crate) mod rule;
pub(crate) mod selector;

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use policy_api::messages::RuleName;
use policy_common::abi::Direction;
use serde_json::Value;

pub(crate) use self::documents::any_net;
use self::{
    rule::{Action, Condition, Rule, Side, View},
    selector::Selector,
};
use crate::{coverage::Coverage, packets::Ask};

/// A document's list, absent and `null` being empty.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
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

impl Oracle {
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
