//! `projectcalico.org/v3`: specifications of the kinds that Palisade reads.
//!
//! Every field of upstream (calico `api/pkg/apis/projectcalico/v3`, libcalico-go
//! `lib/apis/internalapi/workloadendpoint.go`) is here by name, so that one that cannot be enforced
//! is refused as such and not as a spelling mistake; those have the type [`Value`]. Fields are
//! optional throughout: `null` and absence are the same upstream, and what is required is checked
//! with the meaning.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::metadata::IntOrString;

/// `NetworkPolicy.spec` and `StagedNetworkPolicy.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "a mapping")]
pub struct NetworkPolicySpec {
    /// `Set` or `Delete`; of staged policies only.
    pub staged_action: Option<String>,
    /// Tier; absent means `default`.
    pub tier: Option<String>,
    /// Place in the tier; absent means last.
    pub order: Option<f64>,
    /// Endpoints of the namespace that the policy applies to; absent or empty means all.
    pub selector: Option<String>,
    /// `Ingress`, `Egress`.
    pub types: Option<Vec<String>>,
    /// Rules for traffic into the endpoints.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for traffic out of the endpoints.
    pub egress: Option<Vec<Rule>>,
    /// Not supported.
    pub service_account_selector: Option<Value>,
    /// A hint about what to program ahead of need; no effect on verdicts.
    pub performance_hints: Option<Vec<String>>,
}

/// `GlobalNetworkPolicy.spec` and `StagedGlobalNetworkPolicy.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "a mapping")]
pub struct GlobalNetworkPolicySpec {
    /// `Set` or `Delete`; of staged policies only.
    pub staged_action: Option<String>,
    /// Tier; absent means `default`.
    pub tier: Option<String>,
    /// Place in the tier; absent means last.
    pub order: Option<f64>,
    /// Endpoints that the policy applies to; absent or empty means all.
    pub selector: Option<String>,
    /// Restricts the policy to endpoints in these namespaces.
    pub namespace_selector: Option<String>,
    /// `Ingress`, `Egress`.
    pub types: Option<Vec<String>>,
    /// Rules for traffic into the endpoints.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for traffic out of the endpoints.
    pub egress: Option<Vec<Rule>>,
    /// Enforced at the uplink, before connection tracking.
    pub do_not_track: Option<bool>,
    /// Enforced on host endpoints as packets come in, before their destination is translated.
    #[serde(rename = "preDNAT")]
    pub pre_dnat: Option<bool>,
    /// Applies to forwarded traffic too.
    pub apply_on_forward: Option<bool>,
    /// Not supported.
    pub service_account_selector: Option<Value>,
    /// A hint about what to program ahead of need; no effect on verdicts.
    pub performance_hints: Option<Vec<String>>,
}

/// `Tier.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "a mapping")]
pub struct TierSpec {
    /// Place among the tiers; absent means that of the tier `default`.
    pub order: Option<f64>,
    /// `Deny` or `Pass`; absent means Deny.
    pub default_action: Option<String>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "a rule with `action`")]
pub struct Rule {
    /// `Allow`, `Deny`, `Log`, `Pass`.
    pub action: Option<String>,
    /// 4 or 6.
    pub ip_version: Option<i64>,
    /// Name, or number from 1 to 255.
    pub protocol: Option<IntOrString>,
    /// Name, or number from 1 to 255.
    pub not_protocol: Option<IntOrString>,
    /// ICMP type and code.
    pub icmp: Option<Icmp>,
    /// ICMP type and code.
    #[serde(rename = "notICMP")]
    pub not_icmp: Option<Icmp>,
    /// The sender.
    pub source: Option<EntityRule>,
    /// The receiver.
    pub destination: Option<EntityRule>,
    /// Not supported.
    pub http: Option<Value>,
    /// No effect.
    pub metadata: Option<RuleMetadata>,
}

/// `icmp` and `notICMP` of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping with `type` and `code`")]
pub struct Icmp {
    /// 0 to 254.
    pub r#type: Option<i64>,
    /// 0 to 255.
    pub code: Option<i64>,
}

