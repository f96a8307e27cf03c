//! The kernel's half: the real programs on real maps, one policy set after another.
//!
//! In: policy sets and packets. Each set is brought into the maps by the agent's own executor, from
//! the set before; then every packet is run through the programs, and everything that they leave
//! behind is held against what all others say: the action, the drop counters with reason, rule and
//! peer, the rule counters, the connections. Connections that a set allowed are there when the next
//! one comes, and must live or be cut in both directions as that one says.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use policy_agent::kernel::{load::Sizes, pin::Hook};
use policy_common::abi::{
    Blocked, Counter, Direction, DropKey, DropReason, Flow, FlowKeyV4, FlowKeyV6, LOG_NONE,
    PEER_NONE, RULE_NONE, VERDICT_RULE,
};
use policy_core::{
    identity,
    model::{EndpointSpec, Model},
    simulate::Kernel,
};
use policy_test::testrun::{Action, Entry, Ring};

use crate::{
    coverage::Coverage,
    generate::{INTERFACES, UPLINK},
    judge::{self, Dispute, Reading, Verdict},
    packets::{Ask, TCP, Tracking},
    set::PolicySet,
};

/// Small tables: most of a ring's time is loading.
const SIZES: Sizes = Sizes { conntrack_v4: 2048, conntrack_v6: 2048 };
/// Connections that outlive a set.
const KEPT: usize = 12;
/// How often the maps are read back whole.
const READ_BACK: u64 = 50;

/// What has been held against each other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) sets: u64,
    /// First packets, allowed and denied by policy.
    pub(crate) verdicts: [u64; 2],
    /// Packets of connections that a change of policy met, passed and cut.
    pub(crate) through: [u64; 2],
    /// Packets at an uplink, passed and blocked.
    pub(crate) outside: [u64; 2],
    /// Packets that no policy decides: spoofed, stray, unrelated.
    pub(crate) others: u64,
}

impl Done {
    pub(crate) fn add(&mut self, other: Done) {
        self.sets += other.sets;
        self.others += other.others;
        let mine = [&mut self.verdicts, &mut self.through, &mut self.outside];
        for (mine, its) in mine.into_iter().zip([other.verdicts, other.through, other.outside]) {
            mine[0] += its[0];
            mine[1] += its[1];
        }
    }

    /// Packets that all agreed on.
    pub(crate) fn packets(&self) -> u64 {
        let decided = self.verdicts.iter().chain(&self.through).chain(&self.outside);
        decided.sum::<u64>() + self.others
    }
}

/// A connection of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Connection {
    ifindex: u32,
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
    protocol: u8,
}

impl From<FlowKeyV4> for Connection {
    fn from(key: FlowKeyV4) -> Self {
        let ip = |bytes| IpAddr::V4(Ipv4Addr::from(bytes));
        Connection {
            ifindex: key.ifindex,
            local: (ip(key.local), key.local_port),
            remote: (ip(key.remote), key.remote_port),
            protocol: key.protocol,
        }
    }
}

impl From<FlowKeyV6> for Connection {
    fn from(key: FlowKeyV6) -> Self {
        let ip = |bytes| IpAddr::V6(Ipv6Addr::from(bytes));
        Connection {
            ifindex: key.ifindex,
            local: (ip(key.local), key.local_port),
            remote: (ip(key.remote), key.remote_port),
            protocol: key.protocol,
        }
    }
}

/// What a packet must come to.
enum Fate {
    Pass { rule: u32 },
    Drop { reason: DropReason, rule: u32, peer: u32 },
}

/// A packet on its way into a program.
struct Shot<'a> {
    ask: &'a Ask,
    ifindex: u32,
    direction: Direction,
    /// What the packet's own destination port is to policy.
    port: u16,
    frame: Vec<u8>,
    fate: Fate,
    /// The rule of a staged walk that it counts for.
    staged: Option<u32>,
    /// The list of Log rules that it counts for, or `LOG_NONE`.
    log: u32,
}

/// A counter of the maps, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Count {
    Rule(u32),
    StagedAllowed(u32),
    StagedDenied(u32),
    Log(u32),
}

/// A ring, and what it has been brought to.
pub(crate) struct Trial {
    ring: Ring,
    kernel: Kernel,
    interfaces: BTreeMap<String, u32>,
    /// Connections that the set before allowed, each with what the staged policies said.
    open: Vec<(Ask, u32)>,
    steps: u64,
}

