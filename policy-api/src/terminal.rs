//! Texts that others have written, for terminals and for files that end up on one: no character in them
//! moves the cursor, changes a colour or turns the line around.

use std::borrow::Cow;

/// The text without anything that a terminal obeys or that hides or reorders what is around it.
///
/// Names and labels are written by whoever starts a container, and read by root.
pub fn clean(text: &str) -> Cow<'_, str> {
    replace_unsafe(text, |c, cleaned| cleaned.extend(c.escape_default()))
}

/// The same JSON without such characters: what JSON itself does not force to be escaped, terminals
/// may still obey.
pub fn clean_json(json: &str) -> Cow<'_, str> {
    replace_unsafe(json, |c, cleaned| match c {
        // Between values; inside strings it is escaped already.
        '\n' => cleaned.push(c),
        // All the others are in strings and below U+10000, so that one escape holds them.
        c => cleaned.push_str(&format!("\\u{:04x}", u32::from(c))),
    })
}

fn replace_unsafe(text: &str, replace: impl Fn(char, &mut String)) -> Cow<'_, str> {
    // Bidirectional controls: Unicode Standard Annex 9, section 2.
    let unsafe_char = |c: char| {
        c.is_control()
            || matches!(c, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    if !text.contains(unsafe_char) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if unsafe_char(c) { replace(c, &mut cleaned) } else { cleaned.push(c) }
    }
    Cow::Owned(cleaned)
}
