//! By which labels policies select workloads.
//!
//! Labels hold much that says nothing about what a workload is for: numbers of replicas, versions, hashes. So
//! a few well-known ones are asked, and the workload's name where there is none. The first that a workload has is taken;
//! more are added where workloads that share it differ in them. No selector that was chosen here matches a
//! workload of another group: it would get the other's rights.

use std::collections::BTreeMap;

use policy_api::terminal::clean;

use super::{Form, observations::Workload};
use crate::{
    labels::NAME_LABEL,
    validate::names::{is_label_value, is_namespace, is_qualified_name},
};

/// Labels that say what a workload is, the most telling first.
const KEYS: [&str; 8] = [
    "app.kubernetes.io/name",
    "app",
    "com.docker.compose.service",
    "k8s-app",
    "role",
    "component",
    "service",
    "name",
];

/// Labels that tell apart workloads that have one of those in common.
const FURTHER: [&str; 10] = [
    "com.docker.compose.project",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app.kubernetes.io/name",
    "app",
    "com.docker.compose.service",
    "k8s-app",
    "role",
    "component",
    "tier",
];

/// Longest value that is written into a Calico selector, in bytes.
const LONGEST: usize = 256;
/// Longest selector, in bytes; upstream's bound is 1024 characters.
const SELECTOR: usize = 1000;

/// Workloads that a policy cannot tell apart: a namespace, and labels in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) namespace: String,
    pub(super) labels: BTreeMap<String, String>,
}

impl Group {
    /// Whether its selector matches a workload.
    pub(super) fn matches(&self, workload: &Workload) -> bool {
        self.namespace == workload.name.namespace
            && self.labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
    }
}

/// The group of each workload, in their order; `None` for one without a usable label. `keys`: use
/// these labels and no others, though a selector may match more than its group then.
pub(super) fn groups(workloads: &[Workload], keys: &[String], form: Form) -> Vec<Option<Group>> {
    let usable = |workload: &Workload, key: &str| {
        let value = workload.labels.get(key).filter(|value| is_usable(form, key, value))?;
        Some((key.to_owned(), value.clone()))
    };
    let group = |workload: &Workload, labels: BTreeMap<String, String>| {
        let namespace = workload.name.namespace.clone();
        let usable = is_namespace(&namespace) && !labels.is_empty() && fits(&labels);
        usable.then_some(Group { namespace, labels })
    };
    if !keys.is_empty() {
        let labels = |it: &Workload| keys.iter().filter_map(|key| usable(it, key)).collect();
        return workloads.iter().map(|it| group(it, labels(it))).collect();
    }
    let candidates: Vec<Vec<(String, String)>> = workloads
        .iter()
        .map(|it| KEYS.iter().chain([&NAME_LABEL]).filter_map(|key| usable(it, key)).collect())
        .collect();
    // Each round, who was taken for another tries its next label: the last one is its name, which
    // nobody shares, and behind that is none.
    let mut tries = vec![0; workloads.len()];
    loop {
        let mut groups: Vec<Option<Group>> = workloads
            .iter()
            .zip(candidates.iter().zip(&tries))
            .map(|(workload, (labels, tries))| {
                let label = labels.get(*tries).cloned();
                group(workload, label.into_iter().collect())
            })
            .collect();
        for key in FURTHER {
            refine(&mut groups, workloads, |workload| usable(workload, key));
        }
        let confused = confused(&groups, workloads);
        if confused.is_empty() {
            return groups;
        }
        for index in confused {
            tries[index] += 1;
        }
    }
}

/// Adds a label to the groups whose every member has it, if they do not all have the same value.
fn refine(
    groups: &mut [Option<Group>],
    workloads: &[Workload],
    label: impl Fn(&Workload) -> Option<(String, String)>,
) {
    // The first member's label; whether another's differs; whether all have one.
    type Values = (Option<(String, String)>, bool, bool);
    let mut values: BTreeMap<Group, Values> = BTreeMap::new();
    for (group, workload) in groups.iter().zip(workloads) {
        let Some(group) = group else { continue };
        let own = label(workload);
        let (first, differ, all) =
            values.entry(group.clone()).or_insert_with(|| (own.clone(), false, true));
        *differ |= *first != own;
        *all &= own.is_some();
    }
    for (group, workload) in groups.iter_mut().zip(workloads) {
        let Some(group) = group else { continue };
        let Some((_, true, true)) = values.get(group) else { continue };
        let mut labels = group.labels.clone();
        labels.extend(label(workload));
        if fits(&labels) {
            group.labels = labels;
        }
    }
}

