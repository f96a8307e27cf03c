//! The way of a packet through an endpoint's fence:
//! parse -> known connection? -> source check -> policy -> new connection.
//!
//! What most packets need is inlined into the programs; the rest are functions of their own, for
//! the 512 bytes of stack that a program has, and for the verifier's sake.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use aya_log_ebpf::error;
use policy_common::{
    abi::{
        Direction, DropReason, Endpoint, Family, Flow, INSIDE, LOG_NONE, Mac, PEER_NONE, RULE_NONE,
        service,
    },
    packet::{Address, Fragment, Kind, Packet, parse, parse_plain, protocol, quoted, tcp},
};

use crate::{
    capture, clock,
    conntrack::{self, Table, V4, V6},
    emit::{self, Drop, Ruling},
    fragment, host,
    lookup::{self, Asked, Verdict},
    maps::{ENDPOINTS, GLOBALS, KEPT, PARSED},
    neighbour,
    verifier::{TcBytes, TcFrame, length},
};

/// ICMP echo request, `type << 8 | code`.
const ECHO_V4: u16 = 8 << 8;
/// UDP port of a DHCP client.
const DHCP_CLIENT: u16 = 68;
/// UDP port of a DHCP server.
const DHCP_SERVER: u16 = 67;

/// ICMPv6 echo request.
const ECHO_V6: u16 = 128 << 8;

/// One packet at one endpoint.
pub struct Visit {
    /// Its headers.
    pub packet: Packet,
    /// `CLOCK_MONOTONIC`, ns.
    pub now: u64,
    /// Read before any table: a verdict computed while policy changes carries the old revision, and
    /// is computed again at the next packet.
    pub revision: u64,
    /// The endpoint's interface, or its number with `INSIDE`.
    pub ifindex: u32,
    /// Bytes, L2 frame.
    pub length: u32,
    /// Which way it travels.
    pub direction: Direction,
    /// The other side, `PEER_NONE` until it is looked up.
    pub peer: u32,
    /// What the staged policies would say, to be counted, see `Interval::staged`.
    pub staged: u32,
    /// The Log rules on the way to the verdict, to be counted, see `Interval::log`.
    pub log: u32,
    /// At a host endpoint `FLOW_LOCAL`, `FLOW_FORWARD`, or 0 while that is not known.
    pub plane: u8,
    /// `CAPTURE_*`: which packets somebody wants to see whole.
    pub capture: u8,
}

impl Visit {
    /// The endpoint's own address and the other one.
    #[inline(always)]
    pub fn ends(&self) -> (Address, Address) {
        match self.direction {
            Direction::Egress => (self.packet.source, self.packet.destination),
            Direction::Ingress => (self.packet.destination, self.packet.source),
        }
    }

    /// The endpoint behind the interface.
    #[inline(always)]
    fn endpoint<'a>(&self) -> Result<&'a Endpoint, Drop> {
        // SAFETY: an element is replaced as a whole; one that was recycled while it was read shows
        // another interface index, see `consult`.
        unsafe { ENDPOINTS.get(self.ifindex) }.ok_or(Drop::from(DropReason::Pending))
    }

    /// Asks the endpoint's policy about a flow in `direction`.
    #[inline(always)]
    fn consult(
        &mut self,
        endpoint: &Endpoint,
        direction: Direction,
        remote: &Address,
        asked: Asked,
    ) -> Result<Verdict, Drop> {
        let verdict = lookup::decide(endpoint, direction, self.packet.family, remote, asked);
        // SAFETY: a valid reference; volatile, so that the load stays after those before it.
        let still = unsafe { (&raw const endpoint.ifindex).read_volatile() };
        match verdict {
            Some(verdict) if still == self.ifindex => {
                self.peer = verdict.peer;
                self.staged = verdict.staged;
                self.log = verdict.log;
                Ok(verdict)
            }
            _ => Err(Drop::from(DropReason::Fault)),
        }
    }
}

