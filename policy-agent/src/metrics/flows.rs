//! Metrics of flows that were let through: how many began, counted by the programs, and what passed of
//! them, read from the connection tables.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};

use super::{Series, Source, lock, unreadable};
use crate::flows::Passed;

/// What the source knows of flows, as metrics.
#[derive(Debug)]
pub(super) struct Flows(pub(super) Arc<Source>);

impl Collector for Flows {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let names = Arc::clone(&self.0.published.borrow());
        let traffic = {
            // Both at once, so that what is being retired is in one of them and not in both; and in one order, by
            // which series it is decided that are told apart.
            let counters = lock(&self.0.counters);
            let mut opened = counters.opened().map_err(unreadable)?;
            opened.sort_unstable_by_key(|(key, _)| *key);
            let rest = counters.opened_other().map_err(unreadable)?;
            let rest = (rest > 0).then(|| (Series::rest(), rest));
            let live = opened.iter().map(|(key, flows)| (Series::of(key, &names), *flows));
            let mut retired = lock(&self.0.retired);
            let flows = retired.flows.with_live(live.chain(rest));
            drop(counters);
            let help = "Flows that began and were let through, by who decided";
            let mut family = encoder.encode_descriptor("flows", help, None, MetricType::Counter)?;
            for (series, flows) in &flows {
                ConstCounter::new(*flows).encode(family.encode_family(&series.labels())?)?;
            }
            let Some(tally) = &self.0.tally else { return Ok(()) };
            for (series, passed) in tally.take_late() {
                retired.traffic.add(series, passed);
            }
            let mut passed = tally.passed();
            passed.sort_unstable_by_key(|(key, _)| *key);
            retired.traffic.with_live(passed.into_iter().map(|(key, passed)| match key {
                Some(key) => (Series::of(&key, &names), passed),
                None => (Series::rest(), passed),
            }))
        };
        let Some(tally) = &self.0.tally else { return Ok(()) };
        let mut counter = |name: &str, help: &str, ways: [fn(&Passed) -> u64; 2]| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            traffic.iter().try_for_each(|(series, passed)| {
                ["original", "reply"].iter().zip(ways).try_for_each(|(way, value)| {
                    let labels = series.labels();
                    let way = [("way", *way)].into_iter();
                    let labels: Vec<(&str, &str)> = way.chain(labels).collect();
                    ConstCounter::new(value(passed)).encode(family.encode_family(&labels)?)
                })
            })
        };
        counter(
            "flow_packets",
            "Packets of flows that were let through, of both ways, since the agent started",
            [|it| it.packets, |it| it.reply_packets],
        )?;
        counter(
            "flow_bytes",
            "Bytes of flows that were let through, of both ways, since the agent started",
            [|it| it.bytes, |it| it.reply_bytes],
        )?;
        let mut lost = encoder.encode_descriptor(
            "flow_records_lost",
            "Flows without a record: they came and went unseen, too fast, or were too many at a time",
            None,
            MetricType::Counter,
        )?;
        for (cause, count) in tally.lost() {
            ConstCounter::new(count).encode(lost.encode_family(&[("cause", cause)])?)?;
        }
        Ok(())
    }
}
