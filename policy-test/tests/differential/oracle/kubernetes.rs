//! Kubernetes' NetworkPolicy, from the API's documentation (k8s.io/api/networking/v1) and nothing
//! else: what it says of a pod, and what one rule of it matches.
//!
//! In: documents as their authors wrote them. No default, scope or selector is taken from
//! `policy-core`.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use policy_common::abi::Direction;
use serde_json::Value;

use super::{Oracle, Pod, documents::namespace, list, rule::Side};
use crate::packets::Ask;

/// "podSelector selects the pods to which this NetworkPolicy object applies ... an empty
/// podSelector selects all pods in this namespace."
pub(crate) fn selects(policy: &Value, pod: &Pod) -> bool {
    pod.namespace.as_deref() == Some(namespace(policy).as_str())
        && labels(&policy["spec"]["podSelector"], &|key| pod.own(key))
}

/// "If no policyTypes are specified ... Ingress will always be set, and Egress if the policy has
/// any egress rules."
pub(crate) fn isolates(policy: &Value, direction: Direction) -> bool {
    let spec = &policy["spec"];
    let types = list(&spec["policyTypes"]);
    let word = match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    };
    if types.is_empty() {
        direction == Direction::Ingress || !list(&spec["egress"]).is_empty()
    } else {
        types.iter().any(|it| it == word)
    }
}

/// What all Kubernetes policies together say: "pods are isolated ... if there are any
/// NetworkPolicies that select them", and traffic passes if it "matches at least one rule across
/// all of the NetworkPolicies whose podSelector matches the pod".
pub(crate) fn allows(oracle: &Oracle, policies: &[&Value], pod: &Pod, ask: &Ask) -> Result<bool> {
    let mut isolated = false;
    for policy in policies {
        if !selects(policy, pod) || !isolates(policy, ask.direction) {
            continue;
        }
        isolated = true;
        for rule in rules(policy, ask.direction) {
            if peers(oracle, policy, rule, ask)? && ports(oracle, rule, ask)? {
                return Ok(true);
            }
        }
    }
    Ok(!isolated)
}

/// The rules for one direction.
pub(crate) fn rules(policy: &Value, direction: Direction) -> &[Value] {
    list(match direction {
        Direction::Ingress => &policy["spec"]["ingress"],
        Direction::Egress => &policy["spec"]["egress"],
    })
}

/// `from` or `to`: "if this field is empty or missing, this rule matches all".
pub(crate) fn peers(oracle: &Oracle, policy: &Value, rule: &Value, ask: &Ask) -> Result<bool> {
    let (peers, address) = match ask.direction {
        Direction::Ingress => (list(&rule["from"]), ask.source),
        Direction::Egress => (list(&rule["to"]), ask.destination),
    };
    for peer in peers {
        if is_peer(oracle, policy, peer, address)? {
            return Ok(true);
        }
    }
    Ok(peers.is_empty())
}

fn is_peer(oracle: &Oracle, policy: &Value, peer: &Value, address: IpAddr) -> Result<bool> {
    if let Value::Object(block) = &peer["ipBlock"] {
        let net = |text: &Value| {
            let text = text.as_str().context("a CIDR is a string")?;
            Ok(text.parse::<IpNet>()?.contains(&address))
        };
        let except: Vec<bool> =
            list(&peer["ipBlock"]["except"]).iter().map(net).collect::<Result<_>>()?;
        return Ok(net(&block["cidr"])? && !except.contains(&true));
    }
    let Some(pod) = oracle.pod_at(address) else { return Ok(false) };
    let in_namespace = match &peer["namespaceSelector"] {
        Value::Null => pod.namespace.as_deref() == Some(namespace(policy).as_str()),
        selector => labels(selector, &|key| oracle.namespace_label(pod.namespace.as_deref()?, key)),
    };
    Ok(in_namespace && labels(&peer["podSelector"], &|key| pod.own(key)))
}

/// `ports`: "if this field is empty or missing, this rule matches all ports".
pub(crate) fn ports(oracle: &Oracle, rule: &Value, ask: &Ask) -> Result<bool> {
    let ports = list(&rule["ports"]);
    for port in ports {
        let protocol = match port["protocol"].as_str().unwrap_or("TCP") {
            "TCP" => 6,
            "UDP" => 17,
            _ => 132,
        };
        let number = match &port["port"] {
            Value::Null => true,
            Value::String(name) => oracle
                .named_ports(ask, Side::Destination)
                .any(|(known, of, number)| (known, of, number) == (name, protocol, ask.port)),
            first => {
                let first = first.as_u64().context("a port is a number")?;
                let last = port["endPort"].as_u64().unwrap_or(first);
                (first..=last).contains(&u64::from(ask.port))
            }
        };
        if protocol == ask.protocol && number {
            return Ok(true);
        }
    }
    Ok(ports.is_empty())
}

/// "The result of matchLabels and matchExpressions are ANDed. An empty label selector matches all
/// objects."
fn labels<'a>(selector: &Value, label: &dyn Fn(&str) -> Option<&'a str>) -> bool {
    let mut wanted = selector["matchLabels"].as_object().into_iter().flatten();
    wanted.all(|(key, value)| label(key) == value.as_str())
        && list(&selector["matchExpressions"]).iter().all(|it| {
            let found = label(it["key"].as_str().unwrap_or_default());
            let listed = list(&it["values"]).iter().any(|value| value.as_str() == found);
            match it["operator"].as_str() {
                Some("In") => listed,
                Some("NotIn") => !listed,
                Some("Exists") => found.is_some(),
                _ => found.is_none(),
            }
        })
}