/// Decides on one packet of the endpoint under `number`. A pass is `TC_ACT_UNSPEC`: other programs on the interface have their
/// say, too.
#[inline(always)]
pub fn run<const HOST: bool>(ctx: &TcContext, number: u32, direction: Direction) -> i32 {
    let (revision, capture) =
        GLOBALS.get(0).map_or((0, 0), |globals| (globals.revision, globals.capture));
    let mut visit = Visit {
        packet: Packet::UNKNOWN,
        now: clock::now(),
        revision,
        capture,
        ifindex: number,
        length: length(ctx),
        direction,
        peer: PEER_NONE,
        staged: 0,
        log: LOG_NONE,
        plane: if HOST { host::plane(ctx, direction) } else { 0 },
    };
    let result = inspect::<HOST>(ctx, &mut visit);
    // Here and not where policy is asked: a call deeper down would not find room on the stack.
    if visit.staged | visit.log != 0 {
        let rule = match result {
            Ok(rule) => rule,
            Err(drop) => drop.rule,
        };
        emit::note(&visit, result.is_ok(), rule);
    }
    if visit.capture != 0 {
        let (reason, rule) = match result {
            Ok(rule) => (0, rule),
            Err(drop) => (drop.reason as u32, drop.rule),
        };
        capture::decided(ctx, &visit, u32::from(result.is_ok()), reason, rule);
    }
    match result {
        Ok(_) => TC_ACT_UNSPEC,
        Err(drop) => {
            // At a host endpoint the stack has no room for it; the counter and the event tell.
            if !HOST && matches!(drop.reason, DropReason::Fault) {
                complain(ctx, visit.ifindex);
            }
            refuse(&visit, drop.reason as u32, drop.rule);
            TC_ACT_SHOT
        }
    }
}

/// Counts a drop and tells of it. Not inlined, for the stack's sake. Always 0: see [`Ruling`].
#[inline(never)]
fn refuse(visit: &Visit, reason: u32, rule: u32) -> u32 {
    let reason = DropReason::from_u8(reason as u8).unwrap_or(DropReason::Fault);
    let drop = Drop { reason, rule };
    let key = emit::key(visit.ifindex, visit.direction, visit.peer, drop, &visit.packet);
    if emit::count_drop(&key, visit.length) {
        emit::tell_of_refusal(&key, visit);
    }
    0
}

/// Tells the agent's log that the maps contradict each other: a bug, or somebody else's write.
#[inline(never)]
fn complain(ctx: &TcContext, ifindex: u32) {
    error!(ctx, "the maps contradict each other: packet of interface {} dropped", ifindex);
}

#[inline(always)]
fn inspect<const HOST: bool>(ctx: &TcContext, visit: &mut Visit) -> Result<u32, Drop> {
    parse_frame(ctx, &mut visit.packet)?;
    match visit.packet.family {
        Family::V4 => track::<V4, HOST>(ctx, visit),
        Family::V6 => track::<V6, HOST>(ctx, visit),
    }
}

/// Parses a frame: the usual ones at once, the others at leisure.
#[inline(always)]
pub fn parse_frame(ctx: &TcContext, packet: &mut Packet) -> Result<(), DropReason> {
    if parse_plain(&TcFrame(ctx), packet) {
        return Ok(());
    }
    let outcome = parse_any(ctx.as_ptr().cast());
    let Some(parsed) = PARSED.get_ptr(0) else { return Err(DropReason::Fault) };
    // SAFETY: this CPU's own slot, written by `parse_any`.
    *packet = unsafe { parsed.read().assume_init() };
    match outcome {
        0 => Ok(()),
        code => Err(DropReason::from_u8((code - 1) as u8).unwrap_or(DropReason::Fault)),
    }
}

