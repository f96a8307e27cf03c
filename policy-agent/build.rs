//! Puts the kernel object where the agent can embed it.
//!
//! Inputs: `policy-ebpf/` and `policy-common/`, the BPF toolchain of this machine.
//! Outputs: `$OUT_DIR/policy-ebpf.o`; without a toolchain, one sentence that says how to get it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, anyhow};
use bpf_toolchain::{BpfArch, INPUTS, OBJECT_NAME, RUSTC_VARIABLE, Toolchain, Warnings};

fn main() -> ExitCode {
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // As one line of cargo's own, and not as the debug form with its backtrace.
            println!("cargo::error={}", format!("{error:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("policy-agent is expected to lie in the workspace's folder")?;
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    println!("cargo::rerun-if-env-changed={RUSTC_VARIABLE}");

    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    let arch = BpfArch::parse(&env::var("CARGO_CFG_TARGET_ARCH")?)?;
    let toolchain = Toolchain::discover().map_err(|missing| {
        anyhow!(
            "run `cargo xtask setup` first: this machine cannot build the kernel programs yet, \
             there is {missing}"
        )
    })?;
    let object = toolchain.build(workspace, &bpf_target_dir(&out_dir)?, &arch, Warnings::Show)?;
    let embedded = out_dir.join(OBJECT_NAME);
    fs::copy(&object, &embedded)
        .with_context(|| format!("copy {} to {}", object.display(), embedded.display()))?;
    Ok(())
}

/// `<target directory>/bpf`, which `cargo xtask build-ebpf` and every profile share. It is not the
/// target directory itself: the cargo that runs this script holds that one's lock.
fn bpf_target_dir(out_dir: &Path) -> Result<PathBuf> {
    // OUT_DIR is <target>/[<triple>/]<profile>/build/<package>-<hash>/out.
    let profile = out_dir.ancestors().nth(3).context("OUT_DIR is not where cargo puts it")?;
    let target = profile.parent().context("OUT_DIR is not where cargo puts it")?;
    Ok(target.join("bpf"))
}
