//! The flow log: what `observe` shows, in files; and a disk without room.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use policy_api::flow::FlowRecord;
use policy_test::wait;

use crate::stage::{LIMIT, Over, SHORT, Stage};

const CLOSED: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: closed}
spec: {selector: app == 'db', types: [Ingress]}
";

/// A file system of so many KiB, as long as it lives.
struct Disk(PathBuf);

impl Disk {
    fn new(kib: u32) -> Disk {
        let folder = tempfile::tempdir().unwrap().keep();
        let size = format!("size={kib}k");
        mount(Some("flows"), &folder, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .unwrap();
        Disk(folder)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}

/// One packet from a workload to a port of `db`, which is dropped.
fn knock(stage: &Stage, from: &str, port: u16) {
    let to = SocketAddr::new(stage.address("db", Over::V4), port);
    let _ = stage.netns(from).try_udp(to, SHORT).unwrap();
}

fn records(file: &Path) -> Vec<FlowRecord> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn healthy(stage: &Stage) -> (bool, String) {
    let status = stage.agent.status().unwrap();
    let part = status.components.into_iter().find(|it| it.name == "flow-log").unwrap();
    (part.healthy, part.detail)
}

#[test]
fn the_log_has_what_is_wanted_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flows.json");
    let stage = Stage::new(&[
        "--flow-log",
        file.to_str().unwrap(),
        "--flow-log-filter",
        "event=drop",
        "--flow-log-filter",
        "to-port=7000-7999",
        "--flow-log-filter",
        "not from-name=web",
        "--flow-log-omit",
        "labels",
    ]);
    stage.apply(CLOSED);
    for (from, port) in [("web", 7000), ("api", 8000), ("api", 7001), ("bad", 7002)] {
        knock(&stage, from, port);
    }
    wait::until("two records", LIMIT, || records(&file).len() >= 2).unwrap();
    let own = |it: &FlowRecord| (it.source.name.clone(), it.destination.port);
    let found = records(&file);
    let told: Vec<_> = found.iter().map(own).collect();
    assert_eq!(told, [("api".to_owned(), 7001), ("bad".to_owned(), 7002)]);
    assert!(found.iter().all(|it| it.source.labels.is_empty() && it.rule.is_some()), "{found:?}");
    let words = ["observe", "--input", file.to_str().unwrap(), "--from-namespace", "other"];
    let output = stage.agent.policyctl(&words).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
    let (is_healthy, detail) = healthy(&stage);
    assert!(is_healthy && detail.ends_with("2 written"), "{detail}");
    let metrics = stage.agent.metrics().unwrap();
    assert!(metrics.contains("palisade_flow_log_records_total 2\n"), "{metrics}");
}

#[test]
fn a_full_disk_costs_records_and_nothing_else() {
    let disk = Disk::new(64);
    let file = disk.0.join("flows.json");
    let stage =
        Stage::new(&["--flow-log", file.to_str().unwrap(), "--flow-log-filter", "event=drop"]);
    stage.apply(CLOSED);
    knock(&stage, "web", 1);
    wait::until("a record", LIMIT, || records(&file).len() == 1).unwrap();
    let before = fs::read(&file).unwrap();

    // Until it is full.
    let filler = disk.0.join("filler");
    let _ = fs::write(&filler, vec![0; 1 << 20]);
    let mut port = 2;
    wait::until("trouble", LIMIT, || {
        knock(&stage, "web", port);
        port += 1;
        !healthy(&stage).0
    })
    .unwrap();
    let (_, detail) = healthy(&stage);
    assert!(detail.contains("No space left on device"), "{detail}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.as_bytes().starts_with(&before) && text.ends_with('\n'), "no torn line");
    // The agent goes on with its work.
    stage.apply(&CLOSED.replace("closed", "closed-too"));

    fs::remove_file(&filler).unwrap();
    wait::until("room", LIMIT, || {
        knock(&stage, "api", port);
        port += 1;
        healthy(&stage).0
    })
    .unwrap();
    assert!(records(&file).iter().any(|it| it.source.name == "api"));
    let metrics = stage.agent.metrics().unwrap();
    let lost = metrics.lines().find(|line| line.contains("cause=\"not-written\"")).unwrap();
    assert!(!lost.ends_with(" 0"), "{lost}");
}

#[test]
fn a_folder_that_is_not_there_is_told_and_enforcement_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("missing/flows.json");
    let stage =
        Stage::new(&["--flow-log", file.to_str().unwrap(), "--flow-log-filter", "event=drop"]);
    stage.apply(CLOSED);
    let mut port = 1;
    wait::until("trouble", LIMIT, || {
        knock(&stage, "web", port);
        port += 1;
        !healthy(&stage).0
    })
    .unwrap();
    stage.check(Over::Both, "web db 80/tcp deny ingress - tier-default");
}
