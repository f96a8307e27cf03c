//! Which endpoints, hosts and network sets a selector picks, for many selectors.
//!
//! In: the [`Model`]. Out: [`Entities`], which answers from an index of labels, and for each
//! selector once.

use std::collections::{BTreeSet, HashMap};

use crate::{
    identity,
    labels::Labels,
    model::{Model, NetworkSet},
    selector::Selector,
};

/// Labels of everything that a selector may pick.
pub(super) struct Entities<'a> {
    endpoints: Index<()>,
    /// The host (`None`) and network sets.
    others: Index<Option<&'a NetworkSet>>,
    /// What was asked before.
    known: HashMap<&'a Selector, Picked<'a>>,
    /// Whether there is an endpoint at all. Where none runs yet, nothing can be said of them.
    pub(super) populated: bool,
}

/// What a selector picks.
#[derive(Clone, Default)]
pub(super) struct Picked<'a> {
    pub(super) endpoint: bool,
    /// A network set that is not empty.
    pub(super) networks: bool,
    /// An endpoint, the host, or a network set that is not empty.
    pub(super) peer: bool,
    /// Network sets without networks.
    pub(super) empty: Vec<&'a NetworkSet>,
}

impl<'a> Picked<'a> {
    /// The empty network sets, if there is nothing else.
    pub(super) fn only_empty(self) -> Vec<&'a NetworkSet> {
        if self.peer { Vec::new() } else { self.empty }
    }
}

impl<'a> Entities<'a> {
    pub(super) fn of(model: &'a Model) -> Entities<'a> {
        let endpoints: BTreeSet<Labels> = model
            .endpoints
            .values()
            .map(|endpoint| identity::endpoint_labels(model, endpoint))
            .collect();
        let host = (!model.host_addresses.is_empty()).then(|| (identity::host_labels(), None));
        let sets = model.network_sets.values();
        let sets = sets.map(|set| (identity::network_set_labels(model, set), Some(&**set)));
        Entities {
            populated: !endpoints.is_empty(),
            endpoints: Index::of(endpoints.into_iter().map(|labels| (labels, ())).collect()),
            others: Index::of(host.into_iter().chain(sets).collect()),
            known: HashMap::new(),
        }
    }

    pub(super) fn picked(&mut self, selector: &'a Selector) -> Picked<'a> {
        if let Some(known) = self.known.get(selector) {
            return known.clone();
        }
        let mut picked = Picked::default();
        for other in self.others.selected(selector) {
            match other {
                None => picked.peer = true,
                Some(set) if set.nets.is_empty() => picked.empty.push(set),
                Some(_) => (picked.networks, picked.peer) = (true, true),
            }
        }
        picked.endpoint = self.endpoints.selected(selector).next().is_some();
        picked.peer |= picked.endpoint;
        self.known.insert(selector, picked.clone());
        picked
    }
}

/// Things with labels, by label.
struct Index<T> {
    all: Vec<(Labels, T)>,
    by_label: HashMap<String, Vec<usize>>,
    by_value: HashMap<String, HashMap<String, Vec<usize>>>,
}

impl<T: Copy> Index<T> {
    fn of(all: Vec<(Labels, T)>) -> Index<T> {
        let mut by_label: HashMap<String, Vec<usize>> = HashMap::new();
        let mut by_value: HashMap<String, HashMap<String, Vec<usize>>> = HashMap::new();
        for (index, (labels, _)) in all.iter().enumerate() {
            for (label, value) in labels.iter() {
                by_label.entry(label.to_owned()).or_default().push(index);
                let values = by_value.entry(label.to_owned()).or_default();
                values.entry(value.to_owned()).or_default().push(index);
            }
        }
        Index { all, by_label, by_value }
    }

    /// What a selector selects.
    fn selected<'s>(&'s self, selector: &'s Selector) -> impl Iterator<Item = T> + 's {
        let lists = self.candidates(selector);
        let listed = lists.is_some();
        let whole = (!listed).then_some(0..self.all.len()).into_iter().flatten();
        let listed = lists.into_iter().flatten().flatten().copied();
        whole
            .chain(listed)
            .filter_map(|index| self.all.get(index))
            .filter(|(labels, _)| selector.matches(labels))
            .map(|(_, thing)| *thing)
    }

    /// The fewest that hold all that the selector selects, if one of its conditions names a label.
    fn candidates(&self, selector: &Selector) -> Option<Vec<&[usize]>> {
        let lists = selector.needs().into_iter().map(|(label, values)| -> Vec<&[usize]> {
            match values {
                None => self.by_label.get(label).map(Vec::as_slice).into_iter().collect(),
                Some(values) => {
                    let known = self.by_value.get(label);
                    let of = |value: &str| known.and_then(|known| known.get(value));
                    values.into_iter().filter_map(of).map(Vec::as_slice).collect()
                }
            }
        });
        lists.min_by_key(|lists| lists.iter().map(|list| list.len()).sum::<usize>())
    }
}
