//! What is said of rules without a look at the packets, against a look at the packets.

use std::sync::Arc;

use policy_common::abi::Direction;

use super::*;
use crate::{
    evaluate::{Packet, evaluate},
    identity,
    model::Model,
    names,
    testing::{ADDRESSES, SERVICES, ip, random_model},
};

/// The names of rules that decide some packet of the small world.
fn deciding(model: &Model) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (id, endpoint) in &model.endpoints {
        for own in identity::own_addresses(endpoint) {
            for remote in ADDRESSES.map(ip).into_iter().filter(|it| it.is_ipv4() == own.is_ipv4()) {
                for (direction, source, destination) in
                    [(Direction::Ingress, remote, own), (Direction::Egress, own, remote)]
                {
                    for (protocol, port) in SERVICES {
                        let packets = [1024, 53].map(|source_port| Packet {
                            source,
                            destination,
                            protocol,
                            source_port,
                            port,
                        });
                        for packet in packets {
                            let decision = evaluate(model, &packet, direction, id).unwrap();
                            found.insert((decision.rule.policy, decision.rule.rule));
                        }
                    }
                }
            }
        }
    }
    found
}

/// One policy with the rules of all, so that more of them meet.
fn one_policy(mut model: Model) -> Model {
    let mut all: Vec<Arc<Policy>> = model.policies.values().cloned().collect();
    model.policies = Default::default();
    let Some(first) = all.pop() else { return model };
    let mut policy = (*first).clone();
    // What is staged decides nothing.
    (policy.key, policy.staged) = (policy.key.enforced(), None);
    for rules in [&mut policy.ingress, &mut policy.egress] {
        let others = all.iter().flat_map(|other| other.ingress.iter().chain(&other.egress));
        let mut together: Vec<_> =
            rules.iter().flatten().chain(others.flatten()).cloned().collect();
        for (index, rule) in together.iter_mut().enumerate() {
            rule.index = index;
        }
        *rules = Some(together);
    }
    crate::testing::add_policy(&mut model, policy);
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_rule_that_is_called_dead_decides_no_packet(model in random_model()) {
        let model = one_policy(model);
        let deciding = deciding(&model);
        for policy in model.policies.values() {
            let mut warnings = Vec::new();
            warnings::dead_rules(policy, |_, _| None, 1_000_000, &mut warnings);
            for warning in warnings {
                let path = warning.path.strip_prefix("spec.").unwrap();
                // One that is about all rules of a direction calls none dead.
                let Some(end) = path.find(']') else { continue };
                let name = (policy.key.name.clone(), path[..=end].to_owned());
                prop_assert!(!deciding.contains(&name), "{warning}\n{:#?}", policy);
            }
        }
        // The names that are looked for are those that decisions have.
        let known = |rule: &(String, String)| {
            rule.0.is_empty() || model.policies.values().any(|policy| {
                [Direction::Ingress, Direction::Egress].into_iter().any(|way| {
                    policy.rules(way).unwrap_or_default().iter().any(|it| {
                        names::of_rule(policy, way, it).rule == rule.1
                    })
                })
            })
        };
        prop_assert!(deciding.iter().all(known));
    }
}
