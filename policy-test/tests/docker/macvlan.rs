//! macvlan networks: enforced on the interface inside the container's network namespace.
//!
//! The lab's host has an interface `up0` that leads to a machine outside; containers are stations on
//! that network beside it.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use policy_test::{lab::Workload, net::Reach, netns::NetNs, wait};

use crate::{
    policies::{DB_FROM_WEB, SHUT},
    stage::{Container, LIMIT, PROBE, SHORT, Stage, play, rounds},
    tap::Tap,
};

const PORT: u16 = 7000;
const OUTSIDE: [&str; 2] = ["10.81.0.250", "fd81::250"];

/// A parent with a machine at its other end, and a network of that name on it.
fn network(stage: &Stage) -> Result<Workload> {
    let bridge = stage.lab.bridge("unused", &["10.98.0.1/24"])?;
    let outside = stage.lab.workload("outside", &bridge, &["10.98.0.2/24"])?;
    let (host, there) = (stage.lab.host(), outside.netns());
    host.ip(&["link", "add", "up0", "type", "veth", "peer", "name", "far0"])?;
    host.ip(&["link", "set", "far0", "netns", there.name()])?;
    host.ip(&["link", "set", "up0", "up"])?;
    there.ip(&["link", "set", "far0", "up"])?;
    there.ip(&["address", "add", "10.81.0.250/24", "dev", "far0"])?;
    there.ip(&["address", "add", "fd81::250/64", "dev", "far0", "nodad"])?;
    stage.engine.docker(&[
        "network",
        "create",
        "--driver",
        "macvlan",
        "--opt",
        "parent=up0",
        "--ipv6",
        "--subnet",
        "10.81.0.0/24",
        "--subnet",
        "fd81::/64",
        "mac",
    ])?;
    Ok(outside)
}

fn outside_as_container(outside: &Workload) -> Result<Container> {
    Ok(Container { name: "outside".into(), netns: NetNs::named(outside.netns().name())? })
}

fn everywhere() -> Result<Vec<IpAddr>> {
    OUTSIDE.iter().map(|text| text.parse().context("an address")).collect()
}

#[test]
fn containers_on_macvlan_are_fenced_by_label() {
    play(&[], &[], |stage| {
        let outside = network(stage)?;
        let far = outside_as_container(&outside)?;
        let web = stage.container("web", "web", "mac")?;
        let intruder = stage.container("intruder", "intruder", "mac")?;
        let db = stage.container("db", "db", "mac")?;
        let _servers = [db.serve(PORT)?, far.serve(PORT)?, far.serve(7001)?, web.serve(PORT)?];
        let note = stage.enforcing("db", "mac")?.note.context("a note on what holds it")?;
        ensure!(note.contains("CAP_NET_RAW") && note.contains("CAP_NET_ADMIN"), "{note}");

        let addresses = stage.addresses("db", "mac")?;
        for (from, to, port) in [(&web, &db, PORT), (&intruder, &db, PORT), (&db, &web, PORT)] {
            stage.expect(from, to, "mac", port, true)?;
        }
        far.expect(&addresses, PORT, true)?;
        db.expect(&everywhere()?, PORT, true)?;

        stage.agent.apply(DB_FROM_WEB)?;
        stage.expect(&web, &db, "mac", PORT, true)?;
        stage.expect(&intruder, &db, "mac", PORT, false)?;
        stage.observed("intruder", "db", PORT)?;
        stage.expect(&db, &web, "mac", PORT, false)?;
        far.expect(&addresses, PORT, false)?;
        db.expect(&everywhere()?, PORT, false)?;
        for address in addresses {
            ensure!(far.netns.try_ping(address, SHORT)? == Reach::Silent, "ping {address}");
        }
        // The machine outside by its address, as on every network.
        stage.agent.apply(
            "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db-from-outside, namespace: default}
spec:
  selector: app == 'db'
  ingress:
  - action: Allow
    source: {nets: [10.81.0.250/32, 'fd81::250/128']}
",
        )?;
        far.expect(&addresses, PORT, true)?;
        stage.expect(&intruder, &db, "mac", PORT, false)?;

        // Every drop has its name.
        let dropped = stage.metric(
            "palisade_dropped_packets_total",
            &["source=\"intruder\"", "destination=\"db\"", "port=\"7000\""],
        )?;
        ensure!(dropped >= 4, "{dropped} drops of intruder -> db counted");
        Ok(())
    });
}

