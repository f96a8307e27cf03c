//! What a packet costs in the kernel programs, in nanoseconds over a program that does nothing.
//!
//! Inputs: root, an [`Effort`]. Outputs: a [`World`] for each number of rules and endpoints.
//!
//! All figures are the kernel's own (`BPF_PROG_TEST_RUN`). Rounds are interleaved, through all worlds,
//! each beginning with the empty program, and the median over the rounds is shown, so that another
//! load on the machine hits everything alike.
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
use policy_agent::kernel::{load::Sizes, pin::Hook};

use crate::{
    bench::statistics::median,
    testrun::{Action, Ring},
};

/// Rules, endpoints, and networks in sets that a rule selects, of each measured world.
const WORLDS: [(u32, u32, u32); 5] =
    [(1, 10, 0), (1_000, 10, 0), (50_000, 10, 0), (50_000, 10_000, 0), (1_000, 10, 1_000_000)];
/// Networks of one set: a file is bounded.
const SET: u32 = 100_000;
/// The subject and its peer, by family.
const ENDS: [(&str, &str); 2] = [("10.0.0.1", "10.1.0.1"), ("fd00::1", "fd01::1")];

/// An address that belongs to no endpoint, in one of the networks if there are some.
const FAR: &str = "100.4.0.1";
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

/// How often to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Rounds of repeated runs.
    pub rounds: usize,
    /// Runs in a row, of which the kernel gives the mean.
    pub repeat: u32,
    /// Single runs.
    pub singles: u16,
}

impl Effort {
    /// Seconds for each world. Runs in a row are so few that most rounds end within one slice of the
    /// scheduler's: whom it lets in between spoils some samples, and the median leaves them out.
    pub const FULL: Self = Self { rounds: 99, repeat: 20_000, singles: 2_000 };
    /// A fraction of that.
    pub const QUICK: Self = Self { rounds: 25, repeat: 10_000, singles: 500 };
}

/// What packets cost where there is so much of what could make them dear.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// How many of what; the same things in every world.
    pub size: Vec<(u32, &'static str)>,
    /// The same ones in every world.
    pub costs: Vec<Cost>,
}

/// What one kind of packet costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// Which.
    pub name: &'static str,
    /// What it may cost, in nanoseconds; `None` for figures that explain others.
    pub budget: Option<u32>,
    /// Nanoseconds over the empty program.
    pub nanos: f64,
}

impl World {
    /// How large it is, in words.
    #[must_use]
    pub fn title(&self) -> String {
        let parts: Vec<String> =
            self.size.iter().map(|(count, what)| format!("{count} {what}")).collect();
        parts.join(", ")
    }

    /// Nanoseconds of one kind of packet.
    #[must_use]
    pub fn cost(&self, name: &str) -> Option<f64> {
        self.costs.iter().find(|cost| cost.name == name).map(|cost| cost.nanos)
    }

    /// What that kind may cost.
    #[must_use]
    pub fn budget(&self, name: &str) -> Option<u32> {
        self.costs.iter().find(|cost| cost.name == name).and_then(|cost| cost.budget)
    }
}

/// The kinds of packets that have a budget.
#[must_use]
pub fn budgeted(worlds: &[World]) -> Vec<&'static str> {
    let costs = worlds.first().map_or(&[][..], |world| &world.costs);
    costs.iter().filter(|cost| cost.budget.is_some()).map(|cost| cost.name).collect()
}

/// Measures all worlds, round by round, each round in all of them.
///
/// # Errors
/// If the programs cannot be run, or do not say of a packet what they should.
pub fn measure(effort: Effort) -> Result<Vec<World>> {
    let cases = cases()?;
    let beds = WORLDS.into_iter().map(|size| Bed::new(size, cases.len()));
    let mut beds = beds.collect::<Result<Vec<Bed>>>()?;
    for _ in 0..effort.rounds {
        for bed in &mut beds {
            bed.round(&cases, effort)?;
        }
    }
    beds.into_iter().map(|bed| bed.finish(&cases, effort)).collect()
}

