//! Debian packages.
//!
//! Inputs: names of packages. Outputs: the packages, installed; their services are not started.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use crate::setup::progress::Progress;

/// invoke-rc.d(8) and deb-systemd-invoke(1p) ask this program before they start a service.
const POLICY_RC_D: &str = "/usr/sbin/policy-rc.d";
/// Tells our own file from one that belongs to the machine.
const MARK: &str = "# Made by Palisade's `cargo xtask setup` for one installation";
/// policy-rc.d's exit code for "forbidden".
const FORBIDDEN: i32 = 101;

/// Whether apt-get is there at all.
pub(crate) fn available() -> bool {
    which::which("apt-get").is_ok()
}

/// Installs `packages`, without recommended ones, without removing others.
///
/// # Errors
/// Without apt-get, not as root, if the packages cannot be had, or if they could not be
/// installed without starting a service.
pub(crate) fn install(packages: &[&str], progress: &Progress) -> Result<()> {
    let names = packages.join(" ");
    if !available() {
        bail!("{names}: missing, and there is no apt-get here; install them by hand");
    }
    if !geteuid().is_root() {
        bail!("{names}: missing; run this as root, or `apt-get install {names}` as root");
    }
    let _no_services = NoServices::hold(Path::new(POLICY_RC_D), &names)?;
    // The lists may be absent or out of date; fetching them is only worth it then.
    if !simulates(packages) {
        update(progress)?;
    }
    let title = format!("apt-get install {names}");
    if progress.run(&title, &mut apt_install(packages)).is_ok() {
        return Ok(());
    }
    update(progress)?;
    progress.run(&title, &mut apt_install(packages))
}

fn update(progress: &Progress) -> Result<()> {
    progress.run("apt-get update", apt_get().args(["-q", "update"]))
}

fn simulates(packages: &[&str]) -> bool {
    apt_install(packages)
        .arg("--simulate")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn apt_install(packages: &[&str]) -> Command {
    let mut command = apt_get();
    // --no-remove: a conflict with what somebody chose to have is theirs to resolve.
    command
        .args(["-q", "install", "--yes", "--no-install-recommends", "--no-remove"])
        .args(packages);
    command
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command
}

/// While it lives, packages do not start their services when they are installed.
#[derive(Debug)]
struct NoServices {
    /// Our own file, to be removed; `None` if the machine has one that says the same.
    made: Option<PathBuf>,
}

impl NoServices {
    fn hold(path: &Path, packages: &str) -> Result<Self> {
        match fs::read_to_string(path) {
            // Left by an installation that was killed.
            Ok(text) if text.contains(MARK) => return Ok(Self { made: Some(path.to_owned()) }),
            Ok(_) => {
                let forbids = Command::new(path)
                    .args(["docker", "start"])
                    .stdout(Stdio::null())
                    .status()
                    .is_ok_and(|status| status.code() == Some(FORBIDDEN));
                if forbids {
                    return Ok(Self { made: None });
                }
                bail!(
                    "{} would let packages start their services here; \
                     install these yourself: {packages}",
                    path.display()
                );
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(format!("read {}", path.display())),
        }
        let write = || {
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(path)?;
            write!(file, "#!/bin/sh\n{MARK}\nexit {FORBIDDEN}\n")?;
            // The umask may have taken the bits that make it executable for others.
            file.set_permissions(fs::Permissions::from_mode(0o755))
        };
        write().with_context(|| format!("write {}", path.display()))?;
        Ok(Self { made: Some(path.to_owned()) })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.made
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!("note  cannot remove {}: {error}; please do", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn services_are_held_only_during_the_installation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy-rc.d");
        let held = NoServices::hold(&path, "docker.io").unwrap();
        let status = Command::new(&path).args(["docker", "start"]).status().unwrap();
        assert_eq!(status.code(), Some(FORBIDDEN));
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_of_the_machine_that_forbids_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy-rc.d");
        script(&path, "#!/bin/sh\nexit 101\n");
        drop(NoServices::hold(&path, "docker.io").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "#!/bin/sh\nexit 101\n");
    }

    #[test]
    fn a_file_of_the_machine_that_allows_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy-rc.d");
        script(&path, "#!/bin/sh\nexit 0\n");
        let error = NoServices::hold(&path, "docker.io").unwrap_err().to_string();
        assert!(error.ends_with("install these yourself: docker.io"), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn the_file_of_a_killed_installation_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy-rc.d");
        std::mem::forget(NoServices::hold(&path, "docker.io").unwrap());
        drop(NoServices::hold(&path, "docker.io").unwrap());
        assert!(!path.exists());
    }
}
