//! The order of the writes: from what the maps hold to what they shall hold, so that every packet
//! at every moment meets the old policy or the new one, whole.
//!
//! In: the [`Image`], what is desired, numbers and free intervals. Out: operations.
//!
//! A packet's verdict depends on three things that are written one at a time: its endpoint's
//! table, its peer, and the row for both. Call *O* and *N* the old and new table of an endpoint,
//! *p* and *q* the old and new peer of an address. Only the pairs (O, p) and (N, q) mean
//! something: (O, q) would be old rules on new labels. The argument, step by step:
//!
//! 1. *Take away.* Endpoints that are gone become pending; an endpoint forgets addresses that are
//!    no longer its own, before they become somebody else's; so does the bridge guard. From here
//!    on such packets are dropped, which is what the new model says.
//! 2. *Beside the old.* Intervals and rows of new tables are written; nothing leads to them.
//! 3. *New peers speak for old tables.* Before an address moves from p to q, the row (O, q) is made
//!    a copy of (O, p), for each O that an endpoint is about to leave. If q is in use with
//!    another meaning under O (or two addresses with different pasts both become q) the address
//!    gets a *transitional* peer of its own, with (O, p)'s row under O and (N, q)'s under every
//!    table that stays. If some endpoints leave a table that others keep, the leavers are first
//!    switched to a copy of it, so that "about to leave" and "stays" are never the same table.
//! 4. *Addresses and prefixes move*, exact addresses first, then prefixes, longest first: the
//!    addresses that a prefix itself decides, and no others, change peer with its write.
//!    Endpoints that change tables see no difference (step 3); for one that keeps its table, the
//!    move is the moment of the change. An address or prefix that shall disappear is first set to
//!    the peer that it will then fall to. A new endpoint's address is known before it may speak.
//!    If prefixes have moved, the revision is raised here too: each CPU remembers its newest matches of
//!    prefixes under the revision (`policy-ebpf/src/networks.rs`), and what it remembers may be the
//!    old peer's until then. That makes no difference yet, or, where the move is the moment of the
//!    change, a CPU makes it a little later.
//! 5. *Endpoints switch*, each in one write: (O, q as a copy of p) becomes (N, q).
//! 6. Addresses leave transitional peers, without effect; new guard entries; then the revision,
//!    so that every connection is decided anew.
//! 7. Entries that now say what their surroundings say are removed.
//!
//! Rows that nothing leads to any more stay, since a program may be between two of its look-ups;
//! they are swept by a later plan, behind a grace period, when they have become many or when their
//! room is needed. The same holds for intervals and for block lists that no uplink uses. Block lists only
//! deny: prefixes are added before others are removed. (An uplink that leaves a list which others
//! keep may for a moment meet that list's new prefixes too.)

use std::collections::{BTreeMap, HashMap, HashSet};

use policy_common::{
    abi::{ClassKey, ClassRef, Endpoint, PEER_WORLD_V4, PEER_WORLD_V6},
    maps,
};

use crate::{
    compile::{Content, Desired},
    digest::Digest,
    extents::Extents,
    held::Held,
    ids::Draft,
    peers::PeerName,
    plan::{CapacityError, Image, Op},
    tables::ClassId,
};

mod capacity;
mod moves;
mod write;

use moves::{Move, Moves, Target};

/// Rows that nothing leads to, before they are swept without need; or as many as there are others.
const GARBAGE: usize = 4096;

/// Operations, and numbers and free intervals after them.
pub(crate) struct Transition<'a> {
    pub(crate) ops: Vec<Op>,
    pub(crate) ids: Draft<'a>,
    /// Whether room has been swept that was in use when the plan was made.
    pub(crate) swept: bool,
    pub(crate) extents: Extents,
}

/// Plans the way from `image` to `desired`.
pub(crate) fn plan<'a>(
    image: &'a Image,
    held: &'a Held,
    desired: &'a Desired,
    ids: &Draft<'a>,
    extents: &Extents,
) -> Result<Transition<'a>, CapacityError> {
    capacity::check(image, held, desired)?;
    let attempt = |sweep: bool| {
        let planner = Planner {
            image,
            held,
            desired,
            ids: ids.clone(),
            extents: extents.clone(),
            ops: Vec::new(),
            rows: HashMap::new(),
            row_count: held.rows(),
            row_peak: held.rows(),
            endpoints: HashMap::new(),
            places: HashMap::new(),
        };
        planner.run(sweep)
    };
    let garbage = held.garbage();
    let many = garbage > GARBAGE.max(held.rows() - garbage);
    if many { attempt(true) } else { attempt(false).or_else(|_| attempt(true)) }
}

