//! The connection tables, read from time to time.
//!
//! Inputs: the tables, the programs' counters, their clock. Outputs: a [`Census`] for metrics and
//! status, and records of flows that began or ended (`flows.rs`), if anybody follows them. Nothing is
//! swept: a connection is over when its time is (`policy_common::conntrack`), and its entry is there for
//! the taking. So reading may be slow, and takes at most one part in [`SHARE`] of one CPU.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use policy_api::{flow::FlowRecord, messages::MapUsage};
use policy_common::{
    abi::{FLOW_ASSURED, FLOW_REPLIED, Flow, FlowCounter},
    conntrack::{closing, expired},
    maps,
    packet::protocol,
};
use tokio::{sync::watch, task, time};
use tracing::{info, warn};

use crate::{
    flows::{Clock, Tracker},
    kernel::{clock, flows::Flows},
    observer::Observer,
    published::Published,
};

/// Shortest time between two readings, if flows are followed and if not.
const FOLLOWING: Duration = Duration::from_secs(1);
const COUNTING: Duration = Duration::from_secs(10);
/// One part in so many of a CPU is what reading may take.
const SHARE: u32 = 50;
/// So many records go out at once, and then none for a while: who watches must be able to keep up.
const BURST: usize = 1024;
const BREATH: Duration = Duration::from_millis(50);

/// Connections of one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Not answered yet, or TCP in its handshake.
    pub new: u64,
    /// Answered; TCP: the handshake is complete.
    pub established: u64,
    /// TCP after a FIN or RST.
    pub closing: u64,
    /// Entries of connections that are over.
    pub over: u64,
    /// Connections that got an entry, since the table was made.
    pub opened: u64,
    /// Entries that were taken for others as the table was full, as far as is known: never too many.
    pub evicted: u64,
    /// Connections that got no entry.
    pub refused: u64,
    /// Entries that fit.
    pub capacity: u64,
}

impl Count {
    fn add(&mut self, state: u8, protocol: u8, seen_ns: u64, now_ns: u64) {
        let complete = if protocol == protocol::TCP { FLOW_ASSURED } else { FLOW_REPLIED };
        *if expired(state, protocol, seen_ns, now_ns) {
            &mut self.over
        } else if closing(state) {
            &mut self.closing
        } else if state & complete != 0 {
            &mut self.established
        } else {
            &mut self.new
        } += 1;
    }

    /// Connections that are not over.
    pub fn live(&self) -> u64 {
        self.new + self.established + self.closing
    }
}

/// Connections of IPv4 and of IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census(pub [Count; 2]);

impl Census {
    /// What the programs have counted, and room.
    fn begin(flows: &Flows, counter: &FlowCounter) -> anyhow::Result<Census> {
        let capacity = flows.capacity().context("asking for the size of the connection tables")?;
        let mut census = Census::default();
        for (family, count) in census.0.iter_mut().enumerate() {
            count.capacity = u64::from(capacity[family]);
            count.opened = counter.opened[family];
            count.refused = counter.refused[family];
        }
        Ok(census)
    }

    /// Once every entry has been added; `before` is the count before this one.
    fn end(&mut self, before: &Census) {
        for (count, before) in self.0.iter_mut().zip(before.0) {
            let here = count.live() + count.over;
            count.evicted = count.opened.saturating_sub(here).max(before.evicted);
        }
    }

    /// Live connections as the use of the tables.
    pub fn usage(&self) -> [MapUsage; 2] {
        let [v4, v6] = self.0;
        [(maps::CONNTRACK_V4, v4), (maps::CONNTRACK_V6, v6)].map(|(name, count)| MapUsage {
            name: name.to_owned(),
            used: count.live(),
            capacity: count.capacity,
        })
    }
}

/// Who follows flows.
pub struct Following {
    /// Knows them from one reading to the next.
    pub tracker: Tracker,
    /// Names.
    pub published: watch::Receiver<Arc<Published>>,
    /// Gets the records.
    pub observer: Observer,
}

/// What a reading needs, and leaves for the next.
struct Reader {
    flows: Flows,
    following: Option<Following>,
    before: Census,
}

/// What one reading found.
struct Reading {
    census: anyhow::Result<Census>,
    /// Of flows that began or ended, in no order of theirs.
    records: Vec<FlowRecord>,
    took: Duration,
}

