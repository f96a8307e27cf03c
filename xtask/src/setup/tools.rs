//! Programs that the build, the tests and the demo start.
//!
//! Inputs: a purpose, `PATH`. Outputs: the Debian packages of the programs that are missing.

use std::{fs, path::PathBuf};

use anyhow::{Result, bail};

use crate::setup::{Purpose, apt, progress::Progress};

/// A program, the Debian package that has it, and what it is for.
struct Tool {
    program: &'static str,
    package: &'static str,
    purpose: &'static str,
}

const BUILD: [Tool; 1] =
    [Tool { program: "make", package: "make", purpose: "builds the agent's allocator" }];

const LAB: [Tool; 1] =
    [Tool { program: "ip", package: "iproute2", purpose: "builds the namespaces of the lab" }];

const BENCH: [Tool; 2] = [
    Tool { program: "iptables-nft", package: "iptables", purpose: "is measured beside ours" },
    Tool { program: "nft", package: "nftables", purpose: "is measured beside ours" },
];

const PICTURES: [Tool; 1] =
    [Tool { program: "prometheus", package: "prometheus", purpose: "scrapes a real agent" }];

const TESTS: [Tool; 6] = [
    Tool {
        program: "dockerd",
        package: "docker.io",
        purpose: "is the private engine of the tests",
    },
    Tool { program: "docker", package: "docker.io", purpose: "drives that engine" },
    Tool { program: "iptables", package: "iptables", purpose: "is called by that engine" },
    Tool { program: "nft", package: "nftables", purpose: "shows foreign rules next to ours" },
    Tool { program: "prometheus", package: "prometheus", purpose: "scrapes a real agent" },
    Tool { program: "promtool", package: "prometheus", purpose: "checks rules and queries" },
];

const KERNELS: [Tool; 6] = [
    Tool {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
        purpose: "boots other kernels",
    },
    Tool { program: "depmod", package: "kmod", purpose: "makes their modules loadable" },
    Tool { program: "modprobe", package: "kmod", purpose: "loads them" },
    Tool { program: "dpkg-deb", package: "dpkg", purpose: "unpacks them" },
    Tool { program: "strip", package: "binutils", purpose: "makes room in their memory" },
    Tool { program: "tc", package: "iproute2", purpose: "shows our filters there" },
];

/// The image of our containers is made of this one file, so it must need no library.
const BUSYBOX_PACKAGE: &str = "busybox-static";

/// Installs the packages of what is missing.
///
/// # Errors
/// If a package cannot be installed, or its program is still missing afterwards.
pub(crate) fn ensure(purpose: Purpose, progress: &Progress) -> Result<()> {
    if purpose == Purpose::Fuzz {
        return Ok(());
    }
    let packages = missing(purpose);
    if packages.is_empty() {
        progress.present("programs", "all there");
        return Ok(());
    }
    apt::install(&packages, progress)?;
    if packages.contains(&"docker.io") || packages.contains(&"prometheus") {
        progress.note(
            "the services of docker.io and prometheus were not started; where systemd runs, they \
             start at the next boot unless you `systemctl disable` them",
        );
    }
    let still = missing(purpose);
    if !still.is_empty() {
        bail!("installed, but not found in PATH: the programs of {}", still.join(", "));
    }
    Ok(())
}

/// Packages whose programs are not there, each once.
fn missing(purpose: Purpose) -> Vec<&'static str> {
    let lab: &[Tool] = if purpose == Purpose::Build { &[] } else { &LAB };
    let tests: &[Tool] = match purpose {
        Purpose::Bench => &BENCH,
        Purpose::Pictures => &PICTURES,
        Purpose::Test => &TESTS,
        Purpose::Kernels => &KERNELS,
        _ => &[],
    };
    let mut packages: Vec<_> = BUILD
        .iter()
        .chain(lab)
        .chain(tests)
        .filter(|tool| find(tool.program).is_none())
        .inspect(|tool| eprintln!("need  {} ({}): {}", tool.package, tool.program, tool.purpose))
        .map(|tool| tool.package)
        .collect();
    let busybox = matches!(purpose, Purpose::DemoDocker | Purpose::Kernels | Purpose::Test);
    if busybox && !find("busybox").is_some_and(|path| is_static(&path)) {
        eprintln!(
            "need  {BUSYBOX_PACKAGE}: is the image of our containers, and the shell of our kernels"
        );
        packages.push(BUSYBOX_PACKAGE);
    }
    if purpose == Purpose::Test {
        // With AppArmor on, the engine loads its profile before the first container.
        let apparmor = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        if apparmor.is_ok_and(|enabled| enabled.trim() == "Y") && find("apparmor_parser").is_none()
        {
            eprintln!("need  apparmor (apparmor_parser): is called by that engine");
            packages.push("apparmor");
        }
    }
    packages.dedup();
    packages
}

/// In `PATH`, or where Debian keeps what only root calls.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    which::which(program).ok().or_else(|| {
        ["/usr/sbin", "/sbin"]
            .into_iter()
            .map(|folder| PathBuf::from(folder).join(program))
            .find(|path| path.is_file())
    })
}

/// Whether an ELF file names no dynamic linker. The name is in the first page of any that does,
/// because the program headers follow the file's header.
fn is_static(path: &std::path::Path) -> bool {
    let Ok(bytes) = fs::read(path) else { return false };
    let head = &bytes[..bytes.len().min(4096)];
    head.starts_with(b"\x7fELF") && !head.windows(8).any(|window| window == b"/ld-linu")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        fs::write(&path, b"\x7fELF....").unwrap();
        assert!(is_static(&path));
        fs::write(&path, b"\x7fELF..../lib64/ld-linux-x86-64.so.2").unwrap();
        assert!(!is_static(&path));
        fs::write(&path, b"#!/bin/sh").unwrap();
        assert!(!is_static(&path));
        assert!(!is_static(&folder.path().join("absent")));
    }
}
