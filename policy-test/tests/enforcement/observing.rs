//! One question, asked of `observe`, `top`, `verify`, the counters, a capture and the flow log: the answers agree.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::Stdio,
};

use policy_api::{
    connectivity::{Connectivity, DropCount},
    difference::End,
    flow::FlowRecord,
};
use policy_test::wait;

use crate::capture::{Capture, Packet, packets};
use crate::stage::{Drops, LIMIT, Over, SHORT, Stage};

const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - {action: Deny, source: {selector: app == 'api'}}
  - {action: Allow, protocol: TCP, source: {selector: app == 'web'}, destination: {ports: [5432]}}
";

/// `api` and `web` knock at ports of `db` that they may not use, `bad` of another namespace at one.
fn knock(stage: &Stage) {
    let to = |port| SocketAddr::new(stage.address("db", Over::V4), port);
    for (from, port) in [("api", 5432), ("api", 80), ("web", 80), ("bad", 5432)] {
        // Whether it is silence or a refusal is not the question here.
        let _ = stage.netns(from).try_udp(to(port), SHORT).unwrap();
    }
}

/// Who, and on which port.
fn told(records: &[FlowRecord]) -> Vec<String> {
    let mut told: Vec<String> = records
        .iter()
        .map(|it| format!("{}->{}:{}", it.source.name, it.destination.name, it.destination.port))
        .collect();
    told.sort_unstable();
    told
}

#[test]
fn filters_pick_the_same_records_live_kept_and_from_a_file() {
    let stage = Stage::new(&[]);
    stage.apply(POLICY);
    let mut child = stage
        .agent
        .policyctl_command()
        .unwrap()
        .args(["observe", "-f", "-o", "json", "--event", "drop"])
        .args(["--from-label", "app == 'api'", "--port", "5432"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut live = BufReader::new(child.stdout.take().unwrap()).lines();
    // Again and again: until it watches, there is nothing to see.
    wait::until("enough records", 6 * LIMIT, || {
        knock(&stage);
        stage.observe(&["--from-name", "api", "--event", "drop", "--last", "100"]).len() > 8
    })
    .unwrap();
    let first = live.next().unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let first: FlowRecord = serde_json::from_str(&first).unwrap();
    assert_eq!(told(std::slice::from_ref(&first)), ["api->db:5432"]);
    assert_eq!(first.source.labels.get("app").map(String::as_str), Some("api"));
    assert_eq!(first.destination.labels.get("fenced").map(String::as_str), Some("yes"));

    let everything = stage.observe(&["--last", "10000"]);
    let file = stage.lab.folder().join("night.json");
    let lines: String = everything
        .iter()
        .map(|record| format!("{}\n", serde_json::to_string(record).unwrap()))
        .collect();
    std::fs::write(&file, lines).unwrap();
    let file = file.to_str().unwrap();
    // At the other end each flow was let through.
    let v4 = ["--ip", "10.77.0.0/24", "--event", "drop"];
    for (filters, expected) in [
        (&["--from-name", "api"][..], &["api->db:5432", "api->db:80"][..]),
        (&["--to-port", "5432"], &["api->db:5432", "bad->db:5432"]),
        (&["--from-namespace", "other"], &["bad->db:5432"]),
        (&["--not", "--from-label", "app in {'api', 'bad'}"], &["web->db:80"]),
        (&["--policy", "shop/db"], &["api->db:5432", "api->db:80"]),
        (&["--not", "--policy", "db"], &["bad->db:5432", "web->db:80"]),
        (&["--from-ip", "10.77.0.2/31"], &["api->db:5432", "api->db:80", "web->db:80"]),
        (&["--verdict", "allow"], &[]),
        (&["--until", "1h"], &[]),
        (
            &["--since", "1h", "--protocol", "17", "--reason", "policy", "--from-name", "web"],
            &["web->db:80"],
        ),
    ] {
        let live = stage.observe(&[&v4, filters, &["--last", "10000"]].concat());
        let mut found = told(&live);
        found.dedup();
        assert_eq!(found, expected, "{filters:?}");
        let replayed = stage.observe(&[&v4, filters, &["--input", file]].concat());
        assert_eq!(replayed, live, "{filters:?}");
    }
}

/// Packets to `db`, by who sent them, to which port, and which rule dropped them.
type Numbers = BTreeMap<String, u64>;

/// How often each of them is sent.
const ROUNDS: u64 = 3;

fn expected() -> Numbers {
    let sent = [
        "api 5432 ingress[0]",
        "api 80 ingress[0]",
        "bad 5432 tier-default",
        "web 80 tier-default",
    ];
    sent.map(|it| (it.to_owned(), ROUNDS)).into()
}

fn numbers(of: impl IntoIterator<Item = (String, u64)>) -> Numbers {
    let mut numbers = Numbers::new();
    for (key, count) in of {
        *numbers.entry(key).or_default() += count;
    }
    numbers
}

fn of_records(records: &[FlowRecord]) -> Numbers {
    let own = records.iter().filter(|it| it.destination.name == "db");
    numbers(own.map(|it| {
        let rule = it.rule.as_ref().map_or("", |rule| &rule.rule);
        (format!("{} {} {rule}", it.source.name, it.destination.port), 1)
    }))
}

fn of_metrics(drops: &Drops) -> Numbers {
    let own = ["api", "web", "bad"].into_iter().flat_map(|name| drops.between(name, "db"));
    numbers(own.map(|(series, count)| {
        (["source", "port", "rule"].map(|label| series.get(label)).join(" "), count)
    }))
}

fn of_counters(drops: &[DropCount]) -> Numbers {
    let own = drops.iter().filter(|it| it.destination == "db" && it.packets > 0);
    numbers(own.map(|it| (format!("{} {} {}", it.source, it.port, it.rule), it.packets)))
}

/// Of IPv4 and UDP without options.
fn of_packets(packets: &[Packet]) -> Numbers {
    numbers(packets.iter().map(|packet| {
        let port = u16::from_be_bytes([packet.bytes[36], packet.bytes[37]]);
        let (rule, ends) = packet.comment.rsplit_once(": ").unwrap();
        let source = ends.split_once(" -> ").unwrap().0.rsplit('/').next().unwrap();
        let rule = match rule.strip_prefix("dropped (policy) on ingress by ").unwrap() {
            "NetworkPolicy shop/db ingress[0]" => "ingress[0]",
            "the end of tier default (no rule matched)" => "tier-default",
            other => panic!("{other}"),
        };
        (format!("{source} {port} {rule}"), 1)
    }))
}

/// Of a table with a line for each.
fn of_table(table: &str) -> Numbers {
    let own = table.lines().filter(|line| line.contains(" shop/db "));
    numbers(own.map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let service = words.iter().find_map(|word| word.strip_suffix("/udp")).unwrap();
        let source = words[0].rsplit('/').next().unwrap();
        let rule = if line.contains("ingress[0]") { "ingress[0]" } else { "tier-default" };
        (format!("{source} {service} {rule}"), words.last().unwrap().parse().unwrap())
    }))
}

