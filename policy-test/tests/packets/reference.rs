//! What should become of a frame, worked out in user space: a second opinion on the programs.
//!
//! Inputs: frames, as `web` or `free` of the [`world`](crate::world) send or get them, one after the
//! other. Outputs: pass, or the reason for a drop and what is counted under it. The headers are read by the
//! host build of the parser that runs in the kernel; everything behind it is written anew here, with
//! none of the programs' code, maps or compiler.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use policy_common::{
    abi::{Direction, DropReason, Family, Mac},
    packet::{
        Fragment, Kind, Packet, Source, View, arp_sender, hop_limit, neighbour_options,
        neighbour_target, parse, parse_plain, protocol, quoted, sender, tcp,
    },
};

use crate::frames::{OWN_MAC, ip};

/// Seconds that a first fragment is remembered.
const FRAGMENT_SECONDS: u64 = 30;

/// One of the endpoints that frames are shown to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// Under the policy of the world.
    Web,
    /// Under none.
    Free,
}

impl Subject {
    /// All of its addresses.
    fn own(self) -> [IpAddr; 3] {
        match self {
            Subject::Web => ["10.0.0.2", "fd00::2", "fe80::ff:fe00:aa02"],
            Subject::Free => ["10.0.0.5", "fd00::5", "fe80::ff:fe00:aa02"],
        }
        .map(ip)
    }
}

/// Everybody who has an identity.
const KNOWN: [&str; 4] = ["fd00::2", "fd00::3", "fd00::4", "fd00::5"];

/// A frame in memory. A view has exactly the bytes asked for: reading past them panics, as the verifier
/// would refuse it.
pub(crate) struct Frame<'a>(pub(crate) &'a [u8]);

#[derive(Clone, Copy)]
pub(crate) struct Bytes<'a>(&'a [u8]);

impl<'a> Source for Frame<'a> {
    type View = Bytes<'a>;

    fn view<const N: usize>(&self, offset: usize) -> Option<Bytes<'a>> {
        self.0.get(offset..offset.checked_add(N)?).map(Bytes)
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

impl View for Bytes<'_> {
    fn u8(self, at: usize) -> u8 {
        self.0[at]
    }

    fn be16(self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    fn word(self, at: usize) -> u32 {
        u32::from_ne_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }
}

/// Reads a frame as the programs do; with the reason, as much as could be read.
pub(crate) fn read(frame: &[u8]) -> (Packet, Result<(), DropReason>) {
    let mut general = Packet::UNKNOWN;
    let result = parse(&Frame(frame), &mut general);
    let mut plain = Packet::UNKNOWN;
    if parse_plain(&Frame(frame), &mut plain) {
        assert_eq!(result, Ok(()), "only the general way refuses {frame:02x?}");
        assert_eq!(plain, Packet { fragment_id: 0, ..general }, "the two ways differ");
    }
    (general, result)
}

/// A connection, as both of its ends have it: the endpoint's address and port, the other one's, the
/// protocol.
type Key = (Subject, (IpAddr, u16), (IpAddr, u16), u8);

/// What identifies the pieces of one packet: identification, source, destination, protocol (in IPv4).
type Pieces = (Subject, Direction, u32, IpAddr, IpAddr, u8);

struct Known {
    opened: Direction,
    seen: u64,
    replied: bool,
    closing: bool,
    reset: bool,
}

/// A drop: why, and the protocol and port that it is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: DropReason,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

/// What has been seen so far.
#[derive(Default)]
pub(crate) struct Reference {
    flows: HashMap<Key, Known>,
    firsts: HashMap<Pieces, (u64, Option<Mac>)>,
    /// Seconds.
    now: u64,
}

impl Reference {
    /// Time goes by.
    pub(crate) fn age(&mut self, seconds: u64) {
        self.now += seconds;
    }

    /// How many connections are known.
    pub(crate) fn flows(&self) -> usize {
        self.flows.len()
    }

    /// What becomes of a frame.
    pub(crate) fn judge(
        &mut self,
        subject: Subject,
        direction: Direction,
        frame: &[u8],
    ) -> Result<(), Refusal> {
        let (packet, read) = read(frame);
        let visit = Visit { subject, direction, frame, packet };
        read.and_then(|()| self.decide(&visit)).map_err(|reason| Refusal {
            reason,
            protocol: packet.protocol,
            port: packet.policy_port,
        })
    }

