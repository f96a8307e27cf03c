//! Ports of the host, as flags and the configuration file name them.
//!
//! In: texts such as `tcp:22`, `udp:10.0.0.0/8:53` (felix's form), `tcp:8080:80`. Out: failsafe and
//! published ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use policy_common::{abi::Direction, packet::protocol};
use policy_core::host::{FAILSAFE_INBOUND, FAILSAFE_OUTBOUND, Failsafe, Published};

/// The failsafe ports of a direction: those written, the usual ones if none are, none for `none`.
///
/// # Errors
///
/// A text is none of these.
pub(super) fn failsafe(direction: Direction, texts: Option<&[String]>) -> Result<Vec<Failsafe>> {
    let (key, defaults) = match direction {
        Direction::Ingress => ("failsafe-inbound-ports", FAILSAFE_INBOUND),
        Direction::Egress => ("failsafe-outbound-ports", FAILSAFE_OUTBOUND),
    };
    let Some(texts) = texts else {
        return Ok(defaults
            .map(|(protocol, port)| Failsafe { direction, protocol, port, net: None })
            .to_vec());
    };
    if texts == ["none"] {
        return Ok(Vec::new());
    }
    texts
        .iter()
        .map(|text| {
            let (protocol, rest) = protocol_of(text)?;
            let (net, port) = match rest.rsplit_once(':') {
                Some((net, port)) => (Some(net), port),
                None => (None, rest),
            };
            Ok(Failsafe {
                direction,
                protocol,
                port: number(port)?,
                net: net.map(net_of).transpose()?,
            })
        })
        .collect::<Result<_>>()
        .with_context(|| {
            format!("{key}: write PROTOCOL:PORT or PROTOCOL:NETWORK:PORT, such as tcp:22, or none")
        })
}

/// A port that rules of the operator's own translate: `tcp:8080`, or `tcp:8080:80` if the port
/// changes. Both families.
///
/// # Errors
///
/// The text is not of that form.
pub(super) fn published(text: &str) -> Result<[(Published, u16); 2]> {
    let read = || {
        let (protocol, rest) = protocol_of(text)?;
        let (port, to) = rest.split_once(':').unwrap_or((rest, rest));
        Ok::<_, anyhow::Error>((protocol, number(port)?, number(to)?))
    };
    let (protocol, port, to) = read().with_context(|| {
        format!("published-ports {text:?}: write PROTOCOL:PORT or PROTOCOL:PORT:TO, such as tcp:80")
    })?;
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    Ok(any.map(|address| (Published { address, protocol, port }, to)))
}

fn protocol_of(text: &str) -> Result<(u8, &str)> {
    let (name, rest) = text.split_once(':').with_context(|| format!("{text:?} has no protocol"))?;
    let number = match name.to_ascii_lowercase().as_str() {
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "sctp" => protocol::SCTP,
        _ => bail!("{name:?} is neither tcp, udp nor sctp"),
    };
    Ok((number, rest))
}

fn number(text: &str) -> Result<u16> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => bail!("{text:?} is not a port from 1 to 65535"),
    }
}

/// A network, or an address; an IPv6 one may stand in brackets.
fn net_of(text: &str) -> Result<IpNet> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let net = bare.parse().or_else(|_| bare.parse::<IpAddr>().map(IpNet::from));
    let net = net.with_context(|| format!("{text:?} is not a network"))?;
    if net.prefix_len() == 0 {
        bail!("{text:?} is every address: leave the network out");
    }
    Ok(net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|&text| text.to_owned()).collect()
    }

    fn inbound(all: &[&str]) -> Result<Vec<Failsafe>> {
        failsafe(Direction::Ingress, Some(&texts(all)))
    }

    #[test]
    fn failsafe_ports_are_felixs_unless_others_are_named() {
        let defaults = failsafe(Direction::Ingress, None).unwrap();
        assert!(defaults.iter().any(|port| (port.protocol, port.port) == (6, 22)));
        assert_eq!(failsafe(Direction::Egress, Some(&texts(&["none"]))).unwrap(), []);
        let port = |protocol, port, net: Option<&str>| Failsafe {
            direction: Direction::Ingress,
            protocol,
            port,
            net: net.map(|net| net.parse().unwrap()),
        };
        assert_eq!(
            inbound(&["tcp:22", "UDP:10.1.0.0/8:53", "tcp:fd00::/8:22", "tcp:[fd00::1]:23"])
                .unwrap(),
            [
                port(6, 22, None),
                port(17, 53, Some("10.0.0.0/8")),
                port(6, 22, Some("fd00::/8")),
                port(6, 23, Some("fd00::1/128")),
            ]
        );
    }

    #[test]
    fn what_is_no_port_is_refused_with_the_form() {
        for text in
            ["22", "tcp:0", "tcp:70000", "icmp:1", "tcp:x:22", "tcp:", "tcp:::/0:22", "none"]
        {
            let error = format!("{:#}", inbound(&[text, "tcp:1"]).unwrap_err());
            assert!(error.contains("PROTOCOL:PORT"), "{text}: {error}");
        }
        for text in ["80", "tcp:80:0", "tcp:80:90:100"] {
            let error = format!("{:#}", published(text).unwrap_err());
            assert!(error.contains("published-ports"), "{text}: {error}");
        }
    }

    #[test]
    fn a_published_port_may_change_its_number() {
        let [(v4, to), (v6, _)] = published("tcp:8080:80").unwrap();
        assert_eq!((v4.protocol, v4.port, to), (6, 8080, 80));
        assert!(v4.address.is_ipv4() && v6.address.is_ipv6());
        assert_eq!(published("udp:53").unwrap()[0].1, 53);
    }
}
