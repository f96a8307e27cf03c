//! Packets of real sockets, captured to a file, read again by somebody else's reader.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pcap_file::pcapng::{
    Block, PcapNgReader, blocks::enhanced_packet::EnhancedPacketOption,
    blocks::interface_description::InterfaceDescriptionOption,
};
use policy_test::{net::UdpEcho, wait};

use crate::stage::{Drops, LIMIT, Over, SHORT, Stage};

/// A capture ends then, whatever it has seen.
const PATIENCE: &str = "10s";
const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - {action: Deny, source: {selector: app == 'api'}}
  - {action: Allow, protocol: UDP, source: {selector: app == 'web'}, destination: {ports: [53]}}
";

/// A packet of a file: interface, bytes on the wire, what is there of them, comment.
#[derive(Debug)]
pub(crate) struct Packet {
    interface: String,
    length: u32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) comment: String,
}

pub(crate) fn packets(file: &Path) -> Vec<Packet> {
    let mut reader = PcapNgReader::new(File::open(file).unwrap()).unwrap();
    let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(block) => {
                let name = block.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.clone().into_owned()),
                    _ => None,
                });
                interfaces.push(name.unwrap());
            }
            Block::EnhancedPacket(block) => {
                let comment = block.options.iter().find_map(|option| match option {
                    EnhancedPacketOption::Comment(comment) => Some(comment.clone().into_owned()),
                    _ => None,
                });
                packets.push(Packet {
                    interface: interfaces[usize::try_from(block.interface_id).unwrap()].clone(),
                    length: block.original_len,
                    bytes: block.data.into_owned(),
                    comment: comment.unwrap(),
                });
            }
            other => panic!("no such block was written: {other:?}"),
        }
    }
    packets
}

/// A capture that is going on, and its file.
pub(crate) struct Capture {
    child: Child,
    said: BufReader<ChildStderr>,
    pub(crate) file: PathBuf,
}

impl Capture {
    /// Starts one, and waits until it is on.
    pub(crate) fn start(stage: &Stage, name: &str, arguments: &[&str]) -> Capture {
        Capture::start_for(PATIENCE, stage, name, arguments)
    }

    /// The same, with a time after which it ends.
    pub(crate) fn start_for(time: &str, stage: &Stage, name: &str, arguments: &[&str]) -> Capture {
        let file = stage.lab.folder().join(name);
        let mut command = stage.agent.policyctl_command().unwrap();
        // A packet that does not come is a failure, and no test without an end.
        command.args(["capture", "-w", file.to_str().unwrap(), "--for", time]).args(arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, format!("capturing to {}; Ctrl-C ends it\n", file.display()));
        Capture { child, said, file }
    }

