//! Tables of resources and endpoints. Input: what the agent holds; output: columns as kubectl
//! prints them: no lines, no wrapping, cut with `awk`.

use comfy_table::{Cell, Color, ContentArrangement, Table};
use policy_api::messages::{EndpointState, EndpointStatus, StoredResource};
use policy_core::tiers::DEFAULT_ORDER;
use serde_json::Value;

use super::text::{clean, list};

/// Spaces between columns.
const GAP: u16 = 3;

/// A table with upper-case headings.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = bare();
    table.set_header(headings.iter().map(Cell::new));
    table
}

/// A table without headings.
pub(crate) fn bare() -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    // Whoever prints strips colours where there is no terminal.
    table.enforce_styling();
    table
}

/// The table as text, without trailing blanks.
pub(crate) fn render(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// Resources, one table for each sort of thing, as their columns differ.
pub(crate) fn resources(resources: &[StoredResource], wide: bool) -> String {
    let of = |sort: fn(&str) -> bool| -> Vec<&StoredResource> {
        resources.iter().filter(|it| sort(&it.name.kind)).collect()
    };
    let sections = [
        (of(is_policy), policies as fn(&[&StoredResource], bool) -> Table),
        (of(is_tier), tiers),
        (of(is_set), network_sets),
        (of(is_endpoint), workload_endpoints),
        (of(is_other), others),
    ];
    let sections: Vec<String> = sections
        .iter()
        .filter(|(resources, _)| !resources.is_empty())
        .map(|(resources, build)| render(build(resources, wide)))
        .collect();
    sections.join("\n")
}

fn is_policy(kind: &str) -> bool {
    kind.ends_with("NetworkPolicy")
}

fn is_tier(kind: &str) -> bool {
    kind == "Tier"
}

fn is_other(kind: &str) -> bool {
    !is_policy(kind) && !is_tier(kind) && !is_set(kind) && !is_endpoint(kind)
}

fn is_set(kind: &str) -> bool {
    kind.ends_with("NetworkSet")
}

fn is_endpoint(kind: &str) -> bool {
    kind == "WorkloadEndpoint"
}

fn policies(resources: &[&StoredResource], wide: bool) -> Table {
    let mut headings = vec!["KIND", "NAMESPACE", "NAME", "ORDER", "ENDPOINTS", "SELECTS"];
    if wide {
        headings.extend(["TIER", "TYPES", "RULES IN", "RULES OUT"]);
    }
    let mut table = table(&headings);
    for resource in resources {
        let spec = &resource.resource["spec"];
        let mut row = vec![
            kind(resource),
            namespace(resource),
            clean(&resource.name.name).into_owned(),
            scalar(&spec["order"]),
            resource.endpoints.to_string(),
            selects(spec),
        ];
        if wide {
            row.extend([
                spec["tier"].as_str().map_or_else(|| "default".to_owned(), |it| clean(it).into()),
                types(spec),
                length(&spec["ingress"]),
                length(&spec["egress"]),
            ]);
        }
        table.add_row(row);
    }
    table
}

fn tiers(resources: &[&StoredResource], _wide: bool) -> Table {
    let mut table = table(&["KIND", "NAME", "ORDER", "DEFAULT ACTION"]);
    for resource in resources {
        let spec = &resource.resource["spec"];
        let action = spec["defaultAction"].as_str();
        table.add_row([
            kind(resource),
            clean(&resource.name.name).into_owned(),
            spec["order"].as_f64().unwrap_or(DEFAULT_ORDER).to_string(),
            action.map_or_else(|| "Deny".to_owned(), |it| clean(it).into()),
        ]);
    }
    table
}

fn network_sets(resources: &[&StoredResource], wide: bool) -> Table {
    let mut table = table(&["KIND", "NAMESPACE", "NAME", "NETS", "LABELS"]);
    for resource in resources {
        let nets = &resource.resource["spec"]["nets"];
        let nets = if wide { values(nets) } else { length(nets) };
        table.add_row([
            kind(resource),
            namespace(resource),
            clean(&resource.name.name).into_owned(),
            nets,
            labels(resource),
        ]);
    }
    table
}

fn workload_endpoints(resources: &[&StoredResource], _wide: bool) -> Table {
    let mut table = table(&["KIND", "NAMESPACE", "NAME", "INTERFACE", "ADDRESSES", "LABELS"]);
    for resource in resources {
        let spec = &resource.resource["spec"];
        table.add_row([
            kind(resource),
            namespace(resource),
            clean(&resource.name.name).into_owned(),
            scalar(&spec["interfaceName"]),
            values(&spec["ipNetworks"]),
            labels(resource),
        ]);
    }
    table
}

fn others(resources: &[&StoredResource], _wide: bool) -> Table {
    let mut table = table(&["KIND", "NAMESPACE", "NAME", "LABELS"]);
    for resource in resources {
        table.add_row([
            kind(resource),
            namespace(resource),
            clean(&resource.name.name).into_owned(),
            labels(resource),
        ]);
    }
    table
}

fn kind(resource: &StoredResource) -> String {
    let name = &resource.name;
    // The one name that two projects share.
    if name.api_version == "networking.k8s.io/v1" {
        format!("{} (k8s)", clean(&name.kind))
    } else {
        clean(&name.kind).into_owned()
    }
}

fn namespace(resource: &StoredResource) -> String {
    resource.name.namespace.as_deref().map_or_else(|| "-".to_owned(), |it| clean(it).into_owned())
}

/// What a policy selects: Calico's selector or Kubernetes' podSelector, in Calico's words.
fn selects(spec: &Value) -> String {
    if spec["stagedAction"].as_str() == Some("Delete") {
        return "nothing: would delete the policy of its name".to_owned();
    }
    if spec["podSelector"].is_null() {
        // A selector may span lines; a row may not.
        let selector = |field: &str| {
            let words: Vec<&str> = spec[field].as_str()?.split_whitespace().collect();
            (!words.is_empty()).then(|| clean(&words.join(" ")).into_owned())
        };
        let own = selector("selector").unwrap_or_else(|| "all()".to_owned());
        return match selector("namespaceSelector") {
            Some(namespaces) => format!("{own}, in namespaces {namespaces}"),
            None => own,
        };
    }
    let mut terms: Vec<String> = Vec::new();
    if let Some(labels) = spec["podSelector"]["matchLabels"].as_object() {
        terms.extend(labels.iter().map(|(key, value)| format!("{key} == '{}'", scalar(value))));
    }
    for expression in spec["podSelector"]["matchExpressions"].as_array().into_iter().flatten() {
        let key = scalar(&expression["key"]);
        terms.push(match expression["operator"].as_str() {
            Some("Exists") => format!("has({key})"),
            Some("DoesNotExist") => format!("!has({key})"),
            Some("NotIn") => format!("{key} not in {{{}}}", values(&expression["values"])),
            _ => format!("{key} in {{{}}}", values(&expression["values"])),
        });
    }
    if terms.is_empty() { "all()".to_owned() } else { clean(&terms.join(" && ")).into_owned() }
}

fn labels(resource: &StoredResource) -> String {
    let labels = resource.resource["metadata"]["labels"].as_object();
    list(labels.into_iter().flatten().map(|(key, value)| format!("{key}={}", scalar(value))))
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => clean(text).into_owned(),
        other => other.to_string(),
    }
}