/// Parses any frame, into [`PARSED`]. 0, or one more than the code of why it is dropped.
///
/// Global, see [`lookup::search`]: what follows is then walked once for whatever packet lies in the
/// map, and not once more for each of the many ways through the headers.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn parse_any(ctx: *mut __sk_buff) -> u32 {
    let Some(parsed) = PARSED.get_ptr_mut(0) else { return 1 + DropReason::Fault as u32 };
    let ctx = TcContext::new(ctx);
    let mut packet = Packet::UNKNOWN;
    let outcome = parse(&TcBytes(&ctx), &mut packet);
    // SAFETY: this CPU's own slot, see `emit::count_drop`.
    unsafe { parsed.write(core::mem::MaybeUninit::new(packet)) };
    match outcome {
        Ok(()) => 0,
        Err(reason) => 1 + reason as u32,
    }
}

/// Packets of known connections pass or are cut here; all others are decided. The rule that lets a
/// packet pass.
#[inline(always)]
fn track<T: Table, const HOST: bool>(ctx: &TcContext, visit: &mut Visit) -> Result<u32, Drop> {
    if matches!(visit.packet.fragment, Fragment::Later) {
        let rule = fragment::follow(ctx, visit).result()?;
        emit::count_rule(rule, visit.length);
        return Ok(rule);
    }
    let rule = match visit.packet.kind {
        Kind::Tcp | Kind::Stateful | Kind::EchoRequest | Kind::EchoReply if HOST => {
            match find::<T>(visit) {
                Some(flow) => {
                    admit_at_host(ctx, visit, flow)?;
                    conntrack::account(flow, visit);
                    flow.rule
                }
                None => {
                    let rule = stateless_at_host(ctx, visit).result()?;
                    begin_at_host::<T>(visit, rule);
                    rule
                }
            }
        }
        Kind::Tcp | Kind::Stateful | Kind::EchoRequest | Kind::EchoReply => {
            let key = T::key(visit.ifindex, visit.direction, &visit.packet);
            match T::map().get_ptr_mut(key) {
                // SAFETY: a map value, valid until the program ends.
                Some(flow) if conntrack::continues(unsafe { &*flow }, visit) => {
                    // SAFETY: as above; other CPUs' writes are discussed at `Flow`.
                    let flow = unsafe { &mut *flow };
                    admit(visit, flow)?;
                    neighbour::speaks_as(ctx, flow.mac, visit.direction)?;
                    conntrack::account(flow, visit);
                    flow.rule
                }
                _ => begin::<T>(ctx, visit, &key).result()?,
            }
        }
        Kind::IcmpError if HOST => related_at_host::<T>(ctx, visit)?,
        Kind::IcmpError => related::<T>(ctx, visit).result()?,
        Kind::IcmpOther if HOST => stateless_at_host(ctx, visit).result()?,
        Kind::Neighbour | Kind::Router | Kind::Multicast if HOST => {
            if host::on_link(ctx, visit) {
                return Ok(RULE_NONE);
            }
            stateless_at_host(ctx, visit).result()?
        }
        Kind::IcmpOther => stateless(ctx, visit).result()?,
        // Anybody in the world can send one of these: policy decides who may.
        Kind::Router if foreign_router(visit) => stateless(ctx, visit).result()?,
        Kind::Neighbour | Kind::Router | Kind::Multicast | Kind::Arp => {
            if neighbour::on_link(ctx, visit) {
                neighbour::discovery(ctx, visit.endpoint()?, visit)?;
                neighbour::hardware(ctx, visit)?;
                return Ok(RULE_NONE);
            }
            stateless(ctx, visit).result()?
        }
    };
    if matches!(visit.packet.fragment, Fragment::First) {
        fragment::remember(ctx, visit, rule);
    }
    emit::count_rule(rule, visit.length);
    Ok(rule)
}

/// Whether an ICMP router message comes in over IPv4, where no link-local scope holds it to the
/// link (unlike RFC 4861's hop limit of 255, which the receiver checks).
#[inline(always)]
fn foreign_router(visit: &Visit) -> bool {
    matches!(visit.packet.family, Family::V4) && matches!(visit.direction, Direction::Ingress)
}

