//! The first ring: the evaluator, and the compiled maps in a simulated kernel.
//!
//! Inputs: a table. Outputs: how many packets were decided; a failure where a verdict or its rule is
//! not what the table says. The compiler goes from step to step as the agent's does.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use policy_api::messages::{RuleName, Verdict};
use policy_common::abi::{Direction, VERDICT_ALLOW, VERDICT_RULE};
use policy_core::{
    compile::Compiler,
    host::Plane,
    model::Model,
    simulate::{Kernel, Outcome, Probe},
};

use super::{
    Attempt, Table, World,
    world::{Interface, hosts, is_away},
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
        for refused in &step.refused {
            if let Err(error) = world.refuses(refused) {
                failures.push(format!("step `{}`: {error:#}", step.name));
            }
        }
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
            if let Err(error) = simulate(&model, &compiler, &kernel, attempt) {
                failures.push(format!("{}: {error:#}", attempt.case));
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

/// A packet through the maps: the uplinks if it comes from elsewhere, the sender, the receiver. At
/// each it comes to, they say what the evaluator says.
fn simulate(model: &Model, compiler: &Compiler, kernel: &Kernel, attempt: &Attempt) -> Result<()> {
    let (source, destination) = (attempt.path.source, attempt.path.destination);
    let name = |rule: u32| compiler.ids().rule(rule).cloned();
    let endpoint = |address: IpAddr| {
        let mut workloads = model.endpoints.values().filter(|it| it.plane == Plane::Workload);
        workloads.find(|endpoint| endpoint.addresses.contains(&address))
    };
    let [egress, ingress] = &attempt.path.ends[..] else { bail!("not two ends") };
    let at = |ifindex: u32, direction: Direction| Probe {
        ifindex,
        direction,
        source,
        destination,
        protocol: attempt.service.protocol,
        port: attempt.service.port,
        source_port: attempt.source_port(),
    };
    if is_away(model, source) {
        let uplinks = model.uplinks.keys();
        let blocked = uplinks.map(|&uplink| at(uplink, Direction::Ingress));
        let blocked = blocked.into_iter().find_map(|probe| kernel.blocked_at(&probe));
        // What a host endpoint denies has its name.
        let untracked = egress.verdict == Verdict::Deny && egress.endpoint.is_none();
        let denied = untracked.then(|| egress.rule.clone());
        ensure!(
            blocked.and_then(|it| name(it.rule)) == denied,
            "an uplink says {blocked:?}, not {denied:?}"
        );
    }
    for (end, address, direction) in
        [(egress, source, Direction::Egress), (ingress, destination, Direction::Ingress)]
    {
        let mut outcomes = Vec::new();
        if let Some(endpoint) = endpoint(address) {
            outcomes.push(kernel.look_up(&at(endpoint.ifindex, direction)));
        } else if let (true, Some(_)) = (is_away(model, address), &end.endpoint) {
            // The other way about: what the sender sends comes in.
            let direction = direction.reverse();
            let (forwarded, port) = attempt.crossing(model, direction);
            ensure!(hosts(model).count() > 0, "there is no host endpoint");
            outcomes.extend(
                hosts(model).map(|host| {
                    kernel.look_up_at_host(&at(host.ifindex, direction), forwarded, port)
                }),
            );
        }
        for outcome in outcomes {
            let Outcome::Decided { allow, rule, staged, log, .. } = outcome else {
                bail!("{direction:?}: {outcome:?}")
            };
            let found = Found {
                verdict: verdict(allow),
                rule: name(rule),
                logged: compiler.ids().log(log).unwrap_or_default().to_vec(),
                staged: (staged != 0)
                    .then(|| (verdict(staged & VERDICT_ALLOW != 0), name(staged & VERDICT_RULE))),
            };
            let wanted = Found {
                verdict: end.verdict,
                rule: Some(end.rule.clone()),
                logged: end.logged.clone(),
                staged: end.staged.as_ref().map(|it| (it.verdict, Some(it.rule.clone()))),
            };
            ensure!(found == wanted, "{direction:?}: the maps say {found:?}, not {wanted:?}");
        }
        if end.verdict == Verdict::Deny {
            break;
        }
    }
    Ok(())
}

/// What is decided at one end.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    verdict: Verdict,
    rule: Option<RuleName>,
    logged: Vec<RuleName>,
    staged: Option<(Verdict, Option<RuleName>)>,
}

fn verdict(allow: bool) -> Verdict {
    if allow { Verdict::Allow } else { Verdict::Deny }
}
