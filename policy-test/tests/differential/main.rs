//! One policy set, many readers: documents, reference evaluator, compiled tables and the kernel
//! programs must say the same of every packet.
//!
//! Inputs: root. [`generate`] makes policy sets as documents, [`packets`] chooses packets for them,
//! [`oracle`] and the evaluator say what they mean ([`judge`]), [`trial`] asks the programs. What
//! fails is made small ([`shrink`]) and printed as a case for `cases/`, where every bug that was
//! found here has one, named after what was wrong.
//!
//! The seed is fixed. `PALISADE_LONG=1` runs ten times as many sets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod coverage;
mod generate;
mod judge;
mod oracle;
mod packets;
mod set;
mod shrink;
mod trial;

use std::{env, fs, path::Path, thread, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;

use crate::{
    coverage::Coverage,
    judge::Dispute,
    oracle::Oracle,
    packets::Ask,
    set::PolicySet,
    shrink::Case,
    trial::{Done, Trial},
};

/// Sets in a usual run, and packets of each.
const SETS: usize = 2_000;
const PACKETS: usize = 105;
/// How many times as many sets in a long run.
const LONG: usize = 10;
/// Rings that work side by side; most of a change is waiting for the kernel.
const LANES: usize = 4;
/// Sets that one ring sees.
const LIFE: usize = 300;
/// One of so many sets is also written and read again.
const WRITTEN: usize = 8;
const SEED: u64 = 0x5eed;

/// One after another, as the changes of a host.
struct Lane {
    rng: Rng,
    set: PolicySet,
}

impl Lane {
    fn advance(&mut self) -> Result<Vec<Ask>> {
        let fresh = self.set.resources.is_empty() || self.rng.u8(..4) == 0;
        self.set = if fresh {
            generate::set(&mut self.rng)
        } else {
            generate::next(&mut self.rng, &self.set)
        };
        let oracle = Oracle::read(&self.set)?;
        Ok(packets::asks(&mut self.rng, &self.set, &oracle, PACKETS))
    }
}

fn lane(number: usize, sets: usize) -> Result<(Done, Coverage)> {
    let seed = SEED + number as u64;
    let mut lane = Lane { rng: Rng::with_seed(seed), set: PolicySet::default() };
    let (mut done, mut seen) = (Done::default(), Coverage::default());
    let mut trial = Trial::new()?;
    let mut before: Option<(PolicySet, Vec<Ask>)> = None;
    for count in 0..sets {
        if count > 0 && count % LIFE == 0 {
            trial = Trial::new()?;
        }
        let asks = lane.advance()?;
        if count % WRITTEN == 0 {
            lane.set.survives_writing()?;
        }
        match trial.step(&lane.set, &asks, &mut seen) {
            Ok(more) => done.add(more),
            Err(dispute) => {
                let case = small(&mut trial, &lane.set, &asks, before, &dispute);
                bail!("set {count} of lane {number}: {}\n{case}", dispute.what);
            }
        }
        before = Some((lane.set.clone(), asks));
    }
    Ok((done, seen))
}

/// The smallest case that shows what a dispute is about.
fn small(
    trial: &mut Trial,
    set: &PolicySet,
    asks: &[Ask],
    before: Option<(PolicySet, Vec<Ask>)>,
    dispute: &Dispute,
) -> String {
    let alone = Case { sets: vec![set.clone()], packets: asks.to_vec() };
    if dispute.refused {
        return format!("refused, or not understood:\n{alone}");
    }
    let pure = |case: &Case| {
        let differs = |set| judge::afresh(set, &case.packets).is_err_and(|it| !it.refused);
        case.sets.iter().any(differs)
    };
    if pure(&alone) {
        return format!("without the kernel:\n{}", shrink::shrink(alone, pure));
    }
    let mut real = |case: &Case| replay(trial, case).is_err_and(|dispute| !dispute.refused);
    if real(&alone) {
        return format!("in the kernel:\n{}", shrink::shrink(alone, real));
    }
    let Some((old, mut packets)) = before else { return format!("once only:\n{alone}") };
    packets.extend(alone.packets);
    packets.extend(dispute.ask.clone());
    let both = Case { sets: vec![old, set.clone()], packets };
    if real(&both) {
        return format!("in the kernel, after a change:\n{}", shrink::shrink(both, real));
    }
    format!("once only:\n{both}")
}

/// Runs a case from an empty host.
fn replay(trial: &mut Trial, case: &Case) -> Result<(), Dispute> {
    trial.clear().map_err(|error| Dispute::general(&error))?;
    let mut seen = Coverage::default();
    case.sets.iter().try_for_each(|set| trial.step(set, &case.packets, &mut seen).map(drop))
}

#[test]
fn kept_cases_hold() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential/cases");
    let mut trial = Trial::new()?;
    let mut rng = Rng::with_seed(SEED);
    let mut count = 0;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let shown = path.display().to_string();
        let mut case: Case =
            serde_yaml::from_str(&fs::read_to_string(&path)?).with_context(|| shown.clone())?;
        ensure!(!case.packets.is_empty(), "{shown} asks about no packet");
        // What was wrong once may be wrong beside it, too.
        for set in &case.sets {
            let oracle = Oracle::read(set)?;
            case.packets.extend(packets::asks(&mut rng, set, &oracle, PACKETS));
        }
        if let Err(dispute) = replay(&mut trial, &case) {
            bail!("{shown}: {}\n{:?}", dispute.what, dispute.ask);
        }
        count += 1;
    }
    ensure!(count > 0, "there are no cases in {}", folder.display());
    Ok(())
}

#[test]
fn documents_evaluator_tables_and_kernel_agree() -> Result<()> {
    let long = env::var_os("PALISADE_LONG").is_some_and(|value| value == "1");
    let sets = if long { SETS * LONG } else { SETS };
    let start = Instant::now();
    let results: Vec<Result<(Done, Coverage)>> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|number| scope.spawn(move || lane(number, sets.div_ceil(LANES))))
            .collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).collect()
    });
    let (mut done, mut seen) = (Done::default(), Coverage::default());
    for result in results {
        let (more, met) = result?;
        done.add(more);
        seen.add(met);
    }
    println!("{seen}");
    println!(
        "{} policy sets, {} packets: {} allowed, {} denied, {} kept and {} cut by a change, {} \
         passed and {} blocked at the uplink, {} decided by no policy; {:.1} s",
        done.sets,
        done.packets(),
        done.verdicts[0],
        done.verdicts[1],
        done.through[0],
        done.through[1],
        done.outside[0],
        done.outside[1],
        done.others,
        start.elapsed().as_secs_f64()
    );
    ensure!(done.sets >= sets as u64, "only {} sets", done.sets);
    ensure!(done.packets() >= sets as u64 * 100, "only {} packets", done.packets());
    seen.complete()
}
