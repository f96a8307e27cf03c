//! One table: from rules in order to the class of each peer.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use policy_common::abi::Interval;

use super::class::class;
use crate::{
    canvas::LogLists,
    division::Division,
    identity::FAMILIES,
    model::NamedPort,
    peers::{ConditionId, Peers},
    policy::Rule,
    services::{self, Named, Region},
    tiers::Walk,
};

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug)]
pub(super) enum Effect {
    /// A verdict word.
    Decide(u32),
    /// The rest of the tier is skipped.
    Pass,
    /// The number of a Log rule.
    Log(u32),
}

/// The walks that something is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Walks {
    pub(super) enforced: bool,
    pub(super) pending: bool,
}

impl Walks {
    /// Both.
    pub(super) const ALL: Walks = Walks { enforced: true, pending: true };

    /// Whether one of them is among these.
    pub(super) fn contain(self, walk: Walk) -> bool {
        match walk {
            Walk::Enforced => self.enforced,
            Walk::Pending => self.pending,
        }
    }
}

/// Which side of a rule the other end of the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerSide {
    Source,
    Destination,
}

/// A rule as it is for one subject.
pub(super) struct TableRule<'a> {
    pub(super) effect: Effect,
    /// Who the other side may be.
    pub(super) peers: ConditionId,
    /// For which families its conditions on the subject hold.
    pub(super) families: [bool; 2],
    /// What it matches.
    pub(super) region: RuleRegion<'a>,
}

/// What a rule matches, beside who the two sides are.
pub(super) enum RuleRegion<'a> {
    /// By family.
    Known([Arc<Region>; 2]),
    /// It names ports of the peer: the rule, and the subject's ports that it names.
    ByPeer(&'a Rule, Vec<NamedPort>),
}

/// Rules that are asked together: a tier.
pub(super) struct Stage {
    /// Indices of its rules.
    pub(super) rules: Range<usize>,
    /// The walks that come past it.
    pub(super) walks: Walks,
    /// What becomes of the rest.
    pub(super) end: End,
}

/// What becomes of packets that no rule of a stage matched.
pub(super) enum End {
    /// The next stage is asked.
    Continue,
    /// The next stage is asked, about what was passed too.
    Pass,
    /// A verdict word.
    Decide(u32),
}

/// The rules of a table, in order.
pub(super) struct Script<'a> {
    pub(super) rules: Vec<TableRule<'a>>,
    /// The walks of each rule.
    pub(super) walks: Vec<Walks>,
    pub(super) stages: Vec<Stage>,
    /// Whether the two walks differ; they may, without a rule that does.
    pub(super) staged: bool,
    /// Where the peer stands in them.
    pub(super) peer_side: PeerSide,
}

/// What tells the peers of a table apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Signature {
    pub(super) family: usize,
    /// Rules that treat the peer unlike the world, ascending.
    pub(super) toggled: Vec<usize>,
    /// Rules that name ports of the peer, ascending, and the ports that they name.
    pub(super) named: Vec<(usize, Vec<NamedPort>)>,
}

/// What each live peer is to a table that some rule treats unlike the world; ascending.
pub(super) fn signatures(
    script: &Script<'_>,
    division: &Division,
    peers: &Peers,
) -> BTreeMap<usize, Signature> {
    let mut signatures: BTreeMap<usize, Signature> = BTreeMap::new();
    for (index, rule) in script.rules.iter().enumerate() {
        for &peer in peers.others(rule.peers) {
            if division.is_live(peer) && rule.families[peers.get(peer).family as usize] {
                signatures.entry(peer).or_default().toggled.push(index);
            }
        }
    }
    for (index, rule) in script.rules.iter().enumerate() {
        let RuleRegion::ByPeer(written, _) = &rule.region else { continue };
        let side = match script.peer_side {
            PeerSide::Source => &written.source,
            PeerSide::Destination => &written.destination,
        };
        for peer in division.live() {
            let used = services::names_used(side, peers.ports(peer));
            if !used.is_empty() {
                signatures.entry(peer).or_default().named.push((index, used));
            }
        }
    }
    for (peer, signature) in &mut signatures {
        signature.family = peers.get(*peer).family as usize;
    }
    signatures
}

/// The rules that the world meets, by family, ascending.
pub(super) fn met_by_world(script: &Script<'_>, peers: &Peers) -> [Vec<usize>; 2] {
    FAMILIES.map(|family| {
        let family = family as usize;
        let meets =
            |rule: &TableRule<'_>| rule.families[family] && peers.world_meets(rule.peers)[family];
        (0..script.rules.len()).filter(|&index| meets(&script.rules[index])).collect()
    })
}

/// The class of a peer. `base` is what the world meets: the same for all peers of a table, and as long
/// to find as its rules are many.
pub(super) fn class_of(
    script: &Script<'_>,
    base: &[Vec<usize>; 2],
    signature: &Signature,
    logs: &mut LogLists,
) -> Vec<Interval> {
    let met: Vec<(usize, Arc<Region>)> = toggle(&base[signature.family], &signature.toggled)
        .into_iter()
        .map(|index| (index, region(script, index, signature)))
        .collect();
    class(script, &met, logs)
}

/// What a rule matches, the peer being one of the signature.
fn region(script: &Script<'_>, index: usize, signature: &Signature) -> Arc<Region> {
    match &script.rules[index].region {
        RuleRegion::Known(regions) => Arc::clone(&regions[signature.family]),
        RuleRegion::ByPeer(rule, own) => {
            let theirs = signature.named.iter().find(|(named, _)| *named == index);
            let theirs = theirs.map_or(&[][..], |(_, ports)| ports);
            let named = match script.peer_side {
                PeerSide::Source => Named { source: theirs, destination: own },
                PeerSide::Destination => Named { source: own, destination: theirs },
            };
            Arc::new(services::of_rule(rule, FAMILIES[signature.family], named))
        }
    }
}

/// The symmetric difference of two ascending lists.
fn toggle(base: &[usize], toggled: &[usize]) -> Vec<usize> {
    let mut out = Vec::with_capacity(base.len() + toggled.len());
    let (mut a, mut b) = (base.iter().peekable(), toggled.iter().peekable());
    loop {
        match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if x == y => {
                a.next();
                b.next();
            }
            (Some(x), Some(y)) if x > y => out.extend(b.next()),
            (Some(_), _) => out.extend(a.next()),
            (None, Some(_)) => out.extend(b.next()),
            (None, None) => return out,
        }
    }
}
