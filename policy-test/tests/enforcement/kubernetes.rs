//! `networking.k8s.io/v1` NetworkPolicy.

use crate::stage::{Over, Stage};

#[test]
fn pods_and_namespaces_are_selected() {
    let stage = Stage::new(&[]);
    stage.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 8000, endPort: 8002}, {port: pg}]
  - from:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}}
      podSelector: {matchExpressions: [{key: app, operator: In, values: [bad]}]}
    ports: [{protocol: UDP, port: 53}]",
    );
    stage.check(
        Over::Both,
        "web db 8000/tcp allow
         web db 8002/tcp allow
         web db 8003/tcp deny ingress - tier-default
         web db 5432/tcp allow
         web db 53/udp deny ingress - tier-default
         api db 8000/tcp deny ingress - tier-default
         bad db 8000/tcp deny ingress - tier-default
         bad db 53/udp allow
         db bad 53/udp allow",
    );
}

#[test]
fn blocks_have_exceptions() {
    let stage = Stage::new(&[]);
    stage.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress:
  - to:
    - ipBlock: {cidr: 10.77.0.0/24, except: [10.77.0.5/32]}
    - ipBlock: {cidr: 'fd77::/64', except: ['fd77::5/128']}",
    );
    stage.check(
        Over::Both,
        "web db 80/tcp allow
         web host 80/tcp allow
         web bad 80/tcp deny egress - tier-default
         bad web 80/tcp allow",
    );
}

#[test]
fn policies_are_a_union() {
    let stage = Stage::new(&[]);
    let policy = |name: &str, from: &str| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
             metadata: {{name: {name}, namespace: shop}}\n\
             spec: {{podSelector: {{matchLabels: {{app: db}}}}, policyTypes: [Ingress], {from}}}\n"
        )
    };
    stage.apply(
        &[
            policy("closed", "ingress: []"),
            policy("web", "ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]"),
        ]
        .concat(),
    );
    stage.check(
        Over::Both,
        "web db 80/tcp allow
         web db ping allow
         api db 80/tcp deny ingress - tier-default
         bad db 80/tcp deny ingress - tier-default",
    );
    stage.delete(&["networkpolicies.networking.k8s.io", "web", "-n", "shop"]);
    stage.check(Over::Both, "web db 80/tcp deny ingress - tier-default");
}
