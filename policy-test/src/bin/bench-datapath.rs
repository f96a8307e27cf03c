//! What a packet costs in the kernel programs, in nanoseconds over a program that does nothing.
//!
//! Inputs: root. Outputs: a table; an exit code, 0 if everything could be measured. Started by
//! `cargo xtask bench datapath`.
//!
//! All figures are the kernel's own (`BPF_PROG_TEST_RUN`). Rounds are interleaved, each beginning
//! with the empty program, and the median over the rounds is shown, so that another load on the
//! machine hits everything alike.
//!
//! A packet that opens a connection can do so only once, which leaves two ways to measure it. Warm:
//! a SYN with a FIN opens a connection when it comes first, closes it when it comes again, opens it
//! again, and so on, so twice its mean cost is that of an opening and of an established packet.
//! Cold: one run for each of many port pairs, the empty program likewise; a single run finds the
//! caches as another program left them, as the line below it shows.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use policy_agent::kernel::{load::Sizes, pin::Hook};
use policy_test::testrun::{Action, Ring};

/// Rounds of the repeated runs and of the single runs.
const ROUNDS: usize = 9;
const REPEAT: u32 = 200_000;
const SINGLES: u16 = 2_000;
/// Rules, endpoints, and networks in sets that a rule selects, of each measured world.
const WORLDS: [(usize, usize, u32); 5] =
    [(1, 10, 0), (1_000, 10, 0), (50_000, 10, 0), (50_000, 10_000, 0), (1_000, 10, 1_000_000)];
/// Networks of one set: a file is bounded.
const SET: u32 = 100_000;
/// The subject and its peer, by family.
const ENDS: [(&str, &str); 2] = [("10.0.0.1", "10.1.0.1"), ("fd00::1", "fd01::1")];
/// An address that belongs to no endpoint, in one of the networks if there are some.
const FAR: &str = "100.4.0.1";
/// How far the costs may differ from world to world.
const FLAT: &str = "all flat within 10 % over rules and endpoints";

/// What all frames come from, the subject's own among them.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What is measured.
struct Case {
    name: &'static str,
    hook: Hook,
    frame: Vec<u8>,
    action: Action,
    /// Goal, ns over empty.
    budget: u32,
    /// For a frame that opens a connection and closes it by turns: the case to take away.
    established: Option<usize>,
}

fn main() -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let mut header = vec!["ns over empty".to_owned(), "budget".to_owned()];
    let mut columns = Vec::new();
    for (rules, endpoints, networks) in WORLDS {
        header.push(format!("{rules} rules\n{endpoints} endpoints\n{networks} networks"));
        columns.push(measure(rules, endpoints, networks)?);
    }
    table.set_header(header);
    let names: Vec<(String, String)> =
        columns[0].iter().map(|row| (row.name.clone(), row.budget.clone())).collect();
    for (index, (name, budget)) in names.into_iter().enumerate() {
        let figures = columns.iter().map(|column| format!("{:.0}", column[index].nanos));
        table.add_row([name, budget].into_iter().chain(figures));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    println!("Medians of {ROUNDS} rounds; {FLAT} is the goal.");
    Ok(())
}

/// One line of one column.
struct Row {
    name: String,
    budget: String,
    nanos: f64,
}

