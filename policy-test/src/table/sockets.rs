//! The third ring: an agent, interfaces, and packets of real sockets.
//!
//! Inputs: tables. Outputs: how many packets were sent; a failure where one that is allowed is not
//! answered, one that is denied arrives or is not counted as dropped by the rule that the table
//! names, or the agent explains it in another way.
//!
//! Quick, because all packets of a step are under way at once and a denial is not waited for: the
//! drop counter proves it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use policy_agent::observer::{icmp, protocol_name};
use policy_api::messages::{
    ApplyRequest, DeleteRequest, EndpointState, ExplainRequest, Explanation, Refusal, ResourceName,
    RuleName, StoredResource, Verdict,
};
use policy_core::{model::Model, validate};
use prometheus_parse::{Scrape, Value as Metric};
use serde::Serialize;
use serde_json::Value;

use super::{
    Action, Attempt, Endpoint, HostAccess, NODE, PublishedPort, Refused, Settings, Table, World,
    probes::Probes,
    rule_text,
    slots::{BRIDGE, Slots, UPLINK},
    world::{expect_refusal, hosts, values},
};
use crate::{
    agent::{Agent, AgentOptions},
    wait,
};

/// For what has to come, however busy the machine.
const LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(2);
const DROPPED: &str = "palisade_dropped_packets_total";

/// The lab, and the agent of the settings of the last table.
pub struct Sockets {
    // Before the lab, which takes everything else.
    agent: Option<(Start, Agent)>,
    /// How many agents there have been.
    agents: usize,
    slots: Slots,
}

/// What an agent is started with: settings, and the ports that are published.
type Start = (Settings, Vec<PublishedPort>);

/// What became of a table's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sent.
    pub sent: usize,
    /// Not sent, each with a reason in its table.
    pub left_out: usize,
}

/// Dropped packets, by what the metrics and the tables both say of them.
type Drops = BTreeMap<Dropped, u64>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Dropped {
    /// `None` for block lists, which do not look behind the addresses.
    service: Option<(String, String)>,
    direction: String,
    /// Namespace and name of the endpoint that drops; empty for an uplink.
    endpoint: String,
    /// As the tables write it.
    rule: String,
    tier: String,
}

impl Sockets {
    /// Makes the lab and starts an agent: without one there is nothing to run.
    ///
    /// # Errors
    /// As [`crate::lab::Lab::new`] and [`AgentOptions::start`].
    pub fn new() -> Result<Self> {
        let mut sockets = Self { agent: None, agents: 0, slots: Slots::new()? };
        sockets.prepare(Start::default())?;
        Ok(sockets)
    }

    /// Runs a table.
    ///
    /// # Errors
    /// If something is not as the table says.
    pub fn run(&mut self, table: &Table) -> Result<Tally> {
        ensure!(
            table.uplinks.iter().all(|name| name == UPLINK),
            "the lab's uplink is {UPLINK}, not {:?}",
            table.uplinks
        );
        self.prepare((table.settings.clone(), table.published.clone()))?;
        let mut world = World::new(table)?;
        let mut tally = Tally::default();
        let mut before: Vec<Endpoint> = Vec::new();
        for (number, step) in table.phases().enumerate() {
            let change = world.enter(&step)?;
            let gone: Vec<ResourceName> = before
                .iter()
                .filter(|old| !world.endpoints().iter().any(|it| same(it, old)))
                .map(endpoint_name)
                .collect::<Result<_>>()?;
            self.delete(&[change.delete, gone].concat())?;
            let mut apply =
                if number == 0 { world.resources().cloned().collect() } else { change.apply };
            if number == 0 || change.endpoints {
                self.arrange(&world, table)?;
                for endpoint in world.endpoints() {
                    apply.push(endpoint.resource(self.slots.interface(&endpoint.name)?)?);
                }
            }
            self.apply(apply).with_context(|| format!("step `{}`", step.name))?;
            for refused in &step.refused {
                self.refused(refused).with_context(|| format!("step `{}`", step.name))?;
            }
            let model = world.model(|_| Ok(0))?;
            self.settle(&world, &model)?;
            before = world.endpoints().to_vec();

            let attempts = world.attempts(&model, &step)?;
            let (left_out, attempts): (Vec<&Attempt>, Vec<&Attempt>) =
                attempts.iter().partition(|attempt| attempt.row.without_sockets.is_some());
            for attempt in attempts.iter().chain(&left_out) {
                self.explained(attempt)?;
            }
            self.packets(&world, &attempts)?;
            tally.sent += attempts.len();
            tally.left_out += left_out.len();
        }
        Ok(tally)
    }

