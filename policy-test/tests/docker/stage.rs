//! An engine with the agent beside it, and containers on networks of both families.
//!
//! Inputs: flags for both. Outputs: a [`Stage`] to play a test on.

use std::{
    env,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use policy_api::{
    flow::FlowRecord,
    messages::{EndpointState, EndpointStatus, Explanation, RuleName, Verdict},
};
use policy_test::{
    agent::{Agent, AgentOptions},
    engine::{Engine, EngineOptions},
    lab::Lab,
    net::{Reach, TcpEcho},
    netns::NetNs,
    wait,
};

/// For what has to come, on a machine however busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// For answers that must not come.
pub(crate) const SHORT: Duration = Duration::from_millis(250);
/// Image of the static programs, `/probe` and `/raw`.
pub(crate) const PROBE: &str = "lab/probe";

/// How often to do something: for a claim, that is with `PALISADE_LONG=1`, more often.
pub(crate) fn rounds(normal: usize, long: usize) -> usize {
    if env::var_os("PALISADE_LONG").is_some_and(|value| value == "1") { long } else { normal }
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Engine, agent, and the lab that both are in. They go in this order.
pub(crate) struct Stage {
    pub(crate) agent: Agent,
    pub(crate) engine: Engine,
    pub(crate) lab: Lab,
    /// A second stage stands in the first one's time.
    _serial: Option<MutexGuard<'static, ()>>,
}

/// Plays a test on a fresh stage. A failure shows the ends of the logs.
pub(crate) fn play(
    engine_flags: &[&str],
    agent_flags: &[&str],
    test: impl FnOnce(&mut Stage) -> Result<()>,
) {
    let stage = Stage::new(engine_flags, agent_flags);
    assert!(stage.is_ok(), "{:#}", stage.err().unwrap_or_else(|| anyhow::anyhow!("no error")));
    let Ok(mut stage) = stage else { return };
    let result = test(&mut stage);
    if let Err(error) = &result {
        eprintln!("---- what the agent logged ----\n{}", stage.agent.log());
        // While the stage still stands, so that it knows of the failure.
        assert!(result.is_ok(), "{error:#}");
    }
}

impl Stage {
    fn new(engine_flags: &[&str], agent_flags: &[&str]) -> Result<Self> {
        let serial = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        Self::build(engine_flags, agent_flags, Some(serial))
    }

    /// Another stage beside this one: a second host.
    pub(crate) fn beside(&self) -> Result<Self> {
        Self::build(&[], &[], None)
    }

    fn build(
        engine_flags: &[&str],
        agent_flags: &[&str],
        serial: Option<MutexGuard<'static, ()>>,
    ) -> Result<Self> {
        let lab = Lab::new()?;
        let engine = EngineOptions::default().flags(engine_flags).start(&lab)?;
        let agent =
            AgentOptions::default().docker_host(&engine.host()).flags(agent_flags).start(&lab)?;
        // It answers before it has read the engine, and changes nothing until it has.
        wait::until("the engine to be read", LIMIT, || {
            agent.status().is_ok_and(|status| {
                status.components.iter().any(|it| it.name == "docker" && it.healthy)
            })
        })?;
        Ok(Self { agent, engine, lab, _serial: serial })
    }

    /// Makes a network with `10.80.NUMBER.0/24` and `fd80:NUMBER::/64`, and makes sure that
    /// netfilter does not see what stays on a bridge.
    pub(crate) fn network(&self, name: &str, number: u8) -> Result<()> {
        let (v4, v6) = (format!("10.80.{number}.0/24"), format!("fd80:{number}::/64"));
        self.engine
            .docker(&["network", "create", "--ipv6", "--subnet", &v4, "--subnet", &v6, name])?;
        for family in ["iptables", "ip6tables", "arptables"] {
            let name = format!("net/bridge/bridge-nf-call-{family}");
            if self.lab.host().has_sysctl(&name)? {
                self.lab.host().sysctl(&name, "0")?;
            }
        }
        Ok(())
    }

    /// Starts a container with a label `app` and waits until it is enforced.
    pub(crate) fn container(&self, name: &str, app: &str, network: &str) -> Result<Container> {
        self.container_with(name, network, &["--label", &format!("app={app}")])
    }

    /// Starts a container with options of `docker run` and waits until it is enforced.
    pub(crate) fn container_with(
        &self,
        name: &str,
        network: &str,
        options: &[&str],
    ) -> Result<Container> {
        let options = [&["--network", network], options].concat();
        self.engine.run(name, &options, &["sleep", "3600"])?;
        self.enforcing(name, network)?;
        self.found(name, network)
    }

    /// A container that runs already.
    pub(crate) fn found(&self, name: &str, network: &str) -> Result<Container> {
        let netns = NetNs::of_process(self.engine.pid(name)?)?;
        let container = Container { name: name.to_owned(), netns };
        // Duplicate address detection keeps an IPv6 address from use for a second or two.
        if let Ok(address) = self.ipv6(name, network) {
            let bind = SocketAddr::new(address, 0);
            wait::until("the IPv6 address to be usable", LIMIT, || {
                container.netns.udp_bind(bind).is_ok()
            })?;
        }
        Ok(container)
    }

    /// Waits until a container's endpoint on a network is enforced.
    pub(crate) fn enforcing(&self, name: &str, network: &str) -> Result<EndpointStatus> {
        let is = |endpoint: &&EndpointStatus| {
            endpoint.name == name
                && endpoint.network == network
                && endpoint.state == EndpointState::Enforcing
        };
        let what = format!("{name} to be enforced on {network}");
        let endpoints =
            self.agent.wait_endpoints(&what, |endpoints| endpoints.iter().any(|e| is(&e)))?;
        endpoints.into_iter().find(|endpoint| is(&endpoint)).context("it was there just now")
    }

    /// A container's IPv4 address on a network.
    pub(crate) fn ipv4(&self, name: &str, network: &str) -> Result<IpAddr> {
        self.address(name, network, "IPAddress")
    }

    /// A container's IPv6 address on a network.
    pub(crate) fn ipv6(&self, name: &str, network: &str) -> Result<IpAddr> {
        self.address(name, network, "GlobalIPv6Address")
    }

    /// Both addresses of a container on a network.
    pub(crate) fn addresses(&self, name: &str, network: &str) -> Result<[IpAddr; 2]> {
        Ok([self.ipv4(name, network)?, self.ipv6(name, network)?])
    }

    fn address(&self, name: &str, network: &str, field: &str) -> Result<IpAddr> {
        let template = format!("{{{{(index .NetworkSettings.Networks \"{network}\").{field}}}}}");
        let text = self.engine.docker(&["inspect", "--format", &template, name])?;
        text.parse().with_context(|| format!("{name} on {network}: {field} is {text:?}"))
    }

    /// Imports the static programs of the tests, `/probe` and `/raw`.
    pub(crate) fn import_probe(&self) -> Result<()> {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let build = |name: &str| -> Result<PathBuf> {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docker");
            let program = self.lab.folder().join(name);
            let output = Command::new(&rustc)
                .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-o"])
                .args([&program, &folder.join(name).with_extension("rs")])
                .output()
                .context("start rustc")?;
            ensure!(output.status.success(), "rustc: {}", String::from_utf8_lossy(&output.stderr));
            Ok(program)
        };
        let (probe, raw) = (build("probe")?, build("raw")?);
        self.engine.import(PROBE, &[("/probe", &probe), ("/raw", &raw)])
    }

    /// Says with packets of both families, and with `policyctl explain`, whether a TCP connection
    /// is allowed.
    pub(crate) fn expect(
        &self,
        from: &Container,
        to: &Container,
        network: &str,
        port: u16,
        allowed: bool,
    ) -> Result<()> {
        from.expect(&self.addresses(&to.name, network)?, port, allowed)?;
        let service = format!("{port}/tcp");
        let output = self.agent.policyctl(&["explain", &from.name, &to.name, &service])?;
        let code = output.status.code();
        ensure!(
            code == Some(i32::from(!allowed)),
            "explain {} {} {service}: {code:?}\n{}{}",
            from.name,
            to.name,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Waits until `policyctl observe` shows a drop of both families between two containers, by
    /// the rule that `policyctl explain` names.
    pub(crate) fn observed(&self, from: &str, to: &str, port: u16) -> Result<RuleName> {
        let service = format!("{port}/tcp");
        let output = self.agent.policyctl(&["explain", from, to, &service, "-o", "json"])?;
        let explanation: Explanation = serde_json::from_slice(&output.stdout)?;
        let ends = explanation.paths.first().context("a path")?.ends.iter();
        let mut deciding = ends.filter(|end| end.verdict == Verdict::Deny);
        let rule = deciding.next().context("an end that denies")?.rule.clone();
        let seen = |records: &[FlowRecord], v6: bool| {
            records.iter().any(|record| {
                record.source.name == from
                    && record.destination.name == to
                    && record.destination.port == port
                    && record.destination.ip.is_some_and(|ip| ip.is_ipv6() == v6)
                    && record.rule.as_ref() == Some(&rule)
            })
        };
        let mut last = Vec::new();
        wait::until("the drops to be observed", LIMIT, || {
            let Ok(records) = self.drops() else { return false };
            last = records;
            seen(&last, false) && seen(&last, true)
        })
        .with_context(|| format!("{from} -> {to}:{port} by {rule:?}; saw {last:#?}"))?;
        Ok(rule)
    }

    /// The newest drops, by `policyctl observe`.
    pub(crate) fn drops(&self) -> Result<Vec<FlowRecord>> {
        let output =
            self.agent.policyctl(&["observe", "--event", "drop", "--last", "500", "-o", "json"])?;
        let text = String::from_utf8(output.stdout)?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Sum of a metric's series that contain all of `labels`, such as `policy="db"`.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> Result<u64> {
        let text = self.agent.metrics()?;
        let series = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        series
            .map(|line| {
                let value = line.rsplit(' ').next().context("a value")?;
                value.parse::<u64>().with_context(|| line.to_owned())
            })
            .sum()
    }
}

/// A running container.
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) netns: NetNs,
}

impl Container {
    /// Says with packets whether TCP connections are allowed.
    pub(crate) fn expect(&self, to: &[IpAddr], port: u16, allowed: bool) -> Result<()> {
        let (limit, expected) =
            if allowed { (LIMIT, Reach::Answered) } else { (SHORT, Reach::Silent) };
        for &address in to {
            let reach = self.netns.try_tcp(SocketAddr::new(address, port), limit)?;
            ensure!(
                reach == expected,
                "{} -> {address} port {port}: {reach:?}, expected {expected:?}",
                self.name
            );
        }
        Ok(())
    }

    /// Serves echoes on a port, over both families.
    pub(crate) fn serve(&self, port: u16) -> Result<TcpEcho> {
        Ok(TcpEcho::start(&self.netns, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))?)
    }
}
