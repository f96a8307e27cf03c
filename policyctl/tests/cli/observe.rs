//! `observe`, from an agent and from files.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::agent::Answers;
use crate::ctl::{command, run, run_with_input};

fn drops() -> [Value; 3] {
    let end = |namespace: &str, name: &str, ip: &str, port: u16| json!({ "namespace": namespace, "name": name, "ip": ip, "port": port });
    [
        json!({
            "time": "2026-11-21T01:27:01.123456Z", "event": "drop", "verdict": "deny", "reason": "policy", "direction": "ingress",
            "source": end("shop", "intruder", "172.20.0.9", 41234),
            "destination": end("shop", "db", "172.20.0.3", 5432), "protocol": "tcp",
            "tcp_flags": "SYN", "bytes": 74,
            "rule": {
                "tier": "default", "namespace": "shop", "kind": "NetworkPolicy", "policy": "db",
                "rule": "ingress[0]", "action": "deny",
            },
        }),
        json!({
            "time": "2026-11-21T01:27:02.000001Z", "event": "drop", "verdict": "deny", "reason": "policy", "direction": "egress",
            "source": end("shop", "web", "fd00:20::2", 0),
            "destination": end("", "world", "2001:db8::1", 0), "protocol": "icmpv6",
            "bytes": 118,
            "rule": {
                "tier": "default", "namespace": "", "kind": "", "policy": "",
                "rule": "tier-default", "action": "deny",
            },
        }),
        json!({
            "time": "2026-11-21T01:27:03.500000Z", "event": "drop", "verdict": "deny", "reason": "spoofed-source",
            "direction": "egress", "source": end("shop", "intruder", "10.0.0.1", 1),
            "destination": end("", "host", "172.20.0.1", 53), "protocol": "udp", "bytes": 60,
        }),
    ]
}

fn stream() -> String {
    drops().iter().map(|drop| format!("{drop}\n")).collect()
}

#[test]
fn observe_prints_a_line_a_drop() {
    let agent = Answers::default().text("GET /v1/observe", 200, &stream()).start();
    insta::assert_snapshot!("observe_compact", run(agent.socket(), &["observe"]).transcript());
    assert_eq!(agent.seen()[0].0, "GET /v1/observe?follow=false&last=20");
    let json = run(agent.socket(), &["observe", "-o", "json", "--last", "3"]);
    let printed: Vec<Value> =
        json.out.lines().map(|line| serde_json::from_str(line).expect("NDJSON")).collect();
    assert_eq!(printed, drops());
    assert_eq!(agent.seen()[1].0, "GET /v1/observe?follow=false&last=3");
}

/// A flow that goes on, one that was closed and one that nobody answered.
fn flows() -> String {
    let flow = |event: &str,
                end: &str,
                [packets, bytes, reply_packets, reply_bytes]: [u64; 4],
                ended: Value| {
        let mut traffic = json!({
            "start": "2026-11-21T01:27:01.250000Z", "end": end, "packets": packets, "bytes": bytes,
            "reply_packets": reply_packets, "reply_bytes": reply_bytes,
        });
        if !ended.is_null() {
            traffic["ended"] = ended.clone();
        }
        let mut flow = json!({
            "time": "2026-11-21T01:27:04.000000Z", "event": event, "verdict": "allow", "direction": "egress",
            "source": { "namespace": "shop", "name": "web", "ip": "172.20.0.2", "port": 41234, "labels": { "app": "web" } },
            "destination": { "namespace": "shop", "name": "db", "ip": "172.20.0.3", "port": 5432 },
            "protocol": "tcp", "bytes": bytes + reply_bytes, "traffic": traffic,
            "rule": {
                "tier": "default", "namespace": "shop", "kind": "NetworkPolicy", "policy": "web",
                "rule": "egress[0]", "action": "allow",
            },
        });
        if ended == "closed" {
            flow["tcp_flags"] = "FIN".into();
        }
        flow
    };
    let flows = [
        flow("open", "2026-11-21T01:27:01.500000Z", [3, 198, 2, 132], Value::Null),
        flow("close", "2026-11-21T01:27:03.760000Z", [9, 712, 8, 90_123], "closed".into()),
        flow("close", "2026-11-21T01:28:31.250000Z", [1, 60, 0, 0], "timeout".into()),
    ];
    flows.iter().map(|flow| format!("{flow}\n")).collect()
}

#[test]
fn observe_shows_what_has_passed_of_a_flow() {
    let agent = Answers::default().text("GET /v1/observe", 200, &flows()).start();
    let mut shown = String::new();
    for format in ["compact", "table", "dict"] {
        shown += &run(agent.socket(), &["observe", "-o", format]).transcript();
    }
    insta::assert_snapshot!("observe_flows", shown);
    let printed = run(agent.socket(), &["observe", "-o", "json"]).out;
    let values = |text: &str| -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).expect("NDJSON")).collect()
    };
    assert_eq!(values(&printed), values(&flows()));
}

