//! Route netlink messages to the few facts that the agent uses.
//!
//! Input: bytes as the kernel sent them. Output: [`Message`]s.
//!
//! Only the attributes that are used are decoded. The typed decoder of `netlink-packet-route`
//! refuses a whole message when one attribute has a size it does not know; a kernel newer than the
//! library would then hide interfaces from us, and an interface that is not seen is not fenced.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{DecodeError, NetlinkBuffer, NlasIterator};

use super::{Link, LinkKind, Mac};

/// `NLM_F_DUMP_INTR` of linux/netlink.h: the dump is inconsistent.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// `IFLA_NEW_NETNSID` of linux/if_link.h: in RTM_DELLINK, where an interface has moved to.
const IFLA_NEW_NETNSID: u16 = 45;
/// `IFLA_NEW_IFINDEX` of linux/if_link.h: its index there.
const IFLA_NEW_IFINDEX: u16 = 49;
/// `NETNSA_NSID` of linux/net_namespace.h.
const NETNSA_NSID: u16 = 1;

/// `struct ifinfomsg`.
const IFINFOMSG_BYTES: usize = 16;
/// `struct ifaddrmsg`.
const IFADDRMSG_BYTES: usize = 8;
/// `struct rtgenmsg`, padded.
const RTGENMSG_BYTES: usize = 4;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// End of a dump.
    Done,
    /// Part of a dump during which something changed.
    Interrupted,
    /// A positive errno, 0 for an acknowledgement.
    Error(i32),
    /// RTM_NEWLINK.
    NewLink(Link),
    /// RTM_DELLINK, of an interface that is gone or has moved to another namespace.
    DelLink {
        ifindex: u32,
        /// Namespace id and index there, if it has moved.
        moved: Option<(i32, u32)>,
    },
    /// RTM_NEWADDR.
    NewAddress { ifindex: u32, address: IpAddr },
    /// RTM_DELADDR.
    DelAddress { ifindex: u32, address: IpAddr },
    /// RTM_NEWNSID in answer to RTM_GETNSID; `None`: not assigned.
    Nsid(Option<i32>),
    /// A type or family that we have no use for (bridge port notifications, mostly).
    Other,
}

/// The messages of one datagram, each with its sequence number. Stops after a broken header, since
/// nothing after it can be found.
pub(super) fn messages(
    mut bytes: &[u8],
) -> impl Iterator<Item = (u32, Result<Message, DecodeError>)> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let buffer = match NetlinkBuffer::new_checked(bytes) {
            Ok(buffer) => buffer,
            Err(error) => {
                bytes = &[];
                return Some((0, Err(error)));
            }
        };
        let message = decode(buffer.message_type(), buffer.flags(), buffer.payload());
        let sequence = buffer.sequence_number();
        let aligned = usize::try_from(buffer.length()).unwrap_or(usize::MAX).next_multiple_of(4);
        bytes = bytes.get(aligned..).unwrap_or(&[]);
        Some((sequence, message))
    })
}

fn decode(kind: u16, flags: u16, payload: &[u8]) -> Result<Message, DecodeError> {
    if flags & NLM_F_DUMP_INTR != 0 {
        return Ok(Message::Interrupted);
    }
    match i32::from(kind) {
        libc::NLMSG_DONE => Ok(Message::Done),
        libc::NLMSG_ERROR => Ok(Message::Error(i32_at(payload, 0)?.saturating_neg())),
        _ => match kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => link(kind, payload),
            libc::RTM_NEWADDR | libc::RTM_DELADDR => address(kind, payload),
            libc::RTM_NEWNSID => nsid(payload),
            _ => Ok(Message::Other),
        },
    }
}

