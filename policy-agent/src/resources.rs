//! The resources in force, by origin, and what a request would make of them. No I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use policy_api::{
    diagnostic::Diagnostic,
    messages::{Outcome, ResourceName, ResourceResult},
};
use policy_core::{
    assemble,
    model::{Model, Settings},
    policy::PolicyKey,
    shared::{Shared, SharedMap},
    validate::{self, Object},
};
use serde_json::Value;

use crate::store::Change;

/// Where a resource came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `policyctl apply`.
    Applied,
    /// A file in `--policy-dir`.
    File(PathBuf),
}

/// A resource in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// As its author wrote it, in JSON: as a tree it would take several times the memory.
    text: Box<str>,
    /// What it means.
    pub object: Object,
    /// Where it came from.
    pub origin: Origin,
}

impl Entry {
    fn new(value: &Value, object: Object, origin: Origin) -> Arc<Entry> {
        Arc::new(Entry { text: value.to_string().into(), object, origin })
    }

    /// As its author wrote it.
    pub fn value(&self) -> Value {
        // It was written by `new`.
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    fn is(&self, value: &Value) -> bool {
        let text = value.to_string();
        *self.text == text || self.value() == *value
    }
}

/// Resources by name. Cloning shares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    entries: SharedMap<Arc<ResourceName>, Arc<Entry>>,
    /// The WorkloadEndpoints among them.
    statics: SharedMap<Arc<ResourceName>, Arc<Entry>>,
    /// What they alone decide of the model, settings aside.
    base: Model,
    /// Applied resources that a file stands in front of; in force again when the file goes, as
    /// they would be after a restart.
    shadowed: Shared<BTreeMap<ResourceName, Value>>,
}

/// A change that has been checked.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Resources after it.
    pub resources: Resources,
    /// What the store is to do.
    pub changes: Vec<Change>,
    /// What to tell the caller, in the order of the request.
    pub results: Vec<ResourceResult>,
    /// Things that look wrong.
    pub warnings: Vec<Diagnostic>,
}

