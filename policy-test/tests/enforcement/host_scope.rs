//! Which interfaces a host endpoint is about, and what goes before and beside its policies: `*`, block
//! lists, failsafe ports, staged policies.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use policy_api::messages::{Explanation, Verdict};
use policy_test::{
    agent::Agent,
    net::{Reach, TcpEcho, UdpEcho, recv},
    netns::NetNs,
};

use crate::{
    host_stage::{
        Scene,
        Who::{Host, Outside, Web},
        address, policy, staged,
    },
    stage::{Drops, LIMIT, SHORT},
};

const EVERYTHING: &str = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: all, labels: {role: rest}}
spec: {node: lab, interfaceName: '*'}
";
const OPEN: &str = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: up, labels: {role: gateway}}
spec: {node: lab, interfaceName: br-out, profiles: [projectcalico-default-allow]}
";

#[test]
fn a_star_is_every_interface_that_leads_out_and_that_no_other_is_about() {
    let scene = Scene::new();
    let second = scene.lab.bridge("br-two", &["10.98.0.1/24"]).unwrap();
    let two = scene.lab.workload("two", &second, &["10.98.0.2/24"]).unwrap();
    let _server = TcpEcho::start(scene.lab.host(), address("10.98.0.1:7000")).unwrap();
    let _inside = TcpEcho::start(scene.lab.host(), address("10.77.0.1:7000")).unwrap();
    let reach = |from: &NetNs, to: &str, expected: Reach, when: &str| {
        let limit = if expected == Reach::Answered { LIMIT } else { SHORT };
        let found = from.try_tcp(address(to), limit).unwrap();
        assert_eq!(found, expected, "{when}: {to}");
    };
    let (outside, two, host) = (scene.outside.netns(), two.netns(), scene.lab.host());
    let (open, closed) = (Reach::Answered, Reach::Silent);

    scene.apply(EVERYTHING);
    // Neither the managed bridge, nor the loopback, nor a veth.
    scene.wait_for(&[("all", "br-out"), ("all", "br-two")]);
    reach(outside, "10.99.0.1:7000", closed, "all");
    reach(two, "10.98.0.1:7000", closed, "all");
    reach(scene.web.netns(), "10.77.0.1:7000", open, "all");
    reach(host, "10.99.0.1:7000", open, "all, on the loopback");
    reach(two, "10.77.0.2:80", open, "all, forwarded");

    // One that names its interface has it, whatever the names sort like.
    scene.apply(OPEN);
    scene.wait_for(&[("all", "br-two"), ("up", "br-out")]);
    reach(outside, "10.99.0.1:7000", open, "one apart");
    reach(two, "10.98.0.1:7000", closed, "one apart");
    // Policies select by the labels of the one that an interface belongs to.
    let allow = "spec: {selector: role == 'rest', ingress: [{action: Allow, protocol: TCP}]}";
    scene.apply(&format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n\
         metadata: {{name: rest}}\n{allow}\n"
    ));
    reach(two, "10.98.0.1:7000", open, "allowed");
    scene.delete(&["gnp", "rest"]);

    scene.delete(&["hep", "up"]);
    scene.wait_for(&[("all", "br-out"), ("all", "br-two")]);
    reach(outside, "10.99.0.1:7000", closed, "all again");

    // An interface that comes later.
    let third = scene.lab.bridge("br-late", &["10.97.0.1/24"]).unwrap();
    let late = scene.lab.workload("late", &third, &["10.97.0.2/24"]).unwrap();
    scene.wait_for(&[("all", "br-late"), ("all", "br-out"), ("all", "br-two")]);
    let _late = TcpEcho::start(host, address("10.97.0.1:7000")).unwrap();
    reach(late.netns(), "10.97.0.1:7000", closed, "a late one");
}