fn link(kind: u16, payload: &[u8]) -> Result<Message, DecodeError> {
    let attributes = payload.get(IFINFOMSG_BYTES..).ok_or_else(|| short("ifinfomsg"))?;
    // Bridges repeat their ports in the family AF_BRIDGE, and a port that leaves a bridge is an
    // RTM_DELLINK there: not the end of the interface.
    if payload.first().copied().map(i32::from) != Some(libc::AF_UNSPEC) {
        return Ok(Message::Other);
    }
    let ifindex = u32_at(payload, 4)?;
    let flags = i32_at(payload, 8)?;
    let mut link = Link {
        ifindex,
        name: String::new(),
        kind: LinkKind::Other,
        master: None,
        link: None,
        link_netnsid: None,
        mac: None,
        up: flags & libc::IFF_UP != 0,
    };
    let (mut new_nsid, mut new_ifindex) = (None, None);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_MASTER => link.master = nonzero(u32_at(value, 0)?),
            libc::IFLA_LINK => link.link = nonzero(u32_at(value, 0)?),
            libc::IFLA_LINK_NETNSID => link.link_netnsid = id(i32_at(value, 0)?),
            libc::IFLA_ADDRESS => link.mac = Mac::try_from(value).ok(),
            libc::IFLA_LINKINFO => link.kind = link_kind(value)?,
            IFLA_NEW_NETNSID => new_nsid = id(i32_at(value, 0)?),
            IFLA_NEW_IFINDEX => new_ifindex = nonzero(u32_at(value, 0)?),
            _ => {}
        }
    }
    if kind == libc::RTM_NEWLINK {
        return Ok(Message::NewLink(link));
    }
    // Without IFLA_NEW_IFINDEX the interface has kept its index (rtnl_fill_ifinfo).
    let moved = new_nsid.map(|nsid| (nsid, new_ifindex.unwrap_or(ifindex)));
    Ok(Message::DelLink { ifindex, moved })
}

fn link_kind(info: &[u8]) -> Result<LinkKind, DecodeError> {
    for attribute in NlasIterator::new(info) {
        let attribute = attribute?;
        if attribute.kind() == libc::IFLA_INFO_KIND {
            return Ok(match text(attribute.value()).as_str() {
                "veth" => LinkKind::Veth,
                "bridge" => LinkKind::Bridge,
                "macvlan" => LinkKind::Macvlan,
                _ => LinkKind::Other,
            });
        }
    }
    Ok(LinkKind::Other)
}

fn address(kind: u16, payload: &[u8]) -> Result<Message, DecodeError> {
    let attributes = payload.get(IFADDRMSG_BYTES..).ok_or_else(|| short("ifaddrmsg"))?;
    let ifindex = u32_at(payload, 4)?;
    let (mut local, mut address) = (None, None);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        match attribute.kind() {
            // On a point-to-point link IFA_ADDRESS is the other side's.
            libc::IFA_LOCAL => local = ip(attribute.value()),
            libc::IFA_ADDRESS => address = ip(attribute.value()),
            _ => {}
        }
    }
    Ok(match local.or(address) {
        Some(address) if kind == libc::RTM_NEWADDR => Message::NewAddress { ifindex, address },
        Some(address) => Message::DelAddress { ifindex, address },
        None => Message::Other,
    })
}

fn nsid(payload: &[u8]) -> Result<Message, DecodeError> {
    let attributes = payload.get(RTGENMSG_BYTES..).ok_or_else(|| short("rtgenmsg"))?;
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() == NETNSA_NSID {
            return Ok(Message::Nsid(id(i32_at(attribute.value(), 0)?)));
        }
    }
    Ok(Message::Other)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into())
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn nonzero(value: u32) -> Option<u32> {
    (value != 0).then_some(value)
}

/// `NETNSA_NSID_NOT_ASSIGNED` is -1.
fn id(value: i32) -> Option<i32> {
    (value >= 0).then_some(value)
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, DecodeError> {
    four(bytes, offset).map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], offset: usize) -> Result<i32, DecodeError> {
    four(bytes, offset).map(i32::from_ne_bytes)
}

fn four(bytes: &[u8], offset: usize) -> Result<[u8; 4], DecodeError> {
    bytes
        .get(offset..offset + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| short("number"))
}

fn short(what: &str) -> DecodeError {
    DecodeError::from(format!("{what} is cut short"))
}

#[cfg(test)]
mod tests;
