//! The compiler: from a [`Model`] to the map writes that make the datapath hold it.
//!
//! In: a [`Model`], and what the maps hold ([`Image`]) under which numbers ([`Ids`]). Out: a
//! [`Plan`]. No I/O: the agent executes the plan and then [`commits`](Compiler::commit) it.
//!
//! The parts: [`crate::peers`] divides the addresses, `tables` decides, this module gives
//! numbers, `transition` puts the writes in an order in which no packet meets half a policy.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use policy_common::{
    abi::{
        self, ADDRESSES_PER_FAMILY, ClassRef, Endpoint, GuardKey, Interval, LOG_NONE,
        MAX_CLASS_INTERVALS, MAX_SOURCE_BLOCKS, RULE_NONE, VERDICT_ALLOW, VERDICT_NESTED,
        VERDICT_RULE,
    },
    maps,
};

use crate::{
    digest::Digest,
    extents::Extents,
    host::{Failsafe, Plane, Published},
    identity,
    ids::{self, Ids},
    model::{EndpointSpec, Model},
    names,
    peers::Universe,
    plan::{CapacityError, Image, Plan},
    tables::{self, Tables},
    tiers,
    transition::{self, Transition},
    untracked::{self, Untracked},
};

#[cfg(test)]
mod tests;

/// The compiler and what it knows of the maps.
#[derive(Clone, Debug)]
pub struct Compiler {
    image: Image,
    ids: Ids,
    extents: Extents,
    /// What the newest plan used; connections may still bear it.
    named: Named,
}

/// Numbers of rules and of lists of Log rules.
#[derive(Clone, Debug, Default)]
struct Named {
    rules: HashSet<u32>,
    logs: HashSet<u32>,
}

/// A plan, and what the compiler will know once it has been executed.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What to execute.
    pub plan: Plan,
    /// To be written down now.
    ids: Ids,
    /// What the compiler goes on with.
    next: Ids,
    extents: Extents,
    named: Named,
}

impl Planned {
    /// The numbers that the plan uses. To be written down before the plan is executed: after a
    /// crash in between, the numbers in the maps still have their names.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }
}

/// What the maps shall hold, classes still by index.
pub(crate) struct Desired {
    pub(crate) endpoints: BTreeMap<u32, DesiredEndpoint>,
    /// Rows by table id: peer id to class.
    pub(crate) rows: HashMap<u32, HashMap<u32, usize>>,
    pub(crate) classes: Vec<(Digest, Vec<Interval>)>,
    pub(crate) addresses: BTreeMap<IpAddr, u32>,
    pub(crate) cidrs: BTreeMap<IpNet, u32>,
    pub(crate) guard: BTreeSet<GuardKey>,
    pub(crate) blocks: BTreeMap<(u32, IpNet), u32>,
    pub(crate) uplinks: BTreeMap<u32, u32>,
    pub(crate) failsafe: BTreeMap<Failsafe, u32>,
    pub(crate) published: BTreeMap<Published, u16>,
}

/// An endpoint whose default classes have no place yet.
pub(crate) struct DesiredEndpoint {
    base: Endpoint,
    /// By direction and family.
    defaults: [[usize; 2]; 2],
}

impl DesiredEndpoint {
    /// The map value.
    pub(crate) fn place(&self, places: &[ClassRef]) -> Endpoint {
        let defaults = self.defaults.map(|families| families.map(|class| places[class]));
        Endpoint { defaults, ..self.base }
    }

    /// Table ids by direction.
    pub(crate) fn tables(&self) -> [u32; 2] {
        self.base.tables
    }

    /// Own addresses.
    pub(crate) fn addresses(
        &self,
    ) -> ([[u8; 4]; ADDRESSES_PER_FAMILY], [[u8; 16]; ADDRESSES_PER_FAMILY]) {
        (self.base.v4, self.base.v6)
    }
}

impl Default for Compiler {
    fn default() -> Self {
        Compiler::new()
    }
}

impl Compiler {
    /// For maps that are empty.
    pub fn new() -> Self {
        Compiler::resume(Image::default(), Ids::default())
    }

    /// For maps that an earlier agent left, as it numbered them. Numbers in `image` that `ids` has
    /// no name for are neither trusted nor reused.
    pub fn resume(image: Image, mut ids: Ids) -> Self {
        let extents = Extents::new(maps::MAX_INTERVALS, image.class_references());
        Arc::make_mut(&mut ids.classes).retain(|_, class| extents.is_referenced(*class));
        let named = Named {
            rules: ids.rules().map(|(id, _)| id).collect(),
            logs: ids.logs().map(|(id, _)| id).collect(),
        };
        Compiler { image, ids, extents, named }
    }

