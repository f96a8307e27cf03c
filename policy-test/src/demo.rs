//! `cargo xtask demo`: a three-tier application with an intruder, before and after its policies.
//!
//! Inputs: a [`Runtime`], the built `policy-agent` and `policyctl`, `examples/policies/three-tier`.
//! Outputs: on the screen who reaches whom, before and after, the drops and the rules that made
//! them, and the counters; whether all of that is what the policies say.
//!
//! Whatever way it ends, nothing of it is left: every part takes itself away when it is dropped,
//! signals are only noted and looked at between the steps, and what a killed run has left is swept
//! by the next one.

mod containers;
mod interrupt;
mod matrix;
mod namespaces;
mod screen;
mod stage;
mod verify;

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::geteuid;

pub use screen::Screen;

use crate::{
    demo::{
        interrupt::Interrupts,
        matrix::Matrix,
        screen::{BAD, DIM, GOOD},
        stage::Stage,
        verify::Evidence,
    },
    examples,
};

/// The example that is shown.
const EXAMPLE: &str = "three-tier";

/// Where the application runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Containers of the Docker Engine at this address, `unix:///...`.
    Docker {
        /// The address.
        host: String,
    },
    /// Network namespaces.
    Netns,
}

/// How the demo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything was as the policies say.
    AsExpected,
    /// Something was not; the screen says what.
    NotAsExpected,
    /// A signal came.
    Interrupted,
}

/// Shows everything, and takes it away again.
///
/// # Errors
/// If a part cannot be started, or does not answer.
pub fn run(runtime: &Runtime, because: &str, screen: &mut Screen) -> Result<Ending> {
    ensure!(
        geteuid().is_root(),
        "the demo makes networks and loads BPF programs: run `cargo xtask demo` as root"
    );
    let interrupts = Interrupts::hold()?;
    let start = Instant::now();
    let shown = show(runtime, because, screen, &interrupts);
    // What a signal has broken off is no fault of its own.
    if interrupts.came() {
        return Ok(Ending::Interrupted);
    }
    let ending = shown?;
    let seconds = start.elapsed().as_secs();
    screen.blank()?;
    match ending {
        Ending::AsExpected => screen.styled(
            GOOD,
            &format!("All as the policies say. Nothing is left of the demo ({seconds} s)."),
        )?,
        _ => screen.styled(BAD, "Not everything is as the policies say; see above.")?,
    }
    Ok(ending)
}

fn show(
    runtime: &Runtime,
    because: &str,
    screen: &mut Screen,
    interrupts: &Interrupts,
) -> Result<Ending> {
    let folder = examples::folder()?.join(EXAMPLE);
    let table = examples::read(&folder)?;

    screen.title("A three-tier application and an intruder")?;
    let stage: Box<dyn Stage> = match runtime {
        Runtime::Docker { host } => {
            screen.field("runtime", &format!("Docker containers ({because})"))?;
            Box::new(containers::Containers::start(host, &table, interrupts)?)
        }
        Runtime::Netns => {
            screen.field("runtime", &format!("network namespaces ({because})"))?;
            Box::new(namespaces::Namespaces::start(&table, interrupts)?)
        }
    };
    screen.field("agent", &format!("of its own, {}", stage.scope()))?;
    for endpoint in &table.endpoints {
        let labels: Vec<String> =
            endpoint.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        screen.field(&endpoint.name, &labels.join(" "))?;
    }

    screen.title("Before: no policy, everything is open")?;
    interrupts.check()?;
    let before = Matrix::wait_open(stage.as_ref(), &table, interrupts)?;
    before.print(screen, None)?;

    let path = folder.to_str().context("the workspace's path is not UTF-8")?;
    screen.title("The policies")?;
    screen.styled(DIM, &format!("$ policyctl apply -f examples/policies/{EXAMPLE}"))?;
    let applied = stage.agent().policyctl(&["apply", "-f", path])?;
    screen.indented(&String::from_utf8_lossy(&applied.stdout))?;
    screen.indented(&String::from_utf8_lossy(&applied.stderr))?;
    ensure!(applied.status.success(), "`policyctl apply` ended with {}", applied.status);

    screen.title("After: what a policy allows, and nothing else")?;
    interrupts.check()?;
    let after = Matrix::probe(stage.as_ref(), &table)?;
    interrupts.check()?;
    after.print(screen, Some(&table))?;

    let evidence = Evidence::collect(stage.as_ref(), &table, interrupts)?;
    screen.title("The drops, and the rules that made them")?;
    screen.styled(DIM, "$ policyctl observe --event drop --output json   (here summed up)")?;
    evidence.print_drops(&table, screen)?;
    screen.title("The drop counters of the metrics")?;
    screen.styled(DIM, "palisade_dropped_packets_total, summed by rule and direction")?;
    evidence.print_counters(screen)?;

    screen.title("Is that what the policies say?")?;
    let fine = evidence.verify(&after, &table, screen)?;
    stage.end()?;
    Ok(if fine { Ending::AsExpected } else { Ending::NotAsExpected })
}