    fn agent(&self) -> Result<&Agent> {
        let (_, agent) = self.agent.as_ref().context("there is an agent")?;
        Ok(agent)
    }

    /// An agent with these settings that holds no resources.
    fn prepare(&mut self, start: Start) -> Result<()> {
        if self.agent.as_ref().is_none_or(|(running, _)| *running != start) {
            if let Some((_, mut agent)) = self.agent.take() {
                ensure!(agent.terminate()?.success(), "the agent ended in disorder");
                agent.unload()?;
            }
            self.agents += 1;
            let flags = flags(&start)?;
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            let agent = AgentOptions::default()
                .name(&format!("agent-{}", self.agents))
                .flags(&["--bridge", BRIDGE, "--uplink", UPLINK, "--node-name", NODE])
                .flags(&flags)
                .start(&self.slots.lab)?;
            self.agent = Some((start, agent));
        }
        let stored: Vec<StoredResource> = self.agent()?.get("/v1/resources")?;
        let names: Vec<ResourceName> = stored.into_iter().map(|stored| stored.name).collect();
        self.delete(&names)
    }

    fn request<T: Serialize>(&self, path: &str, body: &T) -> Result<crate::http::Answer> {
        self.agent()?.request("POST", path, Some(&serde_json::to_string(body)?))
    }

    fn apply(&self, resources: Vec<Value>) -> Result<()> {
        if resources.is_empty() {
            return Ok(());
        }
        let answer = self.request("/v1/apply", &ApplyRequest { resources, dry_run: false })?;
        ensure!(answer.status == 200, "apply: {}: {}", answer.status, answer.text());
        Ok(())
    }

    fn delete(&self, resources: &[ResourceName]) -> Result<()> {
        if resources.is_empty() {
            return Ok(());
        }
        let resources = resources.to_vec();
        let answer =
            self.request("/v1/delete", &DeleteRequest { resources, ignore_not_found: false })?;
        ensure!(answer.status == 200, "delete: {}: {}", answer.status, answer.text());
        Ok(())
    }

    fn refused(&self, refused: &Refused) -> Result<()> {
        let resources = values(&refused.resource)?;
        let answer = self.request("/v1/apply", &ApplyRequest { resources, dry_run: false })?;
        ensure!(answer.status == 422, "{}: {}", answer.status, refused.resource);
        let refusal: Refusal = answer.json()?;
        expect_refusal(refused, &refusal.diagnostics)
    }

    /// Gives the network the addresses of now.
    fn arrange(&mut self, world: &World, table: &Table) -> Result<()> {
        let taken: BTreeSet<IpAddr> = world
            .endpoints()
            .iter()
            .flat_map(|endpoint| endpoint.addresses.iter())
            .chain(world.host())
            .copied()
            .collect();
        let rows: Vec<_> = table.phases().flat_map(|step| step.verdicts).collect();
        let worldly: BTreeSet<IpAddr> = rows
            .iter()
            .flat_map(|row| [&row.from, &row.to])
            .filter_map(|end| end.parse().ok())
            .filter(|address| !taken.contains(address))
            .collect();
        self.slots.arrange(world, &worldly.into_iter().collect::<Vec<_>>())
    }

