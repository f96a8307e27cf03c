//! The compiler against the reference evaluator, and plans against a simulated kernel.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use policy_api::messages::{RuleName, Verdict};
use policy_common::abi::{ADDRESSES_PER_FAMILY, Direction, VERDICT_ALLOW, VERDICT_RULE};
use proptest::prelude::*;

use super::*;
use crate::{
    evaluate::{self, Packet},
    identity,
    model::{EndpointId, NetworkSet},
    plan::Op,
    policy::Action,
    simulate::{Kernel, Outcome, Probe},
    testing::{self, ADDRESSES, SERVICES, ip, net},
};

mod blocks;
mod room;

/// Every packet of the small world at the endpoints of the models.
fn probes(models: &[&Model]) -> Vec<Probe> {
    let mut probes = Vec::new();
    for endpoint in models.iter().flat_map(|model| model.endpoints.values()) {
        let own = if endpoint.plane.of_host() {
            endpoint.addresses.clone()
        } else {
            identity::own_addresses(endpoint)
        };
        for own in own {
            for remote in ADDRESSES.map(ip).into_iter().filter(|it| it.is_ipv4() == own.is_ipv4()) {
                let services = SERVICES.into_iter().flat_map(|(protocol, port)| {
                    let sources: &[u16] =
                        if matches!(protocol, 6 | 17) { &[53, 40_000] } else { &[0] };
                    sources.iter().map(move |source| (protocol, port, *source))
                });
                for (protocol, port, source_port) in services {
                    for direction in [Direction::Ingress, Direction::Egress] {
                        let (source, destination) = match direction {
                            Direction::Ingress => (remote, own),
                            Direction::Egress => (own, remote),
                        };
                        let ifindex = endpoint.ifindex;
                        probes.push(Probe {
                            ifindex,
                            direction,
                            source,
                            destination,
                            protocol,
                            port,
                            source_port,
                        });
                    }
                }
            }
        }
    }
    probes.sort_by_key(|probe| format!("{probe:?}"));
    probes.dedup();
    probes
}

/// What happens to a packet, the peer id left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Closed,
    Fault,
    Decided { allow: bool, rule: u32, staged: u32, log: u32 },
}

fn fate(kernel: &Kernel, probe: &Probe) -> Fate {
    match kernel.look_up(probe) {
        Outcome::Pending | Outcome::Spoofed => Fate::Closed,
        Outcome::Fault => Fate::Fault,
        Outcome::Decided { allow, rule, staged, log, .. } => {
            Fate::Decided { allow, rule, staged, log }
        }
    }
}

fn endpoint_at(model: &Model, ifindex: u32) -> Option<&EndpointId> {
    model.endpoints.iter().find(|(_, spec)| spec.ifindex == ifindex).map(|(id, _)| id)
}

/// Holds every packet's verdict, deciding rule included, against the evaluator's.
fn agrees(model: &Model, kernel: &Kernel, ids: &Ids) -> Result<(), TestCaseError> {
    for probe in probes(&[model]) {
        let Some(id) = endpoint_at(model, probe.ifindex) else { continue };
        let packet = Packet {
            source: probe.source,
            destination: probe.destination,
            protocol: probe.protocol,
            port: probe.port,
            source_port: probe.source_port,
        };
        let expected = evaluate::evaluate(model, &packet, probe.direction, id).unwrap();
        let Outcome::Decided { allow, rule, staged, log, .. } = kernel.look_up(&probe) else {
            return Err(TestCaseError::fail(format!("{probe:?}: {:?}", kernel.look_up(&probe))));
        };
        let verdict = |allow: bool| if allow { Verdict::Allow } else { Verdict::Deny };
        prop_assert_eq!(
            (verdict(allow), ids.rule(rule)),
            (expected.verdict, Some(&expected.rule)),
            "{:?}\n{}",
            probe,
            expected.walk.join("\n")
        );
        prop_assert_eq!(ids.log(log).unwrap_or_default(), &expected.logged, "{:?}", probe);
        let expected = evaluate::staged(model, &packet, probe.direction, id);
        let word = |word: u32| (verdict(word & VERDICT_ALLOW != 0), ids.rule(word & VERDICT_RULE));
        prop_assert_eq!(
            (staged != 0).then(|| word(staged)),
            expected.as_ref().map(|staged| (staged.verdict, Some(&staged.rule))),
            "staged, {:?}\n{}",
            probe,
            expected.as_ref().map(|staged| staged.walk.join("\n")).unwrap_or_default()
        );
    }
    Ok(())
}

