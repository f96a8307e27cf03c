//! `doNotTrack`: what a block list at the uplink can hold.
//!
//! Such a policy is enforced by XDP on source addresses alone, so everything else that a rule may
//! say is refused.

use policy_api::resource::calico::{EntityRule, GlobalNetworkPolicySpec, Rule};

use super::{calico::Directions, report::Report};

/// Checks a policy with `doNotTrack: true`.
pub(super) fn check(spec: &GlobalNetworkPolicySpec, types: Directions, report: &mut Report) {
    if spec.apply_on_forward != Some(true) {
        report.error(
            "spec.applyOnForward",
            "a doNotTrack policy needs `applyOnForward: true`",
            "add it: the policy meets forwarded packets as well",
        );
    }
    if spec.pre_dnat == Some(true) {
        report.error(
            "spec.preDNAT",
            "preDNAT and doNotTrack exclude each other",
            "remove one of them",
        );
    }
    if spec.namespace_selector.as_deref().is_some_and(|text| !text.is_empty()) {
        report.error(
            "spec.namespaceSelector",
            "a doNotTrack policy applies to uplinks, and no uplink is in a namespace",
            "name the uplinks by `selector`",
        );
    }
    if types.egress {
        let path = if spec.types.is_some() { "spec.types" } else { "spec.egress" };
        report.error(
            path,
            "Egress under doNotTrack is not supported yet",
            "write `types: [Ingress]`, and the egress rules in a policy without doNotTrack",
        );
    }
    for (index, rule) in spec.ingress.iter().flatten().enumerate() {
        check_rule(&format!("spec.ingress[{index}]"), rule, report);
    }
}

fn check_rule(path: &str, rule: &Rule, report: &mut Report) {
    if let Some(action @ ("Allow" | "Pass" | "Log")) = rule.action.as_deref() {
        report.error(
            &format!("{path}.action"),
            format!("{action} under doNotTrack is not supported yet"),
            "write Deny rules only; what no rule denies goes on to the other policies",
        );
    }
    let conditions = [
        ("ipVersion", rule.ip_version.is_some()),
        ("protocol", rule.protocol.is_some()),
        ("notProtocol", rule.not_protocol.is_some()),
        ("icmp", rule.icmp.is_some()),
        ("notICMP", rule.not_icmp.is_some()),
        (
            "destination",
            rule.destination.as_ref().is_some_and(|side| *side != EntityRule::default()),
        ),
    ];
    let absent = EntityRule::default();
    let source = rule.source.as_ref().unwrap_or(&absent);
    let text = |field: &Option<String>| field.as_deref().is_some_and(|text| !text.is_empty());
    let list = |field: &Option<Vec<String>>| field.as_ref().is_some_and(|list| !list.is_empty());
    let source_conditions = [
        ("source.notNets", list(&source.not_nets)),
        ("source.notSelector", text(&source.not_selector)),
        ("source.namespaceSelector", text(&source.namespace_selector)),
    ];
    for (field, _) in conditions.into_iter().chain(source_conditions).filter(|(_, given)| *given) {
        report.error(
            &format!("{path}.{field}"),
            format!("`{field}` under doNotTrack is not supported yet"),
            "name the denied sources by `source.nets` or `source.selector`, and nothing else",
        );
    }
    match (list(&source.nets), text(&source.selector)) {
        (true, false) | (false, true) => {}
        (true, true) => report.error(
            &format!("{path}.source"),
            "`nets` and `selector` together under doNotTrack are not supported yet",
            "write one rule for each",
        ),
        (false, false) => report.error(
            &format!("{path}.source"),
            "the rule would deny every packet that arrives at the uplink",
            "name the denied sources by `nets`, or by the `selector` of a GlobalNetworkSet",
        ),
    }
}
