//! What policies mean, as tables: YAML and a few connections in, the deciding rule out.
//!
//! Each case goes through everything between the file and the map: the YAML reader, validation,
//! the evaluator, and the compiler with a simulated kernel, which must agree.
//!
//! The world of every case, beside the case's own resources:
//!
//! | name | namespace | labels | addresses | named ports |
//! |---|---|---|---|---|
//! | web | shop | app=web, zone=front | 10.0.0.1, fd00::1 | http=tcp/8080 |
//! | db | shop | app=db | 10.0.0.2, fd00::2 | http=tcp/5432, dns=udp/53 |
//! | bare | shop | none | 10.0.0.3 | none |
//! | blog | blog | app=web | 10.0.1.1, fd00:1::1 | none |
//!
//! The namespace `shop` has the label env=prod. 10.0.0.254 is the host; other addresses are the
//! world's.

use std::{net::IpAddr, sync::Arc};

use policy_api::{messages::Verdict, yaml};
use policy_common::abi::{Direction, VERDICT_ALLOW, VERDICT_RULE};

use crate::{
    compile::Compiler,
    evaluate::{self, Decision, Packet},
    host::Plane,
    model::{DefaultAction, EndpointId, EndpointSpec, Model},
    simulate::{Kernel, Outcome, Probe},
    validate::{self, Object},
};

mod kubernetes;
mod log;
mod rules;
mod selectors;
mod source_ports;
mod staged;
mod tiers;

const WORLD: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {env: prod}}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: web, namespace: shop, labels: {app: web, zone: front}}
spec:
  interfaceName: v-web
  ipNetworks: [10.0.0.1, 'fd00::1']
  ports: [{name: http, protocol: TCP, port: 8080}]
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: db, namespace: shop, labels: {app: db}}
spec:
  interfaceName: v-db
  ipNetworks: [10.0.0.2, 'fd00::2']
  ports: [{name: http, protocol: TCP, port: 5432}, {name: dns, protocol: UDP, port: 53}]
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: bare, namespace: shop}
spec: {interfaceName: v-bare, ipNetworks: [10.0.0.3]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: blog, namespace: blog, labels: {app: web}}
spec: {interfaceName: v-blog, ipNetworks: [10.0.1.1, 'fd00:1::1']}
";

const HOST: &str = "10.0.0.254";

/// A document of a Calico kind; `name` is `namespace/name` for those that are in one.
fn calico(kind: &str, name: &str, spec: &str) -> String {
    document("projectcalico.org/v3", kind, name, spec)
}

fn np(name: &str, spec: &str) -> String {
    calico("NetworkPolicy", name, spec)
}

fn gnp(name: &str, spec: &str) -> String {
    calico("GlobalNetworkPolicy", name, spec)
}

fn tier(name: &str, spec: &str) -> String {
    calico("Tier", name, spec)
}

fn knp(name: &str, spec: &str) -> String {
    document("networking.k8s.io/v1", "NetworkPolicy", name, spec)
}

/// A set with one label.
fn set(kind: &str, name: &str, label: &str, nets: &str) -> String {
    calico(kind, name, &format!("{{nets: {nets}}}")).replacen(
        "metadata: {",
        &format!("metadata: {{labels: {{{label}}}, "),
        1,
    )
}

fn document(version: &str, kind: &str, name: &str, spec: &str) -> String {
    let metadata = match name.split_once('/') {
        Some((namespace, name)) => format!("name: {name}, namespace: {namespace}"),
        None => format!("name: {name}"),
    };
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{{metadata}}}\nspec: {spec}\n")
}

fn model(documents: &[String]) -> Model {
    let text = [&[WORLD.to_owned()], documents].concat().join("---\n");
    let read =
        yaml::read("case.yaml", text.as_bytes()).unwrap_or_else(|e| panic!("{e:#?}\n{text}"));
    let objects: Vec<Object> = read
        .iter()
        .map(|document| {
            validate::decode(&document.value)
                .unwrap_or_else(|e| panic!("{e:#?}\n{}", document.value))
        })
        .collect();
    assert_eq!(validate::references(objects.iter()), []);
    let mut model =
        Model { host_addresses: [HOST.parse().unwrap()].into_iter().collect(), ..Model::default() };
    for object in objects {
        match object {
            Object::Policy(policy) => {
                model.policies.insert(policy.key.clone(), policy);
            }
            Object::Tier(tier) => {
                model.tiers.insert(tier.name.clone(), tier);
            }
            Object::NetworkSet(set) => {
                model.network_sets.insert((set.namespace.clone(), set.name.clone()), set);
            }
            Object::Namespace { name, labels } => {
                model.namespaces.insert(name, labels);
            }
            Object::WorkloadEndpoint(endpoint) => {
                let ifindex = 10 + u32::try_from(model.endpoints.len()).unwrap();
                let spec = EndpointSpec {
                    ifindex,
                    interface: endpoint.interface,
                    name: endpoint.name.clone(),
                    namespace: endpoint.namespace,
                    network: String::new(),
                    labels: endpoint.labels,
                    addresses: endpoint.addresses,
                    mac: endpoint.mac,
                    ports: endpoint.ports,
                    bridge: None,
                    plane: Plane::Workload,
                    adopt_until_ns: 0,
                };
                model.endpoints.insert(EndpointId(endpoint.name), Arc::new(spec));
            }
            Object::HostEndpoint(endpoint) => {
                model.host_endpoints.insert(endpoint.name.clone(), endpoint);
            }
        }
    }
    model
}

