//! Ports of host endpoints, as their maps have them.

use std::net::{IpAddr, Ipv6Addr};

use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use policy_common::abi::{Direction, FailsafeKey, PublishedKey, mapped};
use policy_core::host::{Failsafe, Published};

/// Bits of direction, protocol and port in front of the address.
const PORT_BITS: u32 = 32;
/// Bits of `::ffff:` in front of an IPv4 address.
const MAPPED_BITS: u32 = 96;

fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

fn address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

pub(super) fn failsafe(port: &Failsafe) -> Key<FailsafeKey> {
    let (bits, address) = match port.net {
        None => (0, [0; 16]),
        Some(IpNet::V4(net)) => {
            (MAPPED_BITS + u32::from(net.prefix_len()), bytes(IpAddr::V4(net.network())))
        }
        Some(IpNet::V6(net)) => (u32::from(net.prefix_len()), bytes(IpAddr::V6(net.network()))),
    };
    let data = FailsafeKey {
        direction: port.direction as u8,
        protocol: port.protocol,
        port: port.port.to_be_bytes(),
        address,
    };
    Key::new(PORT_BITS + bits, data)
}

/// `None` for a key that no agent wrote.
pub(super) fn read_failsafe(key: &Key<FailsafeKey>) -> Option<Failsafe> {
    let data = key.data();
    let bits = key.prefix_len().checked_sub(PORT_BITS)?;
    let net = match (bits, address(data.address)) {
        (0, _) => None,
        (bits, address @ IpAddr::V4(_)) => {
            let bits = u8::try_from(bits.checked_sub(MAPPED_BITS)?).ok()?;
            Some(IpNet::new(address, bits).ok()?)
        }
        (bits, address) => Some(IpNet::new(address, u8::try_from(bits).ok()?).ok()?),
    };
    Some(Failsafe {
        direction: Direction::from_u8(data.direction)?,
        protocol: data.protocol,
        port: u16::from_be_bytes(data.port),
        net,
    })
}

pub(super) fn published(port: &Published) -> PublishedKey {
    let (address, protocol) = (bytes(port.address), port.protocol);
    PublishedKey { address, port: port.port, protocol, pad: 0 }
}

pub(super) fn read_published(key: &PublishedKey) -> Published {
    Published { address: address(key.address), protocol: key.protocol, port: key.port }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let any = Failsafe { direction: Direction::Egress, protocol: 17, port: 53, net: None };
        for net in [None, Some("10.0.0.0/8"), Some("0.0.0.0/0"), Some("fd00::/16"), Some("::1/128")]
        {
            let port = Failsafe { net: net.map(|net| net.parse().unwrap()), ..any };
            assert_eq!(read_failsafe(&failsafe(&port)), Some(port));
        }
        for text in ["0.0.0.0", "10.0.0.1", "::", "fd00::1"] {
            let port = Published { address: text.parse().unwrap(), protocol: 6, port: 80 };
            assert_eq!(read_published(&published(&port)), port);
        }
    }
}
