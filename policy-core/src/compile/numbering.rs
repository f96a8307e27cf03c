//! From the workspace's indices to the kernel's numbers.
//!
//! In: the workspace at the model that is wanted, the ids there are, what the maps hold. Out: what
//! the maps shall hold ([`Desired`]), as far as it may differ from what they do hold.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use policy_api::messages::RuleName;
use policy_common::{
    abi::{
        self, ADDRESSES_PER_FAMILY, Blocked, ClassKey, ClassRef, Endpoint, GuardKey, Interval,
        LOG_NONE, MAX_CLASS_INTERVALS, MAX_SOURCE_BLOCKS, PEER_WORLD_V4, PEER_WORLD_V6, Pace,
        RULE_NONE, Uplink, VERDICT_ALLOW, VERDICT_NESTED, VERDICT_RULE,
    },
    maps,
};

use super::Settled;
use crate::{
    digest::Digest,
    held::Held,
    host::{Failsafe, Plane, Published},
    identity,
    ids::Draft,
    model::EndpointSpec,
    names,
    peers::{PeerName, WORLD},
    plan::{CapacityError, Image},
    shared::Shared,
    tables::{ClassId, TableId, Word, rule_in},
    untracked::Untracked,
    workspace::Workspace,
};

/// What the maps shall hold, classes still without a place.
pub(crate) struct Desired {
    pub(crate) endpoints: BTreeMap<u32, DesiredEndpoint>,
    /// Every table of an endpoint.
    pub(crate) tables: BTreeSet<u32>,
    /// Every peer of an address or prefix.
    pub(crate) peers: HashSet<u32>,
    /// Tables and peers of which rows may differ: all pairs with either of them.
    pub(crate) new_tables: HashSet<u32>,
    pub(crate) new_peers: BTreeSet<u32>,
    /// The rows of those pairs.
    pub(crate) rows: BTreeMap<ClassKey, ClassId>,
    /// Every class in `rows` and of an endpoint.
    pub(crate) classes: BTreeMap<ClassId, Content>,
    /// Addresses that may differ, and their peers before and after, by what stands there or around.
    pub(crate) addresses: Vec<(IpAddr, Change)>,
    /// Prefixes that may differ, likewise.
    pub(crate) cidrs: Vec<(IpNet, Change)>,
    pub(crate) guard: BTreeSet<GuardKey>,
    /// `None`: as they are.
    pub(crate) blocks: Option<Blocks>,
    pub(crate) failsafe: BTreeMap<Failsafe, u32>,
    pub(crate) published: Shared<BTreeMap<Published, u16>>,
}

/// Block lists.
#[derive(Default)]
pub(crate) struct Blocks {
    pub(crate) prefixes: BTreeMap<(u32, IpNet), Blocked>,
    pub(crate) uplinks: BTreeMap<u32, Uplink>,
}

/// An entry of the address or prefix maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    /// The peer that its addresses have now.
    pub(crate) from: u32,
    /// The peer that they shall have.
    pub(crate) to: u32,
    /// Whether the entry is there now, and afterwards.
    pub(crate) is_there: bool,
    pub(crate) stays: bool,
}

/// What a class says, under its name; only the name if it is in the maps already.
pub(crate) struct Content {
    pub(crate) digest: Digest,
    pub(crate) intervals: Vec<Interval>,
}

/// An endpoint whose default classes have no place yet.
pub(crate) struct DesiredEndpoint {
    base: Endpoint,
    /// By direction and family.
    defaults: [[ClassId; 2]; 2],
}

