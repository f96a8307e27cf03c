//! Events from the ring, given names and handed to whoever watches.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use policy_api::{
    flow::{FlowEnd, FlowRecord},
    messages::{StagedVerdict, Verdict},
};
use policy_common::abi::{
    Direction, DropReason, Event, EventKind, Family, PEER_NONE, RULE_NONE, VERDICT_ALLOW,
    VERDICT_RULE,
};
use policy_core::peers::PeerName;
use tokio::sync::{broadcast, watch};

use crate::{
    history::{self, Segments},
    kernel::{clock, events::Events},
    published::Published,
};

/// Records kept where there is no history on disk: so many of packets, and so many of flows, so that neither
/// pushes out the other.
const KEPT: usize = 4096;
/// Records that may wait for the history to be written.
const WAITING: usize = 4 * history::BLOCK;
/// Labels of one end in a record, and their bytes.
const MOST_LABELS: usize = 32;
const LABELS: usize = 1024;
/// Records that a slow watcher may be behind before it misses some.
const BACKLOG: usize = 4096;

/// The newest records, and a tap for those to come. Cloning shares.
#[derive(Clone, Debug)]
pub struct Observer {
    shared: Arc<Shared>,
    live: broadcast::Sender<Arc<FlowRecord>>,
}

#[derive(Debug)]
struct Shared {
    recent: Mutex<Recent>,
    /// There is a block of records to be written, or somebody wants the writer to look.
    waiting: Condvar,
    history: Option<Arc<history::Standing>>,
}

/// What came before now.
#[derive(Debug, Default)]
struct Recent {
    packets: VecDeque<(u64, Arc<FlowRecord>)>,
    flows: VecDeque<(u64, Arc<FlowRecord>)>,
    /// Number of the next record.
    next: u64,
    /// On their way into the history.
    unwritten: VecDeque<Arc<FlowRecord>>,
    /// The history's files; none before it has looked which there are.
    segments: Option<Segments>,
}

/// What there is at one moment.
#[derive(Debug)]
pub struct Past {
    /// The history's files.
    pub segments: Segments,
    /// What came after them, oldest first.
    pub unwritten: Vec<Arc<FlowRecord>>,
}

impl Recent {
    fn keep(&mut self, record: &Arc<FlowRecord>) {
        let kept = if record.traffic.is_some() { &mut self.flows } else { &mut self.packets };
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((self.next, Arc::clone(record)));
        self.next += 1;
    }

    /// All that is kept, oldest first.
    fn kept(&self) -> Vec<Arc<FlowRecord>> {
        let mut all: Vec<_> = self.packets.iter().chain(&self.flows).collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, record)| Arc::clone(record)).collect()
    }
}

impl Observer {
    /// Keeps the newest records; all of them for the history, if there is one.
    pub fn new(history: Option<Arc<history::Standing>>) -> Observer {
        let (recent, waiting) = (Mutex::default(), Condvar::new());
        Observer {
            shared: Arc::new(Shared { recent, waiting, history }),
            live: broadcast::Sender::new(BACKLOG),
        }
    }

    /// Reads events until the ring fails.
    ///
    /// # Errors
    ///
    /// The ring can no longer be polled.
    pub async fn run(
        self,
        mut events: Events,
        published: watch::Receiver<Arc<Published>>,
    ) -> io::Result<()> {
        loop {
            // Asked for each event, and not before the wait for it, which may have taken hours.
            let take = |event: Event| {
                let (now_ns, now) = (clock::monotonic_ns(), SystemTime::now());
                let names = Arc::clone(&published.borrow());
                let time = clock::wall_time(event.time_ns, now_ns, now);
                self.take(Arc::new(record(&event, time, &names)));
            };
            events.drain(take).await?;
        }
    }

