//! The application in Docker containers.
//!
//! Inputs: the address of a running engine, a table. Outputs: a stage whose endpoints are
//! containers on a network of their own, of an image of their own.
//!
//! The engine may have other containers, of people who did not ask for a fence. So the agent is told
//! to manage the one bridge that the demo has made. Everything that the engine keeps of the demo
//! carries a label with the demo's name, by which it is found and removed: at the end, or by the
//! next run if this one is killed.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt as _,
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::net::if_::if_nametoindex;
use policy_api::messages::EndpointState;

use super::{
    interrupt::Interrupts,
    stage::{self, PATIENCE, SERVED, Stage},
};
use crate::{
    agent::{Agent, AgentOptions},
    engine,
    lab::Lab,
    net::Reach,
    table::{Endpoint, HOST, Table},
};

/// Label of everything that is ours; its value is the lab's name.
const LABEL: &str = "palisade.demo";
/// Repository of the image; its tag is the lab's name.
const IMAGE: &str = "palisade-demo";
/// Docker's name of a bridge is this and the beginning of the network's id.
const BRIDGE_PREFIX: &str = "br-";
const BRIDGE_ID: usize = 12;
/// What a server says.
const ANSWER: &str = "palisade-demo";

/// Containers, and the agent beside their engine. Fields go in this order.
#[derive(Debug)]
pub(super) struct Containers {
    agent: Agent,
    containers: Vec<Container>,
    gateways: [IpAddr; 2],
    bridge: String,
    prefix: String,
    belongings: Belongings,
}

#[derive(Debug)]
struct Container {
    endpoint: String,
    addresses: [IpAddr; 2],
}

/// What the engine has of us; gone when this is dropped.
#[derive(Debug)]
struct Belongings {
    docker: Docker,
    lab: Lab,
}

impl Drop for Belongings {
    fn drop(&mut self) {
        if let Err(error) = self.docker.remove(self.lab.name()) {
            eprintln!("error: take the demo's containers away: {error:#}");
        }
    }
}

impl Containers {
    pub(super) fn start(host: &str, table: &Table, interrupts: &Interrupts) -> Result<Self> {
        let docker = Docker { host: host.to_owned() };
        docker.sweep()?;
        let lab = Lab::on_this_host()?;
        let belongings = Belongings { docker, lab };
        let (docker, lab) = (&belongings.docker, &belongings.lab);
        let label = format!("{LABEL}={}", lab.name());
        let image = format!("{IMAGE}:{}", lab.name());
        let prefix = format!("demo{}-", std::process::id());

        let folder = lab.folder().join("image");
        std::fs::create_dir(&folder)?;
        let archive = engine::archive(&folder, &[])?;
        let archive = archive.to_str().context("a lab's paths are UTF-8")?;
        docker.run(&["import", "--change", &format!("LABEL {label}"), archive, &image])?;
        interrupts.check()?;

        let network = format!("{prefix}net");
        // Of IPv4 the engine gives one that is free; not every engine does so of IPv6.
        let v6 = unique_local(std::process::id());
        let (subnet, gateway) = (format!("{v6}/64"), format!("{v6}1"));
        let mut words = vec!["network", "create", "--label", &label, "--ipv6"];
        words.extend(["--subnet", &subnet, "--gateway", &gateway, &network]);
        let id = docker.run(&words)?;
        let bridge = format!("{BRIDGE_PREFIX}{}", id.get(..BRIDGE_ID).unwrap_or(&id));
        ensure!(
            if_nametoindex(bridge.as_str()).is_ok(),
            "the engine at {host} has its networks elsewhere (there is no {bridge} here): a rootless \
             engine, or one on another machine; use `--runtime netns`"
        );
        interrupts.check()?;
        let metrics = lab.host().tcp_listen((Ipv4Addr::LOCALHOST, 0).into())?.local_addr()?;
        let agent = AgentOptions::default()
            .docker_host(host)
            .metrics(metrics)
            .flags(&["--bridge", &bridge, "--only-bridges"])
            .start(lab)?;
        let mut containers = Vec::new();
        for endpoint in &table.endpoints {
            interrupts.check()?;
            let name = format!("{prefix}{}", endpoint.name);
            containers.push(start(docker, endpoint, &name, &label, &network, &image)?);
        }
        let wanted = table.endpoints.len();
        agent.wait_endpoints("the containers to be enforced", |endpoints| {
            let enforced =
                endpoints.iter().filter(|endpoint| endpoint.state == EndpointState::Enforcing);
            enforced.count() == wanted
        })?;
        let gateways = gateways(docker, &network)?;
        Ok(Self { agent, containers, gateways, bridge, prefix, belongings })
    }
}

fn start(
    docker: &Docker,
    endpoint: &Endpoint,
    name: &str,
    label: &str,
    network: &str,
    image: &str,
) -> Result<Container> {
    let (_, port) = SERVED
        .iter()
        .find(|(served, _)| *served == endpoint.name)
        .with_context(|| format!("{} serves no port", endpoint.name))?;
    let namespace = format!("io.palisade.namespace={}", endpoint.namespace);
    let own: Vec<String> =
        endpoint.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut words = vec!["run", "--detach", "--init", "--name", name, "--network", network];
    for label in [label, &namespace].into_iter().chain(own.iter().map(String::as_str)) {
        words.extend(["--label", label]);
    }
    let port = port.to_string();
    words.extend([image, "nc", "-ll", "-p", &port, "-e", "echo", ANSWER]);
    docker.run(&words)?;
    let field = |field: &str| -> Result<IpAddr> {
        let template =
            format!("{{{{range .NetworkSettings.Networks}}}}{{{{.{field}}}}}{{{{end}}}}");
        let text = docker.run(&["inspect", "--format", &template, name])?;
        text.parse().with_context(|| format!("{name} has no {field}"))
    };
    let addresses = [field("IPAddress")?, field("GlobalIPv6Address")?];
    Ok(Container { endpoint: endpoint.name.clone(), addresses })
}

