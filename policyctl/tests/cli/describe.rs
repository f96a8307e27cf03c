//! `describe`.

use serde_json::{Value, json};

use crate::agent::{Agent, Answers};
use crate::ctl::run;

fn stored(resource: &Value) -> Value {
    json!({
        "api_version": resource["apiVersion"], "kind": resource["kind"],
        "namespace": resource["metadata"]["namespace"], "name": resource["metadata"]["name"],
        "resource": resource, "endpoints": 0,
    })
}

fn resources() -> Value {
    let calico = "projectcalico.org/v3";
    json!([
        stored(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": "shop", "labels": { "env": "prod" } },
        })),
        stored(&json!({
            "apiVersion": calico, "kind": "Tier", "metadata": { "name": "security" },
            "spec": { "order": 100, "defaultAction": "Pass" },
        })),
        stored(&json!({
            "apiVersion": calico, "kind": "GlobalNetworkPolicy",
            "metadata": { "name": "block", "annotations": { "owner": "security\nteam" } },
            "spec": {
                "tier": "security", "order": 10.5, "selector": "all()",
                "namespaceSelector": "env ==\n'prod'", "types": ["Ingress", "Egress"],
                "ingress": [
                    { "action": "Deny", "source": { "selector": "list == 'blocked'" } },
                    { "action": "Pass" },
                    { "action": "Allow", "protocol": "TCP" },
                ],
                "egress": [
                    { "action": "Allow", "destination": { "notSelector": "list == 'blocked'" } },
                ],
            },
        })),
        stored(&json!({
            "apiVersion": calico, "kind": "GlobalNetworkSet",
            "metadata": { "name": "blocked", "labels": { "list": "blocked" } },
            "spec": { "nets": (0..30).map(|it| format!("192.0.2.{it}/32")).collect::<Vec<_>>() },
        })),
        stored(&json!({
            "apiVersion": calico, "kind": "NetworkPolicy",
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": {
                "selector": "app == 'web'",
                "ingress": [{ "action": "Allow", "protocol": "TCP",
                              "source": { "namespaceSelector": "has(env)" },
                              "destination": { "ports": [80, "8000:8080", "https"] } }],
            },
        })),
        stored(&json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": {
                "podSelector": {}, "policyTypes": ["Egress"],
                "egress": [{
                    "to": [{ "podSelector": { "matchLabels": { "app": "db" } } },
                           { "namespaceSelector": {} }],
                    "ports": [{ "port": 53, "protocol": "UDP" }],
                }],
            },
        })),
    ])
}

fn endpoints() -> Value {
    let endpoint = |name: &str, ifindex: u32, address: &str, rest: &Value| {
        let mut endpoint = json!({
            "name": name, "namespace": "shop", "network": "shop_front", "interface": "veth1",
            "ifindex": ifindex, "addresses": [address], "state": "enforcing",
            "labels": { "app": name, "projectcalico.org/namespace": "shop",
                        "projectcalico.org/orchestrator": "docker" },
            "ports": [{ "name": "https", "protocol": "TCP", "port": 8443 }],
            "ingress_policies": [], "egress_policies": [],
        });
        for (key, value) in rest.as_object().expect("object") {
            endpoint[key] = value.clone();
        }
        endpoint
    };
    json!([
        endpoint("web", 17, "172.20.0.2", &json!({})),
        endpoint(
            "late",
            0,
            "172.20.0.9",
            &json!({
                "state": "pending", "note": "starting: its interface is not identified yet\u{1b}[2J",
            })
        ),
        endpoint("alone", 19, "10.0.0.1", &json!({ "namespace": "lab", "labels": { "app": "x" } })),
    ])
}

fn counts() -> Value {
    let count = |policy: [&str; 4], rule: &str, action: &str, packets: u64, bytes: u64| {
        let [tier, kind, namespace, policy] = policy;
        json!({
            "tier": tier, "kind": kind, "namespace": namespace, "policy": policy, "rule": rule,
            "action": action, "packets": packets, "bytes": bytes,
        })
    };
    let block = ["security", "GlobalNetworkPolicy", "", "block"];
    json!([
        count(block, "ingress[0]", "deny", 1, 60),
        count(block, "egress[0]", "allow", 0, 0),
        count(
            ["default", "NetworkPolicy", "shop", "web"],
            "ingress[0]",
            "allow",
            12_345,
            6_543_210
        ),
        count(["default", "", "", ""], "tier-default", "deny", 7, 1_040),
    ])
}

fn status() -> Value {
    json!({
        "version": "0.1.0", "abi_version": 1, "revision": 17, "uptime_seconds": 1,
        "default_action": "deny", "policies": 3, "endpoints_enforcing": 2, "endpoints_pending": 1,
        "endpoints_unsupported": 0, "components": [], "features": [], "maps": [],
    })
}

fn agent() -> Agent {
    Answers::default()
        .json("GET /v1/resources", 200, &resources())
        .json("GET /v1/endpoints", 200, &endpoints())
        .json("GET /v1/status", 200, &status())
        .json("GET /v1/rules", 200, &counts())
        .start()
}

