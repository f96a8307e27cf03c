//! Debian's kernels.
//!
//! Inputs: a release, where apt gets this machine's packages from. Outputs: the kernel and its
//! modules in a folder of the cache. A kernel that is there is not asked for again: who wants
//! Debian's newest removes the folder.
//!
//! apt is asked with a configuration of its own, so that the machine's sources and lists stay what
//! they are.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{kernels::Release, setup::progress::Progress};

/// Depends on the newest kernel without drivers for real hardware.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// Debian signs all its releases with keys of this file.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The last file that is written: all others are whole if it is there.
const IMAGE: &str = "vmlinuz";

/// A kernel that can be booted.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What `uname -r` says.
    pub(crate) version: String,
    /// For the boot loader.
    pub(crate) image: PathBuf,
    /// `lib/modules/<version>`, with what depmod(8) makes.
    pub(crate) modules: PathBuf,
}

/// The kernel of a release, fetched if need be.
///
/// # Errors
/// If it cannot be had.
pub(crate) fn kernel(release: Release, folder: &Path, progress: &Progress) -> Result<Kernel> {
    let image = folder.join(IMAGE);
    if !image.is_file() {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        fetch(release, folder, progress)?;
    }
    let all = folder.join("lib/modules");
    let [version] = &names(&all)?[..] else {
        bail!("not one kernel in {}: remove that folder", folder.display());
    };
    Ok(Kernel { version: version.clone(), image, modules: all.join(version) })
}

fn fetch(release: Release, folder: &Path, progress: &Progress) -> Result<()> {
    let apt = Apt::configure(release, folder, progress)?;
    // One of several sources may be gone; whether the kernel can be had shows next.
    let updated = progress.run(
        &format!("apt-get update ({})", release.suite()),
        apt.command("apt-get").arg("update"),
    );
    let package = apt.newest().or_else(|error| updated.and(Err(error)))?;
    let unpacked = folder.join("unpacked");
    fs::create_dir_all(&unpacked).context("make a folder")?;
    progress.run(
        &format!("apt-get download {package}"),
        apt.command("apt-get").args(["download", &package]).current_dir(folder),
    )?;
    let archive = names(folder)?
        .into_iter()
        .find(|name| name.ends_with(".deb"))
        .context("apt-get downloaded nothing")?;
    let archive = folder.join(archive);
    progress
        .run("unpack it", Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&unpacked))?;
    // In /usr from Debian 13 on.
    let modules = [unpacked.join("lib/modules"), unpacked.join("usr/lib/modules")]
        .into_iter()
        .find(|path| path.is_dir())
        .context("the package has no modules")?;
    fs::create_dir_all(folder.join("lib")).context("make a folder")?;
    fs::rename(&modules, folder.join("lib/modules")).context("move the modules")?;
    for version in names(&folder.join("lib/modules"))? {
        progress.run("depmod", Command::new("depmod").arg("-b").arg(folder).arg(&version))?;
        let image = unpacked.join(format!("boot/vmlinuz-{version}"));
        fs::rename(&image, folder.join(IMAGE)).context("move the kernel")?;
    }
    fs::remove_dir_all(&unpacked).and_then(|()| fs::remove_file(&archive)).context("tidy up")
}

