//! Types that cross the kernel/user boundary.
//!
//! Rules of this module: `repr(C)`, every padding byte explicit and zero, no Rust enum inside a
//! map value (a value that the other side does not know would be undefined behaviour), addresses
//! in network byte order as byte arrays, everything else in host byte order.

// tidy: long file because the ABI is one definition, read and versioned as a whole.

/// Version of everything in this module. Part of the pin path.
pub const ABI_VERSION: u32 = 5;

/// Policy direction, as seen from the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Into the endpoint (TC egress of its host-side veth).
    Ingress = 0,
    /// Out of the endpoint (TC ingress of its host-side veth).
    Egress = 1,
}

impl Direction {
    /// The other direction.
    #[inline(always)]
    pub const fn reverse(self) -> Self {
        match self {
            Direction::Ingress => Direction::Egress,
            Direction::Egress => Direction::Ingress,
        }
    }

    /// Decodes a byte from a map value; `None` for a byte that no version wrote.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Direction::Ingress),
            1 => Some(Direction::Egress),
            _ => None,
        }
    }
}

/// Address family, as an index into per-family arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 0,
    /// IPv6.
    V6 = 1,
}

impl Family {
    /// Decodes a byte from a map value; `None` for a byte that no version wrote.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Family::V4),
            1 => Some(Family::V6),
            _ => None,
        }
    }
}

/// Declares [`DropReason`] once: number, variant, stable name, meaning.
macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $name:literal;)+) => {
        /// Why a packet was dropped. The names are part of the metrics and of the flow record.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant = $code,)+
        }

        impl DropReason {
            /// Every reason, in the order of its code.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// The name used in metrics, events and the flow record.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// One sentence for an operator.
            pub const fn describe(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($doc),+),)+ }
            }

            /// Decodes a byte from a map key or event; `None` for a byte that no version wrote.
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value { $($code => Some(DropReason::$variant),)+ _ => None }
            }
        }
    };
}

drop_reasons! {
    /// A policy rule, or the default action at the end of a tier, denies the packet.
    Policy = 0, "policy";
    /// The interface is fenced but its endpoint is not known yet.
    Pending = 1, "pending";
    /// The source address is not one of the endpoint's own.
    SpoofedSource = 2, "spoofed-source";
    /// An ARP frame claims a protocol or hardware address that is not the endpoint's own.
    SpoofedArp = 3, "spoofed-arp";
    /// A neighbour discovery message claims an address, of either layer, that is not the endpoint's own.
    SpoofedNeighbour = 4, "spoofed-neighbour";
    /// A container sent a router advertisement or an ICMP redirect.
    RogueRouter = 5, "rogue-router";
    /// A header is cut short, contradicts itself, or would be overwritten by a fragment.
    Malformed = 6, "malformed";
    /// The frame carries a protocol that is not IPv4, IPv6 or ARP.
    UnsupportedEthertype = 7, "unsupported-ethertype";
    /// More VLAN tags, IPv6 extension headers or neighbour discovery options than the parser follows.
    HeaderChain = 8, "header-chain";
    /// A later fragment whose first fragment was not seen.
    Fragment = 9, "fragment";
    /// A TCP packet that neither opens a connection nor belongs to one.
    NoConnection = 10, "no-connection";
    /// An ICMP error that quotes no known connection, or a reply without its request.
    UnrelatedIcmp = 11, "unrelated-icmp";
    /// The bridge guard: the address belongs to no enforced endpoint of this bridge.
    Guard = 12, "guard";
    /// An untracked policy denies the source at the uplink.
    Untracked = 13, "untracked";
    /// A map that the decision needs had no entry; the agent and the kernel disagree.
    Fault = 14, "fault";
    /// The Ethernet source address is not the endpoint's own.
    SpoofedMac = 15, "spoofed-mac";
    /// A source route or a routing header sends the packet on from its destination address to others.
    SourceRouted = 16, "source-routed";
    /// The source begins more flows at the uplink than an untracked policy lets it.
    RateLimited = 17, "rate-limited";
}

