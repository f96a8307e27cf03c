//! One table: from rules in order to the class of each peer.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use policy_common::abi::Interval;

use super::FAMILIES;
use crate::{
    canvas::Canvas,
    model::NamedPort,
    peers::{Matches, Universe, WORLD},
    policy::Rule,
    services::{self, Services},
};

/// A rule as it is for one subject.
pub(super) struct TableRule<'a> {
    /// Verdict word; `None` for Pass.
    pub(super) verdict: Option<u32>,
    /// Who the other side may be.
    pub(super) peers: Arc<Matches>,
    /// For which families its conditions on the subject hold.
    pub(super) families: [bool; 2],
    /// By family; `None` if they depend on the peer's named ports.
    pub(super) services: Option<[Arc<Services>; 2]>,
    /// What to ask then.
    pub(super) rule: Option<&'a Rule>,
}

/// Rules that are asked together: a tier.
pub(super) struct Stage {
    /// Indices of its rules.
    pub(super) rules: Range<usize>,
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
    rules: &[TableRule<'_>],
    stages: &[Stage],
    universe: &Universe,
    intern: &mut dyn FnMut(Vec<Interval>) -> usize,
) -> ([usize; 2], Vec<(usize, usize)>) {
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
        let (None, Some(written)) = (&rule.services, rule.rule) else { continue };
        for (peer, ports) in peers_with_ports(universe) {
            let used = services::names_used(written, ports);
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
    let mut class = |signature: Signature| {
        if let Some(&class) = known.get(&signature) {
            return class;
        }
        let met = toggle(&base[signature.family], &signature.toggled);
        let class = intern(walk(rules, stages, &met, &signature));
        known.insert(signature, class);
        class
    };
    let defaults =
        FAMILIES.map(|family| class(Signature { family: family as usize, ..Signature::default() }));
    let mut rows = Vec::new();
    for (peer, mut signature) in signatures {
        let family = universe.family(peer) as usize;
        signature.family = family;
        let class = class(signature);
        if class != defaults[family] && !WORLD.contains(&peer) {
            rows.push((peer, class));
        }
    }
    (defaults, rows)
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

fn walk(
    rules: &[TableRule<'_>],
    stages: &[Stage],
    met: &[usize],
    signature: &Signature,
) -> Vec<Interval> {
    let everything = Services::all();
    let mut canvas = Canvas::new();
    let mut met = met.iter().peekable();
    for stage in stages {
        while let Some(index) = met.next_if(|index| stage.rules.contains(index)) {
            if canvas.tier_is_decided() {
                continue;
            }
            let rule = &rules[*index];
            let services = match (&rule.services, rule.rule) {
                (Some(services), _) => Arc::clone(&services[signature.family]),
                (None, Some(written)) => {
                    let ports = signature.named.iter().find(|(named, _)| named == index);
                    let ports = ports.map_or(&[][..], |(_, ports)| ports);
                    Arc::new(services::of_rule(written, FAMILIES[signature.family], ports))
                }
                (None, None) => Arc::default(),
            };
            match rule.verdict {
                Some(verdict) => canvas.decide(&services, verdict),
                None => canvas.pass(&services),
            }
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