/// apt, for another release than the machine's.
#[derive(Debug)]
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn configure(release: Release, folder: &Path, progress: &Progress) -> Result<Self> {
        let own = own_codename()?;
        let mut targets = index_targets()?;
        if targets.is_empty() {
            // apt knows only of what it has fetched once.
            progress.run("apt-get update", Command::new("apt-get").arg("update"))?;
            targets = index_targets()?;
        }
        let sources = sources(&targets, &own, release.suite());
        ensure!(
            !sources.is_empty(),
            "apt has no source of Debian {own} here from which to tell where {} is",
            release.suite()
        );
        let apt = folder.join("apt");
        for name in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(apt.join(name)).context("make a folder for apt")?;
        }
        let list = apt.join("sources.list");
        let text: String = sources.into_iter().map(|line| line + "\n").collect();
        fs::write(&list, text).with_context(|| format!("write {}", list.display()))?;
        let options = [
            format!("Dir::State::lists={}", apt.join("lists").display()),
            format!("Dir::Cache={}", apt.join("cache").display()),
            format!("Dir::Etc::sourcelist={}", list.display()),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            // Pins of the machine are about the machine's release.
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            // The cache may lie where apt's own user cannot write.
            "APT::Sandbox::User=root".to_owned(),
        ];
        Ok(Self { options: options.into_iter().collect() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").arg("--quiet");
        for option in &self.options {
            command.args(["--option", option]);
        }
        command
    }

    /// The package that has the newest kernel.
    fn newest(&self) -> Result<String> {
        let output =
            self.command("apt-cache").args(["depends", PACKAGE]).output().context("start apt")?;
        let text = String::from_utf8_lossy(&output.stdout);
        dependency(&text).with_context(|| format!("there is no package {PACKAGE}"))
    }
}

/// The image in the output of `apt-cache depends`.
fn dependency(text: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
}

/// Code name of the Debian release that this machine runs.
fn own_codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim_matches('"').to_owned())
    };
    ensure!(
        value("ID=").as_deref() == Some("debian"),
        "the kernels are fetched from where Debian gets its packages, and this is no Debian"
    );
    value("VERSION_CODENAME=").context("/etc/os-release names no VERSION_CODENAME")
}

/// Where apt gets packages from: address, release, component.
fn index_targets() -> Result<Vec<[String; 3]>> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"])
        .arg("Created-By: Packages")
        .output()
        .context("start apt-get")?;
    ensure!(output.status.success(), "apt-get does not tell its sources");
    let text = String::from_utf8_lossy(&output.stdout);
    let split = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        Some([words.next()?, words.next()?, words.next()?])
    };
    Ok(text.lines().filter_map(split).collect())
}

/// Lines for sources.list(5): Debian's own archives, with another release in the place of the
/// machine's. Other people's archives seldom have a component `main` below the release's name.
fn sources(targets: &[[String; 3]], own: &str, wanted: &str) -> BTreeSet<String> {
    let line = |[address, release, component]: &[String; 3]| {
        let rest = release.strip_prefix(own)?;
        // An archive's update of between two point releases; old releases have none.
        let usual = rest.is_empty() || rest == "-security";
        (usual && component == "main")
            .then(|| format!("deb [signed-by={KEYRING}] {address} {wanted}{rest} main"))
    };
    targets.iter().filter_map(line).collect()
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let read = || -> std::io::Result<Vec<String>> {
        let entries = fs::read_dir(folder)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    read().with_context(|| format!("read {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_archives_are_asked_for_another_release() {
        let target = |address: &str, release: &str, component: &str| {
            [address, release, component].map(str::to_owned)
        };
        let targets = [
            target("http://mirror.test/debian/", "bookworm", "main"),
            target("http://mirror.test/debian/", "bookworm", "contrib"),
            target("http://mirror.test/debian/", "bookworm-updates", "main"),
            target("http://mirror.test/security/", "bookworm-security", "main"),
            target("http://vendor.test/apt/", "cloud-bookworm", "main"),
            target("http://vendor.test/debian/", "bookworm", "stable"),
        ];
        let lines: Vec<_> = sources(&targets, "bookworm", "trixie").into_iter().collect();
        assert_eq!(
            lines,
            [
                format!("deb [signed-by={KEYRING}] http://mirror.test/debian/ trixie main"),
                format!(
                    "deb [signed-by={KEYRING}] http://mirror.test/security/ trixie-security main"
                ),
            ]
        );
    }

    #[test]
    fn the_image_behind_the_empty_package_is_found() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(dependency(text).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(dependency(""), None);
    }
}
