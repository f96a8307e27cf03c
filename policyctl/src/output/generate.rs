//! Generated policies as YAML with comments. Input: documents; output: a YAML stream.
//!
//! The serializer writes every value; only where a rule goes, with a comment above it, is decided here: the lists
//! of rules are what a document ends with, so each can be written for itself and moved to the right.

use policy_core::generate::{Document, Generated};

use super::{text::clean, to_yaml};
use crate::failure::Failure;

/// All documents, each with what it is about and what was seen of each rule.
///
/// # Errors
///
/// [`Failure::Encode`].
pub(crate) fn yaml(generated: &Generated) -> Result<String, Failure> {
    let mut text = comment("", &generated.about);
    for (index, document) in generated.documents.iter().enumerate() {
        if index > 0 {
            text.push_str("---\n");
        }
        text.push_str(&self::document(document)?);
    }
    Ok(text)
}

fn document(document: &Document) -> Result<String, Failure> {
    let mut text = comment("", &document.about);
    text.push_str(&to_yaml(&document.head)?);
    for (name, rules) in &document.rules {
        if rules.is_empty() {
            text.push_str(&format!("  {name}: []\n"));
            continue;
        }
        text.push_str(&format!("  {name}:\n"));
        for rule in rules {
            text.push_str(&comment("  ", &rule.seen));
            for line in to_yaml(&[&rule.value])?.lines() {
                text.push_str(&format!("  {line}\n"));
            }
        }
    }
    Ok(text)
}

/// A line that says nothing to a machine, whatever is in it.
fn comment(indent: &str, text: &str) -> String {
    format!("{indent}# {}\n", clean(text))
}
