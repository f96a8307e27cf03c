//! What an ICMP error is about.

use super::{Kind, Packet, Source, View, icmp_kind, icmpv6_kind, protocol};
use crate::abi::{DropReason, Family};

/// Reads into `inner` the packet that an ICMP error quotes, as far as the first eight bytes after its IP header.
///
/// # Errors
///
/// [`DropReason::UnrelatedIcmp`] if the quotation is too short or too strange to be matched with a
/// connection: a later fragment, an IPv6 extension header other than a fragment's, another IP version.
#[inline(always)]
pub fn quoted<S: Source>(source: &S, error: &Packet, inner: &mut Packet) -> Result<(), DropReason> {
    let offset = error.transport as usize + 8;
    let unrelated = DropReason::UnrelatedIcmp;
    *inner = Packet { family: error.family, ..Packet::UNKNOWN };
    match error.family {
        Family::V4 => {
            let ip = source.view::<20>(offset).ok_or(unrelated)?;
            let header = usize::from(ip.u8(0) & 0x0f) * 4;
            if ip.u8(0) >> 4 != 4 || header < 20 || ip.be16(6) & 0x1fff != 0 {
                return Err(unrelated);
            }
            inner.protocol = ip.u8(9);
            inner.source = [ip.word(12), 0, 0, 0];
            inner.destination = [ip.word(16), 0, 0, 0];
            inner.transport = (offset + header) as u32;
        }
        Family::V6 => {
            let ip = source.view::<40>(offset).ok_or(unrelated)?;
            if ip.u8(0) >> 4 != 6 {
                return Err(unrelated);
            }
            inner.protocol = ip.u8(6);
            inner.source = [ip.word(8), ip.word(12), ip.word(16), ip.word(20)];
            inner.destination = [ip.word(24), ip.word(28), ip.word(32), ip.word(36)];
            inner.transport = (offset + 40) as u32;
            // Without it, no path would be found that a fragmented packet fits through.
            if inner.protocol == protocol::FRAGMENT {
                let fragment = source.view::<8>(offset + 40).ok_or(unrelated)?;
                if fragment.be16(2) >> 3 != 0 {
                    return Err(unrelated);
                }
                inner.protocol = fragment.u8(0);
                inner.transport += 8;
            }
        }
    }
    let header = source.view::<8>(inner.transport as usize).ok_or(unrelated)?;
    match (inner.protocol, inner.family) {
        (protocol::TCP | protocol::UDP | protocol::UDPLITE | protocol::SCTP, _) => {
            inner.source_port = header.be16(0);
            inner.destination_port = header.be16(2);
            inner.policy_port = inner.destination_port;
            inner.kind = if inner.protocol == protocol::TCP { Kind::Tcp } else { Kind::Stateful };
        }
        (protocol::ICMP, Family::V4) | (protocol::ICMPV6, Family::V6) => {
            inner.kind = match inner.family {
                Family::V4 => icmp_kind(header.u8(0)),
                Family::V6 => icmpv6_kind(header.u8(0)),
            };
            match inner.kind {
                _ if header.u8(1) != 0 => return Err(unrelated),
                Kind::EchoRequest => inner.source_port = header.be16(4),
                Kind::EchoReply => inner.destination_port = header.be16(4),
                _ => return Err(unrelated),
            }
            inner.policy_port = header.be16(0);
        }
        _ => inner.kind = Kind::Stateful,
    }
    Ok(())
}
