//! Validated policies: what the compiler and the reference evaluator read.
//!
//! Built only by `validate` from the wire types of `policy-api`; a value of these types is a
//! policy that can be enforced in full. Kinds differ no more here: a Kubernetes policy is a policy
//! of tier `default`, order 1000, whose rules all allow, and namespace scope is already part of
//! each selector.

use std::{cmp::Ordering, fmt};

use ipnet::IpNet;
pub use policy_common::abi::Direction;
use policy_common::abi::{Family, Pace};

use crate::selector::Selector;

/// Which resource a policy came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// `projectcalico.org/v3` GlobalNetworkPolicy.
    GlobalNetworkPolicy,
    /// `projectcalico.org/v3` NetworkPolicy.
    NetworkPolicy,
    /// `networking.k8s.io/v1` NetworkPolicy.
    KubernetesNetworkPolicy,
    /// `projectcalico.org/v3` StagedGlobalNetworkPolicy.
    StagedGlobalNetworkPolicy,
    /// `projectcalico.org/v3` StagedNetworkPolicy.
    StagedNetworkPolicy,
    /// `projectcalico.org/v3` StagedKubernetesNetworkPolicy.
    StagedKubernetesNetworkPolicy,
}

impl PolicyKind {
    /// Name in metrics, `explain` and the flow record.
    pub const fn name(self) -> &'static str {
        match self {
            PolicyKind::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            PolicyKind::NetworkPolicy => "NetworkPolicy",
            PolicyKind::KubernetesNetworkPolicy => "KubernetesNetworkPolicy",
            PolicyKind::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
            PolicyKind::StagedNetworkPolicy => "StagedNetworkPolicy",
            PolicyKind::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
        }
    }

    /// The kind of the policy that a staged one would become; others are that kind themselves.
    #[must_use]
    pub const fn enforced(self) -> PolicyKind {
        match self {
            PolicyKind::GlobalNetworkPolicy | PolicyKind::StagedGlobalNetworkPolicy => {
                PolicyKind::GlobalNetworkPolicy
            }
            PolicyKind::NetworkPolicy | PolicyKind::StagedNetworkPolicy => {
                PolicyKind::NetworkPolicy
            }
            PolicyKind::KubernetesNetworkPolicy | PolicyKind::StagedKubernetesNetworkPolicy => {
                PolicyKind::KubernetesNetworkPolicy
            }
        }
    }
}

/// Identity of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    /// Name within the namespace and kind.
    pub name: String,
    /// Namespace; empty for a global policy.
    pub namespace: String,
    /// Kind.
    pub kind: PolicyKind,
}

impl PolicyKey {
    /// The key of the policy that a staged one would become, or take away.
    #[must_use]
    pub fn enforced(&self) -> PolicyKey {
        PolicyKey { kind: self.kind.enforced(), ..self.clone() }
    }

    /// The key of the staged policy that would become this one, or take it away.
    #[must_use]
    pub fn staged(&self) -> PolicyKey {
        let kind = match self.kind.enforced() {
            PolicyKind::NetworkPolicy => PolicyKind::StagedNetworkPolicy,
            PolicyKind::KubernetesNetworkPolicy => PolicyKind::StagedKubernetesNetworkPolicy,
            _ => PolicyKind::StagedGlobalNetworkPolicy,
        };
        PolicyKey { kind, ..self.clone() }
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind.name(), self.name)
        } else {
            write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name)
        }
    }
}

/// A policy's or tier's `order`: a finite number, or absent, which sorts last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Order(pub Option<f64>);

