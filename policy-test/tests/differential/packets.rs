//! Packets: which ones are worth asking about, and what they look like on the wire.
//!
//! In: a policy set. Out: [`Ask`]s at the boundaries of what its rules say (ports one below and one
//! above, addresses at the edges of networks), between those that its selectors tell apart; frames.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Result;
use etherparse::{Ethernet2Header, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header};
use fastrand::Rng;
use ipnet::IpNet;
use policy_common::abi::Direction;
use policy_test::testrun::OUTSIDE_MAC;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    generate::{ADDRESSES, OWN, UPLINK, pick},
    oracle::{Oracle, Pod, any_net, list, rule::protocol},
    set::PolicySet,
};

pub(crate) const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;
/// Without ports that the datapath reads: GRE, DCCP, OSPF.
const OTHERS: [u8; 3] = [47, 33, 89];

/// Packets at the uplink of a set that blocks some there.
const UPLINK_ASKS: usize = 8;

/// ICMP and ICMPv6 types that policy decides on, and those that need a connection: an error, and an
/// answer to an echo request. Neighbour discovery is not here: it is no policy's.
const TYPES_V4: [u8; 6] = [8, 13, 17, 30, 3, 0];
const TYPES_V6: [u8; 6] = [128, 139, 144, 200, 1, 129];

/// The first packet of a connection, at one of its ends.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Ask {
    /// The endpoint's.
    pub(crate) interface: String,
    #[serde(deserialize_with = "direction")]
    pub(crate) direction: Direction,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    /// 0 where there are none; the identifier of an echo request.
    pub(crate) source_port: u16,
    /// ICMP: `type << 8 | code`; 0 where there are none.
    pub(crate) port: u16,
    /// TCP: with SYN, which alone begins a connection.
    pub(crate) opens: bool,
    /// At a host endpoint: whether the host passes it on. Elsewhere, and at the uplink's block lists,
    /// nothing.
    #[serde(default)]
    pub(crate) forwarded: Option<bool>,
}

fn direction<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Direction, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "ingress" => Ok(Direction::Ingress),
        "egress" => Ok(Direction::Egress),
        other => Err(serde::de::Error::custom(format!("{other} is no direction"))),
    }
}

/// What the connection table makes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// It opens an entry.
    Entry,
    /// It is decided alone.
    Alone,
    /// Only an entry lets it pass: an ICMP error, an echo reply.
    Needs,
}

impl Ask {
    /// The endpoint's address and port, and the other side's.
    pub(crate) fn ends(&self) -> [(IpAddr, u16); 2] {
        let port = if self.is_icmp() { 0 } else { self.port };
        let (from, to) = ((self.source, self.source_port), (self.destination, port));
        match self.direction {
            Direction::Egress => [from, to],
            Direction::Ingress => [to, from],
        }
    }

    pub(crate) fn is_icmp(&self) -> bool {
        self.protocol == if self.source.is_ipv4() { ICMP } else { ICMPV6 }
    }

    pub(crate) fn tracking(&self) -> Tracking {
        let [kind, code] = self.port.to_be_bytes();
        match (self.is_icmp(), self.source.is_ipv4(), kind, code) {
            (false, ..) | (true, true, 8, 0) | (true, false, 128, 0) => Tracking::Entry,
            (true, true, 0, 0) | (true, false, 129, 0) => Tracking::Needs,
            (true, true, 3 | 4 | 11 | 12, _) | (true, false, 1..=4, _) => Tracking::Needs,
            (true, ..) => Tracking::Alone,
        }
    }

    /// A frame of the connection: the one that opens it, or, `later`, one after that, possibly the
    /// answer to it.
    pub(crate) fn frame(&self, later: bool, answer: bool) -> Vec<u8> {
        let (mut from, mut to) = ((self.source, self.source_port), (self.destination, self.port));
        if answer && !self.is_icmp() {
            (from, to) = (to, from);
        } else if answer {
            (from.0, to.0) = (to.0, from.0);
        }
        let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
        let segment = match self.protocol {
            TCP => {
                let flags = if later || !self.opens { 0x10 } else { 0x02 };
                [&ports[..], &[0; 8], &[5 << 4, flags], &[0; 6]].concat()
            }
            UDP | UDP_LITE => [&ports[..], &[0, 8, 0, 0]].concat(),
            SCTP => [&ports[..], &[0; 8]].concat(),
            _ if self.is_icmp() => {
                let [kind, code] = self.port.to_be_bytes();
                // The answer to an echo request.
                let kind = match (answer, kind) {
                    (true, 8) => 0,
                    (true, 128) => 129,
                    (_, kind) => kind,
                };
                [&[kind, code, 0, 0], &self.source_port.to_be_bytes()[..], &[0, 1]].concat()
            }
            _ => vec![0; 8],
        };
        packet(from.0, to.0, self.protocol, &segment)
    }
}