/// `metadata` of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping with `annotations`")]
pub struct RuleMetadata {
    /// Free text; no effect.
    pub annotations: Option<BTreeMap<String, String>>,
}

/// `source` or `destination` of a rule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "a mapping")]
pub struct EntityRule {
    /// CIDRs.
    pub nets: Option<Vec<String>>,
    /// CIDRs.
    pub not_nets: Option<Vec<String>>,
    /// Endpoints and network sets.
    pub selector: Option<String>,
    /// Endpoints and network sets.
    pub not_selector: Option<String>,
    /// Namespaces of the endpoints.
    pub namespace_selector: Option<String>,
    /// Ports.
    pub ports: Option<Vec<IntOrString>>,
    /// Ports.
    pub not_ports: Option<Vec<IntOrString>>,
    /// Not supported.
    pub services: Option<Value>,
    /// Not supported.
    pub service_accounts: Option<Value>,
}

/// `spec` of a NetworkSet or GlobalNetworkSet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "a mapping with `nets`")]
pub struct NetworkSetSpec {
    /// CIDRs and addresses.
    pub nets: Option<Vec<String>>,
    /// Calico Enterprise's domain names; not supported.
    pub allowed_egress_domains: Option<Value>,
}

/// `WorkloadEndpoint.spec`.
///
/// `orchestrator`, `workload`, `node`, `containerID`, `pod`, `endpoint` and `serviceAccountName` are
/// names that upstream forms the resource's name from; they are accepted and have no effect.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "a mapping")]
pub struct WorkloadEndpointSpec {
    /// No effect.
    pub orchestrator: Option<String>,
    /// No effect.
    pub workload: Option<String>,
    /// No effect.
    pub node: Option<String>,
    /// No effect.
    #[serde(rename = "containerID")]
    pub container_id: Option<String>,
    /// No effect.
    pub pod: Option<String>,
    /// No effect.
    pub endpoint: Option<String>,
    /// No effect.
    pub service_account_name: Option<String>,
    /// Host-side interface.
    pub interface_name: Option<String>,
    /// Its addresses.
    pub ip_networks: Option<Vec<String>>,
    /// Its MAC address.
    pub mac: Option<String>,
    /// Its named ports.
    pub ports: Option<Vec<WorkloadEndpointPort>>,
    /// Not supported.
    #[serde(rename = "ipNATs")]
    pub ip_nats: Option<Value>,
    /// Not supported.
    pub ipv4_gateway: Option<Value>,
    /// Not supported.
    pub ipv6_gateway: Option<Value>,
    /// Not supported.
    pub profiles: Option<Value>,
    /// Not supported.
    pub allow_spoofed_source_prefixes: Option<Value>,
    /// Not supported.
    pub qos_controls: Option<Value>,
}

/// A named port of a WorkloadEndpoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "camelCase",
    expecting = "a mapping with `name`, `protocol` and `port`"
)]
pub struct WorkloadEndpointPort {
    /// Name that policies use.
    pub name: Option<String>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Option<IntOrString>,
    /// Port, 1 to 65535.
    pub port: Option<i64>,
    /// Not supported.
    pub host_port: Option<Value>,
    /// Not supported.
    #[serde(rename = "hostIP")]
    pub host_ip: Option<Value>,
}

/// `HostEndpoint.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "a mapping")]
pub struct HostEndpointSpec {
    /// The host that it is about.
    pub node: Option<String>,
    /// Interface, or `*` for all that no other HostEndpoint of the host is about.
    pub interface_name: Option<String>,
    /// Addresses: of the interface if none is named, and of what selectors of rules match.
    #[serde(rename = "expectedIPs")]
    pub expected_ips: Option<Vec<String>>,
    /// `projectcalico-default-allow`, or none.
    pub profiles: Option<Vec<String>>,
    /// Its named ports.
    pub ports: Option<Vec<EndpointPort>>,
}

/// A named port of a HostEndpoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "camelCase",
    expecting = "a mapping with `name`, `protocol` and `port`"
)]
pub struct EndpointPort {
    /// Name that policies use.
    pub name: Option<String>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Option<IntOrString>,
    /// Port, 1 to 65535.
    pub port: Option<i64>,
}
