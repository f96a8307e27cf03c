//! `CLOCK_MONOTONIC`, the programs' clock, and what it means in wall-clock time.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// Now, in ns since boot, suspend not counted; 0 if the kernel refuses to say, which it cannot.
pub fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(|time| Duration::from(time).as_nanos())
        .ok()
        .and_then(|nanos| u64::try_from(nanos).ok())
        .unwrap_or_default()
}

/// The wall-clock time of a program's time stamp, given now on both clocks.
pub fn wall_time(event_ns: u64, now_ns: u64, now: SystemTime) -> SystemTime {
    now - Duration::from_nanos(now_ns.saturating_sub(event_ns))
}