fn packet(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> Vec<u8> {
    let length = u16::try_from(segment.len()).unwrap_or(u16::MAX);
    let (ether_type, header) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = Ipv4Header {
                protocol: IpNumber(protocol),
                source: from.octets(),
                destination: to.octets(),
                total_len: 20 + length,
                time_to_live: 64,
                ..Ipv4Header::default()
            };
            header.header_checksum = header.calc_header_checksum();
            (0x0800, header.to_bytes().to_vec())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: length,
                next_header: IpNumber(protocol),
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
            };
            (0x86dd, header.to_bytes().to_vec())
        }
        ends => unreachable!("one packet has one family: {ends:?}"),
    };
    let ethernet = Ethernet2Header {
        destination: OUTSIDE_MAC,
        source: [2, 0, 0, 0, 0xaa, 1],
        ether_type: u16::into(ether_type),
    };
    [ethernet.to_bytes().as_slice(), &header, segment].concat()
}

/// What a rule, or a whole set, speaks of.
#[derive(Default)]
struct Hints {
    nets: Vec<IpNet>,
    ports: BTreeSet<u16>,
    protocols: Vec<u8>,
    types: Vec<u8>,
    codes: Vec<u8>,
}

impl Hints {
    fn read(&mut self, key: &str, value: &Value) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| self.read(key, value)),
            Value::Array(items) => items.iter().for_each(|item| self.read(key, item)),
            _ if matches!(key, "protocol" | "notProtocol") => {
                self.protocols.extend(protocol(value).ok());
            }
            Value::Number(number) => {
                let number = number.as_u64().and_then(|number| u16::try_from(number).ok());
                match (key, number.map(u8::try_from)) {
                    ("type", Some(Ok(kind))) => self.types.push(kind),
                    ("code", Some(Ok(code))) => self.codes.push(code),
                    ("ports" | "notPorts" | "port" | "endPort", _) => self.ports.extend(number),
                    _ => {}
                }
            }
            Value::String(text) if matches!(key, "ports" | "notPorts") => {
                self.ports.extend(text.split(':').filter_map(|number| number.parse::<u16>().ok()));
            }
            Value::String(text) if text.contains(['.', ':']) => {
                self.nets.extend(any_net(text).ok());
            }
            _ => {}
        }
    }
}

/// Addresses in a network and beside it.
fn edges(net: &IpNet) -> [IpAddr; 4] {
    fn around<const N: usize>(first: [u8; N], last: [u8; N]) -> [[u8; N]; 4] {
        let step = |mut bytes: [u8; N], up: bool| {
            for byte in bytes.iter_mut().rev() {
                let (next, more) =
                    if up { byte.overflowing_add(1) } else { byte.overflowing_sub(1) };
                *byte = next;
                if !more {
                    break;
                }
            }
            bytes
        };
        [step(first, false), first, last, step(last, true)]
    }
    match net {
        IpNet::V4(net) => {
            around(net.network().octets(), net.broadcast().octets()).map(IpAddr::from)
        }
        IpNet::V6(net) => {
            around(net.network().octets(), net.broadcast().octets()).map(IpAddr::from)
        }
    }
}

