//! How findings are reported: all at once, each with its place.

use super::*;

#[test]
fn kinds() {
    for (text, path, part) in [
        ("just text", "", "must be a mapping"),
        ("[]", "", "must be a mapping"),
        ("kind: NetworkPolicy", "apiVersion", "is missing"),
        ("apiVersion: v1", "kind", "is missing"),
        ("{apiVersion: 1, kind: Namespace}", "apiVersion", "must be a string"),
        (
            "{apiVersion: v1, kind: NetworkPolicy}",
            "apiVersion",
            "`projectcalico.org/v3` or `networking.k8s.io/v1`",
        ),
        (
            "{apiVersion: crd.projectcalico.org/v1, kind: GlobalNetworkPolicy}",
            "apiVersion",
            "projectcalico.org/v3",
        ),
        (
            "{apiVersion: projectcalico.org/v3, kind: NetworkPolice}",
            "kind",
            "did you mean `NetworkPolicy`?",
        ),
        ("{apiVersion: v1, kind: Pod}", "kind", "supported are projectcalico.org/v3 NetworkPolicy"),
        ("{apiVersion: v1, kind: Tier}", "apiVersion", "write `projectcalico.org/v3`"),
        ("{apiVersion: projectcalico.org/v3, kind: Profile}", "kind", "not supported yet"),
    ] {
        let diagnostics = decode(&value(text)).expect_err(text);
        let [diagnostic] = diagnostics.as_slice() else { panic!("{text}: {diagnostics:?}") };
        assert_eq!(diagnostic.path, path, "{text}: {diagnostic}");
        assert!(diagnostic.to_string().contains(part), "{text}: {diagnostic}");
    }
}

#[test]
fn everything_is_reported_at_once_and_nothing_twice() {
    let text = np(
        "order: high\nslector: all()\ntier: x_y\ningress:\n- action: 5\n  protocl: TCP\n- action: \
         Alow\n  source: {nets: [10.0.0.1]}",
    );
    check(
        "many",
        &text,
        &[
            ("spec.order", "write a number"),
            ("spec.slector", "did you mean `selector`?"),
            ("spec.tier", "not the name of a tier"),
            ("spec.ingress[0].action", "in quotes"),
            ("spec.ingress[0].protocl", "did you mean `protocol`?"),
            ("spec.ingress[1].action", "did you mean `Allow`?"),
            ("spec.ingress[1].source.nets[0]", "10.0.0.1/32"),
        ],
    );
}

#[test]
fn findings_name_file_line_column_and_field() {
    let text = "\
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  name: db
spec:
  selector: app = 'db'
  ingress:
  - action: Allow
    protocol: TCP
    source:
      nets: [10.0.0.0/40]
    destination:
      ports: [0, 70000, '90:80']
  - action: Alow
    slector: all()
---
{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {}}
";
    let mut found = Vec::new();
    for document in yaml::read("db.yaml", text.as_bytes()).unwrap() {
        let diagnostics = decode(&document.value).unwrap_err();
        found.extend(diagnostics.into_iter().map(|diagnostic| {
            let text = document.locate(diagnostic).to_string();
            text.split(" (").next().unwrap_or_default().to_owned()
        }));
    }
    found.sort();
    assert_eq!(
        found,
        [
            "db.yaml:12:14: error: spec.ingress[0].source.nets[0]: `10.0.0.0/40` is not a network",
            "db.yaml:14:15: error: spec.ingress[0].destination.ports[0]: 0 is not a port",
            "db.yaml:14:18: error: spec.ingress[0].destination.ports[1]: 70000 is not a port",
            "db.yaml:14:25: error: spec.ingress[0].destination.ports[2]: the range 90:80 ends before it \
             begins",
            "db.yaml:15:5: error: spec.ingress[1].action: `Alow` is not an action",
            "db.yaml:16:5: error: spec.ingress[1].slector: unknown field `slector`",
            "db.yaml:18:43: error: metadata.name: `metadata.name` is missing",
            "db.yaml:7:3: error: spec.selector: not a selector: at byte 4: expected `==`, found `=`",
        ]
    );
}
