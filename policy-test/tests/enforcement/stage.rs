//! Four workloads on one bridge with an agent beside them, and tables of what may pass.
//!
//! Inputs: flags for the agent, policies, tables. Outputs: a [`Stage`]; a failure where packets,
//! `policyctl explain` and the metrics do not agree with a table or with each other.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use policy_api::{
    flow::FlowRecord,
    messages::{EndpointState, Explanation, Verdict},
};
use policy_test::{
    agent::{Agent, AgentOptions},
    lab::{Bridge, Lab, Workload},
    net::{Reach, TcpEcho, UdpEcho},
    netns::NetNs,
};

/// For what has to come, however busy the machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// For what must not come; less than TCP waits before it sends a SYN again (RFC 6298: 1 s), so
/// that every attempt is one packet.
pub(crate) const SHORT: Duration = Duration::from_millis(300);
/// The host's addresses on the bridge.
pub(crate) const HOST: [&str; 2] = ["10.77.0.1", "fd77::1"];

/// Which family a table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    V4,
    V6,
    Both,
}

/// The workloads `web`, `api`, `db` (namespace `shop`) and `bad` (namespace `other`), each with
/// the label `app` that says its name; `db` calls 5432/tcp `pg` and 5353/udp `names`.
pub(crate) struct Stage {
    pub(crate) agent: Agent,
    pub(crate) workloads: BTreeMap<&'static str, Workload>,
    pub(crate) lab: Lab,
}

/// Workload, namespace, last number of its addresses.
const CAST: [(&str, &str, u8); 4] =
    [("web", "shop", 2), ("api", "shop", 3), ("db", "shop", 4), ("bad", "other", 5)];

/// The bridge `br-lab`.
pub(crate) fn bridge(lab: &Lab) -> Bridge {
    lab.bridge("br-lab", &["10.77.0.1/24", "fd77::1/64"]).unwrap()
}

/// The workloads on it.
pub(crate) fn cast(lab: &Lab, bridge: &Bridge) -> BTreeMap<&'static str, Workload> {
    let join = |(name, _, number)| {
        let addresses = [format!("10.77.0.{number}/24"), format!("fd77::{number}/64")];
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        (name, lab.workload(name, bridge, &addresses).unwrap())
    };
    CAST.into_iter().map(join).collect()
}

/// The resource that fences a workload.
pub(crate) fn endpoint(workload: &Workload, namespace: &str, ports: &str) -> String {
    let addresses: Vec<String> = workload.interfaces()[0].addresses().map(host_net).collect();
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}, fenced: 'yes'}}}}\n\
         spec: {{interfaceName: {interface}, ipNetworks: [{addresses}], ports: [{ports}]}}\n",
        name = workload.name(),
        interface = workload.host_interface(),
        addresses = addresses.join(", "),
    )
}

fn host_net(address: IpAddr) -> String {
    format!("'{address}/{}'", if address.is_ipv4() { 32 } else { 128 })
}

/// Fences the workloads.
pub(crate) fn fence(agent: &Agent, workloads: &BTreeMap<&'static str, Workload>) {
    let ports = |name| match name {
        "db" => "{name: pg, protocol: TCP, port: 5432}, {name: names, protocol: UDP, port: 5353}",
        _ => "",
    };
    let yaml = CAST.map(|(name, namespace, _)| endpoint(&workloads[name], namespace, ports(name)));
    agent.apply(&yaml.concat()).unwrap();
    agent
        .wait_endpoints("all endpoints to be enforced", |endpoints| {
            endpoints.len() == CAST.len()
                && endpoints.iter().all(|it| it.state == EndpointState::Enforcing)
        })
        .unwrap();
}

impl Stage {
    pub(crate) fn new(flags: &[&str]) -> Self {
        let lab = Lab::new().unwrap();
        let workloads = cast(&lab, &bridge(&lab));
        let agent = AgentOptions::default()
            .flags(&["--bridge", "br-lab"])
            .flags(flags)
            .start(&lab)
            .unwrap();
        fence(&agent, &workloads);
        Self { agent, workloads, lab }
    }

    /// Applies resources.
    pub(crate) fn apply(&self, yaml: &str) {
        self.agent.apply(yaml).unwrap_or_else(|error| panic!("{error:#}\n{yaml}"));
    }

