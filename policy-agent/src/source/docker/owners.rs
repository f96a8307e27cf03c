//! Which container owns a network namespace, from the process table.
//!
//! Input: `/proc`. Output: container ids by namespace id.
//!
//! The container's first process exists, in its cgroup and in its network namespace, before the
//! container end of the veth is handed over, and long before its first instruction; the engine's
//! own answers come after that instruction. A container cannot forge this: processes change cgroups
//! only through the host's cgroup file systems, and ids in the path of a nested cgroup come after
//! the container's own. Needs the host's process table (the agent in the host's pid namespace) and
//! CAP_SYS_PTRACE; where those are missing nothing is found, and the engine's inspect decides.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use crate::netlink::{Netlink, NetlinkError};

/// A container id's length.
const ID_DIGITS: usize = 64;

/// Why the process table could not be searched.
#[derive(Debug, thiserror::Error)]
pub(super) enum OwnersError {
    /// `/proc` cannot be read.
    #[error("cannot read {path}: {source}")]
    Proc { path: String, source: io::Error },
    /// The kernel could not be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Containers that have processes in each of the namespaces `wanted`. Blocks: about 10 us for each
/// process of the host.
pub(super) fn owners(
    wanted: &BTreeSet<i32>,
) -> Result<BTreeMap<i32, BTreeSet<String>>, OwnersError> {
    let proc_error = |path: &str| {
        let path = path.to_owned();
        move |source| OwnersError::Proc { path, source }
    };
    let own = fs::metadata("/proc/self/ns/net").map_err(proc_error("/proc/self/ns/net"))?;
    let mut netlink = Netlink::open()?;
    // Namespace ids by inode; the namespace files themselves stay open until the end, so that no
    // inode is used again meanwhile.
    let mut known: BTreeMap<u64, (Option<i32>, Option<File>)> =
        BTreeMap::from([(own.ino(), (None, None))]);
    let mut found: BTreeMap<i32, BTreeSet<String>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").map_err(proc_error("/proc"))? {
        let Ok(entry) = entry else { continue };
        let is_process = entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        // A process that ends while we look is no evidence.
        if is_process && let Some(nsid) = process_nsid(&entry.path(), &mut known, &mut netlink) {
            if !wanted.contains(&nsid) {
                continue;
            }
            if let Ok(cgroups) = fs::read_to_string(entry.path().join("cgroup"))
                && let Some(id) = container_id(&cgroups)
            {
                found.entry(nsid).or_default().insert(id.to_owned());
            }
        }
    }
    Ok(found)
}

fn process_nsid(
    process: &Path,
    known: &mut BTreeMap<u64, (Option<i32>, Option<File>)>,
    netlink: &mut Netlink,
) -> Option<i32> {
    let path = process.join("ns/net");
    let inode = fs::metadata(&path).ok()?.ino();
    match known.entry(inode) {
        Entry::Occupied(entry) => entry.get().0,
        Entry::Vacant(entry) => {
            let file = File::open(&path).ok()?;
            // The process may have moved in between.
            if file.metadata().ok()?.ino() != inode {
                return None;
            }
            let nsid = netlink.nsid_of(&file).ok()?;
            entry.insert((nsid, Some(file))).0
        }
    }
}

/// The id of the container that a process is in, from `/proc/<pid>/cgroup`.
///
/// Each line is `hierarchy:controllers:path`. The container is the first path component that is an
/// id, bare (cgroupfs driver) or as `docker-<id>.scope` (systemd driver); all lines that have one
/// must agree.
pub(crate) fn container_id(cgroups: &str) -> Option<&str> {
    let mut ids = cgroups.lines().filter_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        path.split('/').find_map(component_id)
    });
    let first = ids.next()?;
    ids.all(|id| id == first).then_some(first)
}

fn component_id(component: &str) -> Option<&str> {
    let bare = component.strip_suffix(".scope").unwrap_or(component);
    let id = bare.rsplit_once('-').map_or(bare, |(_, id)| id);
    let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (id.len() == ID_DIGITS && id.bytes().all(hexadecimal)).then_some(id)
}

#[cfg(test)]
mod tests;
