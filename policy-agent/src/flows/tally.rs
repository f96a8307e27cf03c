//! What passed of flows, by who let them through.

use std::{
    collections::HashMap,
    ops::AddAssign,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use policy_common::{abi::OpenedKey, maps::MAX_OPENED};

use super::lock;
use crate::metrics::Series;

/// What passed, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Packets from who began the flow.
    pub packets: u64,
    /// Their bytes, L2 frames.
    pub bytes: u64,
    /// Packets of the other direction.
    pub reply_packets: u64,
    /// Their bytes.
    pub reply_bytes: u64,
}

impl AddAssign for Passed {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.reply_packets += other.reply_packets;
        self.reply_bytes += other.reply_bytes;
    }
}

/// What passed since the agent started, and which flows have no record.
#[derive(Debug, Default)]
pub struct Tally {
    /// `None`: those for which there was no room.
    passed: Mutex<HashMap<Option<OpenedKey>, Passed>>,
    /// Of whom nothing is counted by number any more: they went before the tables were read.
    late: Mutex<HashMap<Series, Passed>>,
    /// Flows that came and went between two readings.
    pub(super) unseen: AtomicU64,
    /// Flows that were too many at a time.
    pub(super) too_many: AtomicU64,
    /// Records that were too many in a second.
    pub(super) limited: AtomicU64,
}

impl Tally {
    pub(super) fn add(&self, key: OpenedKey, more: Passed) {
        let mut passed = lock(&self.passed);
        // As many as the programs tell apart, and the rest.
        let has_room = passed.len() < MAX_OPENED as usize;
        let key = Some(key).filter(|key| has_room || passed.contains_key(&Some(*key)));
        *passed.entry(key).or_default() += more;
    }

    /// Adds to what is not told apart.
    pub(super) fn add_rest(&self, more: Passed) {
        *lock(&self.passed).entry(None).or_default() += more;
    }

    /// Adds to what passed of somebody who is gone.
    pub(super) fn add_late(&self, series: Series, more: Passed) {
        let mut late = lock(&self.late);
        // Until somebody asks; then it is among what is kept of who is gone, and bounded there.
        if late.len() < MAX_OPENED as usize || late.contains_key(&series) {
            *late.entry(series).or_default() += more;
        } else {
            drop(late);
            self.add_rest(more);
        }
    }

    /// Takes what passed of who was gone by then.
    pub(crate) fn take_late(&self) -> HashMap<Series, Passed> {
        std::mem::take(&mut *lock(&self.late))
    }

    /// All of it; `None`: what is not told apart.
    pub(crate) fn passed(&self) -> Vec<(Option<OpenedKey>, Passed)> {
        lock(&self.passed).iter().map(|(key, passed)| (*key, *passed)).collect()
    }

    /// Takes out what `gone` picks.
    pub(crate) fn take(&self, gone: impl Fn(&OpenedKey) -> bool) -> Vec<(OpenedKey, Passed)> {
        let mut passed = lock(&self.passed);
        let gone = passed.extract_if(|key, _| key.as_ref().is_some_and(&gone));
        gone.filter_map(|(key, passed)| Some((key?, passed))).collect()
    }

    /// Flows without a record, by cause.
    pub(crate) fn lost(&self) -> [(&'static str, u64); 3] {
        [("unseen", &self.unseen), ("too-many", &self.too_many), ("rate-limit", &self.limited)]
            .map(|(cause, count)| (cause, count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_together() {
        let tally = Tally::default();
        let key =
            |rule| OpenedKey { ifindex: 1, peer: 2, rule, port: 80, protocol: 6, direction: 0 };
        let one = Passed { packets: 1, bytes: 60, reply_packets: 2, reply_bytes: 120 };
        for rule in 0..MAX_OPENED + 10 {
            tally.add(key(rule), one);
        }
        tally.add(key(3), one);
        let all = tally.passed();
        assert_eq!(all.len(), MAX_OPENED as usize + 1);
        let rest = all.iter().find(|(key, _)| key.is_none());
        assert_eq!(rest.map(|(_, passed)| passed.packets), Some(10));
        assert_eq!(all.iter().map(|(_, it)| it.reply_bytes).sum::<u64>(), (16_384 + 11) * 120);
        let taken = tally.take(|key| key.rule == 3);
        assert_eq!(taken.iter().map(|(_, it)| it.bytes).collect::<Vec<_>>(), [120]);
        assert_eq!(tally.passed().len(), MAX_OPENED as usize);
    }
}
