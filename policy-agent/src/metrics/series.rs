//! Who a counter of the kernel is about: its key, in names.

use policy_api::{connectivity::DropCount, flow::FlowEnd, messages::RuleName};
use policy_common::abi::{
    Counter, Direction, DropKey, DropReason, OpenedKey, PEER_NONE, RULE_NONE,
};
use policy_core::peers::PeerName;
use serde::{Deserialize, Serialize};

use crate::{
    observer::{icmp, protocol_name},
    published::Published,
};

/// Between whom, and by which rule: labels of a series.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(super) direction: String,
    pub(super) source: String,
    pub(super) source_namespace: String,
    pub(super) destination: String,
    pub(super) destination_namespace: String,
    pub(super) protocol: String,
    pub(super) port: String,
    pub(super) tier: String,
    pub(super) policy_namespace: String,
    pub(super) policy: String,
    pub(super) rule: String,
}

/// The same of drops, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct DropSeries {
    pub(super) reason: String,
    #[serde(flatten)]
    pub(super) series: Series,
}

/// Series that may be told apart: one is the sum of those that may not.
pub(super) trait Bounded: Ord {
    /// The series that this one is summed under if there is no room for it.
    fn other(&self) -> Self;
}

impl Series {
    /// Names for a kernel key.
    pub(super) fn of(key: &OpenedKey, names: &Published) -> Series {
        let ingress = Direction::from_u8(key.direction) == Some(Direction::Ingress);
        let own = names.interface(key.ifindex);
        let peer = match key.peer {
            PEER_NONE => PeerName { namespace: String::new(), name: "unknown".to_owned() },
            id => names
                .ids
                .peer(id)
                .unwrap_or_else(|| PeerName { namespace: String::new(), name: "gone".to_owned() }),
        };
        let (source, destination) = if ingress { (peer, own) } else { (own, peer) };
        let rule = match key.rule {
            RULE_NONE => RuleName::default(),
            id => names
                .rule(id)
                .cloned()
                .unwrap_or_else(|| RuleName { rule: "gone".to_owned(), ..RuleName::default() }),
        };
        Series {
            direction: if ingress { "ingress" } else { "egress" }.to_owned(),
            source: source.name,
            source_namespace: source.namespace,
            destination: destination.name,
            destination_namespace: destination.namespace,
            protocol: if key.protocol == 0 { String::new() } else { protocol_name(key.protocol) },
            port: port(key),
            tier: rule.tier,
            policy_namespace: rule.namespace,
            policy: rule.policy,
            rule: rule.rule,
        }
    }

    /// The same by names that were looked up when there was somebody of them.
    pub(crate) fn named(
        key: &OpenedKey,
        own: &FlowEnd,
        other: &FlowEnd,
        rule: Option<&RuleName>,
    ) -> Series {
        let ingress = Direction::from_u8(key.direction) == Some(Direction::Ingress);
        let (source, destination) = if ingress { (other, own) } else { (own, other) };
        let rule = rule.cloned().unwrap_or_default();
        Series {
            direction: if ingress { "ingress" } else { "egress" }.to_owned(),
            source: source.name.clone(),
            source_namespace: source.namespace.clone(),
            destination: destination.name.clone(),
            destination_namespace: destination.namespace.clone(),
            protocol: protocol_name(key.protocol),
            port: port(key),
            tier: rule.tier,
            policy_namespace: rule.namespace,
            policy: rule.policy,
            rule: rule.rule,
        }
    }

    /// The series that sums what is not told apart.
    pub(super) fn rest() -> Series {
        let other = || "other".to_owned();
        Series {
            direction: other(),
            source: other(),
            destination: other(),
            protocol: other(),
            port: other(),
            rule: other(),
            ..Series::default()
        }
    }

    pub(crate) fn labels(&self) -> [(&'static str, &str); 11] {
        [
            ("direction", &self.direction),
            ("source", &self.source),
            ("source_namespace", &self.source_namespace),
            ("destination", &self.destination),
            ("destination_namespace", &self.destination_namespace),
            ("protocol", &self.protocol),
            ("port", &self.port),
            ("tier", &self.tier),
            ("policy_namespace", &self.policy_namespace),
            ("policy", &self.policy),
            ("rule", &self.rule),
        ]
    }
}

impl Bounded for Series {
    fn other(&self) -> Series {
        Series::rest()
    }
}

impl DropSeries {
    /// Names for a kernel key.
    pub(super) fn of(key: &DropKey, names: &Published) -> DropSeries {
        DropSeries {
            reason: DropReason::from_u8(key.reason).map_or("unknown", DropReason::name).to_owned(),
            series: Series::of(&key.parties(), names),
        }
    }

    /// The series that sums what is not told apart.
    pub(super) fn rest(reason: &str) -> DropSeries {
        DropSeries { reason: reason.to_owned(), series: Series::rest() }
    }

    pub(super) fn counted(self, Counter { packets, bytes }: Counter) -> DropCount {
        let DropSeries { reason, series } = self;
        DropCount {
            direction: series.direction,
            reason,
            source: series.source,
            source_namespace: series.source_namespace,
            destination: series.destination,
            destination_namespace: series.destination_namespace,
            protocol: series.protocol,
            port: series.port,
            tier: series.tier,
            policy_namespace: series.policy_namespace,
            policy: series.policy,
            rule: series.rule,
            packets,
            bytes,
        }
    }

    pub(super) fn labels(&self) -> Vec<(&'static str, &str)> {
        [("reason", self.reason.as_str())].into_iter().chain(self.series.labels()).collect()
    }
}

impl Bounded for DropSeries {
    fn other(&self) -> DropSeries {
        DropSeries::rest(&self.reason)
    }
}

/// A destination port; for ICMP type and code, as in `8/0`; empty where there is neither.
fn port(key: &OpenedKey) -> String {
    match icmp(key.protocol, key.port) {
        Some((kind, code)) => format!("{kind}/{code}"),
        None if key.port == 0 => String::new(),
        None => key.port.to_string(),
    }
}
