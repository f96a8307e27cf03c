//! The kernel's view of interfaces: one-shot questions over a route netlink socket, and (in
//! [`monitor`]) the stream of changes.
//!
//! Inputs: the network namespace of the calling process. Outputs: [`Link`]s, host addresses, and
//! namespace ids. Nothing here changes kernel state, with one exception that is the kernel's own: a
//! veth whose other end is in another namespace makes the kernel allocate an id for it.
//!
//! Everything blocks; a question takes well under a millisecond, because rtnetlink answers within
//! the `send` call.

mod monitor;
mod parse;

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::AddressMessage,
    link::{LinkAttribute, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub use self::monitor::{LinkEvent, LinkMonitor};
use self::parse::Message;

/// How often an interrupted dump is started over before that is an error.
const DUMP_ATTEMPTS: usize = 8;
/// The kernel fills dumps into messages of at most 32 KiB; a single link stays far below.
const BUFFER_BYTES: usize = 64 * 1024;

/// A MAC address.
pub type Mac = [u8; 6];

/// What an interface is, as far as enforcement cares (`IFLA_INFO_KIND`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// One end of a virtual Ethernet pair.
    Veth,
    /// A bridge.
    Bridge,
    /// A macvlan device: another station on its parent's network, which `link` names.
    Macvlan,
    /// Anything else, physical devices included.
    Other,
}

/// An interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index, unique within the namespace at one time.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: LinkKind,
    /// Index of the bridge (or bond ...) that it is a port of.
    pub master: Option<u32>,
    /// For a veth the index of the other end, for a macvlan that of its parent, in the namespace that `link_netnsid` names.
    pub link: Option<u32>,
    /// This namespace's id of the namespace that the other end (or the parent) is in; `None` while
    /// both are here.
    pub link_netnsid: Option<i32>,
    /// Hardware address, if it is an Ethernet one.
    pub mac: Option<Mac>,
    /// Whether it is administratively up.
    pub up: bool,
}

/// A question to the kernel that failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened, bound, set up, written or read.
    #[error("netlink: cannot {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel refused the request.
    #[error("netlink: the kernel refused to {what}: {source}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel's answer does not have the documented shape.
    #[error("netlink: malformed answer to {what}: {reason}")]
    Malformed {
        /// What was asked for.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Interfaces changed during each of several dumps.
    #[error("netlink: {what} changed during each of {DUMP_ATTEMPTS} reads")]
    Restless {
        /// What was asked for.
        what: &'static str,
    },
}

