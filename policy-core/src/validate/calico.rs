//! `projectcalico.org/v3` NetworkPolicy and GlobalNetworkPolicy.

use policy_api::resource::{
    Kind, Object,
    calico::{GlobalNetworkPolicySpec, NetworkPolicySpec, Rule as Wire},
};
use serde_json::Value;

use super::{
    fields, forward, limit,
    names::{self, Reserved},
    report::{Report, says_nothing},
    rule::rules,
    staged::{self, IsStaged, no_list, no_text},
    tier, untracked,
};
use crate::{
    labels::{NAMESPACE_LABEL, NAMESPACE_PREFIX},
    policy::{Order, Policy, PolicyKey, PolicyKind, Reach},
    selector::Selector,
};

pub(super) fn network_policy(
    object: &Object<NetworkPolicySpec>,
    kind: IsStaged,
    report: &mut Report,
) -> Option<Policy> {
    let named = kind.choose(Kind::NetworkPolicy, Kind::StagedNetworkPolicy);
    let names = names::metadata(object.metadata.as_ref(), named, Reserved::Allow, report);
    let absent = NetworkPolicySpec::default();
    let spec = object.spec.as_ref().unwrap_or(&absent);
    let staged = staged::action(kind, spec.staged_action.as_deref(), only_namespaced(spec), report);
    let tier = tier::of_policy(spec.tier.as_deref(), report);
    common(spec.service_account_selector.as_ref(), spec.performance_hints.as_deref(), report);
    let selector = fields::selector("spec.selector", spec.selector.as_deref(), report);
    // For the scope of the rules any namespace will do if there is none to be had.
    let namespace = names.as_ref().map_or("", |(namespace, ..)| namespace);
    let ingress = rules("spec.ingress", spec.ingress.as_deref(), Some(namespace), report);
    let egress = rules("spec.egress", spec.egress.as_deref(), Some(namespace), report);
    let types = directions(
        spec.types.as_deref(),
        spec.ingress.as_deref(),
        spec.egress.as_deref(),
        Some(report),
    );

    let own = Selector::equal(NAMESPACE_LABEL, namespace);
    let subject = selector.unwrap_or_else(Selector::all).and(own);
    let (namespace, name, _) = names?;
    let tier = tier?;
    Some(Policy {
        key: PolicyKey {
            name,
            namespace,
            kind: kind.choose(PolicyKind::NetworkPolicy, PolicyKind::StagedNetworkPolicy),
        },
        tier,
        order: Order(spec.order),
        subject,
        ingress: types.ingress.then_some(ingress),
        egress: types.egress.then_some(egress),
        untracked: false,
        new_flows: None,
        reach: Reach::Local,
        staged,
    })
}

pub(super) fn global_network_policy(
    object: &Object<GlobalNetworkPolicySpec>,
    kind: IsStaged,
    report: &mut Report,
) -> Option<Policy> {
    let named = kind.choose(Kind::GlobalNetworkPolicy, Kind::StagedGlobalNetworkPolicy);
    let names = names::metadata(object.metadata.as_ref(), named, Reserved::Allow, report);
    let absent = GlobalNetworkPolicySpec::default();
    let spec = object.spec.as_ref().unwrap_or(&absent);
    let staged = staged::action(kind, spec.staged_action.as_deref(), only_global(spec), report);
    let tier = tier::of_policy(spec.tier.as_deref(), report);
    common(spec.service_account_selector.as_ref(), spec.performance_hints.as_deref(), report);
    let own = fields::selector("spec.selector", spec.selector.as_deref(), report);
    let namespaces =
        fields::selector("spec.namespaceSelector", spec.namespace_selector.as_deref(), report);
    let subject = match (own, namespaces) {
        (None, None) => Selector::all(),
        (Some(own), None) => own,
        (None, Some(namespaces)) => namespaces.on_namespace(NAMESPACE_PREFIX),
        // With a namespaceSelector, upstream takes `all()` in the selector as "in a namespace" too
        // (libcalico-go `globalnetworkpolicyprocessor.go`).
        (Some(own), Some(namespaces)) => {
            own.on_namespace("").and(namespaces.on_namespace(NAMESPACE_PREFIX))
        }
    };
    let ingress = rules("spec.ingress", spec.ingress.as_deref(), None, report);
    let egress = rules("spec.egress", spec.egress.as_deref(), None, report);
    let types = directions(
        spec.types.as_deref(),
        spec.ingress.as_deref(),
        spec.egress.as_deref(),
        Some(report),
    );
    let reach = forward::reach(spec, types, report);
    let is_untracked = spec.do_not_track == Some(true);
    if is_untracked && staged.is_some() {
        report.error(
            "spec.doNotTrack",
            "staged doNotTrack policies are not supported yet",
            "remove the field: what is staged is computed where connections are tracked",
        );
    }
    if spec.pre_dnat == Some(true) && staged.is_some() {
        report.error(
            "spec.preDNAT",
            "staged preDNAT policies are not supported yet",
            "remove the field: what is staged is computed with the policies that decide last",
        );
    }
    if is_untracked {
        untracked::check(spec, types, report);
    }

    // `metadata` has refused them on a staged policy.
    let in_force = object.metadata.as_ref().filter(|_| staged.is_none());
    let new_flows = limit::of(in_force, is_untracked, report);
    let (namespace, name, _) = names?;
    let tier = tier?;
    Some(Policy {
        key: PolicyKey {
            name,
            namespace,
            kind: kind
                .choose(PolicyKind::GlobalNetworkPolicy, PolicyKind::StagedGlobalNetworkPolicy),
        },
        tier,
        order: Order(spec.order),
        subject,
        ingress: types.ingress.then_some(ingress),
        egress: types.egress.then_some(egress),
        untracked: is_untracked,
        new_flows,
        reach,
        staged,
    })
}

