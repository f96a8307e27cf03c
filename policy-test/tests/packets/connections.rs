//! TCP and UDP: who may open a connection, and what belongs to it.

use anyhow::{Context as _, Result};
use policy_common::abi::{
    Direction, DropReason, FLOW_ASSURED, FLOW_FIN_ORIGINAL, FLOW_REPLIED, FLOW_RESET,
    PEER_WORLD_V4, PEER_WORLD_V6,
};

use crate::{
    frames::{ACK, FIN, RST, SYN, Way},
    world::World,
};

/// `web`'s own address of each family, `db`'s, `client`'s, and one out in the world.
const FAMILIES: [[&str; 4]; 2] = [
    ["10.0.0.2", "10.0.0.3", "10.0.0.4", "192.0.2.9"],
    ["fd00::2", "fd00::3", "fd00::4", "2001:db8::9"],
];

#[test]
fn an_allowed_syn_opens_one_connection_and_its_answer_passes() -> Result<()> {
    for [web, db, client, _] in FAMILIES {
        let world = World::new()?;
        let out = Way::new(web, 40_000, db, 5432);
        let inbound = Way::new(client, 40_001, web, 80);
        for (flags, answer) in [(SYN, SYN | ACK), (ACK, ACK)] {
            world.passes_out("outbound", &out.tcp(flags))?;
            world.passes_in("its answer", &out.back().tcp(answer))?;
            world.passes_in("inbound", &inbound.tcp(flags))?;
            world.passes_out("its answer", &inbound.back().tcp(answer))?;
        }
        let (v4, v6) = world.ring.flows()?;
        let flows: Vec<_> =
            v4.into_iter().map(|flow| flow.1).chain(v6.into_iter().map(|flow| flow.1)).collect();
        assert_eq!(flows.len(), 2);
        for flow in flows {
            assert_eq!(flow.packets, [2, 2]);
            assert_eq!((flow.state, flow.cut), (FLOW_REPLIED | FLOW_ASSURED, 0));
        }
    }
    Ok(())
}

#[test]
fn a_denied_packet_is_counted_under_the_rule_that_denies_it_and_told() -> Result<()> {
    let mut world = World::new()?;
    for (family, [web, db, client, _]) in FAMILIES.into_iter().enumerate() {
        let cases = [
            // The port, and what denies it.
            (Direction::Egress, Way::new(web, 41_000, db, 22), "web egress[4] deny"),
            (Direction::Egress, Way::new(web, 41_000, db, 23), " tier-default deny"),
            (Direction::Egress, Way::new(web, 41_000, client, 5432), " tier-default deny"),
            (Direction::Ingress, Way::new(client, 41_000, web, 22), "web ingress[4] deny"),
            (Direction::Ingress, Way::new(db, 41_000, web, 80), " tier-default deny"),
        ];
        for (direction, way, rule) in cases {
            let frame = way.tcp(SYN);
            let what = format!("{:?} to {:?}", way.from, way.to);
            let key = match direction {
                Direction::Egress => world.drops_out(&what, &frame, DropReason::Policy)?,
                Direction::Ingress => world.drops_in(&what, &frame, DropReason::Policy)?,
            };
            let other = if direction == Direction::Egress { way.to } else { way.from };
            let peer = world.ring.peer(key.peer).context("the peer has a name")?;
            assert_eq!(peer, if other.0.to_string() == db { "db" } else { "client" });
            assert_eq!(world.rule_of(&key)?, rule);
            assert_eq!((key.ifindex, key.protocol, key.port), (world.web, 6, way.to.1));
            let counted = world.ring.rule_counter(key.rule)?;
            assert!(counted.packets >= 1);

            let event = world.event()?;
            assert_eq!((event.rule, event.peer, event.reason), (key.rule, key.peer, key.reason));
            assert_eq!((event.ifindex, event.direction), (key.ifindex, key.direction));
            assert_eq!((event.source_port, event.destination_port), (way.from.1, way.to.1));
            assert_eq!((event.tcp_flags, usize::from(event.family)), (SYN, family));
            assert_eq!(usize::try_from(event.length)?, frame.len());
        }
    }
    let (v4, v6) = world.ring.flows()?;
    assert!(v4.is_empty() && v6.is_empty());
    Ok(())
}

#[test]
fn udp_is_answered_but_not_called_back() -> Result<()> {
    let world = World::new()?;
    for [web, db, client, _] in FAMILIES {
        let way = Way::new(web, 42_000, db, 53);
        world.drops_in("an answer to nothing", &way.back().udp(), DropReason::Policy)?;
        world.passes_out("a query", &way.udp())?;
        world.passes_in("its answer", &way.back().udp())?;
        let other = Way::new(db, 53, web, 42_001);
        world.drops_in("an answer to another port", &other.udp(), DropReason::Policy)?;
        let inbound = Way::new(client, 42_000, web, 53);
        world.passes_in("an inbound query", &inbound.udp())?;
        world.passes_out("its answer", &inbound.back().udp())?;
    }
    Ok(())
}

