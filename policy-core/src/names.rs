//! The names of rules, the defaults among them.
//!
//! In: a policy and the place of a rule in it. Out: [`RuleName`], as metrics, flow records and
//! `explain` show it.

use policy_api::messages::RuleName;
use policy_common::abi::Direction;

use crate::{
    model::DefaultAction,
    policy::{Action, Policy, Rule},
};

/// `ingress` or `egress`.
pub const fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// `allow`, `deny`; or `pass` and `log`, which decide no packet.
const fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Pass => "pass",
        Action::Log => "log",
    }
}

/// Protocols that policies call by a name, spelled as upstream spells them (calico
/// `numorstring.Protocol`), with their numbers (IANA).
pub const PROTOCOLS: [(&str, u8); 6] =
    [("TCP", 6), ("UDP", 17), ("ICMP", 1), ("ICMPv6", 58), ("SCTP", 132), ("UDPLite", 136)];

/// Name of a protocol, or its number in digits.
pub fn protocol(number: u8) -> String {
    PROTOCOLS
        .iter()
        .find(|(_, known)| *known == number)
        .map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// Number of a protocol that [`protocol`] named.
pub fn protocol_number(name: &str) -> Option<u8> {
    let named = PROTOCOLS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    named.or_else(|| name.parse().ok())
}

/// A rule of a policy.
pub fn of_rule(policy: &Policy, way: Direction, rule: &Rule) -> RuleName {
    RuleName {
        tier: policy.tier.clone(),
        namespace: policy.key.namespace.clone(),
        kind: policy.key.kind.name().to_owned(),
        policy: policy.key.name.clone(),
        rule: format!("{}[{}]", direction(way), rule.index),
        action: action(rule.action).to_owned(),
    }
}

/// The limit of new flows that an untracked policy sets.
pub fn new_flows(policy: &Policy) -> RuleName {
    RuleName {
        tier: policy.tier.clone(),
        namespace: policy.key.namespace.clone(),
        kind: policy.key.kind.name().to_owned(),
        policy: policy.key.name.clone(),
        rule: "new-flows".to_owned(),
        action: action(Action::Deny).to_owned(),
    }
}

/// Policies of the tier apply, and none of their rules matched.
pub fn tier_default(tier: &str) -> RuleName {
    RuleName {
        tier: tier.to_owned(),
        rule: "tier-default".to_owned(),
        action: "deny".to_owned(),
        ..RuleName::default()
    }
}

/// No policy applies, or the last tier passed the packet on.
pub fn endpoint_default(default: DefaultAction) -> RuleName {
    let action = match default {
        DefaultAction::Allow => "allow",
        DefaultAction::Deny => "deny",
    };
    RuleName {
        rule: "endpoint-default".to_owned(),
        action: action.to_owned(),
        ..RuleName::default()
    }
}

/// The setting that lets the host into every endpoint.
pub fn host_access() -> RuleName {
    allowing("host-access")
}

fn allowing(rule: &str) -> RuleName {
    RuleName { rule: rule.to_owned(), action: "allow".to_owned(), ..RuleName::default() }
}

/// No policy with `applyOnForward` applies at a host endpoint, or the last tier passed the packet on.
pub fn forward_default() -> RuleName {
    allowing("forward-default")
}

/// No `preDNAT` policy decides: the others are asked.
pub fn undecided() -> RuleName {
    RuleName {
        rule: "pre-dnat-default".to_owned(),
        action: "pass".to_owned(),
        ..RuleName::default()
    }
}

/// A port that host endpoints leave open, whatever policy says.
pub fn failsafe() -> RuleName {
    allowing("failsafe")
}
