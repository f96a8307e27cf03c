//! Connections: one entry a flow and endpoint, found from both directions.

use aya_ebpf::{
    bindings::{BPF_EXIST, BPF_NOEXIST},
    maps::LruHashMap,
};
use policy_common::{
    abi::{
        Direction, FLOW_ASSURED, FLOW_FIN_ORIGINAL, FLOW_FIN_REPLY, FLOW_REPLIED, FLOW_RESET, Flow,
        FlowKeyV4, FlowKeyV6, Mac, OpenedKey,
    },
    conntrack::{closing, expired},
    packet::{Address, Kind, Packet, tcp},
};

use crate::{
    endpoint::Visit,
    lookup::{bytes4, bytes16},
    maps::{CONNTRACK_V4, CONNTRACK_V6, FLOWS, OPENED},
    verifier::{atomic_add, bit},
};

/// What differs between the families: the key's type and the table.
pub trait Table {
    /// Key type.
    type Key: Copy + 'static;
    /// The table.
    fn map() -> &'static LruHashMap<Self::Key, Flow>;
    /// The key of a packet that travels in `direction`.
    fn key(ifindex: u32, direction: Direction, packet: &Packet) -> Self::Key;
}

/// IPv4.
pub struct V4;
/// IPv6.
pub struct V6;

/// The endpoint's side and the other side of a packet: (address, port) each.
#[inline(always)]
fn sides(direction: Direction, packet: &Packet) -> ((&Address, u16), (&Address, u16)) {
    let source = (&packet.source, packet.source_port);
    let destination = (&packet.destination, packet.destination_port);
    match direction {
        Direction::Egress => (source, destination),
        Direction::Ingress => (destination, source),
    }
}

impl Table for V4 {
    type Key = FlowKeyV4;

    #[inline(always)]
    fn map() -> &'static LruHashMap<FlowKeyV4, Flow> {
        &CONNTRACK_V4
    }

    #[inline(always)]
    fn key(ifindex: u32, direction: Direction, packet: &Packet) -> FlowKeyV4 {
        let ((local, local_port), (remote, remote_port)) = sides(direction, packet);
        FlowKeyV4 {
            ifindex,
            local: bytes4(local),
            remote: bytes4(remote),
            local_port,
            remote_port,
            protocol: packet.protocol,
            pad: [0; 3],
        }
    }
}

impl Table for V6 {
    type Key = FlowKeyV6;

    #[inline(always)]
    fn map() -> &'static LruHashMap<FlowKeyV6, Flow> {
        &CONNTRACK_V6
    }

    #[inline(always)]
    fn key(ifindex: u32, direction: Direction, packet: &Packet) -> FlowKeyV6 {
        let ((local, local_port), (remote, remote_port)) = sides(direction, packet);
        FlowKeyV6 {
            ifindex,
            local: bytes16(local),
            remote: bytes16(remote),
            local_port,
            remote_port,
            protocol: packet.protocol,
            pad: [0; 3],
        }
    }
}

/// Whether a packet belongs to `flow`, rather than to a new one that reuses its addresses and
/// ports: the flow has not timed out, and the packet is no SYN that could not come from it.
#[inline(always)]
pub fn continues(flow: &Flow, visit: &Visit) -> bool {
    let packet = &visit.packet;
    if expired(flow.state, packet.protocol, flow.seen_ns, visit.now) {
        return false;
    }
    let reply = flow.direction != visit.direction as u8;
    match packet.kind {
        // An exchange whose identifier is 0 has one key for both askers.
        Kind::EchoRequest => !reply,
        Kind::EchoReply => reply,
        // After the close, anybody's SYN is a new connection. Before it, one against the original
        // direction is, too, unless both sides opened at once: else whoever was let in could be
        // connected back to.
        Kind::Tcp if packet.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN => {
            !(closing(flow.state) || reply && flow.state & FLOW_REPLIED != 0)
        }
        _ => true,
    }
}

