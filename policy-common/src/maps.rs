//! Names of the BPF maps and programs, and the default capacity of each map.
//!
//! A name stands here once; both sides use the constant or (where aya's macros want a literal, in
//! `policy-ebpf/src/maps.rs`) are checked against it when the object is loaded.

/// Hash: interface index (host order) -> [`crate::abi::Endpoint`]. No entry means *pending*.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// Hash: IPv4 address (network order) -> peer id.
pub const ADDRESSES_V4: &str = "ADDRESSES_V4";
/// Hash: IPv6 address (network order) -> peer id.
pub const ADDRESSES_V6: &str = "ADDRESSES_V6";
/// LPM trie: IPv4 prefix -> peer id.
pub const CIDRS_V4: &str = "CIDRS_V4";
/// LPM trie: IPv6 prefix -> peer id.
pub const CIDRS_V6: &str = "CIDRS_V6";
/// Hash: [`crate::abi::ClassKey`] -> [`crate::abi::ClassRef`].
pub const CLASSES: &str = "CLASSES";
/// Array of [`crate::abi::Interval`]; a [`crate::abi::ClassRef`] names a run of it.
pub const INTERVALS: &str = "INTERVALS";
/// LRU hash: [`crate::abi::FlowKeyV4`] -> [`crate::abi::Flow`].
pub const CONNTRACK_V4: &str = "CONNTRACK_V4";
/// LRU hash: [`crate::abi::FlowKeyV6`] -> [`crate::abi::Flow`].
pub const CONNTRACK_V6: &str = "CONNTRACK_V6";
/// Per-CPU array of one [`crate::abi::FlowCounter`].
pub const FLOWS: &str = "FLOWS";
/// Per-CPU hash: [`crate::abi::OpenedKey`] -> connections that began, a `u64`. One that began in the entry of
/// another that was over counts as well.
pub const OPENED: &str = "OPENED";
/// LRU hash: [`crate::abi::FragmentKey`] -> [`crate::abi::Fragment`].
pub const FRAGMENTS: &str = "FRAGMENTS";
/// Hash: [`crate::abi::GuardKey`] -> 1; the addresses that may use a managed bridge.
pub const GUARD: &str = "GUARD";
/// Array of one [`crate::abi::Globals`].
pub const GLOBALS: &str = "GLOBALS";
/// Per-CPU array: rule id -> [`crate::abi::Counter`].
pub const RULES: &str = "RULES";
/// Per-CPU hash: [`crate::abi::DropKey`] -> [`crate::abi::DropCounter`].
pub const DROPS: &str = "DROPS";
/// Per-CPU array: drop reason -> [`crate::abi::Counter`], for drops that did not fit `DROPS`.
pub const DROPS_OTHER: &str = "DROPS_OTHER";
/// Per-CPU array: rule id of a staged walk -> [`crate::abi::StagedCounter`].
pub const STAGED: &str = "STAGED";
/// Per-CPU array: log id -> [`crate::abi::Counter`].
pub const LOGS: &str = "LOGS";
/// Ring buffer of [`crate::abi::Event`].
pub const EVENTS: &str = "EVENTS";
/// Per-CPU array: event kind -> [`crate::abi::EventBudget`].
pub const EVENT_BUDGET: &str = "EVENT_BUDGET";
/// Array of one: [`crate::abi::CaptureFilter`].
pub const CAPTURE: &str = "CAPTURE";
/// Ring buffer: [`crate::abi::CapturedPacket`].
pub const CAPTURES: &str = "CAPTURES";
/// Per-CPU array of one: packets that were to be captured and found no room, a `u64`.
pub const CAPTURE_LOST: &str = "CAPTURE_LOST";
/// Hash: uplink interface index -> [`crate::abi::Uplink`].
pub const UPLINKS: &str = "UPLINKS";
/// LPM trie: block list id and IPv4 prefix -> [`crate::abi::Blocked`].
pub const BLOCK_V4: &str = "BLOCK_V4";
/// LPM trie: block list id and IPv6 prefix -> [`crate::abi::Blocked`].
pub const BLOCK_V6: &str = "BLOCK_V6";
/// LRU hash: [`crate::abi::BucketKey`] -> time at which the source has earned all that it may begin at
/// once, `CLOCK_MONOTONIC` ns.
pub const BUCKETS: &str = "BUCKETS";
/// LRU hash: [`crate::abi::UplinkFlowKey`] -> newest packet, `CLOCK_MONOTONIC` ns. Flows that a limited
/// uplink has let begin; not those of TCP, whose packets say themselves which is the first.
pub const UPLINK_LET_IN: &str = "UPLINK_LET_IN";
/// The same of flows that began on this side of a limited uplink. A map of its own, for nobody beyond the
/// uplink can put anything into it, and so push out flows whose answers are awaited.
pub const UPLINK_BEGUN: &str = "UPLINK_BEGUN";
/// LPM trie: [`crate::abi::FailsafeKey`] -> rule id.
pub const FAILSAFE: &str = "FAILSAFE";
/// Hash: [`crate::abi::PublishedKey`] -> port that it is translated to (host order).
pub const PUBLISHED: &str = "PUBLISHED";

