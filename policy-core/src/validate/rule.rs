//! A rule of a Calico policy.

use policy_api::resource::calico::{Icmp, Rule as Wire};
use policy_common::abi::Family;

use super::{
    entity::{Ports, Scope, entity},
    fields::{self, ICMP, ICMPV6},
    names,
    report::Report,
    sizes,
};
use crate::policy::{Action, EntityMatch, IcmpMatch, ProtocolMatch, Rule};

/// Rules of one direction; those that are wrong are left out and reported.
pub(super) fn rules(
    path: &str,
    rules: Option<&[Wire]>,
    namespace: Option<&str>,
    report: &mut Report,
) -> Vec<Rule> {
    let rules = rules.unwrap_or_default();
    sizes::RULES.check(path, rules.len(), report);
    rules
        .iter()
        .enumerate()
        .filter_map(|(index, wire)| {
            rule(&format!("{path}[{index}]"), index, wire, namespace, report)
        })
        .collect()
}

fn rule(
    path: &str,
    index: usize,
    wire: &Wire,
    namespace: Option<&str>,
    report: &mut Report,
) -> Option<Rule> {
    let at = |field: &str| format!("{path}.{field}");
    let action = action(&at("action"), wire.action.as_deref(), report);
    report.unsupported(
        &at("http"),
        wire.http.as_ref(),
        "HTTP conditions",
        "match protocol TCP and the destination's ports",
    );
    let annotations = wire.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
    names::annotations(&at("metadata.annotations"), annotations, &[], report);

    let family = ip_version(&at("ipVersion"), wire.ip_version, report);
    let is = wire
        .protocol
        .as_ref()
        .and_then(|protocol| fields::protocol(&at("protocol"), protocol, report));
    let is_not = wire
        .not_protocol
        .as_ref()
        .and_then(|protocol| fields::protocol(&at("notProtocol"), protocol, report));
    for (field, protocol) in [("protocol", is), ("notProtocol", is_not)] {
        icmp_family(&at(field), protocol, family, report);
    }
    // With a protocol that could not be read, what follows from it is not reported as well.
    let readable = wire.protocol.is_none() || is.is_some();
    let icmp = icmp(&at("icmp"), wire.icmp.as_ref(), is, readable, report);
    let not_icmp = self::icmp(&at("notICMP"), wire.not_icmp.as_ref(), is, readable, report);

    let ports = match is {
        Some(protocol) if fields::has_ports(protocol) => Ports::Any,
        Some(_) => Ports::None,
        None if readable => Ports::NamesOnly,
        None => Ports::Any,
    };
    let scope = Scope { namespace, family };
    let source = wire.source.as_ref().map_or_else(Default::default, |source| {
        entity(&at("source"), source, scope, ports, report)
    });
    let destination = wire.destination.as_ref().map_or_else(Default::default, |destination| {
        entity(&at("destination"), destination, scope, ports, report)
    });
    let family = about(family, &source, &destination);
    Some(Rule {
        index,
        action: action?,
        family,
        protocol: ProtocolMatch { is, is_not },
        icmp,
        not_icmp,
        source,
        destination,
    })
}

/// The family that a rule is about. Networks of one family alone make it that family's, also where
/// they are excluded only (felix `rules.FilterRuleToIPVersion`). A rule with networks of both, which
/// upstream refuses, is each family's with the networks of that.
fn about(
    version: Option<Family>,
    source: &EntityMatch,
    destination: &EntityMatch,
) -> Option<Family> {
    let sides = [source, destination];
    let excludes = sides.iter().any(|side| !side.not_nets.is_empty());
    let mut families =
        sides.iter().flat_map(|side| side.nets.iter().chain(&side.not_nets)).map(fields::family);
    let first = families.next().filter(|_| excludes);
    let only = first.filter(|first| families.all(|other| other == *first));
    version.or(only)
}

fn action(path: &str, action: Option<&str>, report: &mut Report) -> Option<Action> {
    const KNOWN: [&str; 4] = ["Allow", "Deny", "Pass", "Log"];
    match action {
        Some("Allow") => Some(Action::Allow),
        Some("Deny") => Some(Action::Deny),
        Some("Pass") => Some(Action::Pass),
        Some("Log") => Some(Action::Log),
        Some(action) => {
            fields::unknown_word(path, "an action", action, &KNOWN, report);
            None
        }
        None => {
            let hint = "write `action: Allow`, `action: Deny`, `action: Pass` or `action: Log`";
            report.error(path, "the rule has no action", hint);
            None
        }
    }
}

fn ip_version(path: &str, version: Option<i64>, report: &mut Report) -> Option<Family> {
    match version? {
        4 => Some(Family::V4),
        6 => Some(Family::V6),
        other => {
            report.error(path, format!("{other} is not an IP version"), "write 4 or 6");
            None
        }
    }
}

fn icmp_family(path: &str, protocol: Option<u8>, family: Option<Family>, report: &mut Report) {
    let (name, version) = match (protocol, family) {
        (Some(ICMP), Some(Family::V6)) => ("ICMP", 4),
        (Some(ICMPV6), Some(Family::V4)) => ("ICMPv6", 6),
        _ => return,
    };
    report.error(
        path,
        format!("{name} does not go with the rule's `ipVersion`"),
        format!("write `ipVersion: {version}`, or the other ICMP protocol"),
    );
}

/// Type and code. Upstream asks for the protocol only with `icmp`; what `notICMP` means without
/// one differs between its dataplanes, so it is asked for here too.
fn icmp(
    path: &str,
    icmp: Option<&Icmp>,
    protocol: Option<u8>,
    readable: bool,
    report: &mut Report,
) -> Option<IcmpMatch> {
    let icmp = icmp?;
    if readable && !matches!(protocol, Some(ICMP | ICMPV6)) {
        report.error(
            path,
            "the rule's protocol must be ICMP or ICMPv6",
            "add `protocol: ICMP` or `protocol: ICMPv6`",
        );
    }
    let kind = icmp.r#type.and_then(|number| match u8::try_from(number) {
        Ok(kind) if kind < u8::MAX => Some(kind),
        _ => {
            let message = format!("{number} is not an ICMP type");
            report.error(&format!("{path}.type"), message, "write a number from 0 to 254");
            None
        }
    });
    let code = icmp.code.and_then(|number| match u8::try_from(number) {
        Ok(code) => Some(code),
        Err(_) => {
            let message = format!("{number} is not an ICMP code");
            report.error(&format!("{path}.code"), message, "write a number from 0 to 255");
            None
        }
    });
    if icmp.code.is_some() && icmp.r#type.is_none() {
        report.error(&format!("{path}.code"), "a code needs a type", "add `type:`");
    }
    kind.map(|kind| IcmpMatch { kind, code })
}