    fn decide(&mut self, visit: &Visit<'_>) -> Result<(), DropReason> {
        let packet = &visit.packet;
        let sender = visit.outbound().then(|| sender(&Frame(visit.frame)).unwrap_or_default());
        let identification = if packet.family == Family::V4 { packet.protocol } else { 0 };
        let (source, destination) = (visit.source(), visit.destination());
        let first = (
            visit.subject,
            visit.direction,
            packet.fragment_id,
            source,
            destination,
            identification,
        );
        if packet.fragment == Fragment::Later {
            return match self.firsts.get(&first) {
                Some((seen, _)) if self.now - seen >= FRAGMENT_SECONDS => Err(DropReason::Fragment),
                Some((_, from)) if *from != sender => Err(DropReason::SpoofedMac),
                Some(_) => Ok(()),
                None => Err(DropReason::Fragment),
            };
        }
        match packet.kind {
            Kind::Tcp | Kind::Stateful | Kind::EchoRequest | Kind::EchoReply => {
                self.connection(visit)?;
            }
            Kind::IcmpError => self.error(visit)?,
            Kind::IcmpOther => visit.stateless()?,
            Kind::Router if packet.family == Family::V4 && !visit.outbound() => {
                visit.stateless()?;
            }
            Kind::Neighbour | Kind::Router | Kind::Multicast | Kind::Arp if visit.on_link() => {
                return visit.discovery();
            }
            _ => visit.stateless()?,
        }
        if packet.fragment == Fragment::First {
            self.firsts.insert(first, (self.now, sender));
        }
        Ok(())
    }

    /// A packet of a connection, or one that may open it.
    fn connection(&mut self, visit: &Visit<'_>) -> Result<(), DropReason> {
        let (key, now) = (visit.key(), self.now);
        if let Some(known) = self.known(visit, &key) {
            visit.sender()?;
            let flags = visit.packet.tcp_flags;
            known.seen = now;
            known.replied |= known.opened != visit.direction;
            known.reset |= flags & tcp::RST != 0;
            known.closing |= flags & (tcp::FIN | tcp::RST) != 0;
            return Ok(());
        }
        visit.origin()?;
        if visit.packet.kind == Kind::EchoReply {
            return Err(DropReason::UnrelatedIcmp);
        }
        visit.policy()?;
        let opens = visit.packet.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN;
        if visit.packet.kind == Kind::Tcp && !opens {
            return Err(DropReason::NoConnection);
        }
        if visit.subject.own().contains(&visit.local()) {
            let opened = visit.direction;
            let known = Known { opened, seen: now, replied: false, closing: false, reset: false };
            self.flows.insert(key, known);
        }
        Ok(())
    }

    /// The connection that a packet goes on with.
    fn known(&mut self, visit: &Visit<'_>, key: &Key) -> Option<&mut Known> {
        let now = self.now;
        let known = self.flows.get_mut(key)?;
        let reply = known.opened != visit.direction;
        // The defaults of Linux's own connection tracking, in seconds.
        let lifetime = match (visit.packet.protocol, known.replied) {
            (protocol::TCP, _) if known.reset => 10,
            (protocol::TCP, true) if !known.closing => 432_000,
            (protocol::TCP, _) => 120,
            (protocol::UDP | protocol::UDPLITE, true) => 120,
            (protocol::UDP | protocol::UDPLITE, false) => 30,
            (protocol::ICMP | protocol::ICMPV6, _) => 30,
            _ => 600,
        };
        let syn = visit.packet.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN;
        let goes_on = match visit.packet.kind {
            Kind::EchoRequest => !reply,
            Kind::EchoReply => reply,
            Kind::Tcp if syn => !(known.closing || reply && known.replied),
            _ => true,
        };
        (now - known.seen <= lifetime && goes_on).then_some(known)
    }

    /// An ICMP error: about a connection, to whoever sent what it quotes.
    fn error(&mut self, visit: &Visit<'_>) -> Result<(), DropReason> {
        if visit.outbound() {
            visit.origin()?;
        }
        let mut inner = Packet::UNKNOWN;
        quoted(&Frame(visit.frame), &visit.packet, &mut inner)?;
        let about = Visit { packet: inner, direction: visit.direction.reverse(), ..*visit };
        let found =
            about.source() == visit.destination() && self.known(&about, &about.key()).is_some();
        if found { Ok(()) } else { Err(DropReason::UnrelatedIcmp) }
    }
}

/// One frame at one endpoint.
#[derive(Clone, Copy)]
struct Visit<'a> {
    subject: Subject,
    direction: Direction,
    frame: &'a [u8],
    packet: Packet,
}

