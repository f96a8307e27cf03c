//! The numbers that the kernel knows things by, and the names behind them.
//!
//! In: names (of rules) and digests (of peers, tables, block lists). Out: ids, the same ones for
//! as long as the thing exists, over restarts too if the agent keeps [`Ids`] (it is
//! serialisable) and writes it down *before* the plan that came with it is executed. A number
//! that was freed is given out again as late as possible, because counters and connections may
//! still bear it.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
};

use policy_api::messages::RuleName;
use policy_common::{
    abi::{
        ClassRef, LOG_FIRST, PEER_FIRST, PEER_NONE, PEER_WORLD_V4, PEER_WORLD_V6, RULE_FIRST,
        RULE_NONE,
    },
    maps,
};
use serde::{Deserialize, Serialize};

use crate::{digest::Digest, peers::PeerName};

/// Every id that is given out. Cloning shares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Ids {
    pub(crate) rules: Arc<Registry<RuleName>>,
    /// Lists of Log rules, in the order of the walk.
    pub(crate) logs: Arc<Registry<Vec<RuleName>>>,
    pub(crate) peers: Arc<Registry<Digest>>,
    pub(crate) tables: Arc<Registry<Digest>>,
    pub(crate) lists: Arc<Registry<Digest>>,
    peer_names: Arc<BTreeMap<u32, PeerName>>,
    /// Where the content of a class stands.
    pub(crate) classes: Arc<HashMap<Digest, ClassRef>>,
}

impl Default for Ids {
    fn default() -> Self {
        Ids {
            rules: Arc::new(Registry::new(RULE_FIRST, maps::MAX_RULES)),
            logs: Arc::new(Registry::new(LOG_FIRST, maps::MAX_LOGS)),
            peers: Arc::new(Registry::new(PEER_FIRST, PEER_NONE)),
            tables: Arc::new(Registry::new(1, u32::MAX)),
            lists: Arc::new(Registry::new(1, u32::MAX)),
            peer_names: Arc::default(),
            classes: Arc::default(),
        }
    }
}

impl Ids {
    /// The rule behind a rule id.
    pub fn rule(&self, id: u32) -> Option<&RuleName> {
        self.rules.key(id)
    }

    /// Every rule id in use, with its rule.
    pub fn rules(&self) -> impl Iterator<Item = (u32, &RuleName)> {
        self.rules.keys.iter().map(|(id, name)| (*id, name))
    }

    /// The Log rules behind a log id.
    pub fn log(&self, id: u32) -> Option<&[RuleName]> {
        self.logs.key(id).map(Vec::as_slice)
    }

    /// Every log id in use, with its rules.
    pub fn logs(&self) -> impl Iterator<Item = (u32, &[RuleName])> {
        self.logs.keys.iter().map(|(id, rules)| (*id, rules.as_slice()))
    }

    /// Every peer id in use, those of the world left aside.
    pub fn peers(&self) -> impl Iterator<Item = u32> {
        self.peer_names.keys().copied()
    }

    /// Whether the numbers in a drop counter have names, or are those that say that there is none.
    pub fn knows(&self, rule: u32, peer: u32) -> bool {
        (rule == RULE_NONE || self.rule(rule).is_some())
            && (peer == PEER_NONE || self.peer(peer).is_some())
    }

    /// The peer behind a peer id.
    pub fn peer(&self, id: u32) -> Option<PeerName> {
        match id {
            PEER_WORLD_V4 | PEER_WORLD_V6 => Some(PeerName::world()),
            id => self.peer_names.get(&id).cloned(),
        }
    }

    /// The id of a peer, a new one if it has none; `taken` says which numbers are not to be had.
    pub(crate) fn assign_peer(
        &mut self,
        digest: Digest,
        name: &PeerName,
        taken: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let id = assign(&mut self.peers, digest, taken)?;
        if self.peer_names.get(&id) != Some(name) {
            Arc::make_mut(&mut self.peer_names).insert(id, name.clone());
        }
        Some(id)
    }

    /// Frees the peers that `keep` does not want.
    pub(crate) fn retain_peers(&mut self, keep: impl Fn(u32) -> bool) {
        retain(&mut self.peers, &keep);
        if self.peer_names.keys().any(|id| !keep(*id)) {
            Arc::make_mut(&mut self.peer_names).retain(|id, _| keep(*id));
        }
    }
}

/// The id of `key`, a new one if it has none.
pub(crate) fn assign<K: Clone + Eq + Hash>(
    registry: &mut Arc<Registry<K>>,
    key: K,
    taken: impl Fn(u32) -> bool,
) -> Option<u32> {
    match registry.ids.get(&key) {
        Some(&id) => Some(id),
        None => Arc::make_mut(registry).add(key, taken),
    }
}

/// Frees the ids that `keep` does not want.
pub(crate) fn retain<K: Clone + Eq + Hash>(
    registry: &mut Arc<Registry<K>>,
    keep: impl Fn(u32) -> bool,
) {
    if registry.keys.keys().any(|id| !keep(*id)) {
        let registry = Arc::make_mut(registry);
        registry.keys.retain(|id, _| keep(*id));
        registry.ids.retain(|_, id| keep(*id));
    }
}

/// Ids of one kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Registry<K: Eq + Hash> {
    ids: HashMap<K, u32>,
    keys: BTreeMap<u32, K>,
    /// Where the search for a free number goes on.
    next: u32,
    first: u32,
    /// One past the last.
    end: u32,
}

impl<K: Clone + Eq + Hash> Registry<K> {
    fn new(first: u32, end: u32) -> Self {
        Registry { ids: HashMap::new(), keys: BTreeMap::new(), next: first, first, end }
    }

