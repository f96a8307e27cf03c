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
    bindings::{TC_ACT_UNSPEC, bpf_fib_lookup as Route},
    helpers::generated::bpf_fib_lookup,
    maps::lpm_trie::Key,
    programs::TcContext,
};
use policy_common::{
    abi::{
        Direction, DropReason, Endpoint, FLOW_FORWARD, FLOW_LOCAL, FailsafeKey, Family, Flow,
        LOG_NONE, PLANE_FORWARD, PLANE_PRE_DNAT, PublishedKey, mapped, service,
    },
    packet::{Address, Kind, hop_limit, protocol, tcp},
};

use crate::{
    emit::Drop,
    endpoint::{self, Visit},
    lookup::{Asked, bytes4, bytes16},
    maps::{ENDPOINTS, FAILSAFE, PUBLISHED},
    verifier::{TcBytes, ifindex, skb},
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

/// Decides on one packet of a host endpoint.
#[inline(always)]
pub fn run(ctx: &TcContext, direction: Direction) -> i32 {
    if !concerns(ctx, direction) || row(ifindex(ctx)).is_none() {
        return TC_ACT_UNSPEC;
    }
    endpoint::run::<true>(ctx, direction)
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

/// A flow, as its first packet has it, before any translation.
struct Opening {
    direction: Direction,
    near: Address,
    remote: Address,
    protocol: u8,
    /// Policy's: the destination port, or ICMP `type << 8 | code`.
    port: u16,
    source_port: u16,
}

/// Decides a packet that belongs to no known connection.
#[inline(always)]
pub fn decide(ctx: &TcContext, visit: &mut Visit) -> Result<u32, Drop> {
    let packet = &visit.packet;
    if matches!(packet.kind, Kind::EchoReply) {
        return Err(Drop::from(DropReason::UnrelatedIcmp));
    }
    let (near, remote) = visit.ends();
    let opening = Opening {
        direction: visit.direction,
        near,
        remote,
        protocol: packet.protocol,
        port: packet.policy_port,
        source_port: packet.source_port,
    };
    let opens = packet.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN;
    let stray = packet.protocol == protocol::TCP && !opens;
    let found = judge(ctx, visit, &opening);
    if found & BROKEN != 0 {
        return Err(Drop::from(DropReason::Fault));
    }
    let (rule, allow) = (found as u32, found & ALLOWS != 0);
    if allow && stray && found & ADOPTS == 0 {
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
    let (near, remote) = visit.ends();
    let opening = Opening {
        direction,
        near,
        remote,
        protocol: visit.packet.protocol,
        port: ports.1,
        source_port: ports.0,
    };
    let found = judge(ctx, visit, &opening);
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

/// What policy says of a flow: a rule id and the bits above it. Sets the packet's plane if that was
/// not known.
#[inline(never)]
fn judge(ctx: &TcContext, visit: &mut Visit, opening: &Opening) -> u64 {
    let inbound = matches!(opening.direction, Direction::Ingress);
    let safe = failsafe(
        visit.packet.family,
        opening.direction,
        opening.protocol,
        opening.port,
        &opening.remote,
    );
    if inbound && safe.is_none() {
        let found = consult(visit, PLANE_PRE_DNAT, opening, opening.port);
        if found & SILENT == 0 {
            return found;
        }
    }
    let mut port = opening.port;
    if inbound {
        let local = is_local(ctx, visit, opening);
        let to = if local { translated(visit.packet.family, opening) } else { None };
        port = to.unwrap_or(port);
        if visit.plane == 0 {
            visit.plane = if local && to.is_none() { FLOW_LOCAL } else { FLOW_FORWARD };
        }
    }
    if visit.plane == FLOW_FORWARD {
        return consult(visit, PLANE_FORWARD, opening, port);
    }
    if let Some(rule) = safe {
        return u64::from(rule) | ALLOWS | ADOPTS;
    }
    consult(visit, 0, opening, opening.port)
}

/// Asks the tables of one plane.
#[inline(never)]
fn consult(visit: &mut Visit, plane: u32, opening: &Opening, port: u16) -> u64 {
    let Some(endpoint) = row(visit.ifindex | plane) else {
        // Planes come and go one by one: this is a host endpoint no more, or not yet.
        return if plane == PLANE_PRE_DNAT { SILENT } else { ALLOWS | ADOPTS };
    };
    let asked =
        Asked { service: service(opening.protocol, port), source_port: opening.source_port };
    let Ok(verdict) = visit.consult(plane, endpoint, opening.direction, &opening.remote, asked)
    else {
        return BROKEN;
    };
    if verdict.allow && verdict.rule == endpoint.undecided {
        return SILENT;
    }
    let adopts = if visit.now < endpoint.adopt_until_ns { ADOPTS } else { 0 };
    let allows = if verdict.allow { ALLOWS } else { 0 };
    u64::from(verdict.rule) | adopts | allows
}

/// Whether the host itself is who a packet that came in goes to, translation aside: what the
/// kernel's routing does not pass on.
#[inline(never)]
fn is_local(ctx: &TcContext, visit: &Visit, opening: &Opening) -> bool {
    // Results for which there is a way on (include/uapi/linux/bpf.h): success, a route with an
    // encapsulation, a neighbour that is yet to be found, a packet too large, no source address.
    const PASSED_ON: u64 = 1 << 0 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 9;
    // SAFETY: plain integers, for all of which zero is a value.
    let mut route: Route = unsafe { core::mem::zeroed() };
    route.ifindex = visit.ifindex;
    route.l4_protocol = opening.protocol;
    route.sport = opening.source_port.to_be();
    route.dport = opening.port.to_be();
    match visit.packet.family {
        Family::V4 => {
            route.family = AF_INET;
            route.__bindgen_anon_3.ipv4_src = opening.remote[0];
            route.__bindgen_anon_4.ipv4_dst = opening.near[0];
        }
        Family::V6 => {
            route.family = AF_INET6;
            route.__bindgen_anon_3.ipv6_src = opening.remote;
            route.__bindgen_anon_4.ipv6_dst = opening.near;
        }
    }
    let size = core::mem::size_of::<Route>() as i32;
    // SAFETY: `route` is of that size, and the context valid for the run of the program.
    let result = unsafe { bpf_fib_lookup(ctx.as_ptr(), &raw mut route, size, 0) };
    // Not sure is local: there the default is to deny.
    !(0..64).contains(&result) || PASSED_ON >> result & 1 == 0
}

/// The port that a published one is translated to.
#[inline(always)]
fn translated(family: Family, opening: &Opening) -> Option<u16> {
    let (address, any) = match family {
        Family::V4 => (mapped(bytes4(&opening.near)), mapped([0; 4])),
        Family::V6 => (bytes16(&opening.near), [0; 16]),
    };
    let mut key = PublishedKey { address, port: opening.port, protocol: opening.protocol, pad: 0 };
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
