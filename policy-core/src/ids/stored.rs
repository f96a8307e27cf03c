//! [`Ids`] as they are written down.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use policy_api::messages::RuleName;
use policy_common::abi::ClassRef;
use serde::{Deserialize, Serialize};

use super::{Ids, Names, Registry};
use crate::{digest::Digest, peers::PeerName};

/// What an earlier version did not write is empty.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Stored {
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
        fn pairs<K: Clone + Eq + Hash, N>(
            registry: &Registry<K>,
            name: impl Fn(&K) -> N,
        ) -> Vec<(u32, N)> {
            registry.keys.iter().map(|(id, key)| (*id, name(key))).collect()
        }
        let mut classes: Vec<_> =
            ids.classes.iter().map(|(digest, at)| (*digest, at.offset, at.len)).collect();
        classes.sort_unstable();
        let name = |id: u32| ids.peer(id).unwrap_or_else(PeerName::world);
        Stored {
            next_rule: ids.rules.next,
            rules: pairs(&ids.rules, |name| name.as_ref().clone()),
            next_log: ids.logs.next,
            logs: pairs(&ids.logs, |list| list.to_vec()),
            next_peer: ids.peers.next,
            peers: ids.peers.keys.iter().map(|(id, key)| (*id, *key, name(*id))).collect(),
            next_table: ids.tables.next,
            tables: pairs(&ids.tables, |digest| *digest),
            next_list: ids.lists.next,
            lists: pairs(&ids.lists, |digest| *digest),
            classes,
        }
    }
}

impl From<Stored> for Ids {
    fn from(stored: Stored) -> Ids {
        fn all<K: Clone + Eq + Hash, N>(
            like: &Registry<K>,
            next: u32,
            keys: Vec<(u32, N)>,
            key: impl Fn(N) -> K,
        ) -> Registry<K> {
            let keys = keys.into_iter().map(|(id, name)| (id, key(name)));
            Registry::restore(like.first, like.end, next, keys)
        }
        let empty = Ids::default();
        let peer_names: Vec<_> =
            stored.peers.iter().map(|(id, _, name)| (*id, name.clone())).collect();
        let peers = stored.peers.into_iter().map(|(id, key, _)| (id, key)).collect();
        let classes: HashMap<Digest, ClassRef> = stored
            .classes
            .into_iter()
            .map(|(digest, offset, len)| (digest, ClassRef { offset, len }))
            .collect();
        let rules = all(&empty.rules, stored.next_rule, stored.rules, Arc::new);
        let logs = all(&empty.logs, stored.next_log, stored.logs, Arc::from);
        Ids {
            names: Names {
                rules: rules.keys.clone(),
                logs: logs.keys.clone(),
                peers: peer_names.into_iter().collect(),
            },
            rules,
            logs,
            peers: all(&empty.peers, stored.next_peer, peers, |digest| digest),
            tables: all(&empty.tables, stored.next_table, stored.tables, |digest| digest),
            lists: all(&empty.lists, stored.next_list, stored.lists, |digest| digest),
            contents: classes.iter().map(|(content, class)| (*class, *content)).collect(),
            classes,
        }
    }
}