/// Carries out `ops`; after each one, every watched packet must meet the fate that it has before
/// all or after all of them.
fn execute(kernel: &mut Kernel, ops: &[Op], watched: &[Probe]) -> Result<(), TestCaseError> {
    let mut after = kernel.clone();
    for op in ops {
        after.apply(op);
    }
    let allowed: Vec<(Fate, Fate)> =
        watched.iter().map(|probe| (fate(kernel, probe), fate(&after, probe))).collect();
    for (index, op) in ops.iter().enumerate() {
        kernel.apply(op);
        for (probe, (before, after)) in watched.iter().zip(&allowed) {
            let now = fate(kernel, probe);
            prop_assert!(
                now == *before || now == *after,
                "op {} of {:#?}\n{:?} is {:?}, not {:?} or {:?}",
                index,
                ops,
                probe,
                now,
                before,
                after
            );
        }
    }
    Ok(())
}

/// What packets meet, by names instead of numbers: addresses and prefixes with who they are, and
/// endpoints with the number of rows that lead somewhere.
fn live_parts(kernel: &Kernel, compiler: &Compiler) -> (Vec<String>, usize) {
    let image = &kernel.image;
    let name = |peer: u32| compiler.ids().peer(peer);
    let addresses = image.addresses.iter().map(|(ip, peer)| format!("{ip} {:?}", name(*peer)));
    let cidrs = image.cidrs.iter().map(|(net, peer)| format!("{net} {:?}", name(*peer)));
    let guard = image.guard.iter().map(|key| format!("{key:?}"));
    let endpoints = image.endpoints.iter().map(|(ifindex, endpoint)| {
        format!("{ifindex} {:?} {:?} {:?}", endpoint.v4, endpoint.v6, endpoint.adopt_until_ns)
    });
    let tables: BTreeSet<u32> = image.endpoints.values().flat_map(|it| it.tables).collect();
    let peers: BTreeSet<u32> =
        image.addresses.values().chain(image.cidrs.values()).copied().collect();
    let live = |key: &&policy_common::abi::ClassKey| {
        tables.contains(&key.table) && peers.contains(&key.peer)
    };
    let rows = image.classes.keys().filter(live).count();
    (addresses.chain(cidrs).chain(guard).chain(endpoints).collect(), rows)
}

fn watched(old: &Model, new: &Model, seed: usize) -> Vec<Probe> {
    // A changing tenth: each op is followed by a look-up of all of them.
    probes(&[old, new]).into_iter().skip(seed % 7).step_by(7).collect()
}

fn restart(compiler: &Compiler) -> Compiler {
    let text = serde_json::to_string(compiler.ids()).unwrap();
    Compiler::resume(compiler.image().clone(), serde_json::from_str(&text).unwrap())
}

/// `usual` cases, or as many as the variable PROPTEST_CASES asks for (the long mode).
fn cases(usual: u32) -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(usual),
    }
}

