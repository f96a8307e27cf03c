//! Network namespaces of containers, from the process table.
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

use crate::source::docker::container_of;

/// A network namespace in which containers have processes.
#[derive(Debug)]
pub struct Sandbox {
    /// Inode of the namespace.
    pub inode: u64,
    /// The namespace.
    pub file: File,
    /// Ids of the containers.
    pub containers: BTreeSet<String>,
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
            found.insert(inode, Sandbox { inode, file, containers });
        }
    }
    Ok(found.into_values().collect())
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
