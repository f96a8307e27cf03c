//! What a change costs the compiler and the agent, and what the agent's memory holds.
//!
//! Inputs: root, an agent of the same build. Outputs: tables; an exit code, 0 if everything could be
//! measured. Started by `cargo xtask bench compile`, in a release build.
//!
//! *Compiler*: plan and commit in this process, nothing programmed. *Agent*: a real agent, real maps,
//! endpoints on interfaces that exist, a request over the agent's socket. A request's time is
//! from before the connection is made until the answer has been read; it is enforced and on disk by
//! then.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{Seek as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use policy_core::{
    compile::Compiler,
    host::Plane,
    labels,
    model::{EndpointId, EndpointSpec, Model},
    validate::{self, Object},
};
use policy_test::{
    agent::{Agent, AgentOptions},
    lab::Lab,
};
use serde_json::{Value, json};

/// Policies and endpoints of each measured world.
const WORLDS: [(usize, usize); 3] = [(100, 10), (1_000, 100), (10_000, 1_000)];
/// Endpoints that have the same policies.
const REPLICAS: usize = 4;
/// One-policy changes, and container starts, that are measured.
const CHANGES: usize = 1_000;
const STARTS: usize = 200;
const DIFFS: usize = 5;
/// Networks of the large set, and changes of it by one that are measured.
const NETWORKS: u32 = 1_000_000;
const NETWORK_CHANGES: u32 = 10;

fn main() -> Result<()> {
    let mut compiler = figures(&["compiler", "goal"]);
    let mut agent = figures(&["agent", "goal"]);
    let mut columns = Vec::new();
    for (policies, endpoints) in WORLDS {
        eprintln!("{policies} policies, {endpoints} endpoints");
        columns.push((compile(policies, endpoints)?, enforce(policies, endpoints)?));
    }
    fill(&mut compiler, columns.iter().map(|(compile, _)| compile.as_slice()));
    fill(&mut agent, columns.iter().map(|(_, enforce)| enforce.as_slice()));
    println!("{compiler}\n{agent}");
    let mut networks = Table::new();
    networks.load_style(presets::UTF8_FULL_CONDENSED);
    networks.set_header(["networks in one set".to_owned(), NETWORKS.to_string()]);
    eprintln!("{NETWORKS} networks");
    for Figure { what, goal, value } in many_networks()? {
        networks.add_row([format!("{what} {goal}"), value]);
    }
    println!("{networks}");
    Ok(())
}

/// One line of one column.
struct Figure {
    what: &'static str,
    goal: &'static str,
    value: String,
}

fn figures(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let worlds =
        WORLDS.map(|(policies, endpoints)| format!("{policies} policies\n{endpoints} endpoints"));
    table.set_header(header.iter().map(|text| (*text).to_owned()).chain(worlds));
    table
}

