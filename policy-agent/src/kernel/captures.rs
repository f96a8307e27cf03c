//! Packets that the programs show whole, while somebody wants them.

use std::io;

use aya::maps::{MapData, MapError, PerCpuArray, RingBuf};
use policy_common::{
    abi::{CAPTURED_BYTES, Captured},
    maps as name,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{events::EventsError, maps::open, pin::Pins};

/// Reads captured packets. Only one reader at a time gets each.
pub struct Captures {
    ring: AsyncFd<RingBuf<MapData>>,
    lost: PerCpuArray<MapData, u64>,
}

impl Captures {
    /// Opens the pinned ring.
    ///
    /// # Errors
    ///
    /// A map is missing; the ring cannot be polled.
    pub fn open(pins: &Pins) -> Result<Captures, EventsError> {
        let ring = open(pins, name::CAPTURES)?;
        // SAFETY: the descriptor belongs to the ring, which the `AsyncFd` owns and never replaces.
        #[allow(unsafe_code, reason = "tokio's registration trusts the descriptor to stay open")]
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = ring.map_err(io::Error::from)?;
        Ok(Captures { ring, lost: open(pins, name::CAPTURE_LOST)? })
    }

    /// Forgets what an earlier capture has left.
    pub fn clear(&mut self) {
        while self.ring.get_mut().next().is_some() {}
    }

    /// Waits for packets and hands at most so many to `each`, with the bytes that there are of them.
    ///
    /// # Errors
    ///
    /// The ring can no longer be polled.
    pub async fn drain(
        &mut self,
        most: usize,
        mut each: impl FnMut(Captured, &[u8]),
    ) -> io::Result<()> {
        let mut ready = self.ring.readable_mut().await?;
        for _ in 0..most {
            let Some(item) = ready.get_inner_mut().next() else {
                ready.clear_ready();
                break;
            };
            if let Some((head, bytes)) = decode(&item) {
                each(head, bytes);
            }
        }
        Ok(())
    }

    /// Packets that found no room, since the map was made.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn lost(&self) -> Result<u64, MapError> {
        Ok(self.lost.get(&0, 0)?.iter().sum())
    }
}

/// An item of the ring; `None` for one of another length, which no program writes.
pub fn decode(item: &[u8]) -> Option<(Captured, &[u8])> {
    let (head, bytes) = item.split_at_checked(size_of::<Captured>())?;
    if bytes.len() != CAPTURED_BYTES {
        return None;
    }
    // SAFETY: the length is right, every bit pattern is a valid `Captured` (integers and byte arrays), and
    // an unaligned read asks nothing of the alignment.
    #[allow(unsafe_code, reason = "a record of the ABI read from kernel memory")]
    let head = unsafe { head.as_ptr().cast::<Captured>().read_unaligned() };
    let count = usize::try_from(head.captured).ok()?;
    Some((head, bytes.get(..count)?))
}