    /// Removes policies by their kind and names.
    pub(crate) fn delete(&self, arguments: &[&str]) {
        let output = self.agent.policyctl(&[&["delete"], arguments].concat()).unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// The namespace of a workload, or the host's.
    pub(crate) fn netns(&self, name: &str) -> &NetNs {
        if name == "host" { self.lab.host() } else { self.workloads[name].netns() }
    }

    /// An address of a workload or of the host.
    pub(crate) fn address(&self, name: &str, over: Over) -> IpAddr {
        match (name, over) {
            ("host", Over::V6) => HOST[1].parse().unwrap(),
            ("host", _) => HOST[0].parse().unwrap(),
            (_, Over::V6) => self.workloads[name].ipv6().unwrap(),
            _ => self.workloads[name].ipv4().unwrap(),
        }
    }

    /// Holds a table against packets, explanation and counters. A line is
    /// `FROM TO SERVICE allow`, or `FROM TO SERVICE deny DIRECTION POLICY RULE` where the policy
    /// is `NAMESPACE/NAME` (`/NAME` for a global one), or `-` for none; services are `5432/tcp`, `53/udp`,
    /// `ping`.
    pub(crate) fn check(&self, over: Over, table: &str) {
        let families = match over {
            Over::Both => [Some(Over::V4), Some(Over::V6)],
            one => [Some(one), None],
        };
        for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [from, to, service, verdict, ref why @ ..] = words[..] else {
                panic!("no line of a table: {line}")
            };
            for family in families.into_iter().flatten() {
                let case = format!("{line} ({family:?})");
                let attempt = Attempt { stage: self, from, to, service, family, case: &case };
                match verdict {
                    "allow" => attempt.allowed(),
                    "deny" => attempt.denied(why),
                    other => panic!("no verdict: {other}"),
                }
            }
        }
    }

    /// Whether a service answers, waiting no longer than for what must not come.
    pub(crate) fn reaches(&self, from: &str, to: &str, service: &str, family: Over) -> bool {
        let case = format!("{from} {to} {service} ({family:?})");
        let attempt = Attempt { stage: self, from, to, service, family, case: &case };
        attempt.attempt(SHORT).0 == Reach::Answered
    }

    /// What `policyctl explain` says, with its exit code.
    pub(crate) fn explain(
        &self,
        from: &str,
        to: &str,
        service: &str,
    ) -> (Option<i32>, Explanation) {
        let output = self.agent.policyctl(&["explain", from, to, service, "-o", "json"]).unwrap();
        let explanation = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("explain {from} {to} {service}: {error}: {output:?}"));
        (output.status.code(), explanation)
    }

    /// What `policyctl observe` prints, as records.
    pub(crate) fn observe(&self, arguments: &[&str]) -> Vec<FlowRecord> {
        let words = [&["observe", "-o", "json"], arguments].concat();
        let output = self.agent.policyctl(&words).unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Packets dropped so far, by series.
    pub(crate) fn drops(&self) -> Drops {
        Drops::read(&self.agent)
    }
}

/// One row of a table in one family.
struct Attempt<'a> {
    stage: &'a Stage,
    from: &'a str,
    to: &'a str,
    service: &'a str,
    family: Over,
    case: &'a str,
}

/// How many requests the server has seen.
enum Server {
    Tcp(TcpEcho),
    Udp(UdpEcho),
    /// The kernel answers pings; nobody counts them.
    Kernel,
}

impl Server {
    fn seen(&self) -> Option<u64> {
        match self {
            Server::Tcp(echo) => Some(echo.connections()),
            Server::Udp(echo) => Some(echo.received()),
            Server::Kernel => None,
        }
    }
}

