//! What observing costs, and how fast it answers: `cargo xtask bench observe`.
//!
//! Inputs: root, an agent of the same build. Outputs: a table; an exit code, 0 if everything could be measured.

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use policy_test::bench::observe::{Line, connects, events, flood, flows, history};

/// What is being measured, and how.
type Part = (&'static str, fn() -> Result<Vec<Line>>);

const PARTS: [Part; 5] = [
    ("events", events),
    ("a flood", flood),
    ("new flows", flows),
    ("connections", connects),
    ("history", history),
];

fn main() -> Result<()> {
    // All of them, or those that are named.
    let named: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |what: &str| named.is_empty() || named.iter().any(|name| name == what);
    for (what, measure) in PARTS.into_iter().filter(|(what, _)| wanted(what)) {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header([what, "goal", "figure"]);
        table.add_rows(measure().with_context(|| what)?);
        println!("{table}");
    }
    Ok(())
}
