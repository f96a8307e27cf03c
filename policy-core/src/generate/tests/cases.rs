//! Single points, as tables.

use super::*;

const WEB: Who = 0;
const WEB_2: Who = 1;
const DB: Who = 2;
const CACHE: Who = 3;
const BLOG: Who = 8;
const WORLD: Who = 10;
const HOST: Who = 14;
const OFFICE: Who = 15;

fn flow(source: Who, destination: Who, service: (u8, u16)) -> Flow {
    Flow { source, destination, service }
}

fn generated(records: &[FlowRecord]) -> Generated {
    policies(&observe(records), &wanted(Form::Calico))
}

/// Every rule as `POLICY WAY: what it allows # seen`, keys sorted.
fn rules(generated: &Generated) -> Vec<String> {
    let mut lines = Vec::new();
    for document in &generated.documents {
        let name = document.head["metadata"]["name"].as_str().unwrap();
        for (way, rules) in &document.rules {
            for rule in rules {
                let mut value = rule.value.clone();
                value.as_object_mut().unwrap().remove("action");
                let value = value.to_string().replace('"', "");
                lines.push(format!("{name} {way}: {value} # {}", rule.seen));
            }
        }
    }
    lines
}

/// Whether the end that is asked may pass the flow.
fn allowed(generated: &Generated, asked: Flow, way: Direction) -> bool {
    let known = [asked.source, asked.destination].into_iter().filter(|who| *who < WORKLOADS.len());
    passes(&model(generated, &known.collect()), asked, way).unwrap()
}

fn changed(record: &FlowRecord, change: impl Fn(&mut FlowRecord)) -> FlowRecord {
    let mut record = record.clone();
    change(&mut record);
    record
}

/// A packet that a policy denied.
fn denied(record: &FlowRecord) -> FlowRecord {
    changed(record, |it| {
        it.event = "drop".to_owned();
        it.verdict = Verdict::Deny;
        it.reason = "policy".to_owned();
        it.traffic = None;
    })
}

#[test]
fn which_records_are_of_what_is_allowed() {
    let base = record(flow(WEB, DB, (6, 5432)), Direction::Egress);
    let packet = |event: &str| {
        changed(&base, |it| {
            it.event = event.to_owned();
            it.traffic = None;
        })
    };
    let drop = denied(&base);
    // Record, what it counts, and what with denied ones.
    for (record, plain, with_denied) in [
        (base.clone(), 1, 1),
        (packet("open"), 1, 1),
        (packet("log"), 1, 1),
        (packet("staged"), 1, 1),
        (packet("unknown"), 0, 0),
        (drop.clone(), 0, 1),
        (changed(&drop, |it| it.reason = "spoofed-source".to_owned()), 0, 0),
        (changed(&drop, |it| it.event = "log".to_owned()), 0, 0),
    ] {
        for (denied, expected) in [(false, plain), (true, with_denied)] {
            let mut observations = Observations::new(denied);
            observations.add(&record);
            assert_eq!(observations.records(), expected, "{denied} {record:?}");
        }
    }
}

#[test]
fn an_end_is_allowed_what_it_let_pass() {
    let asked = flow(WEB, DB, (6, 5432));
    let answered = record(asked, Direction::Egress);
    let unanswered = changed(&answered, |it| it.traffic.as_mut().unwrap().reply_packets = 0);
    // Record, whether its policies let the flow out of the source, and into the destination.
    for (record, expected) in [(answered, [true, true]), (unanswered, [true, false])] {
        let other = super::record(flow(DB, CACHE, (6, 1)), Direction::Egress);
        let generated = generated(&[record, other]);
        let ways = [Direction::Egress, Direction::Ingress];
        assert_eq!(ways.map(|way| allowed(&generated, asked, way)), expected);
    }
    let mut observations = Observations::new(true);
    observations.add(&denied(&record(asked, Direction::Egress)));
    let generated = policies(&observations, &wanted(Form::Calico));
    assert!(allowed(&generated, asked, Direction::Ingress), "it would be denied there next");
}

