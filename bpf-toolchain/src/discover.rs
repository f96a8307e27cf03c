//! Where the tools are.
//!
//! Inputs: `PALISADE_BPF_RUSTC`, `PATH`, `CARGO_HOME`, `rustup`. Outputs: [`Rustc`], the linker's
//! path, both as [`Toolchain`].
//!
//! Two kinds of rustc will do: one whose sysroot holds a prebuilt `core` for the BPF target
//! (Debian's `rustc-web` with `libstd-rust-web-dev-bpf`), or a rustup nightly with `rust-src`,
//! which builds `core` itself. The prebuilt one is preferred: it is older than a nightly but it
//! does not change from one day to the next.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The crate that holds the linker.
pub const LINKER_PACKAGE: &str = "bpf-linker";
/// The version of [`LINKER_PACKAGE`] that `cargo xtask setup` installs.
pub const LINKER_VERSION: &str = "0.13.0";
/// Environment variable that names a rustc to take before any other.
pub const RUSTC_VARIABLE: &str = "PALISADE_BPF_RUSTC";

/// The target of the kernel programs: little-endian BPF, which is every host we support.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// A rustc that can compile for BPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rustc {
    /// Its sysroot has `core` for the BPF target.
    Prebuilt {
        /// The compiler.
        rustc: PathBuf,
    },
    /// A rustup toolchain with the sources of `core`, which cargo builds first.
    BuildStd {
        /// The compiler.
        rustc: PathBuf,
        /// The cargo of the same toolchain: `-Zbuild-std` wants the two to fit.
        cargo: PathBuf,
    },
}

impl Rustc {
    /// Path of the compiler.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Prebuilt { rustc } | Self::BuildStd { rustc, .. } => rustc,
        }
    }
}

/// Everything that building the kernel object needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    rustc: Rustc,
    linker: PathBuf,
}

/// What is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// No rustc for BPF.
    #[error(
        "no rustc that compiles for {TARGET} (neither Debian's rustc-web with \
         libstd-rust-web-dev-bpf, nor a rustup nightly with rust-src)"
    )]
    Rustc,
    /// No linker.
    #[error(
        "no working {LINKER_PACKAGE} in PATH or in cargo's bin directory whose LLVM is as new as \
         that of the rustc for {TARGET}"
    )]
    Linker,
    /// Neither of them.
    #[error(
        "no rustc that compiles for {TARGET} (neither Debian's rustc-web with \
         libstd-rust-web-dev-bpf, nor a rustup nightly with rust-src), and no working \
         {LINKER_PACKAGE} in PATH or in cargo's bin directory"
    )]
    Both,
}

impl Toolchain {
    /// Looks for both tools.
    ///
    /// # Errors
    /// [`Missing`] names what was not found.
    pub fn discover() -> Result<Self, Missing> {
        let rustc = find_rustc();
        let llvm = rustc.as_ref().and_then(|rustc| llvm_major(rustc.path()));
        match (rustc, find_linker(llvm)) {
            (Some(rustc), Some(linker)) => Ok(Self { rustc, linker }),
            (None, Some(_)) => Err(Missing::Rustc),
            (Some(_), None) => Err(Missing::Linker),
            (None, None) => Err(Missing::Both),
        }
    }

    /// The compiler.
    #[must_use]
    pub fn rustc(&self) -> &Rustc {
        &self.rustc
    }

    /// Path of the linker.
    #[must_use]
    pub fn linker(&self) -> &Path {
        &self.linker
    }
}

/// A rustc for BPF: the one that `PALISADE_BPF_RUSTC` names, or else Debian's, the one in `PATH`,
/// a rustup nightly.
#[must_use]
pub fn find_rustc() -> Option<Rustc> {
    if let Some(named) = env::var_os(RUSTC_VARIABLE) {
        // No fallback: whoever names a compiler wants that one or an error.
        return prebuilt(Path::new(&named));
    }
    ["/usr/bin/rustc", "rustc"]
        .into_iter()
        .find_map(|candidate| prebuilt(Path::new(candidate)))
        .or_else(nightly)
}

/// A `bpf-linker` that starts, and whose LLVM is not older than `llvm`, the one of the rustc whose
/// bitcode it is to read. One that was linked to a libLLVM that has gone does not count.
#[must_use]
pub fn find_linker(llvm: Option<u32>) -> Option<PathBuf> {
    let candidates = which::which_all(LINKER_PACKAGE).into_iter().flatten();
    let installed = cargo_home().map(|home| home.join("bin").join(LINKER_PACKAGE));
    candidates.chain(installed).find(|path| {
        output(Command::new(path).arg("--version")).is_some()
            && !older(linked_llvm_major(path), llvm)
    })
}

