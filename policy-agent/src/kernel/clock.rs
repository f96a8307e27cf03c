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
    // The programs' coarse clock runs behind, never ahead; should it, the difference is the truth.
    let time = match now_ns.checked_sub(event_ns) {
        Some(ago) => now.checked_sub(Duration::from_nanos(ago)),
        None => now.checked_add(Duration::from_nanos(event_ns - now_ns)),
    };
    // A clock that nobody has set yet; and nothing before 1970 can be written down.
    time.unwrap_or(now).max(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_stamp_before_or_after_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(wall_time(3_000, 5_000, now), now - Duration::from_nanos(2_000));
        assert_eq!(wall_time(5_000, 3_000, now), now + Duration::from_nanos(2_000));
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(wall_time(0, u64::MAX, epoch + Duration::from_secs(9)), epoch);
    }
}
