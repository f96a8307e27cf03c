//! From a set that fails to the smallest part of it that still does.
//!
//! In: a [`Case`], and whether a case fails. Out: a case from which no document, no element of a
//! list and no field can be taken without it holding.

use std::{
    fmt,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::Value;

use crate::{judge, packets::Ask, set::PolicySet};

/// After so long the case is as small as it will be.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sets that follow each other, and packets that are asked about in each of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) sets: Vec<PolicySet>,
    pub(crate) packets: Vec<Ask>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sets:")?;
        self.sets.iter().try_for_each(|set| set.fmt(f))?;
        writeln!(f, "packets:")?;
        self.packets.iter().try_for_each(|ask| writeln!(f, "{}", judge::shown(ask)))
    }
}

/// A step into a document.
#[derive(Clone, Debug)]
enum Step {
    Item(usize),
    Field(String),
}

/// The smallest case that still fails.
pub(crate) fn shrink(mut case: Case, mut fails: impl FnMut(&Case) -> bool) -> Case {
    let start = Instant::now();
    let mut shrunk = true;
    while shrunk && start.elapsed() < PATIENCE {
        shrunk = false;
        let mut at = 0;
        while let Some(candidate) = without(&case, at) {
            if start.elapsed() < PATIENCE && fails(&candidate) {
                case = candidate;
                shrunk = true;
            } else {
                at += 1;
            }
        }
    }
    case
}

/// The case without its part number `at`; `None` if it has no more parts.
fn without(case: &Case, mut at: usize) -> Option<Case> {
    let mut next = case.clone();
    if at < case.packets.len() {
        next.packets.remove(at);
        return Some(next);
    }
    at -= case.packets.len();
    if case.sets.len() > 1 {
        if at < case.sets.len() {
            next.sets.remove(at);
            return Some(next);
        }
        at -= case.sets.len();
    }
    for set in &mut next.sets {
        let mut documents = Value::from(std::mem::take(&mut set.resources));
        let mut paths = Vec::new();
        parts(&documents, &mut Vec::new(), &mut paths);
        let found = paths.get(at);
        if let Some(path) = found {
            remove(&mut documents, path);
        }
        let count = paths.len();
        let found = found.is_some();
        set.resources = documents.as_array().cloned().unwrap_or_default();
        if found {
            return Some(next);
        }
        at -= count;
        if at < set.host.len() {
            set.host.remove(at);
            return Some(next);
        }
        at -= set.host.len();
        if at < set.failsafe.len() {
            set.failsafe.remove(at);
            return Some(next);
        }
        at -= set.failsafe.len();
        if at < set.published.len() {
            set.published.remove(at);
            return Some(next);
        }
        at -= set.published.len();
        let settings = usize::from(set.host_access) + usize::from(set.default_action != "Allow");
        if at < settings {
            if set.host_access {
                set.host_access = false;
            } else {
                set.default_action = "Allow".to_owned();
            }
            return Some(next);
        }
        at -= settings;
    }
    None
}

/// Every element and every field, the larger parts first.
fn parts(value: &Value, path: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
    let inner: Vec<(Step, &Value)> = match value {
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, item)| (Step::Item(index), item)).collect()
        }
        Value::Object(fields) => {
            fields.iter().map(|(name, item)| (Step::Field(name.clone()), item)).collect()
        }
        _ => return,
    };
    for (step, item) in inner {
        path.push(step);
        found.push(path.clone());
        parts(item, path, found);
        path.pop();
    }
}

fn remove(value: &mut Value, path: &[Step]) {
    match path {
        [] => {}
        [Step::Item(index)] => drop(value.as_array_mut().map(|items| items.remove(*index))),
        [Step::Field(name)] => drop(value.as_object_mut().map(|fields| fields.remove(name))),
        [Step::Item(index), rest @ ..] => remove(&mut value[*index], rest),
        [Step::Field(name), rest @ ..] => remove(&mut value[name], rest),
    }
}
