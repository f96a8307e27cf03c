//! Packets that the programs show whole while somebody captures them: which, and how much of each.

use anyhow::Result;
use policy_agent::kernel::pin::Hook;
use policy_common::abi::{
    CAPTURE_DROPS, CAPTURE_PASSES, CAPTURED_BYTES, CaptureFilter, Captured, Direction, DropReason,
    FAMILY_ANY, PEER_NONE,
};

use crate::{
    frames::{SYN, Way},
    world::World,
};

/// Everything, as much as there may be of it.
const ALL: CaptureFilter =
    CaptureFilter { address: [0; 16], snap: 1536, port: 0, protocol: 0, family: FAMILY_ANY };
const BLOCK: &str = r#"
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: block}
spec:
  selector: side == 'left'
  doNotTrack: true
  applyOnForward: true
  ingress: [{action: Deny, source: {nets: [198.51.100.0/24, "2001:db8:6::/64"]}}]
"#;

/// `web` asks `db` on a port that it may use, and on one that it may not.
fn ways() -> [(Way, Way); 2] {
    [("10.0.0.2", "10.0.0.3"), ("fd00::2", "fd00::3")]
        .map(|(web, db)| (Way::new(web, 40_000, db, 5432), Way::new(web, 40_000, db, 80)))
}

fn reasons(captured: &[(Captured, Vec<u8>)]) -> Vec<(u8, Option<DropReason>)> {
    captured
        .iter()
        .map(|(head, _)| {
            let reason = (head.allowed == 0).then(|| DropReason::from_u8(head.reason)).flatten();
            (head.allowed, reason)
        })
        .collect()
}

#[test]
fn what_is_wanted_is_shown_whole_and_nothing_else() -> Result<()> {
    let mut world = World::new()?;
    for (good, bad) in ways() {
        let send = |world: &World| -> Result<()> {
            world.passes_out("allowed", &good.tcp(SYN))?;
            world.drops_out("denied", &bad.tcp(SYN), DropReason::Policy)?;
            Ok(())
        };
        send(&world)?;
        assert_eq!(world.ring.captured()?.len(), 0, "nobody wants any");
        let denied = (0, Some(DropReason::Policy));
        for (flags, expected) in [
            (CAPTURE_DROPS, vec![denied]),
            (CAPTURE_PASSES, vec![(1, None)]),
            (CAPTURE_DROPS | CAPTURE_PASSES, vec![(1, None), denied]),
        ] {
            world.ring.capture(Some((flags, ALL)))?;
            send(&world)?;
            assert_eq!(reasons(&world.ring.captured()?), expected, "{flags}");
        }
        send(&world)?;
        let captured = world.ring.captured()?;
        for ((head, bytes), frame) in captured.iter().zip([good.tcp(SYN), bad.tcp(SYN)]) {
            assert_eq!(*bytes, frame, "to the byte");
            assert_eq!((head.length as usize, head.captured as usize), (frame.len(), frame.len()));
            assert_eq!((head.ifindex, head.direction), (world.web, Direction::Egress as u8));
            assert!(head.rule != 0 && head.peer != PEER_NONE);
        }
        world.ring.capture(None)?;
        send(&world)?;
        assert_eq!(world.ring.captured()?.len(), 0, "nobody wants any more");
    }
    Ok(())
}

#[test]
fn one_address_one_port_one_protocol() -> Result<()> {
    let mut world = World::new()?;
    let [(v4, _), (v6, _)] = ways();
    let query = Way::new("10.0.0.2", 40_000, "10.0.0.3", 53);
    let mut at = |filter: CaptureFilter| -> Result<Vec<usize>> {
        world.ring.capture(Some((CAPTURE_PASSES, filter)))?;
        for frame in [v4.tcp(SYN), v6.tcp(SYN), query.udp()] {
            world.passes_out("allowed", &frame)?;
        }
        world.passes_in("an answer", &query.back().udp())?;
        Ok(world.ring.captured()?.iter().map(|(_, bytes)| bytes.len()).collect())
    };
    let (tcp4, tcp6, udp) = (v4.tcp(SYN).len(), v6.tcp(SYN).len(), query.udp().len());
    assert_eq!(at(ALL)?, [tcp4, tcp6, udp, udp]);
    assert_eq!(at(CaptureFilter { port: 53, ..ALL })?, [udp, udp]);
    assert_eq!(at(CaptureFilter { port: 40_000, protocol: 6, ..ALL })?, [tcp4, tcp6]);
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[10, 0, 0, 3]);
    assert_eq!(at(CaptureFilter { address, family: 0, ..ALL })?, [tcp4, udp, udp]);
    // The same bytes in the other family are another address.
    assert_eq!(at(CaptureFilter { address, family: 1, ..ALL })?, [0; 0]);
    assert_eq!(at(CaptureFilter { snap: 20, protocol: 17, ..ALL })?, [20, 20]);
    Ok(())
}