/// A socket to ask the kernel with.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread; it stays with that namespace.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Io`].
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Netlink { socket: open_socket()?, sequence: 0 })
    }

    /// Every interface.
    ///
    /// # Errors
    ///
    /// Any [`NetlinkError`].
    pub fn dump_links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        const WHAT: &str = "list interfaces";
        let replies = self.dump(WHAT, &RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(replies
            .into_iter()
            .filter_map(|message| match message {
                Message::NewLink(link) => Some(link),
                _ => None,
            })
            .collect())
    }

    /// Every address of every interface, with the interface's index. Loopback included.
    ///
    /// # Errors
    ///
    /// Any [`NetlinkError`].
    pub fn host_addresses(&mut self) -> Result<Vec<(u32, IpAddr)>, NetlinkError> {
        const WHAT: &str = "list addresses";
        let replies =
            self.dump(WHAT, &RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(replies
            .into_iter()
            .filter_map(|message| match message {
                Message::NewAddress { ifindex, address } => Some((ifindex, address)),
                _ => None,
            })
            .collect())
    }

    /// The interface of that name; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Any [`NetlinkError`].
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.link("look up an interface by name", request)
    }

    /// The interface of that index; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Any [`NetlinkError`].
    pub fn link_by_index(&mut self, ifindex: u32) -> Result<Option<Link>, NetlinkError> {
        let mut request = LinkMessage::default();
        request.header.index = ifindex;
        self.link("look up an interface by index", request)
    }

    /// The MAC address of interface `ifindex` of the namespace that this one knows as `nsid`;
    /// `None` if the namespace or the interface is gone. Needs CAP_NET_ADMIN over that namespace.
    ///
    /// Whoever has CAP_NET_ADMIN inside the container can change it: good for display, not proof
    /// of anything.
    ///
    /// # Errors
    ///
    /// Any [`NetlinkError`].
    pub fn peer_mac(&mut self, nsid: i32, ifindex: u32) -> Result<Option<Mac>, NetlinkError> {
        let mut request = LinkMessage::default();
        request.header.index = ifindex;
        // IFLA_TARGET_NETNSID has the number of the former IFLA_IF_NETNSID (linux/if_link.h).
        request.attributes.push(LinkAttribute::IfNetnsId(nsid));
        Ok(self.link("look into another network namespace", request)?.and_then(|link| link.mac))
    }

    /// This namespace's id of another one, given a file that stands for it (`/run/docker/netns/...`,
    /// `/proc/<pid>/ns/net`); `None` if no id has been allocated, that is if no interface here has
    /// its other end there.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Refused`] with EINVAL if the file is no namespace file (that of a dead
    /// namespace is a plain file), else any [`NetlinkError`].
    pub fn nsid_of(&mut self, netns: impl AsFd) -> Result<Option<i32>, NetlinkError> {
        const WHAT: &str = "name a network namespace";
        let netns = netns.as_fd();
        let malformed =
            |reason: &str| NetlinkError::Malformed { what: WHAT, reason: reason.to_owned() };
        let fd = u32::try_from(netns.as_raw_fd()).map_err(|_| malformed("negative descriptor"))?;
        let mut request = NsidMessage::default();
        request.attributes.push(NsidAttribute::Fd(fd));
        let replies = self.ask(WHAT, RouteNetlinkMessage::GetNsId(request), 0)?;
        replies
            .into_iter()
            .find_map(|message| match message {
                Message::Nsid(nsid) => Some(nsid),
                _ => None,
            })
            .ok_or_else(|| malformed("no id in it"))
    }

    fn link(
        &mut self,
        what: &'static str,
        request: LinkMessage,
    ) -> Result<Option<Link>, NetlinkError> {
        match self.ask(what, RouteNetlinkMessage::GetLink(request), 0) {
            Ok(replies) => Ok(replies.into_iter().find_map(|message| match message {
                Message::NewLink(link) => Some(link),
                _ => None,
            })),
            // ENODEV: no such interface. EINVAL: no namespace of that id (rtnl_get_net_ns_capable).
            Err(NetlinkError::Refused { source, .. })
                if matches!(source.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A consistent dump: one that the kernel marks as interrupted by a change is repeated.
    fn dump(
        &mut self,
        what: &'static str,
        request: &RouteNetlinkMessage,
    ) -> Result<Vec<Message>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let replies = self.ask(what, request.clone(), NLM_F_DUMP)?;
            if !replies.iter().any(|message| matches!(message, Message::Interrupted)) {
                return Ok(replies);
            }
        }
        Err(NetlinkError::Restless { what })
    }

    fn ask(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<Message>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let io = |source| NetlinkError::Io { what, source };
        self.socket.send(&bytes, 0).map_err(io)?;

        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut replies = Vec::new();
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0).map_err(io)?;
            for (sequence, reply) in parse::messages(&buffer) {
                let reply = reply.map_err(|reason| NetlinkError::Malformed {
                    what,
                    reason: reason.to_string(),
                })?;
                // An answer to an earlier question that failed half-way.
                if sequence != self.sequence {
                    continue;
                }
                match reply {
                    Message::Done => return Ok(replies),
                    Message::Error(0) => return Ok(replies),
                    Message::Error(errno) => {
                        let source = io::Error::from_raw_os_error(errno);
                        return Err(NetlinkError::Refused { what, source });
                    }
                    reply => {
                        replies.push(reply);
                        if !dump {
                            return Ok(replies);
                        }
                    }
                }
            }
        }
    }
}

fn open_socket() -> Result<Socket, NetlinkError> {
    let io = |source| NetlinkError::Io { what: "open a socket", source };
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(io)?;
    socket.bind(&SocketAddr::new(0, 0)).map_err(io)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(io)?;
    Ok(socket)
}
