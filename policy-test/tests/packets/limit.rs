//! Limits of new flows at the uplink. A source earns one flow a second here, and what is held against
//! the limit comes in one test run, or right after another: no second goes by.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use policy_agent::kernel::pin::Hook;
use policy_common::{
    abi::{Direction, DropKey, DropReason},
    maps,
};
use policy_core::{
    host::{self, Failsafe, HostEndpoint, Interface},
    labels::Labels,
    model::DefaultAction,
};
use policy_test::testrun::Action;

use crate::{
    frames::{ACK, FIN, RST, SYN, UDP, Way, broadcast, fragment_header, padding, tagged, target},
    world::World,
};

const BURST: u64 = 3;
/// In which a source earns a flow.
const EARNED: Duration = Duration::from_secs(1);
/// More than any burst.
const FLOOD: u32 = 8;
const POLICIES: &str = r#"
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: limit
  annotations: { palisade.io/new-flows-per-second: "1", palisade.io/new-flows-burst: "3" }
spec: { order: 1, selector: side == 'left', doNotTrack: true, applyOnForward: true }
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: later
  annotations: { palisade.io/new-flows-per-second: "1", palisade.io/new-flows-burst: "1" }
spec:
  order: 99
  doNotTrack: true
  applyOnForward: true
  ingress: [{ action: Deny, source: { nets: [198.51.100.0/24] } }]
"#;

/// A world with an uplink that limits new flows.
struct Limited {
    world: World,
    left: u32,
}

impl Limited {
    fn new() -> Result<Limited> {
        let mut world = World::new()?;
        let left = world.ring.interface("left")?;
        world.ring.uplink(left, &[("side", "left")]);
        world.ring.add_policies(POLICIES)?;
        world.ring.load(&[Hook::Uplink, Hook::UplinkEgress])?;
        world.ring.sync()?;
        Ok(Limited { world, left })
    }

    /// A frame comes in so many times at once. How many of it were dropped, and as what.
    fn flood(&self, frame: &[u8], count: u32) -> Result<(u64, Option<DropKey>)> {
        let before = self.world.ring.drops()?;
        self.world.ring.repeat(Hook::Uplink, self.left, frame, count)?.context("a frame")?;
        let after = self.world.ring.drops()?;
        let was = |key| before.keyed.get(key).map_or(0, |counter| counter.packets);
        let moved = after.keyed.iter().map(|(key, now)| (*key, now.packets - was(key)));
        let mut moved = moved.filter(|(_, packets)| *packets > 0);
        let first = moved.next();
        ensure!(moved.next().is_none(), "two counters moved");
        Ok((first.map_or(0, |(_, packets)| packets), first.map(|(key, _)| key)))
    }

    /// What becomes of a frame from a source that may begin nothing now.
    fn after_a_flood(&self, from: Way, frame: &[u8]) -> Result<Action> {
        let ring = &self.world.ring;
        let begin = Instant::now();
        let mut passes = 0;
        loop {
            ring.repeat(Hook::Uplink, self.left, &from.tcp(SYN), FLOOD)?.context("a frame")?;
            if ring.run(Hook::Uplink, self.left, frame)?.context("a frame")? == Action::Drop {
                return Ok(Action::Drop);
            }
            passes += 1;
            // On a machine that is busy with other things the source may have earned one, and have spent it on this.
            if begin.elapsed() < EARNED * (passes - 1) {
                return Ok(Action::Pass);
            }
            let mut let_in = ring.uplink_flows(maps::UPLINK_LET_IN)?;
            for key in let_in.keys().collect::<Result<Vec<_>, _>>()? {
                let_in.remove(&key)?;
            }
        }
    }
}

fn ways() -> [Way; 2] {
    [
        Way::new("203.0.113.1", 40_000, "10.0.0.2", 80),
        Way::new("2001:db8:1::1", 40_000, "fd00::2", 80),
    ]
}

/// The first fragment of a SYN, with less than a TCP header in it: the host puts it together.
fn split(way: &Way) -> Vec<u8> {
    let header = &way.tcp_segment(SYN, b"")[..8];
    if way.is_v4() {
        way.piece_of(6, 1, 0, true, header)
    } else {
        way.chain_to(&[(44, fragment_header(1, 0, true))], 6, header)
    }
}

