//! Policies that allow what was seen, and nothing else.
//!
//! In: flow records, one after another, as [`Observations`]; and what is [`Wanted`]. Out: [`Generated`],
//! resources that `apply` takes, with what was seen of each rule, and notes on what they do not say. Three
//! steps: add up (`observations`), choose the labels that policies select by (`labels`), write
//! (`documents`).
//!
//! A policy by labels holds for all that have them, so workloads with the same labels get what any of them
//! was seen to do.

use std::collections::{BTreeMap, BTreeSet};

use policy_common::abi::Direction;
use serde_json::Value;

mod documents;
mod labels;
mod nets;
mod observations;
mod ports;
#[cfg(test)]
mod tests;

pub use observations::Observations;

use self::{
    documents::{Peer, Writer},
    labels::Group,
    observations::{Far, Seen, Service, Workload},
};
use crate::{labels::Labels, selector::Selector, validate::names};

/// Names in one note at most.
const NAMED: usize = 8;

/// In whose language policies are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// `projectcalico.org/v3`.
    #[default]
    Calico,
    /// `networking.k8s.io/v1`.
    Kubernetes,
}

/// Which policies are wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Their language.
    pub form: Form,
    /// Staged ones, which enforce nothing.
    pub staged: bool,
    /// Tier, if not `default`; in Calico's form only.
    pub tier: Option<String>,
    /// Policies say what may come in.
    pub ingress: bool,
    /// Policies say what may go out.
    pub egress: bool,
    /// Labels to select by; chosen if there are none.
    pub keys: Vec<String>,
    /// Workloads to write policies for.
    pub workloads: Chosen,
}

impl Wanted {
    /// Says what can be in no policy.
    ///
    /// # Errors
    ///
    /// The first such thing, in a sentence.
    pub fn check(&self) -> Result<(), String> {
        if let Some(tier) = &self.tier {
            if self.form == Form::Kubernetes {
                return Err(format!(
                    "policies of Kubernetes' form are all in the tier `default`: leave out the \
                     tier `{tier}`, or write Calico's form"
                ));
            }
            if !names::is_dns_label(tier) {
                return Err(format!(
                    "`{tier}` is not the name of a tier: use at most 63 lower-case letters, digits \
                     and `-`, with a letter or digit at both ends"
                ));
            }
        }
        match self.keys.iter().find(|key| !names::is_qualified_name(key)) {
            Some(key) => Err(format!("`{key}` is not the name of a label")),
            None => Ok(()),
        }
    }
}

/// Some workloads: those with one of the names, and those that the selector matches; all if nothing
/// is said.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// Namespace, if one was said, and name.
    pub names: Vec<(Option<String>, String)>,
    /// On their labels.
    pub selector: Option<Selector>,
}

/// What [`policies`] makes.
#[derive(Clone, Debug, Default)]
pub struct Generated {
    /// From what it was made, one line.
    pub about: String,
    /// By namespace and name, the network sets of a policy before it.
    pub documents: Vec<Document>,
    /// What a reader should know, each one line.
    pub notes: Vec<String>,
    /// Whether something is left out that was asked for; the notes say what.
    pub incomplete: bool,
}

/// A resource, and what is to be said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// One line about the whole.
    pub about: String,
    /// The resource without its rules.
    pub head: Value,
    /// `ingress` and `egress` of its `spec`: name, and rules, if there are any.
    pub rules: Vec<(&'static str, Vec<Rule>)>,
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// How often and when it was seen.
    pub seen: String,
    /// The rule.
    pub value: Value,
}

impl Document {
    /// The whole resource.
    pub fn value(&self) -> Value {
        let mut value = self.head.clone();
        for (name, rules) in &self.rules {
            value["spec"][*name] = rules.iter().map(|rule| rule.value.clone()).collect();
        }
        value
    }
}

impl Chosen {
    fn is_all(&self) -> bool {
        self.names.is_empty() && self.selector.is_none()
    }

    fn has(&self, workload: &Workload) -> bool {
        let named = |(namespace, name): &(Option<String>, String)| {
            *name == workload.name.name
                && namespace.as_ref().is_none_or(|it| *it == workload.name.namespace)
        };
        self.is_all()
            || self.names.iter().any(named)
            || self.selector.as_ref().is_some_and(|selector| {
                let labels: Labels =
                    workload.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                selector.matches(&labels)
            })
    }
}

/// What a group does in one direction, by peer.
type Sides = BTreeMap<(Direction, Peer), BTreeMap<Service, Seen>>;

