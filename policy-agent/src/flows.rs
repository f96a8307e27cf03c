//! Flows that were let through: when each began and ended, and what passed of it.
//!
//! In: the connection tables, read whole again and again (`conntrack.rs`), and names. Out: records, and
//! what passed between whom ([`Tally`]). The programs do nothing for it but keep their tables, so it costs no
//! packet anything; the price is that a flow is told of only once a reading has seen it. What came and went
//! between two readings is counted by the programs, and told of as missing here.

use std::{
    collections::HashMap,
    hash::Hash,
    mem,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::SystemTime,
};

use policy_api::flow::{Ended, FlowRecord};
use policy_common::{
    abi::{
        Direction, FLOW_FIN_ORIGINAL, FLOW_FIN_REPLY, FLOW_RESET, Flow, FlowKeyV4, FlowKeyV6,
        OpenedKey,
    },
    conntrack::{closing, expired},
    packet::protocol,
};

mod names;
mod tally;

use self::names::{Named, Register};
pub use self::tally::{Passed, Tally};
use crate::{kernel::clock::wall_time, published::Published};

/// Flows that are known at one time, of each family; about 120 bytes each.
const MAX_KNOWN: usize = 1 << 19;
/// Records of one reading at most; there is one a second, if the tables are not large.
const RECORDS: u64 = 10_000;
/// What the programs' coarse clock may be behind, ns: a jiffy, and more.
const COARSE_NS: u64 = 20_000_000;
/// A TCP connection that both sides have closed is told of once it has been silent for so long: its last
/// packets belong to it.
const LAST_WORDS_NS: u64 = 1_000_000_000;

/// A key of a connection table.
pub trait Key: Copy + Eq + Hash {
    /// Interface of the endpoint.
    fn ifindex(&self) -> u32;
    /// Its address and port.
    fn local(&self) -> (IpAddr, u16);
    /// Those of the other side.
    fn remote(&self) -> (IpAddr, u16);
    /// IP protocol number.
    fn protocol(&self) -> u8;
    /// The flows of this family.
    fn table(tracker: &mut Tracker) -> &mut HashMap<Self, Known>;
}

macro_rules! key {
    ($key:ident, $field:ident) => {
        impl Key for $key {
            fn ifindex(&self) -> u32 {
                self.ifindex
            }

            fn local(&self) -> (IpAddr, u16) {
                (self.local.into(), self.local_port)
            }

            fn remote(&self) -> (IpAddr, u16) {
                (self.remote.into(), self.remote_port)
            }

            fn protocol(&self) -> u8 {
                self.protocol
            }

            fn table(tracker: &mut Tracker) -> &mut HashMap<Self, Known> {
                &mut tracker.$field
            }
        }
    };
}

key!(FlowKeyV4, v4);
key!(FlowKeyV6, v6);

/// A flow as it was read last.
#[derive(Debug)]
pub struct Known {
    created_ns: u64,
    /// The same in wall-clock time, as it was when this flow was first seen.
    created: SystemTime,
    seen_ns: u64,
    packets: [u64; 2],
    bytes: [u64; 2],
    direction: u8,
    state: u8,
    /// Number of the reading that saw it last.
    reading: u32,
    /// Whether its end has been told of.
    over: bool,
    /// Who its ends were when it was first seen, and which rule let it through.
    named: Arc<Named>,
}

/// Follows flows from one reading of the tables to the next.
#[derive(Debug)]
pub struct Tracker {
    tally: Arc<Tally>,
    names: Arc<Published>,
    v4: HashMap<FlowKeyV4, Known>,
    v6: HashMap<FlowKeyV6, Known>,
    register: Register,
    /// Number of this reading; the first one finds flows that began before this agent.
    reading: u32,
    /// Of flows that began, what the programs had counted at the first reading.
    began_before: u64,
    /// And before this reading.
    began: u64,
    /// Flows that began since then and were seen.
    seen: u64,
    clock: Clock,
    /// Flows that begin from then on are told of by this agent; `CLOCK_MONOTONIC`, ns.
    since_ns: u64,
    /// When the reading before this one began.
    before_ns: u64,
    /// Records that may still be made in this reading.
    room: u64,
    records: Vec<FlowRecord>,
}

