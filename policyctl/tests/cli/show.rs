//! `get`, `endpoints`, `status`, `explain`, `version`.

use serde_json::{Value, json};

use crate::agent::Answers;
use crate::ctl::{run, run_with_input};

fn resources() -> Value {
    let calico = "projectcalico.org/v3";
    json!([
        {
            "api_version": "networking.k8s.io/v1", "kind": "NetworkPolicy", "namespace": "shop",
            "name": "db", "endpoints": 1,
            "resource": {
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": { "name": "db", "namespace": "shop" },
                "spec": {
                    "podSelector": {
                        "matchLabels": { "app": "db" },
                        "matchExpressions": [
                            { "key": "tier", "operator": "In", "values": ["a", "b"] },
                            { "key": "old", "operator": "DoesNotExist" },
                        ],
                    },
                    "policyTypes": ["Ingress"],
                    "ingress": [{ "ports": [{ "port": 5432 }] }],
                },
            },
        },
        {
            "api_version": calico, "kind": "GlobalNetworkPolicy", "name": "deny-all",
            "endpoints": 12,
            "resource": {
                "apiVersion": calico, "kind": "GlobalNetworkPolicy",
                "metadata": { "name": "deny-all" },
                "spec": { "selector": "all()", "order": 1000.5, "types": ["Ingress", "Egress"] },
            },
        },
        {
            "api_version": calico, "kind": "NetworkPolicy", "namespace": "shop", "name": "web",
            "endpoints": 2,
            "resource": {
                "apiVersion": calico, "kind": "NetworkPolicy",
                "metadata": { "name": "web", "namespace": "shop" },
                "spec": {
                    "selector": "app == 'web' &&\n  has(tier)", "order": 10,
                    "ingress": [{ "action": "Allow", "protocol": "TCP",
                                  "destination": { "ports": [80, "8000:8080"] } }],
                    "egress": [{ "action": "Deny" }, { "action": "Allow" }],
                },
            },
        },
        {
            "api_version": calico, "kind": "GlobalNetworkSet", "name": "blocked", "endpoints": 0,
            "resource": {
                "apiVersion": calico, "kind": "GlobalNetworkSet",
                "metadata": { "name": "blocked", "labels": { "list": "blocked", "yes": "no" } },
                "spec": { "nets": ["192.0.2.0/24", "2001:db8::/32"] },
            },
        },
        {
            "api_version": calico, "kind": "WorkloadEndpoint", "namespace": "default",
            "name": "printer", "endpoints": 1,
            "resource": {
                "apiVersion": calico, "kind": "WorkloadEndpoint",
                "metadata": { "name": "printer", "labels": { "app": "print" } },
                "spec": { "interfaceName": "veth7", "ipNetworks": ["10.9.0.2/32"] },
            },
        },
        {
            "api_version": "v1", "kind": "Namespace", "name": "shop", "endpoints": 3,
            "resource": {
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": { "name": "shop", "labels": { "stage": "1.0" } },
            },
        },
    ])
}

fn holding(resources: &Value) -> Answers {
    Answers::default().json("GET /v1/resources", 200, resources)
}

#[test]
fn get_shows_tables() {
    let agent = holding(&resources()).start();
    insta::assert_snapshot!("get_table", run(agent.socket(), &["get"]).transcript());
    insta::assert_snapshot!("get_wide", run(agent.socket(), &["get", "-o", "wide"]).transcript());
    insta::assert_snapshot!("get_name", run(agent.socket(), &["get", "-o", "name"]).transcript());
    insta::assert_snapshot!("get_yaml", run(agent.socket(), &["get", "-o", "yaml"]).transcript());
}

