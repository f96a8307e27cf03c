//! What Docker does with containers and networks at run time, and what the agent makes of it.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use policy_api::messages::EndpointStatus;
use policy_test::wait;

use crate::{
    stage::{LIMIT, Stage, play},
    tap::Tap,
};

const PORT: u16 = 7000;

const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: default}
spec:
  selector: app == 'db'
  ingress:
  - action: Allow
    source: {selector: app == 'web'}
";

fn gone(stage: &Stage, name: &str) -> Result<()> {
    let what = format!("{name} to be gone");
    stage
        .agent
        .wait_endpoints(&what, |endpoints| endpoints.iter().all(|e| e.name != name))
        .map(drop)
}

#[test]
fn containers_are_followed_through_their_lives() {
    play(&[], &[], |stage| {
        stage.network("front", 1)?;
        let web = stage.container("web", "web", "front")?;
        let db = stage.container("db", "db", "front")?;
        let server = db.serve(PORT)?;
        stage.agent.apply(POLICY)?;
        stage.expect(&web, &db, "front", PORT, true)?;

        // Without labels: enforced, and nobody that a policy would know.
        let plain = stage.container_with("plain", "front", &[])?;
        let status = stage.enforcing("plain", "front")?;
        ensure!(!status.labels.contains_key("app"), "{status:?}");
        ensure!(status.labels.get("palisade.io/name").is_some_and(|name| name == "plain"));
        stage.expect(&plain, &db, "front", PORT, false)?;

        stage.engine.docker(&["rename", "web", "site"])?;
        let site = stage.enforcing("site", "front")?;
        ensure!(site.labels.get("palisade.io/name").is_some_and(|name| name == "site"));
        let site = stage.found("site", "front")?;
        stage.expect(&site, &db, "front", PORT, true)?;

        // Stopped and started: another namespace, another interface, the same labels.
        stage.engine.stop_container("site")?;
        gone(stage, "site")?;
        stage.engine.docker(&["start", "site"])?;
        stage.enforcing("site", "front")?;
        stage.expect(&stage.found("site", "front")?, &db, "front", PORT, true)?;
        drop(server);
        stage.engine.stop_container("db")?;
        gone(stage, "db")?;
        stage.engine.docker(&["start", "db"])?;
        stage.enforcing("db", "front")?;
        let db = stage.found("db", "front")?;
        let _server = db.serve(PORT)?;
        stage.expect(&stage.found("site", "front")?, &db, "front", PORT, true)?;
        stage.expect(&plain, &db, "front", PORT, false)?;

        // On Docker's own bridge.
        let other = ["--label", "app=web"];
        stage.engine.run("on-docker0", &other, &["sleep", "3600"])?;
        stage.enforcing("on-docker0", "bridge")?;
        stage.engine.remove_container("on-docker0")?;
        gone(stage, "on-docker0")
    });
}

#[test]
fn networks_come_and_go() {
    play(&[], &[], |stage| {
        stage.agent.apply(POLICY)?;
        for round in 0..2 {
            stage.network("late", 9)?;
            let web = stage.container("web", "web", "late")?;
            let intruder = stage.container("intruder", "intruder", "late")?;
            let db = stage.container("db", "db", "late")?;
            let _server = db.serve(PORT)?;
            stage.expect(&web, &db, "late", PORT, true)?;
            stage.expect(&intruder, &db, "late", PORT, false)?;
            for name in ["web", "intruder", "db"] {
                stage.engine.remove_container(name)?;
            }
            stage.engine.docker(&["network", "rm", "late"])?;
            stage.agent.wait_endpoints("no endpoint", <[EndpointStatus]>::is_empty)?;
            let pins =
                stage.agent.bpffs_dir().join(format!("v{}/links", policy_common::abi::ABI_VERSION));
            // What is left are the guards of docker0.
            wait::until(&format!("the pins of round {round} to go"), LIMIT, || {
                std::fs::read_dir(&pins).is_ok_and(|entries| entries.count() == 2)
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_flow_does_not_pass_to_the_next_owner_of_an_address() {
    play(&[], &[], |stage| {
        stage.network("front", 1)?;
        let ip = "10.80.1.66";
        let web = stage.container_with("web", "front", &["--label", "app=web", "--ip", ip])?;
        let db = stage.container("db", "db", "front")?;
        stage.agent.apply(POLICY)?;
        let tap = Tap::open(&db.netns, PORT)?;
        let to = SocketAddr::new(stage.ipv4("db", "front")?, PORT);
        let from = SocketAddr::new(ip.parse()?, 40_000);
        let send = |container: &crate::stage::Container| -> Result<()> {
            let socket = container.netns.udp_bind(from)?;
            for _ in 0..5 {
                socket.send_to(b"datagram", to)?;
            }
            Ok(())
        };
        send(&web)?;
        wait::until("web's datagrams", LIMIT, || tap.frames().is_ok_and(|frames| frames == 5))?;

        let drops = || stage.metric("palisade_dropped_packets_total", &["port=\"7000\""]);
        let before = drops()?;
        stage.engine.remove_container("web")?;
        let options = ["--label", "app=intruder", "--ip", ip];
        let intruder = stage.container_with("intruder", "front", &options)?;
        send(&intruder)?;
        wait::until("the intruder's datagrams to be dropped", LIMIT, || {
            drops().is_ok_and(|now| now == before + 5)
        })?;
        ensure!(tap.frames()? == 5, "the intruder used web's flow");

        // And back: the right to send comes with the label.
        stage.engine.remove_container("intruder")?;
        let web = stage.container_with("web", "front", &["--label", "app=web", "--ip", ip])?;
        send(&web)?;
        wait::until("the new web's datagrams", LIMIT, || {
            tap.frames().is_ok_and(|frames| frames == 10)
        })
    });
}
