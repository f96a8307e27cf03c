//! Swarm overlay networks, on two engines that a cable joins: enforced on the ports of the network's
//! bridge, which is in a namespace of its own, and on `docker_gwbridge`.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use policy_api::messages::{EndpointState, EndpointStatus};
use policy_test::{engine::IMAGE, net::Reach, wait};

use crate::{
    policies::{DB_FROM_WEB, SHUT},
    stage::{Container, LIMIT, PROBE, SHORT, Stage, play, rounds},
    tap::Tap,
};

const PORT: u16 = 7000;
const OTHER: u16 = 7001;
const GATEWAY: &str = "docker_gwbridge";

/// Joins a second stage to the first one, both engines to a swarm, and makes the network `over`.
fn swarm(one: &Stage) -> Result<Stage> {
    let two = one.beside()?;
    let (here, there) = (one.lab.host(), two.lab.host());
    here.ip(&["link", "add", "cable", "type", "veth", "peer", "name", "elbac"])?;
    here.ip(&["link", "set", "elbac", "netns", there.name()])?;
    for (host, name, address) in [(here, "cable", "10.97.0.1"), (there, "elbac", "10.97.0.2")] {
        host.ip(&["address", "add", &format!("{address}/24"), "dev", name])?;
        host.ip(&["link", "set", name, "up"])?;
    }
    let listen = |address: &'static str| ["--advertise-addr", address, "--listen-addr", address];
    one.engine.docker(&[&["swarm", "init"][..], &listen("10.97.0.1")].concat())?;
    let token = one.engine.docker(&["swarm", "join-token", "--quiet", "worker"])?;
    let join = ["swarm", "join", "--token", &token];
    let listen = listen("10.97.0.2");
    two.engine.docker(&[&join[..], &listen, &["10.97.0.1:2377"]].concat())?;
    one.engine.docker(&[
        "network",
        "create",
        "--driver",
        "overlay",
        "--attachable",
        "--subnet",
        "10.82.0.0/24",
        "over",
    ])?;
    Ok(two)
}

fn reach(from: &Container, to: IpAddr, port: u16, allowed: bool) -> Result<()> {
    from.expect(&[to], port, allowed)
}

#[test]
fn containers_on_an_overlay_are_fenced_by_label_on_either_node() {
    play(&[], &[], |one| {
        let two = swarm(one)?;
        let web = one.container("web", "web", "over")?;
        let intruder = one.container("intruder", "intruder", "over")?;
        let db = one.container("db", "db", "over")?;
        let far = two.container("far", "web", "over")?;
        let _servers = [db.serve(PORT)?, far.serve(PORT)?, far.serve(OTHER)?, web.serve(PORT)?];
        let of = |stage: &Stage, name: &str| stage.ipv4(name, "over");
        let (db_ip, far_ip, web_ip) = (of(one, "db")?, of(&two, "far")?, of(one, "web")?);
        for from in [&web, &intruder, &far] {
            reach(from, db_ip, PORT, true)?;
        }
        reach(&db, far_ip, PORT, true)?;

        one.agent.apply(DB_FROM_WEB)?;
        reach(&web, db_ip, PORT, true)?;
        reach(&intruder, db_ip, PORT, false)?;
        reach(&db, web_ip, PORT, false)?;
        reach(&db, far_ip, PORT, false)?;
        let dropped = one.metric(
            "palisade_dropped_packets_total",
            &["source=\"intruder\"", "destination=\"db\"", "port=\"7000\""],
        )?;
        ensure!(dropped >= 1, "no drop of intruder -> db counted");
        // Another node's labels are not known here: what comes from there is an address.
        reach(&far, db_ip, PORT, false)?;
        one.agent.apply(
            &DB_FROM_WEB.replace("{selector: app == 'web'}", &format!("{{nets: [{far_ip}/32]}}")),
        )?;
        reach(&far, db_ip, PORT, true)?;
        reach(&web, db_ip, PORT, false)?;

        // What stays closed is the engine's way in for services, and nothing else.
        for stage in [one, &two] {
            let all = stage.agent.endpoints()?;
            let pending = all.iter().filter(|it| it.state != EndpointState::Enforcing);
            let closed: Vec<_> = pending.collect();
            let mesh = |it: &&EndpointStatus| {
                stage.lab.host().ip(&["link", "show", &it.interface]).is_ok()
            };
            ensure!(closed.len() == 1 && closed.iter().all(mesh), "{closed:#?}");
        }

        // And that node enforces its own.
        two.agent.apply(
            &DB_FROM_WEB.replace("app == 'db'", "app == 'web'").replace("'web'}", "'none'}"),
        )?;
        reach(&intruder, far_ip, OTHER, false)?;
        let status = two.enforcing("far", "over")?;
        ensure!(status.note.is_none(), "{status:?}");
        Ok(())
    });
}

