//! Network namespaces of containers, from the process table, and of overlay networks, from the mounts.
//!
//! Input: `/proc`. Output: [`Sandbox`]es, and closures run in them. What `source::docker::owners`
//! says of evidence holds here, too: a container cannot forge its cgroup.
//!
//! Nothing here is kept open for long: a namespace lives as long as somebody holds its file, and the
//! interfaces in it with their addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    thread,
};

use nix::sched::{CloneFlags, setns};

use crate::{netlink::Netlink, source::docker::container_of};

/// A network namespace of the engine's.
#[derive(Debug)]
pub struct Sandbox {
    /// Inode of the namespace.
    pub inode: u64,
    /// The namespace.
    pub file: File,
    /// Ids of the containers that have processes there.
    pub containers: BTreeSet<String>,
    /// What it is, if no container's.
    pub role: Role,
}

/// What the engine has made a namespace for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A container, or several that share it.
    Container,
    /// The bridge of an overlay network, whose ports lead to containers; with how the network's id
    /// begins.
    Overlay(String),
    /// A load balancer of the engine's, on one or more overlay networks.
    Balancer,
}

/// Every network namespace but this one in which containers have processes. Takes about 10 us for
/// each process of the host.
///
/// # Errors
///
/// `/proc` cannot be read.
pub fn all() -> io::Result<Vec<Sandbox>> {
    let own = fs::metadata("/proc/self/ns/net")?.ino();
    let mut found: BTreeMap<u64, Sandbox> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // A process that ends while we look is no evidence.
        let path = entry.path().join("ns/net");
        let Ok(inode) = fs::metadata(&path).map(|data| data.ino()) else { continue };
        if inode == own {
            continue;
        }
        let Ok(cgroups) = fs::read_to_string(entry.path().join("cgroup")) else { continue };
        let Some(id) = container_of(&cgroups) else { continue };
        if let Some(sandbox) = found.get_mut(&inode) {
            sandbox.containers.insert(id.to_owned());
        } else if let Ok(file) = File::open(&path)
            // The process may have moved in between.
            && file.metadata().is_ok_and(|data| data.ino() == inode)
        {
            let containers = BTreeSet::from([id.to_owned()]);
            found.insert(inode, Sandbox { inode, file, containers, role: Role::Container });
        }
    }
    Ok(found.into_values().collect())
}

/// The namespaces of overlay networks and load balancers that an interface of this one leads to.
/// Those of another engine are not among them. The engine mounts each under a name that says what it
/// is; an engine with mounts of its own keeps them out of sight.
///
/// # Errors
///
/// The mounts cannot be read, or the kernel cannot be asked.
pub fn of_overlays() -> io::Result<Vec<Sandbox>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let named = mounts.lines().filter_map(|line| {
        // Number, parent, device, root, mount point (proc(5)).
        let mut words = line.split(' ').skip(3);
        let root = words.next()?;
        let path = root.starts_with("net:[").then(|| words.next())??;
        Some((path, role(path.rsplit('/').next()?)?))
    });
    let mut netlink = None;
    let mut found = Vec::new();
    for (path, role) in named {
        let Ok(file) = File::open(path) else { continue };
        let Ok(inode) = file.metadata().map(|data| data.ino()) else { continue };
        if netlink.is_none() {
            netlink = Some(Netlink::open().map_err(io::Error::other)?);
        }
        let known = netlink.as_mut().and_then(|netlink| netlink.nsid_of(&file).ok()?);
        if known.is_some() || role == Role::Balancer {
            found.push(Sandbox { inode, file, containers: BTreeSet::new(), role });
        }
    }
    Ok(found)
}

fn role(name: &str) -> Option<Role> {
    if let Some(network) = name.strip_prefix("1-") {
        return Some(Role::Overlay(network.to_owned()));
    }
    (name.starts_with("lb_") || name == "ingress_sbox").then_some(Role::Balancer)
}

/// Runs a closure in another network namespace, on a thread that ends with it.
///
/// # Errors
///
/// The namespace cannot be entered, or the closure panicked.
pub fn enter<T: Send>(netns: &File, closure: impl FnOnce() -> T + Send) -> io::Result<T> {
    let inside = || {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        Ok(closure())
    };
    thread::scope(|scope| {
        scope.spawn(inside).join().map_err(|_| io::Error::other("a thread has failed"))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_says_by_name_what_a_namespace_is_for() {
        let overlay = Role::Overlay("6r5m3qzef4".to_owned());
        assert_eq!(role("1-6r5m3qzef4"), Some(overlay));
        assert_eq!(role("lb_6r5m3qzef"), Some(Role::Balancer));
        assert_eq!(role("ingress_sbox"), Some(Role::Balancer));
        assert_eq!(role("a8d73fa5df7d"), None);
    }
}
