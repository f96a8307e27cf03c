//! Networks of the modes that are no plain bridge: internal ones, another container's, the host's,
//! none.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use policy_api::messages::{EndpointState, EndpointStatus};
use policy_test::{net::Reach, netns::NetNs};

use crate::stage::{Container, LIMIT, SHORT, Stage, play};

const PORT: u16 = 7000;
const SLEEP: [&str; 2] = ["sleep", "3600"];

const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: default}
spec:
  selector: app == 'db'
  ingress:
  - action: Allow
    source: {selector: app == 'web'}
";

/// Nothing leaves the host's own processes for port 7001 through the interface `lan`.
const HOST: &str = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: lan, labels: {side: host}}
spec: {node: lab, interfaceName: lan, profiles: [projectcalico-default-allow]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: no-7001}
spec:
  selector: side == 'host'
  types: [Egress]
  egress:
  - action: Deny
    protocol: TCP
    destination: {ports: [7001]}
  - action: Allow
";

/// Waits until an endpoint of that name is in a state, and gives its note.
pub(crate) fn standing(stage: &Stage, name: &str, state: EndpointState) -> Result<String> {
    let is = |e: &&EndpointStatus| e.name == name && e.state == state;
    let what = format!("{name} to be listed as {state:?}");
    let all = stage.agent.wait_endpoints(&what, |all| all.iter().any(|e| is(&e)))?;
    all.iter().find(is).and_then(|e| e.note.clone()).with_context(|| format!("{name} has no note"))
}

fn says(stage: &Stage, name: &str, state: EndpointState, words: &str) -> Result<()> {
    let note = standing(stage, name, state)?;
    ensure!(note.contains(words), "{name}: {note:?} says nothing of {words:?}");
    Ok(())
}

#[test]
fn an_internal_network_is_fenced_like_any_other() {
    play(&[], &[], |stage| {
        stage.engine.docker(&[
            "network",
            "create",
            "--internal",
            "--ipv6",
            "--subnet",
            "10.80.7.0/24",
            "--subnet",
            "fd80:7::/64",
            "inner",
        ])?;
        let web = stage.container("web", "web", "inner")?;
        let intruder = stage.container("intruder", "intruder", "inner")?;
        let db = stage.container("db", "db", "inner")?;
        let _server = db.serve(PORT)?;
        stage.expect(&intruder, &db, "inner", PORT, true)?;
        stage.agent.apply(POLICY)?;
        stage.expect(&web, &db, "inner", PORT, true)?;
        stage.expect(&intruder, &db, "inner", PORT, false)?;
        stage.observed("intruder", "db", PORT)?;
        Ok(())
    });
}

/// A process of the container connects to port 7000 and has a word echoed.
fn reaches(stage: &Stage, container: &str, to: &str) -> Result<bool> {
    let script = format!("echo word | timeout 2 nc -w 1 {to} {PORT}");
    let output = stage.engine.exec(container, &["sh", "-c", &script])?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("word"))
}