/// Now, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// `CLOCK_MONOTONIC`, ns.
    pub ns: u64,
    /// The same in wall-clock time.
    pub time: SystemTime,
}

impl Tracker {
    /// Knows no flow yet.
    pub fn new(tally: Arc<Tally>, names: Arc<Published>) -> Tracker {
        Tracker {
            tally,
            names,
            v4: HashMap::new(),
            v6: HashMap::new(),
            register: Register::default(),
            reading: 0,
            began_before: 0,
            began: 0,
            seen: 0,
            clock: Clock { ns: 0, time: SystemTime::UNIX_EPOCH },
            since_ns: 0,
            before_ns: 0,
            room: 0,
            records: Vec::new(),
        }
    }

    /// Begins a reading; `began` is what the programs had counted before it.
    pub fn begin(&mut self, names: Arc<Published>, began: u64, clock: Clock) {
        if self.reading == 0 {
            self.began_before = began;
            self.since_ns = clock.ns.saturating_sub(COARSE_NS);
        }
        self.began = began;
        self.reading = self.reading.wrapping_add(1).max(1);
        self.room = RECORDS;
        self.before_ns = self.clock.ns.saturating_sub(COARSE_NS);
        self.clock = clock;
        if !Arc::ptr_eq(&self.names, &names) {
            self.register.forget();
            self.names = names;
            // Numbers that have gone since: nobody would take these out any more.
            let names = Arc::clone(&self.names);
            for (_, passed) in self.tally.take(|key| !is_known(key, &names)) {
                self.tally.add_rest(passed);
            }
        }
    }

    /// Sees an entry.
    pub fn see<K: Key>(&mut self, key: &K, flow: &Flow) {
        let mut table = mem::take(K::table(self));
        match table.get_mut(key) {
            Some(known) if known.created_ns == flow.created_ns => self.see_again(key, known, flow),
            known => {
                let has_room = known.is_some() || table.len() < MAX_KNOWN;
                self.see_new(key, flow, has_room.then_some(&mut table));
            }
        }
        *K::table(self) = table;
    }

    fn see_again<K: Key>(&mut self, key: &K, known: &mut Known, flow: &Flow) {
        let was = (known.packets, known.bytes);
        if (known.named.peer, known.named.rule_id) != (flow.peer, flow.rule) {
            known.named = self.register.name(key.ifindex(), flow, &self.names);
        }
        (known.packets, known.bytes) = (flow.packets, flow.bytes);
        (known.seen_ns, known.state) = (flow.seen_ns, flow.state);
        known.reading = self.reading;
        self.passed(key, known, was);
        if !known.over
            && let Some(ended) = ended(key.protocol(), flow, self.clock.ns)
        {
            known.over = true;
            self.tell(key, known, Some(ended));
        }
    }

    fn see_new<K: Key>(&mut self, key: &K, flow: &Flow, table: Option<&mut HashMap<K, Known>>) {
        // What began before this agent did has its beginning told of by nobody, and its end by this one.
        let is_ours = flow.created_ns >= self.since_ns;
        let Some(table) = table else {
            // Each reading finds it anew.
            if is_ours && flow.created_ns >= self.before_ns {
                self.seen += 1;
                self.tally.too_many.fetch_add(1, Ordering::Relaxed);
            }
            return;
        };
        self.seen += u64::from(is_ours);
        let ended = ended(key.protocol(), flow, self.clock.ns);
        let now = Known {
            created_ns: flow.created_ns,
            created: wall_time(flow.created_ns, self.clock.ns, self.clock.time),
            seen_ns: flow.seen_ns,
            packets: flow.packets,
            bytes: flow.bytes,
            direction: flow.direction,
            state: flow.state,
            reading: self.reading,
            over: ended.is_some(),
            named: self.register.name(key.ifindex(), flow, &self.names),
        };
        if is_ours {
            self.passed(key, &now, ([0; 2], [0; 2]));
        }
        let was = table.insert(*key, now).filter(|was| !was.over);
        if let Some(was) = was {
            self.tell(key, &was, Some(Ended::Replaced));
        }
        if is_ours && let Some(now) = table.get(key) {
            self.tell(key, now, ended);
        }
    }

