//! Records to what was seen: who spoke with whom, by which service, how often, when.
//!
//! Records are added up as they are read, and none is kept: memory is bounded by what there is to
//! tell apart, and that by [`ROOM`].

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    time::SystemTime,
};

use policy_api::{
    flow::{self, FlowEnd, FlowRecord},
    messages::Verdict,
};
use policy_common::abi::{Direction, DropReason};

use super::nets::Nets;
use crate::{
    identity::HOST_LABEL,
    labels::NAME_LABEL,
    names,
    peers::PeerName,
    services::{ICMP, ICMPV6, WITH_PORTS},
};

/// Things that are told apart at most: services of a pair, addresses of a service, and, each for
/// [`NAMED`] of them, workloads.
const ROOM: usize = 1 << 20;
/// What a workload takes of the room: it has labels.
const NAMED: usize = 16;
/// Flows that may be open at the same time before some are counted twice.
const OPEN_FLOWS: usize = 1 << 18;

/// What records have shown.
#[derive(Debug)]
pub struct Observations {
    denied: bool,
    /// What is left of [`ROOM`].
    pub(super) room: usize,
    open: HashSet<u64>,
    pub(super) workloads: Vec<Workload>,
    by_name: BTreeMap<PeerName, usize>,
    pub(super) pairs: BTreeMap<Pair, BTreeMap<Service, Seen>>,
    pub(super) total: Tally,
    pub(super) unclear: u64,
    pub(super) beyond: u64,
}

/// A workload, with the labels of its newest record that has some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) name: PeerName,
    pub(super) labels: BTreeMap<String, String>,
}

/// A workload's traffic in one direction with somebody.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    /// Index of the workload.
    pub(super) subject: usize,
    pub(super) way: Direction,
    pub(super) far: Far,
}

/// The other end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Far {
    /// Index of a workload.
    Workload(usize),
    /// Addresses by what they were called: `world`, `host`, a network set.
    Named(PeerName),
}

/// IP protocol; and destination port, or ICMP type and code, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service {
    pub(super) protocol: u8,
    /// Destination port; ICMP: `type << 8 | code`; else 0.
    pub(super) port: u16,
}

/// How often something was seen and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) seen: u64,
    pub(super) denied: u64,
    pub(super) first: Option<SystemTime>,
    pub(super) last: Option<SystemTime>,
}

/// A service of a pair.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// By the subject's own records.
    own: Tally,
    /// By those of the other end, which tell of the same flows.
    other: Tally,
    /// Addresses of the other end, if it is no workload.
    pub(super) nets: Nets,
}

impl Tally {
    fn add(&mut self, (first, last): (Option<SystemTime>, Option<SystemTime>), denied: bool) {
        let denied = u64::from(denied);
        self.merge(&Tally { seen: 1, denied, first, last });
    }

    pub(super) fn merge(&mut self, other: &Tally) {
        self.seen += other.seen;
        self.denied += other.denied;
        self.first = [self.first, other.first].into_iter().flatten().min();
        self.last = self.last.max(other.last);
    }
}

impl Seen {
    /// Each flow once: the records of the other end count only where there are no own ones.
    pub(super) fn tally(&self) -> &Tally {
        if self.own.seen == 0 { &self.other } else { &self.own }
    }

    /// Adds what another workload of the group has seen.
    pub(super) fn merge(&mut self, other: &Seen) {
        self.own.merge(other.tally());
        self.nets.extend(&other.nets);
    }
}

/// Which end's record tells of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Teller {
    Own,
    Other,
}

impl Observations {
    /// Nothing seen yet. `denied`: take packets that a policy denied for allowed ones.
    pub fn new(denied: bool) -> Observations {
        Observations {
            denied,
            room: ROOM,
            open: HashSet::new(),
            workloads: Vec::new(),
            by_name: BTreeMap::new(),
            pairs: BTreeMap::new(),
            total: Tally::default(),
            unclear: 0,
            beyond: 0,
        }
    }

    /// Records that told of something to be allowed.
    pub fn records(&self) -> u64 {
        self.total.seen
    }

    /// Adds what a record tells of.
    pub fn add(&mut self, record: &FlowRecord) {
        let is_flow = [flow::OPEN, flow::CLOSE].contains(&record.event.as_str());
        let denied = match record.verdict {
            Verdict::Allow => {
                if !is_flow && !["log", "staged"].contains(&record.event.as_str()) {
                    return;
                }
                false
            }
            // What a Log rule saw of a denied packet has a record as a drop, too.
            Verdict::Deny => {
                let by_policy = record.reason == DropReason::Policy.name();
                if !self.denied || record.event != "drop" || !by_policy {
                    return;
                }
                true
            }
        };
        let (Some(way), Some(service)) = (way(record), service(record)) else {
            self.unclear += 1;
            return;
        };
        // humantime prints no time before 1970.
        let time = |text: &str| {
            humantime::parse_rfc3339(text).ok().filter(|time| *time >= SystemTime::UNIX_EPOCH)
        };
        let mut span = (time(&record.time), time(&record.time));
        if let Some(traffic) = &record.traffic {
            span = (time(&traffic.start).or(span.0), time(&traffic.end).or(span.1));
        }
        let (own, far) = match way {
            Direction::Ingress => (&record.destination, &record.source),
            Direction::Egress => (&record.source, &record.destination),
        };
        let again = is_flow && self.is_known(record);
        self.total.add(span, denied);
        // What both ends let pass: who denies a flow at one end may deny it at the other, too.
        let answered = record.traffic.as_ref().is_some_and(|traffic| traffic.reply_packets > 0);
        self.side((own, far), way, service, Teller::Own, (span, denied, again));
        if (answered || denied) && is_workload(far, Teller::Other) {
            let way = way.reverse();
            self.side((far, own), way, service, Teller::Other, (span, denied, again));
        }
    }

