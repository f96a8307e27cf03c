//! Decision tables: what each endpoint's policies say to each peer.
//!
//! In: the [`Model`], its tiers, its [`Universe`]. Out: [`Tables`]: distinct tables, the distinct
//! classes that they use, and each endpoint's two tables. Nothing here knows ids or the kernel.
//!
//! What keeps the cost down: a selector is evaluated once per distinct label set and a condition
//! once per peer, whoever uses them; endpoints with the same policies and the same answers to
//! the conditions on their own side share a table; within a table a peer is looked at only
//! if some rule treats it unlike the world, and peers that the same rules match share a class.
//!
//! An endpoint with several addresses of one family has one table for all of them. If a rule's
//! conditions on its own side hold for some of these addresses only, a Deny counts as met and an
//! Allow or Pass as not met: in doubt the packet is dropped (and logged). Link-local addresses do
//! not count.
//!
//! Where policies are staged, two walks are painted over each other: the one in force, and the one
//! that would be ([`tiers::Walk`]).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use fixedbitset::FixedBitSet;
use policy_api::messages::RuleName;
use policy_common::abi::{Direction, Family, Interval, VERDICT_ALLOW, VERDICT_RULE};

use crate::{
    canvas::LogLists,
    digest::Digest,
    host::Plane,
    model::{DefaultAction, EndpointId, Model, NamedPort, Settings},
    names,
    peers::{Matches, Universe},
    policy::{Action, EntityMatch, Policy, Rule},
    services::{self, Named, Region},
    tiers::{self, Listed, Tier, TierAction},
};

mod class;
mod table;

use table::{Effect, End, PeerSide, RuleRegion, Script, Stage, TableRule, Walks};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// One table.
#[derive(Debug)]
pub(crate) struct Table {
    /// The same table in another run of the agent.
    pub(crate) digest: Digest,
    /// Class of a peer that has no row, by family: that of the world.
    pub(crate) defaults: [usize; 2],
    /// Live peers with another class than the default, ascending.
    pub(crate) rows: Vec<(usize, usize)>,
}

/// The tables of a model.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// Distinct tables.
    pub(crate) tables: Vec<Table>,
    /// Distinct classes. A verdict is [`VERDICT_ALLOW`] or 0, and the number of a rule; a log id
    /// is the number of a list.
    pub(crate) classes: Vec<Vec<Interval>>,
    /// Every rule, by number less one: 0 in a staged verdict says that there is none.
    pub(crate) names: Vec<RuleName>,
    /// The lists of Log rules.
    pub(crate) logs: LogLists,
    /// Tables by direction.
    pub(crate) of_endpoint: BTreeMap<EndpointId, [usize; 2]>,
}

/// A rule as it is for every subject.
struct Shared<'a> {
    rule: &'a Rule,
    effect: Effect,
    /// Who the other side may be.
    peers: Arc<Matches>,
    /// The conditions on the subject's own side, if there are any.
    own: Option<Arc<Matches>>,
    /// What it matches by family, unless that depends on named ports.
    region: Option<[Arc<Region>; 2]>,
}

/// A policy that has a say on a direction.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    /// Index of its tier.
    tier: usize,
    policy: &'a Arc<Policy>,
    walks: Walks,
}

/// A policy that applies to an endpoint.
struct Chosen<'s, 'a> {
    tier: usize,
    walks: Walks,
    shelf: &'s Shelf<'a>,
}

/// The rules of a policy for one direction.
struct Shelf<'a> {
    rules: Vec<Shared<'a>>,
    digest: Digest,
}

/// How one rule of a table depends on the subject: the families for which its own side's
/// conditions hold, and the subject's ports that it names.
type Answer = ([bool; 2], Vec<NamedPort>);

/// The conditions that the tables of a model will ask about.
pub(crate) fn conditions<'a>(model: &'a Model) -> impl Iterator<Item = &'a EntityMatch> {
    let rules = |policy: &'a Arc<Policy>| policy.ingress.iter().chain(&policy.egress).flatten();
    model
        .policies
        .values()
        .filter(|policy| !policy.untracked)
        .flat_map(rules)
        .flat_map(|rule| [&rule.source, &rule.destination])
}