/// Number of drop reasons, the size of `DROPS_OTHER`.
pub const DROP_REASONS: u32 = DropReason::ALL.len() as u32;

/// Peer id of every IPv4 address that is in no policy CIDR and belongs to no endpoint.
pub const PEER_WORLD_V4: u32 = 0;
/// Peer id of every IPv6 address that is in no policy CIDR and belongs to no endpoint.
pub const PEER_WORLD_V6: u32 = 1;
/// First peer id that the compiler may give out.
pub const PEER_FIRST: u32 = 2;
/// Peer id in a drop counter whose peer was not looked up.
pub const PEER_NONE: u32 = u32::MAX;

/// Rule id for "no rule decided" (a drop for a reason other than policy).
pub const RULE_NONE: u32 = 0;
/// First rule id that the compiler may give out.
pub const RULE_FIRST: u32 = 1;
/// Bit of a verdict word that says allow; the low 30 are the rule id.
pub const VERDICT_ALLOW: u32 = 1 << 31;
/// Bit of [`Interval::verdict`] that says "it depends on the source port"; the low 30 are then the
/// number of a block to go on with, see [`source`].
pub const VERDICT_NESTED: u32 = 1 << 30;
/// The bits of a verdict word that are the rule id or the block.
pub const VERDICT_RULE: u32 = VERDICT_NESTED - 1;
/// Log id for "no Log rule matched".
pub const LOG_NONE: u32 = 0;
/// First log id that the compiler may give out.
pub const LOG_FIRST: u32 = 1;

/// Bit beside the interface index in a key of `ENDPOINTS`: what decides on packets that the host
/// passes on, on an interface of its own. Interface indices are positive `int`s and start at 1.
pub const PLANE_FORWARD: u32 = 1 << 31;
/// As [`PLANE_FORWARD`]: what decides on incoming packets before their destination is translated.
pub const PLANE_PRE_DNAT: u32 = 1 << 30;
/// Set in the key of an endpoint whose interface is inside its container's network namespace, where
/// indices of interfaces repeat those of the host. The low 16 bits are a number that the agent gave
/// it and that its filters carry as their class.
pub const INSIDE: u32 = 1 << 29;

/// Addresses that an endpoint may own in each family, its link-local address included.
pub const ADDRESSES_PER_FAMILY: usize = 4;

/// An Ethernet address in the order of its bytes on the wire, and two zero bytes, so that it is one
/// word to compare. All zero, which no station has: not known.
pub type Mac = [u8; 8];

/// The address of six octets.
#[inline(always)]
pub const fn mac([a, b, c, d, e, f]: [u8; 6]) -> Mac {
    [a, b, c, d, e, f, 0, 0]
}

/// What the datapath knows of one enforced interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Endpoint {
    /// The key again. A program that read the rest and finds another number here has read an
    /// element that the kernel gave to another key meanwhile (hash elements are recycled without
    /// a grace period, `kernel/bpf/hashtab.c`), and drops. First, because writes go upwards.
    pub ifindex: u32,
    /// Under [`PLANE_PRE_DNAT`], the rule id that says that no policy has decided; else
    /// [`RULE_NONE`].
    pub undecided: u32,
    /// Own Ethernet address, if it is known.
    pub mac: Mac,
    /// Own IPv4 addresses, network order; unused slots are 0.0.0.0.
    pub v4: [[u8; 4]; ADDRESSES_PER_FAMILY],
    /// Own IPv6 addresses, network order; unused slots are `::`.
    pub v6: [[u8; 16]; ADDRESSES_PER_FAMILY],
    /// Table id by [`Direction`].
    pub tables: [u32; 2],
    /// Class of a peer without a row in `CLASSES`, by [`Direction`] and [`Family`].
    pub defaults: [[ClassRef; 2]; 2],
    /// Until this `CLOCK_MONOTONIC` time (ns), TCP connections that were open before the fence
    /// are picked up mid-stream, if policy allows them. 0: never.
    pub adopt_until_ns: u64,
}

