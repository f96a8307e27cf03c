//! `cargo xtask tidy`: the rules of the house that no compiler holds.
//!
//! Inputs: `cargo metadata`, `cargo tree`, the text files that git would keep.
//! Outputs: one line for each breach.

mod dependencies;
mod text;

use std::process::ExitCode;

use anyhow::Result;

use crate::workspace::Workspace;

/// Prints every breach; fails if there is one.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let breaches = check(workspace)?;
    for breach in &breaches {
        eprintln!("{breach}");
    }
    if breaches.is_empty() {
        println!("tidy");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let mut breaches = dependencies::check(workspace)?;
    breaches.extend(text::check(workspace.root())?);
    Ok(breaches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        let breaches = check(&Workspace::find().unwrap()).unwrap();
        assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
    }
}
