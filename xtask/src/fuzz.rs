//! `cargo xtask fuzz`: the targets of `fuzz/`, built and run for a while.
//!
//! Inputs: names of targets, seconds for each; `fuzz/seeds`, `fuzz/dictionaries`, the examples, and
//! what earlier runs left in `fuzz/corpus`. Outputs: a line for each target with executions,
//! coverage and the size of its corpus; an exit code, 0 only if nothing was found. An input that
//! broke something stays in `fuzz/artifacts`.

mod report;

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::{
    setup::{self, Purpose},
    workspace::Workspace,
};

use report::Report;

/// A target: its name, which is that of its dictionary and its seeds, too, and other folders that
/// have seeds for it.
struct Target {
    name: &'static str,
    seeds: &'static [&'static str],
}

const EXAMPLES: &[&str] = &["examples/policies"];
const TARGETS: [Target; 4] = [
    Target { name: "packet", seeds: &[] },
    Target { name: "resource", seeds: EXAMPLES },
    Target { name: "selector", seeds: &[] },
    Target { name: "yaml", seeds: EXAMPLES },
];

/// Targets that run at the same time.
const PARALLEL: usize = 2;
/// Longest input, bytes: enough for several resources, and what grows with the square of an input's
/// size shows. Longer ones cost executions.
const MAX_LENGTH: usize = 2048;
/// Memory of one target, MiB.
const MAX_MEMORY: usize = 2048;
/// One input may take so long, seconds.
const MAX_TIME: usize = 10;
/// How long a target may go on after its time, seconds: it reads its whole corpus first.
const GRACE: u64 = 120;
/// Inputs in a corpus from which on those are dropped that add nothing to the others. Reading more
/// takes a part of a minute that is worth more.
const MAX_CORPUS: usize = 1500;

/// Arguments of `fuzz`.
#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// What to fuzz: packet, resource, selector, yaml [default: all]
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
}

impl Fuzz {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<ExitCode> {
        setup::ensure(workspace, Purpose::Fuzz)?;
        let found = fuzz(workspace, &choose(&self.targets)?, self.seconds)?;
        Ok(if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Runs every target for a minute: how many found nothing, and how many something. The set-up is
/// the caller's.
///
/// # Errors
/// If the targets cannot be built or started.
pub(crate) fn minute_each(workspace: &Workspace) -> Result<(u64, u64)> {
    let found = fuzz(workspace, &choose(&[])?, 60)?;
    Ok((TARGETS.len() as u64 - found, found))
}

fn choose(names: &[String]) -> Result<Vec<&'static Target>> {
    if names.is_empty() {
        return Ok(TARGETS.iter().collect());
    }
    let find = |name: &String| {
        TARGETS.iter().find(|target| target.name == name).with_context(|| {
            let known = TARGETS.map(|target| target.name).join(", ");
            format!("there is no fuzz target `{name}`; there are {known}")
        })
    };
    names.iter().map(find).collect()
}

/// Runs targets, and counts those that found something.
fn fuzz(workspace: &Workspace, targets: &[&'static Target], seconds: u64) -> Result<u64> {
    let programs = Programs::build(workspace)?;
    let mut waiting: VecDeque<_> = targets.iter().collect();
    let mut running: Vec<Run> = Vec::new();
    let mut found = 0;
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < PARALLEL
            && let Some(target) = waiting.pop_front()
        {
            running.push(programs.start(target, seconds)?);
        }
        thread::sleep(Duration::from_millis(200));
        for index in (0..running.len()).rev() {
            if running[index].ended()? {
                let fine = running.swap_remove(index).conclude(workspace, programs.sanitizer)?;
                found += u64::from(!fine);
            }
        }
    }
    Ok(found)
}

/// What the targets are instrumented with beside coverage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sanitizer {
    Address,
    None,
}

impl Sanitizer {
    /// Our code is safe Rust, but not all below it is: the address sanitizer is used where the
    /// toolchain has its runtime.
    fn available(workspace: &Workspace) -> Result<Sanitizer> {
        let folder = PathBuf::from(workspace.ask_rustc("target-libdir")?);
        let files = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        let found = files
            .filter_map(Result::ok)
            .any(|file| file.file_name().to_string_lossy().ends_with("_rt.asan.a"));
        Ok(if found { Sanitizer::Address } else { Sanitizer::None })
    }

    fn argument(self) -> &'static str {
        match self {
            Sanitizer::Address => "address",
            Sanitizer::None => "none",
        }
    }
}

/// The targets, built.
struct Programs {
    root: PathBuf,
    /// Where they lie.
    folder: PathBuf,
    sanitizer: Sanitizer,
}

impl Programs {
    fn build(workspace: &Workspace) -> Result<Self> {
        let sanitizer = Sanitizer::available(workspace)?;
        if sanitizer == Sanitizer::None {
            eprintln!("note  this rustc has no address sanitizer: fuzzing without one");
        }
        let triple = workspace.ask_rustc("host-tuple")?;
        let status = cargo_fuzz(workspace, "build", sanitizer)
            .args(["--target", &triple])
            .status()
            .context("start cargo fuzz")?;
        ensure!(status.success(), "building the fuzz targets failed ({status})");
        let folder = workspace.fuzz_dir().join(triple).join("release");
        Ok(Self { root: workspace.root().to_owned(), folder, sanitizer })
    }