/// Key of `CLASSES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ClassKey {
    /// Table of the subject, one per (policies that apply, direction).
    pub table: u32,
    /// Peer id.
    pub peer: u32,
}

/// A class: a run of `INTERVALS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ClassRef {
    /// Index of the first interval.
    pub offset: u32,
    /// Number of intervals, 1 to [`MAX_CLASS_INTERVALS`].
    pub len: u32,
}

/// Longest run of intervals in one class: what the lookup's bounded loop can search.
pub const MAX_CLASS_INTERVALS: u32 = 1 << 17;

/// One step of a class: from `start` up to the next interval's start, the rest holds.
///
/// A class is one sorted run. Its first part is searched by [`service`] and begins at 0; where the
/// verdict depends on the source port, too, the step says [`VERDICT_NESTED`], and the same run is
/// searched once more by [`source`]: those coordinates lie above every service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Interval {
    /// A coordinate: [`service`] or [`source`].
    pub start: u32,
    /// [`VERDICT_ALLOW`] or 0, and the rule id; or [`VERDICT_NESTED`] and the block.
    pub verdict: u32,
    /// What the staged policies would say: [`VERDICT_ALLOW`] or 0, and the rule id. 0 if no staged
    /// policy changes what applies here.
    pub staged: u32,
    /// The Log rules that were passed on the way to the verdict, as a log id, or [`LOG_NONE`].
    pub log: u32,
}

/// The coordinate that a class is searched by: IP protocol number and destination port.
///
/// For ICMP and ICMPv6 the "port" is `type << 8 | code`; for protocols without ports it is 0.
#[inline(always)]
pub const fn service(protocol: u8, port: u16) -> u32 {
    (protocol as u32) << 16 | port as u32
}

/// Coordinates from here on are of blocks that are searched by source port.
pub const SOURCE_BASE: u32 = 1 << 31;
/// How many such blocks one class may have.
pub const MAX_SOURCE_BLOCKS: u32 = 1 << 15;

/// The coordinate that a block of a class is searched by: block number, and source port.
#[inline(always)]
pub const fn source(block: u32, port: u16) -> u32 {
    SOURCE_BASE | block << 16 | port as u32
}

/// Connection key, IPv4, normalised to the endpoint: both directions have the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FlowKeyV4 {
    /// Interface of the endpoint.
    pub ifindex: u32,
    /// The endpoint's address.
    pub local: [u8; 4],
    /// The other side's address.
    pub remote: [u8; 4],
    /// Host order. ICMP echo: the identifier if the endpoint asked, else 0.
    pub local_port: u16,
    /// Host order. ICMP echo: the identifier if the other side asked, else 0.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Connection key, IPv6; see [`FlowKeyV4`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FlowKeyV6 {
    /// Interface of the endpoint.
    pub ifindex: u32,
    /// The endpoint's address.
    pub local: [u8; 16],
    /// The other side's address.
    pub remote: [u8; 16],
    /// Host order; see [`FlowKeyV4::local_port`].
    pub local_port: u16,
    /// Host order; see [`FlowKeyV4::remote_port`].
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// [`Flow::state`]: an answer has been seen.
pub const FLOW_REPLIED: u8 = 1 << 0;
/// [`Flow::state`]: TCP, a FIN of the original direction has been seen.
pub const FLOW_FIN_ORIGINAL: u8 = 1 << 1;
/// [`Flow::state`]: TCP, a FIN of the reply direction has been seen.
pub const FLOW_FIN_REPLY: u8 = 1 << 2;
/// [`Flow::state`]: TCP, an RST has been seen.
pub const FLOW_RESET: u8 = 1 << 3;
/// [`Flow::state`]: the original direction has gone on after an answer (TCP: the handshake is
/// complete), or TCP was picked up in its middle.
pub const FLOW_ASSURED: u8 = 1 << 4;

