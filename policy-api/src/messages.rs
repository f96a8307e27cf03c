//! Requests and answers of the agent's API: HTTP/1.1 with JSON bodies over a Unix socket.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /v1/apply` | [`ApplyRequest`] | [`ApplyResponse`], 422 with [`Refusal`] |
//! | `POST /v1/delete` | [`DeleteRequest`] | [`DeleteResponse`], 404 or 422 with [`Refusal`] |
//! | `POST /v1/diff` | [`DiffRequest`](crate::difference::DiffRequest) | [`Difference`](crate::difference::Difference), 422 with [`Refusal`] |
//! | `GET /v1/resources?kind=&namespace=&name=` | | `Vec<StoredResource>` |
//! | `GET /v1/endpoints` | | `Vec<EndpointStatus>` |
//! | `GET /v1/status` | | [`Status`] |
//! | `GET /v1/rules?tier=&namespace=&policy=` | | `Vec<RuleCount>` |
//! | `GET /v1/connectivity?staged=` | | [`Connectivity`](crate::connectivity::Connectivity) |
//! | `GET /v1/drops` | | `Vec<`[`DropCount`](crate::connectivity::DropCount)`>` |
//! | `GET /v1/capture?what=&snap=&filter=` | | lines: [`Captured`](crate::capture::Captured) until it is closed, 409 while another is open |
//! | `POST /v1/explain` | [`ExplainRequest`] | [`Explanation`], 404 or 422 with [`Refusal`] |
//! | `GET /v1/observe?follow=&last=&filter=` | | lines: [`FlowRecord`](crate::flow::FlowRecord), or [`Observed::Lost`](crate::flow::Observed::Lost); `filter` is a [`FlowFilter`](crate::flow::FlowFilter) |
//!
//! Every answer that is not 2xx carries a [`Refusal`].

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::diagnostic::Diagnostic;

/// Resources to add or replace, all or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The resources as their author wrote them; the agent validates every field itself.
    pub resources: Vec<serde_json::Value>,
    /// Validate and compile only.
    #[serde(default)]
    pub dry_run: bool,
}

/// What happened to one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is new.
    Created,
    /// It replaced another version of itself.
    Configured,
    /// It was there already, field for field.
    Unchanged,
    /// It is gone.
    Deleted,
}

/// Name of a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceName {
    /// `apiVersion`, such as `projectcalico.org/v3`.
    pub api_version: String,
    /// `kind`, such as `NetworkPolicy`.
    pub kind: String,
    /// Namespace; `None` for kinds that have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
}

/// One line of an answer to apply or delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceResult {
    /// Which resource.
    #[serde(flatten)]
    pub resource: ResourceName,
    /// What happened to it.
    pub outcome: Outcome,
}

/// Answer to [`ApplyRequest`]; sent when the datapath holds the new policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyResponse {
    /// One per resource, in the order of the request.
    pub results: Vec<ResourceResult>,
    /// Endpoints whose decision tables changed.
    pub endpoints_changed: usize,
    /// Endpoints that the agent enforces on.
    pub endpoints_total: usize,
    /// Datapath revision that holds the change.
    pub revision: u64,
    /// Things that are accepted but look wrong.
    #[serde(default)]
    pub warnings: Vec<Diagnostic>,
}

/// Resources to remove, all or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteRequest {
    /// Which.
    pub resources: Vec<ResourceName>,
    /// Do not refuse when one of them does not exist.
    #[serde(default)]
    pub ignore_not_found: bool,
}

/// Answer to [`DeleteRequest`].
pub type DeleteResponse = ApplyResponse;

/// Why a request was not carried out. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// One sentence.
    pub error: String,
    /// What is wrong where, all of it.
    #[serde(default)]
    pub diagnostics: Vec<Diagnostic>,
}

/// A resource in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredResource {
    /// Its name.
    #[serde(flatten)]
    pub name: ResourceName,
    /// As it was applied, defaults not filled in.
    pub resource: serde_json::Value,
    /// Endpoints that it selects now.
    pub endpoints: usize,
}

/// Where an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// Fenced, identity not known yet: everything is dropped.
    Pending,
    /// Its policy holds.
    Enforcing,
    /// Nothing holds its traffic: `note` says why.
    Unsupported,
    /// No endpoint of its own: another's, a HostEndpoint or nothing at all stands between it and
    /// the network, as `note` says.
    Elsewhere,
}

/// A port that an endpoint gives a name to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// Name.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Port.
    pub port: u16,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Container or resource name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Docker network, or the empty string for a static endpoint.
    #[serde(default)]
    pub network: String,
    /// Name of its interface, host-side if that has a side on the host.
    #[serde(default)]
    pub interface: String,
    /// That one's index, in the network namespace that it is in.
    pub ifindex: u32,
    /// Own addresses.
    pub addresses: Vec<IpAddr>,
    /// Effective labels, sorted; those of its namespace left out.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Named ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EndpointPort>,
    /// Where it stands.
    pub state: EndpointState,
    /// Why it is not enforcing, if it is not; else what else there is to know of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Policies that apply to traffic into it, in order, as `tier/namespace/name`.
    pub ingress_policies: Vec<String>,
    /// Policies that apply to traffic out of it, in order.
    pub egress_policies: Vec<String>,
}

