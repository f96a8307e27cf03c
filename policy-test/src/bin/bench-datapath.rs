//! What a packet costs in the kernel programs, as a table.
//!
//! Inputs: root. Outputs: a table; an exit code, 0 if everything could be measured. Started by
//! `cargo xtask bench datapath`; `policy_test::bench::datapath` says how it is measured.

use anyhow::Result;
use policy_test::bench::{
    datapath::{self, Effort},
    report,
};

/// How far the costs may differ from world to world.
const FLAT: &str = "all flat within 10 % over rules, endpoints and networks";

fn main() -> Result<()> {
    println!("{}", report::table(&datapath::measure(Effort::FULL)?));
    println!("Medians of {} rounds; {FLAT} is the goal.", Effort::FULL.rounds);
    Ok(())
}
