//! From a JSON value to a wire type, with every shape error at its field path.
//!
//! Deserialisation stops at the first error. So that an author sees all of them, the field that is
//! wrong is reported, taken out, and the rest is tried again.

use std::fmt::Write as _;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use super::{CALICO, CORE, KUBERNETES, Kind, Object, Resource, strict::Strict};
use crate::diagnostic::Diagnostic;

/// Errors reported for one resource at most.
const MAX_ERRORS: usize = 50;

/// API groups and kinds that name a policy concept, but that Palisade cannot enforce.
const UNSUPPORTED: [(&str, &str); 7] = [
    ("projectcalico.org", "Profile"),
    ("projectcalico.org", "IPPool"),
    ("policy.networking.k8s.io", "AdminNetworkPolicy"),
    ("policy.networking.k8s.io", "BaselineAdminNetworkPolicy"),
    ("policy.networking.k8s.io", "ClusterNetworkPolicy"),
    ("cilium.io", "CiliumNetworkPolicy"),
    ("cilium.io", "CiliumClusterwideNetworkPolicy"),
];

/// The known word that `word` is most likely a misspelling of.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|known| (strsim::jaro_winkler(&word.to_lowercase(), &known.to_lowercase()), known))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

pub(super) fn kind(value: &Value) -> Result<Kind, Box<Diagnostic>> {
    find_kind(value).map_err(Box::new)
}

#[expect(clippy::result_large_err, reason = "boxed by its one caller")]
fn find_kind(value: &Value) -> Result<Kind, Diagnostic> {
    let Value::Object(fields) = value else {
        return Err(Diagnostic::error("", "a resource must be a mapping")
            .with_hint("start with `apiVersion:` and `kind:`"));
    };
    let text = |field: &str| match fields.get(field) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(Value::Null) | None => {
            Err(Diagnostic::error(field, format!("`{field}` is missing")).with_hint(known_kinds()))
        }
        Some(_) => Err(Diagnostic::error(field, format!("`{field}` must be a string"))
            .with_hint(known_kinds())),
    };
    let (version, kind) = (text("apiVersion")?, text("kind")?);
    if let Some(found) = Kind::ALL.into_iter().find(|known| known.names() == (version, kind)) {
        return Ok(found);
    }
    let group = version.split_once('/').map_or("", |(group, _)| group);
    if UNSUPPORTED.contains(&(group, kind)) {
        return Err(Diagnostic::error("kind", format!("{version} {kind} is not supported yet"))
            .with_hint(known_kinds()));
    }
    if kind == "List" || (kind.ends_with("List") && fields.contains_key("items")) {
        return Err(Diagnostic::error("kind", "a list stands where one resource is expected")
            .with_hint("give each of its items by itself"));
    }
    let versions: Vec<String> = Kind::ALL
        .into_iter()
        .map(Kind::names)
        .filter(|(_, known)| *known == kind)
        .map(|(version, _)| format!("`{version}`"))
        .collect();
    if !versions.is_empty() {
        return Err(Diagnostic::error(
            "apiVersion",
            format!("unknown apiVersion `{version}` for {kind}"),
        )
        .with_hint(format!("write {}", versions.join(" or "))));
    }
    let known = Kind::ALL.into_iter().map(|kind| kind.names().1);
    let hint = match did_you_mean(kind, known) {
        Some(known) => format!("did you mean `{known}`?"),
        None => known_kinds(),
    };
    Err(Diagnostic::error("kind", format!("unknown kind {version} `{kind}`")).with_hint(hint))
}

fn known_kinds() -> String {
    let mut text = String::from("supported are");
    for version in [CALICO, KUBERNETES, CORE] {
        let kinds: Vec<&str> = Kind::ALL
            .into_iter()
            .map(Kind::names)
            .filter(|(known, _)| *known == version)
            .map(|(_, kind)| kind)
            .collect();
        let separator = if version == CALICO { "" } else { ";" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator} {version} {}", kinds.join(", "));
    }
    text
}

pub(super) fn typed<S: DeserializeOwned>(
    value: &Value,
    wrap: fn(Box<Object<S>>) -> Resource,
) -> (Option<Resource>, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    let mut reduced: Option<Value> = None;
    while diagnostics.len() < MAX_ERRORS {
        let error =
            match serde_path_to_error::deserialize(Strict(reduced.as_ref().unwrap_or(value))) {
                Ok(object) => return (Some(wrap(Box::new(object))), diagnostics),
                Err(error) => error,
            };
        diagnostics.push(describe(error.path(), &error.inner().to_string()));
        let rest = reduced.get_or_insert_with(|| value.clone());
        if !take_out(rest, error.path()) {
            break;
        }
    }
    (None, diagnostics)
}

/// serde's message, with what to write instead. serde offers the names of known fields only in its
/// text; if that text ever changes, what is lost is the hint.
fn describe(path: &Path, message: &str) -> Diagnostic {
    let path = path_text(path);
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let mut names = rest.split('`').skip(1).step_by(2);
        let field = names.next().unwrap_or_default();
        let known: Vec<&str> = names.collect();
        let hint = match did_you_mean(field, known.iter().copied()) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        return Diagnostic::error(path, format!("unknown field `{field}`")).with_hint(hint);
    }
    let types = message.strip_prefix("invalid type: ").or(message.strip_prefix("invalid value: "));
    let Some((found, expected)) = types.and_then(|types| types.split_once(", expected ")) else {
        return Diagnostic::error(path, message);
    };
    let is_selector = path.to_lowercase().ends_with("selector");
    let (expected, hint) = match (expected, found) {
        ("a string", "map") if is_selector => {
            ("a string", "write a selector such as `app == 'web'`")
        }
        ("a string", "map" | "sequence") => ("a string", "write a single value"),
        ("a string", "null") => ("a string", "write a value, or remove this"),
        ("a string", _) => ("a string", "put the value in quotes"),
        ("a sequence", _) => ("a list", "write each entry on a line of its own behind `- `"),
        ("a boolean", _) => ("true or false", "write true or false, without quotes"),
        ("a map", _) => ("a mapping", "write `name: value` lines"),
        ("f64", _) => ("a number", "write a number, without quotes"),
        ("i64", _) => ("a whole number", "write a whole number, without quotes"),
        (other, _) => (other, ""),
    };
    let found = match found {
        "map" => "a mapping",
        "sequence" => "a list",
        "null" => "nothing",
        scalar => scalar,
    };
    let hint = if hint.is_empty() { format!("write {expected}") } else { hint.to_owned() };
    Diagnostic::error(path, format!("expected {expected}, found {found}")).with_hint(hint)
}

fn path_text(path: &Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                text.push('[');
                text.push_str(&index.to_string());
                text.push(']');
            }
            Segment::Map { key } => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    text
}

/// Removes what `path` leads to. An entry of a list takes the list with it, so that no other entry
/// changes its index.
fn take_out(value: &mut Value, path: &Path) -> bool {
    let mut keys: Vec<&Segment> = path.iter().collect();
    while matches!(keys.last(), Some(segment) if !matches!(segment, Segment::Map { .. })) {
        keys.pop();
    }
    let Some((Segment::Map { key: last }, parents)) = keys.split_last() else {
        return false;
    };
    let mut at = value;
    for segment in parents {
        let next = match segment {
            Segment::Map { key } => at.get_mut(key.as_str()),
            Segment::Seq { index } => at.get_mut(*index),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        match next {
            Some(next) => at = next,
            None => return false,
        }
    }
    at.as_object_mut().is_some_and(|fields| fields.remove(last.as_str()).is_some())
}
