//! The question "what would change?" and its answer: `POST /v1/diff`.
//!
//! In: resources as for an apply, and what would go. Out: a [`Difference`]: fields of resources,
//! and the connections that would be opened or cut.

use serde::{Deserialize, Serialize};

use crate::{
    diagnostic::Diagnostic,
    messages::{Outcome, ResourceName, RuleName},
};

/// What would change? Nothing does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffRequest {
    /// Resources that would be added or replaced, as in
    /// [`ApplyRequest`](crate::messages::ApplyRequest).
    #[serde(default)]
    pub resources: Vec<serde_json::Value>,
    /// Resources that would be removed. They must exist, and must not be among `resources`.
    #[serde(default)]
    pub delete: Vec<ResourceName>,
    /// Everything else that was applied would be removed, too. What comes from files of the policy
    /// directory stays: only those files can take it away.
    #[serde(default)]
    pub prune: bool,
    /// Every staged policy would be in force in place of the one of its name, or take it away.
    #[serde(default)]
    pub staged: bool,
}

/// What would change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Resources that would be created, configured or deleted, by kind and name.
    pub resources: Vec<ResourceChange>,
    /// Staged policies that would be in force, if that was asked, such as
    /// `StagedNetworkPolicy shop/db` or `StagedNetworkPolicy shop/db (deletes NetworkPolicy shop/db)`.
    #[serde(default)]
    pub staged: Vec<String>,
    /// Connections that would be opened or cut.
    pub reach: Reach,
    /// Things that would be accepted but look wrong.
    #[serde(default)]
    pub warnings: Vec<Diagnostic>,
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.reach.connections.is_empty()
    }
}

/// A resource that is not the same before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResourceChange {
    /// Which.
    #[serde(flatten)]
    pub resource: ResourceName,
    /// What would happen to it.
    pub outcome: Outcome,
    /// The fields that differ; of a resource that is new or gone, each field below `spec` and
    /// `metadata`.
    pub fields: Vec<FieldChange>,
}

/// A field that is not the same before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Field path, such as `spec.ingress[0].destination.ports`. An index is the one after the
    /// change; of an entry that is gone, the one before it.
    pub path: String,
    /// Its value before; absent if it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<serde_json::Value>,
    /// Its value after; absent if it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<serde_json::Value>,
}

/// What two sets of policies make of the same endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Endpoints that exist before and after; only of their connections is anything said.
    pub endpoints: usize,
    /// Endpoints that exist before only, as `namespace/name`.
    #[serde(default)]
    pub endpoints_gone: Vec<String>,
    /// Endpoints that exist after only.
    #[serde(default)]
    pub endpoints_new: Vec<String>,
    /// Connections that would be opened or cut: those opened first.
    pub connections: Vec<ConnectionChange>,
    /// How many more entries `connections` would have if answers had no bound.
    #[serde(default)]
    pub connections_left_out: usize,
}

/// What would become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Denied before, allowed after.
    Opened,
    /// Allowed before, denied after.
    Cut,
}

/// Connections that change for one reason: from each source to each destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionChange {
    /// What would become of them.
    pub effect: Effect,
    /// Who opens them.
    pub sources: Vec<End>,
    /// To whom. An end that is a source and a destination does not connect to itself.
    pub destinations: Vec<End>,
    /// `IPv4`, `IPv6` or both.
    pub families: Vec<String>,
    /// On what: `all`, `all tcp`, `5432/tcp`, `1000-2000/udp`, `icmp type 8`, `all but 22/tcp`.
    pub services: Vec<String>,
    /// Only from these source ports, such as `1024-65535`; empty: from any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ports: Vec<String>,
    /// Each end whose verdict changes, the source first. The other end allows them before and
    /// after.
    pub reasons: Vec<Reason>,
}

/// Who is at an end of connections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum End {
    /// An endpoint.
    Endpoint {
        /// Its namespace.
        namespace: String,
        /// Workload name.
        name: String,
        /// Docker network, if not all endpoints of the workload are meant.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<String>,
    },
    /// The host itself.
    Host,
    /// Addresses that a network set, a rule's networks or a block list tell from others.
    Network {
        /// Namespace of the network set; empty if there is none.
        namespace: String,
        /// The network set, or the networks of a rule.
        name: String,
        /// Some of the prefixes; longer prefixes inside them may be other ends.
        nets: Vec<String>,
        /// How many prefixes more there are.
        nets_left_out: usize,
    },
    /// All other addresses.
    World,
}

impl End {
    /// Whether it is everybody out there: the world, or a network that is all of a family.
    pub fn is_anybody(&self) -> bool {
        match self {
            End::World => true,
            End::Network { nets, .. } => nets.iter().any(|net| net.ends_with("/0")),
            End::Endpoint { .. } | End::Host => false,
        }
    }
}

/// Why connections change: the deciding rules at one end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Reason {
    /// `egress` at the source, `ingress` at the destination, `uplink` where a block list
    /// (`doNotTrack`) stops packets before they reach any endpoint.
    pub at: String,
    /// What decides before; absent if nothing is enforced there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<RuleName>,
    /// What decides after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<RuleName>,
}
