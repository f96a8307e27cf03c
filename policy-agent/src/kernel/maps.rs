//! Typed handles on the pinned maps: carries out the operations of a plan, and reads back what an
//! earlier agent left.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy_common::{
    abi::{
        BlockKeyV4, BlockKeyV6, Blocked, CaptureFilter, ClassKey, ClassRef, Endpoint, FailsafeKey,
        Globals, GuardKey, Interval, PublishedKey, Uplink,
    },
    maps as name,
};
use policy_core::plan::{Image, Op};

use super::{load::LoadError, pin::Pins};

mod ports;

/// Bits of a block list id in front of the prefix.
const LIST_BITS: u32 = 32;

/// The maps that a plan writes.
pub struct Maps {
    endpoints: HashMap<MapData, u32, Endpoint>,
    addresses_v4: HashMap<MapData, [u8; 4], u32>,
    addresses_v6: HashMap<MapData, [u8; 16], u32>,
    cidrs_v4: LpmTrie<MapData, [u8; 4], u32>,
    cidrs_v6: LpmTrie<MapData, [u8; 16], u32>,
    classes: HashMap<MapData, ClassKey, ClassRef>,
    intervals: Array<MapData, Interval>,
    guard: HashMap<MapData, GuardKey, u32>,
    globals: Array<MapData, Globals>,
    /// What the globals hold.
    revision: u64,
    capture: u8,
    capture_filter: Array<MapData, CaptureFilter>,
    uplinks: HashMap<MapData, u32, Uplink>,
    block_v4: LpmTrie<MapData, BlockKeyV4, Blocked>,
    block_v6: LpmTrie<MapData, BlockKeyV6, Blocked>,
    failsafe: LpmTrie<MapData, FailsafeKey, u32>,
    published: HashMap<MapData, PublishedKey, u32>,
}

/// A write that the kernel refused. The plan's earlier operations hold, its later ones do not.
#[derive(Debug, thiserror::Error)]
#[error("writing {op}: {source}")]
pub struct WriteError {
    /// The operation, shortened.
    pub op: String,
    /// Why.
    pub source: MapError,
}

