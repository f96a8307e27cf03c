//! `diff`, against an agent and without one.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::agent::Answers;
use crate::ctl::{run, run_with_input};

const SOCKET: &str = "/nonexistent/agent.sock";

const DB: &str = "\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - action: Allow
    protocol: TCP
    source: {selector: app == 'web'}
    destination: {ports: [5432]}
";

const STAGED: &str = "\
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: {name: db, namespace: shop}
spec: {stagedAction: Delete}
---
apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: no-low-ports}
spec:
  selector: app == 'web'
  ingress:
  - action: Deny
    protocol: TCP
    source: {ports: ['1:1023']}
  - action: Allow
";

const ENDPOINTS: &str = "\
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {interfaceName: veth0, ipNetworks: [10.0.0.2/32, 'fd00::2/128']}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {interfaceName: veth1, ipNetworks: [10.0.0.3/32, 'fd00::3/128']}
";

/// Files in a directory of their own.
struct Files(TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).expect("write");
        }
        Files(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn rule(rule: &str, action: &str) -> Value {
    let default = rule.ends_with("-default");
    json!({
        "tier": "default", "namespace": if default { "" } else { "shop" },
        "kind": if default { "" } else { "NetworkPolicy" },
        "policy": if default { "" } else { "db" }, "rule": rule, "action": action,
    })
}

fn answer() -> Value {
    let calico = "projectcalico.org/v3";
    let workload = |name: &str| json!({"kind": "endpoint", "namespace": "shop", "name": name});
    let nets: Vec<String> = (0..30).map(|net| format!("198.51.{net}.0/24")).collect();
    json!({
        "resources": [
            {
                "api_version": calico, "kind": "GlobalNetworkSet", "name": "partners",
                "outcome": "created",
                "fields": [{"path": "spec.nets", "after": nets}],
            },
            {
                "api_version": calico, "kind": "NetworkPolicy", "namespace": "shop", "name": "db",
                "outcome": "configured",
                "fields": [
                    {
                        "path": "spec.ingress[0]",
                        "after": {"action": "Deny", "source": {"selector": "app == 'api'"}},
                    },
                    {
                        "path": "spec.ingress[1].destination.ports",
                        "before": [5432], "after": [5433, "6000:6010"],
                    },
                    {"path": "spec.order", "before": 10},
                ],
            },
        ],
        "reach": {
            "endpoints": 14,
            "endpoints_new": ["shop/cache"],
            "connections": [
                {
                    "effect": "opened",
                    "sources": [workload("web"), {
                        "kind": "network", "namespace": "", "name": "partners",
                        "nets": ["198.51.0.0/24", "198.51.1.0/24", "198.51.2.0/24"],
                        "nets_left_out": 27,
                    }],
                    "destinations": [workload("db")],
                    "families": ["IPv4"],
                    "services": ["5433/tcp", "6000-6010/tcp"],
                    "reasons": [{
                        "at": "ingress",
                        "before": rule("tier-default", "deny"),
                        "after": rule("ingress[1]", "allow"),
                    }],
                },
                {
                    "effect": "cut",
                    "sources": [{"kind": "host"}, {"kind": "world"}],
                    "destinations": [{
                        "kind": "endpoint", "namespace": "shop", "name": "db", "network": "front",
                    }],
                    "families": ["IPv4", "IPv6"],
                    "services": ["all but 22/tcp"],
                    "source_ports": ["0-1023"],
                    "reasons": [
                        {"at": "uplink", "after": rule("ingress[0]", "deny")},
                        {
                            "at": "ingress",
                            "before": rule("endpoint-default", "allow"),
                            "after": rule("tier-default", "deny"),
                        },
                    ],
                },
            ],
            "connections_left_out": 3,
        },
    })
}

#[test]
fn a_difference_is_told_by_resource_and_by_connection() {
    let agent = Answers::default().json("POST /v1/diff", 200, &answer()).start();
    let told = run_with_input(agent.socket(), &["diff", "-f", "-"], DB.as_bytes());
    insta::assert_snapshot!("diff_text", told.transcript());
    let seen = agent.seen();
    let body = seen[0].1.as_ref().expect("body");
    assert_eq!((&body["delete"], &body["prune"]), (&json!([]), &json!(false)));
    assert_eq!(body["resources"][0]["metadata"]["name"], "db");

    let few = run_with_input(agent.socket(), &["diff", "-f", "-", "--limit", "1"], DB.as_bytes());
    assert!(few.out.contains("... and 4 more: see them with --limit or -o json"), "{}", few.out);
    assert!(!few.out.contains("the world"), "{}", few.out);

    let json = run_with_input(agent.socket(), &["diff", "-f", "-", "-o", "json"], DB.as_bytes());
    let printed: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(printed["reach"]["connections"], answer()["reach"]["connections"]);
    assert_eq!(json.code, 1);
}

#[test]
fn what_would_go_is_asked_by_name() {
    let agent = Answers::default().json("POST /v1/diff", 200, &answer()).start();
    let told = run(agent.socket(), &["diff", "--prune", "--delete", "gnp/a", "--delete", "gnp/b"]);
    assert_eq!(told.code, 1, "{told:?}");
    let gnp = |name: &str| json!({"api_version": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "name": name});
    let expected =
        json!({"resources": [], "delete": [gnp("a"), gnp("b")], "prune": true, "staged": false});
    assert_eq!(agent.seen(), [("POST /v1/diff".to_owned(), Some(expected))]);
}

#[test]
fn no_difference_is_a_success_and_trouble_is_2() {
    let nothing = json!({"resources": [], "reach": {"endpoints": 3, "connections": []}});
    let agent = Answers::default().json("POST /v1/diff", 200, &nothing).start();
    let told = run_with_input(agent.socket(), &["diff", "-f", "-"], DB.as_bytes());
    assert_eq!(told.transcript(), "--- stderr\nno difference, 3 endpoints compared\n--- exit 0");

    let refusal = json!({"error": "one error, nothing was compared", "diagnostics": [{
        "severity": "error", "resource": 0, "path": "spec.selector", "message": "not that one",
    }]});
    let agent = Answers::default().json("POST /v1/diff", 422, &refusal).start();
    let told = run_with_input(agent.socket(), &["diff", "-f", "-"], DB.as_bytes());
    assert_eq!(
        told.transcript(),
        "--- stderr\n-:5:3: error: spec.selector: not that one\nerror: one error, nothing was \
         compared\n--- exit 2"
    );
    let bad = run_with_input(agent.socket(), &["diff", "-f", "-"], b"kind: Pod");
    assert_eq!(bad.code, 2, "{bad:?}");
    for arguments in [
        &["diff"][..],
        &["diff", "--against", "a"],
        &["diff", "-f", "a", "--endpoints", "b"],
        &["diff", "-f", "a", "--against", "b", "--prune"],
        &["diff", "-f", "a", "-n", "shop"],
        &["diff", "--delete", "gnp/a", "-n", "shop"],
    ] {
        let told = run(Path::new(SOCKET), arguments);
        assert_eq!(told.code, 2, "{told:?}");
    }
}

#[test]
fn two_sets_of_files_are_compared_without_an_agent() {
    let files = Files::new(&[
        ("endpoints.yaml", ENDPOINTS),
        ("old.yaml", DB),
        ("new.yaml", &DB.replace("[5432]", "[5432, 5433]").replace("'web'", "'web' || has(x)")),
        ("with-staged.yaml", &format!("{DB}---\n{STAGED}")),
        ("none.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"),
    ]);
    let compare = |before: &str, after: &str| {
        let [endpoints, before, after] = ["endpoints.yaml", before, after].map(|it| files.path(it));
        let (endpoints, before, after) = (text(&endpoints), text(&before), text(&after));
        run(
            Path::new(SOCKET),
            &["diff", "--against", before, "-f", after, "--endpoints", endpoints],
        )
    };
    insta::assert_snapshot!("diff_offline", compare("old.yaml", "new.yaml").transcript());
    insta::assert_snapshot!("diff_offline_first", compare("none.yaml", "old.yaml").transcript());
    let staged = |before: &str, after: &str| {
        let [endpoints, before, after] = ["endpoints.yaml", before, after].map(|it| files.path(it));
        let files = [text(&before), text(&after), text(&endpoints)];
        let [before, after, endpoints] = files;
        run(
            Path::new(SOCKET),
            &["diff", "--staged", "--against", before, "-f", after, "--endpoints", endpoints],
        )
    };
    insta::assert_snapshot!(
        "diff_staged",
        staged("with-staged.yaml", "with-staged.yaml").transcript()
    );
    let same = compare("old.yaml", "old.yaml");
    assert_eq!(same.transcript(), "--- stderr\nno difference, 2 endpoints compared\n--- exit 0");
}
