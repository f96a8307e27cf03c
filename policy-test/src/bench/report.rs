//! What a run has shown, for people.
//!
//! Inputs: results. Outputs: a folder with `README.md` and an SVG for each figure. `profile.md`, which it
//! points to, is written by hand.

mod figures;
mod plot;
mod text;

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::bench::{
    Effort,
    datapath::{Cost, World},
    measure::Figure,
    results::Results,
};

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
    /// What they cost at XDP.
    pub uplink: Vec<Cost>,
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
        write(figures::PROGRAMS, plot::programs(&self.worlds)?)
    }
}