/// Whether the linker's LLVM is known to be too old. One that is linked statically does not tell,
/// and gets the benefit of the doubt.
fn older(linker: Option<u32>, rustc: Option<u32>) -> bool {
    matches!((linker, rustc), (Some(linker), Some(rustc)) if linker < rustc)
}

/// Major version of the libLLVM that a program is linked to.
fn linked_llvm_major(program: &Path) -> Option<u32> {
    parse_linked_llvm_major(&output(Command::new("ldd").arg(program))?)
}

fn parse_linked_llvm_major(libraries: &str) -> Option<u32> {
    // libLLVM.so.22.1 since LLVM 18, libLLVM-17.so.1 before.
    let rest = libraries.lines().find_map(|line| line.trim().strip_prefix("libLLVM"))?;
    let rest = rest.strip_prefix(".so.").or_else(|| rest.strip_prefix('-'))?;
    rest.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// Major version of the LLVM inside of a rustc, from its `-vV`. The linker reads that rustc's
/// bitcode, so its own LLVM must not be older.
#[must_use]
pub fn llvm_major(rustc: &Path) -> Option<u32> {
    parse_llvm_major(&output(command(rustc).arg("-vV"))?)
}

fn parse_llvm_major(verbose_version: &str) -> Option<u32> {
    let line = verbose_version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.trim().parse().ok()
}

fn prebuilt(rustc: &Path) -> Option<Rustc> {
    let sysroot = output(command(rustc).args(["--print", "sysroot"]))?;
    has_core(Path::new(sysroot.trim())).then(|| Rustc::Prebuilt { rustc: rustc.to_owned() })
}

/// Whether `<sysroot>/lib/rustlib/<target>/lib` holds a `libcore-<hash>.rlib`.
fn has_core(sysroot: &Path) -> bool {
    let library = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let Ok(entries) = fs::read_dir(library) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    })
}

fn nightly() -> Option<Rustc> {
    let which = |tool| {
        let path = output(command("rustup").args(["which", "--toolchain", "nightly", tool]))?;
        Some(PathBuf::from(path.trim()))
    };
    let (rustc, cargo) = (which("rustc")?, which("cargo")?);
    let sysroot = output(command(&rustc).args(["--print", "sysroot"]))?;
    has_core_sources(Path::new(sysroot.trim())).then_some(Rustc::BuildStd { rustc, cargo })
}

fn has_core_sources(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
}

/// A command that does not feel what the cargo around us told its own rustc.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    // Set by rustup's proxies, it would turn `rustc` into another one than a shell would start.
    command.env_remove("RUSTUP_TOOLCHAIN");
    command
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_version_is_read_from_the_verbose_version() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nhost: x86_64\nLLVM version: 22.1.8\n";
        assert_eq!(parse_llvm_major(text), Some(22));
        assert_eq!(parse_llvm_major("rustc 1.96.0\nhost: x86_64\n"), None);
    }

    #[test]
    fn an_older_llvm_of_the_linker_is_recognised() {
        let ldd = "\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\tlibLLVM.so.22.1 => /usr/lib/x (0x2)\n";
        assert_eq!(parse_linked_llvm_major(ldd), Some(22));
        assert_eq!(parse_linked_llvm_major("\tlibLLVM-17.so.1 => /usr/lib/x\n"), Some(17));
        assert_eq!(parse_linked_llvm_major("\tstatically linked\n"), None);
        assert!(older(Some(22), Some(23)));
        assert!(!older(Some(23), Some(23)));
        assert!(!older(None, Some(23)));
    }

    #[test]
    fn a_sysroot_without_the_core_library_does_not_count() {
        let sysroot = tempfile::tempdir().unwrap();
        let library = sysroot.path().join("lib/rustlib/bpfel-unknown-none/lib");
        assert!(!has_core(sysroot.path()));
        fs::create_dir_all(&library).unwrap();
        fs::write(library.join("liballoc-1234.rlib"), "").unwrap();
        assert!(!has_core(sysroot.path()));
        fs::write(library.join("libcore-1234.rlib"), "").unwrap();
        assert!(has_core(sysroot.path()));
    }

    #[test]
    fn a_toolchain_without_the_sources_of_core_does_not_count() {
        let sysroot = tempfile::tempdir().unwrap();
        assert!(!has_core_sources(sysroot.path()));
        let core = sysroot.path().join("lib/rustlib/src/rust/library/core");
        fs::create_dir_all(&core).unwrap();
        fs::write(core.join("Cargo.toml"), "").unwrap();
        assert!(has_core_sources(sysroot.path()));
    }
}
