//! Packets that are more than one packet, or less than honest.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use etherparse::PacketBuilder;
use policy_test::net::{Reach, UdpEcho, recv};
use socket2::{Domain, Protocol, Socket, Type};

use crate::stage::{LIMIT, Over, SHORT, Stage};

/// Room for every fragment of a datagram of the largest kind.
const LARGE: usize = 20_000;

fn bound(stage: &Stage, name: &str, over: Over) -> UdpSocket {
    let socket = stage.netns(name).udp_bind((stage.address(name, over), 0).into()).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

#[test]
fn a_forged_source_is_dropped_and_counted() {
    let stage = Stage::new(&[]);
    for over in [Over::V4, Over::V6] {
        let (to, victim) = (stage.address("db", over), stage.address("web", over));
        let server = UdpEcho::start(stage.netns("db"), (to, 53).into()).unwrap();
        let before = stage.drops();
        let send = |source: IpAddr| {
            let builder = match (source, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    PacketBuilder::ipv4(from.octets(), to.octets(), 64)
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    PacketBuilder::ipv6(from.octets(), to.octets(), 64)
                }
                mixed => panic!("two families: {mixed:?}"),
            };
            let mut packet = Vec::new();
            builder.udp(9, 53).write(&mut packet, b"forged").unwrap();
            let raw = |domain| Socket::new(domain, Type::RAW, Some(Protocol::from(255)));
            // Protocol 255: the packet is ours from its first byte, in both families.
            let domain = if over == Over::V6 { Domain::IPV6 } else { Domain::IPV4 };
            let socket = stage.netns("bad").run(|| raw(domain)).unwrap().unwrap();
            stage
                .netns("bad")
                .run(|| socket.send_to(&packet, &SocketAddr::new(to, 0).into()))
                .unwrap()
                .unwrap();
        };
        send(victim);
        // The last one, which may pass, comes after all that may not.
        assert_eq!(stage.netns("bad").try_udp((to, 53).into(), LIMIT).unwrap(), Reach::Answered);
        assert_eq!(server.received(), 1, "the forged datagram arrived ({over:?})");
        send(stage.address("bad", over));
        policy_test::wait::until("the honest datagram", LIMIT, || server.received() == 2).unwrap();
        let moved = stage.drops().since(&before);
        assert_eq!(moved.for_reason("spoofed-source"), 1, "{moved:#?}");
    }
}

#[test]
fn large_datagrams_pass_whole_or_not_at_all() {
    let stage = Stage::new(&[]);
    stage.apply(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: db}\n\
         spec: {selector: app == 'db', ingress: [{action: Allow, protocol: UDP, \
         source: {selector: app == 'web'}, destination: {ports: [53]}}]}",
    );
    for over in [Over::V4, Over::V6] {
        let to = stage.address("db", over);
        let server = UdpEcho::start(stage.netns("db"), (to, 53).into()).unwrap();
        let closed = UdpEcho::start(stage.netns("db"), (to, 54).into()).unwrap();
        let datagram: Vec<u8> = (0..LARGE).map(|it| u8::try_from(it % 251).unwrap()).collect();
        let mut answer = vec![0; LARGE + 1];

        let before = stage.drops();
        let web = bound(&stage, "web", over);
        web.send_to(&datagram, (to, 53)).unwrap();
        let length = recv(&web, &mut answer).unwrap();
        assert!(answer[..length] == datagram, "the echo is another ({over:?})");
        let moved = stage.drops().since(&before);
        assert_eq!(moved.between("web", "db"), [], "{over:?}");

        let bad = bound(&stage, "bad", over);
        bad.set_read_timeout(Some(SHORT)).unwrap();
        bad.send_to(&datagram, (to, 53)).unwrap();
        recv(&bad, &mut answer).unwrap_err();
        web.set_read_timeout(Some(SHORT)).unwrap();
        web.send_to(&datagram, (to, 54)).unwrap();
        recv(&web, &mut answer).unwrap_err();
        assert_eq!((server.received(), closed.received()), (1, 0), "{over:?}");
        // Every fragment of both, named.
        let moved = stage.drops().since(&before);
        let sum = |from| moved.between(from, "db").iter().map(|(_, count)| count).sum::<u64>();
        let fragments = u64::try_from(LARGE.div_ceil(1480)).unwrap();
        assert!(sum("bad") + moved.for_reason("fragment") >= fragments, "{moved:#?}");
        assert_eq!(
            moved.for_reason("policy") + moved.for_reason("fragment"),
            2 * fragments,
            "{over:?}: {moved:#?}"
        );
    }
}

#[test]
fn a_router_may_say_that_a_packet_is_too_large() {
    let stage = Stage::new(&[]);
    let far = stage.lab.bridge("br-far", &["10.78.0.1/24", "fd78::1/64"]).unwrap();
    let server = stage.lab.workload("far", &far, &["10.78.0.2/24", "fd78::2/64"]).unwrap();
    for device in ["veth-far", "br-far"] {
        stage.lab.host().ip(&["link", "set", device, "mtu", "1300"]).unwrap();
    }
    server.netns().ip(&["link", "set", "eth0", "mtu", "1300"]).unwrap();
    // Nothing may come in that does not belong to what web has begun.
    stage.apply(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: web}\n\
         spec: {selector: app == 'web', types: [Ingress]}",
    );
    for (over, to) in [(Over::V4, server.ipv4().unwrap()), (Over::V6, server.ipv6().unwrap())] {
        let to = SocketAddr::new(to, 53);
        let echo = UdpEcho::start(server.netns(), to).unwrap();
        assert_eq!(
            stage
                .netns("host")
                .try_udp(SocketAddr::new(stage.address("web", over), 53), SHORT)
                .unwrap(),
            Reach::Silent
        );
        let before = stage.drops();
        let web = bound(&stage, "web", over);
        web.set_read_timeout(Some(SHORT)).unwrap();
        let datagram = [7; 1400];
        web.send_to(&datagram, to).unwrap();
        recv(&web, &mut [0; 1500]).unwrap_err();
        assert_eq!(echo.received(), 0, "the path is as wide as it should not be");
        // The router's answer has come: the second one leaves in pieces that fit.
        web.set_read_timeout(Some(LIMIT)).unwrap();
        web.send_to(&datagram, to).unwrap();
        assert_eq!(recv(&web, &mut [0; 1500]).unwrap(), 1400, "{over:?}");
        let moved = stage.drops().since(&before);
        assert_eq!(moved.for_reason("unrelated-icmp"), 0, "{moved:#?}");
    }
}
