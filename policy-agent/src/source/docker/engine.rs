//! The connection to the engine: version negotiation, the event stream, and coming back.
//!
//! Input: the socket's path. Output: [`EngineNews`]. Only says that something happened; what the
//! state is now, others ask for.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    models::{EventMessage, EventMessageTypeEnum},
    query_parameters::EventsOptionsBuilder,
};
use futures_util::StreamExt;
use tokio::{sync::mpsc, time};

/// Longest that any request may take to begin its answer.
const REQUEST_SECONDS: u64 = 30;
const NEGOTIATION: Duration = Duration::from_secs(10);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(5);

/// Something happened at the engine.
pub(super) enum EngineNews {
    /// A connection stands, and events are coming.
    Up(Docker),
    /// The connection is lost, or could not be made.
    Down(String),
    /// The containers or networks changed.
    Changed(Change),
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The list: containers or networks came, went, or changed names.
    List,
    /// The container runs.
    Started(String),
    /// The container has ended, its network namespace with it.
    Died(String),
    /// The endpoints of the network.
    Network(String),
}

/// Connects, reports, and connects again, until the receiver is gone.
pub(super) async fn run(socket: PathBuf, news: mpsc::Sender<EngineNews>) {
    let mut backoff = BACKOFF_FIRST;
    loop {
        let error = match connect(&socket).await {
            Ok((docker, since)) => {
                backoff = BACKOFF_FIRST;
                if news.send(EngineNews::Up(docker.clone())).await.is_err() {
                    return;
                }
                follow(&docker, &since, &news).await
            }
            Err(error) => error,
        };
        if news.send(EngineNews::Down(error)).await.is_err() {
            return;
        }
        time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_LAST);
    }
}

/// Also gives the moment before which everything is seen by whoever lists after this.
async fn connect(socket: &Path) -> Result<(Docker, String), String> {
    let path = socket.to_str().ok_or("the engine's socket path is not UTF-8")?;
    let docker = Docker::connect_with_unix(path, REQUEST_SECONDS, API_DEFAULT_VERSION)
        .map_err(|error| format!("cannot reach the engine at {path}: {error}"))?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let docker = time::timeout(NEGOTIATION, docker.negotiate_version())
        .await
        .map_err(|_| format!("the engine at {path} does not answer"))?
        .map_err(|error| format!("cannot reach the engine at {path}: {error}"))?;
    Ok((docker, since.as_secs().to_string()))
}

/// Reports events until the stream ends; returns why it did.
///
/// The stream begins in the past, at `since`: there is no sign of when the engine has subscribed
/// us, and an event between somebody's list and that moment must not be lost.
async fn follow(docker: &Docker, since: &str, news: &mpsc::Sender<EngineNews>) -> String {
    let options = EventsOptionsBuilder::default().since(since).build();
    let mut events = std::pin::pin!(docker.events(Some(options)));
    loop {
        match events.next().await {
            Some(Ok(event)) => {
                if let Some(change) = change(event)
                    && news.send(EngineNews::Changed(change)).await.is_err()
                {
                    return "not needed any more".to_owned();
                }
            }
            // An event that cannot be decoded is an event all the same.
            Some(Err(bollard::errors::Error::JsonDataError { message, .. })) => {
                tracing::debug!(%message, "unreadable event");
                if news.send(EngineNews::Changed(Change::List)).await.is_err() {
                    return "not needed any more".to_owned();
                }
            }
            Some(Err(error)) => return format!("the engine's event stream broke: {error}"),
            None => return "the engine closed its event stream".to_owned(),
        }
    }
}

fn change(event: EventMessage) -> Option<Change> {
    let action = event.action.unwrap_or_default();
    let id = event.actor.and_then(|actor| actor.id).unwrap_or_default();
    match event.typ? {
        EventMessageTypeEnum::CONTAINER => match action.as_str() {
            "start" => Some(Change::Started(id)),
            "die" => Some(Change::Died(id)),
            "create" | "destroy" | "rename" | "pause" | "unpause" | "update" => Some(Change::List),
            _ => None,
        },
        EventMessageTypeEnum::NETWORK => match action.as_str() {
            "connect" | "disconnect" => Some(Change::Network(id)),
            _ => Some(Change::List),
        },
        EventMessageTypeEnum::DAEMON => Some(Change::List),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
