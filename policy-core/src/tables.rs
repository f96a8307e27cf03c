//! Decision tables: what each endpoint's policies say to each peer.
//!
//! In: the model and the one before, the [`Peers`], the [`Division`]. Out: distinct tables, the
//! distinct classes that they use, and each endpoint's two tables. Nothing here knows ids or the
//! kernel.
//!
//! What keeps the cost down: a selector is evaluated once per distinct label set and a condition
//! once per peer, whoever uses them; endpoints with the same policies and the same answers to
//! the conditions on their own side share a table; within a table a peer is looked at only
//! if some rule treats it unlike the world, and peers that the same rules match share a class. From
//! one model to the next, only endpoints are looked at to which other policies apply or that are
//! not what they were, and a table stays for as long as an endpoint has it.
//!
//! An endpoint with several addresses of one family has one table for all of them. If a rule's
//! conditions on its own side hold for some of these addresses only, a Deny counts as met and an
//! Allow or Pass as not met: in doubt the packet is dropped (and logged). Link-local addresses do
//! not count.
//!
//! Where policies are staged, two walks are painted over each other: the one in force, and the one
//! that would be ([`crate::tiers::Walk`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use policy_api::messages::RuleName;
use policy_common::abi::{Direction, VERDICT_ALLOW};

use crate::{
    digest::Digest,
    division::{Division, Placed},
    host::Plane,
    identity::{FAMILIES, HOST_LABEL},
    model::{DefaultAction, EndpointId, Model, NamedPort, Settings},
    names,
    peers::{ConditionId, GroupId, Peers},
    policy::{Action, EntityMatch},
    selector::Selector,
    services::{self, Region},
    tiers::TierAction,
};

mod class;
mod classes;
mod policies;
mod table;

pub(crate) use classes::{ClassId, Classes, Word, rule_in};
use policies::{DIRECTIONS, Policies, Shared, Shelf, Slot, sides};
use table::{Effect, End, PeerSide, RuleRegion, Script, Signature, Stage, TableRule, Walks};

/// Which table. The number is never given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TableId(u32);

/// How one rule of a table depends on the subject: the families for which its own side's
/// conditions hold, and the subject's ports that it names.
type Answer = ([bool; 2], Vec<NamedPort>);

/// One table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// The same table in another run of the agent.
    pub(crate) digest: Digest,
    /// Class of a peer that has no row, by family: that of the world.
    pub(crate) defaults: [ClassId; 2],
    layout: Layout,
    /// The classes of what peers have been to it so far.
    known: HashMap<Signature, ClassId>,
    users: usize,
}

/// What a table is made of.
#[derive(Clone, Debug)]
struct Layout {
    direction: Direction,
    plane: Plane,
    policies: Vec<(Slot, Walks)>,
    /// Of the rules that depend on the subject, in order.
    answers: Vec<Answer>,
    /// The host is let in before anything is asked.
    host_access: bool,
}

/// The tables of a model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    policies: Policies,
    settings: Settings,
    tables: BTreeMap<TableId, Table>,
    index: HashMap<Digest, TableId>,
    next: u32,
    /// By direction.
    of_endpoint: BTreeMap<EndpointId, [TableId; 2]>,
    pub(crate) classes: Classes,
    /// Tables that have come since [`Tables::settled`].
    fresh: BTreeSet<TableId>,
}

/// What a move did to the policies: the endpoints to which others apply, and the groups whose
/// networks one more rule names (`true`) or one less.
pub(crate) type PolicyNews = (BTreeSet<EndpointId>, Vec<(GroupId, bool)>);

