//! An agent that ends in the middle of a change: afterwards it holds all of it or nothing.

use std::{collections::BTreeSet, process::Child, thread, time::Instant};

use policy_api::messages::StoredResource;

use crate::stage::{Stage, policy};

/// Policies that change together.
const POLICIES: u32 = 40;
/// Moments of a change at which the agent is ended.
const ROUNDS: u32 = 12;

/// The orders of the policies that change together; one if they did so.
fn orders(stage: &Stage) -> (usize, BTreeSet<u64>) {
    let stored: Vec<StoredResource> =
        stage.agent.get("/v1/resources?kind=GlobalNetworkPolicy").unwrap();
    let together: Vec<_> = stored.iter().filter(|it| it.name.name.starts_with('p')).collect();
    let orders = together.iter().map(|it| it.resource["spec"]["order"].as_u64().unwrap());
    (together.len(), orders.collect())
}

/// Begins a change.
fn begin(stage: &Stage, change: &str) -> Child {
    let file = stage.file("change.yaml", change.as_bytes());
    let mut client = stage.agent.policyctl_command().unwrap();
    client.args(["apply", "-f", &file]);
    client.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    client.spawn().unwrap()
}

/// Ends the agent so many times, each time a little later after the beginning of a change.
fn end_during_changes(end: impl Fn(&mut Stage)) {
    let mut stage = Stage::new();
    let change = |order: u32| -> String {
        (0..POLICIES).map(|number| policy(&format!("p{number:02}"), order)).collect()
    };
    stage.agent.apply(&change(999)).unwrap();
    // How long a change takes here and now if nothing ends it.
    let started = Instant::now();
    assert!(begin(&stage, &change(1000)).wait().unwrap().success());
    let whole = started.elapsed();
    let mut last = 1000;
    let mut carried_out = 0;
    for round in 0..ROUNDS {
        let next = 1001 + round;
        let mut client = begin(&stage, &change(next));
        // Not for a state: every round is to hit another moment of the change, the last one the end.
        thread::sleep(whole * 5 * round / (4 * (ROUNDS - 1)));
        end(&mut stage);
        let told = client.wait().unwrap().success();
        stage.agent.start().unwrap();
        stage.enforced();
        let (count, orders) = orders(&stage);
        assert_eq!(count, POLICIES as usize, "round {round}");
        let order = match orders.into_iter().collect::<Vec<_>>()[..] {
            [order] => order,
            ref several => panic!("round {round}: half of a change holds: {several:?}"),
        };
        if told {
            assert_eq!(order, u64::from(next), "round {round}: a change was told and is lost");
        }
        assert!(order == last || order == u64::from(next), "round {round}: {order}");
        carried_out += usize::from(order == u64::from(next));
        last = order;
        let component = stage.agent.status().unwrap().components.into_iter().find(|it| !it.healthy);
        assert_eq!(component, None, "round {round}");
        // What is stored is what the datapath decides by.
        let explained =
            stage.agent.policyctl(&["explain", "192.0.2.1", "web", &format!("{order}/tcp")]);
        assert_eq!(explained.unwrap().status.code(), Some(0), "round {round}");
    }
    eprintln!("{carried_out} of {ROUNDS} changes were carried out");
    assert!(carried_out > 0, "the agent always ended before the change");
}

#[test]
fn a_kill_during_a_change_leaves_all_of_it_or_nothing() {
    end_during_changes(|stage| stage.agent.kill().unwrap());
}

#[test]
fn a_stop_during_a_change_leaves_all_of_it_or_nothing() {
    end_during_changes(|stage| assert!(stage.agent.terminate().unwrap().success()));
}
