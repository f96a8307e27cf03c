//! Single values: protocols, ports, networks, selectors.

use ipnet::IpNet;
use policy_api::resource::{IntOrString, did_you_mean};
use policy_common::abi::Family;

use super::{names, report::Report, sizes};
use crate::{names::PROTOCOLS, policy::PortMatch, selector::Selector};

/// IP protocol numbers (IANA).
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
pub(super) const SCTP: u8 = 132;

/// What the name of a port may be.
pub(super) const PORT_NAME: &str = "a name of at most 15 lower-case letters, digits and `-`, with at \
     least one letter";
/// Longest name of a port (IANA service name, RFC 6335).
const MAX_PORT_NAME: usize = 15;

/// A protocol name, spelled as upstream spells it, or a number from 1 to 255.
pub(super) fn protocol(path: &str, value: &IntOrString, report: &mut Report) -> Option<u8> {
    const HINT: &str = "write TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255";
    let number = match value {
        IntOrString::Int(number) => Some(*number),
        // Too many digits for an i64 are too many for a protocol.
        IntOrString::String(text) if digits(text) => Some(text.parse().unwrap_or(i64::MAX)),
        IntOrString::String(_) => None,
    };
    if let Some(number) = number {
        return match u8::try_from(number) {
            Ok(number) if number > 0 => Some(number),
            _ => {
                report.error(path, format!("{number} is not a protocol number"), HINT);
                None
            }
        };
    }
    let text = value.to_string();
    if let Some((_, number)) = PROTOCOLS.iter().find(|(name, _)| *name == text) {
        return Some(*number);
    }
    let known = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text));
    let hint = known.map_or_else(|| HINT.to_owned(), |(name, _)| format!("write {name}"));
    report.error(path, format!("`{text}` is not a protocol"), hint);
    None
}

/// Whether ports can be matched on a protocol (calico `numorstring.Protocol.SupportsPorts`).
pub(super) fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

/// A port number from 1 to 65535.
pub(super) fn port_number(path: &str, number: i64, report: &mut Report) -> Option<u16> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Some(port),
        _ => {
            report.error(path, format!("{number} is not a port"), "write a number from 1 to 65535");
            None
        }
    }
}

/// A number, a range `first:last`, or a name.
pub(super) fn port(path: &str, value: &IntOrString, report: &mut Report) -> Option<PortMatch> {
    let text = match value {
        IntOrString::Int(number) => {
            return port_number(path, *number, report).map(|port| PortMatch::Range(port, port));
        }
        IntOrString::String(text) => text,
    };
    // Too many digits for an i64 are too many for a port.
    let number = |text: &str| text.parse().unwrap_or(i64::MAX);
    if digits(text) {
        let port = port_number(path, number(text), report)?;
        return Some(PortMatch::Range(port, port));
    }
    if let Some((first, last)) = text.split_once(':')
        && digits(first)
        && digits(last)
    {
        let first = port_number(path, number(first), report);
        let last = port_number(path, number(last), report);
        let (first, last) = (first?, last?);
        if first > last {
            report.error(
                path,
                format!("the range {first}:{last} ends before it begins"),
                format!("write \"{last}:{first}\""),
            );
            return None;
        }
        return Some(PortMatch::Range(first, last));
    }
    if let Some((first, last)) = text.split_once('-')
        && digits(first)
        && digits(last)
    {
        report.error(
            path,
            format!("`{text}` is not a range of ports"),
            format!("write \"{first}:{last}\""),
        );
        return None;
    }
    if !is_service_name(text) {
        report.error(
            path,
            format!("`{text}` is not a port"),
            format!("write a number from 1 to 65535 or a range \"first:last\", or {PORT_NAME}"),
        );
        return None;
    }
    Some(PortMatch::Named(text.clone()))
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// An IANA service name (RFC 6335, section 5.1) in lower case, as Kubernetes and Calico ask for
/// (apimachinery `IsValidPortName`).
pub(super) fn is_service_name(name: &str) -> bool {
    (1..=MAX_PORT_NAME).contains(&name.len())
        && names::is_dns_label(name)
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.contains("--")
}

/// How a network that has bits set behind its prefix is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Masking {
    /// Refused, and so is an address without prefix length: upstream's rule for `nets`.
    Strict,
    /// Masked, and an address alone is a network of one: upstream's rule for network sets.
    Lenient,
    /// An address alone is a network of one, and with a prefix length it is not masked: the one who
    /// asks wants single addresses.
    Host,
    /// Masked, but the prefix length is needed: Kubernetes' rule.
    Prefix,
}