/// Policies for the workloads of interest.
pub fn policies(observations: &Observations, wanted: &Wanted) -> Generated {
    let workloads = &observations.workloads;
    let groups = labels::groups(workloads, &wanted.keys, wanted.form);
    let mut generated = Generated { about: about(observations), ..Generated::default() };
    // Who is known only as somebody's other end gets no policy: it would deny everything.
    let mut told = vec![false; workloads.len()];
    for pair in observations.pairs.keys() {
        told[pair.subject] = true;
    }
    let seen = || workloads.iter().zip(&told).filter(|(_, told)| **told).map(|(it, _)| it);
    unmet(seen, &wanted.workloads, &mut generated);

    // All members of a group of which one is wanted.
    let mut members: BTreeMap<&Group, Vec<&Workload>> = BTreeMap::new();
    let mut nameless = BTreeSet::new();
    let mut subjects = BTreeSet::new();
    for (index, (workload, group)) in workloads.iter().zip(&groups).enumerate() {
        let is_wanted = told[index] && wanted.workloads.has(workload);
        match group {
            Some(group) => {
                members.entry(group).or_default().push(workload);
                if is_wanted {
                    subjects.insert(group);
                }
            }
            None if is_wanted => _ = nameless.insert(&workload.name),
            None => {}
        }
    }
    for members in members.values_mut() {
        members.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    }
    let mut sides: BTreeMap<&Group, Sides> = BTreeMap::new();
    for (pair, services) in &observations.pairs {
        let Some(group) = groups[pair.subject].as_ref().filter(|it| subjects.contains(it)) else {
            continue;
        };
        let is_wanted = match pair.way {
            Direction::Ingress => wanted.ingress,
            Direction::Egress => wanted.egress,
        };
        if !is_wanted {
            continue;
        }
        // A record without labels may call a workload by its name only.
        let far = match &pair.far {
            Far::Workload(index) => Some(*index),
            Far::Named(name) => observations.named(name),
        };
        let peer = match (far, &pair.far) {
            (Some(index), _) => match &groups[index] {
                Some(group) => Peer::Group(group.clone()),
                None => {
                    nameless.insert(&workloads[index].name);
                    continue;
                }
            },
            (None, Far::Named(name)) => Peer::named(name),
            (None, Far::Workload(_)) => continue,
        };
        let own = sides.entry(group).or_default().entry((pair.way, peer)).or_default();
        for (service, seen) in services {
            own.entry(*service).or_default().merge(seen);
        }
    }

    if !wanted.keys.is_empty() {
        overlaps(workloads, &groups, &subjects, &mut generated);
    }
    let mut writer = Writer::new(wanted, members.keys().copied());
    let nothing = Sides::new();
    for group in subjects {
        let members = members.get(group).map(Vec::as_slice).unwrap_or_default();
        writer.policies(group, members, sides.get(group).unwrap_or(&nothing));
    }
    writer.finish(&mut generated);
    if !nameless.is_empty() {
        let names = listed(nameless.iter().map(|name| format!("{}/{}", name.namespace, name.name)));
        generated.notes.push(format!(
            "no label to select them by: {names}: they have no policy, and rules about them are \
             left out; name their labels with --by-label, or give them some"
        ));
        generated.incomplete = true;
    }
    limits(observations, &mut generated);
    generated
}

/// Says which names and selectors nobody has that something was seen of.
fn unmet<'a, I: Iterator<Item = &'a Workload>>(
    seen: impl Fn() -> I,
    chosen: &Chosen,
    generated: &mut Generated,
) {
    let one = |names: Vec<(Option<String>, String)>, selector| Chosen { names, selector };
    let mut asked: Vec<(String, Chosen)> = Vec::new();
    for (namespace, name) in &chosen.names {
        let text = match namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.clone(),
        };
        asked.push((text, one(vec![(namespace.clone(), name.clone())], None)));
    }
    if let Some(selector) = &chosen.selector {
        asked.push((selector.to_string(), one(Vec::new(), Some(selector.clone()))));
    }
    for (text, chosen) in asked {
        if !seen().any(|workload| chosen.has(workload)) {
            generated.notes.push(format!("no flow of a workload `{text}` was seen"));
            generated.incomplete = true;
        }
    }
}

/// Says which policies hold for more than those that they were made for: labels that somebody asked for
/// may be a part of another's.
fn overlaps(
    workloads: &[Workload],
    groups: &[Option<Group>],
    subjects: &BTreeSet<&Group>,
    generated: &mut Generated,
) {
    for group in subjects {
        let others: BTreeSet<String> = workloads
            .iter()
            .zip(groups)
            .filter(|(workload, own)| own.as_ref() != Some(*group) && group.matches(workload))
            .map(|(workload, _)| format!("{}/{}", workload.name.namespace, workload.name.name))
            .collect();
        if !others.is_empty() {
            generated.notes.push(format!(
                "`{}` selects {}, too",
                documents::selector(group),
                listed(others.into_iter())
            ));
        }
    }
}

/// Says what could not be taken from the records.
fn limits(observations: &Observations, generated: &mut Generated) {
    if observations.unclear > 0 {
        generated.notes.push(format!(
            "{} of the records do not say what a rule needs (protocol, port, ICMP type and code, \
             direction or address), and are left out",
            observations.unclear
        ));
        generated.incomplete = true;
    }
    if observations.beyond > 0 {
        generated.notes.push(format!(
            "too much to tell apart: what {} of the records tell of is left out; pick some with \
             filters",
            observations.beyond
        ));
        generated.incomplete = true;
    }
}

/// From how many records of which time.
fn about(observations: &Observations) -> String {
    let tally = &observations.total;
    let records = if tally.seen == 1 { "record" } else { "records" };
    let span = match (tally.first, tally.last) {
        (Some(first), Some(last)) => {
            format!(", {} to {} (UTC)", documents::time(first), documents::time(last))
        }
        _ => String::new(),
    };
    format!("made from {} {records}{span}", tally.seen)
}

/// The first few of them.
fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let first: Vec<String> = names.take(NAMED).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", first.join(", "))
}
