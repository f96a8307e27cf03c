//! An agent that cannot start, or can do so only in part: each reason has a sentence of its own.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::Duration,
};

use policy_agent::kernel::features::Unfit;
use policy_core::digest::Digest;
use policy_test::{
    agent::{Agent, AgentOptions},
    lab::Lab,
    wait,
};

use crate::stage::{Stage, policy, said};

/// Runs a command that must fail, and gives what it said.
fn fails(lab: &Lab, command: &mut Command) -> String {
    let output = lab.host().output(command).unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    eprintln!("{text}");
    text
}

/// The last line, which is for people.
fn sentence(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

/// An agent that has been stopped: its command fails for one reason only, the test's.
fn stopped() -> (Lab, Agent) {
    let lab = Lab::new().unwrap();
    let mut agent = AgentOptions::default().start(&lab).unwrap();
    assert!(agent.terminate().unwrap().success());
    (lab, agent)
}

/// The agent's `run` with other paths: pairs of what its flags say and what they are to say.
fn run_with(agent: &Agent, paths: &[(&Path, &Path)]) -> Command {
    let command = agent.command("run").unwrap();
    let mut other = Command::new(command.get_program());
    for argument in command.get_args() {
        let new = paths.iter().find(|(old, _)| argument == *old).map(|(_, new)| new.as_os_str());
        other.arg(new.unwrap_or(argument));
    }
    other
}

#[test]
fn who_is_not_root_is_told_so() {
    let (lab, agent) = stopped();
    // The binary lies where nobody else may look.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for subcommand in ["run", "unload"] {
        let command = agent.command(subcommand).unwrap();
        let copy = folder.path().join("policy-agent");
        fs::copy(command.get_program(), &copy).unwrap();
        let mut unprivileged = Command::new("setpriv");
        unprivileged
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(&copy)
            .args(command.get_args());
        let text = fails(&lab, &mut unprivileged);
        assert!(text.contains("not allowed to") && text.contains("as root"), "{text}");
    }
}

#[test]
fn a_pin_directory_on_another_file_system_is_refused() {
    let (lab, agent) = stopped();
    let elsewhere = lab.folder().join("pins");
    let text = fails(&lab, &mut run_with(&agent, &[(agent.bpffs_dir(), &elsewhere)]));
    assert!(sentence(&text).contains("is not inside a BPF file system"), "{text}");
    assert!(text.contains("--bpffs-dir") && text.contains("/sys/fs/bpf"), "{text}");
}

#[test]
fn a_taken_metrics_port_is_named() {
    let (lab, agent) = stopped();
    let taken = lab.host().tcp_listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 9465))).unwrap();
    let text = fails(&lab, &mut agent.command("run").unwrap());
    assert!(sentence(&text).contains("127.0.0.1:9465"), "{text}");
    assert!(text.contains("--metrics-address"), "{text}");
    drop(taken);
}

#[test]
fn a_second_agent_on_the_same_socket_is_refused_and_the_first_goes_on() {
    let stage = Stage::new();
    let held = stage.held();
    let text = fails(&stage.lab, &mut stage.agent.command("run").unwrap());
    assert!(sentence(&text).contains("another agent answers on"), "{text}");
    let text = fails(&stage.lab, &mut stage.agent.command("unload").unwrap());
    assert!(text.contains("stop it first"), "{text}");
    assert_eq!(stage.held(), held);
}

#[test]
fn a_second_agent_on_the_same_state_is_refused_and_the_first_goes_on() {
    let stage = Stage::new();
    let held = stage.held();
    let folder = stage.lab.folder();
    let (socket, pins) = (folder.join("other.sock"), stage.agent.bpffs_dir().join("other"));
    let mut command = run_with(
        &stage.agent,
        &[(&stage.agent.socket(), &socket), (stage.agent.bpffs_dir(), &pins)],
    );
    // The last thing that the two would share.
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 9465)).to_string();
    let arguments: Vec<_> = command
        .get_args()
        .map(|it| if it == &*default { "127.0.0.1:9466".as_ref() } else { it }.to_owned())
        .collect();
    command = Command::new(command.get_program());
    let text = fails(&stage.lab, command.args(arguments));
    assert!(sentence(&text).contains("another agent works on"), "{text}");
    assert!(text.contains(stage.state().to_str().unwrap()), "{text}");
    assert!(text.contains("--state-dir"), "{text}");
    assert_eq!(stage.held(), held);
}

