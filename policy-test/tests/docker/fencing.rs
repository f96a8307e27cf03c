//! Policies by label, on one bridge and on two: packets, `explain` and `observe` say the same.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use policy_test::net::Reach;

use crate::stage::{LIMIT, SHORT, Stage, play};

const WEB: u16 = 8080;
const DB: u16 = 5432;

/// web -> api -> db, nobody else to api and db, and db opens no connections itself.
const THREE_TIER: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: api, namespace: default}
spec:
  selector: app == 'api'
  ingress:
  - action: Allow
    protocol: TCP
    source: {selector: app == 'web'}
    destination: {ports: [8080]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: default}
spec:
  selector: app == 'db'
  types: [Ingress, Egress]
  ingress:
  - action: Allow
    protocol: TCP
    source: {selector: app == 'api'}
    destination: {ports: [5432]}
";

const DENY_ALL: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: deny-all}
spec:
  order: 5000
  selector: all()
  types: [Ingress, Egress]
";

/// In the same tier as `deny-all`, before it.
const KUBERNETES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-from-api, namespace: default}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: api}}}]
    ports: [{protocol: TCP, port: 5432}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api-to-db, namespace: default}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [api]}]}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: db}}}]
    ports: [{protocol: TCP, port: 5432}]
";

fn delete(stage: &Stage, target: &[&str]) -> Result<()> {
    let output = stage.agent.policyctl(&[&["delete"], target].concat())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn containers_on_one_bridge_are_fenced_by_label() {
    play(&[], &[], |stage| {
        stage.network("front", 1)?;
        let web = stage.container("web", "web", "front")?;
        let api = stage.container("api", "api", "front")?;
        let db = stage.container("db", "db", "front")?;
        let intruder = stage.container("intruder", "intruder", "front")?;
        let _servers = [web.serve(WEB)?, api.serve(WEB)?, db.serve(DB)?];

        let open = [(&web, &api, WEB), (&api, &db, DB), (&intruder, &db, DB), (&db, &web, WEB)];
        for (from, to, port) in open {
            stage.expect(from, to, "front", port, true)?;
        }

        let said = stage.agent.apply(THREE_TIER)?;
        ensure!(said.contains('2'), "two endpoints changed, said: {said}");
        for (from, to, port) in [(&web, &api, WEB), (&api, &db, DB), (&intruder, &web, WEB)] {
            stage.expect(from, to, "front", port, true)?;
        }
        let denied =
            [(&intruder, &api, WEB), (&intruder, &db, DB), (&web, &db, DB), (&db, &web, WEB)];
        for (from, to, port) in denied {
            stage.expect(from, to, "front", port, false)?;
            let rule = stage.observed(&from.name, &to.name, port)?;
            ensure!(rule.action == "deny", "{rule:?}");
        }
        let counted = stage.metric(
            "palisade_dropped_packets_total",
            &["source=\"intruder\"", "destination=\"db\"", "port=\"5432\"", "protocol=\"tcp\""],
        )?;
        // A SYN by each family at the least, and no more than the kernel sends in that time.
        ensure!((2..=4).contains(&counted), "{counted} drops of intruder -> db counted");

        delete(stage, &["netpol", "api", "db"])?;
        for (from, to, port) in open {
            stage.expect(from, to, "front", port, true)?;
        }
        Ok(())
    });
}

#[test]
fn default_deny_and_kubernetes_policies_by_pod_selector() {
    play(&[], &[], |stage| {
        stage.network("front", 1)?;
        let api = stage.container("api", "api", "front")?;
        let db = stage.container("db", "db", "front")?;
        let web = stage.container("web", "web", "front")?;
        let _servers = [api.serve(WEB)?, db.serve(DB)?, db.serve(WEB)?];

        stage.agent.apply(DENY_ALL)?;
        for (from, to, port) in [(&api, &db, DB), (&web, &db, DB), (&web, &api, WEB)] {
            stage.expect(from, to, "front", port, false)?;
            stage.observed(&from.name, &to.name, port)?;
        }
        for address in stage.addresses("db", "front")? {
            ensure!(api.netns.try_ping(address, SHORT)? == Reach::Silent, "ping {address}");
            let host = stage.lab.host().try_tcp(SocketAddr::new(address, DB), SHORT)?;
            ensure!(host == Reach::Silent, "the host reached {address}: {host:?}");
        }

        stage.agent.apply(KUBERNETES)?;
        stage.expect(&api, &db, "front", DB, true)?;
        for (from, to, port) in [(&api, &db, WEB), (&web, &db, DB), (&web, &api, WEB)] {
            stage.expect(from, to, "front", port, false)?;
        }

        delete(stage, &["gnp", "deny-all"])?;
        stage.expect(&api, &db, "front", DB, true)?;
        // The Kubernetes policies select db for ingress and api for egress, still.
        stage.expect(&api, &db, "front", WEB, false)?;
        stage.expect(&web, &api, "front", WEB, true)?;
        Ok(())
    });
}

#[test]
fn a_container_is_enforced_on_each_of_its_networks() {
    play(&[], &[], |stage| {
        stage.network("front", 1)?;
        stage.network("back", 2)?;
        let web = stage.container("web", "web", "front")?;
        let api = stage.container("api", "api", "front")?;
        let db = stage.container("db", "db", "back")?;
        stage.engine.docker(&["network", "connect", "back", "api"])?;
        stage.enforcing("api", "back")?;
        let _servers = [api.serve(WEB)?, db.serve(DB)?];
        stage.found("api", "back")?;

        stage.agent.apply(THREE_TIER)?;
        stage.expect(&web, &api, "front", WEB, true)?;
        stage.expect(&api, &db, "back", DB, true)?;
        // The other network is no way around.
        for address in stage.addresses("api", "back")? {
            let to = SocketAddr::new(address, WEB);
            ensure!(db.netns.try_tcp(to, SHORT)? == Reach::Silent, "db -> {to}");
        }
        // Named by the network that the interface is on.
        stage.agent.apply(
            "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: nothing-from-back}
spec:
  order: 1
  selector: has(palisade.io/network.front)
  ingress:
  - action: Deny
",
        )?;
        stage.expect(&web, &api, "front", WEB, false)?;
        stage.expect(&api, &db, "back", DB, true)?;
        delete(stage, &["gnp", "nothing-from-back"])?;

        stage.engine.docker(&["network", "disconnect", "back", "api"])?;
        stage.agent.wait_endpoints("api to leave back", |endpoints| {
            endpoints.iter().all(|e| e.name != "api" || e.network != "back")
        })?;
        let front = SocketAddr::new(stage.ipv4("api", "front")?, WEB);
        ensure!(web.netns.try_tcp(front, LIMIT)? == Reach::Answered, "api on front");
        Ok(())
    });
}