impl Trial {
    pub(crate) fn new() -> Result<Trial> {
        let ring = Ring::new(SIZES)?;
        ring.load(&[Hook::FromEndpoint, Hook::ToEndpoint, Hook::FromUplink, Hook::ToUplink])?;
        let index = |name: &str| Ok((name.to_owned(), ring.interface(name)?));
        let mut interfaces =
            INTERFACES.into_iter().map(index).collect::<Result<BTreeMap<String, u32>>>()?;
        interfaces.insert(UPLINK.to_owned(), ring.outside(UPLINK)?);
        Ok(Trial { ring, kernel: Kernel::default(), interfaces, open: Vec::new(), steps: 0 })
    }

    /// Back to a host without endpoints and policies.
    pub(crate) fn clear(&mut self) -> Result<()> {
        self.bring(Model::default())?;
        self.open.clear();
        self.take_drops()?;
        self.take_flows(&BTreeSet::new())?;
        Ok(())
    }

    fn bring(&mut self, model: Model) -> Result<()> {
        // Whether the host passes a packet on is what its own routing says.
        if self.ring.model.host_addresses != model.host_addresses {
            self.ring.own(model.host_addresses.iter().copied())?;
        }
        self.ring.model = model;
        let kernel = &mut self.kernel;
        self.ring.sync_watched(|op| kernel.apply(op))
    }

    /// Brings the maps to a set, and asks everybody about the packets.
    ///
    /// # Errors
    /// The first thing that two do not agree on.
    pub(crate) fn step(
        &mut self,
        set: &PolicySet,
        asks: &[Ask],
        seen: &mut Coverage,
    ) -> Result<Done, Dispute> {
        let interfaces = self.interfaces.clone();
        let index = |name: &str| interfaces.get(name).copied().context("no such interface");
        let reading = Reading::of(set, &index).map_err(|error| Dispute::refused(&error))?;
        self.bring(reading.model.clone()).map_err(|error| Dispute::general(&error))?;
        self.read_back().map_err(|error| Dispute::general(&error))?;

        let open = std::mem::take(&mut self.open);
        let at_uplink = |ask: &&Ask| judge::is_at_uplink(ask);
        let outside: Vec<Ask> = asks.iter().filter(at_uplink).cloned().collect();
        let known = |ask: &&Ask| judge::endpoint(&reading.model, ask).is_some();
        // While a case is made smaller, and when the host's addresses change, a packet that was the
        // host's own may be so no more, or the other way round: its connection is then as good as gone.
        let way = |ask: &&Ask| ask.forwarded.is_none() || reading.oracle.is_on_its_way(ask);
        // An interface that is no host endpoint any more passes everything, and counts nothing.
        let mut open = open;
        open.retain(|(ask, _)| ask.forwarded.is_none() || known(&ask) && way(&ask));
        let still: Vec<Ask> = open.iter().map(|(ask, _)| ask).filter(known).cloned().collect();
        let asks: Vec<Ask> = asks.iter().filter(known).filter(way).cloned().collect();
        let ids = self.ring.ids();
        let renewed = judge::verdicts(&reading, &self.kernel, ids, &still, seen)?;
        let verdicts = judge::verdicts(&reading, &self.kernel, ids, &asks, seen)?;

        let mut done = Done { sets: 1, ..Done::default() };
        self.go_on(&reading.model, &open, &still, &renewed, &mut done)?;
        self.begin(&reading.model, &asks, &verdicts, &mut done)?;
        self.outside(&reading, &outside, seen, &mut done)?;
        Ok(done)
    }

    fn read_back(&mut self) -> Result<()> {
        let (known, _) = (self.ring.images()?.0, ());
        ensure!(*known == self.kernel.image, "the compiler's image is not what its plan makes");
        self.steps += 1;
        if self.steps.is_multiple_of(READ_BACK) {
            let (known, found) = self.ring.images()?;
            ensure!(*known == found, "the maps hold {found:?}, not {known:?}");
        }
        Ok(())
    }

