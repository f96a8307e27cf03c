//! Where we are.
//!
//! Inputs: `CARGO`, `CARGO_TARGET_DIR`, the folder that this crate was compiled in.
//! Outputs: [`Workspace`].

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// The repository and cargo's place in it.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target_dir: PathBuf,
}

impl Workspace {
    /// From the folder of this crate, wherever the caller stands.
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask is expected to lie in the workspace's folder")?
            .to_owned();
        // cargo takes a relative directory from where it is called, not from the root.
        let target_dir = match env::var_os("CARGO_TARGET_DIR") {
            Some(named) => env::current_dir()?.join(named),
            None => root.join("target"),
        };
        Ok(Self { root, target_dir })
    }

    /// The repository's root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the kernel object is built and left, apart from the host's target directory.
    pub(crate) fn bpf_dir(&self) -> PathBuf {
        self.target_dir.join("bpf")
    }

    /// Where the fuzz targets are built, apart from what is built without instrumentation.
    pub(crate) fn fuzz_dir(&self) -> PathBuf {
        self.target_dir.join("fuzz")
    }

    /// Where other kernels are kept, to be booted by `test --kernels`.
    pub(crate) fn kernels_dir(&self) -> PathBuf {
        self.target_dir.join("kernels")
    }

    /// Where `bench --quick` leaves its report.
    pub(crate) fn bench_dir(&self) -> PathBuf {
        self.target_dir.join("bench")
    }

    /// Where `cargo build` leaves programs.
    pub(crate) fn debug_dir(&self) -> PathBuf {
        self.target_dir.join("debug")
    }

    /// The cargo that called us, in the root.
    pub(crate) fn cargo(&self) -> Command {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target_dir);
        command
    }

    /// What is checked out, and whether something was changed since; `None` outside of a repository.
    pub(crate) fn commit(&self) -> Option<String> {
        let mut git = Command::new("git");
        git.args(["describe", "--always", "--exclude=*", "--dirty=, with changes"]);
        let output = git.current_dir(&self.root).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    }

    /// What the rustc that cargo calls answers to a question about itself.
    pub(crate) fn ask_rustc(&self, question: &str) -> Result<String> {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(rustc)
            .args(["--print", question])
            .current_dir(&self.root)
            .output()
            .context("start rustc")?;
        ensure!(output.status.success(), "rustc does not tell its {question}");
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
