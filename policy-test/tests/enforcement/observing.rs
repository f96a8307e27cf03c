//! One question, asked of `observe`, `top`, `verify`, the counters and a file: the answers agree.

use std::{
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

#[test]
fn every_answer_has_the_same_numbers() {
    let stage = Stage::new(&[]);
    stage.apply(POLICY);
    let before = Drops::read(&stage.agent);
    for _ in 0..3 {
        knock(&stage);
    }
    let metrics = stage.agent.metrics().unwrap();
    let build = metrics.lines().find(|line| line.starts_with("palisade_build_info{")).unwrap();
    assert!(build.contains(&format!("abi=\"{}\"", policy_common::abi::ABI_VERSION)), "{build}");
    let moved = Drops::read(&stage.agent).since(&before);
    let drops: Vec<DropCount> = stage.agent.get("/v1/drops").unwrap();
    let from = |name: &str| -> u64 {
        let own = drops.iter().filter(|it| it.source == name && it.destination == "db");
        own.map(|it| it.packets).sum()
    };
    for (name, packets) in [("api", 6), ("web", 3), ("bad", 3)] {
        let counted: u64 = moved.between(name, "db").iter().map(|(_, count)| count).sum();
        assert_eq!((counted, from(name)), (packets, packets), "{name}");
    }
    let output = stage.agent.policyctl(&["top", "--batch", "1", "--sort", "total"]).unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    let line = |words: &[&str]| {
        let found =
            |line: &&str| words.iter().all(|word| line.split_whitespace().any(|it| it == *word));
        table.lines().find(found).unwrap_or_else(|| panic!("{words:?} in\n{table}")).to_owned()
    };
    assert!(line(&["shop/api", "shop/db", "5432/udp"]).ends_with(" 3"), "{table}");
    assert!(line(&["other/bad", "shop/db", "5432/udp"]).ends_with(" 3"), "{table}");
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
