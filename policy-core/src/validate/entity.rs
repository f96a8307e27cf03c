//! `source` and `destination` of a rule.

use ipnet::IpNet;
use policy_api::resource::calico::EntityRule;
use policy_common::abi::Family;

use super::{
    fields::{self, Masking},
    report::Report,
    sizes,
};
use crate::{
    labels::{NAMESPACE_LABEL, NAMESPACE_PREFIX},
    policy::{EntityMatch, PortMatch},
    selector::Selector,
};

/// What a rule says about the ports of its sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ports {
    /// No protocol is given: names only, each of which stands for a protocol too.
    NamesOnly,
    /// The protocol has ports.
    Any,
    /// The protocol has none.
    None,
}

/// Where a rule stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    /// Namespace of the policy; `None` for a global one.
    pub(super) namespace: Option<&'a str>,
    /// `ipVersion` of the rule.
    pub(super) family: Option<Family>,
}

/// One side of a rule. Selectors get the scope that upstream gives them (libcalico-go
/// `updateprocessors/rules.go`): a `namespaceSelector` if there is one, else the policy's own
/// namespace, and that as soon as any selector is given, `notSelector` included.
pub(super) fn entity(
    path: &str,
    entity: &EntityRule,
    scope: Scope<'_>,
    ports: Ports,
    report: &mut Report,
) -> EntityMatch {
    let at = |field: &str| format!("{path}.{field}");
    report.unsupported(
        &at("services"),
        entity.services.as_ref(),
        "services",
        "select the endpoints behind the service with `selector`",
    );
    report.unsupported(
        &at("serviceAccounts"),
        entity.service_accounts.as_ref(),
        "service accounts",
        "select the endpoints with `selector`",
    );

    let given = |field: &Option<String>| field.as_deref().is_some_and(|text| !text.is_empty());
    let own = fields::selector(&at("selector"), entity.selector.as_deref(), report);
    let not_selector = fields::selector(&at("notSelector"), entity.not_selector.as_deref(), report);
    let namespaces = fields::namespace_selector(
        &at("namespaceSelector"),
        entity.namespace_selector.as_deref(),
        report,
    );
    let any_selector =
        given(&entity.selector) || given(&entity.not_selector) || given(&entity.namespace_selector);
    let scoped = if any_selector {
        match (namespaces, scope.namespace) {
            (Some(namespaces), _) => Some(namespaces.on_namespace(NAMESPACE_PREFIX)),
            (None, Some(namespace)) => Some(Selector::equal(NAMESPACE_LABEL, namespace)),
            (None, None) => None,
        }
    } else {
        None
    };
    let selector = match (scoped, own) {
        (Some(scope), Some(own)) => Some(scope.and(own)),
        (scope, own) => scope.or(own),
    };

    EntityMatch {
        selector,
        not_selector,
        nets: nets(&at("nets"), entity.nets.as_deref(), scope.family, report),
        not_nets: not_nets(&at("notNets"), entity.not_nets.as_deref(), scope.family, report),
        ports: port_list(&at("ports"), entity.ports.as_deref(), ports, report),
        not_ports: port_list(&at("notPorts"), entity.not_ports.as_deref(), ports, report),
    }
}

fn nets(
    path: &str,
    texts: Option<&[String]>,
    expected: Option<Family>,
    report: &mut Report,
) -> Vec<IpNet> {
    let texts = texts.unwrap_or_default();
    sizes::NETS.check(path, texts.len(), report);
    let mut nets = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Some(net) = fields::net(&path, text, Masking::Strict, report) else { continue };
        let family = fields::family(&net);
        if expected.is_some_and(|expected| expected != family) {
            report.error(
                &path,
                format!("{net} is not of the rule's `ipVersion`"),
                "remove the network or the `ipVersion`",
            );
        }
        nets.push(net);
    }
    nets.sort_unstable();
    nets.dedup();
    nets
}

fn not_nets(
    path: &str,
    texts: Option<&[String]>,
    expected: Option<Family>,
    report: &mut Report,
) -> Vec<IpNet> {
    let nets = nets(path, texts, expected, report);
    if let Some(everything) = nets.iter().find(|net| net.prefix_len() == 0) {
        let other = match everything {
            IpNet::V4(_) => 6,
            IpNet::V6(_) => 4,
        };
        report.error(
            path,
            format!("excluding {everything} leaves no address of that family"),
            format!("remove it, or write `ipVersion: {other}` for a rule on the other family"),
        );
    }
    nets
}

fn port_list(
    path: &str,
    values: Option<&[policy_api::resource::IntOrString]>,
    ports: Ports,
    report: &mut Report,
) -> Vec<PortMatch> {
    const WITH_PROTOCOL: &str = "add `protocol: TCP`, `UDP` or `SCTP` to the rule";
    let values = values.unwrap_or_default();
    if values.is_empty() {
        return Vec::new();
    }
    match ports {
        Ports::None => {
            report.error(path, "the rule's protocol has no ports", WITH_PROTOCOL);
            return Vec::new();
        }
        Ports::NamesOnly | Ports::Any => {}
    }
    sizes::PORTS.check(path, values.len(), report);
    let mut list = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Some(port) = fields::port(&path, value, report) else { continue };
        if ports == Ports::NamesOnly && matches!(port, PortMatch::Range(..)) {
            report.error(&path, "a port number needs a protocol", WITH_PROTOCOL);
        }
        list.push(port);
    }
    list.sort_unstable();
    list.dedup();
    list
}
