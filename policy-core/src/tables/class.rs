//! One class: from the rules that a peer meets, in order, to the run of steps that the kernel
//! searches.
//!
//! In: a [`Script`] and what each rule that is met matches. Out: the intervals: one line over all
//! services, and, where some rule asks for source ports, blocks of lines over the source ports.
//! Words are verdicts of two walks: the one in force and, if policies are staged, the pending one.

use std::{collections::HashMap, sync::Arc};

use policy_common::abi::{Interval, VERDICT_NESTED, source};

use super::table::{Effect, End, Script};
use crate::{
    canvas::{Canvas, LogLists, Piece},
    services::{Region, SERVICES, SOURCE_PORTS, Services},
    tiers::Walk,
};

/// Rules that are met, with what they match, in order.
type Met = [(usize, Arc<Region>)];

/// What holds from a coordinate on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Step {
    start: u32,
    says: Says,
}

/// The words of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Says {
    verdict: u32,
    staged: u32,
    log: u32,
}

/// What holds for a range of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    /// Whatever the source port.
    Flat(Says),
    /// By source port: a block.
    Block(u32),
}

/// The class of a peer that meets these rules.
pub(super) fn class(script: &Script<'_>, met: &Met, logs: &mut LogLists) -> Vec<Interval> {
    let flat = steps(script, met, SERVICES, logs, |region| Some(region.anywhere.clone()));
    let by_source = Services::union(
        met.iter()
            .flat_map(|(_, region)| &region.by_source)
            .flat_map(|(services, _)| services.ranges().iter().copied())
            .collect(),
    );
    let mut blocks = Blocks::default();
    let mut line: Vec<(u32, Cell)> = Vec::new();
    let mut done = 0;
    for &(start, end) in by_source.ranges() {
        lay(&mut line, &flat, done, start);
        for at in cuts(met, start, end) {
            line.push((at, blocks.cell(column(script, met, at, logs))));
        }
        done = end;
    }
    lay(&mut line, &flat, done, SERVICES);
    line.dedup_by_key(|(_, cell)| *cell);

    let outline = line.into_iter().map(|(start, cell)| match cell {
        Cell::Flat(says) => interval(start, says),
        Cell::Block(block) => {
            Interval { start, verdict: VERDICT_NESTED | block, staged: 0, log: 0 }
        }
    });
    let inner = blocks.blocks.iter().zip(0..).flat_map(|(steps, block)| {
        steps.iter().map(move |step| {
            // A step of a column begins at a port.
            let port = u16::try_from(step.start).unwrap_or(u16::MAX);
            interval(source(block, port), step.says)
        })
    });
    outline.chain(inner).collect()
}

fn interval(start: u32, says: Says) -> Interval {
    Interval { start, verdict: says.verdict, staged: says.staged, log: says.log }
}

/// Adds what `flat` says from `from` up to `to`.
fn lay(line: &mut Vec<(u32, Cell)>, flat: &[Step], from: u32, to: u32) {
    if from >= to {
        return;
    }
    let first = flat.partition_point(|step| step.start <= from).saturating_sub(1);
    for step in flat[first..].iter().take_while(|step| step.start < to) {
        line.push((step.start.max(from), Cell::Flat(step.says)));
    }
}

