//! The ABI is what it was when its version was given.
//!
//! Pins are shared by agents of one `ABI_VERSION`, so a changed layout under an old version would
//! be read as something else. Two tests hold the rule: the layout must be that of
//! `abi_snapshot.txt`, and that file must be the one whose digest is listed for this version.

use std::fmt::Write as _;

use policy_common::{
    abi::{self, *},
    maps,
};
use sha2::{Digest as _, Sha256};

/// SHA-256 of the snapshot of each version. Lines are only ever added.
const VERSIONS: [(u32, &str); 5] = [
    (1, "d6f9f7d2c56ecb261b4ca89930f4cb58f51a1af98ad48f41f3ff6710c554ec5d"),
    (2, "37a54d7f8a8392552834d8cb54fb7b5b138dd1ab6f996b3b1c0d7bb0e1af638d"),
    (3, "23e27204c1e84613115ac67a8e5b1a7c5344760bc410abd52f36bb4e47b976e0"),
    (4, "a09c5fca40112bd8589cfd0f6ffd35b05ca8de6fe56ca4c14cde87755791525a"),
    (5, "e51dfd045fe796de5fb8d9adea4a88ce98380326c4bd3df1dd18fc8f01f08dda"),
];

const SNAPSHOT: &str = include_str!("abi_snapshot.txt");

/// A line for each field of each type: offset and size.
macro_rules! describe {
    ($out:ident, $described:ident; $($name:ident { $($field:ident),+ $(,)? })+) => {$(
        let size = size_of::<$name>();
        writeln!($out, "{} {size} align {}", stringify!($name), align_of::<$name>())?;
        let mut end = 0;
        $(
            let offset = std::mem::offset_of!($name, $field);
            let width = field_size(|value: &$name| &raw const value.$field);
            assert_eq!(offset, end, "padding before {}::{}", stringify!($name), stringify!($field));
            end = offset + width;
            writeln!($out, "    {offset:>4} {width:>4} {}", stringify!($field))?;
        )+
        assert_eq!(end, size, "padding at the end of {}", stringify!($name));
        $described.push((stringify!($name), size));
    )+};
}

/// Size of what a field's address points to.
fn field_size<T, F>(_: impl FnOnce(&T) -> *const F) -> usize {
    size_of::<F>()
}