proptest! {
    #![proptest_config(cases(60))]

    /// Tables say what the evaluator says; every step of every change is the old or the new
    /// policy; a model that has not changed needs no writes, and over a restart only the revision.
    #[test]
    fn tables_agree_and_changes_are_atomic(
        history in testing::random_history(),
        seed in any::<usize>(),
    ) {
        let mut compiler = Compiler::new();
        let mut kernel = Kernel::default();
        let mut old = Model::default();
        for (step, model) in history.into_iter().enumerate() {
            let planned = compiler.plan(&model).unwrap();
            execute(&mut kernel, &planned.plan.ops, &watched(&old, &model, seed + step))?;
            compiler.commit(planned);
            prop_assert_eq!(&kernel.image, compiler.image());
            agrees(&model, &kernel, compiler.ids())?;
            prop_assert_eq!(compiler.plan(&model).unwrap().plan.ops, vec![]);
            if seed.is_multiple_of(2) {
                compiler = restart(&compiler);
                // Whoever was there before may not have come as far as the revision.
                let taken_over = (kernel.image != Image::default())
                    .then_some(Op::SetRevision(kernel.image.revision + 1));
                let taken_over: Vec<Op> = taken_over.into_iter().collect();
                prop_assert_eq!(compiler.plan(&model).unwrap().plan.ops, taken_over);
            }
            old = model;
        }
    }

    /// One compiler through a long history, plans that are dropped among the others, is where a new
    /// one would be; and in the end nothing is left but what a sweep frees.
    #[test]
    fn a_compiler_with_a_past_is_as_good_as_a_new_one(
        histories in prop::collection::vec(testing::random_history(), 1..4),
        dropped in prop::collection::vec(testing::random_model(), 1..3),
        seed in any::<usize>(),
    ) {
        let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
        for (step, model) in histories.concat().into_iter().enumerate() {
            if (seed >> step) & 1 == 1 {
                // Asked about, and not carried out.
                let _ = compiler.plan(&dropped[step % dropped.len()]);
            }
            run(&mut compiler, &mut kernel, &model);
            prop_assert_eq!(&kernel.image, compiler.image());
            agrees(&model, &kernel, compiler.ids())?;
            let (mut fresh, mut other) = (Compiler::new(), Kernel::default());
            run(&mut fresh, &mut other, &model);
            prop_assert_eq!(live_parts(&kernel, &compiler), live_parts(&other, &fresh));
        }
        // Twice: what the first sweep frees is known to be free in the plan after it.
        compiler.settled = Settled::default();
        for _ in 0..2 {
            run(&mut compiler, &mut kernel, &Model::default());
        }
        let (image, held) = (compiler.image(), &compiler.held);
        prop_assert_eq!(held.rows(), image.classes.len());
        prop_assert_eq!(held.garbage(), image.classes.len());
        let left = Image { classes: image.classes.clone(), revision: image.revision, ..Image::default() };
        prop_assert_eq!(image, &left);
        let used: BTreeSet<_> = image.classes.values().map(|class| (class.offset, class.len)).collect();
        let used: u64 = used.into_iter().map(|(_, len)| u64::from(len)).sum();
        prop_assert_eq!(compiler.usage().intervals, used);
        prop_assert_eq!(compiler.ids().rules().count(), 0);
        prop_assert_eq!(compiler.ids().logs().count(), 0);
        let peers: BTreeSet<u32> = image.classes.keys().map(|key| key.peer).collect();
        prop_assert!(compiler.ids().peers().all(|peer| peers.contains(&peer)));
        prop_assert!(compiler.workspace.tables.iter().next().is_none());
    }

    /// An agent that dies in the middle of a plan is followed by one that knows the numbers and
    /// what is in the maps, and no more.
    #[test]
    fn a_crash_in_the_middle_is_taken_over(
        history in testing::random_history(),
        seed in any::<usize>(),
    ) {
        let mut compiler = Compiler::new();
        let mut kernel = Kernel::default();
        let mut old = Model::default();
        for (step, model) in history.into_iter().enumerate() {
            let planned = compiler.plan(&model).unwrap();
            let ops = &planned.plan.ops;
            let done = if ops.is_empty() { 0 } else { (seed >> step) % ops.len() };
            for op in &ops[..done] {
                kernel.apply(op);
            }
            compiler = Compiler::resume(kernel.image.clone(), compiler.written(&planned));
            let planned = compiler.plan(&model).unwrap();
            execute(&mut kernel, &planned.plan.ops, &watched(&old, &model, seed + step))?;
            compiler.commit(planned);
            agrees(&model, &kernel, compiler.ids())?;
            prop_assert_eq!(compiler.plan(&model).unwrap().plan.ops, vec![]);
            old = model;
        }
    }
}

