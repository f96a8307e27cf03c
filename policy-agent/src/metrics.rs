//! Prometheus metrics. The drop and rule counters are the kernel's own, read at each scrape.
//!
//! Labels are names, never container ids or addresses. The number of series is bounded ([`Bounds`]): what
//! comes after that many is summed under `other`.

mod connections;
mod exposition;
mod flows;
mod retired;
mod series;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use aya::maps::MapError;
use policy_api::{
    connectivity::DropCount,
    messages::{Component, EndpointState, RuleCount, RuleName, StagedFlows},
};
use policy_common::abi::{ABI_VERSION, Counter, DropReason, EventKind, OpenedKey, StagedCounter};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text},
    metrics::{
        MetricType,
        counter::ConstCounter,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};
use tokio::sync::watch;
use tracing::warn;

use connections::Connections;
pub use exposition::Format;
use flows::Flows;
use retired::Retired;
pub use retired::{Bounds, Kept};
use series::DropSeries;
pub(crate) use series::Series;

use crate::{
    conntrack::Census,
    flow_log,
    flows::Tally,
    history,
    kernel::counters::Counters,
    published::{Keepers, Published},
};

/// Everything behind `/metrics`.
pub struct Metrics {
    registry: Registry,
    source: Arc<Source>,
    apply_seconds: Histogram,
    fence_seconds: Histogram,
}

struct Source {
    counters: Mutex<Counters>,
    published: watch::Receiver<Arc<Published>>,
    retired: Mutex<Retired>,
    tally: Option<Arc<Tally>>,
    keepers: Keepers,
}

/// Who tells what metrics are made of.
pub struct Told {
    /// The kernel's counters.
    pub counters: Counters,
    /// Names.
    pub published: watch::Receiver<Arc<Published>>,
    /// What was counted of who is gone, by earlier agents.
    pub kept: Kept,
    /// Bounds of the number of series.
    pub bounds: Bounds,
    /// The newest count of connections.
    pub census: watch::Receiver<Census>,
    /// What passed of flows, if they are followed.
    pub tally: Option<Arc<Tally>>,
    /// How the flow log and the history do.
    pub keepers: Keepers,
}

