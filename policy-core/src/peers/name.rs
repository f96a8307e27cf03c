//! What a peer is called in metrics and flow records.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Group, Peers};

/// Name of a peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerName {
    /// Namespace; empty if there is none.
    pub namespace: String,
    /// A workload's or network set's name, the networks of a rule, `host` or `world`.
    pub name: String,
}

impl PeerName {
    /// The peer of addresses that no policy and no endpoint knows.
    pub fn world() -> PeerName {
        PeerName { namespace: String::new(), name: "world".to_owned() }
    }
}

impl Peers {
    /// The name of a peer: of its identity; else of its first network set by namespace and name;
    /// else of the rule networks with the fewest prefixes, whichever rule came first.
    pub(crate) fn name(&self, peer: usize) -> PeerName {
        let peer = &self.peers[peer];
        if let Some(identity) = peer.identity {
            let identity = &self.identities[identity];
            let name = if identity.name.is_empty() { "host" } else { &identity.name };
            return PeerName { namespace: identity.namespace.clone(), name: name.to_owned() };
        }
        let list = &self.sets.lists[peer.groups.0 as usize];
        let groups = || list.iter().map(|&group| &self.groups[group as usize]);
        let set = groups()
            .filter_map(|group| match group {
                Group::Set { namespace, name, .. } => Some((namespace, name)),
                Group::Nets(_) => None,
            })
            .min();
        if let Some((namespace, name)) = set {
            return PeerName { namespace: namespace.clone(), name: name.clone() };
        }
        let nets = groups()
            .filter_map(|group| match group {
                Group::Nets(nets) => Some(nets),
                Group::Set { .. } => None,
            })
            .min_by_key(|nets| {
                let longest = nets.first().map_or(0, |net| net.prefix_len());
                (nets.len(), u8::MAX - longest, Arc::clone(nets))
            });
        match nets.map(AsRef::as_ref) {
            Some([net]) => PeerName { namespace: String::new(), name: net.to_string() },
            Some([net, others @ ..]) => PeerName {
                namespace: String::new(),
                name: format!("{net} and {} more", others.len()),
            },
            Some([]) | None => PeerName::world(),
        }
    }
}
