//! Palisade beside what people use today.
//!
//! Inputs: root, `nft`, `iptables`, a release build of the agent. Outputs: samples, and a report of
//! them. Started by `cargo xtask bench`.
//!
//! All contenders get the same rules, in the same topology, in rounds that are interleaved: each
//! round measures each figure for each contender once, so that another load on the machine hits all alike,
//! and ratios are of one round.

pub mod contender;
pub mod datapath;
pub mod goals;
pub mod machine;
pub mod measure;
pub mod report;
pub mod results;
pub mod rules;
pub mod statistics;
pub mod topology;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::bench::{
    contender::Kind,
    measure::{Measure, Stage},
    results::Results,
    topology::{CLIENT, Topology},
};

/// How much to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// What the report calls it.
    pub name: &'static str,
    /// Numbers of rules for all contenders.
    pub sizes: &'static [u32],
    /// Numbers of rules for Palisade alone.
    pub palisade_sizes: &'static [u32],
    /// Samples of each figure.
    pub rounds: usize,
    /// For each sample.
    pub window: Duration,
    /// For the kernel programs alone.
    pub datapath: datapath::Effort,
}

impl Effort {
    /// About half an hour.
    pub const FULL: Self = Self {
        name: "full",
        sizes: &[1, 100, 1_000, 10_000],
        palisade_sizes: &[50_000],
        rounds: 7,
        window: Duration::from_millis(1_000),
        datapath: datapath::Effort::FULL,
    };
    /// About two minutes: shows that everything works, and orders of magnitude.
    pub const QUICK: Self = Self {
        name: "quick",
        sizes: &[1, 1_000, 10_000],
        palisade_sizes: &[],
        rounds: 3,
        window: Duration::from_millis(150),
        datapath: datapath::Effort::QUICK,
    };
}

/// Measures all contenders with all numbers of rules.
///
/// # Errors
/// If one cannot be set up, or its packets do not go where its rules say.
pub fn compare(effort: Effort) -> Result<Results> {
    let mut results = Results::default();
    for &rules in effort.sizes {
        compare_at(rules, &Kind::ALL, effort, &mut results)?;
    }
    let palisade =
        Kind::ALL.map(|kind| (kind.is_palisade() || kind == Kind::NoPolicy).then_some(kind));
    let palisade: Vec<Kind> = palisade.into_iter().flatten().collect();
    for &rules in effort.palisade_sizes {
        compare_at(rules, &palisade, effort, &mut results)?;
    }
    Ok(results)
}

fn compare_at(rules: u32, kinds: &[Kind], effort: Effort, results: &mut Results) -> Result<()> {
    let list = rules::rules(rules, CLIENT);
    let mut stages = Vec::new();
    for &kind in kinds {
        let started = Instant::now();
        let topology = Topology::new()?;
        let contender = kind
            .enforce(&topology, &list)
            .with_context(|| format!("{}, {rules} rules", kind.name()))?;
        stages.push((kind, Stage { contender, topology }));
        eprintln!("{}: {rules} rules, up in {:.1?}", kind.name(), started.elapsed());
    }
    for round in 0..effort.rounds {
        let started = Instant::now();
        for measure in Measure::ALL {
            for (kind, stage) in &stages {
                let samples = measure.run(stage, effort.window).with_context(|| {
                    format!("{}, {rules} rules, round {round}: {measure:?}", kind.name())
                })?;
                for (figure, sample) in samples {
                    results.push(figure, *kind, rules, sample);
                }
            }
        }
        eprintln!(
            "{rules} rules: round {} of {} in {:.1?}",
            round + 1,
            effort.rounds,
            started.elapsed()
        );
    }
    Ok(())
}
