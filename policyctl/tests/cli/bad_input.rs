//! Bad files: file, line and field path, exit code 1, and nothing sent to the agent.

use std::io::Write;
use std::path::Path;

use crate::agent::{Agent, Answers};
use crate::ctl::{Run, run, run_with_input};

const GOOD: &str = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: the-name
spec:
  selector: all()
  types: [Ingress]
";

/// A policy with `rule` as its only ingress rule, at line 8.
fn with_rule(rule: &str) -> String {
    format!("{}  ingress:\n  - {rule}\n", GOOD.replace("the-name", "bad"))
}

/// An agent that would take everything.
fn agent() -> Agent {
    Answers::default()
        .text(
            "POST /v1/apply",
            200,
            r#"{"results":[],"endpoints_changed":0,"endpoints_total":0,"revision":1}"#,
        )
        .start()
}

fn assert_refused(agent: &Agent, run: &Run, expected: &[&str]) {
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(run.out, "", "{run:?}");
    for text in expected {
        assert!(run.err.contains(text), "`{text}` is not in: {}", run.err);
    }
    assert!(run.err.ends_with("error: nothing was sent to the agent\n"), "{run:?}");
    assert_eq!(agent.seen(), []);
}

#[test]
fn the_good_policy_is_good() {
    let agent = agent();
    let rule = with_rule("{ action: Allow, protocol: TCP, destination: { ports: [80] } }");
    let run = run_with_input(agent.socket(), &["apply", "-f", "-"], rule.as_bytes());
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(agent.seen().len(), 1);
}

#[test]
fn bad_documents_name_line_and_field() {
    let ports = |ports: &str| {
        with_rule(&format!(
            "{{ action: Allow, protocol: TCP, destination: {{ ports: [{ports}] }} }}"
        ))
    };
    let port = "spec.ingress[0].destination.ports[0]";
    for (text, expected) in [
        ("a: [1, 2\nb: 3\n".to_owned(), &["-:", "error: not valid YAML"][..]),
        (GOOD.replace("  name", "\tname"), &["-:4:"]),
        (GOOD.replace("GlobalNetworkPolicy", "GlobalNetPolicy"), &["-:2:1: error: kind: "]),
        (GOOD.replace("  types", "  tpyes"), &["-:7:3: error: spec.tpyes: ", "types"]),
        (GOOD.replace("all()", "app == "), &["-:6:3: error: spec.selector: "]),
        (GOOD.replace("  selector", "  order: 1\n  order: 2\n  selector"), &["-:7:3: ", "twice"]),
        (ports("0"), &["-:9:", port]),
        (ports("70000"), &["-:9:", port]),
        (ports("\"90:80\""), &["-:9:", port]),
        (
            with_rule("{ action: Allow, source: { nets: [10.0.0.0/33] } }"),
            &["-:9:", "spec.ingress[0].source.nets[0]", "10.0.0.0/33"],
        ),
        (
            with_rule("{ action: Alow, source: { nets: [nonsense] } }"),
            // All findings, not the first.
            &["spec.ingress[0].action", "spec.ingress[0].source.nets[0]"],
        ),
        (String::new(), &["-: error: no resources"]),
        ("# nothing\n---\n".to_owned(), &["-: error: no resources"]),
        ("just text\n".to_owned(), &["-:1:1: error: "]),
        (GOOD.replace("name: the-name", "labels: {}"), &["metadata.name"]),
    ] {
        let agent = agent();
        let run = run_with_input(agent.socket(), &["apply", "-f", "-"], text.as_bytes());
        assert_refused(&agent, &run, expected);
    }
}

#[test]
fn findings_read_like_this() {
    let agent = agent();
    let text =
        with_rule("{ action: Allow, protocol: TCP, destination: { ports: [0, \"90:80\"] } }")
            .replace("  types", "  tpyes");
    let run = run_with_input(agent.socket(), &["apply", "-f", "-"], text.as_bytes());
    insta::assert_snapshot!("bad_policy", run.transcript());
}

#[test]
fn a_file_of_10_mb_is_refused_at_once() {
    let agent = agent();
    let mut file = tempfile::NamedTempFile::with_suffix(".yaml").expect("file");
    let document = format!("---\n{GOOD}");
    file.write_all(document.repeat(10_000_000 / document.len()).as_bytes()).expect("write");
    let path = file.path().to_str().expect("UTF-8");
    let run = run(agent.socket(), &["apply", "-f", path]);
    assert_refused(&agent, &run, &[path, "error: the file is larger than 4 MiB"]);
}

