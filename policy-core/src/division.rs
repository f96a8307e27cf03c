//! Which address and which prefix is which peer, in the model that is looked at now.
//!
//! In: changes of endpoints, host addresses, network sets, namespaces, and of the networks that
//! rules name. Out: a `Division`: the peer of each exact address and of each prefix, which peers
//! are *live* (an address or prefix of the datapath is that peer), and who each endpoint is itself.
//! It moves from one model to the next, and a move costs what has changed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    identity::{self, FAMILIES},
    model::{EndpointId, EndpointSpec, Model, NetworkSet},
    peers::{Group, GroupId, Identity, NO_GROUPS, Peers},
    prefixes::nest::{Edit, Nest},
};

/// Who has to do with an address; the first one owns it ([`identity::owners`]).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// A container's endpoint. The first by id goes before the others.
    Endpoint(EndpointId),
    /// A HostEndpoint that expects it, by name.
    HostEndpoint(String),
    Host,
    /// A plane of a host endpoint, whose near end it may be. Owns nothing.
    Plane(EndpointId),
}

impl Claim {
    fn of(id: &EndpointId, spec: &EndpointSpec) -> Claim {
        if spec.plane.of_host() { Claim::Plane(id.clone()) } else { Claim::Endpoint(id.clone()) }
    }
}

/// An endpoint of the model.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// As the model has it.
    pub(crate) spec: Arc<EndpointSpec>,
    /// Its identity.
    pub(crate) identity: usize,
    /// The peers that it is itself: one for each own address, at least one a family; sorted.
    pub(crate) own: [Vec<usize>; 2],
}

/// The addresses of a model, divided among its peers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Division {
    nest: Nest,
    sets: BTreeMap<(String, String), (Arc<NetworkSet>, GroupId)>,
    /// How often the rules of the model name the networks of a group.
    named: HashMap<GroupId, usize>,
    claims: BTreeMap<IpAddr, BTreeSet<Claim>>,
    endpoints: BTreeMap<EndpointId, Placed>,
    addresses: BTreeMap<IpAddr, usize>,
    /// How many addresses and prefixes each peer has.
    live: Vec<u32>,
    /// Addresses and prefixes that have had another peer since [`Division::settled`].
    touched: (Vec<IpAddr>, Vec<IpNet>),
}

impl Division {
    /// Exact addresses.
    pub(crate) fn addresses(&self) -> &BTreeMap<IpAddr, usize> {
        &self.addresses
    }

    /// Prefixes; one that would be the same peer as the prefix around it is left out.
    pub(crate) fn prefixes(&self) -> &Nest {
        &self.nest
    }

    /// The endpoints of the model.
    pub(crate) fn endpoints(&self) -> &BTreeMap<EndpointId, Placed> {
        &self.endpoints
    }

    /// Whether an address or prefix is this peer.
    pub(crate) fn is_live(&self, peer: usize) -> bool {
        self.live.get(peer).is_some_and(|count| *count > 0)
    }

    /// Every peer that an address or prefix is, ascending.
    pub(crate) fn live(&self) -> impl Iterator<Item = usize> {
        self.live.iter().enumerate().filter(|(_, count)| **count > 0).map(|(peer, _)| peer)
    }

    /// Addresses and prefixes that may have another peer than they had when [`Division::settled`] was
    /// last called; sorted, distinct.
    pub(crate) fn touched(&mut self) -> (&[IpAddr], &[IpNet]) {
        let (addresses, nets) = &mut self.touched;
        addresses.sort_unstable();
        addresses.dedup();
        nets.sort_unstable();
        nets.dedup();
        (addresses, nets)
    }

    /// The maps hold what this model says.
    pub(crate) fn settled(&mut self) {
        self.touched = (Vec::new(), Vec::new());
    }

    /// Moves from the model `before`, at which it is, to `now`. `naming`: groups whose networks one
    /// more rule names, or one less. Returns the endpoints that are new, gone, or in any way not what
    /// they were.
    pub(crate) fn follow(
        &mut self,
        before: &Model,
        now: &Model,
        naming: &[(GroupId, bool)],
        peers: &mut Peers,
    ) -> BTreeSet<EndpointId> {
        let relabelled = relabelled(before, now);
        let mut edits = Vec::new();
        self.follow_sets(before, now, &relabelled, peers, &mut edits);
        self.follow_names(naming, peers, &mut edits);
        let changes = self.nest.edit(edits, peers);
        for (net, old, new) in changes.entries {
            self.count(old, new);
            self.touched.1.push(net);
        }

        let mut unsettled: BTreeSet<IpAddr> = BTreeSet::new();
        for region in changes.regions {
            let inside = self.claims.range(region.network()..=region.broadcast());
            unsettled.extend(inside.map(|(address, _)| *address));
        }
        let mut affected = BTreeSet::new();
        if !before.endpoints.same(&now.endpoints) || !relabelled.is_empty() {
            self.follow_endpoints(now, &relabelled, peers, &mut unsettled, &mut affected);
        }
        if !before.host_addresses.same(&now.host_addresses) {
            self.follow_host(before, now, &mut unsettled);
        }
        if !before.host_endpoints.same(&now.host_endpoints) {
            self.follow_host_endpoints(before, now, &mut unsettled);
        }
        for address in unsettled {
            self.settle(address, now, peers);
            for claim in self.claims.get(&address).into_iter().flatten() {
                if let Claim::Endpoint(id) | Claim::Plane(id) = claim {
                    affected.insert(id.clone());
                }
            }
        }
        for id in &affected {
            self.recognise(id, peers);
        }
        affected
    }

