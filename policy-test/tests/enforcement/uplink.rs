//! Block lists at the uplink.

use std::net::SocketAddr;

use policy_test::{
    agent::{Agent, AgentOptions},
    lab::{Lab, Workload},
    net::{UdpEcho, recv},
    wait,
};

use crate::stage::{Drops, LIMIT};

const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: block-list}
spec:
  selector: palisade.io/interface == 'veth-out'
  doNotTrack: true
  applyOnForward: true
  types: [Ingress]
  ingress: [{action: Deny, source: {selector: role == 'blocked'}}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: blocked, labels: {role: blocked}}
spec: {nets: [10.99.0.64/26, 'fd99::bad:0/112']}
";

/// Sends from a blocked address, then from one that is not; gives how many of each were dropped
/// at the uplink. The answer to the second shows that the first is decided.
fn probe(agent: &Agent, outside: &Workload, servers: &[(UdpEcho, &str, &str)]) -> Vec<(bool, u64)> {
    let mut outcomes = Vec::new();
    for (server, blocked, other) in servers {
        let to = server.address().unwrap();
        for from in [blocked, other] {
            let (before, seen) = (Drops::read(agent), server.received());
            let socket =
                outside.netns().udp_bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
            socket.send_to(b"knock", to).unwrap();
            let marker =
                outside.netns().udp_bind(SocketAddr::new(other.parse().unwrap(), 0)).unwrap();
            marker.set_read_timeout(Some(LIMIT)).unwrap();
            marker.send_to(b"marker", to).unwrap();
            recv(&marker, &mut [0; 8]).unwrap();
            let moved = Drops::read(agent).since(&before);
            let dropped = moved.for_reason("untracked");
            outcomes.push((server.received() == seen + 2, dropped));
            // Named by the set that the source is of.
            let named = moved.between("blocked", "veth-out");
            assert_eq!(named.iter().map(|(_, count)| count).sum::<u64>(), dropped);
            for (series, _) in named {
                assert_eq!(series.get("policy"), "block-list", "{series:?}");
                assert_eq!(series.get("rule"), "ingress[0]", "{series:?}");
                assert_eq!(series.get("direction"), "ingress", "{series:?}");
            }
        }
    }
    outcomes
}

#[test]
fn a_blocked_source_never_reaches_the_stack() {
    let lab = Lab::new().unwrap();
    let bridge = lab.bridge("br-out", &["10.99.0.1/24", "fd99::1/64"]).unwrap();
    let addresses = ["10.99.0.2/24", "fd99::2/64", "10.99.0.66/24", "fd99::bad:1/64"];
    let outside = lab.workload("out", &bridge, &addresses).unwrap();
    let agent = AgentOptions::default().flags(&["--uplink", "veth-out"]).start(&lab).unwrap();
    let serve = |address: &str| {
        UdpEcho::start(lab.host(), SocketAddr::new(address.parse().unwrap(), 7000)).unwrap()
    };
    let servers = [
        (serve("10.99.0.1"), "10.99.0.66", "10.99.0.2"),
        (serve("fd99::1"), "fd99::bad:1", "fd99::2"),
    ];
    let open = vec![(true, 0); 4];
    assert_eq!(probe(&agent, &outside, &servers), open);

    agent.apply(POLICY).unwrap();
    wait::until("the program on the uplink", LIMIT, || {
        lab.host().ip(&["-d", "link", "show", "veth-out"]).is_ok_and(|it| it.contains("xdp"))
    })
    .unwrap();
    assert_eq!(
        probe(&agent, &outside, &servers),
        [(false, 1), (true, 0), (false, 1), (true, 0)],
        "dropped, counted, unblocked, for each family"
    );
    // The set's last network goes, then the policy.
    agent.apply(&POLICY.replace("10.99.0.64/26, ", "")).unwrap();
    assert_eq!(
        probe(&agent, &outside, &servers),
        [(true, 0), (true, 0), (false, 1), (true, 0)],
        "only IPv6 is left in the set"
    );
    let output = agent.policyctl(&["delete", "gnp", "block-list"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(probe(&agent, &outside, &servers), open);
}
