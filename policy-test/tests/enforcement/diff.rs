//! What `policyctl diff` says of a change is what packets meet once it is made.

use policy_api::difference::{DiffRequest, Difference, Effect, End};

use crate::stage::{Over, Stage};

const DB: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: app == 'web'}, destination: {ports: [5432]}}
";

fn diff(stage: &Stage, yaml: &str) -> Difference {
    let request = DiffRequest {
        resources: vec![policy_api::yaml::read("diff", yaml.as_bytes()).unwrap()[0].value.clone()],
        ..DiffRequest::default()
    };
    let body = serde_json::to_string(&request).unwrap();
    let answer = stage.agent.request("POST", "/v1/diff", Some(&body)).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json().unwrap()
}

/// `effect source -> destination services`, sorted.
fn told(difference: &Difference) -> Vec<String> {
    let end = |end: &End| match end {
        End::Endpoint { name, .. } => name.clone(),
        End::Network { name, .. } => name.clone(),
        End::Host => "host".to_owned(),
        End::World => "world".to_owned(),
    };
    let ends = |ends: &[End]| ends.iter().map(end).collect::<Vec<_>>().join(",");
    let mut told: Vec<String> = difference
        .reach
        .connections
        .iter()
        .map(|it| {
            let effect = match it.effect {
                Effect::Opened => "opened",
                Effect::Cut => "cut",
            };
            let (from, to) = (ends(&it.sources), ends(&it.destinations));
            format!("{effect} {from} -> {to} {}", it.services.join(","))
        })
        .collect();
    told.sort();
    told
}

#[test]
fn a_difference_comes_true_and_changes_nothing_by_itself() {
    let stage = Stage::new(&[]);
    let open = "
        web db 5432/tcp allow
        web db 80/tcp allow
        api db 5432/tcp allow
        host db 5432/tcp allow";
    stage.check(Over::Both, open);
    let revision = stage.agent.status().unwrap().revision;
    let first = diff(&stage, DB);
    assert_eq!(
        told(&first),
        ["cut bad,api,host,world -> db all", "cut web -> db all but 5432/tcp"]
    );
    assert_eq!(first.reach.endpoints, 4);
    assert_eq!(stage.agent.status().unwrap().revision, revision);
    stage.check(Over::Both, open);

    stage.apply(DB);
    stage.check(
        Over::Both,
        "web db 5432/tcp allow
         web db 80/tcp deny ingress - tier-default
         api db 5432/tcp deny ingress - tier-default
         host db 5432/tcp deny ingress - tier-default",
    );
    assert!(diff(&stage, DB).is_empty());

    let wider = DB.replace("[5432]", "[5432, 80]");
    assert_eq!(told(&diff(&stage, &wider)), ["opened web -> db 80/tcp"]);
    stage.apply(&wider);
    stage.check(Over::Both, "web db 80/tcp allow\napi db 80/tcp deny ingress - tier-default");
}

#[test]
fn a_diff_is_refused_as_an_apply_is() {
    let stage = Stage::new(&[]);
    let body = r#"{"resources": [{"apiVersion": "v1", "kind": "Pod"}]}"#;
    let answer = stage.agent.request("POST", "/v1/diff", Some(body)).unwrap();
    assert_eq!(answer.status, 422, "{}", answer.text());
    let output = stage.agent.policyctl(&["diff", "--delete", "gnp/nothing"]).unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