impl Metrics {
    /// Metrics of what these tell.
    pub fn new(told: Told) -> Metrics {
        let Told { counters, published, kept, bounds, census, tally, keepers } = told;
        let source = Arc::new(Source {
            counters: Mutex::new(counters),
            published,
            retired: Mutex::new(Retired::of(kept, bounds)),
            tally,
            keepers: keepers.clone(),
        });
        let apply_seconds = Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        let fence_seconds = Histogram::new(exponential_buckets(0.000_05, 2.0, 14));
        let mut registry = Registry::with_prefix("palisade");
        if let Some((_, ledger)) = keepers.flow_log {
            registry.register_collector(Box::new(flow_log::Counters(ledger)));
        }
        if let Some(standing) = keepers.history {
            registry.register_collector(Box::new(history::Counters(standing)));
        }
        let build = vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("abi", ABI_VERSION.to_string()),
        ];
        registry.register("build", "What this agent is", Info::new(build));
        registry.register_with_unit(
            "apply_duration",
            "From a change of policy or endpoints to the datapath holding it",
            Unit::Seconds,
            apply_seconds.clone(),
        );
        registry.register_with_unit(
            "fence_delay",
            "From hearing of a new interface to its programs being on it",
            Unit::Seconds,
            fence_seconds.clone(),
        );
        registry.register_collector(Box::new(KernelCollector(Arc::clone(&source))));
        registry.register_collector(Box::new(Flows(Arc::clone(&source))));
        registry.register_collector(Box::new(Connections(census)));
        Metrics { registry, source, apply_seconds, fence_seconds }
    }

    /// Notes how long a change took.
    pub fn applied(&self, seconds: f64) {
        self.apply_seconds.observe(seconds);
    }

    /// Notes how long an interface waited for its fence.
    pub fn fenced(&self, seconds: f64) {
        self.fence_seconds.observe(seconds);
    }

    /// What the rules have decided that are wanted.
    ///
    /// # Errors
    ///
    /// The kernel's counters cannot be read.
    pub fn rules(&self, wanted: impl Fn(&RuleName) -> bool) -> Result<Vec<RuleCount>, MapError> {
        let names = Arc::clone(&self.source.published.borrow());
        let (totals, staged) = self.source.rules(&names, &wanted)?;
        let none = |rule: &RuleName| RuleCount {
            rule: rule.clone(),
            packets: 0,
            bytes: 0,
            staged: StagedFlows::default(),
        };
        // Rules that nothing has met yet are there, too.
        let held = names.ids.rules().map(|(_, rule)| rule).filter(|rule| wanted(rule));
        let mut counts: BTreeMap<&RuleName, RuleCount> =
            held.map(|rule| (rule, none(rule))).collect();
        for (rule, Counter { packets, bytes }) in totals {
            let count = counts.entry(rule).or_insert_with(|| none(rule));
            (count.packets, count.bytes) = (packets, bytes);
        }
        for (rule, StagedCounter { denied, allowed }) in staged {
            counts.entry(rule).or_insert_with(|| none(rule)).staged =
                StagedFlows { allowed, denied };
        }
        Ok(counts.into_values().collect())
    }

    /// What was dropped, between whom, and why.
    ///
    /// # Errors
    ///
    /// The kernel's counters cannot be read.
    pub fn drops(&self) -> Result<Vec<DropCount>, fmt::Error> {
        let names = Arc::clone(&self.source.published.borrow());
        let totals = self.source.drops(&names)?;
        Ok(totals.into_iter().map(|(series, counter)| series.counted(counter)).collect())
    }

    /// All metrics.
    ///
    /// # Errors
    ///
    /// A collector failed.
    pub fn encode(&self, format: Format) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(format.of(out))
    }

    /// Moves the counters of drops and flows that `gone` picks out of the kernel, under the names that they
    /// have now: their interface is gone, or their rule or peer. Returns all such totals, to be kept, if
    /// there are more than before.
    pub fn retire(&self, gone: impl Fn(&OpenedKey) -> bool, names: &Published) -> Option<Kept> {
        let mut counters = lock(&self.source.counters);
        let mut retired = lock(&self.source.retired);
        let mut changed = false;
        let unreadable =
            |error| warn!(%error, "cannot read what was counted of an interface that is gone");
        // Nothing counts under these keys any more: what is read is the last value.
        for (key, counter) in counters.drops().map_err(unreadable).unwrap_or_default() {
            if gone(&key.parties()) && counters.forget_drop(&key).is_ok() {
                retired.drops.add(DropSeries::of(&key, names), counter);
                changed = true;
            }
        }
        for (key, flows) in counters.opened().map_err(unreadable).unwrap_or_default() {
            if gone(&key) && counters.forget_opened(&key).is_ok() {
                retired.flows.add(Series::of(&key, names), flows);
                changed = true;
            }
        }
        for (key, passed) in self.source.tally.iter().flat_map(|tally| tally.take(&gone)) {
            retired.traffic.add(Series::of(&key, names), passed);
        }
        changed.then(|| retired.kept())
    }
}