    /// Keeps a record, and shows it to whoever watches.
    pub fn take(&self, record: Arc<FlowRecord>) {
        let mut recent = self.recent();
        match &self.shared.history {
            None => recent.keep(&record),
            Some(standing) => {
                if recent.unwritten.len() == WAITING {
                    recent.unwritten.pop_front();
                    standing.ledger.add_too_fast(1);
                }
                recent.unwritten.push_back(Arc::clone(&record));
                if recent.unwritten.len() == history::BLOCK {
                    self.shared.waiting.notify_all();
                }
            }
        }
        // Nobody may be watching.
        let _ = self.live.send(record);
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records to come.
    pub fn live(&self) -> broadcast::Receiver<Arc<FlowRecord>> {
        self.live.subscribe()
    }

    /// What there is, and what is to come: nothing twice and nothing missing. Without a history, what is kept
    /// stands for it.
    pub fn survey(&self) -> (Past, broadcast::Receiver<Arc<FlowRecord>>) {
        let recent = self.recent();
        let unwritten = match self.shared.history {
            None => recent.kept(),
            Some(_) => recent.unwritten.iter().cloned().collect(),
        };
        let segments = recent.segments.clone().unwrap_or_default();
        // While nothing can come.
        (Past { segments, unwritten }, self.live.subscribe())
    }

    /// For the history: the oldest records that are not written, once they are so many or `patience` is over
    /// or `stops` says so. They stay here until they are [`Observer::written`].
    pub fn unwritten(
        &self,
        most: usize,
        patience: Duration,
        stops: impl Fn() -> bool,
    ) -> Vec<Arc<FlowRecord>> {
        let recent = self.recent();
        let waits = |recent: &mut Recent| recent.unwritten.len() < most && !stops();
        let waited = self.shared.waiting.wait_timeout_while(recent, patience, waits);
        let (recent, _) = waited.unwrap_or_else(PoisonError::into_inner);
        recent.unwritten.iter().take(most).cloned().collect()
    }

    /// The oldest `count` records are in the history, or cannot be; its files are these now.
    pub fn written(&self, batch: &[Arc<FlowRecord>], segments: Segments) {
        let mut recent = self.recent();
        // Those that had to give way meanwhile are not there any more.
        let newest = batch.last().map(Arc::as_ptr);
        let place = recent.unwritten.iter().take(batch.len());
        let place = place.map(Arc::as_ptr).position(|it| Some(it) == newest);
        recent.unwritten.drain(..place.map_or(0, |place| place + 1));
        recent.segments = Some(segments);
    }

    /// Whether what an earlier agent wrote can be searched: right after the start, the history is still being opened.
    pub fn is_open(&self) -> bool {
        self.shared.history.is_none() || self.recent().segments.is_some()
    }

    /// Makes [`Observer::unwritten`] look again whether it should wait.
    pub fn wake(&self) {
        drop(self.recent());
        self.shared.waiting.notify_all();
    }
}

/// An IP protocol number's name in lower case, or the number.
pub fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        136 => "udplite".to_owned(),
        other => other.to_string(),
    }
}

/// Type and code out of what the datapath calls the port of an ICMP or ICMPv6 packet.
pub fn icmp(protocol: u8, port: u16) -> Option<(u8, u8)> {
    let [kind, code] = port.to_be_bytes();
    matches!(protocol, 1 | 58).then_some((kind, code))
}

fn address(family: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    if bytes == [0; 16] {
        return None;
    }
    match Family::from_u8(family)? {
        Family::V4 => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        Family::V6 => Some(Ipv6Addr::from(bytes).into()),
    }
}

fn tcp_flags(protocol: u8, flags: u8) -> String {
    if protocol != 6 {
        return String::new();
    }
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set: Vec<&str> = names
        .into_iter()
        .enumerate()
        .filter(|(bit, _)| flags & (1 << bit) != 0)
        .map(|(_, name)| name)
        .collect();
    set.join("|")
}

