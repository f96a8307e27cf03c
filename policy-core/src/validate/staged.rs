//! `stagedAction`, and what goes with it.
//!
//! Upstream (calico `api/pkg/apis/projectcalico/v3/stagednetworkpolicy.go`, libcalico-go
//! `lib/validator/v3`): absent means Set; with Delete the rest of `spec`, the tier left aside, has
//! to be absent or zero: the API server writes `podSelector: {}` where nobody did. Learn and Ignore belong to a recommendation engine that we have not got.

use super::{fields, report::Report};
use crate::policy::StagedAction;

/// Whether policies of a kind are staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IsStaged(bool);

/// Policies that are in force.
pub(super) const NEVER: IsStaged = IsStaged(false);
/// Staged policies.
pub(super) const ALWAYS: IsStaged = IsStaged(true);

const PATH: &str = "spec.stagedAction";

impl IsStaged {
    /// One of two kinds: that of policies in force, and that of staged ones.
    pub(super) fn choose<T>(self, in_force: T, staged: T) -> T {
        if self.0 { staged } else { in_force }
    }
}

/// Whether a field has no text.
pub(super) fn no_text(field: &Option<String>) -> bool {
    field.as_deref().is_none_or(str::is_empty)
}

/// Whether a field has no entries.
pub(super) fn no_list<T>(field: &Option<Vec<T>>) -> bool {
    field.as_deref().is_none_or(<[T]>::is_empty)
}

/// What a policy of the kind would do; `None` if it is in force. `only` says whether nothing else
/// stands in `spec`.
pub(super) fn action(
    kind: IsStaged,
    text: Option<&str>,
    only: bool,
    report: &mut Report,
) -> Option<StagedAction> {
    const KNOWN: [&str; 2] = ["Set", "Delete"];
    let text = text.filter(|text| !text.is_empty());
    if !kind.0 {
        if text.is_some() {
            report.error(
                PATH,
                "only a staged policy has a `stagedAction`",
                "put `Staged` in front of the kind (and write `apiVersion: projectcalico.org/v3`), \
                 or remove the field",
            );
        }
        return None;
    }
    match text {
        Some("Set") | None => Some(StagedAction::Set),
        Some("Delete") => {
            if !only {
                report.error(
                    PATH,
                    "a policy that stages a deletion says nothing else",
                    "keep `metadata` and `stagedAction: Delete` (and `tier`), and remove the rest \
                     of `spec`",
                );
            }
            Some(StagedAction::Delete)
        }
        Some(word @ ("Learn" | "Ignore")) => {
            report.error(
                PATH,
                format!("the staged action {word} is not supported"),
                "write Set or Delete, or remove the policy",
            );
            Some(StagedAction::Set)
        }
        Some(word) => {
            fields::unknown_word(PATH, "a staged action", word, &KNOWN, report);
            Some(StagedAction::Set)
        }
    }
}