#[test]
fn each_source_begins_a_burst_and_no_more() -> Result<()> {
    let limited = Limited::new()?;
    for way in ways() {
        let frame = way.tcp(SYN);
        let (dropped, key) = limited.flood(&frame, 10)?;
        assert_eq!(dropped, 10 - BURST, "{way:?}");
        let key = key.context("a drop has a key")?;
        assert_eq!(DropReason::from_u8(key.reason), Some(DropReason::RateLimited));
        assert_eq!(key.direction, Direction::Ingress as u8);
        // The interface is the loopback where that stands in for it. The port is the sender's to choose.
        assert_eq!((key.protocol, key.port), (6, 0));
        assert_eq!(limited.world.rule_of(&key)?, "limit new-flows deny");
        assert_eq!(limited.world.ring.peer(key.peer).as_deref(), Some("world"));
    }
    // Another source has what it has; a site of IPv6 is one source.
    for (from, to, dropped) in [
        ("203.0.113.2", "10.0.0.2", 10 - BURST),
        ("2001:db8:1:0:8::9", "fd00::2", 10),
        ("2001:db8:1:1::1", "fd00::2", 10 - BURST),
    ] {
        let frame = Way::new(from, 1, to, 80).tcp(SYN);
        assert_eq!(limited.flood(&frame, 10)?.0, dropped, "{from}");
    }
    // A block list comes first.
    let blocked = Way::new("198.51.100.1", 1, "10.0.0.2", 80).tcp(SYN);
    let (dropped, key) = limited.flood(&blocked, 10)?;
    assert_eq!((dropped, key.map(|key| key.reason)), (10, Some(DropReason::Untracked as u8)));
    Ok(())
}

#[test]
fn only_what_may_begin_a_flow_is_held_against_the_limit() -> Result<()> {
    let limited = Limited::new()?;
    for way in ways() {
        let v4 = way.is_v4();
        let other = |port| Way { from: (way.from.0, port), ..way };
        let mut cases = vec![
            ("SYN", other(1).tcp(SYN), false),
            ("SYN with ECN", other(1).tcp(SYN | 0xc0), false),
            ("SYN and FIN", other(1).tcp(SYN | FIN), false),
            ("tagged SYN", tagged(&other(1).tcp(SYN), &[0x8100]), false),
            ("twice tagged SYN", tagged(&other(1).tcp(SYN), &[0x88a8, 0x8100]), false),
            ("UDP", other(2).udp(), false),
            ("broadcast UDP", broadcast(other(3).udp()), false),
            ("ping", way.ping(7), false),
            ("SCTP", other(4).packet(132, &[0, 4, 0, 80, 0, 0, 0, 0, 1, 0, 0, 0]), false),
            ("GRE", way.packet(47, &[0; 8]), false),
            ("SYN in two fragments", split(&other(8)), false),
            ("ACK", way.tcp(ACK), true),
            ("SYN and ACK", way.tcp(SYN | ACK), true),
            ("RST", way.tcp(RST), true),
            ("pong", way.pong(7), true),
            ("error", way.unreachable(&way.back().udp()), true),
            ("timestamp", way.icmp(if v4 { 13 } else { 139 }, 0, &[0; 16]), true),
            ("cut short", way.tcp(SYN)[..56].to_vec(), false),
        ];
        if v4 {
            cases.push(("first fragment", other(5).piece(1, 0, true, &[0; 16]), false));
            cases.push(("later fragment", other(5).piece(1, 64, false, &[0; 16]), true));
            cases.push(("options", other(6).with_options(&[1, 1, 1, 0]), false));
        } else {
            let piece = |offset, more| other(5).chain(&[(44, fragment_header(1, offset, more))]);
            cases.push(("first fragment", piece(0, true), false));
            cases.push(("later fragment", piece(64, false), true));
            cases.push(("options", other(6).chain(&[(60, padding(0))]), false));
            cases.push(("discovery", way.discovery(135, &target("fd00::2")), true));
        }
        for (what, frame, passes) in cases {
            let action = limited.after_a_flood(way, &frame)?;
            let expected = if passes { Action::Pass } else { Action::Drop };
            assert_eq!(action, expected, "{what}, {way:?}");
        }
    }
    Ok(())
}

#[test]
fn a_flow_that_began_goes_on() -> Result<()> {
    let limited = Limited::new()?;
    for way in ways() {
        let other = |port| Way { from: (way.from.0, port), ..way };
        // Each of these is one flow, however many packets it has.
        for (what, frame) in
            [("UDP", other(1).udp()), ("ping", way.ping(9)), ("GRE", way.packet(47, &[0; 8]))]
        {
            assert_eq!(limited.flood(&frame, 50)?.0, 0, "{what}, {way:?}");
        }
        // They are three, so the source has begun all that it may.
        assert_eq!(limited.flood(&other(2).udp(), 1)?.0, 1, "{way:?}");
        assert_eq!(limited.flood(&other(1).udp(), 50)?.0, 0, "{way:?}");
    }
    Ok(())
}

