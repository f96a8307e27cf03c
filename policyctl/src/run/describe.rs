//! `describe`: everything about one thing. Input: kinds and names; output: what the agent's answers
//! say about them together.

use super::show::{in_namespace, show};
use crate::args::TextFormat;
use crate::client::Client;
use crate::command::DescribeTarget;
use crate::describe::Picture;
use crate::failure::{Exit, Failure};
use crate::output::{self, Screen};

pub(super) async fn describe(
    client: &Client,
    screen: &Screen,
    targets: &[DescribeTarget],
    namespace: Option<&str>,
    format: TextFormat,
) -> Result<Exit, Failure> {
    let stored = client.resources(None, None, None).await?;
    let endpoints = client.endpoints().await?;
    let status = client.status().await?;
    let counts = client.rules().await?;
    let picture = Picture::new(stored, endpoints, &status, counts)?;
    let mut found = Vec::new();
    for target in targets {
        let these = picture.find(&target.sort, &target.name, namespace);
        if these.is_empty() {
            return Err(Failure::Declined(format!(
                "no {} `{}`{}",
                target.sort_text,
                target.name,
                in_namespace(namespace)
            )));
        }
        found.extend(these);
    }
    show(screen, format, &found, || output::describe::descriptions(&found))?;
    Ok(Exit::Fine)
}
