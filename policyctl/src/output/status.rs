//! The agent's state in words. Input: its status; output: a summary, its parts, its maps.

use comfy_table::{Cell, Color};
use policy_api::messages::Status;

use super::{table, text};

/// How full a map may be before it is coloured, in per cent.
const NEARLY_FULL: u64 = 80;

/// The status as text of several lines.
pub(crate) fn status(status: &Status) -> String {
    let mut sections = vec![summary(status)];
    if !status.components.is_empty() {
        let mut table = table::table(&["COMPONENT", "STATE", "DETAIL"]);
        for part in &status.components {
            let (state, color) =
                if part.healthy { ("ok", Color::Green) } else { ("BROKEN", Color::Red) };
            table.add_row([
                Cell::new(text::clean(&part.name)),
                Cell::new(state).fg(color),
                Cell::new(text::clean(&part.detail)),
            ]);
        }
        sections.push(table::render(table));
    }
    if !status.features.is_empty() {
        let mut table = table::table(&["KERNEL FEATURE", "IN USE"]);
        for (name, used) in &status.features {
            table.add_row([text::clean(name), text::clean(used)]);
        }
        sections.push(table::render(table));
    }
    if !status.maps.is_empty() {
        let mut table = table::table(&["MAP", "FULL", "USED", "CAPACITY"]);
        for map in &status.maps {
            let percent = map.used.saturating_mul(100).checked_div(map.capacity).unwrap_or(0);
            let full = Cell::new(format!("{percent} %"));
            table.add_row([
                Cell::new(text::clean(&map.name)),
                if percent >= NEARLY_FULL { full.fg(Color::Red) } else { full },
                Cell::new(map.used),
                Cell::new(map.capacity),
            ]);
        }
        sections.push(table::render(table));
    }
    sections.join("\n")
}

fn summary(status: &Status) -> String {
    let mut table = table::bare();
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row(
        "Agent",
        format!("{}, up {}", text::clean(&status.version), text::duration(status.uptime_seconds)),
    );
    row("Datapath", format!("revision {}, ABI {}", status.revision, status.abi_version));
    row("Policies", status.policies.to_string());
    row(
        "Endpoints",
        format!(
            "{} enforcing, {} pending, {} unsupported, {} elsewhere",
            status.endpoints_enforcing,
            status.endpoints_pending,
            status.endpoints_unsupported,
            status.endpoints_elsewhere
        ),
    );
    row("Default", format!("{} what no policy selects", text::clean(&status.default_action)));
    table::render(table)
}
