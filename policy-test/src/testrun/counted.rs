//! What the programs have counted, told and shown.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData, MapError, PerCpuArray, RingBuf};
use policy_agent::kernel::{captures, events, pin::Pins};
use policy_api::messages::RuleName;
use policy_common::{
    abi::{
        CaptureFilter, Captured, Counter, DropKey, Event, EventBudget, EventKind, OpenedKey,
        StagedCounter, UplinkFlowKey,
    },
    maps as name,
};

use super::{Drops, Ring, open};

impl Ring {
    /// Every drop counter.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn drops(&self) -> Result<Drops, MapError> {
        Ok(Drops {
            keyed: self.counters.drops()?.into_iter().collect(),
            other: self.counters.drops_other()?,
        })
    }

    /// Every counter of connections that began.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn opened(&self) -> Result<BTreeMap<OpenedKey, u64>, MapError> {
        Ok(self.counters.opened()?.into_iter().collect())
    }

    /// Captures packets from now on, as [`Maps::capture`].
    ///
    /// # Errors
    /// If a map cannot be written.
    pub fn capture(&mut self, wanted: Option<(u8, CaptureFilter)>) -> Result<(), MapError> {
        self.maps.capture(wanted)
    }

    /// What has been captured and was not read yet.
    ///
    /// # Errors
    /// If the ring cannot be opened.
    pub fn captured(&self) -> Result<Vec<(Captured, Vec<u8>)>> {
        let mut ring: RingBuf<MapData> = open(&Pins::new(&self.pins), name::CAPTURES)?;
        let mut packets = Vec::new();
        while let Some(item) = ring.next() {
            let (head, bytes) = captures::decode(&item).context("the ring holds packets")?;
            packets.push((head, bytes.to_vec()));
        }
        Ok(packets)
    }

    /// Packets that were to be captured and found no room.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn captures_lost(&self) -> Result<u64> {
        let lost: PerCpuArray<MapData, u64> = open(&Pins::new(&self.pins), name::CAPTURE_LOST)?;
        Ok(lost.get(&0, 0)?.iter().sum())
    }

    /// Flows that limited uplinks know: a table's name in `policy_common::maps`.
    ///
    /// # Errors
    /// If the map cannot be opened.
    pub fn uplink_flows(
        &self,
        table: &'static str,
    ) -> Result<HashMap<MapData, UplinkFlowKey, u64>> {
        Ok(open(&Pins::new(&self.pins), table)?)
    }

    /// Forgets a drop counter.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn forget_drop(&mut self, key: &DropKey) -> Result<(), MapError> {
        self.counters.forget_drop(key)
    }

    /// Flows that a rule of a staged walk would have decided.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn staged_counter(&self, id: u32) -> Result<StagedCounter, MapError> {
        self.counters.staged(id)
    }

    /// Packets that a list of Log rules matched.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn log_counter(&self, id: u32) -> Result<Counter, MapError> {
        self.counters.log(id)
    }

    /// The Log rules behind a log id.
    pub fn logged(&self, id: u32) -> Option<&[RuleName]> {
        self.compiler.ids().log(id)
    }

    /// Events of a kind that were not sent, by cause.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn events_lost(&self, kind: EventKind) -> Result<EventBudget> {
        let all = self.counters.events()?;
        all.get(kind as usize).copied().context("every kind has its counters")
    }

    /// Takes the events that have come since the last call.
    ///
    /// # Errors
    /// If one is not of the size that this version knows.
    pub fn events(&mut self) -> Result<Vec<Event>> {
        let mut taken = Vec::new();
        while let Some(item) = self.events.next() {
            taken.push(events::decode(&item).context("an event of another size")?);
        }
        Ok(taken)
    }
}