impl Resources {
    /// Every resource.
    pub fn iter(&self) -> impl Iterator<Item = (&ResourceName, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_ref(), entry.as_ref()))
    }

    /// One resource.
    pub fn get(&self, name: &ResourceName) -> Option<&Entry> {
        self.entries.get(name).map(AsRef::as_ref)
    }

    /// The WorkloadEndpoints.
    pub fn statics(&self) -> &SharedMap<Arc<ResourceName>, Arc<Entry>> {
        &self.statics
    }

    /// Puts a resource in force; returns the one that it replaces.
    fn insert(&mut self, name: ResourceName, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let old = self.remove(&name);
        assemble::add(&mut self.base, &entry.object);
        let name = Arc::new(name);
        if matches!(entry.object, Object::WorkloadEndpoint(_)) {
            self.statics.insert(Arc::clone(&name), Arc::clone(&entry));
        }
        self.entries.insert(name, entry);
        old
    }

    /// Takes a resource out of force.
    fn remove(&mut self, name: &ResourceName) -> Option<Arc<Entry>> {
        if !self.entries.contains_key(name) {
            return None;
        }
        let old = self.entries.remove(name)?;
        assemble::remove(&mut self.base, &old.object);
        self.statics.remove(name);
        Some(old)
    }

    /// The part of the model that resources alone decide.
    pub fn base(&self, settings: Settings) -> Model {
        Model { settings, ..self.base.clone() }
    }

    /// What adding or replacing these would give.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them, each with its index in the request.
    pub fn apply(&self, values: Vec<Value>) -> Result<Checked, Vec<Diagnostic>> {
        let mut next = Checked {
            resources: self.clone(),
            changes: Vec::new(),
            results: Vec::new(),
            warnings: Vec::new(),
        };
        let mut errors = Vec::new();
        let mut seen: BTreeMap<ResourceName, usize> = BTreeMap::new();
        for (index, value) in values.into_iter().enumerate() {
            let at = |diagnostic: Diagnostic| Diagnostic { resource: Some(index), ..diagnostic };
            let (object, warnings) = match validate::decode_with_warnings(&value) {
                Ok(decoded) => decoded,
                Err(diagnostics) => {
                    errors.extend(diagnostics.into_iter().map(at));
                    continue;
                }
            };
            next.warnings.extend(warnings.into_iter().map(at));
            let name = object.resource_name();
            if let Some(first) = seen.insert(name.clone(), index) {
                errors.push(at(Diagnostic::error(
                    "metadata.name",
                    format!(
                        "{} {} stands twice in this request, first as resource {}",
                        name.kind,
                        name.name,
                        first + 1
                    ),
                )));
                continue;
            }
            let old = self.entries.get(&name);
            let unchanged = old.is_some_and(|entry| entry.is(&value));
            let outcome = match old.map(|entry| &entry.origin) {
                _ if unchanged => Outcome::Unchanged,
                Some(Origin::File(path)) => {
                    errors.push(at(Diagnostic::error(
                        "",
                        format!(
                            "{} {} is defined by {}, and files in the policy directory win",
                            name.kind,
                            name.name,
                            path.display()
                        ),
                    )
                    .with_hint("edit that file; the agent follows it")));
                    continue;
                }
                Some(Origin::Applied) => Outcome::Configured,
                None => Outcome::Created,
            };
            if outcome != Outcome::Unchanged {
                let entry = Entry::new(&value, object, Origin::Applied);
                next.resources.insert(name.clone(), entry);
                next.changes.push(Change::Put(name.clone(), value));
            }
            next.results.push(ResourceResult { resource: name, outcome });
        }
        for (name, diagnostic) in next.resources.newly_dangling_after(self, &next.changes) {
            errors.push(Diagnostic { resource: seen.get(&name).copied(), ..diagnostic });
        }
        if errors.is_empty() { Ok(next) } else { Err(errors) }
    }

    /// What removing these would give.
    ///
    /// # Errors
    ///
    /// One diagnostic for each that is not there or belongs to the policy directory.
    pub fn delete(
        &self,
        names: Vec<ResourceName>,
        ignore_not_found: bool,
    ) -> Result<Checked, Vec<Diagnostic>> {
        let mut next = Checked {
            resources: self.clone(),
            changes: Vec::new(),
            results: Vec::new(),
            warnings: Vec::new(),
        };
        let mut errors = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            let refuse = |message: String| Diagnostic {
                resource: Some(index),
                ..Diagnostic::error("", message)
            };
            if let Some(diagnostic) = validate::undeletable(&name) {
                errors.push(Diagnostic { resource: Some(index), ..diagnostic });
                continue;
            }
            match next.resources.entries.get(&name).map(|entry| entry.origin.clone()) {
                None if ignore_not_found => {}
                None => {
                    let mut error = refuse(format!("there is no {}", shown(&name)));
                    error.hint = next.resources.elsewhere(&name);
                    errors.push(error);
                }
                Some(Origin::File(path)) => errors.push(
                    refuse(format!("{} {} is defined by {}", name.kind, name.name, path.display()))
                        .with_hint("remove it from that file; the agent follows it"),
                ),
                Some(Origin::Applied) => {
                    next.resources.remove(&name);
                    next.changes.push(Change::Remove(name.clone()));
                    next.results.push(ResourceResult { resource: name, outcome: Outcome::Deleted });
                }
            }
        }
        errors.extend(
            next.resources
                .newly_dangling_after(self, &next.changes)
                .into_iter()
                .map(|(_, diagnostic)| diagnostic),
        );
        if errors.is_empty() { Ok(next) } else { Err(errors) }
    }

    /// What to write instead of the name of a resource that is not there: where one of that kind
    /// and name is.
    fn elsewhere(&self, name: &ResourceName) -> Option<String> {
        let namespaces: Vec<&str> = self
            .entries
            .keys()
            .filter(|known| (&known.kind, &known.name) == (&name.kind, &name.name))
            .filter_map(|known| known.namespace.as_deref())
            .collect();
        (!namespaces.is_empty()).then(|| format!("there is one in {}", namespaces.join(", ")))
    }

    /// The resources of the state directory, each with the file that it is in.
    ///
    /// # Errors
    ///
    /// What is wrong with them, as diagnostics that name the files.
    pub fn stored(files: Vec<(PathBuf, Value)>) -> Result<Resources, Vec<Diagnostic>> {
        let mut stored = Resources::default();
        let mut places: BTreeMap<ResourceName, PathBuf> = BTreeMap::new();
        let mut errors = Vec::new();
        for (path, value) in files {
            match validate::decode(&value) {
                Ok(object) => {
                    let name = object.resource_name();
                    if let Some(first) = places.get(&name) {
                        errors.push(twice(&name, first, Some(&path)));
                        continue;
                    }
                    places.insert(name.clone(), path);
                    stored.insert(name, Entry::new(&value, object, Origin::Applied));
                }
                Err(diagnostics) => errors.extend(diagnostics.into_iter().map(|diagnostic| {
                    Diagnostic { file: Some(path.display().to_string()), ..diagnostic }
                })),
            }
        }
        if errors.is_empty() { Ok(stored) } else { Err(errors) }
    }

    /// The same resources with those of the policy directory replaced by `files`. Where a file and
    /// an applied resource have one name, the file wins; two files must not have one name.
    ///
    /// # Errors
    ///
    /// What is wrong with the files, as diagnostics that name them.
    pub fn with_files(
        &self,
        applied: Vec<Value>,
        files: Vec<(PathBuf, Value)>,
    ) -> Result<Resources, Vec<Diagnostic>> {
        let mut next = Resources::default();
        let mut errors = Vec::new();
        let applied = applied.into_iter().map(|value| (Origin::Applied, value));
        let files = files.into_iter().map(|(path, value)| (Origin::File(path), value));
        for (origin, value) in applied.chain(files) {
            match validate::decode(&value) {
                Ok(object) => {
                    let name = object.resource_name();
                    let second = match &origin {
                        Origin::File(path) => Some(path.clone()),
                        Origin::Applied => None,
                    };
                    let Some(old) = next.insert(name.clone(), Entry::new(&value, object, origin))
                    else {
                        continue;
                    };
                    match &old.origin {
                        Origin::File(first) => {
                            errors.push(twice(&name, first, second.as_deref()));
                        }
                        Origin::Applied => {
                            next.shadowed.insert(name, old.value());
                        }
                    }
                }
                Err(diagnostics) => {
                    let file = match &origin {
                        Origin::File(path) => Some(path.display().to_string()),
                        Origin::Applied => Some("state directory".to_owned()),
                    };
                    errors.extend(
                        diagnostics
                            .into_iter()
                            .map(|diagnostic| Diagnostic { file: file.clone(), ..diagnostic }),
                    );
                }
            }
        }
        if errors.is_empty() { Ok(next) } else { Err(errors) }
    }

    /// The same resources as the successor of `before`.
    ///
    /// # Errors
    ///
    /// What no longer exists, though resources of the policy directory or applied ones need it.
    pub fn succeeding(self, before: &Resources) -> Result<Resources, Vec<Diagnostic>> {
        let dangling = self.newly_dangling(before);
        if dangling.is_empty() {
            return Ok(self);
        }
        let locate = |(name, diagnostic): (ResourceName, Diagnostic)| match self
            .entries
            .get(&name)
            .map(|entry| &entry.origin)
        {
            Some(Origin::File(path)) => {
                Diagnostic { file: Some(path.display().to_string()), ..diagnostic }
            }
            Some(Origin::Applied) | None => diagnostic,
        };
        Err(dangling.into_iter().map(locate).collect())
    }

    /// Resources that need what is not there, and did not do so in `before`. What went missing
    /// while no agent ran is enforced as [`policy_core::tiers`] says, and hinders no other change.
    fn newly_dangling(&self, before: &Resources) -> Vec<(ResourceName, Diagnostic)> {
        let of = |resources: &Resources| {
            validate::references_of(&resources.base, resources.base.policies.values())
        };
        let dangling = of(self);
        if dangling.is_empty() {
            return dangling;
        }
        let known = of(before);
        dangling.into_iter().filter(|dangling| !known.contains(dangling)).collect()
    }

    /// The same where only `changed` are others than before: of these, and of what is staged to take
    /// their place. Everything is asked if a tier has gone.
    fn newly_dangling_after(
        &self,
        before: &Resources,
        changed: &[Change],
    ) -> Vec<(ResourceName, Diagnostic)> {
        if before.base.tiers.keys().any(|tier| !self.base.tiers.contains_key(tier)) {
            return self.newly_dangling(before);
        }
        let keys: BTreeSet<PolicyKey> = changed
            .iter()
            .filter_map(|change| match change {
                Change::Put(name, _) => self.get(name),
                Change::Remove(_) => None,
            })
            .filter_map(|entry| match &entry.object {
                Object::Policy(policy) => Some([policy.key.clone(), policy.key.staged()]),
                _ => None,
            })
            .flatten()
            .collect();
        let policies = keys.iter().filter_map(|key| self.base.policies.get(key));
        let known = validate::references_of(
            &before.base,
            keys.iter().filter_map(|key| before.base.policies.get(key)),
        );
        let dangling = validate::references_of(&self.base, policies);
        dangling.into_iter().filter(|dangling| !known.contains(dangling)).collect()
    }

    /// The values that were applied, for [`Resources::with_files`].
    pub fn applied(&self) -> Vec<Value> {
        self.entries
            .values()
            .filter(|entry| entry.origin == Origin::Applied)
            .map(|entry| entry.value())
            .chain(self.shadowed.values().cloned())
            .collect()
    }
}

fn shown(name: &ResourceName) -> String {
    match &name.namespace {
        Some(namespace) => format!("{} {} in namespace {namespace}", name.kind, name.name),
        None => format!("{} {}", name.kind, name.name),
    }
}

fn twice(name: &ResourceName, first: &Path, second: Option<&Path>) -> Diagnostic {
    let file = second.map(|path| path.display().to_string());
    let message = format!("{} {} stands twice, first in {}", name.kind, name.name, first.display());
    Diagnostic { file, ..Diagnostic::error("metadata.name", message) }
        .with_hint("remove one of the two")
}

#[cfg(test)]
mod tests;
