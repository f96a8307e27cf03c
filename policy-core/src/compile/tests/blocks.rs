//! Block lists, from policies to the maps.

use policy_common::abi::{PEER_WORLD_V4, Uplink};

use super::*;
use crate::policy::{FlowLimit, Order, Policy};

#[test]
fn block_lists_follow_their_uplinks() {
    let mut model = Model::default();
    let mut deny = testing::any_rule(Action::Deny);
    deny.source.nets = vec![net("198.51.100.0/24"), net("2001:db8:bad::/48")];
    let mut block = testing::policy("block", "role == 'uplink'", vec![deny]);
    block.untracked = true;
    testing::add_policy(&mut model, block.clone());
    model.uplinks.insert(2, testing::labels(&[("role", "uplink")]));
    model.uplinks.insert(3, testing::labels(&[]));
    let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
    run(&mut compiler, &mut kernel, &model);
    let rule = kernel.blocked(2, ip("198.51.100.9")).unwrap();
    assert_eq!(compiler.ids().rule(rule).unwrap().policy, "block");
    assert!(kernel.blocked(2, ip("2001:db8:bad::1")).is_some());
    assert_eq!(kernel.blocked(2, ip("198.51.101.9")), None);
    assert_eq!(kernel.blocked(3, ip("198.51.100.9")), None);

    if let Some(rules) = &mut block.ingress {
        rules[0].source.nets = vec![net("198.51.101.0/24")];
    }
    testing::add_policy(&mut model, block);
    run(&mut compiler, &mut kernel, &model);
    assert!(kernel.blocked(2, ip("198.51.101.9")).is_some());
    assert_eq!(kernel.blocked(2, ip("198.51.100.9")), None);
}

#[test]
fn an_uplink_has_the_first_limit_of_its_policies() {
    let mut model = Model::default();
    let mut limit = |name: &str, order: f64, selector: &str, per_second: u32, burst: u32| {
        let mut policy = testing::policy(name, selector, Vec::new());
        policy.untracked = true;
        policy.order = Order(Some(order));
        policy.new_flows = Some(FlowLimit { per_second, burst });
        testing::add_policy(&mut model, policy);
    };
    limit("strict", 2.0, "all()", 10, 1);
    limit("generous", 1.0, "role == 'uplink'", 1000, 5000);
    model.uplinks.insert(2, testing::labels(&[("role", "uplink")]));
    model.uplinks.insert(3, testing::labels(&[]));
    let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
    let at = |compiler: &Compiler, uplink: u32| {
        let Uplink { limit, pace, .. } = compiler.image().uplinks[&uplink];
        let name = compiler.ids().rule(limit).map(|it| format!("{} {}", it.policy, it.rule));
        (name.unwrap_or_default(), pace.interval_ns, pace.burst_ns)
    };
    // Answers would count as flows that begin as long as nobody notes what they answer.
    run(&mut compiler, &mut kernel, &model);
    for uplink in [2, 3] {
        assert_eq!(at(&compiler, uplink), (String::new(), 0, 0));
        model.noting_uplinks.insert(uplink);
    }
    run(&mut compiler, &mut kernel, &model);
    assert_eq!(at(&compiler, 2), ("generous new-flows".to_owned(), 1_000_000, 5_000_000_000));
    assert_eq!(at(&compiler, 3), ("strict new-flows".to_owned(), 100_000_000, 100_000_000));

    let named = |name: &str| {
        let key = model.policies.keys().find(|key| key.name == name);
        key.cloned().unwrap()
    };
    let (generous, strict) = (named("generous"), named("strict"));
    let of_generous = compiler.image().uplinks[&2].limit;
    model.policies.remove(&generous);
    run(&mut compiler, &mut kernel, &model);
    assert_eq!(at(&compiler, 2).0, "strict new-flows");

    // Without a limit the list stays; and a number is free for others once nothing is limited by it.
    let mut plain = Policy::clone(&model.policies[&strict]);
    plain.new_flows = None;
    testing::add_policy(&mut model, plain);
    run(&mut compiler, &mut kernel, &model);
    assert_eq!(compiler.image().uplinks[&2].limit, abi::RULE_NONE);
    assert_eq!(compiler.image().uplinks[&2].pace, abi::Pace::default());
    assert_eq!(compiler.ids().rule(of_generous), None);
}

#[test]
fn a_blocked_prefix_names_the_set_that_it_is_of() {
    let mut model = Model::default();
    let set = |name: &str, nets: &[&str]| NetworkSet {
        namespace: String::new(),
        name: name.to_owned(),
        labels: testing::labels(&[("feed", "bad")]),
        nets: nets.iter().map(|it| net(it)).collect(),
    };
    let put = |model: &mut Model, set: NetworkSet| {
        let key = (set.namespace.clone(), set.name.clone());
        model.network_sets.insert(key, Arc::new(set));
    };
    put(&mut model, set("scanners", &["198.51.100.0/24", "203.0.113.0/25"]));
    put(&mut model, set("botnets", &["203.0.113.0/24"]));
    let mut written = testing::any_rule(Action::Deny);
    written.source.nets = vec![net("192.0.2.0/24")];
    let mut picked = testing::any_rule(Action::Deny);
    picked.index = 1;
    picked.source.selector = Some(testing::selector("feed == 'bad'"));
    let mut block = testing::policy("block", "role == 'uplink'", vec![written, picked]);
    block.untracked = true;
    testing::add_policy(&mut model, block);
    model.uplinks.insert(2, testing::labels(&[("role", "uplink")]));

    let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
    run(&mut compiler, &mut kernel, &model);
    let peer = |compiler: &Compiler, of: &str| {
        let mut around = compiler.image().blocks.iter().filter(|((_, it), _)| *it == net(of));
        around.next().map(|(_, blocked)| blocked.peer)
    };
    let name = |compiler: &Compiler, of: &str| {
        let peer = peer(compiler, of).and_then(|it| compiler.ids().peer(it));
        peer.map(|it| it.name)
    };
    assert_eq!(peer(&compiler, "192.0.2.0/24"), Some(PEER_WORLD_V4));
    assert_eq!(name(&compiler, "198.51.100.0/24").unwrap(), "scanners");
    // Of two sets around an address the first by name is the one that counts.
    assert_eq!(name(&compiler, "203.0.113.0/24").unwrap(), "botnets");
    assert_eq!(name(&compiler, "203.0.113.0/25"), None);

    let botnets = peer(&compiler, "203.0.113.0/24").unwrap();
    model.network_sets.remove(&(String::new(), "botnets".to_owned()));
    run(&mut compiler, &mut kernel, &model);
    assert_eq!(name(&compiler, "203.0.113.0/25").unwrap(), "scanners");
    // Its number is free for others once nothing is blocked under it.
    put(&mut model, set("tor", &["203.0.113.128/25"]));
    run(&mut compiler, &mut kernel, &model);
    assert_eq!(compiler.ids().peer(botnets), None);
    assert_eq!(name(&compiler, "203.0.113.128/25").unwrap(), "tor");
}
