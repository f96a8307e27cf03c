//! Who a drop counter is about: a kernel's key, in names.

use policy_api::{connectivity::DropCount, messages::RuleName};
use policy_common::abi::{Counter, Direction, DropKey, DropReason, PEER_NONE, RULE_NONE};
use policy_core::peers::PeerName;
use serde::{Deserialize, Serialize};

use crate::{
    observer::{icmp, protocol_name},
    published::Published,
};

/// Labels of a drop series.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DropSeries {
    pub(super) direction: String,
    pub(super) reason: String,
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

impl DropSeries {
    /// Names for a kernel key.
    pub(super) fn of(key: &DropKey, names: &Published) -> DropSeries {
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
        DropSeries {
            direction: if ingress { "ingress" } else { "egress" }.to_owned(),
            reason: DropReason::from_u8(key.reason).map_or("unknown", DropReason::name).to_owned(),
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

    /// The series that sums what is not told apart.
    pub(super) fn other(reason: &str) -> DropSeries {
        let other = || "other".to_owned();
        DropSeries {
            direction: other(),
            reason: reason.to_owned(),
            source: other(),
            destination: other(),
            protocol: other(),
            port: other(),
            rule: other(),
            ..DropSeries::default()
        }
    }

    pub(super) fn counted(self, Counter { packets, bytes }: Counter) -> DropCount {
        DropCount {
            direction: self.direction,
            reason: self.reason,
            source: self.source,
            source_namespace: self.source_namespace,
            destination: self.destination,
            destination_namespace: self.destination_namespace,
            protocol: self.protocol,
            port: self.port,
            tier: self.tier,
            policy_namespace: self.policy_namespace,
            policy: self.policy,
            rule: self.rule,
            packets,
            bytes,
        }
    }

    pub(super) fn labels(&self) -> [(&'static str, &str); 12] {
        [
            ("direction", &self.direction),
            ("reason", &self.reason),
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

/// A destination port; for ICMP type and code, as in `8/0`; empty where there is neither.
fn port(key: &DropKey) -> String {
    match icmp(key.protocol, key.port) {
        Some((kind, code)) => format!("{kind}/{code}"),
        None if key.port == 0 => String::new(),
        None => key.port.to_string(),
    }
}
