//! What the compiler remembers from one model to the next.
//!
//! In: one [`Model`] after the other. Out: peers, their division and tables, moved on to the newest
//! model at the cost of what differs from the one before; models that share parts are not even
//! compared there.
//!
//! What is in the maps plays no part here. The model may therefore be one that was only asked about
//! (a dry run, a refusal): the next move starts from that one. What has been *touched* since the
//! maps last held everything adds up until they do so again ([`Workspace::settled`]).

use std::sync::Arc;

use crate::{
    division::Division,
    model::Model,
    peers::Peers,
    policy::Policy,
    tables::Tables,
    untracked::{self, Untracked},
};

/// How much may be kept for nothing, beside as much as is in use: peers, names, conditions.
const SPARE: usize = 8_192;

/// The newest model, divided and decided.
#[derive(Clone, Debug, Default)]
pub(crate) struct Workspace {
    model: Model,
    pub(crate) peers: Peers,
    pub(crate) division: Division,
    pub(crate) tables: Tables,
    /// Block lists, unless the model has changed in what they depend on.
    blocks: Option<Arc<Untracked>>,
    /// Whether the block lists are others than when [`Workspace::settled`] was last called.
    blocks_touched: bool,
}

impl Workspace {
    /// The newest model.
    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// Moves on to a model.
    pub(crate) fn follow(&mut self, model: &Model) {
        let before = std::mem::replace(&mut self.model, model.clone());
        let (mut affected, naming) = self.tables.follow_policies(&before, model, &mut self.peers);
        affected.extend(self.division.follow(&before, model, &naming, &mut self.peers));
        self.tables.follow(model, affected, &self.division, &mut self.peers);
        if blocks_differ(&before, model) {
            self.blocks = None;
            self.blocks_touched = true;
        }
    }

    /// The block lists, and whether they may be others than when [`Workspace::settled`] was last
    /// called.
    pub(crate) fn blocks(&mut self) -> (Arc<Untracked>, bool) {
        let model = &self.model;
        let blocks = self.blocks.get_or_insert_with(|| Arc::new(untracked::compile(model)));
        (Arc::clone(blocks), self.blocks_touched)
    }

    /// The maps hold what this model says.
    pub(crate) fn settled(&mut self) {
        self.division.settled();
        self.tables.settled();
        self.blocks_touched = false;
    }

    /// Whether most of what is kept is of no use to the newest model. Beginning anew costs as much
    /// as it has taken to get here, so this is rare: it takes as many changes as there is in use.
    pub(crate) fn is_spent(&self) -> bool {
        let (names, named) = self.tables.weight();
        let live = self.division.live().count() + 2 * self.division.endpoints().len();
        let policies = self.model.policies.len();
        names > 2 * named + 4 * policies + SPARE
            || self.peers.weight() > 2 * live + 8 * policies + SPARE
    }
}

/// Whether the block lists of two models may differ.
fn blocks_differ(before: &Model, now: &Model) -> bool {
    if before.uplinks.is_empty() && now.uplinks.is_empty() {
        return false;
    }
    let untracked = |model: &Model| -> Vec<Arc<Policy>> {
        model.policies.values().filter(|policy| policy.untracked).cloned().collect()
    };
    before.uplinks != now.uplinks
        || before.noting_uplinks != now.noting_uplinks
        || before.tiers != now.tiers
        || !before.network_sets.same(&now.network_sets)
        || !before.namespaces.same(&now.namespaces)
        || !before.policies.same(&now.policies) && untracked(before) != untracked(now)
}