/// Packets for a set, none of which belongs to the connection of another.
pub(crate) fn asks(rng: &mut Rng, set: &PolicySet, oracle: &Oracle, count: usize) -> Vec<Ask> {
    // Rules, and the endpoints that they are for.
    let mut rules: Vec<(Direction, &Value, Vec<&Pod>)> = Vec::new();
    for (document, pods) in oracle.subjects().filter(|(_, pods)| !pods.is_empty()) {
        let spec = &set.resources[document]["spec"];
        for (direction, field) in [(Direction::Ingress, "ingress"), (Direction::Egress, "egress")] {
            rules.extend(list(&spec[field]).iter().map(|rule| (direction, rule, pods.clone())));
        }
    }
    let mut whole = Hints::default();
    set.resources.iter().for_each(|resource| whole.read("", resource));
    let mut asks = Vec::new();
    let mut connections = BTreeSet::new();
    if set.resources.iter().any(|it| it["spec"]["doNotTrack"] == Value::Bool(true)) {
        asks.extend((0..UPLINK_ASKS).map(|_| at_uplink(rng, &whole)));
    }
    while asks.len() < count && !oracle.pods.is_empty() {
        let guide = (!rules.is_empty() && rng.u8(..10) < 8).then(|| pick(rng, &rules));
        let mut hints = Hints::default();
        let mut direction = if rng.bool() { Direction::Ingress } else { Direction::Egress };
        let mut pod = &oracle.pods[rng.usize(..oracle.pods.len())];
        if let Some(uplink) = oracle.uplink().filter(|_| rng.u8(..4) == 0) {
            pod = uplink;
        }
        if let Some((its, rule, pods)) = &guide {
            hints.read("", rule);
            direction = *its;
            pod = pods[rng.usize(..pods.len())];
        }
        let mut ask = ask(rng, set, oracle, (pod, direction), &hints, &whole);
        if pod.is_host() {
            cross(rng, set, oracle, &mut ask);
        }
        let [own, other] = ask.ends();
        if connections.insert((ask.interface.clone(), own, other, ask.protocol)) {
            asks.push(ask);
        } else if rng.u8(..50) == 0 {
            // A small world may not have as many.
            break;
        }
    }
    asks
}

/// A packet from outside.
fn at_uplink(rng: &mut Rng, whole: &Hints) -> Ask {
    let mut sources: Vec<IpAddr> = whole.nets.iter().flat_map(edges).collect();
    sources.extend(ADDRESSES.map(ip));
    sources.retain(|source| is_unicast(*source));
    let source = pick(rng, &sources);
    let destination = ip(if source.is_ipv4() { "10.0.0.1" } else { "fd00::1" });
    let (direction, interface) = (Direction::Ingress, UPLINK.to_owned());
    // Some of these are failsafe ports of a host endpoint, or answers from one.
    let (protocol, port) = pick(rng, &[(UDP, 53), (TCP, 22), (TCP, 80), (UDP, 5)]);
    let any = rng.u16(1..);
    let source_port = pick(rng, &[53, 80, any]);
    let (opens, forwarded) = (true, None);
    Ask { interface, direction, source, destination, protocol, source_port, port, opens, forwarded }
}

/// Gives a packet at a host endpoint a near end, and finds out whether the host passes it on: as it
/// says itself on the way out, by where it goes on the way in.
fn cross(rng: &mut Rng, set: &PolicySet, oracle: &Oracle, ask: &mut Ask) {
    let remote = match ask.direction {
        Direction::Ingress => ask.source,
        Direction::Egress => ask.destination,
    };
    let of_family = |address: &IpAddr| address.is_ipv4() == remote.is_ipv4();
    let host: Vec<IpAddr> = set.host.iter().copied().filter(of_family).collect();
    let mut behind: Vec<IpAddr> = OWN.iter().flatten().map(|text| ip(text)).collect();
    behind.retain(|address| of_family(address) && !host.contains(address));
    let local = !host.is_empty() && rng.u8(..5) < 3;
    let near = if local { pick(rng, &host) } else { pick(rng, &behind) };
    // Ports that are passed on, and ports that are left open, are worth more than chance gives them.
    let special: Vec<(u8, u16)> = match rng.u8(..5) {
        0 | 1 if local => set.published.iter().map(|it| (it.protocol, it.port)).collect(),
        2 => set.failsafe.iter().map(|it| (it.protocol, it.port)).collect(),
        _ => Vec::new(),
    };
    if !special.is_empty() {
        (ask.protocol, ask.port) = pick(rng, &special);
        (ask.source_port, ask.opens) = (rng.u16(30_000..), true);
    }
    let forwarded = match ask.direction {
        Direction::Ingress => {
            ask.destination = near;
            !local || oracle.translated(ask).is_some()
        }
        Direction::Egress => {
            ask.source = near;
            !local
        }
    };
    ask.forwarded = Some(forwarded);
}