    /// Network sets that come, go or change.
    fn follow_sets(
        &mut self,
        before: &Model,
        now: &Model,
        relabelled: &BTreeSet<String>,
        peers: &mut Peers,
        edits: &mut Vec<Edit>,
    ) {
        if before.network_sets.same(&now.network_sets) && relabelled.is_empty() {
            return;
        }
        let gone = |key: &(String, String)| !now.network_sets.contains_key(key);
        let gone: Vec<_> = self.sets.keys().filter(|key| gone(key)).cloned().collect();
        for key in gone {
            if let Some((set, group)) = self.sets.remove(&key) {
                edits.extend(set.nets.iter().map(|net| (*net, group, false)));
            }
        }
        for (key, set) in &now.network_sets {
            let old = self.sets.get(key);
            let same = old.is_some_and(|(old, _)| Arc::ptr_eq(old, set));
            if same && !relabelled.contains(&set.namespace) {
                continue;
            }
            let group = peers.group(&Group::set(now, set));
            match old {
                Some((old, known)) if *known == group => {
                    if !same {
                        difference(&old.nets, &set.nets, group, edits);
                    }
                }
                Some((old, known)) => {
                    edits.extend(old.nets.iter().map(|net| (*net, *known, false)));
                    edits.extend(set.nets.iter().map(|net| (*net, group, true)));
                }
                None => edits.extend(set.nets.iter().map(|net| (*net, group, true))),
            }
            self.sets.insert(key.clone(), (Arc::clone(set), group));
        }
    }

    /// Networks that rules name, or no longer.
    fn follow_names(&mut self, naming: &[(GroupId, bool)], peers: &Peers, edits: &mut Vec<Edit>) {
        let mut groups: BTreeMap<GroupId, usize> = BTreeMap::new();
        for &(group, named) in naming {
            let count = self.named.entry(group).or_default();
            groups.entry(group).or_insert(*count);
            *count = if named { *count + 1 } else { count.saturating_sub(1) };
        }
        for (group, old) in groups {
            let new = self.named.get(&group).copied().unwrap_or_default();
            if new == 0 {
                self.named.remove(&group);
            }
            if (old == 0) != (new == 0) {
                let nets = peers.networks(group).unwrap_or_default();
                edits.extend(nets.iter().map(|net| (*net, group, new > 0)));
            }
        }
    }

    fn follow_endpoints(
        &mut self,
        now: &Model,
        relabelled: &BTreeSet<String>,
        peers: &mut Peers,
        unsettled: &mut BTreeSet<IpAddr>,
        affected: &mut BTreeSet<EndpointId>,
    ) {
        let gone = |id: &EndpointId| !now.endpoints.contains_key(id);
        let gone: Vec<EndpointId> = self.endpoints.keys().filter(|id| gone(id)).cloned().collect();
        for id in gone {
            if let Some(placed) = self.endpoints.remove(&id) {
                let claim = Claim::of(&id, &placed.spec);
                self.withdraw(&claim, &placed.spec.addresses, unsettled);
            }
            affected.insert(id);
        }
        for (id, spec) in &now.endpoints {
            let old = self.endpoints.get(id);
            let same = old.is_some_and(|old| Arc::ptr_eq(&old.spec, spec) || old.spec == *spec);
            if same && !relabelled.contains(&spec.namespace) {
                continue;
            }
            if let Some(old) = old.map(|old| Arc::clone(&old.spec)) {
                self.withdraw(&Claim::of(id, &old), &old.addresses, unsettled);
            }
            self.claim(&Claim::of(id, spec), &spec.addresses, unsettled);
            let identity = peers.identity(Identity::endpoint(now, spec));
            let placed = Placed { spec: Arc::clone(spec), identity, own: Default::default() };
            self.endpoints.insert(id.clone(), placed);
            affected.insert(id.clone());
        }
    }

    fn follow_host(&mut self, before: &Model, now: &Model, unsettled: &mut BTreeSet<IpAddr>) {
        let gone: Vec<IpAddr> =
            before.host_addresses.difference(&now.host_addresses).copied().collect();
        self.withdraw(&Claim::Host, &gone, unsettled);
        let new = now.host_addresses.difference(&before.host_addresses);
        self.claim(&Claim::Host, new, unsettled);
    }

