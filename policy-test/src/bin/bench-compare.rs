//! Palisade beside nftables and iptables.
//!
//! Inputs: root, where to write. Outputs: a report; an exit code, 0 if everything could be measured,
//! whatever goals it misses. Started by `cargo xtask bench`; `policy_test::bench` says how it is
//! measured.

use std::{path::PathBuf, time::Instant};

use anyhow::Result;
use clap::Parser;
use policy_test::bench::{self, Effort, datapath, goals, machine, report::Run, uplink};

/// Measures Palisade beside what people use today.
#[derive(Debug, Parser)]
#[command(name = "bench-compare", version)]
struct Arguments {
    /// Fewer and shorter rounds
    #[arg(long)]
    quick: bool,
    /// What was built, for the report
    #[arg(long, value_name = "TEXT")]
    commit: Option<String>,
    /// Where to write the report
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let effort = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    let started = Instant::now();
    // First: a program that is missing is to be missed now, not after half an hour.
    let machine = machine::describe(arguments.commit.as_deref())?;
    let worlds = datapath::measure(effort.datapath)?;
    let uplink = uplink::measure(effort.datapath)?;
    let results = bench::compare(effort)?;
    let goals = goals::all(&results, &worlds, &uplink);
    Run { effort, machine, results, worlds, uplink }.write(&arguments.output)?;
    for goal in goals {
        let verdict = if goal.met { "met   " } else { "MISSED" };
        println!("{verdict}  {}: {}", goal.wanted, goal.seen);
    }
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    println!("{minutes:.1} minutes; the report is in {}", arguments.output.display());
    Ok(())
}
