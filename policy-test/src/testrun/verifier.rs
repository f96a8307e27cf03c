//! What the verifier of this kernel has to do.
//!
//! Inputs: root. Outputs: for each program, how many instructions it walked.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    programs::{Program, ProgramError},
};
use nix::errno::Errno;
use policy_agent::{
    config::Attachment,
    kernel::{
        features::Features,
        load::{self, Sizes},
        pin::{Hook, Pins},
    },
};

use crate::lab::{BPFFS, Lab};

/// The programs, ready to be verified one by one.
pub struct Verifier {
    ebpf: Ebpf,
    pins: PathBuf,
    _lab: Lab,
}

impl Drop for Verifier {
    fn drop(&mut self) {
        // As `Ring`'s.
        let _ = fs::remove_dir_all(&self.pins);
    }
}

impl Verifier {
    /// Makes the maps.
    ///
    /// # Errors
    /// Without root, or on a kernel that cannot run the programs.
    pub fn new() -> Result<Verifier> {
        let lab = Lab::new()?;
        let folder = PathBuf::from(BPFFS).join(lab.name());
        let pins = Pins::new(&folder);
        pins.prepare()?;
        let features = Features::probe(Attachment::default())?;
        let sizes = Sizes { conntrack_v4: 1024, conntrack_v6: 1024 };
        let ebpf = load::prepare(&pins, features, sizes)?;
        Ok(Verifier { ebpf, pins: folder, _lab: lab })
    }

    /// Loads a program and takes it out again. Gives the instructions that the verifier walked; it
    /// refuses a program that takes more than 1,000,000 (`BPF_COMPLEXITY_LIMIT_INSNS`).
    ///
    /// On kernels before 5.16 it leaves this process without a file descriptor for a while, so
    /// nothing else may go on in it.
    ///
    /// # Errors
    /// If the verifier refuses the program, or the kernel does not say.
    pub fn walk(&mut self, hook: Hook) -> Result<u32> {
        load::ready(&mut self.ebpf, hook)?;
        let program =
            self.ebpf.program_mut(hook.program()).context("every hook has its program")?;
        let told = program.info()?.verified_instruction_count();
        match program {
            Program::Xdp(program) => program.unload()?,
            Program::SchedClassifier(program) => program.unload()?,
            _ => bail!("{} is of another kind", hook.program()),
        }
        match told {
            Some(count) => Ok(count),
            None => self.walk_without_descriptors(hook),
        }
    }

    /// Such a kernel tells the count in the verifier's log only, and a log is kept only of a load
    /// that fails. So it is made to fail at the last step, once all is verified: there is no file
    /// descriptor for the program.
    fn walk_without_descriptors(&mut self, hook: Hook) -> Result<u32> {
        let taken = take_descriptors()?;
        let loaded = load::ready(&mut self.ebpf, hook);
        drop(taken);
        match loaded {
            Err(ProgramError::LoadError { verifier_log, .. }) => {
                let log = verifier_log.to_string();
                walked(&log).with_context(|| format!("the verifier told no count:\n{log}"))
            }
            Err(error) => Err(error.into()),
            Ok(()) => bail!("{} got a file descriptor where there was none", hook.program()),
        }
    }
}

/// All file descriptors that this process may still have.
fn take_descriptors() -> Result<Vec<File>> {
    let mut taken = Vec::new();
    loop {
        match File::open("/dev/null") {
            Ok(file) => taken.push(file),
            Err(error) if error.raw_os_error() == Some(Errno::EMFILE as i32) => return Ok(taken),
            Err(error) => return Err(error).context("open /dev/null"),
        }
    }
}

/// From a line such as `processed 12345 insns (limit 1000000) max_states_per_insn ...`.
fn walked(log: &str) -> Option<u32> {
    let rest = log.lines().find_map(|line| line.strip_prefix("processed "))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_a_log() {
        let log = "a line\nprocessed 12345 insns (limit 1000000) max_states_per_insn 9\n";
        assert_eq!(walked(log), Some(12345));
        assert_eq!(walked("R1 invalid mem access"), None);
    }
}
