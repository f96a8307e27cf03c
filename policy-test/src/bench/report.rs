//! What a run has shown, for people.
//!
//! Inputs: results. Outputs: a folder with `README.md` and an SVG for each figure. `profile.md`, which it
//! points to, is written by hand.

mod figures;
mod plot;
mod text;

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};

use crate::bench::{Effort, datapath::World, measure::Figure, results::Results};

/// A run and what it ran on.
#[derive(Debug)]
pub struct Run {
    /// How much was measured.
    pub effort: Effort,
    /// Names and values, from [`crate::bench::machine::describe`].
    pub machine: Vec<(&'static str, String)>,
    /// All samples.
    pub results: Results,
    /// What packets cost in the kernel programs.
    pub worlds: Vec<World>,
    /// What they cost at an uplink, by the size of its block list.
    pub uplink: Vec<World>,
}

impl Run {
    /// Writes the report into `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        write("README.md", text::readme(self)?)?;
        for figure in Figure::ALL {
            if let Some(file) = figures::of(figure).plot {
                write(file, plot::figure(&self.results, figure)?)?;
            }
        }
        write(figures::PROGRAMS, plot::worlds(figures::PROGRAMS_TITLE, &self.worlds)?)?;
        write(figures::UPLINK, plot::worlds(figures::UPLINK_TITLE, &self.uplink)?)
    }
}

/// What packets cost in some worlds, for a terminal.
#[must_use]
pub fn table(worlds: &[World]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let titles = worlds.iter().map(|world| world.title().replace(", ", "\n"));
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
    table
}
