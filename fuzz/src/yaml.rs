//! The YAML reader, on any bytes.
//!
//! Inputs: a file, or what claims to be one. Held: no panic; memory within a bound that the file's
//! size gives; every place is in the file; every value that is read reads back equal from the YAML
//! and from the JSON that is written of it, as the agent's store does.

use policy_api::yaml::{self, Document, Place};
use serde_json::{Value, json};

/// What reading a file of so many bytes may take, bytes.
pub const fn memory_bound(bytes: usize) -> usize {
    (1 << 20) + 1024 * bytes
}

/// Holds a file against everything above, but for the memory, which is the allocator's to watch.
pub fn check(bytes: &[u8]) {
    let extent = Extent::of(bytes);
    let documents = match yaml::read("f", bytes) {
        Ok(documents) => documents,
        Err(diagnostics) => {
            assert!(!diagnostics.is_empty());
            for diagnostic in diagnostics {
                assert_eq!(diagnostic.file.as_deref(), Some("f"));
                if let (Some(line), column) = (diagnostic.line, diagnostic.column) {
                    let place = Place { line, column: column.unwrap_or(1) };
                    extent.holds(place, &diagnostic.to_string());
                }
            }
            return;
        }
    };
    assert!(!documents.is_empty());
    for document in &documents {
        extent.holds_all(document, &document.value, &mut String::new());
        reads_back(&document.value);
    }
}

/// The places that a file has; the end of the file and of each line are some, too.
struct Extent {
    /// Characters of each line, at whichever of its ends YAML breaks it.
    lines: Vec<usize>,
}

impl Extent {
    fn of(bytes: &[u8]) -> Extent {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.replace("\r\n", "\n");
        Extent { lines: lines.split(['\n', '\r']).map(|line| line.chars().count()).collect() }
    }

    fn holds(&self, place: Place, what: &str) {
        let line = place.line.checked_sub(1).and_then(|index| self.lines.get(index));
        let held = line.is_some_and(|length| (1..=length + 1).contains(&place.column));
        assert!(held, "{what}: {place:?} is not in the file of {} lines", self.lines.len());
    }

    /// Every field of a document has a place, and the file has it.
    fn holds_all(&self, document: &Document, value: &Value, path: &mut String) {
        self.holds(document.place(path), path);
        let length = path.len();
        match value {
            Value::Array(entries) => {
                for (index, entry) in entries.iter().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    self.holds_all(document, entry, path);
                    path.truncate(length);
                }
            }
            Value::Object(fields) => {
                for (name, field) in fields {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                    self.holds_all(document, field, path);
                    path.truncate(length);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

fn reads_back(value: &Value) {
    // Wrapped, so that neither a list nor nothing is what the file says.
    let wrapped = json!({ "v": value });
    let yaml = match serde_yaml::to_string(&wrapped) {
        Ok(yaml) => yaml,
        Err(error) => panic!("{wrapped} cannot be written: {error}"),
    };
    for text in [yaml, wrapped.to_string()] {
        match yaml::read("f", text.as_bytes()).as_deref() {
            Ok([document]) => assert_eq!(document.value, wrapped, "from {text:?}"),
            other => panic!("{wrapped} was written as {text:?}, which reads as {other:?}"),
        }
    }
}
