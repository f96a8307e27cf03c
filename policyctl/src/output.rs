//! Everything that is printed. Input: answers of the agent; output: text on standard output
//! (results) and standard error (notes, warnings, errors), coloured when it goes to a terminal.

pub(crate) mod diff;
pub(crate) mod explain;
pub(crate) mod flow;
pub(crate) mod status;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod text;

use std::io::{self, Write};

use anstream::ColorChoice;
use serde::Serialize;

use crate::args::ColorWhen;
use crate::failure::Failure;

/// Standard output and error, which take styled text and strip the style where it does not belong.
#[derive(Debug)]
pub(crate) struct Screen(());

impl Screen {
    /// Decides on colours for the whole process.
    pub(crate) fn new(color: ColorWhen) -> Self {
        match color {
            // Anstream looks for a terminal, NO_COLOR and CLICOLOR by itself.
            ColorWhen::Auto => ColorChoice::Auto,
            ColorWhen::Always => ColorChoice::Always,
            ColorWhen::Never => ColorChoice::Never,
        }
        .write_global();
        Screen(())
    }

    /// Prints a result as it is, line ends included.
    pub(crate) fn print(&self, text: &str) -> Result<(), Failure> {
        let mut out = anstream::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Prints a remark that is not the result, one line or more.
    pub(crate) fn note(&self, text: &str) -> Result<(), Failure> {
        Ok(self.error(&format!("{text}\n"))?)
    }

    /// Prints on standard error as it is.
    pub(crate) fn error(&self, text: &str) -> io::Result<()> {
        anstream::stderr().lock().write_all(text.as_bytes())
    }

    /// Prints indented JSON.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.print_json(serde_json::to_string_pretty(value))
    }

    /// Prints JSON on one line.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.print_json(serde_json::to_string(value))
    }

    fn print_json(&self, text: serde_json::Result<String>) -> Result<(), Failure> {
        let text = text.map_err(|error| Failure::Encode(error.to_string()))?;
        self.print(&format!("{}\n", text::clean_json(&text)))
    }

    /// Prints one YAML document.
    pub(crate) fn yaml(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.print(&to_yaml(value)?)
    }

    /// Prints YAML documents that `apply -f -` reads.
    pub(crate) fn yaml_documents<'a, T: Serialize + 'a>(
        &self,
        values: impl IntoIterator<Item = &'a T>,
    ) -> Result<(), Failure> {
        let documents: Vec<String> =
            values.into_iter().map(to_yaml).collect::<Result<_, Failure>>()?;
        self.print(&documents.join("---\n"))
    }
}

/// A value as YAML, with a line end.
///
/// # Errors
///
/// [`Failure::Encode`].
pub(crate) fn to_yaml(value: &impl Serialize) -> Result<String, Failure> {
    let mut text =
        serde_yaml::to_string(value).map_err(|error| Failure::Encode(error.to_string()))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
