//! Labels: names to values, shared and immutable.

use std::{collections::BTreeMap, sync::Arc};

/// Label that every endpoint and every namespaced network set carries: its namespace.
pub const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";

/// Label that every endpoint carries, and nothing else: who runs it, `docker` or `static`.
pub const ORCHESTRATOR_LABEL: &str = "projectcalico.org/orchestrator";

/// Prefix of the labels that an endpoint has from its namespace (Calico's `pcns.`).
pub const NAMESPACE_PREFIX: &str = "pcns.";

/// Prefix of the labels that Calico's endpoints have from their service account.
pub const SERVICE_ACCOUNT_PREFIX: &str = "pcsa.";

/// Prefix of Palisade's own labels.
pub const PALISADE_PREFIX: &str = "palisade.io/";

/// Prefix of Calico's own labels.
pub const CALICO_PREFIX: &str = "projectcalico.org/";

/// Label of every interface of the host that policies can select: its name.
pub const INTERFACE_LABEL: &str = "palisade.io/interface";

/// Label of every endpoint: the name of its workload.
pub const NAME_LABEL: &str = "palisade.io/name";

/// A set of labels. Cloning shares.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<BTreeMap<String, String>>);

impl Labels {
    /// The value of a label; an empty value is present.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Every label, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As an owned map.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        (*self.0).clone()
    }
}

/// Whether a label is one that only Palisade gives. An endpoint or network set that brought such a
/// label could pass itself off as another.
pub fn is_reserved(label: &str) -> bool {
    [PALISADE_PREFIX, CALICO_PREFIX, NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX]
        .iter()
        .any(|prefix| label.starts_with(prefix))
}

/// The labels of an endpoint, those of its namespace left aside: its own, and those that every
/// endpoint has. Own labels with a reserved prefix are left out. `orchestrator` is `docker` or
/// `static`.
pub fn endpoint_labels<'a>(
    own: impl IntoIterator<Item = (&'a str, &'a str)>,
    namespace: &'a str,
    name: &'a str,
    orchestrator: &'a str,
) -> Labels {
    own.into_iter()
        .filter(|(label, _)| !is_reserved(label))
        .chain([
            (NAMESPACE_LABEL, namespace),
            (ORCHESTRATOR_LABEL, orchestrator),
            (NAME_LABEL, name),
        ])
        .collect()
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Labels {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(labels: T) -> Self {
        Labels(Arc::new(labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_cannot_take_a_reserved_label() {
        let own = [
            ("app", "web"),
            ("io.palisade.ports", "web=80/tcp"),
            ("palisade.io/host", ""),
            ("projectcalico.org/namespace", "prod"),
            ("pcns.env", "prod"),
            ("pcsa.role", "admin"),
        ];
        let labels = endpoint_labels(own, "dev", "web-1", "docker");
        let expected: Labels = [
            ("app", "web"),
            ("io.palisade.ports", "web=80/tcp"),
            (NAME_LABEL, "web-1"),
            (NAMESPACE_LABEL, "dev"),
            (ORCHESTRATOR_LABEL, "docker"),
        ]
        .into_iter()
        .collect();
        assert_eq!(labels, expected);
    }
}
