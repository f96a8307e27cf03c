//! How long connections live, and what becomes of them when the table is full.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use policy_agent::kernel::{clock, pin::Hook};
use policy_common::{
    abi::{Direction, DropReason, FLOW_ASSURED, FLOW_REPLIED, Flow},
    conntrack::timeout_ns,
    maps,
};

use policy_test::testrun::{Action, Verdict};

use crate::{
    frames::{ACK, FIN, RST, SYN, UDP, Way},
    world::World,
};

const SECOND: u64 = 1_000_000_000;
/// What the programs' coarse clock may be behind at most, and more, ns.
const JIFFIES: u64 = 20_000_000;
/// Entries of the world's tables.
const CAPACITY: usize = 4096;

/// Leaves a connection alone for so long. A machine that has not run for that long waits for it.
fn leave_alone(world: &mut World, ns: u64) -> Result<()> {
    while clock::monotonic_ns() < ns + SECOND {
        thread::sleep(Duration::from_secs(1));
    }
    let (key, flow) = *world.ring.flows()?.0.first().context("there is a connection")?;
    let seen_ns = clock::monotonic_ns() - ns;
    Ok(world.ring.set_flow_v4(key, Flow { seen_ns, ..flow })?)
}

#[test]
fn each_state_of_a_connection_ends_when_its_time_is_over() -> Result<()> {
    let way = Way::new("10.0.0.2", 40_000, "10.0.0.3", 5432);
    let udp = Way::new("10.0.0.2", 40_000, "10.0.0.3", 53);
    let (out, back) = (|flags| way.tcp(flags), |flags| way.back().tcp(flags));
    type Frames = Vec<(bool, Vec<u8>)>;
    let handshake =
        || -> Frames { vec![(true, out(SYN)), (false, back(SYN | ACK)), (true, out(ACK))] };
    let and = |mut frames: Frames, more: Frames| {
        frames.extend(more);
        frames
    };
    // What came before, the seconds that it may be silent, and who speaks next.
    let cases: Vec<(&str, Frames, u64, bool, Vec<u8>)> = vec![
        ("SYN", vec![(true, out(SYN))], 120, false, back(SYN | ACK)),
        ("SYN-ACK", vec![(true, out(SYN)), (false, back(SYN | ACK))], 60, true, out(ACK)),
        ("FIN", and(handshake(), vec![(true, out(FIN | ACK))]), 120, false, back(ACK)),
        ("their FIN", and(handshake(), vec![(false, back(FIN | ACK))]), 120, true, out(ACK)),
        ("RST", and(handshake(), vec![(false, back(RST))]), 10, true, out(ACK)),
        ("a query", vec![(true, udp.udp())], 30, false, udp.back().udp()),
        (
            "an answer",
            vec![(true, udp.udp()), (false, udp.back().udp())],
            120,
            false,
            udp.back().udp(),
        ),
    ];
    for (name, frames, seconds, next_out, next) in cases {
        let mut world = World::new()?;
        for (out, frame) in &frames {
            if *out { world.passes_out(name, frame)? } else { world.passes_in(name, frame)? }
        }
        leave_alone(&mut world, (seconds - 4) * SECOND)?;
        // Not by this packet's own doing: it is judged before it renews anything.
        let verdict = if next_out { world.sends(&next)? } else { world.gets(&next)? };
        ensure!(verdict == Verdict::Pass, "{name}: ends too early");

        let mut world = World::new()?;
        for (out, frame) in &frames {
            if *out { world.passes_out(name, frame)? } else { world.passes_in(name, frame)? }
        }
        leave_alone(&mut world, seconds * SECOND + JIFFIES)?;
        let reason = if next_out { DropReason::NoConnection } else { DropReason::Policy };
        if next_out {
            world.drops_out(name, &next, reason)?;
        } else {
            world.drops_in(name, &next, reason)?;
        }
    }
    Ok(())
}

