//! The harness itself: what it makes works, and nothing of it is left.

use std::{fs, net::SocketAddr, path::Path, thread, time::Duration};

use anyhow::Result;
use policy_test::{
    engine::EngineOptions,
    lab::{Lab, Workload},
    net::{Reach, TcpEcho, UdpEcho},
};

/// Long for one hop on the same machine, however busy.
const LIMIT: Duration = Duration::from_secs(5);
/// For answers that must not come.
const SHORT: Duration = Duration::from_millis(300);

fn two_workloads(lab: &Lab) -> Result<(Workload, Workload)> {
    let bridge = lab.bridge("br-lab", &["10.77.0.1/24", "fd77::1/64"])?;
    let web = lab.workload("web", &bridge, &["10.77.0.2/24", "fd77::2/64"])?;
    let db = lab.workload("db", &bridge, &["10.77.0.3/24", "fd77::3/64"])?;
    Ok((web, db))
}

#[test]
fn workloads_on_a_bridge_reach_each_other_over_both_families() {
    let lab = Lab::new().unwrap();
    let (web, db) = two_workloads(&lab).unwrap();
    for address in [db.ipv4().unwrap(), db.ipv6().unwrap()] {
        let server = SocketAddr::new(address, 5432);
        assert_eq!(web.netns().try_ping(address, LIMIT).unwrap(), Reach::Answered);
        assert_eq!(web.netns().try_tcp(server, LIMIT).unwrap(), Reach::Refused);
        assert_eq!(web.netns().try_udp(server, LIMIT).unwrap(), Reach::Refused);

        let tcp = TcpEcho::start(db.netns(), server).unwrap();
        let udp = UdpEcho::start(db.netns(), server).unwrap();
        assert_eq!(web.netns().try_tcp(server, LIMIT).unwrap(), Reach::Answered);
        assert_eq!(lab.host().try_tcp(server, LIMIT).unwrap(), Reach::Answered);
        assert_eq!(web.netns().try_udp(server, LIMIT).unwrap(), Reach::Answered);
        assert_eq!((tcp.connections(), udp.received()), (2, 1));
    }
}

#[test]
fn a_dropped_packet_is_silence() {
    let lab = Lab::new().unwrap();
    let (web, db) = two_workloads(&lab).unwrap();
    for address in [db.ipv4().unwrap(), db.ipv6().unwrap()] {
        db.netns().ip(&["link", "set", "eth0", "down"]).unwrap();
        let server = SocketAddr::new(address, 5432);
        assert_eq!(web.netns().try_ping(address, SHORT).unwrap(), Reach::Silent);
        assert_eq!(web.netns().try_tcp(server, SHORT).unwrap(), Reach::Silent);
        assert_eq!(web.netns().try_udp(server, SHORT).unwrap(), Reach::Silent);
    }
}

#[test]
fn a_second_interface_comes_and_goes() {
    let lab = Lab::new().unwrap();
    let (mut web, _db) = two_workloads(&lab).unwrap();
    let other = lab.bridge("br-other", &["10.78.0.1/24"]).unwrap();
    web.join(&other, &["10.78.0.2/24"]).unwrap();
    assert_eq!(web.interfaces()[1].host_name(), "veth-web-1");
    let gateway = "10.78.0.1".parse().unwrap();
    assert_eq!(web.netns().try_ping(gateway, LIMIT).unwrap(), Reach::Answered);
    web.leave(1).unwrap();
    assert!(!lab.host().ip(&["link", "show"]).unwrap().contains("veth-web-1"));
}

#[test]
fn a_lab_takes_everything_with_it_even_when_a_test_panics() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let panicked = thread::spawn(move || {
        let lab = Lab::new().unwrap();
        let (web, _db) = two_workloads(&lab).unwrap();
        let child = web.netns().spawn(std::process::Command::new("sleep").arg("600")).unwrap();
        sender.send((lab.name().to_owned(), lab.folder().to_owned(), child)).unwrap();
        panic!("as a failing test does");
    });
    let (name, folder, mut child) = receiver.recv().unwrap();
    assert!(panicked.join().is_err());
    assert!(child.try_wait().unwrap().is_some(), "the process in the workload lives on");
    assert!(!folder.exists());
    let names = fs::read_dir("/run/netns").unwrap().flatten();
    for entry in names {
        assert!(!entry.file_name().to_string_lossy().starts_with(&name), "{entry:?}");
    }
}

#[test]
fn what_a_killed_run_has_left_is_swept() {
    // A lab of this pid in an earlier life.
    let name = format!("palisade-lab-{}-1-0", std::process::id());
    let folder = std::env::temp_dir().join(&name);
    fs::create_dir_all(folder.join("docker")).unwrap();
    let ip = |words: &[&str]| {
        assert!(std::process::Command::new("ip").args(words).status().unwrap().success());
    };
    ip(&["netns", "add", &name]);
    ip(&["netns", "add", &format!("{name}.web")]);
    Lab::sweep().unwrap();
    assert!(!folder.exists());
    assert!(!Path::new("/run/netns").join(&name).exists());
    assert!(!Path::new("/run/netns").join(format!("{name}.web")).exists());
}

#[test]
fn an_engine_runs_containers_and_leaves_none() {
    let lab = Lab::new().unwrap();
    let mut engine = EngineOptions::default().flags(&["--live-restore"]).start(&lab).unwrap();
    let id = engine.run("web", &["--label", "app=web"], &["sleep", "600"]).unwrap();
    assert_eq!(id.len(), 64);
    let output = engine.exec("web", &["sh", "-c", "echo from the inside; exit 3"]).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from the inside\n");
    assert_eq!(output.status.code(), Some(3));

    // An agent beside the engine must see the namespace where the engine says it is.
    let key = engine.docker(&["inspect", "--format", "{{.NetworkSettings.SandboxKey}}", "web"]);
    let key = key.unwrap();
    assert!(Path::new(&key).starts_with(lab.folder()), "{key}");
    fs::File::open(&key).unwrap();

    // The container's address is on the lab's host, not on the machine's.
    let address = engine
        .docker(&["inspect", "--format", "{{.NetworkSettings.IPAddress}}", "web"])
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(lab.host().try_ping(address, LIMIT).unwrap(), Reach::Answered);

    // The engine goes and comes back; the container runs on.
    let pid = engine.pid("web").unwrap();
    engine.stop().unwrap();
    assert_eq!(lab.host().try_ping(address, LIMIT).unwrap(), Reach::Answered);
    engine.start().unwrap();
    assert_eq!(engine.pid("web").unwrap(), pid);
    engine.kill().unwrap();
    assert_eq!(lab.host().try_ping(address, LIMIT).unwrap(), Reach::Answered);

    // Dropped while the container runs and no engine does: the lab has to find it.
    let folder = lab.folder().to_owned();
    drop(engine);
    drop(lab);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the container lives on");
    assert!(!folder.exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(folder.to_str().unwrap()), "{mounts}");
}
