//! A container's root gives its interface a neighbour's Ethernet address.

use std::net::SocketAddr;

use policy_test::{
    net::{Reach, UdpEcho},
    wait,
};

use crate::stage::{LIMIT, Over, SHORT, Stage};

fn hardware(stage: &Stage, name: &str) -> String {
    let link = stage.netns(name).ip(&["-oneline", "link", "show", "eth0"]).unwrap();
    let (_, rest) = link.split_once("link/ether ").unwrap();
    rest.split_whitespace().next().unwrap().to_owned()
}

fn call_it(stage: &Stage, name: &str, address: &str) {
    stage.netns(name).ip(&["link", "set", "eth0", "address", address]).unwrap();
}

/// The bridge sent the neighbour's frames to whoever had spoken last under its address.
#[test]
fn a_neighbours_hardware_address_draws_none_of_its_frames() {
    let stage = Stage::new(&[]);
    let (own, victims) = (hardware(&stage, "bad"), hardware(&stage, "web"));
    for over in [Over::V4, Over::V6] {
        let web = SocketAddr::new(stage.address("web", over), 53);
        let db = SocketAddr::new(stage.address("db", over), 53);
        let _web = UdpEcho::start(stage.netns("web"), web).unwrap();
        let seen = UdpEcho::start(stage.netns("db"), db).unwrap();
        // Everybody knows everybody.
        for from in ["host", "bad"] {
            assert_eq!(stage.netns(from).try_udp(web, LIMIT).unwrap(), Reach::Answered, "{over:?}");
            assert_eq!(stage.netns(from).try_udp(db, LIMIT).unwrap(), Reach::Answered, "{over:?}");
        }
        let (before, served) = (stage.drops(), seen.received());

        call_it(&stage, "bad", &victims);
        for _ in 0..3 {
            assert_eq!(stage.netns("bad").try_udp(db, SHORT).unwrap(), Reach::Silent, "{over:?}");
            // Had the bridge learnt from it, this would have gone to `bad`.
            assert_eq!(
                stage.netns("host").try_udp(web, SHORT).unwrap(),
                Reach::Answered,
                "{over:?}"
            );
        }
        assert_eq!(seen.received(), served, "a frame under a forged address arrived ({over:?})");
        let moved = stage.drops().since(&before);
        assert!(moved.for_reason("spoofed-mac") >= 1, "{over:?}: {moved:#?}");

        call_it(&stage, "bad", &own);
        assert_eq!(stage.netns("bad").try_udp(db, LIMIT).unwrap(), Reach::Answered, "{over:?}");
    }
}

/// Without `spec.mac` the agent looks for itself what is behind the veth. A change is followed when the
/// veth is heard of again, but not to what another endpoint has.
#[test]
fn a_hardware_address_that_was_learnt_is_not_changed_for_a_neighbours() {
    let stage = Stage::new(&[]);
    let (own, victims) = (hardware(&stage, "bad"), hardware(&stage, "web"));
    let db = SocketAddr::new(stage.address("db", Over::V4), 53);
    let _db = UdpEcho::start(stage.netns("db"), db).unwrap();
    let web = SocketAddr::new(stage.address("web", Over::V4), 53);
    let _web = UdpEcho::start(stage.netns("web"), web).unwrap();
    let veth = stage.workloads["bad"].host_interface().to_owned();
    let notice = || {
        for state in ["down", "up"] {
            stage.netns("host").ip(&["link", "set", &veth, state]).unwrap();
        }
    };
    let reached = |to| stage.netns("bad").try_udp(to, SHORT).unwrap() == Reach::Answered;
    assert_eq!(stage.netns("bad").try_udp(db, LIMIT).unwrap(), Reach::Answered);

    call_it(&stage, "bad", "02:00:00:00:77:05");
    notice();
    wait::until("the new address", LIMIT, || reached(db)).unwrap();

    call_it(&stage, "bad", &victims);
    notice();
    // Heard of, if the way back is: the agent takes notices one after the other.
    for _ in 0..3 {
        assert!(!reached(db), "the neighbour's address was taken");
        assert_eq!(stage.netns("host").try_udp(web, LIMIT).unwrap(), Reach::Answered);
    }
    call_it(&stage, "bad", &own);
    notice();
    wait::until("the old address", LIMIT, || reached(db)).unwrap();
}
