//! The few styles that there are, so that one colour means one thing everywhere.

use anstyle::{AnsiColor, Style};

/// Allowed, healthy, enforcing.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Denied, broken.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// Worth a look.
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
/// What one reads second.
pub(crate) const DIM: Style = Style::new().dimmed();
/// What one reads first.
pub(crate) const STRONG: Style = Style::new().bold();
