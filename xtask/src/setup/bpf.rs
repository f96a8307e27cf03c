//! The BPF toolchain.
//!
//! Inputs: apt or rustup, cargo. Outputs: a rustc for BPF and bpf-linker.
//!
//! Debian's packages come first: they need no nightly, and their LLVM is there as a library for
//! the linker. Elsewhere a rustup nightly serves.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use bpf_toolchain::{
    LINKER_PACKAGE, LINKER_VERSION, Rustc, Toolchain, find_linker, find_rustc, llvm_major,
};

use crate::{
    setup::{apt, progress::Progress},
    workspace::Workspace,
};

const DEBIAN_RUSTC: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// Installs what is missing of the toolchain.
///
/// # Errors
/// If neither apt nor rustup can provide it.
pub(crate) fn ensure(workspace: &Workspace, progress: &Progress) -> Result<()> {
    let rustc = match find_rustc() {
        Some(rustc) if suffices(&rustc) => rustc,
        _ => install_rustc(progress)?,
    };
    progress.present("rustc for BPF", &describe(&rustc));
    if find_linker(llvm_major(rustc.path())).is_none() {
        install_linker(workspace, &rustc, progress)?;
    }
    let toolchain = Toolchain::discover()?;
    progress.present(LINKER_PACKAGE, &toolchain.linker().display().to_string());
    Ok(())
}

/// Whether to go on with a rustc that is there. A nightly's LLVM is often newer than any that
/// Debian has, so there may be no linker to go with it; where there is apt, Debian's pair is.
fn suffices(rustc: &Rustc) -> bool {
    match rustc {
        Rustc::Prebuilt { .. } => true,
        Rustc::BuildStd { .. } => {
            find_linker(llvm_major(rustc.path())).is_some() || !apt::available()
        }
    }
}

fn describe(rustc: &Rustc) -> String {
    let path = rustc.path().display();
    match rustc {
        Rustc::Prebuilt { .. } => format!("{path} (with a prebuilt core)"),
        Rustc::BuildStd { .. } => format!("{path} (builds core from rust-src)"),
    }
}

fn install_rustc(progress: &Progress) -> Result<Rustc> {
    if apt::available() {
        apt::install(&DEBIAN_RUSTC, progress)?;
    } else if which::which("rustup").is_ok() {
        progress.run(
            "rustup toolchain install nightly with rust-src",
            Command::new("rustup").args([
                "toolchain",
                "install",
                "nightly",
                "--profile=minimal",
                "--component=rust-src",
            ]),
        )?;
    } else {
        bail!(
            "the kernel programs need a rustc that compiles for BPF, and there is neither apt-get \
             nor rustup here. Install Debian's {}, or rustup with a nightly toolchain and its \
             rust-src component, and run this again.",
            DEBIAN_RUSTC.join(" and ")
        );
    }
    find_rustc().context("a rustc for BPF was installed, but is not found")
}

fn install_linker(workspace: &Workspace, rustc: &Rustc, progress: &Progress) -> Result<()> {
    let major = llvm_major(rustc.path())
        .with_context(|| format!("{} does not tell its LLVM", rustc.path().display()))?;
    // llvm-sys looks there; elsewhere than on Debian LLVM has no one place of its own.
    let named = env::var_os("LLVM_PREFIX").map(PathBuf::from);
    let prefix = named.unwrap_or_else(|| PathBuf::from(format!("/usr/lib/llvm-{major}")));
    if !prefix.join("include/llvm-c/Core.h").exists() {
        let package = format!("llvm-{major}-dev");
        apt::install(&[&package], progress).with_context(|| {
            format!(
                "{LINKER_PACKAGE} is built on LLVM {major}, the one of that rustc; if it lies \
                 elsewhere, name its folder in LLVM_PREFIX"
            )
        })?;
    }
    let mut cargo = workspace.cargo();
    cargo
        .args(["install", LINKER_PACKAGE, "--version", LINKER_VERSION, "--locked"])
        .args(["--no-default-features", "--features", &format!("llvm-{major}")])
        // One that does not start, because its libLLVM has gone, is in the way.
        .arg("--force")
        .env("LLVM_PREFIX", &prefix)
        // `install` has a target directory of its own for each run.
        .env_remove("CARGO_TARGET_DIR");
    progress.run(&format!("cargo install {LINKER_PACKAGE} {LINKER_VERSION}"), &mut cargo)
}
