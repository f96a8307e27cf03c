//! One measure of one contender, for as long as a profiler needs.
//!
//! Inputs: root, which of them. Outputs: the figures of one long window. `docs/bench/profile.md` says how
//! to use it.

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use policy_test::bench::{
    contender::Kind,
    measure::{Measure, Stage},
    rules,
    topology::CLIENT,
};

/// Runs one measure of one contender.
#[derive(Debug, Parser)]
#[command(name = "bench-one", version)]
struct Arguments {
    /// Who
    #[arg(value_enum)]
    contender: Kind,
    /// What
    #[arg(value_enum)]
    measure: Measure,
    /// How many rules
    #[arg(long, default_value_t = 1_000)]
    rules: u32,
    /// For how long
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let stage = Stage::new(arguments.contender, &rules::rules(arguments.rules, CLIENT))?;
    for (figure, sample) in arguments.measure.run(&stage, Duration::from_secs(arguments.seconds))? {
        println!("{figure:?}: {sample}");
    }
    Ok(())
}
