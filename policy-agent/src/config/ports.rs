//! Ports of the host, as flags and the configuration file name them.
//!
//! In: texts such as `tcp:22`, `udp:10.0.0.0/8:53` (felix's form), `tcp:8080:80`. Out: failsafe and
//! published ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, bail};
use ipnet::{IpNet, Ipv6Net};
use policy_common::{abi::Direction, packet::protocol};
use policy_core::host::{Failsafe, Published};

/// What host endpoints leave open if nobody says otherwise: SSH, and the answers of DHCP and DHCPv6
/// servers, the latter from the link alone (RFC 8415, 7.2).
///
/// Of felix's defaults (calico `felix/config/config_params.go`) these are the ones without which a
/// Docker host is lost. Felix also leaves open BGP (tcp:179), etcd (tcp:2379, 2380, 6666, 6667), Typha
/// (tcp:5473) and the Kubernetes API (tcp:6443), none of which is here, and has nothing for DHCPv6.
/// Swarm's ports are not among them: who leaves udp:4789 open to everybody lets everybody put packets
/// into the overlay networks.
const FAILSAFE_INBOUND: [&str; 3] = ["tcp:22", "udp:68", "udp:[fe80::/10]:546"];

/// The same of what the host itself asks: DNS, DHCP, and DHCPv6 by its multicast address.
const FAILSAFE_OUTBOUND: [&str; 3] = ["udp:53", "udp:67", "udp:[ff02::1:2]:547"];

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
    let read = match texts {
        None => defaults.iter().map(|text| failsafe_port(direction, text)).collect(),
        Some([text]) if text == "none" => Ok(Vec::new()),
        Some(texts) => texts.iter().map(|text| failsafe_port(direction, text)).collect(),
    };
    read.with_context(|| {
        format!("{key}: write PROTOCOL:PORT or PROTOCOL:NETWORK:PORT, such as tcp:22, or none")
    })
}

fn failsafe_port(direction: Direction, text: &str) -> Result<Failsafe> {
    let (protocol, rest) = protocol_of(text)?;
    let (net, port) = match rest.rsplit_once(':') {
        Some((net, port)) => (Some(net), port),
        None => (None, rest),
    };
    Ok(Failsafe { direction, protocol, port: number(port)?, net: net.map(net_of).transpose()? })
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
    // The map has IPv4 as a part of IPv6, so this one would be both.
    if net == IpNet::V6(Ipv6Net::default()) {
        bail!("{text:?} would hold IPv4, too: leave the network out, or write 2000::/3");
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

    fn port(direction: Direction, protocol: u8, port: u16, net: Option<&str>) -> Failsafe {
        Failsafe { direction, protocol, port, net: net.map(|net| net.parse().unwrap()) }
    }

    #[test]
    fn who_names_no_failsafe_ports_has_those_of_ssh_dns_and_dhcp() {
        let (into, out) = (Direction::Ingress, Direction::Egress);
        assert_eq!(
            failsafe(into, None).unwrap(),
            [
                port(into, 6, 22, None),
                port(into, 17, 68, None),
                port(into, 17, 546, Some("fe80::/10"))
            ]
        );
        assert_eq!(
            failsafe(out, None).unwrap(),
            [
                port(out, 17, 53, None),
                port(out, 17, 67, None),
                port(out, 17, 547, Some("ff02::1:2/128"))
            ]
        );
        assert_eq!(failsafe(out, Some(&texts(&["none"]))).unwrap(), []);
    }

    #[test]
    fn a_failsafe_port_may_be_one_networks() {
        let port = |protocol, number, net| port(Direction::Ingress, protocol, number, net);
        assert_eq!(
            inbound(&[
                "tcp:22",
                "UDP:10.1.0.0/8:53",
                "tcp:fd00::/8:22",
                "tcp:[fd00::1]:23",
                "sctp:0.0.0.0/0:24"
            ])
            .unwrap(),
            [
                port(6, 22, None),
                port(17, 53, Some("10.0.0.0/8")),
                port(6, 22, Some("fd00::/8")),
                port(6, 23, Some("fd00::1/128")),
                port(132, 24, Some("0.0.0.0/0")),
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