    /// Packets of connections that were open when the set came, in both directions.
    fn go_on(
        &mut self,
        model: &Model,
        open: &[(Ask, u32)],
        still: &[Ask],
        verdicts: &[Verdict],
        done: &mut Done,
    ) -> Result<(), Dispute> {
        let mut shots = Vec::new();
        for (number, (ask, staged)) in open.iter().enumerate() {
            let verdict = still.iter().position(|it| it == ask).map(|at| &verdicts[at]);
            let fate = || match (judge::endpoint(model, ask), verdict) {
                (Some(endpoint), Some(verdict)) if owns(endpoint, ask) => decided(verdict),
                (Some(_), Some(_)) => dropped(DropReason::SpoofedSource),
                _ => dropped(DropReason::Pending),
            };
            let answers = if number % 2 == 0 { [false, true] } else { [true, false] };
            for (answer, first) in answers.into_iter().zip([true, false]) {
                let mut shot = self.shot(ask, true, answer, fate())?;
                // The change is noted once.
                shot.staged = verdict
                    .filter(|it| first && shot.is_decided() && it.staged != *staged)
                    .map(|it| it.staged);
                shots.push(shot);
            }
        }
        self.shoot(&shots)?;
        for shot in &shots {
            done.through[usize::from(matches!(shot.fate, Fate::Drop { .. }))] += 1;
        }
        let general = |error: anyhow::Error| Dispute::general(&error);
        let flows = self.take_flows(&BTreeSet::new()).map_err(general)?;
        let revision = self.kernel.image.revision;
        for (ask, verdict) in still.iter().zip(verdicts) {
            let flow = flows.get(&self.connection(ask)?).copied();
            if judge::endpoint(model, ask).is_some_and(|own| owns(own, ask)) {
                let said = flow
                    .map(|flow| (flow.cut == 0, flow.rule, flow.peer, flow.staged, flow.revision));
                let wanted =
                    Some((verdict.allow, verdict.rule, verdict.peer, verdict.staged, revision));
                if said != wanted {
                    let what = format!("the connection became {said:?}, not {wanted:?}");
                    return Err(Dispute::about(ask, what));
                }
            }
        }
        Ok(())
    }

    /// First packets.
    fn begin(
        &mut self,
        model: &Model,
        asks: &[Ask],
        verdicts: &[Verdict],
        done: &mut Done,
    ) -> Result<(), Dispute> {
        let general = |error: anyhow::Error| Dispute::general(&error);
        let mut shots = Vec::new();
        let mut opened = BTreeMap::new();
        for (ask, verdict) in asks.iter().zip(verdicts) {
            let endpoint = judge::endpoint(model, ask);
            let own = owns(endpoint.context("no endpoint").map_err(general)?, ask);
            let fate = if ask.direction == Direction::Egress && !own {
                dropped(DropReason::SpoofedSource)
            } else if ask.tracking() == Tracking::Needs {
                dropped(DropReason::UnrelatedIcmp)
            } else if verdict.allow && ask.protocol == TCP && !ask.opens && !verdict.adopts {
                let (reason, rule) = (DropReason::NoConnection, RULE_NONE);
                Fate::Drop { reason, rule, peer: verdict.peer }
            } else {
                decided(verdict)
            };
            match &fate {
                Fate::Pass { .. } => {
                    done.verdicts[0] += 1;
                    if own && ask.tracking() == Tracking::Entry {
                        opened.insert(self.connection(ask)?, (ask, verdict));
                    }
                }
                Fate::Drop { reason: DropReason::Policy, .. } => done.verdicts[1] += 1,
                Fate::Drop { .. } => done.others += 1,
            }
            let mut shot = self.shot(ask, false, false, fate)?;
            if shot.is_decided() {
                shot.staged = Some(verdict.staged);
                shot.log = verdict.log;
            }
            shots.push(shot);
        }
        self.shoot(&shots)?;

        let kept: BTreeSet<Connection> = opened.keys().copied().take(KEPT).collect();
        let mut flows = self.take_flows(&kept).map_err(general)?;
        for (connection, (ask, verdict)) in &opened {
            let found = flows.remove(connection);
            let said =
                found.map(|flow| (flow.rule, flow.peer, flow.staged, flow.packets, flow.cut));
            let wanted = Some((verdict.rule, verdict.peer, verdict.staged, [1, 0], 0));
            let way = found.is_none_or(|flow| flow.direction == ask.direction as u8);
            if said != wanted || !way {
                let what = format!("the connection is {found:?}, not {wanted:?}");
                return Err(Dispute::about(ask, what));
            }
            if kept.contains(connection) {
                self.open.push(((*ask).clone(), verdict.staged));
            }
        }
        if let Some((connection, flow)) = flows.first_key_value() {
            return Err(general(anyhow!("nobody should have opened {connection:?}: {flow:?}")));
        }
        Ok(())
    }