/// Opens a pinned map under its type.
pub(super) fn open<T>(pins: &Pins, name: &'static str) -> Result<T, LoadError>
where
    T: TryFrom<Map, Error = MapError>,
{
    MapData::from_pin(pins.map(name))
        .and_then(Map::from_map_data)
        .and_then(T::try_from)
        .map_err(|source| LoadError::Map { name, source: Box::new(source) })
}

impl Maps {
    /// Opens the pinned maps.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if one is missing or of another type.
    pub fn open(pins: &Pins) -> Result<Maps, LoadError> {
        let globals: Array<MapData, Globals> = open(pins, name::GLOBALS)?;
        Ok(Maps {
            endpoints: open(pins, name::ENDPOINTS)?,
            addresses_v4: open(pins, name::ADDRESSES_V4)?,
            addresses_v6: open(pins, name::ADDRESSES_V6)?,
            cidrs_v4: open(pins, name::CIDRS_V4)?,
            cidrs_v6: open(pins, name::CIDRS_V6)?,
            classes: open(pins, name::CLASSES)?,
            intervals: open(pins, name::INTERVALS)?,
            guard: open(pins, name::GUARD)?,
            revision: globals.get(&0, 0).map_or(0, |globals| globals.revision),
            capture: 0,
            globals,
            capture_filter: open(pins, name::CAPTURE)?,
            uplinks: open(pins, name::UPLINKS)?,
            block_v4: open(pins, name::BLOCK_V4)?,
            block_v6: open(pins, name::BLOCK_V6)?,
            failsafe: open(pins, name::FAILSAFE)?,
            published: open(pins, name::PUBLISHED)?,
        })
    }

    /// Carries out operations in order, up to the first that fails.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub fn execute(&mut self, ops: &[Op]) -> Result<(), WriteError> {
        ops.iter().try_for_each(|op| {
            self.apply(op).map_err(|source| {
                let mut op = format!("{op:?}");
                op.truncate(120);
                WriteError { op, source }
            })
        })
    }

    fn apply(&mut self, op: &Op) -> Result<(), MapError> {
        match op {
            Op::WriteIntervals { offset, intervals } => {
                for (index, interval) in (*offset..).zip(intervals) {
                    self.intervals.set(index, interval, 0)?;
                }
                Ok(())
            }
            Op::SetClass(key, class) => self.classes.insert(key, class, 0),
            Op::RemoveClass(key) => gone(self.classes.remove(key)),
            Op::SetAddress(IpAddr::V4(ip), peer) => self.addresses_v4.insert(ip.octets(), peer, 0),
            Op::SetAddress(IpAddr::V6(ip), peer) => self.addresses_v6.insert(ip.octets(), peer, 0),
            Op::RemoveAddress(IpAddr::V4(ip)) => gone(self.addresses_v4.remove(&ip.octets())),
            Op::RemoveAddress(IpAddr::V6(ip)) => gone(self.addresses_v6.remove(&ip.octets())),
            Op::SetCidr(IpNet::V4(net), peer) => self.cidrs_v4.insert(&key_v4(net), peer, 0),
            Op::SetCidr(IpNet::V6(net), peer) => self.cidrs_v6.insert(&key_v6(net), peer, 0),
            Op::RemoveCidr(IpNet::V4(net)) => gone(self.cidrs_v4.remove(&key_v4(net))),
            Op::RemoveCidr(IpNet::V6(net)) => gone(self.cidrs_v6.remove(&key_v6(net))),
            Op::SetEndpoint(ifindex, endpoint) => self.endpoints.insert(ifindex, endpoint, 0),
            Op::RemoveEndpoint(ifindex) => gone(self.endpoints.remove(ifindex)),
            Op::SetGuard(key) => self.guard.insert(key, 1, 0),
            Op::RemoveGuard(key) => gone(self.guard.remove(key)),
            Op::SetBlock { list, net: IpNet::V4(net), blocked } => {
                self.block_v4.insert(&block_v4(*list, net), blocked, 0)
            }
            Op::SetBlock { list, net: IpNet::V6(net), blocked } => {
                self.block_v6.insert(&block_v6(*list, net), blocked, 0)
            }
            Op::RemoveBlock { list, net: IpNet::V4(net) } => {
                gone(self.block_v4.remove(&block_v4(*list, net)))
            }
            Op::RemoveBlock { list, net: IpNet::V6(net) } => {
                gone(self.block_v6.remove(&block_v6(*list, net)))
            }
            Op::SetUplink(ifindex, uplink) => self.uplinks.insert(ifindex, uplink, 0),
            Op::RemoveUplink(ifindex) => gone(self.uplinks.remove(ifindex)),
            Op::SetFailsafe(port, rule) => self.failsafe.insert(&ports::failsafe(port), rule, 0),
            Op::RemoveFailsafe(port) => gone(self.failsafe.remove(&ports::failsafe(port))),
            Op::SetPublished(port, to) => {
                self.published.insert(ports::published(port), u32::from(*to), 0)
            }
            Op::RemovePublished(port) => gone(self.published.remove(&ports::published(port))),
            Op::SetRevision(revision) => {
                self.revision = *revision;
                self.write_globals()
            }
            Op::Quiesce => {
                quiesce();
                Ok(())
            }
        }
    }

    /// Captures packets from now on: those of `CAPTURE_*` that the filter wants; `None`: no more.
    ///
    /// # Errors
    ///
    /// A map cannot be written.
    pub fn capture(&mut self, wanted: Option<(u8, CaptureFilter)>) -> Result<(), MapError> {
        if let Some((_, filter)) = wanted {
            self.capture_filter.set(0, filter, 0)?;
        }
        self.capture = wanted.map_or(0, |(flags, _)| flags);
        self.write_globals()
    }

    fn write_globals(&mut self) -> Result<(), MapError> {
        let globals = Globals { revision: self.revision, capture: self.capture, pad: [0; 7] };
        self.globals.set(0, globals, 0)
    }

    /// What the maps hold.
    ///
    /// # Errors
    ///
    /// The first map that cannot be read.
    pub fn image(&self) -> Result<Image, MapError> {
        let mut addresses = BTreeMap::new();
        for entry in self.addresses_v4.iter() {
            let (ip, peer) = entry?;
            addresses.insert(IpAddr::V4(Ipv4Addr::from(ip)), peer);
        }
        for entry in self.addresses_v6.iter() {
            let (ip, peer) = entry?;
            addresses.insert(IpAddr::V6(Ipv6Addr::from(ip)), peer);
        }
        let mut cidrs = BTreeMap::new();
        for entry in self.cidrs_v4.iter() {
            let (key, peer) = entry?;
            cidrs.extend(net_v4(key.prefix_len(), key.data()).map(|net| (net, peer)));
        }
        for entry in self.cidrs_v6.iter() {
            let (key, peer) = entry?;
            cidrs.extend(net_v6(key.prefix_len(), key.data()).map(|net| (net, peer)));
        }
        let mut blocks = BTreeMap::new();
        for entry in self.block_v4.iter() {
            let (key, blocked) = entry?;
            let BlockKeyV4 { list, address } = key.data();
            let bits = key.prefix_len().saturating_sub(LIST_BITS);
            let list = u32::from_be_bytes(list);
            blocks.extend(net_v4(bits, address).map(|net| ((list, net), blocked)));
        }
        for entry in self.block_v6.iter() {
            let (key, blocked) = entry?;
            let BlockKeyV6 { list, address } = key.data();
            let bits = key.prefix_len().saturating_sub(LIST_BITS);
            let list = u32::from_be_bytes(list);
            blocks.extend(net_v6(bits, address).map(|net| ((list, net), blocked)));
        }
        let mut failsafe = BTreeMap::new();
        for entry in self.failsafe.iter() {
            let (key, rule) = entry?;
            failsafe.extend(ports::read_failsafe(&key).map(|port| (port, rule)));
        }
        let mut published = BTreeMap::new();
        for entry in self.published.iter() {
            let (key, to) = entry?;
            published.extend(u16::try_from(to).ok().map(|to| (ports::read_published(&key), to)));
        }
        Ok(Image {
            failsafe,
            published,
            endpoints: self.endpoints.iter().collect::<Result<_, _>>()?,
            classes: self.classes.iter().collect::<Result<_, _>>()?,
            addresses,
            cidrs,
            guard: self.guard.keys().collect::<Result<_, _>>()?,
            blocks,
            uplinks: self.uplinks.iter().collect::<Result<_, _>>()?,
            revision: self.globals.get(&0, 0)?.revision,
        })
    }
}

