//! The numbers that the kernel knows things by, and the names behind them.
//!
//! In: names (of rules) and digests (of peers, tables, block lists). Out: ids, the same ones for
//! as long as the thing exists, over restarts too if the agent keeps [`Ids`] (it is
//! serialisable), or the [`IdChanges`] that each plan makes to it, and writes them down *before* the plan
//! that came with them is executed. A number that was freed is given out again as late as possible,
//! because counters and connections may still bear it.

use std::{collections::HashMap, hash::Hash, ops::Deref, sync::Arc};

use policy_api::messages::RuleName;
use policy_common::{
    abi::{
        ClassRef, LOG_FIRST, PEER_FIRST, PEER_NONE, PEER_WORLD_V4, PEER_WORLD_V6, RULE_FIRST,
        RULE_NONE,
    },
    maps,
};
use serde::{Deserialize, Serialize};

use crate::{digest::Digest, peers::PeerName, shared::SharedMap};

mod draft;
mod stored;
#[cfg(test)]
mod tests;

pub(crate) use draft::Draft;
pub use draft::IdChanges;
use stored::Stored;

/// The names behind the numbers, for whoever only reads. Cloning shares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    rules: SharedMap<u32, Arc<RuleName>>,
    logs: SharedMap<u32, Arc<[RuleName]>>,
    peers: SharedMap<u32, PeerName>,
}

impl Names {
    /// The rule behind a rule id.
    pub fn rule(&self, id: u32) -> Option<&RuleName> {
        self.rules.get(&id).map(AsRef::as_ref)
    }

    /// Every rule id in use, with its rule.
    pub fn rules(&self) -> impl Iterator<Item = (u32, &RuleName)> {
        self.rules.iter().map(|(id, name)| (*id, name.as_ref()))
    }

    /// The Log rules behind a log id.
    pub fn log(&self, id: u32) -> Option<&[RuleName]> {
        self.logs.get(&id).map(AsRef::as_ref)
    }

    /// Every log id in use, with its rules.
    pub fn logs(&self) -> impl Iterator<Item = (u32, &[RuleName])> {
        self.logs.iter().map(|(id, rules)| (*id, rules.as_ref()))
    }

    /// Every peer id in use, those of the world left aside.
    pub fn peers(&self) -> impl Iterator<Item = u32> {
        self.peers.keys().copied()
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
            id => self.peers.get(&id).cloned(),
        }
    }
}

/// Every id that is given out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Ids {
    names: Names,
    pub(crate) rules: Registry<Arc<RuleName>>,
    /// Lists of Log rules, in the order of the walk.
    pub(crate) logs: Registry<Arc<[RuleName]>>,
    pub(crate) peers: Registry<Digest>,
    pub(crate) tables: Registry<Digest>,
    pub(crate) lists: Registry<Digest>,
    /// Where the content of a class stands, and what stands where.
    classes: HashMap<Digest, ClassRef>,
    contents: HashMap<ClassRef, Digest>,
}

impl Default for Ids {
    fn default() -> Self {
        Ids {
            names: Names::default(),
            rules: Registry::new(RULE_FIRST, maps::MAX_RULES),
            logs: Registry::new(LOG_FIRST, maps::MAX_LOGS),
            peers: Registry::new(PEER_FIRST, PEER_NONE),
            tables: Registry::new(1, u32::MAX),
            lists: Registry::new(1, u32::MAX),
            classes: HashMap::new(),
            contents: HashMap::new(),
        }
    }
}

impl Deref for Ids {
    type Target = Names;

    fn deref(&self) -> &Names {
        &self.names
    }
}

impl Ids {
    /// The names, to be shared with others.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Where the content of a class stands.
    pub(crate) fn class(&self, content: Digest) -> Option<ClassRef> {
        self.classes.get(&content).copied()
    }

    /// The content that stands there.
    pub(crate) fn content(&self, class: ClassRef) -> Option<Digest> {
        self.contents.get(&class).copied()
    }

    /// Forgets the classes that `keep` does not want.
    pub(crate) fn retain_classes(&mut self, keep: impl Fn(ClassRef) -> bool) {
        self.classes.retain(|_, class| keep(*class));
        self.contents.retain(|class, _| keep(*class));
    }

    /// Carries out the changes of one plan.
    pub fn apply(&mut self, changes: &IdChanges) {
        self.rules.apply(&changes.rules, |name| Arc::new(name.clone()));
        self.logs.apply(&changes.logs, |list| list.as_slice().into());
        self.peers.apply(&changes.peers, |digest| *digest);
        self.tables.apply(&changes.tables, |digest| *digest);
        self.lists.apply(&changes.lists, |digest| *digest);
        self.names.rules = self.rules.keys.clone();
        self.names.logs = self.logs.keys.clone();
        for id in &changes.peers.gone {
            self.names.peers.remove(id);
        }
        self.names.peers.extend(changes.peer_names.iter().cloned());
        for content in &changes.classes_gone {
            if let Some(class) = self.classes.remove(content) {
                self.contents.remove(&class);
            }
        }
        for &(content, offset, len) in &changes.classes {
            let class = ClassRef { offset, len };
            if let Some(old) = self.classes.insert(content, class) {
                self.contents.remove(&old);
            }
            self.contents.insert(class, content);
        }
    }
}

/// Ids of one kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Registry<K: Clone + Eq + Hash> {
    ids: HashMap<K, u32>,
    keys: SharedMap<u32, K>,
    /// Where the search for a free number goes on.
    next: u32,
    first: u32,
    /// One past the last.
    end: u32,
}

impl<K: Clone + Eq + Hash> Registry<K> {
    fn new(first: u32, end: u32) -> Self {
        Registry { ids: HashMap::new(), keys: SharedMap::default(), next: first, first, end }
    }

    fn restore(first: u32, end: u32, next: u32, keys: impl IntoIterator<Item = (u32, K)>) -> Self {
        let mut registry = Registry::new(first, end);
        registry.next = next.clamp(first, end - 1);
        for (id, key) in keys {
            registry.insert(id, key);
        }
        registry
    }

    fn insert(&mut self, id: u32, key: K) {
        if (self.first..self.end).contains(&id) && !self.ids.contains_key(&key) {
            self.ids.insert(key.clone(), id);
            self.keys.insert(id, key);
        }
    }

    fn apply<N>(&mut self, changes: &draft::Delta<N>, key: impl Fn(&N) -> K) {
        for id in &changes.gone {
            if let Some(key) = self.keys.remove(id) {
                self.ids.remove(&key);
            }
        }
        for (id, name) in &changes.new {
            self.insert(*id, key(name));
        }
        if let Some(next) = changes.next {
            self.next = next.clamp(self.first, self.end - 1);
        }
    }

    /// Every id that is given out.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> {
        self.keys.keys().copied()
    }

    /// The key of an id.
    pub(crate) fn key(&self, id: u32) -> Option<&K> {
        self.keys.get(&id)
    }

    /// The id of a key.
    pub(crate) fn id(&self, key: &K) -> Option<u32> {
        self.ids.get(key).copied()
    }

    /// How many ids are given out.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }
}