/// Compiles every endpoint's tables.
pub(crate) fn compile(model: &Model, tiers: &[Tier], universe: &mut Universe) -> Tables {
    let mut builder = Builder {
        model,
        tiers,
        names: HashMap::new(),
        class_index: HashMap::new(),
        table_index: HashMap::new(),
        out: Tables::default(),
    };
    for direction in [Direction::Ingress, Direction::Egress] {
        builder.direction(direction, universe);
    }
    builder.out
}

struct Builder<'a> {
    model: &'a Model,
    tiers: &'a [Tier],
    names: HashMap<RuleName, u32>,
    class_index: HashMap<Vec<Interval>, usize>,
    table_index: HashMap<Digest, usize>,
    out: Tables,
}

impl<'a> Builder<'a> {
    fn direction(&mut self, direction: Direction, universe: &mut Universe) {
        // In the order of the walk, so that an ascending list of places is a walk.
        let candidate = |tier: usize, listed: Listed<'a>| Candidate {
            tier,
            policy: listed.policy,
            walks: Walks { enforced: listed.enforced, pending: listed.pending },
        };
        let policies: Vec<Candidate<'a>> = self
            .tiers
            .iter()
            .enumerate()
            .flat_map(|(tier, named)| {
                let listed = tiers::listed(self.model, named).into_iter();
                listed.map(move |listed| candidate(tier, listed))
            })
            .filter(|candidate| candidate.policy.rules(direction).is_some())
            .collect();
        let groups = self.groups(&policies, universe);
        let mut shelves: Vec<Option<Shelf<'a>>> = policies.iter().map(|_| None).collect();
        for ((plane, places), endpoints) in groups {
            for place in places.ones() {
                if shelves[place].is_none() {
                    shelves[place] = Some(self.shelf(policies[place].policy, direction, universe));
                }
            }
            let chosen: Vec<Chosen<'_, 'a>> = places
                .ones()
                .filter_map(|place| {
                    let Candidate { tier, walks, .. } = policies[place];
                    Some(Chosen { tier, walks, shelf: shelves[place].as_ref()? })
                })
                .collect();
            let subject = Subject { direction, plane };
            self.group(subject, &chosen, &endpoints, universe);
        }
    }

    /// Endpoints by what of an interface they are, and by the policies that apply to them.
    fn groups(
        &self,
        policies: &[Candidate<'a>],
        universe: &mut Universe,
    ) -> BTreeMap<(Plane, FixedBitSet), Vec<&'a EndpointId>> {
        let mut by_entity: HashMap<usize, Vec<usize>> = HashMap::new();
        let endpoints: Vec<(&'a EndpointId, Plane)> =
            self.model.endpoints.iter().map(|(id, spec)| (id, spec.plane)).collect();
        for (index, (id, _)) in endpoints.iter().enumerate() {
            if let Some(entity) = universe.entity_of(id) {
                by_entity.entry(entity).or_default().push(index);
            }
        }
        let mut applying = vec![FixedBitSet::with_capacity(policies.len()); endpoints.len()];
        for (place, candidate) in policies.iter().enumerate() {
            for entity in universe.selects(&candidate.policy.subject).ones() {
                for &endpoint in by_entity.get(&entity).into_iter().flatten() {
                    if endpoints[endpoint].1.admits(candidate.policy) {
                        applying[endpoint].insert(place);
                    }
                }
            }
        }
        let mut groups: BTreeMap<(Plane, FixedBitSet), Vec<&'a EndpointId>> = BTreeMap::new();
        for (places, (id, plane)) in applying.into_iter().zip(endpoints) {
            groups.entry((plane, places)).or_default().push(id);
        }
        groups
    }

    fn shelf(
        &mut self,
        policy: &'a Policy,
        direction: Direction,
        universe: &mut Universe,
    ) -> Shelf<'a> {
        let rules = policy.rules(direction).unwrap_or_default();
        let digest = Digest::of("policy", &(&policy.key, &policy.tier, direction, rules));
        let rules = rules
            .iter()
            .map(|rule| {
                let (own, peer) = match direction {
                    Direction::Ingress => (&rule.destination, &rule.source),
                    Direction::Egress => (&rule.source, &rule.destination),
                };
                let named = services::uses_names(own) || services::uses_names(peer);
                let mut number = || self.name(names::of_rule(policy, direction, rule));
                Shared {
                    rule,
                    effect: match rule.action {
                        Action::Allow => Effect::Decide(VERDICT_ALLOW | number()),
                        Action::Deny => Effect::Decide(number()),
                        Action::Pass => Effect::Pass,
                        Action::Log => Effect::Log(number()),
                    },
                    peers: universe.matching(peer),
                    own: (!own.matches_anyone()).then(|| universe.matching(own)),
                    region: (!named).then(|| {
                        let of = |family| services::of_rule(rule, family, Named::default());
                        FAMILIES.map(|family| Arc::new(of(family)))
                    }),
                }
            })
            .collect();
        Shelf { rules, digest }
    }

    /// The tables of endpoints that the same policies apply to.
    fn group(
        &mut self,
        subject: Subject,
        chosen: &[Chosen<'_, 'a>],
        endpoints: &[&EndpointId],
        universe: &Universe,
    ) {
        let direction = subject.direction;
        let rules = || chosen.iter().flat_map(|chosen| &chosen.shelf.rules);
        let mut by_answers: HashMap<Vec<Answer>, usize> = HashMap::new();
        for id in endpoints {
            let answers: Vec<Answer> = rules()
                .filter(|shared| depends_on_subject(shared, direction))
                .map(|shared| self.answer(shared, direction, id, universe))
                .collect();
            let table = if let Some(&table) = by_answers.get(&answers) {
                table
            } else {
                let table = self.table(subject, chosen, &answers, universe);
                by_answers.insert(answers, table);
                table
            };
            self.out.of_endpoint.entry((*id).clone()).or_default()[direction as usize] = table;
        }
    }

    fn answer(
        &self,
        shared: &Shared<'_>,
        direction: Direction,
        id: &EndpointId,
        universe: &Universe,
    ) -> Answer {
        let holds = match (&shared.own, universe.own.get(id)) {
            (Some(own), Some(peers)) => FAMILIES.map(|family| {
                let mut peers = peers[family as usize].iter();
                match shared.rule.action {
                    Action::Deny | Action::Log => peers.any(|&peer| own.contains(peer, family)),
                    Action::Allow | Action::Pass => peers.all(|&peer| own.contains(peer, family)),
                }
            }),
            (None, _) | (_, None) => [true; 2],
        };
        let ports = self.model.endpoints.get(id).map_or_else(Vec::new, |endpoint| {
            services::names_used(own_side(shared.rule, direction), &endpoint.ports)
        });
        (holds, ports)
    }

    fn table(
        &mut self,
        subject: Subject,
        chosen: &[Chosen<'_, 'a>],
        answers: &[Answer],
        universe: &Universe,
    ) -> usize {
        let settings = self.model.settings;
        let host_access = subject.has_host_access(settings);
        let deny = settings.default_action == DefaultAction::Deny;
        // Each digest of a policy names its tier, so only the ends of the tiers are wanting.
        let ends: Vec<TierAction> = chosen
            .chunk_by(|a, b| a.tier == b.tier)
            .map(|of_tier| self.tiers[of_tier[0].tier].end)
            .collect();
        let digests: Vec<(Digest, Walks)> =
            chosen.iter().map(|chosen| (chosen.shelf.digest, chosen.walks)).collect();
        let digest = Digest::of("table", &(subject, host_access, deny, ends, digests, answers));
        if let Some(&table) = self.table_index.get(&digest) {
            return table;
        }

        let script = self.script(subject, chosen, answers, universe);
        let Tables { classes, logs, .. } = &mut self.out;
        let (defaults, rows) = table::classes(&script, universe, logs, &mut |class| {
            let next = classes.len();
            *self.class_index.entry(class).or_insert_with_key(|class| {
                classes.push(class.clone());
                next
            })
        });
        self.out.tables.push(Table { digest, defaults, rows });
        let index = self.out.tables.len() - 1;
        self.table_index.insert(digest, index);
        index
    }

    /// The rules of a table, tier by tier, with what comes before and after them.
    fn script(
        &mut self,
        subject: Subject,
        chosen: &[Chosen<'_, 'a>],
        answers: &[Answer],
        universe: &Universe,
    ) -> Script<'a> {
        let settings = self.model.settings;
        let direction = subject.direction;
        let mut script = Script {
            rules: Vec::new(),
            walks: Vec::new(),
            stages: Vec::new(),
            staged: chosen.iter().any(|chosen| chosen.walks != Walks::ALL),
            peer_side: match direction {
                Direction::Ingress => PeerSide::Source,
                Direction::Egress => PeerSide::Destination,
            },
        };
        if subject.has_host_access(settings) {
            let everything = Arc::new(Region::all());
            script.walks.push(Walks::ALL);
            script.rules.push(TableRule {
                effect: Effect::Decide(VERDICT_ALLOW | self.name(names::host_access())),
                peers: Arc::new(Matches { world: [false; 2], others: universe.host_peers() }),
                families: [true; 2],
                region: RuleRegion::Known([Arc::clone(&everything), everything]),
            });
            script.stages.push(Stage { rules: 0..1, walks: Walks::ALL, end: End::Continue });
        }
        let mut answers = answers.iter();
        for of_tier in chosen.chunk_by(|a, b| a.tier == b.tier) {
            let start = script.rules.len();
            for Chosen { walks, shelf, .. } in of_tier {
                for shared in &shelf.rules {
                    let asked = depends_on_subject(shared, direction);
                    let answer = asked.then(|| answers.next()).flatten();
                    script.walks.push(*walks);
                    script.rules.push(table_rule(shared, answer));
                }
            }
            let tier = &self.tiers[of_tier[0].tier];
            let end = match tier.end {
                // Other policies are still to come.
                _ if subject.plane == Plane::PreDnat => End::Pass,
                TierAction::Deny => End::Decide(self.name(names::tier_default(&tier.name))),
                TierAction::Pass => End::Pass,
            };
            let walks = Walks {
                enforced: of_tier.iter().any(|chosen| chosen.walks.enforced),
                pending: of_tier.iter().any(|chosen| chosen.walks.pending),
            };
            script.stages.push(Stage { rules: start..script.rules.len(), walks, end });
        }
        let (allow, name) = match subject.plane {
            Plane::Workload => endpoint_default(settings.default_action),
            Plane::Local(default) => endpoint_default(default),
            Plane::Forward => (VERDICT_ALLOW, names::forward_default()),
            Plane::PreDnat => (VERDICT_ALLOW, names::undecided()),
        };
        let last = allow | self.name(name);
        let rules = script.rules.len()..script.rules.len();
        script.stages.push(Stage { rules, walks: Walks::ALL, end: End::Decide(last) });
        script
    }

    /// The number of a rule, from 1 on.
    fn name(&mut self, name: RuleName) -> u32 {
        let names = &mut self.out.names;
        *self.names.entry(name).or_insert_with_key(|name| {
            names.push(name.clone());
            // There are fewer rules than bits of memory; the capacity check comes with the ids.
            u32::try_from(names.len()).unwrap_or(VERDICT_RULE)
        })
    }
}