#[test]
fn get_asks_for_what_it_shows() {
    let agent = holding(&resources()).start();
    for (arguments, request, shown) in [
        (
            &["get", "netpol", "-n", "shop"][..],
            "GET /v1/resources?kind=NetworkPolicy&namespace=shop",
            &["networkpolicy.projectcalico.org/web", "networkpolicy.networking.k8s.io/db"][..],
        ),
        (
            &["get", "netpol.projectcalico.org"],
            "GET /v1/resources?kind=NetworkPolicy",
            &["networkpolicy.projectcalico.org/web"],
        ),
        (
            &["get", "GNP,gns"],
            "GET /v1/resources",
            &[
                "globalnetworkpolicy.projectcalico.org/deny-all",
                "globalnetworkset.projectcalico.org/blocked",
            ],
        ),
        (
            &["get", "netpol", "db"],
            "GET /v1/resources?kind=NetworkPolicy&name=db",
            &["networkpolicy.networking.k8s.io/db"],
        ),
        (
            &["get", "netpol/db", "netpol/web"],
            "GET /v1/resources?kind=NetworkPolicy",
            &["networkpolicy.projectcalico.org/web", "networkpolicy.networking.k8s.io/db"],
        ),
        (&["get", "ns"], "GET /v1/resources?kind=Namespace", &["namespace/shop"]),
    ] {
        let mut arguments = arguments.to_vec();
        arguments.extend(["-o", "name"]);
        let run = run(agent.socket(), &arguments);
        assert_eq!(run.code, 0, "{arguments:?}: {run:?}");
        assert_eq!(run.out.lines().collect::<Vec<_>>(), shown, "{arguments:?}");
        assert_eq!(agent.seen().last().expect("request").0, request);
    }
}

#[test]
fn what_get_prints_apply_reads() {
    // Texts that are something else in YAML unless they are quoted.
    let awkward = [
        "",
        " ",
        "1.0",
        "0x10",
        "0o7",
        "1e3",
        "1_000",
        ".inf",
        "~",
        "null",
        "true",
        "no",
        "on",
        "2026-11-21",
        "- x",
        "a: b",
        "a #b",
        "# c",
        "*d",
        "&e",
        "!f",
        "%g",
        "@h",
        "`i`",
        "'",
        "\"",
        "{j}",
        "[k]",
        "|",
        ">",
        "?",
        ",",
        "---",
        "...",
        "=",
        "<<",
        "line\nline\n",
        "\ttab",
        "trail ",
        "\\n",
        "\u{1b}[2J",
        "\u{9b}31m",
        "\u{7f}",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "ä€😀",
        "\r\n",
    ];
    let mut resources = resources();
    for (number, text) in awkward.into_iter().enumerate() {
        let annotations = &mut resources[5]["resource"]["metadata"]["annotations"];
        annotations[format!("example.org/{number}")] = text.into();
    }
    for format in ["yaml", "json"] {
        let agent = holding(&resources)
            .json(
                "POST /v1/apply",
                200,
                &json!({ "results": [], "endpoints_changed": 0, "endpoints_total": 0,
                         "revision": 1 }),
            )
            .start();
        let printed = run(agent.socket(), &["get", "-o", format]);
        let applied = run_with_input(agent.socket(), &["apply", "-f", "-"], printed.out.as_bytes());
        assert_eq!(applied.code, 0, "{format}: {applied:?}");
        let obeyed = |c: char| c.is_control() && c != '\n';
        assert!(!printed.out.contains(obeyed), "{format}: a terminal would obey {:?}", printed.out);
        let sent = agent.seen().pop().expect("request").1.expect("body");
        let sent = sent["resources"].as_array().expect("array").clone();
        let stored = resources.as_array().expect("array");
        assert_eq!(sent.len(), stored.len(), "{format}");
        for resource in stored {
            assert!(sent.contains(&resource["resource"]), "{format}: {resource}");
        }
    }
}

#[test]
fn one_resource_by_name_is_one_object() {
    let agent = holding(&resources()).start();
    let run = run(agent.socket(), &["get", "gns", "blocked", "-o", "json"]);
    let printed: Value = serde_json::from_str(&run.out).expect("JSON");
    assert_eq!(printed, resources()[3]["resource"]);
}