/// Workloads whose selector matches one of another group, by index.
fn confused(groups: &[Option<Group>], workloads: &[Workload]) -> Vec<usize> {
    let mut members: BTreeMap<&Group, Vec<usize>> = BTreeMap::new();
    for (index, group) in groups.iter().enumerate() {
        if let Some(group) = group {
            members.entry(group).or_default().push(index);
        }
    }
    // A selector that matches a workload has its first label among that workload's.
    let mut by_label: BTreeMap<(&str, &String, &String), Vec<&Group>> = BTreeMap::new();
    for group in members.keys() {
        if let Some((key, value)) = group.labels.first_key_value() {
            by_label.entry((&group.namespace, key, value)).or_default().push(group);
        }
    }
    let mut confused = Vec::new();
    for (workload, own) in workloads.iter().zip(groups) {
        let labels = workload.labels.iter();
        let found = labels
            .filter_map(|(key, value)| by_label.get(&(&workload.name.namespace, key, value)))
            .flatten();
        for group in found.filter(|it| own.as_ref() != Some(it) && it.matches(workload)) {
            confused.extend(members.remove(*group).into_iter().flatten());
        }
    }
    confused
}

/// Whether a selector has room for the labels, `key == 'value'` each, joined by ` && `.
fn fits(labels: &BTreeMap<String, String>) -> bool {
    labels.iter().map(|(key, value)| key.len() + value.len() + 10).sum::<usize>() <= SELECTOR
}

