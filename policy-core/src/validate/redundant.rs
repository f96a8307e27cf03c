//! Entries of a list that another entry of the list makes superfluous: networks and ports.
//!
//! In: a list as it was written, already found valid. Out: at most one warning, at the first such
//! entry: a long list has its habits, and one example shows them.

use ipnet::IpNet;
use policy_api::{
    diagnostic::Diagnostic,
    resource::{IntOrString, kubernetes::Port},
};

use super::{fields, report::Report};
use crate::policy::PortMatch;

/// A network inside another of the list.
pub(super) fn nets(path: &str, texts: &[String]) -> Option<Diagnostic> {
    let mut nets: Vec<(IpNet, usize)> = texts
        .iter()
        .enumerate()
        .filter_map(|(index, text)| text.parse::<IpNet>().ok().map(|net| (net.trunc(), index)))
        .collect();
    // A network sorts directly before all that is inside it.
    nets.sort_unstable();
    let mut around: Option<(IpNet, usize)> = None;
    let mut inside: Vec<(usize, usize)> = Vec::new();
    for (net, index) in nets {
        match around {
            Some((outer, first)) if outer.contains(&net) => inside.push((index, first)),
            _ => around = Some((net, index)),
        }
    }
    first(path, &inside, |index| texts.get(index).cloned().unwrap_or_default())
}

/// A port of a Calico rule that another entry has, too.
pub(super) fn ports(path: &str, values: &[IntOrString]) -> Option<Diagnostic> {
    let mut unread = Report::default();
    let ports = values.iter().enumerate();
    let ports = ports.filter_map(|(index, value)| {
        fields::port("", value, &mut unread).map(|port| (String::new(), port, index))
    });
    let repeated = repeated(ports.collect());
    first(path, &repeated, |index| values.get(index).map(ToString::to_string).unwrap_or_default())
}

/// A port of a Kubernetes rule that another entry has, too.
pub(super) fn kubernetes_ports(path: &str, ports: &[Port]) -> Option<Diagnostic> {
    let read = |port: &Port| match (&port.port, port.end_port) {
        (None, _) => Some(PortMatch::Range(0, u16::MAX)),
        (Some(IntOrString::String(name)), _) => Some(PortMatch::Named(name.clone())),
        (Some(IntOrString::Int(port)), end) => {
            let end = end.unwrap_or(*port);
            Some(PortMatch::Range(u16::try_from(*port).ok()?, u16::try_from(end).ok()?))
        }
    };
    let protocol = |port: &Port| port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let read = ports
        .iter()
        .enumerate()
        .filter_map(|(index, port)| Some((protocol(port), read(port)?, index)));
    let repeated = repeated(read.collect());
    first(path, &repeated, |index| {
        ports.get(index).map_or_else(String::new, |port| {
            let number = port.port.as_ref().map(|port| format!(" {port}")).unwrap_or_default();
            let end = port.end_port.map(|end| format!(":{end}")).unwrap_or_default();
            format!("{}{number}{end}", protocol(port))
        })
    })
}

/// Ports that are in an earlier range or name of their protocol, each with that entry. Ranges that
/// overlap in part are both needed.
fn repeated(mut ports: Vec<(String, PortMatch, usize)>) -> Vec<(usize, usize)> {
    ports.sort_unstable_by(|(protocol, port, index), (other_protocol, other, other_index)| {
        let key = |port: &PortMatch| match port {
            // The longer of two ranges that begin alike comes first.
            PortMatch::Range(first, last) => (*first, u16::MAX - *last, String::new()),
            PortMatch::Named(name) => (u16::MAX, u16::MAX, name.clone()),
        };
        (protocol, key(port), index).cmp(&(other_protocol, key(other), other_index))
    });
    let mut around: Option<(String, PortMatch, usize)> = None;
    let mut inside = Vec::new();
    for (protocol, port, index) in ports {
        let outer = around.as_ref().filter(|(known, outer, _)| {
            *known == protocol
                && match (outer, &port) {
                    (PortMatch::Range(_, last), PortMatch::Range(_, other)) => other <= last,
                    (outer, port) => outer == port,
                }
        });
        match outer {
            Some((_, _, first)) => inside.push((index, *first)),
            None => around = Some((protocol, port, index)),
        }
    }
    inside
}

/// The warning about the first of several entries, each given with the entry that it is in.
fn first(
    path: &str,
    inside: &[(usize, usize)],
    text: impl Fn(usize) -> String,
) -> Option<Diagnostic> {
    let (index, outer) = inside.iter().min()?;
    let others = match inside.len() {
        1 => String::new(),
        all => format!(", one of {all} such entries"),
    };
    let message = if text(*index) == text(*outer) {
        format!("`{}` stands in the list twice{others}", text(*index))
    } else {
        format!(
            "`{}` is part of `{}`, which is in the list too{others}",
            text(*index),
            text(*outer)
        )
    };
    Some(
        Diagnostic::warning(format!("{path}[{index}]"), message)
            .with_hint("remove it; the list says the same without"),
    )
}
