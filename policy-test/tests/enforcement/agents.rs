//! Several agents on one host, and none any more.

use std::net::{Ipv4Addr, SocketAddr};

use policy_api::messages::EndpointState;
use policy_test::{
    agent::AgentOptions,
    net::{Reach, TcpEcho},
};

use crate::stage::{LIMIT, Over, SHORT, Stage, endpoint};

const CLOSED: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: closed}
spec: {selector: has(fenced), types: [Ingress]}
";

#[test]
fn two_agents_do_not_know_of_each_other() {
    let stage = Stage::new(&[]);
    let bridge = stage.lab.bridge("br-two", &["10.78.0.1/24"]).unwrap();
    let other = stage.lab.workload("other", &bridge, &["10.78.0.2/24"]).unwrap();
    let second = AgentOptions::default()
        .name("second")
        .metrics(SocketAddr::from((Ipv4Addr::LOCALHOST, 9466)))
        .flags(&["--bridge", "br-two"])
        .start(&stage.lab)
        .unwrap();
    second.apply(&endpoint(&other, "default", "")).unwrap();
    second
        .wait_endpoints(
            "the endpoint to be enforced",
            |endpoints| matches!(endpoints, [one] if one.state == EndpointState::Enforcing),
        )
        .unwrap();
    let to = SocketAddr::new(other.ipv4().unwrap(), 80);
    let server = TcpEcho::start(other.netns(), to).unwrap();
    let host = stage.lab.host();
    assert_eq!(host.try_tcp(to, LIMIT).unwrap(), Reach::Answered);

    second.apply(CLOSED).unwrap();
    assert_eq!(host.try_tcp(to, SHORT).unwrap(), Reach::Silent);
    stage.check(Over::Both, "web db 80/tcp allow\nhost db 80/tcp allow");
    stage.apply(CLOSED);
    stage.check(Over::Both, "web db 80/tcp deny ingress - tier-default");
    assert_eq!(stage.agent.endpoints().unwrap().len(), 4);

    // One goes, and what it did with it; the other stays.
    let mut second = second;
    assert!(second.terminate().unwrap().success());
    second.unload().unwrap();
    assert_eq!(host.try_tcp(to, LIMIT).unwrap(), Reach::Answered);
    assert_eq!(server.connections(), 2);
    stage.check(Over::Both, "web db 80/tcp deny ingress - tier-default");
}

#[test]
fn unload_takes_everything_off() {
    let mut stage = Stage::new(&[]);
    stage.apply(CLOSED);
    stage.check(Over::Both, "web db 80/tcp deny ingress - tier-default");
    assert!(stage.agent.terminate().unwrap().success());
    let said = stage.agent.unload().unwrap();
    assert!(said.contains("nothing is enforced on this host now"), "{said}");
    for over in [Over::V4, Over::V6] {
        let to = SocketAddr::new(stage.address("db", over), 80);
        let _server = TcpEcho::start(stage.netns("db"), to).unwrap();
        assert_eq!(stage.netns("web").try_tcp(to, LIMIT).unwrap(), Reach::Answered);
    }
    assert!(!stage.agent.bpffs_dir().exists(), "pins are left");
    let links = stage.lab.host().ip(&["-d", "link", "show"]).unwrap();
    assert!(!links.contains("clsact") && !links.contains("xdp"), "{links}");

    // What was applied is still written down: the next agent takes it up.
    stage.agent.start().unwrap();
    stage
        .agent
        .wait_endpoints("the endpoints to be enforced again", |endpoints| {
            endpoints.len() == 4 && endpoints.iter().all(|it| it.state == EndpointState::Enforcing)
        })
        .unwrap();
    stage.check(Over::Both, "web db 80/tcp deny ingress - tier-default");
}
