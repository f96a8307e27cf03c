//! Kubernetes' NetworkPolicy.

use super::{check, knp};

fn from(from: &str) -> String {
    knp("shop/k", &format!("{{podSelector: {{}}, ingress: [{{from: {from}}}]}}"))
}

#[test]
fn peers() {
    const PEERS: [&str; 5] = ["web", "bare", "blog", "host", "203.0.113.9"];
    // (from, let in to db)
    let cases: &[(&str, &[&str])] = &[
        ("[]", &PEERS),
        ("~", &PEERS),
        ("[{podSelector: {}}]", &["web", "bare"]),
        ("[{podSelector: {matchLabels: {app: web}}}]", &["web"]),
        // Pods of every namespace; the host and the world are none.
        ("[{namespaceSelector: {}}]", &["web", "bare", "blog"]),
        ("[{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}]", &["web", "blog"]),
        ("[{namespaceSelector: ~, podSelector: {matchLabels: {app: web}}}]", &["web"]),
        ("[{namespaceSelector: {matchLabels: {env: prod}}, podSelector: {}}]", &["web", "bare"]),
        ("[{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: blog}}}]", &["blog"]),
        (
            "[{namespaceSelector: {matchExpressions: [{key: env, operator: DoesNotExist}]}}]",
            &["blog"],
        ),
        (
            "[{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [web]}]}}]",
            &["bare"],
        ),
        (
            "[{podSelector: {matchExpressions: [{key: app, operator: In, values: [web, db]}, {key: zone, \
             operator: Exists}]}}]",
            &["web"],
        ),
        // Peers of a list are alternatives; a CIDR means the addresses of containers and host too.
        (
            "[{podSelector: {matchLabels: {app: web}}}, {ipBlock: {cidr: 203.0.113.0/24}}]",
            &["web", "203.0.113.9"],
        ),
        ("[{ipBlock: {cidr: 10.0.0.0/16}}]", &["web", "bare", "blog", "host"]),
        ("[{ipBlock: {cidr: 10.0.0.0/16, except: [10.0.0.0/30]}}]", &["blog", "host"]),
        ("[{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]", &["203.0.113.9"]),
        ("[{ipBlock: {cidr: '::/0'}}]", &[]),
    ];
    for (peers, expected) in cases {
        let connections: String = PEERS
            .iter()
            .map(|peer| {
                let answer = if expected.contains(peer) {
                    "allow k ingress[0]"
                } else {
                    "deny default tier-default"
                };
                format!("in {peer} > db tcp/1: {answer}\n")
            })
            .collect();
        check(peers, &[from(peers)], &connections);
    }
}

#[test]
fn ports() {
    const SERVICES: [&str; 6] = ["tcp/53", "tcp/80", "tcp/5432", "udp/53", "sctp/80", "icmp/8"];
    let cases: &[(&str, &[&str])] = &[
        ("[]", &SERVICES),
        ("~", &SERVICES),
        ("[{port: 80}]", &["tcp/80"]),
        ("[{protocol: TCP}]", &["tcp/53", "tcp/80", "tcp/5432"]),
        ("[{protocol: UDP}]", &["udp/53"]),
        ("[{}]", &["tcp/53", "tcp/80", "tcp/5432"]),
        ("[{port: 50, endPort: 80}]", &["tcp/53", "tcp/80"]),
        ("[{port: http}]", &["tcp/5432"]),
        ("[{port: dns}]", &[]),
        ("[{port: dns, protocol: UDP}, {port: 80, protocol: SCTP}]", &["udp/53", "sctp/80"]),
    ];
    for (ports, expected) in cases {
        let connections: String = SERVICES
            .iter()
            .map(|service| {
                let answer = if expected.contains(service) {
                    "allow k ingress[0]"
                } else {
                    "deny default tier-default"
                };
                format!("in web > db {service}: {answer}\n")
            })
            .collect();
        let spec = format!("{{podSelector: {{}}, ingress: [{{ports: {ports}}}]}}");
        check(ports, &[knp("shop/k", &spec)], &connections);
    }
    // Named ports of an egress rule are those of each destination.
    check(
        "egress",
        &[knp(
            "blog/k",
            "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}",
        )],
        "out blog > web tcp/8080: allow k egress[0]
         out blog > db tcp/5432: allow k egress[0]
         out blog > db tcp/8080: deny default tier-default",
    );
}

#[test]
fn policies_are_a_union() {
    let documents = [
        knp(
            "shop/a",
            "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {}}], ports: [{port: \
             1}]}]}",
        ),
        knp("shop/b", "{podSelector: {}, ingress: [{ports: [{port: 2}]}]}"),
        knp("shop/c", "{podSelector: {}}"),
        knp("blog/d", "{podSelector: {}, ingress: [{}]}"),
    ];
    check(
        "union",
        &documents,
        "in web > db tcp/1: allow a ingress[0]
         in web > db tcp/2: allow b ingress[0]
         in blog > db tcp/1: deny default tier-default
         in web > bare tcp/1: deny default tier-default
         in web > bare tcp/2: allow b ingress[0]
         in web > blog tcp/3: allow d ingress[0]
         out db > web tcp/3: allow endpoint-default",
    );
}

#[test]
fn types_and_empty_lists() {
    let (open, closed) = ("allow endpoint-default", "deny default tier-default");
    for (spec, ingress, egress) in [
        ("{podSelector: {}}", closed, open),
        ("{podSelector: ~}", closed, open),
        ("{podSelector: {}, ingress: []}", closed, open),
        ("{podSelector: {}, ingress: ~}", closed, open),
        ("{podSelector: {}, ingress: [{}]}", "allow k ingress[0]", open),
        ("{podSelector: {}, egress: []}", closed, open),
        ("{podSelector: {}, egress: [{}]}", closed, "allow k egress[0]"),
        ("{podSelector: {}, policyTypes: [], egress: [{}]}", closed, "allow k egress[0]"),
        ("{podSelector: {}, policyTypes: [Egress]}", open, closed),
        ("{podSelector: {}, policyTypes: [Ingress], egress: [{}]}", closed, open),
        ("{podSelector: {}, policyTypes: [Ingress, Egress]}", closed, closed),
        ("{podSelector: {matchLabels: {app: web}}}", open, open),
    ] {
        let lines = format!("in web > db tcp/1: {ingress}\nout db > web tcp/1: {egress}");
        check(spec, &[knp("shop/k", spec)], &lines);
    }
}