    /// What the maps hold.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Names of the numbers in the maps.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// What must be written so that the datapath holds `model`. Nothing changes until
    /// [`Compiler::commit`].
    ///
    /// # Errors
    ///
    /// [`CapacityError`] if a map is too small, also for what it holds during the change.
    pub fn plan(&self, model: &Model) -> Result<Planned, CapacityError> {
        let mut universe = Universe::new(model, tables::conditions(model));
        let tables = tables::compile(model, &tiers::of(model), &mut universe);
        let blocked = untracked::compile(model);
        let mut ids = self.ids.clone();
        let in_maps = Numbers::of(&self.image);
        let (desired, named) =
            Numbering { model, universe: &universe, tables: &tables, blocked: &blocked }
                .run(&mut ids, &in_maps)?;
        self.retain(&mut ids, &in_maps, &desired, &named);

        let Transition { ops, ids, stored, extents } =
            transition::plan(&self.image, &in_maps, &desired, &ids, &self.extents)?;
        let changed = |(ifindex, endpoint): &(&u32, &DesiredEndpoint)| {
            self.image.endpoints.get(ifindex).is_none_or(|old| old.tables != endpoint.tables())
        };
        // The planes of a host endpoint are one to people.
        let interface = |(number, _): (&u32, &DesiredEndpoint)| {
            number & !(abi::PLANE_FORWARD | abi::PLANE_PRE_DNAT)
        };
        let interfaces: HashSet<u32> =
            desired.endpoints.iter().filter(changed).map(interface).collect();
        let plan = Plan {
            endpoints_changed: interfaces.len(),
            revision: transition::revision(&self.image, &ops),
            ops,
        };
        Ok(Planned { plan, ids: stored, next: ids, extents, named })
    }

    /// Takes note that a plan of this compiler, made after the last commit, has been executed.
    pub fn commit(&mut self, planned: Planned) {
        for op in &planned.plan.ops {
            self.image.apply(op);
        }
        self.ids = planned.next;
        self.extents = planned.extents;
        self.named = planned.named;
    }

    /// Frees the numbers that neither the maps hold nor the model needs.
    fn retain(&self, ids: &mut Ids, held: &Numbers, desired: &Desired, named: &Named) {
        let tables: HashSet<u32> =
            desired.endpoints.values().flat_map(DesiredEndpoint::tables).collect();
        let peers: HashSet<u32> =
            desired.addresses.values().chain(desired.cidrs.values()).copied().collect();
        let lists: HashSet<u32> = desired.uplinks.values().copied().collect();
        ids.retain_peers(|id| peers.contains(&id) || held.peers.contains(&id));
        ids::retain(&mut ids.tables, |id| tables.contains(&id) || held.tables.contains(&id));
        ids::retain(&mut ids.lists, |id| lists.contains(&id) || held.lists.contains(&id));
        ids::retain(&mut ids.rules, |id| {
            named.rules.contains(&id) || self.named.rules.contains(&id) || held.rules.contains(&id)
        });
        ids::retain(&mut ids.logs, |id| named.logs.contains(&id) || self.named.logs.contains(&id));
    }
}

/// The numbers that the maps hold.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// Peers of an address or prefix.
    pub(crate) live_peers: HashSet<u32>,
    /// Tables of an endpoint.
    pub(crate) live_tables: HashSet<u32>,
    /// Peers, those of rows that nothing leads to any more included.
    pub(crate) peers: HashSet<u32>,
    /// Tables, likewise.
    pub(crate) tables: HashSet<u32>,
    lists: HashSet<u32>,
    rules: HashSet<u32>,
}

impl Numbers {
    fn of(image: &Image) -> Numbers {
        let live_peers: HashSet<u32> =
            image.addresses.values().chain(image.cidrs.values()).copied().collect();
        let live_tables: HashSet<u32> =
            image.endpoints.values().flat_map(|endpoint| endpoint.tables).collect();
        let mut peers = live_peers.clone();
        let mut tables = live_tables.clone();
        for key in image.classes.keys() {
            peers.insert(key.peer);
            tables.insert(key.table);
        }
        let lists = image.blocks.keys().map(|(list, _)| *list);
        Numbers {
            live_peers,
            live_tables,
            peers,
            tables,
            lists: lists.chain(image.uplinks.values().copied()).collect(),
            rules: image.blocks.values().chain(image.failsafe.values()).copied().collect(),
        }
    }
}

/// From indices to numbers.
struct Numbering<'a> {
    model: &'a Model,
    universe: &'a Universe,
    tables: &'a Tables,
    blocked: &'a Untracked,
}

