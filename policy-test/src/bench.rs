//! Palisade beside what people use today.
//!
//! Inputs: root, `nft`, `iptables`, a release build of the agent. Outputs: samples, and a report of
//! them. Started by `cargo xtask bench`.
//!
//! All contenders get the same rules, in the same topology, in rounds that are interleaved: each
//! round measures each figure for each contender once, one right after the other, so that another load
//! on the machine hits all alike, and ratios are of one round.

pub mod contender;
pub mod datapath;
pub mod goals;
pub mod live;
pub mod machine;
pub mod measure;
pub mod observe;
pub mod report;
pub mod results;
pub mod rules;
pub mod statistics;
pub mod topology;
pub mod uplink;

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::bench::{
    contender::Kind,
    measure::{Measure, Stage},
    results::Results,
    topology::CLIENT,
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
        rounds: 20,
        window: Duration::from_millis(300),
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

/// A number of rules, and who enforces so many.
type Group = (u32, Vec<(Kind, Rc<Stage>)>);

/// Measures all contenders with all numbers of rules. All of them are set up before the first is
/// measured: a contender that is not at work costs nothing, and whatever disturbs the machine hits
/// all numbers of rules alike, too.
///
/// # Errors
/// If one cannot be set up, or its packets do not go where its rules say.
pub fn compare(effort: Effort) -> Result<Results> {
    let groups = set_up(effort)?;
    let mut results = Results::default();
    for round in 1..=effort.rounds {
        let started = Instant::now();
        for measure in Measure::ALL {
            for (rules, stages) in &groups {
                for (kind, stage) in stages {
                    let samples = measure.run(stage, effort.window).with_context(|| {
                        format!("{}, {rules} rules, round {round}: {measure:?}", kind.name())
                    })?;
                    for (figure, sample) in samples {
                        results.push(figure, *kind, *rules, sample);
                    }
                }
            }
        }
        eprintln!("round {round} of {}: {:.1?}", effort.rounds, started.elapsed());
    }
    Ok(results)
}

fn set_up(effort: Effort) -> Result<Vec<Group>> {
    let everybody = effort.sizes.iter().map(|&rules| (rules, Kind::ALL.to_vec()));
    let palisade = Kind::ALL.into_iter().filter(|kind| kind.is_palisade());
    let palisade: Vec<Kind> = [Kind::NoPolicy].into_iter().chain(palisade).collect();
    let palisade = effort.palisade_sizes.iter().map(|&rules| (rules, palisade.clone()));
    // Without rules, their number makes no difference.
    let bare = Rc::new(Stage::new(Kind::NoPolicy, &[])?);
    let stage = |kind, rules: u32| {
        if kind == Kind::NoPolicy {
            return Ok((kind, Rc::clone(&bare)));
        }
        let started = Instant::now();
        let stage = Stage::new(kind, &rules::rules(rules, CLIENT))
            .with_context(|| format!("{}, {rules} rules", kind.name()))?;
        eprintln!("{}, {rules} rules: up in {:.1?}", kind.name(), started.elapsed());
        Ok((kind, Rc::new(stage)))
    };
    everybody
        .chain(palisade)
        .map(|(rules, kinds)| {
            let stages: Result<Vec<_>> = kinds.into_iter().map(|kind| stage(kind, rules)).collect();
            Ok((rules, stages?))
        })
        .collect()
}
