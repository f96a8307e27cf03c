//! From `-f` arguments to bytes. Input: paths, `-` among them; output: named contents, or a
//! diagnostic for a file that cannot be read. Regular files, pipes (`-f <(...)`) and standard
//! input are read the same way, never further than the limit.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use policy_api::diagnostic::Diagnostic;

/// Name of standard input in messages.
const STDIN: &str = "-";

/// The content of a file.
#[derive(Debug)]
pub(super) struct Source {
    /// As the user gave it, `-` for standard input.
    pub(super) file: String,
    pub(super) bytes: Vec<u8>,
}

/// Reads everything, in the order given, directories sorted by name; `limit` is in bytes, for each
/// file.
pub(super) fn read(arguments: &[PathBuf], limit: usize) -> Vec<Result<Source, Box<Diagnostic>>> {
    let mut sources = Vec::new();
    for argument in arguments {
        match expand(argument) {
            Ok(files) => sources.extend(files.iter().map(|file| read_one(file, limit))),
            Err(diagnostic) => sources.push(Err(diagnostic)),
        }
    }
    sources
}

/// The files that one argument means.
fn expand(argument: &Path) -> Result<Vec<PathBuf>, Box<Diagnostic>> {
    if argument.as_os_str() == STDIN || !argument.is_dir() {
        return Ok(vec![argument.to_owned()]);
    }
    let unreadable = |error: io::Error| about(argument, format!("cannot list it: {error}"));
    let mut files = Vec::new();
    for entry in fs::read_dir(argument).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        // As the shell's *.yaml: editors keep their own hidden files beside ours.
        let hidden = path.file_name().is_some_and(|it| it.as_encoded_bytes().starts_with(b"."));
        let ours = path.extension().is_some_and(|it| it == "yaml" || it == "yml" || it == "json");
        if ours && !hidden && !path.is_dir() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(about(
            argument,
            "no *.yaml, *.yml or *.json file in this directory".to_owned(),
        ));
    }
    files.sort();
    Ok(files)
}

fn read_one(path: &Path, limit: usize) -> Result<Source, Box<Diagnostic>> {
    // One byte more than allowed tells a full file from one that is too large.
    let most = limit as u64 + 1;
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == STDIN {
        io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    let size = read.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => about(path, "no such file or directory".to_owned()),
        _ => about(path, format!("cannot read it: {error}")),
    })?;
    if size > limit {
        let message = format!("the file is larger than {} MiB", limit >> 20);
        return Err(Box::new(about(path, message).with_hint("split it into several files")));
    }
    Ok(Source { file: path.display().to_string(), bytes })
}

fn about(path: &Path, message: String) -> Box<Diagnostic> {
    let file = Some(path.display().to_string());
    Box::new(Diagnostic { file, ..Diagnostic::error("", message) })
}