/// [`Flow::plane`]: a process of the host is at its near end.
pub const FLOW_LOCAL: u8 = 1;
/// [`Flow::plane`]: the host passes it on.
pub const FLOW_FORWARD: u8 = 2;

/// One connection of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// Packets: original direction, reply direction.
    pub packets: [u64; 2],
    /// Bytes on the wire (L2 frame): original direction, reply direction.
    pub bytes: [u64; 2],
    /// First packet, `CLOCK_MONOTONIC` ns.
    pub created_ns: u64,
    /// Newest packet, `CLOCK_MONOTONIC` ns.
    pub seen_ns: u64,
    /// [`Globals::revision`] under which the verdict was computed.
    pub revision: u64,
    /// Rule that decided.
    pub rule: u32,
    /// Peer id of the other side when the verdict was computed.
    pub peer: u32,
    /// [`Interval::staged`] when the verdict was computed.
    pub staged: u32,
    /// [`Direction`] of the packet that opened it.
    pub direction: u8,
    /// `FLOW_*` bits. A byte of its own: two CPUs may lose each other's update of it, which costs a
    /// time-out at most, but must never lose a cut.
    pub state: u8,
    /// 1: a later policy denies the connection, both directions are cut; else 0.
    pub cut: u8,
    /// At a host endpoint [`FLOW_LOCAL`] or [`FLOW_FORWARD`], else 0.
    pub plane: u8,
    /// [`Endpoint::mac`] when the verdict was computed: what the endpoint's packets come from.
    pub mac: Mac,
}

/// The one value of `FLOWS`, of each CPU: what became of new entries, by [`Family`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowCounter {
    /// Connections that got an entry of their own. Those less the entries that are there were
    /// taken for others: the table was full.
    pub opened: [u64; 2],
    /// Connections that got none: no entry could be freed at once. The packet passes, and the next
    /// one is decided anew.
    pub refused: [u64; 2],
    /// Connections that began: those that got an entry of their own, and those that got that of another
    /// which was over.
    pub began: u64,
    /// Those of them that `OPENED` had no room to tell apart.
    pub unnamed: u64,
}

/// Key of `OPENED`: who let connections begin, and between whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct OpenedKey {
    /// Interface of the endpoint.
    pub ifindex: u32,
    /// Peer id of the other side.
    pub peer: u32,
    /// Rule id.
    pub rule: u32,
    /// Destination port, host order; ICMP: `type << 8 | code`.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`Direction`] of the packet that opened it.
    pub direction: u8,
}

/// Key of `FRAGMENTS`: what RFC 791 and RFC 8200 say identifies the fragments of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// Interface of the endpoint.
    pub ifindex: u32,
    /// Identification field, host order (16 bits in IPv4).
    pub id: u32,
    /// Source address, network order; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    /// Destination address, like `source`.
    pub destination: [u8; 16],
    /// IP protocol number (IPv4) or 0 (IPv6).
    pub protocol: u8,
    /// [`Direction`] of the packet.
    pub direction: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// Remembered ports of a first fragment that was passed; the later ones take the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Fragment {
    /// When the first fragment passed, `CLOCK_MONOTONIC` ns.
    pub seen_ns: u64,
    /// Rule that allowed it.
    pub rule: u32,
    /// Low half of the [`Globals::revision`] under which it passed.
    pub revision: u32,
    /// Ethernet address that it came from, if a container sent it: the others do, too.
    pub mac: Mac,
}

/// Key of `GUARD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct GuardKey {
    /// Interface index of the bridge.
    pub bridge: u32,
    /// Address, network order; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
}