/// What is not there need not be removed.
fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn key_v4(net: &Ipv4Net) -> Key<[u8; 4]> {
    Key::new(u32::from(net.prefix_len()), net.network().octets())
}

fn key_v6(net: &Ipv6Net) -> Key<[u8; 16]> {
    Key::new(u32::from(net.prefix_len()), net.network().octets())
}

fn block_v4(list: u32, net: &Ipv4Net) -> Key<BlockKeyV4> {
    let data = BlockKeyV4 { list: list.to_be_bytes(), address: net.network().octets() };
    Key::new(LIST_BITS + u32::from(net.prefix_len()), data)
}

fn block_v6(list: u32, net: &Ipv6Net) -> Key<BlockKeyV6> {
    let data = BlockKeyV6 { list: list.to_be_bytes(), address: net.network().octets() };
    Key::new(LIST_BITS + u32::from(net.prefix_len()), data)
}

fn net_v4(bits: u32, address: [u8; 4]) -> Option<IpNet> {
    Ipv4Net::new(Ipv4Addr::from(address), u8::try_from(bits).ok()?).ok().map(IpNet::V4)
}

fn net_v6(bits: u32, address: [u8; 16]) -> Option<IpNet> {
    Ipv6Net::new(Ipv6Addr::from(address), u8::try_from(bits).ok()?).ok().map(IpNet::V6)
}

/// Waits for an RCU grace period: programs run inside RCU read sections, so none that started
/// before still runs after. `membarrier(MEMBARRIER_CMD_GLOBAL)` is `synchronize_rcu()`
/// (kernel/sched/membarrier.c).
fn quiesce() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // SAFETY: a system call without pointers.
    #[allow(unsafe_code, reason = "libc has no safe wrapper of membarrier(2)")]
    let status = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if status != 0 {
        // Kernels without the call, and those with nohz_full, which refuse it: a program runs for
        // microseconds, and is not preempted for long while bottom halves are off.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
