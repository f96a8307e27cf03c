//! Counters are exact, whatever happens.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use policy_agent::kernel::pin::Hook;
use policy_common::{
    abi::{DropReason, EVENTS_PER_SECOND, EventKind},
    maps::MAX_DROPS,
};
use policy_test::testrun::Action;

use crate::{
    frames::{ACK, SYN, Way},
    world::World,
};

const REPEATS: u32 = 10_000;

#[test]
fn ten_thousand_packets_are_ten_thousand() -> Result<()> {
    let world = World::new()?;
    let repeats = u64::from(REPEATS);
    for [web, db] in [["10.0.0.2", "10.0.0.3"], ["fd00::2", "fd00::3"]] {
        let denied = Way::new(web, 1, db, 22).tcp(SYN);
        let key = world.drops_out("once", &denied, DropReason::Policy)?;
        let before = (world.ring.drops()?, world.ring.rule_counter(key.rule)?);
        let (action, _) = world
            .ring
            .repeat(Hook::FromEndpoint, world.web, &denied, REPEATS)?
            .context("the kernel takes it")?;
        assert_eq!(action, Action::Drop);
        let after = (world.ring.drops()?, world.ring.rule_counter(key.rule)?);
        let bytes = repeats * u64::try_from(denied.len())?;
        let (was, now) = (before.0.keyed[&key], after.0.keyed[&key]);
        assert_eq!((now.packets - was.packets, now.bytes - was.bytes), (repeats, bytes));
        assert_eq!(after.1.packets - before.1.packets, repeats);
        assert_eq!(after.1.bytes - before.1.bytes, bytes);

        let way = Way::new(web, 2, db, 5432);
        world.passes_out("SYN", &way.tcp(SYN))?;
        let data = way.tcp(ACK);
        world.ring.repeat(Hook::FromEndpoint, world.web, &data, REPEATS)?;
        let answer = way.back().tcp(ACK);
        world.ring.repeat(Hook::ToEndpoint, world.web, &answer, REPEATS)?;
    }
    let (v4, v6) = world.ring.flows()?;
    let flows: Vec<_> = v4.into_iter().map(|x| x.1).chain(v6.into_iter().map(|x| x.1)).collect();
    assert_eq!(flows.len(), 2);
    for flow in flows {
        assert_eq!(flow.packets, [repeats + 1, repeats]);
        // One rule let both families pass.
        assert_eq!(world.ring.rule_counter(flow.rule)?.packets, 2 * (2 * repeats + 1));
    }
    Ok(())
}

#[test]
fn a_full_table_of_drops_loses_detail_and_no_packet() -> Result<()> {
    let world = World::new()?;
    let ports: Vec<u16> = (1024..).take(usize::try_from(MAX_DROPS)? + 100).collect();
    let mut bytes = 0;
    for &port in &ports {
        let frame = Way::new("10.0.0.2", 1, "10.0.0.3", port).udp();
        bytes += u64::try_from(frame.len())?;
        let action = world.ring.run(Hook::FromEndpoint, world.web, &frame)?;
        assert_eq!(action, Some(Action::Drop));
    }
    let drops = world.ring.drops()?;
    let keyed: u64 = drops.keyed.values().map(|counter| counter.packets).sum();
    let other: BTreeMap<usize, u64> = drops
        .other
        .iter()
        .enumerate()
        .filter(|(_, counter)| counter.packets > 0)
        .map(|(reason, counter)| (reason, counter.packets))
        .collect();
    assert_eq!(drops.keyed.len(), usize::try_from(MAX_DROPS)?);
    assert_eq!(keyed + other[&(DropReason::Policy as usize)], u64::try_from(ports.len())?);
    assert_eq!(other.len(), 1);
    let counted: u64 = drops.keyed.values().chain(&drops.other).map(|counter| counter.bytes).sum();
    assert_eq!(counted, bytes);
    Ok(())
}

#[test]
fn events_that_are_not_sent_are_counted() -> Result<()> {
    let mut world = World::new()?;
    let frame = Way::new("10.0.0.2", 1, "10.0.0.3", 22).tcp(SYN);
    world.ring.repeat(Hook::FromEndpoint, world.web, &frame, 1000)?;
    let mut sent = world.ring.events()?.len();
    for port in 1024..1024 + 3000 {
        let frame = Way::new("10.0.0.2", 1, "10.0.0.3", port).udp();
        world.ring.run(Hook::FromEndpoint, world.web, &frame)?;
        sent += world.ring.events()?.len();
    }
    let lost = world.ring.events_lost(EventKind::Drop)?;
    let told = u64::try_from(sent)?;
    assert_eq!(told + lost.coalesced + lost.limited + lost.ring_full, 4000);
    assert!(lost.coalesced >= 990, "{lost:?}");
    assert!(told >= 1000 && EVENTS_PER_SECOND == 2000, "{told} told");
    Ok(())
}