#[test]
fn nothing_to_get_is_said_kindly_but_a_missing_name_is_an_error() {
    let agent = holding(&json!([])).start();
    let all = run(agent.socket(), &["get"]);
    assert_eq!((all.code, all.out.as_str()), (0, ""));
    assert_eq!(all.err, "no policies yet: apply some with `policyctl apply -f FILE`\n");
    let some = run(agent.socket(), &["get", "netpol", "-n", "shop"]);
    assert_eq!((some.code, some.out.as_str()), (0, ""));
    assert!(some.err.starts_with("no netpol in namespace shop yet: "), "{some:?}");
    let missing = run(agent.socket(), &["get", "gnp", "x"]);
    assert_eq!((missing.code, missing.err.as_str()), (1, "error: no gnp `x`\n"));
    let json = run(agent.socket(), &["get", "-o", "json"]);
    let json: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(json["items"], json!([]));
    let yaml = run(agent.socket(), &["get", "-o", "yaml"]);
    assert_eq!((yaml.code, yaml.out.as_str()), (0, "apiVersion: v1\nitems: []\nkind: List\n"));
}

fn endpoints() -> Value {
    json!([
        {
            "name": "web", "namespace": "shop", "network": "shop_front", "interface": "veth1a2b3c",
            "ifindex": 17, "addresses": ["172.20.0.2", "fd00:20::2"],
            "labels": { "app": "web", "palisade.io/name": "web" }, "state": "enforcing",
            "ingress_policies": ["default/shop/web", "default//deny-all"],
            "egress_policies": ["default//deny-all"],
        },
        {
            "name": "evil\u{1b}[2J", "namespace": "shop", "network": "shop_front", "ifindex": 19,
            "addresses": [], "labels": {}, "state": "pending", "note": "waiting for its address",
            "ingress_policies": [], "egress_policies": [],
        },
        {
            "name": "nas", "namespace": "default", "network": "lan", "interface": "", "ifindex": 3,
            "addresses": ["192.168.1.9"], "labels": {}, "state": "unsupported",
            "note": "macvlan networks are not enforced", "ingress_policies": [],
            "egress_policies": [],
        },
    ])
}

#[test]
fn endpoints_in_a_table() {
    let agent = Answers::default().json("GET /v1/endpoints", 200, &endpoints()).start();
    insta::assert_snapshot!("endpoints_table", run(agent.socket(), &["endpoints"]).transcript());
    insta::assert_snapshot!(
        "endpoints_wide",
        run(agent.socket(), &["ep", "web", "-o", "wide"]).transcript()
    );
    let names = run(agent.socket(), &["endpoints", "-n", "shop", "-o", "name"]);
    assert_eq!(names.out, "shop/evil\\u{1b}[2J\nshop/web\n");
    let json = run(agent.socket(), &["endpoints", "-o", "json", "nas"]);
    let printed: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(printed, json!([endpoints()[2]]));
    let full = run(agent.socket(), &["endpoints", "default/nas", "-o", "name"]);
    assert_eq!((full.code, full.out.as_str()), (0, "default/nas\n"));
    let elsewhere = run(agent.socket(), &["endpoints", "shop/nas"]);
    assert_eq!((elsewhere.code, elsewhere.err.as_str()), (1, "error: no endpoint `shop/nas`\n"));
    let missing = run(agent.socket(), &["endpoints", "nobody"]);
    assert_eq!((missing.code, missing.err.as_str()), (1, "error: no endpoint `nobody`\n"));
}

#[test]
fn no_endpoints_is_said_kindly() {
    let agent = Answers::default().json("GET /v1/endpoints", 200, &json!([])).start();
    let run = run(agent.socket(), &["endpoints"]);
    assert_eq!((run.code, run.out.as_str()), (0, ""));
    assert!(run.err.starts_with("no endpoints yet: they appear when containers start"), "{run:?}");
}

fn status(docker: bool) -> Value {
    json!({
        "version": "0.1.0", "abi_version": 1, "revision": 17, "uptime_seconds": 11_520,
        "default_action": "allow", "policies": 6, "endpoints_enforcing": 4,
        "endpoints_pending": 0, "endpoints_unsupported": 1, "endpoints_elsewhere": 2,
        "components": [
            { "name": "docker", "healthy": docker, "detail": "Engine 20.10.24, API 1.41" },
            { "name": "datapath", "healthy": true, "detail": "8 programs attached" },
        ],
        "features": [["attach", "tcx"], ["clock", "coarse"]],
        "maps": [
            { "name": "conntrack", "used": 60_000, "capacity": 65_536 },
            { "name": "endpoints", "used": 4, "capacity": 10_000 },
        ],
    })
}