impl Visit<'_> {
    fn outbound(&self) -> bool {
        self.direction == Direction::Egress
    }

    fn source(&self) -> IpAddr {
        address(self.packet.family, self.packet.source)
    }

    fn destination(&self) -> IpAddr {
        address(self.packet.family, self.packet.destination)
    }

    fn local(&self) -> IpAddr {
        if self.outbound() { self.source() } else { self.destination() }
    }

    fn key(&self) -> Key {
        let source = (self.source(), self.packet.source_port);
        let destination = (self.destination(), self.packet.destination_port);
        let (local, remote) =
            if self.outbound() { (source, destination) } else { (destination, source) };
        (self.subject, local, remote, self.packet.protocol)
    }

    /// The Ethernet source.
    fn sender(&self) -> Result<(), DropReason> {
        let honest = sender(&Frame(self.frame)) == Some(policy_common::abi::mac(OWN_MAC));
        if honest || !self.outbound() { Ok(()) } else { Err(DropReason::SpoofedMac) }
    }

    /// Both sources.
    fn origin(&self) -> Result<(), DropReason> {
        if self.outbound() && !self.subject.own().contains(&self.source()) {
            return Err(DropReason::SpoofedSource);
        }
        self.sender()
    }

    fn stateless(&self) -> Result<(), DropReason> {
        self.origin()?;
        self.policy()
    }

    /// The policy of the world, by hand.
    fn policy(&self) -> Result<(), DropReason> {
        let packet = &self.packet;
        let v4 = packet.family == Family::V4;
        let (peer, port) = match self.direction {
            Direction::Egress => (self.destination(), 5432),
            Direction::Ingress => (self.source(), 80),
        };
        let host = if self.outbound() { 3 } else { 4 };
        let peers = [
            IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into())),
        ];
        let service = match packet.protocol {
            protocol::TCP => packet.policy_port == port,
            protocol::UDP => packet.policy_port == 53,
            protocol::ICMP if v4 => packet.policy_port >> 8 == 8,
            protocol::ICMPV6 if !v4 => packet.policy_port >> 8 == 128,
            _ => false,
        };
        let allowed = self.subject == Subject::Free || peers.contains(&peer) && service;
        if allowed { Ok(()) } else { Err(DropReason::Policy) }
    }

    /// Whether it is between neighbours (ARP is).
    fn on_link(&self) -> bool {
        let hops = hop_limit(&Frame(self.frame));
        let IpAddr::V6(to) = self.destination() else { return true };
        let known = || KNOWN.map(ip).contains(&IpAddr::V6(to));
        match self.packet.kind {
            Kind::Router if self.outbound() => true,
            Kind::Multicast => to.is_multicast() && hops == Some(1),
            Kind::Neighbour if self.outbound() => {
                let group = to.is_multicast() && to.octets()[1] & 0x0f == 2;
                (group || to.is_unicast_link_local() || known()) && hops == Some(255)
            }
            _ => hops == Some(255),
        }
    }

    fn discovery(&self) -> Result<(), DropReason> {
        let packet = &self.packet;
        let (arp, router) = (packet.kind == Kind::Arp, packet.kind == Kind::Router);
        let neighbour = packet.kind == Kind::Neighbour;
        if (neighbour || router) && packet.fragment != Fragment::Whole {
            return Err(DropReason::Malformed);
        }
        if !self.outbound() {
            let local = |it| matches!(it, IpAddr::V6(it) if it.is_unicast_link_local());
            let fine = !router || local(self.source());
            return if fine { Ok(()) } else { Err(DropReason::RogueRouter) };
        }
        if router {
            return Err(DropReason::RogueRouter);
        }
        self.sender()?;
        let owns = |it| self.subject.own().contains(&it);
        if !self.source().is_unspecified() && !owns(self.source()) {
            return Err(if arp { DropReason::SpoofedArp } else { DropReason::SpoofedSource });
        }
        let (frame, own) = (Frame(self.frame), policy_common::abi::mac(OWN_MAC));
        if arp {
            return arp_sender(&frame, packet.transport as usize, own);
        }
        if neighbour {
            if packet.policy_port >> 8 == 136 {
                let target = neighbour_target(&frame, packet)?;
                if !owns(address(Family::V6, target)) {
                    return Err(DropReason::SpoofedNeighbour);
                }
            }
            neighbour_options(&frame, packet.transport as usize, own)?;
        }
        Ok(())
    }
}

fn address(family: Family, words: [u32; 4]) -> IpAddr {
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    match family {
        Family::V4 => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
        Family::V6 => <[u8; 16]>::try_from(bytes).map_or(IpAddr::from([0; 4]), IpAddr::from),
    }
}