#[test]
fn a_flow_counts_once() {
    let asked = flow(WEB, DB, (6, 5432));
    let close = record(asked, Direction::Egress);
    let open = changed(&close, |it| {
        it.event = "open".to_owned();
        it.traffic.as_mut().unwrap().end = "2026-11-21T01:27:02.000000Z".to_owned();
    });
    let at = |port| changed(&close, |it| it.source.port = port);
    let twice = "seen 2 times, first 2026-11-21 01:27:01, last 2026-11-21 01:27:04";
    for (records, expected) in [
        (vec![open.clone(), close.clone()], "seen once, 2026-11-21 01:27:01"),
        (vec![open.clone(), open.clone(), close.clone()], "seen once, 2026-11-21 01:27:01"),
        (vec![open, at(1)], twice),
        (vec![at(1), at(2)], twice),
        // Both ends tell of it, each of its own side.
        (records(asked), "seen once, 2026-11-21 01:27:01"),
    ] {
        let lines = rules(&generated(&records));
        assert_eq!(lines.len(), 2, "{lines:?}");
        for line in &lines {
            assert!(line.ends_with(&format!("# {expected}")), "{line} {expected}");
        }
    }
}

#[test]
fn denied_ones_are_counted_apart() {
    let allowed = record(flow(WEB, WORLD, (6, 80)), Direction::Egress);
    let other = denied(&record(flow(WEB, WORLD, (6, 81)), Direction::Egress));
    for (records, expected) in [
        (vec![&allowed, &other, &other], "; 2 of them denied"),
        (vec![&other], "; all denied"),
        (vec![&allowed], "01:27:01"),
    ] {
        let mut observations = Observations::new(true);
        for record in records {
            observations.add(record);
        }
        let lines = rules(&policies(&observations, &wanted(Form::Calico)));
        assert!(lines[0].ends_with(expected), "{lines:?}");
    }
}

#[test]
fn rules_are_written_like_this() {
    let flows = [
        flow(WEB, DB, (6, 5432)),
        flow(WEB_2, DB, (6, 5433)),
        flow(WEB_2, DB, (6, 5434)),
        flow(WEB, DB, (6, 80)),
        flow(BLOG, DB, (17, 53)),
        flow(BLOG, DB, (1, 8 << 8)),
        flow(DB, HOST, (6, 22)),
        flow(DB, OFFICE, (47, 0)),
        flow(DB, WORLD, (6, 443)),
        flow(DB, WORLD + 1, (6, 443)),
    ];
    let records = flows.into_iter().map(|it| match it.source {
        DB => record(it, Direction::Egress),
        _ => record(it, Direction::Ingress),
    });
    let chosen = Chosen { names: vec![(Some("shop".to_owned()), "db".to_owned())], selector: None };
    let generated = policies(
        &observe(&records.collect::<Vec<_>>()),
        &Wanted { workloads: chosen, tier: Some("ops".to_owned()), ..wanted(Form::Calico) },
    );
    let seen = "# seen once, 2026-11-21 01:27:01";
    let times =
        |n| format!("# seen {n} times, first 2026-11-21 01:27:01, last 2026-11-21 01:27:04");
    let set = |name: &str| {
        format!(
            "selector:generated-set == 'generated-db-{name}' && !has(projectcalico.org/orchestrator)"
        )
    };
    let blog = "source:{namespaceSelector:projectcalico.org/name == 'blog',selector:app == 'web'}";
    assert_eq!(
        rules(&generated),
        [
            format!("generated-db ingress: {{icmp:{{code:0,type:8}},protocol:ICMP,{blog}}} {seen}"),
            format!(
                "generated-db ingress: {{destination:{{ports:[53]}},protocol:UDP,{blog}}} {seen}"
            ),
            format!(
                "generated-db ingress: {{destination:{{ports:[80,5432:5434]}},protocol:TCP,\
                 source:{{selector:app == 'web'}}}} {}",
                times(4)
            ),
            format!(
                "generated-db egress: {{destination:{{nets:[10.0.0.254/32],ports:[22]}},protocol:TCP}} {seen}"
            ),
            format!(
                "generated-db egress: {{destination:{{ports:[443],{}}},protocol:TCP}} {}",
                set("world"),
                times(2)
            ),
            format!(
                "generated-db egress: {{destination:{{{}}},protocol:47}} {seen}",
                set("shop-office")
            ),
        ]
    );
    let names: Vec<_> = generated
        .documents
        .iter()
        .map(|it| format!("{} {}", it.head["kind"], it.head["metadata"]["name"]).replace('"', ""))
        .collect();
    let expected = [
        "NetworkSet generated-db-shop-office",
        "NetworkSet generated-db-world",
        "NetworkPolicy generated-db",
    ];
    assert_eq!(names, expected);
    assert_eq!(generated.documents[1].head["spec"]["nets"][0], "192.0.2.4/31");
    assert_eq!(generated.documents[2].head["spec"]["tier"], "ops");
    assert!(!generated.incomplete && generated.notes.is_empty(), "{:?}", generated.notes);
}

