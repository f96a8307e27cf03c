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
                let indent = if line.is_empty() { "" } else { "  " };
                text.push_str(&format!("{indent}{line}\n"));
            }
        }
    }
    Ok(text)
}

/// A line that says nothing to a machine, whatever is in it.
fn comment(indent: &str, text: &str) -> String {
    format!("{indent}# {}\n", clean(text))
}

#[cfg(test)]
mod tests {
    use policy_core::generate::Rule;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_read_back_is_what_was_to_be_written() {
        let long = "app == 'web' && ".repeat(30);
        for text in [
            "app == 'web'",
            long.trim_end_matches([' ', '&']),
            "",
            " ",
            "null",
            "- a: b # c",
            "a\nb",
            "a\n\n  b\n\n",
            "\n a",
            "# a\n---\n...\n",
            "'\"'",
            "\u{85}\u{2028}\u{202e}\u{1b}",
        ] {
            let rule = || Rule {
                seen: text.to_owned(),
                value: json!({ "action": text, "source": { "selector": text, "nets": [text, text] } }),
            };
            let document = |rules| Document {
                about: text.to_owned(),
                head: json!({ "metadata": { "name": text }, "spec": { "selector": text } }),
                rules,
            };
            let documents = vec![
                document(vec![("ingress", vec![rule(), rule()]), ("egress", Vec::new())]),
                document(Vec::new()),
                document(vec![("egress", vec![rule()])]),
            ];
            let values: Vec<_> = documents.iter().map(Document::value).collect();
            let generated = Generated { about: text.to_owned(), documents, ..Generated::default() };
            let yaml = yaml(&generated).expect("YAML");
            let read = policy_api::yaml::read("-", yaml.as_bytes());
            let read = read.unwrap_or_else(|wrong| panic!("{wrong:?} in\n{yaml}"));
            let read: Vec<_> = read.into_iter().map(|document| document.value).collect();
            assert_eq!(read, values, "{yaml}");
            assert!(!yaml.contains('\u{1b}'), "{yaml}");
        }
    }
}
