//! Files that `policyctl apply` has to refuse: exit code 1, file, line, field, nothing changed.

use std::{fs, process::Command};

use policy_test::binaries;

use crate::stage::{Stage, policy, said};

/// A policy whose rule begins on line 7; `rule` has the fields of the rule.
fn with_rule(rule: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata:\n  name: bad\nspec:\n  \
         ingress:\n  - action: Allow\n{rule}"
    )
}

#[test]
fn wrong_documents_are_refused_by_file_line_and_field() {
    let stage = Stage::new();
    let head = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: bad}\n";
    let ports = |ports: &str| {
        with_rule(&format!("    protocol: TCP\n    destination:\n      ports:\n      - {ports}\n"))
    };
    let cases: &[(&str, String, &[&str])] = &[
        ("malformed.yaml", "a: [1, 2\nb: }".into(), &["malformed.yaml:"]),
        (
            "kind.yaml",
            "apiVersion: projectcalico.org/v3\nkind: NetworkPolice\nmetadata: {name: x}\n".into(),
            &["kind.yaml:2", "NetworkPolice", "NetworkPolicy"],
        ),
        (
            "version.yaml",
            "apiVersion: projectcalico.org/v2\nkind: NetworkPolicy\nmetadata: {name: x}\n".into(),
            &["version.yaml:1", "projectcalico.org/v2", "projectcalico.org/v3"],
        ),
        (
            "field.yaml",
            format!("{head}spec:\n  selector: all()\n  ingres: []\n"),
            &["field.yaml:6", "spec", "ingres", "ingress"],
        ),
        (
            "selector.yaml",
            format!("{head}spec:\n  selector: app == web\n"),
            &["selector.yaml:5", "spec.selector"],
        ),
        ("port0.yaml", ports("0"), &["port0.yaml:11", "ports[0]", "0"]),
        ("port70000.yaml", ports("70000"), &["port70000.yaml:11", "ports[0]", "70000"]),
        ("range.yaml", ports("'90:80'"), &["range.yaml:11", "ports[0]", "90:80"]),
        (
            "cidr.yaml",
            with_rule("    source:\n      nets: [10.0.0.0/33]\n"),
            &["cidr.yaml:9", "nets[0]", "10.0.0.0/33"],
        ),
        (
            "address.yaml",
            with_rule("    source:\n      nets: [10.0.0.300/32]\n"),
            &["address.yaml:9", "nets[0]", "10.0.0.300"],
        ),
        (
            "action.yaml",
            format!("{head}spec:\n  ingress:\n  - action: Reject\n"),
            &["action.yaml:6", "ingress[0].action", "Reject", "Deny"],
        ),
        ("empty.yaml", String::new(), &["/empty.yaml: error: no resources ("]),
        ("comment.yaml", "# nothing\n---\n".into(), &["/comment.yaml: error: no resources ("]),
        ("list.yaml", "- a\n- b\n".into(), &["list.yaml:1"]),
        ("scalar.yaml", "hello\n".into(), &["scalar.yaml:1"]),
        ("name.yaml", head.replace("bad", "Bad_Name"), &["name.yaml:3", "metadata.name"]),
        (
            "twice.yaml",
            format!("{}{}", policy("same", 1), policy("same", 2)),
            &["twice.yaml:", "twice", "same"],
        ),
        (
            "key.yaml",
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\nkind: Namespace\n".into(),
            &["key.yaml:4", "kind"],
        ),
        (
            "bomb.yaml",
            "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n".into(),
            &["bomb.yaml"],
        ),
    ];
    for (name, content, needed) in cases {
        let text = stage.refused(&stage.file(name, content.as_bytes()));
        for part in *needed {
            assert!(text.contains(part), "{name}: no {part:?} in\n{text}");
        }
        assert!(text.contains("nothing was sent to the agent"), "{name}: {text}");
    }
}

#[test]
fn files_that_are_none_are_refused() {
    let stage = Stage::new();
    let large = policy("large", 9) + &"# 10 MB of comment\n".repeat(600_000);
    assert!(large.len() > 10 << 20);
    let text = stage.refused(&stage.file("large.yaml", large.as_bytes()));
    assert!(text.contains("large.yaml") && text.contains("MiB"), "{text}");

    let text = stage.refused(&stage.file("binary.yaml", b"\xff\xfe\x00\x01"));
    assert!(text.contains("binary.yaml") && text.contains("UTF-8"), "{text}");

    let missing = stage.files.path().join("missing.yaml");
    let text = stage.refused(missing.to_str().unwrap());
    assert!(text.contains("missing.yaml: error: no such file or directory"), "{text}");
}

#[test]
fn one_bad_file_among_ten_refuses_all_ten() {
    let stage = Stage::new();
    let folder = stage.files.path().join("policies");
    fs::create_dir(&folder).unwrap();
    for number in 0..10 {
        let text = policy(&format!("p{number}"), 100 + number);
        fs::write(folder.join(format!("{number}.yaml")), text).unwrap();
    }
    let good = fs::read_to_string(folder.join("7.yaml")).unwrap();
    fs::write(folder.join("7.yaml"), good.replace("app == 'web'", "app = 'web'")).unwrap();
    let text = stage.refused(folder.to_str().unwrap());
    assert!(text.contains("7.yaml:5") && text.contains("spec.selector"), "{text}");
    assert!(!text.contains("6.yaml") && !text.contains("8.yaml"), "{text}");

    // The same ten, the eighth corrected, are accepted: the reason was that line alone.
    fs::write(folder.join("7.yaml"), good).unwrap();
    let output = stage.agent.policyctl(&["apply", "-f", folder.to_str().unwrap()]).unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(stage.agent.status().unwrap().policies, 11);
}

#[test]
fn without_an_agent_it_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("good.yaml");
    fs::write(&file, policy("good", 1)).unwrap();
    let socket = folder.path().join("no.sock");
    for words in [&["apply", "-f", file.to_str().unwrap()][..], &["status"], &["endpoints"]] {
        let mut command = Command::new(binaries::policyctl().unwrap());
        let output =
            command.args(words).arg("--socket").arg(&socket).env("NO_COLOR", "1").output().unwrap();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
        assert!(text.contains("no agent answers on"), "{text}");
        assert!(text.contains("no.sock") && text.contains("policy-agent run"), "{text}");
    }
}