impl Metrics {
    /// Forgets what rules and lists of Log rules have counted whose numbers may be given away
    /// again.
    pub fn clear(&self, rules: &[u32], logs: &[u32]) {
        let mut counters = lock(&self.source.counters);
        let rules = rules.iter().map(|id| counters.clear_rule(*id)).collect::<Vec<_>>();
        let logs = logs.iter().map(|id| counters.clear_log(*id));
        for error in rules.into_iter().chain(logs).filter_map(Result::err) {
            warn!(%error, "cannot clear the counter of a rule that is gone");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Health by name; several components of one name are well if all of them are. A series must not
/// stand twice in one answer.
fn health<'a>(components: impl IntoIterator<Item = &'a Component>) -> BTreeMap<&'a str, bool> {
    let mut health = BTreeMap::new();
    for component in components {
        *health.entry(component.name.as_str()).or_insert(true) &= component.healthy;
    }
    health
}

impl Source {
    /// What each rule that is wanted decided or logged, and what each of them would have decided in a
    /// staged walk.
    #[expect(clippy::type_complexity, reason = "two lists by rule, for two callers")]
    fn rules<'a>(
        &self,
        names: &'a Published,
        wanted: impl Fn(&RuleName) -> bool,
    ) -> Result<(BTreeMap<&'a RuleName, Counter>, Vec<(&'a RuleName, StagedCounter)>), MapError>
    {
        let counters = lock(&self.counters);
        let mut totals: BTreeMap<&RuleName, Counter> = BTreeMap::new();
        let mut staged = Vec::new();
        for (id, rule) in names.ids.rules().filter(|(_, rule)| wanted(rule)) {
            let is_staged = rule.kind.starts_with("Staged");
            // Of rules in force, those where a walk with the staged ones has ended; of staged ones all that could
            // decide something: whether one was ever met is what a roll-out wants to know.
            let flows = counters.staged(id)?;
            if is_staged || flows != StagedCounter::default() {
                staged.push((rule, flows));
            }
            // A staged rule decides nothing, and a series that can only be 0 says otherwise.
            if !is_staged {
                totals.insert(rule, counters.rule(id)?);
            }
        }
        for (id, rules) in names.ids.logs() {
            let counter = counters.log(id)?;
            let rules = rules.iter().filter(|rule| wanted(rule));
            rules.for_each(|rule| *totals.entry(rule).or_default() += counter);
        }
        Ok((totals, staged))
    }

    /// Drop totals by series, bounded.
    fn drops(&self, names: &Published) -> Result<BTreeMap<DropSeries, Counter>, fmt::Error> {
        let counters = lock(&self.counters);
        let drops = counters.drops().map_err(unreadable)?.into_iter();
        let rest = counters.drops_other().map_err(unreadable)?.into_iter().zip(DropReason::ALL);
        let rest = rest
            .filter(|(counter, _)| counter.packets > 0)
            .map(|(counter, reason)| (DropSeries::rest(reason.name()), counter));
        let live = drops.map(|(key, counter)| (DropSeries::of(&key, names), counter)).chain(rest);
        let mut retired = lock(&self.retired);
        let totals = retired.drops.with_live(live);
        retired.expire(SystemTime::now());
        Ok(totals)
    }
}

#[derive(Debug)]
struct KernelCollector(Arc<Source>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

impl Collector for KernelCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let names = Arc::clone(&self.0.published.borrow());
        let drops = self.0.drops(&names)?;
        let mut counter = |name: &str, help: &str, value: fn(&Counter) -> u64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            drops.iter().try_for_each(|(series, total)| {
                let labels = series.labels();
                ConstCounter::new(value(total)).encode(family.encode_family(&labels)?)
            })
        };
        counter("dropped_packets", "Packets dropped, by who decided", |c| c.packets)?;
        counter("dropped_bytes", "Bytes of dropped packets", |c| c.bytes)?;
        self.rules(&mut encoder, &names)?;
        self.state(&mut encoder, &names)
    }
}

