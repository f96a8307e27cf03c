//! Policies that are made from what a real agent saw, applied to it: what was seen passes, and nothing else does.

use policy_test::wait;

use crate::stage::{LIMIT, Over, Stage};

/// What happens while everything is allowed: between workloads, and from and to the host.
const SEEN: &str = "
    web db 5432/tcp allow
    web db 53/udp allow
    api web 80/tcp allow
    bad api ping allow
    host web 80/tcp allow
    db host 53/udp allow";
const WORKLOADS: [&str; 4] = ["web", "api", "db", "bad"];
const SERVICES: [&str; 4] = ["5432/tcp", "80/tcp", "53/udp", "ping"];
/// Ends that tell of it: two for each line between workloads, one for the others, in both families.
const TOLD: usize = 2 * (4 * 2 + 2);

/// A host on which all of it has happened, and been told of.
fn observed() -> Stage {
    let stage = Stage::new(&[]);
    stage.check(Over::Both, SEEN);
    wait::until("all of it is told", 6 * LIMIT, || {
        let records = stage.observe(&["--verdict", "allow", "--since", "1h"]);
        let mut ends: Vec<_> = records
            .into_iter()
            .map(|it| (it.source.ip, it.destination.ip, it.destination.port, it.direction))
            .collect();
        ends.sort_unstable();
        ends.dedup();
        ends.len() >= TOLD
    })
    .unwrap();
    stage
}

/// Exit code, policies and notes.
fn generate(stage: &Stage, arguments: &[&str]) -> (Option<i32>, String, String) {
    let words = [&["generate", "--since", "1h"], arguments].concat();
    let output = stage.agent.policyctl(&words).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Of all services of all workloads from all others those that answer, but for those of [`SEEN`], which do.
fn others_reached(stage: &Stage) -> Vec<String> {
    let mut reached = Vec::new();
    for from in WORKLOADS {
        for to in WORKLOADS.into_iter().filter(|to| *to != from) {
            for service in SERVICES {
                let attempt = format!("{from} {to} {service}");
                if !SEEN.contains(&attempt) && stage.reaches(from, to, service, Over::V4) {
                    reached.push(attempt);
                }
            }
        }
    }
    reached
}

#[test]
fn what_was_seen_passes_and_nothing_else() {
    let stage = observed();
    let (code, policies, notes) = generate(&stage, &[]);
    assert_eq!(code, Some(0), "{notes}");
    stage.apply(&policies);
    stage.check(Over::Both, SEEN);
    assert_eq!(others_reached(&stage), [""; 0], "{policies}");
}

#[test]
fn in_the_form_of_kubernetes_what_it_cannot_say_is_named() {
    let stage = observed();
    let (code, policies, notes) = generate(&stage, &["--form", "kubernetes"]);
    assert_eq!(code, Some(2));
    for (policy, ping) in
        [("other/generated-bad", "to `shop/api`"), ("shop/generated-api", "from `other/bad`")]
    {
        let note = notes.lines().find(|line| line.starts_with(policy)).unwrap_or_default();
        for kind in ["ICMP type 8 code 0", "ICMPv6 type 128 code 0"] {
            assert!(note.contains(&format!("{kind} {ping}")), "{notes}");
        }
    }
    stage.apply(&policies);
    let said: Vec<_> = SEEN.lines().filter(|line| !line.contains("ping")).collect();
    let said = said.join("\n");
    stage.check(Over::Both, &said);
    for (from, to, service) in
        [("bad", "api", "ping"), ("api", "db", "5432/tcp"), ("web", "db", "80/tcp")]
    {
        assert!(!stage.reaches(from, to, service, Over::V4), "{from} {to} {service}: {policies}");
    }
}

#[test]
fn staged_it_denies_nothing_and_says_what_it_would() {
    let stage = observed();
    let (_, policies, _) = generate(&stage, &["--staged", "--for", "shop/db"]);
    stage.apply(&policies);
    stage.check(Over::V4, "web db 5432/tcp allow\n api db 5432/tcp allow");
    let told = || stage.observe(&["--event", "staged", "--last", "100"]);
    wait::until("what is staged to be told", LIMIT, || !told().is_empty()).unwrap();
    let told = told();
    let told: Vec<_> = told.iter().map(|it| it.source.name.as_str()).collect();
    assert_eq!(told, ["api"]);
}