/// An event in words.
pub(crate) fn record(event: &Event, time: SystemTime, names: &Published) -> FlowRecord {
    let source_ip = address(event.family, event.source);
    let destination_ip = address(event.family, event.destination);
    let ingress = Direction::from_u8(event.direction) == Some(Direction::Ingress);
    let (own_ip, peer_ip) =
        if ingress { (destination_ip, source_ip) } else { (source_ip, destination_ip) };
    let own = names.interface(event.ifindex);
    let peer = peer_name(event.peer, peer_ip, names);
    // A spoofed source is not the endpoint's own address: keep the claim and the culprit apart.
    let own_port = if ingress { event.destination_port } else { event.source_port };
    let peer_port = if ingress { event.source_port } else { event.destination_port };
    let own = end(own, own_ip, own_port, names);
    let peer = end(peer, peer_ip, peer_port, names);
    let (source, mut destination) = if ingress { (peer, own) } else { (own, peer) };
    let icmp = icmp(event.protocol, event.destination_port);
    if icmp.is_some() {
        destination.port = 0;
    }
    let kind = EventKind::from_u8(event.kind);
    let reason = match kind {
        Some(EventKind::Log | EventKind::Staged) => "",
        Some(EventKind::Drop) | None => {
            DropReason::from_u8(event.reason).map_or("unknown", DropReason::name)
        }
    };
    FlowRecord {
        event: kind.map_or("unknown", EventKind::name).to_owned(),
        verdict: verdict(event.allowed != 0),
        icmp_type: icmp.map(|(kind, _)| kind),
        icmp_code: icmp.map(|(_, code)| code),
        time: humantime::format_rfc3339_micros(time).to_string(),
        reason: reason.to_owned(),
        direction: if ingress { "ingress" } else { "egress" }.to_owned(),
        source,
        destination,
        protocol: protocol_name(event.protocol),
        tcp_flags: tcp_flags(event.protocol, event.tcp_flags),
        rule: (event.rule != RULE_NONE).then(|| names.rule(event.rule).cloned()).flatten(),
        logged: names.ids.log(event.log).unwrap_or_default().to_vec(),
        staged: names.rule(event.staged & VERDICT_RULE).map(|rule| StagedVerdict {
            verdict: verdict(event.staged & VERDICT_ALLOW != 0),
            rule: rule.clone(),
        }),
        bytes: u64::from(event.length),
        traffic: None,
    }
}

pub(crate) fn verdict(allow: bool) -> Verdict {
    if allow { Verdict::Allow } else { Verdict::Deny }
}

pub(crate) fn end(name: PeerName, ip: Option<IpAddr>, port: u16, names: &Published) -> FlowEnd {
    let labels = names.labels(&name).map(bounded).unwrap_or_default();
    FlowEnd { name: name.name, namespace: name.namespace, ip, port, labels }
}

/// Labels as a record has them: the first ones, by name, if they are many or long. Whoever builds an image
/// chooses them, and each record has a copy.
fn bounded(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut room = LABELS;
    let fits = labels.iter().take(MOST_LABELS).take_while(|(name, value)| {
        let left = room.checked_sub(name.len() + value.len());
        room = left.unwrap_or(0);
        left.is_some()
    });
    fits.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Name of the other side; looked up by address for drops that came before the kernel asked.
fn peer_name(peer: u32, ip: Option<IpAddr>, names: &Published) -> PeerName {
    if peer != PEER_NONE
        && let Some(name) = names.ids.peer(peer)
    {
        return name;
    }
    let owner = ip.and_then(|ip| names.owners.get(&ip).cloned());
    owner.unwrap_or_else(|| PeerName { namespace: String::new(), name: String::new() })
}

#[cfg(test)]
mod tests {
    use policy_api::flow::{CLOSE, EVENTS, OPEN};

    use super::*;

    /// Filters refuse every other word.
    #[test]
    fn the_kernels_events_and_those_of_flows_are_all_that_there_are() {
        let all = EventKind::ALL.iter().map(|kind| kind.name()).chain([OPEN, CLOSE]);
        assert_eq!(all.collect::<Vec<_>>(), EVENTS);
    }

    #[test]
    fn no_label_makes_a_record_large() {
        let label = |name: &str, length: usize| (name.to_owned(), "x".repeat(length));
        let few: BTreeMap<String, String> = [label("app", 3), label("role", 9)].into();
        assert_eq!(bounded(&few), few);
        let long: BTreeMap<String, String> =
            [label("app", 3), label("b", 1 << 20), label("c", 3)].into();
        assert_eq!(bounded(&long), [label("app", 3)].into());
        let many: BTreeMap<String, String> =
            (0..1000).map(|number| label(&format!("{number:04}"), 60)).collect();
        assert_eq!(bounded(&many).len(), LABELS / 64);
        let small: BTreeMap<String, String> =
            (0..1000).map(|number| label(&format!("{number}"), 0)).collect();
        assert_eq!(bounded(&small).len(), MOST_LABELS);
    }
}
