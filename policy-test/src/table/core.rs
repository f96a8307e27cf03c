//! The first ring: the evaluator, and the compiled maps in a simulated kernel.
//!
//! Inputs: a table. Outputs: how many packets were decided; a failure where a verdict or its rule is
//! not what the table says. The compiler goes from step to step as the agent's does.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use policy_api::messages::Verdict;
use policy_common::abi::Direction;
use policy_core::{
    compile::Compiler,
    model::Model,
    simulate::{Kernel, Outcome, Probe},
    validate,
};

use super::{
    Attempt, Step, Table, World, rule_text,
    world::{Interface, expect_refusal, values},
};

/// Interface index of a table's first endpoint; the uplinks' begin at 1.
const FIRST_ENDPOINT: usize = 100;

/// Runs a table.
///
/// # Errors
/// If something is not as the table says, with everything that is not.
pub fn run(table: &Table) -> Result<usize> {
    let mut world = World::new(table)?;
    let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
    let mut failures = Vec::new();
    let mut decided = 0;
    for step in table.phases() {
        world.enter(&step)?;
        refusals(&step).with_context(|| format!("step `{}`", step.name))?;
        let model = world.model(|interface| index(table, interface))?;
        let planned = compiler.plan(&model)?;
        planned.plan.ops.iter().for_each(|op| kernel.apply(op));
        compiler.commit(planned);
        let attempts = match world.attempts(&model, &step) {
            Ok(attempts) => attempts,
            Err(error) => {
                failures.push(format!("{error:#}"));
                continue;
            }
        };
        for attempt in &attempts {
            let found = simulate(&model, &compiler, &kernel, attempt)?;
            if found != (attempt.row.verdict, attempt.row.by.clone()) {
                failures.push(format!("{}: the maps say {found:?}", attempt.case));
            }
        }
        decided += attempts.len();
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(decided)
}

fn index(table: &Table, interface: Interface<'_>) -> Result<u32> {
    let place = match interface {
        Interface::Endpoint(place) => FIRST_ENDPOINT + place,
        Interface::Uplink(name) => {
            1 + table.uplinks.iter().position(|it| it == name).context("an uplink of the table")?
        }
    };
    Ok(u32::try_from(place)?)
}

/// Holds what a step says of refused resources against validation.
fn refusals(step: &Step) -> Result<()> {
    for refused in &step.refused {
        let documents = values(&refused.resource)?;
        let [resource] = &documents[..] else { bail!("not one resource:\n{}", refused.resource) };
        match validate::decode(resource) {
            Ok(object) => bail!("{} is accepted", object.resource_name().name),
            Err(diagnostics) => expect_refusal(refused, &diagnostics)?,
        }
    }
    Ok(())
}

/// A packet through the maps: the uplinks if it comes from elsewhere, the sender, the receiver.
fn simulate(
    model: &Model,
    compiler: &Compiler,
    kernel: &Kernel,
    attempt: &Attempt,
) -> Result<(Verdict, Option<String>)> {
    let (source, destination) = (attempt.path.source, attempt.path.destination);
    let name = |rule: u32| compiler.ids().rule(rule).map(rule_text);
    let endpoint = |address: IpAddr| {
        model.endpoints.values().find(|endpoint| endpoint.addresses.contains(&address))
    };
    if endpoint(source).is_none() && !model.host_addresses.contains(&source) {
        let blocked = model.uplinks.keys().find_map(|&uplink| kernel.blocked(uplink, source));
        if let Some(rule) = blocked {
            return Ok((Verdict::Deny, name(rule)));
        }
    }
    let mut by = None;
    for (end, direction) in [(source, Direction::Egress), (destination, Direction::Ingress)] {
        let Some(endpoint) = endpoint(end) else { continue };
        let outcome = kernel.look_up(&Probe {
            ifindex: endpoint.ifindex,
            direction,
            source,
            destination,
            protocol: attempt.service.protocol,
            port: attempt.service.port,
        });
        let Outcome::Decided { allow, rule, .. } = outcome else {
            bail!("{}: {outcome:?}", attempt.case)
        };
        by = name(rule);
        if !allow {
            return Ok((Verdict::Deny, by));
        }
    }
    Ok((Verdict::Allow, by))
}
