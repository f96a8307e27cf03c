//! Where maps and links live: `<bpffs dir>/v<ABI>/{maps,links}`.
//!
//! What is pinned goes on working when the agent stops, crashes or is replaced. The ABI version in
//! the path keeps an agent from reading maps of another layout.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use policy_common::abi::ABI_VERSION;
use thiserror::Error;

/// Why there is no place to pin to.
#[derive(Debug, Error)]
pub enum PinError {
    /// bpffs is not there and could not be mounted.
    #[error(
        "no BPF file system at {path}, and mounting one failed: {source}; try `mount -t bpf bpf {path}`"
    )]
    Mount {
        /// Mount point.
        path: PathBuf,
        /// Why.
        source: nix::Error,
    },
    /// The directory is on another file system.
    #[error("{0} is not inside a BPF file system: choose a --bpffs-dir below /sys/fs/bpf")]
    NotBpf(PathBuf),
    /// A directory could not be made or read.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Standard mount point of bpffs.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// The directories of one agent.
#[derive(Clone, Debug)]
pub struct Pins {
    top: PathBuf,
    root: PathBuf,
}

/// Word in the name of a mark of an interface inside a container's network namespace.
const INSIDE_MARK: &str = "inside";

/// An interface inside another network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Inode of the namespace, its number while it lives.
    pub netns: u64,
    /// Index in there.
    pub ifindex: u32,
}

/// What a pinned link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// TC ingress of a host-side veth.
    FromEndpoint,
    /// TC egress of a host-side veth.
    ToEndpoint,
    /// TC egress of an interface inside a container's network namespace.
    FromInside,
    /// TC ingress of such an interface.
    ToInside,
    /// TC ingress of a bridge.
    FromBridge,
    /// TC egress of a bridge.
    ToBridge,
    /// XDP on an uplink.
    Uplink,
    /// TC egress of an uplink that limits new flows.
    UplinkEgress,
    /// TC ingress of a host endpoint's interface.
    FromUplink,
    /// TC egress of a host endpoint's interface.
    ToUplink,
}

impl Hook {
    /// Every hook.
    pub const ALL: [Hook; 10] = [
        Hook::FromEndpoint,
        Hook::ToEndpoint,
        Hook::FromInside,
        Hook::ToInside,
        Hook::FromBridge,
        Hook::ToBridge,
        Hook::Uplink,
        Hook::UplinkEgress,
        Hook::FromUplink,
        Hook::ToUplink,
    ];

    /// The program that belongs there; also the name of the pin.
    pub const fn program(self) -> &'static str {
        match self {
            Hook::FromEndpoint => policy_common::maps::PROGRAM_FROM_ENDPOINT,
            Hook::ToEndpoint => policy_common::maps::PROGRAM_TO_ENDPOINT,
            Hook::FromInside => policy_common::maps::PROGRAM_FROM_INSIDE,
            Hook::ToInside => policy_common::maps::PROGRAM_TO_INSIDE,
            Hook::FromBridge => policy_common::maps::PROGRAM_FROM_BRIDGE,
            Hook::ToBridge => policy_common::maps::PROGRAM_TO_BRIDGE,
            Hook::Uplink => policy_common::maps::PROGRAM_UPLINK,
            Hook::UplinkEgress => policy_common::maps::PROGRAM_UPLINK_EGRESS,
            Hook::FromUplink => policy_common::maps::PROGRAM_FROM_UPLINK,
            Hook::ToUplink => policy_common::maps::PROGRAM_TO_UPLINK,
        }
    }
}

impl Pins {
    /// The pins below `dir`, `--bpffs-dir`. Touches nothing.
    pub fn new(dir: &Path) -> Pins {
        Pins { top: dir.to_owned(), root: dir.join(format!("v{ABI_VERSION}")) }
    }

    /// Mounts bpffs if it is not, and makes the directories.
    ///
    /// # Errors
    ///
    /// [`PinError`].
    pub fn prepare(&self) -> Result<(), PinError> {
        let mount_point = Path::new(MOUNT_POINT);
        if self.root.starts_with(mount_point) && !is_bpffs(mount_point) {
            mount(Some("bpf"), mount_point, Some("bpf"), MsFlags::empty(), None::<&str>)
                .map_err(|source| PinError::Mount { path: mount_point.to_owned(), source })?;
        }
        let nearest = self.root.ancestors().find(|path| path.exists());
        if !nearest.is_some_and(is_bpffs) {
            return Err(PinError::NotBpf(self.root.clone()));
        }
        for dir in [self.maps_dir(), self.links_dir()] {
            fs::create_dir_all(&dir).map_err(|source| PinError::Io { path: dir, source })?;
        }
        Ok(())
    }