fn values(value: &Value) -> String {
    list(value.as_array().into_iter().flatten().map(scalar))
}

/// Directions that the policy rules; what they are if it does not say is upstream's: Calico goes by
/// the rules alone, Kubernetes always counts ingress in.
fn types(spec: &Value) -> String {
    let given = if spec["types"].is_null() { &spec["policyTypes"] } else { &spec["types"] };
    if given.is_array() {
        return values(given);
    }
    let calico = spec["podSelector"].is_null();
    match (rules(&spec["ingress"]), rules(&spec["egress"])) {
        (_, 0) => "Ingress".to_owned(),
        (0, _) if calico => "Egress".to_owned(),
        _ => "Ingress, Egress".to_owned(),
    }
}

fn length(value: &Value) -> String {
    rules(value).to_string()
}

fn rules(value: &Value) -> usize {
    value.as_array().map_or(0, Vec::len)
}

/// Endpoints and what holds there.
pub(crate) fn endpoints(endpoints: &[EndpointStatus], wide: bool) -> String {
    let noted = endpoints.iter().any(|it| it.note.is_some());
    let mut headings =
        vec!["NAMESPACE", "NAME", "NETWORK", "STATE", "INGRESS", "EGRESS", "ADDRESSES"];
    if wide {
        headings.extend(["INTERFACE", "LABELS"]);
    }
    if noted {
        headings.push("NOTE");
    }
    let mut table = table(&headings);
    for endpoint in endpoints {
        let (state, color) = match endpoint.state {
            EndpointState::Enforcing => ("enforcing", Color::Green),
            EndpointState::Pending => ("pending", Color::Yellow),
            EndpointState::Unsupported => ("unsupported", Color::Red),
            EndpointState::Elsewhere => ("elsewhere", Color::Green),
        };
        let mut row = vec![
            Cell::new(clean(&endpoint.namespace)),
            Cell::new(clean(&endpoint.name)),
            Cell::new(list(Some(&endpoint.network).filter(|it| !it.is_empty()))),
            Cell::new(state).fg(color),
            policies_of(&endpoint.ingress_policies, wide),
            policies_of(&endpoint.egress_policies, wide),
            // Last of them: a coloured cell at the end of a line would keep its padding.
            Cell::new(list(&endpoint.addresses)),
        ];
        if wide {
            row.push(Cell::new(match endpoint.interface.as_str() {
                "" => format!("#{}", endpoint.ifindex),
                name => format!("{} #{}", clean(name), endpoint.ifindex),
            }));
            row.push(Cell::new(list(endpoint.labels.iter().map(|(k, v)| format!("{k}={v}")))));
        }
        if noted {
            row.push(Cell::new(list(endpoint.note.as_ref())));
        }
        table.add_row(row);
    }
    render(table)
}

