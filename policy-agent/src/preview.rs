//! What a change would do: `POST /v1/diff`. No I/O.
//!
//! In: the resources in force and a [`DiffRequest`]. Out: the resources that would be in force,
//! checked as an apply checks them, and then, with the models that the event loop makes of both,
//! the [`Difference`]. Whether the maps could hold it is not asked: `apply --dry-run` does that.

use axum::http::StatusCode;
use policy_api::{
    diagnostic::Diagnostic,
    difference::{DiffRequest, Difference, ResourceChange},
    messages::{Refusal, ResourceName},
};
use policy_core::{
    changes,
    model::{Model, Settings},
    reach,
};
use serde_json::Value;

use crate::{
    resources::{Origin, Resources},
    server::{Preview, Refused},
};

/// What is known of a difference before the models are.
#[derive(Clone, Debug)]
pub struct Changes {
    resources: Vec<ResourceChange>,
    warnings: Vec<Diagnostic>,
    staged: bool,
}

/// Checks a request against the resources in force.
///
/// # Errors
///
/// As for an apply or a delete of the same resources.
pub fn check(
    now: &Resources,
    request: DiffRequest,
    settings: Settings,
) -> Result<(Preview, Changes), Refused> {
    let applied = now.apply(request.resources).map_err(refused)?;
    let named: Vec<&ResourceName> = applied.results.iter().map(|result| &result.resource).collect();
    if let Some(both) = request.delete.iter().find(|name| named.contains(name)) {
        let message = format!("{} {} is to be both applied and deleted", both.kind, both.name);
        return Err(refused(vec![Diagnostic::error("metadata.name", message)]));
    }
    let mut delete = request.delete;
    if request.prune {
        let rest = applied.resources.iter().filter(|(name, entry)| {
            entry.origin == Origin::Applied && !named.contains(name) && !delete.contains(name)
        });
        let rest: Vec<ResourceName> = rest.map(|(name, _)| name.clone()).collect();
        delete.extend(rest);
    }
    let resources = applied.resources.delete(delete, false).map_err(refused)?.resources;
    let [before, after] = [values(now, &resources), values(&resources, now)];
    let changes = Changes {
        resources: changes::resources(pairs(&before), pairs(&after)),
        warnings: applied.warnings,
        staged: request.staged,
    };
    Ok((Preview { base: resources.base(settings), resources }, changes))
}

/// The resources that the others do not have as they are.
fn values<'a>(resources: &'a Resources, others: &Resources) -> Vec<(&'a ResourceName, Value)> {
    let differing = resources.iter().filter(|(name, entry)| {
        let other = others.get(name);
        other.is_none_or(|other| !std::ptr::eq(*entry, other))
    });
    differing.map(|(name, entry)| (name, entry.value())).collect()
}

fn pairs<'a>(
    values: &'a [(&'a ResourceName, Value)],
) -> impl Iterator<Item = (&'a ResourceName, &'a Value)> {
    values.iter().map(|(name, value)| (*name, value))
}

impl Changes {
    /// The whole difference: what the models before and after let through.
    #[must_use]
    pub fn compare(self, [before, after]: &[Model; 2]) -> Difference {
        let difference = reach::difference(self.resources, before, after, self.staged);
        Difference { warnings: self.warnings, ..difference }
    }
}

fn refused(diagnostics: Vec<Diagnostic>) -> Refused {
    let error = match diagnostics.len() {
        1 => "one error, nothing was compared".to_owned(),
        count => format!("{count} errors, nothing was compared"),
    };
    Refused { status: StatusCode::UNPROCESSABLE_ENTITY, refusal: Refusal { error, diagnostics } }
}

#[cfg(test)]
mod tests {
    use policy_api::messages::Outcome;
    use serde_json::json;

    use super::*;

    fn policy(name: &str, order: u32) -> Value {
        json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
               "metadata": {"name": name}, "spec": {"selector": "all()", "order": order}})
    }

    fn name(name: &str) -> ResourceName {
        ResourceName {
            api_version: "projectcalico.org/v3".to_owned(),
            kind: "GlobalNetworkPolicy".to_owned(),
            namespace: None,
            name: name.to_owned(),
        }
    }

    fn now() -> Resources {
        let applied = Resources::default().apply(vec![policy("a", 1), policy("b", 1)]).unwrap();
        let file = ("/p/c.yaml".into(), policy("c", 1));
        applied.resources.with_files(applied.resources.applied(), vec![file]).unwrap()
    }

    fn outcomes(request: DiffRequest) -> Vec<(String, Outcome)> {
        let (_, changes) = check(&now(), request, Settings::default()).unwrap();
        let outcomes = changes.resources.into_iter();
        outcomes.map(|change| (change.resource.name, change.outcome)).collect()
    }

    #[test]
    fn what_is_not_named_stays_unless_it_is_to_be_pruned() {
        let resources = vec![policy("a", 2), policy("d", 1)];
        let request = DiffRequest { resources, ..DiffRequest::default() };
        let configured = ("a".to_owned(), Outcome::Configured);
        let created = ("d".to_owned(), Outcome::Created);
        assert_eq!(outcomes(request.clone()), [configured.clone(), created.clone()]);
        let gone = ("b".to_owned(), Outcome::Deleted);
        // What the policy directory has stays.
        let pruned = outcomes(DiffRequest { prune: true, ..request });
        assert_eq!(pruned, [configured, gone, created]);
    }

    #[test]
    fn a_delete_is_checked_as_a_delete_is() {
        let delete = |names: &[&str]| DiffRequest {
            delete: names.iter().map(|it| name(it)).collect(),
            ..DiffRequest::default()
        };
        assert_eq!(outcomes(delete(&["b"])), [("b".to_owned(), Outcome::Deleted)]);
        let refused = |request| check(&now(), request, Settings::default()).unwrap_err().refusal;
        assert!(refused(delete(&["x"])).diagnostics[0].message.contains("there is no"));
        assert!(refused(delete(&["c"])).diagnostics[0].message.contains("/p/c.yaml"));
        let both = DiffRequest { resources: vec![policy("b", 9)], ..delete(&["b"]) };
        assert!(refused(both).diagnostics[0].message.contains("both applied and deleted"));
    }
}
