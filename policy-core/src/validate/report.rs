//! Collects what is wrong with a resource, so that its author sees everything at once.

use policy_api::diagnostic::Diagnostic;
use serde_json::Value;

/// Whether a field is absent, or has a value that is the same as absence.
pub(super) fn says_nothing(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

/// Errors told of one resource at most; further ones are counted. A list of a million entries can
/// have a million.
const MAX_ERRORS: usize = 100;

/// Findings so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    diagnostics: Vec<Diagnostic>,
    /// Where the first error stands that is not among them, and how many there are.
    more: Option<(String, usize)>,
}

impl Report {
    /// The value at `path` is wrong; `hint` says what to write instead.
    pub(super) fn error(
        &mut self,
        path: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        if self.diagnostics.len() < MAX_ERRORS {
            self.diagnostics.push(Diagnostic::error(path, message).with_hint(hint));
        } else {
            self.more.get_or_insert_with(|| (path.to_owned(), 0)).1 += 1;
        }
    }

    /// Refuses the field at `path` if it says anything. `what` is a noun phrase in the plural.
    pub(super) fn unsupported(
        &mut self,
        path: &str,
        value: Option<&Value>,
        what: &str,
        hint: &str,
    ) {
        if !says_nothing(value) {
            self.error(path, format!("{what} are not supported yet"), hint);
        }
    }

    /// The object, if nothing is wrong.
    pub(super) fn finish<T>(self, object: Option<T>) -> Result<T, Vec<Diagnostic>> {
        let mut diagnostics = self.diagnostics;
        if let Some((path, more)) = self.more {
            let message = format!("here and elsewhere: {more} more errors in this resource");
            let hint = "correct those that are shown, and try again";
            diagnostics.push(Diagnostic::error(path, message).with_hint(hint));
        }
        match object {
            Some(object) if diagnostics.is_empty() => Ok(object),
            // Nothing is built without a reason given; should that ever fail, refuse all the same.
            _ if diagnostics.is_empty() => {
                Err(vec![Diagnostic::error("", "the resource cannot be read")])
            }
            _ => Err(diagnostics),
        }
    }
}
