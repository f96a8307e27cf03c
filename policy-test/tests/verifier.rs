//! What the verifier has to walk: room for the next feature, and a quick start of the agent.
//!
//! One test, in a binary of its own: see `Verifier::walk`.

use anyhow::Result;
use policy_agent::kernel::pin::Hook;
use policy_test::testrun::Verifier;

/// Half of the 1,000,000 that every kernel since 5.2 allows (`BPF_COMPLEXITY_LIMIT_INSNS`).
const BUDGET: u32 = 500_000;

#[test]
fn every_program_stays_within_its_budget() -> Result<()> {
    let mut verifier = Verifier::new()?;
    let mut beyond = Vec::new();
    for hook in Hook::ALL {
        let walked = verifier.walk(hook)?;
        // `cargo xtask test --kernels` collects these lines.
        println!("{}: {walked} instructions", hook.program());
        if !(1..=BUDGET).contains(&walked) {
            beyond.push(hook.program());
        }
    }
    assert!(beyond.is_empty(), "beyond {BUDGET} instructions: {beyond:?}");
    Ok(())
}
