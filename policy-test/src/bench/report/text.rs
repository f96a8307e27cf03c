//! The report's text, in Markdown.
//!
//! Inputs: a run. Outputs: `README.md`. Pure.

use std::fmt::Write as _;

use anyhow::Result;

use crate::bench::{
    contender::Kind,
    datapath::World,
    goals::{self, Goal, count},
    measure::Figure,
    report::{Run, figures},
    results::Results,
};

const INTRODUCTION: &str = "\
# Benchmarks

Palisade beside what people use today: one run of `cargo xtask bench`, which writes this folder.";

const SET_UP: &str = "\
## What is compared

A client beyond the host, a server in a container, and between them the host, which routes from one bridge to
the other. All of them are network namespaces, joined by veths. Because the host routes, nftables' and iptables' forward hook
meets every packet without `br_netfilter`; Palisade meets the same packets at the server's veth. IPv4.

All contenders get the same rules: who may reach the server. All but the last let in one TCP port from one /24
network, none of which the client is in; the last lets in the client. So lists are walked to their end, as they are for
everything that no rule lets in. Answers pass, all else is dropped and counted.

| contender | what it is |
|---|---|
| no policy | the host only routes, without connection tracking |
| Palisade | a real agent with policies of 100 rules each; the server is fenced |
| Palisade, both ends | the same, and the client is a fenced container with an egress policy: each packet meets two sets of programs |
| nftables, sets | as an expert writes it: a verdict map on the connection's state first, then an interval map of network . protocol . port, then a set of addresses |
| nftables, linear | the same beginning, then one rule after the other |
| iptables, linear | the same by `iptables-nft`, which is what `iptables` is on Debian |

Rounds are interleaved: each measures every figure for every contender once, before the next begins. A cell has the
median over the rounds, in brackets the quartiles, and how many times that of *no policy* it is (the median of the rounds'
ratios). Sender and receiver are bound to a CPU each. Bars in the plots are the quartiles.";

const GOALS: &str = "\
## Goals

What the project has set itself, judged where the figures are worst. Where the time goes stands in
`docs/bench/profile.md`.";

const PROGRAMS: &str = "\
## A packet in the kernel programs

By `BPF_PROG_TEST_RUN`, in nanoseconds over a program that does nothing, for numbers of rules and endpoints. *Warm*: a packet
that opens a connection and closes it by turns; *cold*: single runs, which find the caches as another program left them.
`cargo xtask bench datapath` prints the same.";

const UPLINK: &str = "\
## A packet at an uplink with a block list

By `BPF_PROG_TEST_RUN`, too, over an XDP program that does nothing, for numbers of networks in the list. `cargo xtask bench
uplink` prints the same.";

const AGAIN: &str = "\
## Measure it yourself

As root, on Debian 12, on a machine that does nothing else:

```console
# cargo xtask bench            # about half an hour; writes docs/bench
# cargo xtask bench --quick    # about two minutes; writes target/bench
```";

/// The whole text.
pub(super) fn readme(run: &Run) -> Result<String> {
    let mut text = format!("{INTRODUCTION}\n\n");
    let effort = run.effort;
    writeln!(
        text,
        "This is the {} form: {} rounds, {} ms for each sample.\n",
        effort.name,
        effort.rounds,
        effort.window.as_millis()
    )?;
    text.push_str("| machine | |\n|---|---|\n");
    for (name, value) in &run.machine {
        writeln!(text, "| {name} | {value} |")?;
    }
    writeln!(text, "\n{GOALS}\n")?;
    text.push_str(&goals(&goals::all(&run.results, &run.worlds, &run.uplink))?);
    writeln!(text, "\n{SET_UP}\n")?;
    for figure in Figure::ALL {
        text.push_str(&section(&run.results, figure)?);
    }
    writeln!(text, "{PROGRAMS}\n\n![nanoseconds over an empty program]({})\n", figures::PROGRAMS)?;
    text.push_str(&programs(&run.worlds)?);
    writeln!(text, "\n{UPLINK}\n\n![nanoseconds over an empty program]({})\n", figures::UPLINK)?;
    text.push_str(&programs(&run.uplink)?);
    writeln!(text, "\n{AGAIN}")?;
    Ok(text)
}

fn goals(goals: &[Goal]) -> Result<String> {
    let missed = goals.iter().filter(|goal| !goal.met).count();
    let mut text = format!("{} met, {missed} missed.\n\n", goals.len() - missed);
    text.push_str("| goal | seen | |\n|---|---|---|\n");
    for Goal { wanted, seen, met } in goals {
        let verdict = if *met { "met" } else { "**missed**" };
        writeln!(text, "| {wanted} | {seen} | {verdict} |")?;
    }
    Ok(text)
}

