//! What is generated, against the project's own evaluator and as tables.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use policy_api::{
    flow::{FlowEnd, FlowRecord, Traffic},
    messages::Verdict,
};
use policy_common::abi::Direction;
use proptest::{
    collection::vec,
    prelude::*,
    sample::{select, subsequence},
};

use super::*;
use crate::{
    assemble,
    evaluate::{Packet, evaluate},
    labels::endpoint_labels,
    model::{EndpointId, EndpointSpec, Model, Settings},
    names, testing,
    validate::decode_with_warnings,
};

mod cases;

type Own<'a> = &'a [(&'a str, &'a str)];

/// Namespace, name, labels, address; and of what the workload is one: those of one kind share
/// everything that a policy selects by.
const WORKLOADS: [(&str, &str, Own<'_>, &str, &str); 10] = [
    ("shop", "web-1", &[("app", "web"), ("version", "1")], "10.0.0.1", "web"),
    ("shop", "web-2", &[("app", "web"), ("version", "2")], "10.0.0.2", "web"),
    ("shop", "db", &[("app", "db")], "10.0.0.3", "db"),
    ("shop", "shop-cache-1", &[("com.docker.compose.service", "cache")], "10.0.0.4", "cache"),
    ("shop", "bare", &[("maintainer", "x")], "10.0.0.5", "bare"),
    // `app == 'db'` would be `db`, too, which is called by its name then.
    ("shop", "next", &[("app", "db"), ("app.kubernetes.io/name", "next")], "10.0.0.6", "next"),
    ("shop", "part-a", &[("app", "parts"), ("role", "a")], "10.0.0.7", "part-a"),
    ("shop", "part-b", &[("app", "parts"), ("role", "b")], "10.0.0.8", "part-b"),
    ("blog", "web", &[("app", "web")], "10.0.1.1", "blog"),
    ("My_Blog.2", "db", &[("app", "db")], "10.0.1.2", "other"),
];

/// Addresses that are nobody's, the host's, and a network set's.
const OUTSIDE: [(&str, &str, &str); 7] = [
    ("", "world", "192.0.2.4"),
    ("", "world", "192.0.2.5"),
    ("", "world", "192.0.2.8"),
    ("", "world", "2001:db8::1"),
    ("", "host", "10.0.0.254"),
    ("shop", "office", "198.51.100.1"),
    ("", "generated-web-world", "192.0.2.9"),
];

/// Protocols and ports. Those that no flow has are asked about as well.
const SERVICES: [(u8, u16); 9] =
    [(6, 80), (6, 81), (6, 82), (6, 5432), (17, 53), (17, 80), (132, 7), (1, 8 << 8), (47, 0)];
const UNSEEN: [(u8, u16); 5] = [(6, 79), (6, 83), (17, 54), (1, 3 << 8 | 1), (50, 0)];

/// Somebody in the world of these tests: first the workloads, then the rest.
type Who = usize;

fn address(who: Who) -> IpAddr {
    match WORKLOADS.get(who) {
        Some(workload) => testing::ip(workload.3),
        None => testing::ip(OUTSIDE[who - WORKLOADS.len()].2),
    }
}

fn end(who: Who, port: u16) -> FlowEnd {
    let (namespace, name, labels) = match WORKLOADS.get(who) {
        Some((namespace, name, own, ..)) => {
            let labels = endpoint_labels(own.iter().copied(), namespace, name, "docker");
            (*namespace, *name, labels.to_map())
        }
        None => {
            let (namespace, name, _) = OUTSIDE[who - WORKLOADS.len()];
            (namespace, name, BTreeMap::new())
        }
    };
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    FlowEnd { name, namespace, ip: Some(address(who)), port, labels }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flow {
    source: Who,
    destination: Who,
    service: (u8, u16),
}

fn record(flow: Flow, way: Direction) -> FlowRecord {
    let (protocol, port) = flow.service;
    let is_icmp = protocol == 1;
    let ports = [6, 17, 132].contains(&protocol);
    let [kind, code] = port.to_be_bytes();
    FlowRecord {
        time: "2026-11-21T01:27:05.000000Z".to_owned(),
        event: "close".to_owned(),
        verdict: Verdict::Allow,
        reason: String::new(),
        direction: names::direction(way).to_owned(),
        source: end(flow.source, if ports { 40_000 } else { 0 }),
        destination: end(flow.destination, if ports { port } else { 0 }),
        protocol: names::protocol(protocol).to_lowercase(),
        icmp_type: is_icmp.then_some(kind),
        icmp_code: is_icmp.then_some(code),
        tcp_flags: String::new(),
        rule: None,
        logged: Vec::new(),
        staged: None,
        bytes: 100,
        traffic: Some(Traffic {
            start: "2026-11-21T01:27:01.000000Z".to_owned(),
            end: "2026-11-21T01:27:04.000000Z".to_owned(),
            packets: 1,
            bytes: 50,
            reply_packets: 1,
            reply_bytes: 50,
            ended: None,
        }),
    }
}

/// The records of a flow: one at each end that is a workload.
fn records(flow: Flow) -> Vec<FlowRecord> {
    let ends = [(flow.source, Direction::Egress), (flow.destination, Direction::Ingress)];
    let here = ends.into_iter().filter(|(who, _)| *who < WORKLOADS.len());
    here.map(|(_, way)| record(flow, way)).collect()
}

fn wanted(form: Form) -> Wanted {
    Wanted {
        form,
        staged: false,
        tier: None,
        ingress: true,
        egress: true,
        keys: Vec::new(),
        workloads: Chosen::default(),
    }
}

fn observe<'a>(records: impl IntoIterator<Item = &'a FlowRecord>) -> Observations {
    let mut observations = Observations::new(false);
    for record in records {
        observations.add(record);
    }
    observations
}

/// The workloads that were seen, with the policies in force. Everything that is generated has to be valid, and give no cause
/// for a warning.
fn model(generated: &Generated, known: &BTreeSet<Who>) -> Model {
    let objects: Vec<_> = generated
        .documents
        .iter()
        .map(|document| match decode_with_warnings(&document.value()) {
            Ok((object, warnings)) => {
                assert!(warnings.is_empty(), "{warnings:#?} about {:#}", document.value());
                object
            }
            Err(wrong) => panic!("{wrong:#?} in {:#}", document.value()),
        })
        .collect();
    let mut model = assemble::base(Settings::default(), &objects);
    for slot in known {
        let (namespace, name, own, address, _) = WORKLOADS[*slot];
        let spec = EndpointSpec {
            namespace: namespace.to_owned(),
            labels: endpoint_labels(own.iter().copied(), namespace, name, "docker"),
            ..testing::endpoint(u32::try_from(*slot).unwrap(), name, "", &[address])
        };
        model.endpoints.insert(EndpointId(address.to_owned()), Arc::new(spec));
    }
    model.host_addresses = [testing::ip("10.0.0.254")].into_iter().collect::<BTreeSet<_>>().into();
    model
}

/// Whether the end that decides lets it through; `None` if it is no workload.
fn passes(model: &Model, flow: Flow, way: Direction) -> Option<bool> {
    let who = match way {
        Direction::Ingress => flow.destination,
        Direction::Egress => flow.source,
    };
    let (protocol, port) = flow.service;
    let packet = Packet {
        source: address(flow.source),
        destination: address(flow.destination),
        protocol,
        port,
        source_port: if [6, 17, 132].contains(&protocol) { 40_000 } else { 0 },
    };
    let id = EndpointId(WORKLOADS.get(who)?.3.to_owned());
    evaluate(model, &packet, way, &id).map(|decision| decision.verdict == Verdict::Allow)
}

/// Who is the same to a policy.
fn kind(who: Who) -> String {
    match WORKLOADS.get(who) {
        Some(workload) => workload.4.to_owned(),
        None => address(who).to_string(),
    }
}

/// Every packet between two ends of one family, a workload one of them.
fn packets() -> impl Iterator<Item = Flow> {
    let all = 0..WORKLOADS.len() + OUTSIDE.len();
    let pairs = all.clone().flat_map(move |from| all.clone().map(move |to| (from, to)));
    let is_ours = |(from, to): &(Who, Who)| {
        from != to
            && (*from).min(*to) < WORKLOADS.len()
            && address(*from).is_ipv4() == address(*to).is_ipv4()
    };
    pairs.filter(is_ours).flat_map(|(source, destination)| {
        SERVICES.into_iter().chain(UNSEEN).map(move |service| Flow { source, destination, service })
    })
}

fn some_flows() -> impl Strategy<Value = Vec<Flow>> {
    let all = 0..WORKLOADS.len() + OUTSIDE.len();
    let flow = (all.clone(), all, select(SERVICES.to_vec())).prop_filter_map(
        "one of them is a workload",
        |(source, destination, service)| {
            let ours = source.min(destination) < WORKLOADS.len() && source != destination;
            ours.then_some(Flow { source, destination, service })
        },
    );
    vec(flow, 1..40)
}

/// Applied, policies allow at both ends what was seen, and nothing else between the ends that are known.
fn check(flows: &[Flow], form: Form, chosen: &[&str]) {
    let records: Vec<FlowRecord> = flows.iter().flat_map(|flow| records(*flow)).collect();
    let chosen = Chosen {
        names: chosen.iter().map(|name| (None, (*name).to_owned())).collect(),
        selector: None,
    };
    let workloads: BTreeSet<Who> = flows
        .iter()
        .flat_map(|flow| [flow.source, flow.destination])
        .filter(|who| *who < WORKLOADS.len())
        .collect();
    let is_wanted =
        |who: Who| chosen.is_all() || chosen.names.iter().any(|(_, it)| it == WORKLOADS[who].1);
    let selected: BTreeSet<String> =
        workloads.iter().filter(|who| is_wanted(**who)).map(|who| kind(*who)).collect();
    let generated =
        policies(&observe(&records), &Wanted { workloads: chosen.clone(), ..wanted(form) });
    let model = model(&generated, &workloads);
    let lost =
        |(protocol, _): (u8, u16)| form == Form::Kubernetes && ![6, 17, 132].contains(&protocol);
    let seen: BTreeSet<_> = flows
        .iter()
        .filter(|flow| !lost(flow.service))
        .map(|flow| (kind(flow.source), kind(flow.destination), flow.service))
        .collect();
    let any_lost = flows.iter().any(|flow| {
        let ends = [flow.source, flow.destination];
        lost(flow.service)
            && ends.iter().any(|who| *who < WORKLOADS.len() && selected.contains(&kind(*who)))
    });
    assert_eq!(any_lost, generated.notes.iter().any(|note| note.contains("cannot allow")));
    let known = |who: &Who| *who >= WORKLOADS.len() || workloads.contains(who);
    for flow in packets().filter(|it| known(&it.source) && known(&it.destination)) {
        for (who, way) in [(flow.source, Direction::Egress), (flow.destination, Direction::Ingress)]
        {
            let Some(passes) = passes(&model, flow, way) else { continue };
            // Of what is not selected nothing is said: it may do what it likes.
            let expected = !selected.contains(&kind(who))
                || seen.contains(&(kind(flow.source), kind(flow.destination), flow.service));
            assert_eq!(passes, expected, "{way:?} of {flow:?} with {:#?}", generated.documents);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_was_seen_is_allowed_and_nothing_else(flows in some_flows(), calico: bool) {
        check(&flows, if calico { Form::Calico } else { Form::Kubernetes }, &[]);
    }

    #[test]
    fn who_was_not_chosen_is_left_alone(
        flows in some_flows(),
        names in subsequence(vec!["web-1", "db", "bare", "part-a"], 1..=3),
    ) {
        check(&flows, Form::Calico, &names);
    }

    #[test]
    fn the_order_of_records_does_not_matter(
        flows in some_flows().prop_flat_map(|flows| (Just(flows.clone()), Just(flows).prop_shuffle())),
    ) {
        let of = |flows: &[Flow]| {
            let records: Vec<_> = flows.iter().flat_map(|flow| records(*flow)).collect();
            let generated = policies(&observe(&records), &wanted(Form::Calico));
            (generated.about, generated.documents, generated.notes)
        };
        prop_assert_eq!(of(&flows.0), of(&flows.1));
    }
}
