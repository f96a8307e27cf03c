//! Who may reach whom: `GET /v1/connectivity`.

use serde::{Deserialize, Serialize};

use crate::{difference::End, messages::RuleName};

/// What the policies let through, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connectivity {
    /// Endpoints that are looked at; host endpoints are not, as what passes them depends on routes.
    pub endpoints: usize,
    /// Connections that are allowed.
    pub connections: Vec<Allowed>,
    /// How many more entries `connections` would have if answers had no bound.
    #[serde(default)]
    pub connections_left_out: usize,
}

/// Connections that are allowed by the same rules: from each source to each destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Allowed {
    /// Who may open them.
    pub sources: Vec<End>,
    /// To whom. An end that is a source and a destination does not connect to itself.
    pub destinations: Vec<End>,
    /// `IPv4`, `IPv6` or both.
    pub families: Vec<String>,
    /// On what, as in [`ConnectionChange`](crate::difference::ConnectionChange).
    pub services: Vec<String>,
    /// Only from these source ports; empty: from any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ports: Vec<String>,
    /// The rule of each end at which something is enforced, the source first.
    pub allowed_by: Vec<Deciding>,
    /// Anybody in the world may open them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exposed: bool,
}

/// A deciding rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Deciding {
    /// `egress` at the source, `ingress` at the destination.
    pub at: String,
    /// Which.
    #[serde(flatten)]
    pub rule: RuleName,
    /// Packets that the rule has allowed at any endpoint; absent if nobody has counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
}

/// Packets that were dropped between two names for one reason: a line of `GET /v1/drops`. Counted in the
/// kernel, exactly, whatever becomes of events.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DropCount {
    /// `ingress` or `egress`, as seen from the endpoint that dropped.
    pub direction: String,
    /// Drop reason.
    pub reason: String,
    /// Name of the source, as in [`FlowEnd`](crate::flow::FlowEnd); `other` for what is not told
    /// apart.
    pub source: String,
    /// Its namespace; empty if there is none.
    pub source_namespace: String,
    /// Name of the destination.
    pub destination: String,
    /// Its namespace.
    pub destination_namespace: String,
    /// Protocol in lower case; empty if the packet was dropped before it was known.
    pub protocol: String,
    /// Destination port; ICMP: `type/code`; empty where there is none.
    pub port: String,
    /// Tier of the deciding rule.
    pub tier: String,
    /// Namespace of its policy.
    pub policy_namespace: String,
    /// Its policy; empty for a default, and if no rule decided.
    pub policy: String,
    /// The rule within it, or the name of the default.
    pub rule: String,
    /// Packets since the counter is there.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}
