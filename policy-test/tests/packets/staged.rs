//! What is decided beside the verdict: Log rules, staged policies; and verdicts that depend on the
//! source port.

use anyhow::{Context as _, Result};
use policy_common::abi::{
    DropReason, Event, EventKind, LOG_NONE, StagedCounter, VERDICT_ALLOW, VERDICT_RULE,
};

use crate::{
    frames::{ACK, SYN, Way},
    world::World,
};

const STAGED: &str = r"
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: now }
spec:
  selector: app == 'web'
  types: [Ingress, Egress]
  egress: [{ action: Allow }]
  ingress:
    - { action: Deny, protocol: TCP, source: { ports: ['1:1023'] } }
    - { action: Log, protocol: TCP, destination: { ports: [22, 80] } }
    - { action: Allow, protocol: TCP, destination: { ports: [80] } }
---
apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: { name: then }
spec:
  order: 1
  selector: app == 'web'
  ingress:
    - { action: Deny, protocol: TCP, source: { ports: [2000] } }
    - { action: Allow, protocol: TCP, destination: { ports: [22] } }
    - { action: Pass }
";

/// Every event about a kind, with the rule that decided.
fn events(world: &mut World) -> Result<Vec<(EventKind, Event)>> {
    let kind = |event: &Event| EventKind::from_u8(event.kind).context("a known kind");
    world.ring.events()?.into_iter().map(|event| Ok((kind(&event)?, event))).collect()
}

fn rule(world: &World, id: u32) -> String {
    world.ring.rule(id).map_or_else(String::new, |rule| format!("{} {}", rule.policy, rule.rule))
}

#[test]
fn the_source_port_decides_where_a_rule_asks_for_it() -> Result<()> {
    let mut world = World::new()?;
    world.ring.policies(STAGED)?;
    world.ring.sync()?;
    for (from, to) in [("10.0.0.4", "10.0.0.2"), ("fd00::4", "fd00::2")] {
        let syn = |port, service| Way::new(from, port, to, service).tcp(SYN);
        let key = world.drops_in("from 1023", &syn(1023, 80), DropReason::Policy)?;
        assert_eq!(world.rule_of(&key)?, "now ingress[0] deny");
        world.passes_in("from 1024", &syn(1024, 80))?;
        world.passes_in("from 65535", &syn(65_535, 80))?;
        let key = world.drops_in("from 1", &syn(1, 443), DropReason::Policy)?;
        assert_eq!(world.rule_of(&key)?, "now ingress[0] deny");
        let key = world.drops_in("another service", &syn(1024, 443), DropReason::Policy)?;
        assert_eq!(world.rule_of(&key)?, " tier-default deny");
        world.drops_in("another protocol", &Way::new(from, 9, to, 80).udp(), DropReason::Policy)?;
    }
    Ok(())
}

#[test]
fn a_change_of_source_ports_cuts_connections_by_their_own_and_not_by_the_answers() -> Result<()> {
    let mut world = World::new()?;
    world.ring.policies(STAGED)?;
    world.ring.sync()?;
    let (kept, cut) =
        (Way::new("10.0.0.4", 3000, "10.0.0.2", 80), Way::new("10.0.0.4", 3001, "10.0.0.2", 80));
    for way in [kept, cut] {
        world.passes_in("SYN", &way.tcp(SYN))?;
        world.passes_out("SYN-ACK", &way.back().tcp(SYN | ACK))?;
    }
    world.ring.policies(&STAGED.replace("'1:1023'", "'1:1023', 3001"))?;
    world.ring.sync()?;
    // The first packet after the change is the answer, whose source port is 80.
    world.passes_out("an answer", &kept.back().tcp(ACK))?;
    world.drops_out("an answer", &cut.back().tcp(ACK), DropReason::Policy)?;
    world.drops_in("data", &cut.tcp(ACK), DropReason::Policy)?;
    Ok(())
}

