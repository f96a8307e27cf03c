//! The example policies do what their tables say: by the reference evaluator, by the compiled maps,
//! and, for the three tiers, by the packets of real sockets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use policy_api::messages::{EndpointState, ExplainRequest, Explanation, Verdict};
use policy_common::abi::Direction;
use policy_core::{
    compile::Compiler,
    explain::explain,
    model::Model,
    simulate::{Kernel, Outcome, Probe},
};
use policy_test::{
    agent::AgentOptions,
    examples::{self, HOST, Row, Service, Table},
    lab::Lab,
    net::{Reach, TcpEcho, UdpEcho},
};
use serde::Deserialize;

/// An example that is not here was deleted or renamed without a thought for those who point to it.
const EXAMPLES: [&str; 9] = [
    "allow-dns",
    "block-metadata-address",
    "default-deny",
    "egress-only-to-cidr",
    "kubernetes",
    "named-ports",
    "security-tier",
    "three-tier",
    "uplink-block-list",
];
const TCP: u8 = 6;
/// For answers that must come.
const LIMIT: Duration = Duration::from_secs(5);
/// For answers that must not come.
const SHORT: Duration = Duration::from_millis(300);

fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = fs::read_dir(examples::folder().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort_unstable();
    folders
}

fn load(folder: &Path) -> (Table, Model) {
    let table = Table::read(folder).unwrap();
    let model = table.model(examples::policies(folder).unwrap()).unwrap();
    (table, model)
}

/// The evaluator's answers to a row; several if an end has several names.
fn explanations(table: &Table, model: &Model, row: &Row) -> Vec<Explanation> {
    let sources = table.ends(&row.from);
    assert!(!sources.is_empty(), "{row:?}: no such source");
    let ask = |source: &String| {
        let request = ExplainRequest {
            source: source.clone(),
            destination: row.to.clone(),
            protocol: row.port.protocol,
            port: row.port.port,
            source_port: None,
        };
        explain(model, &request).unwrap_or_else(|error| panic!("{row:?}: {error}"))
    };
    sources.iter().map(ask).collect()
}

#[test]
fn every_example_has_its_table() {
    let names: Vec<String> = folders()
        .iter()
        .map(|folder| folder.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, EXAMPLES);
    for folder in folders() {
        let table = Table::read(&folder).unwrap();
        for verdict in [Verdict::Allow, Verdict::Deny] {
            let has = table.verdicts.iter().any(|row| row.verdict == verdict);
            assert!(has, "{}: no row is {verdict:?}", folder.display());
        }
    }
}

#[test]
fn the_evaluator_decides_as_the_tables_say() {
    for folder in folders() {
        let (table, model) = load(&folder);
        for row in &table.verdicts {
            for explanation in explanations(&table, &model, row) {
                for path in &explanation.paths {
                    assert_eq!(path.verdict, row.verdict, "{}: {row:?}", folder.display());
                    let alone = Explanation { verdict: path.verdict, paths: vec![path.clone()] };
                    let by = examples::decider(&alone);
                    assert_eq!(by, row.by, "{}: {row:?}", folder.display());
                }
            }
        }
    }
}

#[test]
fn the_compiled_maps_decide_as_the_tables_say() {
    for folder in folders() {
        let (table, model) = load(&folder);
        let mut compiler = Compiler::new();
        let planned = compiler.plan(&model).unwrap();
        let mut kernel = Kernel::default();
        planned.plan.ops.iter().for_each(|op| kernel.apply(op));
        compiler.commit(planned);
        for row in &table.verdicts {
            for path in explanations(&table, &model, row).iter().flat_map(|it| &it.paths) {
                let (verdict, by) =
                    simulate(&model, &compiler, &kernel, path.source, path.destination, row.port);
                assert_eq!(verdict, row.verdict, "{}: {row:?}", folder.display());
                assert_eq!(by, row.by, "{}: {row:?}", folder.display());
            }
        }
    }
}

/// A packet through the maps: the uplinks if it comes from elsewhere, the sender, the receiver.
fn simulate(
    model: &Model,
    compiler: &Compiler,
    kernel: &Kernel,
    source: IpAddr,
    destination: IpAddr,
    service: Service,
) -> (Verdict, Option<String>) {
    let name = |rule: u32| Some(examples::rule_text(compiler.ids().rule(rule).unwrap()));
    let endpoint = |address: IpAddr| {
        model.endpoints.values().find(|endpoint| endpoint.addresses.contains(&address))
    };
    if endpoint(source).is_none() {
        let blocked = model.uplinks.keys().find_map(|&uplink| kernel.blocked(uplink, source));
        if let Some(rule) = blocked {
            return (Verdict::Deny, name(rule));
        }
    }
    let mut by = None;
    for (end, direction) in [(source, Direction::Egress), (destination, Direction::Ingress)] {
        let Some(endpoint) = endpoint(end) else { continue };
        let outcome = kernel.look_up(&Probe {
            ifindex: endpoint.ifindex,
            direction,
            source,
            destination,
            protocol: service.protocol,
            port: service.port,
            source_port: 40_000,
        });
        let Outcome::Decided { allow, rule, .. } = outcome else { panic!("{outcome:?}") };
        by = name(rule);
        if !allow {
            return (Verdict::Deny, by);
        }
    }
    (Verdict::Allow, by)
}

