//! The agent in a container, as the Compose file has it.
//!
//! Inputs: `examples/observability/compose.yml`, a Docker Engine of the test's own. Outputs: an agent that
//! sees and fences the other containers, and whose metrics are where Prometheus asks.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use policy_test::{
    binaries,
    engine::{Engine, EngineOptions},
    http,
    lab::Lab,
    wait,
};

use procfs::process::Process;

use crate::compose::{self, Service};

/// Loading the programs takes seconds of one CPU, and more on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const IMAGE: &str = "lab/agent";
const BPFFS: &str = "/sys/fs/bpf";
/// As a bit of a set of capabilities.
const CAP_SYS_RESOURCE: u64 = 1 << 24;

#[test]
fn the_agent_fences_containers_from_inside_one() {
    let lab = Lab::new().unwrap();
    let engine = EngineOptions::default().start(&lab).unwrap();
    import(&engine).unwrap();
    engine.run("before", &[], &["sleep", "600"]).unwrap();
    start(&lab, &engine, &compose::agent()).unwrap();
    let mut last = String::new();
    let mut enforced = |count: u32| {
        wait::until("the agent's metrics", LIMIT, || {
            last = metrics(&lab).unwrap_or_else(|error| format!("{error:#}"));
            let endpoints = format!("palisade_endpoints{{state=\"enforcing\"}} {count}");
            last.contains("palisade_component_up{component=\"docker\"} 1")
                && last.contains(&endpoints)
        })
        .with_context(|| format!("{}\n{last}", logs(&engine)))
        .unwrap();
    };
    enforced(1);
    engine.run("after", &[], &["sleep", "600"]).unwrap();
    enforced(2);
    let status = engine.exec("agent", &["/usr/local/bin/policyctl", "status"]).unwrap();
    assert!(status.status.success(), "{status:?}");

    // What is enforced does not end with the container.
    engine.docker(&["rm", "--force", "agent"]).unwrap();
    let pins = fs::read_dir(Path::new(BPFFS).join(lab.name()).join("agent")).unwrap();
    assert!(pins.count() > 0);
}

fn metrics(lab: &Lab) -> Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9465));
    Ok(http::get_over_tcp(lab.host(), address, "/metrics")?.text())
}

fn logs(engine: &Engine) -> String {
    let output = engine.output(&["logs", "agent"]);
    output.map_or_else(
        |error| error.to_string(),
        |it| {
            format!(
                "{}{}",
                String::from_utf8_lossy(&it.stdout),
                String::from_utf8_lossy(&it.stderr)
            )
        },
    )
}

/// An image of the programs and the libraries that they need.
fn import(engine: &Engine) -> Result<()> {
    let (agent, policyctl) = (binaries::policy_agent()?, binaries::policyctl()?);
    let output = Command::new("ldd").arg(&agent).output().context("start ldd")?;
    ensure!(output.status.success(), "ldd: {output:?}");
    let text = String::from_utf8(output.stdout)?;
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    let mut files: Vec<(&str, &Path)> = libraries.map(|path| (path, Path::new(path))).collect();
    files.push(("/usr/local/bin/policy-agent", &agent));
    files.push(("/usr/local/bin/policyctl", &policyctl));
    engine.import(IMAGE, &files)
}

/// Starts it with everything that it has there. Only what the lab keeps apart from its host is elsewhere:
/// folders, the engine's socket, pins. Mounts of the engine that come later are not passed on, since not every
/// machine that runs tests shares mounts.
fn start(lab: &Lab, engine: &Engine, agent: &Service) -> Result<()> {
    let folder = lab.folder().join("host");
    let mut words = vec!["run", "--detach", "--name", "agent", "--network", &agent.network_mode];
    words.extend(["--pid", agent.pid.as_deref().unwrap_or_default()]);
    words.extend(["--cgroupns", agent.cgroup.as_deref().unwrap_or_default()]);
    words.extend(agent.cap_drop.iter().flat_map(|it| ["--cap-drop", it]));
    words.extend(agent.cap_add.iter().flat_map(|it| ["--cap-add", it]));
    words.extend(agent.security_opt.iter().flat_map(|it| ["--security-opt", it]));
    let limits: Vec<_> =
        agent.ulimits.iter().map(|(name, limit)| format!("{name}={limit}")).collect();
    // Not every machine that runs tests lets root raise them.
    if Process::myself()?.status()?.capeff & CAP_SYS_RESOURCE != 0 {
        words.extend(limits.iter().flat_map(|it| ["--ulimit", it]));
    }
    let mut mounts = vec![format!("{0}:{0}", lab.folder().display())];
    for mount in agent.mounts() {
        let apart = mount.from != BPFFS;
        let from = if apart { folder.join(&mount.from[1..]) } else { mount.from.into() };
        fs::create_dir_all(&from)?;
        mounts.push(format!("{}:{}", from.display(), mount.to));
    }
    words.extend(mounts.iter().flat_map(|it| ["--volume", it]));
    let pins = Path::new(BPFFS).join(lab.name()).join("agent");
    fs::create_dir_all(&pins)?;
    let (pins, host) = (pins.display().to_string(), engine.host());
    words.extend([IMAGE, "/usr/local/bin/policy-agent"]);
    words.extend(agent.command.iter().map(String::as_str));
    words.extend(["--docker-host", &host, "--bpffs-dir", &pins]);
    engine.docker(&words).map(drop)
}
