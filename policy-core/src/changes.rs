//! What differs between two sets of resources, field by field.
//!
//! In: resources as their authors wrote them, before and after. Out: a [`ResourceChange`] for each
//! that is not the same. Lists are aligned, so that one more rule at the top of a policy is one
//! more rule and not a change of all of them; lists of plain values, such as networks, are compared
//! as sets, however long they are.

use std::collections::{BTreeMap, BTreeSet};

use policy_api::{
    difference::{FieldChange, ResourceChange},
    messages::{Outcome, ResourceName},
};
use serde_json::Value;

/// Largest product of the lengths of two lists that are aligned; beyond, entries are compared by
/// place.
const MAX_ALIGNED: usize = 1 << 20;

/// What of a resource is shown if all of it is new or gone.
const PARTS: [&str; 2] = ["metadata", "spec"];
/// What is not shown then, because the name of the resource says it.
const NAMES: [&str; 2] = ["metadata.name", "metadata.namespace"];

/// The resources that are not the same before and after, by name.
pub fn resources<'a>(
    before: impl IntoIterator<Item = (&'a ResourceName, &'a Value)>,
    after: impl IntoIterator<Item = (&'a ResourceName, &'a Value)>,
) -> Vec<ResourceChange> {
    let mut all: BTreeMap<&ResourceName, [Option<&Value>; 2]> = BTreeMap::new();
    for (name, value) in before {
        all.entry(name).or_default()[0] = Some(value);
    }
    for (name, value) in after {
        all.entry(name).or_default()[1] = Some(value);
    }
    let change = |(name, [before, after]): (&ResourceName, [Option<&Value>; 2])| {
        let outcome = match (before, after) {
            (None, Some(_)) => Outcome::Created,
            (Some(_), None) => Outcome::Deleted,
            (Some(before), Some(after)) if before != after => Outcome::Configured,
            _ => return None,
        };
        Some(ResourceChange { resource: name.clone(), outcome, fields: fields(before, after) })
    };
    all.into_iter().filter_map(change).collect()
}

fn fields(before: Option<&Value>, after: Option<&Value>) -> Vec<FieldChange> {
    let mut found = Vec::new();
    if let (Some(before), Some(after)) = (before, after) {
        compare("", before, after, &mut found);
        return found;
    }
    for part in PARTS {
        let [before, after] =
            [before, after].map(|value| value.and_then(|value| value.get(part)).cloned());
        let fields = [&before, &after].into_iter().flatten().filter_map(Value::as_object);
        for name in fields.flat_map(|fields| fields.keys()) {
            let path = format!("{part}.{name}");
            let of = |value: &Option<Value>| value.as_ref()?.get(name).cloned();
            if !NAMES.contains(&path.as_str()) {
                found.push(FieldChange { path, before: of(&before), after: of(&after) });
            }
        }
    }
    found
}

fn compare(path: &str, before: &Value, after: &Value, found: &mut Vec<FieldChange>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match (old.get(name), new.get(name)) {
                    (Some(old), Some(new)) => compare(&path, old, new, found),
                    (old, new) => {
                        found.push(FieldChange { path, before: old.cloned(), after: new.cloned() });
                    }
                }
            }
        }
        (Value::Array(old), Value::Array(new)) if plain(old) && plain(new) => {
            let (gone, come) = (missing(old, new), missing(new, old));
            if gone.is_empty() && come.is_empty() {
                // Another order, or a value more often.
                found.push(changed(path, before, after));
                return;
            }
            let some = |values: Vec<Value>| (!values.is_empty()).then_some(Value::Array(values));
            found.push(FieldChange {
                path: path.to_owned(),
                before: some(gone),
                after: some(come),
            });
        }
        (Value::Array(old), Value::Array(new)) => lists(path, old, new, found),
        _ => found.push(changed(path, before, after)),
    }
}

fn changed(path: &str, before: &Value, after: &Value) -> FieldChange {
    FieldChange { path: path.to_owned(), before: Some(before.clone()), after: Some(after.clone()) }
}

fn plain(values: &[Value]) -> bool {
    !values.iter().any(|value| value.is_object() || value.is_array())
}

/// What of `some` is not in `others`.
fn missing(some: &[Value], others: &[Value]) -> Vec<Value> {
    let others: BTreeSet<String> = others.iter().map(Value::to_string).collect();
    some.iter().filter(|value| !others.contains(&value.to_string())).cloned().collect()
}