#[test]
fn packets_of_the_three_tiers_go_as_the_table_says() {
    const BRIDGE: &str = "br-shop";
    let folder = examples::folder().unwrap().join("three-tier");
    let table = Table::read(&folder).unwrap();
    let lab = Lab::new().unwrap();
    let with_prefix = |address: &IpAddr| match address {
        IpAddr::V4(_) => format!("{address}/24"),
        IpAddr::V6(_) => format!("{address}/64"),
    };
    let host: Vec<String> = table.host.iter().map(with_prefix).collect();
    let host: Vec<&str> = host.iter().map(String::as_str).collect();
    let bridge = lab.bridge(BRIDGE, &host).unwrap();
    let agent = AgentOptions::default().flags(&["--bridge", BRIDGE]).start(&lab).unwrap();
    agent.apply(&table.workload_endpoints().unwrap()).unwrap();
    let workloads: BTreeMap<&str, _> = table
        .endpoints
        .iter()
        .map(|endpoint| {
            let addresses: Vec<String> = endpoint.addresses.iter().map(with_prefix).collect();
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            (endpoint.name.as_str(), lab.workload(&endpoint.name, &bridge, &addresses).unwrap())
        })
        .collect();
    agent
        .wait_endpoints("the endpoints to be enforced", |endpoints| {
            endpoints.len() == workloads.len()
                && endpoints.iter().all(|endpoint| endpoint.state == EndpointState::Enforcing)
        })
        .unwrap();
    let output = agent.policyctl(&["apply", "-f", folder.to_str().unwrap()]).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "the example gives warnings");

    let mut tried = 0;
    for row in &table.verdicts {
        // Addresses of the world are not in the lab.
        let (Some(to), true) = (
            workloads.get(row.to.as_str()),
            row.from == HOST || workloads.contains_key(&*row.from),
        ) else {
            continue;
        };
        let from = workloads.get(row.from.as_str()).map_or(lab.host(), |from| from.netns());
        for address in [to.ipv4().unwrap(), to.ipv6().unwrap()] {
            let server = SocketAddr::new(address, row.port.port);
            let limit = if row.verdict == Verdict::Allow { LIMIT } else { SHORT };
            let (reach, arrived) = if row.port.protocol == TCP {
                let echo = TcpEcho::start(to.netns(), server).unwrap();
                (from.try_tcp(server, limit).unwrap(), echo.connections())
            } else {
                let echo = UdpEcho::start(to.netns(), server).unwrap();
                (from.try_udp(server, limit).unwrap(), echo.received())
            };
            let expected = match row.verdict {
                Verdict::Allow => (Reach::Answered, 1),
                Verdict::Deny => (Reach::Silent, 0),
            };
            assert_eq!((reach, arrived), expected, "{row:?} at {address}");
            tried += 1;
        }
    }
    assert!(tried >= 34, "only {tried} connections");
}

/// As much of a Compose file as the labels need.
#[derive(Debug, Deserialize)]
struct Compose {
    name: String,
    services: BTreeMap<String, ComposeService>,
}

#[derive(Debug, Deserialize)]
struct ComposeService {
    labels: BTreeMap<String, String>,
    #[serde(default)]
    networks: Vec<String>,
}

#[test]
fn the_compose_file_has_the_labels_that_the_policies_select() {
    let policies = examples::folder().unwrap();
    let path = policies.parent().unwrap().join("compose/docker-compose.yml");
    let compose: Compose = serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let table = Table::read(&policies.join("three-tier")).unwrap();
    assert_eq!(compose.services.len(), table.endpoints.len());
    for endpoint in &table.endpoints {
        assert_eq!(endpoint.namespace, compose.name, "the project is the namespace");
        let service = &compose.services[&endpoint.name];
        assert_eq!(service.labels, endpoint.labels, "{}", endpoint.name);
        // All on one network: it is the policies that keep them apart.
        assert_eq!(service.networks, ["shop"], "{}", endpoint.name);
    }
}