impl DesiredEndpoint {
    /// The map value.
    pub(crate) fn place(&self, places: &HashMap<ClassId, ClassRef>) -> Endpoint {
        let place = |class| places.get(&class).copied().unwrap_or(ClassRef { offset: 0, len: 0 });
        let defaults = self.defaults.map(|families| families.map(place));
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

/// What the numbering reads and writes.
pub(super) struct Numbering<'a, 'b> {
    pub(super) workspace: &'a mut Workspace,
    pub(super) image: &'a Image,
    pub(super) held: &'a Held,
    pub(super) settled: &'a Settled,
    pub(super) ids: &'a mut Draft<'b>,
    /// Ids of words that were given out in this run.
    pub(super) words: HashMap<Word, u32>,
}

impl Numbering<'_, '_> {
    pub(super) fn run(&mut self) -> Result<Desired, CapacityError> {
        let peers = self.peers()?;
        let mut table_ids: HashMap<TableId, u32> = HashMap::new();
        for (id, table) in self.workspace.tables.iter() {
            let held = self.held;
            let number = self.ids.tables.assign(&table.digest, |id| held.has_table(id));
            let number =
                number.ok_or_else(|| exhausted("tables", self.ids.tables.len(), u32::MAX))?;
            table_ids.insert(id, number);
        }
        let mut desired = Desired {
            endpoints: BTreeMap::new(),
            tables: table_ids.values().copied().collect(),
            new_peers: peers
                .values()
                .filter(|id| !self.settled.peers.contains(id))
                .copied()
                .collect(),
            new_tables: HashSet::new(),
            peers: peers.values().copied().collect(),
            rows: BTreeMap::new(),
            classes: BTreeMap::new(),
            addresses: self.addresses(&peers),
            cidrs: self.cidrs(&peers),
            guard: BTreeSet::new(),
            blocks: None,
            failsafe: BTreeMap::new(),
            published: self.workspace.model().published.clone(),
        };
        for port in self.workspace.model().failsafe.clone().iter() {
            let rule = self.rule(&Arc::new(names::failsafe()))?;
            desired.failsafe.insert(*port, rule);
        }
        let tables = &self.workspace.tables;
        let is_new = |(id, number): &(&TableId, &u32)| {
            !self.settled.tables.contains(*number) || tables.is_fresh(**id)
        };
        desired.new_tables = table_ids.iter().filter(is_new).map(|(_, number)| *number).collect();
        self.rows(&peers, &table_ids, &mut desired);
        self.endpoints(&table_ids, &mut desired)?;
        self.classes(&mut desired)?;
        let (blocked, touched) = self.workspace.blocks();
        if touched || !self.settled.complete {
            desired.blocks = Some(self.blocks(&blocked)?);
        }
        Ok(desired)
    }

    /// Numbers of the live peers.
    fn peers(&mut self) -> Result<HashMap<usize, u32>, CapacityError> {
        let mut peers = HashMap::new();
        for peer in self.workspace.division.live() {
            let digest = self.workspace.peers.get(peer).digest;
            let id = match self.ids.known_peer(digest) {
                Some(id) => id,
                None => {
                    let name = self.workspace.peers.name(peer);
                    let held = self.held;
                    self.ids
                        .assign_peer(digest, &name, |id| held.has_peer(id))
                        .ok_or_else(|| exhausted("peers", self.ids.peer_count(), u32::MAX))?
                }
            };
            peers.insert(peer, id);
        }
        Ok(peers)
    }

    /// The rows of new tables for everybody, and of the others for new peers.
    fn rows(
        &mut self,
        peers: &HashMap<usize, u32>,
        tables: &HashMap<TableId, u32>,
        desired: &mut Desired,
    ) {
        let Workspace { peers: store, division, tables: compiled, .. } = &mut *self.workspace;
        let mut ascending: Vec<(TableId, u32)> = tables.iter().map(|(a, b)| (*a, *b)).collect();
        ascending.sort_unstable();
        for (id, table) in ascending {
            if desired.new_tables.contains(&table) {
                for (peer, class) in compiled.rows(id, division, store) {
                    if let Some(&peer) = peers.get(&peer) {
                        desired.rows.insert(ClassKey { table, peer }, class);
                    }
                }
            }
        }
        let mut news: Vec<(usize, u32)> = peers
            .iter()
            .filter(|(_, number)| desired.new_peers.contains(number))
            .map(|(peer, number)| (*peer, *number))
            .collect();
        news.sort_unstable();
        for (index, peer) in news {
            for (id, class) in compiled.column(index, store) {
                if let Some(&table) = tables.get(&id) {
                    desired.rows.insert(ClassKey { table, peer }, class);
                }
            }
        }
    }

    fn endpoints(
        &mut self,
        table_ids: &HashMap<TableId, u32>,
        desired: &mut Desired,
    ) -> Result<(), CapacityError> {
        for (id, spec) in &self.workspace.model().endpoints.clone() {
            let mut base = base(spec)?;
            if spec.plane == Plane::PreDnat {
                base.undecided = self.rule(&Arc::new(names::undecided()))?;
            }
            let Some(tables) = self.workspace.tables.of_endpoint(id) else { continue };
            base.tables = tables.map(|table| table_ids.get(&table).copied().unwrap_or_default());
            let [Some(ingress), Some(egress)] = tables.map(|id| self.workspace.tables.get(id))
            else {
                continue;
            };
            let defaults = [ingress.defaults, egress.defaults];
            desired.endpoints.insert(spec.ifindex, DesiredEndpoint { base, defaults });
            desired.guard.extend(spec.bridge.into_iter().flat_map(|bridge| {
                let key = move |address| GuardKey { bridge, address: bytes(address) };
                identity::own_addresses(spec).into_iter().map(key)
            }));
        }
        Ok(())
    }

    /// Names and contents of the classes that are asked for.
    fn classes(&mut self, desired: &mut Desired) -> Result<(), CapacityError> {
        let defaults = desired.endpoints.values().flat_map(|it| it.defaults.as_flattened());
        let asked: BTreeSet<ClassId> = desired.rows.values().chain(defaults).copied().collect();
        for id in asked {
            let known = self.workspace.tables.classes.digest(id);
            let content = match known.filter(|digest| self.ids.class(*digest).is_some()) {
                Some(digest) => Content { digest, intervals: Vec::new() },
                None => self.class(id)?,
            };
            desired.classes.insert(id, content);
        }
        Ok(())
    }

    fn class(&mut self, id: ClassId) -> Result<Content, CapacityError> {
        let class = self.workspace.tables.classes.get(id).unwrap_or_default();
        if class.len() as u64 > u64::from(MAX_CLASS_INTERVALS) {
            let what = "intervals of one class";
            return Err(exhausted(what, class.len() - 1, MAX_CLASS_INTERVALS));
        }
        let mut intervals = Vec::with_capacity(class.len());
        for interval in class.iter() {
            let log = match interval.log {
                0 => LOG_NONE,
                list => self.word(Word::Log(list))?,
            };
            intervals.push(Interval {
                start: interval.start,
                verdict: self.verdict(interval.verdict)?,
                staged: self.verdict(interval.staged)?,
                log,
            });
        }
        Ok(Content { digest: Digest::of("class", &intervals), intervals })
    }

    /// A verdict word, with the rule's id in place of its number.
    fn verdict(&mut self, word: u32) -> Result<u32, CapacityError> {
        let number = word & VERDICT_RULE;
        if word & VERDICT_NESTED != 0 && number >= MAX_SOURCE_BLOCKS {
            let what = "source ports of one class";
            return Err(exhausted(what, number as usize, MAX_SOURCE_BLOCKS));
        }
        match rule_in(word) {
            Some(rule) => Ok(word & VERDICT_ALLOW | self.word(rule)?),
            None => Ok(word),
        }
    }

    /// The id of a rule, or of a list of Log rules.
    fn word(&mut self, word: Word) -> Result<u32, CapacityError> {
        if let Some(&id) = self.words.get(&word) {
            return Ok(id);
        }
        let rules = self.workspace.tables.classes.rules(word);
        let id = match word {
            Word::Rule(_) => rules.first().map(|name| self.rule(name)).transpose()?,
            Word::Log(_) => Some(self.log(&rules)?),
        };
        let id = id.unwrap_or_default();
        self.words.insert(word, id);
        Ok(id)
    }

    fn rule(&mut self, name: &Arc<RuleName>) -> Result<u32, CapacityError> {
        let held = self.held;
        self.ids
            .rules
            .assign(name, |id| held.has_rule(id))
            .ok_or_else(|| exhausted("rules", self.ids.rules.len(), maps::MAX_RULES - 1))
    }

    fn log(&mut self, rules: &[Arc<RuleName>]) -> Result<u32, CapacityError> {
        let list: Arc<[RuleName]> = rules.iter().map(|name| name.as_ref().clone()).collect();
        self.ids
            .logs
            .assign(&list, |_| false)
            .ok_or_else(|| exhausted("lists of Log rules", self.ids.logs.len(), maps::MAX_LOGS - 1))
    }

    /// The number of the peer that stands for a network set in block lists. No table knows it.
    fn set(&mut self, name: &PeerName) -> Result<u32, CapacityError> {
        let digest = Digest::of("block-list-set", &(&name.namespace, &name.name));
        let held = self.held;
        self.ids
            .assign_peer(digest, name, |id| held.has_peer(id))
            .ok_or_else(|| exhausted("peers", self.ids.peer_count(), u32::MAX))
    }

    fn blocks(&mut self, blocked: &Untracked) -> Result<Blocks, CapacityError> {
        let mut blocks = Blocks::default();
        let mut lists = Vec::new();
        let names: Vec<Arc<RuleName>> = blocked.names.iter().cloned().map(Arc::new).collect();
        let mut rules: Vec<Option<u32>> = vec![None; names.len()];
        let mut rule = |this: &mut Self, name: usize| -> Result<u32, CapacityError> {
            let number = match rules[name] {
                Some(number) => number,
                None => this.rule(&names[name])?,
            };
            rules[name] = Some(number);
            Ok(number)
        };
        let mut sets: HashMap<&PeerName, u32> = HashMap::new();
        for list in &blocked.lists {
            let held = self.held;
            let id = self.ids.lists.assign(&list.digest, |id| held.has_list(id));
            let id = id.ok_or_else(|| exhausted("block lists", self.ids.lists.len(), u32::MAX))?;
            for &(net, source) in &list.prefixes {
                let rule = rule(self, source.rule)?;
                let peer = match blocked.set(source) {
                    None => world(net.addr()).1,
                    Some(name) => match sets.get(name) {
                        Some(peer) => *peer,
                        None => {
                            let peer = self.set(name)?;
                            sets.insert(name, peer);
                            peer
                        }
                    },
                };
                blocks.prefixes.insert((id, net), Blocked { rule, peer });
            }
            lists.push(id);
        }
        for (&ifindex, uplink) in &blocked.uplinks {
            let (limit, pace) = match uplink.limit {
                Some((name, limit)) => (rule(self, name)?, limit.pace()),
                None => (RULE_NONE, Pace::default()),
            };
            blocks.uplinks.insert(ifindex, Uplink { list: lists[uplink.list], limit, pace });
        }
        Ok(blocks)
    }

    /// The exact addresses that may differ.
    fn addresses(&mut self, peers: &HashMap<usize, u32>) -> Vec<(IpAddr, Change)> {
        let image = self.image;
        let division = &mut self.workspace.division;
        let asked: Vec<IpAddr> = if self.settled.complete {
            division.touched().0.to_vec()
        } else {
            let all: BTreeSet<IpAddr> =
                image.addresses.keys().chain(division.addresses().keys()).copied().collect();
            all.into_iter().collect()
        };
        let mut changes = Vec::new();
        for address in asked {
            let net = IpNet::from(address);
            let (world, world_number) = world(address);
            let old = image.addresses.get(&address).copied();
            let new = division.addresses().get(&address).copied();
            let exact = image.cidrs.get(&net).copied();
            let from = old.or(exact).or_else(|| image.around(net)).unwrap_or(world_number);
            let prefixes = division.prefixes();
            let to = new.or_else(|| prefixes.peer(net)).or_else(|| prefixes.around(net));
            let to = number(peers, to.unwrap_or(world));
            let change = Change { from, to, is_there: old.is_some(), stays: new.is_some() };
            if change.differs() {
                changes.push((address, change));
            }
        }
        changes
    }

    /// The prefixes that may differ.
    fn cidrs(&mut self, peers: &HashMap<usize, u32>) -> Vec<(IpNet, Change)> {
        let image = self.image;
        let division = &mut self.workspace.division;
        let asked: Vec<IpNet> = if self.settled.complete {
            division.touched().1.to_vec()
        } else {
            let wanted = division.prefixes().peers().map(|(net, _)| net);
            let all: BTreeSet<IpNet> = image.cidrs.keys().copied().chain(wanted).collect();
            all.into_iter().collect()
        };
        let mut changes = Vec::new();
        for net in asked {
            let (world, world_number) = world(net.addr());
            let old = image.cidrs.get(&net).copied();
            let new = division.prefixes().peer(net);
            let from = old.or_else(|| image.around(net)).unwrap_or(world_number);
            let to = new.or_else(|| division.prefixes().around(net));
            let to = number(peers, to.unwrap_or(world));
            let change = Change { from, to, is_there: old.is_some(), stays: new.is_some() };
            if change.differs() {
                changes.push((net, change));
            }
        }
        changes
    }
}

impl Change {
    /// Whether something has to be written.
    fn differs(self) -> bool {
        self.is_there != self.stays || self.is_there && self.from != self.to
    }
}

/// Number of a live peer.
fn number(peers: &HashMap<usize, u32>, peer: usize) -> u32 {
    match peer {
        peer if peer == WORLD[0] => PEER_WORLD_V4,
        peer if peer == WORLD[1] => PEER_WORLD_V6,
        // What an address or prefix is, is live.
        peer => peers.get(&peer).copied().unwrap_or(PEER_WORLD_V4),
    }
}

/// The peer of an address that no prefix contains: index and number.
fn world(address: IpAddr) -> (usize, u32) {
    match address {
        IpAddr::V4(_) => (WORLD[0], PEER_WORLD_V4),
        IpAddr::V6(_) => (WORLD[1], PEER_WORLD_V6),
    }
}

pub(super) fn exhausted(what: &'static str, in_use: usize, capacity: u32) -> CapacityError {
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
        mac: spec.mac.map(abi::mac).unwrap_or_default(),
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
