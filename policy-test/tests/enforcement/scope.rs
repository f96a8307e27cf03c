//! What is no longer managed is given back: its interface loses the programs, and only its own.

use std::{net::SocketAddr, process::Command};

use policy_test::{
    agent::{Agent, AgentOptions},
    engine::EngineOptions,
    lab::Lab,
    net::{Reach, TcpEcho},
    wait,
};

use crate::stage::{LIMIT, SHORT, bridge, cast, fence};

const CLOSED: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: closed}
spec: {selector: all(), types: [Ingress]}
";

/// Names of our programs on both sides of an interface.
fn programs(lab: &Lab, interface: &str) -> Vec<String> {
    let mut found = Vec::new();
    for side in ["ingress", "egress"] {
        let mut command = Command::new("tc");
        command.args(["filter", "show", "dev", interface, side]);
        let output = lab.host().output(&mut command).unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        let ours = |word: &&str| word.ends_with("_endpoint") || word.ends_with("_bridge");
        // A line names its program twice.
        let named = text.lines().filter_map(|line| line.split_whitespace().find(ours));
        found.extend(named.map(str::to_owned));
    }
    found
}

fn wait_programs(lab: &Lab, interface: &str, expected: &[&str]) {
    let mut last = Vec::new();
    wait::until("the programs of an interface", LIMIT, || {
        last = programs(lab, interface);
        last == expected
    })
    .unwrap_or_else(|error| panic!("{interface}: {last:?}, not {expected:?}: {error}"));
}

const ENDPOINT: [&str; 2] = ["from_endpoint", "to_endpoint"];
const BRIDGE: [&str; 2] = ["from_bridge", "to_bridge"];

fn delete_db(agent: &Agent) {
    let output = agent.policyctl(&["delete", "workloadendpoint", "db", "-n", "shop"]).unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_deleted_endpoint_leaves_its_interface_open_and_no_other() {
    let lab = Lab::new().unwrap();
    let workloads = cast(&lab, &bridge(&lab));
    let mut agent = AgentOptions::default().start(&lab).unwrap();
    fence(&agent, &workloads);
    agent.apply(CLOSED).unwrap();
    let [web, db] = ["web", "db"].map(|name| &workloads[name]);
    let reach = |limit| {
        for address in [db.ipv4(), db.ipv6()] {
            let to = SocketAddr::new(address.unwrap(), 80);
            let _server = TcpEcho::start(db.netns(), to).unwrap();
            let expected = if limit == SHORT { Reach::Silent } else { Reach::Answered };
            assert_eq!(web.netns().try_tcp(to, limit).unwrap(), expected, "{to}");
        }
    };
    reach(SHORT);
    for workload in [web, db] {
        wait_programs(&lab, workload.host_interface(), &ENDPOINT);
    }

    delete_db(&agent);
    wait_programs(&lab, db.host_interface(), &[]);
    reach(LIMIT);
    let still_closed = || {
        assert_eq!(programs(&lab, web.host_interface()), ENDPOINT);
        let to = SocketAddr::new(web.ipv4().unwrap(), 80);
        let _server = TcpEcho::start(web.netns(), to).unwrap();
        assert_eq!(db.netns().try_tcp(to, SHORT).unwrap(), Reach::Silent);
    };
    still_closed();

    // The next agent does not bring them back.
    assert!(agent.terminate().unwrap().success());
    agent.start().unwrap();
    agent.wait_endpoints("the other three", |endpoints| endpoints.len() == 3).unwrap();
    assert_eq!(programs(&lab, db.host_interface()), [""; 0]);
    still_closed();

    fence(&agent, &workloads);
    wait_programs(&lab, db.host_interface(), &ENDPOINT);
    reach(SHORT);
}

#[test]
fn a_deleted_endpoint_on_a_managed_bridge_is_closed() {
    let lab = Lab::new().unwrap();
    let workloads = cast(&lab, &bridge(&lab));
    let agent = AgentOptions::default().flags(&["--bridge", "br-lab"]).start(&lab).unwrap();
    fence(&agent, &workloads);
    let [web, db] = ["web", "db"].map(|name| &workloads[name]);
    for address in [db.ipv4(), db.ipv6()] {
        let to = SocketAddr::new(address.unwrap(), 80);
        let _server = TcpEcho::start(db.netns(), to).unwrap();
        assert_eq!(web.netns().try_tcp(to, LIMIT).unwrap(), Reach::Answered);
    }
    delete_db(&agent);
    for address in [db.ipv4(), db.ipv6()] {
        let to = SocketAddr::new(address.unwrap(), 80);
        let _server = TcpEcho::start(db.netns(), to).unwrap();
        assert_eq!(web.netns().try_tcp(to, SHORT).unwrap(), Reach::Silent);
    }
    assert_eq!(programs(&lab, db.host_interface()), ENDPOINT);
}

#[test]
fn only_bridges_leaves_all_others_alone() {
    let lab = Lab::new().unwrap();
    let mut engine = EngineOptions::default().start(&lab).unwrap();
    let network = |name: &str, subnet: &str| {
        let device = format!("com.docker.network.bridge.name=br-{name}");
        engine.docker(&["network", "create", "--subnet", subnet, "-o", &device, name]).unwrap();
        engine.run(name, &["--network", name], &["sleep", "600"]).unwrap();
        let iflink = engine.docker(&["exec", name, "cat", "/sys/class/net/eth0/iflink"]).unwrap();
        let links = lab.host().ip(&["-oneline", "link", "show"]).unwrap();
        let index = format!("{}: ", iflink.trim());
        let line = links.lines().find(|line| line.starts_with(&index)).unwrap();
        let veth = line.split(": ").nth(1).unwrap().split('@').next().unwrap();
        (format!("br-{name}"), veth.to_owned())
    };
    let (ours, our_veth) = network("ours", "10.81.0.0/24");
    let (theirs, their_veth) = network("theirs", "10.82.0.0/24");
    let host = engine.host();
    let options = || AgentOptions::default().docker_host(&host);

    let mut all = options().start(&lab).unwrap();
    for (bridge, veth) in [(&ours, &our_veth), (&theirs, &their_veth)] {
        wait_programs(&lab, veth, &ENDPOINT);
        wait_programs(&lab, bridge, &BRIDGE);
    }
    assert!(all.terminate().unwrap().success());

    // The same pins and state, another scope: what is out of it is released.
    let mut one = options().flags(&["--bridge", &ours, "--only-bridges"]).start(&lab).unwrap();
    for interface in [&theirs, &their_veth, &"docker0".to_owned()] {
        wait_programs(&lab, interface, &[]);
    }
    assert_eq!(programs(&lab, &our_veth), ENDPOINT);
    wait_programs(&lab, &ours, &BRIDGE);
    // A newcomer beside them is nobody's business either.
    engine.run("late", &["--network", "theirs"], &["sleep", "600"]).unwrap();
    one.wait_endpoints("ours alone", |endpoints| matches!(endpoints, [one] if one.name == "ours"))
        .unwrap();
    one.apply(CLOSED).unwrap();
    let ping = |address: &str, limit| lab.host().try_ping(address.parse().unwrap(), limit).unwrap();
    assert_eq!(ping("10.81.0.2", SHORT), Reach::Silent);
    for address in ["10.82.0.2", "10.82.0.3"] {
        assert_eq!(ping(address, LIMIT), Reach::Answered);
    }
    assert!(one.terminate().unwrap().success());
    engine.stop().unwrap();
}
