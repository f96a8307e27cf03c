//! What observing costs, and how fast it answers.
//!
//! Inputs: root, an agent of the same build. Outputs: lines of a table.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use policy_agent::{
    history::{Bounds, History, Standing},
    observer::Observer,
};
use policy_api::{
    flow::{CLOSE, Ended, FlowEnd, FlowRecord, Traffic},
    messages::{EndpointState, RuleName, Verdict},
};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, AgentOptions},
    bench::{
        live::Sender,
        measure::{self, cpu_time},
        statistics,
        topology::{CLIENT, INSIDE, SERVER, Topology, at},
    },
    wait,
};

/// A line of the table: what, what it should be, what it is.
pub type Line = [String; 3];

const MIB: u64 = 1024 * 1024;
/// Records in the history, and the time that they are spread over.
const RECORDS: u64 = 10_000_000;
const SPAN: Duration = Duration::from_secs(2_400);
/// Records that may be on their way into the files.
const AHEAD: u64 = 12_000;
const WORKLOADS: u64 = 50;
/// Packets whose way to `observe -f` is timed.
const EVENTS: usize = 1_000;
/// Rounds and length of each, with flow records and without.
const ROUNDS: usize = 9;
const WINDOW: Duration = Duration::from_secs(3);
/// New flows a second, and for how long.
const FLOWS_PER_SECOND: u64 = 50_000;
const FLOWS_FOR: Duration = Duration::from_secs(10);
const FLOOD_FOR: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(20);

fn median(samples: &[f64]) -> f64 {
    statistics::median(samples).unwrap_or(f64::NAN)
}

fn line(what: impl Into<String>, goal: &str, found: impl Into<String>) -> Line {
    [what.into(), goal.to_owned(), found.into()]
}

/// An agent that fences the server and lets the client in.
fn agent(on: &Topology, flags: &[&str]) -> Result<Agent> {
    let agent = AgentOptions::default().flags(&["--bridge", INSIDE]).flags(flags).start(&on.lab)?;
    let server = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
        "metadata": {"name": "server", "namespace": "bench", "labels": {"app": "server"}},
        "spec": {"interfaceName": on.server.host_interface(), "ipNetworks": [format!("{SERVER}/32")]},
    });
    let policy = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "server"},
        "spec": {"selector": "app == 'server'", "types": ["Ingress"],
                 "ingress": [{"action": "Allow", "source": {"nets": [format!("{CLIENT}/32")]}}]},
    });
    apply(&agent, &[server, policy])?;
    agent.wait_endpoints("the server to be enforced", |endpoints| {
        endpoints.iter().any(|it| it.state == EndpointState::Enforcing)
    })?;
    Ok(agent)
}

fn apply(agent: &Agent, resources: &[Value]) -> Result<()> {
    let body = json!({ "resources": resources }).to_string();
    let answer = agent.request("POST", "/v1/apply", Some(&body))?;
    ensure!(answer.status == 200, "apply: {}: {}", answer.status, answer.text());
    Ok(())
}