impl Tables {
    /// Distinct tables.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TableId, &Table)> {
        self.tables.iter().map(|(id, table)| (*id, table))
    }

    /// A table.
    pub(crate) fn get(&self, id: TableId) -> Option<&Table> {
        self.tables.get(&id)
    }

    /// An endpoint's tables by direction.
    pub(crate) fn of_endpoint(&self, id: &EndpointId) -> Option<[TableId; 2]> {
        self.of_endpoint.get(id).copied()
    }

    /// Whether a table has come since [`Tables::settled`]. Nobody may have asked for its rows, so the
    /// classes in them may not be known to be in use, even if the maps hold such a table.
    pub(crate) fn is_fresh(&self, id: TableId) -> bool {
        self.fresh.contains(&id)
    }

    /// The maps hold what this model says.
    pub(crate) fn settled(&mut self) {
        self.classes.settled();
        self.fresh.clear();
    }

    /// How many names are kept, and how many of them are in use.
    pub(crate) fn weight(&self) -> (usize, usize) {
        (self.classes.weight(), self.classes.in_use())
    }

    /// Moves from one model's policies to another's.
    pub(crate) fn follow_policies(
        &mut self,
        before: &Model,
        now: &Model,
        peers: &mut Peers,
    ) -> PolicyNews {
        self.policies.follow(before, now, peers, &mut self.classes)
    }

    /// Moves on to `now`, given the endpoints to which other policies apply or that are not what they
    /// were.
    pub(crate) fn follow(
        &mut self,
        now: &Model,
        mut affected: BTreeSet<EndpointId>,
        division: &Division,
        peers: &mut Peers,
    ) {
        if self.settings != now.settings {
            self.settings = now.settings;
            affected.extend(division.endpoints().keys().cloned());
        }
        let host = peers.condition(&the_host());
        let mut left = Vec::new();
        for id in affected {
            let placed = division.endpoints().get(&id);
            let entity = placed.map(|placed| peers.entity_of(placed.identity));
            self.policies.place(&id, entity, peers);
            let old = match placed {
                Some(placed) => {
                    let of = |way| self.table(self.layout(way, &id, placed, peers), host, peers);
                    let tables = DIRECTIONS.map(of);
                    self.of_endpoint.insert(id, tables)
                }
                None => self.of_endpoint.remove(&id),
            };
            left.extend(old.into_iter().flatten());
        }
        for id in left {
            self.release(id);
        }
    }

    /// The rows of a table: the live peers with another class than the default, ascending.
    pub(crate) fn rows(
        &mut self,
        id: TableId,
        division: &Division,
        peers: &mut Peers,
    ) -> Vec<(usize, ClassId)> {
        let host = peers.condition(&the_host());
        let Some(table) = self.tables.get_mut(&id) else { return Vec::new() };
        let script = script(&self.policies, self.settings, &mut self.classes, &table.layout, host);
        let base = table::met_by_world(&script, peers);
        let signatures = table::signatures(&script, division, peers);
        let mut rows = Vec::new();
        for (peer, signature) in signatures {
            let default = table.defaults[signature.family];
            let class = *table.known.entry(signature).or_insert_with_key(|signature| {
                let class = table::class_of(&script, &base, signature, &mut self.classes.logs);
                self.classes.acquire(class)
            });
            if class != default {
                rows.push((peer, class));
            }
        }
        rows
    }

    /// What a peer's class is in every table where it is not the default.
    pub(crate) fn column(&mut self, peer: usize, peers: &mut Peers) -> Vec<(TableId, ClassId)> {
        let host = peers.condition(&the_host());
        let singled_out = self.policies.singling_out(peer, peers);
        let is_host = peers.get(peer).singled_out.contains(&host);
        let mut column = Vec::new();
        for (&id, table) in &mut self.tables {
            let concerned = is_host && table.layout.host_access
                || table.layout.policies.iter().any(|(slot, _)| singled_out.contains(slot));
            if !concerned {
                continue;
            }
            let signature = signature(&self.policies, &table.layout, peer, host, peers);
            let class = match table.known.get(&signature) {
                Some(&known) => known,
                None => {
                    let (settings, classes) = (self.settings, &mut self.classes);
                    let script = script(&self.policies, settings, classes, &table.layout, host);
                    let base = table::met_by_world(&script, peers);
                    let class = table::class_of(&script, &base, &signature, &mut classes.logs);
                    let class = classes.acquire(class);
                    *table.known.entry(signature).or_insert(class)
                }
            };
            if class != table.defaults[peers.get(peer).family as usize] {
                column.push((id, class));
            }
        }
        column
    }

    fn release(&mut self, id: TableId) {
        let Some(table) = self.tables.get_mut(&id) else { return };
        table.users -= 1;
        if table.users == 0
            && let Some(table) = self.tables.remove(&id)
        {
            self.fresh.remove(&id);
            self.index.remove(&table.digest);
            for class in table.known.into_values() {
                self.classes.release(class);
            }
        }
    }

    /// What an endpoint's table for a direction is made of.
    fn layout(
        &self,
        direction: Direction,
        id: &EndpointId,
        placed: &Placed,
        peers: &Peers,
    ) -> Layout {
        let plane = placed.spec.plane;
        let mut layout = Layout {
            direction,
            plane,
            policies: Vec::new(),
            answers: Vec::new(),
            host_access: self.settings.host_access
                && direction == Direction::Ingress
                && !plane.of_host(),
        };
        for &slot in self.policies.applying(id) {
            let Some((shelf, walks)) = self.shelf(slot, direction, plane) else { continue };
            layout.policies.push((slot, walks));
            let depending = shelf.rules.iter().filter(|shared| shared.depends_on_subject);
            let answers = depending.map(|it| self.answer(slot, it, direction, placed, peers));
            layout.answers.extend(answers);
        }
        layout
    }

    /// The rules of a policy that is part of some walk.
    fn shelf(&self, slot: Slot, direction: Direction, plane: Plane) -> Option<(&Shelf, Walks)> {
        let filed = self.policies.get(slot)?;
        let some = (filed.walks.enforced || filed.walks.pending) && plane.admits(&filed.policy);
        Some((filed.shelf(direction)?, filed.walks)).filter(|_| some)
    }

    fn answer(
        &self,
        slot: Slot,
        shared: &Shared,
        direction: Direction,
        placed: &Placed,
        peers: &Peers,
    ) -> Answer {
        let holds = match shared.own {
            Some(own) => FAMILIES.map(|family| {
                let mut of_family = placed.own[family as usize].iter();
                match shared.action {
                    Action::Deny | Action::Log => of_family.any(|&peer| peers.meets(own, peer)),
                    Action::Allow | Action::Pass => of_family.all(|&peer| peers.meets(own, peer)),
                }
            }),
            None => [true; 2],
        };
        let rule = self.policies.get(slot).and_then(|filed| filed.written(direction, shared));
        let ports = rule.map_or_else(Vec::new, |rule| {
            services::names_used(sides(rule, direction).0, &placed.spec.ports)
        });
        (holds, ports)
    }

    /// One more endpoint's table.
    fn table(&mut self, layout: Layout, host: ConditionId, peers: &Peers) -> TableId {
        let Layout { direction, plane, host_access, .. } = layout;
        let slots = || layout.policies.iter();
        let digests: Vec<(Digest, Walks)> = slots()
            .filter_map(|&(slot, walks)| {
                Some((self.shelf(slot, direction, plane)?.0.digest, walks))
            })
            .collect();
        // Each digest of a policy names its tier, so only the ends of the tiers are wanting.
        let ends: Vec<TierAction> = layout
            .policies
            .chunk_by(|a, b| self.policies.rank(a.0) == self.policies.rank(b.0))
            .map(|of_tier| {
                self.policies.tier(of_tier[0].0).map(|tier| tier.end).unwrap_or_default()
            })
            .collect();
        let deny = self.settings.default_action == DefaultAction::Deny;
        let key = (direction, plane, host_access, deny, ends, digests, &layout.answers);
        let digest = Digest::of("table", &key);
        if let Some(&known) = self.index.get(&digest)
            && let Some(table) = self.tables.get_mut(&known)
        {
            table.users += 1;
            // The same rules, in policies that may have been filed anew.
            table.layout = layout;
            return known;
        }

        let script = script(&self.policies, self.settings, &mut self.classes, &layout, host);
        let base = table::met_by_world(&script, peers);
        let mut known = HashMap::new();
        let defaults = FAMILIES.map(|family| {
            let world = Signature { family: family as usize, ..Signature::default() };
            let class = table::class_of(&script, &base, &world, &mut self.classes.logs);
            let class = self.classes.acquire(class);
            known.insert(world, class);
            class
        });
        let id = TableId(self.next);
        self.next += 1;
        self.tables.insert(id, Table { digest, defaults, layout, known, users: 1 });
        self.index.insert(digest, id);
        self.fresh.insert(id);
        id
    }
}