impl Numbering<'_> {
    fn run(&self, ids: &mut Ids, held: &Numbers) -> Result<(Desired, Named), CapacityError> {
        let mut named = Named::default();
        let peers = self.peers(ids, held)?;
        let table_ids = self
            .tables
            .tables
            .iter()
            .map(|table| {
                ids::assign(&mut ids.tables, table.digest, |id| held.tables.contains(&id))
                    .ok_or_else(|| exhausted("tables", ids.tables.len(), u32::MAX))
            })
            .collect::<Result<Vec<u32>, _>>()?;
        let classes = self.classes(ids, held, &mut named)?;
        let (blocks, uplinks) = self.blocks(ids, held, &mut named.rules)?;

        let numbered = |peer: usize| peers.get(&peer).copied();
        let rows = self.tables.tables.iter().zip(&table_ids).map(|(table, &id)| {
            let row = |&(peer, class): &(usize, usize)| Some((numbered(peer)?, class));
            (id, table.rows.iter().filter_map(row).collect())
        });
        let addresses = &self.universe.addresses;
        let cidrs = &self.universe.cidrs;
        let mut desired = Desired {
            endpoints: BTreeMap::new(),
            rows: rows.collect(),
            classes,
            addresses: addresses
                .iter()
                .filter_map(|(&at, &peer)| Some((at, numbered(peer)?)))
                .collect(),
            cidrs: cidrs.iter().filter_map(|&(net, peer)| Some((net, numbered(peer)?))).collect(),
            guard: BTreeSet::new(),
            blocks,
            uplinks,
            failsafe: BTreeMap::new(),
            published: self.model.published.clone(),
        };
        for &port in &self.model.failsafe {
            let rule = self.rule(ids, held, &names::failsafe(), &mut named.rules)?;
            desired.failsafe.insert(port, rule);
        }
        for (id, spec) in &self.model.endpoints {
            let tables = self.tables.of_endpoint.get(id).copied().unwrap_or_default();
            let mut base = base(spec)?;
            if spec.plane == Plane::PreDnat {
                base.undecided = self.rule(ids, held, &names::undecided(), &mut named.rules)?;
            }
            base.tables = tables.map(|table| table_ids[table]);
            let defaults = tables.map(|table| self.tables.tables[table].defaults);
            desired.endpoints.insert(spec.ifindex, DesiredEndpoint { base, defaults });
            desired.guard.extend(spec.bridge.into_iter().flat_map(|bridge| {
                let key = move |address| GuardKey { bridge, address: bytes(address) };
                identity::own_addresses(spec).into_iter().map(key)
            }));
        }
        Ok((desired, named))
    }

    fn peers(&self, ids: &mut Ids, held: &Numbers) -> Result<HashMap<usize, u32>, CapacityError> {
        let mut peers = HashMap::new();
        for (index, peer) in self.universe.peers.iter().enumerate().filter(|(_, peer)| peer.live) {
            let name = self.universe.name(index);
            let id = ids
                .assign_peer(peer.digest, &name, |id| held.peers.contains(&id))
                .ok_or_else(|| exhausted("peers", ids.peers.len(), u32::MAX))?;
            peers.insert(index, id);
        }
        Ok(peers)
    }

    fn classes(
        &self,
        ids: &mut Ids,
        held: &Numbers,
        named: &mut Named,
    ) -> Result<Vec<(Digest, Vec<Interval>)>, CapacityError> {
        let mut words = Words {
            rules: vec![None; self.tables.names.len()],
            logs: vec![None; self.tables.logs.len()],
        };
        let mut classes = Vec::with_capacity(self.tables.classes.len());
        for class in &self.tables.classes {
            if class.len() as u64 > u64::from(MAX_CLASS_INTERVALS) {
                return Err(exhausted(
                    "intervals of one class",
                    class.len() - 1,
                    MAX_CLASS_INTERVALS,
                ));
            }
            let mut intervals = Vec::with_capacity(class.len());
            for interval in class {
                intervals.push(Interval {
                    start: interval.start,
                    verdict: self.verdict(interval.verdict, &mut words, ids, held, named)?,
                    staged: self.verdict(interval.staged, &mut words, ids, held, named)?,
                    log: self.log(interval.log, &mut words, ids, named)?,
                });
            }
            classes.push((Digest::of("class", &intervals), intervals));
        }
        Ok(classes)
    }

    /// A verdict word, with the rule's id in place of its number.
    fn verdict(
        &self,
        word: u32,
        words: &mut Words,
        ids: &mut Ids,
        held: &Numbers,
        named: &mut Named,
    ) -> Result<u32, CapacityError> {
        let number = word & VERDICT_RULE;
        if word & VERDICT_NESTED != 0 {
            return if number < MAX_SOURCE_BLOCKS {
                Ok(word)
            } else {
                Err(exhausted("source ports of one class", number as usize, MAX_SOURCE_BLOCKS))
            };
        }
        let Some(at) = (number as usize).checked_sub(1) else { return Ok(RULE_NONE) };
        let id = match words.rules[at] {
            Some(id) => id,
            None => self.rule(ids, held, &self.tables.names[at], &mut named.rules)?,
        };
        words.rules[at] = Some(id);
        Ok(word & VERDICT_ALLOW | id)
    }

    /// The id of a list of Log rules.
    fn log(
        &self,
        list: u32,
        words: &mut Words,
        ids: &mut Ids,
        named: &mut Named,
    ) -> Result<u32, CapacityError> {
        let Some(at) = (list as usize).checked_sub(1) else { return Ok(LOG_NONE) };
        if let Some(id) = words.logs[at] {
            return Ok(id);
        }
        let rules = self.tables.logs.get(list).iter();
        let list: Vec<_> =
            rules.map(|&rule| self.tables.names[rule as usize - 1].clone()).collect();
        let id = ids::assign(&mut ids.logs, list, |_| false)
            .ok_or_else(|| exhausted("lists of Log rules", ids.logs.len(), maps::MAX_LOGS - 1))?;
        words.logs[at] = Some(id);
        named.logs.insert(id);
        Ok(id)
    }

    fn rule(
        &self,
        ids: &mut Ids,
        held: &Numbers,
        name: &policy_api::messages::RuleName,
        rules: &mut HashSet<u32>,
    ) -> Result<u32, CapacityError> {
        let rule = ids::assign(&mut ids.rules, name.clone(), |id| held.rules.contains(&id))
            .ok_or_else(|| exhausted("rules", ids.rules.len(), maps::MAX_RULES - 1))?;
        rules.insert(rule);
        Ok(rule)
    }

    #[expect(clippy::type_complexity, reason = "the two maps are what `Desired` has")]
    fn blocks(
        &self,
        ids: &mut Ids,
        held: &Numbers,
        rules: &mut HashSet<u32>,
    ) -> Result<(BTreeMap<(u32, IpNet), u32>, BTreeMap<u32, u32>), CapacityError> {
        let mut blocks = BTreeMap::new();
        let mut lists = Vec::new();
        for list in &self.blocked.lists {
            let id = ids::assign(&mut ids.lists, list.digest, |id| held.lists.contains(&id))
                .ok_or_else(|| exhausted("block lists", ids.lists.len(), u32::MAX))?;
            for &(net, name) in &list.prefixes {
                let rule = self.rule(ids, held, &self.blocked.names[name], rules)?;
                blocks.insert((id, net), rule);
            }
            lists.push(id);
        }
        let uplinks = &self.blocked.uplinks;
        Ok((blocks, uplinks.iter().map(|(&ifindex, &list)| (ifindex, lists[list])).collect()))
    }
}