/// A flood of SYNs that a server answers held an entry for five days each.
#[test]
fn only_a_complete_handshake_makes_a_connection_last() -> Result<()> {
    let world = World::new()?;
    let way = Way::new("10.0.0.4", 40_000, "10.0.0.2", 80);
    let state = |world: &World| -> Result<u8> { Ok(world.ring.flows()?.0[0].1.state) };
    world.passes_in("SYN", &way.tcp(SYN))?;
    assert_eq!(state(&world)?, 0);
    for _ in 0..2 {
        world.passes_out("SYN-ACK", &way.back().tcp(SYN | ACK))?;
        world.passes_in("SYN once more", &way.tcp(SYN))?;
        assert_eq!(state(&world)?, FLOW_REPLIED);
    }
    world.passes_in("ACK", &way.tcp(ACK))?;
    assert_eq!(state(&world)?, FLOW_REPLIED | FLOW_ASSURED);
    assert_eq!(timeout_ns(state(&world)?, 6), 432_000 * SECOND);
    Ok(())
}

/// One that was open before the fence may be silent for as long as any other, whoever speaks first.
#[test]
fn a_connection_that_was_picked_up_lasts() -> Result<()> {
    let mut world = World::new()?;
    world.ring.change("web", |spec| spec.adopt_until_ns = u64::MAX)?;
    world.ring.sync()?;
    let way = Way::new("10.0.0.4", 40_000, "10.0.0.2", 80);
    world.passes_in("mid-stream", &way.tcp(ACK))?;
    world.ring.change("web", |spec| spec.adopt_until_ns = 0)?;
    world.ring.sync()?;
    leave_alone(&mut world, 125 * SECOND)?;
    world.passes_out("after two minutes", &way.back().tcp(ACK))?;
    Ok(())
}

#[test]
fn a_full_table_gives_up_the_oldest_and_keeps_what_is_in_use() -> Result<()> {
    const FLOWS: u16 = 20_000;
    let world = World::new()?;
    let kept = Way::new("10.0.0.2", 60_000, "10.0.0.3", 5432);
    world.passes_out("SYN", &kept.tcp(SYN))?;
    world.passes_in("SYN-ACK", &kept.back().tcp(SYN | ACK))?;
    world.passes_out("ACK", &kept.tcp(ACK))?;
    for port in 1..=FLOWS {
        let query = Way::new("10.0.0.2", port, "10.0.0.3", 53);
        ensure!(world.sends(&query.udp())? == Verdict::Pass, "no room for query {port}");
        ensure!(world.gets(&query.back().udp())? == Verdict::Pass, "no answer to query {port}");
        if port % 64 == 0 {
            ensure!(world.gets(&kept.back().tcp(ACK))? == Verdict::Pass, "cut off at query {port}");
        }
    }
    let (flows, _) = world.ring.flows()?;
    ensure!(flows.len() <= CAPACITY && flows.len() > CAPACITY / 2, "{} entries", flows.len());
    let counter = world.ring.tables.counter()?;
    assert_eq!(counter.opened, [u64::from(FLOWS) + 1, 0]);
    assert_eq!(counter.refused, [0, 0]);
    // Those that went are the oldest. The kernel goes by generations, not by the single entry, and what a
    // CPU has entered last it keeps for itself until it enters more (`LOCAL_FREE_TARGET` in
    // kernel/bpf/bpf_lru_list.c): this test may have moved on to another one.
    const OF_A_CPU: usize = 128;
    let old = |port: u16| usize::from(FLOWS - port) > 2 * CAPACITY;
    let left =
        flows.iter().filter(|(key, _)| key.local_port <= FLOWS && old(key.local_port)).count();
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    ensure!(left <= OF_A_CPU * cpus, "{left} of the oldest queries are still there");
    let newest = FLOWS - 100..FLOWS;
    for port in newest {
        ensure!(flows.iter().any(|(key, _)| key.local_port == port), "query {port} has gone");
    }
    Ok(())
}

