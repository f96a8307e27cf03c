//! The stream of interface and host address changes.
//!
//! Input: the kernel's notifications. Output: [`LinkEvent`]s, first one for everything that exists,
//! then [`LinkEvent::Synced`], then one for each real change.
//!
//! Nothing is lost for good: when the kernel had to drop notifications (ENOBUFS) or one cannot be
//! read, everything is read anew and the differences are reported, with another `Synced` after them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    time::Duration,
};

use netlink_sys::Socket;
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::TimeVal,
};

use super::{
    BUFFER_BYTES, Link, LinkKind, Netlink, NetlinkError, open_socket, parse, parse::Message,
};

/// Room for about 20,000 notifications, so that a burst of container starts does not cost a resync.
const RECEIVE_BUFFER_BYTES: usize = 32 * 1024 * 1024;

/// A change in this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// An interface is new or differs from what was last reported.
    New(Link),
    /// An interface is gone (deleted, or moved to another namespace).
    Gone {
        /// Its index; the kernel may use it again.
        ifindex: u32,
    },
    /// A macvlan device or one end of a veth has gone to another namespace. After its [`LinkEvent::Gone`].
    Moved {
        /// As it was here.
        link: Link,
        /// This namespace's id of that one.
        nsid: i32,
        /// Its index there.
        ifindex: u32,
    },
    /// An address was added to or removed from an interface of the host.
    HostAddress {
        /// The address. The same one can be on two interfaces.
        address: IpAddr,
        /// Index of the interface.
        ifindex: u32,
        /// `false`: removed.
        added: bool,
    },
    /// Everything that exists has been reported.
    Synced,
}

/// Reports the changes of one network namespace. For a thread of its own: [`LinkMonitor::next`]
/// blocks.
#[derive(Debug)]
pub struct LinkMonitor {
    socket: Socket,
    requests: Netlink,
    state: State,
    queue: VecDeque<LinkEvent>,
    buffer: Vec<u8>,
}

impl LinkMonitor {
    /// Subscribes, then reads all that exists, so that no change falls in between.
    ///
    /// `patience` bounds how long [`LinkMonitor::next`] waits; use it to look at a stop flag.
    ///
    /// # Errors
    ///
    /// Any [`NetlinkError`].
    pub fn open(patience: Duration) -> Result<Self, NetlinkError> {
        let io = |source| NetlinkError::Io { what: "subscribe to interface changes", source };
        let errno = |error: nix::errno::Errno| io(io::Error::from(error));
        let socket = open_socket()?;
        // The FORCE variant is not bounded by net.core.rmem_max; it needs CAP_NET_ADMIN, which the
        // agent has. Without it the kernel's bound is what we get, and resyncs happen earlier.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES).map_err(errno)?;
        }
        let micros = i64::try_from(patience.as_micros()).unwrap_or(i64::MAX).max(1);
        let timeout = TimeVal::new(micros / 1_000_000, micros % 1_000_000);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).map_err(errno)?;
        for group in [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR] {
            socket.add_membership(group).map_err(io)?;
        }
        let mut monitor = LinkMonitor {
            socket,
            requests: Netlink::open()?,
            state: State::default(),
            queue: VecDeque::new(),
            buffer: Vec::with_capacity(BUFFER_BYTES),
        };
        monitor.resync()?;
        Ok(monitor)
    }

    /// The next event; `None` if there was none for as long as `patience` (see
    /// [`LinkMonitor::open`]).
    ///
    /// # Errors
    ///
    /// Any [`NetlinkError`]; the monitor stays usable, and a later call tries again.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would end at the first timeout; this one goes on"
    )]
    pub fn next(&mut self) -> Result<Option<LinkEvent>, NetlinkError> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(Some(event));
            }
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => self.read()?,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(None),
                    Some(libc::EINTR) => {}
                    Some(libc::ENOBUFS) => {
                        tracing::warn!("interface notifications were lost; reading all anew");
                        self.resync()?;
                    }
                    _ => {
                        let what = "read interface changes";
                        return Err(NetlinkError::Io { what, source: error });
                    }
                },
            }
        }
    }

    fn read(&mut self) -> Result<(), NetlinkError> {
        let mut readable = true;
        for (_, message) in parse::messages(&self.buffer) {
            match message {
                Ok(message) => self.state.apply(message, &mut self.queue),
                Err(error) => {
                    tracing::warn!(%error, "unreadable interface notification; reading all anew");
                    readable = false;
                }
            }
        }
        if readable { Ok(()) } else { self.resync() }
    }

    fn resync(&mut self) -> Result<(), NetlinkError> {
        let links = self.requests.dump_links()?;
        let addresses = self.requests.host_addresses()?;
        self.state.replace(links, addresses, &mut self.queue);
        Ok(())
    }
}