fn two_tiers(model: &mut Model) {
    testing::add_endpoint(model, "w", testing::endpoint(0, "web", "web", &["10.0.0.1", "fd00::1"]));
    testing::add_endpoint(model, "d", testing::endpoint(1, "db", "db", &["10.0.0.2", "fd00::2"]));
    let mut allow = testing::any_rule(Action::Allow);
    allow.source.selector = Some(testing::selector("app == 'web'"));
    testing::add_policy(model, testing::policy("db", "app == 'db'", vec![allow]));
}

fn ingress(ifindex: u32, source: &str) -> Probe {
    Probe {
        ifindex,
        direction: Direction::Ingress,
        source: ip(source),
        destination: ip("10.0.0.2"),
        protocol: 6,
        port: 5432,
        source_port: 40_000,
    }
}

fn run(compiler: &mut Compiler, kernel: &mut Kernel, model: &Model) -> Vec<Op> {
    let planned = compiler.plan(model).unwrap();
    let ops = planned.plan.ops.clone();
    for op in &ops {
        kernel.apply(op);
    }
    compiler.commit(planned);
    ops
}

fn decided(kernel: &Kernel, ids: &Ids, probe: &Probe) -> (bool, RuleName, String) {
    let Outcome::Decided { allow, rule, peer, .. } = kernel.look_up(probe) else {
        panic!("{probe:?}: {:?}", kernel.look_up(probe))
    };
    (allow, ids.rule(rule).unwrap().clone(), ids.peer(peer).unwrap().name)
}

#[test]
fn a_verdict_names_its_rule_and_its_peer() {
    let mut model = Model::default();
    two_tiers(&mut model);
    let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
    run(&mut compiler, &mut kernel, &model);
    let ids = compiler.ids();

    let (allow, rule, peer) = decided(&kernel, ids, &ingress(11, "10.0.0.1"));
    assert_eq!((allow, rule.policy.as_str(), rule.rule.as_str()), (true, "db", "ingress[0]"));
    assert_eq!(peer, "web");
    let (allow, rule, peer) = decided(&kernel, ids, &ingress(11, "203.0.113.1"));
    assert_eq!((allow, rule.tier.as_str(), rule.rule.as_str()), (false, "default", "tier-default"));
    assert_eq!(peer, "world");
    let (allow, rule, _) = decided(&kernel, ids, &ingress(10, "203.0.113.1"));
    assert_eq!(
        (allow, rule.rule.as_str(), rule.action.as_str()),
        (true, "endpoint-default", "allow")
    );
}

#[test]
fn the_revision_moves_with_verdicts_and_only_then() {
    let mut model = Model::default();
    two_tiers(&mut model);
    let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
    run(&mut compiler, &mut kernel, &model);
    assert_eq!(kernel.image.revision, 1);

    // Nothing uses a label of the world's: a namespace nobody is in.
    model.namespaces.insert("empty".to_owned(), testing::labels(&[("env", "x")]));
    assert_eq!(run(&mut compiler, &mut kernel, &model), []);
    assert_eq!(kernel.image.revision, 1);

    // The container behind an address is replaced.
    model.endpoints.remove(&EndpointId("w".to_owned()));
    testing::add_endpoint(&mut model, "x", testing::endpoint(5, "job", "job", &["10.0.0.1"]));
    run(&mut compiler, &mut kernel, &model);
    assert_eq!(kernel.image.revision, 2);
    assert!(!decided(&kernel, compiler.ids(), &ingress(11, "10.0.0.1")).0);
}