#[test]
fn log_is_counted_and_told_and_decides_nothing() -> Result<()> {
    let mut world = World::new()?;
    world.ring.policies(STAGED)?;
    world.ring.sync()?;
    let syn = |service| Way::new("10.0.0.4", 4000, "10.0.0.2", service).tcp(SYN);
    world.ring.events()?;
    world.passes_in("allowed", &syn(80))?;
    let told = events(&mut world)?;
    let [(EventKind::Log, event)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((event.allowed, rule(&world, event.rule).as_str()), (1, "now ingress[2]"));
    let list = world.ring.logged(event.log).context("the list has rules")?;
    assert_eq!(list.iter().map(|it| it.rule.as_str()).collect::<Vec<_>>(), ["ingress[1]"]);
    let log = event.log;

    world.passes_in(
        "data of the same connection",
        &Way::new("10.0.0.4", 4000, "10.0.0.2", 80).tcp(ACK),
    )?;
    assert!(events(&mut world)?.is_empty(), "a connection is logged once");

    world.drops_in("denied", &syn(22), DropReason::Policy)?;
    let told = events(&mut world)?;
    let kinds: Vec<_> =
        told.iter().map(|(kind, event)| (*kind, event.allowed, event.log)).collect();
    assert_eq!(kinds, [(EventKind::Log, 0, log), (EventKind::Drop, 0, log)]);
    assert_eq!(world.ring.log_counter(log)?.packets, 2);

    world.drops_in("not matched", &syn(443), DropReason::Policy)?;
    let told = events(&mut world)?;
    let [(EventKind::Drop, event)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(event.log, LOG_NONE);
    Ok(())
}

#[test]
fn staged_policies_are_counted_told_and_never_enforced() -> Result<()> {
    let mut world = World::new()?;
    world.ring.policies(STAGED)?;
    world.ring.sync()?;
    let way = |port, service| Way::new("10.0.0.4", port, "10.0.0.2", service);
    world.ring.events()?;

    // Allowed, though staged would deny it.
    world.passes_in("80 from 2000", &way(2000, 80).tcp(SYN))?;
    let told = events(&mut world)?;
    let staged = told.iter().find(|(kind, _)| *kind == EventKind::Staged).context("no event")?.1;
    assert_eq!((staged.allowed, staged.staged & VERDICT_ALLOW), (1, 0));
    assert_eq!(rule(&world, staged.staged & VERDICT_RULE), "then ingress[0]");
    let deny = staged.staged & VERDICT_RULE;
    assert_eq!(world.ring.staged_counter(deny)?, StagedCounter { denied: 0, allowed: 1 });
    let (flows, _) = world.ring.flows()?;
    assert!(flows.iter().any(|(_, flow)| flow.staged == staged.staged), "{flows:?}");

    // Denied, though staged would allow it: told by the drop itself.
    world.drops_in("22 from 3000", &way(3000, 22).tcp(SYN), DropReason::Policy)?;
    let told = events(&mut world)?;
    let drop = told.iter().find(|(kind, _)| *kind == EventKind::Drop).context("no event")?.1;
    assert_ne!(drop.staged & VERDICT_ALLOW, 0);
    assert_eq!(rule(&world, drop.staged & VERDICT_RULE), "then ingress[1]");
    let allow = drop.staged & VERDICT_RULE;
    assert_eq!(world.ring.staged_counter(allow)?, StagedCounter { denied: 1, allowed: 0 });

    // Both say allow: counted, not told.
    world.passes_in("80 from 3000", &way(3000, 80).tcp(SYN))?;
    assert!(events(&mut world)?.iter().all(|(kind, _)| *kind != EventKind::Staged));
    world.passes_in("more of it", &way(3000, 80).tcp(ACK))?;

    // No staged policy is about egress.
    world.passes_out("out", &way(2000, 80).back().tcp(ACK))?;
    world.passes_out("out, new", &Way::new("10.0.0.2", 2000, "10.0.0.3", 80).tcp(SYN))?;
    assert!(events(&mut world)?.is_empty());
    assert_eq!(world.ring.staged_counter(deny)?, StagedCounter { denied: 0, allowed: 1 });
    Ok(())
}

#[test]
fn a_policy_that_is_staged_today_says_what_it_would_do_to_open_connections() -> Result<()> {
    let mut world = World::new()?;
    let (now, then) = STAGED.split_once("---\n").context("two policies")?;
    world.ring.policies(now)?;
    world.ring.sync()?;
    let way = Way::new("10.0.0.4", 2000, "10.0.0.2", 80);
    world.passes_in("SYN", &way.tcp(SYN))?;
    world.ring.events()?;

    world.ring.add_policies(then)?;
    world.ring.sync()?;
    for frame in [way.tcp(ACK), way.tcp(ACK)] {
        world.passes_in("data", &frame)?;
    }
    let told = events(&mut world)?;
    let [(EventKind::Staged, event)] = told.as_slice() else { panic!("{told:?}") };
    let counter = world.ring.staged_counter(event.staged & VERDICT_RULE)?;
    assert_eq!(counter, StagedCounter { denied: 0, allowed: 1 });
    Ok(())
}
