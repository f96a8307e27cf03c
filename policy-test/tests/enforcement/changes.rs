//! Connections while policy changes, and while the agent comes, goes and comes back.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use policy_test::{
    agent::AgentOptions,
    lab::{Lab, Workload},
    net::{Reach, UdpEcho, recv},
    wait,
};

use crate::stage::{LIMIT, Over, SHORT, Stage, bridge, cast, fence};

/// Both ends of an open connection.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn open(from: &Workload, to: &Workload, over: Over, port: u16) -> Self {
        let address = if over == Over::V6 { to.ipv6() } else { to.ipv4() };
        let address = SocketAddr::new(address.unwrap(), port);
        let listener = to.netns().tcp_listen(address).unwrap();
        let client = from.netns().tcp_connect(address, LIMIT).unwrap();
        let (server, _) = listener.accept().unwrap();
        let mut connection = Self { client, server };
        connection.goes_on();
        connection
    }

    /// Both directions pass.
    fn goes_on(&mut self) {
        assert!(passes(&mut self.client, &mut self.server, LIMIT), "client to server is cut");
        assert!(passes(&mut self.server, &mut self.client, LIMIT), "server to client is cut");
    }

    /// No direction passes.
    fn is_cut(&mut self) {
        assert!(!passes(&mut self.client, &mut self.server, SHORT), "client to server passes");
        assert!(!passes(&mut self.server, &mut self.client, SHORT), "server to client passes");
    }
}

