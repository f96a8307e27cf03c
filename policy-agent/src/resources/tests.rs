use serde_json::json;

use super::*;

fn policy(name: &str, order: u32) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
           "metadata": {"name": name}, "spec": {"selector": "all()", "order": order}})
}

fn outcomes(checked: &Checked) -> Vec<Outcome> {
    checked.results.iter().map(|result| result.outcome).collect()
}

#[test]
fn an_apply_says_what_is_new_changed_and_unchanged() {
    let first = Resources::default().apply(vec![policy("a", 1), policy("b", 1)]).unwrap();
    assert_eq!(outcomes(&first), [Outcome::Created, Outcome::Created]);
    let second = first.resources.apply(vec![policy("a", 1), policy("b", 2)]).unwrap();
    assert_eq!(outcomes(&second), [Outcome::Unchanged, Outcome::Configured]);
    assert_eq!(second.changes.len(), 1);
}

#[test]
fn one_bad_resource_refuses_the_request_and_is_named_by_index() {
    let bad = json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
                     "metadata": {"name": "x"}, "spec": {"selector": "a =="}});
    let errors = Resources::default().apply(vec![policy("a", 1), bad]).unwrap_err();
    assert!(errors.iter().all(|error| error.resource == Some(1)), "{errors:?}");
}

#[test]
fn one_name_twice_in_a_request_is_an_error() {
    let errors = Resources::default().apply(vec![policy("a", 1), policy("a", 2)]).unwrap_err();
    assert!(errors[0].message.contains("twice"), "{errors:?}");
}

#[test]
fn a_file_wins_and_says_so() {
    let files = vec![(PathBuf::from("/p/a.yaml"), policy("a", 1))];
    let resources = Resources::default().with_files(vec![policy("a", 9)], files).unwrap();
    let (_, entry) = resources.iter().next().unwrap();
    assert_eq!(entry.value(), policy("a", 1));
    let errors = resources.apply(vec![policy("a", 3)]).unwrap_err();
    assert!(errors[0].message.contains("/p/a.yaml"), "{errors:?}");
}

#[test]
fn what_a_file_hid_is_back_when_the_file_goes() {
    let file = (PathBuf::from("/p/a.yaml"), policy("a", 1));
    let hidden = Resources::default().with_files(vec![policy("a", 9)], vec![file]).unwrap();
    let after = hidden.with_files(hidden.applied(), Vec::new()).unwrap();
    let (_, entry) = after.iter().next().unwrap();
    assert_eq!((entry.value(), &entry.origin), (policy("a", 9), &Origin::Applied));
}

#[test]
fn one_name_in_two_files_is_an_error_that_names_both() {
    let files = ["/p/a.yaml", "/p/b.yaml"].map(|path| (PathBuf::from(path), policy("a", 1)));
    let errors = Resources::default().with_files(Vec::new(), files.into()).unwrap_err();
    let [error] = errors.as_slice() else { panic!("{errors:?}") };
    assert_eq!(error.file.as_deref(), Some("/p/b.yaml"));
    assert!(error.message.contains("/p/a.yaml"), "{error}");
}

#[test]
fn what_is_wrong_in_the_state_directory_is_named_by_file() {
    let at = |name: &str| PathBuf::from(format!("/s/{name}.yaml"));
    let nameless = json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy"});
    let files = vec![(at("a"), policy("a", 1)), (at("b"), policy("a", 2)), (at("c"), nameless)];
    let errors = Resources::stored(files).unwrap_err();
    let [twice, missing] = errors.as_slice() else { panic!("{errors:?}") };
    assert_eq!(twice.file.as_deref(), Some("/s/b.yaml"));
    assert!(twice.message.contains("/s/a.yaml"), "{twice}");
    assert_eq!(missing.file.as_deref(), Some("/s/c.yaml"));
    assert_eq!(missing.path, "metadata.name");

    let stored = Resources::stored(vec![(at("a"), policy("a", 1))]).unwrap();
    assert_eq!(stored.applied(), [policy("a", 1)]);
}