    /// Waits until the agent knows the host's addresses and enforces on every endpoint.
    fn settle(&self, world: &World, model: &Model) -> Result<()> {
        let agent = self.agent()?;
        let wanted = world.endpoints().len() + hosts(model).count();
        agent.wait_endpoints("all endpoints to be enforced", |endpoints| {
            endpoints.len() == wanted
                && endpoints.iter().all(|endpoint| endpoint.state == EndpointState::Enforcing)
        })?;
        for host in world.host() {
            let known = || -> Result<bool> {
                let explanation = self.explain(&ExplainRequest {
                    source: host.to_string(),
                    destination: host.to_string(),
                    protocol: 6,
                    port: 1,
                    source_port: None,
                })?;
                let walk = explanation.paths.iter().flat_map(|path| &path.ends);
                Ok(walk.flat_map(|end| &end.walk).all(|line| line.contains("the host itself")))
            };
            wait::until("the host's addresses", LIMIT, || known().unwrap_or_default())?;
        }
        Ok(())
    }

    fn explain(&self, request: &ExplainRequest) -> Result<Explanation> {
        let answer = self.request("/v1/explain", request)?;
        ensure!(answer.status == 200, "explain: {}: {}", answer.status, answer.text());
        answer.json()
    }

    /// Holds the agent's explanation against the evaluator's here.
    fn explained(&self, attempt: &Attempt) -> Result<()> {
        let (path, service) = (&attempt.path, attempt.service);
        let found = self.explain(&ExplainRequest {
            source: path.source.to_string(),
            destination: path.destination.to_string(),
            protocol: service.protocol,
            port: service.port,
            source_port: attempt.row.source_port,
        })?;
        let [only] = &found.paths[..] else { bail!("{}: {found:#?}", attempt.case) };
        ensure!(only == path, "{}: the agent explains {only:#?}\nnot {path:#?}", attempt.case);
        Ok(())
    }

    /// Sends all packets and waits for what has to become of them.
    fn packets(&self, world: &World, attempts: &[&Attempt]) -> Result<()> {
        let mut expected = Drops::new();
        for attempt in attempts.iter().filter(|it| it.row.verdict == Verdict::Deny) {
            *expected.entry(dropped(attempt)?).or_default() += 1;
        }
        let before = self.drops()?;
        let mut probes = Probes::send(attempts, |address| self.slots.netns(world, address))?;
        let start = Instant::now();
        loop {
            probes.poll()?;
            none_arrived(&probes, attempts)?;
            let waiting = |(number, attempt): &(usize, &&Attempt)| {
                attempt.row.verdict == Verdict::Allow && !probes.answered(*number)
            };
            let late: Vec<&str> = attempts
                .iter()
                .enumerate()
                .filter(waiting)
                .map(|(_, attempt)| attempt.case.as_str())
                .collect();
            let over = start.elapsed() > LIMIT;
            if late.is_empty() || over {
                let moved = since(self.drops()?, &before);
                // TCP sends a SYN again after a second (RFC 6298); nothing else comes twice.
                let all = expected.iter().all(|(key, count)| moved.get(key) >= Some(count));
                let others: Vec<_> =
                    moved.iter().filter(|(key, _)| !expected.contains_key(key)).collect();
                if late.is_empty() && all && others.is_empty() {
                    break;
                }
                ensure!(
                    !over && others.is_empty(),
                    "no answer: {late:#?}\ndropped: {moved:#?}\nexpected: {expected:#?}"
                );
            }
            thread::sleep(PAUSE);
        }
        // Everything that was denied has been dropped: what has arrived, arrived.
        probes.poll()?;
        none_arrived(&probes, attempts)
    }