impl AsFd for LinkMonitor {
    /// For polling only. Call [`LinkMonitor::next`] until it returns `None` after each wake-up:
    /// one read can bring several events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for LinkMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// What has been reported.
#[derive(Debug, Default)]
struct State {
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<(u32, IpAddr)>,
}

impl State {
    fn apply(&mut self, message: Message, events: &mut VecDeque<LinkEvent>) {
        match message {
            Message::NewLink(link) => self.link(link, events),
            Message::DelLink { ifindex, moved } => {
                let known = self.links.remove(&ifindex);
                if known.is_some() {
                    events.push_back(LinkEvent::Gone { ifindex });
                }
                if let Some((nsid, new_ifindex)) = moved {
                    let virtual_link =
                        |link: &Link| matches!(link.kind, LinkKind::Macvlan | LinkKind::Veth);
                    if let Some(link) = known.filter(virtual_link) {
                        events.push_back(LinkEvent::Moved { link, nsid, ifindex: new_ifindex });
                    }
                    self.peer_moved(ifindex, nsid, new_ifindex, events);
                }
            }
            Message::NewAddress { ifindex, address } => {
                if self.addresses.insert((ifindex, address)) {
                    events.push_back(LinkEvent::HostAddress { address, ifindex, added: true });
                }
            }
            Message::DelAddress { ifindex, address } => {
                if self.addresses.remove(&(ifindex, address)) {
                    events.push_back(LinkEvent::HostAddress { address, ifindex, added: false });
                }
            }
            Message::Done
            | Message::Interrupted
            | Message::Error(_)
            | Message::Nsid(_)
            | Message::Other => {}
        }
    }

    /// The end of a veth left for another namespace. The kernel says nothing about the end that
    /// stayed until the carrier comes up, 50 to 100 ms later, but the `RTM_DELLINK` of the end that
    /// left names its new namespace.
    fn peer_moved(
        &mut self,
        ifindex: u32,
        nsid: i32,
        new_ifindex: u32,
        events: &mut VecDeque<LinkEvent>,
    ) {
        let stayed = self.links.values_mut().find(|link| {
            link.kind == LinkKind::Veth && link.link == Some(ifindex) && link.link_netnsid.is_none()
        });
        if let Some(link) = stayed {
            link.link = Some(new_ifindex);
            link.link_netnsid = Some(nsid);
            events.push_back(LinkEvent::New(link.clone()));
        }
    }

    fn link(&mut self, link: Link, events: &mut VecDeque<LinkEvent>) {
        if self.links.get(&link.ifindex) != Some(&link) {
            self.links.insert(link.ifindex, link.clone());
            events.push_back(LinkEvent::New(link));
        }
    }

    fn replace(
        &mut self,
        links: Vec<Link>,
        addresses: Vec<(u32, IpAddr)>,
        events: &mut VecDeque<LinkEvent>,
    ) {
        let present: BTreeSet<u32> = links.iter().map(|link| link.ifindex).collect();
        let gone: Vec<u32> =
            self.links.keys().copied().filter(|ifindex| !present.contains(ifindex)).collect();
        for ifindex in gone {
            self.links.remove(&ifindex);
            events.push_back(LinkEvent::Gone { ifindex });
        }
        for link in links {
            self.link(link, events);
        }
        let addresses: BTreeSet<(u32, IpAddr)> = addresses.into_iter().collect();
        for &(ifindex, address) in self.addresses.difference(&addresses) {
            events.push_back(LinkEvent::HostAddress { address, ifindex, added: false });
        }
        for &(ifindex, address) in addresses.difference(&self.addresses) {
            events.push_back(LinkEvent::HostAddress { address, ifindex, added: true });
        }
        self.addresses = addresses;
        events.push_back(LinkEvent::Synced);
    }
}

#[cfg(test)]
mod tests;