#[test]
fn status_ends_as_the_agent_is() {
    let well = Answers::default().json("GET /v1/status", 200, &status(true)).start();
    insta::assert_snapshot!("status_text", run(well.socket(), &["status"]).transcript());
    let json = run(well.socket(), &["status", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&json.out).expect("JSON"), status(true));
    let yaml = run(well.socket(), &["status", "-o", "yaml"]);
    assert!(yaml.out.contains("revision: 17\n"), "{yaml:?}");
    let ill = Answers::default().json("GET /v1/status", 200, &status(false)).start();
    let run = run(ill.socket(), &["status"]);
    assert_eq!(run.code, 1);
    assert!(run.out.contains("BROKEN"), "{run:?}");
}

#[test]
fn version_names_both() {
    let agent = Answers::default().json("GET /v1/status", 200, &status(true)).start();
    let run = run(agent.socket(), &["version"]);
    let ours = env!("CARGO_PKG_VERSION");
    assert_eq!(run.out, format!("policyctl {ours}\nagent     0.1.0 (ABI 1)\n"));
}

fn explanation(verdict: &str) -> Value {
    let rule = |policy: &str, rule: &str, action: &str| {
        json!({
            "tier": "default", "namespace": if policy.is_empty() { "" } else { "shop" },
            "kind": if policy.is_empty() { "" } else { "NetworkPolicy" }, "policy": policy,
            "rule": rule, "action": action,
        })
    };
    let ends = json!([
        {
            "direction": "egress", "endpoint": "shop/web", "verdict": "allow",
            "rule": rule("web", "egress[1]", "allow"),
            "walk": [
                "tier default",
                "NetworkPolicy shop/web: egress[0] does not match: protocol is not udp",
                "NetworkPolicy shop/web: egress[1] matches: allow",
            ],
        },
        {
            "direction": "ingress", "endpoint": "shop/db", "verdict": verdict,
            "rule": rule("", "tier-default", verdict),
            "walk": ["tier default", "end of tier default: deny"],
        },
    ]);
    json!({
        "verdict": verdict,
        "paths": [
            { "source": "172.20.0.2", "destination": "172.20.0.3", "verdict": verdict,
              "ends": ends },
            { "source": "fd00:20::2", "destination": "fd00:20::3", "verdict": verdict,
              "ends": ends },
            { "source": "172.20.0.2", "destination": "198.51.100.7", "verdict": "allow", "ends": [
                ends[0],
                { "direction": "ingress", "endpoint": null, "verdict": "allow",
                  "rule": rule("", "", "allow"), "walk": [] },
            ]},
        ],
    })
}

#[test]
fn explain_ends_as_the_verdict_is() {
    let agent = Answers::default().json("POST /v1/explain", 200, &explanation("deny")).start();
    let denied = run(agent.socket(), &["explain", "web", "shop/db", "5432/tcp"]);
    insta::assert_snapshot!("explain_denied", denied.transcript());
    assert_eq!(denied.code, 1);
    assert_eq!(
        agent.seen(),
        [(
            "POST /v1/explain".to_owned(),
            Some(json!({ "source": "web", "destination": "shop/db", "protocol": 6, "port": 5432 }))
        )]
    );
    let agent = Answers::default().json("POST /v1/explain", 200, &explanation("allow")).start();
    let allowed = run(agent.socket(), &["explain", "web", "db", "icmpv6"]);
    assert_eq!(allowed.code, 0, "{allowed:?}");
    assert!(allowed.out.starts_with("web -> db icmpv6:128: allowed\n"), "{allowed:?}");
    let json = run(agent.socket(), &["explain", "web", "db", "icmp:3:1", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&json.out).expect("JSON"), explanation("allow"));
    let sent = agent.seen().pop().expect("request").1.expect("body");
    assert_eq!((&sent["protocol"], &sent["port"]), (&json!(1), &json!(0x0301)));
}

