use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use policy_api::flow::{CLOSE, OPEN};
use policy_common::abi::{FLOW_ASSURED, FLOW_REPLIED};
use policy_core::{ids::Names, model::Model, peers::PeerName};

use super::*;

const SECOND: u64 = 1_000_000_000;

fn published(name: &str) -> Arc<Published> {
    let end = PeerName { namespace: "shop".to_owned(), name: name.to_owned() };
    Arc::new(Published {
        started: Instant::now(),
        ready: true,
        model: Arc::new(Model::default()),
        ids: Names::default(),
        resources: Arc::default(),
        endpoints: Arc::default(),
        interfaces: Arc::new(BTreeMap::from([(7, end)])),
        owners: Arc::default(),
        places: Arc::default(),
        revision: 0,
        usage: Vec::new(),
        components: Vec::new(),
        features: Vec::new(),
    })
}

fn key(port: u16) -> FlowKeyV4 {
    FlowKeyV4 {
        ifindex: 7,
        local: [10, 0, 0, 2],
        remote: [203, 0, 113, 9],
        local_port: port,
        remote_port: 443,
        protocol: protocol::TCP,
        pad: [0; 3],
    }
}

fn flow(created: u64) -> Flow {
    Flow {
        packets: [1, 0],
        bytes: [60, 0],
        created_ns: created,
        seen_ns: created,
        revision: 1,
        rule: 0,
        peer: 0,
        staged: 0,
        direction: Direction::Egress as u8,
        state: 0,
        cut: 0,
        plane: 0,
        mac: [0; 8],
    }
}

/// Later: so many packets of 60 bytes each way.
fn grown(flow: Flow, packets: u64, seen_ns: u64, state: u8) -> Flow {
    Flow { packets: [packets; 2], bytes: [60 * packets; 2], seen_ns, state, ..flow }
}

/// A tracker at some second, and what the programs have counted.
struct Scene {
    tracker: Tracker,
    tally: Arc<Tally>,
    names: Arc<Published>,
}

impl Scene {
    /// One whose first reading, of nothing, is over.
    fn new() -> Scene {
        let mut scene = Scene::fresh();
        assert!(scene.read(0, 0, &[]).is_empty());
        scene
    }

    fn fresh() -> Scene {
        let (tally, names) = (Arc::<Tally>::default(), published("web"));
        let tracker = Tracker::new(Arc::clone(&tally), Arc::clone(&names));
        Scene { tracker, tally, names }
    }

    fn read(&mut self, second: u64, began: u64, table: &[(u16, Flow)]) -> Vec<FlowRecord> {
        let clock = Clock {
            ns: second * SECOND,
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + second),
        };
        self.tracker.begin(Arc::clone(&self.names), began, clock);
        for (port, flow) in table {
            self.tracker.see(&key(*port), flow);
        }
        self.tracker.end(true)
    }

    fn passed(&self) -> Passed {
        let mut sum = Passed::default();
        self.tally.passed().into_iter().for_each(|(_, passed)| sum += passed);
        sum
    }

    fn lost(&self) -> BTreeMap<&'static str, u64> {
        self.tally.lost().into_iter().collect()
    }
}

/// What records say: event, port, packets both ways, why it is over.
fn said(records: &[FlowRecord]) -> Vec<(&str, u16, u64, Option<Ended>)> {
    let said = records.iter().map(|record| {
        let traffic = record.traffic.as_ref().unwrap();
        let packets = traffic.packets + traffic.reply_packets;
        (record.event.as_str(), record.source.port, packets, traffic.ended)
    });
    said.collect()
}

const OPENED: u8 = FLOW_REPLIED | FLOW_ASSURED;
const CLOSED: u8 = OPENED | FLOW_FIN_ORIGINAL | FLOW_FIN_REPLY;