/// The one value of `GLOBALS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Globals {
    /// Rises with every change of a table, an address, an endpoint or a block list; a connection whose
    /// verdict is of another revision is decided anew at its next packet, and a match of a prefix is
    /// looked up anew.
    pub revision: u64,
    /// Which packets are to be captured, `CAPTURE_*`.
    pub capture: u8,
    /// Zero.
    pub pad: [u8; 7],
}

/// [`Globals::capture`]: those that are dropped.
pub const CAPTURE_DROPS: u8 = 1 << 0;
/// [`Globals::capture`]: those that policy lets pass.
pub const CAPTURE_PASSES: u8 = 1 << 1;

/// The one value of `CAPTURE`: what of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CaptureFilter {
    /// An address of one end, network order; IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// Bytes of each packet, at most [`CAPTURED_BYTES`].
    pub snap: u32,
    /// A port of one end, host order; 0: any.
    pub port: u16,
    /// IP protocol number; 0: any.
    pub protocol: u8,
    /// [`Family`] of the address, or [`FAMILY_ANY`]: any address.
    pub family: u8,
}

/// [`CaptureFilter::family`] where the address does not matter.
pub const FAMILY_ANY: u8 = u8::MAX;

/// Most bytes of a packet that is captured.
pub const CAPTURED_BYTES: usize = 1536;

/// What is known of a captured packet, beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Captured {
    /// `CLOCK_MONOTONIC`, ns.
    pub time_ns: u64,
    /// Interface whose program saw it, or an endpoint's number with [`INSIDE`].
    pub ifindex: u32,
    /// Peer id of the other side, or [`PEER_NONE`].
    pub peer: u32,
    /// Deciding rule, or [`RULE_NONE`].
    pub rule: u32,
    /// [`Interval::staged`].
    pub staged: u32,
    /// Bytes on the wire, L2 frame.
    pub length: u32,
    /// Bytes that are here.
    pub captured: u32,
    /// [`DropReason`], 0 if it passed.
    pub reason: u8,
    /// [`Direction`].
    pub direction: u8,
    /// 1: it passed.
    pub allowed: u8,
    /// Zero.
    pub pad: [u8; 5],
}

/// An item of `CAPTURES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CapturedPacket {
    /// What is known of it.
    pub head: Captured,
    /// Its first bytes, from the L2 header on; behind them anything.
    pub bytes: [u8; CAPTURED_BYTES],
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Packets (a GSO super-packet counts as one, as in the kernel's own device counters before
    /// segmentation).
    pub packets: u64,
    /// Bytes, L2 frame.
    pub bytes: u64,
}

impl core::ops::AddAssign for Counter {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// Key of `DROPS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct DropKey {
    /// Interface whose program dropped.
    pub ifindex: u32,
    /// Peer id of the other side, or [`PEER_NONE`].
    pub peer: u32,
    /// Rule id, or [`RULE_NONE`].
    pub rule: u32,
    /// Destination port, host order; ICMP: `type << 8 | code`.
    pub port: u16,
    /// IP protocol number; 0 if the packet was dropped before it was known.
    pub protocol: u8,
    /// [`DropReason`].
    pub reason: u8,
    /// [`Direction`].
    pub direction: u8,
    /// Zero.
    pub pad: [u8; 3],
}

impl DropKey {
    /// Between whom the packet was dropped, and by which rule.
    pub const fn parties(&self) -> OpenedKey {
        let DropKey { ifindex, peer, rule, port, protocol, direction, .. } = *self;
        OpenedKey { ifindex, peer, rule, port, protocol, direction }
    }
}

/// Value of `DROPS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DropCounter {
    /// Packets.
    pub packets: u64,
    /// Bytes, L2 frame.
    pub bytes: u64,
    /// When an event was last sent for this key from this CPU, in ticks of the kernel's timer
    /// (`jiffies_64`): asked of each packet of a flood, and the one clock that costs nothing.
    pub event_ticks: u64,
}

