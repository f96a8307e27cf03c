//! From `policy-ebpf/` to an object file.
//!
//! Inputs: the workspace's root, a target directory, the host's architecture.
//! Outputs: `<target directory>/policy-ebpf.o`, with BTF.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use crate::discover::{Rustc, TARGET, Toolchain};

/// File name of the object.
pub const OBJECT_NAME: &str = "policy-ebpf.o";

/// Files and folders below the workspace's root that the object is made from.
pub const INPUTS: [&str; 5] = [
    "policy-ebpf/src",
    "policy-ebpf/Cargo.toml",
    "policy-ebpf/Cargo.lock",
    "policy-common/src",
    "policy-common/Cargo.toml",
];

/// Architecture of the host that will run the programs. BPF code is the same on all of them; the
/// layout of the registers that tracing programs read is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BpfArch(String);

impl BpfArch {
    /// From the name that Rust's target triples use, such as `x86_64` or `aarch64`. The names are
    /// those that `aya-ebpf-bindings` has bindings for.
    ///
    /// # Errors
    /// [`BuildError::Architecture`] for one that we do not build for.
    pub fn parse(name: &str) -> Result<Self, BuildError> {
        match name {
            "x86_64" | "aarch64" => Ok(Self(name.to_owned())),
            other => Err(BuildError::Architecture(other.to_owned())),
        }
    }

    /// That of the machine that this very code was compiled for.
    ///
    /// # Errors
    /// As [`BpfArch::parse`].
    pub fn host() -> Result<Self, BuildError> {
        Self::parse(env::consts::ARCH)
    }
}

/// What becomes of the compiler's warnings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warnings {
    /// They are printed.
    Show,
    /// They are errors.
    Deny,
}

/// Why there is no object.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Little-endian x86_64 and aarch64 only.
    #[error("the kernel programs are built for x86_64 and aarch64 hosts, not for {0}")]
    Architecture(String),
    /// The compiler did not start.
    #[error("cannot start {program}: {source}")]
    Start {
        /// What was to be started.
        program: PathBuf,
        /// Why it did not.
        source: io::Error,
    },
    /// The compiler's own messages are on standard error.
    #[error("building policy-ebpf failed ({0}); the compiler's messages are above")]
    Compile(ExitStatus),
    /// The object could not be put in its place.
    #[error("cannot copy {from} to {to}: {source}")]
    Copy {
        /// What cargo wrote.
        from: PathBuf,
        /// Its stable place.
        to: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Toolchain {
    /// Builds the object with optimisation and BTF, below `target_dir`, and gives its path.
    ///
    /// `target_dir` must not be the one of a cargo that is waiting for us: that cargo holds its
    /// lock.
    ///
    /// # Errors
    /// [`BuildError`]; the compiler's messages go to standard error.
    pub fn build(
        &self,
        workspace: &Path,
        target_dir: &Path,
        arch: &BpfArch,
        warnings: Warnings,
    ) -> Result<PathBuf, BuildError> {
        let mut command = self.cargo_build(workspace, target_dir, arch, warnings);
        let status = command.status().map_err(|source| BuildError::Start {
            program: PathBuf::from(command.get_program()),
            source,
        })?;
        if !status.success() {
            return Err(BuildError::Compile(status));
        }
        let from = target_dir.join(TARGET).join("release/policy-ebpf");
        let to = target_dir.join(OBJECT_NAME);
        match fs::copy(&from, &to) {
            Ok(_) => Ok(to),
            Err(source) => Err(BuildError::Copy { from, to, source }),
        }
    }

    fn cargo_build(
        &self,
        workspace: &Path,
        target_dir: &Path,
        arch: &BpfArch,
        warnings: Warnings,
    ) -> Command {
        let program = match self.rustc() {
            Rustc::Prebuilt { .. } => {
                env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
            }
            Rustc::BuildStd { cargo, .. } => cargo.clone(),
        };
        let mut command = Command::new(program);
        forget_outer_cargo(&mut command);
        command
            .args(["build", "--release", "--manifest-path"])
            .arg(workspace.join("policy-ebpf/Cargo.toml"))
            .arg("--target-dir")
            .arg(target_dir)
            .args(["--target", TARGET])
            .env("RUSTC", self.rustc().path())
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", self.linker())
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags(arch, warnings));
        match self.rustc() {
            // aya-ebpf uses `asm_experimental_arch`, which a stable compiler has but hides.
            Rustc::Prebuilt { .. } => {
                command.env("RUSTC_BOOTSTRAP", "1");
            }
            Rustc::BuildStd { .. } => {
                command.arg("-Zbuild-std=core");
            }
        }
        command
    }
}

/// In cargo's encoding: separated by the unit separator, so that no flag is split at a space.
fn rustflags(arch: &BpfArch, warnings: Warnings) -> String {
    let mut flags = vec![
        // The linker makes BTF out of the debug information.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("--cfg=bpf_target_arch=\"{}\"", arch.0),
    ];
    if warnings == Warnings::Deny {
        flags.push("-Dwarnings".to_owned());
    }
    flags.join("\x1f")
}

/// Takes away what a cargo sets for its build scripts and for `cargo run`: it speaks of another
/// target, and under clippy it would replace the compiler.
fn forget_outer_cargo(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if is_outer_cargo(&name.to_string_lossy()) {
            command.env_remove(&name);
        }
    }
}

fn is_outer_cargo(name: &str) -> bool {
    const EXACT: [&str; 9] = [
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "RUSTC",
        "RUSTC_LINKER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    const PREFIXES: [&str; 4] = ["CARGO_CFG_", "CARGO_FEATURE_", "CARGO_PKG_", "CARGO_PROFILE_"];
    const SCRIPT: [&str; 7] =
        ["DEBUG", "HOST", "NUM_JOBS", "OPT_LEVEL", "OUT_DIR", "PROFILE", "TARGET"];
    EXACT.contains(&name)
        || SCRIPT.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_architectures_are_refused_by_name() {
        assert!(BpfArch::parse("aarch64").is_ok());
        let error = BpfArch::parse("riscv64").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the kernel programs are built for x86_64 and aarch64 hosts, not for riscv64"
        );
    }

    #[test]
    fn flags_carry_btf_and_the_architecture() {
        let flags = rustflags(&BpfArch::parse("aarch64").unwrap(), Warnings::Deny);
        assert_eq!(
            flags.split('\x1f').collect::<Vec<_>>(),
            [
                "-Cdebuginfo=2",
                "-Clink-arg=--btf",
                "--cfg=bpf_target_arch=\"aarch64\"",
                "-Dwarnings"
            ]
        );
    }

    #[test]
    fn the_outer_compiler_is_forgotten_and_the_users_settings_are_not() {
        for name in ["RUSTC_WORKSPACE_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "CARGO_CFG_UNIX"] {
            assert!(is_outer_cargo(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_BUILD_JOBS", "PATH", "HOME"] {
            assert!(!is_outer_cargo(name), "{name}");
        }
    }
}