/// What both kinds refuse alike.
fn common(service_accounts: Option<&Value>, hints: Option<&[String]>, report: &mut Report) {
    report.unsupported(
        "spec.serviceAccountSelector",
        service_accounts,
        "service accounts",
        "select the endpoints with `selector`",
    );
    let hints = hints.unwrap_or_default();
    for (index, hint) in hints.iter().enumerate() {
        const KNOWN: [&str; 1] = ["AssumeNeededOnEveryNode"];
        if !KNOWN.contains(&hint.as_str()) {
            let path = format!("spec.performanceHints[{index}]");
            fields::unknown_word(&path, "a performance hint", hint, &KNOWN, report);
        } else if hints.iter().take(index).any(|earlier| earlier == hint) {
            let path = format!("spec.performanceHints[{index}]");
            report.error(&path, format!("`{hint}` stands twice"), "remove one of the two");
        }
    }
}

/// Whether nothing but the tier and the staged action is said.
fn only_namespaced(spec: &NetworkPolicySpec) -> bool {
    let NetworkPolicySpec {
        staged_action: _,
        tier: _,
        order,
        selector,
        types,
        ingress,
        egress,
        service_account_selector,
        performance_hints,
    } = spec;
    order.is_none()
        && no_text(selector)
        && no_list(types)
        && no_list(ingress)
        && no_list(egress)
        && says_nothing(service_account_selector.as_ref())
        && no_list(performance_hints)
}

/// The same of a global policy.
fn only_global(spec: &GlobalNetworkPolicySpec) -> bool {
    let GlobalNetworkPolicySpec {
        staged_action: _,
        tier: _,
        order,
        selector,
        namespace_selector,
        types,
        ingress,
        egress,
        do_not_track,
        pre_dnat,
        apply_on_forward,
        service_account_selector,
        performance_hints,
    } = spec;
    order.is_none()
        && no_text(selector)
        && no_text(namespace_selector)
        && no_list(types)
        && no_list(ingress)
        && no_list(egress)
        && [do_not_track, pre_dnat, apply_on_forward].iter().all(|flag| **flag != Some(true))
        && says_nothing(service_account_selector.as_ref())
        && no_list(performance_hints)
}

/// The directions that a policy has a say on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Directions {
    pub(super) ingress: bool,
    pub(super) egress: bool,
}

/// `types`, and what upstream fills in when it is absent: Egress if there are egress rules only,
/// both if there are both, else Ingress.
pub(super) fn directions(
    types: Option<&[String]>,
    ingress: Option<&[Wire]>,
    egress: Option<&[Wire]>,
    report: Option<&mut Report>,
) -> Directions {
    let some = |rules: Option<&[Wire]>| rules.is_some_and(|rules| !rules.is_empty());
    match types {
        Some(types) => named_directions("spec.types", types, report),
        None => Directions { ingress: some(ingress) || !some(egress), egress: some(egress) },
    }
}

/// The directions that a list names.
pub(super) fn named_directions(
    path: &str,
    types: &[String],
    report: Option<&mut Report>,
) -> Directions {
    const KNOWN: [&str; 2] = ["Ingress", "Egress"];
    let mut unread = Report::default();
    let report = report.unwrap_or(&mut unread);
    let mut found = Directions::default();
    for (index, name) in types.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let direction = match name.as_str() {
            "Ingress" => &mut found.ingress,
            "Egress" => &mut found.egress,
            other => {
                fields::unknown_word(&path, "a policy type", other, &KNOWN, report);
                continue;
            }
        };
        if std::mem::replace(direction, true) {
            report.error(&path, format!("`{name}` stands twice"), "remove one of the two");
        }
    }
    if types.is_empty() {
        report.error(
            path,
            "the list is empty, so the policy would apply to no traffic",
            "write Ingress, Egress or both, or remove the field",
        );
    }
    found
}
