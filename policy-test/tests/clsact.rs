//! The way of attaching that kernels before 6.6 have: clsact filters. They must enforce, stay when
//! the agent goes, be replaced rather than doubled when it comes back, and go when told.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use policy_api::messages::EndpointState;
use policy_test::{
    agent::{Agent, AgentOptions},
    lab::{Lab, Workload},
    net::{Reach, TcpEcho},
};

const LIMIT: Duration = Duration::from_millis(700);

fn endpoint(workload: &Workload, app: &str) -> Result<String> {
    let (v4, v6) = (workload.ipv4()?, workload.ipv6()?);
    Ok(format!(
        "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {{name: {app}, labels: {{app: {app}}}}}\n\
         spec: {{interfaceName: {}, ipNetworks: [\"{v4}/32\", \"{v6}/128\"]}}\n---\n",
        workload.host_interface()
    ))
}

/// Our filters on one side of an interface.
fn filters(lab: &Lab, interface: &str, side: &str) -> Result<usize> {
    let output = lab.host().output(
        std::process::Command::new("tc").args(["filter", "show", "dev", interface, side]),
    )?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter(|line| line.contains("_endpoint")).count())
}

fn fenced(agent: &Agent) -> Result<()> {
    agent.wait_endpoints("both endpoints are enforcing", |endpoints| {
        endpoints.len() == 2
            && endpoints.iter().all(|endpoint| endpoint.state == EndpointState::Enforcing)
    })?;
    Ok(())
}

#[test]
fn clsact_filters_enforce_survive_the_agent_are_replaced_and_go() -> Result<()> {
    let lab = Lab::new()?;
    let bridge = lab.bridge("br-lab", &["10.66.0.1/24", "fd66::1/64"])?;
    let web = lab.workload("web", &bridge, &["10.66.0.10/24", "fd66::10/64"])?;
    let db = lab.workload("db", &bridge, &["10.66.0.11/24", "fd66::11/64"])?;
    let open: SocketAddr = (db.ipv4()?, 5432).into();
    let closed: SocketAddr = (db.ipv6()?, 80).into();
    let _open = TcpEcho::start(db.netns(), open)?;
    let _closed = TcpEcho::start(db.netns(), closed)?;
    let reach = |to: SocketAddr| web.netns().try_tcp(to, LIMIT).context("trying TCP");

    let mut agent = AgentOptions::default().flags(&["--attachment", "clsact"]).start(&lab)?;
    let status = agent.status()?;
    assert!(
        status
            .features
            .iter()
            .any(|(name, value)| name == "attachment" && value == "clsact filters"),
        "{:?}",
        status.features
    );
    agent.apply(&format!("{}{}", endpoint(&web, "web")?, endpoint(&db, "db")?))?;
    fenced(&agent)?;
    assert_eq!(reach(open)?, Reach::Answered);
    assert_eq!(reach(closed)?, Reach::Answered);
    agent.apply(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: db}\n\
         spec: {selector: app == 'db', ingress: [{action: Allow, protocol: TCP, destination: {ports: [5432]}}]}\n",
    )?;
    let enforced = || -> Result<()> {
        assert_eq!(reach(open)?, Reach::Answered);
        assert_eq!(reach(closed)?, Reach::Silent);
        for side in ["ingress", "egress"] {
            assert_eq!(filters(&lab, db.host_interface(), side)?, 1, "filters on {side}");
        }
        Ok(())
    };
    enforced()?;

    agent.kill()?;
    enforced()?;
    agent.start()?;
    fenced(&agent)?;
    enforced()?;
    agent.terminate()?;
    enforced()?;

    agent.unload()?;
    for side in ["ingress", "egress"] {
        assert_eq!(filters(&lab, db.host_interface(), side)?, 0, "filters on {side}");
    }
    assert_eq!(reach(closed)?, Reach::Answered);
    Ok(())
}
