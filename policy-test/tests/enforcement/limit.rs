//! Limits of new flows at the uplink, with real sockets on both sides of it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    time::Instant,
};

use policy_test::{
    agent::{Agent, AgentOptions},
    lab::{Lab, Workload},
    net::{Reach, TcpEcho, UdpEcho, recv},
    wait,
};

use crate::stage::{Drops, LIMIT, SHORT};

const RATE: u64 = 1;
const BURST: usize = 5;
const POLICY: &str = r#"
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: flood
  annotations: { palisade.io/new-flows-per-second: "1", palisade.io/new-flows-burst: "5" }
spec: { selector: palisade.io/interface == 'veth-out', doNotTrack: true, applyOnForward: true }
"#;

/// A host with an uplink, somebody beyond it, and an agent.
struct Edge {
    lab: Lab,
    outside: Workload,
    agent: Agent,
}

impl Edge {
    fn new() -> Edge {
        let lab = Lab::new().unwrap();
        let bridge = lab.bridge("br-out", &["10.99.0.1/24", "fd99::1/64"]).unwrap();
        let addresses = ["10.99.0.2/24", "fd99::2/64", "10.99.0.3/24", "fd98::3/64"];
        let outside = lab.workload("out", &bridge, &addresses).unwrap();
        lab.host().ip(&["addr", "add", "fd98::1/64", "dev", "br-out"]).unwrap();
        let agent = AgentOptions::default().flags(&["--uplink", "veth-out"]).start(&lab).unwrap();
        Edge { lab, outside, agent }
    }

    /// Whether the program that notes what leaves is on the uplink.
    fn notes(&self) -> bool {
        let links = format!("v{}/links", policy_common::abi::ABI_VERSION);
        let names = fs::read_dir(self.agent.bpffs_dir().join(links)).into_iter().flatten();
        names.flatten().any(|it| it.file_name().to_string_lossy().contains("uplink_egress"))
    }

    fn dropped(&self) -> u64 {
        Drops::read(&self.agent).for_reason("rate-limited")
    }

    /// How many new flows of so many get an answer, one after the other, and how long they took.
    fn answered(&self, count: usize, from: &str, to: SocketAddr) -> (usize, u64) {
        let begin = Instant::now();
        let ask = || {
            let source = SocketAddr::new(from.parse().unwrap(), 0);
            let socket = self.outside.netns().udp_bind(source).unwrap();
            socket.set_read_timeout(Some(SHORT)).unwrap();
            socket.send_to(b"knock", to).unwrap();
            recv(&socket, &mut [0; 8]).is_ok()
        };
        let answered = (0..count).filter(|_| ask()).count();
        (answered, begin.elapsed().as_secs())
    }
}

#[test]
fn a_source_gets_its_burst_its_pace_and_its_open_connections() {
    let edge = Edge::new();
    let (host, out) = (edge.lab.host(), edge.outside.netns());
    edge.agent.apply(POLICY).unwrap();
    wait::until("the programs on the uplink", LIMIT, || edge.notes()).unwrap();
    for (own, beyond, other) in
        [("10.99.0.1", "10.99.0.2", "10.99.0.3"), ("fd99::1", "fd99::2", "fd98::3")]
    {
        let at = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
        let tcp = TcpEcho::start(host, at(own, 7001)).unwrap();
        let udp = UdpEcho::start(host, at(own, 7000)).unwrap();
        let asked = UdpEcho::start(out, at(beyond, 7000)).unwrap();
        let before = edge.dropped();

        // A connection and a conversation, which are two flows, and as many more as there may be.
        let mut stream = out.tcp_connect(tcp.address().unwrap(), LIMIT).unwrap();
        let talk = out.udp_bind(at(beyond, 7007)).unwrap();
        talk.set_read_timeout(Some(LIMIT)).unwrap();
        let mut says = |what: &[u8; 5]| {
            let mut heard = [0; 5];
            stream.write_all(what).unwrap();
            stream.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, what);
            talk.send_to(what, udp.address().unwrap()).unwrap();
            assert_eq!(recv(&talk, &mut heard).unwrap(), 5);
        };
        says(b"first");
        let (answered, seconds) = edge.answered(20, beyond, udp.address().unwrap());
        let may = BURST - 2;
        let earned = usize::try_from((seconds + 1) * RATE).unwrap();
        assert!((may..=may + earned).contains(&answered), "{answered} in {seconds} s, {own}");
        // A minute's worth of what was dropped is not to be made up for; and each drop is counted.
        let dropped = edge.dropped() - before;
        assert_eq!(dropped, 20 - u64::try_from(answered).unwrap(), "{own}");

        // What is open goes on, however much of it there is.
        for _ in 0..100 {
            says(b"again");
        }
        // Answers are no new flows.
        for _ in 0..20 {
            assert_eq!(host.try_udp(asked.address().unwrap(), LIMIT).unwrap(), Reach::Answered);
        }
        assert_eq!(edge.dropped() - before, dropped, "{own}");
        // Who begins nothing else is not held back by others.
        assert_eq!(edge.answered(1, other, at(own, 7000)).0, 1, "{other}");
    }
}

#[test]
fn a_limit_is_named_shown_and_taken_away() {
    let edge = Edge::new();
    let address = SocketAddr::new("10.99.0.1".parse().unwrap(), 7000);
    let _echo = UdpEcho::start(edge.lab.host(), address).unwrap();
    assert!(!edge.notes(), "without a limit nothing is noted");
    edge.agent.apply(POLICY).unwrap();
    wait::until("the programs on the uplink", LIMIT, || edge.notes()).unwrap();
    let before = Drops::read(&edge.agent);
    let (answered, _) = edge.answered(20, "10.99.0.2", address);
    assert!(answered < 20, "{answered}");
    let moved = Drops::read(&edge.agent).since(&before);
    let named = moved.between("world", "veth-out");
    assert_eq!(named.len(), 1, "{moved:?}");
    let (series, _) = &named[0];
    for (label, value) in [
        ("policy", "flood"),
        ("rule", "new-flows"),
        ("reason", "rate-limited"),
        ("direction", "ingress"),
        ("protocol", "udp"),
    ] {
        assert_eq!(series.get(label), value, "{series:?}");
    }
    let shown = edge.agent.policyctl(&["describe", "gnp", "flood"]).unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let said = "Deny what a source begins beyond 1 flows a second, 5 at once after a rest";
    assert!(shown.contains(said), "{shown}");

    let output = edge.agent.policyctl(&["delete", "gnp", "flood"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    wait::until("the program is off", LIMIT, || !edge.notes()).unwrap();
    assert_eq!(edge.answered(20, "10.99.0.2", address).0, 20);
}
