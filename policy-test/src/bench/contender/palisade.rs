//! Palisade: a real agent, real policies.
//!
//! Inputs: rules. Outputs: an agent in the host's namespace, the server (and the client, if asked
//! to) fenced, the rules as policies of [`RULES_PER_POLICY`].

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use policy_api::messages::EndpointState;
use serde_json::{Value, json};

use crate::{
    agent::{Agent, AgentOptions},
    bench::{
        contender::Contender,
        rules::Rule,
        topology::{INSIDE, OUTSIDE, Topology},
    },
    lab::Workload,
};

/// Upstream's bound is 1024; people write far less.
const RULES_PER_POLICY: usize = 100;
const ADDED: &str = "added";

/// The agent and what it enforces.
#[derive(Debug)]
pub(super) struct Palisade {
    agent: Agent,
}

impl Palisade {
    pub(super) fn enforce(on: &Topology, rules: &[Rule], both_ends: bool) -> Result<Self> {
        let mut resources = vec![endpoint(&on.server)];
        let mut flags = vec!["--bridge", INSIDE];
        if both_ends {
            resources.extend([endpoint(&on.client), client_policy()]);
            flags.extend(["--bridge", OUTSIDE]);
        }
        resources.extend(
            rules
                .chunks(RULES_PER_POLICY)
                .enumerate()
                .map(|(index, rules)| server_policy(&format!("p{index}"), index, rules)),
        );
        let agent = AgentOptions::default().flags(&flags).start(&on.lab)?;
        let body = json!({ "resources": resources }).to_string();
        let answer = agent.request("POST", "/v1/apply", Some(&body))?;
        ensure!(answer.status == 200, "apply: {}: {}", answer.status, answer.text());
        let fenced = if both_ends { 2 } else { 1 };
        agent.wait_endpoints("all endpoints to be enforced", |endpoints| {
            endpoints.len() == fenced
                && endpoints.iter().all(|it| it.state == EndpointState::Enforcing)
        })?;
        Ok(Self { agent })
    }
}

impl Contender for Palisade {
    fn admit(&self, source: Ipv4Addr) -> Result<()> {
        // JSON is YAML.
        self.agent.apply(&server_policy(ADDED, 0, &[Rule::Source(source)]).to_string()).map(drop)
    }

    fn dismiss(&self, _source: Ipv4Addr) -> Result<()> {
        let output = self.agent.policyctl(&["delete", "globalnetworkpolicy", ADDED])?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "delete: {}: {message}", output.status);
        Ok(())
    }

    fn dropped(&self) -> Result<u64> {
        parse_counter(&self.agent.metrics()?)
    }

    fn pid(&self) -> Option<u32> {
        self.agent.pid()
    }
}

fn server_policy(name: &str, order: usize, rules: &[Rule]) -> Value {
    let ingress: Vec<Value> = rules
        .iter()
        .map(|rule| match rule {
            Rule::Service { network, prefix, port } => json!({
                "action": "Allow", "protocol": "TCP",
                "source": {"nets": [format!("{network}/{prefix}")]},
                "destination": {"ports": [port]},
            }),
            Rule::Source(address) => {
                json!({"action": "Allow", "source": {"nets": [format!("{address}/32")]}})
            }
        })
        .collect();
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"order": order, "selector": "app == 'server'", "types": ["Ingress"],
                 "ingress": ingress},
    })
}

/// What a client may do that is a container.
fn client_policy() -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "client"},
        "spec": {"selector": "app == 'client'", "types": ["Egress"],
                 "egress": [{"action": "Allow", "destination": {"selector": "app == 'server'"}}]},
    })
}

fn endpoint(workload: &Workload) -> Value {
    let addresses = workload.interfaces()[0].addresses();
    let networks: Vec<String> = addresses.map(|address| format!("{address}/32")).collect();
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
        "metadata": {"name": workload.name(), "namespace": "bench",
                     "labels": {"app": workload.name()}},
        "spec": {"interfaceName": workload.host_interface(), "ipNetworks": networks},
    })
}

/// All drops, whatever for: in the topology nothing is sent that is not meant to be.
fn parse_counter(metrics: &str) -> Result<u64> {
    let series = metrics.lines().filter(|line| line.starts_with("palisade_dropped_packets_total{"));
    let counts = series.map(|line| {
        let (_, count) = line.rsplit_once(' ').context("a series ends with its value")?;
        count.parse::<u64>().with_context(|| format!("no count: {line}"))
    });
    counts.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{rules::rules, topology::CLIENT};

    #[test]
    fn drops_of_all_series_add_up_and_others_are_left_out() {
        let metrics = "palisade_dropped_packets_total{reason=\"policy\",rule=\"a b\"} 40\n\
                       palisade_dropped_packets_total{reason=\"other\"} 2\n\
                       palisade_dropped_bytes_total{reason=\"other\"} 900\n";
        assert_eq!(parse_counter(metrics).unwrap(), 42);
        assert_eq!(parse_counter("").unwrap(), 0);
    }

    #[test]
    fn all_rules_are_in_policies_of_the_stated_size() {
        let rules = rules(1_050, CLIENT);
        let policies: Vec<Value> =
            rules.chunks(RULES_PER_POLICY).map(|chunk| server_policy("p", 0, chunk)).collect();
        let counts: Vec<usize> = policies
            .iter()
            .map(|policy| policy["spec"]["ingress"].as_array().unwrap().len())
            .collect();
        assert_eq!(counts, [[100; 10].as_slice(), &[50]].concat());
        let last = &policies[10]["spec"]["ingress"][49];
        assert_eq!(last["source"]["nets"], json!(["10.80.1.2/32"]));
    }
}
