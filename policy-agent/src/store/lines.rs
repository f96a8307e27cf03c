//! Lines that say of themselves whether they are whole.
//!
//! A log that is only ever appended to may end in what a crash has torn off. Each line begins with
//! the digest of its rest: the first one that is not whole ends the log.

use policy_core::digest::Digest;

/// One line with `text`, which has no line break.
pub(super) fn line(text: &str) -> String {
    format!("{} {text}\n", Digest::of("log line", text.as_bytes()))
}

/// What the lines of a log say, up to the first one that is not whole.
pub(super) fn contents(log: &[u8]) -> impl Iterator<Item = &[u8]> {
    log.split_inclusive(|byte| *byte == b'\n').map_while(content)
}

/// The same of a log of which every line counts.
///
/// # Errors
///
/// The number of a line, from 1 on, that is not whole and has one behind it that is: no crash tears a
/// log there.
pub(super) fn undamaged(log: &[u8]) -> Result<Vec<&[u8]>, usize> {
    let whole: Vec<&[u8]> = contents(log).collect();
    let mut behind = log.split_inclusive(|byte| *byte == b'\n').skip(whole.len() + 1);
    if behind.any(|line| content(line).is_some()) { Err(whole.len() + 1) } else { Ok(whole) }
}

fn content(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n")?;
    let (digest, rest) = line.split_at_checked(32)?;
    let rest = rest.strip_prefix(b" ")?;
    (digest == Digest::of("log line", rest).to_string().as_bytes()).then_some(rest)
}