/// The revision after `ops`.
pub(crate) fn revision(image: &Image, ops: &[Op]) -> u64 {
    let set = |op: &Op| match op {
        Op::SetRevision(revision) => Some(*revision),
        _ => None,
    };
    ops.iter().rev().find_map(set).unwrap_or(image.revision)
}

struct Planner<'a> {
    image: &'a Image,
    held: &'a Held,
    desired: &'a Desired,
    ids: Draft<'a>,
    extents: Extents,
    ops: Vec<Op>,
    /// Rows that differ from the image's by now.
    rows: HashMap<ClassKey, Option<ClassRef>>,
    row_count: usize,
    row_peak: usize,
    /// Endpoints that differ from the image's by now.
    endpoints: HashMap<u32, Option<Endpoint>>,
    /// Where each desired class stands.
    places: HashMap<ClassId, ClassRef>,
}

/// A table that endpoints are about to leave: whose rows say what it means, and where rows for new
/// peers go (another one if it is a copy).
#[derive(Clone, Copy)]
struct Leaving {
    meaning: u32,
    table: u32,
}

impl<'a> Planner<'a> {
    fn run(mut self, sweep: bool) -> Result<Transition<'a>, CapacityError> {
        self.hold_classes();
        if sweep {
            self.sweep();
            self.forget_classes();
        }
        self.take_away();
        self.place_classes()?;
        self.write_rows();
        let moves = Moves::new(self.desired);
        let leaving = self.part_ways(&moves)?;
        let detours = self.move_peers(&moves, &leaving)?;
        let moved = self.ops.len();
        self.switch_endpoints();
        for (target, peer) in detours {
            self.set_target(target, peer);
        }
        for key in self.desired.guard.difference(&self.image.guard) {
            self.ops.push(Op::SetGuard(*key));
        }
        self.host_ports();
        self.blocks();
        self.raise_revision(moved, !moves.removed.is_empty());
        for &target in &moves.removed {
            self.ops.push(match target {
                Target::Address(address) => Op::RemoveAddress(address),
                Target::Net(net) => Op::RemoveCidr(net),
            });
        }
        capacity::bound("CLASSES", self.row_peak, maps::MAX_CLASSES)?;