#[test]
fn a_policy_with_its_rules_counters_and_endpoints() {
    let agent = agent();
    let global = run(agent.socket(), &["describe", "gnp", "block"]);
    insta::assert_snapshot!("describe_policy", global.transcript());
    // Both kinds of this name.
    let both = run(agent.socket(), &["describe", "netpol", "web", "-n", "shop"]);
    insta::assert_snapshot!("describe_both", both.transcript());
}

#[test]
fn an_endpoint_with_its_policies_in_order() {
    let agent = agent();
    let web = run(agent.socket(), &["describe", "endpoint", "shop/web"]);
    insta::assert_snapshot!("describe_endpoint", web.transcript());
    let late = run(agent.socket(), &["describe", "ep/late"]);
    insta::assert_snapshot!("describe_pending", late.transcript());
    let alone = run(agent.socket(), &["describe", "endpoints", "alone"]);
    assert!(alone.out.contains("Ingress:\n  no policy applies: denied by default-action\n"));
}

#[test]
fn tiers_sets_and_namespaces() {
    let agent = agent();
    let all = run(
        agent.socket(),
        &["describe", "tier/default", "tier/kube-admin", "gns/blocked", "ns/shop", "ns/lab"],
    );
    insta::assert_snapshot!("describe_others", all.transcript());
}

#[test]
fn for_programs_it_is_a_list() {
    let agent = agent();
    let json = run(agent.socket(), &["describe", "netpol", "shop/web", "-o", "json"]);
    let found: Vec<Value> = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(found.len(), 2);
    assert_eq!(found[0]["about"], "policy");
    assert_eq!(found[0]["ingress"][0]["packets"], 12_345);
    assert_eq!(found[0]["egress"], Value::Null);
    assert_eq!(found[1]["api_version"], "networking.k8s.io/v1");
    assert_eq!(found[1]["egress"][0]["packets"], Value::Null);
    let yaml = run(agent.socket(), &["describe", "tier", "security", "-o", "yaml"]);
    assert!(yaml.out.starts_with("- about: tier\n  name: security\n"), "{yaml:?}");
}

#[test]
fn what_does_not_exist_is_exit_code_1() {
    let agent = agent();
    for (arguments, expected) in [
        (&["describe", "gnp", "web"][..], "error: no gnp `web`\n"),
        (&["describe", "netpol", "web", "-n", "lab"], "error: no netpol `web` in namespace lab\n"),
        (&["describe", "endpoint", "shop/alone"], "error: no endpoint `shop/alone`\n"),
        (&["describe", "ns", "nowhere"], "error: no ns `nowhere`\n"),
        (&["describe", "tier", "x"], "error: no tier `x`\n"),
    ] {
        let run = run(agent.socket(), arguments);
        assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (1, "", expected));
    }
}

#[test]
fn a_resource_of_another_version_is_not_left_out_in_silence() {
    let mut resources = resources();
    resources[1]["resource"]["spec"]["new"] = json!(1);
    let agent = Answers::default()
        .json("GET /v1/resources", 200, &resources)
        .json("GET /v1/endpoints", 200, &endpoints())
        .json("GET /v1/rules", 200, &counts())
        .json(
            "GET /v1/status",
            200,
            &json!({
                "version": "0.2.0", "abi_version": 1, "revision": 17, "uptime_seconds": 1,
                "default_action": "deny", "policies": 3, "endpoints_enforcing": 2,
                "endpoints_pending": 1, "endpoints_unsupported": 0, "components": [],
                "features": [], "maps": [],
            }),
        )
        .start();
    let run = run(agent.socket(), &["describe", "gnp", "block"]);
    assert_eq!((run.code, run.out.as_str()), (2, ""));
    assert!(run.err.contains("tier.projectcalico.org/security, which this policyctl cannot read"));
}

#[test]
fn staged_policies_are_not_taken_for_enforced_ones() {
    let calico = "projectcalico.org/v3";
    let staged = |kind: &str, name: &str, spec: &Value| {
        stored(&json!({
            "apiVersion": calico, "kind": kind,
            "metadata": { "name": name, "namespace": "shop" }, "spec": spec,
        }))
    };
    let mut resources = resources();
    let list = resources.as_array_mut().expect("array");
    list.push(staged(
        "StagedNetworkPolicy",
        "web",
        &json!({ "selector": "app == 'web'", "ingress": [{ "action": "Deny" }] }),
    ));
    list.push(staged("StagedKubernetesNetworkPolicy", "web", &json!({ "stagedAction": "Delete" })));
    let counts = json!([{
        "tier": "default", "kind": "StagedNetworkPolicy", "namespace": "shop", "policy": "web",
        "rule": "ingress[0]", "action": "deny", "packets": 0, "bytes": 0,
        "staged": { "allowed": 11, "denied": 1 },
    }]);
    let agent = Answers::default()
        .json("GET /v1/resources", 200, &resources)
        .json("GET /v1/endpoints", 200, &endpoints())
        .json("GET /v1/rules", 200, &counts)
        .json("GET /v1/status", 200, &status())
        .start();
    let all =
        run(agent.socket(), &["describe", "snp/web", "sknp/web", "endpoint/web", "tier/default"]);
    insta::assert_snapshot!("describe_staged", all.transcript());
}
