//! `generate`: policies from records. Input: records of an agent, or of files, none of which is kept; output:
//! resources for `apply` on standard output, and on standard error what they do not say.

use policy_api::flow::Observed;
use policy_core::generate::{self as core, Observations, Wanted};
use serde_json::{Value, json};

use super::records;
use crate::args::ResourceFormat;
use crate::client::Client;
use crate::command::Watch;
use crate::failure::{Exit, Failure};
use crate::output::{self, Screen, text};

pub(super) async fn generate(
    client: &Client,
    screen: &Screen,
    watch: &Watch,
    wanted: &Wanted,
    denied: bool,
    format: ResourceFormat,
) -> Result<Exit, Failure> {
    let mut observations = Observations::new(denied);
    let mut exit = Exit::Fine;
    if watch.input.is_empty() {
        let mut records = client.observe(false, watch.last, &watch.filter).await?;
        while let Some(observed) = records.next().await? {
            match observed {
                Observed::Flow(record) => observations.add(&record),
                Observed::Lost(lost) => {
                    screen.note(&format!(
                        "{lost} records are missing: they came faster than they were read, and \
                         what only they tell of will be denied"
                    ))?;
                    exit = Exit::Incomplete;
                }
            }
        }
    } else {
        exit = records::read(screen, &watch.input, &watch.filter, |record| {
            observations.add(&record);
            Ok(())
        })?;
    }
    let generated = core::policies(&observations, wanted);
    for note in &generated.notes {
        screen.note(&text::clean(note))?;
    }
    if generated.incomplete {
        exit = Exit::Incomplete;
    }
    if generated.documents.is_empty() {
        let why = match observations.records() {
            0 => "none of the records tells of a flow that was allowed",
            _ => "none of the records is about a workload that is wanted",
        };
        screen.note(&format!("no policies: {why}"))?;
        return Ok(exit);
    }
    match format {
        ResourceFormat::Yaml => screen.print(&output::generate::yaml(&generated)?)?,
        ResourceFormat::Json => {
            let items: Vec<Value> = generated.documents.iter().map(core::Document::value).collect();
            screen.json(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))?;
        }
    }
    Ok(exit)
}
