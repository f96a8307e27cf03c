//! Rules of `projectcalico.org/v3`: directions, protocols, ports, networks, order.

use crate::stage::{Over, Stage};

#[test]
fn without_policy_everything_passes() {
    let stage = Stage::new(&[]);
    stage.check(
        Over::Both,
        "web db 5432/tcp allow
         bad db 53/udp allow
         bad db ping allow
         host db 5432/tcp allow
         web host 8080/tcp allow
         web host ping allow",
    );
}

#[test]
fn with_default_deny_nothing_passes_until_a_policy_says_so() {
    let stage = Stage::new(&["--default-action", "deny"]);
    stage.check(
        Over::Both,
        "web db 5432/tcp deny egress - endpoint-default
         web db 53/udp deny egress - endpoint-default
         web db ping deny egress - endpoint-default
         host db 5432/tcp deny ingress - endpoint-default
         web host 8080/tcp deny egress - endpoint-default",
    );
    stage.apply(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: out, namespace: shop}
spec: {selector: app == 'web', types: [Egress], egress: [{action: Allow}]}",
    );
    stage.check(
        Over::Both,
        "web db 5432/tcp deny ingress - endpoint-default
         web host 8080/tcp allow
         api web 80/tcp deny egress - endpoint-default",
    );
    stage.apply(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: in, namespace: shop}
spec: {selector: app == 'db', ingress: [{action: Allow, source: {selector: app == 'web'}}]}",
    );
    stage.check(
        Over::Both,
        "web db 5432/tcp allow
         web db ping allow
         api db 5432/tcp deny egress - endpoint-default
         host db 5432/tcp deny ingress - tier-default",
    );
}

#[test]
fn ports_ranges_and_names_are_per_protocol() {
    let stage = Stage::new(&[]);
    stage.apply(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - {action: Deny, protocol: TCP, destination: {ports: [8005]}}
  - {action: Allow, protocol: TCP, destination: {ports: [pg, '8000:8010', 9]}}
  - {action: Allow, protocol: UDP, destination: {ports: [names, 53]}}
  - {action: Allow, protocol: TCP, destination: {notPorts: ['1:65000']}}",
    );
    stage.check(
        Over::Both,
        "web db 5432/tcp allow
         web db 5432/udp deny ingress - tier-default
         web db 7999/tcp deny ingress - tier-default
         web db 8000/tcp allow
         web db 8004/tcp allow
         web db 8005/tcp deny ingress shop/db ingress[0]
         web db 8010/tcp allow
         web db 8011/tcp deny ingress - tier-default
         web db 9/tcp allow
         web db 53/udp allow
         web db 53/tcp deny ingress - tier-default
         web db 5353/udp allow
         web db 65000/tcp deny ingress - tier-default
         web db 65001/tcp allow
         web db ping deny ingress - tier-default
         web api 5432/tcp allow",
    );
}

#[test]
fn protocols_are_told_apart() {
    let stage = Stage::new(&[]);
    stage.apply(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - {action: Allow, protocol: ICMP, icmp: {type: 8}}
  - {action: Deny, protocol: ICMPv6, icmp: {type: 128, code: 0}}
  - {action: Allow, notProtocol: UDP, source: {selector: app == 'web'}}",
    );
    stage.check(Over::V4, "bad db ping allow");
    stage.check(Over::V6, "bad db ping deny ingress shop/db ingress[1]");
    stage.check(
        Over::Both,
        "web db 80/tcp allow
         web db 80/udp deny ingress - tier-default",
    );
}

#[test]
fn egress_and_ingress_both_have_to_allow() {
    let stage = Stage::new(&[]);
    stage.apply(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: app == 'web'
  types: [Egress]
  egress:
  - {action: Allow, protocol: TCP, destination: {selector: app == 'db', ports: [5432, 80]}}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - {action: Allow, protocol: TCP, destination: {ports: [5432]}}",
    );
    stage.check(
        Over::Both,
        "web db 5432/tcp allow
         web db 80/tcp deny ingress - tier-default
         web db 81/tcp deny egress - tier-default
         web api 5432/tcp deny egress - tier-default
         api web 80/tcp allow
         db web 80/tcp allow",
    );
}

#[test]
fn networks_and_not_networks_mean_whoever_has_the_address() {
    let stage = Stage::new(&[]);
    stage.apply(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - action: Allow
    protocol: TCP
    source: {nets: [10.77.0.0/29, 'fd77::/125'], notNets: [10.77.0.5/32, 'fd77::5/128']}
  - {action: Allow, protocol: UDP, source: {nets: [10.77.0.2/31]}}",
    );
    stage.check(
        Over::Both,
        "web db 80/tcp allow
         api db 80/tcp allow
         host db 80/tcp allow
         bad db 80/tcp deny ingress - tier-default",
    );
    stage.check(
        Over::V4,
        "web db 80/udp allow
         api db 80/udp allow
         bad db 80/udp deny ingress - tier-default",
    );
    stage.check(Over::V6, "web db 80/udp deny ingress - tier-default");
}

#[test]
fn order_decides_and_names_break_ties() {
    let stage = Stage::new(&[]);
    let policy = |name: &str, order: &str, action: &str, port: u16| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n\
             metadata: {{name: {name}}}\nspec: {{selector: app == 'db', {order} ingress: \
             [{{action: {action}, protocol: TCP, destination: {{ports: [{port}]}}}}]}}\n"
        )
    };
    stage.apply(
        &[
            // The lower order wins, whatever the names.
            policy("z-first", "order: 1,", "Deny", 1),
            policy("a-later", "order: 2,", "Allow", 1),
            // No order is last.
            policy("a-none", "", "Deny", 2),
            policy("z-some", "order: 5000,", "Allow", 2),
            // The same order: by name.
            policy("tie-a", "order: 7,", "Allow", 3),
            policy("tie-b", "order: 7,", "Deny", 3),
            policy("tie-c", "order: 7,", "Deny", 4),
            policy("tie-d", "order: 7,", "Allow", 4),
        ]
        .concat(),
    );
    stage.check(
        Over::Both,
        "web db 1/tcp deny ingress /z-first ingress[0]
         web db 2/tcp allow
         web db 3/tcp allow
         web db 4/tcp deny ingress /tie-c ingress[0]
         web db 5/tcp deny ingress - tier-default",
    );
    stage.delete(&["gnp", "z-first", "tie-c"]);
    stage.check(
        Over::Both,
        "web db 1/tcp allow
         web db 4/tcp allow",
    );
}
