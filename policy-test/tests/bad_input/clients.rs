//! Clients of the API that do not keep to it.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    sync::Barrier,
    thread,
    time::Duration,
};

use policy_api::messages::{ApplyResponse, Refusal, StoredResource};
use serde_json::json;

use crate::stage::Stage;

/// For an answer to something that is no request.
const LIMIT: Duration = Duration::from_secs(10);

fn resource(name: &str, order: u32) -> serde_json::Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"selector": "app == 'web'", "order": order, "ingress": [
            {"action": "Allow", "protocol": "TCP", "destination": {"ports": [order]}},
        ]},
    })
}

#[test]
fn garbage_gets_no_more_than_an_error() {
    let stage = Stage::new();
    let held = stage.held();
    let garbage: &[&[u8]] = &[
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /v1/status HTTP/9.9\r\n\r\n",
        b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{\"resour",
        &[b'A'; 70_000],
    ];
    for bytes in garbage {
        let mut stream = UnixStream::connect(stage.agent.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        // The agent may hang up before it has read all.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let end = stream.read_to_end(&mut answer);
        let timed_out = end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "{bytes:?} is still being waited for");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(stage.held(), held);
}

#[test]
fn wrong_bodies_are_refused_with_a_sentence() {
    let stage = Stage::new();
    let held = stage.held();
    let cases = [
        ("POST", "/v1/apply", "", 400),
        ("POST", "/v1/apply", "{", 400),
        ("POST", "/v1/apply", "[]", 400),
        ("POST", "/v1/apply", "[[], false]", 400),
        ("POST", "/v1/apply", r#"{"resources": 1}"#, 400),
        ("POST", "/v1/apply", r#"{"resources": [], "force": true}"#, 400),
        ("POST", "/v1/apply", r#"{"resources": [1]}"#, 422),
        ("POST", "/v1/apply", r#"{"resources": [{}]}"#, 422),
        ("POST", "/v1/delete", r#"{"resources": [{"kind": "x"}]}"#, 400),
        ("POST", "/v1/explain", r#"{"source": "web"}"#, 400),
        ("POST", "/v1/explain", r#"{"source":"a","destination":"b","protocol":6,"port":1}"#, 404),
        ("GET", "/v1/apply", "", 405),
        ("GET", "/v2/status", "", 404),
        ("GET", "/v1/observe?last=x", "", 400),
        ("GET", "/v1/resources?colour=red", "", 400),
    ];
    for (method, path, body, status) in cases {
        let answer = stage.agent.request(method, path, Some(body)).unwrap();
        let case = format!("{method} {path} {body}: {} {}", answer.status, answer.text());
        assert_eq!(answer.status, status, "{case}");
        let refusal: Refusal = serde_json::from_slice(&answer.body)
            .unwrap_or_else(|error| panic!("{case}: no refusal: {error}"));
        assert!(!refusal.error.is_empty(), "{case}");
        eprintln!("{case}");
        if body.starts_with('[') {
            assert_eq!(refusal.error, "the body must be an object with `resources`", "{case}");
        }
    }
    // Deeper than any resource is: the parser's stack is not the caller's to spend.
    let deep = format!("{{\"resources\": [{}{}]}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(stage.agent.request("POST", "/v1/apply", Some(&deep)).unwrap().status, 400);
    assert_eq!(stage.held(), held);
}

#[test]
fn a_body_without_end_is_cut_off() {
    let stage = Stage::new();
    let held = stage.held();
    let mut stream = UnixStream::connect(stage.agent.socket()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let size = 65 << 20;
    let head = format!(
        "POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n{{\"resources\":["
    );
    stream.write_all(head.as_bytes()).unwrap();
    let spaces = vec![b' '; 1 << 20];
    for _ in 0..65 {
        // It answers and hangs up when it has had enough.
        if stream.write_all(&spaces).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(stage.held(), held);
}

#[test]
fn twenty_at_once_are_twenty_one_after_the_other() {
    const CLIENTS: u32 = 20;
    let stage = Stage::new();
    let agent = &stage.agent;
    let start = Barrier::new(CLIENTS as usize);
    // Each writes the same three policies with a number of its own; every third is refused whole.
    let bad = |client: u32| client % 3 == 2;
    let answers: Vec<_> = thread::scope(|scope| {
        let start = &start;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn(move || {
                    let mut resources: Vec<_> =
                        ["a", "b", "c"].map(|name| resource(name, 100 + client)).into();
                    if bad(client) {
                        resources.push(json!({"kind": "Nonsense"}));
                    }
                    let body = json!({"resources": resources}).to_string();
                    start.wait();
                    agent.request("POST", "/v1/apply", Some(&body)).unwrap()
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let mut accepted = Vec::new();
    for (client, answer) in (0..).zip(&answers) {
        assert_eq!(answer.status, if bad(client) { 422 } else { 200 }, "{}", answer.text());
        if answer.status == 200 {
            accepted.push((answer.json::<ApplyResponse>().unwrap().revision, client));
        }
    }
    let revisions: BTreeSet<_> = accepted.iter().map(|(revision, _)| revision).collect();
    assert_eq!(revisions.len(), accepted.len(), "two changes share a revision: {accepted:?}");
    let (_, last) = accepted.iter().max().unwrap();
    let stored: Vec<StoredResource> = agent.get("/v1/resources?kind=GlobalNetworkPolicy").unwrap();
    let orders: Vec<_> = stored
        .iter()
        .filter(|it| it.name.name != "first")
        .map(|it| (it.name.name.as_str(), it.resource["spec"]["order"].as_u64().unwrap()))
        .collect();
    let order = u64::from(100 + last);
    assert_eq!(orders, [("a", order), ("b", order), ("c", order)]);
}