/// The tables of a model that was only asked about had taken the place of those in the maps; those
/// came back without the rows that were known to be right, and the rule in them lost its number.
#[test]
fn a_dropped_plan_takes_no_rule_from_the_rows_in_the_maps() {
    let mut model = Model::default();
    two_tiers(&mut model);
    let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
    run(&mut compiler, &mut kernel, &model);
    let mut asked = model.clone();
    asked.policies = Default::default();
    asked.host_addresses.insert(ip("10.0.0.254"));
    for _ in 0..3 {
        compiler.plan(&asked).unwrap();
        assert_eq!(run(&mut compiler, &mut kernel, &model), []);
        let (_, rule, _) = decided(&kernel, compiler.ids(), &ingress(11, "10.0.0.1"));
        assert_eq!(rule.rule, "ingress[0]");
    }
}

#[test]
fn a_dead_endpoint_is_fenced_before_its_address_is_somebody_elses() {
    let mut model = Model::default();
    two_tiers(&mut model);
    let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
    run(&mut compiler, &mut kernel, &model);
    model.endpoints.remove(&EndpointId("w".to_owned()));
    testing::add_endpoint(&mut model, "x", testing::endpoint(5, "job", "job", &["10.0.0.1"]));
    let ops = run(&mut compiler, &mut kernel, &model);
    let place = |wanted: &dyn Fn(&Op) -> bool| ops.iter().position(wanted).unwrap();
    let fenced = place(&|op| *op == Op::RemoveEndpoint(10));
    let moved = place(&|op| matches!(op, Op::SetAddress(address, _) if *address == ip("10.0.0.1")));
    let speaks = place(&|op| matches!(op, Op::SetEndpoint(15, _)));
    assert!(fenced < moved && moved < speaks, "{ops:#?}");
}

/// Plans and executes a change; at each step both packets of `watched` must be as before or as
/// after. Returns what they are in the end.
fn change(model: &Model, next: &Model, watched: &[Probe]) -> Vec<bool> {
    let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
    run(&mut compiler, &mut kernel, model);
    let planned = compiler.plan(next).unwrap();
    execute(&mut kernel, &planned.plan.ops, watched).unwrap();
    compiler.commit(planned);
    watched.iter().map(|probe| decided(&kernel, compiler.ids(), probe).0).collect()
}

#[test]
fn a_label_and_the_policy_that_follows_it_change_together() {
    let mut model = Model::default();
    two_tiers(&mut model);
    let mut next = model.clone();
    testing::add_endpoint(&mut next, "w", testing::endpoint(0, "web", "front", &["10.0.0.1"]));
    let mut allow = testing::any_rule(Action::Allow);
    allow.source.selector = Some(testing::selector("app == 'front'"));
    testing::add_policy(&mut next, testing::policy("db", "app == 'db'", vec![allow]));
    assert_eq!(change(&model, &next, &[ingress(11, "10.0.0.1")]), [true]);
}

#[test]
fn who_leaves_a_table_that_others_keep_meets_no_mixture() {
    // Two databases share a table. One gets a policy of its own, for the new label of the client.
    let mut model = Model::default();
    two_tiers(&mut model);
    testing::add_endpoint(&mut model, "e", testing::endpoint(2, "db2", "db", &["10.0.0.3"]));
    let mut next = model.clone();
    testing::add_endpoint(&mut next, "w", testing::endpoint(0, "web", "front", &["10.0.0.1"]));
    testing::add_endpoint(&mut next, "d", testing::endpoint(1, "db", "main", &["10.0.0.2"]));
    let mut allow = testing::any_rule(Action::Allow);
    allow.source.selector = Some(testing::selector("app == 'front'"));
    testing::add_policy(&mut next, testing::policy("main", "app == 'main'", vec![allow]));
    let watched = [ingress(11, "10.0.0.1"), ingress(12, "10.0.0.1")];
    assert_eq!(change(&model, &next, &watched), [true, false]);
}

