//! What the verifier has to walk: room for the next feature, and a quick start of the agent.

use anyhow::Result;
use policy_agent::kernel::pin::Hook;

use crate::world::World;

/// Half of what the kernel allows (`BPF_COMPLEXITY_LIMIT_INSNS`).
const BUDGET: u32 = 500_000;

#[test]
fn every_program_stays_within_its_budget() -> Result<()> {
    let world = World::new()?;
    for hook in Hook::ALL {
        let walked = world.ring.verified(hook)?;
        println!("{}: {walked} instructions", hook.program());
        assert!((1..=BUDGET).contains(&walked), "{}: {walked} instructions", hook.program());
    }
    Ok(())
}
