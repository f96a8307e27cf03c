//! Captured packets in words: what `policyctl capture` gets.
//!
//! In: what a program knows of a packet, and its bytes. Out: a record, named as any other, and the bytes.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use policy_api::capture::Packet as Shown;
use policy_common::{
    abi::{CaptureFilter, Captured, Event, EventKind, FAMILY_ANY, LOG_NONE},
    packet::{Address, Packet, Source, View, network_layer, parse},
};
use policy_core::{observe::Filter, peers::PeerName};

use crate::{kernel::clock, observer, published::Published};

/// What of a filter the programs look at themselves: one address, one port, one protocol. They leave out
/// what cannot be wanted, and the filter decides on the rest.
pub fn in_kernel(filter: &Filter, snap: u32) -> CaptureFilter {
    let only = filter.only();
    let (address, family) = match only.address {
        Some(std::net::IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            ([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0)
        }
        Some(std::net::IpAddr::V6(address)) => (address.octets(), 1),
        None => ([0; 16], FAMILY_ANY),
    };
    CaptureFilter {
        address,
        snap,
        port: only.port.unwrap_or(0),
        protocol: only.protocol.unwrap_or(0),
        family,
    }
}

/// A packet in words, if it is wanted.
pub fn show(
    head: &Captured,
    bytes: &[u8],
    names: &Published,
    filter: &Filter,
    now: (u64, SystemTime),
) -> Option<Shown> {
    let time = clock::wall_time(head.time_ns, now.0, now.1);
    let mut record = observer::record(&event(head, bytes), time, names);
    if head.allowed != 0 {
        "pass".clone_into(&mut record.event);
        record.reason.clear();
    }
    if !filter.wants(&record) {
        return None;
    }
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(Shown {
        record,
        interface: match names.interface(head.ifindex) {
            PeerName { namespace, name } if namespace.is_empty() => name,
            PeerName { namespace, name } => format!("{namespace}/{name}"),
        },
        time_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        length: head.length,
        data: STANDARD.encode(bytes),
    })
}

/// The same as the programs would have told of it: its headers are read once more.
fn event(head: &Captured, bytes: &[u8]) -> Event {
    let (mut packet, frame) = (Packet::UNKNOWN, Frame(bytes, head.length));
    if parse(&frame, &mut packet).is_err() {
        packet = Packet::UNKNOWN;
        if let Some((family, source, destination)) = network_layer(&frame) {
            packet = Packet { family, source, destination, ..packet };
        }
    }
    Event {
        time_ns: head.time_ns,
        source: octets(packet.source),
        destination: octets(packet.destination),
        ifindex: head.ifindex,
        peer: head.peer,
        rule: head.rule,
        staged: head.staged,
        log: LOG_NONE,
        length: head.length,
        source_port: packet.source_port,
        destination_port: packet.policy_port,
        protocol: packet.protocol,
        reason: head.reason,
        direction: head.direction,
        family: packet.family as u8,
        tcp_flags: packet.tcp_flags,
        kind: EventKind::Drop as u8,
        allowed: head.allowed,
        pad: [0; 5],
    }
}

fn octets(address: Address) -> [u8; 16] {
    let mut octets = [0; 16];
    for (place, word) in octets.chunks_exact_mut(4).zip(address) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    octets
}

/// A frame, as far as it is here, and its length on the wire.
struct Frame<'a>(&'a [u8], u32);

#[derive(Clone, Copy)]
struct Run<'a>(&'a [u8]);

impl<'a> Source for Frame<'a> {
    type View = Run<'a>;

    fn view<const N: usize>(&self, offset: usize) -> Option<Run<'a>> {
        self.0.get(offset..offset.checked_add(N)?).map(Run)
    }

    fn len(&self) -> usize {
        self.1 as usize
    }
}

impl View for Run<'_> {
    fn u8(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or_default()
    }

    fn be16(self, at: usize) -> u16 {
        u16::from_be_bytes([self.u8(at), self.u8(at + 1)])
    }

    fn word(self, at: usize) -> u32 {
        u32::from_ne_bytes([self.u8(at), self.u8(at + 1), self.u8(at + 2), self.u8(at + 3)])
    }
}