#[test]
fn macvlan_containers_are_followed_through_their_lives() {
    play(&[], &[], |stage| {
        let outside = network(stage)?;
        let far = outside_as_container(&outside)?;
        let _server = far.serve(PORT)?;
        let _other = far.serve(7001)?;
        stage.agent.apply(SHUT)?;
        let shut = stage.container("shut", "shut", "mac")?;
        shut.expect(&everywhere()?, PORT, true)?;
        shut.expect(&everywhere()?, 7001, false)?;
        drop(shut);
        stage.engine.stop_container("shut")?;
        stage
            .agent
            .wait_endpoints("shut to be gone", |all| all.iter().all(|e| e.name != "shut"))?;
        stage.engine.docker(&["start", "shut"])?;
        stage.enforcing("shut", "mac")?;
        let shut = stage.found("shut", "mac")?;
        shut.expect(&everywhere()?, PORT, true)?;
        shut.expect(&everywhere()?, 7001, false)?;

        // Off the network and on again while it runs, beside a bridge.
        stage.network("front", 1)?;
        stage.engine.docker(&["network", "disconnect", "mac", "shut"])?;
        stage
            .agent
            .wait_endpoints("shut to leave mac", |all| all.iter().all(|e| e.name != "shut"))?;
        stage.engine.docker(&["network", "connect", "front", "shut"])?;
        stage.enforcing("shut", "front")?;
        stage.engine.docker(&["network", "connect", "mac", "shut"])?;
        stage.enforcing("shut", "mac")?;
        let shut = stage.found("shut", "mac")?;
        shut.expect(&everywhere()?, PORT, true)?;
        shut.expect(&everywhere()?, 7001, false)?;

        // Another policy is in force at once.
        let output = stage.agent.policyctl(&["delete", "netpol", "shut"])?;
        ensure!(output.status.success(), "delete");
        shut.expect(&everywhere()?, 7001, true)?;
        Ok(())
    });
}

#[test]
fn a_macvlan_fence_outlives_the_agent_and_is_taken_over() {
    play(&[], &[], |stage| {
        let outside = network(stage)?;
        let far = outside_as_container(&outside)?;
        let _servers = [far.serve(PORT)?, far.serve(7001)?];
        stage.agent.apply(SHUT)?;
        let shut = stage.container("shut", "shut", "mac")?;
        let to = SocketAddr::new(OUTSIDE[0].parse()?, PORT);
        let mut open = shut.netns.tcp_connect(to, LIMIT)?;
        open.set_read_timeout(Some(LIMIT))?;
        let mut lives = || -> Result<()> {
            open.write_all(b"alive")?;
            let mut answer = [0; 5];
            open.read_exact(&mut answer)?;
            ensure!(&answer == b"alive", "another answer");
            Ok(())
        };
        lives()?;
        let number = || -> Result<Vec<String>> {
            let links = format!("v{}/links", policy_common::abi::ABI_VERSION);
            let entries = std::fs::read_dir(stage.agent.bpffs_dir().join(links))?;
            let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            let names: Vec<String> = names.collect::<Result<_>>()?;
            Ok(names.into_iter().filter(|name| name.contains("inside")).collect())
        };
        let before = number()?;
        ensure!(before.len() == 1, "marks: {before:?}");

        let agent_dir = stage.agent.bpffs_dir().to_owned();
        stage.agent.kill()?;
        lives()?;
        shut.expect(&everywhere()?, PORT, true)?;
        shut.expect(&everywhere()?, 7001, false)?;
        stage.agent.start()?;
        lives()?;
        stage.enforcing("shut", "mac")?;
        lives()?;
        shut.expect(&everywhere()?, PORT, true)?;
        shut.expect(&everywhere()?, 7001, false)?;
        let links = agent_dir.join(format!("v{}/links", policy_common::abi::ABI_VERSION));
        ensure!(links.join(&before[0]).exists(), "it got another number");

        stage.agent.terminate()?;
        let said = stage.agent.unload()?;
        shut.expect(&everywhere()?, 7001, true).with_context(|| said)
    });
}