/// Value of `STAGED`: new flows that a staged rule would have decided, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct StagedCounter {
    /// Flows (a packet that policy denies counts as one each time) that the policy in force denied.
    pub denied: u64,
    /// Flows that it allowed.
    pub allowed: u64,
}

/// Declares [`EventKind`] once: number, variant, stable name, meaning.
macro_rules! event_kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $name:literal;)+) => {
        /// Why a packet is told of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum EventKind {
            $($(#[doc = $doc])+ $variant = $code,)+
        }

        impl EventKind {
            /// Every kind, in the order of its code.
            pub const ALL: &'static [EventKind] = &[$(EventKind::$variant,)+];

            /// The name used in metrics and records.
            pub const fn name(self) -> &'static str {
                match self { $(EventKind::$variant => $name,)+ }
            }

            /// Decodes a byte from an event; `None` for a byte that no version wrote.
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value { $($code => Some(EventKind::$variant),)+ _ => None }
            }
        }
    };
}

event_kinds! {
    /// It was dropped.
    Drop = 0, "drop";
    /// A Log rule matched it.
    Log = 1, "log";
    /// It opened a flow that the staged policies would deny.
    Staged = 2, "staged";
}

/// Number of event kinds, the size of `EVENT_BUDGET`.
pub const EVENT_KINDS: u32 = EventKind::ALL.len() as u32;

/// A packet, as told on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// `CLOCK_MONOTONIC` ns.
    pub time_ns: u64,
    /// Source address, network order; IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// Destination address, like `source`.
    pub destination: [u8; 16],
    /// Interface whose program dropped.
    pub ifindex: u32,
    /// Peer id, or [`PEER_NONE`].
    pub peer: u32,
    /// Deciding rule id, or [`RULE_NONE`].
    pub rule: u32,
    /// [`Interval::staged`].
    pub staged: u32,
    /// [`Interval::log`].
    pub log: u32,
    /// Bytes, L2 frame.
    pub length: u32,
    /// Host order; 0 where there are none.
    pub source_port: u16,
    /// Host order; ICMP: `type << 8 | code`.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`DropReason`]; 0 if the packet passed.
    pub reason: u8,
    /// [`Direction`].
    pub direction: u8,
    /// [`Family`].
    pub family: u8,
    /// TCP flags byte (CWR to FIN), 0 for other protocols.
    pub tcp_flags: u8,
    /// [`EventKind`].
    pub kind: u8,
    /// 1 if the packet passed, else 0.
    pub allowed: u8,
    /// Zero.
    pub pad: [u8; 5],
}

/// Shortest time between two events of one drop key on one CPU, ns.
pub const EVENT_INTERVAL_NS: u64 = 100_000_000;
/// Events of one kind that one CPU may send in each second.
pub const EVENTS_PER_SECOND: u64 = 2_000;

/// Value of `EVENT_BUDGET`: this CPU's allowance for a kind of event, and what was not sent for
/// want of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EventBudget {
    /// Start of the running second, `CLOCK_MONOTONIC` ns.
    pub window_ns: u64,
    /// Events sent in it.
    pub sent: u64,
    /// Packets without an event because their key had one within [`EVENT_INTERVAL_NS`].
    pub coalesced: u64,
    /// Packets without an event because the CPU's allowance was used up.
    pub limited: u64,
    /// Packets without an event because the ring was full.
    pub ring_full: u64,
}

/// LPM data of `BLOCK_V4`: the list id in front makes one trie hold many lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockKeyV4 {
    /// Block list id, network order (a trie compares bits from the first byte on).
    pub list: [u8; 4],
    /// Network order.
    pub address: [u8; 4],
}

/// LPM data of `BLOCK_V6`; see [`BlockKeyV4`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockKeyV6 {
    /// Block list id, network order.
    pub list: [u8; 4],
    /// Network order.
    pub address: [u8; 16],
}