/// A world on its way: the programs, and their samples so far.
struct Bed {
    size: Vec<(u32, &'static str)>,
    ring: Ring,
    subject: u32,
    empty: Vec<f64>,
    /// For each case.
    samples: Vec<Vec<f64>>,
}

impl Bed {
    fn new((rules, endpoints, networks): (u32, u32, u32), cases: usize) -> Result<Self> {
        let started = Instant::now();
        let mut ring = Ring::new(Sizes::default())?;
        let loaded = started.elapsed();
        let subject = world(&mut ring, rules, endpoints, networks)?;
        eprintln!(
            "rules: {rules}, endpoints: {endpoints}, networks: {networks}; loaded in {loaded:.1?}, programmed in {:.1?}",
            started.elapsed() - loaded
        );
        // Opens the connections that the established cases are of.
        for (source, destination) in ENDS {
            let syn = tcp(source, 40_000, destination, 443, 0x02)?;
            expect(&ring, Hook::FromEndpoint, subject, &syn, Action::Pass)?;
            let answer = tcp(destination, 443, source, 40_000, 0x12)?;
            expect(&ring, Hook::ToEndpoint, subject, &answer, Action::Pass)?;
            // Without it they would be forgotten before the last world stands.
            let complete = tcp(source, 40_000, destination, 443, 0x10)?;
            expect(&ring, Hook::FromEndpoint, subject, &complete, Action::Pass)?;
        }
        let samples = vec![Vec::new(); cases];
        let size = vec![(rules, "rules"), (endpoints, "endpoints"), (networks, "networks")];
        Ok(Self { size, ring, subject, empty: Vec::new(), samples })
    }

    /// Means of many runs in a row.
    fn round(&mut self, cases: &[Case], effort: Effort) -> Result<()> {
        let base = nanos(self.ring.repeat_empty(&cases[0].frame, effort.repeat)?);
        self.empty.push(base);
        for (case, samples) in cases.iter().zip(&mut self.samples) {
            let (action, duration) = self
                .ring
                .repeat(case.hook, self.subject, &case.frame, effort.repeat)?
                .context("the kernel takes such a frame")?;
            ensure!(action == case.action, "{}: {action:?}", case.name);
            samples.push(nanos(duration) - base);
        }
        Ok(())
    }

    /// Medians of the rounds, and of single runs.
    fn finish(self, cases: &[Case], effort: Effort) -> Result<World> {
        let mut costs = vec![Cost {
            name: "the empty program itself",
            budget: None,
            nanos: median(&self.empty).context("at least one round")?,
        }];
        let medians: Option<Vec<f64>> =
            self.samples.iter().map(|samples| median(samples)).collect();
        let medians = medians.context("at least one round")?;
        for (case, &nanos) in cases.iter().zip(&medians) {
            let nanos = match case.established {
                Some(established) => 2.0 * nanos - medians[established],
                None => nanos,
            };
            costs.push(Cost { name: case.name, budget: Some(case.budget), nanos });
        }
        for (name, (source, destination)) in
            ["first packet, IPv4 TCP out, cold", "first packet, IPv6 TCP out, cold"]
                .into_iter()
                .zip(ENDS)
        {
            let syn = |port| tcp(source, 1024 + port, destination, 443, 0x02);
            let nanos = self.cold(Hook::FromEndpoint, (0..effort.singles).map(syn))?;
            costs.push(Cost { name, budget: None, nanos });
        }
        let established = (0..effort.singles).map(|_| Ok(cases[0].frame.clone()));
        let nanos = self.cold(cases[0].hook, established)?;
        costs.push(Cost { name: "established, IPv4 TCP out, cold", budget: None, nanos });
        Ok(World { size: self.size, costs })
    }

    /// The median of single runs, of frames that pass.
    fn cold(&self, hook: Hook, frames: impl Iterator<Item = Result<Vec<u8>>>) -> Result<f64> {
        let (mut bare, mut full) = (Vec::new(), Vec::new());
        for frame in frames {
            let frame = frame?;
            bare.push(nanos(self.ring.repeat_empty(&frame, 1)?));
            let run = self.ring.repeat(hook, self.subject, &frame, 1)?;
            let (action, duration) = run.context("the kernel takes such a frame")?;
            ensure!(action == Action::Pass, "{action:?} where the frame was to pass");
            full.push(nanos(duration));
        }
        let of = |samples: &[f64]| median(samples).context("at least one single run");
        Ok(of(&full)? - of(&bare)?)
    }
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
fn world(ring: &mut Ring, rules: u32, endpoints: u32, networks: u32) -> Result<u32> {
    let subject = ring.interface("subject")?;
    ring.endpoint(subject, "subject", "subject", &[ip("10.0.0.1")?, ip("fd00::1")?]);
    ring.change("subject", |spec| spec.mac = Some(MAC))?;
    for number in 1..endpoints {
        let addresses = [
            IpAddr::from((0x0a01_0000 + number).to_be_bytes()),
            IpAddr::from((0xfd01_u128 << 112 | u128::from(number)).to_be_bytes()),
        ];
        // No such interfaces exist: nothing but their entries is asked for here.
        let app = format!("app{}", number % 100);
        ring.endpoint(1_000_000 + number, &format!("e{number}"), &app, &addresses);
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
fn policies(rules: u32) -> Result<Vec<String>> {
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

pub(super) fn nanos(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1e9
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
