//! The demo: it ends well on both runtimes, and leaves nothing however it ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use policy_test::{engine::EngineOptions, lab::Lab, wait};

/// What the demo may take after the build, on a machine that does other things, too.
const LIMIT: Duration = Duration::from_secs(30);
/// Moments at which a run is broken off: setting up, connecting, and in between.
const MOMENTS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(700),
    Duration::from_millis(1500),
    Duration::from_millis(3000),
];

fn demo(runtime: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade-demo"));
    command
        .args(["--runtime", runtime, "--because", "a test"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The names of what the demo of one process has made on this machine.
fn left_by(pid: u32) -> Vec<String> {
    let prefix = format!("palisade-lab-{pid}-");
    let mut left = Vec::new();
    for folder in ["/run/netns", "/sys/fs/bpf", "/tmp"] {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        let names = entries.flatten().map(|entry| entry.path().display().to_string());
        left.extend(names.filter(|name| name.contains(&prefix)));
    }
    for process in procfs::process::all_processes().unwrap().flatten() {
        let words = process.cmdline().unwrap_or_default();
        if words.iter().any(|word| word.contains(&prefix)) {
            left.push(words.join(" "));
        }
    }
    left
}

fn finish(child: Child) -> (u32, Output) {
    let pid = child.id();
    (pid, child.wait_with_output().unwrap())
}

fn assert_shown(output: &Output) {
    let shown = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}\n{said}");
    assert_eq!(said, "");
    assert_eq!(shown.matches("  ok    ").count(), 4, "{shown}");
    assert!(!shown.contains('\u{1b}'), "colours without a terminal: {shown}");
    let widest = shown.lines().max_by_key(|line| line.chars().count()).unwrap();
    assert!(widest.chars().count() < 80, "{widest}");
}

/// Breaks a run off after `moment`, and gives how it ended.
fn break_off(mut command: Command, moment: Duration, signal: Signal) -> (u32, Output) {
    let child = command.spawn().unwrap();
    // The moment is what is tested, not something to be waited for.
    std::thread::sleep(moment);
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
    finish(child)
}

#[test]
fn in_namespaces_everything_is_as_the_policies_say() {
    let start = Instant::now();
    let (pid, output) = finish(demo("netns").spawn().unwrap());
    assert_shown(&output);
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    assert_eq!(left_by(pid), [""; 0]);
}

#[test]
fn a_signal_ends_it_in_order() {
    for (moment, signal) in MOMENTS.into_iter().zip([Signal::SIGINT, Signal::SIGTERM].repeat(2)) {
        let (pid, output) = break_off(demo("netns"), moment, signal);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{signal} after {moment:?}: {said}");
        assert_eq!(left_by(pid), [""; 0], "{signal} after {moment:?}");
    }
}

#[test]
fn what_a_killed_run_has_left_the_next_sweeps() {
    let (pid, _) = break_off(demo("netns"), MOMENTS[3], Signal::SIGKILL);
    assert!(!left_by(pid).is_empty(), "killed too early or too late to leave anything");
    let (_, output) = finish(demo("netns").spawn().unwrap());
    assert_shown(&output);
    assert_eq!(left_by(pid), [""; 0]);
}

#[test]
fn with_containers_too_and_those_of_others_notice_nothing() {
    let lab = Lab::new().unwrap();
    let engine = EngineOptions::default().start(&lab).unwrap();
    engine.run("other", &["--label", "tier=db"], &["sleep", "600"]).unwrap();
    let command = || {
        let mut command = demo("docker");
        command.args(["--docker-host", &engine.host()]);
        command
    };
    let spawn = || lab.host().spawn(&mut command()).unwrap();
    let belongings = || {
        let ids = |words: &[&str]| engine.docker(words).unwrap();
        (
            ids(&["ps", "--all", "--format", "{{.Names}}"]),
            ids(&["network", "ls", "--format", "{{.Name}}"]),
            ids(&["images", "--format", "{{.Repository}}"]),
        )
    };
    let before = belongings();

    let start = Instant::now();
    let (pid, output) = finish(spawn());
    assert_shown(&output);
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    assert_eq!(left_by(pid), [""; 0]);
    assert_eq!(belongings(), before);

    // Broken off when the engine has just got the first of it, and while all of it stands.
    for wanted in ["net", "web", "intruder"] {
        let child = spawn();
        let pid = child.id();
        let name = format!("demo{pid}-{wanted}");
        let there = || {
            let (containers, networks, _) = belongings();
            containers.contains(&name) || networks.contains(&name)
        };
        wait::until("the demo to have begun", LIMIT, there).unwrap();
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGINT).unwrap();
        let (_, output) = finish(child);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{wanted}: {said}");
        assert_eq!(left_by(pid), [""; 0], "{wanted}");
        assert_eq!(belongings(), before, "{wanted}");
    }

    // Killed, and swept by the next.
    let child = spawn();
    let killed = child.id();
    let name = format!("demo{killed}-intruder");
    wait::until("the demo to have begun", LIMIT, || belongings().0.contains(&name)).unwrap();
    kill(Pid::from_raw(killed.try_into().unwrap()), Signal::SIGKILL).unwrap();
    finish(child);
    assert!(belongings().0.contains(&name));
    let (_, output) = finish(spawn());
    assert_shown(&output);
    assert_eq!(left_by(killed), [""; 0]);
    assert_eq!(belongings(), before);
}