#[test]
fn nested_networks_appear_and_disappear_without_an_interval() {
    let mut bare = Model::default();
    two_tiers(&mut bare);
    let (mut allow, mut deny) = (testing::any_rule(Action::Allow), testing::any_rule(Action::Deny));
    allow.source.selector = Some(testing::selector("zone == 'in'"));
    deny.source.selector = Some(testing::selector("zone == 'out'"));
    testing::add_policy(&mut bare, testing::policy("db", "app == 'db'", vec![deny, allow]));
    let mut full = bare.clone();
    for (name, cidr) in [("in", "198.51.0.0/16"), ("out", "198.51.100.0/24")] {
        let set = NetworkSet {
            namespace: String::new(),
            name: name.to_owned(),
            labels: testing::labels(&[("zone", name)]),
            nets: vec![net(cidr)],
        };
        full.network_sets.insert((String::new(), name.to_owned()), Arc::new(set));
    }
    // The inner one is denied before, by default, and after, by rule: never allowed.
    let watched = [ingress(11, "198.51.100.7"), ingress(11, "198.51.1.7")];
    assert_eq!(change(&bare, &full, &watched), [false, true]);
    assert_eq!(change(&full, &bare, &watched), [false, false]);
}

#[test]
fn identical_subjects_share_a_table_and_their_classes() {
    let mut model = Model::default();
    for slot in 0..50_u8 {
        let address = format!("10.0.0.{slot}");
        let endpoint = testing::endpoint(u32::from(slot), "replica", "db", &[&address]);
        testing::add_endpoint(&mut model, &format!("r{slot}"), endpoint);
    }
    testing::add_policy(
        &mut model,
        testing::policy("db", "app == 'db'", vec![testing::any_rule(Action::Deny)]),
    );
    let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
    let ops = run(&mut compiler, &mut kernel, &model);
    let tables: BTreeSet<[u32; 2]> =
        kernel.image.endpoints.values().map(|endpoint| endpoint.tables).collect();
    assert_eq!(tables.len(), 1);
    assert_eq!(kernel.image.classes.len(), 0);
    let written = ops.iter().filter(|op| matches!(op, Op::WriteIntervals { .. })).count();
    assert_eq!(written, 2, "one class a direction");
}

#[test]
fn one_more_network_in_a_set_is_one_write() {
    let mut model = Model::default();
    two_tiers(&mut model);
    let mut deny = testing::any_rule(Action::Deny);
    deny.source.selector = Some(testing::selector("feed == 'bad'"));
    testing::add_policy(&mut model, testing::policy("feed", "all()", vec![deny]));
    let set = |count: u8| NetworkSet {
        namespace: String::new(),
        name: "bad".to_owned(),
        labels: testing::labels(&[("feed", "bad")]),
        nets: (0..count).map(|byte| net(&format!("198.51.{byte}.0/24"))).collect(),
    };
    let key = (String::new(), "bad".to_owned());
    model.network_sets.insert(key.clone(), Arc::new(set(100)));
    let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
    run(&mut compiler, &mut kernel, &model);
    assert_eq!(kernel.image.cidrs.len(), 100);
    assert_eq!(decided(&kernel, compiler.ids(), &ingress(11, "198.51.7.7")).2, "bad");

    model.network_sets.insert(key, Arc::new(set(101)));
    let ops = run(&mut compiler, &mut kernel, &model);
    let [Op::SetCidr(added, _), Op::SetRevision(3)] = ops.as_slice() else { panic!("{ops:#?}") };
    assert_eq!(*added, net("198.51.100.0/24"));
}

#[test]
fn ids_outlive_everything_around_them() {
    let mut model = Model::default();
    two_tiers(&mut model);
    let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
    run(&mut compiler, &mut kernel, &model);
    let rule = |compiler: &Compiler| {
        let ids = compiler.ids();
        ids.rules().find(|(_, name)| name.policy == "db").map(|(id, _)| id).unwrap()
    };
    let (first, web) = (rule(&compiler), kernel.peer(ip("10.0.0.1")));
    testing::add_policy(
        &mut model,
        testing::policy("a-first", "all()", vec![testing::any_rule(Action::Deny)]),
    );
    testing::add_endpoint(&mut model, "a", testing::endpoint(7, "a", "a", &["10.0.0.9"]));
    compiler = restart(&compiler);
    run(&mut compiler, &mut kernel, &model);
    assert_eq!((rule(&compiler), kernel.peer(ip("10.0.0.1"))), (first, web));
}
