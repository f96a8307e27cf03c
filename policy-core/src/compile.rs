//! The compiler: from a [`Model`] to the map writes that make the datapath hold it.
//!
//! In: a [`Model`], and what the maps hold ([`Image`]) under which numbers ([`Ids`]). Out: a
//! [`Plan`]. No I/O: the agent executes the plan and then [`commits`](Compiler::commit) it.
//!
//! The parts: `workspace` remembers the newest model, divided into peers and decided in tables;
//! `numbering` gives numbers to what differs from the maps; `transition` puts the writes in an order in
//! which no packet meets half a policy. A plan costs what has changed since the last one.

use std::collections::{BTreeSet, HashSet};

use policy_common::{abi, maps};

use crate::{
    digest::Digest,
    extents::Extents,
    held::Held,
    ids::{Draft, IdChanges, Ids},
    model::Model,
    plan::{CapacityError, Image, Op, Plan},
    tables::{ClassId, Word},
    transition::{self, Transition},
    workspace::Workspace,
};

mod numbering;
#[cfg(test)]
mod tests;

use numbering::Numbering;
pub(crate) use numbering::{Change, Content, Desired, DesiredEndpoint};

/// The compiler and what it knows of the maps.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// The maps are as somebody else left them, and no plan has been carried out since.
    is_taken_over: bool,
    image: Image,
    held: Held,
    ids: Ids,
    extents: Extents,
    workspace: Workspace,
    /// How many plans have been made.
    plans: u64,
    settled: Settled,
    idle: Idle,
    /// Classes that the maps hold and no [`IdChanges`] have said yet.
    unwritten: IdChanges,
}

/// What is known to be right in the maps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settled {
    /// Tables and peers: the rows of all pairs of one of these and one of those.
    tables: HashSet<u32>,
    peers: HashSet<u32>,
    /// Everything else, but for what the workspace says has been touched.
    complete: bool,
}

/// Numbers that may be free: neither the maps nor the model that they hold had a use for them.
#[derive(Clone, Debug, Default)]
struct Idle {
    peers: BTreeSet<u32>,
    tables: BTreeSet<u32>,
    lists: BTreeSet<u32>,
    /// Rules and lists of Log rules: connections may bear them for one plan more.
    rules: BTreeSet<u32>,
    logs: BTreeSet<u32>,
}

/// A plan, and what the compiler will know once it has been executed.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What to execute.
    pub plan: Plan,
    /// To be written down now.
    record: IdChanges,
    /// What the compiler goes on with.
    changes: IdChanges,
    swept: bool,
    extents: Extents,
    /// Which plan this is.
    number: u64,
    tables: HashSet<u32>,
    peers: HashSet<u32>,
    classes: Vec<(ClassId, Digest)>,
}

impl Planned {
    /// What the plan does to the numbers. To be written down before the plan is executed: after a
    /// crash in between, the numbers in the maps still have their names.
    pub fn id_changes(&self) -> &IdChanges {
        &self.record
    }
}

