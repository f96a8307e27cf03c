//! `GET /v1/observe`: what there is, from the history or from memory, and what is to come.

use std::{
    io::{self, ErrorKind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

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
    runtime::Handle,
    sync::{
        OwnedSemaphorePermit, Semaphore,
        broadcast::{Receiver, error::RecvError},
        mpsc,
    },
    task, time,
};

use super::{Api, Query_, Refused};
use crate::{
    history::{Found, search},
    observer::{Observer, Past},
};

/// `observe` without `last`.
const DEFAULT_LAST: usize = 20;
/// The most that may be asked for by number: they are held until the oldest of them is found. Who wants more
/// says since when.
const MOST: usize = 10_000;
/// For a search to end, if as many are going on as may; and for the history to be opened.
const PATIENCE: Duration = Duration::from_secs(5);
/// Who takes nothing for so long has lost the search, if as many are going on as may.
const STALLED: Duration = Duration::from_secs(10);
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
        if !opened(&api.observer).await {
            let error = "the history is still being opened: try again";
            return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, error));
        }
        let Ok(Ok(permit)) = permit else {
            let error = "others search the history, as many as may at one time: try again";
            return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, error));
        };
        let (past, live) = api.observer.survey();
        let place = Place { permit, all: Arc::clone(&api.searching), patience: STALLED };
        let found = through(past, filter.clone(), newest, place);
        if follow {
            Body::from_stream(found.chain(coming(live, filter)))
        } else {
            Body::from_stream(found)
        }
    };
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

/// Whether the history is open, now or in a while.
async fn opened(observer: &Observer) -> bool {
    const LOOK_AGAIN: Duration = Duration::from_millis(20);
    let open = async {
        while !observer.is_open() {
            time::sleep(LOOK_AGAIN).await;
        }
    };
    time::timeout(PATIENCE, open).await.is_ok()
}

/// One of the searches that may go on at a time.
struct Place {
    permit: OwnedSemaphorePermit,
    all: Arc<Semaphore>,
    /// Who takes nothing for so long makes place for others, if there is no other.
    patience: Duration,
}

/// Searches on a thread of its own, no further ahead than somebody reads. Who loses their place has the answer end
/// in an error: what was found so far is not all.
fn through(
    past: Past,
    filter: Filter,
    newest: Option<usize>,
    place: Place,
) -> impl stream::Stream<Item = io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(LINES);
    let cut = Arc::<AtomicBool>::default();
    let is_cut = Arc::clone(&cut);
    let runtime = Handle::current();
    task::spawn_blocking(move || {
        // All of it: a closure takes only those fields with it that it names.
        let Place { permit, all, patience } = place;
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
                loop {
                    match runtime.block_on(time::timeout(patience, sender.reserve())) {
                        Ok(Ok(room)) => {
                            room.send(line);
                            return true;
                        }
                        Ok(Err(_)) => return false,
                        Err(_) if all.available_permits() > 0 => {}
                        Err(_) => {
                            cut.store(true, Ordering::SeqCst);
                            return false;
                        }
                    }
                }
            },
        );
        drop(permit);
    });
    stream::unfold((receiver, is_cut), |(mut receiver, is_cut)| async {
        let found = match receiver.recv().await {
            Some(line) => Ok(line),
            None if is_cut.swap(false, Ordering::SeqCst) => {
                Err(io::Error::new(ErrorKind::TimedOut, "nobody took what was found"))
            }
            None => return None,
        };
        Some((found, (receiver, is_cut)))
    })
}

/// What is wanted of the records to come.
fn coming(
    live: Receiver<Arc<FlowRecord>>,
    filter: Filter,
) -> impl stream::Stream<Item = io::Result<Bytes>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// More than is on the way to who reads them.
    fn many() -> Past {
        let observer = Observer::new(None);
        let record: FlowRecord = serde_json::from_value(serde_json::json!({
            "time": "2026-11-21T01:27:01Z", "event": "drop", "verdict": "deny", "reason": "policy",
            "direction": "ingress", "source": {"name": "web", "namespace": "shop", "port": 1},
            "destination": {"name": "db", "namespace": "shop", "port": 2},
            "protocol": "tcp", "bytes": 60,
        }))
        .unwrap();
        for _ in 0..4 * LINES {
            observer.take(Arc::new(record.clone()));
        }
        observer.survey().0
    }

    async fn place(all: &Arc<Semaphore>) -> Place {
        let permit = Arc::clone(all).acquire_owned().await.unwrap();
        Place { permit, all: Arc::clone(all), patience: Duration::from_millis(20) }
    }

    /// Regression: an agent that has just started told of nothing that an earlier one had seen.
    #[tokio::test]
    async fn a_search_waits_for_the_history_to_be_opened() {
        assert!(opened(&Observer::new(None)).await);
        let observer = Observer::new(Some(Arc::default()));
        assert!(!observer.is_open());
        let waiting = opened(&observer);
        let opening = async {
            time::sleep(Duration::from_millis(50)).await;
            observer.written(&[], Vec::new());
        };
        assert!(tokio::join!(waiting, opening).0);
    }

    #[tokio::test]
    async fn who_reads_slowly_has_all_of_it_while_there_is_place_for_others() {
        let all = Arc::new(Semaphore::new(2));
        let found = through(many(), Filter::default(), None, place(&all).await);
        time::sleep(Duration::from_millis(100)).await;
        let found: Vec<_> = found.collect().await;
        assert!(found.len() == 4 * LINES && found.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn who_reads_nothing_makes_place_and_is_told() {
        let all = Arc::new(Semaphore::new(1));
        let found = through(many(), Filter::default(), None, place(&all).await);
        // The search has ended when its place is free.
        let _next = place(&all).await;
        let found: Vec<_> = found.collect().await;
        let (last, before) = found.split_last().unwrap();
        assert_eq!(before.iter().filter(|line| line.is_ok()).count(), LINES);
        assert_eq!(before.len(), LINES);
        assert_eq!(last.as_ref().unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