    fn restore(first: u32, end: u32, next: u32, keys: BTreeMap<u32, K>) -> Self {
        let mut registry = Registry::new(first, end);
        registry.next = next.clamp(first, end - 1);
        for (id, key) in keys {
            if (first..end).contains(&id) && !registry.ids.contains_key(&key) {
                registry.ids.insert(key.clone(), id);
                registry.keys.insert(id, key);
            }
        }
        registry
    }

    /// The key of an id.
    pub(crate) fn key(&self, id: u32) -> Option<&K> {
        self.keys.get(&id)
    }

    /// How many ids are given out.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    fn add(&mut self, key: K, taken: impl Fn(u32) -> bool) -> Option<u32> {
        let free = |id: &u32| !self.keys.contains_key(id) && !taken(*id);
        let id = (self.next..self.end).chain(self.first..self.next).find(free)?;
        self.next = if id + 1 == self.end { self.first } else { id + 1 };
        self.ids.insert(key.clone(), id);
        self.keys.insert(id, key);
        Some(id)
    }
}

/// [`Ids`] as they are written down. What an earlier version did not write is empty.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Stored {
    next_rule: u32,
    rules: Vec<(u32, RuleName)>,
    next_log: u32,
    logs: Vec<(u32, Vec<RuleName>)>,
    next_peer: u32,
    peers: Vec<(u32, Digest, PeerName)>,
    next_table: u32,
    tables: Vec<(u32, Digest)>,
    next_list: u32,
    lists: Vec<(u32, Digest)>,
    /// Content, offset, length.
    classes: Vec<(Digest, u32, u32)>,
}

impl From<Ids> for Stored {
    fn from(ids: Ids) -> Stored {
        fn pairs<K: Clone + Eq + Hash>(registry: &Registry<K>) -> Vec<(u32, K)> {
            registry.keys.iter().map(|(id, key)| (*id, key.clone())).collect()
        }
        let mut classes: Vec<_> =
            ids.classes.iter().map(|(digest, at)| (*digest, at.offset, at.len)).collect();
        classes.sort_unstable();
        let name = |id: u32| ids.peer(id).unwrap_or_else(PeerName::world);
        Stored {
            next_rule: ids.rules.next,
            rules: pairs(&ids.rules),
            next_log: ids.logs.next,
            logs: pairs(&ids.logs),
            next_peer: ids.peers.next,
            peers: pairs(&ids.peers).into_iter().map(|(id, key)| (id, key, name(id))).collect(),
            next_table: ids.tables.next,
            tables: pairs(&ids.tables),
            next_list: ids.lists.next,
            lists: pairs(&ids.lists),
            classes,
        }
    }
}

impl From<Stored> for Ids {
    fn from(stored: Stored) -> Ids {
        fn all<K: Clone + Eq + Hash>(
            like: &Registry<K>,
            next: u32,
            keys: impl IntoIterator<Item = (u32, K)>,
        ) -> Arc<Registry<K>> {
            let keys = keys.into_iter().collect();
            Arc::new(Registry::restore(like.first, like.end, next, keys))
        }
        let empty = Ids::default();
        let names = stored.peers.iter().map(|(id, _, name)| (*id, name.clone())).collect();
        let peers = stored.peers.into_iter().map(|(id, key, _)| (id, key));
        let classes = stored.classes.into_iter();
        Ids {
            rules: all(&empty.rules, stored.next_rule, stored.rules),
            logs: all(&empty.logs, stored.next_log, stored.logs),
            peers: all(&empty.peers, stored.next_peer, peers),
            tables: all(&empty.tables, stored.next_table, stored.tables),
            lists: all(&empty.lists, stored.next_list, stored.lists),
            peer_names: Arc::new(names),
            classes: Arc::new(
                classes.map(|(digest, offset, len)| (digest, ClassRef { offset, len })).collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_number_is_reused_last() {
        let mut registry = Arc::new(Registry::new(1, 5));
        let add = |registry: &mut _, key| assign(registry, key, |_| false);
        assert_eq!(add(&mut registry, "a"), Some(1));
        assert_eq!(add(&mut registry, "b"), Some(2));
        retain(&mut registry, |id| id != 1);
        assert_eq!(add(&mut registry, "c"), Some(3));
        assert_eq!(add(&mut registry, "b"), Some(2));
        assert_eq!(add(&mut registry, "d"), Some(4));
        assert_eq!(add(&mut registry, "e"), Some(1));
        assert_eq!(add(&mut registry, "f"), None);
    }

    #[test]
    fn ids_survive_being_written_down() {
        let mut ids = Ids::default();
        let name = RuleName { rule: "ingress[0]".to_owned(), ..RuleName::default() };
        let rule = assign(&mut ids.rules, name.clone(), |_| false).unwrap();
        let web = PeerName { namespace: "shop".to_owned(), name: "web".to_owned() };
        let peer = ids.assign_peer(Digest::of("peer", "web"), &web, |id| id < 7).unwrap();
        Arc::make_mut(&mut ids.classes)
            .insert(Digest::of("class", "x"), ClassRef { offset: 3, len: 4 });
        let text = serde_json::to_string(&ids).unwrap();
        let read: Ids = serde_json::from_str(&text).unwrap();
        assert_eq!(read, ids);
        assert_eq!(read.rule(rule), Some(&name));
        assert_eq!((peer, read.peer(peer)), (7, Some(web)));
        assert_eq!(read.peer(PEER_WORLD_V6), Some(PeerName::world()));
        assert_eq!(read.peer(99), None);
    }
}
