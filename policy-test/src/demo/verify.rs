//! Whether four witnesses agree: the packets, the table, `policyctl explain`, and what the agent
//! observed and counted.
//!
//! Inputs: a stage after its connections. Outputs: drops and counters for the screen; a line for
//! each comparison.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use policy_api::{
    flow::{FlowEnd, FlowRecord},
    messages::{Explanation, Verdict},
};
use prometheus_parse::{Scrape, Value};

use super::{
    interrupt::Interrupts,
    matrix::{self, Matrix, agrees},
    screen::{DIM, Screen},
    stage::Stage,
};
use crate::table::{self, HOST, Table};

/// More drops than a run can make, and as many as the agent tells at one time.
const ALL_DROPS: &str = "10000";
/// The counter of drops.
const DROPPED: &str = "palisade_dropped_packets_total";
/// The counter of drops without an event.
const UNREPORTED: &str = "palisade_events_lost_total";
const TCP: &str = "tcp";

/// One row of drops: packets between the same two, decided by the same rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Drops {
    from: String,
    to: String,
    port: u16,
    direction: String,
    rule: String,
}

/// Everything that the agent says about the connections that were tried.
#[derive(Debug)]
pub(super) struct Evidence {
    /// By source and target: what `explain` answers, one for each family where it was asked apart.
    explained: BTreeMap<(String, String), Vec<Explanation>>,
    /// Packets, as events reported them.
    observed: BTreeMap<Drops, u64>,
    /// Packets, as the kernel counted them.
    counted: BTreeMap<Drops, u64>,
    /// Drops of other traffic than ours, such as router solicitations.
    others: u64,
    /// Drops that are counted and have no event of their own, says the agent: a repeated packet, or
    /// too many at once.
    unreported: u64,
}

impl Evidence {
    pub(super) fn collect(
        stage: &dyn Stage,
        table: &Table,
        interrupts: &Interrupts,
    ) -> Result<Self> {
        let mut explained = BTreeMap::new();
        for from in matrix::sources(table) {
            interrupts.check()?;
            for (to, service) in matrix::targets(from) {
                // The host has no name for `explain`.
                let sources = if from == HOST {
                    stage.addresses(HOST)?.iter().map(ToString::to_string).collect()
                } else {
                    vec![stage.name(from)]
                };
                let answers: Result<Vec<Explanation>> = sources
                    .iter()
                    .map(|source| explain(stage, source, &stage.name(to), &service.to_string()))
                    .collect();
                explained.insert((from.to_owned(), to.to_owned()), answers?);
            }
        }
        let (observed, others) = observe(stage, table)?;
        let metrics = metrics(stage)?;
        let counted = count(&metrics, stage, table)?;
        let unreported = metrics.samples.iter().filter(|sample| sample.metric == UNREPORTED);
        let unreported = unreported.filter_map(|sample| packets(&sample.value)).sum();
        Ok(Self { explained, observed, counted, others, unreported })
    }

    /// The drops as the matrix has them.
    fn in_order<'a>(&'a self, table: &'a Table) -> impl Iterator<Item = (&'a Drops, &'a u64)> {
        let pairs = matrix::sources(table)
            .into_iter()
            .flat_map(|from| matrix::targets(from).map(move |(to, _)| (from, to)));
        pairs.flat_map(|pair| {
            self.observed.iter().filter(move |(it, _)| (it.from.as_str(), it.to.as_str()) == pair)
        })
    }

    pub(super) fn print_drops(&self, table: &Table, screen: &mut Screen) -> Result<()> {
        screen.line(&format!("{:<25}{:>8}  {:<9}{}", "connection", "packets", "where", "rule"))?;
        for (drops, packets) in self.in_order(table) {
            let connection = format!("{} -> {}:{}", drops.from, drops.to, drops.port);
            let place = if drops.direction == "egress" { "leaving" } else { "entering" };
            screen.line(&format!("{connection:<25}{packets:>8}  {place:<9}{}", drops.rule))?;
        }
        if self.others > 0 {
            let text = format!(
                "and {} of the machinery of IPv6, which no policy allows here either",
                self.others
            );
            screen.styled(DIM, &text)?;
        }
        Ok(())
    }

    pub(super) fn print_counters(&self, screen: &mut Screen) -> Result<()> {
        let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (drops, packets) in &self.counted {
            *sums.entry((&drops.rule, &drops.direction)).or_default() += packets;
        }
        screen.line(&format!("{:<34}{:<11}{:>8}", "rule", "direction", "packets"))?;
        for ((rule, direction), packets) in sums {
            screen.line(&format!("{rule:<34}{direction:<11}{packets:>8}"))?;
        }
        Ok(())
    }

    /// Says what agrees and what does not.
    pub(super) fn verify(
        &self,
        after: &Matrix,
        table: &Table,
        screen: &mut Screen,
    ) -> Result<bool> {
        let mut packets = Vec::new();
        let mut answers = Vec::new();
        let mut drops = Vec::new();
        let mut connections = 0;
        for from in matrix::sources(table) {
            for (to, service) in matrix::targets(from) {
                connections += 1;
                let shown = format!("{from} -> {to} {service}");
                let row = table.row(from, to, service)?;
                let reach = after.get(from, to).context("a connection was not tried")?;
                if !agrees(reach, row.verdict) {
                    packets.push(format!("{shown}: {}", matrix::text(reach)));
                }
                let pair = (from.to_owned(), to.to_owned());
                for answer in self.explained.get(&pair).into_iter().flatten() {
                    let by = table::decider(answer);
                    if (answer.verdict, &by) != (row.verdict, &row.by) {
                        let by = by.as_deref().unwrap_or("nobody");
                        answers.push(format!("{shown}: {:?} by {by}", answer.verdict));
                    }
                }
                let rules: Vec<&str> = self
                    .counted
                    .keys()
                    .filter(|it| (it.from.as_str(), it.to.as_str()) == (from, to))
                    .map(|it| it.rule.as_str())
                    .collect();
                let expected = row.by.as_deref().filter(|_| row.verdict == Verdict::Deny);
                if rules != expected.into_iter().collect::<Vec<_>>() {
                    drops.push(format!("{shown}: [{}]", rules.join(", ")));
                }
            }
        }
        let comparisons = [
            (
                format!("{connections} connections, over IPv4 and IPv6, went as the table says"),
                &packets,
            ),
            ("`policyctl explain` gives the same verdicts and rules".to_owned(), &answers),
            ("every drop is counted under the rule that decided".to_owned(), &drops),
        ];
        let mut all = true;
        for (text, differences) in comparisons {
            all &= differences.is_empty();
            screen.check(differences.is_empty(), &text)?;
            for difference in differences {
                screen.line(&format!("      {difference}"))?;
            }
        }
        let (events, counters) =
            (self.observed.values().sum::<u64>(), self.counted.values().sum::<u64>());
        let same_rows = self.observed.keys().eq(self.counted.keys());
        let fine = same_rows && events <= counters && counters - events <= self.unreported;
        all &= fine;
        screen.check(
            fine,
            &format!(
                "`policyctl observe` reported {events} of {counters} packets, and {} had no event",
                self.unreported
            ),
        )?;
        Ok(all)
    }
}

