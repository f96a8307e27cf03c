//! The kernel's look-up, in user space, for tests: what the programs in `policy-ebpf` do with the
//! maps, step by step, without connection tracking.
//!
//! In: operations, then packets. Out: [`Outcome`].

use std::net::IpAddr;

use ipnet::IpNet;
use policy_common::abi::{
    Blocked, ClassKey, Direction, Family, Interval, PEER_NONE, PEER_WORLD_V4, PEER_WORLD_V6,
    PLANE_FORWARD, PLANE_PRE_DNAT, VERDICT_ALLOW, VERDICT_NESTED, VERDICT_RULE, service, source,
};

use crate::{
    identity,
    plan::{Image, Op},
};

/// The maps.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// Every map but `INTERVALS`.
    pub image: Image,
    intervals: Vec<Interval>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The interface has no endpoint.
    Pending,
    /// It claims a source that is not the endpoint's.
    Spoofed,
    /// The class is not where the maps say it is.
    Fault,
    /// Policy decided.
    Decided {
        /// Whether the packet passes.
        allow: bool,
        /// Rule id.
        rule: u32,
        /// Peer id.
        peer: u32,
        /// What the staged policies would say, see [`Interval::staged`].
        staged: u32,
        /// Log id.
        log: u32,
    },
}

/// A packet at an endpoint's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Interface.
    pub ifindex: u32,
    /// Into or out of the endpoint.
    pub direction: Direction,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, or ICMP type and code.
    pub port: u16,
    /// Source port, 0 where there is none.
    pub source_port: u16,
}

impl Kernel {
    /// Carries out one operation.
    pub fn apply(&mut self, op: &Op) {
        self.image.apply(op);
        if let Op::WriteIntervals { offset, intervals } = op {
            let start = *offset as usize;
            let end = start + intervals.len();
            if self.intervals.len() < end {
                let nothing = Interval { start: u32::MAX, verdict: 0, staged: 0, log: 0 };
                self.intervals.resize(end, nothing);
            }
            self.intervals[start..end].copy_from_slice(intervals);
        }
    }

    /// Peer id of an address.
    pub fn peer(&self, address: IpAddr) -> u32 {
        if let Some(&peer) = self.image.addresses.get(&address) {
            return peer;
        }
        let (mut length, world) = match address {
            IpAddr::V4(_) => (32, PEER_WORLD_V4),
            IpAddr::V6(_) => (128, PEER_WORLD_V6),
        };
        loop {
            let net = IpNet::new(address, length).map(|net| net.trunc());
            if let Some(&peer) = net.ok().and_then(|net| self.image.cidrs.get(&net)) {
                return peer;
            }
            if length == 0 {
                return world;
            }
            length -= 1;
        }
    }

    /// What becomes of a packet that opens a connection at a host endpoint.
    pub fn look_up_at_host(&self, probe: &Probe, forwarded: bool, port: u16) -> Outcome {
        let row = |bits: u32, port: u16| {
            self.look_up(&Probe { ifindex: probe.ifindex | bits, port, ..*probe })
        };
        let remote = match probe.direction {
            Direction::Ingress => probe.source,
            Direction::Egress => probe.destination,
        };
        // Nobody is looked up for it.
        let (protocol, peer) = (probe.protocol, PEER_NONE);
        let safe = self
            .image
            .failsafe
            .iter()
            .find(|(safe, _)| safe.matches(probe.direction, remote, protocol, probe.port));
        if probe.direction == Direction::Ingress && safe.is_none() {
            let number = probe.ifindex | PLANE_PRE_DNAT;
            let undecided = self.image.endpoints.get(&number).map(|endpoint| endpoint.undecided);
            let outcome = row(PLANE_PRE_DNAT, probe.port);
            match outcome {
                Outcome::Decided { allow: true, rule, .. } if Some(rule) == undecided => {}
                outcome => return outcome,
            }
        }
        match safe {
            _ if forwarded => row(PLANE_FORWARD, port),
            Some((_, &rule)) => Outcome::Decided { allow: true, rule, peer, staged: 0, log: 0 },
            None => row(0, probe.port),
        }
    }

    /// What becomes of a packet that opens a connection.
    pub fn look_up(&self, probe: &Probe) -> Outcome {
        let Some(endpoint) = self.image.endpoints.get(&probe.ifindex) else {
            return Outcome::Pending;
        };
        let remote = match probe.direction {
            Direction::Ingress => probe.source,
            Direction::Egress => {
                let own = match probe.source {
                    IpAddr::V4(source) => endpoint.v4.contains(&source.octets()),
                    IpAddr::V6(source) => endpoint.v6.contains(&source.octets()),
                };
                let host = self.is_host(probe.ifindex);
                if !host && (!own || probe.source.is_unspecified()) {
                    return Outcome::Spoofed;
                }
                probe.destination
            }
        };
        let family: Family = identity::family(remote);
        let peer = self.peer(remote);
        let table = endpoint.tables[probe.direction as usize];
        let default = endpoint.defaults[probe.direction as usize][family as usize];
        let class = self.image.classes.get(&ClassKey { table, peer }).copied().unwrap_or(default);
        let run = class.offset as usize..class.offset as usize + class.len as usize;
        let Some(run) = self.intervals.get(run) else { return Outcome::Fault };
        let search = |coordinate: u32| {
            let after = run.partition_point(|interval| interval.start <= coordinate);
            after.checked_sub(1).map(|index| run[index])
        };
        let nested = |interval: &Interval| interval.verdict & VERDICT_NESTED != 0;
        let found = search(service(probe.protocol, probe.port)).and_then(|found| {
            if !nested(&found) {
                return Some(found);
            }
            search(source(found.verdict & VERDICT_RULE, probe.source_port)).filter(|it| !nested(it))
        });
        match found {
            Some(Interval { verdict, staged, log, .. }) => Outcome::Decided {
                allow: verdict & VERDICT_ALLOW != 0,
                rule: verdict & VERDICT_RULE,
                peer,
                staged,
                log,
            },
            None => Outcome::Fault,
        }
    }

    /// Whether a row is of a host endpoint, which may pass on what it likes.
    fn is_host(&self, number: u32) -> bool {
        let interface = number & !(PLANE_FORWARD | PLANE_PRE_DNAT);
        self.image.endpoints.contains_key(&(interface | PLANE_FORWARD))
    }

    /// The rule that blocks a source at an uplink.
    pub fn blocked(&self, uplink: u32, source: IpAddr) -> Option<u32> {
        self.block(uplink, source).map(|blocked| blocked.rule)
    }

    fn block(&self, uplink: u32, source: IpAddr) -> Option<Blocked> {
        let list = self.image.uplinks.get(&uplink)?.list;
        let longest = IpNet::from(source).prefix_len();
        (0..=longest).rev().find_map(|length| {
            let net = IpNet::new(source, length).ok()?.trunc();
            self.image.blocks.get(&(list, net)).copied()
        })
    }

    /// What blocks a packet that comes in on an uplink: a host endpoint's failsafe ports are
    /// left alone there, and what answers from one.
    pub fn blocked_at(&self, probe: &Probe) -> Option<Blocked> {
        let blocked = self.block(probe.ifindex, probe.source)?;
        let open = |direction: Direction, port: u16| {
            let mut ports = self.image.failsafe.keys();
            ports.any(|safe| safe.matches(direction, probe.source, probe.protocol, port))
        };
        let left_open = self.is_host(probe.ifindex)
            && (open(Direction::Ingress, probe.port) || open(Direction::Egress, probe.source_port));
        (!left_open).then_some(blocked)
    }
}