/// Entries in use, of the maps of which that is not the length of a part of the [`Image`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Exact addresses by family, IPv4 first.
    pub addresses: [usize; 2],
    /// Prefixes by family.
    pub cidrs: [usize; 2],
    /// Intervals.
    pub intervals: u64,
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
        ids.retain_classes(|class| extents.is_referenced(class));
        let held = Held::of(&image);
        let idle = Idle {
            peers: ids.peers.ids().filter(|id| !held.has_peer(*id)).collect(),
            tables: ids.tables.ids().filter(|id| !held.has_table(*id)).collect(),
            lists: ids.lists.ids().filter(|id| !held.has_list(*id)).collect(),
            ..Idle::default()
        };
        let is_taken_over = image != Image::default();
        Compiler {
            is_taken_over,
            image,
            held,
            ids,
            extents,
            workspace: Workspace::default(),
            plans: 0,
            settled: Settled::default(),
            idle,
            unwritten: IdChanges::default(),
        }
    }

    /// What the maps hold.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Names of the numbers in the maps.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Entries in use.
    pub fn usage(&self) -> Usage {
        Usage {
            addresses: self.held.addresses(),
            cidrs: self.held.cidrs(),
            intervals: self.extents.used(),
        }
    }

    /// The numbers, once a plan's changes to them have been written down.
    pub fn written(&self, planned: &Planned) -> Ids {
        let mut ids = self.ids.clone();
        ids.apply(&planned.record);
        ids
    }

    /// What must be written so that the datapath holds `model`. What the maps hold, and under which
    /// numbers, is as it was until [`Compiler::commit`]; a plan may be dropped.
    ///
    /// # Errors
    ///
    /// [`CapacityError`] if a map is too small, also for what it holds during the change.
    pub fn plan(&mut self, model: &Model) -> Result<Planned, CapacityError> {
        if self.workspace.is_spent() {
            self.workspace = Workspace::default();
            self.settled.complete = false;
        }
        self.plans += 1;
        self.workspace.follow(model);

        let mut draft = Draft::new(&self.ids);
        let held = &self.held;
        let idle = &self.idle;
        draft.free_peers(idle.peers.iter().copied().filter(|id| !held.has_peer(*id)));
        draft.tables.free(idle.tables.iter().copied().filter(|id| !held.has_table(*id)));
        draft.lists.free(idle.lists.iter().copied().filter(|id| !held.has_list(*id)));
        let classes = &self.workspace.tables.classes;
        let unused = |id: &u32| {
            !held.has_rule(*id) && self.ids.rule(*id).is_some_and(|name| !classes.uses_rule(name))
        };
        draft.rules.free(idle.rules.iter().copied().filter(unused));
        let unused = |id: &u32| self.ids.log(*id).is_some_and(|list| !classes.uses_list(list));
        draft.logs.free(idle.logs.iter().copied().filter(unused));

        let mut numbering = Numbering {
            workspace: &mut self.workspace,
            image: &self.image,
            held,
            settled: &self.settled,
            ids: &mut draft,
            words: Default::default(),
        };
        let desired = numbering.run()?;
        let Transition { mut ops, ids, swept, extents } =
            transition::plan(&self.image, held, &desired, &draft, &self.extents)?;
        // Whoever left the maps may have died between what it wrote last and the revision.
        if self.is_taken_over && !ops.iter().any(|op| matches!(op, Op::SetRevision(_))) {
            ops.push(Op::SetRevision(self.image.revision + 1));
        }
        let changes = ids.changes();
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
        Ok(Planned {
            plan,
            record: changes.record(&self.unwritten, swept),
            changes,
            swept,
            extents,
            number: self.plans,
            tables: desired.tables.into_iter().collect(),
            peers: desired.peers,
            classes: desired.classes.into_iter().map(|(id, it)| (id, it.digest)).collect(),
        })
    }

    /// Takes note that a plan of this compiler, made after the last commit, has been executed.
    pub fn commit(&mut self, planned: Planned) {
        self.is_taken_over = false;
        for op in &planned.plan.ops {
            self.held.apply(&self.image, op);
            self.image.apply(op);
        }
        self.ids.apply(&planned.changes);
        self.extents = planned.extents;
        let held = &self.held;
        self.settled.tables = planned.tables;
        self.settled.tables.retain(|table| held.is_live_table(*table));
        self.settled.peers = planned.peers;
        self.settled.peers.retain(|peer| held.is_live_peer(*peer));
        self.rest(&planned.changes);
        self.unwritten =
            if planned.swept { planned.changes.classes_only() } else { IdChanges::default() };
        // What was touched by plans that were made after this one has yet to be looked at.
        if planned.number == self.plans {
            self.rest_words();
            self.workspace.tables.classes.written(planned.classes);
            self.workspace.settled();
            self.settled.complete = true;
        }
    }

    /// Finds the numbers of peers, tables and lists that have come to rest.
    fn rest(&mut self, changes: &IdChanges) {
        let (held, idle) = (&mut self.held, &mut self.idle);
        let released = held.released();
        idle.peers.extend(released.peers.into_iter().chain(changes.new_peers()));
        idle.tables.extend(released.tables.into_iter().chain(changes.new_tables()));
        idle.lists.extend(released.lists);
        idle.rules.extend(released.rules);
        let ids = &self.ids;
        idle.peers.retain(|id| !held.has_peer(*id) && ids.peers.key(*id).is_some());
        idle.tables.retain(|id| !held.has_table(*id) && ids.tables.key(*id).is_some());
        idle.lists.retain(|id| !held.has_list(*id) && ids.lists.key(*id).is_some());
        idle.rules.retain(|id| ids.rule(*id).is_some());
        idle.logs.retain(|id| ids.log(*id).is_some());
    }

    /// Finds the rules and lists of Log rules that the model has no use for any more.
    fn rest_words(&mut self) {
        let classes = &self.workspace.tables.classes;
        if !self.settled.complete {
            let rules = self.ids.rules().filter(|(_, name)| !classes.uses_rule(name));
            self.idle.rules = rules.map(|(id, _)| id).collect();
            let logs = self.ids.logs().filter(|(_, list)| !classes.uses_list(list));
            self.idle.logs = logs.map(|(id, _)| id).collect();
            return;
        }
        for word in classes.touched() {
            let rules = classes.rules(word);
            let (id, idle) = match word {
                Word::Rule(_) => {
                    let id = rules.first().and_then(|name| self.ids.rules.id(name));
                    (id, &mut self.idle.rules)
                }
                Word::Log(_) => {
                    let list = rules.iter().map(|name| name.as_ref().clone()).collect();
                    (self.ids.logs.id(&list), &mut self.idle.logs)
                }
            };
            let Some(id) = id else { continue };
            if classes.uses(word) {
                idle.remove(&id);
            } else {
                idle.insert(id);
            }
        }
    }
}
