//! The pure half: what the documents mean, by all who can say.
//!
//! In: a policy set, packets, a compiler's tables. Out: one [`Verdict`] a packet on which the
//! documents themselves, the reference evaluator and the tables agree, or the first [`Dispute`].

use std::fmt::Write as _;

use anyhow::{Context as _, Error, Result, bail, ensure};
use policy_api::messages::{RuleName, Verdict as Word};
use policy_common::abi::{Blocked, Direction, VERDICT_ALLOW, VERDICT_RULE};
use policy_core::{
    compile::Compiler,
    evaluate::{self, Packet},
    host::{self, Plane},
    ids::Ids,
    model::{DefaultAction, EndpointSpec, Model},
    simulate::{Kernel, Outcome, Probe},
};

use crate::{
    coverage::Coverage,
    generate::{INTERFACES, UPLINK},
    oracle::{Oracle, kubernetes},
    packets::Ask,
    set::{self, PolicySet},
};

/// What a packet must meet.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) allow: bool,
    /// Number of the deciding rule.
    pub(crate) rule: u32,
    /// Number of the other side's peer.
    pub(crate) peer: u32,
    /// What the staged policies would say, as the maps have it.
    pub(crate) staged: u32,
    /// Number of the list of Log rules that matched.
    pub(crate) log: u32,
    /// Whether a packet may go on a connection whose beginning nobody has seen.
    pub(crate) adopts: bool,
}

/// Two that should say the same of a packet do not.
#[derive(Clone, Debug)]
pub(crate) struct Dispute {
    pub(crate) ask: Option<Ask>,
    pub(crate) what: String,
    /// A document was refused, or not understood, so that nothing could be asked.
    pub(crate) refused: bool,
}

impl Dispute {
    pub(crate) fn general(error: &anyhow::Error) -> Dispute {
        Dispute { ask: None, what: format!("{error:#}"), refused: false }
    }

    pub(crate) fn refused(error: &anyhow::Error) -> Dispute {
        Dispute { refused: true, ..Dispute::general(error) }
    }

    pub(crate) fn about(ask: &Ask, what: String) -> Dispute {
        Dispute { ask: Some(ask.clone()), what, refused: false }
    }
}

/// What a packet comes to by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meaning {
    allow: bool,
    rule: RuleName,
    staged: Option<(bool, RuleName)>,
    logged: Vec<RuleName>,
    adopts: bool,
}

/// A set as everybody reads it.
pub(crate) struct Reading {
    pub(crate) oracle: Oracle,
    pub(crate) model: Model,
}

impl Reading {
    /// # Errors
    /// If a document is refused: all that is generated must be accepted.
    pub(crate) fn of(set: &PolicySet, ifindex: &dyn Fn(&str) -> Result<u32>) -> Result<Reading> {
        Ok(Reading { oracle: Oracle::read(set)?, model: set.model(ifindex)? })
    }