    /// What policy has dropped so far.
    fn drops(&self) -> Result<Drops> {
        let text = self.agent()?.metrics()?;
        let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned())))?;
        let mut drops = Drops::new();
        for sample in scrape.samples.iter().filter(|sample| sample.metric == DROPPED) {
            let label = |name: &str| sample.labels.get(name).unwrap_or_default().to_owned();
            let untracked = label("reason") == "untracked";
            if label("reason") != "policy" && !untracked {
                continue;
            }
            let end = if label("direction") == "egress" { "source" } else { "destination" };
            let rule = RuleName {
                namespace: label("policy_namespace"),
                policy: label("policy"),
                rule: label("rule"),
                ..RuleName::default()
            };
            let key = Dropped {
                service: (!untracked).then(|| (label("protocol"), label("port"))),
                direction: label("direction"),
                endpoint: if untracked {
                    String::new()
                } else {
                    format!("{}/{}", label(&format!("{end}_namespace")), label(end))
                },
                rule: rule_text(&rule),
                tier: label("tier"),
            };
            let (Metric::Counter(count) | Metric::Untyped(count)) = sample.value else {
                bail!("{DROPPED} is a counter")
            };
            // Far below 2^53, from which on an f64 is not exact.
            *drops.entry(key).or_default() += format!("{count:.0}").parse::<u64>()?;
        }
        Ok(drops)
    }
}

/// Fails if a packet that is denied has come through.
fn none_arrived(probes: &Probes, attempts: &[&Attempt]) -> Result<()> {
    for (number, attempt) in attempts.iter().enumerate() {
        let denied = attempt.row.verdict == Verdict::Deny;
        ensure!(!(denied && probes.arrived(number)), "{}: arrived", attempt.case);
    }
    Ok(())
}

/// What a denied packet must be counted as.
fn dropped(attempt: &Attempt) -> Result<Dropped> {
    let mut ends = attempt.path.ends.iter();
    let end = ends.find(|end| end.verdict == Verdict::Deny).context("an end that denies")?;
    let service = attempt.service;
    let port = match icmp(service.protocol, service.port) {
        Some((kind, code)) => format!("{kind}/{code}"),
        None if service.port == 0 => String::new(),
        None => service.port.to_string(),
    };
    let (direction, endpoint) = match &end.endpoint {
        Some(endpoint) if endpoint.contains('/') => (end.direction.clone(), endpoint.clone()),
        // A host endpoint, which is in no namespace.
        Some(endpoint) => (end.direction.clone(), format!("/{endpoint}")),
        // The uplink's, on the way in.
        None => ("ingress".to_owned(), String::new()),
    };
    Ok(Dropped {
        service: end.endpoint.is_some().then(|| (protocol_name(service.protocol), port)),
        direction,
        endpoint,
        rule: rule_text(&end.rule),
        tier: end.rule.tier.clone(),
    })
}

/// The flags of an agent that starts so.
fn flags((settings, published): &Start) -> Result<Vec<String>> {
    let action = match settings.default_action {
        Action::Allow => "allow",
        Action::Deny => "deny",
    };
    let host = match settings.host_access {
        HostAccess::Policy => "policy",
        HostAccess::Allow => "allow",
    };
    let mut flags =
        vec![("--default-action", action.to_owned()), ("--host-access", host.to_owned())];
    for (flag, ports) in [
        ("--failsafe-inbound-port", &settings.failsafe_inbound_ports),
        ("--failsafe-outbound-port", &settings.failsafe_outbound_ports),
    ] {
        flags.extend(ports.iter().flatten().map(|port| (flag, port.clone())));
    }
    for port in published {
        flags.push(("--published-port", port.flag()?));
    }
    Ok(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect())
}

/// What has been counted since.
fn since(now: Drops, before: &Drops) -> Drops {
    let moved = now.into_iter().map(|(key, count)| {
        let was = before.get(&key).copied().unwrap_or_default();
        (key, count.saturating_sub(was))
    });
    moved.filter(|(_, count)| *count > 0).collect()
}

/// Whether two endpoints are one resource.
fn same(a: &Endpoint, b: &Endpoint) -> bool {
    (&a.name, &a.namespace) == (&b.name, &b.namespace)
}

fn endpoint_name(endpoint: &Endpoint) -> Result<ResourceName> {
    validate::resource_name(&endpoint.resource("any")?)
        .map_err(|diagnostics| anyhow::anyhow!("{diagnostics:?}"))
}