/// Every map that is pinned, in the order in which they are created.
pub const PINNED: &[&str] = &[
    ENDPOINTS,
    ADDRESSES_V4,
    ADDRESSES_V6,
    CIDRS_V4,
    CIDRS_V6,
    CLASSES,
    INTERVALS,
    CONNTRACK_V4,
    CONNTRACK_V6,
    FLOWS,
    OPENED,
    FRAGMENTS,
    GUARD,
    GLOBALS,
    RULES,
    DROPS,
    DROPS_OTHER,
    STAGED,
    LOGS,
    EVENTS,
    EVENT_BUDGET,
    CAPTURE,
    CAPTURES,
    CAPTURE_LOST,
    UPLINKS,
    BLOCK_V4,
    BLOCK_V6,
    BUCKETS,
    UPLINK_LET_IN,
    UPLINK_BEGUN,
    FAILSAFE,
    PUBLISHED,
];

/// TC program on the ingress of a host-side veth: packets that leave the container.
pub const PROGRAM_FROM_ENDPOINT: &str = "from_endpoint";
/// TC program on the egress of a host-side veth: packets that enter the container.
pub const PROGRAM_TO_ENDPOINT: &str = "to_endpoint";
/// TC program on the ingress of a bridge device: packets that leave the bridge for the host.
pub const PROGRAM_FROM_BRIDGE: &str = "from_bridge";
/// TC program on the egress of a bridge device: packets that the host sends into the bridge.
pub const PROGRAM_TO_BRIDGE: &str = "to_bridge";
/// XDP program on an uplink.
pub const PROGRAM_UPLINK: &str = "uplink";
/// TC program on the egress of an uplink that limits new flows: packets that leave the host.
pub const PROGRAM_UPLINK_EGRESS: &str = "uplink_egress";
/// TC program on the ingress of a host endpoint's interface: packets that come to the host.
pub const PROGRAM_FROM_UPLINK: &str = "from_uplink";
/// TC program on the egress of a host endpoint's interface: packets that leave the host.
pub const PROGRAM_TO_UPLINK: &str = "to_uplink";

/// TC program on the egress of an interface inside a container's network namespace: packets that
/// leave the container.
pub const PROGRAM_FROM_INSIDE: &str = "from_inside";
/// TC program on the ingress of such an interface: packets that enter the container.
pub const PROGRAM_TO_INSIDE: &str = "to_inside";

/// Largest number of endpoints on one host.
pub const MAX_ENDPOINTS: u32 = 16_384;
/// Largest number of exact addresses of one family.
pub const MAX_ADDRESSES: u32 = 65_536;
/// Largest number of distinct prefixes of one family over all policies and network sets.
pub const MAX_CIDRS: u32 = 1_048_576;
/// Largest number of (table, peer) pairs that differ from their table's default.
pub const MAX_CLASSES: u32 = 1_048_576;
/// Largest number of intervals over all classes.
pub const MAX_INTERVALS: u32 = 1_048_576;
/// Largest number of rules that may be counted at one time.
pub const MAX_RULES: u32 = 65_536;
/// Largest number of distinct lists of Log rules that packets may pass.
pub const MAX_LOGS: u32 = 4_096;
/// Largest number of guarded (bridge, address) pairs.
pub const MAX_GUARD: u32 = 65_536;
/// Largest number of distinct counters of new connections.
pub const MAX_OPENED: u32 = 16_384;
/// Largest number of distinct drop counters.
pub const MAX_DROPS: u32 = 16_384;
/// Default size of the IPv4 connection table, entries.
pub const CONNTRACK_V4_ENTRIES: u32 = 262_144;
/// Default size of the IPv6 connection table, entries.
pub const CONNTRACK_V6_ENTRIES: u32 = 65_536;
/// Size of the fragment table, entries.
pub const MAX_FRAGMENTS: u32 = 8_192;
/// Largest number of uplinks.
pub const MAX_UPLINKS: u32 = 64;
/// Sources of new flows that limits tell apart at one time.
pub const MAX_BUCKETS: u32 = 65_536;
/// Flows of either side that limited uplinks know at one time.
pub const MAX_UPLINK_FLOWS: u32 = 65_536;
/// Largest number of failsafe ports.
pub const MAX_FAILSAFE: u32 = 1_024;
/// Largest number of published ports.
pub const MAX_PUBLISHED: u32 = 16_384;
/// Size of the ring of captured packets, bytes (a power of two times the page size).
pub const CAPTURE_RING_BYTES: u32 = 1 << 20;
/// Size of the event ring, bytes (likewise).
pub const EVENT_RING_BYTES: u32 = 1 << 20;