    /// Adds to one end of a flow, if that is a workload.
    fn side(
        &mut self,
        (subject, far): (&FlowEnd, &FlowEnd),
        way: Direction,
        service: Service,
        teller: Teller,
        (span, denied, again): ((Option<SystemTime>, Option<SystemTime>), bool, bool),
    ) {
        let other = match teller {
            Teller::Own => Teller::Other,
            Teller::Other => Teller::Own,
        };
        if !is_workload(subject, teller) {
            return;
        }
        let Some(subject) = self.workload(subject) else { return };
        let (far, address) = if is_workload(far, other) {
            let Some(far) = self.workload(far) else { return };
            (Far::Workload(far), None)
        } else if let Some(address) = far.ip {
            let name = PeerName { namespace: far.namespace.clone(), name: far.name.clone() };
            (Far::Named(name), Some(address))
        } else {
            self.unclear += 1;
            return;
        };
        let pair = Pair { subject, way, far };
        let seen = self.pairs.get(&pair).and_then(|services| services.get(&service));
        let is_old = seen
            .is_some_and(|seen| address.is_none_or(|address: IpAddr| seen.nets.contains(address)));
        if !is_old && !self.take(1) {
            return;
        }
        let seen = self.pairs.entry(pair).or_default().entry(service).or_default();
        if let Some(address) = address {
            seen.nets.insert(address);
        }
        let tally = match teller {
            Teller::Own => &mut seen.own,
            Teller::Other => &mut seen.other,
        };
        if again {
            // Its end was seen now, and it counts already.
            tally.merge(&Tally { seen: 0, denied: 0, first: span.0, last: span.1 });
        } else {
            tally.add(span, denied);
        }
    }

    /// Whether the flow was counted when it was open.
    fn is_known(&mut self, record: &FlowRecord) -> bool {
        let Some(traffic) = &record.traffic else { return false };
        let mut hasher = DefaultHasher::new();
        (&record.direction, &record.protocol, &traffic.start).hash(&mut hasher);
        (record.icmp_type, record.icmp_code).hash(&mut hasher);
        for end in [&record.source, &record.destination] {
            (&end.namespace, &end.name, end.ip, end.port).hash(&mut hasher);
        }
        let flow = hasher.finish();
        if record.event == flow::CLOSE {
            self.open.remove(&flow)
        } else if self.open.len() < OPEN_FLOWS {
            !self.open.insert(flow)
        } else {
            self.open.contains(&flow)
        }
    }

    /// The index of a workload; `None` if there is no room for it.
    fn workload(&mut self, end: &FlowEnd) -> Option<usize> {
        let name = PeerName { namespace: end.namespace.clone(), name: end.name.clone() };
        let index = match self.by_name.get(&name).copied() {
            Some(index) => index,
            None if self.take(NAMED) => {
                let index = self.workloads.len();
                let labels = BTreeMap::from([(NAME_LABEL.to_owned(), name.name.clone())]);
                self.workloads.push(Workload { name: name.clone(), labels });
                self.by_name.insert(name, index);
                index
            }
            None => return None,
        };
        let workload = &mut self.workloads[index];
        if !end.labels.is_empty() && !is_same(&workload.labels, &end.labels) {
            workload.labels.clone_from(&end.labels);
            // Every endpoint has it, and it is among the last when a record has room for the first.
            workload.labels.entry(NAME_LABEL.to_owned()).or_insert_with(|| end.name.clone());
        }
        Some(index)
    }

    /// The workload of a name, if there is one.
    pub(super) fn named(&self, name: &PeerName) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    fn take(&mut self, room: usize) -> bool {
        let Some(left) = self.room.checked_sub(room) else {
            self.beyond += 1;
            return false;
        };
        self.room = left;
        true
    }
}

/// Whether the labels are those that a record has; the name, which may be missing there, left aside.
fn is_same(labels: &BTreeMap<String, String>, seen: &BTreeMap<String, String>) -> bool {
    labels == seen
        || (labels.len() == seen.len() + 1
            && !seen.contains_key(NAME_LABEL)
            && seen.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

/// Whether an end is a workload. Network sets have namespaces, too, and no labels in a record; nor
/// have workloads, if the flow log leaves labels out, but what decided is an endpoint for sure.
fn is_workload(end: &FlowEnd, teller: Teller) -> bool {
    !end.namespace.is_empty()
        && !end.name.is_empty()
        && !end.labels.contains_key(HOST_LABEL)
        && (teller == Teller::Own || !end.labels.is_empty())
}

fn way(record: &FlowRecord) -> Option<Direction> {
    [Direction::Ingress, Direction::Egress]
        .into_iter()
        .find(|way| names::direction(*way) == record.direction)
}

/// What of a record a rule can ask for; `None` if it does not say.
fn service(record: &FlowRecord) -> Option<Service> {
    let known = names::PROTOCOLS.iter();
    let named = known.clone().find(|(name, _)| name.eq_ignore_ascii_case(&record.protocol));
    let protocol = match named {
        Some((_, number)) => *number,
        None => record.protocol.parse().ok().filter(|number| *number != 0)?,
    };
    let port = match protocol {
        // 255 is no type that a rule can name.
        ICMP | ICMPV6 => {
            let kind = record.icmp_type.filter(|kind| *kind != u8::MAX)?;
            u16::from(kind) << 8 | u16::from(record.icmp_code?)
        }
        protocol if WITH_PORTS.contains(&protocol) => {
            Some(record.destination.port).filter(|port| *port != 0)?
        }
        _ => 0,
    };
    Some(Service { protocol, port })
}
