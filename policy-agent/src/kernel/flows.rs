//! The connection tables, read whole.
//!
//! In batches (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6): a system call for some thousand entries and not two
//! for each. Reading leaves an entry's place among the oldest as it is.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    ptr,
};

use aya::maps::{MapData, MapError, PerCpuArray};
use policy_common::{
    abi::{Flow, FlowCounter, FlowKeyV4, FlowKeyV6},
    maps as name,
};

use super::{load::LoadError, maps::open, pin::Pins};

/// Entries of one batch. More than any bucket of the kernel's table holds: there are as many buckets as
/// entries that fit.
const BATCH: u32 = 4096;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// Handles on the connection tables, for reading.
pub struct Flows {
    v4: MapData,
    v6: MapData,
    counter: PerCpuArray<MapData, FlowCounter>,
}

impl Flows {
    /// Opens the pinned maps.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if one is missing or of another type.
    pub fn open(pins: &Pins) -> Result<Flows, LoadError> {
        let table = |name| {
            MapData::from_pin(pins.map(name))
                .map_err(|source| LoadError::Map { name, source: Box::new(source) })
        };
        Ok(Flows {
            v4: table(name::CONNTRACK_V4)?,
            v6: table(name::CONNTRACK_V6)?,
            counter: open(pins, name::FLOWS)?,
        })
    }

    /// What became of new entries since the tables were made.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn counter(&self) -> Result<FlowCounter, MapError> {
        let cpus = self.counter.get(&0, 0)?;
        Ok(cpus.iter().fold(FlowCounter::default(), |mut sum, cpu| {
            for family in 0..2 {
                sum.opened[family] += cpu.opened[family];
                sum.refused[family] += cpu.refused[family];
            }
            sum.began += cpu.began;
            sum.unnamed += cpu.unnamed;
            sum
        }))
    }

    /// Entries that fit the table of IPv4, and that of IPv6.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn capacity(&self) -> Result<[u32; 2], MapError> {
        Ok([self.v4.info()?.max_entries(), self.v6.info()?.max_entries()])
    }

    /// Shows every entry of the table of IPv4. One that is made or taken meanwhile may be among them.
    ///
    /// # Errors
    ///
    /// The kernel refuses to read.
    pub fn each_v4(&self, visit: impl FnMut(&FlowKeyV4, &Flow)) -> io::Result<()> {
        // SAFETY: keys and values of the map are of these types (`policy-ebpf/src/maps.rs`).
        #[allow(unsafe_code, reason = "the kernel writes keys and values as bytes")]
        unsafe {
            each(self.v4.fd().as_fd(), visit)
        }
    }

    /// As [`Flows::each_v4`], for IPv6.
    ///
    /// # Errors
    ///
    /// The kernel refuses to read.
    pub fn each_v6(&self, visit: impl FnMut(&FlowKeyV6, &Flow)) -> io::Result<()> {
        // SAFETY: as above.
        #[allow(unsafe_code, reason = "the kernel writes keys and values as bytes")]
        unsafe {
            each(self.v6.fd().as_fd(), visit)
        }
    }
}

/// `union bpf_attr`, the part for batches (`include/uapi/linux/bpf.h`).
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// # Safety
///
/// The map's keys are `K` and its values `V`, both plain data of any bits.
#[allow(unsafe_code, reason = "bpf(2) writes to memory that it is given by address")]
unsafe fn each<K: Copy, V: Copy>(
    map: BorrowedFd<'_>,
    mut visit: impl FnMut(&K, &V),
) -> io::Result<()> {
    let mut keys: Vec<K> = Vec::with_capacity(BATCH as usize);
    let mut values: Vec<V> = Vec::with_capacity(BATCH as usize);
    // Where to go on: a number of a bucket.
    let mut place = 0_u32;
    let mut begun = false;
    loop {
        let from = if begun { ptr::from_ref(&place).expose_provenance() as u64 } else { 0 };
        let mut next = 0_u32;
        let mut attributes = Attributes {
            in_batch: from,
            out_batch: ptr::from_mut(&mut next).expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: BATCH,
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: every address is of memory that lives, of at least BATCH keys and values.
        let status = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                ptr::from_mut(&mut attributes),
                size_of::<Attributes>(),
            )
        };
        let end = match status {
            0 => false,
            _ => match io::Error::last_os_error() {
                // Nothing behind what was read last.
                error if error.kind() == io::ErrorKind::NotFound => true,
                error => return Err(error),
            },
        };
        let count = attributes.count.min(BATCH) as usize;
        // SAFETY: the kernel has written so many of each.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        keys.iter().zip(&values).for_each(|(key, value)| visit(key, value));
        if end {
            return Ok(());
        }
        (place, begun) = (next, true);
    }
}