/// The side of a rule that the subject is.
fn own_side(rule: &Rule, direction: Direction) -> &EntityMatch {
    match direction {
        Direction::Ingress => &rule.destination,
        Direction::Egress => &rule.source,
    }
}

/// What a table is about, beside its policies.
#[derive(Clone, Copy, Debug, Hash)]
struct Subject {
    direction: Direction,
    plane: Plane,
}

impl Subject {
    /// Whether the host's own packets are let in before all policies.
    fn has_host_access(self, settings: Settings) -> bool {
        settings.host_access && self.direction == Direction::Ingress && !self.plane.of_host()
    }
}

fn endpoint_default(default: DefaultAction) -> (u32, RuleName) {
    let allow = match default {
        DefaultAction::Allow => VERDICT_ALLOW,
        DefaultAction::Deny => 0,
    };
    (allow, names::endpoint_default(default))
}

fn depends_on_subject(shared: &Shared<'_>, direction: Direction) -> bool {
    shared.own.is_some()
        || (shared.region.is_none() && services::uses_names(own_side(shared.rule, direction)))
}

fn table_rule<'a>(shared: &Shared<'a>, answer: Option<&Answer>) -> TableRule<'a> {
    TableRule {
        effect: shared.effect,
        peers: Arc::clone(&shared.peers),
        families: answer.map_or([true; 2], |(families, _)| *families),
        region: match &shared.region {
            Some(regions) => RuleRegion::Known(regions.clone()),
            None => RuleRegion::ByPeer(
                shared.rule,
                answer.map_or_else(Vec::new, |(_, ports)| ports.clone()),
            ),
        },
    }
}
