//! What the programs say: packets that they tell of, and the rare line for the log.

use std::io;

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use log::Log;
use policy_common::{abi::Event, maps as name};
use tokio::io::{Interest, unix::AsyncFd};

use super::{load::LoadError, maps::open, pin::Pins};

/// Reads events.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    /// Opens the pinned ring. Only one reader at a time gets each event.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if the map is missing; an I/O error if it cannot be polled.
    pub fn open(pins: &Pins) -> Result<Events, EventsError> {
        let ring = open(pins, name::EVENTS)?;
        // SAFETY: the descriptor belongs to the ring, which the `AsyncFd` owns and never replaces.
        #[allow(unsafe_code, reason = "tokio's registration trusts the descriptor to stay open")]
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        Ok(Events { ring: ring.map_err(io::Error::from)? })
    }

    /// Waits for events and hands each to `each`.
    ///
    /// # Errors
    ///
    /// The ring can no longer be polled.
    pub async fn drain(&mut self, mut each: impl FnMut(Event)) -> io::Result<()> {
        let mut ready = self.ring.readable_mut().await?;
        while let Some(item) = ready.get_inner_mut().next() {
            if let Some(event) = decode(&item) {
                each(event);
            }
        }
        ready.clear_ready();
        Ok(())
    }
}

/// Forwards what the programs log until the ring fails. Lines of programs that an earlier agent
/// loaded are not seen: each load has a ring of its own.
///
/// # Errors
///
/// The ring can no longer be polled.
pub async fn forward_log(logger: EbpfLogger<&'static dyn Log>) -> io::Result<()> {
    // SAFETY: the descriptor belongs to the logger, which the `AsyncFd` owns and never replaces.
    #[allow(unsafe_code, reason = "tokio's registration trusts the descriptor to stay open")]
    let ring = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut ring = ring.map_err(io::Error::from)?;
    loop {
        let mut ready = ring.readable_mut().await?;
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}

/// Why there are no events.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// The map.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The poll.
    #[error("polling the event ring: {0}")]
    Poll(#[from] io::Error),
}

/// An item of the ring as an event; `None` for one of another length, which no program writes.
pub fn decode(item: &[u8]) -> Option<Event> {
    if item.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: the length is right, every bit pattern is a valid `Event` (integers and byte
    // arrays), and an unaligned read asks nothing of the alignment.
    #[allow(unsafe_code, reason = "a record of the ABI read from kernel memory")]
    Some(unsafe { item.as_ptr().cast::<Event>().read_unaligned() })
}
