//! What the programs remember from one frame to the next: connections, and first fragments.

use aya::maps::MapError;
use policy_common::abi::{Flow, FlowKeyV4, FlowKeyV6, Fragment};

use super::Ring;

/// Connections of one family.
pub type Flows<K> = Vec<(K, Flow)>;

impl Ring {
    /// Every connection.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn flows(&self) -> Result<(Flows<FlowKeyV4>, Flows<FlowKeyV6>), MapError> {
        Ok((
            self.flows_v4.iter().collect::<Result<_, _>>()?,
            self.flows_v6.iter().collect::<Result<_, _>>()?,
        ))
    }

    /// Forgets connections.
    ///
    /// # Errors
    /// If a map cannot be written.
    pub fn forget_flows(
        &mut self,
        v4: impl IntoIterator<Item = FlowKeyV4>,
        v6: impl IntoIterator<Item = FlowKeyV6>,
    ) -> Result<(), MapError> {
        v4.into_iter().try_for_each(|key| self.flows_v4.remove(&key))?;
        v6.into_iter().try_for_each(|key| self.flows_v6.remove(&key))
    }

    /// Writes a connection, as time alone would make it.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn set_flow_v4(&mut self, key: FlowKeyV4, flow: Flow) -> Result<(), MapError> {
        self.flows_v4.insert(key, flow, 0)
    }

    /// Forgets every connection and every first fragment.
    ///
    /// # Errors
    /// If a map cannot be written.
    pub fn forget_all(&mut self) -> Result<(), MapError> {
        let (v4, v6) = self.flows()?;
        self.forget_flows(v4.into_iter().map(|flow| flow.0), v6.into_iter().map(|flow| flow.0))?;
        let keys = self.fragments.keys().collect::<Result<Vec<_>, _>>()?;
        keys.iter().try_for_each(|key| self.fragments.remove(key))
    }

    /// Makes every connection and every first fragment older, as time alone would.
    ///
    /// # Errors
    /// If a map cannot be written.
    pub fn age(&mut self, seconds: u64) -> Result<(), MapError> {
        let older = |seen_ns: u64| seen_ns.saturating_sub(seconds * 1_000_000_000);
        let (v4, v6) = self.flows()?;
        for (key, flow) in v4 {
            self.flows_v4.insert(key, Flow { seen_ns: older(flow.seen_ns), ..flow }, 0)?;
        }
        for (key, flow) in v6 {
            self.flows_v6.insert(key, Flow { seen_ns: older(flow.seen_ns), ..flow }, 0)?;
        }
        let fragments = self.fragments.iter().collect::<Result<Vec<_>, _>>()?;
        for (key, first) in fragments {
            self.fragments.insert(key, Fragment { seen_ns: older(first.seen_ns), ..first }, 0)?;
        }
        Ok(())
    }
}