/// The rules of a table, tier by tier, with what comes before and after them.
fn script<'a>(
    policies: &'a Policies,
    settings: Settings,
    classes: &mut Classes,
    layout: &Layout,
    host: ConditionId,
) -> Script<'a> {
    let mut script = Script {
        rules: Vec::new(),
        walks: Vec::new(),
        stages: Vec::new(),
        peer_side: match layout.direction {
            Direction::Ingress => PeerSide::Source,
            Direction::Egress => PeerSide::Destination,
        },
        staged: layout.policies.iter().any(|(_, walks)| *walks != Walks::ALL),
    };
    if layout.host_access {
        let everything = Arc::new(Region::all());
        script.walks.push(Walks::ALL);
        script.rules.push(TableRule {
            effect: Effect::Decide(VERDICT_ALLOW | classes.name(names::host_access())),
            peers: host,
            families: [true; 2],
            region: RuleRegion::Known([Arc::clone(&everything), everything]),
        });
        script.stages.push(Stage { rules: 0..1, walks: Walks::ALL, end: End::Continue });
    }
    let mut answers = layout.answers.iter();
    for of_tier in layout.policies.chunk_by(|a, b| policies.rank(a.0) == policies.rank(b.0)) {
        let start = script.rules.len();
        for &(slot, walks) in of_tier {
            let Some(filed) = policies.get(slot) else { continue };
            for shared in filed.shelf(layout.direction).iter().flat_map(|shelf| &shelf.rules) {
                let answer = shared.depends_on_subject.then(|| answers.next()).flatten();
                let region = match (&shared.region, filed.written(layout.direction, shared)) {
                    (None, Some(rule)) => {
                        let own = answer.map_or_else(Vec::new, |(_, ports)| ports.clone());
                        RuleRegion::ByPeer(rule, own)
                    }
                    (regions, _) => RuleRegion::Known(regions.clone().unwrap_or_default()),
                };
                script.walks.push(walks);
                script.rules.push(TableRule {
                    effect: shared.effect,
                    peers: shared.peers,
                    families: answer.map_or([true; 2], |(families, _)| *families),
                    region,
                });
            }
        }
        let end = match policies.tier(of_tier[0].0) {
            // Other policies are still to come.
            _ if layout.plane == Plane::PreDnat => End::Pass,
            Some(tier) if tier.end == TierAction::Pass => End::Pass,
            tier => {
                let name = tier.map_or("", |tier| tier.name.as_str());
                End::Decide(classes.name(names::tier_default(name)))
            }
        };
        let walks = Walks {
            enforced: of_tier.iter().any(|(_, walks)| walks.enforced),
            pending: of_tier.iter().any(|(_, walks)| walks.pending),
        };
        script.stages.push(Stage { rules: start..script.rules.len(), walks, end });
    }
    let (allow, name) = match layout.plane {
        Plane::Workload => endpoint_default(settings.default_action),
        Plane::Local(default) => endpoint_default(default),
        Plane::Forward => (VERDICT_ALLOW, names::forward_default()),
        Plane::PreDnat => (VERDICT_ALLOW, names::undecided()),
    };
    let last = allow | classes.name(name);
    let rules = script.rules.len()..script.rules.len();
    script.stages.push(Stage { rules, walks: Walks::ALL, end: End::Decide(last) });
    script
}