    /// What the documents and the reference evaluator say of a packet.
    ///
    /// # Errors
    /// If they do not say the same.
    pub(crate) fn meaning(&self, ask: &Ask, seen: &mut Coverage) -> Result<Meaning> {
        let packet = Packet {
            source: ask.source,
            destination: ask.destination,
            protocol: ask.protocol,
            port: ask.port,
            source_port: if ask.is_icmp() { 0 } else { ask.source_port },
        };
        let (id, model, direction) = (set::id(&ask.interface), &self.model, ask.direction);
        let decision = match ask.forwarded {
            None => evaluate::evaluate(model, &packet, direction, &id),
            Some(forwarded) => {
                evaluate::host_endpoint(model, &packet, direction, &ask.interface, forwarded)
            }
        };
        let decision = decision.context("the evaluator does not know the endpoint")?;
        let answer = self.oracle.answer(ask, seen)?;
        let allow = decision.verdict == Word::Allow;
        let would = match ask.forwarded {
            None => evaluate::staged(model, &packet, direction, &id),
            Some(forwarded) => {
                let at = &ask.interface;
                evaluate::staged_at_host_endpoint(model, &packet, direction, at, forwarded)
            }
        };
        let would = would.map(|it| (it.verdict == Word::Allow, it.rule));
        let staged = self.oracle.staged(ask, seen)?.map(|it| (it.allow, it.rule));
        ensure!(
            (&answer.logged, &staged) == (&decision.logged, &would),
            "by the documents {:?} is logged and {staged:?} staged, by the evaluator {:?} and \
             {would:?}",
            answer.logged,
            decision.logged
        );
        let walk = || decision.walk.join("\n");
        ensure!(
            (answer.allow, &answer.rule) == (allow, &decision.rule),
            "the documents say {} by {:?}, the evaluator {:?} by {:?}:\n{}",
            if answer.allow { "allow" } else { "deny" },
            answer.rule,
            decision.verdict,
            decision.rule,
            walk()
        );
        let kubernetes = self.oracle.only_kubernetes.as_ref().filter(|_| ask.forwarded.is_none());
        if let Some(policies) = kubernetes {
            let pod = self.oracle.pod(&ask.interface).context("no such endpoint")?;
            let policies: Vec<_> = policies.iter().collect();
            let by_documentation = kubernetes::allows(&self.oracle, &policies, pod, ask)?;
            ensure!(
                by_documentation == allow,
                "by Kubernetes' documentation: allow is {by_documentation}\n{}",
                walk()
            );
            seen.decides("", "kubernetes alone");
        }
        let adopts = answer.adopts;
        Ok(Meaning { allow, rule: decision.rule, staged, logged: decision.logged, adopts })
    }
}

/// What everybody says of packets, the tables included.
///
/// # Errors
/// The first packet about which two differ.
pub(crate) fn verdicts(
    reading: &Reading,
    kernel: &Kernel,
    ids: &Ids,
    asks: &[Ask],
    seen: &mut Coverage,
) -> Result<Vec<Verdict>, Dispute> {
    let one = |ask: &Ask, seen: &mut Coverage| {
        let meaning = reading.meaning(ask, seen)?;
        in_tables(reading, kernel, ids, ask, &meaning)
    };
    let dispute = |ask, error: anyhow::Error| Dispute::about(ask, format!("{error:#}\n{ask:?}"));
    asks.iter().map(|ask| one(ask, seen).map_err(|error| dispute(ask, error))).collect()
}

/// Holds a meaning against what the tables say.
fn in_tables(
    reading: &Reading,
    kernel: &Kernel,
    ids: &Ids,
    ask: &Ask,
    meaning: &Meaning,
) -> Result<Verdict> {
    let endpoint = endpoint(&reading.model, ask).context("no endpoint")?;
    // Whether the source is the endpoint's own is asked elsewhere; here, any will do.
    let own = endpoint.addresses.iter().find(|own| own.is_ipv4() == ask.source.is_ipv4());
    let source = match (ask.direction, own) {
        (Direction::Egress, Some(own)) if ask.forwarded.is_none() => *own,
        _ => ask.source,
    };
    let probe = Probe {
        ifindex: endpoint.ifindex,
        direction: ask.direction,
        source,
        destination: ask.destination,
        protocol: ask.protocol,
        port: ask.port,
        source_port: ask.source_port,
    };
    let outcome = match ask.forwarded {
        None => kernel.look_up(&probe),
        Some(forwarded) => {
            let translated = reading.oracle.translated(ask).filter(|_| forwarded);
            kernel.look_up_at_host(&probe, forwarded, translated.unwrap_or(ask.port))
        }
    };
    if outcome == Outcome::Spoofed {
        // An endpoint without an address of the family: nothing it sends gets as far as a table.
        let (allow, adopts) = (meaning.allow, meaning.adopts);
        return Ok(Verdict { allow, rule: 0, peer: 0, staged: 0, log: 0, adopts });
    }
    let Outcome::Decided { allow, rule, peer, staged, log } = outcome else {
        bail!("the tables say {outcome:?}, not {meaning:?}");
    };
    let name = |rule| ids.rule(rule).cloned().with_context(|| format!("rule {rule} has no name"));
    let would = (staged != 0)
        .then(|| Ok::<_, Error>((staged & VERDICT_ALLOW != 0, name(staged & VERDICT_RULE)?)));
    let said = Meaning {
        allow,
        rule: name(rule)?,
        staged: would.transpose()?,
        logged: ids.log(log).unwrap_or_default().to_vec(),
        adopts: meaning.adopts,
    };
    ensure!(said == *meaning, "the tables say {said:?}, not {meaning:?}");
    Ok(Verdict { allow, rule, peer, staged, log, adopts: meaning.adopts })
}