impl Reader {
    /// Reads the tables once.
    fn read(&mut self) -> Reading {
        let start = Instant::now();
        let census = self.census();
        let is_whole = census.is_ok();
        let records = self.following.as_mut().map(|following| following.tracker.end(is_whole));
        Reading { census, records: records.unwrap_or_default(), took: start.elapsed() }
    }

    fn census(&mut self) -> anyhow::Result<Census> {
        // Before the entries: what is opened while they are read is then missing here, not there.
        let counter = self.flows.counter().context("reading the counters of connections")?;
        let mut census = Census::begin(&self.flows, &counter)?;
        let clock = Clock { ns: clock::monotonic_ns(), time: SystemTime::now() };
        let mut tracker = self.following.as_mut().map(|following| {
            let names = Arc::clone(&following.published.borrow());
            following.tracker.begin(names, counter.began, clock);
            &mut following.tracker
        });
        let [v4, v6] = &mut census.0;
        let add = |count: &mut Count, protocol, flow: &Flow| {
            count.add(flow.state, protocol, flow.seen_ns, clock.ns);
        };
        let read = self.flows.each_v4(|key, flow| {
            add(v4, key.protocol, flow);
            tracker.iter_mut().for_each(|tracker| tracker.see(key, flow));
        });
        let read = read.and_then(|()| {
            self.flows.each_v6(|key, flow| {
                add(v6, key.protocol, flow);
                tracker.iter_mut().for_each(|tracker| tracker.see(key, flow));
            })
        });
        read.context("reading the connection tables")?;
        census.end(&self.before);
        self.before = census;
        Ok(census)
    }
}

/// Reads the tables again and again, until nobody wants to know.
pub async fn watch(flows: Flows, following: Option<Following>, census: watch::Sender<Census>) {
    let shortest = if following.is_some() { FOLLOWING } else { COUNTING };
    let observer = following.as_ref().map(|following| following.observer.clone());
    let reader = Reader { flows, following, before: Census::default() };
    let reader = Arc::new(Mutex::new(reader));
    let mut works = true;
    while !census.is_closed() {
        let reading = Arc::clone(&reader);
        let read = task::spawn_blocking(move || {
            reading.lock().unwrap_or_else(PoisonError::into_inner).read()
        });
        let Reading { census: counted, records, took } = read.await.unwrap_or_else(|error| {
            let (records, took) = (Vec::new(), COUNTING);
            Reading { census: Err(error.into()), records, took }
        });
        match counted {
            Ok(counted) => {
                census.send_replace(counted);
                if !works {
                    info!("the connections can be read again");
                }
                works = true;
            }
            // Once, and not every second.
            Err(error) if works => {
                warn!(error = format!("{error:#}"), "cannot read the connections");
                works = false;
            }
            Err(_) => {}
        }
        if let Some(observer) = &observer {
            tell(observer, records).await;
        }
        time::sleep(shortest.max(took * SHARE)).await;
    }
}

async fn tell(observer: &Observer, records: Vec<FlowRecord>) {
    for (number, record) in records.into_iter().enumerate() {
        if number > 0 && number % BURST == 0 {
            time::sleep(BREATH).await;
        }
        observer.take(Arc::new(record));
    }
}

#[cfg(test)]
mod tests {
    use policy_common::abi::{FLOW_FIN_REPLY, FLOW_RESET};

    use super::*;

    #[test]
    fn connections_are_counted_by_what_they_are_in() {
        const SECOND: u64 = 1_000_000_000;
        let now = 1_000_000 * SECOND;
        let mut count = Count::default();
        let (tcp, udp) = (protocol::TCP, protocol::UDP);
        for (state, protocol, ago) in [
            (0, tcp, 119),
            (FLOW_REPLIED, tcp, 59),
            (FLOW_REPLIED | FLOW_ASSURED, tcp, 431_999),
            (FLOW_REPLIED, udp, 119),
            (FLOW_REPLIED | FLOW_ASSURED, udp, 1),
            (FLOW_REPLIED | FLOW_ASSURED | FLOW_FIN_REPLY, tcp, 100),
            (FLOW_RESET, tcp, 9),
            (FLOW_RESET, tcp, 11),
            (FLOW_REPLIED, tcp, 61),
            (0, udp, 31),
        ] {
            count.add(state, protocol, now - ago * SECOND, now);
        }
        let Count { new, established, closing, over, .. } = count;
        assert_eq!((new, established, closing, over), (2, 3, 2, 3));
        assert_eq!(count.live(), 7);
    }
}
