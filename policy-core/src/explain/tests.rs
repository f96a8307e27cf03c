use super::*;
use crate::{
    policy::{Action, FlowLimit},
    testing::{self, net},
};

fn model() -> Model {
    let mut model = Model::default();
    testing::add_endpoint(
        &mut model,
        "w",
        testing::endpoint(0, "web", "web", &["10.0.0.1", "fd00::1"]),
    );
    testing::add_endpoint(
        &mut model,
        "d",
        testing::endpoint(1, "db", "db", &["10.0.0.2", "fd00::2"]),
    );
    let mut other = testing::endpoint(2, "web", "web", &["10.0.0.3"]);
    other.namespace = "blog".to_owned();
    testing::add_endpoint(&mut model, "b", other);
    let mut allow = testing::any_rule(Action::Allow);
    allow.source.selector = Some(testing::selector("app == 'web'"));
    allow.protocol.is = Some(6);
    allow.destination.ports = vec![crate::policy::PortMatch::Range(5432, 5432)];
    testing::add_policy(&mut model, testing::policy("db", "app == 'db'", vec![allow]));
    model
}

fn ask(
    model: &Model,
    source: &str,
    destination: &str,
    port: u16,
) -> Result<Explanation, ExplainError> {
    let request = ExplainRequest {
        source: source.to_owned(),
        destination: destination.to_owned(),
        protocol: 6,
        port,
        source_port: None,
    };
    explain(model, &request)
}

#[test]
fn both_ends_and_both_families_are_explained() {
    let found = ask(&model(), "shop/web", "db", 5432).unwrap();
    assert_eq!(found.verdict, Verdict::Allow);
    assert_eq!(found.paths.len(), 2);
    let ends = &found.paths[0].ends;
    assert_eq!(ends[0].direction, "egress");
    assert_eq!(ends[0].rule.rule, "endpoint-default");
    assert_eq!(ends[1].endpoint.as_deref(), Some("shop/db"));
    assert_eq!(
        ends[1].walk,
        ["tier default: NetworkPolicy shop/db applies", "  ingress[0] allow: match",]
    );
}

#[test]
fn a_denial_says_which_condition_failed_and_why_that_denies() {
    let found = ask(&model(), "203.0.113.9", "10.0.0.2", 5432).unwrap();
    assert_eq!(found.verdict, Verdict::Deny);
    let ends = &found.paths[0].ends;
    assert_eq!(
        ends[0].walk,
        ["203.0.113.9 is no endpoint of this host: nothing is enforced there"]
    );
    assert_eq!(
        ends[1].walk,
        [
            "tier default: NetworkPolicy shop/db applies",
            "  ingress[0] allow: no match, 203.0.113.9 is not selected by `app == \"web\"`",
            "end of tier default: deny, because no rule matched of the policies that apply \
             (NetworkPolicy shop/db)",
        ]
    );
    let port = ask(&model(), "shop/web", "db", 80).unwrap();
    assert_eq!(
        port.paths[0].ends[1].walk[1],
        "  ingress[0] allow: no match, port 80 is none of the rule's"
    );
}

#[test]
fn an_uplink_that_blocks_the_source_is_said() {
    let mut model = model();
    let mut deny = testing::any_rule(Action::Deny);
    deny.source.nets = vec![net("203.0.113.0/24")];
    let mut block = testing::policy("block", "all()", vec![deny]);
    block.untracked = true;
    testing::add_policy(&mut model, block);
    model.uplinks.insert(2, testing::labels(&[]));
    let found = ask(&model, "203.0.113.9", "shop/web", 80).unwrap();
    assert_eq!(found.verdict, Verdict::Deny);
    assert_eq!(found.paths[0].ends[0].rule.policy, "block");
    assert_eq!(ask(&model, "198.51.100.9", "shop/web", 80).unwrap().verdict, Verdict::Allow);
}

#[test]
fn a_limit_of_new_flows_is_said() {
    let mut model = model();
    let mut limit = testing::policy("limit", "all()", Vec::new());
    limit.untracked = true;
    limit.new_flows = Some(FlowLimit { per_second: 20, burst: 50 });
    testing::add_policy(&mut model, limit);
    model.uplinks.insert(2, testing::labels(&[("palisade.io/interface", "eth0")]));
    let open = ask(&model, "203.0.113.9", "shop/web", 80).unwrap().paths.remove(0).ends;
    assert!(!open[0].walk.iter().any(|line| line.contains("begin")), "{:?}", open[0].walk);
    model.noting_uplinks.insert(2);
    let ends = ask(&model, "203.0.113.9", "shop/web", 80).unwrap().paths.remove(0).ends;
    assert_eq!(
        ends[0].walk,
        [
            "uplink eth0: untracked NetworkPolicy shop/limit lets each source begin 20 flows a \
             second, 50 at once after a rest",
            "203.0.113.9 is no endpoint of this host: nothing is enforced there",
        ]
    );
    // What leaves the host is not limited.
    let ends = ask(&model, "shop/web", "203.0.113.9", 80).unwrap().paths.remove(0).ends;
    assert!(ends[1].walk.iter().all(|line| !line.contains("each source")), "{ends:?}");
}

#[test]
fn an_unclear_question_is_refused() {
    assert_eq!(ask(&model(), "nobody", "db", 80), Err(ExplainError::Unknown("nobody".to_owned())));
    assert_eq!(
        ask(&model(), "web", "db", 80),
        Err(ExplainError::Ambiguous {
            name: "web".to_owned(),
            candidates: vec!["blog/web".to_owned(), "shop/web".to_owned()],
        })
    );
    assert!(matches!(ask(&model(), "fd00::9", "blog/web", 80), Err(ExplainError::NoPath { .. })));
}

#[test]
fn the_policies_of_an_endpoint_are_listed_in_order() {
    let model = model();
    let db = EndpointId("d".to_owned());
    assert_eq!(evaluate::applied(&model, &db, Direction::Ingress), ["default/shop/db"]);
    assert_eq!(evaluate::applied(&model, &db, Direction::Egress), [""; 0]);
}