#[test]
fn endless_input_is_refused() {
    let agent = agent();
    let run = run(agent.socket(), &["apply", "-f", "/dev/zero"]);
    assert_refused(&agent, &run, &["/dev/zero: error: the file is larger than 4 MiB"]);
}

#[test]
fn one_bad_file_among_ten_stops_all() {
    let agent = agent();
    let directory = tempfile::tempdir().expect("directory");
    for number in 0..10 {
        let mut text = GOOD.replace("the-name", &format!("policy-{number}"));
        if number == 6 {
            text = text.replace("all()", "all(");
        }
        std::fs::write(directory.path().join(format!("{number}.yaml")), text).expect("write");
    }
    let path = directory.path().to_str().expect("UTF-8");
    let run = run(agent.socket(), &["apply", "-f", path]);
    assert_refused(&agent, &run, &[&format!("{path}/6.yaml:6:3: error: spec.selector: ")]);
    assert_eq!(run.err.lines().count(), 2, "one finding and the end: {run:?}");
}

#[test]
fn files_that_cannot_be_read_are_all_named() {
    let agent = agent();
    let directory = tempfile::tempdir().expect("directory");
    let at = |name: &str| directory.path().join(name);
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    std::fs::create_dir(at("empty")).expect("directory");
    std::fs::write(at("binary.yaml"), b"kind: \xff").expect("write");
    std::os::unix::fs::symlink("nowhere", at("dangling.yaml")).expect("link");
    let [missing, empty, binary, dangling] =
        ["missing.yaml", "empty", "binary.yaml", "dangling.yaml"].map(|it| text(&at(it)));
    let arguments =
        ["apply", "-f", &missing, "-f", &empty, "-f", &binary, "-f", &text(directory.path())];
    let run = run(agent.socket(), &arguments);
    assert_refused(
        &agent,
        &run,
        &[
            &format!("{missing}: error: no such file or directory\n"),
            &format!("{empty}: error: no *.yaml, *.yml or *.json file in this directory\n"),
            &format!("{binary}:1:7: error: the file is not UTF-8 text (save it as UTF-8)\n"),
            &format!("{dangling}: error: no such file or directory\n"),
        ],
    );
}

#[test]
fn a_name_can_be_given_once() {
    let agent = agent();
    let text = format!("{GOOD}---\n{GOOD}").replace("the-name", "same");
    for command in ["apply", "delete"] {
        let run = run_with_input(agent.socket(), &[command, "-f", "-"], text.as_bytes());
        assert_refused(
            &agent,
            &run,
            &["-:12:3: error: metadata.name: globalnetworkpolicy.projectcalico.org/same is given \
               twice, first in -:4 (remove one of the two, or rename it)\n"],
        );
    }
}

#[test]
fn delete_needs_names_only() {
    let agent = Answers::default()
        .text(
            "POST /v1/delete",
            200,
            r#"{"results":[],"endpoints_changed":0,"endpoints_total":0,"revision":1}"#,
        )
        .start();
    let text = GOOD.replace("the-name", "old").replace("all()", "no selector at all");
    let run = run_with_input(agent.socket(), &["delete", "-f", "-"], text.as_bytes());
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(agent.seen().len(), 1);
}

#[test]
fn a_flood_of_findings_is_cut() {
    let agent = agent();
    let bad: String = (0..200).map(|_| format!("---\n{}", GOOD.replace("all()", "x ="))).collect();
    let run = run_with_input(agent.socket(), &["apply", "-f", "-"], bad.as_bytes());
    assert_refused(&agent, &run, &["... and 150 more\n"]);
    assert_eq!(run.err.lines().count(), 52);
}

#[test]
fn a_name_cannot_command_the_terminal() {
    let agent = agent();
    let text = GOOD.replace("the-name", "\"\\e[2Jx\"");
    let run = run_with_input(agent.socket(), &["apply", "-f", "-"], text.as_bytes());
    assert_refused(&agent, &run, &["metadata.name"]);
    assert!(!run.err.contains('\u{1b}'), "{run:?}");
}
