//! What a block list costs at an uplink (XDP), as a table.
//!
//! Inputs: root. Outputs: a table; an exit code, 0 if everything could be measured. Started by
//! `cargo xtask bench uplink`; `policy_test::bench::uplink` says how it is measured.

use anyhow::Result;
use policy_test::bench::{datapath::Effort, report, uplink};

fn main() -> Result<()> {
    println!("{}", report::table(&uplink::measure(Effort::FULL)?));
    println!("Medians of {} rounds.", Effort::FULL.rounds);
    Ok(())
}
