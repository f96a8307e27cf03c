//! Documents into what the oracle answers from.
//!
//! In: the documents of a set. Out: an [`Oracle`], its policies in order.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use policy_api::messages::RuleName;
use policy_common::abi::Direction;
use serde_json::Value;

use super::{
    NetworkSet, Oracle, Pod, Policy, Reach, Staged, Subject, Tier, kubernetes, list,
    rule::{self, Rule},
    selector::Selector,
};
use crate::set::PolicySet;

/// A document's text, absent and `null` being empty.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(super) fn labels(document: &Value) -> BTreeMap<String, String> {
    let labels = document["metadata"]["labels"].as_object().into_iter().flatten();
    labels.map(|(key, value)| (key.clone(), text(value).to_owned())).collect()
}

pub(super) fn namespace(document: &Value) -> String {
    match text(&document["metadata"]["namespace"]) {
        "" => "default".to_owned(),
        namespace => namespace.to_owned(),
    }
}

pub(super) fn selector(value: &Value) -> Result<Option<Selector>> {
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
            uplink: None,
            others: Vec::new(),
            failsafe: Vec::new(),
            published: set.published.clone(),
        };
        oracle.read_hosts(set)?;
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
                    name: name.clone(),
                    labels: labels(document),
                    nets: nets.collect::<Result<_>>()?,
                });
            }
            (_, "WorkloadEndpoint") => self.pods.push(pod(document, &name)?),
            (_, "HostEndpoint") => {}
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
                    reach: Reach::Local,
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
        reach: match (spec["preDNAT"] == true, spec["applyOnForward"] == true) {
            (true, _) => Reach::PreDnat,
            (false, true) => Reach::Forward,
            (false, false) => Reach::Local,
        },
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
    let addresses = list(&spec["ipNetworks"]).iter().map(|net| Ok(any_net(text(net))?.addr()));
    Ok(Pod {
        interface: text(&spec["interfaceName"]).to_owned(),
        addresses: addresses.collect::<Result<_>>()?,
        ports: ports(spec)?,
        namespace: Some(namespace),
        labels,
    })
}

/// Named ports: name, protocol, number.
pub(super) fn ports(spec: &Value) -> Result<Vec<(String, u8, u16)>> {
    let ports = list(&spec["ports"]).iter().map(|port| {
        let number = port["port"].as_u64().context("a port is a number")?;
        Ok((
            text(&port["name"]).to_owned(),
            rule::protocol(&port["protocol"])?,
            u16::try_from(number)?,
        ))
    });
    ports.collect()
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
