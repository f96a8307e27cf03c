//! `apply` and `delete`.

use serde_json::{Value, json};

use crate::agent::Answers;
use crate::ctl::{run, run_with_input};

const WEB: &str = "\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  name: web
  namespace: shop
spec:
  selector: app == 'web'
  types: [Ingress]
  ingress:
  - action: Allow
    protocol: TCP
    destination:
      ports: [80]
";

const DB: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: db
spec:
  podSelector:
    matchLabels:
      app: db
";

const WORLD: &str = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: deny-all
spec:
  selector: all()
  types: [Ingress, Egress]
";

fn answer() -> Value {
    let result = |api: &str, kind: &str, namespace: Option<&str>, name: &str, outcome: &str| {
        let mut result =
            json!({ "api_version": api, "kind": kind, "name": name, "outcome": outcome });
        if let Some(namespace) = namespace {
            result["namespace"] = namespace.into();
        }
        result
    };
    json!({
        "results": [
            result("projectcalico.org/v3", "GlobalNetworkPolicy", None, "deny-all", "unchanged"),
            result("projectcalico.org/v3", "NetworkPolicy", Some("shop"), "web", "created"),
            result("networking.k8s.io/v1", "NetworkPolicy", Some("default"), "db", "configured"),
        ],
        "endpoints_changed": 4,
        "endpoints_total": 7,
        "revision": 17,
    })
}

/// What the fake agent is asked to apply, as JSON.
fn sent() -> Value {
    json!([
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": "GlobalNetworkPolicy",
            "metadata": { "name": "deny-all" },
            "spec": { "selector": "all()", "types": ["Ingress", "Egress"] },
        },
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": "NetworkPolicy",
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": {
                "selector": "app == 'web'",
                "types": ["Ingress"],
                "ingress": [
                    { "action": "Allow", "protocol": "TCP", "destination": { "ports": [80] } },
                ],
            },
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": { "name": "db" },
            "spec": { "podSelector": { "matchLabels": { "app": "db" } } },
        },
    ])
}

#[test]
fn a_directory_is_one_request_in_order() {
    let agent = Answers::default().json("POST /v1/apply", 200, &answer()).start();
    let directory = tempfile::tempdir().expect("directory");
    let write = |name: &str, text: &str| {
        std::fs::write(directory.path().join(name), text).expect("write");
    };
    write("10-deny.yaml", WORLD);
    write("20-web.yml", WEB);
    let db = sent()[2].to_string();
    write("30-db.json", &db);
    write("README.md", "not: [a policy");
    write(".20-web.yaml", "not: [a policy");
    std::fs::create_dir(directory.path().join("40-more.yaml")).expect("subdirectory");
    let path = directory.path().to_str().expect("UTF-8");
    let run = run(agent.socket(), &["apply", "-f", path]);
    insta::assert_snapshot!("apply_text", run.transcript());
    assert_eq!(
        agent.seen(),
        [("POST /v1/apply".to_owned(), Some(json!({ "resources": sent(), "dry_run": false })))]
    );
}

#[test]
fn standard_input_and_files_are_one_request() {
    let mut dry = answer();
    dry["endpoints_changed"] = 1.into();
    let agent = Answers::default().json("POST /v1/apply", 200, &dry).start();
    let file = tempfile::NamedTempFile::with_suffix(".yaml").expect("file");
    std::fs::write(file.path(), WORLD).expect("write");
    let path = file.path().to_str().expect("UTF-8");
    let input = format!("---\n{WEB}---\n# nothing here\n---\n{DB}");
    let run = run_with_input(
        agent.socket(),
        &["apply", "--dry-run", "-f", path, "-f", "-"],
        input.as_bytes(),
    );
    insta::assert_snapshot!("apply_dry_run", run.transcript());
    assert_eq!(
        agent.seen(),
        [("POST /v1/apply".to_owned(), Some(json!({ "resources": sent(), "dry_run": true })))]
    );
}

#[test]
fn what_an_apply_did_for_scripts() {
    let agent = Answers::default().json("POST /v1/apply", 200, &answer()).start();
    let name = run_with_input(agent.socket(), &["apply", "-f", "-", "-o", "name"], WEB.as_bytes());
    assert_eq!(
        name.out,
        "globalnetworkpolicy.projectcalico.org/deny-all\nnetworkpolicy.projectcalico.org/web\n\
         networkpolicy.networking.k8s.io/db\n"
    );
    let json = run_with_input(agent.socket(), &["apply", "-f", "-", "-o", "json"], WEB.as_bytes());
    let printed: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(printed["results"], answer()["results"]);
    assert_eq!(printed["revision"], 17);
}

#[test]
fn the_agents_findings_get_our_lines() {
    let refusal = json!({
        "error": "the policies are refused, nothing has changed",
        "diagnostics": [
            {
                "severity": "error",
                "resource": 1,
                "path": "spec.selector",
                "message": "selector of a kind that this agent does not know",
                "hint": "write app == 'web'",
            },
            { "severity": "error", "path": "", "message": "70,000 classes needed, 65,536 fit" },
        ],
    });
    let agent = Answers::default().json("POST /v1/apply", 422, &refusal).start();
    let input = format!("{WORLD}---\n{WEB}");
    let run = run_with_input(agent.socket(), &["apply", "-f", "-"], input.as_bytes());
    insta::assert_snapshot!("apply_refused", run.transcript());
}