    /// Ends a reading; of one that saw every entry, what was not seen is gone. Its records, in no order.
    pub fn end(&mut self, is_whole: bool) -> Vec<FlowRecord> {
        if is_whole {
            self.sweep::<FlowKeyV4>();
            self.sweep::<FlowKeyV6>();
            let began = self.began.saturating_sub(self.began_before);
            // What began while the tables were read may have been seen: a number that is too small now,
            // and right later.
            let unseen = began.saturating_sub(self.seen);
            self.tally.unseen.fetch_max(unseen, Ordering::Relaxed);
        }
        mem::take(&mut self.records)
    }

    /// Forgets flows whose entry is gone.
    fn sweep<K: Key>(&mut self) {
        let reading = self.reading;
        let mut table = mem::take(K::table(self));
        table.retain(|key, known| {
            let here = known.reading == reading;
            if !here && !known.over {
                self.tell(key, known, Some(Ended::Replaced));
            }
            here
        });
        if table.capacity() > 1024 && table.capacity() > 8 * table.len() {
            table.shrink_to(2 * table.len());
        }
        *K::table(self) = table;
    }

    /// Adds what has passed since an earlier reading found so many packets and bytes.
    fn passed<K: Key>(&self, key: &K, now: &Known, (packets, bytes): ([u64; 2], [u64; 2])) {
        let more = |now: [u64; 2], was: [u64; 2]| {
            [now[0].saturating_sub(was[0]), now[1].saturating_sub(was[1])]
        };
        let ([packets, reply_packets], [bytes, reply_bytes]) =
            (more(now.packets, packets), more(now.bytes, bytes));
        if packets + reply_packets == 0 {
            return;
        }
        let passed = Passed { packets, bytes, reply_packets, reply_bytes };
        let key = parties(key, now);
        if is_known(&key, &self.names) {
            self.tally.add(key, passed);
        } else {
            self.tally.add_late(now.named.series(&key), passed);
        }
    }

    fn tell<K: Key>(&mut self, key: &K, known: &Known, ended: Option<Ended>) {
        if self.room == 0 {
            self.tally.limited.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.room -= 1;
        self.records.push(names::record(key, known, ended, self.clock.time));
    }
}

/// Between whom a flow is counted, as the programs count its beginning.
fn parties<K: Key>(key: &K, known: &Known) -> OpenedKey {
    let protocol = key.protocol();
    let ingress = Direction::from_u8(known.direction) == Some(Direction::Ingress);
    let port = match protocol {
        // Of ICMP only an exchange of echoes is a flow; its ports here are the identifier.
        protocol::ICMP => 8 << 8,
        protocol::ICMPV6 => 128 << 8,
        _ if ingress => key.local().1,
        _ => key.remote().1,
    };
    let (peer, rule) = (known.named.peer, known.named.rule_id);
    OpenedKey { ifindex: key.ifindex(), peer, rule, port, protocol, direction: known.direction }
}

/// Whether the numbers of a key still have names.
fn is_known(key: &OpenedKey, names: &Published) -> bool {
    names.interfaces.contains_key(&key.ifindex) && names.ids.knows(key.rule, key.peer)
}

/// Whether nothing more is to be expected of a flow, and why.
fn ended(protocol: u8, flow: &Flow, now_ns: u64) -> Option<Ended> {
    const BOTH: u8 = FLOW_FIN_ORIGINAL | FLOW_FIN_REPLY;
    if flow.cut != 0 {
        return Some(Ended::Cut);
    }
    let is_reset = flow.state & FLOW_RESET != 0;
    let is_silent = now_ns.saturating_sub(flow.seen_ns) >= LAST_WORDS_NS;
    if (is_reset || flow.state & BOTH == BOTH) && is_silent {
        return Some(if is_reset { Ended::Reset } else { Ended::Closed });
    }
    expired(flow.state, protocol, flow.seen_ns, now_ns)
        .then(|| if closing(flow.state) { Ended::Closed } else { Ended::Timeout })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