fn ask(
    rng: &mut Rng,
    set: &PolicySet,
    oracle: &Oracle,
    (pod, direction): (&Pod, Direction),
    hints: &Hints,
    whole: &Hints,
) -> Ask {
    let mut own = pod.addresses.first().map_or(ip("10.0.0.1"), |_| pick(rng, &pod.addresses));
    if rng.u8(..20) == 0 {
        // Broadcast, somebody else's, the link's.
        let foreign = ["10.0.0.255", "10.0.1.9", "fd00::77", "fe80::ff:fe00:1"];
        own = pick(rng, &foreign.map(ip));
    }
    let is_v4 = own.is_ipv4();
    let nets = if hints.nets.is_empty() || rng.u8(..4) == 0 { &whole.nets } else { &hints.nets };
    let mut others: Vec<IpAddr> = match rng.u8(..10) {
        0..=3 => nets.iter().flat_map(edges).collect(),
        4..=7 => oracle.pods.iter().flat_map(|pod| pod.addresses.clone()).collect(),
        8 => set.host.clone(),
        _ => Vec::new(),
    };
    others.retain(|other| other.is_ipv4() == is_v4 && is_unicast(*other));
    if others.is_empty() {
        others.extend(ADDRESSES.map(ip).into_iter().filter(|other| other.is_ipv4() == is_v4));
    }
    let other = pick(rng, &others);
    let (protocol, source_port, port) = service(rng, is_v4, hints, whole);
    let (source, destination) = match direction {
        Direction::Ingress => (other, own),
        Direction::Egress => (own, other),
    };
    let opens = rng.u8(..16) != 0;
    let (interface, forwarded) = (pod.interface.clone(), None);
    Ask { interface, direction, source, destination, protocol, source_port, port, opens, forwarded }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| unreachable!("{text} is no address"))
}

/// Whether an address is one that packets of policy's have.
fn is_unicast(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

/// Protocol, source port and destination port, as an [`Ask`] has them.
fn service(rng: &mut Rng, is_v4: bool, hints: &Hints, whole: &Hints) -> (u8, u16, u16) {
    let icmp = if is_v4 { ICMP } else { ICMPV6 };
    let usual =
        [TCP, TCP, TCP, UDP, UDP, icmp, icmp, SCTP, UDP_LITE, pick(rng, &OTHERS), 59 - icmp];
    let mut protocol = pick(rng, &usual);
    if !hints.protocols.is_empty() && rng.u8(..4) != 0 {
        protocol = pick(rng, &hints.protocols);
    }
    let near = |rng: &mut Rng| {
        let ports = if hints.ports.is_empty() { &whole.ports } else { &hints.ports };
        let mut ports: Vec<u16> = ports.iter().copied().collect();
        ports.extend([0, 1, 53, 80, 8080, 65_535]);
        let port = pick(rng, &ports);
        match rng.u8(..4) {
            0 => port.saturating_sub(1),
            1 => port.saturating_add(1),
            _ => port,
        }
    };
    match protocol {
        TCP | UDP | SCTP | UDP_LITE => {
            let source = if rng.bool() { near(rng) } else { rng.u16(30_000..) };
            (protocol, source, near(rng))
        }
        _ if protocol == icmp => {
            let mut types = if is_v4 { TYPES_V4 } else { TYPES_V6 }.to_vec();
            // The rule's own, unless it is neighbour discovery in the other family.
            let decided = |kind: &&u8| is_v4 && ![5, 9].contains(*kind) || **kind >= 138;
            types.extend(hints.types.iter().filter(decided));
            let kind = pick(rng, &types);
            let mut codes = vec![0, 0, 1];
            codes.extend(&hints.codes);
            let id =
                if matches!((is_v4, kind), (true, 8) | (false, 128)) { rng.u16(1..) } else { 0 };
            (protocol, id, u16::from_be_bytes([kind, pick(rng, &codes)]))
        }
        _ => (protocol, 0, 0),
    }
}
