//! A private network with a host of its own.
//!
//! Inputs: names and addresses. Outputs: a namespace that plays the host, bridges in it, and
//! workloads, each a namespace joined to a bridge by a veth pair as Docker would join it.
//!
//! A lab's name holds its owner's pid and start time, so that [`Lab::sweep`] can tell what a
//! killed run left from what a running one uses.

mod leftovers;

use std::{
    env, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Once,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};

use crate::netns::NetNs;

/// Where bpffs belongs; each lab's agents pin below a folder of the lab's name.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";
/// The kernel's limit for an interface's name, without the final zero byte.
const INTERFACE_NAME_MAX: usize = 15;

/// The host of a private network. Clones are the same lab; the last one to go takes everything
/// with it.
#[derive(Clone, Debug)]
pub struct Lab(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    folder: PathBuf,
    host: NetNs,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = leftovers::remove(&self.name) {
            // Not a panic: in a test that is failing already it would hide the reason.
            eprintln!("lab {}: {error:#}", self.name);
        }
    }
}

impl Lab {
    /// Makes a lab with an empty host. The first one of a process sweeps first.
    ///
    /// # Errors
    /// Without root, or without `ip`.
    pub fn new() -> Result<Self> {
        let lab = Self::with_host(NetNs::create)?;
        lab.configure_host()?;
        Ok(lab)
    }

    /// Makes a lab whose host is the namespace that this program is in, for an agent beside an
    /// engine that runs already. The namespace stays as it is, now and when the lab goes.
    ///
    /// # Errors
    /// Without root.
    pub fn on_this_host() -> Result<Self> {
        Self::with_host(NetNs::own)
    }

    fn with_host(host: impl FnOnce(&str) -> Result<NetNs>) -> Result<Self> {
        static SWEPT: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut swept = Ok(());
        SWEPT.call_once(|| swept = Self::sweep());
        swept?;
        let name = leftovers::name(NEXT.fetch_add(1, Ordering::Relaxed))?;
        let folder = env::temp_dir().join(&name);
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        let host = match host(&name) {
            Ok(host) => host,
            Err(error) => {
                leftovers::remove(&name)?;
                return Err(error);
            }
        };
        Ok(Self(Arc::new(Inner { name, folder, host })))
    }

    /// Makes sure that nothing with a lab's name is left.
    ///
    /// # Errors
    /// If something is, with where it is.
    pub fn ensure_gone(name: &str) -> Result<()> {
        let left = leftovers::of(name)?;
        ensure!(left.is_empty(), "left behind: {}", left.join(", "));
        Ok(())
    }

    /// Whether a name is that of a lab whose process has gone.
    #[must_use]
    pub fn is_orphan(name: &str) -> bool {
        leftovers::is_orphan(name)
    }

    /// Removes what labs of dead processes have left: processes, namespaces, mounts, cgroups,
    /// pins, files.
    ///
    /// # Errors
    /// If something of it does not go.
    pub fn sweep() -> Result<()> {
        leftovers::sweep()
    }

    /// A word that no other lab has; begins every name that the lab gives outside of itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A folder for files; goes with the lab.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// The namespace that plays the host.
    #[must_use]
    pub fn host(&self) -> &NetNs {
        &self.0.host
    }

    /// Makes a bridge with addresses such as `10.77.0.1/24`.
    ///
    /// # Errors
    /// If the name is taken, or an address is none.
    pub fn bridge(&self, name: &str, addresses: &[&str]) -> Result<Bridge> {
        let addresses = parse(addresses)?;
        let host = self.host();
        // Ports forward as soon as they are up, as Docker's do. Without snooping the bridge itself
        // sends no membership reports, at moments of its own, that a count of drops would hold.
        let bridge = ["type", "bridge", "forward_delay", "0", "mcast_snooping", "0"];
        host.ip(&[&["link", "add", name][..], &bridge].concat())?;
        for address in &addresses {
            host.ip(&["address", "add", &address.text, "dev", name, "nodad"])?;
        }
        host.ip(&["link", "set", name, "up"])?;
        Ok(Bridge { name: name.to_owned(), addresses })
    }

    /// Makes a workload: a namespace whose `eth0` is joined to `bridge`, with addresses such as
    /// `10.77.0.2/24` and default routes to the bridge's.
    ///
    /// # Errors
    /// If the name is taken or too long for an interface's, or an address is none.
    pub fn workload(&self, name: &str, bridge: &Bridge, addresses: &[&str]) -> Result<Workload> {
        let netns = NetNs::create(&format!("{}.{name}", self.name()))?;
        let mut workload =
            Workload { name: name.to_owned(), netns, interfaces: Vec::new(), lab: self.clone() };
        workload.join(bridge, addresses)?;
        Ok(workload)
    }

    fn configure_host(&self) -> Result<()> {
        let host = self.host();
        host.sysctl("net/ipv4/ip_forward", "1")?;
        host.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        // Same-bridge traffic is to be fenced without it.
        for family in ["iptables", "ip6tables", "arptables"] {
            let name = format!("net/bridge/bridge-nf-call-{family}");
            if host.has_sysctl(&name)? {
                host.sysctl(&name, "0")?;
            }
        }
        Ok(())
    }
}