/// Opens a connection, if policy allows it.
#[inline(never)]
fn begin<T: Table>(ctx: &TcContext, visit: &mut Visit, key: &T::Key) -> Ruling {
    Ruling::from(decide(ctx, visit).map(|admission| {
        // Multicast, broadcast, and frames that a bridge floods because it does not know better
        // meet policy each time: no answer is expected from their destination address.
        if admission.own {
            conntrack::enter::<T>(key, visit, admission.rule, admission.mac);
        }
        admission.rule
    }))
}

/// As [`begin`], at a host endpoint, and once policy has been asked. Always 0: see [`Ruling`].
#[inline(never)]
fn begin_at_host<T: Table>(visit: &Visit, rule: u32) -> u32 {
    let key = T::key(visit.ifindex, visit.direction, &visit.packet);
    conntrack::enter::<T>(&key, visit, rule, Mac::default());
    0
}

/// As [`stateless`], at a host endpoint.
#[inline(never)]
fn stateless_at_host(ctx: &TcContext, visit: &mut Visit) -> Ruling {
    Ruling::from(host::decide(ctx, visit))
}

/// Decides a packet that opens no connection.
#[inline(never)]
fn stateless(ctx: &TcContext, visit: &mut Visit) -> Ruling {
    Ruling::from(decide(ctx, visit).map(|admission| admission.rule))
}

/// Lets a packet of a known connection pass if policy still does, at a host endpoint.
#[inline(always)]
fn admit_at_host(ctx: &TcContext, visit: &mut Visit, flow: &mut Flow) -> Result<(), Drop> {
    // Only the answer may tell whether the host passes a connection on.
    let misplaced = visit.plane != 0 && visit.plane != flow.plane;
    if flow.revision != visit.revision || misplaced {
        reconsider_at_host(ctx, visit, flow).result()?;
    }
    uncut(visit, flow)
}

/// Lets a packet of a known connection pass if policy still does.
#[inline(always)]
fn admit(visit: &mut Visit, flow: &mut Flow) -> Result<(), Drop> {
    if flow.revision != visit.revision {
        reconsider(visit, flow).result()?;
    }
    uncut(visit, flow)
}

#[inline(always)]
fn uncut(visit: &mut Visit, flow: &Flow) -> Result<(), Drop> {
    if flow.cut != 0 {
        visit.peer = flow.peer;
        return Err(Drop { reason: DropReason::Policy, rule: flow.rule });
    }
    Ok(())
}

/// Decides a connection anew, in its original direction, after policy or addresses changed.
#[inline(never)]
fn reconsider(visit: &mut Visit, flow: &mut Flow) -> Ruling {
    Ruling::from(decide_again(visit, flow))
}

/// As [`reconsider`], at a host endpoint.
#[inline(never)]
fn reconsider_at_host(ctx: &TcContext, visit: &mut Visit, flow: &mut Flow) -> Ruling {
    let (direction, ports) = first_packet(visit, flow);
    Ruling::from(host::decide_again(ctx, visit, flow, direction, ports))
}

/// Direction and ports (source, policy's) of the first packet of the flow that a packet is of.
#[inline(always)]
fn first_packet(visit: &Visit, flow: &Flow) -> (Direction, (u16, u16)) {
    let packet = &visit.packet;
    let original = flow.direction == visit.direction as u8;
    let ports = match packet.kind {
        Kind::EchoRequest | Kind::EchoReply => match packet.family {
            Family::V4 => (0, ECHO_V4),
            Family::V6 => (0, ECHO_V6),
        },
        _ if original => (packet.source_port, packet.destination_port),
        _ => (packet.destination_port, packet.source_port),
    };
    (if original { visit.direction } else { visit.direction.reverse() }, ports)
}

