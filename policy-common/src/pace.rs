//! How fast a source may begin flows: the generic cell rate algorithm (ITU-T I.371, annex A), as a
//! virtual scheduling.
//!
//! A source has one number, the time at which it will have earned all that it may begin at once. Each
//! flow moves that time on by the time that one flow takes to earn; a flow that would move it further
//! ahead than the burst is refused, and moves nothing.

use crate::abi::Pace;

/// What becomes of a flow, and of its source's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It may begin, and the number becomes this: the source had earned everything.
    Rested(u64),
    /// It may begin, and the number grows by the interval.
    Paced,
    /// It may not.
    Early,
    /// It may not, and the number becomes this: it was of a slower pace, which would hold the
    /// source back for longer than this one ever does.
    Stale(u64),
}

/// Flows that may have begun at once, on several CPUs, though one of them was the last: they are paid for
/// later, and no sign of another pace.
const AT_ONCE: u64 = 64;

/// Decides on a flow that arrives at `now_ns`, from a source whose number is `full_ns`.
#[inline(always)]
pub const fn arrive(pace: &Pace, full_ns: u64, now_ns: u64) -> Arrival {
    if full_ns <= now_ns {
        return Arrival::Rested(now_ns + pace.interval_ns);
    }
    let ahead = full_ns - now_ns;
    if ahead > pace.burst_ns + AT_ONCE * pace.interval_ns {
        Arrival::Stale(now_ns + pace.burst_ns)
    } else if ahead + pace.interval_ns > pace.burst_ns {
        Arrival::Early
    } else {
        Arrival::Paced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { interval_ns: 100, burst_ns: 300 };

    /// Whether flows that arrive at these times may begin, and the number after them.
    fn run<const N: usize>(pace: &Pace, mut full_ns: u64, times: [u64; N]) -> ([bool; N], u64) {
        let admitted = times.map(|now| {
            let arrival = arrive(pace, full_ns, now);
            match arrival {
                Arrival::Rested(full) | Arrival::Stale(full) => full_ns = full,
                Arrival::Paced => full_ns += pace.interval_ns,
                Arrival::Early => {}
            }
            matches!(arrival, Arrival::Rested(_) | Arrival::Paced)
        });
        (admitted, full_ns)
    }

    #[test]
    fn a_burst_begins_at_once_and_the_rest_at_the_pace() {
        let times = [1000, 1000, 1000, 1000, 1099, 1100, 1100, 1199, 1200];
        let (admitted, full) = run(&PACE, 0, times);
        assert_eq!(admitted, [true, true, true, false, false, true, false, false, true]);
        assert_eq!(full, 1500);
    }

    #[test]
    fn a_source_that_rests_earns_no_more_than_a_burst() {
        let (admitted, _) = run(&PACE, 1300, [1_000_000; 4]);
        assert_eq!(admitted, [true, true, true, false]);
    }

    #[test]
    fn a_burst_of_one_is_a_flow_each_interval() {
        let pace = Pace { interval_ns: 100, burst_ns: 100 };
        let (admitted, _) = run(&pace, 0, [500, 500, 599, 600, 601, 700]);
        assert_eq!(admitted, [true, false, false, true, false, true]);
    }

    #[test]
    fn what_several_cpus_let_begin_at_once_is_paid_for() {
        let (admitted, full) = run(&PACE, 1500, [1000, 1099, 1299, 1300]);
        assert_eq!(admitted, [false, false, false, true]);
        assert_eq!(full, 1600);
    }

    #[test]
    fn what_a_slower_pace_left_holds_nobody_back_for_longer_than_this_one() {
        let (admitted, full) = run(&PACE, 1_000_000, [1000, 1099, 1100]);
        assert_eq!(admitted, [false, false, true]);
        assert_eq!(full, 1400);
    }
}