/// Whether a selector can ask for the label.
fn is_usable(form: Form, key: &str, value: &str) -> bool {
    // Nothing that ends a quoted text, or that a terminal would obey.
    let quotable =
        |value: &str| value.len() <= LONGEST && !value.contains('\'') && clean(value) == value;
    let writable = match form {
        Form::Calico => quotable(value),
        Form::Kubernetes => is_label_value(value),
    };
    writable && !value.is_empty() && is_qualified_name(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::PeerName;

    fn workload(name: &str, labels: &[(&str, &str)]) -> Workload {
        let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
        let labels = labels.iter().copied().chain([(NAME_LABEL, name)]);
        Workload {
            name: PeerName { namespace: namespace.to_owned(), name: name.to_owned() },
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        }
    }

    /// Labels of each group, as `key=value`, or `-`.
    fn chosen(workloads: &[Workload], keys: &[&str], form: Form) -> Vec<String> {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let text = |group: Option<Group>| {
            let labels = group.into_iter().flat_map(|group| group.labels);
            let labels: Vec<_> = labels.map(|(key, value)| format!("{key}={value}")).collect();
            if labels.is_empty() { "-".to_owned() } else { labels.join(" ") }
        };
        groups(workloads, &keys, form).into_iter().map(text).collect()
    }

    const SERVICE: &str = "com.docker.compose.service";
    const PROJECT: &str = "com.docker.compose.project";

    #[test]
    fn labels_tell_apart_what_differs_and_no_replicas() {
        let number = |number| ("com.docker.compose.container-number", number);
        for (workloads, expected) in [
            // Replicas.
            (
                vec![
                    workload("web-1", &[("app", "web"), number("1"), ("version", "1.2")]),
                    workload("web-2", &[("app", "web"), number("2"), ("version", "1.3")]),
                ],
                &["app=web", "app=web"][..],
            ),
            // The same application in parts.
            (
                vec![
                    workload("web", &[("app", "shop"), ("role", "web")]),
                    workload("db", &[("app", "shop"), ("role", "db")]),
                ],
                &["app=shop role=web", "app=shop role=db"],
            ),
            // Compose: the project only where there are two in a namespace.
            (
                vec![
                    workload("a-web-1", &[(SERVICE, "web"), (PROJECT, "a"), number("1")]),
                    workload("a-db-1", &[(SERVICE, "db"), (PROJECT, "a"), number("1")]),
                ],
                &["com.docker.compose.service=web", "com.docker.compose.service=db"],
            ),
            (
                vec![
                    workload("a-web-1", &[(SERVICE, "web"), (PROJECT, "a")]),
                    workload("b-web-1", &[(SERVICE, "web"), (PROJECT, "b")]),
                ],
                &[
                    "com.docker.compose.project=a com.docker.compose.service=web",
                    "com.docker.compose.project=b com.docker.compose.service=web",
                ],
            ),
            // Nothing but a name, and noise.
            (
                vec![workload("web", &[("maintainer", "nobody"), ("palisade.io/image", "web:1")])],
                &["palisade.io/name=web"],
            ),
            // `app=web` alone would be both of them.
            (
                vec![
                    workload("new", &[("app", "web"), ("app.kubernetes.io/name", "web")]),
                    workload("old", &[("app", "web"), ("role", "front")]),
                ],
                &["app.kubernetes.io/name=web", "role=front"],
            ),
            (
                vec![
                    workload("new", &[("app", "web"), ("app.kubernetes.io/name", "web")]),
                    workload("old", &[("app", "web")]),
                ],
                &["app.kubernetes.io/name=web", "palisade.io/name=old"],
            ),
            // Another namespace is another world.
            (
                vec![
                    workload("a/web", &[("app", "web"), ("app.kubernetes.io/name", "x")]),
                    workload("b/web", &[("app", "web")]),
                ],
                &["app.kubernetes.io/name=x", "app=web"],
            ),
            // An empty value says nothing.
            (vec![workload("web", &[("app", "")])], &["palisade.io/name=web"]),
            (vec![workload("no namespace/web", &[("app", "web")])], &["-"]),
        ] {
            assert_eq!(chosen(&workloads, &[], Form::Calico), expected, "{workloads:?}");
        }
    }

    #[test]
    fn a_label_cannot_command_the_terminal() {
        let odd = [workload("web", &[("app", "a\u{202e}b"), ("role", "\u{1b}[2J")])];
        assert_eq!(chosen(&odd, &[], Form::Calico), ["palisade.io/name=web"]);
    }

    #[test]
    fn labels_that_a_form_cannot_write_are_not_taken() {
        let odd = [workload("web", &[("app", "my web"), ("role", "front")])];
        assert_eq!(chosen(&odd, &[], Form::Calico), ["app=my web"]);
        assert_eq!(chosen(&odd, &[], Form::Kubernetes), ["role=front"]);
        let long = "x".repeat(64);
        let none = [workload(&long, &[("app", "it's"), ("role", "a\nb")])];
        assert_eq!(chosen(&none, &[], Form::Calico), [format!("palisade.io/name={long}")]);
        assert_eq!(chosen(&none, &[], Form::Kubernetes), ["-"]);
    }

    #[test]
    fn a_selector_has_room_for_a_thousand_bytes() {
        let long = |last: &str| format!("{}{last}", "x".repeat(255));
        let workloads = |keys: &[&str]| -> Vec<Workload> {
            ["a", "b"]
                .map(|last| {
                    let value = long(last);
                    let mut own = vec![("app", "web")];
                    own.extend(keys.iter().map(|key| (*key, value.as_str())));
                    workload(last, &own)
                })
                .to_vec()
        };
        let few = chosen(&workloads(&["role", "tier"]), &[], Form::Calico);
        assert_eq!(few[1], format!("app=web role={}", long("b")));
        let four = ["k1", "k2", "k3", "k4"];
        let many = workloads(&four);
        assert_eq!(chosen(&many, &four[..3], Form::Calico)[0].matches('=').count(), 3);
        assert_eq!(chosen(&many, &four, Form::Calico), ["-", "-"]);
    }

    #[test]
    fn labels_that_were_asked_for_are_the_only_ones() {
        let both = [
            workload("web-1", &[("app", "web"), ("zone", "a")]),
            workload("web-2", &[("app", "web"), ("zone", "b")]),
            workload("other", &[("app", "web")]),
        ];
        assert_eq!(chosen(&both, &["zone"], Form::Calico), ["zone=a", "zone=b", "-"]);
        let expected = ["app=web zone=a", "app=web zone=b", "app=web"];
        assert_eq!(chosen(&both, &["zone", "app"], Form::Calico), expected);
    }
}
