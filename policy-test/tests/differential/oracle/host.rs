//! Host endpoints, a second time.
//!
//! In: HostEndpoint documents, failsafe and published ports. Out: what becomes of a packet at the
//! uplink. Upstream: calico `felix/rules/endpoints.go` (which chains a host endpoint has, and their
//! ends), `felix/rules/static.go` (failsafe ports before the others, and before the translation).

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use policy_api::messages::RuleName;
use policy_common::abi::Direction;
use serde_json::Value;

use super::{
    Answer, Oracle, Pod, Policy, Reach, Walk,
    documents::{labels, ports, text},
    list, whole,
};
use crate::{
    coverage::Coverage,
    generate::{NODE, UPLINK},
    packets::Ask,
    set::PolicySet,
};

/// Where a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plane {
    Pod,
    Local,
    Forward,
    PreDnat,
}

impl Plane {
    /// Whether a policy that selects the endpoint has a say here.
    pub(super) fn is_of(self, policy: &Policy) -> bool {
        match self {
            Plane::Pod | Plane::Local => policy.reach != Reach::PreDnat,
            Plane::Forward => policy.reach == Reach::Forward,
            Plane::PreDnat => policy.reach == Reach::PreDnat,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Plane::Pod => "pod",
            Plane::Local => "local",
            Plane::Forward => "forward",
            Plane::PreDnat => "preDNAT",
        }
    }
}

impl Oracle {
    pub(super) fn read_hosts(&mut self, set: &PolicySet) -> Result<()> {
        let is_host = |document: &&Value| document["kind"] == "HostEndpoint";
        let mut documents: Vec<&Value> = set.resources.iter().filter(is_host).collect();
        documents.sort_by_key(|document| text(&document["metadata"]["name"]).to_owned());
        let interface = |document: &Value| text(&document["spec"]["interfaceName"]).to_owned();
        // Who names it goes before who takes what is left.
        let of_uplink = [UPLINK, "*"].iter().find_map(|name| {
            let mine = |it: &&&Value| text(&it["spec"]["node"]) == NODE && interface(it) == *name;
            documents.iter().find(mine)
        });
        if let Some(document) = of_uplink {
            let mut labels = labels(document);
            labels.insert("palisade.io/host".to_owned(), String::new());
            labels.insert("palisade.io/interface".to_owned(), UPLINK.to_owned());
            let pod = Pod {
                namespace: None,
                interface: UPLINK.to_owned(),
                addresses: set.host.clone(),
                labels,
                ports: ports(&document["spec"])?,
            };
            let allows = !list(&document["spec"]["profiles"]).is_empty();
            self.uplink = Some((pod, allows));
            self.failsafe.clone_from(&set.failsafe);
        }
        for document in documents {
            let expected = list(&document["spec"]["expectedIPs"]).iter();
            for address in expected.map(|it| text(it).parse::<IpAddr>()) {
                let address = address?;
                let mut labels = labels(document);
                if set.host.contains(&address) {
                    labels.insert("palisade.io/host".to_owned(), String::new());
                }
                self.others.push(Pod {
                    namespace: None,
                    interface: String::new(),
                    addresses: vec![address],
                    labels,
                    ports: ports(&document["spec"])?,
                });
            }
        }
        Ok(())
    }

    /// The host endpoint of the uplink.
    pub(crate) fn uplink(&self) -> Option<&Pod> {
        self.uplink.as_ref().map(|(pod, _)| pod)
    }

    /// The endpoint or host endpoint behind an address.
    pub(super) fn anybody_at(&self, address: IpAddr) -> Option<&Pod> {
        let other = || self.others.iter().find(|pod| pod.addresses.contains(&address));
        self.pod_at(address).or_else(other)
    }

    /// The port that a packet to the host goes to, if that is somebody else's.
    pub(crate) fn translated(&self, ask: &Ask) -> Option<u16> {
        let mut published = self.published.iter();
        let comes_in = ask.direction == Direction::Ingress && self.host.contains(&ask.destination);
        let mine = published.find(|it| (it.protocol, it.port) == (ask.protocol, ask.port));
        mine.filter(|_| comes_in).map(|it| it.to)
    }

    /// Whether the host passes a packet on if and only if it is said to.
    pub(crate) fn is_on_its_way(&self, ask: &Ask) -> bool {
        let passed_on = !self.host.contains(&ask.destination) || self.translated(ask).is_some();
        ask.direction == Direction::Egress || ask.forwarded == Some(passed_on)
    }