#[inline(always)]
fn decide_again(visit: &mut Visit, flow: &mut Flow) -> Result<u32, Drop> {
    let endpoint = visit.endpoint()?;
    let (local, remote) = visit.ends();
    let packet = &visit.packet;
    if !neighbour::owns(endpoint, packet.family, &local) {
        return Err(Drop::from(DropReason::SpoofedSource));
    }
    let (direction, ports) = first_packet(visit, flow);
    let asked = Asked { service: service(packet.protocol, ports.1), source_port: ports.0 };
    let verdict = visit.consult(endpoint, direction, &remote, asked)?;
    // What a policy that was staged today would do to yesterday's connections is counted once, and
    // what was logged when they opened is not logged again.
    if verdict.staged == flow.staged {
        visit.staged = 0;
    }
    visit.log = LOG_NONE;
    flow.staged = verdict.staged;
    flow.rule = verdict.rule;
    flow.peer = verdict.peer;
    flow.cut = !verdict.allow as u8;
    flow.mac = endpoint.mac;
    // Last: another CPU that sees the new revision must see the new verdict.
    flow.revision = visit.revision;
    Ok(verdict.rule)
}

/// Whether a packet is a DHCP client's that has no address yet (RFC 2131, 4.1), on a network that may
/// have a server of its own: policy decides.
#[inline(always)]
fn asks_for_address(visit: &Visit) -> bool {
    let packet = &visit.packet;
    visit.ifindex & INSIDE != 0
        && packet.protocol == protocol::UDP
        && packet.source_port == DHCP_CLIENT
        && packet.destination_port == DHCP_SERVER
        && matches!(packet.family, Family::V4)
        && neighbour::unspecified(&packet.source)
        && packet.destination[0] == u32::MAX
}

/// What policy said of a packet that it lets pass.
struct Admission {
    /// Deciding rule.
    rule: u32,
    /// Whether the endpoint's side of the packet is one of its own addresses.
    own: bool,
    /// The endpoint's.
    mac: Mac,
}

/// Decides a packet that belongs to no known connection.
#[inline(always)]
fn decide(ctx: &TcContext, visit: &mut Visit) -> Result<Admission, Drop> {
    let endpoint = visit.endpoint()?;
    let (local, remote) = visit.ends();
    let own = neighbour::owns(endpoint, visit.packet.family, &local);
    if matches!(visit.direction, Direction::Egress) && !own && !asks_for_address(visit) {
        return Err(Drop::from(DropReason::SpoofedSource));
    }
    neighbour::speaks_as(ctx, endpoint.mac, visit.direction)?;
    if matches!(visit.packet.kind, Kind::EchoReply) {
        return Err(Drop::from(DropReason::UnrelatedIcmp));
    }
    let asked = Asked { service: visit.packet.service(), source_port: visit.packet.source_port };
    let verdict = visit.consult(endpoint, visit.direction, &remote, asked)?;
    let opens = visit.packet.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN;
    let stray = visit.packet.protocol == protocol::TCP && !opens;
    if verdict.allow && stray && visit.now >= endpoint.adopt_until_ns {
        // It opens nothing, so there is nothing to count.
        visit.staged = 0;
        visit.log = LOG_NONE;
        return Err(Drop::from(DropReason::NoConnection));
    }
    if !verdict.allow {
        return Err(Drop { reason: DropReason::Policy, rule: verdict.rule });
    }
    Ok(Admission { rule: verdict.rule, own, mac: endpoint.mac })
}

/// An ICMP error passes if it is about a connection that may pass; the ruling is that one's. In two
/// steps, each with the stack to itself.
#[inline(never)]
fn related<T: Table>(ctx: &TcContext, visit: &mut Visit) -> Ruling {
    let error = visit.packet;
    if let Err(drop) = quote::<false>(ctx, visit).result() {
        return Ruling::from(Err(drop));
    }
    let ruling = follow::<T>(visit);
    visit.packet = error;
    visit.direction = visit.direction.reverse();
    ruling
}

/// As [`related`], at a host endpoint. An error about a connection that took another way, or that no
/// policy has seen, is for policy to decide on. The error is kept in a map: there is no room on the
/// stack for two packets.
#[inline(always)]
fn related_at_host<T: Table>(ctx: &TcContext, visit: &mut Visit) -> Result<u32, Drop> {
    if keep(visit) == 0 {
        return Err(Drop::from(DropReason::Fault));
    }
    quote::<true>(ctx, visit).result()?;
    visit.plane = 0;
    let found = match find::<T>(visit) {
        Some(flow) => admit_at_host(ctx, visit, flow).map(|()| flow.rule),
        None => Err(Drop::from(DropReason::UnrelatedIcmp)),
    };
    take_back(ctx, visit);
    match found {
        Err(Drop { reason: DropReason::UnrelatedIcmp, .. }) => {
            stateless_at_host(ctx, visit).result()
        }
        found => found,
    }
}