    /// Directory of the maps.
    pub fn maps_dir(&self) -> PathBuf {
        self.root.join("maps")
    }

    /// Directory of the links.
    pub fn links_dir(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps_dir().join(name)
    }

    /// Pin of a link.
    pub fn link(&self, ifindex: u32, hook: Hook) -> PathBuf {
        self.links_dir().join(format!("{ifindex}-{}", hook.program()))
    }

    /// Marks an uplink whose XDP program runs in the stack.
    pub fn generic_mark(&self, ifindex: u32) -> PathBuf {
        self.links_dir().join(format!("{ifindex}-generic"))
    }

    /// Marks an interface inside a container's network namespace, with the number of its endpoint.
    pub fn inside(&self, place: Place, number: u32) -> PathBuf {
        self.links_dir().join(format!("{number}-{INSIDE_MARK}-{}-{}", place.netns, place.ifindex))
    }

    /// Every such mark. The kernel gives the numbers of namespaces away again, so that a mark may
    /// be of an interface that is gone.
    ///
    /// # Errors
    ///
    /// [`PinError::Io`] if the directory cannot be read.
    pub fn insides(&self) -> Result<BTreeMap<Place, u32>, PinError> {
        let parse = |name: String| {
            let mut words = name.split('-');
            let number = words.next()?.parse().ok()?;
            words.next().filter(|word| *word == INSIDE_MARK)?;
            let place =
                Place { netns: words.next()?.parse().ok()?, ifindex: words.next()?.parse().ok()? };
            Some((place, number))
        };
        Ok(self.names()?.into_iter().filter_map(parse).collect())
    }

    /// Every pinned link.
    ///
    /// # Errors
    ///
    /// [`PinError::Io`] if the directory cannot be read.
    pub fn links(&self) -> Result<Vec<(u32, Hook)>, PinError> {
        let parse = |name: String| {
            let (ifindex, program) = name.split_once('-')?;
            let hook = Hook::ALL.into_iter().find(|hook| hook.program() == program)?;
            Some((ifindex.parse().ok()?, hook))
        };
        Ok(self.names()?.into_iter().filter_map(parse).collect())
    }

    fn names(&self) -> Result<Vec<String>, PinError> {
        let dir = self.links_dir();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(PinError::Io { path: dir, source }),
        };
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
    }

    /// Whether an earlier agent of this ABI left its maps.
    pub fn occupied(&self) -> bool {
        self.map(policy_common::maps::GLOBALS).exists()
    }

    /// Removes every pin of every ABI version, and nothing else: `--bpffs-dir` may be a directory
    /// that others pin to.
    ///
    /// # Errors
    ///
    /// [`PinError::Io`] for the first that cannot be removed.
    pub fn remove_all(&self) -> Result<(), PinError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| PinError::Io { path, source }
        };
        let entries = match fs::read_dir(&self.top) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io(&self.top)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(io(&self.top))?;
            if is_version(entry.file_name().as_encoded_bytes()) {
                let path = entry.path();
                fs::remove_dir_all(&path).map_err(io(&path))?;
            }
        }
        // Fails, rightly, if anything is left.
        let _ = fs::remove_dir(&self.top);
        Ok(())
    }
}

/// `v<ABI>`.
fn is_version(name: &[u8]) -> bool {
    name.strip_prefix(b"v")
        .is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["v1/maps", "v12/links", "vpn/maps", "v", "cilium"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        Pins::new(dir.path()).remove_all().unwrap();
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["cilium", "v", "vpn"]);
    }

    #[test]
    fn marks_of_interfaces_in_other_namespaces_are_no_links_and_the_other_way_round() {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::new(dir.path());
        let place = Place { netns: 4_026_537_146, ifindex: 5 };
        for path in [pins.inside(place, 7), pins.link(3, Hook::ToEndpoint), pins.generic_mark(4)] {
            fs::create_dir_all(path).unwrap();
        }
        fs::create_dir_all(pins.links_dir().join("8-inside-x-2")).unwrap();
        assert_eq!(pins.insides().unwrap(), BTreeMap::from([(place, 7)]));
        assert_eq!(pins.links().unwrap(), [(3, Hook::ToEndpoint)]);
    }

    #[test]
    fn an_empty_directory_of_our_own_goes_and_a_missing_one_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("palisade");
        fs::create_dir_all(top.join("v1/maps")).unwrap();
        Pins::new(&top).remove_all().unwrap();
        assert!(!top.exists());
        Pins::new(&top).remove_all().unwrap();
    }
}