/// From a packet that is dropped to its line of `observe -f`.
///
/// # Errors
/// If nothing comes.
pub fn events() -> Result<Vec<Line>> {
    let on = Topology::new()?;
    let agent = agent(&on, &[])?;
    let mut child = agent
        .policyctl_command()?
        .args(["observe", "-f", "-o", "json", "--event", "drop"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("a pipe")?).lines();
    let stranger = Ipv4Addr::new(10, 80, 1, 3);
    let socket = on.client.netns().udp_bind(SocketAddr::from((stranger, 0)))?;
    // Until it watches.
    let mut next = |port: u16| -> Result<Duration> {
        let sent = Instant::now();
        socket.send_to(b"knock", at(port))?;
        loop {
            let text = lines.next().context("the stream has ended")??;
            let record: FlowRecord = serde_json::from_str(&text)?;
            if record.destination.port == port {
                return Ok(sent.elapsed());
            }
        }
    };
    thread::sleep(Duration::from_secs(1));
    let mut took = Vec::new();
    for number in 0..EVENTS {
        took.push(next(10_000 + u16::try_from(number)?)?);
        thread::sleep(Duration::from_millis(2));
    }
    child.kill()?;
    child.wait()?;
    took.sort_unstable();
    let at = |share: usize| format!("{:.2} ms", took[EVENTS * share / 100].as_secs_f64() * 1e3);
    Ok(vec![
        line("a drop to its line of `observe -f`, median", "", at(50)),
        line("the same, 99 of 100", "< 50 ms", at(99)),
    ])
}

/// Connections a second with flow records and without, in turns.
///
/// # Errors
/// If connections fail.
pub fn connects() -> Result<Vec<Line>> {
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        // In turns of turns: what a machine does in between hits both alike.
        for which in if round.is_multiple_of(2) { [0, 1] } else { [1, 0] } {
            let on = Topology::new()?;
            let flags: &[&str] =
                if which == 0 { &[] } else { &["--flow-records", "false", "--history-size", "0"] };
            let _agent = agent(&on, flags)?;
            measure::connects(&on, WINDOW / 3)?;
            rates[which].push(measure::connects(&on, WINDOW)?);
        }
    }
    let ratios: Vec<f64> = rates[0].iter().zip(&rates[1]).map(|(on, off)| on / off).collect();
    let [on, off] = rates.map(|rates| format!("{:.0} a second", median(&rates)));
    Ok(vec![
        line("TCP connections, flow records and history on", "", on),
        line("the same, off", "", off),
        line("on over off, median of rounds", "> 0.97", format!("{:.3}", median(&ratios))),
    ])
}

/// The sum of all series of a metric.
fn total(agent: &Agent, metric: &str) -> Result<u64> {
    let text = agent.metrics()?;
    let series = text
        .lines()
        .filter(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with([' ', '{'])));
    let values = series.map(|line| {
        let (_, value) = line.rsplit_once(' ').context("a series has a value")?;
        value.parse::<u64>().context("a number")
    });
    values.sum()
}

/// Memory of a process that is its own, bytes: `RssAnon` (proc(5)).
fn memory(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("RssAnon")?;
    Ok(kib.parse::<u64>()? * 1024)
}

/// The most that a process has while something goes on.
fn most_memory<T>(pid: u32, run: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| -> Result<u64> {
            let mut most = 0;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                most = most.max(memory(pid)?);
                thread::sleep(Duration::from_millis(50));
            }
            Ok(most)
        });
        let ran = run();
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        let most = watch.join().map_err(|_| anyhow::anyhow!("the watch failed"))??;
        Ok((ran?, most))
    })
}

/// Fifty thousand flows a second begin.
///
/// # Errors
/// If they cannot be sent.
pub fn flows() -> Result<Vec<Line>> {
    let on = Topology::new()?;
    let agent = agent(&on, &[])?;
    let pid = agent.pid().context("the agent runs")?;
    let before = cpu_time(pid)?;
    let started = Instant::now();
    let (sent, memory) = most_memory(pid, || {
        on.client.netns().run(|| -> Result<u64> {
            let mut sent = 0;
            let mut socket = None;
            while started.elapsed() < FLOWS_FOR {
                let due = u64::try_from(started.elapsed().as_millis())? * FLOWS_PER_SECOND / 1000;
                while sent < due {
                    // Sixty thousand ports of the server for each of ours.
                    let port = u16::try_from(sent % 60_000)? + 1_024;
                    if sent % 60_000 == 0 {
                        socket = Some(std::net::UdpSocket::bind((CLIENT, 0))?);
                    }
                    socket.as_ref().context("a socket")?.send_to(b"x", at(port))?;
                    sent += 1;
                }
                thread::sleep(Duration::from_millis(1));
            }
            Ok(sent)
        })?
    })?;
    let lasted = started.elapsed();
    let share = (cpu_time(pid)? - before).as_secs_f64() / lasted.as_secs_f64();
    let mut counted = 0;
    let exact = wait::until("each flow to be counted", LIMIT, || {
        counted = total(&agent, "palisade_flows_total").unwrap_or(0);
        counted == sent
    });
    thread::sleep(Duration::from_secs(12));
    let lost = total(&agent, "palisade_flow_records_lost_total")?
        + total(&agent, "palisade_history_lost_total")?;
    let rate = sent as f64 / lasted.as_secs_f64();
    Ok(vec![
        line(
            format!("{sent} new flows, {rate:.0} a second: not counted"),
            "0",
            match exact {
                Ok(()) => "0".to_owned(),
                Err(_) => sent.abs_diff(counted).to_string(),
            },
        ),
        line("of them without a record, and said so", "", lost.to_string()),
        line("agent meanwhile", "", format!("{share:.3} of a core")),
        line("its memory at most", "", format!("{:.0} MB", memory as f64 / 1e6)),
    ])
}