/// Policies of one direction; an endpoint that none selects is open unless the agent's default is
/// to deny, and that is what one looks for.
fn policies_of(policies: &[String], wide: bool) -> Cell {
    match (policies.len(), wide) {
        (0, _) => Cell::new("no policy").fg(Color::Yellow),
        // A global policy has no namespace between the slashes.
        (_, true) => Cell::new(list(policies.iter().map(|it| it.replace("//", "/")))),
        (1, false) => Cell::new("1 policy"),
        (number, false) => Cell::new(format!("{number} policies")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tiers_have_a_table_of_their_own() {
        let tier = |name: &str, spec: serde_json::Value| -> StoredResource {
            serde_json::from_value(json!({
                "api_version": "projectcalico.org/v3", "kind": "Tier", "name": name, "endpoints": 0,
                "resource": {"apiVersion": "projectcalico.org/v3", "kind": "Tier",
                             "metadata": {"name": name}, "spec": spec},
            }))
            .expect("a stored resource")
        };
        let found = resources(
            &[tier("ops", json!({"order": 100, "defaultAction": "Pass"})), tier("late", json!({}))],
            false,
        );
        let rows: Vec<Vec<&str>> =
            found.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["KIND", "NAME", "ORDER", "DEFAULT", "ACTION"], "{found}");
        assert_eq!(rows[1], ["Tier", "ops", "100", "Pass"], "{found}");
        assert_eq!(rows[2], ["Tier", "late", "1000000", "Deny"], "{found}");
    }

    #[test]
    fn a_staged_deletion_selects_nothing() {
        assert_eq!(
            selects(&json!({"stagedAction": "Delete"})),
            "nothing: would delete the policy of its name"
        );
        assert_eq!(
            selects(&json!({"stagedAction": "Delete", "podSelector": {}})),
            "nothing: would delete the policy of its name"
        );
        assert_eq!(selects(&json!({"stagedAction": "Set"})), "all()");
    }
}