#[test]
fn a_macvlan_container_that_ran_before_the_agent_keeps_its_connections() {
    play(&[], &[], |stage| {
        let outside = network(stage)?;
        let far = outside_as_container(&outside)?;
        let _servers = [far.serve(PORT)?, far.serve(7001)?];
        stage.agent.apply(SHUT)?;
        stage.agent.terminate()?;
        stage.agent.unload()?;
        stage.engine.run(
            "shut",
            &["--network", "mac", "--label", "app=shut"],
            &["sleep", "3600"],
        )?;
        let shut = stage.found("shut", "mac")?;
        shut.expect(&everywhere()?, 7001, true)?;
        let to = SocketAddr::new(OUTSIDE[0].parse()?, PORT);
        let mut open = shut.netns.tcp_connect(to, LIMIT)?;
        open.set_read_timeout(Some(LIMIT))?;
        stage.agent.start()?;
        stage.enforcing("shut", "mac")?;
        open.write_all(b"alive")?;
        let mut answer = [0; 5];
        open.read_exact(&mut answer)?;
        shut.expect(&everywhere()?, PORT, true)?;
        shut.expect(&everywhere()?, 7001, false)
    });
}

#[test]
fn no_macvlan_container_gets_a_first_packet_through() {
    play(&[], &[], |stage| {
        let outside = network(stage)?;
        let far = outside_as_container(&outside)?;
        stage.import_probe()?;
        stage.agent.apply(SHUT)?;
        let tap = Tap::open(outside.netns(), 7001)?;
        let _servers = [far.serve(PORT)?, far.serve(7001)?];
        let allowed = format!("{}:{PORT}", OUTSIDE[0]);
        let forbidden = [format!("{}:7001", OUTSIDE[0]), format!("[{}]:7001", OUTSIDE[1])];
        for round in 0..rounds(20, 200) {
            let mut command = vec!["run", "--rm", "--network", "mac", "--label", "app=shut", PROBE];
            command.extend(["/probe", &allowed, &forbidden[0], &forbidden[1]]);
            let said = stage.engine.docker(&command)?;
            ensure!(said.trim().parse::<u64>().is_ok(), "round {round}: the probe said {said:?}");
            let frames = tap.frames()?;
            ensure!(frames == 0, "round {round}: {frames} forbidden frames came out");
        }
        Ok(())
    });
}

/// A frame of a DHCP client without an address (RFC 2131), to the broadcast address.
fn discover(mac: [u8; 6]) -> Vec<u8> {
    let udp =
        etherparse::PacketBuilder::ethernet2(mac, [0xff; 6]).ipv4([0; 4], [255; 4], 64).udp(68, 67);
    let payload = [1_u8; 240];
    let mut frame = Vec::with_capacity(udp.size(payload.len()));
    udp.write(&mut frame, &payload).unwrap_or_default();
    frame
}

/// Sends a frame from a container of the probe's image.
fn send_raw(stage: &Stage, container: &str, frame: &[u8], options: &[&str]) -> Result<()> {
    let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let output = stage.engine.exec(container, &[&["/raw", "eth0", &hex], options].concat())?;
    ensure!(output.status.success(), "raw: {}", output.status);
    Ok(())
}

/// A container of the probe's image that does nothing.
fn idle(stage: &Stage, name: &str, app: &str) -> Result<()> {
    let label = format!("app={app}");
    let command =
        ["run", "--detach", "--init", "--name", name, "--network", "mac", "--label", &label, PROBE];
    stage.engine.docker(&[&command[..], &["sleep", "3600"]].concat())?;
    stage.enforcing(name, "mac").map(drop)
}

fn mac_of(stage: &Stage, name: &str) -> Result<[u8; 6]> {
    let template = "{{.NetworkSettings.Networks.mac.MacAddress}}";
    let text = stage.engine.docker(&["inspect", "--format", template, name])?;
    let bytes: Vec<u8> =
        text.split(':').map(|byte| Ok(u8::from_str_radix(byte, 16)?)).collect::<Result<_>>()?;
    bytes.try_into().ok().context("a MAC address")
}

fn soon(what: &str, tap: &Tap, frames: u64) -> Result<()> {
    wait::until(what, LIMIT, || tap.frames().is_ok_and(|now| now == frames))
}

