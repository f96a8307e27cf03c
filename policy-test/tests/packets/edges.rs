//! The bridge guard, and the uplink.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::Result;
use policy_agent::kernel::pin::Hook;
use policy_common::abi::{Direction, DropReason, PEER_NONE};
use policy_core::{
    host::{self, Failsafe, HostEndpoint, Interface},
    labels::Labels,
    model::DefaultAction,
};

use crate::{
    frames::{SYN, Way, arp, broadcast, ethernet, tagged, target},
    world::{World, drops, passes},
};

/// What `web`'s Ethernet address gives (RFC 4291, appendix A).
const LINK_LOCAL: &str = "fe80::ff:fe00:aa02";

const LISTS: &str = r"
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: { name: bad, labels: { list: bad } }
spec: { nets: [203.0.113.0/24, 2001:db8:bad::/48] }
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: first }
spec:
  order: 1
  selector: side == 'left'
  types: [Ingress]
  doNotTrack: true
  applyOnForward: true
  ingress:
    - { action: Deny, source: { nets: [203.0.113.128/25] } }
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: second }
spec:
  order: 2
  selector: has(side)
  types: [Ingress]
  doNotTrack: true
  applyOnForward: true
  ingress:
    - { action: Deny, source: { selector: list == 'bad' } }
";

#[test]
fn the_guard_knows_who_lives_on_its_bridge() -> Result<()> {
    let mut world = World::new()?;
    let bridge = world.ring.interface("bridge")?;
    world.ring.change("web", |spec| spec.bridge = Some(bridge))?;
    world.ring.sync()?;
    let guard = |hook, frame: &[u8]| world.ring.judge(hook, bridge, frame);
    let leaves = |frame: &[u8]| guard(Hook::FromBridge, frame);
    let enters = |frame: &[u8]| guard(Hook::ToBridge, frame);
    for (own, other) in [("10.0.0.2", "10.0.0.3"), ("fd00::2", "fd00::3"), (LINK_LOCAL, "fe80::77")]
    {
        let way = Way::new(own, 1, other, 2);
        passes("own", &leaves(&way.udp())?)?;
        passes("own", &leaves(&tagged(&way.udp(), &[0x8100]))?)?;
        passes("to own", &enters(&way.back().tcp(SYN))?)?;
        let key =
            drops("another's", &leaves(&way.back().udp())?, DropReason::Guard, Direction::Egress)?;
        assert_eq!((key.ifindex, key.peer), (bridge, PEER_NONE));
        drops("to another", &enters(&way.udp())?, DropReason::Guard, Direction::Ingress)?;
        passes("to all", &enters(&broadcast(way.udp()))?)?;
    }
    let (own, other) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3));
    passes("own", &leaves(&arp(1, own, other))?)?;
    passes("probe", &leaves(&arp(1, Ipv4Addr::UNSPECIFIED, other))?)?;
    passes("the host asks", &enters(&arp(1, other, own))?)?;
    drops("another's", &leaves(&arp(2, other, own))?, DropReason::Guard, Direction::Egress)?;
    let detect = Way::new("::", 0, "ff02::1:ff00:9", 0).discovery(135, &target("fd00::9"));
    passes("duplicate address detection", &leaves(&detect)?)?;
    drops(
        "unknown",
        &leaves(&ethernet(0x88cc, &[0; 46]))?,
        DropReason::UnsupportedEthertype,
        Direction::Egress,
    )?;
    // Another bridge has other inhabitants.
    let elsewhere = world.ring.judge(
        Hook::FromBridge,
        world.stranger,
        &Way::new("10.0.0.2", 1, "10.0.0.3", 2).udp(),
    )?;
    drops("on another bridge", &elsewhere, DropReason::Guard, Direction::Egress)?;
    Ok(())
}

