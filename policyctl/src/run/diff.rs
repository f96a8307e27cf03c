//! `diff`: what would a change do? Input: files, or names of what would go; output: the fields
//! that differ and the connections that would be opened or cut. The agent compares with what is in
//! force; two sets of files are compared here, by the same code.

use std::path::PathBuf;
use std::sync::Arc;

use policy_api::diagnostic::Diagnostic;
use policy_api::difference::{DiffRequest, Difference};
use policy_core::model::{EndpointId, EndpointSpec, Model};
use policy_core::validate::{self, Object, StaticEndpoint};
use policy_core::{changes, reach};

use super::change::{located, settle};
use crate::args::TextFormat;
use crate::client::Client;
use crate::command::{DiffQuestion, NamedTarget};
use crate::failure::{Exit, Failure};
use crate::input::{self, Input};
use crate::output::{self, Screen, text};

pub(super) async fn diff(
    client: &Client,
    screen: &Screen,
    question: DiffQuestion,
    staged: bool,
    limit: usize,
    format: TextFormat,
) -> Result<Exit, Failure> {
    let difference = match question {
        DiffQuestion::Agent { files, delete, namespace, prune } => {
            with_agent(client, &files, delete, namespace.as_deref(), prune, staged).await?
        }
        DiffQuestion::Files { before, after, endpoints } => {
            of_files(&before, &after, &endpoints, staged).map_err(Failure::Compared)?
        }
    };
    for warning in &difference.warnings {
        screen.note(&text::diagnostic(warning))?;
    }
    match format {
        TextFormat::Json => screen.json(&difference)?,
        TextFormat::Yaml => screen.yaml(&difference)?,
        TextFormat::Text if difference.is_empty() => {
            let compared = text::count(difference.reach.endpoints, "endpoint");
            screen.note(&format!("no difference, {compared} compared"))?;
        }
        TextFormat::Text => screen.print(&output::diff::difference(&difference, limit)?)?,
    }
    Ok(if difference.is_empty() { Exit::Fine } else { Exit::Difference })
}

async fn with_agent(
    client: &Client,
    files: &[PathBuf],
    delete: Vec<NamedTarget>,
    namespace: Option<&str>,
    prune: bool,
    staged: bool,
) -> Result<Difference, Failure> {
    let input = match files {
        [] => None,
        files => Some(input::read_valid(files).map_err(Failure::Input)?),
    };
    let mut names = Vec::with_capacity(delete.len());
    for target in delete {
        names.push(settle(client, target, namespace).await?);
    }
    let resources = input.as_ref().map(Input::values).unwrap_or_default();
    let answer = client.diff(&DiffRequest { resources, delete: names, prune, staged }).await;
    let Some(input) = input else { return answer };
    let answer = answer.map_err(|failure| located(failure, &input))?;
    let warnings = answer.warnings.into_iter().map(|warning| input.locate(warning)).collect();
    Ok(Difference { warnings, ..answer })
}

/// The difference between two sets of files, each as if it were all that is in force, on a host
/// with an agent's default settings.
fn of_files(
    before: &[PathBuf],
    after: &[PathBuf],
    endpoints: &[PathBuf],
    staged: bool,
) -> Result<Difference, Vec<Diagnostic>> {
    let endpoints = match endpoints {
        [] => None,
        files => Some(input::read_valid(files)?),
    };
    let (before, after) = (input::read_valid(before)?, input::read_valid(after)?);
    let model = |input: &Input| -> Result<Model, Vec<Diagnostic>> {
        let mut model = Model::default();
        let shared = endpoints.iter().flat_map(Input::iter);
        for (_, value) in shared.chain(input.iter()) {
            add(&mut model, validate::decode(value)?);
        }
        Ok(model)
    };
    let resources = changes::resources(before.iter(), after.iter());
    let difference = reach::difference(resources, &model(&before)?, &model(&after)?, staged);
    Ok(difference)
}

fn add(model: &mut Model, object: Object) {
    match object {
        Object::Policy(policy) => {
            model.policies.insert(policy.key.clone(), Arc::new(policy));
        }
        Object::NetworkSet(set) => {
            model.network_sets.insert((set.namespace.clone(), set.name.clone()), Arc::new(set));
        }
        Object::Namespace { name, labels } => {
            model.namespaces.insert(name, labels);
        }
        Object::Tier(tier) => {
            model.tiers.insert(tier.name.clone(), tier);
        }
        Object::WorkloadEndpoint(endpoint) => {
            let id = EndpointId(format!("static/{}/{}", endpoint.namespace, endpoint.name));
            let ifindex = u32::try_from(model.endpoints.len() + 1).unwrap_or(u32::MAX);
            model.endpoints.insert(id, Arc::new(spec(endpoint, ifindex)));
        }
    }
}

fn spec(endpoint: StaticEndpoint, ifindex: u32) -> EndpointSpec {
    EndpointSpec {
        ifindex,
        interface: endpoint.interface,
        name: endpoint.name,
        namespace: endpoint.namespace,
        network: String::new(),
        labels: endpoint.labels,
        addresses: endpoint.addresses,
        mac: endpoint.mac,
        ports: endpoint.ports,
        bridge: None,
        adopt_until_ns: 0,
    }
}