/// A flood that no rule lets in.
///
/// # Errors
/// If it cannot be sent.
pub fn flood() -> Result<Vec<Line>> {
    let on = Topology::new()?;
    let agent = agent(&on, &[])?;
    let policy = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "server-egress"},
        "spec": {"selector": "app == 'server'", "types": ["Egress"]},
    });
    apply(&agent, &[policy])?;
    let pid = agent.pid().context("the agent runs")?;
    let sender = Sender::new(&on)?;
    let dropped = || total(&agent, "palisade_dropped_packets_total");
    let (before, had) = (dropped()?, cpu_time(pid)?);
    let started = Instant::now();
    let (sent, memory) = most_memory(pid, || sender.send(FLOOD_FOR))?;
    let lasted = started.elapsed();
    let share = (cpu_time(pid)? - had).as_secs_f64() / lasted.as_secs_f64();
    let rate = sent as f64 / lasted.as_secs_f64();
    let counted = dropped()? - before;
    Ok(vec![
        line(
            format!("denied flood of {sent} packets, {rate:.0} a second: not counted"),
            "0",
            sent.abs_diff(counted).to_string(),
        ),
        line("agent meanwhile", "< 0.05", format!("{share:.3} of a core")),
        line("its memory at most", "< 100 MB", format!("{:.0} MB", memory as f64 / 1e6)),
        line(
            "packets without an event, and said so",
            "",
            total(&agent, "palisade_events_lost_total")?.to_string(),
        ),
    ])
}

/// Ten million records of the last hour, in an agent's history.
///
/// # Errors
/// If they cannot be written or found.
pub fn history() -> Result<Vec<Line>> {
    let on = Topology::new()?;
    let mut agent = agent(&on, &["--history-size", "4096"])?;
    let status = agent.terminate()?;
    ensure!(status.success(), "the agent: {status}");
    let folder = agent.state_dir().join("history");
    let begin = SystemTime::now() - SPAN;
    let started = Instant::now();
    fill(&folder, begin)?;
    let wrote = started.elapsed();
    let bytes: u64 = fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.metadata()?.len()))
        .sum::<std::io::Result<u64>>()?;
    let started = Instant::now();
    agent.start()?;
    let opened = started.elapsed();
    let mut lines = vec![
        line(
            format!("{RECORDS} records written"),
            "",
            format!("{:.0} a second", RECORDS as f64 / wrote.as_secs_f64()),
        ),
        line("they take", "", format!("{:.0} MB", bytes as f64 / 1e6)),
        line("the agent is ready with them", "", format!("{:.2} s", opened.as_secs_f64())),
    ];
    for (what, goal, filters) in [
        (
            "`observe --since 1h`, by a name in the last block",
            "< 1 s",
            &["--from-name", "rare-last"][..],
        ),
        ("the same in the first block", "< 1 s", &["--from-name", "rare-first"]),
        ("by an address in the middle", "< 1 s", &["--ip", "203.0.113.77"]),
        ("by a label in the middle", "< 1 s", &["--label", "app == 'rare-middle'"]),
        (
            "by a reason and a port, in the middle",
            "< 1 s",
            &["--reason", "guard", "--port", "4242"],
        ),
    ] {
        let mut took = Vec::new();
        for _ in 0..5 {
            let started = Instant::now();
            let mut command = agent.policyctl_command()?;
            command.args(["observe", "--since", "1h", "-o", "json"]).args(filters);
            let mut child = command.stdout(Stdio::piped()).spawn()?;
            let mut lines = BufReader::new(child.stdout.take().context("a pipe")?).lines();
            lines.next().with_context(|| format!("{filters:?}: nothing was found"))??;
            took.push(started.elapsed().as_secs_f64());
            child.kill()?;
            child.wait()?;
        }
        lines.push(line(format!("{what}: first line"), goal, format!("{:.3} s", median(&took))));
    }
    Ok(lines)
}