/// State of one part of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// `docker`, `datapath`, `store`, ...
    pub name: String,
    /// Whether it works.
    pub healthy: bool,
    /// One line about it.
    pub detail: String,
}

/// How full one BPF map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapUsage {
    /// Name.
    pub name: String,
    /// Entries in use.
    pub used: u64,
    /// Entries that fit.
    pub capacity: u64,
}

/// Answer to `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Version of the kernel ABI.
    pub abi_version: u32,
    /// Datapath revision.
    pub revision: u64,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// Default action for endpoints that no policy selects: `allow` or `deny`.
    pub default_action: String,
    /// Policies in force.
    pub policies: usize,
    /// Endpoints by state.
    pub endpoints_enforcing: usize,
    /// Endpoints by state.
    pub endpoints_pending: usize,
    /// Endpoints by state.
    pub endpoints_unsupported: usize,
    /// Endpoints by state.
    #[serde(default)]
    pub endpoints_elsewhere: usize,
    /// Parts of the agent.
    pub components: Vec<Component>,
    /// Kernel features that were probed: name and what is in use.
    pub features: Vec<(String, String)>,
    /// Map usage.
    pub maps: Vec<MapUsage>,
}

/// "May `source` open a connection to `destination`?"
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// Endpoint name (`name` or `namespace/name`) or IP address.
    pub source: String,
    /// Endpoint name or IP address.
    pub destination: String,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; ICMP: `type << 8 | code`.
    pub port: u16,
    /// Source port; `None`: one as systems choose it for outgoing connections
    /// ([`EPHEMERAL_PORT`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
}

/// The source port that stands for any which a system chooses: the first of the dynamic ports
/// (RFC 6335, section 6).
pub const EPHEMERAL_PORT: u16 = 49_152;

/// Allow or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The packet passes.
    Allow,
    /// The packet is dropped.
    Deny,
}

/// The decision at one end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndDecision {
    /// `egress` at the source, `ingress` at the destination.
    pub direction: String,
    /// `namespace/name` of the endpoint, or `None` if that end is not an endpoint of this host.
    pub endpoint: Option<String>,
    /// What happens there.
    pub verdict: Verdict,
    /// The deciding rule.
    pub rule: RuleName,
    /// The walk: one line for each tier, policy and rule that was looked at, in order.
    pub walk: Vec<String>,
    /// The Log rules that the walk came past.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logged: Vec<RuleName>,
    /// What would be decided if every staged policy were in force; absent if none of them changes
    /// what applies here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<StagedDecision>,
}

/// The verdict that staged policies would give, and the rule that would decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedVerdict {
    /// What would happen.
    pub verdict: Verdict,
    /// The rule that would decide.
    pub rule: RuleName,
}

/// The decision that staged policies would make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedDecision {
    /// What would happen.
    pub verdict: Verdict,
    /// The rule that would decide.
    pub rule: RuleName,
    /// The walk past the policies that would be in force.
    pub walk: Vec<String>,
}

/// Answer to [`ExplainRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Deny if either end denies.
    pub verdict: Verdict,
    /// Address family pairs that were decided: one entry for each (v4, v6) that both ends have.
    pub paths: Vec<ExplainedPath>,
}

/// One pair of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedPath {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Deny if either end denies.
    pub verdict: Verdict,
    /// Source end first.
    pub ends: Vec<EndDecision>,
}

/// Human name of a rule; also the labels of its metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleName {
    /// Tier; empty where no policy decided.
    pub tier: String,
    /// Namespace of the policy; empty for a global one.
    pub namespace: String,
    /// `NetworkPolicy`, `GlobalNetworkPolicy`, `KubernetesNetworkPolicy`, or one of these behind
    /// `Staged`; empty for a default.
    pub kind: String,
    /// Name of the policy; empty for a default.
    pub policy: String,
    /// `ingress[2]`, or the name of the default: `tier-default` (no rule of the policies that
    /// select the endpoint matched), `endpoint-default` (no policy selects it), `host-access`.
    pub rule: String,
    /// `allow` or `deny`; `log` for a rule that only tells.
    pub action: String,
}

/// What a rule, or the default at the end of a tier, has decided. A rule that no endpoint's policy
/// holds is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCount {
    /// Which.
    #[serde(flatten)]
    pub rule: RuleName,
    /// Packets that it allowed, denied or logged since it is in the datapath, restarts of the agent
    /// included; 0 for a staged rule, which does nothing.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// New flows that it would decide if the staged policies were in force.
    #[serde(default)]
    pub staged: StagedFlows,
}

/// New flows that a rule would decide if the staged policies were in force, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFlows {
    /// They were allowed.
    pub allowed: u64,
    /// They were denied.
    pub denied: u64,
}