/// The host's own addresses on a network.
fn gateways(docker: &Docker, network: &str) -> Result<[IpAddr; 2]> {
    let template = "{{range .IPAM.Config}}{{.Gateway}} {{end}}";
    let text = docker.run(&["network", "inspect", "--format", template, network])?;
    // Some engines write the prefix length behind an IPv6 gateway.
    let gateways = text.split_whitespace().map(|word| word.split('/').next().unwrap_or(word));
    let gateways: Vec<IpAddr> = gateways.filter_map(|word| word.parse().ok()).collect();
    let find = |v4: bool| gateways.iter().copied().find(|address| address.is_ipv4() == v4);
    match (find(true), find(false)) {
        (Some(v4), Some(v6)) => Ok([v4, v6]),
        _ => bail!("{network} has not a gateway of each family: {text}"),
    }
}

/// Beginning of an IPv6 network that nobody else is likely to have (RFC 4193), another for each
/// process.
fn unique_local(pid: u32) -> String {
    format!("fd70:616c:{:x}:{:x}::", pid >> 16, pid & 0xffff)
}

impl Stage for Containers {
    fn agent(&self) -> &Agent {
        &self.agent
    }

    fn scope(&self) -> String {
        format!("managing {} and no other bridge", self.bridge)
    }

    fn name(&self, endpoint: &str) -> String {
        format!("{}{endpoint}", self.prefix)
    }

    fn addresses(&self, name: &str) -> Result<[IpAddr; 2]> {
        if name == HOST {
            return Ok(self.gateways);
        }
        let mut containers = self.containers.iter();
        let container = containers.find(|container| container.endpoint == name);
        Ok(container.with_context(|| format!("no container {name}"))?.addresses)
    }

    fn connect(&self, from: &str, to: &[SocketAddr]) -> Result<Vec<Reach>> {
        if from == HOST {
            return stage::connect_from(self.belongings.lab.host(), to);
        }
        // In the container, all at once, a line for each with its number.
        let tries: Vec<String> = to
            .iter()
            .enumerate()
            .map(|(number, to)| {
                format!(
                    "(echo {number} $(nc -w {} {} {} 2>&1 </dev/null)) &",
                    PATIENCE.as_secs(),
                    to.ip(),
                    to.port()
                )
            })
            .collect();
        let script = format!("{}\nwait", tries.join("\n"));
        let said = self.belongings.docker.run(&["exec", &self.name(from), "sh", "-c", &script])?;
        let line = |number: usize| {
            let begin = format!("{number} ");
            said.lines().find_map(|line| format!("{line} ").strip_prefix(&begin).map(str::to_owned))
        };
        (0..to.len())
            .map(|number| {
                let said = line(number).with_context(|| format!("{from} tried nothing: {said}"))?;
                Ok(match said {
                    said if said.contains(ANSWER) => Reach::Answered,
                    said if said.contains("refused") => Reach::Refused,
                    _ => Reach::Silent,
                })
            })
            .collect()
    }

    fn end(self: Box<Self>) -> Result<()> {
        let name = self.belongings.lab.name().to_owned();
        self.belongings.docker.remove(&name)?;
        drop(self);
        Lab::ensure_gone(&name)
    }
}

/// The command line of an engine.
#[derive(Debug)]
struct Docker {
    host: String,
}

impl Docker {
    /// Runs `docker` and gives what it printed, without the end of the line.
    fn run(&self, words: &[&str]) -> Result<String> {
        let output = Command::new("docker")
            .args(["--host", &self.host])
            .args(words)
            // Ctrl-C is for us: a command that is broken off may leave what we do not know of.
            .process_group(0)
            .output()
            .context("start `docker`")?;
        ensure!(
            output.status.success(),
            "`docker {}`: {}",
            words.iter().take(2).copied().collect::<Vec<_>>().join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    fn lines(&self, words: &[&str]) -> Result<Vec<String>> {
        Ok(self.run(words)?.lines().map(str::to_owned).collect())
    }

    /// Removes what demos of dead processes have left.
    fn sweep(&self) -> Result<()> {
        let labelled = format!("label={LABEL}");
        let value = format!("{{{{.Label \"{LABEL}\"}}}}");
        let filter = ["--filter", &labelled, "--format", &value];
        let mut names = self.lines(&[&["ps", "--all"][..], &filter].concat())?;
        names.extend(self.lines(&[&["network", "ls"][..], &filter].concat())?);
        names.extend(self.lines(&["images", "--format", "{{.Tag}}", IMAGE])?);
        names.retain(|name| Lab::is_orphan(name));
        names.sort_unstable();
        names.dedup();
        names.iter().try_for_each(|name| self.remove(name))
    }

    /// Removes what the demo of that name has; what is not there is fine.
    fn remove(&self, name: &str) -> Result<()> {
        let filter = format!("label={LABEL}={name}");
        let kinds: [(&[&str], &[&str]); 3] = [
            (&["ps", "--all"], &["rm", "--force", "--volumes"]),
            (&["network", "ls"], &["network", "rm"]),
            (&["images"], &["rmi", "--force"]),
        ];
        for (list, remove) in kinds {
            let found = self.lines(&[list, &["--quiet", "--filter", &filter]].concat())?;
            if !found.is_empty() {
                let found: Vec<&str> = found.iter().map(String::as_str).collect();
                self.run(&[remove, &found].concat())?;
            }
        }
        Ok(())
    }
}
