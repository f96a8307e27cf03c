//! `verify`: who may reach whom. Input: the agent, or files; output: a report of what is allowed, and of
//! what looks wrong about it.

use policy_api::connectivity::Connectivity;
use policy_core::reach;

use crate::args::GraphFormat;
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::offline::Offline;
use crate::output::{self, Screen, text};

pub(super) async fn verify(
    client: &Client,
    screen: &Screen,
    offline: Option<Offline>,
    staged: bool,
    limit: usize,
    format: GraphFormat,
) -> Result<Exit, Failure> {
    let (found, drops) = match offline {
        Some(host) => (of_files(screen, &host, staged)?, Vec::new()),
        None => (client.connectivity(staged).await?, client.drops().await?),
    };
    match format {
        GraphFormat::Text => {
            screen.print(&output::connectivity::report(&found, &drops, limit))?;
        }
        GraphFormat::Dot => screen.print(&output::connectivity::dot(&found))?,
        GraphFormat::Json => screen.json(&found)?,
        GraphFormat::Yaml => screen.yaml(&found)?,
    }
    Ok(Exit::Fine)
}

fn of_files(screen: &Screen, host: &Offline, staged: bool) -> Result<Connectivity, Failure> {
    let (model, warnings) = host.model()?;
    for warning in &warnings {
        screen.note(&text::diagnostic(warning))?;
    }
    Ok(if staged {
        reach::connectivity(&model.with_staged_enforced())
    } else {
        reach::connectivity(&model)
    })
}
