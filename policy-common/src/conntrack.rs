//! How long a connection lives after its last packet: what the programs decide by, and what user
//! space counts by.
//!
//! A connection ends at its time-out to the nanosecond, whether anybody looks or not: the programs
//! compare at each packet, so nothing has to be swept for a verdict to be right. Its entry stays until
//! another takes the place.

use crate::{
    abi::{FLOW_ASSURED, FLOW_FIN_ORIGINAL, FLOW_FIN_REPLY, FLOW_REPLIED, FLOW_RESET},
    packet::protocol,
};

const SECOND: u64 = 1_000_000_000;

/// Whether TCP has begun to close, or has been reset: the next SYN is a new connection.
#[inline(always)]
pub const fn closing(state: u8) -> bool {
    state & (FLOW_FIN_ORIGINAL | FLOW_FIN_REPLY | FLOW_RESET) != 0
}

/// Time-out of a connection by its `FLOW_*` bits and its IP protocol number, ns: the defaults of Linux's
/// own connection tracking (`net/netfilter/nf_conntrack_proto_{tcp,udp,icmp,generic}.c`), which has
/// more states. A TCP handshake that nobody completed does not live for days.
#[inline(always)]
pub const fn timeout_ns(state: u8, protocol: u8) -> u64 {
    let replied = state & FLOW_REPLIED != 0;
    let seconds = match protocol {
        protocol::TCP if state & FLOW_RESET != 0 => 10,
        protocol::TCP if closing(state) => 120,
        protocol::TCP if state & FLOW_ASSURED != 0 => 432_000,
        // SYN_RECV and SYN_SENT.
        protocol::TCP if replied => 60,
        protocol::TCP => 120,
        protocol::ICMP | protocol::ICMPV6 => 30,
        protocol::UDP | protocol::UDPLITE if replied => 120,
        protocol::UDP | protocol::UDPLITE => 30,
        _ => 600,
    };
    seconds * SECOND
}

/// Whether a connection that was last seen at `seen_ns` is over at `now_ns`.
///
/// Another CPU's clock may be a jiffy ahead: then the flow is as young as can be.
#[inline(always)]
pub const fn expired(state: u8, protocol: u8, seen_ns: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(seen_ns) > timeout_ns(state, protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_time() {
        const OPEN: u8 = FLOW_REPLIED | FLOW_ASSURED;
        let cases = [
            ("SYN sent", 0, protocol::TCP, 120),
            ("SYN answered", FLOW_REPLIED, protocol::TCP, 60),
            ("established", OPEN, protocol::TCP, 432_000),
            ("picked up", FLOW_ASSURED, protocol::TCP, 432_000),
            ("closed by one side", OPEN | FLOW_FIN_ORIGINAL, protocol::TCP, 120),
            ("closed by the other", OPEN | FLOW_FIN_REPLY, protocol::TCP, 120),
            ("closed by both", OPEN | FLOW_FIN_ORIGINAL | FLOW_FIN_REPLY, protocol::TCP, 120),
            ("reset", OPEN | FLOW_RESET, protocol::TCP, 10),
            ("refused", FLOW_REPLIED | FLOW_RESET, protocol::TCP, 10),
            ("asked", 0, protocol::UDP, 30),
            ("answered", FLOW_REPLIED, protocol::UDP, 120),
            ("both", OPEN, protocol::UDPLITE, 120),
            ("echo", FLOW_REPLIED, protocol::ICMP, 30),
            ("echo", 0, protocol::ICMPV6, 30),
            ("SCTP", OPEN, 132, 600),
        ];
        for (name, state, protocol, seconds) in cases {
            let end = 7 + seconds * SECOND;
            assert!(!expired(state, protocol, 7, end), "{name} lives too short");
            assert!(expired(state, protocol, 7, end + 1), "{name} lives too long");
            assert!(!expired(state, protocol, 7, 0), "{name} ends before it was");
        }
    }
}