impl Attempt<'_> {
    /// Protocol and port as the metrics have them.
    fn labels(&self) -> (&str, &str) {
        match self.service.split_once('/') {
            Some((port, protocol)) => (protocol, port),
            None if self.family == Over::V6 => ("icmpv6", "128/0"),
            None => ("icmp", "8/0"),
        }
    }

    fn target(&self) -> SocketAddr {
        let port = self.service.split_once('/').map_or(0, |(port, _)| port.parse().unwrap());
        SocketAddr::new(self.stage.address(self.to, self.family), port)
    }

    fn attempt(&self, limit: Duration) -> (Reach, Option<u64>) {
        let (to, netns) = (self.target(), self.stage.netns(self.to));
        let from = self.stage.netns(self.from);
        let (reach, server) = match self.labels().0 {
            "tcp" => {
                let server = Server::Tcp(TcpEcho::start(netns, to).unwrap());
                (from.try_tcp(to, limit), server)
            }
            "udp" => {
                let server = Server::Udp(UdpEcho::start(netns, to).unwrap());
                (from.try_udp(to, limit), server)
            }
            _ => (from.try_ping(to.ip(), limit), Server::Kernel),
        };
        let reach = reach.unwrap_or_else(|error| panic!("{}: {error}", self.case));
        (reach, server.seen())
    }

    /// Exit code and what it says of this family.
    fn explained(&self) -> (Option<i32>, Explanation) {
        let source = self.stage.address(self.from, self.family).to_string();
        let service = match self.labels().0 {
            "icmp" => "icmp",
            "icmpv6" => "icmpv6",
            _ => self.service,
        };
        self.stage.explain(&source, &self.target().ip().to_string(), service)
    }

    fn allowed(&self) {
        let before = self.stage.drops();
        let (reach, seen) = self.attempt(LIMIT);
        let moved = self.stage.drops().since(&before);
        assert_eq!(reach, Reach::Answered, "{}: dropped: {moved:#?}", self.case);
        assert!(matches!(seen, None | Some(1)), "{}: seen {seen:?} times", self.case);
        let (code, explanation) = self.explained();
        assert_eq!(
            (code, explanation.verdict),
            (Some(0), Verdict::Allow),
            "{}: explained as {explanation:#?}",
            self.case
        );
        assert_eq!(moved.between(self.from, self.to), [], "{}", self.case);
    }

    fn denied(&self, why: &[&str]) {
        let [direction, policy, rule] = why else { panic!("{}: says not why", self.case) };
        let before = self.stage.drops();
        let (reach, seen) = self.attempt(SHORT);
        assert_eq!(reach, Reach::Silent, "{}", self.case);
        assert!(matches!(seen, None | Some(0)), "{}: seen {seen:?} times", self.case);

        let (code, explanation) = self.explained();
        assert_eq!((code, explanation.verdict), (Some(1), Verdict::Deny), "{}", self.case);
        let [path] = &explanation.paths[..] else { panic!("{}: {explanation:#?}", self.case) };
        let end = path.ends.iter().find(|end| end.verdict == Verdict::Deny).unwrap();
        let (namespace, policy) = policy.split_once('/').unwrap_or_default();
        assert_eq!(
            (end.direction.as_str(), end.rule.namespace.as_str(), end.rule.policy.as_str()),
            (*direction, namespace, policy),
            "{}: explained as {explanation:#?}",
            self.case
        );
        assert_eq!(end.rule.rule, *rule, "{}: explained as {explanation:#?}", self.case);

        let moved = self.stage.drops().since(&before);
        let (protocol, port) = self.labels();
        let series = Series::from([
            ("direction", *direction),
            ("reason", "policy"),
            ("source", self.from),
            ("source_namespace", namespace_of(self.from)),
            ("destination", self.to),
            ("destination_namespace", namespace_of(self.to)),
            ("protocol", protocol),
            ("port", port),
            ("tier", end.rule.tier.as_str()),
            ("policy_namespace", namespace),
            ("policy", policy),
            ("rule", *rule),
        ]);
        assert_eq!(moved.between(self.from, self.to), [(series, 1)], "{}", self.case);
    }
}

fn namespace_of(name: &str) -> &'static str {
    CAST.iter().find(|(workload, ..)| *workload == name).map_or("", |(_, namespace, _)| namespace)
}

/// The labels of a series.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Series(BTreeMap<String, String>);

impl<const N: usize> From<[(&str, &str); N]> for Series {
    fn from(labels: [(&str, &str); N]) -> Self {
        Self(labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

impl Series {
    pub(crate) fn get(&self, label: &str) -> &str {
        self.0.get(label).map_or("", String::as_str)
    }
}

/// Packets by series of `palisade_dropped_packets_total`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drops(BTreeMap<Series, u64>);

impl Drops {
    pub(crate) fn read(agent: &Agent) -> Self {
        Self::of(agent, "palisade_dropped_packets_total")
    }

    /// Another metric with the same names.
    pub(crate) fn of(agent: &Agent, metric: &str) -> Self {
        let text = agent.metrics().unwrap();
        let lines = text.lines().filter_map(|line| {
            let line = line.strip_prefix(metric)?.strip_prefix('{')?;
            let (labels, count) = line.rsplit_once("} ")?;
            // No name in these tests holds a comma or a quote.
            let labels = labels.split(',').map(|label| {
                let (name, value) = label.split_once('=').unwrap();
                (name.to_owned(), value.trim_matches('"').to_owned())
            });
            Some((Series(labels.collect()), count.parse().unwrap()))
        });
        Self(lines.collect())
    }

    /// What has been counted since.
    pub(crate) fn since(&self, before: &Drops) -> Drops {
        let moved = self.0.iter().map(|(series, now)| {
            let was = before.0.get(series).copied().unwrap_or_default();
            assert!(*now >= was, "{series:?} went back from {was} to {now}");
            (series.clone(), now - was)
        });
        Drops(moved.filter(|(_, count)| *count > 0).collect())
    }

    /// The series from one name to another.
    pub(crate) fn between(&self, from: &str, to: &str) -> Vec<(Series, u64)> {
        let ours = |(series, _): &(&Series, &u64)| {
            series.get("source") == from && series.get("destination") == to
        };
        self.0.iter().filter(ours).map(|(series, count)| (series.clone(), *count)).collect()
    }

    /// Packets that were dropped for a reason.
    pub(crate) fn for_reason(&self, reason: &str) -> u64 {
        self.0.iter().filter(|(it, _)| it.get("reason") == reason).map(|(_, count)| count).sum()
    }
}
