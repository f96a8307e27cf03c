//! `capture`, from an agent that sends what it likes.

use std::fs;

use serde_json::{Value, json};

use crate::agent::Answers;
use crate::ctl::run;

/// A packet that was dropped, as the agent sends it; `data` in base64.
fn packet(data: &str, length: u32) -> Value {
    let end = |name: &str| json!({ "name": name, "namespace": "shop", "ip": null, "port": 1 });
    json!({ "packet": {
        "interface": "shop/db", "time_ns": 1_795_224_421_123_456_789_u64, "length": length, "data": data,
        "record": {
            "time": "2026-11-21T01:27:01.123456Z", "event": "drop", "verdict": "deny", "reason": "policy",
            "direction": "ingress", "source": end("web"), "destination": end("d\u{1b}b"),
            "protocol": "tcp", "bytes": length,
        },
    }})
}

#[test]
fn packets_are_written_until_the_agent_ends() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("drops.pcapng");
    let file = file.to_str().expect("UTF-8");
    let lines =
        format!("{}\n\n{}\n{}\n", packet("AAECAw==", 60), json!({ "lost": 3 }), packet("", 9));
    let agent = Answers::default().text("GET /v1/capture", 200, &lines).start();
    let done = run(agent.socket(), &["capture", "-w", file, "--what", "all", "--port", "53"]);
    assert_eq!(done.code, 2, "{done:?}");
    let said = format!("capturing to {file}; Ctrl-C ends it\n2 packets, 3 more came too fast\n");
    assert!(
        done.err.starts_with(&said) && done.err.contains("the agent closed the stream"),
        "{done:?}"
    );
    assert!(agent.seen()[0].0.starts_with("GET /v1/capture?what=all&snap=1536&filter=%7B"));
    let bytes = fs::read(file).expect("the file");
    // Section header, interface, two packets: block types of the draft, section 4.
    let is_little = bytes[8..12] == 0x1a2b_3c4d_u32.to_le_bytes();
    let word = |at: usize| {
        let word = bytes[at..at + 4].try_into().expect("four bytes");
        if is_little { u32::from_le_bytes(word) } else { u32::from_be_bytes(word) }
    };
    let (mut at, mut types) = (0, Vec::new());
    while at < bytes.len() {
        types.push(word(at));
        at += word(at + 4) as usize;
    }
    assert_eq!(types, [0x0a0d_0d0a, 1, 6, 6]);
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("dropped (policy) on ingress: shop/web -> shop/d"), "{text}");
    assert!(!text.contains('\u{1b}'), "nothing that a terminal obeys");
}

#[test]
fn enough_is_enough() {
    let lines = format!("{}\n", packet("AAECAw==", 60)).repeat(5);
    let agent = Answers::default().text("GET /v1/capture", 200, &lines).start();
    let done = run(agent.socket(), &["capture", "-w", "/dev/null", "-c", "3", "--snap", "64"]);
    assert_eq!((done.code, done.err.lines().last()), (0, Some("3 packets")), "{done:?}");
    assert_eq!(agent.seen()[0].0, "GET /v1/capture?what=drops&snap=64");
}

#[test]
fn what_cannot_be_is_said_before_anybody_is_asked() {
    let agent = Answers::default().text("GET /v1/capture", 200, "").start();
    for (words, said) in [
        (&["capture"][..], "--write"),
        (&["capture", "-w", "/no/such/folder/x"], "cannot write /no/such/folder/x: No such file"),
        (&["capture", "-w", "x", "--snap", "0"], "0 is not in 1..=1536"),
        (&["capture", "-w", "x", "--count", "0"], "--count"),
        (&["capture", "-w", "x", "--for", "soon"], "--for"),
        (&["capture", "-w", "x", "--reason", "polcy"], "did you mean `policy`?"),
    ] {
        let done = run(agent.socket(), words);
        assert_eq!(done.code, 2, "{words:?}: {done:?}");
        assert!(done.err.contains(said), "{words:?}: {}", done.err);
    }
    assert!(agent.seen().is_empty());
}
