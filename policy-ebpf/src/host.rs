//! Host endpoints: what comes to the host through an interface of its own, and what leaves it.
//!
//! Two kinds of packets meet different policies: those of local processes, and those that the host
//! passes on. On the way out the kernel says which it is: only a packet that came in has an
//! interface that it came in through. On the way in, translation and routing are still to come:
//! routing is asked ahead of time, and which ports are translated is known from `PUBLISHED`. Should
//! that be wrong, the answer on its way out shows it, and the connection is decided anew before the
//! answer passes. Answers themselves are known by their connection.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, TC_ACT_UNSPEC, bpf_fib_lookup as Route},
    helpers::generated::bpf_fib_lookup,
    maps::lpm_trie::Key,
    programs::TcContext,
};
use policy_common::{
    abi::{
        Direction, DropReason, Endpoint, FLOW_FORWARD, FLOW_LOCAL, FailsafeKey, Family, Flow,
        LOG_NONE, PEER_NONE, PLANE_FORWARD, PLANE_PRE_DNAT, PublishedKey, RULE_NONE, mapped,
        service,
    },
    packet::{Address, Kind, hop_limit, protocol, tcp},
};

use crate::{
    emit::Drop,
    endpoint::{self, Visit},
    lookup::{self, Asked, bytes4, bytes16},
    maps::{ENDPOINTS, FAILSAFE, PUBLISHED, QUESTION},
    verifier::{TcBytes, ifindex, pin, skb},
};

/// `ETH_P_IP` and `ETH_P_IPV6`.
const IP: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// `PACKET_OTHERHOST` (include/uapi/linux/if_packet.h): to somebody else's MAC address.
const OTHER_HOST: u32 = 3;
/// The bits of a VLAN tag that name the VLAN (IEEE 802.1Q).
const VLAN_ID: u32 = 0x0fff;
/// `AF_INET` and `AF_INET6`.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Bits of a failsafe port in front of the address.
const PORT_BITS: u32 = 32;

/// A row of a plane said nothing.
const SILENT: u64 = 1 << 32;
/// The maps contradict each other.
const BROKEN: u64 = 1 << 33;
/// Packets of connections whose beginning was not seen may open one.
const ADOPTS: u64 = 1 << 34;
/// Above a rule id: it allows.
const ALLOWS: u64 = 1 << 35;

/// Above a port: the host passes the packet on.
const PASSES_ON: u64 = 1 << 32;

/// Decides on one packet of a host endpoint.
#[inline(always)]
pub fn run(ctx: &TcContext, direction: Direction) -> i32 {
    if !concerns(ctx, direction) || governed(ctx) == 0 {
        return TC_ACT_UNSPEC;
    }
    endpoint::run::<true>(ctx, ifindex(ctx), direction)
}

/// Whether the interface is a host endpoint's. Not inlined, for the stack's sake.
#[inline(never)]
fn governed(ctx: &TcContext) -> u32 {
    u32::from(row(ifindex(ctx)).is_some())
}

/// Whether a frame is an IP packet of this interface: not another protocol's (ARP among them), not
/// of a VLAN, which is an interface of its own, and not on its way to another machine or a macvlan,
/// which the host's own stack does not get to see.
#[inline(always)]
fn concerns(ctx: &TcContext, direction: Direction) -> bool {
    // SAFETY: the context is valid for the run of the program.
    let frame = unsafe { &*skb(ctx) };
    let protocol = u16::from_be(frame.protocol as u16);
    let tagged = frame.vlan_present != 0 && frame.vlan_tci & VLAN_ID != 0;
    let inbound = matches!(direction, Direction::Ingress);
    (protocol == IP || protocol == IPV6) && !tagged && !(inbound && frame.pkt_type == OTHER_HOST)
}

/// The plane of a packet, where the kernel tells: on its way out. 0 on the way in.
#[inline(always)]
pub fn plane(ctx: &TcContext, direction: Direction) -> u8 {
    match direction {
        Direction::Ingress => 0,
        // SAFETY: as above.
        Direction::Egress if unsafe { (*skb(ctx)).ingress_ifindex } != 0 => FLOW_FORWARD,
        Direction::Egress => FLOW_LOCAL,
    }
}

