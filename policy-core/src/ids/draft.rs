//! Ids as one plan would have them: what it gives out, and what it frees, beside what there is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use policy_api::messages::RuleName;
use policy_common::abi::ClassRef;
use serde::{Deserialize, Serialize};

use super::{Ids, Registry};
use crate::{digest::Digest, peers::PeerName};

/// What a plan does to [`Ids`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdChanges {
    pub(super) rules: Delta<RuleName>,
    pub(super) logs: Delta<Vec<RuleName>>,
    pub(super) peers: Delta<Digest>,
    pub(super) peer_names: Vec<(u32, PeerName)>,
    pub(super) tables: Delta<Digest>,
    pub(super) lists: Delta<Digest>,
    /// Content, offset, length.
    pub(super) classes: Vec<(Digest, u32, u32)>,
    pub(super) classes_gone: Vec<Digest>,
}

impl IdChanges {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == IdChanges::default()
    }

    /// Rules whose numbers are free from now on.
    pub fn freed_rules(&self) -> &[u32] {
        &self.rules.gone
    }

    /// Lists of Log rules whose numbers are free from now on.
    pub fn freed_logs(&self) -> &[u32] {
        &self.logs.gone
    }

    /// Peers whose numbers are free from now on.
    pub fn freed_peers(&self) -> &[u32] {
        &self.peers.gone
    }

    /// Peers that have been given a number.
    pub(crate) fn new_peers(&self) -> impl Iterator<Item = u32> {
        self.peers.new.iter().map(|(id, _)| *id)
    }

    /// Tables that have been given a number.
    pub(crate) fn new_tables(&self) -> impl Iterator<Item = u32> {
        self.tables.new.iter().map(|(id, _)| *id)
    }

    /// The changes as they are to be written down before the plan is executed: as they are true at
    /// every moment of it. Room that was `swept` is written anew: until then the maps still lead to
    /// it, and an agent that takes over in between must not believe that the new content is there.
    /// `before`: classes that were left out so, of a plan that has been executed.
    pub(crate) fn record(&self, before: &IdChanges, swept: bool) -> IdChanges {
        let mut record = self.clone();
        if swept {
            let placed = std::mem::take(&mut record.classes).into_iter();
            record.classes_gone.extend(placed.map(|(content, ..)| content));
        }
        let moved: HashSet<Digest> = self.classes.iter().map(|(content, ..)| *content).collect();
        let gone: HashSet<Digest> = self.classes_gone.iter().copied().collect();
        let still = before
            .classes
            .iter()
            .filter(|(content, ..)| !gone.contains(content) && !moved.contains(content));
        record.classes.extend(still);
        record
    }

    /// The classes only.
    pub(crate) fn classes_only(&self) -> IdChanges {
        IdChanges { classes: self.classes.clone(), ..IdChanges::default() }
    }
}

/// Changes of one kind of ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Delta<N> {
    /// Freed.
    pub(super) gone: Vec<u32>,
    /// Given out.
    pub(super) new: Vec<(u32, N)>,
    /// Where the search for a free number goes on, if that has moved.
    pub(super) next: Option<u32>,
}

impl<N> Default for Delta<N> {
    fn default() -> Self {
        Delta { gone: Vec::new(), new: Vec::new(), next: None }
    }
}

/// Ids of one kind, with the changes of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Drafted<'a, K: Clone + Eq + Hash> {
    base: &'a Registry<K>,
    new: HashMap<K, u32>,
    keys: BTreeMap<u32, K>,
    gone: BTreeSet<u32>,
    next: u32,
}

impl<'a, K: Clone + Eq + Hash> Drafted<'a, K> {
    pub(super) fn of(base: &'a Registry<K>) -> Self {
        let next = base.next;
        Drafted { base, new: HashMap::new(), keys: BTreeMap::new(), gone: BTreeSet::new(), next }
    }

    /// The id of `key`, which is not free then.
    fn known(&mut self, key: &K) -> Option<u32> {
        let id = *self.base.ids.get(key).or_else(|| self.new.get(key))?;
        self.gone.remove(&id);
        Some(id)
    }

    /// The id of `key`, a new one if it has none; `taken` says which numbers are not to be had.
    pub(crate) fn assign(&mut self, key: &K, taken: impl Fn(u32) -> bool) -> Option<u32> {
        if let Some(id) = self.known(key) {
            return Some(id);
        }
        let Registry { keys, first, end, .. } = self.base;
        let free = |id: &u32| !keys.contains_key(id) && !self.keys.contains_key(id) && !taken(*id);
        let id = (self.next..*end).chain(*first..self.next).find(free)?;
        self.next = if id + 1 == *end { *first } else { id + 1 };
        self.new.insert(key.clone(), id);
        self.keys.insert(id, key.clone());
        Some(id)
    }

