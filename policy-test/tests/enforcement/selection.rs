//! Who a rule speaks of: selectors of workloads, of namespaces, and of network sets.

use crate::stage::{Over, Stage};

#[test]
fn selectors_name_peers_by_label() {
    let stage = Stage::new(&[]);
    stage.apply(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: app == 'web' || app == 'bad'}}
  - {action: Allow, protocol: UDP, source: {notSelector: app == 'web'}}",
    );
    stage.check(
        Over::Both,
        "web db 80/tcp allow
         api db 80/tcp deny ingress - tier-default
         bad db 80/tcp deny ingress - tier-default
         web db 80/udp deny ingress - tier-default
         api db 80/udp allow",
    );
}

#[test]
fn a_global_policy_reaches_across_namespaces() {
    let stage = Stage::new(&[]);
    stage.apply(
        "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: db}
spec:
  selector: app == 'db'
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: app == 'bad'}}
  - {action: Allow, protocol: UDP, source: {namespaceSelector: projectcalico.org/name == 'other'}}
  - {action: Allow, protocol: UDP, source: {selector: app == 'web', namespaceSelector: team == 'a'}}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}",
    );
    stage.check(
        Over::Both,
        "bad db 80/tcp allow
         web db 80/tcp deny ingress - tier-default
         bad db 80/udp allow
         web db 80/udp allow
         api db 80/udp deny ingress - tier-default",
    );
}

#[test]
fn a_policy_of_a_namespace_selects_its_own_workloads_only() {
    let stage = Stage::new(&[]);
    stage.apply(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {selector: fenced == 'yes', types: [Ingress]}",
    );
    stage.check(
        Over::Both,
        "bad web 80/tcp deny ingress - tier-default
         web api 80/tcp deny ingress - tier-default
         web bad 80/tcp allow
         web host 80/tcp allow",
    );
}

#[test]
fn network_sets_are_selected_by_label_and_follow_their_networks() {
    let stage = Stage::new(&[]);
    let set = |nets: &str| {
        stage.apply(&format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\n\
             metadata: {{name: partners, labels: {{role: partner}}}}\nspec: {{nets: [{nets}]}}"
        ));
    };
    set("10.77.0.2/32, 'fd77::2/128'");
    stage.apply(
        "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: db}
spec:
  selector: app == 'db'
  ingress: [{action: Allow, source: {selector: role == 'partner'}}]",
    );
    stage.check(
        Over::Both,
        "web db 80/tcp allow
         api db 80/tcp deny ingress - tier-default
         bad db 80/tcp deny ingress - tier-default",
    );
    set("10.77.0.4/31, 'fd77::3/128'");
    stage.check(
        Over::V4,
        "web db 80/tcp deny ingress - tier-default
         bad db 80/tcp allow",
    );
    stage.check(
        Over::V6,
        "bad db 80/tcp deny ingress - tier-default
         api db 80/tcp allow",
    );
}
