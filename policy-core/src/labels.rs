//! Labels: names to values, shared and immutable.

use std::{collections::BTreeMap, sync::Arc};

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

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Labels {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(labels: T) -> Self {
        Labels(Arc::new(labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect()))
    }
}