/// Neighbour discovery and listener reports pass, as at containers: without them there is no network
/// to have a policy on. A router would have lowered the hop limit (RFC 4861, 7.1; RFC 2710, 3).
#[inline(never)]
pub fn on_link(ctx: &TcContext, visit: &Visit) -> bool {
    let hops = hop_limit(&TcBytes(ctx)).unwrap_or(0);
    match visit.packet.kind {
        Kind::Neighbour | Kind::Router => hops == 255,
        Kind::Multicast => hops == 1,
        _ => false,
    }
}

/// What decides in a plane.
#[inline(always)]
fn row<'a>(number: u32) -> Option<&'a Endpoint> {
    // SAFETY: see `Visit::endpoint`.
    unsafe { ENDPOINTS.get(number) }
}

/// A question to policy and its answer. It lies in a map: the function that answers is one that the
/// verifier walks once, for any question, and such a one gets nothing by reference.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Question {
    /// `Visit::now`.
    now: u64,
    /// The flow's ends and ports, as its first packet has them before any translation.
    near: Address,
    remote: Address,
    ifindex: u32,
    /// Answer: see [`Visit`].
    peer: u32,
    staged: u32,
    log: u32,
    /// Policy's: the destination port, or ICMP `type << 8 | code`.
    port: u16,
    source_port: u16,
    protocol: u8,
    /// [`Family`] and [`Direction`] of the flow.
    family: u8,
    direction: u8,
    /// `Visit::plane`; part of the answer, if it was 0.
    plane: u8,
}

/// Asks policy about the flow of a packet, whose first packet had `ports` (source, policy's) and went
/// in `direction`. The answer: a rule id and the bits above it.
#[inline(always)]
fn ask(ctx: &TcContext, visit: &mut Visit, direction: Direction, ports: (u16, u16)) -> u64 {
    let Some(question) = QUESTION.get_ptr_mut(0) else { return BROKEN };
    // SAFETY: this CPU's own slot; the kernel runs TC programs with bottom halves off, so nothing on
    // this CPU interleaves.
    let question = unsafe { &mut *question };
    question.now = visit.now;
    // Word by word, without a copy on the stack.
    let outbound = matches!(visit.direction, Direction::Egress);
    let mut word = 0;
    while word < 4 {
        let (source, destination) = (visit.packet.source[word], visit.packet.destination[word]);
        question.near[word] = if outbound { source } else { destination };
        question.remote[word] = if outbound { destination } else { source };
        word += 1;
    }
    question.ifindex = visit.ifindex;
    question.peer = PEER_NONE;
    question.staged = 0;
    question.log = LOG_NONE;
    question.port = ports.1;
    question.source_port = ports.0;
    question.protocol = visit.packet.protocol;
    question.family = visit.packet.family as u8;
    question.direction = direction as u8;
    question.plane = visit.plane;
    let answer = judge(ctx, question);
    visit.peer = question.peer;
    visit.staged = question.staged;
    visit.log = question.log;
    visit.plane = question.plane;
    answer
}

/// Decides a packet that belongs to no known connection.
#[inline(always)]
pub fn decide(ctx: &TcContext, visit: &mut Visit) -> Result<u32, Drop> {
    let packet = &visit.packet;
    if matches!(packet.kind, Kind::EchoReply) {
        return Err(Drop::from(DropReason::UnrelatedIcmp));
    }
    let opens = packet.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN;
    let stray = packet.protocol == protocol::TCP && !opens;
    let ports = (packet.source_port, packet.policy_port);
    let found = ask(ctx, visit, visit.direction, ports);
    if found & BROKEN != 0 {
        return Err(Drop::from(DropReason::Fault));
    }
    let (rule, allow) = (found as u32, found & ALLOWS != 0);
    if allow && stray && found & ADOPTS == 0 {
        (visit.staged, visit.log) = (0, LOG_NONE);
        return Err(Drop::from(DropReason::NoConnection));
    }
    if !allow {
        return Err(Drop { reason: DropReason::Policy, rule });
    }
    Ok(rule)
}

