//! The first packet of a connection, as bytes.
//!
//! Inputs: addresses, a protocol, ports. Outputs: what follows the IP header, and whole Ethernet
//! frames. Checksums of transport headers are left at zero where nobody looks at them.

use std::net::IpAddr;

use anyhow::{Result, bail};
use etherparse::{IpNumber, PacketBuilder, TcpHeader, UdpHeader};
use policy_core::services::{ICMP, ICMPV6};

use super::Service;
use crate::testrun::OUTSIDE_MAC;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const UDPLITE: u8 = 136;
/// Locally administered.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0xaa, 1];
const HOPS: u8 = 64;

/// The packet without its IP header; `mark` ends it. `source_port` is the identifier of an echo
/// request.
pub(super) fn payload(service: Service, source_port: u16, mark: &[u8]) -> Vec<u8> {
    let [kind, code] = service.port.to_be_bytes();
    let ports = [source_port.to_be_bytes(), service.port.to_be_bytes()].concat();
    let head = match service.protocol {
        TCP => {
            let mut header = TcpHeader::new(source_port, service.port, 1, 512);
            header.syn = true;
            header.to_bytes().to_vec()
        }
        UDP => {
            let length = u16::try_from(UdpHeader::LEN + mark.len()).unwrap_or(u16::MAX);
            let (source_port, destination_port) = (source_port, service.port);
            let header = UdpHeader { source_port, destination_port, length, checksum: 0 };
            header.to_bytes().to_vec()
        }
        ICMP | ICMPV6 => {
            let identifier = source_port.to_be_bytes();
            [&[kind, code, 0, 0], &identifier[..], &[0, 1]].concat()
        }
        // RFC 9260, 3.1: ports, tag, checksum; 3.3.2: an INIT chunk without parameters, and what
        // follows it is the mark.
        SCTP => [&ports[..], &[0; 8], &[1, 0, 0, 20], &[0; 16]].concat(),
        // RFC 3828, 3.1: ports, coverage of the whole, checksum.
        UDPLITE => [&ports[..], &[0; 4]].concat(),
        // Nobody must take this for ports.
        _ => vec![0xff; 8],
    };
    [&head[..], mark].concat()
}

/// The whole frame.
///
/// # Errors
/// If the two addresses are not of one family.
pub(super) fn frame(
    source: IpAddr,
    destination: IpAddr,
    service: Service,
    source_port: u16,
) -> Result<Vec<u8>> {
    let payload = payload(service, source_port, b"palisade");
    let ethernet = PacketBuilder::ethernet2(SENDER, OUTSIDE_MAC);
    let builder = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet.ipv4(source.octets(), destination.octets(), HOPS)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ethernet.ipv6(source.octets(), destination.octets(), HOPS)
        }
        (source, destination) => bail!("{source} and {destination} do not meet"),
    };
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, IpNumber(service.protocol), &payload)?;
    Ok(frame)
}
