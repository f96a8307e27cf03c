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
//! Allow or Pass as not met: in doubt the packet is dropped. Link-local addresses do not count.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use fixedbitset::FixedBitSet;
use policy_api::messages::RuleName;
use policy_common::abi::{Direction, Family, Interval, VERDICT_ALLOW};

use crate::{
    digest::Digest,
    model::{DefaultAction, EndpointId, Model, NamedPort},
    names,
    peers::{Matches, Universe},
    policy::{Action, EntityMatch, Policy, Rule},
    services::{self, Services},
    tiers::{self, Tier, TierAction},
};

mod table;

use table::{End, Stage, TableRule};

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
    /// Distinct classes. A verdict is [`VERDICT_ALLOW`] or 0, and an index into `names`.
    pub(crate) classes: Vec<Vec<Interval>>,
    /// Every rule.
    pub(crate) names: Vec<RuleName>,
    /// Tables by direction.
    pub(crate) of_endpoint: BTreeMap<EndpointId, [usize; 2]>,
}

/// A rule as it is for every subject.
struct Shared<'a> {
    rule: &'a Rule,
    /// Verdict word; `None` for Pass.
    verdict: Option<u32>,
    /// Who the other side may be.
    peers: Arc<Matches>,
    /// The conditions on the subject's own side, if there are any.
    own: Option<Arc<Matches>>,
    /// The services by family, unless they depend on named ports.
    services: Option<[Arc<Services>; 2]>,
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
        let policies: Vec<(usize, &'a Arc<Policy>)> = self
            .tiers
            .iter()
            .enumerate()
            .flat_map(|(tier, named)| {
                tiers::policies(self.model, named).into_iter().map(move |policy| (tier, policy))
            })
            .filter(|(_, policy)| policy.rules(direction).is_some())
            .collect();
        let groups = self.groups(&policies, universe);
        let mut shelves: Vec<Option<Shelf<'a>>> = policies.iter().map(|_| None).collect();
        for (places, endpoints) in groups {
            for place in places.ones() {
                if shelves[place].is_none() {
                    shelves[place] = Some(self.shelf(policies[place].1, direction, universe));
                }
            }
            let chosen: Vec<(usize, &Shelf<'a>)> = places
                .ones()
                .filter_map(|place| Some((policies[place].0, shelves[place].as_ref()?)))
                .collect();
            self.group(direction, &chosen, &endpoints, universe);
        }
    }

    /// Endpoints by the policies that apply to them.
    fn groups(
        &self,
        policies: &[(usize, &'a Arc<Policy>)],
        universe: &mut Universe,
    ) -> BTreeMap<FixedBitSet, Vec<&'a EndpointId>> {
        let mut by_entity: HashMap<usize, Vec<usize>> = HashMap::new();
        let endpoints: Vec<&'a EndpointId> = self.model.endpoints.keys().collect();
        for (index, id) in endpoints.iter().enumerate() {
            if let Some(entity) = universe.entity_of(id) {
                by_entity.entry(entity).or_default().push(index);
            }
        }
        let mut applying = vec![FixedBitSet::with_capacity(policies.len()); endpoints.len()];
        for (place, (_, policy)) in policies.iter().enumerate() {
            for entity in universe.selects(&policy.subject).ones() {
                for &endpoint in by_entity.get(&entity).into_iter().flatten() {
                    applying[endpoint].insert(place);
                }
            }
        }
        let mut groups: BTreeMap<FixedBitSet, Vec<&'a EndpointId>> = BTreeMap::new();
        for (places, id) in applying.into_iter().zip(endpoints) {
            groups.entry(places).or_default().push(id);
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
                let allow = match rule.action {
                    Action::Allow => Some(VERDICT_ALLOW),
                    Action::Deny => Some(0),
                    Action::Pass => None,
                };
                Shared {
                    rule,
                    verdict: allow
                        .map(|allow| allow | self.name(names::of_rule(policy, direction, rule))),
                    peers: universe.matching(peer),
                    own: (!own.matches_anyone()).then(|| universe.matching(own)),
                    services: (!services::uses_names(rule)).then(|| {
                        FAMILIES.map(|family| Arc::new(services::of_rule(rule, family, &[])))
                    }),
                }
            })
            .collect();
        Shelf { rules, digest }
    }

    /// The tables of endpoints that the same policies apply to.
    fn group(
        &mut self,
        direction: Direction,
        chosen: &[(usize, &Shelf<'a>)],
        endpoints: &[&EndpointId],
        universe: &Universe,
    ) {
        let digests: Vec<Digest> = chosen.iter().map(|(_, shelf)| shelf.digest).collect();
        let rules = || chosen.iter().flat_map(|(_, shelf)| &shelf.rules);
        let mut by_answers: HashMap<Vec<Answer>, usize> = HashMap::new();
        for id in endpoints {
            let answers: Vec<Answer> = rules()
                .filter(|shared| depends_on_subject(shared, direction))
                .map(|shared| self.answer(shared, direction, id, universe))
                .collect();
            let table = if let Some(&table) = by_answers.get(&answers) {
                table
            } else {
                let table = self.table(direction, chosen, &digests, &answers, universe);
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
                    Action::Deny => peers.any(|&peer| own.contains(peer, family)),
                    Action::Allow | Action::Pass => peers.all(|&peer| own.contains(peer, family)),
                }
            }),
            (None, _) | (_, None) => [true; 2],
        };
        let ports = match (direction, self.model.endpoints.get(id)) {
            (Direction::Ingress, Some(endpoint)) => {
                services::names_used(shared.rule, &endpoint.ports)
            }
            (Direction::Egress, _) | (_, None) => Vec::new(),
        };
        (holds, ports)
    }

    fn table(
        &mut self,
        direction: Direction,
        chosen: &[(usize, &Shelf<'a>)],
        digests: &[Digest],
        answers: &[Answer],
        universe: &Universe,
    ) -> usize {
        let settings = self.model.settings;
        let host_access = settings.host_access && direction == Direction::Ingress;
        let deny = settings.default_action == DefaultAction::Deny;
        // Each digest of a policy names its tier, so only the ends of the tiers are wanting.
        let ends: Vec<TierAction> = chosen
            .chunk_by(|a, b| a.0 == b.0)
            .map(|of_tier| self.tiers[of_tier[0].0].end)
            .collect();
        let digest = Digest::of("table", &(direction, host_access, deny, ends, digests, answers));
        if let Some(&table) = self.table_index.get(&digest) {
            return table;
        }

        let mut rules: Vec<TableRule<'_>> = Vec::new();
        let mut stages = Vec::new();
        if host_access {
            rules.push(TableRule {
                verdict: Some(VERDICT_ALLOW | self.name(names::host_access())),
                peers: Arc::new(Matches { world: [false; 2], others: universe.host_peers() }),
                families: [true; 2],
                services: Some([Arc::new(Services::all()), Arc::new(Services::all())]),
                rule: None,
            });
            stages.push(Stage { rules: 0..1, end: End::Continue });
        }
        let mut answers = answers.iter();
        for of_tier in chosen.chunk_by(|a, b| a.0 == b.0) {
            let start = rules.len();
            for shared in of_tier.iter().flat_map(|(_, shelf)| &shelf.rules) {
                let answer =
                    depends_on_subject(shared, direction).then(|| answers.next()).flatten();
                rules.push(table_rule(shared, direction, answer));
            }
            let tier = &self.tiers[of_tier[0].0];
            let end = match tier.end {
                TierAction::Deny => End::Decide(self.name(names::tier_default(&tier.name))),
                TierAction::Pass => End::Pass,
            };
            stages.push(Stage { rules: start..rules.len(), end });
        }
        let allow = if deny { 0 } else { VERDICT_ALLOW };
        let last = allow | self.name(names::endpoint_default(settings.default_action));
        stages.push(Stage { rules: rules.len()..rules.len(), end: End::Decide(last) });

        let (defaults, rows) = table::classes(&rules, &stages, universe, &mut |class| {
            let next = self.out.classes.len();
            *self.class_index.entry(class).or_insert_with_key(|class| {
                self.out.classes.push(class.clone());
                next
            })
        });
        self.out.tables.push(Table { digest, defaults, rows });
        let index = self.out.tables.len() - 1;
        self.table_index.insert(digest, index);
        index
    }

    fn name(&mut self, name: RuleName) -> u32 {
        // There are fewer rules than bits of memory; the capacity check comes with the ids.
        let next = u32::try_from(self.out.names.len()).unwrap_or(VERDICT_ALLOW - 1);
        *self.names.entry(name).or_insert_with_key(|name| {
            self.out.names.push(name.clone());
            next
        })
    }
}

fn depends_on_subject(shared: &Shared<'_>, direction: Direction) -> bool {
    shared.own.is_some() || (shared.services.is_none() && direction == Direction::Ingress)
}

fn table_rule<'a>(
    shared: &Shared<'a>,
    direction: Direction,
    answer: Option<&Answer>,
) -> TableRule<'a> {
    let services = match (&shared.services, direction, answer) {
        (Some(services), _, _) => Some(services.clone()),
        (None, Direction::Ingress, Some((_, ports))) => {
            Some(FAMILIES.map(|family| Arc::new(services::of_rule(shared.rule, family, ports))))
        }
        (None, _, _) => None,
    };
    TableRule {
        verdict: shared.verdict,
        peers: Arc::clone(&shared.peers),
        families: answer.map_or([true; 2], |(families, _)| *families),
        services,
        rule: Some(shared.rule),
    }
}
