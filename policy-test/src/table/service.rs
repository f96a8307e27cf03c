//! What a row connects to: a protocol and a port, as the tables write it.
//!
//! Inputs: `5432/tcp`, `53/udp`, `3868/sctp`, `ping`, `icmp/13/0`, `icmpv6/144/0` (type and code), or
//! the number of another protocol, `47`. Outputs: numbers.

use std::{fmt, str::FromStr};

use anyhow::{Context as _, Result, bail, ensure};
use policy_core::services::{ICMP, ICMPV6, WITH_PORTS};
use serde::{Deserialize, de};

/// All of [`WITH_PORTS`].
const NAMES: [(&str, u8); 5] =
    [("tcp", 6), ("udp", 17), ("dccp", 33), ("sctp", 132), ("udplite", 136)];
/// Echo requests (RFC 792, RFC 4443) as the packets of ICMP have them in the place of a port.
const ECHO: [(u8, u16); 2] = [(ICMP, 8 << 8), (ICMPV6, 128 << 8)];

/// A port and its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// IP protocol number.
    pub protocol: u8,
    /// Port; ICMP: `type << 8 | code`; 0 for protocols that have neither.
    pub port: u16,
}

impl Service {
    /// What it is in each family: `ping` is another protocol in IPv6, everything else is one.
    pub fn each(self) -> impl Iterator<Item = Service> {
        let ping = self.is_ping();
        let all = ECHO.iter().map(|&(protocol, port)| Service { protocol, port });
        all.filter(move |_| ping).chain([self].into_iter().filter(move |_| !ping))
    }

    fn is_ping(self) -> bool {
        (self.protocol, self.port) == ECHO[0]
    }
}

impl FromStr for Service {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let [(protocol, port), _] = ECHO;
        if text == "ping" {
            return Ok(Self { protocol, port });
        }
        if let Ok(protocol) = text.parse() {
            let named = WITH_PORTS.contains(&protocol) || [ICMP, ICMPV6].contains(&protocol);
            ensure!(!named, "{text}: write this protocol by its name");
            return Ok(Self { protocol, port: 0 });
        }
        let (first, rest) = text.split_once('/').context("a port is written 80/tcp")?;
        let protocol = match first {
            "icmp" => ICMP,
            "icmpv6" => ICMPV6,
            port => {
                let known = NAMES.iter().find(|(name, _)| *name == rest);
                let Some(&(_, protocol)) = known else { bail!("{rest}: no protocol with ports") };
                let port = port.parse().with_context(|| format!("{text}: no port"))?;
                return Ok(Self { protocol, port });
            }
        };
        let (kind, code) = rest.split_once('/').context("a message is written icmp/13/0")?;
        let number = |text: &str| text.parse::<u8>().with_context(|| format!("{text}: no number"));
        let service = Self { protocol, port: u16::from_be_bytes([number(kind)?, number(code)?]) };
        ensure!(!ECHO.contains(&(service.protocol, service.port)), "{text}: write ping");
        Ok(service)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, code] = self.port.to_be_bytes();
        match (self.protocol, NAMES.iter().find(|(_, number)| *number == self.protocol)) {
            (_, Some((name, _))) => write!(f, "{}/{name}", self.port),
            _ if ECHO.contains(&(self.protocol, self.port)) => f.write_str("ping"),
            (ICMP, None) => write!(f, "icmp/{kind}/{code}"),
            (ICMPV6, None) => write!(f, "icmpv6/{kind}/{code}"),
            (protocol, None) => protocol.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Service {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| de::Error::custom(format!("{error:#}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_read_as_they_are_shown() {
        for text in ["80/tcp", "53/udp", "3868/sctp", "ping", "icmp/13/0", "icmpv6/144/1", "47"] {
            let service: Service = text.parse().unwrap();
            assert_eq!(service.to_string(), text);
        }
        for text in
            ["6", "1", "80/gre", "80/", "icmp/8", "icmp/8/0", "icmpv6/128/0", "icmp/256/0", ""]
        {
            let read = text.parse::<Service>();
            assert!(read.is_err(), "{text}: {read:?}");
        }
    }

    #[test]
    fn a_ping_is_one_of_each_family() {
        let numbers = |text: &str| -> Vec<u8> {
            let service: Service = text.parse().unwrap();
            service.each().map(|each| each.protocol).collect()
        };
        assert_eq!(numbers("ping"), [1, 58]);
        assert_eq!(numbers("icmp/13/0"), [1]);
        assert_eq!(numbers("53/udp"), [17]);
    }
}