        self.forget_classes();
        Ok(Transition { ops: self.ops, ids: self.ids, swept: sweep, extents: self.extents })
    }

    /// Raises the revision if verdicts change: at the end, and before endpoints switch if prefixes have
    /// moved by then (`moved` operations).
    fn raise_revision(&mut self, moved: usize, more: bool) {
        let (before, after) = self.ops.split_at(moved);
        let more = more || after.iter().any(changes_verdicts);
        let prefixes = before.iter().any(|op| matches!(op, Op::SetCidr(..)));
        if !more && !before.iter().any(changes_verdicts) {
            return;
        }
        let mut revision = self.image.revision + 1;
        if prefixes && more {
            self.ops.insert(moved, Op::SetRevision(revision));
            revision += 1;
        }
        self.ops.push(Op::SetRevision(revision));
    }

    /// Forgets what stood where nothing leads to any more.
    fn forget_classes(&mut self) {
        for class in self.extents.freed() {
            self.ids.forget(class);
        }
    }

    /// Removes what nothing leads to, and makes its room available.
    fn sweep(&mut self) {
        self.ops.push(Op::Quiesce);
        let held = self.held;
        let is_dead =
            |key: &&ClassKey| !held.is_live_table(key.table) || !held.is_live_peer(key.peer);
        for key in self.image.classes.keys().filter(is_dead) {
            self.set_row(*key, None);
        }
        self.extents.quiesce();
        let lists: HashSet<u32> = self.image.uplinks.values().map(|it| it.list).collect();
        let dead = self.image.blocks.keys().filter(|(list, _)| !lists.contains(list));
        // A list that comes back is left alone: `blocks` corrects it.
        let wanted = self.desired.blocks.as_ref();
        let wanted = wanted.map_or(&self.image.uplinks, |blocks| &blocks.uplinks);
        let back: HashSet<u32> = wanted.values().map(|it| it.list).collect();
        let dead = dead.filter(|(list, _)| !back.contains(list));
        self.ops.extend(dead.map(|&(list, net)| Op::RemoveBlock { list, net }));
    }

    fn take_away(&mut self) {
        for (&ifindex, old) in &self.image.endpoints {
            match self.desired.endpoints.get(&ifindex) {
                None => self.set_endpoint(ifindex, None),
                Some(new) => {
                    let (v4, v6) = new.addresses();
                    let mut kept = *old;
                    forget(&mut kept.v4, &v4);
                    forget(&mut kept.v6, &v6);
                    self.set_endpoint(ifindex, Some(kept));
                }
            }
        }
        for key in self.image.guard.difference(&self.desired.guard) {
            self.ops.push(Op::RemoveGuard(*key));
        }
    }

    /// Holds the classes that stand in the maps until the plan is complete: one whose last old
    /// reference goes before its first new one comes is not to be taken for free.
    fn hold_classes(&mut self) {
        for (&id, Content { digest, .. }) in &self.desired.classes {
            let known = self.ids.class(*digest);
            if let Some(place) = known.filter(|place| self.extents.is_referenced(*place)) {
                self.extents.acquire(place);
                self.places.insert(id, place);
            }
        }
    }

    /// Makes room for the other classes, and writes them.
    fn place_classes(&mut self) -> Result<(), CapacityError> {
        let desired = self.desired;
        for (&id, Content { digest, intervals }) in &desired.classes {
            if self.places.contains_key(&id) {
                continue;
            }
            let len = u32::try_from(intervals.len()).unwrap_or(u32::MAX);
            let Some(place) = self.extents.allocate(len) else {
                let missing: usize =
                    desired.classes.values().map(|class| class.intervals.len()).sum();
                return Err(CapacityError::TooMany {
                    what: "INTERVALS",
                    needed: self.extents.used() + missing as u64,
                    capacity: u64::from(maps::MAX_INTERVALS),
                });
            };
            let intervals = intervals.clone();
            self.ops.push(Op::WriteIntervals { offset: place.offset, intervals });
            self.ids.place(*digest, place);
            self.extents.acquire(place);
            self.places.insert(id, place);
        }
        Ok(())
    }

    /// Makes the rows of every desired table what they shall be. Only those of new tables, and those
    /// for new peers, can be anything else.
    fn write_rows(&mut self) {
        let (desired, image) = (self.desired, self.image);
        let mut stale: Vec<ClassKey> = Vec::new();
        for &table in &desired.new_tables {
            let rows = image.rows(table).map(|(peer, _)| ClassKey { table, peer });
            stale.extend(rows.filter(|key| desired.peers.contains(&key.peer)));
        }
        for &peer in desired.new_peers.iter().filter(|peer| self.held.has_rows_of_peer(**peer)) {
            let rows = desired.tables.iter().map(|&table| ClassKey { table, peer });
            stale.extend(rows.filter(|key| image.classes.contains_key(key)));
        }
        stale.retain(|key| !desired.rows.contains_key(key));
        stale.sort_unstable();
        stale.dedup();
        for key in stale {
            self.set_row(key, None);
        }
        for (&key, class) in &desired.rows {
            let place = self.places.get(class).copied();
            self.set_row(key, place);
        }
    }

    /// The tables that endpoints are about to leave. Those who leave a table that others keep get
    /// a copy of it, if the moves make a difference under it.
    fn part_ways(&mut self, moves: &Moves) -> Result<Vec<Leaving>, CapacityError> {
        let mut leaving: BTreeMap<u32, Leaving> = BTreeMap::new();
        for (&ifindex, endpoint) in &self.desired.endpoints {
            let Some(old) = self.image.endpoints.get(&ifindex) else { continue };
            for (direction, table) in endpoint.tables().into_iter().enumerate() {
                let meaning = old.tables[direction];
                if meaning == table {
                    continue;
                }
                if !self.desired.tables.contains(&meaning) {
                    leaving.insert(meaning, Leaving { meaning, table: meaning });
                    continue;
                }
                let differs = |step: &Move| {
                    self.old_row(meaning, step.from) != self.new_row(meaning, step.to)
                };
                if !moves.steps.iter().any(differs) {
                    continue;
                }
                let copy = match leaving.get(&meaning) {
                    Some(copy) => *copy,
                    None => self.copy(meaning)?,
                };
                leaving.insert(meaning, copy);
                if let Some(mut now) = self.endpoint(ifindex) {
                    now.tables[direction] = copy.table;
                    self.set_endpoint(ifindex, Some(now));
                }
            }
        }
        Ok(leaving.into_values().collect())
    }

    fn copy(&mut self, meaning: u32) -> Result<Leaving, CapacityError> {
        let digest = Digest::of("copy of a table", &(meaning, self.image.revision));
        let held = self.held;
        let table = self.ids.tables.assign(&digest, |id| held.has_table(id));
        let table = table.ok_or_else(|| capacity::ids("tables", self.ids.tables.len()))?;
        for (peer, class) in self.image.rows(meaning) {
            self.set_row(ClassKey { table, peer }, Some(class));
        }
        Ok(Leaving { meaning, table })
    }

    /// Moves addresses and prefixes; returns those that are at a transitional peer now and stay,
    /// with the peer that they shall have.
    fn move_peers(
        &mut self,
        moves: &Moves,
        leaving: &[Leaving],
    ) -> Result<Vec<(Target, u32)>, CapacityError> {
        let mut detours = Vec::new();
        // By (from, to): where to go, at first.
        let mut known: HashMap<(u32, u32), u32> = HashMap::new();
        // What each unused peer has been made to mean under the tables that are left.
        let mut past: HashMap<u32, Vec<Option<ClassRef>>> = HashMap::new();
        for step in &moves.steps {
            let (from, to) = (step.from, step.to);
            let via = match known.get(&(from, to)) {
                Some(&via) => via,
                None if from == to => to,
                None => {
                    let old: Vec<_> =
                        leaving.iter().map(|table| self.old_row(table.meaning, from)).collect();
                    let means = if self.held.is_live_peer(to) || is_world(to) {
                        leaving.iter().map(|table| self.old_row(table.meaning, to)).collect()
                    } else {
                        past.entry(to).or_insert_with(|| old.clone()).clone()
                    };
                    let via = if means == old { to } else { self.transitional(from, to)? };
                    let unused = !self.held.is_live_peer(via) && !is_world(via);
                    for (table, row) in leaving.iter().zip(&old).filter(|_| unused) {
                        self.set_row(ClassKey { table: table.table, peer: via }, *row);
                    }
                    via
                }
            };
            known.insert((from, to), via);
            self.set_target(step.target, via);
            if via != to && step.stays {
                detours.push((step.target, to));
            }
        }
        Ok(detours)
    }

    /// A peer for addresses on the way from one to another; under the desired tables it means the
    /// latter.
    fn transitional(&mut self, from: u32, to: u32) -> Result<u32, CapacityError> {
        let digest = Digest::of("transitional peer", &(from, to, self.image.revision));
        let name = self.ids.peer(to).unwrap_or_else(PeerName::world);
        let held = self.held;
        let via = self
            .ids
            .assign_peer(digest, &name, |id| held.has_peer(id))
            .ok_or_else(|| capacity::ids("peers", self.ids.peer_count()))?;
        for &table in &self.desired.tables {
            let row = self.new_row(table, to);
            self.set_row(ClassKey { table, peer: via }, row);
        }
        Ok(via)
    }

    fn switch_endpoints(&mut self) {
        let desired = self.desired;
        for (&ifindex, endpoint) in &desired.endpoints {
            let value = endpoint.place(&self.places);
            self.set_endpoint(ifindex, Some(value));
        }
        for place in self.places.values() {
            self.extents.release(*place);
        }
    }
}

