//! `generate`, from an agent and from files.

use std::path::Path;

use serde_json::{Value, json};

use crate::agent::Answers;
use crate::ctl::{Run, run, run_with_input};

fn workload(namespace: &str, name: &str, ip: &str, port: u16, labels: &Value) -> Value {
    let mut all = json!({
        "palisade.io/image": format!("{name}:1.2"), "palisade.io/name": name,
        "palisade.io/network.front": "", "projectcalico.org/namespace": namespace,
        "projectcalico.org/orchestrator": "docker",
    });
    let own = labels.as_object().cloned().unwrap_or_default();
    all.as_object_mut().expect("labels").extend(own);
    json!({ "namespace": namespace, "name": name, "ip": ip, "port": port, "labels": all })
}

/// A replica of Compose's.
fn web(number: u8, port: u16) -> Value {
    let labels = json!({
        "com.docker.compose.service": "web", "com.docker.compose.project": "shop",
        "com.docker.compose.container-number": number.to_string(),
    });
    workload("shop", &format!("shop-web-{number}"), &format!("172.20.0.{number}"), port, &labels)
}

fn db(port: u16) -> Value {
    workload("shop", "db", "172.20.0.9", port, &json!({ "app": "db", "version": "16.1" }))
}

fn monitor(port: u16) -> Value {
    workload("ops", "monitor", "172.21.0.2", port, &json!({ "maintainer": "nobody" }))
}

fn outside(name: &str, ip: &str, port: u16) -> Value {
    json!({ "namespace": "", "name": name, "ip": ip, "port": port })
}

/// A flow that began at 01:27 and `second`, as one end of it tells.
fn flow(direction: &str, source: &Value, destination: &Value, protocol: &str, second: u8) -> Value {
    let time = |second: u8| format!("2026-11-21T01:27:{second:02}.000000Z");
    json!({
        "time": time(second + 2), "event": "close", "verdict": "allow", "direction": direction,
        "source": source, "destination": destination, "protocol": protocol, "bytes": 120,
        "traffic": {
            "start": time(second), "end": time(second + 1), "packets": 1, "bytes": 60,
            "reply_packets": 1, "reply_bytes": 60, "ended": "closed",
        },
    })
}

/// A shop with two web servers, a database, and who asks them.
fn night() -> Vec<Value> {
    let mut records = Vec::new();
    let mut both = |source: &Value, destination: &Value, protocol: &str, second: u8| {
        for direction in ["egress", "ingress"] {
            records.push(flow(direction, source, destination, protocol, second));
        }
    };
    both(&web(1, 40_001), &db(5432), "tcp", 1);
    both(&web(2, 40_002), &db(5432), "tcp", 2);
    both(&monitor(50_000), &web(1, 9100), "tcp", 3);
    both(&monitor(50_001), &web(2, 9101), "tcp", 4);
    both(&monitor(50_002), &web(2, 9102), "tcp", 5);
    // The first flow was open for a while.
    let mut open = records[0].clone();
    open["event"] = json!("open");
    records.insert(0, open);
    let mut ping = flow("ingress", &monitor(0), &web(1, 0), "icmp", 6);
    (ping["icmp_type"], ping["icmp_code"]) = (json!(8), json!(0));
    records.push(ping);
    for (ip, second) in [("192.0.2.6", 7), ("192.0.2.7", 8), ("2001:db8::7", 9)] {
        records.push(flow("ingress", &outside("world", ip, 5000), &web(1, 443), "tcp", second));
    }
    records.push(flow("egress", &db(40_000), &outside("backup", "198.51.100.10", 22), "tcp", 10));
    records.push(flow("egress", &db(40_001), &outside("host", "172.20.0.1", 53), "udp", 11));
    let drop = |reason: &str, port: u16| {
        json!({
            "time": "2026-11-21T01:28:00.000000Z", "event": "drop", "verdict": "deny",
            "reason": reason, "direction": "egress", "source": db(41_000),
            "destination": monitor(port), "protocol": "tcp", "tcp_flags": "SYN", "bytes": 74,
        })
    };
    records.extend([drop("policy", 9090), drop("spoofed-source", 9091)]);
    records
}