fn section(results: &Results, figure: Figure) -> Result<String> {
    let shown = figures::of(figure);
    let mut text = format!("## {}\n\n{}\n\n", shown.title, shown.note);
    if let Some(file) = shown.plot {
        writeln!(text, "![{}, {}]({file})\n", shown.title, shown.unit)?;
    }
    let sizes = results.sizes();
    write!(text, "| {}; {} |", shown.unit, shown.better)?;
    for &rules in &sizes {
        write!(text, " {} |", count(rules))?;
    }
    writeln!(text, "\n|---|{}", "---:|".repeat(sizes.len()))?;
    for kind in results.contenders(figure) {
        write!(text, "| {} |", kind.name())?;
        for &rules in &sizes {
            write!(text, " {} |", cell(results, figure, kind, rules))?;
        }
        text.push('\n');
    }
    text.push('\n');
    Ok(text)
}

fn cell(results: &Results, figure: Figure, kind: Kind, rules: u32) -> String {
    let Some(summary) = results.summary(figure, kind, rules) else { return "–".to_owned() };
    let shown = figures::of(figure);
    let number = |value: f64| format!("{:.*}", shown.digits, value * shown.scale);
    let mut text =
        format!("{} ({}–{})", number(summary.median), number(summary.low), number(summary.high));
    if kind != Kind::NoPolicy
        && let Some(ratio) = results.ratio(figure, kind, Kind::NoPolicy, rules)
    {
        // `fmt::Write` to a string has no error.
        let _ = write!(text, " ×{ratio:.2}");
    }
    text
}

fn programs(worlds: &[World]) -> Result<String> {
    let mut text = "| ns over empty | goal |".to_owned();
    for world in worlds {
        write!(text, " {} |", world.title())?;
    }
    writeln!(text, "\n|---|---:|{}", "---:|".repeat(worlds.len()))?;
    for cost in worlds.first().map_or(&[][..], |world| &world.costs) {
        let budget = cost.budget.map_or(String::new(), |budget| budget.to_string());
        write!(text, "| {} | {budget} |", cost.name)?;
        for world in worlds {
            let nanos = world.cost(cost.name).map_or(String::new(), |nanos| format!("{nanos:.0}"));
            write!(text, " {nanos} |")?;
        }
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Effort, datapath::Cost};

    fn run() -> Run {
        let mut results = Results::default();
        for (bare, fenced) in [(1_000_000.0, 900_000.0), (2_000_000.0, 1_960_000.0)] {
            results.push(Figure::Connects, Kind::NoPolicy, 1, bare);
            results.push(Figure::Connects, Kind::Palisade, 1, fenced);
        }
        results.push(Figure::Connects, Kind::Palisade, 50_000, 900_000.0);
        let costs = vec![Cost { name: "denied", budget: Some(200), nanos: 250.4 }];
        Run {
            effort: Effort::QUICK,
            machine: vec![("CPU", "Some CPU".to_owned())],
            results,
            worlds: vec![World { size: vec![(1, "rules")], costs }],
            uplink: vec![World {
                size: vec![(10, "networks")],
                costs: vec![Cost { name: "dropped", budget: Some(60), nanos: 40.4 }],
            }],
        }
    }

    #[test]
    fn a_cell_has_median_quartiles_and_the_ratio_of_the_rounds() {
        let text = readme(&run()).unwrap();
        assert!(text.contains("| no policy | 1500.0 (1250.0–1750.0) | – |"), "{text}");
        assert!(text.contains("| Palisade | 1430.0 (1165.0–1695.0) ×0.94 | 900.0 (900.0–900.0) |"));
    }

    #[test]
    fn missed_goals_are_said_plainly() {
        let text = readme(&run()).unwrap();
        assert!(text.contains("3 met, 1 missed."), "{text}");
        assert!(text.contains("| 250 ns at 1 rules | **missed** |"));
    }

    #[test]
    fn machine_and_form_are_named() {
        let text = readme(&run()).unwrap();
        assert!(text.contains("the quick form: 3 rounds, 150 ms"));
        assert!(text.contains("| CPU | Some CPU |"));
        assert!(text.contains("| denied | 200 | 250 |"));
        assert!(text.contains("| dropped | 60 | 40 |"));
    }
}