#[test]
fn kinds_and_directions_are_those_that_were_asked_for() {
    let records = records(flow(WEB, DB, (6, 5432)));
    for (form, staged, kind) in [
        (Form::Calico, false, "projectcalico.org/v3 NetworkPolicy"),
        (Form::Calico, true, "projectcalico.org/v3 StagedNetworkPolicy"),
        (Form::Kubernetes, false, "networking.k8s.io/v1 NetworkPolicy"),
        (Form::Kubernetes, true, "projectcalico.org/v3 StagedKubernetesNetworkPolicy"),
    ] {
        for (ingress, egress, types) in
            [(true, false, "Ingress"), (false, true, "Egress"), (true, true, "Ingress,Egress")]
        {
            let wanted = Wanted { staged, ingress, egress, ..wanted(form) };
            let generated = policies(&observe(&records), &wanted);
            model(&generated, &BTreeSet::new());
            for document in &generated.documents {
                let value = document.value();
                let found = format!("{} {}", value["apiVersion"], value["kind"]).replace('"', "");
                assert_eq!(found, kind);
                let spec = &value["spec"];
                let found = spec.get("types").or(spec.get("policyTypes")).unwrap().to_string();
                assert_eq!(found, format!("[\"{}\"]", types.replace(',', "\",\"")));
                assert_eq!(spec.get("ingress").is_some(), ingress);
                assert_eq!(spec.get("egress").is_some(), egress);
            }
        }
    }
}

/// What is wrong with a record, the note, and how many policies there are all the same.
type Case<'a> = (&'a dyn Fn(&mut FlowRecord), &'a str, usize);

#[test]
fn what_cannot_be_taken_is_said() {
    let base = record(flow(WEB, DB, (6, 5432)), Direction::Egress);
    let unnamed = |it: &mut FlowRecord| it.source.namespace = "no namespace".to_owned();
    let cases: [Case<'_>; 9] = [
        (&|it| it.protocol = "tpc".to_owned(), "1 of the records do not say", 0),
        (&|it| it.protocol = "0".to_owned(), "1 of the records do not say", 0),
        (&|it| it.protocol = "icmp".to_owned(), "1 of the records do not say", 0),
        (&|it| it.destination.port = 0, "1 of the records do not say", 0),
        (&|it| it.direction = "in".to_owned(), "1 of the records do not say", 0),
        (
            &|it| {
                it.destination = end(WORLD, 80);
                it.destination.ip = None;
            },
            "1 of the records do not say",
            0,
        ),
        (&unnamed, "no label to select them by: no namespace/web-1", 1),
        // A record without a time that can be read tells of a flow all the same.
        (&|it| it.time = "yesterday".to_owned(), "", 2),
        // As the flow log has it without labels. Who decides is a workload.
        (&|it| it.source.labels.clear(), "", 2),
    ];
    for (change, note, documents) in cases {
        let generated = generated(&[changed(&base, change)]);
        let found = generated.notes.join("\n");
        assert_eq!(generated.incomplete, !note.is_empty(), "{note}: {found}");
        assert!(found.contains(note), "{note}: {found}");
        let policies = generated.documents.iter().filter(|it| it.head["kind"] == "NetworkPolicy");
        assert_eq!(policies.count(), documents, "{note}: {:#?}", generated.documents);
    }
}

#[test]
fn a_workload_without_labels_in_a_record_is_known_by_its_name() {
    let asked = flow(WEB, DB, (6, 5432));
    let mut records = records(asked);
    for record in &mut records {
        record.source.labels.clear();
        record.destination.labels.clear();
    }
    let generated = generated(&records);
    assert!(allowed(&generated, asked, Direction::Egress));
    assert!(allowed(&generated, asked, Direction::Ingress));
    assert!(!allowed(&generated, flow(DB, WEB, (6, 5432)), Direction::Egress));
    assert!(
        rules(&generated)[0].contains("palisade.io/name == 'web-1'"),
        "{:?}",
        rules(&generated)
    );
}