/// The connection that a packet belongs to. Not inlined at host endpoints, for the stack's sake.
#[inline(never)]
fn find<T: Table>(visit: &Visit) -> Option<&'static mut Flow> {
    let key = T::key(visit.ifindex, visit.direction, &visit.packet);
    let flow = T::map().get_ptr_mut(key)?;
    // SAFETY: a map value, valid until the program ends; other CPUs' writes are discussed at `Flow`.
    let flow = unsafe { &mut *flow };
    if conntrack::continues(flow, visit) { Some(flow) } else { None }
}

/// Keeps a packet that another takes the place of.
#[inline(never)]
fn keep(visit: &Visit) -> u32 {
    let Some(kept) = KEPT.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own slot, see `emit::count_drop`.
    unsafe { kept.write(core::mem::MaybeUninit::new(visit.packet)) };
    1
}

/// Puts it back, with its direction and plane. Always 0: see [`Ruling`].
#[inline(never)]
fn take_back(ctx: &TcContext, visit: &mut Visit) -> u32 {
    if let Some(kept) = KEPT.get_ptr_mut(0) {
        // SAFETY: written by `keep`.
        visit.packet = unsafe { kept.read().assume_init() };
    }
    visit.direction = visit.direction.reverse();
    visit.plane = host::plane(ctx, visit.direction);
    0
}

/// Puts the packet that an ICMP error quotes in the place of the error.
#[inline(never)]
fn quote<const HOST: bool>(ctx: &TcContext, visit: &mut Visit) -> Ruling {
    Ruling::from(find_quoted::<HOST>(ctx, visit))
}

#[inline(always)]
fn find_quoted<const HOST: bool>(ctx: &TcContext, visit: &mut Visit) -> Result<u32, Drop> {
    if !HOST {
        let endpoint = visit.endpoint()?;
        let outbound = matches!(visit.direction, Direction::Egress);
        if outbound && !neighbour::owns(endpoint, visit.packet.family, &visit.packet.source) {
            return Err(Drop::from(DropReason::SpoofedSource));
        }
        neighbour::speaks_as(ctx, endpoint.mac, visit.direction)?;
    }
    let mut inner = Packet::UNKNOWN;
    quoted(&TcBytes(ctx), &visit.packet, &mut inner)?;
    // An error goes to whoever sent the packet that it is about (RFC 1122, 3.2.2; RFC 4443, 2.4).
    // One that goes elsewhere would carry what it likes past policy.
    if inner.source != visit.packet.destination {
        return Err(Drop::from(DropReason::UnrelatedIcmp));
    }
    visit.packet = inner;
    // It travelled the other way.
    visit.direction = visit.direction.reverse();
    Ok(RULE_NONE)
}

/// The rule of the connection that a packet belongs to, if it may pass.
#[inline(never)]
fn follow<T: Table>(visit: &mut Visit) -> Ruling {
    Ruling::from(follow_flow::<T>(visit))
}

#[inline(always)]
fn follow_flow<T: Table>(visit: &mut Visit) -> Result<u32, Drop> {
    let key = T::key(visit.ifindex, visit.direction, &visit.packet);
    match T::map().get_ptr_mut(key) {
        // SAFETY: a map value, valid until the program ends.
        Some(flow) if conntrack::continues(unsafe { &*flow }, visit) => {
            // SAFETY: as above; other CPUs' writes are discussed at `Flow`.
            let flow = unsafe { &mut *flow };
            admit(visit, flow)?;
            Ok(flow.rule)
        }
        _ => Err(Drop::from(DropReason::UnrelatedIcmp)),
    }
}