#[test]
fn warnings_are_shown_and_do_no_harm() {
    let mut warned = answer();
    warned["warnings"] = json!([{
        "severity": "warning",
        "resource": 0,
        "path": "spec.ingress[0].protocol",
        "message": "the rule is never reached",
    }]);
    let agent = Answers::default().json("POST /v1/apply", 200, &warned).start();
    let run = run_with_input(agent.socket(), &["apply", "-f", "-"], WEB.as_bytes());
    insta::assert_snapshot!("apply_warned", run.transcript());
}

fn deleted() -> Value {
    json!({
        "results": [{
            "api_version": "projectcalico.org/v3", "kind": "NetworkPolicy", "namespace": "shop",
            "name": "web", "outcome": "deleted",
        }],
        "endpoints_changed": 1,
        "endpoints_total": 7,
        "revision": 18,
    })
}

#[test]
fn delete_by_file_sends_names() {
    let agent = Answers::default().json("POST /v1/delete", 200, &deleted()).start();
    let input = format!("{WEB}---\n{DB}---\n{WORLD}");
    let run = run_with_input(
        agent.socket(),
        &["delete", "-f", "-", "--ignore-not-found"],
        input.as_bytes(),
    );
    insta::assert_snapshot!("delete_text", run.transcript());
    let calico = "projectcalico.org/v3";
    assert_eq!(
        agent.seen(),
        [(
            "POST /v1/delete".to_owned(),
            Some(json!({
                "resources": [
                    { "api_version": calico, "kind": "NetworkPolicy", "namespace": "shop",
                      "name": "web" },
                    { "api_version": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                      "namespace": "default", "name": "db" },
                    { "api_version": calico, "kind": "GlobalNetworkPolicy", "name": "deny-all" },
                ],
                "ignore_not_found": true,
            }))
        )]
    );
}

#[test]
fn delete_by_name_needs_no_look_when_the_kind_is_clear() {
    for arguments in [
        &["delete", "networkpolicies.projectcalico.org", "web", "-n", "shop"][..],
        &["delete", "NetPol.projectcalico.org/web", "-n", "shop"],
    ] {
        let agent = Answers::default().json("POST /v1/delete", 200, &deleted()).start();
        let run = run(agent.socket(), arguments);
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(
            agent.seen(),
            [(
                "POST /v1/delete".to_owned(),
                Some(json!({
                    "resources": [{
                        "api_version": "projectcalico.org/v3", "kind": "NetworkPolicy",
                        "namespace": "shop", "name": "web",
                    }],
                    "ignore_not_found": false,
                }))
            )]
        );
    }
}

fn stored(api_version: &str, namespace: &str) -> Value {
    json!({
        "api_version": api_version, "kind": "NetworkPolicy", "namespace": namespace, "name": "web",
        "resource": {}, "endpoints": 1,
    })
}

#[test]
fn a_short_name_means_the_one_that_exists() {
    let agent = Answers::default()
        .json(
            "GET /v1/resources",
            200,
            &json!([stored("networking.k8s.io/v1", "shop"), stored("projectcalico.org/v3", "x")]),
        )
        .json("POST /v1/delete", 200, &deleted())
        .start();
    let run = run(agent.socket(), &["delete", "netpol", "web", "-n", "shop"]);
    assert_eq!(run.code, 0, "{run:?}");
    let seen = agent.seen();
    assert_eq!(seen[0], ("GET /v1/resources?name=web".to_owned(), None));
    let (_, body) = &seen[1];
    assert_eq!(
        body.as_ref().expect("body")["resources"],
        json!([{
            "api_version": "networking.k8s.io/v1", "kind": "NetworkPolicy", "namespace": "shop",
            "name": "web",
        }])
    );
}

#[test]
fn a_short_name_for_two_is_refused() {
    let both = json!([
        stored("networking.k8s.io/v1", "default"),
        stored("projectcalico.org/v3", "default")
    ]);
    let agent = Answers::default().json("GET /v1/resources", 200, &both).start();
    let run = run(agent.socket(), &["delete", "netpol", "web"]);
    insta::assert_snapshot!("delete_ambiguous", run.transcript());
    assert_eq!(agent.seen().len(), 1, "nothing but a look");
}

#[test]
fn delete_of_what_is_not_there_is_the_agents_word() {
    let refusal = json!({ "error": "globalnetworkpolicy.projectcalico.org/x does not exist" });
    let agent = Answers::default().json("POST /v1/delete", 404, &refusal).start();
    let run = run(agent.socket(), &["delete", "gnp", "x"]);
    assert_eq!(
        (run.code, run.err.as_str()),
        (1, "error: globalnetworkpolicy.projectcalico.org/x does not exist\n")
    );
}
