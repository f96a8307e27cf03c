//! Files to resources.
//!
//! In: the text of a file, YAML or JSON, with any number of documents and lists. Out: one
//! [`Document`] for each resource: its JSON value, and the line and column of every field, so that
//! a [`Diagnostic`] about a field path can be shown where its author can find it. A field's place
//! is where its name stands, that of a list entry where the entry begins.
//!
//! Files are untrusted: size, depth, number of documents and expansion of aliases are bounded, and
//! a name that stands twice in one mapping is an error.

use serde_json::Value;
use serde_yaml::{Error, Spanned, options::AliasLimits};

use crate::diagnostic::Diagnostic;

mod list;
mod node;
mod places;
#[cfg(test)]
mod tests;

use node::Node;
use places::Places;

/// Largest file, in bytes.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;
/// Deepest nesting of mappings and lists.
pub const MAX_DEPTH: usize = 32;
/// Resources in one file at most.
pub const MAX_RESOURCES: usize = 20_000;
/// YAML nodes that aliases (`*name`) may add to a file at most.
pub const MAX_ALIASED_NODES: usize = 20_000;

/// Line and column, both from 1; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// One resource of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The resource as it was written.
    pub value: Value,
    /// File name as the user gave it.
    pub file: String,
    /// Place of the resource and of every field.
    places: Places,
}

impl Document {
    /// Where a field stands; for one that is absent, the nearest one around it.
    pub fn place(&self, path: &str) -> Place {
        self.places.find(path)
    }

    /// Adds file, line and column to a diagnostic about this resource.
    #[must_use]
    pub fn locate(&self, mut diagnostic: Diagnostic) -> Diagnostic {
        let place = self.place(&diagnostic.path);
        diagnostic.file = Some(self.file.clone());
        diagnostic.line = Some(place.line);
        diagnostic.column = Some(place.column);
        diagnostic
    }
}

/// Reads the resources of a file. `file` is its name as the user gave it.
///
/// # Errors
///
/// What is wrong with the file as a whole, or with the lists in it: not UTF-8, not YAML, too
/// large, no resource. The resources themselves are not looked at.
pub fn read(file: &str, bytes: &[u8]) -> Result<Vec<Document>, Vec<Diagnostic>> {
    let refuse =
        |diagnostic: Diagnostic| vec![Diagnostic { file: Some(file.to_owned()), ..diagnostic }];
    if bytes.len() > MAX_FILE_BYTES {
        return Err(refuse(
            Diagnostic::error(
                "",
                format!("the file has {} bytes, at most {MAX_FILE_BYTES} are read", bytes.len()),
            )
            .with_hint("split it into several files"),
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        // YAML breaks lines at each of the three.
        let before = String::from_utf8_lossy(before).replace("\r\n", "\n");
        let mut lines = before.split(['\n', '\r']);
        refuse(Diagnostic {
            line: Some(lines.clone().count()),
            column: lines.next_back().map(|line| line.chars().count() + 1),
            ..Diagnostic::error("", "the file is not UTF-8 text").with_hint("save it as UTF-8")
        })
    })?;
    let nodes: Vec<Spanned<Option<Node>>> = serde_yaml::from_multiple_with_options(text, options())
        .map_err(|error| {
            let place = error.location();
            let line = place.and_then(|place| usize::try_from(place.line()).ok());
            let column = place.and_then(|place| usize::try_from(place.column()).ok());
            refuse(Diagnostic { line, column, ..syntax_error(&error) })
        })?;

    let mut documents = Vec::new();
    let mut diagnostics = Vec::new();
    for node in nodes {
        let start = node::place(&node.referenced);
        let Some(node) = node.value else { continue };
        let (value, places) = node.split(start);
        let document = Document { value, file: file.to_owned(), places };
        list::expand(document, &mut documents, &mut diagnostics);
        if documents.len() > MAX_RESOURCES {
            return Err(refuse(
                Diagnostic::error("", format!("the file has more than {MAX_RESOURCES} resources"))
                    .with_hint("split it into several files"),
            ));
        }
    }
    if !diagnostics.is_empty() {
        return Err(diagnostics);
    }
    if documents.is_empty() {
        let hint = "write at least one document with `apiVersion:`, `kind:` and `metadata:`";
        return Err(refuse(Diagnostic::error("", "no resources").with_hint(hint)));
    }
    Ok(documents)
}

fn options() -> serde_yaml::Options {
    let mut alias_limits = AliasLimits::default();
    alias_limits.max_total_replayed_events = MAX_ALIASED_NODES;
    serde_yaml::options! {
        // YAML 1.1's `on`, `off`, `yes` and `no` are common label values.
        strict_booleans: true,
        // Messages name file, line and column; excerpts of the file are for the caller to print.
        with_snippet: false,
        budget: serde_yaml::budget! {
            max_depth: MAX_DEPTH,
            max_events: MAX_FILE_BYTES,
            max_nodes: MAX_FILE_BYTES,
            max_documents: MAX_RESOURCES,
            max_aliases: MAX_ALIASED_NODES,
            max_anchors: MAX_ALIASED_NODES,
        },
        alias_limits: alias_limits,
    }
}

fn syntax_error(error: &Error) -> Diagnostic {
    let mut error = error.without_snippet();
    // What is wrong, without the story of how it came to be read there.
    while let Error::AliasError { error: inner, .. } = error {
        error = inner;
    }
    match error {
        Error::DuplicateMappingKey { key, .. } => Diagnostic::error(
            "",
            match key {
                Some(key) => format!("`{key}` stands twice in the same mapping"),
                None => "the same key stands twice in one mapping".to_owned(),
            },
        )
        .with_hint("remove one of the two"),
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            Diagnostic::error("", "an alias stands inside of what it is the name of")
                .with_hint("write the value out")
        }
        Error::NonFiniteFloat { value, .. } => {
            Diagnostic::error("", format!("`{value}` is not a number here"))
                .with_hint("write a finite number, or put it in quotes if it is text")
        }
        Error::Budget { .. } => Diagnostic::error(
            "",
            format!(
                "the file is nested more than {MAX_DEPTH} deep, or has too many nodes, documents \
                 or aliases"
            ),
        )
        .with_hint("write it flatter, or split it into several files"),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            Diagnostic::error("", format!("aliases expand to more than {MAX_ALIASED_NODES} nodes"))
                .with_hint("write the values out")
        }
        error => {
            let text = error.to_string();
            // The scanner has a bound of its own, and no name for it.
            if text.contains("recursion limit exceeded") {
                return Diagnostic::error("", format!("nested more than {MAX_DEPTH} deep"))
                    .with_hint("write it flatter");
            }
            let end = text.rfind(" at line ").unwrap_or(text.len());
            Diagnostic::error("", format!("not valid YAML: {}", text.get(..end).unwrap_or(&text)))
                .with_hint("look at the quotes, brackets and indentation there")
        }
    }
}