#[test]
fn an_answer_is_no_new_flow() -> Result<()> {
    let limited = Limited::new()?;
    let ring = &limited.world.ring;
    for way in ways() {
        let question = Way { from: way.to, to: (way.from.0, 53) };
        for tags in [&[][..], &[0x8100]] {
            let frame = tagged(&question.udp(), tags);
            let action = ring.run(Hook::UplinkEgress, limited.left, &frame)?;
            assert_eq!(action, Some(Action::Pass));
        }
        let answer = question.back();
        assert_eq!(limited.after_a_flood(way, &answer.udp())?, Action::Pass, "{way:?}");
        let unasked = Way { from: (way.from.0, 54), ..answer };
        assert_eq!(limited.after_a_flood(way, &unasked.udp())?, Action::Drop, "{way:?}");
        // What leaves by an uplink without a limit is not noted.
        let elsewhere = Way { to: (way.from.0, 54), ..question };
        ring.run(Hook::UplinkEgress, limited.world.stranger, &elsewhere.udp())?;
        assert_eq!(limited.after_a_flood(way, &unasked.udp())?, Action::Drop, "{way:?}");
    }
    Ok(())
}

/// Whoever sends from very many sources fills the table of what was let in, and that alone.
#[test]
fn no_flood_from_beyond_pushes_out_what_is_waited_for() -> Result<()> {
    let limited = Limited::new()?;
    let [way, _] = ways();
    let question = Way { from: way.to, to: (way.from.0, 53) };
    limited.world.ring.run(Hook::UplinkEgress, limited.left, &question.udp())?;
    let sources = 0..maps::MAX_UPLINK_FLOWS + maps::MAX_UPLINK_FLOWS / 4;
    let forged = |number: u32| {
        let [_, high, middle, low] = number.to_be_bytes();
        let from = IpAddr::from([100, high, middle, low]);
        ((Hook::Uplink, limited.left).into(), Way { from: (from, 9), ..way }.udp())
    };
    let frames: Vec<_> = sources.map(forged).collect();
    let passed = limited.world.ring.run_all(&frames)?;
    assert!(passed.iter().all(|action| *action == Action::Pass), "each begins its first flow");
    // What that means for its answer is another test's matter; on a slow machine its time is over here.
    let begun = limited.world.ring.uplink_flows(maps::UPLINK_BEGUN)?;
    assert_eq!(begun.keys().count(), 1);
    Ok(())
}

#[test]
fn failsafe_ports_have_no_limit() -> Result<()> {
    let mut limited = Limited::new()?;
    let endpoint = HostEndpoint {
        name: "left".to_owned(),
        node: "here".to_owned(),
        interface: Interface::Named("left".to_owned()),
        expected_ips: Vec::new(),
        labels: Labels::default(),
        ports: Vec::new(),
        default: DefaultAction::Deny,
    };
    let model = &mut limited.world.ring.model;
    let planes = host::planes(&endpoint, "left", limited.left, &model.host_addresses, 0);
    model.endpoints.extend(planes.into_iter().map(|(id, spec)| (id, Arc::new(spec))));
    for (direction, protocol, port) in [(Direction::Ingress, 6, 22), (Direction::Egress, UDP, 53)] {
        model.failsafe.insert(Failsafe { direction, protocol, port, net: None });
    }
    limited.world.ring.sync()?;
    for way in ways() {
        let shell = Way { to: (way.to.0, 22), ..way };
        assert_eq!(limited.flood(&shell.tcp(SYN), 50)?.0, 0, "{way:?}");
        assert_eq!(limited.flood(&way.tcp(SYN), 10)?.0, 10 - BURST, "{way:?}");
        // Whoever sends from such a port has not been asked yet.
        let names = Way { from: (way.from.0, 53), to: (way.to.0, 5353) };
        assert_eq!(limited.after_a_flood(way, &names.udp())?, Action::Drop, "{way:?}");
        limited.world.ring.run(Hook::UplinkEgress, limited.left, &names.back().udp())?;
        assert_eq!(limited.after_a_flood(way, &names.udp())?, Action::Pass, "{way:?}");
    }
    Ok(())
}

/// A source that a slow limit holds back for an hour is not held back by a fast one that comes after it.
#[test]
fn another_pace_holds_from_the_next_packet_on() -> Result<()> {
    let mut limited = Limited::new()?;
    let [way, _] = ways();
    let slow = POLICIES.replace("new-flows-burst: \"3\"", "new-flows-burst: \"3600\"");
    limited.world.ring.add_policies(&slow)?;
    limited.world.ring.sync()?;
    let begin = Instant::now();
    let (dropped, _) = limited.flood(&way.tcp(SYN), 3700)?;
    let earned = begin.elapsed().as_secs();
    ensure!((100 - earned.min(100)..=100).contains(&dropped), "{dropped} in {earned} s");
    let fast = POLICIES.replace("new-flows-per-second: \"1\"", "new-flows-per-second: \"1000000\"");
    limited.world.ring.add_policies(&fast)?;
    limited.world.ring.sync()?;
    // The first finds the old number, and leaves one that is over in three microseconds.
    limited.flood(&way.tcp(SYN), 1)?;
    assert_eq!(limited.flood(&way.tcp(SYN), 1)?.0, 0);
    Ok(())
}
