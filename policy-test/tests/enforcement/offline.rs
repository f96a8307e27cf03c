//! What leaves an agent as files and comes back: `get -o yaml`, `endpoints -o json`; and what
//! `describe` says of rules that packets met.

use std::fs;

use serde_json::Value;

use crate::stage::{Over, Stage};

const POLICIES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {env: '0644', 'on': 'yes'}}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security, annotations: {note: \"two\\nlines\", until: '2026-11-21'}}
spec: {order: 100, defaultAction: Pass}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: web, labels: {list: 'on'}}
spec: {nets: [10.77.0.2/32, 'fd77::2/128']}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: first}
spec:
  tier: security
  order: 0.5
  selector: fenced == 'yes'
  ingress:
  - {action: Pass, source: {selector: list == 'on'}}
  - {action: Deny, protocol: TCP, destination: {ports: [22, '8000:8010']}}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - {action: Allow, source: {namespaceSelector: env == '0644'}, destination: {ports: [pg]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}, {ipBlock: {cidr: 10.77.0.1/32}}]
    ports: [{port: 80}]
";

fn stdout(stage: &Stage, arguments: &[&str]) -> String {
    let output = stage.agent.policyctl(arguments).unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_get_prints_changes_nothing_when_applied() {
    let stage = Stage::new(&[]);
    stage.apply(POLICIES);
    for format in ["yaml", "json"] {
        let before = stdout(&stage, &["get", "-o", format]);
        let applied = stage.agent.apply(&before).unwrap();
        let (results, summary) = applied.trim_end().rsplit_once('\n').unwrap();
        assert!(summary.starts_with("0 endpoints changed"), "{summary}");
        assert_eq!(results.lines().count(), 6 + 4, "{results}");
        assert!(results.lines().all(|line| line.contains(" unchanged")), "{results}");
        assert_eq!(stdout(&stage, &["get", "-o", format]), before);
    }
}

#[test]
fn files_are_explained_as_the_agent_explains() {
    let stage = Stage::new(&["--default-action", "deny"]);
    stage.apply(POLICIES);
    let save = |name: &str, text: String| {
        let path = stage.lab.folder().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let policies = save("policies.yaml", POLICIES.to_owned());
    let endpoints = save("endpoints.json", stdout(&stage, &["endpoints", "-o", "json"]));
    let mut verdicts = [0, 0];
    for from in ["shop/web", "shop/api", "shop/db", "bad", "10.77.0.1", "192.0.2.1"] {
        for to in ["shop/web", "shop/api", "shop/db", "bad", "10.77.0.1", "2001:db8::1"] {
            for service in ["5432/tcp", "80/tcp", "8005/tcp", "53/udp", "icmp"] {
                let question = ["explain", from, to, service];
                let live = stage.agent.policyctl(&question).unwrap();
                let files = ["--socket", "/nowhere", "-f", &policies, "--endpoints", &endpoints];
                let host = ["--default-action", "deny", "--host-address", "10.77.0.1"];
                let host6 = ["--host-address", "fd77::1"];
                let offline = [&question[..], &files, &host, &host6].concat();
                let offline = stage.agent.policyctl(&offline).unwrap();
                assert_eq!(offline.status, live.status, "{question:?}");
                assert_eq!(offline.stdout, live.stdout, "{question:?}");
                // Exit code 1 is also that of a question without an answer.
                if !live.stdout.is_empty() {
                    verdicts[usize::from(live.status.success())] += 1;
                }
            }
        }
    }
    assert!(verdicts.iter().all(|count| *count > 10), "{verdicts:?}");
}

#[test]
fn describe_counts_what_packets_met() {
    let stage = Stage::new(&[]);
    stage.apply(POLICIES);
    let table = "
        web db 5432/tcp allow
        api db 8005/tcp deny ingress /first ingress[1]
        api db 53/udp deny ingress - tier-default";
    stage.check(Over::V4, table);
    let describe = |arguments: &[&str]| -> Vec<Value> {
        let arguments = [&["describe"], arguments, &["-o", "json"]].concat();
        serde_json::from_str(&stdout(&stage, &arguments)).unwrap()
    };
    let first = &describe(&["gnp", "first"])[0];
    assert_eq!(first["ingress"][1]["text"], "Deny TCP from anyone to ports 22, 8000-8010");
    assert_eq!(first["ingress"][1]["packets"], 1);
    assert_eq!(first["ingress"][0]["packets"], Value::Null, "Pass decides nothing");
    assert_eq!(first["endpoints"].as_array().unwrap().len(), 4);
    let db = &describe(&["netpol", "db"])[0];
    assert!(db["ingress"][0]["packets"].as_u64().unwrap() > 0, "{db}");
    let tier = &describe(&["tier", "default"])[0];
    assert_eq!(tier["denied_packets"], 1);
    let endpoint = &describe(&["endpoint", "shop/db"])[0];
    assert_eq!(endpoint["ingress"][0]["tier"]["name"], "security");
    assert_eq!(endpoint["ingress"][1]["policies"][0]["name"], "db");
    assert_eq!(endpoint["ports"][0]["name"], "names");
    let set = &describe(&["gns", "web"])[0];
    assert_eq!(set["used_by"][0]["rule"], "ingress[0]");
}