#[test]
fn the_world_is_a_peer_of_its_own() -> Result<()> {
    let world = World::new()?;
    for ([web, _, _, outside], peer) in FAMILIES.into_iter().zip([PEER_WORLD_V4, PEER_WORLD_V6]) {
        let way = Way::new(outside, 43_000, web, 80);
        let key = world.drops_in("from outside", &way.tcp(SYN), DropReason::Policy)?;
        assert_eq!(key.peer, peer);
    }
    Ok(())
}

#[test]
fn a_source_that_is_not_ones_own_is_spoofed() -> Result<()> {
    let world = World::new()?;
    for [_, db, client, outside] in FAMILIES {
        for source in [client, outside] {
            let way = Way::new(source, 44_000, db, 5432);
            for frame in [way.tcp(SYN), way.udp(), way.ping(1), way.pong(1), way.tcp(ACK)] {
                world.drops_out(source, &frame, DropReason::SpoofedSource)?;
            }
        }
    }
    let zero = Way::new("0.0.0.0", 68, "255.255.255.255", 67);
    world.drops_out("no source", &zero.udp(), DropReason::SpoofedSource)?;
    world.drops_out(
        "no source",
        &Way::new("::", 1, "fd00::3", 53).udp(),
        DropReason::SpoofedSource,
    )?;
    Ok(())
}

#[test]
fn tcp_without_its_beginning_has_no_connection() -> Result<()> {
    let mut world = World::new()?;
    for [web, db, client, _] in FAMILIES {
        let out = Way::new(web, 45_000, db, 5432);
        for flags in [ACK, FIN | ACK, RST, SYN | ACK, SYN | RST, 0] {
            world.drops_out("mid-stream", &out.tcp(flags), DropReason::NoConnection)?;
        }
        let inbound = Way::new(client, 45_000, web, 80);
        world.drops_in("mid-stream", &inbound.tcp(ACK), DropReason::NoConnection)?;
    }
    // When the fence is put around a container that is running already, they are picked up.
    world.ring.change("web", |spec| spec.adopt_until_ns = u64::MAX)?;
    world.ring.sync()?;
    for [web, db, client, _] in FAMILIES {
        let out = Way::new(web, 45_000, db, 5432);
        world.drops_out("denied", &Way::new(web, 45_000, db, 22).tcp(ACK), DropReason::Policy)?;
        world.passes_out("mid-stream", &out.tcp(ACK))?;
        world.passes_in("the other direction", &out.back().tcp(ACK))?;
        let inbound = Way::new(client, 45_000, web, 80);
        world.passes_in("mid-stream", &inbound.tcp(ACK))?;
    }
    Ok(())
}

#[test]
fn a_port_pair_that_is_used_again_meets_policy_again() -> Result<()> {
    for close in [FIN | ACK, RST] {
        let mut world = World::new()?;
        let way = Way::new("10.0.0.2", 46_000, "10.0.0.3", 5432);
        world.passes_out("SYN", &way.tcp(SYN))?;
        world.passes_in("SYN-ACK", &way.back().tcp(SYN | ACK))?;
        world.passes_out("the close", &way.tcp(close))?;
        let state = world.ring.flows()?.0[0].1.state;
        let closed = if close == RST { FLOW_RESET } else { FLOW_FIN_ORIGINAL };
        assert_eq!(state, FLOW_REPLIED | FLOW_ASSURED | closed);
        // The peer opens the same pair of ports the other way: not an answer any more.
        world.drops_in(
            "SYN against the old direction",
            &way.back().tcp(SYN),
            DropReason::Policy,
        )?;
        world.passes_out("SYN again", &way.tcp(SYN))?;
        let (v4, _) = world.ring.flows()?;
        assert_eq!(v4.len(), 1);
        assert_eq!((v4[0].1.packets, v4[0].1.state), ([1, 0], 0));
        assert!(world.ring.events()?.len() == 1);
    }
    Ok(())
}

#[test]
fn whoever_was_let_in_is_not_connected_back_to() -> Result<()> {
    let world = World::new()?;
    for [web, _, client, _] in FAMILIES {
        let way = Way::new(client, 47_000, web, 80);
        world.passes_in("SYN", &way.tcp(SYN))?;
        world.passes_out("SYN-ACK", &way.back().tcp(SYN | ACK))?;
        world.drops_out("SYN back", &way.back().tcp(SYN), DropReason::Policy)?;
        world.passes_in("the connection goes on", &way.tcp(ACK))?;
        world.passes_in("SYN once more", &way.tcp(SYN))?;
    }
    Ok(())
}

#[test]
fn an_idle_connection_ends() -> Result<()> {
    let mut world = World::new()?;
    let way = Way::new("10.0.0.2", 48_000, "10.0.0.3", 53);
    world.passes_out("a query", &way.udp())?;
    let (key, flow) = world.ring.flows()?.0[0];
    world.passes_in("an answer", &way.back().udp())?;
    // Half a minute for UDP that nobody answered.
    let long_ago = flow.seen_ns.saturating_sub(31_000_000_000);
    world.ring.set_flow_v4(key, policy_common::abi::Flow { seen_ns: long_ago, ..flow })?;
    world.drops_in("a late answer", &way.back().udp(), DropReason::Policy)?;
    Ok(())
}
