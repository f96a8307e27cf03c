//! `applyOnForward` and `preDNAT`: what policies on forwarded packets can say.
//!
//! They are enforced on the uplink. Of a packet that the host passes on, what is certain there is the
//! far side: the destination of what comes in is not translated yet, and the source of what
//! goes out is translated already (masqueraded, as Docker does it). Felix asks between the two
//! translations, in the kernel's FORWARD chain, and so knows both sides; here a decision is by the far
//! side alone. Conditions on the near side are therefore refused, numbers of ports aside, which are
//! known for ports that are published. Nothing is lost by it: a policy on the container meets the same
//! packets, with both sides as they are.

use policy_api::resource::{
    IntOrString,
    calico::{EntityRule, GlobalNetworkPolicySpec, Rule},
};

use super::{calico::Directions, report::Report};
use crate::policy::Reach;

/// Reads the two fields, and checks the rest of a policy that uses them.
pub(super) fn reach(
    spec: &GlobalNetworkPolicySpec,
    types: Directions,
    report: &mut Report,
) -> Reach {
    let forward = spec.apply_on_forward == Some(true);
    let untracked = spec.do_not_track == Some(true);
    let reach = match spec.pre_dnat {
        Some(true) => Reach::PreDnat,
        Some(false) | None if forward => Reach::Forward,
        Some(false) | None => Reach::Local,
    };
    if reach == Reach::PreDnat {
        if !forward {
            report.error(
                "spec.applyOnForward",
                "a preDNAT policy needs `applyOnForward: true`",
                "add it: the policy meets forwarded packets as well",
            );
        }
        if types.egress {
            let path = if spec.types.is_some() { "spec.types" } else { "spec.egress" };
            report.error(
                path,
                "a preDNAT policy has no say on egress",
                "write `types: [Ingress]`, and the egress rules in a policy without preDNAT",
            );
        }
    }
    if reach == Reach::PreDnat {
        let logs = |rule: &Rule| rule.action.as_deref() == Some("Log");
        for (index, _) in spec.ingress.iter().flatten().enumerate().filter(|(_, rule)| logs(rule)) {
            report.error(
                &format!("spec.ingress[{index}].action"),
                "Log under preDNAT is not supported yet",
                "write the Log rule in a policy with applyOnForward and without preDNAT",
            );
        }
    }
    // Their own rules are stricter.
    if reach != Reach::Local && !untracked {
        let field = if reach == Reach::PreDnat { "preDNAT" } else { "applyOnForward" };
        for (index, rule) in spec.ingress.iter().flatten().enumerate() {
            let path = format!("spec.ingress[{index}].destination");
            near(&path, field, rule.destination.as_ref(), Side::Destination, report);
        }
        for (index, rule) in spec.egress.iter().flatten().enumerate() {
            let path = format!("spec.egress[{index}].source");
            near(&path, field, rule.source.as_ref(), Side::Source, report);
        }
    }
    reach
}

/// Which end of the packet the near side is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

fn near(path: &str, field: &str, side: Option<&EntityRule>, which: Side, report: &mut Report) {
    let Some(side) = side else { return };
    let text = |field: &Option<String>| field.as_deref().is_some_and(|text| !text.is_empty());
    let list = |field: &Option<Vec<String>>| field.as_ref().is_some_and(|list| !list.is_empty());
    let conditions = [
        ("nets", list(&side.nets)),
        ("notNets", list(&side.not_nets)),
        ("selector", text(&side.selector)),
        ("notSelector", text(&side.not_selector)),
        ("namespaceSelector", text(&side.namespace_selector)),
    ];
    let (why, instead) = match which {
        Side::Destination => (
            "the uplink is asked before the destination is translated",
            "write an ingress policy without applyOnForward that selects the containers: it meets \
             forwarded packets, too, with the client's own address; for a port of the host, write \
             preDNAT with `destination.ports`",
        ),
        Side::Source => (
            "the uplink is asked after the source was translated",
            "write an egress policy without applyOnForward that selects the containers: it meets \
             forwarded packets, too",
        ),
    };
    for (condition, _) in conditions.into_iter().filter(|(_, given)| *given) {
        report.error(
            &format!("{path}.{condition}"),
            format!("`{condition}` of the near side under {field} cannot be enforced: {why}"),
            instead,
        );
    }
    for (name, ports) in [("ports", &side.ports), ("notPorts", &side.not_ports)] {
        for (index, port) in ports.iter().flatten().enumerate() {
            let refused = match which {
                Side::Source => Some((
                    "source ports of what goes out",
                    "write them in an egress policy that \
                    selects the containers, without applyOnForward",
                )),
                Side::Destination => named(port).then_some((
                    "named ports of the near side",
                    "write the number, or an ingress policy that selects the containers, without \
                     applyOnForward",
                )),
            };
            if let Some((what, instead)) = refused {
                report.error(
                    &format!("{path}.{name}[{index}]"),
                    format!("{what} under {field} cannot be enforced: {why}"),
                    instead,
                );
            }
        }
    }
}

fn named(port: &IntOrString) -> bool {
    match port {
        IntOrString::Int(_) => false,
        IntOrString::String(text) => {
            !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b':')
        }
    }
}