/// Checks connections, one a line: `in web > db tcp/80: allow p ingress[0]`.
///
/// `in` asks the destination, `out` the source. Ends are endpoints, by name (`web6` is its IPv6
/// address), `host`, or addresses. A service is `tcp/80`, `tcp/80<53` (from port 53, else from
/// 40000), `icmp/8` (type, code 0), `47` (number). The answer is the verdict, the policy or, for a
/// tier's default, the tier, and the rule; then `log` and policy and rule for each Log rule; then
/// `staged` and the answer that the staged policies would give, if they change what applies.
fn check(name: &str, documents: &[String], connections: &str) {
    check_model(name, &model(documents), connections);
}

fn check_model(name: &str, model: &Model, connections: &str) {
    let (mut compiler, mut kernel) = (Compiler::new(), Kernel::default());
    let planned = compiler.plan(model).unwrap();
    for op in &planned.plan.ops {
        kernel.apply(op);
    }
    compiler.commit(planned);
    let lines: Vec<&str> = connections.lines().map(str::trim).filter(|it| !it.is_empty()).collect();
    assert!(!lines.is_empty(), "{name}: no connections");
    for line in lines {
        let (question, expected) = line.split_once(": ").unwrap();
        let [way, source, ">", destination, service] =
            question.split_whitespace().collect::<Vec<_>>()[..]
        else {
            panic!("{name}: {line}");
        };
        let (direction, subject) = match way {
            "in" => (Direction::Ingress, destination),
            "out" => (Direction::Egress, source),
            _ => panic!("{name}: {line}"),
        };
        let id = EndpointId(subject.trim_end_matches('6').to_owned());
        let (protocol, port, source_port) = self::service(service);
        let [source, destination] = [source, destination].map(|end| address(model, end));
        let packet = Packet { source, destination, protocol, port, source_port };
        let decision = evaluate::evaluate(model, &packet, direction, &id).unwrap();
        let staged = evaluate::staged(model, &packet, direction, &id);
        let logged =
            decision.logged.iter().map(|rule| format!(" log {} {}", rule.policy, rule.rule));
        let mut found = answer(&decision) + &logged.collect::<String>();
        if let Some(staged) = &staged {
            found = format!("{found} staged {}", answer(staged));
        }
        let walk = decision.walk.join("\n  ");
        assert_eq!(found, expected.trim(), "{name}: {question}\n  {walk}");

        let ifindex = model.endpoints[&id].ifindex;
        let probe = Probe { ifindex, direction, source, destination, protocol, port, source_port };
        let Outcome::Decided { allow, rule, staged: word, log, .. } = kernel.look_up(&probe) else {
            panic!("{name}: {line}: {:?}", kernel.look_up(&probe));
        };
        let ids = compiler.ids();
        let expected = (decision.verdict == Verdict::Allow, Some(&decision.rule));
        assert_eq!((allow, ids.rule(rule)), expected, "{name}: {question}");
        assert_eq!(ids.log(log).unwrap_or_default(), decision.logged, "{name}: {question}");
        let pending =
            (word != 0).then(|| (word & VERDICT_ALLOW != 0, ids.rule(word & VERDICT_RULE)));
        let expected = staged.as_ref().map(|it| (it.verdict == Verdict::Allow, Some(&it.rule)));
        assert_eq!(pending, expected, "{name}: {question}");
    }
}

/// A decision as the tables write it.
fn answer(decision: &Decision) -> String {
    let verdict = if decision.verdict == Verdict::Allow { "allow" } else { "deny" };
    let rule = &decision.rule;
    let who = if rule.policy.is_empty() { &rule.tier } else { &rule.policy };
    let parts = [verdict, who, &rule.rule].into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(" ")
}

fn address(model: &Model, text: &str) -> IpAddr {
    if text == "host" {
        return HOST.parse().unwrap();
    }
    let six = text.ends_with('6');
    let id = EndpointId(text.trim_end_matches('6').to_owned());
    match model.endpoints.get(&id) {
        Some(endpoint) => *endpoint.addresses.iter().find(|it| it.is_ipv6() == six).unwrap(),
        None => text.parse().unwrap(),
    }
}

/// Protocol, port, source port.
fn service(text: &str) -> (u8, u16, u16) {
    let (text, source_port) = match text.split_once('<') {
        Some((text, port)) => (text, port.parse().unwrap()),
        None => (text, 40_000),
    };
    let Some((protocol, number)) = text.split_once('/') else {
        return (text.parse().unwrap(), 0, 0);
    };
    let number: u16 = number.parse().unwrap();
    match protocol {
        "tcp" => (6, number, source_port),
        "udp" => (17, number, source_port),
        "sctp" => (132, number, source_port),
        "icmp" => (1, number << 8, 0),
        "icmp6" => (58, number << 8, 0),
        _ => panic!("{text}"),
    }
}

fn zero_trust(mut model: Model) -> Model {
    model.settings.default_action = DefaultAction::Deny;
    model
}