    fn is_safe(&self, inbound: bool, remote: IpAddr, protocol: u8, port: u16) -> bool {
        self.failsafe.iter().any(|safe| {
            let net = safe.net.as_ref().map(|net| net.parse::<IpNet>());
            (safe.inbound, safe.protocol, safe.port) == (inbound, protocol, port)
                && net.is_none_or(|net| net.is_ok_and(|net| net.contains(&remote)))
        })
    }

    /// Whether a block list leaves a packet alone: it is to a port that is left open, or an answer
    /// from one.
    pub(super) fn is_left_open(&self, ask: &Ask) -> bool {
        self.is_safe(true, ask.source, ask.protocol, ask.port)
            || self.is_safe(false, ask.source, ask.protocol, ask.source_port)
    }

    /// Whether the port is left open, and the packet with the port behind its translation.
    fn before(&self, ask: &Ask, forwarded: bool) -> (bool, Ask) {
        let inbound = ask.direction == Direction::Ingress;
        let remote = if inbound { ask.source } else { ask.destination };
        let safe = self.is_safe(inbound, remote, ask.protocol, ask.port);
        let port = self.translated(ask).filter(|_| forwarded).unwrap_or(ask.port);
        (safe, Ask { port, ..ask.clone() })
    }

    pub(super) fn at_host(
        &self,
        ask: &Ask,
        forwarded: bool,
        seen: &mut Coverage,
    ) -> Result<Answer> {
        let (safe, behind) = self.before(ask, forwarded);
        if ask.direction == Direction::Ingress
            && !safe
            && let Some(answer) = self.walk_in(Plane::PreDnat, ask, Walk::Enforced, seen)?
        {
            return Ok(answer);
        }
        if forwarded {
            if behind.port != ask.port {
                seen.decides("", "published port");
            }
            let answer = self.walk_in(Plane::Forward, &behind, Walk::Enforced, seen)?;
            // The host may see half of a connection that it only passes on.
            return Ok(Answer { adopts: true, ..answer.context("it decides")? });
        }
        if safe {
            seen.decides("", "failsafe");
            return Ok(Answer { adopts: true, ..whole("failsafe", true, Vec::new()) });
        }
        self.walk_in(Plane::Local, ask, Walk::Enforced, seen)?.context("it decides")
    }

    /// What would become of it; neither failsafe ports nor `preDNAT` policies can be staged.
    pub(super) fn staged_at_host(
        &self,
        ask: &Ask,
        forwarded: bool,
        seen: &mut Coverage,
    ) -> Result<Option<Answer>> {
        let (safe, behind) = self.before(ask, forwarded);
        let first = || self.walk_in(Plane::PreDnat, ask, Walk::Enforced, &mut Coverage::default());
        match (forwarded, safe) {
            (false, true) => Ok(None),
            (_, false) if ask.direction == Direction::Ingress && first()?.is_some() => Ok(None),
            (true, _) => self.staged_in(Plane::Forward, &behind, seen),
            (false, false) => self.staged_in(Plane::Local, ask, seen),
        }
    }

    /// Nothing, if nothing decides and others are asked afterwards.
    pub(super) fn walk_in(
        &self,
        plane: Plane,
        ask: &Ask,
        walk: Walk,
        seen: &mut Coverage,
    ) -> Result<Option<Answer>> {
        let (pod, allows) = self.uplink.as_ref().context("a host endpoint is asked")?;
        let mut logged: Vec<RuleName> = Vec::new();
        for tier in &self.tiers {
            if let Some((allow, rule)) =
                self.tier((tier, plane, walk), pod, ask, &mut logged, seen)?
            {
                return Ok(Some(Answer { allow, rule, logged, adopts: false }));
            }
        }
        let (said, answer) = match plane {
            Plane::PreDnat => ("preDNAT nothing", None),
            Plane::Forward => ("forward default", Some(whole("forward-default", true, logged))),
            Plane::Pod | Plane::Local => {
                let said = if *allows { "local default Allow" } else { "local default Deny" };
                (said, Some(whole("endpoint-default", *allows, logged)))
            }
        };
        seen.decides(walk.word(), said);
        Ok(answer)
    }
}