#[test]
fn compressed_files_are_read_as_others_and_what_is_cut_off_is_told() {
    let folder = tempfile::tempdir().expect("folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let pack = |text: &str| zstd::encode_all(text.as_bytes(), 0).expect("zstd");
    // A skippable frame in front, as the history has it, and two frames.
    let mut bytes = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    bytes.extend(pack(&stream()));
    bytes.extend(pack(&flows()));
    let (plain, packed, cut) = (at("plain"), at("packed.zst"), at("cut.zst"));
    std::fs::write(&plain, stream() + &flows()).expect("write");
    std::fs::write(&packed, &bytes).expect("write");
    std::fs::write(&cut, &bytes[..bytes.len() - 5]).expect("write");
    let read = |file: &str| run(Path::new("/nobody"), &["observe", "--input", file, "-o", "json"]);
    let whole = read(&plain);
    assert_eq!((whole.code, whole.out.lines().count()), (0, 6), "{whole:?}");
    assert_eq!(read(&packed).out, whole.out);
    let half = read(&cut);
    assert_eq!(half.code, 2, "{half:?}");
    assert!(half.err.contains("cannot read") && half.err.contains("cut.zst"), "{half:?}");
    assert!(whole.out.starts_with(&half.out), "what came before is shown");
}

#[test]
fn observe_follows_until_the_agent_goes() {
    let agent = Answers::default().text("GET /v1/observe", 200, &stream()).start();
    let run = run(agent.socket(), &["observe", "-f"]);
    assert_eq!(agent.seen()[0].0, "GET /v1/observe?follow=true&last=0");
    assert_eq!(run.out.lines().count(), 3);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.err.contains("the agent closed the stream"), "{run:?}");
}