fn endpoint_default(default: DefaultAction) -> (u32, RuleName) {
    let allow = match default {
        DefaultAction::Allow => VERDICT_ALLOW,
        DefaultAction::Deny => 0,
    };
    (allow, names::endpoint_default(default))
}

/// What a peer is to a table: [`table::signatures`] for one peer, without a script.
fn signature(
    policies: &Policies,
    layout: &Layout,
    peer: usize,
    host: ConditionId,
    peers: &Peers,
) -> Signature {
    let family = peers.get(peer).family as usize;
    let differs = |condition| peers.others(condition).binary_search(&peer).is_ok();
    let mut signature = Signature { family, ..Signature::default() };
    let mut index = 0;
    if layout.host_access {
        if differs(host) {
            signature.toggled.push(index);
        }
        index += 1;
    }
    let mut answers = layout.answers.iter();
    for &(slot, _) in &layout.policies {
        let Some(filed) = policies.get(slot) else { continue };
        for shared in filed.shelf(layout.direction).iter().flat_map(|shelf| &shelf.rules) {
            let answer = shared.depends_on_subject.then(|| answers.next()).flatten();
            let speaks = answer.is_none_or(|(families, _)| families[family]);
            if speaks && differs(shared.peers) {
                signature.toggled.push(index);
            }
            if shared.region.is_none()
                && let Some(rule) = filed.written(layout.direction, shared)
            {
                let side = sides(rule, layout.direction).1;
                let used = services::names_used(side, peers.ports(peer));
                if !used.is_empty() {
                    signature.named.push((index, used));
                }
            }
            index += 1;
        }
    }
    signature
}

/// The condition that only the host meets: nobody else can have its label.
fn the_host() -> EntityMatch {
    EntityMatch { selector: Some(Selector::has(HOST_LABEL)), ..EntityMatch::default() }
}