    /// Frees those of these numbers that are given out. They are not to be had in this plan.
    pub(crate) fn free(&mut self, ids: impl IntoIterator<Item = u32>) {
        let base = self.base;
        self.gone.extend(ids.into_iter().filter(|id| base.keys.contains_key(id)));
    }

    /// How many ids are given out.
    pub(crate) fn len(&self) -> usize {
        self.base.len() + self.keys.len()
    }

    pub(super) fn delta<N>(self, name: impl Fn(K) -> N) -> Delta<N> {
        Delta {
            next: (self.next != self.base.next).then_some(self.next),
            gone: self.gone.into_iter().collect(),
            new: self.keys.into_iter().map(|(id, key)| (id, name(key))).collect(),
        }
    }
}

/// All ids, with the changes of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Draft<'a> {
    base: &'a Ids,
    pub(crate) rules: Drafted<'a, Arc<RuleName>>,
    pub(crate) logs: Drafted<'a, Arc<[RuleName]>>,
    peers: Drafted<'a, Digest>,
    pub(crate) tables: Drafted<'a, Digest>,
    pub(crate) lists: Drafted<'a, Digest>,
    peer_names: BTreeMap<u32, PeerName>,
    classes: HashMap<Digest, ClassRef>,
    contents: HashMap<ClassRef, Digest>,
    forgotten: HashSet<Digest>,
}

impl<'a> Draft<'a> {
    /// No changes yet.
    pub(crate) fn new(base: &'a Ids) -> Self {
        Draft {
            base,
            rules: Drafted::of(&base.rules),
            logs: Drafted::of(&base.logs),
            peers: Drafted::of(&base.peers),
            tables: Drafted::of(&base.tables),
            lists: Drafted::of(&base.lists),
            peer_names: BTreeMap::new(),
            classes: HashMap::new(),
            contents: HashMap::new(),
            forgotten: HashSet::new(),
        }
    }

    /// The id of a peer, a new one if it has none.
    pub(crate) fn assign_peer(
        &mut self,
        digest: Digest,
        name: &PeerName,
        taken: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let id = self.peers.assign(&digest, taken)?;
        if self.base.names.peers.get(&id) != Some(name) {
            self.peer_names.insert(id, name.clone());
        }
        Some(id)
    }

    /// The id of a peer, if it has one.
    pub(crate) fn known_peer(&mut self, digest: Digest) -> Option<u32> {
        self.peers.known(&digest)
    }

    /// Frees peers.
    pub(crate) fn free_peers(&mut self, ids: impl IntoIterator<Item = u32>) {
        self.peers.free(ids);
    }

    /// How many peers have a number.
    pub(crate) fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// The name of a peer.
    pub(crate) fn peer(&self, id: u32) -> Option<PeerName> {
        self.peer_names.get(&id).cloned().or_else(|| self.base.peer(id))
    }

    /// Where the content of a class stands.
    pub(crate) fn class(&self, content: Digest) -> Option<ClassRef> {
        let known = || self.base.class(content).filter(|_| !self.forgotten.contains(&content));
        self.classes.get(&content).copied().or_else(known)
    }

    /// A class stands there now.
    pub(crate) fn place(&mut self, content: Digest, class: ClassRef) {
        self.forgotten.remove(&content);
        self.classes.insert(content, class);
        self.contents.insert(class, content);
    }

    /// What stands there is not to be relied on any more.
    pub(crate) fn forget(&mut self, class: ClassRef) {
        if let Some(content) = self.base.content(class)
            && !self.classes.contains_key(&content)
        {
            self.forgotten.insert(content);
        }
        if let Some(content) = self.contents.remove(&class) {
            self.classes.remove(&content);
        }
    }

    /// The changes.
    pub(crate) fn changes(self) -> IdChanges {
        let place = |(content, at): (Digest, ClassRef)| (content, at.offset, at.len);
        let mut classes: Vec<_> = self.classes.into_iter().map(place).collect();
        classes.sort_unstable();
        let mut classes_gone: Vec<Digest> = self.forgotten.into_iter().collect();
        classes_gone.sort_unstable();
        IdChanges {
            rules: self.rules.delta(Arc::unwrap_or_clone),
            logs: self.logs.delta(|list| list.to_vec()),
            peers: self.peers.delta(|digest| digest),
            peer_names: self.peer_names.into_iter().collect(),
            tables: self.tables.delta(|digest| digest),
            lists: self.lists.delta(|digest| digest),
            classes,
            classes_gone,
        }
    }
}
