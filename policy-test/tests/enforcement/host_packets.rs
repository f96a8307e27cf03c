//! ICMP errors at a host endpoint: they pass if what they quote may pass, and else meet policy.

use std::net::UdpSocket;

use policy_test::{
    net::{Reach, recv},
    netns::NetNs,
    wait,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    host_stage::{Scene, address, policy},
    stage::{Drops, LIMIT, SHORT},
};

/// Nobody listens there.
const NOBODY: u16 = 6000;

fn reach(from: &NetNs, to: &str, port: u16, expected: Reach) {
    let limit = if expected == Reach::Silent { SHORT } else { LIMIT };
    let found = from.try_udp(address(&format!("{to}:{port}")), limit).unwrap();
    assert_eq!(found, expected, "{to}");
}

#[test]
fn a_port_unreachable_comes_back_if_what_it_quotes_may_pass() {
    let scene = Scene::new();
    scene.guard();
    let (host, outside) = (scene.lab.host(), scene.outside.netns());
    // Neither direction has a rule about ICMP.
    for way in ["10.99.0.1", "[fd99::1]"] {
        reach(outside, way, NOBODY, Reach::Silent);
    }
    scene.apply(&policy(
        "own",
        "types: [Ingress, Egress], \
         ingress: [{action: Allow, protocol: UDP, destination: {ports: [6000]}}], \
         egress: [{action: Allow, protocol: UDP, destination: {ports: [6000]}}]",
    ));
    let web = scene.web.netns();
    for (from, to, port, expected) in [
        // The host's own error goes out, and another's comes in, in both families.
        (outside, "10.99.0.1", NOBODY, Reach::Refused),
        (outside, "[fd99::1]", NOBODY, Reach::Refused),
        (host, "10.99.0.2", NOBODY, Reach::Refused),
        (host, "[fd99::2]", NOBODY, Reach::Refused),
        (outside, "10.99.0.1", NOBODY + 1, Reach::Silent),
        (host, "10.99.0.2", NOBODY + 1, Reach::Silent),
        // The host passes on both the packet and the error about it, past its translation.
        (outside, "10.77.0.2", NOBODY + 1, Reach::Refused),
        (web, "10.99.0.2", NOBODY + 1, Reach::Refused),
    ] {
        reach(from, to, port, expected);
    }
}

#[test]
fn a_packet_too_big_comes_back_though_policy_lets_the_host_send_nothing() {
    let scene = Scene::new();
    scene.guard();
    scene.apply(&policy("own", "types: [Ingress, Egress], applyOnForward: false"));
    let (host, outside) = (scene.lab.host(), scene.outside.netns());
    // The way to the container is narrower than the way to the host.
    host.ip(&["link", "set", "br-lab", "mtu", "1280"]).unwrap();
    let shown = || outside.ip(&["route", "get", "10.77.0.2"]).unwrap();
    assert!(!shown().contains("mtu 1280"), "{}", shown());
    let socket: UdpSocket = outside.udp_bind("10.99.0.2:0".parse().unwrap()).unwrap();
    wait::until("the sender to hear of the narrow way", LIMIT, || {
        // An error that has come in is told at the next call.
        let _ = socket.send_to(&[0; 1400], address("10.77.0.2:5001"));
        shown().contains("mtu 1280")
    })
    .unwrap();
    // The host's own errors about anything else are its own packets, and closed as such.
    assert_eq!(outside.try_ping("10.99.0.1".parse().unwrap(), SHORT).unwrap(), Reach::Silent);
}

/// RFC 792: a port unreachable about a UDP packet from one to the other.
fn error_about(from: [u8; 4], from_port: u16, to: [u8; 4], to_port: u16) -> Vec<u8> {
    let header = etherparse::Ipv4Header::new(8, 64, etherparse::IpNumber::UDP, from, to).unwrap();
    let mut quoted = header;
    quoted.header_checksum = quoted.calc_header_checksum();
    let udp = [from_port.to_be_bytes(), to_port.to_be_bytes(), [0, 8], [0, 0]].concat();
    let payload = [&quoted.to_bytes()[..], &udp].concat();
    let code = etherparse::icmpv4::DestUnreachableHeader::Port;
    let kind = etherparse::Icmpv4Type::DestinationUnreachable(code);
    let icmp = etherparse::Icmpv4Header::with_checksum(kind, &payload);
    [&icmp.to_bytes()[..], &payload].concat()
}

#[test]
fn an_error_about_nothing_that_passed_is_dropped() {
    let scene = Scene::new();
    scene.guard();
    scene.apply(&policy(
        "own",
        "types: [Ingress, Egress], egress: [{action: Allow, protocol: UDP, destination: \
         {ports: [6001]}}]",
    ));
    let (host, outside) = (scene.lab.host(), scene.outside.netns());
    let raw = outside
        .run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))
        .unwrap()
        .unwrap();
    let to: socket2::SockAddr = address("10.99.0.1:0").into();
    let dropped = |before: &Drops| Drops::read(&scene.agent).since(before).for_reason("policy");

    // The host has sent nothing like this.
    let before = Drops::read(&scene.agent);
    raw.send_to(&error_about([10, 99, 0, 1], 4000, [10, 99, 0, 2], 6001), &to).unwrap();
    wait::until("the error to be dropped", LIMIT, || dropped(&before) == 1).unwrap();

    // It has sent this, and the same error ends its wait.
    let client = host.udp_bind(address("10.99.0.1:4001")).unwrap();
    let server = outside.udp_bind(address("10.99.0.2:6001")).unwrap();
    server.set_read_timeout(Some(LIMIT)).unwrap();
    host.run(|| client.connect(address("10.99.0.2:6001"))).unwrap().unwrap();
    client.send(b"question").unwrap();
    recv(&server, &mut [0; 16]).unwrap();
    let before = Drops::read(&scene.agent);
    raw.send_to(&error_about([10, 99, 0, 1], 4001, [10, 99, 0, 2], 6001), &to).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let told = recv(&client, &mut [0; 16]).unwrap_err();
    assert_eq!(told.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(dropped(&before), 0);
}
