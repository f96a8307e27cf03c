//! The selector language, on any text.
//!
//! Inputs: a selector, or what claims to be one. Held: no panic; an error points into the text;
//! what is accepted is within the bounds, is written in a canonical form that reads back equal and
//! is its own canonical form, and has the meaning that logic gives its parts.

use policy_core::{
    labels::{Labels, NAMESPACE_LABEL, NAMESPACE_PREFIX},
    selector::{MAX_LENGTH, Problem, Selector},
};

/// Label names and values taken from a text at most: the rest would only cost time.
const MAX_WORDS: usize = 6;

/// Holds a text against everything above.
pub fn check(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let selector = match Selector::parse(text) {
        Ok(selector) => selector,
        Err(error) => {
            assert!(text.is_char_boundary(error.offset), "{error} is not in {text:?}");
            return;
        }
    };
    assert!(text.len() <= MAX_LENGTH);
    let canonical = selector.to_string();
    match Selector::parse(&canonical) {
        Ok(again) => {
            assert_eq!(again, selector, "{text:?} and its canonical form {canonical:?} differ");
            assert_eq!(again.to_string(), canonical);
        }
        // The canonical form has more space than its author had to write.
        Err(error) => {
            assert_eq!(error.problem, Problem::TooLong(canonical.len()), "{canonical:?}");
        }
    }

    let worlds = worlds(text);
    let not = selector.clone().negate();
    let both = selector.clone().and(not.clone());
    let inside = selector.on_namespace(NAMESPACE_PREFIX);
    let within = |text: String| match Selector::parse(&text) {
        Ok(selector) => Some(selector),
        Err(error) => {
            let bounded = matches!(error.problem, Problem::TooDeep | Problem::TooLong(_));
            assert!(bounded, "{text:?}: {error}");
            None
        }
    };
    let blank = text.bytes().all(|byte| byte.is_ascii_whitespace());
    let never = (!blank).then(|| within(format!("({text}) && !({text})"))).flatten();
    let always = (!blank).then(|| within(format!("!({text}) || ({text})"))).flatten();
    for labels in &worlds {
        let selected = selector.matches(labels);
        assert_eq!(not.matches(labels), !selected, "{text:?} on {labels:?}");
        assert!(!both.matches(labels), "{text:?} on {labels:?}");
        assert!(never.as_ref().is_none_or(|never| !never.matches(labels)), "{text:?}");
        assert!(always.as_ref().is_none_or(|always| always.matches(labels)), "{text:?}");
        // `all()` and `global()` ask whether there is a namespace at all, so there is one here.
        if !selector.uses_global() {
            let of_namespace: Labels = labels
                .iter()
                .map(|(name, value)| (format!("{NAMESPACE_PREFIX}{name}"), value))
                .chain([(NAMESPACE_LABEL.to_owned(), "n")])
                .collect();
            assert_eq!(inside.matches(&of_namespace), selected, "{text:?} on {of_namespace:?}");
        }
    }
}

/// Label sets that the text is about: its own words as names, what it quotes as values, and the
/// edges of both.
fn worlds(text: &str) -> Vec<Labels> {
    let is_name = |character: char| {
        character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '/' | '-')
    };
    let names: Vec<&str> = text
        .split(|character| !is_name(character))
        .filter(|word| !word.is_empty())
        .take(MAX_WORDS)
        .collect();
    let quoted = text.split(['"', '\'']).skip(1).step_by(2);
    let values: Vec<&str> = quoted.take(MAX_WORDS).chain([""]).collect();
    let mut worlds = vec![Labels::default()];
    for (shift, _) in values.iter().enumerate() {
        let cycle = values.iter().cycle().skip(shift);
        worlds.push(names.iter().copied().zip(cycle.copied()).collect());
    }
    worlds
}
