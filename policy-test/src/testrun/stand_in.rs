//! XDP test runs on kernels before 5.15, which take no context: there every frame comes in by the
//! loopback of the caller's namespace. So the loopback has the rows of the interface meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use aya::{
    maps::{Array, HashMap, MapData, MapError},
    util::KernelVersion,
};
use policy_agent::kernel::pin::{Hook, Pins};
use policy_common::{
    abi::{Endpoint, Globals, Uplink},
    maps as name,
};

use super::{Entry, Ring, open};

/// The first interface of every namespace.
const LOOPBACK: u32 = 1;

/// Every stand-in has a revision to itself: what programs remember of another one's rows is not of this
/// one's.
static STAND_INS: AtomicU64 = AtomicU64::new(1);
/// Above any revision that a plan has come to.
const FIRST_REVISION: u64 = 1 << 32;

/// Lets the loopback stand in for another interface while it lives.
pub(super) struct StandIn {
    globals: Array<MapData, Globals>,
    /// As the plans have left it.
    before: Globals,
    uplinks: HashMap<MapData, u32, Uplink>,
    endpoints: HashMap<MapData, u32, Endpoint>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // One of them may never have been there.
        let _ = self.uplinks.remove(&LOOPBACK);
        let _ = self.endpoints.remove(&LOOPBACK);
        let _ = self.globals.set(0, self.before, 0);
    }
}

impl Ring {
    /// A stand-in for the interface of an XDP run, where the kernel cannot be told of another.
    pub(super) fn stand_in(&self, entry: Entry) -> Result<Option<StandIn>> {
        if entry.hook != Hook::Uplink || KernelVersion::current()? >= KernelVersion::new(5, 15, 0) {
            return Ok(None);
        }
        let pins = Pins::new(&self.pins);
        let globals: Array<MapData, Globals> = open(&pins, name::GLOBALS)?;
        let before = globals.get(&0, 0)?;
        let mut stand_in = StandIn {
            globals,
            before,
            uplinks: open(&pins, name::UPLINKS)?,
            endpoints: open(&pins, name::ENDPOINTS)?,
        };
        if let Some(uplink) = row(stand_in.uplinks.get(&entry.ifindex, 0))? {
            stand_in.uplinks.insert(LOOPBACK, uplink, 0)?;
        }
        if let Some(endpoint) = row(stand_in.endpoints.get(&entry.ifindex, 0))? {
            stand_in.endpoints.insert(LOOPBACK, endpoint, 0)?;
        }
        let own = STAND_INS.fetch_add(1, Ordering::Relaxed);
        stand_in.globals.set(0, Globals { revision: own * FIRST_REVISION, ..before }, 0)?;
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
