//! What host endpoints need of the lab that the programs run in.
//!
//! Their programs ask the kernel's routing whether a packet is for the host or passed on, and look
//! only at frames that are for its MAC address. Both are as on a host: an interface with an address
//! and routes. On the way out the kernel says of a packet where it came in; a test run takes that
//! from its context ([`Entry::passed_on`]). So every plane can be driven.

use std::net::IpAddr;

use anyhow::Result;
use policy_agent::kernel::pin::Hook;

use super::Ring;

/// The address of every interface that [`Ring::outside`] makes: frames to another one are not for
/// this host, and no host endpoint's.
pub const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 0xaa, 2];

/// Where a frame meets a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The program.
    pub hook: Hook,
    /// The interface.
    pub ifindex: u32,
    /// On its way out: the host got it from another interface and passes it on.
    pub passed_on: bool,
}

impl From<(Hook, u32)> for Entry {
    fn from((hook, ifindex): (Hook, u32)) -> Self {
        Self { hook, ifindex, passed_on: false }
    }
}

impl Ring {
    /// Makes an interface that leads to everybody whose address is not the host's own
    /// ([`Ring::own`]). It may be a host endpoint's.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn outside(&self, name: &str) -> Result<u32> {
        let index = self.interface(name)?;
        let mac = OUTSIDE_MAC.map(|byte| format!("{byte:02x}")).join(":");
        self.lab.host().ip_batch(&[
            format!("link set {name} address {mac}"),
            format!("link set {name} up"),
            format!("link set {name}-peer up"),
            format!("route replace 0.0.0.0/0 dev {name}"),
            format!("route replace ::/0 dev {name}"),
        ])?;
        Ok(index)
    }

    /// Has routing take these addresses for the host's own, in the place of all that it took for them.
    ///
    /// # Errors
    /// If one is not an address that a host can have.
    pub fn own(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<()> {
        let host = self.lab.host();
        for family in ["-4", "-6"] {
            host.ip(&[family, "route", "flush", "table", "local", "proto", "static"])?;
        }
        // By routes alone: those that come with an address the kernel adds when it finds time (IPv6).
        let local = |address: IpAddr| {
            let length = if address.is_ipv4() { 32 } else { 128 };
            format!("route add local {address}/{length} dev lo table local proto static")
        };
        host.ip_batch(&addresses.into_iter().map(local).collect::<Vec<_>>())
    }

    /// A frame as its sender's fence sees it: from the Ethernet address of the endpoint that it meets
    /// there, where one is known. Elsewhere it stays as it is.
    #[must_use]
    pub fn addressed(&self, entry: Entry, mut frame: Vec<u8>) -> Vec<u8> {
        let endpoint = || self.model.endpoints.values().find(|it| it.ifindex == entry.ifindex);
        if entry.hook == Hook::FromEndpoint
            && let Some(mac) = endpoint().and_then(|it| it.mac)
            && let Some(source) = frame.get_mut(6..12)
        {
            source.copy_from_slice(&mac);
        }
        frame
    }
}