    fn start(&self, target: &'static Target, seconds: u64) -> Result<Run> {
        let folder = |kind: &str| self.root.join("fuzz").join(kind).join(target.name);
        let (corpus, artifacts) = (folder("corpus"), folder("artifacts"));
        for folder in [&corpus, &artifacts] {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let program = self.folder.join(target.name);
        if fs::read_dir(&corpus).with_context(|| format!("read {}", corpus.display()))?.count()
            > MAX_CORPUS
        {
            minimise(&program, &corpus)?;
        }
        let log = artifacts.join("log");
        let file = fs::File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let dictionary = folder("dictionaries").with_extension("dict");
        let mut command = Command::new(program);
        command
            .arg(&corpus)
            .arg(folder("seeds"))
            .args(target.seeds.iter().map(|seeds| self.root.join(seeds)))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={MAX_LENGTH}"))
            .arg(format!("-rss_limit_mb={MAX_MEMORY}"))
            .arg(format!("-timeout={MAX_TIME}"))
            .arg("-print_final_stats=1")
            // One definition of a symbol in two objects is what linking Rust gives.
            .env("ASAN_OPTIONS", "detect_odr_violation=0")
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        if dictionary.exists() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        eprintln!("  ..  fuzzing {} for {seconds} s", target.name);
        let child = command.spawn().with_context(|| format!("start {}", target.name))?;
        let deadline = Instant::now() + Duration::from_secs(seconds + GRACE);
        Ok(Run { target, child, log, corpus, deadline })
    }
}

/// `cargo fuzz`, which asks rustc for options that are not stable where a sanitizer is wanted.
fn cargo_fuzz(workspace: &Workspace, command: &str, sanitizer: Sanitizer) -> Command {
    let mut cargo = workspace.cargo();
    cargo
        .args(["fuzz", command, "--fuzz-dir", "fuzz", "--sanitizer", sanitizer.argument()])
        .arg("--target-dir")
        .arg(workspace.fuzz_dir())
        .env("RUSTC_BOOTSTRAP", "1");
    cargo
}

/// Keeps a few inputs that together take every way through the code that all of them take.
fn minimise(program: &Path, corpus: &Path) -> Result<()> {
    let small = corpus.with_extension("small");
    // Left by a run that was interrupted.
    if small.exists() {
        fs::remove_dir_all(&small).with_context(|| format!("remove {}", small.display()))?;
    }
    fs::create_dir(&small).with_context(|| format!("make {}", small.display()))?;
    eprintln!("  ..  minimising {}", corpus.display());
    let output = Command::new(program)
        .args(["-set_cover_merge=1".as_ref(), small.as_os_str(), corpus.as_os_str()])
        .env("ASAN_OPTIONS", "detect_odr_violation=0")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", program.display()))?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "minimising failed:\n{}", report::tail(&log));
    fs::remove_dir_all(corpus).with_context(|| format!("remove {}", corpus.display()))?;
    fs::rename(&small, corpus).with_context(|| format!("rename {}", small.display()))
}

/// A target that runs.
struct Run {
    target: &'static Target,
    child: Child,
    log: PathBuf,
    corpus: PathBuf,
    deadline: Instant,
}

impl Run {
    fn ended(&mut self) -> Result<bool> {
        if self.child.try_wait().context("wait for a fuzz target")?.is_some() {
            return Ok(true);
        }
        if Instant::now() > self.deadline {
            self.child.kill().context("end a fuzz target that goes on and on")?;
        }
        Ok(false)
    }

    /// Says what came of it.
    fn conclude(mut self, workspace: &Workspace, sanitizer: Sanitizer) -> Result<bool> {
        let status = self.child.wait().context("wait for a fuzz target")?;
        let name = self.target.name;
        let log = fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        let log = String::from_utf8_lossy(&log);
        let report = Report::of(&log);
        if status.success() {
            // A target that did nothing has found nothing.
            ensure!(report.executions > 0, "{name} ran no input:\n{}", report::tail(&log));
            println!("fuzz {name}: ok, {report}, {}", size(&self.corpus)?);
            return Ok(true);
        }
        println!("fuzz {name}: FAILED ({status}), {report}");
        println!("{}", report::finding(&log));
        match &report.artifact {
            Some(artifact) => println!(
                "the input is in {artifact}; to see it again:\n  RUSTC_BOOTSTRAP=1 cargo fuzz run \
                 --fuzz-dir fuzz --sanitizer {} --target-dir {} {name} {artifact}",
                sanitizer.argument(),
                workspace.fuzz_dir().display(),
            ),
            None => println!("no input was kept; the log is in {}", self.log.display()),
        }
        Ok(false)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Has no effect on one that has ended; otherwise nobody would wait for it any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Number and sum of the sizes of the files in a folder.
fn size(folder: &Path) -> Result<String> {
    let (mut count, mut bytes) = (0, 0);
    for file in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        bytes += file.and_then(|file| file.metadata()).context("look at an input")?.len();
        count += 1;
    }
    Ok(format!("corpus {count} inputs, {} KiB", bytes / 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_built_and_has_seeds() {
        let workspace = Workspace::find().unwrap();
        let folder = workspace.root().join("fuzz");
        let mut built: Vec<String> = fs::read_dir(folder.join("fuzz_targets"))
            .unwrap()
            .map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        built.sort_unstable();
        assert_eq!(built, TARGETS.map(|target| target.name));
        for target in &TARGETS {
            let own = [format!("fuzz/seeds/{}", target.name)];
            for seeds in own.iter().map(String::as_str).chain(target.seeds.iter().copied()) {
                let mut files = fs::read_dir(workspace.root().join(seeds)).unwrap();
                assert!(files.next().is_some(), "{seeds} is empty");
            }
        }
    }

    #[test]
    fn an_unknown_target_is_refused_with_the_known_ones() {
        let error = choose(&["yml".to_owned()]).err().unwrap().to_string();
        assert!(error.contains("packet, resource, selector, yaml"), "{error}");
        assert_eq!(choose(&["yaml".to_owned()]).unwrap().len(), 1);
        assert_eq!(choose(&[]).unwrap().len(), TARGETS.len());
    }
}