#[test]
fn the_second_interface_of_an_overlay_container_is_fenced_too() {
    play(&[], &[], |one| {
        let _two = swarm(one)?;
        let lan = one.lab.bridge("lan", &["10.99.0.1/24"])?;
        let outside = one.lab.workload("outside", &lan, &["10.99.0.2/24"])?;
        let netns = policy_test::netns::NetNs::named(outside.netns().name())?;
        let server = Container { name: "outside".into(), netns };
        let _servers = [server.serve(PORT)?, server.serve(OTHER)?];
        let to: IpAddr = "10.99.0.2".parse()?;
        let shut = one.container("shut", "shut", "over")?;
        one.enforcing("shut", GATEWAY)?;
        reach(&shut, to, OTHER, true)?;
        one.agent.apply(SHUT)?;
        reach(&shut, to, PORT, true)?;
        reach(&shut, to, OTHER, false)?;
        // Nor is there a way in from the host past it.
        let gateway = one.agent.endpoints()?;
        let gateway = gateway.iter().find(|it| it.name == "shut" && it.network == GATEWAY);
        let address = *gateway.context("it was there")?.addresses.first().context("an address")?;
        let _server = shut.serve(PORT)?;
        let to = SocketAddr::new(address, PORT);
        ensure!(one.lab.host().try_tcp(to, LIMIT)? == Reach::Answered, "the host, as yet");
        one.agent.apply(&SHUT.replace("[Egress]", "[Ingress, Egress]"))?;
        ensure!(one.lab.host().try_tcp(to, SHORT)? == Reach::Silent, "the host, then");
        Ok(())
    });
}

#[test]
fn no_overlay_container_gets_a_first_packet_through_and_the_fence_outlives_the_agent() {
    play(&[], &[], |one| {
        let two = swarm(one)?;
        one.import_probe()?;
        one.agent.apply(SHUT)?;
        let far = two.container("far", "far", "over")?;
        let _servers = [far.serve(PORT)?, far.serve(OTHER)?];
        let far_ip = two.ipv4("far", "over")?;
        let tap = Tap::open(&far.netns, OTHER)?;
        let (allowed, forbidden) = (format!("{far_ip}:{PORT}"), format!("{far_ip}:{OTHER}"));
        for round in 0..rounds(15, 150) {
            let said = one.engine.docker(&[
                "run",
                "--rm",
                "--network",
                "over",
                "--label",
                "app=shut",
                PROBE,
                "/probe",
                &allowed,
                &forbidden,
            ])?;
            ensure!(said.trim().parse::<u64>().is_ok(), "round {round}: the probe said {said:?}");
            let frames = tap.frames()?;
            ensure!(frames == 0, "round {round}: {frames} forbidden frames arrived");
        }

        let shut = one.container("shut", "shut", "over")?;
        one.agent.kill()?;
        reach(&shut, far_ip, PORT, true)?;
        reach(&shut, far_ip, OTHER, false)?;
        one.agent.start()?;
        one.enforcing("shut", "over")?;
        reach(&shut, far_ip, PORT, true)?;
        reach(&shut, far_ip, OTHER, false)?;
        ensure!(tap.frames()? == 0, "forbidden frames arrived");

        // The container goes, and nothing of it stays.
        drop(shut);
        one.engine.remove_container("shut")?;
        one.agent.wait_endpoints("no enforced endpoint", |all| {
            all.iter().all(|it| it.state != EndpointState::Enforcing)
        })?;
        let links = format!("v{}/links", policy_common::abi::ABI_VERSION);
        let links = one.agent.bpffs_dir().join(links);
        wait::until("the marks to go", LIMIT, || {
            let names = std::fs::read_dir(&links).into_iter().flatten().flatten();
            !names.map(|it| it.file_name()).any(|it| it.to_string_lossy().contains("inside"))
        })
    });
}

#[test]
fn the_tasks_of_a_service_are_fenced_like_any_container() {
    play(&[], &[], |one| {
        let _two = swarm(one)?;
        one.engine.docker(&[
            "service",
            "create",
            "--detach",
            "--no-resolve-image",
            "--name",
            "site",
            "--network",
            "over",
            "--endpoint-mode",
            "dnsrr",
            "--constraint",
            "node.role==manager",
            "--container-label",
            "app=db",
            IMAGE,
            "sleep",
            "3600",
        ])?;
        let task = |all: &[EndpointStatus]| {
            let is = |it: &&EndpointStatus| {
                it.labels.get("app").is_some_and(|app| app == "db")
                    && it.network == "over"
                    && it.state == EndpointState::Enforcing
            };
            all.iter().find(is).cloned()
        };
        let all = one.agent.wait_endpoints("the task", |all| task(all).is_some())?;
        let task = task(&all).context("it was there just now")?;
        let site = one.found(&task.name, "over")?;
        let _server = site.serve(PORT)?;
        let web = one.container("web", "web", "over")?;
        let intruder = one.container("intruder", "intruder", "over")?;
        let to = *task.addresses.first().context("an address")?;
        reach(&intruder, to, PORT, true)?;
        one.agent.apply(DB_FROM_WEB)?;
        reach(&web, to, PORT, true)?;
        reach(&intruder, to, PORT, false)
    });
}
