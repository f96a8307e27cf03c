//! `explain`: may A open a connection to B? Input: the question, and files if no agent is to be
//! asked; output: the verdict, with the walk that led to it at each end.

use policy_api::diagnostic::Diagnostic;
use policy_api::messages::{ExplainRequest, Explanation, Verdict};
use policy_core::explain::{self as core, ExplainError};

use super::show::show;
use crate::args::TextFormat;
use crate::client::Client;
use crate::command::Question;
use crate::failure::{Exit, Failure};
use crate::offline::Offline;
use crate::output::{self, Screen, text};

pub(super) async fn explain(
    client: &Client,
    screen: &Screen,
    question: Question,
    offline: Option<Offline>,
    format: TextFormat,
) -> Result<Exit, Failure> {
    let Question { source, destination, service, source_port } = question;
    let request = ExplainRequest {
        source,
        destination,
        protocol: service.protocol(),
        port: service.port(),
        source_port,
    };
    let (answer, warnings) = match offline {
        None => (client.explain(&request).await?, Vec::new()),
        Some(offline) => from_files(&offline, &request)?,
    };
    for warning in &warnings {
        screen.note(&text::diagnostic(warning))?;
    }
    let (source, destination) = (&request.source, &request.destination);
    show(screen, format, &answer, || {
        output::explain::explanation(source, destination, &service.to_string(), &answer)
    })?;
    Ok(match answer.verdict {
        Verdict::Allow => Exit::Fine,
        Verdict::Deny => Exit::Difference,
    })
}

fn from_files(
    offline: &Offline,
    request: &ExplainRequest,
) -> Result<(Explanation, Vec<Diagnostic>), Failure> {
    let (model, warnings) = offline.model()?;
    let answer = core::explain(&model, request).map_err(|error| {
        Failure::Declined(match error {
            ExplainError::Unknown(name) => format!(
                "`{name}` is neither an IP address nor one of the {} in the files: give endpoints \
                 with --endpoints FILE",
                text::count(model.endpoints.len(), "endpoint")
            ),
            other => other.to_string(),
        })
    })?;
    Ok((answer, warnings))
}
