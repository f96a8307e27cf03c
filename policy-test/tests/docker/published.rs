//! Published ports: whom policy sees on each of the ways in.
//!
//! | way | when | the container's policy sees |
//! |---|---|---|
//! | the kernel's translation | from another machine | the client |
//! | `docker-proxy` | from the host itself; over IPv6 without ip6tables | the host |
//! | `docker-proxy` | from a container of the same network, by the host's address | the host |
//! | hairpin, `--userland-proxy=false` | the same | the container that asks |

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use policy_test::{lab::Workload, net::Reach, netns::NetNs};

use crate::stage::{Container, LIMIT, SHORT, Stage, play};

/// The container's port; the host's is 8080.
const PORT: u16 = 7000;
const HOST_V4: &str = "10.99.0.1:8080";
const HOST_V6: &str = "[fd99::1]:8080";

/// The container lets in nobody but whom the rule says. The host is in no namespace, so the policy is
/// a global one.
fn only(stage: &Stage, source: &str) -> Result<()> {
    let policy = format!(
        "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: site}}
spec:
  selector: app == 'site'
  ingress:
  - action: Allow
    protocol: TCP
    source: {source}
    destination: {{ports: [{PORT}]}}
"
    );
    stage.agent.apply(&policy).map(drop)
}

const CLIENT: &str = "{nets: [10.99.0.2/32, 'fd99::2/128']}";
const HOST: &str = "{selector: has(palisade.io/host)}";
const FRIEND: &str = "{selector: app == 'friend'}";

/// A container that publishes its port, a friend of it, and two machines outside.
struct Cast {
    _site: Container,
    _server: policy_test::net::TcpEcho,
    friend: Container,
    client: Workload,
    stranger: Workload,
}

impl Cast {
    fn enter(stage: &Stage) -> Result<Self> {
        stage.network("front", 1)?;
        let publish = ["--label", "app=site", "--publish", "8080:7000"];
        let site = stage.container_with("site", "front", &publish)?;
        let server = site.serve(PORT)?;
        let friend = stage.container("friend", "friend", "front")?;
        let lan = stage.lab.bridge("lan", &["10.99.0.1/24", "fd99::1/64"])?;
        let client = stage.lab.workload("client", &lan, &["10.99.0.2/24", "fd99::2/64"])?;
        let stranger = stage.lab.workload("stranger", &lan, &["10.99.0.3/24", "fd99::3/64"])?;
        Ok(Cast { _site: site, _server: server, friend, client, stranger })
    }
}

fn expect(what: &str, from: &NetNs, to: &str, allowed: bool) -> Result<()> {
    let to: SocketAddr = to.parse()?;
    let (limit, expected) = if allowed { (LIMIT, Reach::Answered) } else { (SHORT, Reach::Silent) };
    let reach = from.try_tcp(to, limit)?;
    ensure!(reach == expected, "{what} -> {to}: {reach:?}, expected {expected:?}");
    Ok(())
}

#[test]
fn the_kernels_translation_shows_policy_the_real_client() {
    play(&[], &[], |stage| {
        let cast = Cast::enter(stage)?;
        let (client, stranger) = (cast.client.netns(), cast.stranger.netns());
        expect("the client, without a policy", client, HOST_V4, true)?;
        only(stage, CLIENT)?;
        expect("the client", client, HOST_V4, true)?;
        expect("a stranger", stranger, HOST_V4, false)?;
        // By the port of the container: nobody matches a rule for that of the host.
        stage.agent.apply(
            "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: site}
spec:
  selector: app == 'site'
  ingress:
  - {action: Allow, protocol: TCP, destination: {ports: [8080]}}
",
        )?;
        expect("the client, by the host's port", client, HOST_V4, false)?;
        only(stage, HOST)?;
        expect("the client, where only the host may", client, HOST_V4, false)
    });
}

#[test]
fn what_comes_through_docker_proxy_comes_from_the_host() {
    play(&[], &[], |stage| {
        let cast = Cast::enter(stage)?;
        let host = stage.lab.host();
        let (client, stranger) = (cast.client.netns(), cast.stranger.netns());
        let friend = &cast.friend.netns;
        only(stage, HOST)?;
        expect("the host by its loopback", host, "127.0.0.1:8080", true)?;
        expect("the host by its address", host, HOST_V4, true)?;
        // This engine translates no IPv6: who the client is is lost on the way.
        for (name, netns) in [("the client", client), ("a stranger", stranger)] {
            expect(&format!("{name} by IPv6"), netns, HOST_V6, true)?;
        }
        // Nor what comes from the bridge of the container itself.
        expect("a neighbour by the host's address", friend, HOST_V4, true)?;

        for (name, source) in [("client", CLIENT), ("friend", FRIEND)] {
            only(stage, source)?;
            let where_only = format!("where only the {name} may");
            expect(&format!("the host, {where_only}"), host, "127.0.0.1:8080", false)?;
            expect(&format!("the client by IPv6, {where_only}"), client, HOST_V6, false)?;
            expect(&format!("the friend, {where_only}"), friend, HOST_V4, false)?;
        }
        // Directly the friend is itself.
        let direct = SocketAddr::new(stage.ipv4("site", "front")?, PORT).to_string();
        expect("the friend by the container's address", friend, &direct, true)
    });
}

#[test]
fn a_hairpin_shows_policy_the_container_that_asks() {
    play(&["--userland-proxy=false"], &[], |stage| {
        let cast = Cast::enter(stage)?;
        // Without it the answers would stay on the bridge, and nobody would translate them back.
        stage.lab.host().sysctl("net/bridge/bridge-nf-call-iptables", "1")?;
        let friend = &cast.friend.netns;
        expect("the friend, without a policy", friend, HOST_V4, true)?;
        only(stage, FRIEND)?;
        expect("the friend", friend, HOST_V4, true)?;
        expect("a stranger", cast.stranger.netns(), HOST_V4, false)?;
        only(stage, HOST)?;
        expect("the friend, where only the host may", friend, HOST_V4, false)?;
        expect("the host by its address", stage.lab.host(), HOST_V4, true)?;

        // On its way out, the friend's own policy sees the host and the host's port.
        only(stage, FRIEND)?;
        stage.agent.apply(
            "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: friend}
spec:
  selector: app == 'friend'
  types: [Egress]
  egress:
  - {action: Deny, protocol: TCP, destination: {ports: [8080], selector: has(palisade.io/host)}}
  - {action: Allow}
",
        )?;
        expect("the friend, who may not go to the host", friend, HOST_V4, false)
    });
}