/// A bridge of a lab's host.
#[derive(Clone, Debug)]
pub struct Bridge {
    name: String,
    addresses: Vec<Address>,
}

impl Bridge {
    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's own addresses on it.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|address| address.ip)
    }
}

/// A network namespace that plays a container.
#[derive(Debug)]
pub struct Workload {
    name: String,
    netns: NetNs,
    interfaces: Vec<Interface>,
    lab: Lab,
}

/// One interface of a workload.
#[derive(Clone, Debug)]
pub struct Interface {
    host_name: String,
    name: String,
    addresses: Vec<Address>,
}

impl Interface {
    /// The name of the end that the host has, the one to enforce on.
    #[must_use]
    pub fn host_name(&self) -> &str {
        &self.host_name
    }

    /// The name inside of the workload, such as `eth0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its addresses, in the order given.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|address| address.ip)
    }
}

impl Workload {
    /// The name given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Its interfaces, `eth0` first.
    #[must_use]
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// The name of the host's end of `eth0`.
    #[must_use]
    pub fn host_interface(&self) -> &str {
        &self.interfaces[0].host_name
    }

    /// Its first IPv4 address.
    ///
    /// # Errors
    /// If it has none.
    pub fn ipv4(&self) -> Result<IpAddr> {
        self.address(IpAddr::is_ipv4).with_context(|| format!("{} has no IPv4 address", self.name))
    }

    /// Its first IPv6 address.
    ///
    /// # Errors
    /// If it has none.
    pub fn ipv6(&self) -> Result<IpAddr> {
        self.address(IpAddr::is_ipv6).with_context(|| format!("{} has no IPv6 address", self.name))
    }

    fn address(&self, wanted: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        self.interfaces.iter().flat_map(Interface::addresses).find(wanted)
    }

    /// Joins one more bridge, as `docker network connect` does: `eth1`, `eth2`, ...
    ///
    /// # Errors
    /// As [`Lab::workload`].
    pub fn join(&mut self, bridge: &Bridge, addresses: &[&str]) -> Result<()> {
        let number = self.interfaces.len();
        let host_name = match number {
            0 => format!("veth-{}", self.name),
            _ => format!("veth-{}-{number}", self.name),
        };
        ensure!(
            host_name.len() <= INTERFACE_NAME_MAX,
            "{host_name}: the workload's name is too long for an interface's"
        );
        let name = format!("eth{number}");
        let addresses = parse(addresses)?;
        let (host, inside) = (self.lab.host(), &self.netns);
        // Docker's order: made on the host, put on the bridge, then moved. The agent sees the
        // same messages.
        let peer = format!("p-{host_name}");
        let peer = &peer[..peer.len().min(INTERFACE_NAME_MAX)];
        host.ip(&["link", "add", &host_name, "type", "veth", "peer", "name", peer])?;
        host.ip(&["link", "set", &host_name, "master", &bridge.name, "up"])?;
        host.ip(&["link", "set", peer, "netns", inside.name()])?;
        inside.ip(&["link", "set", peer, "name", &name])?;
        for address in &addresses {
            inside.ip(&["address", "add", &address.text, "dev", &name, "nodad"])?;
        }
        inside.ip(&["link", "set", &name, "up"])?;
        if number == 0 {
            for gateway in gateways(bridge, &addresses) {
                let gateway = gateway.to_string();
                inside.ip(&["route", "add", "default", "via", &gateway, "dev", &name])?;
            }
        }
        self.interfaces.push(Interface { host_name, name, addresses });
        Ok(())
    }

    /// Removes an interface by its number, as `docker network disconnect` does.
    ///
    /// # Errors
    /// If it is not there.
    pub fn leave(&mut self, number: usize) -> Result<()> {
        ensure!(number < self.interfaces.len(), "{} has no eth{number}", self.name);
        let interface = self.interfaces.remove(number);
        self.lab.host().ip(&["link", "delete", &interface.host_name])?;
        Ok(())
    }

    /// Removes the workload and its interfaces.
    ///
    /// # Errors
    /// If it has gone already.
    pub fn remove(self) -> Result<()> {
        leftovers::remove_netns(self.netns.name())
    }
}

/// The bridge's first address of each family that the workload has.
fn gateways(bridge: &Bridge, addresses: &[Address]) -> Vec<IpAddr> {
    let families: [fn(&IpAddr) -> bool; 2] = [IpAddr::is_ipv4, IpAddr::is_ipv6];
    families
        .into_iter()
        .filter(|family| addresses.iter().any(|address| family(&address.ip)))
        .filter_map(|family| bridge.addresses().find(family))
        .collect()
}

#[derive(Clone, Debug)]
struct Address {
    ip: IpAddr,
    /// With its prefix length, as `ip` takes it.
    text: String,
}

fn parse(addresses: &[&str]) -> Result<Vec<Address>> {
    addresses
        .iter()
        .map(|&text| {
            let (ip, _) = text
                .split_once('/')
                .with_context(|| format!("{text}: an address here has a prefix length"))?;
            let ip = ip.parse().with_context(|| format!("{text} is no address"))?;
            Ok(Address { ip, text: text.to_owned() })
        })
        .collect()
}