    /// Waits until it ends by itself. How, and what it says.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

/// One datagram from a workload to a port of `db`; whether there was an answer.
fn send(stage: &Stage, from: &str, port: u16, over: Over) {
    let to = SocketAddr::new(stage.address("db", over), port);
    let _ = stage.netns(from).try_udp(to, SHORT).unwrap();
}

#[test]
fn drops_are_captured_with_the_rule_that_decided() {
    let stage = Stage::new(&[]);
    stage.apply(POLICY);
    let capture = Capture::start(&stage, "drops.pcapng", &["--name", "db", "--count", "4"]);
    for _ in 0..2 {
        send(&stage, "api", 53, Over::V4);
        send(&stage, "bad", 7, Over::V6);
    }
    let file = capture.file.clone();
    assert_eq!(capture.end(), (Some(0), "4 packets\n".to_owned()));
    let packets = packets(&file);
    assert_eq!(packets.len(), 4);
    for packet in &packets {
        assert_eq!(packet.interface, "shop/db");
        assert_eq!(packet.length as usize, packet.bytes.len(), "all of it is there");
        let expected = match packet.bytes[12..14] {
            [0x08, 0x00] => {
                "dropped (policy) on ingress by NetworkPolicy shop/db ingress[0]: shop/api -> shop/db"
            }
            [0x86, 0xdd] => {
                "dropped (policy) on ingress by the end of tier default (no rule matched): other/bad -> shop/db"
            }
            ref other => panic!("{other:x?}"),
        };
        assert_eq!(packet.comment, expected);
    }
    let counted = Drops::read(&stage.agent);
    assert!(counted.for_reason("policy") >= 4, "captured or not, each is counted");
}

#[test]
fn chosen_traffic_is_captured_both_ways_and_cut_to_size() {
    let stage = Stage::new(&[]);
    stage.apply(POLICY);
    let at = SocketAddr::new(stage.address("db", Over::V4), 53);
    let _echo = UdpEcho::start(stage.netns("db"), at).unwrap();
    let filters = ["--what", "all", "--protocol", "udp", "--port", "53", "--snap", "42"];
    let capture = Capture::start(&stage, "dns.pcapng", &filters);
    let other = stage.agent.policyctl(&["capture", "-w", "/dev/null"]).unwrap();
    assert_eq!(other.status.code(), Some(1));
    let refused = String::from_utf8(other.stderr).unwrap();
    assert!(refused.contains("one capture at a time"), "{refused}");
    for _ in 0..2 {
        send(&stage, "web", 53, Over::V4);
        send(&stage, "api", 53, Over::V4);
        send(&stage, "api", 54, Over::V4);
    }
    let file = capture.file.clone();
    assert_eq!(capture.end().0, Some(0));
    let packets = packets(&file);
    let seen = |what: &str| packets.iter().filter(|it| it.comment.starts_with(what)).count();
    assert!(seen("dropped (policy) on ingress by NetworkPolicy shop/db ingress[0]") > 0);
    // Both ends, both ways.
    for interface in ["shop/web", "shop/db"] {
        let here: Vec<_> = packets.iter().filter(|it| it.interface == interface).collect();
        let (sent, answers): (Vec<&Packet>, Vec<&Packet>) =
            here.iter().partition(|it| it.bytes[36..38] == 53_u16.to_be_bytes());
        assert!(!sent.is_empty() && !answers.is_empty(), "{interface}: {packets:?}");
    }
    assert!(packets.iter().all(|it| it.bytes.len() == 42 && it.length > 42), "{packets:?}");
    let other_port = |it: &&Packet| it.bytes[36..38] == 54_u16.to_be_bytes();
    assert_eq!(packets.iter().filter(other_port).count(), 0);
}

#[test]
fn an_agent_that_ends_ends_a_capture_and_the_next_one_begins_anew() {
    let mut stage = Stage::new(&[]);
    stage.apply(POLICY);
    let capture = Capture::start(&stage, "ended.pcapng", &["--what", "all"]);
    // What nobody has read when it ends is not the next one's.
    send(&stage, "api", 99, Over::V4);
    stage.agent.kill().unwrap();
    send(&stage, "api", 98, Over::V4);
    assert_eq!(capture.end().0, Some(2));
    stage.agent.start().unwrap();
    let next = Capture::start(&stage, "next.pcapng", &["--count", "1"]);
    send(&stage, "api", 97, Over::V4);
    let file = next.file.clone();
    assert_eq!(next.end().0, Some(0));
    let packets = packets(&file);
    assert_eq!(packets.len(), 1);
    assert_eq!(packets[0].bytes[36..38], 97_u16.to_be_bytes());
}

/// A process that was stopped, until this is dropped.
struct Held(Pid);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// Who keeps a capture and reads nothing keeps it from nobody else.
#[test]
fn a_capture_that_nobody_takes_ends() {
    let stage = Stage::new(&[]);
    stage.apply(POLICY);
    let mut stalled = Capture::start_for("5min", &stage, "stalled.pcapng", &["--what", "all"]);
    let pid = Pid::from_raw(stalled.child.id().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    let held = Held(pid);
    let to = SocketAddr::new(stage.address("db", Over::V4), 99);
    let socket =
        stage.netns("api").udp_bind(SocketAddr::new(stage.address("api", Over::V4), 0)).unwrap();
    let is_free = || {
        // More than waits between the two.
        for _ in 0..1000 {
            socket.send_to(&[0; 1400], to).unwrap();
        }
        let words = ["capture", "-w", "/dev/null", "--for", "10ms"];
        stage.agent.policyctl(&words).unwrap().status.success()
    };
    wait::until("the capture to be free", 6 * LIMIT, is_free).unwrap();
    drop(held);
    assert_eq!(stalled.child.wait().unwrap().code(), Some(2));
}
