//! XDP test runs on kernels before 5.15, which take no context: there every frame comes in by the
//! loopback of the caller's namespace. So the loopback has the rows of the interface meanwhile.

use anyhow::Result;
use aya::{
    maps::{HashMap, MapData, MapError},
    util::KernelVersion,
};
use policy_agent::kernel::pin::{Hook, Pins};
use policy_common::{
    abi::{Endpoint, Uplink},
    maps as name,
};

use super::{Entry, Ring, open};

/// The first interface of every namespace.
const LOOPBACK: u32 = 1;

/// Lets the loopback stand in for another interface while it lives.
pub(super) struct StandIn {
    uplinks: HashMap<MapData, u32, Uplink>,
    endpoints: HashMap<MapData, u32, Endpoint>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // One of them may never have been there.
        let _ = self.uplinks.remove(&LOOPBACK);
        let _ = self.endpoints.remove(&LOOPBACK);
    }
}

impl Ring {
    /// A stand-in for the interface of an XDP run, where the kernel cannot be told of another.
    pub(super) fn stand_in(&self, entry: Entry) -> Result<Option<StandIn>> {
        if entry.hook != Hook::Uplink || KernelVersion::current()? >= KernelVersion::new(5, 15, 0) {
            return Ok(None);
        }
        let pins = Pins::new(&self.pins);
        let mut stand_in = StandIn {
            uplinks: open(&pins, name::UPLINKS)?,
            endpoints: open(&pins, name::ENDPOINTS)?,
        };
        if let Some(uplink) = row(stand_in.uplinks.get(&entry.ifindex, 0))? {
            stand_in.uplinks.insert(LOOPBACK, uplink, 0)?;
        }
        if let Some(endpoint) = row(stand_in.endpoints.get(&entry.ifindex, 0))? {
            stand_in.endpoints.insert(LOOPBACK, endpoint, 0)?;
        }
        Ok(Some(stand_in))
    }
}

fn row<T>(found: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match found {
        Ok(row) => Ok(Some(row)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
