//! What there is room for: reuse behind a grace period, and refusals.

use super::*;

#[test]
fn rows_and_intervals_of_the_past_are_reused_behind_a_grace_period() {
    let mut model = Model::default();
    two_tiers(&mut model);
    let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
    compiler.extents = Extents::new(1_000, std::iter::empty());
    // Each version has a class of some 200 intervals, reached through a row of a table of its own.
    let mut swept = Vec::new();
    for version in 0..8_u16 {
        let mut allow = testing::any_rule(Action::Allow);
        allow.index = usize::from(version);
        allow.protocol.is = Some(6);
        allow.source.selector = Some(testing::selector("app == 'web'"));
        allow.destination.ports =
            (1..=100).map(|port| crate::policy::PortMatch::Range(2 * port, 2 * port)).collect();
        testing::add_policy(&mut model, testing::policy("db", "app == 'db'", vec![allow]));
        let ops = run(&mut compiler, &mut kernel, &model);
        if ops.contains(&Op::Quiesce) {
            assert_eq!(ops[0], Op::Quiesce);
            let gone = ops.iter().filter(|op| matches!(op, Op::RemoveClass(_))).count();
            swept.push((version, gone));
        }
        let even = Probe { port: 200, ..ingress(11, "10.0.0.1") };
        let (allowed, rule, _) = decided(&kernel, compiler.ids(), &even);
        assert_eq!((allowed, rule.rule), (true, format!("ingress[{version}]")));
        assert!(!decided(&kernel, compiler.ids(), &Probe { port: 201, ..even }).0);
    }
    // Four fit; then three of the past are swept (the fourth is still in force), one row a family.
    assert_eq!(swept, [(4, 6), (7, 6)]);
}

#[test]
fn swept_room_is_not_believed_to_hold_what_a_dead_agent_was_going_to_write() {
    let version = |model: &mut Model, port: u16| {
        let mut allow = testing::any_rule(Action::Allow);
        allow.protocol.is = Some(6);
        allow.source.selector = Some(testing::selector("app == 'web'"));
        allow.destination.ports = vec![crate::policy::PortMatch::Range(port, port)];
        testing::add_policy(model, testing::policy("db", "app == 'db'", vec![allow]));
    };
    let mut model = Model::default();
    two_tiers(&mut model);
    let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
    // Room for the defaults and for two versions of the rule: the third reuses the first one's.
    compiler.extents = Extents::new(2 + 2 * 3, std::iter::empty());
    for port in [1, 2] {
        version(&mut model, port);
        run(&mut compiler, &mut kernel, &model);
    }
    version(&mut model, 3);
    let ops = compiler.plan(&model).unwrap().plan.ops;
    assert_eq!(ops[0], Op::Quiesce);
    for done in 0..ops.len() {
        let planned = compiler.plan(&model).unwrap();
        let mut kernel = kernel.clone();
        for op in &ops[..done] {
            kernel.apply(op);
        }
        let mut compiler = Compiler::resume(kernel.image.clone(), compiler.written(&planned));
        run(&mut compiler, &mut kernel, &model);
        for port in 1..=3 {
            let probe = Probe { port, ..ingress(11, "10.0.0.1") };
            assert_eq!(decided(&kernel, compiler.ids(), &probe).0, port == 3, "after {done}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_whole_with_the_count() {
    let mut model = Model::default();
    let addresses: Vec<String> = (1..=5).map(|byte| format!("10.0.0.{byte}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    testing::add_endpoint(&mut model, "w", testing::endpoint(0, "web", "web", &addresses));
    assert_eq!(
        Compiler::new().plan(&model).map(|planned| planned.plan),
        Err(CapacityError::Addresses {
            endpoint: "shop/web".to_owned(),
            count: 5,
            capacity: ADDRESSES_PER_FAMILY,
        })
    );

    let low = 0..=maps::MAX_ADDRESSES;
    let host_addresses = low.map(|low| IpAddr::from((0x0a00_0000 | low).to_be_bytes())).collect();
    let model = Model { host_addresses, ..Model::default() };
    assert_eq!(
        Compiler::new().plan(&model).map(|planned| planned.plan),
        Err(CapacityError::TooMany {
            what: "ADDRESSES_V4",
            needed: u64::from(maps::MAX_ADDRESSES) + 1,
            capacity: u64::from(maps::MAX_ADDRESSES),
        })
    );
}