/// Decides a connection anew, whose first packet had `ports` (source, policy's) and went in
/// `direction`. What the kernel says of the packet's plane goes before what was thought of it.
#[inline(always)]
pub fn decide_again(
    ctx: &TcContext,
    visit: &mut Visit,
    flow: &mut Flow,
    direction: Direction,
    ports: (u16, u16),
) -> Result<u32, Drop> {
    if visit.plane == 0 {
        visit.plane = flow.plane;
    }
    let found = ask(ctx, visit, direction, ports);
    if found & BROKEN != 0 {
        return Err(Drop::from(DropReason::Fault));
    }
    let (rule, allow) = (found as u32, found & ALLOWS != 0);
    // As in `endpoint`.
    let staged = visit.staged;
    if staged == flow.staged {
        visit.staged = 0;
    }
    visit.log = LOG_NONE;
    flow.staged = staged;
    flow.rule = rule;
    flow.peer = visit.peer;
    flow.plane = visit.plane;
    flow.cut = !allow as u8;
    // Last, as in `endpoint`.
    flow.revision = visit.revision;
    Ok(rule)
}

/// Answers a question, step by step: one within the other there would be no room on the stack.
#[inline(always)]
fn judge(ctx: &TcContext, question: &mut Question) -> u64 {
    let inbound = question.direction == Direction::Ingress as u8;
    let safe = left_open();
    if inbound && safe == RULE_NONE {
        let found = consult(PLANE_PRE_DNAT, u32::from(question.port));
        if found & SILENT == 0 {
            return found;
        }
    }
    let mut port = u32::from(question.port);
    if inbound {
        let to = way(ctx.as_ptr().cast());
        if to & PASSES_ON != 0 {
            port = to as u16 as u32;
        }
        if question.plane == 0 {
            question.plane = if to & PASSES_ON != 0 { FLOW_FORWARD } else { FLOW_LOCAL };
        }
    }
    if question.plane == FLOW_FORWARD {
        return consult(PLANE_FORWARD, port);
    }
    if safe != RULE_NONE {
        return u64::from(safe) | ALLOWS | ADOPTS;
    }
    consult(0, u32::from(question.port))
}

/// The question, for a step. Each step is global, see [`crate::lookup::search`].
#[inline(always)]
fn asked<'a>() -> Option<(&'a mut Question, Family, Direction)> {
    // SAFETY: see `ask`.
    let question = unsafe { &mut *QUESTION.get_ptr_mut(0)? };
    let family = Family::from_u8(question.family)?;
    let direction = Direction::from_u8(question.direction)?;
    Some((question, family, direction))
}

/// The failsafe rule for the question, or `RULE_NONE`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn left_open() -> u32 {
    let Some((question, family, direction)) = asked() else { return RULE_NONE };
    let Question { protocol, port, ref remote, .. } = *question;
    failsafe(family, direction, protocol, port, remote).unwrap_or(RULE_NONE)
}

/// Whether a packet that came in is passed on ([`PASSES_ON`]), and the port that it will have then.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn way(ctx: *mut __sk_buff) -> u64 {
    let Some((question, family, _)) = asked() else { return 0 };
    if !is_local(ctx, question) {
        return PASSES_ON | u64::from(question.port);
    }
    translated(family, question).map_or(0, |to| PASSES_ON | u64::from(to))
}