#[test]
fn a_missing_docker_socket_is_a_warning() {
    let lab = Lab::new().unwrap();
    let socket = lab.folder().join("docker.sock");
    let host = format!("unix://{}", socket.display());
    let agent = AgentOptions::default().docker_host(&host).start(&lab).unwrap();
    assert!(agent.log().contains("there is no Docker socket"), "{}", agent.log());
    let docker = wait::for_some("the agent to say so", Duration::from_secs(10), || {
        let status = agent.status().ok()?;
        status
            .components
            .into_iter()
            .find(|it| it.name == "docker" && it.detail.contains("docker.sock"))
    })
    .unwrap();
    eprintln!("{}", docker.detail);
    assert!(!docker.healthy, "{docker:?}");
    let output = agent.policyctl(&["status"]).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // It goes on: policies are taken.
    agent.apply(&policy("first", 1)).unwrap();
}

#[test]
fn a_wrong_configuration_is_refused_by_key_and_line() {
    let (lab, agent) = stopped();
    let file = lab.folder().join("agent.yaml");
    let cases = [
        ("log-format: text\nsockett: /run/x\n", &["agent.yaml", "sockett", "line 2"][..]),
        ("default-action: maybe\n", &["agent.yaml", "maybe", "allow"]),
        ("metrics-address: localhost\n", &["agent.yaml", "metrics-address"]),
        ("conntrack-v4: 5\n", &["conntrack-v4", "1024"]),
    ];
    for (content, needed) in cases {
        fs::write(&file, content).unwrap();
        let text = fails(&lab, agent.command("run").unwrap().arg("--config").arg(&file));
        for part in needed {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }
    fs::remove_file(&file).unwrap();
    let text = fails(&lab, agent.command("run").unwrap().arg("--config").arg(&file));
    assert!(text.contains("agent.yaml") && text.contains("No such file"), "{text}");
}

#[test]
fn damaged_state_is_named_and_not_thrown_away() {
    let mut stage = Stage::new();
    assert!(stage.agent.terminate().unwrap().success());
    let resources = stage.state().join("resources");
    let policy = fs::read_dir(&resources)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_str().unwrap().contains("globalnetworkpolicy"))
        .unwrap();
    let damage = |path: &Path, content: &str, needed: &[&str]| {
        let good = fs::read(path).ok();
        fs::write(path, content).unwrap();
        let text = fails(&stage.lab, &mut stage.agent.command("run").unwrap());
        for part in needed {
            assert_eq!(sentence(&text).matches(part).count(), 1, "{part:?} once in\n{text}");
        }
        assert_eq!(fs::read_to_string(path).unwrap(), content, "the agent changed the file");
        match good {
            Some(good) => fs::write(path, good).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    };
    let name = policy.file_name().unwrap().to_str().unwrap();
    damage(&policy, "spec: [", &[name, "not valid YAML"]);
    damage(
        &policy,
        "kind: GlobalNetworkPolicy\napiVersion: projectcalico.org/v3\n",
        &[name, "error: metadata.name: "],
    );
    damage(&policy, "", &[name, "error: no resources"]);
    let copy = resources.join("copy.yaml");
    damage(&copy, &fs::read_to_string(&policy).unwrap(), &["copy.yaml", name, "stands twice"]);
    // Two changes, the first of which somebody has touched.
    let change = format!("{} []\n", Digest::of("log line", &b"[]"[..]));
    let journal = format!("x{change}{change}");
    damage(&stage.state().join("journal.log"), &journal, &["journal.log", "line 1"]);
    damage(&stage.state().join("ids.json"), "{\"rules\": 7}", &["ids.json"]);
    stage.agent.start().unwrap();
    assert_eq!(stage.agent.status().unwrap().policies, 1);
}

#[test]
fn a_kernel_that_cannot_do_it_has_a_sentence_for_each_reason() {
    let sentences = [Unfit::Permission, Unfit::NoBpf, Unfit::TooOld].map(|it| it.to_string());
    let [permission, no_bpf, too_old] = &sentences;
    assert!(permission.contains("as root"), "{permission}");
    assert!(no_bpf.contains("CONFIG_BPF_SYSCALL"), "{no_bpf}");
    assert!(too_old.contains("5.10"), "{too_old}");
}
