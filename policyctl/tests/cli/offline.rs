//! What needs no agent: `validate`, and `explain` from files.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::agent::Answers;
use crate::ctl::{Run, run, run_with_input};

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("directory");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("write");
    }
    folder
}

/// Runs without an agent anywhere; `{}` in the arguments and the output is the folder.
fn offline(folder: &Path, arguments: &[&str]) -> Run {
    let here = folder.to_str().expect("UTF-8");
    let arguments: Vec<String> = arguments.iter().map(|it| it.replace("{}", here)).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let run = run(&folder.join("none.sock"), &arguments);
    Run { out: run.out.replace(here, "{}"), err: run.err.replace(here, "{}"), ..run }
}

const WEB: &str = "\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  name: web
  namespace: shop
spec:
  tier: securty
  selector: app == 'web'
  ingress:
    - action: Allow
    - action: Deny
      protocol: TCP
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata:
  name: security
spec:
  order: 100
";

const DB: &str = "\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  name: db
  namespace: shop
spec:
  selector: app == 'db'
  ingress:
    - action: Alow
      protocol: TCP
      destination: {ports: [0, \"90:80\"]}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata:
  name: security
spec:
  order: 200
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: a, namespace: shop}
spec: {interfaceName: veth1, ipNetworks: [10.0.0.1/32]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: b, namespace: shop}
spec: {interfaceName: veth1, ipNetworks: [10.0.0.1/32]}
";

const GOOD: &str = "\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  name: db
  namespace: shop
spec:
  selector: app == 'db'
  ingress:
    - action: Allow
      protocol: TCP
      source: { selector: app == 'web' }
      destination: { ports: [sql] }
";

#[test]
fn everything_wrong_in_every_file_is_told_in_order() {
    let folder = folder(&[("10-web.yaml", WEB), ("20-db.yaml", DB), ("30-broken.yaml", "a: [b\n")]);
    let text = offline(folder.path(), &["validate", "{}"]);
    insta::assert_snapshot!("validate_text", text.transcript());
    let json = offline(folder.path(), &["validate", "-f", "{}", "-o", "json"]);
    assert_eq!((json.code, json.err.as_str()), (1, ""));
    let findings: Vec<Value> = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(findings.len(), text.out.lines().count() - 1);
    let keys = ["column", "file", "hint", "line", "message", "path", "resource", "severity"];
    for finding in &findings {
        let found: Vec<&String> = finding.as_object().expect("object").keys().collect();
        assert_eq!(found, keys, "{finding}");
    }
    assert_eq!(
        findings[0],
        json!({
            "file": "{}/10-web.yaml", "line": 7, "column": 3, "severity": "warning",
            "path": "spec.tier",
            "message":
                "NetworkPolicy shop/web is in the tier `securty`, which is not in these files",
            "hint": "did you mean `security`?",
            "resource": { "api_version": "projectcalico.org/v3", "kind": "NetworkPolicy",
                          "namespace": "shop", "name": "web" },
        })
    );
}

#[test]
fn warnings_fail_only_when_strict() {
    let folder = folder(&[("web.yaml", WEB), ("good.yaml", GOOD)]);
    let at = folder.path();
    let lax = offline(at, &["validate", "{}/web.yaml"]);
    assert_eq!(lax.code, 0, "{lax:?}");
    assert!(lax.out.ends_with("1 file, 2 resources: no errors, 2 warnings\n"), "{lax:?}");
    assert_eq!(offline(at, &["validate", "--strict", "{}/web.yaml"]).code, 1);
    let good = offline(at, &["validate", "--strict", "{}/good.yaml"]);
    assert_eq!((good.code, good.out.as_str()), (0, "1 file, 1 resource: nothing wrong\n"));
    let json = offline(at, &["validate", "{}/good.yaml", "-o", "json"]);
    assert_eq!((json.code, json.out.as_str()), (0, "[]\n"));
}

#[test]
fn a_file_that_cannot_be_read_is_exit_code_2_and_the_others_are_checked() {
    let folder = folder(&[("web.yaml", WEB)]);
    let run = offline(folder.path(), &["validate", "{}/none.yaml", "-f", "{}/web.yaml"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.out.starts_with("{}/none.yaml: error: no such file or directory\n"), "{run:?}");
    assert!(run.out.contains("{}/web.yaml:7:3: warning: spec.tier: "), "{run:?}");
}

#[test]
fn a_tier_with_an_error_is_still_a_tier() {
    let text = WEB.replace("securty", "security").replace("order: 100", "order: first");
    let run = run_with_input(Path::new("/nowhere"), &["validate", "-"], text.as_bytes());
    assert_eq!(run.code, 1, "{run:?}");
    assert!(!run.out.contains("spec.tier"), "{run:?}");
}

#[test]
fn more_than_fifty_findings_are_all_told() {
    let bad: String = (0..60)
        .map(|number| format!("---\n{}", GOOD.replace("db", &format!("x{number}_"))))
        .collect();
    let run = run_with_input(Path::new("/nowhere"), &["validate", "-f", "-"], bad.as_bytes());
    assert_eq!(run.code, 1);
    assert!(run.out.ends_with("1 file, 60 resources: 60 errors, no warnings\n"), "{run:?}");
    assert_eq!(run.out.lines().count(), 61);
}

/// As `policyctl endpoints -o json` prints them.
fn saved() -> Value {
    let endpoint = |name: &str, address: &str| {
        json!({
            "name": name, "namespace": "shop", "network": "front", "interface": "veth1",
            "ifindex": 3, "addresses": [address], "state": "enforcing",
            "labels": { "app": name, "projectcalico.org/namespace": "shop",
                        "projectcalico.org/orchestrator": "docker" },
            "ports": [{ "name": "sql", "protocol": "TCP", "port": 5432 }],
            "ingress_policies": ["default/elsewhere"], "egress_policies": [],
        })
    };
    json!([endpoint("web", "172.20.0.2"), endpoint("db", "172.20.0.3")])
}

const STATIC: &str = "\
apiVersion: v1
kind: List
items:
- apiVersion: projectcalico.org/v3
  kind: WorkloadEndpoint
  metadata: { name: web, namespace: shop, labels: { app: web } }
  spec: { interfaceName: veth1, ipNetworks: [172.20.0.2/32] }
- apiVersion: projectcalico.org/v3
  kind: WorkloadEndpoint
  metadata: { name: db, namespace: shop, labels: { app: db } }
  spec:
    interfaceName: veth2
    ipNetworks: [172.20.0.3/32]
    ports: [{ name: sql, protocol: TCP, port: 5432 }]
";

#[test]
fn explain_answers_from_files() {
    let saved = saved().to_string();
    let endpoints = Answers::default().text("GET /v1/endpoints", 200, &saved).start();
    let yaml = run(endpoints.socket(), &["endpoints", "-o", "yaml"]).out;
    let folder = folder(&[
        ("db.yaml", GOOD),
        ("saved.json", &saved),
        ("saved.yaml", &yaml),
        ("static.yaml", STATIC),
    ]);
    let ask = |endpoints: &str, service: &str| {
        let arguments = ["explain", "web", "shop/db", service, "-f", "{}/db.yaml"];
        offline(folder.path(), &[&arguments[..], &["--endpoints", endpoints]].concat())
    };
    let denied = ask("{}/saved.json", "80/tcp");
    insta::assert_snapshot!("explain_offline", denied.transcript());
    for endpoints in ["{}/saved.json", "{}/saved.yaml", "{}/static.yaml"] {
        let allowed = ask(endpoints, "5432/tcp");
        assert_eq!(allowed.code, 0, "{endpoints}: {allowed:?}");
        assert_eq!(ask(endpoints, "80/tcp").out, denied.out, "{endpoints}");
    }
}

/// The answer is that of a tier with nothing but a name; an agent would not take the policy at all.
#[test]
fn a_tier_that_is_in_no_file_is_told_beside_the_answer() {
    let folder = folder(&[
        ("db.yaml", &GOOD.replace("spec:\n", "spec:\n  tier: ops\n")),
        ("none.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}"),
        ("static.yaml", STATIC),
    ]);
    let policies = ["-f", "{}/db.yaml", "--endpoints", "{}/static.yaml"];
    let told = "NetworkPolicy shop/db is in the tier `ops`, which is not in these files";
    let explained =
        offline(folder.path(), &[&["explain", "web", "db", "80/tcp"], &policies[..]].concat());
    assert!(explained.code == 1 && explained.err.contains(told), "{explained:?}");
    let against = ["diff", "--against", "{}/none.yaml"];
    let compared = offline(folder.path(), &[&against[..], &policies[..]].concat());
    assert!(compared.code == 1 && compared.err.contains(told), "{compared:?}");
}

#[test]
fn selectors_are_tried_on_endpoints() {
    let folder = folder(&[
        ("db.yaml", &GOOD.replace("app == 'web'", "app == 'wbe'")),
        ("static.yaml", STATIC),
    ]);
    let at = folder.path();
    assert_eq!(offline(at, &["validate", "--strict", "{}/db.yaml"]).code, 0);
    let arguments = ["validate", "--strict", "{}/db.yaml", "--endpoints", "{}/static.yaml"];
    let tried = offline(at, &arguments);
    assert_eq!(tried.code, 1, "{tried:?}");
    assert!(tried.out.contains("warning: spec.ingress[0].source.selector: "), "{tried:?}");
}

#[test]
fn what_the_host_is_decides_with() {
    let folder = folder(&[("db.yaml", GOOD), ("static.yaml", STATIC)]);
    let verdict = |question: &[&str], flags: &[&str]| {
        let files = ["-f", "{}/db.yaml", "--endpoints", "{}/static.yaml"];
        let run = offline(folder.path(), &[&["explain"], question, &files, flags].concat());
        assert!(run.code < 2, "{run:?}");
        run.code
    };
    let out = ["web", "192.0.2.1", "443/tcp"];
    assert_eq!(verdict(&out, &[]), 0);
    assert_eq!(verdict(&out, &["--default-action", "deny"]), 1);
    let host = ["172.20.0.1", "db", "80/tcp"];
    assert_eq!(verdict(&host, &["--host-address", "172.20.0.1"]), 1);
    assert_eq!(verdict(&host, &["--host-access", "allow"]), 1);
    let flags = ["--host-address", "172.20.0.1", "--host-access", "allow"];
    assert_eq!(verdict(&host, &flags), 0);
}

#[test]
fn no_answer_from_files_that_are_wrong() {
    let broken = saved().to_string().replace("\"172.20.0.3\"", "\"172.20.0.333\"");
    let odd = saved().to_string().replacen("\"TCP\"", "\"TPC\"", 1);
    let folder = folder(&[
        ("db.yaml", GOOD),
        ("bad.yaml", DB),
        ("broken.json", &broken),
        ("odd.json", &odd),
        ("saved.json", &saved().to_string()),
    ]);
    for (files, expected) in [
        (["-f", "{}/bad.yaml", "--endpoints", "{}/saved.json"], "{}/bad.yaml:9:7: error: spec."),
        (["-f", "{}/none.yaml", "--endpoints", "{}/saved.json"], "{}/none.yaml: error: no such"),
        (["-f", "{}/db.yaml", "--endpoints", "{}/db.yaml"], "a NetworkPolicy is no endpoint"),
        (["-f", "{}/db.yaml", "--endpoints", "{}/broken.json"], "error: [1]: this is no endpoint"),
        (["-f", "{}/db.yaml", "--endpoints", "{}/odd.json"], "[0].ports[0].protocol: `TPC` is not"),
    ] {
        let run =
            offline(folder.path(), &[&["explain", "web", "db", "80/tcp"], &files[..]].concat());
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{run:?}");
        assert!(run.err.contains(expected), "{expected}: {run:?}");
        assert!(run.err.ends_with("error: no answer before the files are right\n"), "{run:?}");
    }
    let unknown = offline(folder.path(), &["explain", "web", "db", "80/tcp", "-f", "{}/db.yaml"]);
    // 1 would say: denied.
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.err.contains("nor one of the 0 endpoints in the files"), "{unknown:?}");
}