/// The coordinates in `from..to` at which some rule begins or ends to hold, `from` among them.
fn cuts(met: &Met, from: u32, to: u32) -> Vec<u32> {
    let sets = met.iter().flat_map(|(_, region)| {
        region.by_source.iter().map(|(services, _)| services).chain([&region.anywhere])
    });
    let ends = sets.flat_map(|services| services.ranges()).flat_map(|&(start, end)| [start, end]);
    let mut cuts: Vec<u32> = ends.filter(|at| (from..to).contains(at)).collect();
    cuts.push(from);
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// What holds at one service, by source port.
fn column(script: &Script<'_>, met: &Met, service: u32, logs: &mut LogLists) -> Vec<Step> {
    let every = Services::union(vec![(0, SOURCE_PORTS)]);
    steps(script, met, SOURCE_PORTS, logs, |region| {
        if region.anywhere.contains(service) {
            return Some(every.clone());
        }
        let found = region.by_source.iter().find(|(services, _)| services.contains(service));
        found.map(|(_, ports)| ports.clone())
    })
}

/// Both walks along one line of the coordinates below `end`; `of` says which of them a rule is
/// about.
fn steps(
    script: &Script<'_>,
    met: &Met,
    end: u32,
    logs: &mut LogLists,
    of: impl Fn(&Region) -> Option<Services>,
) -> Vec<Step> {
    let enforced = walk(script, met, end, Walk::Enforced, logs, &of);
    if !script.is_staged {
        let says = |piece: &Piece| Says { verdict: piece.verdict, staged: 0, log: piece.log };
        return enforced.iter().map(|it| Step { start: it.start, says: says(it) }).collect();
    }
    let pending = walk(script, met, end, Walk::Pending, &mut LogLists::default(), &of);
    overlay(&enforced, &pending)
}

/// One walk past the rules.
fn walk(
    script: &Script<'_>,
    met: &Met,
    end: u32,
    walk: Walk,
    logs: &mut LogLists,
    of: &impl Fn(&Region) -> Option<Services>,
) -> Vec<Piece> {
    let everything = Services::union(vec![(0, end)]);
    let mut canvas = Canvas::new(end);
    let mut met = met.iter().peekable();
    for stage in &script.stages {
        while let Some((index, region)) = met.next_if(|(index, _)| stage.rules.contains(index)) {
            if canvas.tier_is_decided() || !script.walks[*index].contain(walk) {
                continue;
            }
            let Some(coordinates) = of(region) else { continue };
            match script.rules[*index].effect {
                Effect::Decide(verdict) => canvas.decide(&coordinates, verdict),
                Effect::Pass => canvas.pass(&coordinates),
                Effect::Log(rule) => canvas.log(&coordinates, rule, logs),
            }
        }
        if !stage.walks.contain(walk) {
            continue;
        }
        match stage.end {
            End::Continue => {}
            End::Pass => {
                canvas.pass(&everything);
                canvas.end_tier();
            }
            End::Decide(verdict) => {
                canvas.decide(&everything, verdict);
                canvas.end_tier();
            }
        }
    }
    canvas.finish()
}

/// Two lines as one. Both begin at 0.
fn overlay(enforced: &[Piece], pending: &[Piece]) -> Vec<Step> {
    let mut starts: Vec<u32> = enforced.iter().chain(pending).map(|piece| piece.start).collect();
    starts.sort_unstable();
    starts.dedup();
    let at = |pieces: &[Piece], start: u32| {
        let after = pieces.partition_point(|piece| piece.start <= start);
        after.checked_sub(1).map(|index| pieces[index])
    };
    let mut steps: Vec<Step> = starts
        .into_iter()
        .filter_map(|start| {
            let (now, then) = (at(enforced, start)?, at(pending, start)?);
            let says = Says { verdict: now.verdict, staged: then.verdict, log: now.log };
            Some(Step { start, says })
        })
        .collect();
    steps.dedup_by_key(|step| step.says);
    steps
}

/// Distinct columns, numbered.
#[derive(Default)]
struct Blocks {
    blocks: Vec<Vec<Step>>,
    index: HashMap<Vec<Step>, u32>,
}

impl Blocks {
    fn cell(&mut self, steps: Vec<Step>) -> Cell {
        if let [only] = steps.as_slice() {
            return Cell::Flat(only.says);
        }
        let blocks = &mut self.blocks;
        Cell::Block(*self.index.entry(steps).or_insert_with_key(|steps| {
            blocks.push(steps.clone());
            // Too many are refused when the class gets its numbers.
            u32::try_from(blocks.len() - 1).unwrap_or(u32::MAX)
        }))
    }
}
