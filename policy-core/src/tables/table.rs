//! One table: from rules in order to the class of each peer.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use policy_common::abi::Interval;

use super::{FAMILIES, class::class};
use crate::{
    canvas::LogLists,
    model::NamedPort,
    peers::{Matches, Universe, WORLD},
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
    pub(super) peers: Arc<Matches>,
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
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Signature {
    family: usize,
    /// Rules that treat the peer unlike the world, ascending.
    toggled: Vec<usize>,
    /// Rules that name ports of the peer, ascending, and the ports that they name.
    named: Vec<(usize, Vec<NamedPort>)>,
}

/// The class of the world by family, and the live peers whose class is another one.
pub(super) fn classes(
    script: &Script<'_>,
    universe: &Universe,
    logs: &mut LogLists,
    intern: &mut dyn FnMut(Vec<Interval>) -> usize,
) -> ([usize; 2], Vec<(usize, usize)>) {
    let rules = &script.rules;
    let mut signatures: BTreeMap<usize, Signature> = BTreeMap::new();
    for (index, rule) in rules.iter().enumerate() {
        for &peer in &rule.peers.others {
            let family = universe.family(peer) as usize;
            if universe.peers[peer].live && rule.families[family] {
                signatures.entry(peer).or_default().toggled.push(index);
            }
        }
    }
    for (index, rule) in rules.iter().enumerate() {
        let RuleRegion::ByPeer(written, _) = &rule.region else { continue };
        let side = match script.peer_side {
            PeerSide::Source => &written.source,
            PeerSide::Destination => &written.destination,
        };
        for (peer, ports) in peers_with_ports(universe) {
            let used = services::names_used(side, ports);
            if !used.is_empty() {
                signatures.entry(peer).or_default().named.push((index, used));
            }
        }
    }

    // What the world meets, for each family.
    let base = FAMILIES.map(|family| -> Vec<usize> {
        let family = family as usize;
        let meets = |rule: &TableRule<'_>| rule.families[family] && rule.peers.world[family];
        (0..rules.len()).filter(|&index| meets(&rules[index])).collect()
    });
    let mut known: HashMap<Signature, usize> = HashMap::new();
    let mut class_of = |signature: Signature| {
        if let Some(&class) = known.get(&signature) {
            return class;
        }
        let met: Vec<(usize, Arc<Region>)> = toggle(&base[signature.family], &signature.toggled)
            .into_iter()
            .map(|index| (index, region(script, index, &signature)))
            .collect();
        let class = intern(class(script, &met, logs));
        known.insert(signature, class);
        class
    };
    let defaults = FAMILIES
        .map(|family| class_of(Signature { family: family as usize, ..Signature::default() }));
    let mut rows = Vec::new();
    for (peer, mut signature) in signatures {
        let family = universe.family(peer) as usize;
        signature.family = family;
        let class = class_of(signature);
        if class != defaults[family] && !WORLD.contains(&peer) {
            rows.push((peer, class));
        }
    }
    (defaults, rows)
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

fn peers_with_ports(universe: &Universe) -> impl Iterator<Item = (usize, &[NamedPort])> {
    universe.peers.iter().enumerate().filter(|(_, peer)| peer.live).filter_map(|(index, peer)| {
        let ports = universe.identities[peer.identity?].ports.as_slice();
        (!ports.is_empty()).then_some((index, ports))
    })
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