#[test]
fn explain_of_the_unknown_is_the_agents_word() {
    let refusal = json!({ "error": "no endpoint `wbe`: see `policyctl endpoints`" });
    let agent = Answers::default().json("POST /v1/explain", 404, &refusal).start();
    let run = run(agent.socket(), &["explain", "wbe", "db", "80/tcp"]);
    assert_eq!(
        (run.code, run.err.as_str()),
        (2, "error: no endpoint `wbe`: see `policyctl endpoints`\n")
    );
}

#[test]
fn colours_only_where_wanted() {
    let agent = Answers::default().json("GET /v1/status", 200, &status(false)).start();
    let coloured = |arguments: &[&str]| run(agent.socket(), arguments).out.contains('\u{1b}');
    assert!(!coloured(&["status"]), "not a terminal");
    assert!(coloured(&["status", "--color", "always"]));
    assert!(!coloured(&["status", "--color", "never"]));
    assert!(!coloured(&["status", "--color", "always", "-o", "json"]));
}

fn connectivity() -> Value {
    let end = |namespace: &str, name: &str| json!({ "kind": "endpoint", "namespace": namespace, "name": name });
    let rule = |at: &str, policy: &str, packets: u64| {
        json!({
            "at": at, "tier": "default", "namespace": "shop", "kind": "NetworkPolicy", "policy": policy,
            "rule": format!("{at}[0]"), "action": "allow", "packets": packets,
        })
    };
    json!({
        "endpoints": 3,
        "connections": [
            {
                "sources": [end("shop", "web-1"), end("shop", "web-2")],
                "destinations": [end("shop", "db")], "families": ["IPv4", "IPv6"],
                "services": ["5432/tcp"], "allowed_by": [rule("egress", "web", 9), rule("ingress", "db", 0)],
            },
            {
                "sources": [{ "kind": "world" }, { "kind": "host" }],
                "destinations": [end("shop", "web-1"), end("shop", "web-2")], "families": ["IPv4"],
                "services": ["443/tcp"], "source_ports": ["1024-65535"],
                "allowed_by": [rule("ingress", "web", 7)], "exposed": true,
            },
        ],
        "connections_left_out": 2,
    })
}

#[test]
fn verify_reports_what_is_allowed_and_what_looks_wrong() {
    let count = |from: &str, packets: u64| {
        json!({
            "direction": "ingress", "reason": "policy", "source": from, "source_namespace": "shop",
            "destination": "db", "destination_namespace": "shop", "protocol": "tcp", "port": "5432",
            "tier": "default", "policy_namespace": "", "policy": "", "rule": "tier-default",
            "packets": packets, "bytes": packets * 60,
        })
    };
    let drops = json!([count("intruder", 3), count("scanner", 1200)]);
    let agent = Answers::default()
        .json("GET /v1/connectivity", 200, &connectivity())
        .json("GET /v1/drops", 200, &drops)
        .start();
    insta::assert_snapshot!("verify_text", run(agent.socket(), &["verify"]).transcript());
    insta::assert_snapshot!(
        "verify_dot",
        run(agent.socket(), &["verify", "-o", "dot"]).transcript()
    );
    let staged = run(agent.socket(), &["verify", "--staged", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&staged.out).expect("JSON"), connectivity());
    assert!(agent.seen().iter().any(|(request, _)| request == "GET /v1/connectivity?staged=true"));
}

#[test]
fn top_needs_a_terminal_or_a_number() {
    let agent = Answers::default()
        .json("GET /v1/drops", 200, &json!([]))
        .json("GET /v1/rules", 200, &json!([]))
        .start();
    let shown = run(agent.socket(), &["top"]);
    assert_eq!(shown.code, 2, "{shown:?}");
    assert!(shown.err.contains("policyctl top --batch 1"), "{shown:?}");
    let shown = run(agent.socket(), &["top", "--batch", "1", "--view", "rules"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert_eq!(shown.out.split_whitespace().next(), Some("RULE"));
}
