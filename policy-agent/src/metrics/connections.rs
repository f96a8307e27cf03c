//! Metrics of the connection tables.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use tokio::sync::watch;

use crate::conntrack::{Census, Count};

const FAMILIES: [(&str, &str); 2] = [("family", "ipv4"), ("family", "ipv6")];
/// The newest census, as metrics.
#[derive(Debug)]
pub(super) struct Connections(pub(super) watch::Receiver<Census>);

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Census(counts) = *self.0.borrow();
        let families = || FAMILIES.iter().zip(&counts);
        let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let mut entries = encoder.encode_descriptor(
            "conntrack_entries",
            "Entries of the connection tables, by what their connection is in; those of connections \
             that are over wait to be taken",
            None,
            MetricType::Gauge,
        )?;
        for (family, count) in families() {
            for (state, entries_in) in [
                ("new", count.new),
                ("established", count.established),
                ("closing", count.closing),
                ("over", count.over),
            ] {
                let labels = [*family, ("state", state)];
                gauge(entries_in).encode(entries.encode_family(&labels)?)?;
            }
        }
        let mut capacity = encoder.encode_descriptor(
            "conntrack_capacity",
            "Entries that fit a connection table",
            None,
            MetricType::Gauge,
        )?;
        for (family, count) in families() {
            gauge(count.capacity).encode(capacity.encode_family(&[*family])?)?;
        }
        let mut counter = |name: &str, help: &str, value: fn(&Count) -> u64| {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            families().try_for_each(|(family, count)| {
                ConstCounter::new(value(count)).encode(metric.encode_family(&[*family])?)
            })
        };
        counter("conntrack_opened", "Connections that got an entry", |count| count.opened)?;
        counter(
            "conntrack_evicted",
            "Entries taken for new connections because the table was full; at least so many",
            |count| count.evicted,
        )?;
        counter(
            "conntrack_refused",
            "Connections that got no entry, as none could be freed at once",
            |count| count.refused,
        )
    }
}