/// The endpoint that a packet meets; of a host endpoint, what stands for all of it.
pub(crate) fn endpoint<'a>(model: &'a Model, ask: &Ask) -> Option<&'a EndpointSpec> {
    let id = match ask.forwarded {
        None => set::id(&ask.interface),
        Some(_) => host::id(&ask.interface, Plane::Local(DefaultAction::Deny)),
    };
    model.endpoints.get(&id).map(AsRef::as_ref)
}

/// Whether a packet is one at the block lists of an uplink.
pub(crate) fn is_at_uplink(ask: &Ask) -> bool {
    ask.interface == UPLINK && ask.forwarded.is_none()
}

/// Everything but the kernel, from nothing: for shrinking and for a quick look.
///
/// # Errors
/// The first packet about which two differ.
pub(crate) fn afresh(set: &PolicySet, asks: &[Ask]) -> Result<(), Dispute> {
    let number = |interface: &str| {
        let mut all = INTERFACES.into_iter().chain([UPLINK]);
        Ok(u32::try_from(all.position(|it| it == interface).context("an interface")?)? + 10)
    };
    let general = |error: anyhow::Error| Dispute::general(&error);
    let reading = Reading::of(set, &number).map_err(|error| Dispute::refused(&error))?;
    let mut compiler = Compiler::new();
    let mut kernel = Kernel::default();
    let planned = compiler.plan(&reading.model).map_err(|error| general(error.into()))?;
    planned.plan.ops.iter().for_each(|op| kernel.apply(op));
    compiler.commit(planned);
    let (mut seen, ids) = (Coverage::default(), compiler.ids());
    let uplink = number(UPLINK).map_err(general)?;
    for ask in asks.iter().filter(|ask| is_at_uplink(ask)) {
        blocked(&reading, &kernel, ids, uplink, ask, &mut seen)?;
    }
    let known = |ask: &&Ask| endpoint(&reading.model, ask).is_some();
    let asks: Vec<Ask> = asks.iter().filter(known).cloned().collect();
    verdicts(&reading, &kernel, ids, &asks, &mut seen).map(drop)
}

/// The rule and the network set that block a packet at its uplink, by the documents and by the tables.
///
/// # Errors
/// If they do not say the same.
pub(crate) fn blocked(
    reading: &Reading,
    kernel: &Kernel,
    ids: &Ids,
    uplink: u32,
    ask: &Ask,
    seen: &mut Coverage,
) -> Result<Option<Blocked>, Dispute> {
    let probe = Probe {
        ifindex: uplink,
        direction: ask.direction,
        source: ask.source,
        destination: ask.destination,
        protocol: ask.protocol,
        port: ask.port,
        source_port: ask.source_port,
    };
    let (wanted, found) = (reading.oracle.blocks(ask, seen), kernel.blocked_at(&probe));
    let named =
        found.and_then(|blocked| Some((ids.rule(blocked.rule)?.clone(), ids.peer(blocked.peer)?)));
    if named != wanted {
        let what = format!("the documents block it by {wanted:?}, the tables by {named:?}");
        return Err(Dispute::about(ask, what));
    }
    Ok(found)
}

/// An ask as a kept case has it.
pub(crate) fn shown(ask: &Ask) -> String {
    let mut text = String::new();
    let direction = match ask.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let forwarded = ask.forwarded.map_or_else(String::new, |it| format!(", forwarded: {it}"));
    let _ = write!(
        text,
        "- {{ interface: {}, direction: {direction}, source: \"{}\", destination: \"{}\", \
         protocol: {}, sourcePort: {}, port: {}, opens: {}{forwarded} }}",
        ask.interface,
        ask.source,
        ask.destination,
        ask.protocol,
        ask.source_port,
        ask.port,
        ask.opens
    );
    text
}
