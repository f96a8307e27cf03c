//! Flows that are let through: their records at both ends, what is counted of them, and the history.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::SocketAddr,
};

use policy_api::flow::{Ended, FlowRecord, Traffic};
use policy_test::{
    net::{TcpEcho, UdpEcho, recv},
    wait,
};

use crate::stage::{Drops, LIMIT, Over, Stage};

const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: app == 'web'}, destination: {ports: [5432]}}
  - {action: Allow, protocol: UDP, source: {selector: app == 'web'}, destination: {ports: [53]}}
";
/// What a message of the tests takes on the wire beside its own bytes: Ethernet, IP and UDP.
const HEADERS: [(Over, u64); 2] = [(Over::V4, 14 + 20 + 8), (Over::V6, 14 + 40 + 8)];
const MESSAGES: u64 = 7;
const MESSAGE: [u8; 100] = [b'x'; 100];

fn traffic(record: &FlowRecord) -> &Traffic {
    record.traffic.as_ref().unwrap_or_else(|| panic!("no flow: {record:?}"))
}

/// One conversation of [`MESSAGES`] and as many answers. The port of who asked.
fn converse(stage: &Stage, over: Over) -> u16 {
    let at = |name, port| SocketAddr::new(stage.address(name, over), port);
    let echo = UdpEcho::start(stage.netns("db"), at("db", 53)).unwrap();
    let socket = stage.netns("web").udp_bind(at("web", 0)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    for _ in 0..MESSAGES {
        socket.send_to(&MESSAGE, echo.address().unwrap()).unwrap();
        assert_eq!(recv(&socket, &mut [0; 200]).unwrap(), MESSAGE.len());
    }
    socket.local_addr().unwrap().port()
}

/// A connection that is closed. Its port.
fn connect(stage: &Stage, over: Over) -> u16 {
    let at = |port| SocketAddr::new(stage.address("db", over), port);
    let echo = TcpEcho::start(stage.netns("db"), at(5432)).unwrap();
    let mut stream = stage.netns("web").tcp_connect(echo.address().unwrap(), LIMIT).unwrap();
    stream.write_all(b"select 1").unwrap();
    stream.read_exact(&mut [0; 8]).unwrap();
    stream.local_addr().unwrap().port()
}

/// What a metric has from `web` to `db`, by direction, port and, if it has one, way.
fn counted(stage: &Stage, metric: &str) -> BTreeMap<[String; 3], u64> {
    let all = Drops::of(&stage.agent, metric).between("web", "db");
    let labels = all.into_iter().map(|(series, count)| {
        (["direction", "port", "way"].map(|label| series.get(label).to_owned()), count)
    });
    labels.collect()
}

#[test]
fn every_flow_has_its_start_its_end_and_its_numbers_at_both_ends() {
    let stage = Stage::new(&[]);
    stage.apply(POLICY);
    for (over, headers) in HEADERS {
        let before = [
            counted(&stage, "palisade_flows_total"),
            counted(&stage, "palisade_flow_packets_total"),
            counted(&stage, "palisade_flow_bytes_total"),
        ];
        let asked = converse(&stage, over).to_string();
        let connected = connect(&stage, over).to_string();
        let told = |port: &str, event| {
            let address = stage.address("web", over).to_string();
            let filters =
                ["--event", event, "--from-port", port, "--from-ip", &address, "--last", "9"];
            stage.observe(&filters)
        };
        wait::until("both ends of both", 6 * LIMIT, || {
            told(&asked, "open").len() == 2 && told(&connected, "close").len() == 2
        })
        .unwrap();

        // Nobody says that a conversation is over; what has been seen of it when is another question.
        for record in told(&asked, "open") {
            assert_eq!(
                (record.source.name.as_str(), record.destination.name.as_str()),
                ("web", "db")
            );
            assert_eq!(record.source.labels.get("app").map(String::as_str), Some("web"));
            assert_eq!((record.protocol.as_str(), record.destination.port), ("udp", 53));
        }
        let closed = told(&connected, "close");
        let [one, other] = &closed[..] else { panic!("two ends: {closed:?}") };
        let mut directions = [one, other].map(|it| it.direction.as_str());
        directions.sort_unstable();
        assert_eq!(directions, ["egress", "ingress"]);
        assert_eq!(traffic(one).ended, Some(Ended::Closed));
        // The same packets came by both.
        let numbers = |it: &FlowRecord| {
            let Traffic { packets, bytes, reply_packets, reply_bytes, .. } = *traffic(it);
            [packets, bytes, reply_packets, reply_bytes]
        };
        assert_eq!(numbers(one), numbers(other));
        assert!(numbers(one).iter().all(|number| *number >= 3), "{one:?}");
        assert!(traffic(one).start <= traffic(one).end, "{one:?}");
        let at_db = [one, other].into_iter().find(|it| it.direction == "ingress").unwrap();
        assert_eq!(at_db.rule.as_ref().map(|rule| rule.rule.as_str()), Some("ingress[0]"));

        let [flows, packets, bytes] = before;
        let since = |metric, before: &BTreeMap<[String; 3], u64>| {
            let now = counted(&stage, metric);
            let moved = now.into_iter().map(|(key, count)| {
                let was = before.get(&key).copied().unwrap_or_default();
                (key.each_ref().map(String::as_str).join(" "), count - was)
            });
            moved.filter(|(_, count)| *count > 0).collect::<BTreeMap<_, _>>()
        };
        let begun = since("palisade_flows_total", &flows);
        let one_each = ["egress 53 ", "egress 5432 ", "ingress 53 ", "ingress 5432 "];
        assert_eq!(begun, one_each.map(|key| (key.to_owned(), 1)).into(), "{over:?}");
        wait::until("all has been counted", LIMIT, || {
            let packets = since("palisade_flow_packets_total", &packets);
            let bytes = since("palisade_flow_bytes_total", &bytes);
            ["egress 53 original", "egress 53 reply", "ingress 53 original", "ingress 53 reply"]
                .into_iter()
                .all(|key| {
                    packets.get(key) == Some(&MESSAGES)
                        && bytes.get(key) == Some(&(MESSAGES * (headers + 100)))
                })
        })
        .unwrap();
    }
    let lost = stage.agent.metrics().unwrap();
    let lost = lost.lines().filter(|line| line.starts_with("palisade_flow_records_lost_total"));
    assert!(lost.clone().count() == 3 && lost.clone().all(|line| line.ends_with(" 0")));
}

#[test]
fn the_history_outlives_the_agent_and_those_who_are_in_it() {
    let mut stage = Stage::new(&[]);
    stage.apply(POLICY);
    let port = connect(&stage, Over::V4).to_string();
    let told = |stage: &Stage, more: &[&str]| {
        let filters = ["--event", "close", "--from-port", &port, "--since", "1h"];
        let mut records = stage.observe(&[&filters, more].concat());
        records.sort_by_key(|record| record.direction.clone());
        records
    };
    wait::until("both ends", 6 * LIMIT, || told(&stage, &[]).len() == 2).unwrap();
    let before = told(&stage, &[]);

    assert!(stage.agent.terminate().unwrap().success());
    stage.agent.start().unwrap();
    stage.delete(&["wep", "web", "-n", "shop"]);
    stage.delete(&["netpol", "db", "-n", "shop"]);
    assert_eq!(told(&stage, &[]), before);
    for (filters, count) in [
        (&["--from-label", "app == 'web'"][..], 2),
        (&["--policy", "shop/db"], 1),
        (&["--to-name", "shop/db", "--to-port", "5432"], 2),
        (&["--from-name", "api"], 0),
        (&["--until", "1min"], 0),
        (&["--last", "1"], 1),
    ] {
        assert_eq!(told(&stage, filters).len(), count, "{filters:?}");
    }
    let status = stage.agent.status().unwrap();
    let part = status.components.iter().find(|it| it.name == "history").unwrap();
    assert!(part.healthy && part.detail.contains("records in"), "{part:?}");
}

#[test]
fn without_flow_records_flows_are_still_counted() {
    let stage = Stage::new(&["--flow-records", "false", "--history-size", "0"]);
    stage.apply(POLICY);
    connect(&stage, Over::V4);
    let flows = counted(&stage, "palisade_flows_total");
    assert_eq!(flows.values().sum::<u64>(), 2, "{flows:?}");
    assert_eq!(counted(&stage, "palisade_flow_bytes_total"), BTreeMap::new());
    assert!(stage.observe(&["--event", "close", "--last", "9"]).is_empty());
    assert!(stage.agent.status().unwrap().components.iter().all(|it| it.name != "history"));
}
