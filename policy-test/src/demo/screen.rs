//! What the demo prints.
//!
//! Inputs: texts. Outputs: lines of less than 80 columns on standard output, coloured on a terminal
//! unless NO_COLOR is set. A write that fails is an error like any other, so that a closed pipe
//! ends the demo in order.

use std::io::{self, Stdout, Write as _};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};

/// What is as it should be.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// What is dropped, and what is not as it should be.
pub(super) const BAD: Style = AnsiColor::Red.on_default();
/// What matters less.
pub(super) const DIM: Style = Style::new().dimmed();
/// Titles.
const STRONG: Style = Style::new().bold();
/// Columns of a field's name.
const FIELD: usize = 10;

/// Standard output.
#[derive(Debug)]
pub struct Screen(AutoStream<Stdout>);

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

impl Screen {
    /// Takes colours away if nobody would see them.
    #[must_use]
    pub fn new() -> Self {
        Self(anstream::stdout())
    }

    pub(super) fn blank(&mut self) -> io::Result<()> {
        writeln!(self.0)
    }

    pub(super) fn title(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.0, "\n{STRONG}{text}{STRONG:#}\n")?;
        self.0.flush()
    }

    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.0, "  {}", text.trim_end())
    }

    pub(super) fn styled(&mut self, style: Style, text: &str) -> io::Result<()> {
        writeln!(self.0, "  {style}{text}{style:#}")?;
        self.0.flush()
    }

    pub(super) fn field(&mut self, name: &str, text: &str) -> io::Result<()> {
        writeln!(self.0, "  {name:<FIELD$}{text}")?;
        self.0.flush()
    }

    /// What a program printed.
    pub(super) fn indented(&mut self, text: &str) -> io::Result<()> {
        for line in text.lines() {
            writeln!(self.0, "  {line}")?;
        }
        self.0.flush()
    }

    /// One line that says whether something holds.
    pub(super) fn check(&mut self, fine: bool, text: &str) -> io::Result<()> {
        let (style, mark) = if fine { (GOOD, "ok  ") } else { (BAD, "FAIL") };
        writeln!(self.0, "  {style}{mark}{style:#}  {text}")?;
        self.0.flush()
    }
}