    /// Packets at the uplink.
    fn outside(
        &mut self,
        reading: &Reading,
        asks: &[Ask],
        seen: &mut Coverage,
        done: &mut Done,
    ) -> Result<(), Dispute> {
        let mut shots = Vec::new();
        for ask in asks {
            let (ifindex, ids) = (self.ifindex(ask)?, self.ring.ids());
            let found = judge::blocked(reading, &self.kernel, ids, ifindex, ask, seen)?;
            let blocked = |Blocked { rule, peer }| {
                let reason = DropReason::Untracked;
                Fate::Drop { reason, rule, peer }
            };
            let fate = found.map_or(Fate::Pass { rule: RULE_NONE }, blocked);
            done.outside[usize::from(found.is_some())] += 1;
            shots.push(self.shot(ask, false, false, fate)?);
        }
        self.shoot(&shots)
    }

    fn ifindex(&self, ask: &Ask) -> Result<u32, Dispute> {
        let known = self.interfaces.get(&ask.interface).copied();
        known.ok_or_else(|| Dispute::about(ask, "there is no such interface".to_owned()))
    }

    fn connection(&self, ask: &Ask) -> Result<Connection, Dispute> {
        let [local, remote] = ask.ends();
        Ok(Connection { ifindex: self.ifindex(ask)?, local, remote, protocol: ask.protocol })
    }