impl Eq for Order {}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0, other.0) {
            // The sum makes -0 the 0 that it equals.
            (Some(a), Some(b)) => (a + 0.0).total_cmp(&(b + 0.0)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        }
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a staged policy would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StagedAction {
    /// Be in force, in place of the policy of its name if there is one.
    Set,
    /// Take away the policy of its name.
    Delete,
}

/// A policy, in force or staged.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Identity.
    pub key: PolicyKey,
    /// Tier, `default` if none was given.
    pub tier: String,
    /// Place within the tier; [`crate::tiers`] says what becomes of ties.
    pub order: Order,
    /// The endpoints that it applies to, namespace scope included.
    pub subject: Selector,
    /// Rules for traffic into the subject; `None` if the policy has no say on that direction.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for traffic out of the subject.
    pub egress: Option<Vec<Rule>>,
    /// `doNotTrack`: enforced at the uplink by XDP, not on endpoints.
    pub untracked: bool,
    /// How many flows each source may begin at the uplinks of an untracked policy.
    pub new_flows: Option<FlowLimit>,
    /// Which packets of a host endpoint it is about.
    pub reach: Reach,
    /// Never enforced: what it would do is computed and counted beside what is done.
    pub staged: Option<StagedAction>,
}

/// How many flows a source may begin. Both are at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowLimit {
    /// In each second, in the long run.
    pub per_second: u32,
    /// At once, after a rest.
    pub burst: u32,
}

impl fmt::Display for FlowLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} flows a second, {} at once after a rest", self.per_second, self.burst)
    }
}

impl FlowLimit {
    /// As the datapath goes by it.
    pub fn pace(self) -> Pace {
        let interval_ns = 1_000_000_000 / u64::from(self.per_second.max(1));
        Pace { interval_ns, burst_ns: interval_ns * u64::from(self.burst.max(1)) }
    }
}

/// Which packets of a host endpoint a policy is about. On containers it makes no difference, except
/// that a preDNAT policy has no say there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Those to and from processes of the host.
    #[default]
    Local,
    /// `applyOnForward`: those that the host passes on, too.
    Forward,
    /// `preDNAT`: all that come in, before their destination is translated.
    PreDnat,
}

impl Policy {
    /// The rules for one direction, `None` if the policy has no say on it.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The packet passes; nothing further is looked at.
    Allow,
    /// The packet is dropped; nothing further is looked at.
    Deny,
    /// The rest of the tier is skipped.
    Pass,
    /// The packet is counted and told of, and the next rule is looked at.
    Log,
}

/// One rule; a packet must meet every condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Index of the rule in its author's list. One rule of a Kubernetes policy becomes one here
    /// for each (protocol, peer), so several in a row may have the same.
    pub index: usize,
    /// What it does.
    pub action: Action,
    /// `ipVersion`.
    pub family: Option<Family>,
    /// `protocol` and `notProtocol`.
    pub protocol: ProtocolMatch,
    /// `icmp`: type, and code if one was given. Only with protocol ICMP or ICMPv6.
    pub icmp: Option<IcmpMatch>,
    /// `notICMP`.
    pub not_icmp: Option<IcmpMatch>,
    /// The packet's source.
    pub source: EntityMatch,
    /// The packet's destination.
    pub destination: EntityMatch,
}

/// Conditions on the IP protocol number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProtocolMatch {
    /// Must be this.
    pub is: Option<u8>,
    /// Must not be this.
    pub is_not: Option<u8>,
}

/// ICMP type, and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpMatch {
    /// Type, 0 to 254.
    pub kind: u8,
    /// Code; `None` matches every code.
    pub code: Option<u8>,
}

/// Conditions on one side of a packet; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EntityMatch {
    /// The side is an endpoint or in a network set that this selects. Namespace scope included.
    pub selector: Option<Selector>,
    /// The side is no endpoint and in no network set that this selects.
    pub not_selector: Option<Selector>,
    /// The address is in one of these; empty: no condition. Masked, sorted, distinct.
    pub nets: Vec<IpNet>,
    /// The address is in none of these.
    pub not_nets: Vec<IpNet>,
    /// The port is in one of these; empty: no condition.
    pub ports: Vec<PortMatch>,
    /// The port is in none of these.
    pub not_ports: Vec<PortMatch>,
}

impl EntityMatch {
    /// Whether there is no condition on who the side is (ports aside).
    pub fn matches_anyone(&self) -> bool {
        self.selector.is_none()
            && self.not_selector.is_none()
            && self.nets.is_empty()
            && self.not_nets.is_empty()
    }
}

/// A port condition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// From the first to the second, both included; the first is not above the second.
    Range(u16, u16),
    /// A name that each endpoint maps to a port of its own.
    Named(String),
}
