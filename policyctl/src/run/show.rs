//! Commands that read and change nothing. Input: what is asked for; output: the agent's answer in
//! the format wanted, friendly words when there is nothing to show.

use policy_api::messages::{EndpointStatus, ResourceName, StoredResource};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{ListFormat, TextFormat};
use crate::client::Client;
use crate::command::Selection;
use crate::failure::{Exit, Failure};
use crate::kinds;
use crate::output::{self, Screen, text};

/// Our version, which is that of the messages too.
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) async fn get(
    client: &Client,
    screen: &Screen,
    selection: &Selection,
    format: ListFormat,
) -> Result<Exit, Failure> {
    let resources = select(client, selection).await?;
    if resources.is_empty() && matches!(format, ListFormat::Table | ListFormat::Wide) {
        screen.note(&nothing_found(selection))?;
        return Ok(Exit::Fine);
    }
    match format {
        ListFormat::Table => screen.print(&output::table::resources(&resources, false))?,
        ListFormat::Wide => screen.print(&output::table::resources(&resources, true))?,
        ListFormat::Name => {
            let names: String = resources
                .iter()
                .map(|it| format!("{}\n", text::clean(&kinds::qualified(&it.name))))
                .collect();
            screen.print(&names)?;
        }
        ListFormat::Yaml => screen.yaml(&for_apply(&resources, selection))?,
        ListFormat::Json => screen.json(&for_apply(&resources, selection))?,
    }
    Ok(Exit::Fine)
}

/// What `apply -f -` reads: the resource that was asked for by name, or a list, as kubectl does.
fn for_apply(resources: &[StoredResource], selection: &Selection) -> Value {
    match (resources, &selection.names[..]) {
        ([only], [_]) => only.resource.clone(),
        _ => {
            let items: Vec<_> = resources.iter().map(|it| &it.resource).collect();
            json!({ "apiVersion": "v1", "kind": "List", "items": items })
        }
    }
}

/// What is selected, in a stable order; a name that selects nothing is an error.
async fn select(client: &Client, selection: &Selection) -> Result<Vec<StoredResource>, Failure> {
    let namespace = selection.namespace.as_deref();
    let kind = match &selection.kinds[..] {
        [first, rest @ ..] if rest.iter().all(|kind| kind.names().1 == first.names().1) => {
            Some(first.names().1)
        }
        _ => None,
    };
    let name = match &selection.names[..] {
        [only] => Some(only.as_str()),
        _ => None,
    };
    let wanted = |resource: &ResourceName| {
        (selection.kinds.is_empty() || selection.kinds.iter().any(|it| kinds::is_of(resource, *it)))
            && namespace.is_none_or(|it| resource.namespace.as_deref() == Some(it))
            && (selection.names.is_empty() || selection.names.contains(&resource.name))
    };
    // The agent cannot know of several names, or of kinds that share a name.
    let mut resources = client.resources(kind, namespace, name).await?;
    resources.retain(|resource| wanted(&resource.name));
    resources.sort_by(|a, b| kinds::sort_key(&a.name).cmp(&kinds::sort_key(&b.name)));
    match selection.names.iter().find(|name| resources.iter().all(|it| it.name.name != **name)) {
        Some(missing) => Err(Failure::Declined(format!(
            "no {} `{missing}`{}",
            selection.kind_texts.join(" or "),
            in_namespace(namespace)
        ))),
        None => Ok(resources),
    }
}

fn nothing_found(selection: &Selection) -> String {
    let what = match &selection.kind_texts[..] {
        [] => "policies".to_owned(),
        texts => texts.join(" or "),
    };
    let place = in_namespace(selection.namespace.as_deref());
    format!("no {what}{place} yet: apply some with `policyctl apply -f FILE`")
}

pub(super) fn in_namespace(namespace: Option<&str>) -> String {
    namespace.map(|it| format!(" in namespace {it}")).unwrap_or_default()
}

pub(super) async fn endpoints(
    client: &Client,
    screen: &Screen,
    names: &[String],
    namespace: Option<&str>,
    format: ListFormat,
) -> Result<Exit, Failure> {
    let mut endpoints = client.endpoints().await?;
    let called = |it: &EndpointStatus, name: &str| match name.split_once('/') {
        Some((namespace, name)) => it.namespace == namespace && it.name == name,
        None => it.name == name,
    };
    endpoints.retain(|it| {
        namespace.is_none_or(|wanted| it.namespace == wanted)
            && (names.is_empty() || names.iter().any(|name| called(it, name)))
    });
    let key = |it: &EndpointStatus| {
        (it.namespace.clone(), it.name.clone(), it.network.clone(), it.ifindex)
    };
    endpoints.sort_by_cached_key(key);
    if let Some(missing) = names.iter().find(|name| !endpoints.iter().any(|it| called(it, name))) {
        return Err(Failure::Declined(format!(
            "no endpoint `{missing}`{}",
            in_namespace(namespace)
        )));
    }
    if endpoints.is_empty() && matches!(format, ListFormat::Table | ListFormat::Wide) {
        screen.note(&format!(
            "no endpoints{} yet: they appear when containers start on a Docker network, or when a \
             WorkloadEndpoint is applied",
            in_namespace(namespace)
        ))?;
        return Ok(Exit::Fine);
    }
    match format {
        ListFormat::Table => screen.print(&output::table::endpoints(&endpoints, false))?,
        ListFormat::Wide => screen.print(&output::table::endpoints(&endpoints, true))?,
        ListFormat::Json => screen.json(&endpoints)?,
        ListFormat::Yaml => screen.yaml(&endpoints)?,
        ListFormat::Name => {
            // An endpoint on two networks is two endpoints of one name.
            let mut names: Vec<String> = endpoints
                .iter()
                .map(|it| format!("{}\n", text::namespaced(&it.namespace, &it.name)))
                .collect();
            names.dedup();
            screen.print(&names.concat())?;
        }
    }
    Ok(Exit::Fine)
}

pub(super) async fn status(
    client: &Client,
    screen: &Screen,
    format: TextFormat,
) -> Result<Exit, Failure> {
    let status = client.status().await?;
    show(screen, format, &status, || output::status::status(&status))?;
    let healthy = status.components.iter().all(|part| part.healthy);
    Ok(if healthy { Exit::Fine } else { Exit::Difference })
}

pub(super) async fn version(
    client: &Client,
    screen: &Screen,
    client_only: bool,
    format: TextFormat,
) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct Versions {
        policyctl: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        abi: Option<u32>,
    }
    let agent = if client_only { None } else { Some(client.status().await) };
    let (status, failure) = match agent {
        Some(Ok(status)) => (Some(status), None),
        Some(Err(failure)) => (None, Some(failure)),
        None => (None, None),
    };
    let versions = Versions {
        policyctl: VERSION,
        agent: status.as_ref().map(|it| it.version.clone()),
        abi: status.as_ref().map(|it| it.abi_version),
    };
    show(screen, format, &versions, || {
        let mut lines = format!("policyctl {VERSION}\n");
        if let Some(status) = &status {
            let version = text::clean(&status.version);
            lines.push_str(&format!("agent     {version} (ABI {})\n", status.abi_version));
        }
        lines
    })?;
    // Our own version is worth printing even if there is no agent to ask.
    failure.map_or(Ok(Exit::Fine), Err)
}

/// Prints one answer in the format wanted.
pub(super) fn show(
    screen: &Screen,
    format: TextFormat,
    value: &impl Serialize,
    as_text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    match format {
        TextFormat::Text => screen.print(&as_text()),
        TextFormat::Json => screen.json(value),
        TextFormat::Yaml => screen.yaml(value),
    }
}