#[test]
fn a_shared_namespace_is_its_owners_whoever_sends() {
    play(&[], &[], |stage| {
        stage.network("front", 1)?;
        let web = stage.container("web", "web", "front")?;
        let intruder = stage.container("intruder", "intruder", "front")?;
        let db = stage.container("db", "db", "front")?;
        let _server = db.serve(PORT)?;
        stage.agent.apply(POLICY)?;
        let to = stage.ipv4("db", "front")?.to_string();

        // Guests with each other's labels, and a guest's guest.
        let guests = [("good", "web", "intruder"), ("bad", "intruder", "web")];
        for (name, owner, label) in guests {
            let network = format!("container:{owner}");
            let label = format!("app={label}");
            stage.engine.run(name, &["--network", &network, "--label", &label], &SLEEP)?;
            let words = format!("shares the network of container \"{owner}\"");
            says(stage, name, EndpointState::Elsewhere, &words)?;
        }
        stage.engine.run("guest", &["--network", "container:bad", "--label", "app=web"], &SLEEP)?;
        says(stage, "guest", EndpointState::Elsewhere, "of container \"intruder\"")?;

        for round in ["as they started", "after the agent came back"] {
            for (name, allowed) in [
                ("web", true),
                ("good", true),
                ("intruder", false),
                ("bad", false),
                ("guest", false),
            ] {
                let reached = reaches(stage, name, &to)?;
                ensure!(reached == allowed, "{round}: {name} -> db: {reached}");
            }
            stage.expect(&web, &db, "front", PORT, true)?;
            stage.expect(&intruder, &db, "front", PORT, false)?;
            stage.agent.kill()?;
            stage.agent.start()?;
            stage.enforcing("web", "front")?;
            stage.enforcing("intruder", "front")?;
        }

        // The owner ends, the guest stays: nothing is left that it could reach anybody through.
        drop(intruder);
        stage.engine.stop_container("intruder")?;
        ensure!(!reaches(stage, "bad", &to)?, "a guest without an owner reached db");
        stage.engine.docker(&["start", "intruder"])?;
        stage.enforcing("intruder", "front")?;
        let intruder = stage.found("intruder", "front")?;
        stage.expect(&intruder, &db, "front", PORT, false)?;
        ensure!(!reaches(stage, "bad", &to)?, "a guest of a namespace of the past reached db");
        says(stage, "bad", EndpointState::Elsewhere, "of container \"intruder\"")
    });
}

#[test]
fn a_container_without_a_network_is_listed_as_one() {
    play(&[], &[], |stage| {
        stage.engine.run("lonely", &["--network", "none"], &SLEEP)?;
        says(stage, "lonely", EndpointState::Elsewhere, "has no network")?;
        let output = stage.engine.exec("lonely", &["ls", "/sys/class/net"])?;
        let interfaces = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(interfaces == "lo", "a container without a network has {interfaces:?}");
        stage.engine.run("guest", &["--network", "container:lonely"], &SLEEP)?;
        says(stage, "guest", EndpointState::Elsewhere, "has no network")
    });
}

fn status_detail(stage: &Stage) -> Result<Option<String>> {
    let status = stage.agent.status()?;
    let part = status.components.into_iter().find(|part| part.name == "containers");
    Ok(part.map(|part| part.detail))
}

#[test]
fn a_container_on_the_hosts_network_is_held_by_host_endpoints_alone() {
    play(&[], &["--node-name", "lab"], |stage| {
        let lan = stage.lab.bridge("lan", &["10.99.0.1/24"])?;
        let server = stage.lab.workload("server", &lan, &["10.99.0.2/24"])?;
        let open = Container { name: "server".into(), netns: again(server.netns())? };
        let _servers = [open.serve(7000)?, open.serve(7001)?];
        stage.engine.run("on-host", &["--network", "host"], &SLEEP)?;
        stage.engine.run("guest", &["--network", "container:on-host"], &SLEEP)?;

        // Nothing holds it, and everybody is told.
        for name in ["on-host", "guest"] {
            says(stage, name, EndpointState::Unsupported, "host's network")?;
        }
        let detail = status_detail(stage)?.context("status says nothing of it")?;
        ensure!(detail.contains("on-host") && detail.contains("guest"), "{detail}");
        let unsupported = stage.metric("palisade_endpoints", &["state=\"unsupported\""])?;
        ensure!(unsupported == 2, "{unsupported} endpoints counted as unsupported");

        let netns = NetNs::of_process(stage.engine.pid("on-host")?)?;
        let to = |port| SocketAddr::new([10, 99, 0, 2].into(), port);
        ensure!(netns.try_tcp(to(7001), LIMIT)? == Reach::Answered, "before any policy");
        stage.agent.apply(HOST)?;
        ensure!(netns.try_tcp(to(7001), SHORT)? == Reach::Silent, "past the HostEndpoint");
        ensure!(netns.try_tcp(to(7000), LIMIT)? == Reach::Answered, "what it allows");
        for name in ["on-host", "guest"] {
            says(stage, name, EndpointState::Elsewhere, "HostEndpoint")?;
        }
        ensure!(status_detail(stage)?.is_none(), "status still warns");
        Ok(())
    });
}

/// Another handle on a namespace that has a name.
fn again(netns: &NetNs) -> Result<NetNs> {
    NetNs::named(netns.name())
}