    fn shot<'a>(
        &self,
        ask: &'a Ask,
        later: bool,
        answer: bool,
        fate: Fate,
    ) -> Result<Shot<'a>, Dispute> {
        let port = match (answer, ask.is_icmp(), ask.source.is_ipv4()) {
            (false, ..) => ask.port,
            (true, false, _) => ask.source_port,
            // Echo replies, with the code of the request.
            (true, true, true) => ask.port & 0xff,
            (true, true, false) => 129 << 8 | ask.port & 0xff,
        };
        Ok(Shot {
            ask,
            ifindex: self.ifindex(ask)?,
            direction: if answer { ask.direction.reverse() } else { ask.direction },
            port,
            frame: ask.frame(later, answer),
            fate,
            staged: None,
            log: LOG_NONE,
        })
    }

    /// Runs the programs and compares actions, drop counters and rule counters.
    fn shoot(&mut self, shots: &[Shot<'_>]) -> Result<(), Dispute> {
        let general = |error: anyhow::Error| Dispute::general(&error);
        let before = self.counters().map_err(general)?;
        let frames: Vec<(Entry, Vec<u8>)> = shots
            .iter()
            .map(|shot| {
                let at_host = shot.ask.forwarded.is_some();
                let hook = match (shot.direction, at_host) {
                    _ if judge::is_at_uplink(shot.ask) => Hook::Uplink,
                    (Direction::Ingress, false) => Hook::ToEndpoint,
                    (Direction::Egress, false) => Hook::FromEndpoint,
                    (Direction::Ingress, true) => Hook::FromUplink,
                    (Direction::Egress, true) => Hook::ToUplink,
                };
                // On the way in the program has to find out.
                let passed_on = shot.ask.forwarded == Some(true) && hook == Hook::ToUplink;
                let entry = Entry { hook, ifindex: shot.ifindex, passed_on };
                (entry, self.ring.addressed(entry, shot.frame.clone()))
            })
            .collect();
        let actions = self.ring.run_all(&frames).map_err(general)?;
        let mut counted: BTreeMap<Count, u64> = BTreeMap::new();
        let mut drops: BTreeMap<DropKey, (Counter, &Ask)> = BTreeMap::new();
        for (shot, action) in shots.iter().zip(actions) {
            let (wanted, rule) = match shot.fate {
                Fate::Pass { rule } => (Action::Pass, rule),
                Fate::Drop { reason, rule, peer } => {
                    let (counter, _) = drops
                        .entry(shot.key(reason, rule, peer))
                        .or_insert_with(|| (Counter::default(), shot.ask));
                    counter.packets += 1;
                    counter.bytes += shot.frame.len() as u64;
                    (Action::Drop, rule)
                }
            };
            let mut count = |what| *counted.entry(what).or_default() += 1;
            if rule != RULE_NONE {
                count(Count::Rule(rule));
            }
            if let Some(word) = shot.staged.filter(|word| *word != 0) {
                let rule = word & VERDICT_RULE;
                count(match wanted {
                    Action::Pass => Count::StagedAllowed(rule),
                    Action::Drop => Count::StagedDenied(rule),
                });
            }
            if shot.log != LOG_NONE {
                count(Count::Log(shot.log));
            }
            if action != wanted {
                let found = self.take_drops();
                let what = format!("the program says {action:?}, not {wanted:?}: {found:?}");
                return Err(Dispute::about(shot.ask, what));
            }
        }
        let mut found = self.take_drops().map_err(general)?;
        for (key, (wanted, ask)) in drops {
            let counter = found.remove(&key);
            if counter != Some(wanted) {
                let what = format!("{key:?} is {counter:?}, not {wanted:?}; beside {found:?}");
                return Err(Dispute::about(ask, what));
            }
        }
        if let Some(key) = found.keys().next() {
            return Err(general(anyhow!("no packet should have been counted as {key:?}")));
        }
        let mut wrong = Vec::new();
        for (count, now) in self.counters().map_err(general)? {
            let moved = now - before.get(&count).copied().unwrap_or_default();
            let wanted = counted.get(&count).copied().unwrap_or_default();
            if moved != wanted {
                let name = match count {
                    Count::Log(_) => None,
                    Count::Rule(id) | Count::StagedAllowed(id) | Count::StagedDenied(id) => {
                        self.ring.rule(id)
                    }
                };
                wrong.push(format!("{count:?}, {name:?}, moved by {moved}, not by {wanted}"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(general(anyhow!(wrong.join("\n")))) }
    }

    /// Every counter that has a name.
    fn counters(&self) -> Result<BTreeMap<Count, u64>> {
        let mut counters = BTreeMap::new();
        for (id, _) in self.ring.ids().rules() {
            let staged = self.ring.staged_counter(id)?;
            counters.insert(Count::Rule(id), self.ring.rule_counter(id)?.packets);
            counters.insert(Count::StagedAllowed(id), staged.allowed);
            counters.insert(Count::StagedDenied(id), staged.denied);
        }
        for (id, _) in self.ring.ids().logs() {
            counters.insert(Count::Log(id), self.ring.log_counter(id)?.packets);
        }
        Ok(counters)
    }

    fn take_drops(&mut self) -> Result<BTreeMap<DropKey, Counter>> {
        let drops = self.ring.drops()?.keyed;
        drops.keys().try_for_each(|key| self.ring.forget_drop(key))?;
        Ok(drops)
    }

    /// The connections; all but some are forgotten.
    fn take_flows(&mut self, kept: &BTreeSet<Connection>) -> Result<BTreeMap<Connection, Flow>> {
        let (v4, v6) = self.ring.flows()?;
        let all = v4.iter().map(|(key, flow)| (Connection::from(*key), *flow));
        let all = all.chain(v6.iter().map(|(key, flow)| (Connection::from(*key), *flow)));
        let all = all.collect();
        let v4 = v4.into_iter().map(|(key, _)| key).filter(|key| !kept.contains(&(*key).into()));
        let v6 = v6.into_iter().map(|(key, _)| key).filter(|key| !kept.contains(&(*key).into()));
        self.ring.forget_flows(v4.collect::<Vec<_>>(), v6.collect::<Vec<_>>())?;
        Ok(all)
    }
}

impl Shot<'_> {
    /// Whether policy is what decides it.
    fn is_decided(&self) -> bool {
        matches!(self.fate, Fate::Pass { .. } | Fate::Drop { reason: DropReason::Policy, .. })
    }

    fn key(&self, reason: DropReason, rule: u32, peer: u32) -> DropKey {
        // The prefilter looks at no more than addresses.
        let (port, protocol) =
            if judge::is_at_uplink(self.ask) { (0, 0) } else { (self.port, self.ask.protocol) };
        DropKey {
            ifindex: self.ifindex,
            peer,
            rule,
            port,
            protocol,
            reason: reason as u8,
            direction: self.direction as u8,
            pad: [0; 3],
        }
    }
}

/// Whether the near end of a packet is the endpoint's own; at a host endpoint nobody asks.
fn owns(endpoint: &EndpointSpec, ask: &Ask) -> bool {
    ask.forwarded.is_some() || identity::own_addresses(endpoint).contains(&ask.ends()[0].0)
}

fn decided(verdict: &Verdict) -> Fate {
    if verdict.allow {
        return Fate::Pass { rule: verdict.rule };
    }
    Fate::Drop { reason: DropReason::Policy, rule: verdict.rule, peer: verdict.peer }
}

/// A drop that no rule decides, before anybody knows the peer.
fn dropped(reason: DropReason) -> Fate {
    Fate::Drop { reason, rule: RULE_NONE, peer: PEER_NONE }
}