fn measure(rules: usize, endpoints: usize, networks: u32) -> Result<Vec<Row>> {
    let started = Instant::now();
    let mut ring = Ring::new(Sizes::default())?;
    let loaded = started.elapsed();
    let subject = world(&mut ring, rules, endpoints, networks)?;
    eprintln!(
        "rules: {rules}, endpoints: {endpoints}; loaded in {loaded:.1?}, programmed in {:.1?}",
        started.elapsed() - loaded
    );
    let cases = cases()?;
    // Opens the connections that the established cases are of.
    for (source, destination) in ENDS {
        let syn = tcp(source, 40_000, destination, 443, 0x02)?;
        expect(&ring, Hook::FromEndpoint, subject, &syn, Action::Pass)?;
        let answer = tcp(destination, 443, source, 40_000, 0x12)?;
        expect(&ring, Hook::ToEndpoint, subject, &answer, Action::Pass)?;
    }
    let mut empty = Vec::new();
    let mut samples = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        let base = nanos(ring.repeat_empty(&cases[0].frame, REPEAT)?);
        empty.push(base);
        for (case, samples) in cases.iter().zip(&mut samples) {
            let (action, duration) = ring
                .repeat(case.hook, subject, &case.frame, REPEAT)?
                .context("the kernel takes such a frame")?;
            ensure!(action == case.action, "{}: {action:?}", case.name);
            samples.push(nanos(duration) - base);
        }
    }
    let mut rows = vec![Row {
        name: "the empty program itself".into(),
        budget: String::new(),
        nanos: median(&mut empty),
    }];
    let medians: Vec<f64> = samples.iter_mut().map(|samples| median(samples)).collect();
    for (case, &nanos) in cases.iter().zip(&medians) {
        let nanos = match case.established {
            Some(established) => 2.0 * nanos - medians[established],
            None => nanos,
        };
        rows.push(Row { name: case.name.into(), budget: case.budget.to_string(), nanos });
    }
    for (name, (source, destination)) in
        ["first packet, IPv4 TCP out, cold", "first packet, IPv6 TCP out, cold"]
            .into_iter()
            .zip(ENDS)
    {
        let (mut bare, mut full) = (Vec::new(), Vec::new());
        for port in 0..SINGLES {
            let syn = tcp(source, 1024 + port, destination, 443, 0x02)?;
            bare.push(nanos(ring.repeat_empty(&syn, 1)?));
            let (action, duration) = ring
                .repeat(Hook::FromEndpoint, subject, &syn, 1)?
                .context("the kernel takes such a frame")?;
            ensure!(action == Action::Pass, "{name}: {action:?}");
            full.push(nanos(duration));
        }
        let nanos = median(&mut full) - median(&mut bare);
        rows.push(Row { name: name.into(), budget: String::new(), nanos });
    }
    let mut cold = Vec::new();
    let mut bare = Vec::new();
    for _ in 0..SINGLES {
        bare.push(nanos(ring.repeat_empty(&cases[0].frame, 1)?));
        let (_, duration) = ring
            .repeat(cases[0].hook, subject, &cases[0].frame, 1)?
            .context("the kernel takes such a frame")?;
        cold.push(nanos(duration));
    }
    rows.push(Row {
        name: "established, IPv4 TCP out, cold".into(),
        budget: String::new(),
        nanos: median(&mut cold) - median(&mut bare),
    });
    Ok(rows)
}

fn cases() -> Result<Vec<Case>> {
    let out = Hook::FromEndpoint;
    let inward = Hook::ToEndpoint;
    let ((own_v4, peer_v4), (own_v6, peer_v6)) = (ENDS[0], ENDS[1]);
    let v4 = |flags, port| tcp(own_v4, 40_000, peer_v4, port, flags);
    let v6 = |flags, port| tcp(own_v6, 40_000, peer_v6, port, flags);
    let back_v4 = tcp(peer_v4, 443, own_v4, 40_000, 0x10)?;
    let back_v6 = tcp(peer_v6, 443, own_v6, 40_000, 0x10)?;
    let case = |name, hook, frame, action, budget| Case {
        name,
        hook,
        frame,
        action,
        budget,
        established: None,
    };
    let opens = |name, frame, established| Case {
        established: Some(established),
        ..case(name, out, frame, Action::Pass, 450)
    };
    Ok(vec![
        case("established, IPv4 TCP out", out, v4(0x10, 443)?, Action::Pass, 70),
        case("established, IPv4 TCP in", inward, back_v4, Action::Pass, 70),
        case("established, IPv6 TCP out", out, v6(0x10, 443)?, Action::Pass, 95),
        case("established, IPv6 TCP in", inward, back_v6, Action::Pass, 95),
        case("denied, IPv4 TCP out", out, v4(0x02, 444)?, Action::Drop, 200),
        case("denied, IPv6 TCP out", out, v6(0x02, 444)?, Action::Drop, 200),
        case(
            "denied, IPv4 TCP to the world",
            out,
            tcp(own_v4, 40_000, FAR, 444, 0x02)?,
            Action::Drop,
            200,
        ),
        opens("first packet, IPv4 TCP out, warm", tcp(own_v4, 39_999, peer_v4, 443, 0x03)?, 0),
        opens("first packet, IPv6 TCP out, warm", tcp(own_v6, 39_999, peer_v6, 443, 0x03)?, 2),
    ])
}

