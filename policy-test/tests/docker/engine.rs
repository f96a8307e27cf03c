//! The engine goes and comes back: running containers stay enforced.

use anyhow::{Result, ensure};
use policy_test::wait;

use crate::stage::{Container, LIMIT, Stage, play};

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

/// Nobody at all.
const CLOSED: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: default}
spec:
  selector: app == 'db'
  ingress: []
  types: [Ingress]
";

fn docker_healthy(stage: &Stage, healthy: bool) -> Result<String> {
    let what = if healthy { "Docker to be in step" } else { "Docker to be away" };
    wait::for_some(what, LIMIT, || {
        let status = stage.agent.status().ok()?;
        let docker = status.components.into_iter().find(|part| part.name == "docker")?;
        (docker.healthy == healthy).then_some(docker.detail)
    })
}

fn cast(stage: &Stage) -> Result<(Container, Container, Container)> {
    stage.network("front", 1)?;
    let web = stage.container("web", "web", "front")?;
    let intruder = stage.container("intruder", "intruder", "front")?;
    Ok((web, intruder, stage.container("db", "db", "front")?))
}

#[test]
fn with_live_restore_policies_can_be_changed_while_the_engine_is_away() {
    play(&["--live-restore"], &[], |stage| {
        let (web, intruder, db) = cast(stage)?;
        let server = stage.addresses("db", "front")?;
        let _echo = db.serve(PORT)?;
        stage.agent.apply(POLICY)?;
        for kill in [false, true] {
            if kill {
                stage.engine.kill()?;
            } else {
                stage.engine.stop()?;
            }
            let detail = docker_healthy(stage, false)?;
            ensure!(detail.contains("stay enforced"), "{detail}");
            web.expect(&server, PORT, true)?;
            intruder.expect(&server, PORT, false)?;
            stage.agent.apply(CLOSED)?;
            web.expect(&server, PORT, false)?;
            stage.agent.apply(POLICY)?;
            web.expect(&server, PORT, true)?;

            stage.engine.start()?;
            docker_healthy(stage, true)?;
            web.expect(&server, PORT, true)?;
            intruder.expect(&server, PORT, false)?;
            let late = stage.container("late", "intruder", "front")?;
            stage.expect(&late, &db, "front", PORT, false)?;
            stage.engine.remove_container("late")?;
        }
        Ok(())
    });
}

#[test]
fn without_live_restore_containers_are_enforced_again_when_they_are_started() {
    play(&[], &[], |stage| {
        let (web, intruder, db) = cast(stage)?;
        stage.agent.apply(POLICY)?;
        // Handles on the old namespaces would keep them.
        drop((web, intruder, db));
        stage.engine.stop()?;
        docker_healthy(stage, false)?;
        stage.engine.start()?;
        docker_healthy(stage, true)?;
        stage.agent.wait_endpoints("no running container", |endpoints| endpoints.is_empty())?;
        for name in ["web", "intruder", "db"] {
            stage.engine.docker(&["start", name])?;
            stage.enforcing(name, "front")?;
        }
        let db = stage.found("db", "front")?;
        let _echo = db.serve(PORT)?;
        stage.expect(&stage.found("web", "front")?, &db, "front", PORT, true)?;
        stage.expect(&stage.found("intruder", "front")?, &db, "front", PORT, false)
    });
}

#[test]
fn an_agent_that_starts_without_the_engine_keeps_what_it_found() {
    play(&["--live-restore"], &[], |stage| {
        let (web, intruder, db) = cast(stage)?;
        let server = stage.addresses("db", "front")?;
        let _echo = db.serve(PORT)?;
        stage.agent.apply(POLICY)?;
        stage.agent.kill()?;
        stage.engine.kill()?;
        stage.agent.start()?;
        web.expect(&server, PORT, true)?;
        intruder.expect(&server, PORT, false)?;

        let Err(refused) = stage.agent.apply(CLOSED) else {
            anyhow::bail!("applied, though nobody knows which containers there are");
        };
        let refused = format!("{refused:#}");
        ensure!(refused.contains("until Docker has been read"), "{refused}");
        web.expect(&server, PORT, true)?;

        stage.engine.start()?;
        docker_healthy(stage, true)?;
        stage.enforcing("web", "front")?;
        web.expect(&server, PORT, true)?;
        intruder.expect(&server, PORT, false)?;
        stage.agent.apply(CLOSED)?;
        web.expect(&server, PORT, false)
    });
}