fn fill<'a>(table: &mut Table, columns: impl Iterator<Item = &'a [Figure]>) {
    let columns: Vec<_> = columns.collect();
    let rows = columns.first().map_or(0, |column| column.len());
    for row in 0..rows {
        let Figure { what, goal, .. } = &columns[0][row];
        let values = columns.iter().map(|column| column[row].value.clone());
        table.add_row([(*what).to_owned(), (*goal).to_owned()].into_iter().chain(values));
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

/// Median, 99th percentile and maximum.
fn spread(mut samples: Vec<Duration>) -> String {
    samples.sort_unstable();
    let at = |share: usize| {
        samples.get((samples.len() * share / 100).min(samples.len().saturating_sub(1)))
    };
    let texts = [50, 99, 100].map(|share| at(share).copied().map(millis).unwrap_or_default());
    texts.join(" / ")
}

// --- what is compiled ------------------------------------------------------------------------

fn addresses(index: usize) -> Result<[IpAddr; 2]> {
    let low = u32::try_from(index)?;
    Ok([
        Ipv4Addr::from(0x0a10_0000 + low).into(),
        Ipv6Addr::from((0xfd16_u128 << 112) + u128::from(low)).into(),
    ])
}

fn app(index: usize, endpoints: usize) -> String {
    format!("app{}", index % (endpoints / REPLICAS).max(1))
}

/// A policy of one application that lets in two others. `version` changes a port.
fn policy(index: usize, endpoints: usize, version: usize) -> Value {
    let peer = |step: usize| format!("app == '{}'", app(index * 7 + step, endpoints));
    let ingress = |step: usize, port: usize| {
        json!({"action": "Allow", "protocol": "TCP", "source": {"selector": peer(step)},
               "destination": {"ports": [port]}})
    };
    let first = 1_000 + index % 5_000 + 10_000 * version;
    json!({"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
           "metadata": {"name": format!("p{index}"), "namespace": "shop"},
           "spec": {"order": index, "selector": format!("app == '{}'", app(index, endpoints)),
                    "types": ["Ingress"], "ingress": [ingress(1, first), ingress(3, first + 1)]}})
}

/// A static endpoint, on the interface `d<index>`.
fn endpoint(index: usize, endpoints: usize) -> Result<Value> {
    let [v4, v6] = addresses(index)?;
    Ok(json!({"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
              "metadata": {"name": format!("e{index}"), "namespace": "shop",
                           "labels": {"app": app(index, endpoints), "team": "blue"}},
              "spec": {"interfaceName": format!("d{index}"),
                       "ipNetworks": [format!("{v4}/32"), format!("{v6}/128")]}}))
}

// --- the compiler ----------------------------------------------------------------------------

fn add_policy(model: &mut Model, value: &Value) -> Result<()> {
    match validate::decode(value) {
        Ok(Object::Policy(policy)) => {
            model.policies.insert(policy.key.clone(), policy);
            Ok(())
        }
        other => anyhow::bail!("not a policy: {other:?}"),
    }
}

fn add_endpoint(model: &mut Model, index: usize, endpoints: usize) -> Result<()> {
    let (name, app) = (format!("e{index}"), app(index, endpoints));
    let own = [("app", app.as_str()), ("team", "blue")];
    let spec = EndpointSpec {
        ifindex: 10 + u32::try_from(index)?,
        interface: format!("d{index}"),
        name: name.clone(),
        namespace: "shop".to_owned(),
        network: String::new(),
        labels: labels::endpoint_labels(own, "shop", &name, "static"),
        addresses: addresses(index)?.to_vec(),
        mac: None,
        ports: Vec::new(),
        bridge: None,
        plane: Plane::Workload,
        adopt_until_ns: 0,
    };
    model.endpoints.insert(EndpointId(name), spec.into());
    Ok(())
}

fn plan(compiler: &mut Compiler, model: &Model) -> Result<Duration> {
    let started = Instant::now();
    let planned = compiler.plan(model)?;
    compiler.commit(planned);
    Ok(started.elapsed())
}

fn compile(policies: usize, endpoints: usize) -> Result<Vec<Figure>> {
    let mut model = Model::default();
    for index in 0..policies {
        add_policy(&mut model, &policy(index, endpoints, 0))?;
    }
    for index in 0..endpoints {
        add_endpoint(&mut model, index, endpoints)?;
    }
    let mut compiler = Compiler::new();
    let first = plan(&mut compiler, &model)?;
    let rows = compiler.image().classes.len();
    let same = plan(&mut compiler, &model)?;
    let mut changes = Vec::new();
    for change in 0..CHANGES {
        let (index, version) = (change * 37 % policies, 1 + change / policies % 2);
        add_policy(&mut model, &policy(index, endpoints, version))?;
        changes.push(plan(&mut compiler, &model)?);
    }
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for start in 0..STARTS {
        add_endpoint(&mut model, endpoints + start, endpoints)?;
        starts.push(plan(&mut compiler, &model)?);
    }
    for start in 0..STARTS {
        model.endpoints.remove(&EndpointId(format!("e{}", endpoints + start)));
        ends.push(plan(&mut compiler, &model)?);
    }
    let figure = |what, goal, value| Figure { what, goal, value };
    Ok(vec![
        figure("everything", "", millis(first)),
        figure("rows", "", rows.to_string()),
        figure("nothing changed", "", millis(same)),
        figure("one policy, p50 / p99 / max", "", spread(changes)),
        figure("a container starts", "< 5 ms", spread(starts)),
        figure("a container ends", "", spread(ends)),
    ])
}

// --- the agent -------------------------------------------------------------------------------

fn interfaces(lab: &Lab, range: std::ops::Range<usize>) -> Result<()> {
    let mut batch = String::new();
    for index in range {
        writeln!(batch, "link add d{index} type veth peer name x{index}")?;
    }
    let mut command = Command::new("ip");
    command.args(["-n", lab.host().name(), "-batch", "-"]).stdin(Stdio::piped());
    let mut child = command.spawn().context("start ip")?;
    child.stdin.take().context("ip reads its orders")?.write_all(batch.as_bytes())?;
    ensure!(child.wait()?.success(), "ip -batch failed");
    Ok(())
}

fn apply(agent: &Agent, resources: &[Value]) -> Result<Duration> {
    let body = json!({ "resources": resources }).to_string();
    let started = Instant::now();
    let answer = agent.request("POST", "/v1/apply", Some(&body))?;
    let elapsed = started.elapsed();
    ensure!(answer.status == 200, "apply: {}: {}", answer.status, answer.text());
    Ok(elapsed)
}

/// Resident memory of the agent, as `VmRSS` has it.
fn memory(agent: &Agent) -> Result<String> {
    let pid = agent.pid().context("the agent runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    let kilobytes: f64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
    Ok(format!("{:.0} MB", kilobytes / 1e3 * 1.024))
}

/// What it takes to see 4 KB on the disk that the agent's state is on.
fn flushes(folder: &Path) -> Result<String> {
    let path = folder.join("flush");
    let mut file = File::create(&path)?;
    let mut samples = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        file.write_all(&[1; 4096])?;
        file.sync_data()?;
        samples.push(started.elapsed());
    }
    file.rewind()?;
    fs::remove_file(path)?;
    Ok(spread(samples))
}

fn enforce(policies: usize, endpoints: usize) -> Result<Vec<Figure>> {
    let lab = Lab::new()?;
    interfaces(&lab, 0..endpoints + STARTS)?;
    let agent = AgentOptions::default().start(&lab)?;
    let all: Vec<Value> =
        (0..endpoints).map(|index| endpoint(index, endpoints)).collect::<Result<_>>()?;
    let placed = apply(&agent, &all)?;
    let empty = memory(&agent)?;
    let all: Vec<Value> = (0..policies).map(|index| policy(index, endpoints, 0)).collect();
    let first = apply(&agent, &all)?;
    let resident = memory(&agent)?;
    let mut changes = Vec::new();
    for change in 0..CHANGES {
        let (index, version) = (change * 37 % policies, 1 + change / policies % 2);
        changes.push(apply(&agent, &[policy(index, endpoints, version)])?);
    }
    let mut starts = Vec::new();
    for start in 0..STARTS {
        starts.push(apply(&agent, &[endpoint(endpoints + start, endpoints)?])?);
    }
    let mut diffs = Vec::new();
    for change in 0..DIFFS {
        let body = json!({"resources": [policy(change, endpoints, 3)]}).to_string();
        let started = Instant::now();
        let answer = agent.request("POST", "/v1/diff", Some(&body))?;
        diffs.push(started.elapsed());
        ensure!(answer.status == 200, "diff: {}: {}", answer.status, answer.text());
    }
    // The allocator gives back what has not been used for ten seconds.
    std::thread::sleep(Duration::from_secs(15));
    let after = memory(&agent)?;
    let figure = |what, goal, value| Figure { what, goal, value };
    Ok(vec![
        figure("endpoints: request to enforced", "", millis(placed)),
        figure("policies: request to enforced", "< 2 s", millis(first)),
        figure("one policy, p50 / p99 / max", "p99 < 20 ms", spread(changes)),
        figure("one endpoint", "", spread(starts)),
        figure("diff of one policy", "", spread(diffs)),
        figure("one 4 KB flush of this disk", "", flushes(lab.folder())?),
        figure("resident, endpoints only", "", empty),
        figure("resident, right after them", "", resident),
        figure("resident, 15 s after the changes", "< 100 MB", after),
    ])
}

// --- many networks ---------------------------------------------------------------------------

fn set(count: u32) -> Value {
    // /30s, none beside another, so that no two could be one.
    let net = |index: u32| format!("{}/30", Ipv4Addr::from(0x1000_0000 + (index << 3)));
    let nets: Vec<String> = (0..count).map(net).collect();
    json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
           "metadata": {"name": "feed", "labels": {"feed": "bad"}}, "spec": {"nets": nets}})
}

