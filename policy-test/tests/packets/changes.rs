//! Policy and addresses change under connections.

use anyhow::Result;
use policy_common::abi::DropReason;

use crate::{
    frames::{ACK, SYN, Way, broadcast, ip},
    world::{POLICIES, World},
};

#[test]
fn a_change_cuts_what_it_denies_and_nothing_else() -> Result<()> {
    let mut world = World::new()?;
    let families = [["10.0.0.2", "10.0.0.3", "10.0.0.4"], ["fd00::2", "fd00::3", "fd00::4"]];
    let pairs = families.map(|[web, db, client]| {
        (Way::new(web, 60_000, db, 5432), Way::new(client, 60_000, web, 80))
    });
    let pings = families.map(|[web, db, _]| Way::new(web, 0, db, 0));
    for (out, inbound) in pairs {
        world.passes_out("SYN", &out.tcp(SYN))?;
        world.passes_in("SYN-ACK", &out.back().tcp(SYN | ACK))?;
        world.passes_in("SYN", &inbound.tcp(SYN))?;
        world.passes_out("SYN-ACK", &inbound.back().tcp(SYN | ACK))?;
    }
    for ping in pings {
        world.passes_out("ping", &ping.ping(5))?;
    }

    world.ring.policies(&POLICIES.replace("app == 'db'", "app == 'nobody'"))?;
    world.ring.sync()?;
    for (out, inbound) in pairs {
        // The first packet after the change may be either side's.
        let key = world.drops_in("an answer", &out.back().tcp(ACK), DropReason::Policy)?;
        assert_eq!(world.rule_of(&key)?, " tier-default deny");
        world.drops_out("data", &out.tcp(ACK), DropReason::Policy)?;
        world.drops_out("SYN again", &out.tcp(SYN), DropReason::Policy)?;
        world.passes_in("the other connection", &inbound.tcp(ACK))?;
        world.passes_out("the other connection", &inbound.back().tcp(ACK))?;
    }
    for ping in pings {
        world.drops_in("a reply", &ping.back().pong(5), DropReason::Policy)?;
        world.drops_out("a request", &ping.ping(5), DropReason::Policy)?;
    }
    let out = pairs[0].0;
    let error = Way::new("192.0.2.9", 0, "10.0.0.2", 0).unreachable(&out.tcp(SYN));
    world.drops_in("an error about a cut connection", &error, DropReason::Policy)?;

    world.ring.policies(POLICIES)?;
    world.ring.sync()?;
    for (out, inbound) in pairs {
        world.passes_out("data", &out.tcp(ACK))?;
        world.passes_in("an answer", &out.back().tcp(ACK))?;
        world.passes_in("the other connection", &inbound.tcp(ACK))?;
    }
    for ping in pings {
        world.passes_in("a reply", &ping.back().pong(5))?;
    }

    // An address that is no longer one's own takes its connections with it.
    world.ring.change("web", |spec| spec.addresses = vec![ip("10.0.0.8"), ip("fd00::8")])?;
    world.ring.sync()?;
    for (out, inbound) in pairs {
        world.drops_out("under the old address", &out.tcp(ACK), DropReason::SpoofedSource)?;
        world.drops_in("to the old address", &inbound.tcp(ACK), DropReason::SpoofedSource)?;
    }
    Ok(())
}

#[test]
fn what_goes_to_many_meets_policy_each_time() -> Result<()> {
    let world = World::new()?;
    for (source, group) in [
        ("10.0.0.4", "224.0.0.251"),
        ("10.0.0.4", "255.255.255.255"),
        ("10.0.0.4", "10.0.0.255"),
        ("fd00::4", "ff02::fb"),
    ] {
        let way = Way::new(source, 5353, group, 53);
        for _ in 0..2 {
            world.passes_in("allowed", &broadcast(way.udp()))?;
        }
        let denied = Way::new(source, 5353, group, 54);
        world.drops_in("denied", &broadcast(denied.udp()), DropReason::Policy)?;
    }
    let (v4, v6) = world.ring.flows()?;
    assert!(v4.is_empty() && v6.is_empty(), "no answer is expected from a group");
    Ok(())
}