    fn follow_host_endpoints(
        &mut self,
        before: &Model,
        now: &Model,
        unsettled: &mut BTreeSet<IpAddr>,
    ) {
        let (old, new) = (&before.host_endpoints, &now.host_endpoints);
        for (name, endpoint) in old.iter().filter(|(name, it)| new.get(*name) != Some(*it)) {
            let claim = Claim::HostEndpoint(name.clone());
            self.withdraw(&claim, &endpoint.expected_ips, unsettled);
        }
        for (name, endpoint) in new.iter().filter(|(name, it)| old.get(*name) != Some(*it)) {
            let claim = Claim::HostEndpoint(name.clone());
            self.claim(&claim, &endpoint.expected_ips, unsettled);
        }
    }

    fn claim<'a>(
        &mut self,
        claim: &Claim,
        addresses: impl IntoIterator<Item = &'a IpAddr>,
        unsettled: &mut BTreeSet<IpAddr>,
    ) {
        for &address in addresses.into_iter().filter(|ip| !identity::is_link_local(**ip)) {
            self.claims.entry(address).or_default().insert(claim.clone());
            unsettled.insert(address);
        }
    }

    fn withdraw(&mut self, claim: &Claim, addresses: &[IpAddr], unsettled: &mut BTreeSet<IpAddr>) {
        for address in addresses {
            if let Some(claims) = self.claims.get_mut(address) {
                claims.remove(claim);
                if claims.is_empty() {
                    self.claims.remove(address);
                }
                unsettled.insert(*address);
            }
        }
    }

    /// Gives an address the peer that it is now.
    fn settle(&mut self, address: IpAddr, now: &Model, peers: &mut Peers) {
        let owner = self.claims.get(&address).and_then(BTreeSet::first);
        let identity = match owner {
            Some(Claim::Endpoint(id)) => self.endpoints.get(id).map(|placed| placed.identity),
            Some(Claim::HostEndpoint(name)) => now
                .host_endpoints
                .get(name)
                .map(|endpoint| peers.identity(Identity::host_endpoint(now, endpoint, address))),
            Some(Claim::Host) => Some(peers.identity(Identity::host())),
            Some(Claim::Plane(_)) | None => None,
        };
        let new = identity.map(|identity| {
            let groups = self.nest.groups(address);
            peers.peer(identity::family(address), Some(identity), groups)
        });
        let old = match new {
            Some(peer) => self.addresses.insert(address, peer),
            None => self.addresses.remove(&address),
        };
        if old != new {
            self.count(old, new);
            self.touched.0.push(address);
        }
    }

    /// Finds out which peers an endpoint is itself.
    fn recognise(&mut self, id: &EndpointId, peers: &mut Peers) {
        let Some(placed) = self.endpoints.get_mut(id) else { return };
        let mut own: [Vec<usize>; 2] = Default::default();
        for &address in &placed.spec.addresses {
            if !identity::is_link_local(address) {
                let family = identity::family(address);
                let groups = self.nest.groups(address);
                own[family as usize].push(peers.peer(family, Some(placed.identity), groups));
            }
        }
        for (family, own) in FAMILIES.into_iter().zip(&mut own) {
            if own.is_empty() {
                own.push(peers.peer(family, Some(placed.identity), NO_GROUPS));
            }
            own.sort_unstable();
            own.dedup();
        }
        placed.own = own;
    }

    fn count(&mut self, old: Option<usize>, new: Option<usize>) {
        if let Some(peer) = new {
            if self.live.len() <= peer {
                self.live.resize(peer + 1, 0);
            }
            self.live[peer] += 1;
        }
        if let Some(count) = old.and_then(|peer| self.live.get_mut(peer)) {
            *count = count.saturating_sub(1);
        }
    }
}

/// Namespaces whose labels differ.
fn relabelled(before: &Model, now: &Model) -> BTreeSet<String> {
    if before.namespaces.same(&now.namespaces) {
        return BTreeSet::new();
    }
    let names = before.namespaces.keys().chain(now.namespaces.keys());
    names
        .filter(|name| before.namespaces.get(*name) != now.namespaces.get(*name))
        .cloned()
        .collect()
}

/// What leaves and joins a group whose networks (sorted) were others.
fn difference(old: &[IpNet], new: &[IpNet], group: GroupId, edits: &mut Vec<Edit>) {
    let (mut olds, mut news) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (olds.peek(), news.peek()) {
            (Some(a), Some(b)) if a == b => {
                olds.next();
                news.next();
            }
            (Some(a), Some(b)) if a > b => edits.extend(news.next().map(|net| (*net, group, true))),
            (Some(_), _) => edits.extend(olds.next().map(|net| (*net, group, false))),
            (None, Some(_)) => edits.extend(news.next().map(|net| (*net, group, true))),
            (None, None) => return,
        }
    }
}