/// How many flows a staged policy would have decided, by what became of them: allowed, denied.
fn flows(agent: &Agent, policy: &str) -> [u64; 2] {
    let text = agent.metrics().unwrap();
    let count = |enforced: &str| {
        let lines = text.lines().filter(|line| {
            line.starts_with("palisade_staged_flows_total{")
                && line.contains(&format!("policy=\"{policy}\""))
                && line.contains(&format!("enforced=\"{enforced}\""))
        });
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    };
    ["allow", "deny"].map(count)
}

fn explain(agent: &Agent, from: &str, to: &str, service: &str) -> Explanation {
    let output = agent.policyctl(&["explain", from, to, service, "-o", "json"]).unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn staged_policies_of_a_host_endpoint_are_counted_and_not_enforced() {
    let scene = Scene::new();
    scene.guard();
    // Local packets: it would open a port that stays closed.
    let open = "ingress: [{action: Allow, protocol: TCP, destination: {ports: [7000]}}]";
    scene.apply(&staged("open", open));
    let local = [(Outside, "tcp 10.99.0.1:7000", false), (Outside, "tcp 10.99.0.1:22", true)];
    scene.check("staged", &local);
    assert_eq!(flows(&scene.agent, "open"), [0, 1], "what is denied, by one SYN");
    let told = explain(&scene.agent, "10.99.0.2", "10.99.0.1", "7000/tcp");
    let end = &told.paths[0].ends[0];
    assert_eq!(end.verdict, Verdict::Deny, "{told:#?}");
    let would = end.staged.as_ref().unwrap_or_else(|| panic!("{told:#?}"));
    assert_eq!((would.verdict, would.rule.policy.as_str()), (Verdict::Allow, "open"));
    let told = explain(&scene.agent, "10.99.0.2", "10.99.0.1", "22/tcp");
    assert_eq!(told.paths[0].ends[0].staged, None, "a failsafe port: {told:#?}");

    // Forwarded packets: it would close what stays open, by the port behind the translation.
    let close = "applyOnForward: true, types: [Ingress], ingress: [{action: Deny, protocol: TCP, \
                 destination: {ports: [80]}}]";
    scene.apply(&staged("close", close));
    scene.check("staged", &[(Outside, "tcp 10.99.0.1:8080", true), local[0]]);
    assert_eq!(flows(&scene.agent, "close"), [1, 0], "what passes");
    assert_eq!(flows(&scene.agent, "open"), [0, 2]);

    // What takes one away.
    scene.apply(&policy("close", close));
    scene.check("in force", &[(Outside, "tcp 10.99.0.1:8080", false)]);
    scene.apply(
        &staged("close", "stagedAction: Delete").replace("selector: role == 'gateway', ", ""),
    );
    scene.check("in force", &[(Outside, "tcp 10.99.0.1:8080", false)]);
    let told = explain(&scene.agent, "10.99.0.2", "10.99.0.1", "8080/tcp");
    let would = told.paths[0].ends[0].staged.as_ref().unwrap_or_else(|| panic!("{told:#?}"));
    assert_eq!((would.verdict, would.rule.rule.as_str()), (Verdict::Allow, "forward-default"));
}

#[test]
fn block_lists_leave_failsafe_ports_of_a_host_endpoint_alone() {
    let scene = Scene::new();
    scene.guard();
    scene.apply(&policy("own", "ingress: [{action: Allow}], egress: [{action: Allow}]"));
    let untracked = "doNotTrack: true, applyOnForward: true, types: [Ingress], \
                     ingress: [{action: Deny, source: {nets: [10.99.0.0/24, 'fd99::/64']}}]";
    let open = [
        (Outside, "tcp 10.99.0.1:7000", true),
        (Outside, "tcp [fd99::1]:7000", true),
        (Outside, "tcp 10.99.0.1:8080", true),
        (Host, "tcp 10.99.0.2:9000", true),
    ];
    let ever = [
        // In, and the answers of what the host asks.
        (Outside, "tcp 10.99.0.1:22", true),
        (Host, "udp 10.99.0.2:53", true),
    ];
    scene.check("without a block list", &open);
    scene.check("without a block list", &ever);
    scene.apply(&policy("block", untracked));
    policy_test::wait::until("the program on the uplink", LIMIT, || {
        let shown = scene.lab.host().ip(&["-d", "link", "show", "br-out"]);
        shown.is_ok_and(|it| it.contains("xdp"))
    })
    .unwrap();
    scene.check_for("untracked", "with it", &open.map(|(from, to, _)| (from, to, false)));
    scene.check_for("untracked", "with it", &ever);
    // A container's question is none of the host's.
    scene.check_for("untracked", "with it", &[(Web, "tcp 10.99.0.2:9000", false)]);

    let of = |service| explain(&scene.agent, "10.99.0.2", "10.99.0.1", service);
    let (safe, blocked) = (of("22/tcp"), of("7000/tcp"));
    assert_eq!(safe.verdict, Verdict::Allow, "{safe:#?}");
    assert_eq!(blocked.paths[0].ends[0].rule.policy, "block", "{blocked:#?}");

    scene.delete(&["gnp", "block"]);
    scene.check("without it again", &open);
}

/// The address that an interface of a namespace has on its link, for a socket there.
fn link_local(netns: &NetNs, interface: &str, port: u16) -> SocketAddr {
    let shown =
        netns.ip(&["-6", "-o", "address", "show", "dev", interface, "scope", "link"]).unwrap();
    let mut words = shown.split_whitespace();
    words.find(|word| *word == "inet6").unwrap();
    let text = words.next().unwrap().split_once('/').unwrap().0;
    let index = netns.run(|| nix::net::if_::if_nametoindex(interface)).unwrap().unwrap();
    SocketAddrV6::new(text.parse::<Ipv6Addr>().unwrap(), port, 0, index).into()
}

#[test]
fn a_host_endpoint_without_policies_gets_its_lease_by_dhcpv6() {
    let scene = Scene::new();
    scene.guard();
    let (host, outside) = (scene.lab.host(), scene.outside.netns());
    let client = host.udp_bind(link_local(host, "br-out", 546)).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let server = outside.udp_bind("[::]:547".parse().unwrap()).unwrap();
    server.set_read_timeout(Some(LIMIT)).unwrap();
    let eth0 = outside.run(|| nix::net::if_::if_nametoindex("eth0")).unwrap().unwrap();
    let servers: Ipv6Addr = "ff02::1:2".parse().unwrap();
    server.join_multicast_v6(&servers, eth0).unwrap();

    let out = match link_local(host, "br-out", 0) {
        SocketAddr::V6(own) => own.scope_id(),
        SocketAddr::V4(_) => unreachable!("an IPv6 address"),
    };
    client.send_to(b"solicit", SocketAddrV6::new(servers, 547, 0, out)).unwrap();
    let mut buffer = [0; 16];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"solicit");
    // The server answers from an address of its own, so no connection knows it.
    server.send_to(b"advertise", from).unwrap();
    let length = recv(&client, &mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"advertise");

    // From behind a router nobody gets that far, and other ports stay closed on the link, too.
    let before = Drops::read(&scene.agent);
    let global = outside.udp_bind("[fd99::2]:0".parse().unwrap()).unwrap();
    global.send_to(b"advertise", from_host(546)).unwrap();
    let other = UdpEcho::start(host, link_local(host, "br-out", 5546)).unwrap();
    let to = match link_local(host, "br-out", 5546) {
        SocketAddr::V6(to) => SocketAddrV6::new(*to.ip(), 5546, 0, eth0),
        SocketAddr::V4(_) => unreachable!("an IPv6 address"),
    };
    server.send_to(b"knock", to).unwrap();
    policy_test::wait::until("both to be dropped", LIMIT, || {
        Drops::read(&scene.agent).since(&before).for_reason("policy") == 2
    })
    .unwrap();
    assert_eq!(other.received(), 0);
}

fn from_host(port: u16) -> SocketAddr {
    SocketAddr::new("fd99::1".parse().unwrap(), port)
}