#[test]
fn an_uplink_drops_what_its_list_names() -> Result<()> {
    let mut world = World::new()?;
    let (left, right) = (world.ring.interface("left")?, world.ring.interface("right")?);
    world.ring.uplink(left, &[("side", "left")]);
    world.ring.uplink(right, &[("side", "right")]);
    world.ring.policies(LISTS)?;
    world.ring.sync()?;
    let to = |source: &str| {
        let v4 = source.contains('.');
        Way::new(source, 1, if v4 { "10.0.0.2" } else { "fd00::2" }, 2)
    };
    let cases = [
        (left, "203.0.113.1", Some("second")),
        (left, "203.0.113.129", Some("first")),
        (left, "2001:db8:bad::7", Some("second")),
        (left, "198.51.100.1", None),
        (left, "2001:db8::7", None),
        (right, "203.0.113.129", Some("second")),
        (right, "203.0.113.1", Some("second")),
        (right, "198.51.100.1", None),
        (world.stranger, "203.0.113.1", None),
    ];
    for (uplink, source, policy) in cases {
        let plain = to(source).udp();
        for frame in [to(source).tcp(SYN), tagged(&plain, &[0x88a8, 0x8100]), plain] {
            let verdict = world.ring.judge(Hook::Uplink, uplink, &frame)?;
            match policy {
                None => passes(source, &verdict)?,
                Some(policy) => {
                    let key = drops(source, &verdict, DropReason::Untracked, Direction::Ingress)?;
                    assert_eq!(world.rule_of(&key)?, format!("{policy} ingress[0] deny"));
                }
            }
        }
    }
    for frame in [
        arp(1, Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(10, 0, 0, 2)),
        ethernet(0x88cc, &[0; 46]),
    ] {
        passes("no IP", &world.ring.judge(Hook::Uplink, left, &frame)?)?;
    }
    Ok(())
}

/// It was dropped, so that over IPv6 no failsafe port was open to a blocked source on the link.
#[test]
fn neighbour_discovery_passes_the_block_list_of_a_host_endpoint() -> Result<()> {
    const SOLICITATION: u8 = 135;
    let mut world = World::new()?;
    let up = world.ring.interface("edge")?;
    world.ring.uplink(up, &[("side", "left")]);
    world.ring.policies(LISTS)?;
    world.ring.sync()?;
    let from = Way::new("2001:db8:bad::7", 40_000, "fd00::fe", 22);
    let near = from.discovery(SOLICITATION, &target("fd00::fe"));
    let frames = [
        ("solicitation", near, true),
        ("from afar", from.discovery_from_afar(SOLICITATION, &target("fd00::fe"), 254), false),
        ("ping", from.ping(1), false),
        ("failsafe port", from.tcp(SYN), true),
        ("another port", from.udp(), false),
    ];
    // Without a host endpoint nothing is left alone.
    for (what, frame, _) in &frames {
        let verdict = world.ring.judge(Hook::Uplink, up, frame)?;
        drops(what, &verdict, DropReason::Untracked, Direction::Ingress)?;
    }
    let endpoint = HostEndpoint {
        name: "up".to_owned(),
        node: "here".to_owned(),
        interface: Interface::Named("edge".to_owned()),
        expected_ips: Vec::new(),
        labels: Labels::default(),
        ports: Vec::new(),
        default: DefaultAction::Deny,
    };
    let planes = host::planes(&endpoint, "edge", up, &world.ring.model.host_addresses, 0);
    world.ring.model.endpoints.extend(planes.into_iter().map(|(id, spec)| (id, Arc::new(spec))));
    let (direction, protocol, port, net) = (Direction::Ingress, 6, 22, None);
    world.ring.model.failsafe.insert(Failsafe { direction, protocol, port, net });
    world.ring.sync()?;
    for (what, frame, open) in &frames {
        let verdict = world.ring.judge(Hook::Uplink, up, frame)?;
        if *open {
            passes(what, &verdict)?;
        } else {
            drops(what, &verdict, DropReason::Untracked, Direction::Ingress)?;
        }
    }
    Ok(())
}
