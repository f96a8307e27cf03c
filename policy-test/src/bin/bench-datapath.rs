//! What a packet costs in the kernel programs, as a table.
//!
//! Inputs: root. Outputs: a table; an exit code, 0 if everything could be measured. Started by
//! `cargo xtask bench datapath`; `policy_test::bench::datapath` says how it is measured.

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use policy_test::bench::datapath::{self, Effort};

/// How far the costs may differ from world to world.
const FLAT: &str = "all flat within 10 % over rules and endpoints";

fn main() -> Result<()> {
    let worlds = datapath::measure(Effort::FULL)?;
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let titles =
        worlds.iter().map(|world| format!("{} rules\n{} endpoints", world.rules, world.endpoints));
    table.set_header(["ns over empty".to_owned(), "budget".to_owned()].into_iter().chain(titles));
    for cost in worlds.first().map_or(&[][..], |world| &world.costs) {
        let budget = cost.budget.map_or(String::new(), |budget| budget.to_string());
        let nanos = worlds.iter().map(|world| {
            world.cost(cost.name).map_or(String::new(), |nanos| format!("{nanos:.0}"))
        });
        table.add_row([cost.name.to_owned(), budget].into_iter().chain(nanos));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    println!("Medians of {} rounds; {FLAT} is the goal.", Effort::FULL.rounds);
    Ok(())
}
