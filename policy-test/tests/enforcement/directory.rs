//! The directory of policies that the agent follows.

use std::fs;

use policy_test::wait;

use crate::stage::{LIMIT, Over, Stage};

const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec: {selector: app == 'db', ingress: [{action: Allow, source: {selector: app == 'web'}}]}
";

/// The order in which a reader may see a file half written is none: it is renamed into place.
fn put(stage: &Stage, name: &str, content: &str) {
    let path = stage.agent.policy_dir().join(name);
    let hidden = stage.agent.policy_dir().join(format!(".{name}"));
    fs::write(&hidden, content).unwrap();
    fs::rename(hidden, path).unwrap();
}

/// Waits until a change of the directory has reached the datapath.
fn after(stage: &Stage, change: impl FnOnce()) {
    let before = stage.agent.status().unwrap().revision;
    change();
    wait::until("the datapath to follow the directory", LIMIT, || {
        stage.agent.status().is_ok_and(|status| status.revision > before)
    })
    .unwrap();
}

#[test]
fn files_are_enforced_followed_and_forgotten() {
    let stage = Stage::new(&[]);
    stage.check(Over::V4, "api db 80/tcp allow");
    after(&stage, || put(&stage, "db.yaml", POLICY));
    let closed = "
        web db 80/tcp allow
        api db 80/tcp deny ingress - tier-default";
    stage.check(Over::Both, closed);
    after(&stage, || put(&stage, "db.yaml", &POLICY.replace("'web'", "'api'")));
    let turned = "
        web db 80/tcp deny ingress - tier-default
        api db 80/tcp allow";
    stage.check(Over::Both, turned);

    // An applied resource of the same name loses, and is told so.
    let error = format!("{:#}", stage.agent.apply(POLICY).unwrap_err());
    assert!(error.contains("db.yaml") && error.contains("policy directory"), "{error}");

    // A broken file: the last good state of all files stays, and the status says why.
    put(
        &stage,
        "broken.yaml",
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nspec: {x: 1}",
    );
    let component = |healthy: bool| {
        wait::for_some("the status to say so", LIMIT, || {
            let status = stage.agent.status().ok()?;
            status
                .components
                .into_iter()
                .find(|it| it.name.contains("policy") && it.healthy == healthy)
        })
        .unwrap()
    };
    let said = component(false);
    assert!(said.detail.contains("broken.yaml"), "{said:?}");
    let output = stage.agent.policyctl(&["status"]).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    put(&stage, "db.yaml", POLICY);
    stage.check(Over::V4, turned);
    assert_eq!(component(false).detail, said.detail);

    // Corrected: both files are read.
    after(&stage, || fs::remove_file(stage.agent.policy_dir().join("broken.yaml")).unwrap());
    component(true);
    stage.check(Over::V4, closed);
    after(&stage, || fs::remove_file(stage.agent.policy_dir().join("db.yaml")).unwrap());
    stage.check(Over::Both, "web db 80/tcp allow\napi db 80/tcp allow");
}

#[test]
fn an_agent_that_starts_on_a_broken_file_enforces_what_was_applied() {
    let mut stage = Stage::new(&[]);
    stage.apply(POLICY);
    assert!(stage.agent.terminate().unwrap().success());
    put(&stage, "broken.yaml", "a: [");
    stage.agent.start().unwrap();
    stage.check(
        Over::V4,
        "web db 80/tcp allow
         api db 80/tcp deny ingress - tier-default",
    );
}