#[test]
fn a_flow_is_told_of_when_it_is_seen_and_when_it_is_over() {
    let mut scene = Scene::new();
    let begun = flow(SECOND / 2);
    let records = scene.read(1, 1, &[(1000, begun)]);
    assert_eq!(said(&records), [(OPEN, 1000, 1, None)]);
    let record = &records[0];
    assert_eq!((record.source.name.as_str(), record.source.namespace.as_str()), ("web", "shop"));
    assert_eq!((record.destination.name.as_str(), record.destination.port), ("world", 443));
    assert_eq!((record.direction.as_str(), record.bytes), ("egress", 60));
    assert_eq!(record.traffic.as_ref().unwrap().start, "1970-01-12T13:46:40.500000Z");

    assert!(scene.read(2, 1, &[(1000, grown(begun, 5, 2 * SECOND, OPENED))]).is_empty());
    // Both have said FIN; the last packet may still come.
    assert!(scene.read(3, 1, &[(1000, grown(begun, 7, 3 * SECOND - 1, CLOSED))]).is_empty());
    let last = (1000, grown(begun, 8, 3 * SECOND, CLOSED));
    let records = scene.read(4, 1, &[last]);
    assert_eq!(said(&records), [(CLOSE, 1000, 16, Some(Ended::Closed))]);
    assert_eq!(records[0].tcp_flags, "FIN");
    assert_eq!(records[0].traffic.as_ref().unwrap().end, "1970-01-12T13:46:43.000000Z");
    // Its entry stays, and then goes.
    assert!(scene.read(5, 1, &[last]).is_empty());
    assert!(scene.read(6, 1, &[]).is_empty());
    let passed = Passed { packets: 8, bytes: 480, reply_packets: 8, reply_bytes: 480 };
    assert_eq!(scene.passed(), passed);
    assert!(scene.lost().values().all(|lost| *lost == 0), "{:?}", scene.lost());
}

#[test]
fn every_end_has_its_name() {
    let begun = flow(0);
    let cases = [
        (grown(begun, 2, 0, OPENED | FLOW_RESET), 1, Ended::Reset),
        (grown(begun, 2, 0, OPENED | FLOW_FIN_REPLY), 121, Ended::Closed),
        (grown(begun, 2, 0, 0), 121, Ended::Timeout),
        (Flow { cut: 1, ..grown(begun, 2, SECOND, OPENED) }, 1, Ended::Cut),
    ];
    for (over, second, ended) in cases {
        let mut scene = Scene::new();
        assert_eq!(scene.read(0, 1, &[(1, begun)]).len(), 1, "{ended:?}");
        assert_eq!(said(&scene.read(second, 1, &[(1, over)])), [(CLOSE, 1, 4, Some(ended))]);
    }
    // A half-closed connection goes on, and so does one that is idle.
    let mut scene = Scene::new();
    scene.read(0, 2, &[(1, begun), (2, begun)]);
    let half = grown(begun, 2, 0, OPENED | FLOW_FIN_REPLY);
    assert!(scene.read(100, 2, &[(1, half), (2, grown(begun, 2, 0, OPENED))]).is_empty());
}

#[test]
fn a_short_flow_has_one_record() {
    let mut scene = Scene::new();
    let short = grown(flow(SECOND / 2), 4, SECOND / 2, CLOSED);
    assert_eq!(said(&scene.read(2, 1, &[(1, short)])), [(CLOSE, 1, 8, Some(Ended::Closed))]);
}

#[test]
fn a_flow_whose_entry_is_taken_is_over() {
    let mut scene = Scene::new();
    let (begun, next) = (flow(SECOND), flow(3 * SECOND));
    scene.read(1, 2, &[(1, begun), (2, begun)]);
    let grown = grown(begun, 3, 2 * SECOND, OPENED);
    assert!(scene.read(2, 2, &[(1, grown), (2, grown)]).is_empty());
    // One by a flow of the same addresses and ports, one by another.
    let mut records = scene.read(3, 3, &[(1, next)]);
    records.sort_by_key(|record| (record.source.port, record.event.clone()));
    let ends = [
        (CLOSE, 1, 6, Some(Ended::Replaced)),
        (OPEN, 1, 1, None),
        (CLOSE, 2, 6, Some(Ended::Replaced)),
    ];
    assert_eq!(said(&records), ends);
    assert_eq!(scene.passed().packets, 3 + 3 + 1);
}

#[test]
fn what_began_before_the_agent_is_not_counted_and_its_end_is_told() {
    let mut scene = Scene::fresh();
    let old = grown(flow(SECOND), 1000, 2 * SECOND, OPENED);
    let over = grown(flow(SECOND), 9, 2 * SECOND, CLOSED);
    assert!(scene.read(10, 500, &[(1, old), (2, over)]).is_empty());
    let more = grown(old, 1002, 11 * SECOND, CLOSED);
    let records = scene.read(13, 500, &[(1, more), (2, over)]);
    assert_eq!(said(&records), [(CLOSE, 1, 2004, Some(Ended::Closed))]);
    assert_eq!((scene.passed().packets, scene.passed().reply_bytes), (2, 120));
    assert_eq!(scene.lost()["unseen"], 0);
}

