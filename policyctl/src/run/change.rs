//! `apply` and `delete`: one request each, so that the agent does all of it or none. Input: files
//! or names; output: one line for each resource and what it meant for the endpoints.

use std::path::PathBuf;

use policy_api::messages::{
    ApplyRequest, ApplyResponse, DeleteRequest, Outcome, ResourceName, ResourceResult,
};
use policy_api::resource::Kind;
use policy_core::validate::DEFAULT_NAMESPACE;

use crate::args::ChangeFormat;
use crate::client::Client;
use crate::command::{DeleteTarget, NamedTarget};
use crate::failure::{Exit, Failure};
use crate::input::{self, Input};
use crate::kinds;
use crate::output::{Screen, style, text};

pub(super) async fn apply(
    client: &Client,
    screen: &Screen,
    files: &[PathBuf],
    dry_run: bool,
    output: ChangeFormat,
) -> Result<Exit, Failure> {
    let input = input::read_valid(files).map_err(Failure::Input)?;
    let request = ApplyRequest { resources: input.values(), dry_run };
    let answer = client.apply(&request).await.map_err(|failure| located(failure, &input))?;
    let answer = ApplyResponse {
        warnings: answer.warnings.into_iter().map(|warning| input.locate(warning)).collect(),
        ..answer
    };
    print(screen, &answer, dry_run, output)
}

pub(super) async fn delete(
    client: &Client,
    screen: &Screen,
    target: DeleteTarget,
    ignore_not_found: bool,
    output: ChangeFormat,
) -> Result<Exit, Failure> {
    let answer = match target {
        DeleteTarget::Files(files) => {
            let input = input::read_named(&files).map_err(Failure::Input)?;
            let request = DeleteRequest { resources: input.names(), ignore_not_found };
            client.delete(&request).await.map_err(|failure| located(failure, &input))?
        }
        DeleteTarget::Named { targets, namespace } => {
            let mut resources = Vec::with_capacity(targets.len());
            for target in targets {
                resources.push(settle(client, target, namespace.as_deref()).await?);
            }
            client.delete(&DeleteRequest { resources, ignore_not_found }).await?
        }
    };
    print(screen, &answer, false, output)
}

/// The agent's findings with our files, lines and columns.
pub(super) fn located(failure: Failure, input: &Input) -> Failure {
    match failure {
        Failure::Refused { error, diagnostics } => Failure::Refused {
            error,
            diagnostics: diagnostics.into_iter().map(|it| input.locate(it)).collect(),
        },
        other => other,
    }
}

/// Decides which kind is meant, by what exists if the name is ambiguous.
pub(super) async fn settle(
    client: &Client,
    target: NamedTarget,
    namespace: Option<&str>,
) -> Result<ResourceName, Failure> {
    let resource = |kind: Kind| {
        let (api_version, kind_name) = kind.names();
        ResourceName {
            api_version: api_version.to_owned(),
            kind: kind_name.to_owned(),
            namespace: kind.namespaced().then(|| namespace.unwrap_or(DEFAULT_NAMESPACE).to_owned()),
            name: target.name.clone(),
        }
    };
    let candidates: Vec<ResourceName> = target.kinds.iter().map(|kind| resource(*kind)).collect();
    if let [only] = &candidates[..] {
        return Ok(only.clone());
    }
    let stored = client.resources(None, None, Some(&target.name)).await?;
    let existing: Vec<&ResourceName> =
        candidates.iter().filter(|it| stored.iter().any(|stored| stored.name == **it)).collect();
    match (&existing[..], candidates.first()) {
        ([only], _) => Ok((*only).clone()),
        // The agent says that it does not exist, or not to mind.
        ([], Some(first)) => Ok(first.clone()),
        _ => {
            let names: Vec<String> = target
                .kinds
                .iter()
                .map(|kind| {
                    format!("`policyctl delete {} {}`", kinds::full_name(*kind), target.name)
                })
                .collect();
            Err(Failure::Declined(format!(
                "`{}` is ambiguous, {} exists in each of these kinds; nothing was deleted: write {}",
                target.kind_text,
                target.name,
                names.join(" or ")
            )))
        }
    }
}

fn print(
    screen: &Screen,
    answer: &ApplyResponse,
    dry_run: bool,
    output: ChangeFormat,
) -> Result<Exit, Failure> {
    for warning in &answer.warnings {
        screen.note(&text::diagnostic(warning))?;
    }
    match output {
        ChangeFormat::Json => screen.json(answer)?,
        ChangeFormat::Name => {
            let names: String = answer
                .results
                .iter()
                .map(|result| format!("{}\n", text::clean(&kinds::qualified(&result.resource))))
                .collect();
            screen.print(&names)?;
        }
        ChangeFormat::Text => {
            let mut lines: String =
                answer.results.iter().map(|result| line(result, dry_run)).collect();
            lines.push_str(&summary(answer, dry_run));
            screen.print(&lines)?;
        }
    }
    Ok(Exit::Fine)
}

fn line(result: &ResourceResult, dry_run: bool) -> String {
    let (style, outcome) = match result.outcome {
        Outcome::Created => (style::GOOD, "created"),
        Outcome::Configured => (style::WARN, "configured"),
        Outcome::Unchanged => (style::DIM, "unchanged"),
        Outcome::Deleted => (style::WARN, "deleted"),
    };
    let name = kinds::qualified(&result.resource);
    let namespace = match result.resource.namespace.as_deref() {
        Some(namespace) if namespace != DEFAULT_NAMESPACE => format!(" in namespace {namespace}"),
        _ => String::new(),
    };
    let dry = if dry_run { " (dry run)" } else { "" };
    format!("{} {style}{outcome}{style:#}{}{dry}\n", text::clean(&name), text::clean(&namespace))
}

fn summary(answer: &ApplyResponse, dry_run: bool) -> String {
    let strong = style::STRONG;
    let changed = text::count(answer.endpoints_changed, "endpoint");
    if dry_run {
        format!(
            "{strong}{changed} would change{strong:#}, nothing was applied, revision {}\n",
            answer.revision
        )
    } else {
        format!("{strong}{changed} changed{strong:#}, revision {}\n", answer.revision)
    }
}
