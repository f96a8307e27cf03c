//! `diff`: what would a change do? Input: files, or names of what would go; output: the fields
//! that differ and the connections that would be opened or cut. The agent compares with what is in
//! force; two sets of files are compared here, by the same code.

use std::path::PathBuf;

use policy_api::difference::{DiffRequest, Difference};
use policy_core::validate::{self, Object};
use policy_core::{changes, reach};

use super::change::{located, settle};
use crate::args::TextFormat;
use crate::client::Client;
use crate::command::{DiffQuestion, NamedTarget};
use crate::failure::{Exit, Failure};
use crate::input::{self, Input};
use crate::offline::{self, Offline};
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
        DiffQuestion::Files { before, after } => of_files(&before, &after, staged)?,
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

/// The difference between two sets of files, each as if it were all that is in force on one host.
fn of_files(before: &[PathBuf], after: &Offline, staged: bool) -> Result<Difference, Failure> {
    let read = |files: &[PathBuf]| input::read_valid(files).map_err(Failure::Files);
    let endpoints = input::endpoints::read(&after.endpoints).map_err(Failure::Files)?;
    let (before, after, host) = (read(before)?, read(&after.files)?, &after.host);
    let model = |input: &Input| {
        let objects: Vec<Object> =
            input.iter().filter_map(|(_, value)| validate::decode(value).ok()).collect();
        let model = offline::build(host, objects.iter(), &endpoints)?;
        Ok::<_, Failure>((model, offline::without_tier(&objects)))
    };
    let resources = changes::resources(before.iter(), after.iter());
    let ((before, mut warnings), (after, news)) = (model(&before)?, model(&after)?);
    warnings.extend(news);
    warnings.dedup();
    Ok(Difference { warnings, ..reach::difference(resources, &before, &after, staged) })
}
