//! `kind: List` and `kind: NetworkPolicyList`: several resources in one document.

use serde_json::Value;

use super::{
    Document, MAX_RESOURCES,
    places::{Inside, Places},
};
use crate::diagnostic::Diagnostic;

/// Fields of a list besides `items`; `metadata` is written by a server and has no effect.
const FIELDS: [&str; 4] = ["apiVersion", "kind", "metadata", "items"];
/// Longest `apiVersion` or `kind` of a list, bytes: a group of 253, a slash, a version of 63. Each
/// item may get a copy.
const MAX_NAME: usize = 317;

/// Adds the document, or if it is a list its items, to `documents`, as far as one more than
/// [`MAX_RESOURCES`]. A list in a list stays one: it is refused as a resource later.
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
            let mut places = match document.places.take("items").map(|places| places.inside) {
                Some(Inside::List(places)) => places.into_iter(),
                _ => Vec::new().into_iter(),
            };
            let room = (MAX_RESOURCES + 1).saturating_sub(documents.len());
            for mut item in items.into_iter().take(room) {
                let list = || Places { own: document.places.own, inside: Inside::Nothing };
                let places = places.next().unwrap_or_else(list);
                // The API leaves both out of the items of a typed list.
                if let (Some(kind), Some(version), Value::Object(fields)) =
                    (&item_kind, &version, &mut item)
                {
                    fields.entry("apiVersion").or_insert_with(|| version.clone());
                    fields.entry("kind").or_insert_with(|| kind.clone().into());
                }
                documents.push(Document { value: item, file: document.file.clone(), places });
            }
        }
        // As in Go, `null` is an empty list.
        Some(Value::Null) | None => {}
        Some(_) => found.push(
            Diagnostic::error("items", "`items` must be a list")
                .with_hint("write each resource behind `- `"),
        ),
    }
    diagnostics.extend(found.into_iter().map(|diagnostic| document.locate(diagnostic)));
}

/// Whether the document is a list: `Some(None)` for `v1` List, `Some(kind)` for a list of one kind.
/// What has a name that no list has is none.
fn item_kind(value: &Value) -> Option<Option<String>> {
    let kind = value.get("kind")?.as_str()?;
    value.get("items")?;
    let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if kind.len().max(version.len()) > MAX_NAME {
        return None;
    }
    let item = kind.strip_suffix("List")?;
    Some((!item.is_empty()).then(|| item.to_owned()))
}