/// The endpoint that is measured and `endpoints` in all, with about `rules` rules in 1 policy for
/// each 100 of them.
fn world(ring: &mut Ring, rules: usize, endpoints: usize, networks: u32) -> Result<u32> {
    let subject = ring.interface("subject")?;
    ring.endpoint(subject, "subject", "subject", &[ip("10.0.0.1")?, ip("fd00::1")?]);
    ring.change("subject", |spec| spec.mac = Some(MAC))?;
    for index in 1..endpoints {
        let number = u32::try_from(index)?;
        let addresses = [
            IpAddr::from((0x0a01_0000 + number).to_be_bytes()),
            IpAddr::from((0xfd01_u128 << 112 | u128::from(number)).to_be_bytes()),
        ];
        // No such interfaces exist: nothing but their entries is asked for here.
        let app = format!("app{}", index % 100);
        ring.endpoint(1_000_000 + number, &format!("e{index}"), &app, &addresses);
    }
    for policy in policies(rules)? {
        ring.add_policies(&policy)?;
    }
    for set in sets(networks)? {
        ring.add_policies(&set)?;
    }
    ring.sync()?;
    Ok(subject)
}

/// Rules for single ports of single prefixes; the last one lets the measured connections out.
fn policies(rules: usize) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let mut left = rules;
    while left > 0 {
        let here = left.min(100);
        left -= here;
        let policy = all.len();
        let mut text = String::new();
        write!(
            text,
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n\
             metadata: {{ name: p{policy} }}\nspec:\n  order: {policy}\n  \
             selector: app == 'subject'\n  types: [Ingress, Egress]\n  egress:\n"
        )?;
        for rule in 0..here {
            let last = left == 0 && rule + 1 == here;
            if last {
                writeln!(
                    text,
                    "    - {{ action: Allow, protocol: TCP, destination: {{ selector: has(app), \
                     ports: [443] }} }}"
                )?;
            } else {
                let (port, net) = (1000 + rule, policy);
                writeln!(
                    text,
                    "    - {{ action: Allow, protocol: TCP, destination: {{ nets: \
                     [172.{}.{}.0/24], ports: [{port}] }} }}",
                    16 + net / 250,
                    net % 250
                )?;
            }
        }
        all.push(text);
    }
    Ok(all)
}

/// Network sets around the peer's address, and a policy that denies them, behind all others.
fn sets(networks: u32) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for first in (0..networks).step_by(SET as usize) {
        let mut text = format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{name: s{first}, \
             labels: {{feed: bad}}}}\nspec:\n  nets:\n"
        );
        for index in first..networks.min(first + SET) {
            // /30s, none beside another, so that no two could be one.
            writeln!(text, "  - {}/30", Ipv4Addr::from(0x6400_0000 + (index << 3)))?;
        }
        all.push(text);
    }
    if networks > 0 {
        all.push(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: feed}\n\
             spec: {selector: app == 'subject', types: [Egress], egress: [{action: Deny, \
             destination: {selector: feed == 'bad'}}]}"
                .to_owned(),
        );
    }
    Ok(all)
}

fn expect(ring: &Ring, hook: Hook, ifindex: u32, frame: &[u8], wanted: Action) -> Result<()> {
    let action = ring.run(hook, ifindex, frame)?;
    ensure!(action == Some(wanted), "{action:?} where {wanted:?} was to be");
    Ok(())
}

fn ip(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| format!("{text} is no address"))
}

fn nanos(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

/// A TCP segment in an Ethernet frame.
fn tcp(from: &str, from_port: u16, to: &str, to_port: u16, flags: u8) -> Result<Vec<u8>> {
    let builder = etherparse::PacketBuilder::ethernet2(MAC, MAC);
    let builder = match (ip(from)?, ip(to)?) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => anyhow::bail!("{from} and {to} are not of one family"),
    };
    let mut builder = builder.tcp(from_port, to_port, 1, 512);
    if flags & 0x01 != 0 {
        builder = builder.fin();
    }
    if flags & 0x02 != 0 {
        builder = builder.syn();
    }
    if flags & 0x10 != 0 {
        builder = builder.ack(1);
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, b"data")?;
    Ok(frame)
}
