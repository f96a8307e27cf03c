//! The `PORT/PROTO` of `explain`. Input: text; output: IP protocol number and the port as the
//! agent wants it (ICMP: `type << 8 | code`).

use std::fmt;
use std::str::FromStr;

/// IP protocol numbers, from IANA's registry "Assigned Internet Protocol Numbers".
mod protocol {
    pub(super) const ICMP: u8 = 1;
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
    pub(super) const ICMPV6: u8 = 58;
    pub(super) const SCTP: u8 = 132;
    pub(super) const UDPLITE: u8 = 136;
}

/// Type of an echo request: RFC 792.
const ICMP_ECHO: u8 = 8;
/// Type of an echo request: RFC 4443.
const ICMPV6_ECHO: u8 = 128;

/// What somebody connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    protocol: u8,
    port: u16,
}

impl Service {
    /// IP protocol number.
    pub(crate) fn protocol(self) -> u8 {
        self.protocol
    }

    /// Destination port, host byte order; ICMP: `type << 8 | code`; 0 where there are no ports.
    pub(crate) fn port(self) -> u16 {
        self.port
    }
}

/// Not a service.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ServiceError {
    #[error(
        "`{0}` is not PORT/PROTO: write for example 5432/tcp, 53/udp, icmp, icmp:8, icmpv6:128 or proto:47"
    )]
    Form(String),
    #[error("port `{0}`: expected a number from 1 to 65535")]
    Port(String),
    #[error("`{0}` says no protocol: write `{0}/tcp` or `{0}/udp`")]
    NoProtocol(String),
    #[error("protocol `{0}` has no ports that policies know: expected tcp, udp, sctp or udplite")]
    Protocol(String),
    #[error("`{text}`: {what} `{part}` is not a number from 0 to 255")]
    Icmp { text: String, what: &'static str, part: String },
    #[error("`{0}` has ports: write for example 5432/{0}")]
    NeedsPort(String),
    #[error("`{0}`: expected proto:NUMBER with an IP protocol number from 1 to 255")]
    Number(String),
}

impl FromStr for Service {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        let lower = text.to_ascii_lowercase();
        if let Some((port, name)) = lower.split_once('/') {
            let protocol =
                with_ports(name).ok_or_else(|| ServiceError::Protocol(name.to_owned()))?;
            return match port.parse::<u16>() {
                Ok(number) if number > 0 && digits(port) => Ok(Service { protocol, port: number }),
                _ => Err(ServiceError::Port(port.to_owned())),
            };
        }
        if digits(&lower) {
            return Err(ServiceError::NoProtocol(lower));
        }
        if with_ports(&lower).is_some() {
            return Err(ServiceError::NeedsPort(lower));
        }
        let mut parts = lower.split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("icmp"), r#type, code, None) => {
                icmp(text, protocol::ICMP, ICMP_ECHO, r#type, code)
            }
            (Some("icmpv6"), r#type, code, None) => {
                icmp(text, protocol::ICMPV6, ICMPV6_ECHO, r#type, code)
            }
            (Some("proto"), Some(number), None, None) => by_number(number),
            _ => Err(ServiceError::Form(text.to_owned())),
        }
    }
}

/// The canonical text, which parses to the same service.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [r#type, code] = self.port.to_be_bytes();
        let icmp = match self.protocol {
            protocol::TCP => return write!(f, "{}/tcp", self.port),
            protocol::UDP => return write!(f, "{}/udp", self.port),
            protocol::SCTP => return write!(f, "{}/sctp", self.port),
            protocol::UDPLITE => return write!(f, "{}/udplite", self.port),
            protocol::ICMP => "icmp",
            protocol::ICMPV6 => "icmpv6",
            number => return write!(f, "proto:{number}"),
        };
        match code {
            0 => write!(f, "{icmp}:{type}"),
            code => write!(f, "{icmp}:{type}:{code}"),
        }
    }
}

/// Rust's integer parser takes a leading `+`; nobody means that in a port.
fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn with_ports(name: &str) -> Option<u8> {
    match name {
        "tcp" => Some(protocol::TCP),
        "udp" => Some(protocol::UDP),
        "sctp" => Some(protocol::SCTP),
        "udplite" => Some(protocol::UDPLITE),
        _ => None,
    }
}

fn icmp(
    text: &str,
    protocol: u8,
    echo: u8,
    r#type: Option<&str>,
    code: Option<&str>,
) -> Result<Service, ServiceError> {
    let number = |what, part: Option<&str>, default| match part {
        None => Ok(default),
        Some(part) => match part.parse::<u8>() {
            Ok(number) if digits(part) => Ok(number),
            _ => Err(ServiceError::Icmp { text: text.to_owned(), what, part: part.to_owned() }),
        },
    };
    let port = u16::from_be_bytes([number("type", r#type, echo)?, number("code", code, 0)?]);
    Ok(Service { protocol, port })
}

fn by_number(text: &str) -> Result<Service, ServiceError> {
    let protocol = match text.parse::<u8>() {
        Ok(number) if number > 0 && digits(text) => number,
        _ => return Err(ServiceError::Number(format!("proto:{text}"))),
    };
    match protocol {
        protocol::TCP => Err(ServiceError::NeedsPort("tcp".to_owned())),
        protocol::UDP => Err(ServiceError::NeedsPort("udp".to_owned())),
        protocol::SCTP => Err(ServiceError::NeedsPort("sctp".to_owned())),
        protocol::UDPLITE => Err(ServiceError::NeedsPort("udplite".to_owned())),
        protocol::ICMP => icmp("icmp", protocol, ICMP_ECHO, None, None),
        protocol::ICMPV6 => icmp("icmpv6", protocol, ICMPV6_ECHO, None, None),
        protocol => Ok(Service { protocol, port: 0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_it_says() {
        for (text, protocol, port, canonical) in [
            ("5432/tcp", 6, 5432, "5432/tcp"),
            ("53/UDP", 17, 53, "53/udp"),
            ("9/sctp", 132, 9, "9/sctp"),
            ("7/udplite", 136, 7, "7/udplite"),
            ("icmp", 1, 0x0800, "icmp:8"),
            ("icmp:3", 1, 0x0300, "icmp:3"),
            ("icmp:3:1", 1, 0x0301, "icmp:3:1"),
            ("icmpv6", 58, 0x8000, "icmpv6:128"),
            ("ICMPv6:1:4", 58, 0x0104, "icmpv6:1:4"),
            ("proto:47", 47, 0, "proto:47"),
            ("proto:1", 1, 0x0800, "icmp:8"),
        ] {
            let service: Service = text.parse().expect(text);
            assert_eq!((service.protocol(), service.port()), (protocol, port), "{text}");
            assert_eq!(service.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(service), "{canonical} round trip");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "/",
            "/tcp",
            "80/",
            "0/tcp",
            "70000/tcp",
            "+80/tcp",
            "-1/tcp",
            "80-90/tcp",
            "80",
            "tcp",
            "80/http",
            "8/icmp",
            "80/tcp/udp",
            "icmp:",
            "icmp:256",
            "icmp:8:",
            "icmp:8:0:0",
            "icmp:+8",
            "proto:0",
            "proto:256",
            "proto:6",
            "proto:17:1",
            "http",
        ] {
            assert!(text.parse::<Service>().is_err(), "{text:?} must be refused");
        }
        let error = "5432".parse::<Service>().expect_err("no protocol");
        assert_eq!(error.to_string(), "`5432` says no protocol: write `5432/tcp` or `5432/udp`");
    }
}
