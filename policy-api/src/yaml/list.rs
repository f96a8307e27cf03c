//! `kind: List` and `kind: NetworkPolicyList`: several resources in one document.

use serde_json::Value;

use super::Document;
use crate::diagnostic::Diagnostic;

/// Fields of a list besides `items`; `metadata` is written by a server and has no effect.
const FIELDS: [&str; 4] = ["apiVersion", "kind", "metadata", "items"];

/// Adds the document, or if it is a list its items, to `documents`. A list in a list stays one: it
/// is refused as a resource later.
pub(super) fn expand(
    mut document: Document,
    documents: &mut Vec<Document>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let Some(item_kind) = item_kind(&document.value) else {
        documents.push(document);
        return;
    };
    let version = document.value.get("apiVersion").cloned();
    let Value::Object(fields) = &mut document.value else { return };
    let items = fields.remove("items");
    let unknown = fields.keys().filter(|field| !FIELDS.contains(&field.as_str()));
    let mut found: Vec<Diagnostic> = unknown
        .map(|field| {
            Diagnostic::error(field.clone(), format!("unknown field `{field}` in a list"))
                .with_hint("a list has `apiVersion`, `kind`, `metadata` and `items`")
        })
        .collect();
    match items {
        Some(Value::Array(items)) => {
            for (index, mut item) in items.into_iter().enumerate() {
                let path = format!("items[{index}]");
                // The API leaves both out of the items of a typed list.
                if let (Some(kind), Some(version), Value::Object(fields)) =
                    (&item_kind, &version, &mut item)
                {
                    fields.entry("apiVersion").or_insert_with(|| version.clone());
                    fields.entry("kind").or_insert_with(|| kind.clone().into());
                }
                documents.push(document.part(&path, item));
            }
        }
        Some(_) => found.push(Diagnostic::error("items", "`items` must be a list")),
        None => {}
    }
    diagnostics.extend(found.into_iter().map(|diagnostic| document.locate(diagnostic)));
}

/// Whether the document is a list: `Some(None)` for `v1` List, `Some(kind)` for a list of one kind.
fn item_kind(value: &Value) -> Option<Option<String>> {
    let kind = value.get("kind")?.as_str()?;
    value.get("items")?;
    let item = kind.strip_suffix("List")?;
    Some((!item.is_empty()).then(|| item.to_owned()))
}