fn lines(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

/// Without an agent, with these records on standard input.
fn read(arguments: &str, input: &str) -> Run {
    let words = ["generate", "--input", "-"].into_iter().chain(arguments.split_whitespace());
    run_with_input(Path::new("/nobody"), &words.collect::<Vec<_>>(), input.as_bytes())
}

#[test]
fn policies_look_like_this() {
    let night = lines(&night());
    for (name, arguments) in [
        ("generate_calico", ""),
        ("generate_kubernetes", "--form kubernetes"),
        ("generate_staged", "--staged --denied --for db --types egress --tier security"),
        ("generate_staged_kubernetes", "--staged --form kubernetes --for-label app=='db'"),
        ("generate_json", "-o json --for ops/monitor"),
        ("generate_by_label", "--by-label com.docker.compose.project --by-label app"),
    ] {
        insta::assert_snapshot!(name, read(arguments, &night).transcript());
    }
}

#[test]
fn what_is_generated_is_what_validate_and_apply_take() {
    let night = lines(&night());
    let nobody = Path::new("/nobody");
    let agent = Answers::default()
        .text(
            "POST /v1/apply",
            200,
            r#"{"results":[],"endpoints_changed":0,"endpoints_total":0,"revision":1}"#,
        )
        .start();
    for (count, form) in
        ["", "--form kubernetes", "--staged", "--staged --form kubernetes", "-o json"]
            .into_iter()
            .enumerate()
    {
        let made = read(form, &night);
        let checked =
            run_with_input(nobody, &["validate", "--strict", "-f", "-"], made.out.as_bytes());
        assert_eq!(checked.code, 0, "{form}: {checked:?}");
        assert!(checked.out.ends_with(": nothing wrong\n"), "{form}: {checked:?}");
        let applied = run_with_input(agent.socket(), &["apply", "-f", "-"], made.out.as_bytes());
        assert_eq!(applied.code, 0, "{form}: {applied:?}");
        assert_eq!(agent.seen().len(), count + 1);
    }
}

#[test]
fn yaml_and_json_are_the_same_policies() {
    let night = lines(&night());
    let parse = |text: &str| {
        let documents = policy_api::yaml::read("-", text.as_bytes()).expect("YAML");
        documents.into_iter().map(|document| document.value).collect::<Vec<_>>()
    };
    for form in ["", "--form kubernetes"] {
        let yaml = parse(&read(form, &night).out);
        let json = parse(&read(&format!("{form} -o json"), &night).out);
        assert!(yaml.len() >= 3);
        assert_eq!(yaml, json);
    }
}

#[test]
fn the_agent_is_asked_for_all_that_it_has() {
    let agent = Answers::default().text("GET /v1/observe", 200, &lines(&night())).start();
    let made = run(agent.socket(), &["generate"]);
    assert_eq!(made.out, read("", &lines(&night())).out);
    assert_eq!(made.code, 0, "{made:?}");
    run(agent.socket(), &["generate", "--last", "7", "--to-name", "shop/db"]);
    let seen = agent.seen();
    let ever = "%7B%22since%22%3A%221970-01-01T00%3A00%3A00.000000Z%22%7D";
    assert_eq!(seen[0].0, format!("GET /v1/observe?follow=false&filter={ever}"));
    assert!(seen[1].0.starts_with("GET /v1/observe?follow=false&last=7&filter="), "{}", seen[1].0);
    assert!(seen[1].0.contains("shop%2Fdb"), "{}", seen[1].0);
    run(agent.socket(), &["generate", "--since", "2026-11-21T01:00:00Z"]);
    let request = agent.seen()[2].0.clone();
    assert!(request.contains("2026-11-21T01") && !request.contains("last="), "{request}");
}

#[test]
fn what_the_agent_lost_is_said() {
    let lines = format!("{{\"lost\":17}}\n{}", lines(&night()));
    let agent = Answers::default().text("GET /v1/observe", 200, &lines).start();
    let made = run(agent.socket(), &["generate"]);
    assert_eq!(made.code, 2, "{made:?}");
    assert!(made.err.starts_with("17 records are missing"), "{made:?}");
    assert!(made.out.contains("generated-web"), "{made:?}");
}

#[test]
fn filters_pick_records() {
    let night = lines(&night());
    for (arguments, expected) in [
        ("--port 5432", "made from 5 records"),
        ("--not --port 5432", "made from 12 records"),
        ("--to-name shop/db --direction ingress", "made from 2 records"),
        ("--until 2026-11-21T01:27:04Z", "made from 3 records"),
        ("--since 2026-11-21T01:28:00Z --denied", "made from 1 record,"),
    ] {
        let made = read(arguments, &night);
        assert!(made.out.starts_with(&format!("# {expected}")), "{arguments}: {made:?}");
    }
}

#[test]
fn nothing_seen_is_said() {
    let allowed = "no policies: none of the records tells of a flow that was allowed\n";
    let night = lines(&night());
    for (arguments, input, code, err) in [
        ("", "", 0, allowed),
        ("--verdict deny", night.as_str(), 0, allowed),
        (
            "--for nobody",
            &night,
            2,
            "no flow of a workload `nobody` was seen\nno policies: none of the records is about a workload \
             that is wanted\n",
        ),
    ] {
        let made = read(arguments, input);
        assert_eq!(
            (made.code, made.out.as_str(), made.err.as_str()),
            (code, "", err),
            "{arguments}"
        );
    }
    let agent = Answers::default().text("GET /v1/observe", 200, "").start();
    let made = run(agent.socket(), &["generate"]);
    assert_eq!((made.code, made.out.as_str(), made.err.as_str()), (0, "", allowed));
}

#[test]
fn what_is_no_record_is_left_out_and_told() {
    let night = lines(&night());
    let torn = &night[..night.len() - 40];
    for (input, first) in [
        (torn.to_owned(), "-:19: a line is no record, and is left out"),
        (format!("no JSON\n{night}"), "-:1: a line is no record, and is left out"),
        (
            format!("{night}{{\"event\": 7}}\n[]\n"),
            "-:20: 2 lines are no records, and are left out",
        ),
    ] {
        let made = read("", &input);
        assert_eq!(made.code, 2, "{first}: {made:?}");
        assert!(made.err.starts_with(first), "{first}: {made:?}");
        assert_eq!(made.out, read("", &night).out, "the rest counts");
    }
    let made = run(Path::new("/nobody"), &["generate", "--input", "/nobody/wrote/this"]);
    assert_eq!(made.code, 2);
    assert!(made.err.contains("cannot read /nobody/wrote/this: No such file"), "{made:?}");
}

#[test]
fn what_others_have_written_stays_in_its_place() {
    let evil = "x\n---\nkind: GlobalNetworkPolicy # \u{1b}[2J\u{202e}";
    let mut record = flow("ingress", &outside(evil, "192.0.2.1", 1), &web(1, 80), "tcp", 1);
    record["destination"]["name"] = json!(evil);
    record["destination"]["labels"]["app"] = json!("yes: 'no'");
    record["destination"]["labels"]["role"] = json!("# a");
    let made = read("", &lines(&[record]));
    let documents = policy_api::yaml::read("-", made.out.as_bytes()).expect("YAML");
    assert_eq!(documents.len(), 2, "{made:?}");
    assert!(!made.out.contains(['\u{1b}', '\u{202e}']) && !made.err.contains('\u{1b}'), "{made:?}");
    let checked =
        run_with_input(Path::new("/nobody"), &["validate", "-f", "-"], made.out.as_bytes());
    assert_eq!(checked.code, 0, "{checked:?} {made:?}");
}

#[test]
fn wrong_arguments_are_refused_before_anybody_is_asked() {
    let agent = Answers::default().start();
    for (arguments, expected) in [
        ("--form kubernetes --tier ops", "leave out the tier `ops`, or write Calico's form"),
        ("--tier Ops", "`Ops` is not the name of a tier"),
        ("--form cilium", "invalid value 'cilium' for '--form <FORM>'"),
        ("--types all", "invalid value 'all' for '--types <TYPES>'"),
        ("--for a/b/c", "`a/b/c` is no workload"),
        ("--for /b", "`/b` is no workload"),
        ("--for-label app=web", "`app=web` is not a selector"),
        ("--by-label a,b", "`a,b` is not the name of a label"),
        ("--verdict drop", "\"drop\" is not a verdict: write allow or deny"),
        ("--event opened", "\"opened\" is not an event"),
        ("--since yesterday", "`yesterday` is no time"),
        ("--since 1h --until 2h", "the time span ends before it begins"),
        ("--last 3 --input x", "cannot be used with"),
        ("--input - --input -", "standard input can be read once"),
        ("-o table", "invalid value 'table'"),
    ] {
        let words: Vec<&str> = std::iter::once("generate").chain(arguments.split(' ')).collect();
        let run = run(agent.socket(), &words);
        assert_eq!(run.code, 2, "{arguments}: {run:?}");
        assert_eq!(run.out, "");
        assert!(run.err.contains(expected), "{arguments}: {run:?}");
    }
    assert_eq!(agent.seen(), []);
}