fn passes(from: &mut TcpStream, to: &mut TcpStream, limit: Duration) -> bool {
    from.write_all(b"x").unwrap();
    to.set_read_timeout(Some(limit)).unwrap();
    match to.read(&mut [0; 8]) {
        Ok(length) => length > 0,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

/// `db` accepts from these only.
fn db_accepts(from: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: db}}\n\
         spec: {{selector: app == 'db', ingress: [{{action: Allow, source: {{selector: \"{from}\"}}}}]}}"
    )
}

#[test]
fn a_change_cuts_what_it_forbids_both_ways_and_nothing_else() {
    for over in [Over::V4, Over::V6] {
        let stage = Stage::new(&[]);
        stage.apply(&db_accepts("app in {'web', 'api'}"));
        let [web, api, db] = ["web", "api", "db"].map(|name| &stage.workloads[name]);
        let mut forbidden = Connection::open(web, db, over, 80);
        let mut kept = Connection::open(api, db, over, 81);
        let mut outward = Connection::open(db, web, over, 82);
        stage.apply(&db_accepts("app == 'api'"));
        forbidden.is_cut();
        kept.goes_on();
        outward.goes_on();
        // Even a change that lets the peer in again says nothing against the others.
        stage.apply(&db_accepts("app in {'web', 'api'}"));
        kept.goes_on();
        outward.goes_on();
    }
}

#[test]
fn the_next_packet_after_an_apply_obeys() {
    const ROUNDS: u64 = 50;
    let stage = Stage::new(&[]);
    let before = stage.drops();
    for over in [Over::V4, Over::V6] {
        let to = SocketAddr::new(stage.address("db", over), 53);
        let server = UdpEcho::start(stage.netns("db"), to).unwrap();
        let unspecified = if over == Over::V6 { "[::]:0" } else { "0.0.0.0:0" };
        // One flow throughout, and a new one each time.
        let flow = stage.netns("web").udp_bind(unspecified.parse().unwrap()).unwrap();
        let mut passed = 0;
        for round in 0..ROUNDS {
            let open = round % 2 == 0;
            stage.apply(&db_accepts(if open { "app == 'web'" } else { "app == 'api'" }));
            flow.send_to(b"flow", to).unwrap();
            let fresh = stage.netns("web").try_udp(to, if open { LIMIT } else { SHORT });
            assert_eq!(fresh.unwrap(), if open { Reach::Answered } else { Reach::Silent });
            if open {
                flow.set_read_timeout(Some(LIMIT)).unwrap();
                assert_eq!(recv(&flow, &mut [0; 8]).unwrap(), 4, "round {round}");
                passed += 2;
            }
            // What was sent before the fresh packet has arrived by now, or never will.
            assert_eq!(server.received(), passed, "round {round}");
        }
    }
    // Two packets in every other round, in both families, and nothing besides.
    let moved = stage.drops().since(&before).between("web", "db");
    let counts: Vec<_> = moved.iter().map(|(series, count)| (series.get("rule"), *count)).collect();
    assert_eq!(counts, [("tier-default", 2 * ROUNDS)], "{moved:#?}");
}

#[test]
fn connections_older_than_the_agent_live_on() {
    let lab = Lab::new().unwrap();
    let workloads = cast(&lab, &bridge(&lab));
    let [web, db] = ["web", "db"].map(|name| &workloads[name]);
    let mut connections = [Over::V4, Over::V6].map(|over| Connection::open(web, db, over, 80));
    let mut forbidden = [Over::V4, Over::V6].map(|over| Connection::open(db, web, over, 81));
    let agent = AgentOptions::default().flags(&["--bridge", "br-lab"]).start(&lab).unwrap();
    agent.apply(&db_accepts("app == 'web'")).unwrap();
    agent
        .apply(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: web}\n\
             spec: {selector: app == 'web', types: [Ingress]}",
        )
        .unwrap();
    fence(&agent, &workloads);
    connections.iter_mut().for_each(Connection::goes_on);
    // The first word must be the client's: whoever speaks first is taken for the client.
    for connection in &mut forbidden {
        assert!(!passes(&mut connection.client, &mut connection.server, SHORT));
    }
}

#[test]
fn connections_and_policy_outlive_the_agent() {
    let mut stage = Stage::new(&[]);
    stage.apply(&db_accepts("app == 'web'"));
    let mut connections = [Over::V4, Over::V6]
        .map(|over| Connection::open(&stage.workloads["web"], &stage.workloads["db"], over, 80));
    stage.check(Over::Both, "api db 80/udp deny ingress - tier-default");
    let before = stage.drops();
    for round in 0..4 {
        if round % 2 == 0 {
            assert!(stage.agent.terminate().unwrap().success());
        } else {
            stage.agent.kill().unwrap();
        }
        connections.iter_mut().for_each(Connection::goes_on);
        // Nobody is there to ask, and the policy holds.
        let to = SocketAddr::new(stage.address("db", Over::V4), 53);
        let server = UdpEcho::start(stage.netns("db"), to).unwrap();
        assert_eq!(stage.netns("api").try_udp(to, SHORT).unwrap(), Reach::Silent);
        assert_eq!(stage.netns("web").try_udp(to, LIMIT).unwrap(), Reach::Answered);
        assert_eq!(server.received(), 1);
        stage.agent.start().unwrap();
        connections.iter_mut().for_each(Connection::goes_on);
    }
    let moved = stage.drops().since(&before);
    assert_eq!(moved.between("web", "db"), []);
    assert_eq!(moved.between("db", "web"), []);
    let forbidden: Vec<_> = moved.between("api", "db").iter().map(|(_, count)| *count).collect();
    assert_eq!(forbidden, [4], "counted while no agent was there");
}

#[test]
fn udp_sockets_hear_nothing_from_whom_they_did_not_ask() {
    let stage = Stage::new(&[]);
    stage.apply(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: web}\n\
         spec: {selector: app == 'web', types: [Ingress]}",
    );
    let bind = |name, port| -> UdpSocket {
        let address = SocketAddr::new(stage.address(name, Over::V4), port);
        let socket = stage.netns(name).udp_bind(address).unwrap();
        socket.set_read_timeout(Some(SHORT)).unwrap();
        socket
    };
    let (web, db, other) = (bind("web", 1000), bind("db", 53), bind("db", 54));
    db.send_to(b"early", web.local_addr().unwrap()).unwrap();
    recv(&web, &mut [0; 8]).unwrap_err();
    web.send_to(b"question", db.local_addr().unwrap()).unwrap();
    recv(&db, &mut [0; 8]).unwrap();
    other.send_to(b"forged", web.local_addr().unwrap()).unwrap();
    db.send_to(b"answer", web.local_addr().unwrap()).unwrap();
    assert_eq!(recv(&web, &mut [0; 8]).unwrap(), 6);
    recv(&web, &mut [0; 8]).unwrap_err();
}

/// The tables themselves are counted, at once with the agent's start and then from time to time.
#[test]
fn connections_are_counted_by_what_they_are_in() {
    let stage = Stage::new(&[]);
    let (web, db) = (&stage.workloads["web"], &stage.workloads["db"]);
    let open: Vec<_> = (0..5).map(|it| Connection::open(web, db, Over::V4, 9000 + it)).collect();
    let _one_more = Connection::open(web, db, Over::V6, 9000);
    let entries = |family: &str, state: &str| {
        let labels = format!("{{family=\"{family}\",state=\"{state}\"}} ");
        metric(&stage, &format!("palisade_conntrack_entries{labels}"))
    };
    // Both ends are fenced, and each has an entry of its own.
    wait::until("all are counted", LIMIT * 3, || {
        entries("ipv4", "established") == 10 && entries("ipv6", "established") == 2
    })
    .unwrap();
    assert_eq!(entries("ipv4", "closing"), 0);
    drop(open);
    wait::until("they are closing", LIMIT * 3, || {
        entries("ipv4", "closing") == 10 && entries("ipv4", "established") == 0
    })
    .unwrap();
    assert_eq!(metric(&stage, "palisade_conntrack_evicted_total{family=\"ipv4\"} "), 0);
    assert!(metric(&stage, "palisade_conntrack_opened_total{family=\"ipv4\"} ") >= 10);
    let maps = stage.agent.status().unwrap().maps;
    let table = maps.iter().find(|map| map.name == "CONNTRACK_V4").unwrap();
    assert!(table.used >= 10 && table.capacity == 262_144, "{table:?}");
}

/// The value of a series.
fn metric(stage: &Stage, series: &str) -> u64 {
    let text = stage.agent.metrics().unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(series));
    value.unwrap_or_else(|| panic!("no {series}in {text}")).parse().unwrap()
}