#[test]
fn the_newest_labels_hold() {
    let old = record(flow(WEB, DB, (6, 5432)), Direction::Ingress);
    let new = changed(&old, |it| {
        it.destination.labels.insert("app".to_owned(), "postgres".to_owned());
    });
    let generated = generated(&[old, new]);
    assert_eq!(generated.documents[0].head["spec"]["selector"], "app == 'postgres'");
}

#[test]
fn many_addresses_become_networks_with_a_note() {
    let base = record(flow(WORLD, WEB, (6, 80)), Direction::Ingress);
    let records = |count: u32| {
        let from = |index: u32| {
            changed(&base, |it| it.source.ip = Some(std::net::Ipv4Addr::from(2 * index).into()))
        };
        (0..count).map(from).collect::<Vec<_>>()
    };
    assert_eq!(generated(&records(1024)).notes, [""; 0]);
    let wide = generated(&records(1025));
    let expected = "shop/generated-web: ingress of `world` has more than 1024 addresses: /24 are allowed, \
                    which is more than was seen";
    assert_eq!(wide.notes, [expected]);
    assert_eq!(wide.documents[0].head["spec"]["nets"][0], "0.0.0.0/21");
    let kubernetes = policies(&observe(&records(600)), &wanted(Form::Kubernetes));
    model(&kubernetes, &BTreeSet::new());
}

#[test]
fn many_ports_become_several_rules_and_policies() {
    let port = |index: u16| record(flow(WEB, DB, (6, 2 * index + 1)), Direction::Egress);
    for form in [Form::Calico, Form::Kubernetes] {
        for (count, most) in [(60, 1), (30_000, 3)] {
            let records: Vec<_> = (0..count).map(port).collect();
            let wanted = Wanted {
                workloads: Chosen { names: vec![(None, "web-1".to_owned())], selector: None },
                ..wanted(form)
            };
            let generated = policies(&observe(&records), &wanted);
            // All are valid, so no list is too long.
            let model = model(&generated, &[WEB, DB].into());
            assert!(generated.documents.len() <= most, "{}", generated.documents.len());
            for (port, expected) in [(1, true), (2 * count - 1, true), (2 * count, false)] {
                let asked = flow(WEB, DB, (6, port));
                assert_eq!(passes(&model, asked, Direction::Egress), Some(expected), "{port}");
            }
        }
    }
}

#[test]
fn what_there_is_no_room_for_is_left_out_and_said() {
    // For two workloads and three things that they do, each at both ends.
    let mut observations = Observations::new(false);
    observations.room = 2 * 16 + 6;
    for port in 1..=5 {
        for record in records(flow(WEB, DB, (6, port))) {
            observations.add(&record);
        }
    }
    for record in records(flow(BLOG, DB, (6, 1))).iter().chain(&records(flow(WEB, DB, (6, 2)))) {
        observations.add(record);
    }
    let generated = policies(&observations, &wanted(Form::Calico));
    assert!(generated.incomplete);
    assert!(generated.notes[0].starts_with("too much to tell apart"), "{:?}", generated.notes);
    let model = model(&generated, &[WEB, DB].into());
    for port in 1..=5 {
        let asked = flow(WEB, DB, (6, port));
        assert_eq!(passes(&model, asked, Direction::Egress), Some(port <= 3), "{port}");
        assert_eq!(passes(&model, asked, Direction::Ingress), Some(port <= 3), "{port}");
    }
}

#[test]
fn names_are_valid_and_stay_whoever_is_chosen() {
    let long = "x".repeat(63);
    let named = |namespace: &str, app: &str| {
        changed(&record(flow(DB, WEB, (6, 80)), Direction::Ingress), |it| {
            it.destination.namespace = namespace.to_owned();
            it.destination.name = format!("w-{app}");
            it.destination.labels = [("app".to_owned(), app.to_owned())].into();
        })
    };
    let records = [
        named("a", "Web_1"),
        named("a", "web.1"),
        named("b", "web-1"),
        named("a", "é"),
        named("a", &long),
    ];
    let names = |workloads: Chosen| {
        let wanted = Wanted { workloads, egress: false, ..wanted(Form::Calico) };
        let generated = policies(&observe(&records), &wanted);
        model(&generated, &BTreeSet::new());
        let name = |it: &Document| it.head["metadata"]["name"].as_str().unwrap().to_owned();
        generated.documents.iter().map(name).collect::<Vec<_>>()
    };
    let cut = format!("generated-{}", "x".repeat(46));
    let expected = [
        "generated-web-1",
        "generated-web-1-2",
        &cut,
        "generated-unnamed",
        "generated-web-1",
        "generated-db",
    ];
    assert_eq!(names(Chosen::default())[..5], expected[..5]);
    let one = Chosen { names: vec![(None, "w-web.1".to_owned())], selector: None };
    assert_eq!(names(one), ["generated-web-1-2"]);
}

