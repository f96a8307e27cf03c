//! Calico's label selector language.

use crate::labels::Labels;

/// A parsed selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// `all()`.
    All,
}

impl Selector {
    /// Whether something with these labels is selected.
    pub fn matches(&self, _labels: &Labels) -> bool {
        match self {
            Selector::All => true,
        }
    }
}