#[test]
fn dhcp_leaves_a_macvlan_container_only_if_policy_lets_it() {
    play(&[], &[], |stage| {
        let outside = network(stage)?;
        let tap = Tap::open(outside.netns(), 67)?;
        stage.import_probe()?;
        idle(stage, "box", "box")?;
        let frame = discover(mac_of(stage, "box")?);
        send_raw(stage, "box", &frame, &[])?;
        soon("the discover without a policy", &tap, 1)?;

        stage.agent.apply(
            "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: box, namespace: default}
spec: {selector: app == 'box', types: [Egress]}
",
        )?;
        send_raw(stage, "box", &frame, &[])?;
        let dropped = || stage.metric("palisade_dropped_packets_total", &["port=\"67\""]);
        wait::until("the drop", LIMIT, || dropped().is_ok_and(|count| count == 1))?;
        ensure!(tap.frames()? == 1, "a denied discover came out");

        stage.agent.apply(
            "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: box, namespace: default}
spec:
  selector: app == 'box'
  types: [Egress]
  egress:
  - {action: Allow, protocol: UDP, destination: {ports: [67]}}
",
        )?;
        send_raw(stage, "box", &frame, &[])?;
        soon("the discover that is allowed", &tap, 2)?;

        // Another's Ethernet address stays another's.
        let mut forged = frame;
        forged[11] ^= 1;
        send_raw(stage, "box", &forged, &[])?;
        let spoofed =
            || stage.metric("palisade_dropped_packets_total", &["reason=\"spoofed-mac\""]);
        wait::until("the forged frame's drop", LIMIT, || spoofed().is_ok_and(|count| count == 1))?;
        ensure!(tap.frames()? == 2, "a forged discover came out");
        Ok(())
    });
}

/// What `docs/networks.md` says of CAP_NET_RAW is so.
#[test]
fn a_raw_socket_that_skips_the_queue_passes_a_macvlan_fence() {
    play(&[], &[], |stage| {
        let outside = network(stage)?;
        let tap = Tap::open(outside.netns(), 67)?;
        stage.import_probe()?;
        idle(stage, "shut", "shut")?;
        stage.agent.apply(SHUT)?;
        let frame = discover(mac_of(stage, "shut")?);
        send_raw(stage, "shut", &frame, &[])?;
        let dropped = || stage.metric("palisade_dropped_packets_total", &["port=\"67\""]);
        wait::until("the drop", LIMIT, || dropped().is_ok_and(|count| count == 1))?;
        ensure!(tap.frames()? == 0, "the fence lets raw sockets through");
        send_raw(stage, "shut", &frame, &["--bypass"])?;
        soon("the frame that skips the queue", &tap, 1)
    });
}

/// The harder case: its processes run already, and send from the moment on at which the interface is
/// up.
#[test]
fn a_running_container_gets_no_packet_through_as_it_joins_a_macvlan_network() {
    play(&[], &[], |stage| {
        let outside = network(stage)?;
        let far = outside_as_container(&outside)?;
        stage.import_probe()?;
        stage.network("front", 1)?;
        stage.agent.apply(SHUT)?;
        let tap = Tap::open(outside.netns(), 7001)?;
        let _servers = [far.serve(PORT)?, far.serve(7001)?];
        let allowed = format!("{}:{PORT}", OUTSIDE[0]);
        let forbidden = [format!("{}:7001", OUTSIDE[0]), format!("[{}]:7001", OUTSIDE[1])];
        let command = ["run", "--detach", "--name", "shut", "--network", "front"];
        let probe = ["--label", "app=shut", PROBE, "/probe", &allowed];
        let stay = [&forbidden[0], forbidden[1].as_str(), "--stay"];
        stage.engine.docker(&[&command[..], &probe, &stay].concat())?;
        stage.enforcing("shut", "front")?;
        let answers =
            || -> Result<usize> { Ok(stage.engine.docker(&["logs", "shut"])?.lines().count()) };
        let mut leaked = Vec::new();
        for _ in 0..rounds(10, 100) {
            let before = (answers()?, tap.frames()?);
            stage.engine.docker(&["network", "connect", "mac", "shut"])?;
            wait::until("an answer", LIMIT, || answers().is_ok_and(|now| now > before.0))?;
            leaked.push(tap.frames()? - before.1);
            stage.engine.docker(&["network", "disconnect", "mac", "shut"])?;
        }
        ensure!(leaked.iter().all(|frames| *frames == 0), "frames by round: {leaked:?}");
        Ok(())
    });
}
