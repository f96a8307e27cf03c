//! Matches of prefixes that a CPU remembers: never longer than they are true.

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use policy_agent::kernel::pin::Hook;
use policy_common::abi::DropReason;
use policy_core::plan::Op;
use policy_test::testrun::{Action, Ring};

use crate::{
    frames::{SYN, Way},
    world::World,
};

/// From the world to `web`, by family.
const STRANGERS: [[&str; 2]; 2] = [["198.51.100.7", "10.0.0.2"], ["2001:db8:5::7", "fd00::2"]];

/// `web` is open to all but a feed, which names these strangers or others.
fn policies(feed: &[&str]) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: web}}\n\
         spec: {{selector: app == 'web', ingress: [{{action: Deny, source: {{selector: feed == 'bad'}}}}, \
         {{action: Allow}}]}}\n---\n\
         apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\n\
         metadata: {{name: feed, labels: {{feed: bad}}}}\nspec: {{nets: [{}]}}\n",
        feed.join(", ")
    )
}

/// On how many CPUs a new connection of each stranger passes. Ports are not used twice.
fn let_in(ring: &Ring, web: u32, port: &mut u16) -> Result<[usize; 2]> {
    let (this, before) = (Pid::from_raw(0), sched_getaffinity(Pid::from_raw(0))?);
    let mut passed = [0; 2];
    for cpu in cpus()? {
        let mut only = CpuSet::new();
        only.set(cpu)?;
        sched_setaffinity(this, &only)?;
        *port += 1;
        for ([from, to], passed) in STRANGERS.into_iter().zip(&mut passed) {
            let frame = Way::new(from, *port, to, 80).tcp(SYN);
            let action = ring.run(Hook::ToEndpoint, web, &frame)?;
            *passed += usize::from(action.context("the kernel takes it")? == Action::Pass);
        }
    }
    sched_setaffinity(this, &before)?;
    Ok(passed)
}

/// A few CPUs that this process may run on.
fn cpus() -> Result<Vec<usize>> {
    let all = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&cpu| all.is_set(cpu).unwrap_or(false)).take(4).collect())
}

/// After every single write, what was asked a moment before is asked again, on each CPU. Between the move of
/// an address and the next revision a CPU may go by either policy; from then on none goes back, and no
/// flow is decided by a new table for the peer that its address was before.
#[test]
fn an_address_that_moves_meets_the_new_policy_as_soon_as_its_endpoint_has_it() -> Result<()> {
    const BAD: &[&str] = &["198.51.100.0/24", "2001:db8:5::/48"];
    const OTHERS: &[&str] = &["203.0.113.0/24", "2001:db8:6::/48"];
    let mut world = World::new()?;
    let all = cpus()?.len();
    let mut port = 1_000;
    world.ring.policies(&policies(OTHERS))?;
    world.ring.sync()?;
    for (feed, passes) in [(BAD, false), (OTHERS, true), (BAD, false), (&[], true), (BAD, false)] {
        world.ring.policies(&policies(feed))?;
        let web = world.web;
        let (old, new) = if passes { (0, all) } else { (all, 0) };
        ensure!(let_in(&world.ring, web, &mut port)? == [old; 2], "before {feed:?}");
        let mut settled = [false; 2];
        let mut switched = false;
        world.ring.sync_slowly(|ring, op| {
            switched |= matches!(op, Op::SetEndpoint(..));
            let now = let_in(ring, web, &mut port)?;
            for (settled, now) in settled.iter_mut().zip(now) {
                ensure!(!*settled || now == new, "{feed:?}: back to the old policy at {op:?}");
                *settled |= matches!(op, Op::SetRevision(_)) && now == new;
            }
            ensure!(!switched || now == [new; 2], "{feed:?}: half a policy at {op:?}");
            Ok(())
        })?;
        ensure!(settled == [true; 2], "{feed:?}: no revision");
        ensure!(let_in(&world.ring, web, &mut port)? == [new; 2], "after {feed:?}");
    }
    Ok(())
}

#[test]
fn a_block_list_that_changes_is_obeyed_at_once() -> Result<()> {
    let list = |nets: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: block}}\n\
             spec: {{selector: role == 'uplink', doNotTrack: true, applyOnForward: true, ingress: \
             [{{action: Deny, source: {{nets: [{nets}]}}}}]}}"
        )
    };
    let mut world = World::new()?;
    let uplink = world.ring.interface("uplink")?;
    world.ring.uplink(uplink, &[("role", "uplink")]);
    for (nets, blocked) in [
        ("198.51.100.0/24, '2001:db8:5::/48'", true),
        ("203.0.113.0/24", false),
        ("198.51.100.7/32, '2001:db8:5::7/128'", true),
        ("198.51.100.8/32, '2001:db8:5::8/128'", false),
    ] {
        world.ring.policies(&list(nets))?;
        world.ring.sync()?;
        for [from, to] in STRANGERS {
            for _ in 0..2 {
                let frame = Way::new(from, 1, to, 80).tcp(SYN);
                let verdict = world.ring.judge(Hook::Uplink, uplink, &frame)?;
                let reason = match verdict {
                    policy_test::testrun::Verdict::Pass => None,
                    policy_test::testrun::Verdict::Drop(key) => DropReason::from_u8(key.reason),
                };
                assert_eq!(reason, blocked.then_some(DropReason::Untracked), "{from}, {nets}");
            }
        }
    }
    Ok(())
}

/// More addresses than are remembered, of both families, some of whose bytes are the same.
#[test]
fn what_is_remembered_of_one_address_is_not_said_of_another() -> Result<()> {
    let mut world = World::new()?;
    world.ring.policies(&policies(&["10.9.0.0/17", "'a09::/17'"]))?;
    world.ring.sync()?;
    for round in 0..2 {
        for number in 0..2_000_u16 {
            let [high, low] = (number * 32).to_be_bytes();
            let v4 = format!("10.9.{high}.{low}");
            let v6 = format!("a09:{:x}::", u16::from_be_bytes([high, low]));
            for (from, to) in [(v4, "10.0.0.2"), (v6, "fd00::2")] {
                let frame = Way::new(&from, 1000 + round, to, 80).tcp(SYN);
                let action = world.ring.run(Hook::ToEndpoint, world.web, &frame)?;
                let wanted = if high < 128 { Action::Drop } else { Action::Pass };
                ensure!(action == Some(wanted), "{from}: {action:?}");
            }
        }
    }
    Ok(())
}