/// A network, masked.
pub(super) fn net(path: &str, text: &str, masking: Masking, report: &mut Report) -> Option<IpNet> {
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        let net = IpNet::from(address);
        if !matches!(masking, Masking::Lenient | Masking::Host) {
            report.error(
                path,
                format!("`{text}` is an address, not a network"),
                format!("write {net}"),
            );
            return None;
        }
        return not_mapped(path, net, report);
    }
    let Some(net) = parse_net(text) else {
        report.error(
            path,
            format!("`{text}` is not a network"),
            "write address and prefix length, such as 10.0.0.0/8 or fd00::/8",
        );
        return None;
    };
    if masking == Masking::Host {
        return not_mapped(path, net, report);
    }
    if masking == Masking::Strict && net != net.trunc() {
        report.error(
            path,
            format!("`{text}` has bits set behind its prefix"),
            format!("write {}", net.trunc()),
        );
        return None;
    }
    not_mapped(path, net.trunc(), report)
}

/// Address and prefix length. The address as Go's `net.ParseCIDR` takes it: `010.0.0.0` is none, as
/// some would read 8.0.0.0.
fn parse_net(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let length = length.parse().ok().filter(|_| digits(length))?;
    IpNet::new(address.parse().ok()?, length).ok()
}

/// Packets never carry IPv4-mapped addresses (RFC 4291, 2.5.5.2): such a network matches nothing.
fn not_mapped(path: &str, net: IpNet, report: &mut Report) -> Option<IpNet> {
    if let IpNet::V6(v6) = net
        && v6.prefix_len() >= 96
        && let Some(v4) = v6.network().to_ipv4_mapped()
    {
        report.error(
            path,
            format!("`{net}` is an IPv4 network written as IPv6"),
            format!("write {v4}/{}", v6.prefix_len() - 96),
        );
        return None;
    }
    Some(net)
}

/// Family of a network.
pub(super) fn family(net: &IpNet) -> Family {
    match net {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

/// A selector; `None` if it is absent, empty or wrong.
pub(super) fn selector(path: &str, text: Option<&str>, report: &mut Report) -> Option<Selector> {
    let selector = any_selector(path, text, report)?;
    if selector.uses_global() {
        report.error(
            path,
            "`global()` has no meaning here",
            "use it alone in the `namespaceSelector` of a rule's `source` or `destination`",
        );
        return None;
    }
    Some(selector)
}

/// A `namespaceSelector`, as a condition on namespaces; `None` if it is absent, empty or wrong.
pub(super) fn namespace_selector(
    path: &str,
    text: Option<&str>,
    report: &mut Report,
) -> Option<Selector> {
    let selector = any_selector(path, text, report)?;
    // Upstream (libcalico-go `validateEntityRule`) refuses parentheses around it too.
    let bare = text.is_some_and(|text| text.trim_start().starts_with("global"));
    if selector.uses_global() && !(selector.is_global() && bare) {
        report.error(
            path,
            "`global()` cannot be combined with other selectors or parentheses",
            "write `namespaceSelector: global()`, and a second rule for the rest",
        );
        return None;
    }
    Some(selector)
}

fn any_selector(path: &str, text: Option<&str>, report: &mut Report) -> Option<Selector> {
    let text = text.filter(|text| !text.is_empty())?;
    sizes::selector(path, text, report);
    match Selector::parse(text) {
        Ok(selector) => Some(selector),
        Err(error) => {
            report.error(
                path,
                format!("not a selector: {error}"),
                "write a selector such as `app == 'web' && has(tier)`, or `all()`",
            );
            None
        }
    }
}

/// One of a few words.
pub(super) fn unknown_word(
    path: &str,
    what: &str,
    word: &str,
    known: &[&str],
    report: &mut Report,
) {
    let hint = match did_you_mean(word, known.iter().copied()) {
        Some(known) => format!("did you mean `{known}`?"),
        None => format!("write {}", known.join(" or ")),
    };
    report.error(path, format!("`{word}` is not {what}"), hint);
}
