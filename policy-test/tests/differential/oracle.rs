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
mod host;
pub(crate) mod kubernetes;
pub(crate) mod rule;
pub(crate) mod selector;

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use policy_api::messages::RuleName;
use policy_common::abi::Direction;
use policy_core::peers::PeerName;
use serde_json::Value;

pub(crate) use self::documents::any_net;
use self::{
    host::Plane,
    rule::{Action, Condition, Rule, Side, View},
    selector::Selector,
};
use crate::{
    coverage::Coverage,
    packets::Ask,
    set::{Safe, Translated},
};

/// A document's list, absent and `null` being empty.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A WorkloadEndpoint, or a host endpoint on an interface.
#[derive(Debug)]
pub(crate) struct Pod {
    /// A host endpoint has none.
    pub(crate) namespace: Option<String>,
    pub(crate) interface: String,
    pub(crate) addresses: Vec<IpAddr>,
    labels: BTreeMap<String, String>,
    /// Name, protocol, port.
    ports: Vec<(String, u8, u16)>,
}

impl Pod {
    pub(crate) fn is_host(&self) -> bool {
        self.namespace.is_none()
    }

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
    name: String,
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
    reach: Reach,
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

/// Which packets at a host endpoint a policy has a say on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Local,
    Forward,
    PreDnat,
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
    /// Whether a connection may be joined whose beginning nobody has seen.
    pub(crate) adopts: bool,
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
    /// The host endpoint of the uplink, and whether the end of all tiers allows there.
    uplink: Option<(Pod, bool)>,
    /// Every host endpoint by its expected addresses.
    others: Vec<Pod>,
    failsafe: Vec<Safe>,
    published: Vec<Translated>,
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
            (true, _) => self.subject(ask),
            (false, Side::Source) => self.anybody_at(ask.source),
            (false, Side::Destination) => self.anybody_at(ask.destination),
        };
        let ports = pod.into_iter().flat_map(|pod| &pod.ports);
        ports.map(|(name, protocol, port)| (name.as_str(), *protocol, *port))
    }

    /// Everybody that an address is: an endpoint or the host, and every network set around it.
    pub(crate) fn entities(&self, address: IpAddr) -> Vec<Entity<'_>> {
        let mut found: Vec<Entity<'_>> = Vec::new();
        if let Some(pod) = self.anybody_at(address) {
            found.push(Entity { namespace: pod.namespace.as_deref(), labels: &pod.labels });
        } else if self.host.contains(&address) {
            found.push(Entity { namespace: None, labels: &self.host_labels });
        }
        found.extend(self.sets_around(address));
        found
    }

    /// The network sets around an address.
    pub(crate) fn sets_around(&self, address: IpAddr) -> impl Iterator<Item = Entity<'_>> {
        let around =
            self.sets.iter().filter(move |set| set.nets.iter().any(|it| it.contains(&address)));
        around.map(|set| Entity { namespace: set.namespace.as_deref(), labels: &set.labels })
    }

    /// Whose policies a packet meets.
    fn subject(&self, ask: &Ask) -> Option<&Pod> {
        if ask.forwarded.is_some() { self.uplink() } else { self.pod(&ask.interface) }
    }

    /// What becomes of the first packet of a connection at the endpoint that it was seen at.
    pub(crate) fn answer(&self, ask: &Ask, seen: &mut Coverage) -> Result<Answer> {
        match ask.forwarded {
            None => self.walk(ask, Walk::Enforced, seen),
            Some(forwarded) => self.at_host(ask, forwarded, seen),
        }
    }

    /// What would become of it with every staged policy in force; nothing is said if other policies
    /// would not apply.
    pub(crate) fn staged(&self, ask: &Ask, seen: &mut Coverage) -> Result<Option<Answer>> {
        match ask.forwarded {
            None => self.staged_in(Plane::Pod, ask, seen),
            Some(forwarded) => self.staged_at_host(ask, forwarded, seen),
        }
    }

    fn staged_in(&self, plane: Plane, ask: &Ask, seen: &mut Coverage) -> Result<Option<Answer>> {
        let pod = self.subject(ask).context("an endpoint is asked")?;
        let applying = |walk| -> Vec<&RuleName> {
            let all = |tier| self.applying(tier, plane, pod, ask, walk);
            self.tiers.iter().flat_map(all).map(|(policy, _)| &policy.name).collect()
        };
        if applying(Walk::Enforced) == applying(Walk::Pending) {
            return Ok(None);
        }
        let answer = match plane {
            Plane::Pod => self.walk(ask, Walk::Pending, seen)?,
            _ => self.walk_in(plane, ask, Walk::Pending, seen)?.context("a plane that decides")?,
        };
        Ok(Some(Answer { logged: Vec::new(), ..answer }))
    }

    fn walk(&self, ask: &Ask, walk: Walk, seen: &mut Coverage) -> Result<Answer> {
        let pod = self.pod(&ask.interface).context("an endpoint is asked")?;
        let from_host = self.host.contains(&ask.source) && self.pod_at(ask.source).is_none();
        if self.host_access && ask.direction == Direction::Ingress && from_host {
            seen.decides(walk.word(), "host-access");
            return Ok(whole("host-access", true, Vec::new()));
        }
        let mut logged = Vec::new();
        for tier in &self.tiers {
            let at = (tier, Plane::Pod, walk);
            if let Some((allow, rule)) = self.tier(at, pod, ask, &mut logged, seen)? {
                return Ok(Answer { allow, rule, logged, adopts: false });
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
        plane: Plane,
        pod: &'a Pod,
        ask: &'a Ask,
        walk: Walk,
    ) -> impl Iterator<Item = (&'a Policy, &'a [Rule])> {
        let its = self.policies.iter().filter(|policy| policy.name.tier == tier.name);
        let its = its.filter(move |policy| plane.is_of(policy));
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
        (tier, plane, walk): (&Tier, Plane, Walk),
        pod: &Pod,
        ask: &Ask,
        logged: &mut Vec<RuleName>,
        seen: &mut Coverage,
    ) -> Result<Option<(bool, RuleName)>> {
        let mut applies = false;
        for (policy, rules) in self.applying(tier, plane, pod, ask, walk) {
            applies = true;
            for rule in rules {
                if !self.matches(rule, &policy.subject, pod, ask, seen)? {
                    continue;
                }
                let said = format!("{} {}", policy.name.kind, rule.action.word());
                seen.decides(walk.word(), &said);
                if plane != Plane::Pod {
                    seen.decides(walk.word(), &format!("{} {}", plane.word(), rule.action.word()));
                }
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
        // Where others are asked afterwards, a tier has no end.
        let passes = tier.passes || plane == Plane::PreDnat;
        if applies {
            let said = if passes { "end of tier: Pass" } else { "end of tier: Deny" };
            seen.decides(walk.word(), said);
        }
        let name = RuleName {
            tier: tier.name.clone(),
            rule: "tier-default".to_owned(),
            action: "deny".to_owned(),
            ..RuleName::default()
        };
        Ok((applies && !passes).then_some((false, name)))
    }

    /// Policies by the place of their document, each with the endpoints that it selects.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = (usize, Vec<&Pod>)> {
        self.policies.iter().map(|policy| {
            let all = self.pods.iter().chain(self.uplink());
            let selected = all.filter(|pod| self.selects(policy, pod));
            (policy.document, selected.collect())
        })
    }

    /// The rule that blocks a source at an uplink, before connections are tracked, and the network set that
    /// it is blocked for.
    pub(crate) fn blocks(&self, ask: &Ask, seen: &mut Coverage) -> Option<(RuleName, PeerName)> {
        let mut labels = self.host_labels.clone();
        labels.insert("palisade.io/interface".to_owned(), ask.interface.clone());
        if let Some(own) = self.uplink() {
            labels.clone_from(&own.labels);
            if self.is_left_open(ask) {
                seen.decides("", "doNotTrack failsafe");
                return None;
            }
        }
        let uplink = Entity { namespace: None, labels: &labels };
        for tier in &self.tiers {
            for policy in self.policies.iter().filter(|it| it.name.tier == tier.name) {
                let Subject::Calico { own, .. } = &policy.subject else { continue };
                let selected = own.as_ref().is_none_or(|own| self.of_labels(own, &uplink));
                let rules = policy.ingress.iter().flatten();
                let mut rules = rules.filter(|_| policy.untracked && selected);
                if let Some(rule) = rules.find(|rule| self.is_source(rule, ask.source)) {
                    seen.decides("", "doNotTrack deny");
                    let name = RuleName {
                        rule: format!("ingress[{}]", rule.index),
                        action: "deny".to_owned(),
                        ..policy.name.clone()
                    };
                    return Some((name, self.blocked_for(rule, ask.source)));
                }
            }
        }
        seen.decides("", "doNotTrack nothing");
        None
    }

    /// The first network set by name that a rule picks for a source; the world, if its networks stand in
    /// the rule.
    fn blocked_for(&self, rule: &Rule, source: IpAddr) -> PeerName {
        let mut picked: Vec<PeerName> = Vec::new();
        for (_, condition) in &rule.conditions {
            let Condition::Who(_, who) = condition else { continue };
            let around =
                self.sets.iter().filter(|set| set.nets.iter().any(|it| it.contains(&source)));
            picked.extend(around.filter_map(|set| {
                let namespace = set.namespace.as_deref();
                let named = || PeerName {
                    namespace: namespace.unwrap_or_default().to_owned(),
                    name: set.name.clone(),
                };
                who.is(self, &Entity { namespace, labels: &set.labels }).then(named)
            }));
        }
        picked.sort_unstable();
        let world = || PeerName { namespace: String::new(), name: "world".to_owned() };
        picked.into_iter().next().unwrap_or_else(world)
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
                    let entity =
                        Entity { namespace: pod.namespace.as_deref(), labels: &pod.labels };
                    (namespace.is_none() || *namespace == pod.namespace)
                        && namespaces.as_ref().is_none_or(|it| self.of_namespace(it, &entity))
                        && own.as_ref().is_none_or(|it| match namespaces {
                            None => self.of_labels(it, &entity),
                            // Beside a selector of namespaces, `all()` is whoever is in one.
                            Some(_) => self.of_labels_in(pod.namespace.is_some(), it, &entity),
                        })
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
        self.of_labels_in(true, selector, entity)
    }

    /// The same, with what `all()` is.
    fn of_labels_in(&self, all: bool, selector: &Selector, entity: &Entity<'_>) -> bool {
        let label = |key: &str| match (key, key.strip_prefix("pcns.")) {
            ("projectcalico.org/namespace", _) => entity.namespace,
            (_, Some(key)) => self.namespace_label(entity.namespace?, key),
            (_, None) => entity.labels.get(key).map(String::as_str),
        };
        selector.holds(all, &label)
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

/// What is decided where no rule does.
fn whole(rule: &str, allow: bool, logged: Vec<RuleName>) -> Answer {
    let action = if allow { "allow" } else { "deny" }.to_owned();
    let rule = RuleName { rule: rule.to_owned(), action, ..RuleName::default() };
    Answer { allow, rule, logged, adopts: false }
}