#[test]
fn who_is_chosen_and_never_seen_is_named() {
    let records = records(flow(WEB, DB, (6, 5432)));
    let chosen = Chosen {
        names: vec![(None, "web-1".to_owned()), (Some("blog".to_owned()), "web-1".to_owned())],
        selector: Some(testing::selector("app == 'nobody'")),
    };
    let generated =
        policies(&observe(&records), &Wanted { workloads: chosen, ..wanted(Form::Calico) });
    let expected = [
        "no flow of a workload `blog/web-1` was seen",
        "no flow of a workload `app == \"nobody\"` was seen",
    ];
    assert_eq!(generated.notes, expected);
    assert!(generated.incomplete);
    assert_eq!(generated.documents.len(), 1);
}

#[test]
fn labels_that_select_too_much_are_named() {
    let records = [records(flow(WEB, DB, (6, 5432))), records(flow(WEB_2, DB, (6, 5433)))].concat();
    let wanted = Wanted { keys: vec!["app".to_owned()], ..wanted(Form::Calico) };
    let mut records = records;
    records[0].source.labels.insert("zone".to_owned(), "a".to_owned());
    records[1].source.labels.insert("zone".to_owned(), "a".to_owned());
    assert_eq!(policies(&observe(&records), &wanted).notes, [""; 0]);
    let keys = vec!["app".to_owned(), "zone".to_owned()];
    let notes = policies(&observe(&records), &Wanted { keys, ..wanted }).notes;
    assert_eq!(notes, ["`app == 'web'` selects shop/web-1, too"]);
}

/// Whoever starts a container writes its labels.
#[test]
fn a_container_cannot_label_itself_into_a_network_set() {
    let generated = generated(&records(flow(WORLD, WEB, (6, 80))));
    let mut model = model(&generated, &[WEB, DB].into());
    let asked = flow(DB, WEB, (6, 80));
    let id = EndpointId(WORKLOADS[DB].3.to_owned());
    let own = [("generated-set", "generated-web-world")];
    let labels = endpoint_labels(own, "shop", "db", "docker");
    let forged = EndpointSpec { labels, ..model.endpoints.get(&id).unwrap().as_ref().clone() };
    model.endpoints.insert(id, Arc::new(forged));
    assert_eq!(passes(&model, flow(WORLD, WEB, (6, 80)), Direction::Ingress), Some(true));
    assert_eq!(passes(&model, asked, Direction::Ingress), Some(false));
}

#[test]
fn made_again_names_are_the_same() {
    let at = |name: &str| {
        changed(&record(flow(WORLD, WEB, (6, 80)), Direction::Ingress), |it| {
            it.source.name = name.to_owned();
        })
    };
    let names = |records: &[FlowRecord]| {
        let documents = generated(records).documents;
        documents.iter().map(|it| it.head["metadata"]["name"].to_string()).collect::<Vec<_>>()
    };
    let first = names(&[at("world")]);
    assert_eq!(first, ["\"generated-web-world\"", "\"generated-web\""]);
    for name in ["generated-web-world", "192.0.2.0/24 and 3 more", ""] {
        assert_eq!(names(&[at("world"), at(name)]), first);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let calico = wanted(Form::Calico);
    let tier = |tier: &str, form| {
        Wanted { tier: Some(tier.to_owned()), ..wanted(form) }.check().err().unwrap_or_default()
    };
    assert_eq!(calico.check(), Ok(()));
    assert_eq!(tier("security", Form::Calico), "");
    assert!(tier("Not a tier", Form::Calico).contains("`Not a tier` is not the name of a tier"));
    assert!(tier("security", Form::Kubernetes).contains("leave out the tier `security`"));
    let keys = Wanted { keys: vec!["app".to_owned(), "a b".to_owned()], ..calico };
    assert_eq!(keys.check(), Err("`a b` is not the name of a label".to_owned()));
}
