//! How full the connection tables are, counted from time to time.
//!
//! Inputs: the tables, the programs' counters, their clock. Outputs: a [`Census`] for metrics and
//! status. Nothing is swept: a connection is over when its time is (`policy_common::conntrack`), and
//! its entry is there for the taking. So counting may be slow, and takes at most one part in
//! [`SHARE`] of one CPU.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use policy_api::messages::MapUsage;
use policy_common::{
    abi::{FLOW_ASSURED, FLOW_REPLIED, Flow},
    conntrack::{closing, expired},
    maps,
    packet::protocol,
};
use tokio::{sync::watch, task, time};
use tracing::{info, warn};

use crate::kernel::{clock, flows::Flows};

/// Shortest time between two counts.
const PAUSE: Duration = Duration::from_secs(10);
/// One part in so many of a CPU is what counting may take.
const SHARE: u32 = 50;

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
    /// Counts. `before` is the count before this one.
    fn take(flows: &Flows, before: &Census) -> anyhow::Result<Census> {
        // Before the entries: what is opened while they are counted is then missing here, not there.
        let counter = flows.counter().context("reading the counters of connections")?;
        let capacity = flows.capacity().context("asking for the size of the connection tables")?;
        let now = clock::monotonic_ns();
        let mut census = Census::default();
        let [v4, v6] = &mut census.0;
        let add = |count: &mut Count, protocol, flow: &Flow| {
            count.add(flow.state, protocol, flow.seen_ns, now);
        };
        flows
            .each_v4(|key, flow| add(v4, key.protocol, flow))
            .and_then(|()| flows.each_v6(|key, flow| add(v6, key.protocol, flow)))
            .context("reading the connection tables")?;
        for (family, count) in census.0.iter_mut().enumerate() {
            count.capacity = u64::from(capacity[family]);
            count.opened = counter.opened[family];
            count.refused = counter.refused[family];
            let here = count.live() + count.over;
            count.evicted = count.opened.saturating_sub(here).max(before.0[family].evicted);
        }
        Ok(census)
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

/// Counts again and again, until nobody wants to know.
pub async fn count(flows: Flows, census: watch::Sender<Census>) {
    let flows = Arc::new(flows);
    let mut works = true;
    while !census.is_closed() {
        let start = Instant::now();
        let (table, before) = (Arc::clone(&flows), *census.borrow());
        let counted = task::spawn_blocking(move || Census::take(&table, &before)).await;
        match counted.map_err(anyhow::Error::from).and_then(|counted| counted) {
            Ok(counted) => {
                census.send_replace(counted);
                if !works {
                    info!("the connections can be counted again");
                }
                works = true;
            }
            // Once, and not every ten seconds.
            Err(error) if works => {
                warn!(error = format!("{error:#}"), "cannot count the connections");
                works = false;
            }
            Err(_) => {}
        }
        time::sleep(PAUSE.max(start.elapsed() * SHARE)).await;
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