/// Lists of mappings: entries that are the same stay; between them, entries are paired in order.
fn lists(path: &str, old: &[Value], new: &[Value], found: &mut Vec<FieldChange>) {
    let mut anchors = aligned(old, new);
    anchors.push((old.len(), new.len()));
    let (mut from, mut to) = (0, 0);
    for (anchor_old, anchor_new) in anchors {
        let (gone, come) = (&old[from..anchor_old], &new[to..anchor_new]);
        // Where only some of them have a counterpart, nobody can say which.
        let pairs = if gone.len() == come.len() { gone.len() } else { 0 };
        for (index, (gone, come)) in gone.iter().zip(come).take(pairs).enumerate() {
            compare(&format!("{path}[{}]", to + index), gone, come, found);
        }
        for (index, gone) in gone.iter().enumerate().skip(pairs) {
            let path = format!("{path}[{}]", from + index);
            found.push(FieldChange { path, before: Some(gone.clone()), after: None });
        }
        for (index, come) in come.iter().enumerate().skip(pairs) {
            let path = format!("{path}[{}]", to + index);
            found.push(FieldChange { path, before: None, after: Some(come.clone()) });
        }
        (from, to) = (anchor_old + 1, anchor_new + 1);
    }
}

/// A longest common subsequence, as places in both lists.
fn aligned(old: &[Value], new: &[Value]) -> Vec<(usize, usize)> {
    if old.len().saturating_mul(new.len()) > MAX_ALIGNED {
        let same = |index: &usize| old[*index] == new[*index];
        return (0..old.len().min(new.len())).filter(same).map(|index| (index, index)).collect();
    }
    // `longest[i][j]` of the ends of both lists from `i` and `j` on.
    let mut longest = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i][j] = if old[i] == new[j] {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut pairs = Vec::new();
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if longest[i + 1][j] >= longest[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn diff(before: &Value, after: &Value) -> Vec<(String, Option<Value>, Option<Value>)> {
        let fields = fields(Some(before), Some(after)).into_iter();
        fields.map(|field| (field.path, field.before, field.after)).collect()
    }

    #[test]
    fn one_more_rule_at_the_top_is_one_more_rule() {
        let rule = |port: u16| json!({"action": "Allow", "destination": {"ports": [port]}});
        let before = json!({"spec": {"ingress": [rule(80), rule(443)]}});
        let after = json!({"spec": {"ingress": [rule(22), rule(80), rule(443)]}});
        let path = || "spec.ingress[0]".to_owned();
        assert_eq!(diff(&before, &after), [(path(), None, Some(rule(22)))]);
        assert_eq!(diff(&after, &before), [(path(), Some(rule(22)), None)]);
    }

    #[test]
    fn a_changed_rule_is_told_by_its_field_at_its_new_place() {
        let rule =
            |ports: &[u16]| json!({"action": "Allow", "destination": {"ports": ports.to_vec()}});
        let before = json!({"spec": {"ingress": [rule(&[80, 81]), rule(&[1])]}});
        let after = json!({"spec": {"ingress": [rule(&[80, 443]), rule(&[1])], "order": 1}});
        assert_eq!(
            diff(&before, &after),
            [
                (
                    "spec.ingress[0].destination.ports".to_owned(),
                    Some(json!([81])),
                    Some(json!([443]))
                ),
                ("spec.order".to_owned(), None, Some(json!(1))),
            ]
        );
    }

    #[test]
    fn an_order_of_plain_values_that_changes_is_a_change() {
        let (before, after) = (json!({"nets": ["a", "b"]}), json!({"nets": ["b", "a"]}));
        assert_eq!(
            diff(&before, &after),
            [("nets".to_owned(), Some(json!(["a", "b"])), Some(json!(["b", "a"])))]
        );
    }

    #[test]
    fn a_million_networks_are_compared_as_a_set() {
        let nets: Vec<Value> = (0..1_000_000_u32).map(|net| json!(format!("n{net}"))).collect();
        let before = json!({"nets": nets[1..]});
        let after = json!({"nets": nets[..999_999]});
        assert_eq!(
            diff(&before, &after),
            [("nets".to_owned(), Some(json!(["n999999"])), Some(json!(["n0"])))]
        );
    }

    #[test]
    fn a_new_resource_is_told_without_the_name_that_it_has_in_the_heading() {
        let value = json!({"apiVersion": "v1", "kind": "Namespace",
                           "metadata": {"name": "shop", "labels": {"a": "b"}}});
        let name = ResourceName {
            api_version: "v1".to_owned(),
            kind: "Namespace".to_owned(),
            namespace: None,
            name: "shop".to_owned(),
        };
        let [change] = &resources([], [(&name, &value)])[..] else { panic!("one change") };
        assert_eq!(change.outcome, Outcome::Created);
        let [field] = &change.fields[..] else { panic!("{:?}", change.fields) };
        assert_eq!(field.path, "metadata.labels");
        assert_eq!((&field.before, &field.after), (&None, &Some(json!({"a": "b"}))));
        assert!(resources([(&name, &value)], [(&name, &value)]).is_empty());
    }
}