#[test]
fn the_tables_are_read_whole() -> Result<()> {
    let world = World::new()?;
    for port in 1..=2_000 {
        for (web, db) in [("10.0.0.2", "10.0.0.3"), ("fd00::2", "fd00::3")] {
            ensure!(
                world.sends(&Way::new(web, port, db, 53).udp())? == Verdict::Pass,
                "query {port}"
            );
        }
    }
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    world.ring.tables.each_v4(|key, flow| v4.push((*key, *flow)))?;
    world.ring.tables.each_v6(|key, flow| v6.push((*key, *flow)))?;
    let (mut every_v4, mut every_v6) = world.ring.flows()?;
    v4.sort_by_key(|flow| flow.0);
    v6.sort_by_key(|flow| flow.0);
    every_v4.sort_by_key(|flow| flow.0);
    every_v6.sort_by_key(|flow| flow.0);
    assert_eq!((v4.len(), v6.len()), (2_000, 2_000));
    assert!(v4 == every_v4 && v6 == every_v6, "batches show what single reads show");
    assert_eq!(world.ring.tables.counter()?.opened, [2_000, 2_000]);
    assert_eq!(world.ring.tables.capacity()?, [4096, 4096]);
    Ok(())
}

#[test]
fn each_connection_that_begins_is_counted_once_by_who_let_it() -> Result<()> {
    let world = World::new()?;
    let query = |port| Way::new("10.0.0.2", port, "10.0.0.3", 53);
    let by_port = |world: &World| -> Result<Vec<(u8, u16, u64)>> {
        let opened = world.ring.opened()?.into_iter();
        Ok(opened.map(|(key, flows)| (key.protocol, key.port, flows)).collect())
    };
    for port in 1..=3 {
        for _ in 0..4 {
            world.passes_out("a query", &query(port).udp())?;
            world.passes_in("an answer", &query(port).back().udp())?;
        }
    }
    assert_eq!(by_port(&world)?, [(UDP, 53, 3)]);
    let opened = world.ring.opened()?;
    let (key, _) = opened.first_key_value().context("a counter")?;
    assert_eq!(key.direction, Direction::Egress as u8);
    assert_eq!(key.rule, world.ring.flows()?.0[0].1.rule);

    // Another begins in the entry of one that is over.
    let mut alone = World::new()?;
    alone.passes_out("a query", &query(1).udp())?;
    leave_alone(&mut alone, 30 * SECOND + JIFFIES)?;
    alone.passes_out("another", &query(1).udp())?;
    assert_eq!(by_port(&alone)?, [(UDP, 53, 2)]);
    assert_eq!(alone.ring.tables.counter()?.opened, [1, 0]);
    assert_eq!(alone.ring.tables.counter()?.began, 2);

    // What is refused begins nothing.
    world.drops_in("refused", &query(9).back().udp(), DropReason::Policy)?;
    assert_eq!(world.ring.tables.counter()?.began, 3);
    Ok(())
}

/// Whoever opens connections to every port takes the room of counters from others, and none is lost.
#[test]
fn connections_beyond_the_counters_are_counted_together() -> Result<()> {
    let world = World::new()?;
    let ports = 1..=u16::try_from(maps::MAX_OPENED + maps::MAX_OPENED / 4)?;
    let frames: Vec<_> = ports
        .map(|port| {
            let frame = Way::new("10.0.0.5", 40_000, "10.0.0.9", port).udp();
            ((Hook::FromEndpoint, world.free).into(), frame)
        })
        .collect();
    let passed = world.ring.run_all(&frames)?;
    assert!(passed.iter().all(|action| *action == Action::Pass));
    let (counter, opened) = (world.ring.tables.counter()?, world.ring.opened()?);
    assert_eq!(counter.began, frames.len() as u64);
    assert_eq!(opened.values().sum::<u64>() + counter.unnamed, counter.began);
    assert!(counter.unnamed > 0 && opened.len() <= maps::MAX_OPENED as usize);
    Ok(())
}