fn explain(stage: &dyn Stage, from: &str, to: &str, service: &str) -> Result<Explanation> {
    let output = stage.agent().policyctl(&["explain", from, to, service, "--output", "json"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).with_context(|| {
        format!("explain {from} {to} {service}: {}", String::from_utf8_lossy(&output.stderr).trim())
    })
}

/// The drops of connections that were tried, and how many others there are.
fn observe(stage: &dyn Stage, table: &Table) -> Result<(BTreeMap<Drops, u64>, u64)> {
    let words = ["observe", "--event", "drop", "--last", ALL_DROPS, "--output", "json"];
    let output = stage.agent().policyctl(&words)?;
    ensure!(output.status.success(), "`policyctl observe` ended with {}", output.status);
    let cast = Cast::new(stage, table);
    let mut observed = BTreeMap::new();
    let mut others = 0;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let record: FlowRecord = serde_json::from_str(line).context("a line of observe")?;
        let end = |end: &FlowEnd| cast.name(&end.name);
        let (Some(from), Some(to), Some(rule), TCP) =
            (end(&record.source), end(&record.destination), &record.rule, record.protocol.as_str())
        else {
            others += 1;
            continue;
        };
        let drops = Drops {
            from,
            to,
            port: record.destination.port,
            direction: record.direction,
            rule: table::rule_text(rule),
        };
        *observed.entry(drops).or_default() += 1;
    }
    Ok((observed, others))
}

fn metrics(stage: &dyn Stage) -> Result<Scrape> {
    let text = stage.agent().metrics()?;
    Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).context("read the metrics")
}

/// A counter as the whole number that it is. Those of a demo are far below 2^53, from which on an
/// f64 is not exact.
fn packets(value: &Value) -> Option<u64> {
    match value {
        Value::Counter(packets) | Value::Untyped(packets) => format!("{packets:.0}").parse().ok(),
        _ => None,
    }
}

/// The same from the metrics.
fn count(scrape: &Scrape, stage: &dyn Stage, table: &Table) -> Result<BTreeMap<Drops, u64>> {
    let cast = Cast::new(stage, table);
    let mut counted = BTreeMap::new();
    for sample in scrape.samples.iter().filter(|sample| sample.metric == DROPPED) {
        let label = |name: &str| sample.labels.get(name).unwrap_or_default();
        let (Some(from), Some(to), TCP) =
            (cast.name(label("source")), cast.name(label("destination")), label("protocol"))
        else {
            continue;
        };
        let Some(packets) = packets(&sample.value) else { continue };
        let rule = policy_api::messages::RuleName {
            namespace: label("policy_namespace").to_owned(),
            policy: label("policy").to_owned(),
            rule: label("rule").to_owned(),
            ..Default::default()
        };
        let drops = Drops {
            from,
            to,
            port: label("port").parse().context("a port of the metrics")?,
            direction: label("direction").to_owned(),
            rule: table::rule_text(&rule),
        };
        *counted.entry(drops).or_default() += packets;
    }
    Ok(counted)
}

/// Names of the table by what the agent calls them.
struct Cast(BTreeMap<String, String>);

impl Cast {
    fn new(stage: &dyn Stage, table: &Table) -> Self {
        let endpoints = table.endpoints.iter().map(|endpoint| &endpoint.name);
        let names = endpoints.map(|name| (stage.name(name), name.clone()));
        Self(names.chain([(HOST.to_owned(), HOST.to_owned())]).collect())
    }

    fn name(&self, agents: &str) -> Option<String> {
        self.0.get(agents).cloned()
    }
}