fn layout() -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let mut described = Vec::new();
    describe! { out, described;
        Endpoint { ifindex, undecided, mac, v4, v6, tables, defaults, adopt_until_ns }
        ClassKey { table, peer }
        ClassRef { offset, len }
        Interval { start, verdict, staged, log }
        FlowKeyV4 { ifindex, local, remote, local_port, remote_port, protocol, pad }
        FlowKeyV6 { ifindex, local, remote, local_port, remote_port, protocol, pad }
        Flow {
            packets, bytes, created_ns, seen_ns, revision, rule, peer, staged, direction, state,
            cut, plane, mac,
        }
        FlowCounter { opened, refused, began, unnamed }
        OpenedKey { ifindex, peer, rule, port, protocol, direction }
        FragmentKey { ifindex, id, source, destination, protocol, direction, pad }
        Fragment { seen_ns, rule, revision, mac }
        GuardKey { bridge, address }
        Globals { revision, capture, pad }
        CaptureFilter { address, snap, port, protocol, family }
        Captured {
            time_ns, ifindex, peer, rule, staged, length, captured, reason, direction, allowed, pad,
        }
        CapturedPacket { head, bytes }
        Counter { packets, bytes }
        DropKey { ifindex, peer, rule, port, protocol, reason, direction, pad }
        DropCounter { packets, bytes, event_ticks }
        StagedCounter { denied, allowed }
        Event {
            time_ns, source, destination, ifindex, peer, rule, staged, log, length, source_port,
            destination_port, protocol, reason, direction, family, tcp_flags, kind, allowed, pad,
        }
        EventBudget { window_ns, sent, coalesced, limited, ring_full }
        BlockKeyV4 { list, address }
        BlockKeyV6 { list, address }
        Blocked { rule, peer }
        Uplink { list, limit, pace }
        Pace { interval_ns, burst_ns }
        BucketKey { limit, family, pad, source }
        UplinkFlowKey { local, remote, local_port, remote_port, protocol, family, pad }
        FailsafeKey { direction, protocol, port, address }
        PublishedKey { address, port, protocol, pad }
    }
    assert_eq!(described, LAYOUT, "a type of the ABI is not described here");
    for reason in DropReason::ALL {
        writeln!(out, "reason {} {}", *reason as u8, reason.name())?;
    }
    for kind in EventKind::ALL {
        writeln!(out, "event {} {}", *kind as u8, kind.name())?;
    }
    for (name, value) in [
        ("Direction::Ingress", Direction::Ingress as u64),
        ("Direction::Egress", Direction::Egress as u64),
        ("Family::V4", Family::V4 as u64),
        ("Family::V6", Family::V6 as u64),
        ("VERDICT_ALLOW", u64::from(VERDICT_ALLOW)),
        ("VERDICT_NESTED", u64::from(VERDICT_NESTED)),
        ("LOG_NONE", u64::from(LOG_NONE)),
        ("LOG_FIRST", u64::from(LOG_FIRST)),
        ("PEER_WORLD_V4", u64::from(PEER_WORLD_V4)),
        ("PEER_WORLD_V6", u64::from(PEER_WORLD_V6)),
        ("PEER_FIRST", u64::from(PEER_FIRST)),
        ("PEER_NONE", u64::from(PEER_NONE)),
        ("RULE_NONE", u64::from(RULE_NONE)),
        ("RULE_FIRST", u64::from(RULE_FIRST)),
        ("FLOW_REPLIED", u64::from(FLOW_REPLIED)),
        ("FLOW_FIN_ORIGINAL", u64::from(FLOW_FIN_ORIGINAL)),
        ("FLOW_FIN_REPLY", u64::from(FLOW_FIN_REPLY)),
        ("FLOW_RESET", u64::from(FLOW_RESET)),
        ("FLOW_ASSURED", u64::from(FLOW_ASSURED)),
        ("FLOW_LOCAL", u64::from(FLOW_LOCAL)),
        ("FLOW_FORWARD", u64::from(FLOW_FORWARD)),
        ("PLANE_FORWARD", u64::from(PLANE_FORWARD)),
        ("PLANE_PRE_DNAT", u64::from(PLANE_PRE_DNAT)),
        ("INSIDE", u64::from(INSIDE)),
        ("service(6, 443)", u64::from(service(6, 443))),
        ("source(3, 1024)", u64::from(source(3, 1024))),
    ] {
        writeln!(out, "{name} = {value}")?;
    }
    for name in maps::PINNED {
        writeln!(out, "map {name}")?;
    }
    Ok(out)
}

#[test]
fn the_layout_is_that_of_the_snapshot() {
    let layout = layout().unwrap();
    assert_eq!(
        layout,
        SNAPSHOT,
        "the ABI changed: raise ABI_VERSION (now {}), write what is on the left to \
         policy-common/tests/abi_snapshot.txt, and add its digest to VERSIONS",
        abi::ABI_VERSION
    );
}

#[test]
fn the_snapshot_is_that_of_its_version() {
    let digest = Sha256::digest(SNAPSHOT.as_bytes());
    let digest = digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let listed = VERSIONS.iter().find(|(version, _)| *version == abi::ABI_VERSION);
    assert_eq!(
        listed.map(|(_, digest)| *digest),
        Some(digest.as_str()),
        "abi_snapshot.txt is not that of ABI_VERSION {}: a layout that has been released keeps its \
         digest for ever, so raise the version and add a line to VERSIONS",
        abi::ABI_VERSION
    );
    let newest = VERSIONS.iter().map(|(version, _)| *version).max();
    assert_eq!(newest, Some(abi::ABI_VERSION), "the newest version listed is the one in force");
}