fn many_networks() -> Result<Vec<Figure>> {
    let lab = Lab::new()?;
    interfaces(&lab, 0..20)?;
    let agent = AgentOptions::default().start(&lab)?;
    let mut all: Vec<Value> = (0..10).map(|index| endpoint(index, 10)).collect::<Result<_>>()?;
    all.push(json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
                    "metadata": {"name": "feed"},
                    "spec": {"selector": "all()", "types": ["Ingress"],
                             "ingress": [{"action": "Deny", "source": {"selector": "feed == 'bad'"}},
                                         {"action": "Allow"}]}}));
    apply(&agent, &all)?;
    let first = apply(&agent, &[set(NETWORKS)])?;
    let resident = memory(&agent)?;
    let mut others = Vec::new();
    for change in 0..100 {
        others.push(apply(&agent, &[policy(change % 10, 10, change / 10 % 6)])?);
    }
    let mut more = Vec::new();
    for change in 1..=NETWORK_CHANGES {
        more.push(apply(&agent, &[set(NETWORKS + change)])?);
    }
    let after = memory(&agent)?;
    let figure = |what, goal, value| Figure { what, goal, value };
    Ok(vec![
        figure("request to enforced", "(< 60 s)", millis(first)),
        figure("one policy after that, p50 / p99 / max", "", spread(others)),
        figure("the set with one network more, sent whole", "", spread(more)),
        figure("resident", "", resident),
        figure("resident, after the changes", "", after),
    ])
}