#[test]
fn a_drop_is_shown_when_it_happens() {
    let directory = tempfile::tempdir().expect("directory");
    let socket = directory.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).expect("bind");
    let mut child = command(&socket)
        .args(["observe", "-f", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start policyctl");
    let (mut stream, _) = listener.accept().expect("accept");
    // An answer before the request would be an error.
    assert!(stream.read(&mut [0; 4096]).expect("read") > 0, "a request");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").expect("head");
    // Each has to come out before the next goes in; lines come in pieces.
    for drop in drops() {
        let line = format!("{drop}\n");
        for piece in [&line[..9], &line[9..]] {
            write!(stream, "{:x}\r\n{piece}\r\n", piece.len()).expect("chunk");
        }
        let shown = lines.next().expect("a line").expect("read");
        assert_eq!(serde_json::from_str::<Value>(&shown).expect("NDJSON"), drop);
    }
    drop(stream);
    assert_eq!(child.wait().expect("wait").code(), Some(2), "the agent went away");
}

#[test]
fn nothing_to_show_is_said_kindly() {
    let agent = Answers::default().text("GET /v1/observe", 200, "").start();
    let run = run(agent.socket(), &["observe"]);
    assert_eq!((run.code, run.out.as_str()), (0, ""));
    assert_eq!(run.err, "no records yet: watch for them with `policyctl observe -f`\n");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let agent = Answers::default().text("GET /v1/observe", 200, &stream().repeat(2_000)).start();
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    let output = command(agent.socket())
        .args(["observe", "-f"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).expect("UTF-8"), "");
}

/// The filter that the agent was asked with.
fn asked(request: &str) -> Value {
    let (_, query) = request.split_once('?').expect("a query");
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let (_, filter) = pairs.find(|(name, _)| name == "filter").expect("a filter");
    serde_json::from_str(&filter).expect("JSON")
}

#[test]
fn filters_are_the_agents_to_apply() {
    let agent = Answers::default().text("GET /v1/observe", 200, &stream()).start();
    let words =
        "observe --from-name shop/web --not --port 53 --verdict deny --until 2026-11-21T02:00:00Z";
    run(agent.socket(), &words.split(' ').collect::<Vec<_>>());
    let expected = json!({
        "until": "2026-11-21T02:00:00.000000Z",
        "conditions": [
            { "field": "name", "side": "source", "value": "shop/web" },
            { "field": "port", "not": true, "value": "53" },
            { "field": "verdict", "value": "deny" },
        ],
    });
    assert_eq!(asked(&agent.seen()[0].0), expected);
    // Since some time is everything since.
    run(agent.socket(), &["observe", "--since", "2h"]);
    let request = agent.seen()[1].0.clone();
    assert!(!request.contains("last="), "{request}");
    let since = asked(&request)["since"].as_str().map(humantime::parse_rfc3339).expect("a time");
    let ago = since.expect("RFC 3339").elapsed().expect("in the past");
    assert!((7200..7260).contains(&ago.as_secs()), "{ago:?}");
}

#[test]
fn what_is_missing_is_said() {
    let lines = format!("{{\"lost\":17}}\n{}", stream());
    let agent = Answers::default().text("GET /v1/observe", 200, &lines).start();
    let run = run(agent.socket(), &["observe", "-o", "json"]);
    assert_eq!((run.code, run.out.lines().count()), (0, 3));
    assert!(run.err.starts_with("17 records are missing here"), "{run:?}");
}

#[test]
fn files_are_read_with_the_same_filters() {
    let nobody = Path::new("/nobody/listens/here");
    let read = |arguments: &str| {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        run_with_input(nobody, &arguments, stream().as_bytes())
    };
    for format in ["table", "dict"] {
        let shown = read(&format!("observe --input - -o {format}"));
        insta::assert_snapshot!(format!("observe_{format}"), shown.transcript());
    }
    for (filters, expected) in [
        ("", &[0, 1, 2][..]),
        (" --reason policy", &[0, 1]),
        (" --not --reason policy", &[2]),
        (" --name intruder", &[0, 2]),
        (" --to-name db", &[0]),
        (" --from-ip fd00::/8", &[1]),
        (" --policy shop/db", &[0]),
        (" --since 2026-11-21T01:27:02Z", &[1, 2]),
        (" --last 1", &[2]),
        (" --name intruder --last 1", &[2]),
        (" --last 0", &[]),
    ] {
        let shown = read(&format!("observe --input - -o json{filters}"));
        let expected: Vec<Value> = expected.iter().map(|place| drops()[*place].clone()).collect();
        let printed: Vec<Value> =
            shown.out.lines().map(|line| serde_json::from_str(line).expect("NDJSON")).collect();
        assert_eq!((shown.code, printed), (0, expected), "{filters}");
    }
}

#[test]
fn what_is_no_record_is_left_out_and_told() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("night.json");
    let stream = stream();
    let long = format!("{{\"time\": \"{}\"}}\n", "x".repeat(3 << 20));
    let torn = &stream[..stream.len() - 40];
    let bytes = [b"\xff\xfe\n\n", long.as_bytes(), torn.as_bytes()].concat();
    std::fs::write(&file, bytes).expect("write");
    let path = file.to_str().expect("UTF-8");
    let shown = run(Path::new("/nobody"), &["observe", "--input", path, "-o", "json"]);
    assert_eq!((shown.code, shown.out.lines().count()), (2, 2), "{shown:?}");
    assert_eq!(
        shown.err,
        format!(
            "{path}:1: 3 lines are no records, and are left out; the first one: it is not UTF-8\n"
        )
    );
    let shown = run(Path::new("/nobody"), &["observe", "--input", "/nobody/wrote/this"]);
    assert_eq!(shown.code, 2);
    assert!(shown.err.contains("cannot read /nobody/wrote/this: No such file"), "{shown:?}");
    let shown = run(Path::new("/nobody"), &["observe", "--input", "/tmp"]);
    assert_eq!(shown.code, 2);
    assert!(shown.err.contains("cannot read /tmp: Is a directory"), "{shown:?}");
}

#[test]
fn wrong_filters_are_refused_before_anybody_is_asked() {
    let agent = Answers::default().start();
    for (arguments, expected) in [
        ("--verdict drop", "\"drop\" is not a verdict: write allow or deny"),
        ("--reason spoofed", "is not a reason for a drop"),
        ("--port http", "\"http\" is not a port"),
        ("--ip web", "\"web\" is not an IP address or a network"),
        ("--label app=web", "\"app=web\" is not a selector"),
        ("--from-verdict deny", "unexpected argument '--from-verdict'"),
        ("--since yesterday", "`yesterday` is no time: write how long ago"),
        ("--since 9999999days", "is no time"),
        ("--since 1h --until 2h", "the time span ends before it begins"),
        ("-f --until 1h", "cannot be used with"),
        ("-f --input x", "cannot be used with"),
        ("--input - --input -", "standard input can be read once"),
        ("--not", "`--not` stands behind the last filter"),
    ] {
        let words: Vec<&str> = std::iter::once("observe").chain(arguments.split(' ')).collect();
        let run = run(agent.socket(), &words);
        assert_eq!(run.code, 2, "{arguments}: {run:?}");
        assert!(run.err.contains(expected), "{arguments}: {run:?}");
    }
    assert_eq!(agent.seen(), []);
}
