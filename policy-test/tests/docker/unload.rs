//! `policy-agent unload` takes off everything of ours, and nothing of anybody else's.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use policy_common::abi::ABI_VERSION;

use crate::stage::{Stage, play};

const PORT: u16 = 7000;

const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: deny-all}
spec:
  selector: all()
  types: [Ingress, Egress]
";

/// What the agent calls its clsact filters.
const OUR_HANDLE: &str = " handle 0x7a11 ";

/// Programs of ours on both sides of an interface, however attached.
fn programs(stage: &Stage, interface: &str) -> Result<usize> {
    let links = stage.lab.host().run(|| {
        let sides = [TcAttachType::Ingress, TcAttachType::Egress];
        sides.into_iter().try_fold(0, |sum, side| {
            let (_, programs) = SchedClassifier::query_tcx(interface, side)?;
            Ok::<_, anyhow::Error>(sum + programs.len())
        })
    })??;
    let filters = ["ingress", "egress"].into_iter().try_fold(0, |sum, side| {
        let shown = tc(stage, &["filter", "show", "dev", interface, side])?;
        Ok::<_, anyhow::Error>(sum + shown.matches(OUR_HANDLE).count())
    })?;
    Ok(links + filters)
}

/// The lines that `tc` shows of somebody else's filter.
fn theirs(shown: &str) -> String {
    shown.lines().filter(|line| line.contains(" pref 7 ")).collect::<Vec<_>>().join("\n")
}

fn tc(stage: &Stage, words: &[&str]) -> Result<String> {
    let output = stage.lab.host().output(Command::new("tc").args(words)).context("start tc")?;
    ensure!(output.status.success(), "tc: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn firewall(stage: &Stage) -> Result<String> {
    let output = stage.lab.host().output(&mut Command::new("iptables-save"))?;
    ensure!(output.status.success(), "iptables-save: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    // Comments have the time, and chains have counters.
    let lines = text.lines().filter(|line| !line.starts_with(['#', ':']));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

#[test]
fn unload_takes_filters_off_and_leaves_others_alone() {
    unload("clsact");
}

#[test]
fn unload_takes_links_off_and_leaves_others_alone() {
    unload("tcx");
}

fn unload(attachment: &str) {
    play(&[], &["--attachment", attachment], |stage| {
        stage.network("front", 1)?;
        let web = stage.container("web", "web", "front")?;
        let db = stage.container("db", "db", "front")?;
        let _echo = db.serve(PORT)?;
        let veth = stage.enforcing("web", "front")?.interface;
        let id = stage.engine.docker(&["network", "inspect", "--format", "{{.Id}}", "front"])?;
        let bridge = format!("br-{}", id.get(..12).context("an id")?);

        // Somebody else's: a filter on the same interface, and a pin beside ours.
        if attachment == "tcx" {
            tc(stage, &["qdisc", "add", "dev", &veth, "clsact"])?;
        }
        let filter = ["filter", "add", "dev", &veth, "ingress", "prio", "7", "handle", "7", "bpf"];
        // `ret 0`: no match.
        tc(stage, &[filter.as_slice(), &["bytecode", "1,6 0 0 0,"]].concat())?;
        let show = ["filter", "show", "dev", &veth, "ingress"];
        let (their_filter, their_rules) = (theirs(&tc(stage, &show)?), firewall(stage)?);
        ensure!(their_filter.contains(" handle 0x7 "), "{their_filter}");
        let their_pin = stage.agent.bpffs_dir().with_file_name("foreign");
        fs::create_dir(&their_pin)?;

        stage.agent.apply(POLICY)?;
        stage.expect(&web, &db, "front", PORT, false)?;
        ensure!(programs(stage, &veth)? == 2 && programs(stage, &bridge)? == 2);

        let refused = stage.agent.unload();
        ensure!(refused.is_err_and(|error| error.to_string().contains("stop it first")));
        stage.expect(&web, &db, "front", PORT, false)?;

        let server = stage.addresses("db", "front")?;
        ensure!(stage.agent.terminate()?.success());
        web.expect(&server, PORT, false)?;
        let said = stage.agent.unload()?;
        // Two on each of web, db, front's bridge, and docker0.
        ensure!(said.contains("8 programs"), "{said}");
        web.expect(&server, PORT, true)?;
        for interface in [veth.as_str(), &bridge, "docker0"] {
            ensure!(programs(stage, interface)? == 0, "a program is left on {interface}");
        }
        let pins = stage.agent.bpffs_dir().join(format!("v{ABI_VERSION}"));
        ensure!(!pins.exists(), "{} is left", pins.display());
        ensure!(their_pin.is_dir());
        let shown = tc(stage, &show)?;
        ensure!(theirs(&shown) == their_filter, "{shown}");
        ensure!(shown.lines().count() == their_filter.lines().count(), "more is left: {shown}");
        ensure!(firewall(stage)? == their_rules, "other rules: {}", firewall(stage)?);

        // Once more is fine, and a new agent protects again.
        let said = stage.agent.unload()?;
        ensure!(said.contains("0 programs"), "{said}");
        stage.agent.start()?;
        stage.enforcing("web", "front")?;
        stage.enforcing("db", "front")?;
        web.expect(&server, PORT, false)
    });
}
