//! Where maps and links live: `<bpffs dir>/v<ABI>/{maps,links}`.
//!
//! What is pinned goes on working when the agent stops, crashes or is replaced. The ABI version in
//! the path keeps an agent from reading maps of another layout.

use std::{
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

/// What a pinned link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// TC ingress of a host-side veth.
    FromEndpoint,
    /// TC egress of a host-side veth.
    ToEndpoint,
    /// TC ingress of a bridge.
    FromBridge,
    /// TC egress of a bridge.
    ToBridge,
    /// XDP on an uplink.
    Uplink,
}

impl Hook {
    /// Every hook.
    pub const ALL: [Hook; 5] =
        [Hook::FromEndpoint, Hook::ToEndpoint, Hook::FromBridge, Hook::ToBridge, Hook::Uplink];

    /// The program that belongs there; also the name of the pin.
    pub const fn program(self) -> &'static str {
        match self {
            Hook::FromEndpoint => policy_common::maps::PROGRAM_FROM_ENDPOINT,
            Hook::ToEndpoint => policy_common::maps::PROGRAM_TO_ENDPOINT,
            Hook::FromBridge => policy_common::maps::PROGRAM_FROM_BRIDGE,
            Hook::ToBridge => policy_common::maps::PROGRAM_TO_BRIDGE,
            Hook::Uplink => policy_common::maps::PROGRAM_UPLINK,
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

    /// Every pinned link.
    ///
    /// # Errors
    ///
    /// [`PinError::Io`] if the directory cannot be read.
    pub fn links(&self) -> Result<Vec<(u32, Hook)>, PinError> {
        let dir = self.links_dir();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(PinError::Io { path: dir, source }),
        };
        Ok(entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                let (ifindex, program) = name.split_once('-')?;
                let hook = Hook::ALL.into_iter().find(|hook| hook.program() == program)?;
                Some((ifindex.parse().ok()?, hook))
            })
            .collect())
    }

    /// Whether an earlier agent of this ABI left its maps.
    pub fn occupied(&self) -> bool {
        self.map(policy_common::maps::GLOBALS).exists()
    }

    /// Removes every pin of every ABI version.
    ///
    /// # Errors
    ///
    /// [`PinError::Io`] for the first that cannot be removed.
    pub fn remove_all(&self) -> Result<(), PinError> {
        match fs::remove_dir_all(&self.top) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(PinError::Io { path: self.top.clone(), source }),
            Ok(()) => Ok(()),
        }
    }
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}