/// Drops the addresses that are not among `kept`; the others move up.
fn forget<const N: usize, const S: usize>(slots: &mut [[u8; N]; S], kept: &[[u8; N]; S]) {
    let mut left = [[0; N]; S];
    let stay = slots.iter().filter(|slot| kept.contains(slot) && **slot != [0; N]);
    for (to, from) in left.iter_mut().zip(stay) {
        *to = *from;
    }
    *slots = left;
}

fn is_world(peer: u32) -> bool {
    peer == PEER_WORLD_V4 || peer == PEER_WORLD_V6
}

fn changes_verdicts(op: &Op) -> bool {
    match op {
        Op::SetAddress(..)
        | Op::RemoveAddress(..)
        | Op::SetCidr(..)
        | Op::RemoveCidr(..)
        | Op::SetEndpoint(..)
        | Op::RemoveEndpoint(..)
        | Op::SetFailsafe(..)
        | Op::RemoveFailsafe(..)
        | Op::SetPublished(..)
        | Op::RemovePublished(..)
        | Op::SetBlock { .. }
        | Op::RemoveBlock { .. }
        | Op::SetUplink { .. }
        | Op::RemoveUplink(..) => true,
        Op::WriteIntervals { .. }
        | Op::SetClass(..)
        | Op::RemoveClass(..)
        | Op::SetGuard(..)
        | Op::RemoveGuard(..)
        | Op::SetRevision(..)
        | Op::Quiesce => false,
    }
}
