//! `GET /v1/observe`: what there is, from the history or from memory, and what is to come.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use policy_api::flow::{FlowFilter, FlowRecord, Observed};
use policy_core::observe::Filter;
use serde::Deserialize;
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        broadcast::{Receiver, error::RecvError},
        mpsc,
    },
    task, time,
};

use super::{Api, Query_, Refused};
use crate::{
    history::{Found, search},
    observer::Past,
};

/// `observe` without `last`.
const DEFAULT_LAST: usize = 20;
/// The most that may be asked for by number: they are held until the oldest of them is found. Who wants more
/// says since when.
const MOST: usize = 10_000;
/// For a search to end, if as many are going on as may.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lines on the way to who reads them.
const LINES: usize = 256;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Watch {
    follow: Option<bool>,
    last: Option<usize>,
    /// A [`FlowFilter`], as JSON.
    filter: Option<String>,
}

pub(super) async fn observe(
    State(api): State<Api>,
    Query_(watch): Query_<Watch>,
) -> Result<Response, Refused> {
    let wrong = |error: String| Refused::new(StatusCode::BAD_REQUEST, error);
    let wanted = match &watch.filter {
        Some(text) => serde_json::from_str(text)
            .map_err(|error| wrong(format!("the filter is none: {error}")))?,
        None => FlowFilter::default(),
    };
    let filter = Filter::new(&wanted).map_err(|error| wrong(error.to_string()))?;
    let follow = watch.follow.unwrap_or(false);
    let newest = match watch.last {
        Some(last) if last > MOST => {
            return Err(wrong(format!(
                "the newest {last} records are too many (at most {MOST}): say since when"
            )));
        }
        Some(last) => Some(last),
        None if wanted.since.is_some() => None,
        None if follow => Some(0),
        None => Some(DEFAULT_LAST),
    };
    let lines = if follow && newest == Some(0) {
        let (_, live) = api.observer.survey();
        Body::from_stream(coming(live, filter))
    } else {
        let permit = time::timeout(PATIENCE, Arc::clone(&api.searching).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            let error = "others search the history, as many as may at one time: try again";
            return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, error));
        };
        let (past, live) = api.observer.survey();
        let found = through(past, filter.clone(), newest, permit);
        if follow {
            Body::from_stream(found.chain(coming(live, filter)))
        } else {
            Body::from_stream(found)
        }
    };
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

/// Searches on a thread of its own, no further ahead than somebody reads.
fn through(
    past: Past,
    filter: Filter,
    newest: Option<usize>,
    permit: OwnedSemaphorePermit,
) -> impl stream::Stream<Item = Result<Bytes, Infallible>> {
    let (sender, receiver) = mpsc::channel(LINES);
    task::spawn_blocking(move || {
        let _permit = permit;
        search(
            &past,
            &filter,
            newest,
            || sender.is_closed(),
            |found| {
                let line = match found {
                    Found::Line(line) => ended(line),
                    Found::Lost(lost) => lost_line(lost),
                };
                sender.blocking_send(line).is_ok()
            },
        );
    });
    stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|line| (Ok(line), receiver))
    })
}

/// What is wanted of the records to come.
fn coming(
    live: Receiver<Arc<FlowRecord>>,
    filter: Filter,
) -> impl stream::Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold((live, filter), |(mut live, filter)| async {
        loop {
            let found = match live.recv().await {
                Ok(record) if filter.wants(&record) => {
                    ended(serde_json::to_vec(&*record).unwrap_or_default())
                }
                Ok(_) => continue,
                // The watcher was too slow; it goes on with the oldest that is left.
                Err(RecvError::Lagged(lost)) => lost_line(lost),
                Err(RecvError::Closed) => return None,
            };
            return Some((Ok(found), (live, filter)));
        }
    })
}

fn lost_line(lost: u64) -> Bytes {
    ended(Observed::lost(lost).map(String::into_bytes).unwrap_or_default())
}

fn ended(mut line: Vec<u8>) -> Bytes {
    line.push(b'\n');
    line.into()
}
