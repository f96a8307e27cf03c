//! `networking.k8s.io/v1` NetworkPolicy and `v1` Namespace.
//!
//! Every field of upstream (kubernetes `k8s.io/api/networking/v1`) is here. `null` and absence are
//! the same, as in Go; an empty mapping is not absent, which is how `podSelector: {}` and
//! `namespaceSelector: {}` come to select everything.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::metadata::IntOrString;

/// `NetworkPolicy.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "a mapping")]
pub struct NetworkPolicySpec {
    /// `Set` or `Delete`; of `projectcalico.org/v3` StagedKubernetesNetworkPolicy only.
    pub staged_action: Option<String>,
    /// Pods of the namespace that the policy applies to; absent and empty mean all.
    pub pod_selector: Option<LabelSelector>,
    /// `Ingress`, `Egress`.
    pub policy_types: Option<Vec<String>>,
    /// What may come in.
    pub ingress: Option<Vec<IngressRule>>,
    /// What may go out.
    pub egress: Option<Vec<EgressRule>>,
}

/// One entry of `ingress`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a rule, `{}` for one that allows everything")]
pub struct IngressRule {
    /// Senders; absent and empty mean anyone.
    pub from: Option<Vec<Peer>>,
    /// Ports; absent and empty mean every port of every protocol.
    pub ports: Option<Vec<Port>>,
}

/// One entry of `egress`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a rule, `{}` for one that allows everything")]
pub struct EgressRule {
    /// Receivers; absent and empty mean anyone.
    pub to: Option<Vec<Peer>>,
    /// Ports; absent and empty mean every port of every protocol.
    pub ports: Option<Vec<Port>>,
}

/// One entry of `from` or `to`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "camelCase",
    expecting = "a peer with `podSelector`, `namespaceSelector` or `ipBlock`"
)]
pub struct Peer {
    /// Pods.
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces of the pods; absent means the policy's own, empty means all.
    pub namespace_selector: Option<LabelSelector>,
    /// Addresses.
    pub ip_block: Option<IpBlock>,
}

/// `ipBlock`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping with `cidr`")]
pub struct IpBlock {
    /// CIDR.
    pub cidr: Option<String>,
    /// CIDRs inside it that are left out.
    pub except: Option<Vec<String>>,
}

/// One entry of `ports`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "camelCase",
    expecting = "a mapping with `protocol` and `port`"
)]
pub struct Port {
    /// `TCP`, `UDP`, `SCTP`; absent means `TCP`.
    pub protocol: Option<String>,
    /// Number or name; absent means every port of the protocol.
    pub port: Option<IntOrString>,
    /// Last of the range that `port` starts.
    pub end_port: Option<i64>,
}

/// A selector in Kubernetes' form; all its conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "camelCase",
    expecting = "a mapping with `matchLabels` or `matchExpressions`, `{}` to select everything"
)]
pub struct LabelSelector {
    /// Labels that must have these values.
    pub match_labels: Option<BTreeMap<String, String>>,
    /// Further conditions.
    pub match_expressions: Option<Vec<Requirement>>,
}

/// One entry of `matchExpressions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping with `key` and `operator`")]
pub struct Requirement {
    /// Label.
    pub key: Option<String>,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`.
    pub operator: Option<String>,
    /// For `In` and `NotIn`.
    pub values: Option<Vec<String>>,
}

/// `Namespace.spec`: written by a server; no effect.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub struct NamespaceSpec {
    /// Written by a server; no effect.
    pub finalizers: Option<Value>,
}