/// Writes the records, no faster than they get to the disk.
fn fill(folder: &Path, begin: SystemTime) -> Result<()> {
    let standing = Arc::<Standing>::default();
    let observer = Observer::new(Some(Arc::clone(&standing)));
    let bounds = Bounds { size: 4096 * MIB, age: Duration::from_secs(86_400) };
    let history = History::start(folder, bounds, observer.clone(), Arc::clone(&standing))?;
    for number in 0..RECORDS {
        observer.take(Arc::new(record(number, begin)));
        while number.is_multiple_of(1024) && number > standing.ledger.written() + AHEAD {
            thread::sleep(Duration::from_millis(1));
        }
    }
    drop(history);
    ensure!(standing.ledger.written() == RECORDS, "{:?}", standing.component());
    Ok(())
}

/// Flows of some workloads among each other and with many addresses outside; a few are like no other.
fn record(number: u64, begin: SystemTime) -> FlowRecord {
    let time = begin + SPAN.mul_f64(number as f64 / RECORDS as f64);
    let time = humantime::format_rfc3339_micros(time).to_string();
    let workload = |of: u64| {
        let name = format!("service-{}", of % WORKLOADS);
        let labels = [("app", name.clone()), ("tier", format!("tier-{}", of % 3))];
        FlowEnd {
            ip: Some(IpAddr::from([10, 20, 0, u8::try_from(of % WORKLOADS).unwrap_or(0)])),
            namespace: format!("project-{}", of % 7),
            port: 0,
            labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
            name,
        }
    };
    let [.., a, b, c] = number.wrapping_mul(0x9e37_79b9).to_be_bytes();
    let mut source = match number % 3 {
        0 => FlowEnd {
            ip: Some(IpAddr::from([100, a, b, c])),
            namespace: String::new(),
            port: 0,
            labels: BTreeMap::new(),
            name: "world".to_owned(),
        },
        _ => workload(number / 3),
    };
    source.port = 32_768 + u16::from_be_bytes([b & 0x7f, c]);
    let mut destination = workload(number / 7);
    destination.port = [80, 443, 5432, 6379, 8080][usize::try_from(number % 5).unwrap_or(0)];
    let mut reason = String::new();
    match number {
        100 => "rare-first".clone_into(&mut source.name),
        last if last == RECORDS - 100 => "rare-last".clone_into(&mut source.name),
        middle if middle == RECORDS / 2 => {
            source.ip = Some(IpAddr::from([203, 0, 113, 77]));
            source.labels.insert("app".to_owned(), "rare-middle".to_owned());
            destination.port = 4242;
            "guard".clone_into(&mut reason);
        }
        _ => {}
    }
    FlowRecord {
        event: CLOSE.to_owned(),
        verdict: Verdict::Allow,
        reason,
        direction: "ingress".to_owned(),
        source,
        destination,
        protocol: "tcp".to_owned(),
        icmp_type: None,
        icmp_code: None,
        tcp_flags: "FIN".to_owned(),
        rule: Some(RuleName {
            tier: "default".to_owned(),
            namespace: "shop".to_owned(),
            kind: "NetworkPolicy".to_owned(),
            policy: format!("policy-{}", number % 20),
            rule: "ingress[0]".to_owned(),
            action: "allow".to_owned(),
        }),
        logged: Vec::new(),
        staged: None,
        bytes: 1_000 + number % 50_000,
        traffic: Some(Traffic {
            start: time.clone(),
            end: time.clone(),
            packets: 5 + number % 11,
            bytes: 700 + number % 1_000,
            reply_packets: 4 + number % 13,
            reply_bytes: 300 + number % 49_000,
            ended: Some(Ended::Closed),
        }),
        time,
    }
}