#[test]
fn long_short_and_broken_frames() -> Result<()> {
    let mut world = World::new()?;
    world.ring.capture(Some((CAPTURE_DROPS | CAPTURE_PASSES, ALL)))?;
    let [(way, _), _] = ways();
    world.passes_out("SYN", &way.tcp(SYN))?;
    let long = way.packet(6, &way.tcp_segment(SYN, &[b'x'; 3000]));
    world.ring.run(Hook::FromEndpoint, world.web, &long)?;
    let cut = &way.tcp(SYN)[..40];
    world.drops_out("cut short", cut, DropReason::Malformed)?;
    let captured = world.ring.captured()?;
    let sizes: Vec<_> = captured.iter().map(|(head, bytes)| (head.length, bytes.len())).collect();
    let frame = way.tcp(SYN).len();
    assert_eq!(sizes[0], (u32::try_from(frame)?, frame));
    assert_eq!(sizes[1], (u32::try_from(long.len())?, CAPTURED_BYTES));
    assert_eq!(sizes[2], (40, 40));
    assert_eq!(captured[1].1, long[..CAPTURED_BYTES]);
    Ok(())
}

#[test]
fn the_guard_and_the_uplink_show_what_they_drop() -> Result<()> {
    let mut world = World::new()?;
    let left = world.ring.interface("left")?;
    let bridge = world.ring.interface("bridge")?;
    world.ring.uplink(left, &[("side", "left")]);
    world.ring.change("web", |spec| spec.bridge = Some(bridge))?;
    world.ring.add_policies(BLOCK)?;
    world.ring.sync()?;
    world.ring.capture(Some((CAPTURE_DROPS, ALL)))?;
    for (from, to) in [("198.51.100.9", "10.0.0.2"), ("2001:db8:6::9", "fd00::2")] {
        for frame in [Way::new(from, 40_000, to, 80).tcp(SYN), long(from, to)] {
            world.ring.run(Hook::Uplink, left, &frame)?;
            let captured = world.ring.captured()?;
            assert_eq!(reasons(&captured), [(0, Some(DropReason::Untracked))]);
            let (head, bytes) = &captured[0];
            assert_eq!(*bytes, frame[..frame.len().min(128) & !1]);
            assert_eq!((head.length as usize, head.direction), (frame.len(), 0));
            assert!(head.rule != 0);
        }
    }
    let stranger = Way::new("10.0.0.66", 40_000, "192.0.2.1", 80).tcp(SYN);
    world.ring.run(Hook::FromBridge, bridge, &stranger)?;
    let captured = world.ring.captured()?;
    assert_eq!(reasons(&captured), [(0, Some(DropReason::Guard))]);
    assert_eq!((&captured[0].1, captured[0].0.ifindex), (&stranger, bridge));
    Ok(())
}

fn long(from: &str, to: &str) -> Vec<u8> {
    let way = Way::new(from, 40_000, to, 80);
    way.packet(6, &way.tcp_segment(SYN, &[b'x'; 501]))
}

/// Nobody reads: what does not fit is counted, and the packets go their way.
#[test]
fn a_full_ring_costs_captured_packets_alone() -> Result<()> {
    let mut world = World::new()?;
    world.ring.capture(Some((CAPTURE_PASSES, ALL)))?;
    let [(way, _), _] = ways();
    world.passes_out("SYN", &way.tcp(SYN))?;
    world.ring.repeat(Hook::FromEndpoint, world.web, &way.tcp(SYN), 2_000)?;
    world.passes_out("SYN", &way.tcp(SYN))?;
    let (lost, kept) = (world.ring.captures_lost()?, world.ring.captured()?.len());
    assert_eq!(lost + kept as u64, 2_002);
    assert!(kept > 500, "{kept}");
    Ok(())
}