/// Value of `BLOCK_V4` and `BLOCK_V6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Blocked {
    /// Rule that blocks the prefix.
    pub rule: u32,
    /// Peer id that stands for the network set that the prefix is of; that of the world if it stands
    /// in the rule itself.
    pub peer: u32,
}

/// Value of `UPLINKS`: what the prefilter of an uplink goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Uplink {
    /// Block list id.
    pub list: u32,
    /// Rule that limits how many flows each source may begin, or [`RULE_NONE`].
    pub limit: u32,
    /// How fast, while it does.
    pub pace: Pace,
}

/// How many flows a source may begin: see [`crate::pace`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pace {
    /// Time in which a source earns one flow, ns.
    pub interval_ns: u64,
    /// Time in which it earns as many as it may begin at once, ns.
    pub burst_ns: u64,
}

/// Key of `BUCKETS`: a source, as far as limits tell one from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct BucketKey {
    /// [`Uplink::limit`].
    pub limit: u32,
    /// [`Family`].
    pub family: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// IPv4 address and zeros, or the first half of an IPv6 address, which is what one site has (RFC
    /// 4291, 2.5.4); network order.
    pub source: [u8; 8],
}

/// Key of `UPLINK_LET_IN` and `UPLINK_BEGUN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct UplinkFlowKey {
    /// Address on this side of the uplink, network order; IPv4 in the first four bytes.
    pub local: [u8; 16],
    /// Address beyond it, likewise.
    pub remote: [u8; 16],
    /// Host order; 0 where there are none, see [`FlowKeyV4::local_port`].
    pub local_port: u16,
    /// As `local_port`.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`Family`].
    pub family: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// LPM data of `FAILSAFE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FailsafeKey {
    /// [`Direction`] of the flow.
    pub direction: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, network order.
    pub port: [u8; 2],
    /// The other side's address, network order; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
}

/// Key of `PUBLISHED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PublishedKey {
    /// The host's address, network order; IPv4 as `::ffff:a.b.c.d`. Unspecified: any of its family.
    pub address: [u8; 16],
    /// The host's port, host order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// Asserts a type's size and declares it plain old data for aya.
macro_rules! abi_types {
    ($($name:ident: $size:literal,)+) => {
        $(const _: () = assert!(core::mem::size_of::<$name>() == $size);)+

        /// Name and size in bytes of every type of the ABI, for the snapshot test.
        pub const LAYOUT: &[(&str, usize)] = &[$((stringify!($name), $size),)+];

        $(
            // SAFETY: `repr(C)`, `Copy`, 'static, made of integers and byte arrays only, and the
            // size assertion above leaves no room for implicit padding (each struct's fields,
            // explicit pads included, add up to it).
            #[cfg(feature = "user")]
            #[allow(unsafe_code, reason = "aya's marker for types that may cross the boundary")]
            unsafe impl aya::Pod for $name {}
        )+
    };
}

abi_types! {
    Endpoint: 144,
    ClassKey: 8,
    ClassRef: 8,
    Interval: 16,
    FlowKeyV4: 20,
    FlowKeyV6: 44,
    Flow: 80,
    FlowCounter: 48,
    OpenedKey: 16,
    FragmentKey: 44,
    Fragment: 24,
    GuardKey: 20,
    Globals: 16,
    CaptureFilter: 24,
    Captured: 40,
    CapturedPacket: 1576,
    Counter: 16,
    DropKey: 20,
    DropCounter: 24,
    StagedCounter: 16,
    Event: 80,
    EventBudget: 40,
    BlockKeyV4: 8,
    BlockKeyV6: 20,
    Blocked: 8,
    Uplink: 24,
    Pace: 16,
    BucketKey: 16,
    UplinkFlowKey: 40,
    FailsafeKey: 20,
    PublishedKey: 20,
}

/// IPv4 address as the IPv4-mapped IPv6 address, `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}