/// Ids that have been given out in one run, by number less one.
struct Words {
    rules: Vec<Option<u32>>,
    logs: Vec<Option<u32>>,
}

fn exhausted(what: &'static str, in_use: usize, capacity: u32) -> CapacityError {
    CapacityError::TooMany { what, needed: in_use as u64 + 1, capacity: u64::from(capacity) }
}

/// An endpoint's map value, tables and classes still zero.
fn base(spec: &EndpointSpec) -> Result<Endpoint, CapacityError> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in identity::own_addresses(spec) {
        match address {
            IpAddr::V4(address) => v4.push(address.octets()),
            IpAddr::V6(address) => v6.push(address.octets()),
        }
    }
    Ok(Endpoint {
        ifindex: spec.ifindex,
        undecided: RULE_NONE,
        v4: slots(spec, &v4)?,
        v6: slots(spec, &v6)?,
        tables: [0; 2],
        defaults: [[ClassRef { offset: 0, len: 0 }; 2]; 2],
        adopt_until_ns: spec.adopt_until_ns,
    })
}

fn slots<const N: usize>(
    spec: &EndpointSpec,
    addresses: &[[u8; N]],
) -> Result<[[u8; N]; ADDRESSES_PER_FAMILY], CapacityError> {
    let mut slots = [[0; N]; ADDRESSES_PER_FAMILY];
    match slots.get_mut(..addresses.len()) {
        Some(used) => used.copy_from_slice(addresses),
        None => {
            return Err(CapacityError::Addresses {
                endpoint: format!("{}/{}", spec.namespace, spec.name),
                count: addresses.len(),
                capacity: ADDRESSES_PER_FAMILY,
            });
        }
    }
    Ok(slots)
}

/// An address as a guard key has it.
fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => abi::mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}