#[test]
fn every_answer_has_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("flows.json");
    let stage = Stage::new(&["--flow-log", log.to_str().unwrap()]);
    stage.apply(POLICY);
    let before = Drops::read(&stage.agent);
    let count = expected().values().sum::<u64>().to_string();
    let filters = ["--to-name", "shop/db", "--protocol", "udp", "--count", &count];
    let capture = Capture::start_for("1min", &stage, "drops.pcapng", &filters);
    for _ in 0..ROUNDS {
        knock(&stage);
    }
    let file = capture.file.clone();
    assert_eq!(capture.end(), (Some(0), format!("{count} packets\n")));
    assert_eq!(of_packets(&packets(&file)), expected());

    let metrics = stage.agent.metrics().unwrap();
    let build = metrics.lines().find(|line| line.starts_with("palisade_build_info{")).unwrap();
    assert!(build.contains(&format!("abi=\"{}\"", policy_common::abi::ABI_VERSION)), "{build}");
    let moved = Drops::read(&stage.agent).since(&before);
    assert_eq!(of_metrics(&moved), expected());
    let drops: Vec<DropCount> = stage.agent.get("/v1/drops").unwrap();
    assert_eq!(of_counters(&drops), expected());
    let told = || stage.observe(&["--event", "drop", "--to-name", "shop/db", "--last", "100"]);
    wait::until("all to be told", LIMIT, || told().len() >= packets(&file).len()).unwrap();
    let told = told();
    assert_eq!(of_records(&told), expected());
    let log = log.to_str().unwrap();
    let logged = || stage.observe(&["--event", "drop", "--to-name", "shop/db", "--input", log]);
    wait::until("the log to have them", LIMIT, || logged().len() >= told.len()).unwrap();
    assert_eq!(logged(), told);
    let output = stage.agent.policyctl(&["top", "--batch", "1", "--sort", "total"]).unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(of_table(&table), expected(), "{table}");
    let output = stage.agent.policyctl(&["verify"]).unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(
        report.contains("shop/api -> shop/db on 80/udp: 3 packets by shop/db ingress[0]"),
        "{report}"
    );
}

#[test]
fn what_may_connect_is_what_connects() {
    let stage = Stage::new(&["--default-action", "deny"]);
    stage.apply(POLICY);
    stage.apply(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: app == 'web'
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]
  egress: [{action: Allow}]
  types: [Ingress, Egress]",
    );
    stage.check(
        Over::Both,
        "web db 5432/tcp allow
         web db 80/tcp deny ingress - tier-default
         host web 80/tcp allow
         api db 5432/tcp deny egress - endpoint-default",
    );
    let find = || -> Connectivity { stage.agent.get("/v1/connectivity").unwrap() };
    let end = |end: &End| match end {
        End::Endpoint { namespace, name, .. } => format!("{namespace}/{name}"),
        End::Host => "host".to_owned(),
        End::World => "world".to_owned(),
        End::Network { name, .. } => name.clone(),
    };
    let names = |ends: &[End]| ends.iter().map(end).collect::<Vec<_>>().join(",");
    let found = find();
    let lines: Vec<String> = found
        .connections
        .iter()
        .map(|it| {
            let (from, to) = (names(&it.sources), names(&it.destinations));
            format!("{from} -> {to} {} {}", it.services.join(","), it.exposed)
        })
        .collect();
    assert_eq!(found.endpoints, 4);
    assert!(lines.contains(&"shop/web -> shop/db 5432/tcp false".to_owned()), "{lines:#?}");
    assert!(lines.iter().any(|it| it.ends_with("-> shop/web 80/tcp true")), "{lines:#?}");
    assert!(lines.iter().all(|it| !it.contains("api ->")), "{lines:#?}");
    // The rule has let packets pass; that of `web` has been used by the host alone.
    let used = |policy: &str| {
        let all = find().connections;
        let rules = all.iter().flat_map(|it| &it.allowed_by);
        rules.filter(|it| it.rule.policy == policy && it.at == "ingress").map(|it| it.packets).max()
    };
    wait::until("the packets to be counted", LIMIT, || used("db") > Some(Some(0))).unwrap();
    let graph = stage.agent.policyctl(&["verify", "-o", "dot"]).unwrap();
    let graph = String::from_utf8(graph.stdout).unwrap();
    assert!(graph.starts_with("digraph") && graph.contains("label=\"5432/tcp\""), "{graph}");
}
