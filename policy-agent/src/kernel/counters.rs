//! What the programs counted, summed over CPUs.

use aya::maps::{MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use policy_common::{
    abi::{
        Counter, DROP_REASONS, DropCounter, DropKey, EVENT_KINDS, EventBudget, FlowCounter,
        OpenedKey, StagedCounter,
    },
    maps as name,
};

use super::{load::LoadError, maps::open, pin::Pins};

/// Handles on the counter maps, for reading.
pub struct Counters {
    rules: PerCpuArray<MapData, Counter>,
    drops: PerCpuHashMap<MapData, DropKey, DropCounter>,
    drops_other: PerCpuArray<MapData, Counter>,
    opened: PerCpuHashMap<MapData, OpenedKey, u64>,
    flows: PerCpuArray<MapData, FlowCounter>,
    staged: PerCpuArray<MapData, StagedCounter>,
    logs: PerCpuArray<MapData, Counter>,
    events: PerCpuArray<MapData, EventBudget>,
}

impl Counters {
    /// Opens the pinned maps.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if one is missing or of another type.
    pub fn open(pins: &Pins) -> Result<Counters, LoadError> {
        Ok(Counters {
            rules: open(pins, name::RULES)?,
            drops: open(pins, name::DROPS)?,
            drops_other: open(pins, name::DROPS_OTHER)?,
            opened: open(pins, name::OPENED)?,
            flows: open(pins, name::FLOWS)?,
            staged: open(pins, name::STAGED)?,
            logs: open(pins, name::LOGS)?,
            events: open(pins, name::EVENT_BUDGET)?,
        })
    }

    /// Packets and bytes that a rule decided.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn rule(&self, id: u32) -> Result<Counter, MapError> {
        Ok(sum(&self.rules.get(&id, 0)?))
    }

    /// Flows that a rule of a staged walk would have decided.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn staged(&self, id: u32) -> Result<StagedCounter, MapError> {
        let values = self.staged.get(&id, 0)?;
        Ok(values.iter().fold(StagedCounter::default(), |sum, value| StagedCounter {
            denied: sum.denied + value.denied,
            allowed: sum.allowed + value.allowed,
        }))
    }

    /// Packets and bytes that a list of Log rules matched.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn log(&self, id: u32) -> Result<Counter, MapError> {
        Ok(sum(&self.logs.get(&id, 0)?))
    }

    /// Sets the counters of a rule to zero, before its number is another rule's.
    ///
    /// # Errors
    ///
    /// A map cannot be written.
    pub fn clear_rule(&mut self, id: u32) -> Result<(), MapError> {
        let cpus = self.rules.get(&id, 0)?.len();
        self.rules.set(id, PerCpuValues::try_from(vec![Counter::default(); cpus])?, 0)?;
        self.staged.set(id, PerCpuValues::try_from(vec![StagedCounter::default(); cpus])?, 0)
    }

    /// Sets the counter of a list of Log rules to zero, before its number is another list's.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn clear_log(&mut self, id: u32) -> Result<(), MapError> {
        let cpus = self.logs.get(&id, 0)?.len();
        self.logs.set(id, PerCpuValues::try_from(vec![Counter::default(); cpus])?, 0)
    }

    /// Every drop counter.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn drops(&self) -> Result<Vec<(DropKey, Counter)>, MapError> {
        self.drops
            .iter()
            .map(|entry| {
                let (key, values) = entry?;
                let total = values.iter().fold(Counter::default(), |sum, value| Counter {
                    packets: sum.packets + value.packets,
                    bytes: sum.bytes + value.bytes,
                });
                Ok((key, total))
            })
            .collect()
    }

    /// Forgets a drop counter, once its endpoint is gone and its last value has been kept.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn forget_drop(&mut self, key: &DropKey) -> Result<(), MapError> {
        self.drops.remove(key)
    }

    /// Drops that did not fit the drop counters, by reason code.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn drops_other(&self) -> Result<Vec<Counter>, MapError> {
        (0..DROP_REASONS).map(|reason| Ok(sum(&self.drops_other.get(&reason, 0)?))).collect()
    }

    /// Connections that began, by who let them.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn opened(&self) -> Result<Vec<(OpenedKey, u64)>, MapError> {
        let total = |entry: Result<(OpenedKey, PerCpuValues<u64>), MapError>| {
            entry.map(|(key, cpus)| (key, cpus.iter().sum()))
        };
        self.opened.iter().map(total).collect()
    }

    /// As [`Counters::forget_drop`], of connections that began.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn forget_opened(&mut self, key: &OpenedKey) -> Result<(), MapError> {
        self.opened.remove(key)
    }

    /// Connections that began and that [`Counters::opened`] does not tell apart.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn opened_other(&self) -> Result<u64, MapError> {
        Ok(self.flows.get(&0, 0)?.iter().map(|cpu| cpu.unnamed).sum())
    }

    /// Events not sent, by kind, all CPUs together.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn events(&self) -> Result<Vec<EventBudget>, MapError> {
        let total = |kind: u32| -> Result<EventBudget, MapError> {
            let cpus = self.events.get(&kind, 0)?;
            Ok(cpus.iter().fold(EventBudget::default(), |sum, cpu| EventBudget {
                window_ns: 0,
                sent: 0,
                coalesced: sum.coalesced + cpu.coalesced,
                limited: sum.limited + cpu.limited,
                ring_full: sum.ring_full + cpu.ring_full,
            }))
        };
        (0..EVENT_KINDS).map(total).collect()
    }
}

fn sum(values: &PerCpuValues<Counter>) -> Counter {
    values.iter().fold(Counter::default(), |sum, value| Counter {
        packets: sum.packets + value.packets,
        bytes: sum.bytes + value.bytes,
    })
}