#[test]
fn names_are_those_of_the_beginning() {
    let mut scene = Scene::new();
    let begun = flow(SECOND);
    scene.read(1, 1, &[(1, begun)]);
    scene.names = published("another");
    let records = scene.read(2, 2, &[(1, Flow { cut: 1, ..begun }), (2, flow(2 * SECOND))]);
    let names: Vec<_> = records.iter().map(|record| record.source.name.as_str()).collect();
    assert_eq!(names, ["web", "another"]);
}

/// A container has gone before the tables were read: what passed last is its own all the same, and is not counted
/// by numbers that others may get.
#[test]
fn what_passed_last_is_counted_for_who_is_gone() {
    let mut scene = Scene::new();
    let begun = flow(SECOND);
    scene.read(1, 1, &[(1, begun)]);
    let mut gone = Published::clone(&scene.names);
    gone.interfaces = Arc::default();
    scene.names = Arc::new(gone);
    scene.read(2, 1, &[(1, grown(begun, 9, 2 * SECOND, CLOSED))]);
    // What was counted by number so far has no name any more: somebody retires it before that, but for a race.
    assert_eq!(scene.passed(), Passed { packets: 1, bytes: 60, ..Passed::default() });
    assert!(scene.tally.passed().iter().all(|(key, _)| key.is_none()));
    let late = scene.tally.take_late();
    let (series, passed) = late.iter().next().unwrap();
    let labels: BTreeMap<_, _> = series.labels().into_iter().collect();
    assert_eq!((labels["source"], labels["destination"], labels["port"]), ("web", "world", "443"));
    let rest = Passed { packets: 8, bytes: 480, reply_packets: 9, reply_bytes: 540 };
    assert_eq!((late.len(), *passed), (1, rest));
    assert!(scene.tally.take_late().is_empty());
}

#[test]
fn what_came_and_went_unseen_is_counted() {
    let mut scene = Scene::new();
    scene.read(1, 1, &[(1, flow(SECOND))]);
    // Five began, one of them is there.
    scene.read(2, 6, &[(1, flow(SECOND)), (2, flow(2 * SECOND))]);
    scene.read(3, 6, &[]);
    assert_eq!(scene.lost()["unseen"], 4);
}

#[test]
fn records_of_a_second_are_bounded_and_counting_goes_on() {
    let mut scene = Scene::new();
    let table: Vec<_> = (0..12_000).map(|port| (port, flow(SECOND))).collect();
    let records = scene.read(1, 12_000, &table);
    assert_eq!(records.len(), 10_000);
    assert_eq!(scene.lost()["rate-limit"], 2_000);
    assert_eq!(scene.passed().packets, 12_000);
}

/// Regression: the clocks are paired anew in each reading, never twice with the same difference.
#[test]
fn no_flow_ends_before_it_begins() {
    let mut scene = Scene::new();
    let begun = flow(SECOND);
    for (second, wall_ns) in [(1, 2_000), (2, 500)] {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(second * SECOND + wall_ns);
        let clock = Clock { ns: second * SECOND, time };
        scene.tracker.begin(Arc::clone(&scene.names), 1, clock);
        let state = if second == 2 { CLOSED } else { 0 };
        // Another CPU's clock was read a little earlier.
        scene.tracker.see(&key(1), &Flow { state, seen_ns: SECOND - 5_000, ..begun });
        let records = scene.tracker.end(true);
        let [record] = &records[..] else { panic!("{records:?}") };
        let traffic = record.traffic.as_ref().unwrap();
        let moment = "1970-01-01T00:00:01.000002Z";
        assert_eq!((traffic.start.as_str(), traffic.end.as_str()), (moment, moment));
    }
}

#[test]
fn an_echo_is_counted_as_what_it_is() {
    let mut scene = Scene::new();
    let clock = Clock { ns: SECOND, time: SystemTime::now() };
    scene.tracker.begin(Arc::clone(&scene.names), 1, clock);
    let echo = FlowKeyV4 { protocol: protocol::ICMP, local_port: 77, remote_port: 0, ..key(0) };
    scene.tracker.see(&echo, &flow(SECOND));
    let records = scene.tracker.end(true);
    assert_eq!((records[0].icmp_type, records[0].icmp_code), (Some(8), Some(0)));
    assert_eq!((records[0].source.port, records[0].tcp_flags.as_str()), (0, ""));
    let ports: Vec<_> = scene.tally.passed().iter().map(|(key, _)| key.unwrap().port).collect();
    assert_eq!(ports, [8 << 8]);
}
