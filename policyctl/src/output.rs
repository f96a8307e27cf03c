//! Everything that is printed. Input: answers of the agent; output: text on standard output
//! (results) and standard error (notes, warnings, errors), coloured when it goes to a terminal.

pub(crate) mod connectivity;
pub(crate) mod describe;
pub(crate) mod diff;
mod ends;
pub(crate) mod explain;
pub(crate) mod flow;
pub(crate) mod generate;
pub(crate) mod pcapng;
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

    /// Whether colours are wanted on standard output.
    pub(crate) fn is_coloured(&self) -> bool {
        anstream::stdout().current_choice() != ColorChoice::Never
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Number, Value};

    use super::to_yaml;

    /// Texts, and many that are something else in YAML unless they are quoted.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[a-z]{0,3}",
            "[-+]?(0[xob]?)?[0-9_a-f]{1,12}(\\.[0-9]*)?([eE][-+]?[0-9]{1,3})?",
            "[ \\t\\n\\r:#,?*&!%@`'\"|>{}\\[\\]~.<=\\\\-]{1,6}",
            "[a-z ]{60,200}",
            "([a-z:#' ]{0,12}\n){1,5}[a-z ]{0,4}",
            "[0-9]{1,5}:[0-9]{1,5}(:[0-9]{1,2})?",
            "[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:]{8}Z)?",
            proptest::sample::select(vec![
                "on",
                "off",
                "yes",
                "no",
                "y",
                "n",
                "Yes",
                "NO",
                "true",
                "True",
                "false",
                "null",
                "Null",
                "NULL",
                "~",
                "",
                ".inf",
                "-.Inf",
                ".nan",
                "inf",
                "NaN",
                "infinity",
                "<<",
                "---",
                "...",
                "--- a",
                "010",
                "0o17",
                "0x1F",
                "1_000",
                "12:30:45",
                "!!str",
                "=",
                "- a",
                "? a",
                "a: b",
                "a #b",
                "\u{feff}a",
                "\u{85}",
                "\u{2028}",
                "1.",
                ".5",
            ])
            .prop_map(str::to_owned),
        ]
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (0_i64..70_000).prop_map(Value::from),
            any::<f64>().prop_filter_map("finite", |it| Number::from_f64(it).map(Value::from)),
            text().prop_map(Value::from),
        ]
    }

    fn tree() -> impl Strategy<Value = Value> {
        scalar().prop_recursive(5, 48, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec((text(), inner), 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_as_yaml_is_read_as_the_same(value in tree()) {
            let value = Value::Object(Map::from_iter([("spec".to_owned(), value)]));
            let text = to_yaml(&value).expect("YAML");
            let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
            prop_assert!(!text.contains(obeyed), "a terminal would obey {text:?}");
            let read = policy_api::yaml::read("-", text.as_bytes());
            let read = read.map_err(|wrong| TestCaseError::fail(format!("{wrong:?} in\n{text}")))?;
            prop_assert_eq!(read.len(), 1);
            prop_assert_eq!(&read[0].value, &value, "{}", text);
        }
    }
}