impl KernelCollector {
    fn rules(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        names: &Published,
    ) -> Result<(), fmt::Error> {
        let (totals, staged) = self.0.rules(names, |_| true).map_err(unreadable)?;
        let mut counter = |name: &str, help: &str, value: fn(&Counter) -> u64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            totals.iter().try_for_each(|(rule, total)| {
                let labels = rule_labels(rule);
                ConstCounter::new(value(total)).encode(family.encode_family(&labels)?)
            })
        };
        counter("rule_packets", "Packets that a rule allowed, denied or logged", |c| c.packets)?;
        counter("rule_bytes", "Bytes that a rule allowed, denied or logged", |c| c.bytes)?;
        let mut family = encoder.encode_descriptor(
            "staged_flows",
            "New flows that a rule would decide if the staged policies were in force, by what \
             became of them",
            None,
            MetricType::Counter,
        )?;
        for (rule, flows) in staged {
            for (enforced, count) in [("allow", flows.allowed), ("deny", flows.denied)] {
                let [tier, namespace, kind, policy, name, action] = rule_labels(rule);
                let labels = [tier, namespace, kind, policy, name, action, ("enforced", enforced)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn state(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        names: &Published,
    ) -> Result<(), fmt::Error> {
        let events = lock(&self.0.counters).events().map_err(unreadable)?;
        let mut lost = encoder.encode_descriptor(
            "events_lost",
            "Packets that were counted but not told as an event, by kind and cause",
            None,
            MetricType::Counter,
        )?;
        for (kind, events) in EventKind::ALL.iter().zip(events) {
            for (cause, count) in [
                ("coalesced", events.coalesced),
                ("rate-limit", events.limited),
                ("ring-full", events.ring_full),
            ] {
                let labels = [("event", kind.name()), ("cause", cause)];
                ConstCounter::new(count).encode(lost.encode_family(&labels)?)?;
            }
        }
        let mut endpoints = encoder.encode_descriptor(
            "endpoints",
            "Endpoints by state",
            None,
            MetricType::Gauge,
        )?;
        for (state, name) in [
            (EndpointState::Enforcing, "enforcing"),
            (EndpointState::Pending, "pending"),
            (EndpointState::Unsupported, "unsupported"),
            (EndpointState::Elsewhere, "elsewhere"),
        ] {
            let count = i64::try_from(names.count(state)).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(endpoints.encode_family(&[("state", name)])?)?;
        }
        let mut used = encoder.encode_descriptor(
            "map_entries",
            "Entries in use of a kernel map",
            None,
            MetricType::Gauge,
        )?;
        for map in &names.usage {
            let count = i64::try_from(map.used).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(used.encode_family(&[("map", map.name.as_str())])?)?;
        }
        let mut capacity = encoder.encode_descriptor(
            "map_capacity",
            "Entries that fit a kernel map",
            None,
            MetricType::Gauge,
        )?;
        for map in &names.usage {
            let count = i64::try_from(map.capacity).unwrap_or(i64::MAX);
            ConstGauge::new(count)
                .encode(capacity.encode_family(&[("map", map.name.as_str())])?)?;
        }
        let mut up = encoder.encode_descriptor(
            "component_up",
            "1 if a part of the agent works",
            None,
            MetricType::Gauge,
        )?;
        let own = self.0.keepers.components();
        for (component, healthy) in health(names.components.iter().chain(&own)) {
            ConstGauge::new(i64::from(healthy))
                .encode(up.encode_family(&[("component", component)])?)?;
        }
        let policies = i64::try_from(names.model.policies.len()).unwrap_or(i64::MAX);
        ConstGauge::new(policies).encode(encoder.encode_descriptor(
            "policies",
            "Policies in force",
            None,
            MetricType::Gauge,
        )?)?;
        let revision = i64::try_from(names.revision).unwrap_or(i64::MAX);
        ConstGauge::new(revision).encode(encoder.encode_descriptor(
            "datapath_revision",
            "Rises with every change that the datapath holds",
            None,
            MetricType::Gauge,
        )?)
    }
}

fn rule_labels(rule: &RuleName) -> [(&'static str, &str); 6] {
    [
        ("tier", rule.tier.as_str()),
        ("policy_namespace", &rule.namespace),
        ("kind", &rule.kind),
        ("policy", &rule.policy),
        ("rule", &rule.rule),
        ("action", &rule.action),
    ]
}

fn unreadable(error: MapError) -> fmt::Error {
    warn!(%error, "cannot read the kernel's counters");
    fmt::Error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_of_one_name_are_one_series() {
        let component = |name: &str, healthy| Component {
            name: name.to_owned(),
            healthy,
            detail: String::new(),
        };
        let all = [component("fence", false), component("fence", true), component("docker", true)];
        let health: Vec<_> = health(&all).into_iter().collect();
        assert_eq!(health, [("docker", true), ("fence", false)]);
    }
}