fn in_tier(tier: &str) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
           "metadata": {"name": "p"}, "spec": {"tier": tier}})
}

fn tier(name: &str) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier",
           "metadata": {"name": name}, "spec": {"order": 1}})
}

#[test]
fn a_policy_needs_its_tier() {
    let nothing = Resources::default();
    let errors = nothing.apply(vec![policy("a", 1), in_tier("ops")]).unwrap_err();
    let [error] = errors.as_slice() else { panic!("{errors:?}") };
    assert_eq!((error.resource, error.path.as_str()), (Some(1), "spec.tier"));
    assert!(error.message.contains("`ops`, which does not exist"), "{error}");

    // In the same request, in any order, or before.
    assert!(nothing.apply(vec![in_tier("ops"), tier("ops")]).is_ok());
    let with_tier = nothing.apply(vec![tier("ops")]).unwrap().resources;
    assert!(with_tier.apply(vec![in_tier("ops")]).is_ok());
    assert!(nothing.apply(vec![in_tier("default")]).is_ok());
}

#[test]
fn a_tier_goes_after_its_policies_or_with_them() {
    let both = Resources::default().apply(vec![tier("ops"), in_tier("ops")]).unwrap();
    let [ops, p] = [0, 1].map(|index| both.results[index].resource.clone());
    let errors = both.resources.delete(vec![ops.clone()], false).unwrap_err();
    assert!(errors[0].message.contains("GlobalNetworkPolicy p"), "{errors:?}");
    assert!(both.resources.delete(vec![ops, p], false).is_ok());
}

#[test]
fn a_built_in_tier_stays() {
    let name = ResourceName {
        api_version: "projectcalico.org/v3".to_owned(),
        kind: "Tier".to_owned(),
        namespace: None,
        name: "default".to_owned(),
    };
    let errors = Resources::default().delete(vec![name], true).unwrap_err();
    assert!(errors[0].message.contains("cannot be deleted"), "{errors:?}");
}

#[test]
fn a_file_must_not_take_a_tier_away_from_policies() {
    let nothing = Resources::default();
    let files = |values: &[Value]| -> Vec<(PathBuf, Value)> {
        values.iter().map(|value| (PathBuf::from("/p/a.yaml"), value.clone())).collect()
    };
    let lost = nothing.with_files(vec![in_tier("ops")], Vec::new()).unwrap();
    let whole = nothing.with_files(lost.applied(), files(&[tier("ops")])).unwrap();
    let whole = whole.succeeding(&lost).unwrap();
    let without = nothing.with_files(whole.applied(), Vec::new()).unwrap();
    assert!(without.clone().succeeding(&whole).is_err());
    // The tier was lost while no agent ran: other files are followed all the same.
    assert!(without.succeeding(&lost).is_ok());
    let dangling = nothing.with_files(Vec::new(), files(&[in_tier("ops")])).unwrap();
    let errors = dangling.succeeding(&nothing).unwrap_err();
    assert_eq!(errors[0].file.as_deref(), Some("/p/a.yaml"));
}

#[test]
fn deleting_what_is_not_there_is_an_error_unless_asked_otherwise() {
    let resources = Resources::default().apply(vec![policy("a", 1)]).unwrap();
    let name = resources.results[0].resource.clone();
    let empty = Resources::default();
    assert!(empty.delete(vec![name.clone()], false).is_err());
    assert!(empty.delete(vec![name.clone()], true).unwrap().changes.is_empty());
    let after = resources.resources.delete(vec![name], false).unwrap();
    assert_eq!(outcomes(&after), [Outcome::Deleted]);
    assert_eq!(after.resources, Resources::default());
}

#[test]
fn what_is_in_another_namespace_is_pointed_to() {
    let policy = json!({"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
                        "metadata": {"name": "web", "namespace": "shop"}});
    let here = Resources::default().apply(vec![policy]).unwrap();
    let name =
        ResourceName { namespace: Some("default".to_owned()), ..here.results[0].resource.clone() };
    let errors = here.resources.delete(vec![name], false).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "error: there is no NetworkPolicy web in namespace default (there is one in shop)"
    );
}