/// Counts a packet and follows the state of TCP.
#[inline(always)]
pub fn account(flow: &mut Flow, visit: &Visit) {
    let reply = flow.direction != visit.direction as u8;
    let index = bit(reply as usize);
    atomic_add(&mut flow.packets[index], 1);
    atomic_add(&mut flow.bytes[index], u64::from(visit.length));
    flow.seen_ns = visit.now;
    let mut state = flow.state;
    if reply {
        state |= FLOW_REPLIED;
    } else if state & FLOW_REPLIED != 0 && visit.packet.tcp_flags & tcp::SYN == 0 {
        state |= FLOW_ASSURED;
    }
    if visit.packet.tcp_flags & tcp::RST != 0 {
        state |= FLOW_RESET;
    } else if visit.packet.tcp_flags & tcp::FIN != 0 {
        state |= if reply { FLOW_FIN_REPLY } else { FLOW_FIN_ORIGINAL };
    }
    if state != flow.state {
        flow.state = state;
    }
}

/// Enters a flow that a packet opens, and counts it; `mac` is the endpoint's.
#[inline(always)]
pub fn enter<T: Table>(key: &T::Key, visit: &Visit, rule: u32, mac: Mac) {
    let flow = open(visit, rule, mac);
    let fresh = T::map().insert(key, flow, u64::from(BPF_NOEXIST));
    if fresh.is_err()
        && let Some(there) = T::map().get_ptr_mut(key)
        // SAFETY: a map value, valid until the program ends.
        && continues(unsafe { &*there }, visit)
    {
        // Another CPU has made the entry meanwhile.
        // SAFETY: as above; other CPUs' writes are discussed at `Flow`.
        account(unsafe { &mut *there }, visit);
        return;
    }
    // In the place of an entry whose time was over.
    let entered = fresh.or_else(|_| T::map().insert(key, flow, u64::from(BPF_EXIST)));
    let family = bit(visit.packet.family as usize);
    let Some(flows) = FLOWS.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own slot, see `emit::count_drop`.
    let flows = unsafe { &mut *flows };
    if fresh.is_ok() {
        flows.opened[family] += 1;
    } else if entered.is_err() {
        // No element can be freed at once: this packet passes and the next one is decided again.
        flows.refused[family] += 1;
        return;
    }
    flows.began += 1;
    flows.unnamed += u64::from(count(visit, rule));
}

/// Counts a connection that begins; 1 if there is no counter left for its kind, else 0. Not inlined, for the
/// stack's sake; a number, see [`crate::emit::Ruling`].
#[inline(never)]
fn count(visit: &Visit, rule: u32) -> u32 {
    let key = OpenedKey {
        ifindex: visit.ifindex,
        peer: visit.peer,
        rule,
        port: visit.packet.policy_port,
        protocol: visit.packet.protocol,
        direction: visit.direction as u8,
    };
    match OPENED.get_ptr_mut(key) {
        Some(counter) => {
            // SAFETY: this CPU's own slot, see `emit::count_drop`.
            unsafe { *counter += 1 };
            0
        }
        None => u32::from(OPENED.insert(key, 1, 0).is_err()),
    }
}

/// A fresh entry.
#[inline(always)]
fn open(visit: &Visit, rule: u32, mac: Mac) -> Flow {
    Flow {
        packets: [1, 0],
        bytes: [u64::from(visit.length), 0],
        created_ns: visit.now,
        seen_ns: visit.now,
        revision: visit.revision,
        rule,
        peer: visit.peer,
        staged: visit.staged,
        direction: visit.direction as u8,
        state: if picked_up(visit) { FLOW_ASSURED } else { 0 },
        cut: 0,
        plane: visit.plane,
        mac,
    }
}

/// Whether a connection was open before it was seen, see `Endpoint::adopt_until_ns`.
#[inline(always)]
fn picked_up(visit: &Visit) -> bool {
    matches!(visit.packet.kind, Kind::Tcp) && visit.packet.tcp_flags & tcp::SYN == 0
}