/// Asks the tables of one plane.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn consult(plane: u32, port: u32) -> u64 {
    let Some((question, family, direction)) = asked() else { return BROKEN };
    let number = question.ifindex | plane;
    let Some(endpoint) = row(number) else {
        // Planes come and go one by one: this is a host endpoint no more, or not yet.
        return if plane == PLANE_PRE_DNAT { SILENT } else { ALLOWS | ADOPTS };
    };
    let service = service(question.protocol, port as u16);
    let asked = Asked { service, source_port: question.source_port };
    let verdict = lookup::decide(endpoint, direction, family, &question.remote, asked);
    // SAFETY: a valid reference; volatile, as in `Visit::consult`.
    let still = unsafe { (&raw const endpoint.ifindex).read_volatile() };
    let Some(verdict) = verdict else { return BROKEN };
    if still != number {
        return BROKEN;
    }
    question.peer = verdict.peer;
    if verdict.allow && verdict.rule == endpoint.undecided {
        return SILENT;
    }
    question.staged = verdict.staged;
    question.log = verdict.log;
    let adopts = if question.now < endpoint.adopt_until_ns { ADOPTS } else { 0 };
    let allows = if verdict.allow { ALLOWS } else { 0 };
    u64::from(verdict.rule) | adopts | allows
}

/// Whether the host itself is who a packet that came in goes to, translation aside: what the
/// kernel's routing does not pass on.
#[inline(always)]
fn is_local(ctx: *mut __sk_buff, question: &Question) -> bool {
    // Results for which there is a way on (include/uapi/linux/bpf.h): success, a route with an
    // encapsulation, a neighbour that is yet to be found, a packet too large, no source address.
    const PASSED_ON: u64 = 1 << 0 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 9;
    // Of a zero that it knows LLVM makes a loop over bytes, which the verifier would walk each time.
    let mut words = [pin(0) as u64; core::mem::size_of::<Route>() / 8];
    // SAFETY: of the same size, aligned for words, and plain integers, for all of which zero is a
    // value. In place: there is no room on the stack for two.
    let route = unsafe { &mut *words.as_mut_ptr().cast::<Route>() };
    route.ifindex = question.ifindex;
    route.l4_protocol = question.protocol;
    route.sport = question.source_port.to_be();
    route.dport = question.port.to_be();
    match Family::from_u8(question.family) {
        Some(Family::V4) => {
            route.family = AF_INET;
            route.__bindgen_anon_3.ipv4_src = question.remote[0];
            route.__bindgen_anon_4.ipv4_dst = question.near[0];
        }
        _ => {
            route.family = AF_INET6;
            route.__bindgen_anon_3.ipv6_src = question.remote;
            route.__bindgen_anon_4.ipv6_dst = question.near;
        }
    }
    let size = core::mem::size_of::<Route>() as i32;
    // SAFETY: `route` is of that size, and the context valid for the run of the program.
    let result = unsafe { bpf_fib_lookup(ctx.cast(), route, size, 0) };
    // Not sure is local: there the default is to deny.
    !(0..64).contains(&result) || PASSED_ON >> result & 1 == 0
}

/// The port that a published one is translated to.
#[inline(always)]
fn translated(family: Family, question: &Question) -> Option<u16> {
    let (address, any) = match family {
        Family::V4 => (mapped(bytes4(&question.near)), mapped([0; 4])),
        Family::V6 => (bytes16(&question.near), [0; 16]),
    };
    let mut key =
        PublishedKey { address, port: question.port, protocol: question.protocol, pad: 0 };
    // SAFETY: one aligned word each, read once.
    let mut to = unsafe { PUBLISHED.get(key) };
    if to.is_none() {
        key.address = any;
        // SAFETY: as above.
        to = unsafe { PUBLISHED.get(key) };
    }
    to.map(|to| *to as u16)
}

/// The rule that leaves a port open whatever policy says.
#[inline(always)]
pub fn failsafe(
    family: Family,
    direction: Direction,
    protocol: u8,
    port: u16,
    remote: &Address,
) -> Option<u32> {
    let address = match family {
        Family::V4 => mapped(bytes4(remote)),
        Family::V6 => bytes16(remote),
    };
    let key =
        FailsafeKey { direction: direction as u8, protocol, port: port.to_be_bytes(), address };
    FAILSAFE.get(Key::new(PORT_BITS + 128, key)).copied()
}
