//! What stands in the files.
//!
//! Inputs: every file that git does not ignore. Outputs: a line for each file that is too long
//! without a reason, opens without a purpose, has a leftover, or names a registry's host.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use ignore::WalkBuilder;

/// A longer file gives its reason in a line that contains [`LONG_FILE_REASON`].
const MAX_LINES: usize = 600;
const LONG_FILE_REASON: &str = "// tidy: long file because ";
/// A module's tests in a file of their own need no purpose: the module has one.
const TESTS_OF_A_MODULE: &str = "tests.rs";
/// `//!` must come within so many lines: attributes of the crate may stand before it.
const PURPOSE_WITHIN: usize = 10;
/// Lines below a folder of this name are other people's, or recorded.
const NOT_OURS: [&str; 2] = [".git", "snapshots"];

/// Words that promise work. In halves, so that this file does not contain them.
const LEFTOVERS: [(&str, &str); 4] = [("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("HA", "CK")];
/// Hosts of package registries: which one a machine uses is its own setting. In halves, too.
const REGISTRIES: [(&str, &str); 8] = [
    ("index.crates", ".io"),
    ("static.crates", ".io"),
    ("registry.npmjs", ".org"),
    ("pypi", ".org"),
    ("files.pythonhosted", ".org"),
    ("registry-1.docker", ".io"),
    ("proxy.golang", ".org"),
    ("deb.debian", ".org"),
];

pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    let walk = WalkBuilder::new(root)
        .hidden(false)
        // The rules hold in an unpacked archive, too.
        .require_git(false)
        .filter_entry(|entry| !NOT_OURS.iter().any(|name| entry.file_name() == *name))
        .build();
    for entry in walk {
        let entry = entry.context("walk through the workspace")?;
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        let path = entry.path();
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let name = path.strip_prefix(root).unwrap_or(path);
        breaches.extend(check_file(name, &text));
    }
    breaches.sort_unstable();
    Ok(breaches)
}

fn check_file(name: &Path, text: &str) -> Vec<String> {
    let shown = name.display();
    // Written by cargo.
    if name.file_name().is_some_and(|file| file == "Cargo.lock") {
        return Vec::new();
    }
    let mut breaches = Vec::new();
    if name.extension().is_some_and(|extension| extension == "rs") {
        let lines = text.lines().count();
        if lines > MAX_LINES && !text.contains(LONG_FILE_REASON) {
            breaches.push(format!(
                "{shown}: {lines} lines, more than {MAX_LINES}; split it, or say why not in a \
                 line `{LONG_FILE_REASON}...`"
            ));
        }
        let has_module = name.file_name().is_some_and(|file| file == TESTS_OF_A_MODULE);
        if !has_module && !text.lines().take(PURPOSE_WITHIN).any(|line| line.starts_with("//!")) {
            breaches.push(format!("{shown}: opens without a line of purpose (`//!`)"));
        }
    }
    for (number, line) in (1..).zip(text.lines()) {
        for (first, second) in LEFTOVERS {
            if has_word(line, &[first, second].concat()) {
                breaches.push(format!("{shown}:{number}: {first}{second}: do it, or drop it"));
            }
        }
        for (first, second) in REGISTRIES {
            if line.contains(&[first, second].concat()) {
                breaches.push(format!(
                    "{shown}:{number}: {first}{second}: which registry a machine uses is its own \
                     setting"
                ));
            }
        }
    }
    breaches
}

/// Whether `word` stands in `line` by itself, not as a part of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    let boundary = |character: Option<char>| {
        character.is_none_or(|character| !character.is_ascii_alphanumeric() && character != '_')
    };
    line.match_indices(word).any(|(start, _)| {
        boundary(line[..start].chars().next_back())
            && boundary(line[start + word.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(name: &str, text: &str) -> Vec<String> {
        check_file(Path::new(name), text)
    }

    #[test]
    fn a_long_file_needs_a_reason() {
        let long = format!("//! Purpose.\n{}", "//\n".repeat(600));
        assert_eq!(breaches("src/a.rs", &long).len(), 1);
        assert!(breaches("src/a.rs", &format!("{long}{LONG_FILE_REASON}of it\n")).is_empty());
        assert!(breaches("a.json", &long).is_empty());
    }

    #[test]
    fn a_source_file_opens_with_its_purpose() {
        assert!(breaches("src/a.rs", "#![no_std]\n//! Purpose.\n").is_empty());
        assert_eq!(breaches("src/a.rs", "fn main() {}\n").len(), 1);
        assert!(breaches("src/a/tests.rs", "fn test() {}\n").is_empty());
    }

    #[test]
    fn leftovers_are_found_as_words() {
        let leftover = ["TO", "DO"].concat();
        assert_eq!(
            breaches("a.md", &format!("x\n// {leftover}: y\n")),
            [format!("a.md:2: {leftover}: do it, or drop it")]
        );
        assert!(breaches("a.md", &format!("{leftover}S_{leftover}\n")).is_empty());
    }

    #[test]
    fn hosts_of_registries_are_found_and_the_lock_file_is_spared() {
        let host = ["index.crates", ".io"].concat();
        assert_eq!(breaches("README.md", &format!("from https://{host}/\n")).len(), 1);
        assert!(breaches("Cargo.lock", &format!("from https://{host}/\n")).is_empty());
    }
}
