//! Events from the ring, given names and handed to whoever watches.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use policy_api::{
    flow::{FlowEnd, FlowRecord},
    messages::{StagedVerdict, Verdict},
};
use policy_common::abi::{
    Direction, DropReason, Event, EventKind, Family, PEER_NONE, RULE_NONE, VERDICT_ALLOW,
    VERDICT_RULE,
};
use policy_core::{observe::Filter, peers::PeerName};
use tokio::sync::{broadcast, watch};

use crate::{
    kernel::{clock, events::Events},
    published::Published,
};

/// Records kept for `observe --last`: so many of packets, and so many of flows, so that neither pushes out
/// the other.
const HISTORY: usize = 4096;
/// Bytes of one end's labels in a record.
const LABELS: usize = 2048;
/// Records that a slow watcher may be behind before it misses some.
const BACKLOG: usize = 4096;

/// The newest records, and a tap for those to come. Cloning shares.
#[derive(Clone, Debug)]
pub struct Observer {
    history: Arc<Mutex<History>>,
    live: broadcast::Sender<Arc<FlowRecord>>,
}

/// The newest records, each with its number.
#[derive(Debug, Default)]
struct History {
    next: u64,
    packets: VecDeque<(u64, Arc<FlowRecord>)>,
    flows: VecDeque<(u64, Arc<FlowRecord>)>,
}

impl History {
    fn keep(&mut self, record: Arc<FlowRecord>) {
        let kept = if record.traffic.is_some() { &mut self.flows } else { &mut self.packets };
        if kept.len() == HISTORY {
            kept.pop_front();
        }
        kept.push_back((self.next, record));
        self.next += 1;
    }

    /// All of them, oldest first.
    fn all(&self) -> Vec<(u64, Arc<FlowRecord>)> {
        let mut all: Vec<_> = self.packets.iter().chain(&self.flows).cloned().collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all
    }
}

impl Default for Observer {
    fn default() -> Self {
        Observer { history: Arc::default(), live: broadcast::Sender::new(BACKLOG) }
    }
}

impl Observer {
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
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.keep(Arc::clone(&record));
        // Nobody may be watching.
        let _ = self.live.send(record);
    }

    /// The records to come.
    pub fn live(&self) -> broadcast::Receiver<Arc<FlowRecord>> {
        self.live.subscribe()
    }

    /// The newest `last` records that are wanted, oldest first, and all those after them.
    pub fn watch(
        &self,
        last: usize,
        filter: &Filter,
    ) -> (Vec<Arc<FlowRecord>>, broadcast::Receiver<Arc<FlowRecord>>) {
        let (past, live) = {
            let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            // At once, so that none is missed or seen twice.
            (history.all(), self.live.subscribe())
        };
        let newest = past.into_iter().rev().map(|(_, record)| record);
        let newest = newest.filter(|record| filter.wants(record)).take(last);
        let mut found: Vec<_> = newest.collect();
        found.reverse();
        (found, live)
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
fn record(event: &Event, time: SystemTime, names: &Published) -> FlowRecord {
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
    let fits = labels.iter().take_while(|(name, value)| {
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
    use super::*;

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
    }
}
